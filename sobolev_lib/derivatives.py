"""Derivatives of a model with respect to its input.

Shapes follow one rule. Inputs are ``x (B, *in)`` with the batch first, a model returns
``(B, out)`` (or ``(B,)``, read as ``out = 1``), and the derivative of order K is
``(B, out, *in, ..., *in)`` with one block ``*in`` for each order, the last derivative taken being
the last block.

Every derivative here is per sample: the output of sample b is differentiated with respect to the
input of sample b. That is computed for the whole batch at once as the derivative of the sum over
the batch, which is right only if samples do not see each other. A model with batch normalisation
in training mode breaks that, so it is refused unless the caller says otherwise.

Source: section 2 of Czarnecki et al. (2017), *Sobolev Training for Neural Networks*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]
Backend = Literal["autograd", "func"]
BatchCoupled = Literal["refuse", "allow"]

__all__ = [
    "derivative",
    "directional",
    "finite_differences",
    "hvp",
    "jacobian",
    "project",
    "value",
    "value_and_derivatives",
    "value_and_jacobian",
]


# --- checks -----------------------------------------------------------------------------------


def check_input(x: Any, name: str = "x") -> None:
    """Raise unless `x` is a non-empty batch of finite real floating-point numbers.

    Parameters
    ----------
    x
        What the caller gave as input.
    name : str
        The name of the argument, for the message.

    Raises
    ------
    TypeError
        If `x` is no tensor, or not real floating point.
    ValueError
        If `x` has no batch axis, is empty, or holds NaN or infinity.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(x).__name__}; use torch.as_tensor"
        )
    if not x.dtype.is_floating_point:
        raise TypeError(
            f"{name} must have a floating-point dtype, since derivatives are taken with respect to "
            f"it, got {x.dtype}; use {name}.to(torch.get_default_dtype())"
        )
    if x.ndim == 0:
        raise ValueError(
            f"{name} must have a batch axis, shape (B, *in), got shape (); unsqueeze it"
        )
    if x.numel() == 0:
        raise ValueError(
            f"{name} is an empty batch: shape {tuple(x.shape)}; give at least one sample"
        )
    # Reading data would break a compiled graph, so the check runs in eager mode only.
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum()) if x.ndim > 1 else None
        where = f" in {bad} of {len(x)} samples" if bad is not None else ""
        raise ValueError(
            f"{name} holds NaN or infinity{where}; drop or repair those samples (only targets may "
            "be NaN, which means: not measured)"
        )


def modules_of(model: Any) -> list[nn.Module]:
    """Every module inside `model`: a module, a bound method of one, or else nothing."""
    owner = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    return list(owner.modules()) if isinstance(owner, nn.Module) else []


def check_batch_coupling(model: Any, batch_coupled: BatchCoupled) -> None:
    """Refuse a model that normalises with the statistics of the batch it is given.

    Raises
    ------
    ValueError
        If `batch_coupled` is "refuse" and `model` holds a batch normalisation that uses batch
        statistics, or if `batch_coupled` is unknown.
    """
    if batch_coupled not in ("refuse", "allow"):
        raise ValueError(f'batch_coupled must be "refuse" or "allow", got {batch_coupled!r}')
    if batch_coupled == "allow" or torch.compiler.is_compiling():
        return
    for module in modules_of(model):
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training or module.running_mean is None
        ):
            raise ValueError(
                f"model holds a {type(module).__name__} that uses the statistics of the batch, so "
                "the output of one sample depends on the inputs of the others and the per-sample "
                "derivative is not what automatic differentiation of the batch gives. Call "
                "model.eval(), or use LayerNorm or GroupNorm, or pass batch_coupled='allow' to get "
                "the derivative of the sum over the batch of the outputs"
            )


def _check_backend(backend: str) -> None:
    if backend not in ("autograd", "func"):
        raise ValueError(f'backend must be "autograd" or "func", got {backend!r}')


