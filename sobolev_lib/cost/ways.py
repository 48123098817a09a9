"""Ways to compute the gradient of one Sobolev step, and what they count.

Every way computes the gradient of the same loss (section 4.1 of the paper) for the same networks on
the same points; a *step* is that and one step of Adam.  A way is a function that takes a
:class:`Problem`, builds what it needs once, and returns parameters and the gradient to call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, jvp, vmap
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sobolev_lib.checks import check_choice
from sobolev_lib.stack import MLPStack

Gradient = Callable[[], None]
"""Fills ``.grad`` of the parameters."""


@dataclass(frozen=True)
class Size:
    """What is trained: networks of ``depth`` layers of ``width`` units, on ``n`` points each."""

    members: int
    n: int
    width: int = 256
    depth: int = 2
    inputs: int = 2


class Problem:
    """Points, targets and initial weights that all ways share: those of seed 0."""

    def __init__(self, size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.size = size
        self.place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.source = torch.Generator().manual_seed(0)
        x, y, dy = (
            torch.randn(size.members, size.n, k, generator=self.source, dtype=torch.float64).to(
                device=device, dtype=dtype
            )
            for k in (size.inputs, 1, size.inputs)
        )
        self.data = x, y, dy  # points (E, N, d), values (E, N, 1), gradients (E, N, d)

    def stack(self, activation: str = "relu", **options: Any) -> MLPStack:
        """The networks, with their initial weights."""
        size = self.size
        return MLPStack(
            size.members, size.inputs, (size.width,) * size.depth, activation,
            generator=self.source, **self.place, **options,
        )  # fmt: skip


def closed_form(
    problem: Problem, weight: float = 1.0, **options: Any
) -> tuple[list[list[Tensor]], Gradient]:
    """The stack's own gradient (:meth:`sobolev_lib.stack.MLPStack.losses`)."""
    stack = problem.stack(**options)

    def gradient() -> None:
        stack.losses(*problem.data, weight).sum().backward()

    return [stack.layered()], gradient


def autograd_stack(problem: Problem) -> tuple[list[list[Tensor]], Gradient]:
    """Double backward of autograd through the batched stack."""
    stack = problem.stack()

    def gradient() -> None:
        double_backward(stack, *problem.data).backward()

    return [stack.layered()], gradient


