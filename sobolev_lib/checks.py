"""What a derivative of a model can go wrong by: checks of arguments, and of the recorded graph."""

from __future__ import annotations

import itertools
import math
import numbers
import operator
import re
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def check_input(x: Any, name: str = "x") -> None:
    """Raise unless `x` is a non-empty batch of finite real floating-point numbers."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(x).__name__}; use torch.as_tensor"
        )
    if not x.dtype.is_floating_point:
        raise TypeError(
            f"{name} must have a floating-point dtype to be differentiated, got {x.dtype}; use "
            ".to(torch.get_default_dtype())"
        )
    if x.ndim == 0:
        raise ValueError(f"{name} must have a batch axis, shape (B, *in), got shape ()")
    if x.numel() == 0:
        raise ValueError(f"{name} is an empty batch: shape {tuple(x.shape)}")
    if readable(x) and not bool(x.isfinite().all()):
        bad = int((~x.isfinite()).reshape(len(x), -1).any(1).sum())
        raise ValueError(
            f"{name} holds NaN or infinity in {bad} of {len(x)} samples; drop or repair them (only "
            "targets may be NaN, which means: not measured)"
        )


def check_like(name: str, tensor: Any, x: Tensor, whose: str = "x") -> None:
    """Raise unless `tensor` is a tensor of the dtype and on the device of `x`."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype != x.dtype or tensor.device != x.device:
        like = "x" if whose == "x" else f"'{x.device}', {x.dtype}"
        raise TypeError(
            f"{name} is {tensor.dtype} on {tensor.device} but {whose} is {x.dtype} on {x.device}; "
            f"use .to({like})"
        )


def check_count(name: str, count: Any, least: int) -> int:
    """`count` as an int (NumPy's integers are welcome), or an error that names it."""
    try:
        number = operator.index(count)
    except TypeError:
        number = least - 1
    if isinstance(count, bool) or number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {count!r}")
    return number


def check_choice(name: str, given: object, known: Collection[str]) -> None:
    """Raise unless what is given is one of the names that are known."""
    if given not in known:
        raise ValueError(f"{name} is {given!r}; it must be one of {', '.join(known)}")


def check_options(batch_coupled: str = "refuse", backend: str | None = None) -> None:
    """Raise for an unknown option."""
    check_choice("batch_coupled", batch_coupled, ("refuse", "allow"))
    if backend is not None:
        check_choice("backend", backend, ("autograd", "func"))


def transformed() -> bool:
    """Whether a compiler or a transform of `torch.func` is looking on."""
    level: Any = torch._C._functorch
    return torch.compiler.is_compiling() or level.maybe_current_level() is not None


def readable(*tensors: Tensor) -> bool:
    """Whether numbers can be looked at: not while compiling, inside `vmap`, or on "meta"."""
    return not transformed() and not any(t.is_meta for t in tensors)


