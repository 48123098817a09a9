"""What a Sobolev step costs: ways to compute one gradient, counted, timed and weighed side by side.

Every way computes the gradient of the same loss (section 4.1 of the paper) for the same networks on
the same points; a *step* is that and one step of Adam.  Ways are compared by the number of large
matrix products (of B x H by H x H entries, where B points meet layers of width H), by time and by
memory, as ratios to a step on values alone of the same stack.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, jvp, vmap
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sobolev_lib.records import ledger
from sobolev_lib.stack import MLPStack

EXPERIMENT = "cost"
BASE = "values"
SIZES = ((1, 100), (1, 4096), (28, 100), (8, 1024))
"""Networks and points: (E, N)."""


@dataclass(frozen=True)
class Size:
    """What is trained: networks of ``depth`` layers of ``width`` units, on ``n`` points each."""

    members: int
    n: int
    width: int = 256
    depth: int = 2
    inputs: int = 2


class Way:
    """One way to compute the gradient: :meth:`gradient` fills ``.grad`` of :attr:`parameters`.

    Parameters
    ----------
    size : Size
        Networks and points.
    device, dtype : optional
        Where and in what to compute.

    Notes
    -----
    All ways start from the same weights and see the same points: those of seed 0.
    """

    activation = "relu"
    weight = 1.0
    options: dict[str, Any] = {}  # noqa: RUF012 (a constant of the class)

    def __init__(self, size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.size = size
        source = torch.Generator().manual_seed(0)
        shape = (size.members, size.n)
        draw = [
            torch.randn(*shape, k, generator=source, dtype=torch.float64)
            for k in (size.inputs, 1, size.inputs)
        ]
        self.x, self.y, self.dy = (t.to(device=device, dtype=dtype) for t in draw)
        self.stack = MLPStack(
            size.members, size.inputs, (size.width,) * size.depth, self.activation,
            generator=source, device=device, dtype=dtype, **self.options,
        )  # fmt: skip
        self.prepare()
        fused = torch.device(device).type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-5, fused=fused)

    def prepare(self) -> None:
        """Build what the gradient needs, once."""

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained."""
        return list(self.stack.parameters())

    def gradient(self) -> None:
        """Compute the gradient of the sum of the members' losses."""
        raise NotImplementedError

    def update(self) -> None:
        """Take Adam's step along the gradient."""
        self.optimizer.step()

    def step(self) -> None:
        """Take one whole step."""
        self.optimizer.zero_grad()
        self.gradient()
        self.update()

    def flat_gradient(self) -> Tensor:
        """Gradient in one vector: member by member, layer by layer, weights before biases."""
        self.optimizer.zero_grad()
        self.gradient()
        parts = []
        for pair in zip(self.stack.weights, self.stack.biases, strict=True):
            parts += [p.grad.flatten(1) for p in pair]
        return torch.cat(parts, dim=1).flatten()


class ClosedForm(Way):
    """The stack's own gradient (:meth:`sobolev_lib.stack.MLPStack.losses`)."""

    def gradient(self) -> None:
        """Compute the gradient in closed form."""
        self.stack.losses(self.x, self.y, self.dy, self.weight).sum().backward()


class Values(ClosedForm):
    """Values only: what every ratio is relative to."""

    weight = 0.0


class Kernel(ClosedForm):
    """Closed form with a kernel at the kinks (:mod:`sobolev_lib.kinks`)."""

    options = {"kink_bandwidth": 0.1}  # noqa: RUF012


class Smooth(ClosedForm):
    """Closed form of a smooth network."""

    activation = "silu"


class DoubleBackward(Way):
    """Double backward of autograd through the batched stack."""

    def gradient(self) -> None:
        """Differentiate the input gradient that autograd records."""
        double_backward(self.stack, self.x, self.y, self.dy).backward()


class Loop(Way):
    """Double backward of autograd, one network after another: what most code does."""

    def prepare(self) -> None:
        """Make a plain module of each member."""
        self.networks = [self.stack.member(i) for i in range(self.size.members)]

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained: the modules' parameters."""
        return [p for network in self.networks for p in network.parameters()]

    def gradient(self) -> None:
        """Differentiate each network's loss."""
        for i, network in enumerate(self.networks):
            self.loss(network, self.x[i], self.y[i], self.dy[i]).backward()

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        """Loss of one network."""
        return double_backward(network, x, y, dy)

    def flat_gradient(self) -> Tensor:
        """Gradient in one vector, ordered as that of the stack."""
        self.optimizer.zero_grad()
        self.gradient()
        return torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])