def _check_direction(name: str, direction: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A direction of one sample, or one for each sample, as (B, *shape)."""
    if not isinstance(direction, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(direction).__name__}")
    if direction.dtype != like.dtype or direction.device != like.device:
        raise TypeError(
            f"{name} must be {like.dtype} on {like.device}, got {direction.dtype} on "
            f"{direction.device}; use {name}.to(x)"
        )
    full = (len(like), *shape)
    if tuple(direction.shape) == full:
        return direction
    if tuple(direction.shape) == shape:
        return direction.expand(full)
    raise ValueError(
        f"{name} must have shape {full} (one for each sample) or {shape} (shared), got "
        f"{tuple(direction.shape)}"
    )


# --- one evaluation of the model ----------------------------------------------------------------


def _call(model: Model, x: Tensor) -> Tensor:
    """The output as (B, out), checked."""
    if torch.compiler.is_compiling():
        y = model(x)
    else:
        try:
            y = model(x)
        except RuntimeError as error:
            _explain_dtype(model, x, error)
            raise
    if not isinstance(y, Tensor):
        raise TypeError(f"model must return a torch.Tensor, got {type(y).__name__}")
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(
            f"model must return shape (B,) or (B, out) with B = {len(x)} for x of shape "
            f"{tuple(x.shape)}, got {tuple(y.shape)}; flatten the output axes to one"
        )
    return y.unsqueeze(1) if y.ndim == 1 else y


def _explain_dtype(model: Model, x: Tensor, error: RuntimeError) -> None:
    for module in modules_of(model)[:1]:
        dtypes = {p.dtype for p in module.parameters() if p.dtype.is_floating_point}
        if dtypes and x.dtype not in dtypes and "dtype" in str(error):
            names = ", ".join(sorted(str(d) for d in dtypes))
            raise TypeError(
                f"x is {x.dtype} but the parameters of model are {names}; use x.to(dtype) or "
                "model.to(dtype)"
            ) from error


def _no_gradient() -> ValueError:
    return ValueError(
        "model has no gradient: its output does not depend on x through autograd. Look for "
        "detach(), torch.no_grad() or NumPy inside its forward; for a black box use "
        "derivatives.finite_differences"
    )


# --- the tower D^0, D^1, ..., D^K -----------------------------------------------------------------


def _unit_cotangents(lower: Tensor) -> list[Tensor]:
    """One cotangent for each component of a sample of `lower`."""
    flat = lower.flatten(1)
    eye = torch.eye(flat.shape[1], dtype=lower.dtype, device=lower.device)
    return [row.expand_as(flat).reshape(lower.shape) for row in eye]


def _assemble(rows: list[Tensor], lower: Tensor, x: Tensor, projected: bool) -> Tensor:
    if projected:
        return rows[0]
    return torch.stack(rows, 1).reshape(*lower.shape, *x.shape[1:])


def _live(x: Tensor, create_graph: bool) -> Tensor:
    """A stand-in for `x` to differentiate with respect to."""
    if create_graph and x.requires_grad:
        # The alias makes this the partial derivative by the model's argument, still tied to x.
        return x.view_as(x)
    return _ordinary(x).detach().requires_grad_()


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor that autograd may save: one made in inference mode has to be copied."""
    return tensor.clone() if tensor.is_inference() else tensor


def _autograd_step(
    lower: Tensor, x: Tensor, cotangents: list[Tensor], keep: bool
) -> list[Tensor | None]:
    """One row for each cotangent; None where `lower` does not depend on `x`."""
    if not lower.requires_grad:
        return [None] * len(cotangents)
    return [
        torch.autograd.grad(
            lower,
            x,
            cotangent,
            create_graph=keep,
            retain_graph=keep or index + 1 < len(cotangents),
            allow_unused=True,
        )[0]
        for index, cotangent in enumerate(cotangents)
    ]


def _climb(
    start: Tensor, x: Tensor, order: int, directions: Sequence[Tensor] | None, create_graph: bool
) -> list[Tensor]:
    """Orders 1 to `order` from the output `start` by reverse mode over reverse mode."""
    levels, lower = [], start
    for j in range(order):
        cotangents = _unit_cotangents(lower) if directions is None else [_ordinary(directions[j])]
        found = _autograd_step(lower, x, cotangents, keep=create_graph or j + 1 < order)
        if j == 0 and all(row is None for row in found):
            raise _no_gradient()
        rows = [torch.zeros_like(x) if row is None else row for row in found]
        lower = _assemble(rows, lower, x, directions is not None)
        levels.append(lower)
    return levels


def _func_tower(
    model: Model, x: Tensor, order: int, directions: Sequence[Tensor] | None
) -> tuple[Tensor, ...]:
    """The same tower by nested `torch.func.vjp`, which `torch.compile` can trace."""

    def level(j: int, point: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if j == 0:
            return _call(model, point), ()
        # The annotation is for the stubs, which know two results only.
        results: Any = torch.func.vjp(lambda z: level(j - 1, z), point, has_aux=True)
        lower, pull, below = results
        cotangents = _unit_cotangents(lower) if directions is None else [directions[j - 1]]
        rows = [pull(cotangent)[0] for cotangent in cotangents]
        return _assemble(rows, lower, point, directions is not None), (*below, lower)

    top, below = level(order, x)
    return (*below, top)


def towers(
    model: Model,
    x: Tensor,
    order: int,
    chains: Sequence[Sequence[Tensor]] | Callable[[int], Sequence[Sequence[Tensor]]] | None = None,
    *,
    backend: Backend = "autograd",
    create_graph: bool | None = None,
) -> tuple[Tensor, list[list[Tensor]]]:
    """Value and derivatives up to `order`, whole or projected, from one set of checked inputs.

    The work horse behind the public functions and the loss; it does not check `x`.

    Parameters
    ----------
    model : callable
        Maps (B, *in) to (B,) or (B, out).
    x : Tensor
        (B, *in).
    order : int
        The highest order; 0 gives the value alone.
    chains : sequence of sequences of Tensor, callable or None
        None: whole derivatives. Otherwise each chain holds `order` directions, (B, out) first and
        then (B, *in), that are contracted with all axes but the last block. A callable is given
        the number of outputs and returns the chains.
    backend, create_graph
        As in `jacobian`.

    Returns
    -------
    value : Tensor
        (B, out).
    levels : list of list of Tensor
        For each chain (one entry if `chains` is None) the derivatives of order 1 to `order`.
    """
    keep = torch.is_grad_enabled() if create_graph is None else create_graph
    if backend == "func":
        return _towers_func(model, x, order, chains, keep)
    with torch.inference_mode(False), torch.enable_grad():
        point = _live(x, keep) if order else x
        if order == 0 and not keep:
            with torch.no_grad():
                return _call(model, point), [[]]
        y = _call(model, point)
        drawn = chains(y.shape[1]) if callable(chains) else chains
        climbs: list[list[Tensor]] = []
        for directions in [None] if drawn is None else drawn:
            last = drawn is None or len(climbs) + 1 == len(drawn)
            # Several chains start from one graph, which only the last of them may free.
            climbs.append(_climb(y, point, order, directions, keep or not last))
    if keep:
        return y, climbs
    return y.detach(), [[d.detach() for d in climb] for climb in climbs]


def _towers_func(
    model: Model, x: Tensor, order: int, chains: Any, keep: bool
) -> tuple[Tensor, list[list[Tensor]]]:
    drawn = chains(_call(model, x).shape[1]) if callable(chains) else chains
    results = [
        _func_tower(model, x, order, directions)
        for directions in ([None] if drawn is None else drawn)
    ]
    if order and not torch.compiler.is_compiling() and not bool(results[0][1].any()):
        # Zero derivatives: torch.func does not tell a constant from a model that detaches x.
        _climb_once(model, x)
    if not keep:
        results = [tuple(d.detach() for d in tower) for tower in results]
    return results[0][0], [list(tower[1:]) for tower in results]


def _climb_once(model: Model, x: Tensor) -> None:
    """Raise if autograd finds no path from the output to `x`."""
    with torch.inference_mode(False), torch.enable_grad():
        point = _live(x, False)
        _climb(_call(model, point), point, 1, None, False)


def _check_order(order: Any, least: int = 1) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or order < least:
        raise ValueError(f"order must be an integer of at least {least}, got {order!r}")


def _check_all(model: Model, x: Tensor, backend: str, batch_coupled: BatchCoupled) -> None:
    check_input(x)
    _check_backend(backend)
    check_batch_coupling(model, batch_coupled)


# --- public functions -----------------------------------------------------------------------------


def value(model: Model, x: Tensor) -> Tensor:
    """The value m(x), always with an output axis.

    Parameters
    ----------
    model : callable
        Any module or function from (B, *in) to (B,) or (B, out).
    x : Tensor
        (B, *in), floating point and finite.

    Returns
    -------
    Tensor
        (B, out); out = 1 for a model that returns (B,).

    Raises
    ------
    TypeError, ValueError
        For an input or output that is not as above.
    """
    check_input(x)
    return _call(model, x)


def value_and_derivatives(
    model: Model,
    x: Tensor,
    order: int = 1,
    *,
    backend: Backend = "autograd",
    create_graph: bool | None = None,
    batch_coupled: BatchCoupled = "refuse",
) -> tuple[Tensor, ...]:
    """The value and all derivatives up to an order: the tuple of Eq. 1.

    Parameters
    ----------
    model : callable
        Any module or function from (B, *in) to (B,) or (B, out).
    x : Tensor
        (B, *in), floating point and finite.
    order : int
        The highest order K, at least 1. Order j costs out * prod(in)**(j-1) reverse passes.
    backend : {"autograd", "func"}
        "autograd" takes reverse passes with `torch.autograd.grad`; "func" uses `torch.func.vjp`,
        which `torch.compile` can trace. The numbers agree.
    create_graph : bool, optional
        Whether the result can be differentiated by the parameters. Default: whether gradients
        are enabled where the function is called, so it also works under `torch.no_grad`.
    batch_coupled : {"refuse", "allow"}
        What to do with batch normalisation in training mode (see the module's docstring).
        "allow" gives the derivative of the sum over the batch.

    Returns
    -------
    tuple of Tensor
        (B, out), (B, out, *in), (B, out, *in, *in), ...

    Raises
    ------
    TypeError
        `x` is no floating-point tensor, or the model returns no tensor.
    ValueError
        An empty or non-finite `x`, an output of another shape, an output that does not depend on
        `x`, or a batch-coupled model.
    """
    _check_order(order)
    _check_all(model, x, backend, batch_coupled)
    y, climbs = towers(model, x, order, backend=backend, create_graph=create_graph)
    return (y, *climbs[0])


def derivative(model: Model, x: Tensor, order: int = 1, **options: Any) -> Tensor:
    """The derivative tensor of one order, D^K m(x).

    Parameters
    ----------
    model, x, order
        As in `value_and_derivatives`.
    **options
        Its keyword options.

    Returns
    -------
    Tensor
        (B, out, *in, ..., *in) with `order` blocks *in. It is symmetric in these blocks.
    """
    return value_and_derivatives(model, x, order, **options)[-1]


def jacobian(model: Model, x: Tensor, **options: Any) -> Tensor:
    """The Jacobian of each sample, D m(x), differentiable with respect to the parameters.

    Parameters
    ----------
    model, x
        As in `value_and_derivatives`.
    **options
        Its keyword options `backend`, `create_graph`, `batch_coupled`.

    Returns
    -------
    Tensor
        (B, out, *in). One reverse pass for each output.

    Examples
    --------
    >>> import torch
    >>> jacobian(lambda x: (x**2).sum(1), torch.tensor([[1.0, 2.0]]), create_graph=False)
    tensor([[[2., 4.]]])
    """
    return value_and_derivatives(model, x, 1, **options)[1]


def value_and_jacobian(model: Model, x: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """The value and the Jacobian from one forward pass.

    Parameters
    ----------
    model, x, **options
        As in `jacobian`.

    Returns
    -------
    value, jacobian : Tensor
        (B, out) and (B, out, *in).
    """
    y, dy = value_and_derivatives(model, x, 1, **options)
    return y, dy


def project(
    model: Model,
    x: Tensor,
    v: Tensor,
    *directions: Tensor,
    backend: Backend = "autograd",
    create_graph: bool | None = None,
    batch_coupled: BatchCoupled = "refuse",
) -> Tensor:
    """The projected derivative <D^j m(x), v (x) u_2 (x) ... (x) u_j> of Eq. 2 and Fig. 1b.

    One reverse pass for each direction, however many outputs and inputs there are.

    Parameters
    ----------
    model, x
        As in `value_and_derivatives`.
    v : Tensor
        The direction in output space, (B, out) or (out,).
    *directions : Tensor
        For order j the j - 1 directions in input space, (B, *in) or (*in,).
    backend, create_graph, batch_coupled
        As in `value_and_derivatives`.

    Returns
    -------
    Tensor
        (B, *in): with one direction the gradient of <m, v>; with two its Hessian times u.
    """
    _check_all(model, x, backend, batch_coupled)

    def chain(out: int) -> list[list[Tensor]]:
        given = [_check_direction("v", v, (out,), x)]
        for j, u in enumerate(directions, 2):
            given.append(_check_direction(f"direction {j}", u, tuple(x.shape[1:]), x))
        return [given]

    order = 1 + len(directions)
    _, climbs = towers(model, x, order, chain, backend=backend, create_graph=create_graph)
    return climbs[0][-1]


def hvp(
    model: Model,
    x: Tensor,
    u: Tensor,
    *,
    create_graph: bool | None = None,
    batch_coupled: BatchCoupled = "refuse",
) -> Tensor:
    """Hessian-vector products, one for each output, without the Hessian.

    Parameters
    ----------
    model, x
        As in `value_and_derivatives`.
    u : Tensor
        A direction in input space, (B, *in) or (*in,).
    create_graph, batch_coupled
        As in `value_and_derivatives`.

    Returns
    -------
    Tensor
        (B, out, *in): entry k is the Hessian of output k times u. Two reverse passes an output.
    """
    _check_all(model, x, "autograd", batch_coupled)
    direction = _check_direction("u", u, tuple(x.shape[1:]), x)

    def chains(out: int) -> list[list[Tensor]]:
        eye = torch.eye(out, dtype=x.dtype, device=x.device)
        return [[row.expand(len(x), out), direction] for row in eye]

    _, climbs = towers(model, x, 2, chains, create_graph=create_graph)
    return torch.stack([climb[-1] for climb in climbs], 1)


def directional(
    model: Model,
    x: Tensor,
    u: Tensor,
    *,
    mode: Literal["forward", "reverse"] = "forward",
    create_graph: bool | None = None,
    batch_coupled: BatchCoupled = "refuse",
) -> Tensor:
    """The derivative of every output along one input direction, D m(x) u.

    Parameters
    ----------
    model, x
        As in `value_and_derivatives`.
    u : Tensor
        The direction, (B, *in) or (*in,).
    mode : {"forward", "reverse"}
        "forward" costs about one more forward pass however many outputs there are. Some layers
        (LSTM, fused attention) have no forward-mode rule: "reverse" takes two reverse passes.
    create_graph, batch_coupled
        As in `value_and_derivatives`.

    Returns
    -------
    Tensor
        (B, out).
    """
    _check_all(model, x, "autograd", batch_coupled)
    direction = _check_direction("u", u, tuple(x.shape[1:]), x)
    keep = torch.is_grad_enabled() if create_graph is None else create_graph
    if mode == "forward":
        results: Any = torch.func.jvp(lambda z: _call(model, z), (x,), (direction,))
        tangent: Tensor = results[1]
        return tangent if keep else tangent.detach()
    if mode != "reverse":
        raise ValueError(f'mode must be "forward" or "reverse", got {mode!r}')
    with torch.inference_mode(False), torch.enable_grad():
        point = _live(x, keep)
        y = _call(model, point)
        # The reverse pass is linear in its cotangent; its own reverse pass is the forward mode.
        cotangent = torch.zeros_like(y, requires_grad=True)
        (pulled,) = _autograd_step(y, point, [cotangent], keep=True)
        if pulled is None:
            raise _no_gradient()
        (tangent,) = torch.autograd.grad(pulled, cotangent, _ordinary(direction), create_graph=keep)
    return tangent if keep else tangent.detach()


# --- black boxes ----------------------------------------------------------------------------------


def _black_box(function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    y = torch.as_tensor(function(x), dtype=x.dtype, device=x.device)
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(
            f"function must return shape (B,) or (B, out) with B = {len(x)}, got {tuple(y.shape)}"
        )
    return y.unsqueeze(1) if y.ndim == 1 else y


def _steps(x: Tensor, step: float | Tensor | None, order: int) -> Tensor:
    """One step for each input component, (B, d), that x + step represents exactly."""
    flat = x.reshape(len(x), -1)
    if step is None:
        # Balances the truncation error h^2 against the rounding error eps / h^order.
        h = torch.finfo(x.dtype).eps ** (1 / (order + 2)) * flat.abs().clamp(min=1.0)
    elif not isinstance(step, Tensor):
        h = torch.full_like(flat, step)
    elif tuple(step.shape) in ((), tuple(x.shape[1:])):
        h = step.to(x).expand(x.shape[1:]).reshape(1, -1).expand_as(flat)
    else:
        raise ValueError(
            f"step must be a number or have the shape of one input {tuple(x.shape[1:])}, got "
            f"{tuple(step.shape)}"
        )
    h = (flat + h) - flat
    if not bool((torch.isfinite(h) & (h > 0)).all()):
        raise ValueError(
            "step must be finite, positive and large enough to change x in its dtype, got "
            f"{step} for x of {x.dtype}"
        )
    return h


@torch.no_grad()
def finite_differences(
    function: Callable[[Tensor], Any],
    x: Tensor,
    order: Literal[1, 2] = 1,
    step: float | Tensor | None = None,
) -> Tensor:
    """Derivatives of a black box by central differences: targets where no gradient exists.

    Section 1 of the paper names this way to get targets for a black box. The error is of order
    step**2 from truncation plus eps / step**order from rounding, eps being the relative error of
    `function`. The default step eps**(1 / (order + 2)) * max(1, abs(x)) balances them for a
    function that is accurate to its dtype; use float64, and a larger `step` for a noisy function.

    Parameters
    ----------
    function : callable
        Maps a tensor (B, *in) to something `torch.as_tensor` reads, (B,) or (B, out). It is called
        2 d times for order 1 and 2 d**2 + 1 times for order 2, d = prod(in), at points up to one
        step outside the batch's range.
    x : Tensor
        (B, *in), floating point and finite.
    order : {1, 2}
        1 for the Jacobian, 2 for the Hessian.
    step : float or Tensor, optional
        In the units of x, positive: one number, or one for each component, shape (*in,).

    Returns
    -------
    Tensor
        (B, out, *in), or (B, out, *in, *in) for order 2. NaN where `function` gave NaN (outside its
        domain, say), which `SobolevLoss` reads as not measured.

    Raises
    ------
    TypeError, ValueError
        For a bad `x`, `order`, `step`, or an output of another shape.
    """
    check_input(x)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    flat, h = x.reshape(len(x), -1), _steps(x, step, order)
    d, shape = flat.shape[1], tuple(x.shape[1:])

    def shifted(*moves: tuple[int, int]) -> Tensor:
        moved = flat.clone()
        for component, sign in moves:
            moved[:, component] += sign * h[:, component]
        return _black_box(function, moved.reshape(x.shape))

    if order == 1:
        rows = [(shifted((i, 1)) - shifted((i, -1))) / (2 * h[:, i, None]) for i in range(d)]
        return torch.stack(rows, 2).reshape(len(x), -1, *shape)
    centre = shifted()
    hessian = centre.new_empty(*centre.shape, d, d)
    for i in range(d):
        hi = h[:, i, None]
        hessian[..., i, i] = (shifted((i, 1)) - 2 * centre + shifted((i, -1))) / hi**2
        for j in range(i):
            same = shifted((i, 1), (j, 1)) + shifted((i, -1), (j, -1))
            opposite = shifted((i, 1), (j, -1)) + shifted((i, -1), (j, 1))
            hessian[..., i, j] = (same - opposite) / (4 * hi * h[:, j, None])
            hessian[..., j, i] = hessian[..., i, j]
    return hessian.reshape(len(x), -1, *shape, *shape)