def double_backward(
    network: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, dy: Tensor
) -> Tensor:
    """Loss of section 4.1, summed over members; autograd keeps the graph of the input gradient."""
    x = x.detach().requires_grad_()
    value = network(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    points = x.shape[-2]
    return ((value - y).square().sum() + (slope - dy).square().sum()) / points


def _on_values(network: nn.Module, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    return (network(x) - y).square().mean()  # type: ignore[no-any-return]


def loop(
    problem: Problem,
    activation: str = "relu",
    loss: Callable[..., Tensor] = double_backward,
    separate: bool = False,
) -> tuple[list[list[Tensor]], Gradient]:
    """One network after another, each a plain module: what most code does.

    ``loss`` is one of (network, x, y, dy); ``separate`` is for an optimiser for each network.
    """
    stack = problem.stack(activation)
    networks = [stack.member(i) for i in range(problem.size.members)]

    def gradient() -> None:
        for i, network in enumerate(networks):
            loss(network, *(t[i] for t in problem.data)).backward()

    own: list[list[Tensor]] = [[*network.parameters()] for network in networks]
    return (own if separate else [[p for group in own for p in group]]), gradient


def functional(
    problem: Problem, forward: bool = False, compiled: str = ""
) -> tuple[list[list[Tensor]], Gradient]:
    """``torch.func``: value and slope of one network at one point, mapped over points, networks.

    ``forward`` is for one tangent an input instead of reverse mode; ``compiled`` is "loss" or
    "gradient": what ``torch.compile`` gets in one graph.
    """
    stack = problem.stack()
    parameters, template = stack.layered(), stack.member(0)
    names = list(dict(template.named_parameters()))
    at_point = (_forward if forward else _reverse)(template)
    pointwise = vmap(at_point, in_dims=(None, 0))

    def loss(values: Sequence[Tensor], x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        slope, value = pointwise(dict(zip(names, values, strict=True)), x)
        return (value - y[:, 0]).square().mean() + (slope - dy).square().sum(dim=1).mean()

    def total(values: list[Tensor], x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return vmap(loss)(values, x, y, dy).sum()

    if compiled == "gradient":
        whole = torch.compile(grad(total), fullgraph=True)

        def fill() -> None:
            with torch.no_grad():
                found = whole([p.detach() for p in parameters], *problem.data)
            for parameter, g in zip(parameters, found, strict=True):
                parameter.grad = g

        return [parameters], fill
    chosen = torch.compile(total, fullgraph=True) if compiled else total

    def gradient() -> None:
        chosen(parameters, *problem.data).backward()

    return [parameters], gradient


AtPoint = Callable[[dict[str, Tensor], Tensor], tuple[Tensor, Tensor]]


def _reverse(template: nn.Module) -> AtPoint:
    """Slope and value of one network at one point."""

    def value(parameters: dict[str, Tensor], point: Tensor) -> Tensor:
        return functional_call(template, parameters, (point,))[0]

    return grad_and_value(value, argnums=1)


def _forward(template: nn.Module) -> AtPoint:
    """The same, by one tangent an input."""

    def both(parameters: dict[str, Tensor], point: Tensor) -> tuple[Tensor, Tensor]:
        def value_at(p: Tensor) -> Tensor:
            return functional_call(template, parameters, (p,))[0]

        def along(direction: Tensor) -> tuple[Tensor, Tensor]:
            value, slope = jvp(value_at, (point,), (direction,))[:2]
            return value, slope

        basis = torch.eye(len(point), device=point.device, dtype=point.dtype)
        values, slope = vmap(along)(basis)
        return slope, values[0]

    return both


WAYS: dict[str, Callable[[Problem], tuple[list[list[Tensor]], Gradient]]] = {
    "values": partial(closed_form, weight=0.0),
    "sobolev": closed_form,
    "sobolev_kernel": partial(closed_form, kink_bandwidth=0.1),
    "sobolev_silu": partial(closed_form, activation="silu"),
    "autograd_values_loop": partial(loop, loss=_on_values),
    "autograd_loop": loop,
    "autograd_separate_loop": partial(loop, separate=True),
    "autograd_silu_loop": partial(loop, activation="silu"),
    "autograd_stack": autograd_stack,
    "func_reverse": functional,
    "func_forward": partial(functional, forward=True),
    "func_compiled": partial(functional, compiled="loss"),
    "func_compiled_gradient": partial(functional, compiled="gradient"),
}
"""Ways to compute the gradient, by name."""

COMPILED = tuple(name for name in WAYS if "compiled" in name)


class Way:
    """A way, by its name in :data:`WAYS`, on a :class:`Problem`, with its optimisers."""

    def __init__(
        self, name: str, size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        check_choice("way", name, WAYS)
        self.size, self.device = size, torch.device(device)
        groups, self.gradient = WAYS[name](Problem(size, device, dtype))
        fused = self.device.type in ("cpu", "cuda")
        self.parameters = [p for group in groups for p in group]
        self.optimizers = [torch.optim.Adam(group, lr=1e-5, fused=fused) for group in groups]

    def zero(self) -> None:
        """Forget the last gradient."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def update(self) -> None:
        """Take Adam's step along the gradient."""
        for optimizer in self.optimizers:
            optimizer.step()

    def step(self) -> None:
        """Take one whole step."""
        self.zero()
        self.gradient()
        self.update()


way = Way
"""Build a way by name."""


class _Products(TorchDispatchMode):
    """Sees every matrix product that PyTorch executes, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int, int, int]] = []  # batch, rows, inner, columns

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm", "addmm", "baddbmm", "baddbmm_", "addmm_"):
            a, b = args[-2:] if name in ("mm", "bmm") else args[1:3]
            self.shapes.append((a.shape[0] if a.ndim == 3 else 1, *a.shape[-2:], b.shape[-1]))
        return func(*args, **(kwargs or {}))


def products(chosen: Way) -> float:
    """Large matrix products of one gradient, in units of (members) x (points x width x width).

    Products with a side shorter than the width (input, output, bias) are left out: they are cheap.
    A way that is compiled cannot be watched; its graph has its own order.

    Raises
    ------
    ValueError
        If there are fewer points than units in a layer: then no product is large.
    """
    size = chosen.size
    if size.n < size.width:
        raise ValueError(
            f"n is {size.n}; at least the width, {size.width}, is needed to tell products apart"
        )
    with _Products() as seen:
        chosen.gradient()
    large = [batch * m * k * n for batch, m, k, n in seen.shapes if min(m, k, n) >= size.width]
    return sum(large) / (size.members * size.n * size.width**2)


class _Memory(TorchDispatchMode):
    """Sums the storages that operations make and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.highest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._enter(tensor, 0)  # unless an operation made it: it was there before
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            self._enter(tensor, tensor.untyped_storage().nbytes())
        self.alive = {name: entry for name, entry in self.alive.items() if not entry[0].expired()}
        self.highest = max(self.highest, sum(size for _, size in self.alive.values()))
        return result

    def _enter(self, tensor: Tensor, size: int) -> None:
        reference = StorageWeakRef(tensor.untyped_storage())
        known = self.alive.get(reference.cdata)
        if known is None or known[0].expired():
            self.alive[reference.cdata] = (reference, size)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def peak_bytes(chosen: Way) -> int:
    """Most memory in bytes that one gradient holds beyond what was there before, results included.

    On the CPU, what single operations hold while they run is not seen, nor is a compiled way.
    """
    chosen.step()  # Adam's state is not what is asked for
    chosen.zero()
    if chosen.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        chosen.gradient()
        return torch.cuda.max_memory_allocated() - before
    with _Memory() as seen:
        chosen.gradient()
    return seen.highest