class SeparateLoop(Loop):
    """Double backward, one network after another, each with an Adam of its own."""

    def prepare(self) -> None:
        """Make a plain module and an optimiser of each member."""
        super().prepare()
        self.optimizers = [torch.optim.Adam(n.parameters(), lr=1e-5) for n in self.networks]

    def update(self) -> None:
        """Take the step of every optimiser."""
        for optimizer in self.optimizers:
            optimizer.step()


class LoopValues(Loop):
    """Values only, one network after another."""

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        """Loss of one network on values."""
        return (network(x) - y).square().mean()


class SmoothLoop(Loop):
    """Double backward of autograd for a smooth network."""

    activation = "silu"


class Functional(Way):
    """``torch.func``: value and slope of one network at one point, mapped over points, networks."""

    def prepare(self) -> None:
        """Build the loss of all members as a function of the parameters."""
        template = self.stack.member(0)
        names = list(dict(template.named_parameters()))
        pointwise = vmap(self.at_point(template), in_dims=(None, 0))

        def loss(parameters: Sequence[Tensor], x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
            slope, value = pointwise(dict(zip(names, parameters, strict=True)), x)
            return (value - y[:, 0]).square().mean() + (slope - dy).square().sum(dim=1).mean()

        def total(parameters: list[Tensor], x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
            return vmap(loss)(parameters, x, y, dy).sum()

        self.total: Callable[..., Tensor] = total

    @staticmethod
    def at_point(
        template: nn.Module,
    ) -> Callable[[dict[str, Tensor], Tensor], tuple[Tensor, Tensor]]:
        """Slope and value of one network at one point, by reverse mode."""

        def value(parameters: dict[str, Tensor], point: Tensor) -> Tensor:
            return functional_call(template, parameters, (point,))[0]

        return grad_and_value(value, argnums=1)

    def gradient(self) -> None:
        """Differentiate the whole loss by the parameters."""
        pairs = zip(self.stack.weights, self.stack.biases, strict=True)
        self.total([p for pair in pairs for p in pair], self.x, self.y, self.dy).backward()


class ForwardMode(Functional):
    """``torch.func`` in forward mode: one tangent for each input."""

    @staticmethod
    def at_point(
        template: nn.Module,
    ) -> Callable[[dict[str, Tensor], Tensor], tuple[Tensor, Tensor]]:
        """Slope and value of one network at one point, by one tangent an input."""

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


class CompiledFunctional(Functional):
    """``torch.func`` under ``torch.compile``: the whole loss in one graph."""

    def prepare(self) -> None:
        """Compile the loss; the first call does the work."""
        super().prepare()
        self.total = torch.compile(self.total, fullgraph=True)


class CompiledGradient(Functional):
    """``torch.func`` under ``torch.compile``: loss and gradient by the parameters in one graph."""

    def prepare(self) -> None:
        """Compile the gradient; the first call does the work."""
        super().prepare()
        self.compiled = torch.compile(grad(self.total), fullgraph=True)

    def gradient(self) -> None:
        """Store what the compiled function returns."""
        pairs = zip(self.stack.weights, self.stack.biases, strict=True)
        parameters = [p for pair in pairs for p in pair]
        with torch.no_grad():
            found = self.compiled([p.detach() for p in parameters], self.x, self.y, self.dy)
        for parameter, g in zip(parameters, found, strict=True):
            parameter.grad = g


def double_backward(network: nn.Module, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    """Loss of section 4.1, summed over members; autograd keeps the graph of the input gradient."""
    x = x.detach().requires_grad_()
    value = network(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    points = x.shape[-2]
    return ((value - y).square().sum() + (slope - dy).square().sum()) / points


WAYS: dict[str, type[Way]] = {
    "values": Values,
    "sobolev": ClosedForm,
    "sobolev_kernel": Kernel,
    "sobolev_silu": Smooth,
    "autograd_values_loop": LoopValues,
    "autograd_loop": Loop,
    "autograd_separate_loop": SeparateLoop,
    "autograd_silu_loop": SmoothLoop,
    "autograd_stack": DoubleBackward,
    "func_reverse": Functional,
    "func_forward": ForwardMode,
    "func_compiled": CompiledFunctional,
    "func_compiled_gradient": CompiledGradient,
}
"""Ways to compute the gradient, by name."""

COMPILED = tuple(name for name in WAYS if "compiled" in name)


def way(name: str, size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Way:
    """Build a way by name.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name not in WAYS:
        raise ValueError(f"way is {name!r}; it must be one of {', '.join(WAYS)}")
    return WAYS[name](size, device, dtype)


class _Products(TorchDispatchMode):
    """Sees every matrix product that PyTorch executes, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int, int, int]] = []  # batch, rows, inner, columns

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm", "addmm", "baddbmm", "baddbmm_", "addmm_"):
            a, b = args[-2:] if name.endswith("mm") and name in ("mm", "bmm") else args[1:3]
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
    chosen.optimizer.zero_grad()
    if chosen.x.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        chosen.gradient()
        return torch.cuda.max_memory_allocated() - before
    with _Memory() as seen:
        chosen.gradient()
    return seen.highest


@dataclass
class Timing:
    """Seconds of one way, repetition by repetition: of the gradient alone and of the whole step."""

    gradient: list[float]
    step: list[float]


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}
"""Clocks: "cpu" counts what the calling thread computes, whatever else runs; one thread only."""


def measure(
    ways: dict[str, Way], seconds: float, least: int = 5, clock: str = "wall"
) -> dict[str, Timing]:
    """Time the ways in turn, again and again, so that whatever else the machine does meets all.

    Parameters
    ----------
    ways : dict
        What to compare, by name.
    seconds : float
        About how long to measure, after two rounds to warm up.
    least : int
        Smallest number of rounds.
    clock : str
        A key of :data:`CLOCKS`.

    Returns
    -------
    dict
        A :class:`Timing` for each way.

    Raises
    ------
    ValueError
        If the clock is unknown, or "cpu" is asked for where more than one thread or a GPU computes.
    """
    if clock not in CLOCKS:
        raise ValueError(f"clock is {clock!r}; it must be one of {', '.join(CLOCKS)}")
    if clock == "cpu" and (torch.get_num_threads() > 1 or any(w.x.is_cuda for w in ways.values())):
        raise ValueError("clock is 'cpu', which sees one thread; use 'wall' for several or a GPU")
    for chosen in ways.values():
        for _ in range(2):
            chosen.step()
    found = {name: Timing([], []) for name in ways}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < least or time.perf_counter() < end:
        for name, chosen in ways.items():
            first, second = _one(chosen, CLOCKS[clock])
            found[name].gradient.append(first)
            found[name].step.append(second)
        rounds += 1
    return found


def _one(chosen: Way, clock: Callable[[], float]) -> tuple[float, float]:
    def now() -> float:
        if chosen.x.is_cuda:
            torch.cuda.synchronize()
        return clock()

    chosen.optimizer.zero_grad()
    start = now()
    chosen.gradient()
    middle = now()
    chosen.update()
    return middle - start, now() - start


def ratios(
    times: dict[str, Timing], part: str = "step", base: str = BASE
) -> dict[str, list[float]]:
    """Ratios to the base in the same round, for each way."""
    below = getattr(times[base], part)
    return {
        name: [t / b for t, b in zip(getattr(timing, part), below, strict=True)]
        for name, timing in times.items()
    }


def records(
    size: Size, times: dict[str, Timing], ways: dict[str, Way], clock: str = "wall"
) -> list[ledger.Record]:
    """Records of one comparison: medians with smallest and largest, counts, memory."""
    both = {part: ratios(times, part) for part in ("step", "gradient")}
    device = ways[BASE].x.device
    entries = []
    for name, timing in times.items():
        metrics = _counts(name, ways[name])
        metrics["repetitions"] = len(timing.step)
        for part in ("step", "gradient"):
            milliseconds = [1e3 * t for t in getattr(timing, part)]
            metrics |= _spread(f"{part}_milliseconds", milliseconds)
            metrics |= _spread(f"{part}_ratio", both[part][name])
        config = {**asdict(size), "variant": name, "threads": torch.get_num_threads()}
        config |= {"device": device.type, "clock": clock}
        entry = ledger.Record(
            EXPERIMENT, config, 0, metrics, "paper", ["Not in the paper: what a step costs."],
            device=ledger.device_name(device), seconds=round(sum(timing.step), 2),
            peak_memory=ledger.peak_memory(device), **ledger.provenance(),
        )  # fmt: skip
        entries.append(entry)
    return entries


def _counts(name: str, chosen: Way) -> dict[str, Any]:
    """Large products and memory; neither can be watched inside a compiled graph."""
    if name in COMPILED:
        return {"products": None, "peak_bytes": None}
    size = chosen.size
    enough = Size(
        min(size.members, 2), max(size.n, size.width), size.width, size.depth, size.inputs
    )
    counted = chosen if size == enough else way(name, enough, chosen.x.device.type)
    return {"products": products(counted), "peak_bytes": peak_bytes(chosen)}


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    digits = {"": statistics.median(values), "_min": min(values), "_max": max(values)}
    return {name + end: float(f"{value:.4g}") for end, value in digits.items()}