def wide(tensor: Tensor) -> Tensor:
    """`tensor`, in float32 if it is half as wide: sums of squares overflow in float16."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def modules_of(model: Any) -> list[nn.Module]:
    """Every module inside `model`: a module, a bound method of one, or else nothing."""
    owner = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    return list(owner.modules()) if isinstance(owner, nn.Module) else []


# --- the graph that autograd recorded -- ---------------------------------------------------

#: Backward nodes of steps: what comes in by their second edge (the input of the activation, not the
#: gradient) never comes back. Of `_FLAT` nothing does.
_STEPS = re.compile(
    r"(Threshold|LeakyRelu|Hardtanh|Hardsigmoid|Hardshrink|Softshrink|RreluWithNoise|PreluKernel"
    r"|(Adaptive)?MaxPool[23]D(WithIndices)?)BackwardBackward\d"
)
_FLAT = re.compile(r"(Sgn|Sign|Floor|Ceil|Round|Trunc)Backward\d")
ONCE = re.compile("is not implemented|differentiate twice|double backward")
_twice: set[tuple[Any, ...]] = set()  # nodes that have been differentiated twice before


def nodes_behind(tensor: Tensor, until: Tensor | None = None, curved: bool = False) -> list[Any]:
    """The nodes behind `tensor`, down to `until`; only along paths with curvature if `curved`."""
    last = until.grad_fn if until is not None else None
    found: dict[Any, None] = {}
    stack: list[Any] = [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in found:
            continue
        found[node] = None
        if node is last:
            continue
        edges = [edge for edge, _ in node.next_functions]
        if curved and _STEPS.match(type(node).__name__):
            del edges[1]
        elif curved and _FLAT.match(type(node).__name__):
            continue
        stack += edges
    return list(found)


def reaches(nodes: list[Any], z: Tensor) -> bool:
    """Whether `z` is among what these nodes are computed from."""
    return any(n is z.grad_fn or getattr(n, "variable", None) is z for n in nodes)


def check_graph(m: Tensor, z: Tensor | None, batch_coupled: str) -> None:
    """Refuse an output that does not depend on `z`, or that depends on other samples."""
    nodes = nodes_behind(m, z)
    if z is not None and m is not z and not reaches(nodes, z):
        raise ValueError(
            "model has no gradient: its output does not depend on x through autograd. Look for "
            "detach(), torch.no_grad() or NumPy inside its forward; for a black box use "
            "derivatives.finite_differences"
        )
    if batch_coupled == "allow":
        return
    for node in nodes:
        if "BatchNormBackward" not in type(node).__name__:
            continue
        # instance normalisation is that of a batch of one with B * C channels
        one = getattr(node, "_saved_input", m).shape[0] == 1
        if getattr(node, "_saved_training", True) and not one:
            raise ValueError(
                "model uses the statistics of the batch (batch normalisation in training mode), so "
                "the output of one sample depends on the inputs of the others. Call model.eval(), "
                "or use LayerNorm or GroupNorm, or pass batch_coupled='allow' to get the "
                "derivative of the sum over the batch"
            )


def check_twice(nodes: list[Any]) -> None:
    """Refuse a loss on derivatives that its backward pass could not differentiate again.

    Each new kind of its nodes is tried once, on zeros.

    Raises
    ------
    ValueError
        With the layer's own message, and what to do.
    """
    for node in nodes:
        name = type(node).__name__
        if name == "CompiledFunctionBackwardBackward":
            raise only_once("torch.compile(model)")
        if name not in ("NotImplemented", "Error") and "BackwardBackward" not in name:
            continue
        kind = (name, *[edge is not None for edge, _ in node.next_functions])
        if kind in _twice or not callable(node):
            continue
        needed = node._input_metadata
        zeros = [
            torch.zeros(one.shape, dtype=one.dtype, device=one.device)
            if len(one.shape) or len(needed) == 1
            else None
            for one in needed
        ]
        try:
            node(*zeros)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # one of another kind proves nothing: left to backward()
            if ONCE.search(str(error)):
                raise only_once(error) from error
        _twice.add(kind)


def only_once(reason: object) -> ValueError:
    """The error for a layer that can be differentiated once, with ways out."""
    return ValueError(
        "model has a layer without the second derivative that training on derivatives needs "
        f"({reason}). Fused attention: call the loss inside torch.nn.attention.sdpa_kernel("
        "SDPBackend.MATH). cdist: write the distance out. torch.compile(model): compile the whole "
        "loss instead. cuDNN recurrent layers: torch.backends.cudnn.flags(enabled=False). To "
        "evaluate only, use torch.no_grad()"
    )


# --- the loss ---


def check_weight(j: int, weight: Any) -> float | Tensor:
    """The weight, if it is a number or a tensor, real, finite and not negative."""
    if isinstance(weight, Tensor) and not weight.is_complex():
        weight = weight.detach()
        valid = not readable(weight) or bool((weight.isfinite() & (weight >= 0)).all())
        valid = valid and weight.numel() > 0
    elif isinstance(weight, numbers.Real) and not isinstance(weight, bool):
        weight = float(weight)
        valid = math.isfinite(weight) and weight >= 0
    else:
        kind = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"weights[{j}] must be a number or a tensor, got {kind}")
    if not valid:
        raise ValueError(f"weights[{j}] must be finite and not negative, got {weight}")
    return weight


def shape_error(name: str, got: Any, needed: Any, more: str = "") -> ValueError:
    """The error for a wrong shape, with both shapes."""
    got, needed = (tuple(s) if isinstance(s, torch.Size) else s for s in (got, needed))
    return ValueError(f"{name} has shape {got}, needed is {needed}{more}")


def check_errors(j: int, errors: Any, prediction: Tensor) -> None:
    """Raise unless a loss gave one number for each component, or one for each sample."""
    got = errors.shape if isinstance(errors, Tensor) else type(errors).__name__
    if got not in (prediction.shape, prediction.shape[:1]):
        more = f" or {(len(prediction),)}; use reduction='none' inside it"
        raise shape_error(f"the value of loss for order {j}", got, prediction.shape, more)


def check_broadcast(j: int, weight: float | Tensor, errors: Tensor) -> None:
    """Raise unless the weight broadcasts to the errors."""
    if not isinstance(weight, Tensor):
        return
    try:
        fits = torch.broadcast_shapes(weight.shape, errors.shape) == errors.shape
    except RuntimeError:
        fits = False
    if not fits:
        needed = f"one that broadcasts to {tuple(errors.shape)}"
        raise shape_error(f"weights[{j}]", weight.shape, needed)


def check_per_sample(j: int, name: str, missing: Tensor, weight: float | Tensor) -> None:
    """Refuse weights and masks by component for errors by sample."""
    if isinstance(weight, Tensor) and weight.ndim:
        raise ValueError(
            f"weights[{j}] has shape {tuple(weight.shape)} but the loss of order {j} returns one "
            "number for each sample: give a plain number"
        )
    if readable(missing) and bool(missing.any()):
        raise ValueError(
            f"{name} holds NaN (not measured) but the loss of order {j} returns one number for "
            "each sample: give one that returns a number for each component, which can be masked"
        )


def refuse_singular(j: int, name: str, prediction: Tensor, missing: Tensor) -> None:
    """Refuse a masked entry whose derivative is not finite: it would come back in the gradient."""
    if not readable(prediction) or not torch.is_grad_enabled() or not bool(missing.any()):
        return
    bad = int((missing & ~prediction.isfinite()).reshape(len(missing), -1).any(1).sum())
    if bad:
        raise ValueError(
            f"order {j} of model is NaN or infinite in {bad} of {len(missing)} samples, where "
            f"{name} is NaN (not measured): the gradient of the loss would be NaN. Leave these "
            "samples out, or make the model smooth there, as sqrt(r**2 + eps) does for sqrt"
        )


def check_chain(chain: Sequence[Tensor], m: Tensor, x: Tensor, top: int) -> None:
    """Raise unless the directions fit the output and the input."""
    needed = [tuple(m.shape), *[tuple(x.shape)] * (top - 1)]
    got = [tuple(direction.shape) for direction in chain]
    if got[:top] != needed:
        raise shape_error("a chain of directions", got, needed)


def check_directions(directions: Sequence[Sequence[Tensor]], x: Tensor) -> None:
    """Raise unless every direction is a finite tensor of the dtype and on the device of `x`."""
    for direction in itertools.chain.from_iterable(directions):
        check_like("each of the directions", direction, x)
        if readable(direction) and not bool(direction.isfinite().all()):
            raise ValueError("directions hold NaN or infinity; draw them again")


def check_trained(model: Any, total: Tensor, differentiated: bool) -> None:
    """Refuse a total that would not train the model, or that backward() could not differentiate."""
    if not readable(total) or not torch.is_grad_enabled():
        return
    own = [p for m in modules_of(model)[:1] for p in m.parameters() if p.requires_grad]
    trained = total.requires_grad
    if trained and differentiated:  # then x alone gives the loss a graph
        nodes = nodes_behind(total)
        check_twice(nodes)
        trained = any(reaches(nodes, p) for p in own)
    if own and not trained:
        raise ValueError(
            "model has parameters to train but the loss does not depend on them through autograd; "
            "look for detach(), torch.no_grad() or NumPy inside its forward (and with weight 0 for "
            "the values, a bias that is added last has no slope)"
        )
