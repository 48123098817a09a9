"""Many small networks trained together, with the Sobolev gradient in closed form.

A stack holds ``E`` multilayer perceptrons of one shape and one scalar output each.  Every layer is
one batched matrix product, so that a whole figure (functions x methods x seeds) is one program.
:mod:`sobolev_lib.closed_form` derives the gradient.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from . import kinks
from .checks import check_choice, check_count, check_like, shape_error, wide
from .closed_form import ACTIVATIONS, Activation, Group, Signals, affine

__all__ = ["ACTIVATIONS", "MLPStack"]

Index = slice | Tensor
Kernel = Callable[[Tensor, float | Tensor, float], Tensor]
MOMENTUM = 0.1  # of the running spread, the default of kinks.ReLU


class MLPStack(nn.Module):
    """``members`` multilayer perceptrons with one output each, trained together.

    Parameters
    ----------
    members : int
        Number of networks, E.
    in_features : int
        Number of inputs, d.
    hidden : sequence of int
        Widths of the hidden layers; section 4.1 uses two of 256.
    activation : str
        A key of :data:`sobolev_lib.closed_form.ACTIVATIONS`.
    kink_bandwidth : float, optional
        Width of the kernel that stands in for the derivative of a kink's step
        (:mod:`sobolev_lib.kinks`); only for piecewise-linear activations.  ``None``: the kinks are
        not seen, as in autograd.
    scale_bandwidth : bool
        Multiply the bandwidth by the spread (standard deviation) of each member's pre-activations
        in that layer, a running estimate as that of :class:`sobolev_lib.kinks.ReLU`, kept in the
        buffers ``spread_<layer>`` and ``batches_<layer>``.
    initialization : {"torch", "sonnet"}
        ``"torch"``: as :class:`torch.nn.Linear`, uniform weights and biases in
        ``±1/sqrt(fan_in)``.  ``"sonnet"``: the default of the library that the paper used, weights
        normal with standard deviation ``1/sqrt(fan_in)`` truncated at two of it, biases zero.
    generator : torch.Generator or sequence of torch.Generator, optional
        Source of the initial weights.  A sequence gives each member its own, so that a member does
        not depend on its neighbours.
    device, dtype : optional
        As for :class:`torch.nn.Linear`.
    kernel : callable, optional
        What stands in for the derivative of a kink's step: from the pre-activations (members,
        points, units), which it may overwrite, the width and the height of the step to something of
        their shape.  The logistic kernel of :mod:`sobolev_lib.kinks` unless given; another one is
        how an experiment finds out what the kernel does.

    Raises
    ------
    ValueError
        If a size is not positive, the activation or initialisation unknown, or the bandwidth not
        positive or given to a smooth activation.
    TypeError
        If ``generator`` is neither a generator nor several.

    Notes
    -----
    Parameters are ``weights[l]`` (E, out, in) and ``biases[l]`` (E, out).  The state dict is an
    ordinary one.
    """

    def __init__(
        self,
        members: int,
        in_features: int,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        kink_bandwidth: float | None = None,
        scale_bandwidth: bool = False,
        initialization: str = "torch",
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        kernel: Kernel = kinks.logistic_,
    ) -> None:
        super().__init__()
        _check_configuration(members, in_features, hidden, activation, kink_bandwidth)
        if scale_bandwidth and kink_bandwidth is None:
            raise ValueError("scale_bandwidth needs a kink_bandwidth to scale; none was given")
        self.members, self.in_features = members, in_features
        self.hidden, self.activation = tuple(hidden), activation
        self.kink_bandwidth, self.scale_bandwidth = kink_bandwidth, scale_bandwidth
        self.kernel = kernel
        like = torch.empty(0, device=device, dtype=dtype)
        layers = _initialize((in_features, *self.hidden, 1), members, initialization, generator)
        self.weights = nn.ParameterList(w.to(like) for w, _ in layers)
        self.biases = nn.ParameterList(b.to(like) for _, b in layers)
        for layer in range(len(self.hidden) if scale_bandwidth else 0):
            self.register_buffer(f"spread_{layer}", like.new_ones(members, 1, 1))
            seen = like.new_zeros(members, 1, 1, dtype=torch.long)
            self.register_buffer(f"batches_{layer}", seen)

    @property
    def rule(self) -> Activation:
        """The activation with its derivatives."""
        return ACTIVATIONS[self.activation]

    def layered(self) -> list[Tensor]:
        """Parameters from the input up, weights before biases, as PyTorch orders one network's."""
        return [p for pair in zip(self.weights, self.biases, strict=True) for p in pair]

    def extra_repr(self) -> str:
        """Return the configuration, as ``print(stack)`` shows it."""
        return (
            f"members={self.members}, in_features={self.in_features}, hidden={self.hidden}, "
            f"activation={self.activation!r}, kink_bandwidth={self.kink_bandwidth}"
        )

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (E, B, 1) at ``x``, (B, d) shared or (E, B, d)."""
        return self._signals(x)[-1]

    def gradient(self, x: Tensor) -> Tensor:
        """Input gradients (E, B, d) at ``x``, (B, d) shared or (E, B, d).

        They are differentiable with respect to the parameters.  The derivative of a kink is not
        seen through this function; :meth:`losses` sees it if ``kink_bandwidth`` is set.
        """
        with self._own_precision():
            *hidden, m = self._signals(x)
            g = self.weights[-1].expand(-1, m.shape[1], -1)
            for w, (z, a) in zip(reversed(self.weights[:-1]), reversed(hidden), strict=True):
                g = self.rule.pull(g, z, a) @ w
        return g

    def _signals(self, x: Tensor) -> list[Any]:
        """(z_l, a_l) of each hidden layer, then m."""
        with self._own_precision():
            a, found = self._points(x), list[Any]()
            for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
                z = affine(a, w, b)
                a = self.rule.value(z)
                found.append((z, a))
            return [*found, affine(a, self.weights[-1], self.biases[-1])]

    def member(self, i: int) -> nn.Sequential:
        """Network ``i`` as an :class:`torch.nn.Sequential` with a copy of its weights.

        With a ``kink_bandwidth`` its activations are those of :mod:`sobolev_lib.kinks` (and so is
        their kernel, whatever the stack's), scaled ones with the width that the stack has reached.
        """
        if not -self.members <= i < self.members:
            raise IndexError(f"i is {i}; the stack has {self.members} members")
        layers: list[nn.Module] = []
        for depth, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            linear = nn.Linear(w.shape[2], w.shape[1], device=w.device, dtype=w.dtype)
            with torch.no_grad():
                linear.weight.copy_(w[i])
                linear.bias.copy_(b[i])
            layers += [linear] if depth == len(self.hidden) else [linear, self.rule.module()]
        network = nn.Sequential(*layers).train(self.training)
        if self.kink_bandwidth is not None:
            scaled = self.scale_bandwidth
            kinks.replace(network, self.kink_bandwidth, scaled=scaled, momentum=MOMENTUM)
            for layer in range(len(self.hidden) if scaled else 0):
                for name in ("spread", "batches"):
                    own = getattr(self, f"{name}_{layer}")[i].reshape(())
                    getattr(network[2 * layer + 1], name).copy_(own)
        return network

    def losses(
        self,
        x: Tensor,
        y: Tensor,
        dy: Tensor | None = None,
        derivative_weight: float | Tensor = 1.0,
    ) -> Tensor:
        r"""Sobolev loss of each member, with its parameter gradient in closed form.

        .. math:: \frac1B \sum_b (m(x_b) - y_b)^2 + w\, \lVert\nabla m(x_b) - \nabla y_b\rVert^2

        Parameters
        ----------
        x : Tensor
            Points, (B, d) shared or (E, B, d).
        y : Tensor
            Values, (B, 1) or (E, B, 1); NaN, not measured, counts as no error.
        dy : Tensor, optional
            Gradients, (B, d) or (E, B, d), NaN as in ``y``; needed unless every weight is 0.
        derivative_weight : float or Tensor
            w, one for all or (E,).  Members with weight 0 are trained on values only, at the cost
            of values only.  A tensor is looked at in each call: keep it on the CPU, else the CPU
            waits for the GPU.

        Returns
        -------
        Tensor
            Losses (E,); ``losses(...).sum().backward()`` fills the gradients of all members at
            once.  Targets are constants.  Nothing is computed for a gradient under
            :func:`torch.no_grad`, and no running estimate moves.

        Raises
        ------
        ValueError
            If a shape does not fit (both shapes are named), the batch is empty, a weight is
            negative, ``dy`` is missing, or a gradient with respect to ``x`` is asked for.
        TypeError
            What is no tensor, or not of the parameters' dtype.
        """
        return self._evaluate(x, y, dy, derivative_weight)[0]

    def terms(
        self,
        x: Tensor,
        y: Tensor,
        dy: Tensor | None = None,
        derivative_weight: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Value and derivative part of :meth:`losses`, each (E,), detached.

        The derivative part is unweighted.  It is 0, and costs nothing, for members of weight 0.
        """
        with torch.no_grad():
            _, value, derivative = self._evaluate(x, y, dy, derivative_weight)
        return value, derivative

    def _evaluate(
        self, x: Tensor, y: Tensor, dy: Tensor | None, derivative_weight: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = self._points(x)
        if torch.is_grad_enabled() and x.requires_grad:
            raise ValueError(
                "x requires a gradient, which the closed form does not give: use x.detach(), or "
                "SobolevLoss with stack.member(i)"
            )
        y = self._targets("y", y, (x.shape[1], 1))
        weight, sobolev = self._weight(derivative_weight)
        if dy is not None:
            dy = self._targets("dy", dy, (x.shape[1], self.in_features))
        elif any(sobolev):
            raise ValueError(
                "dy is None but derivative_weight is not 0; give gradients of x's shape"
            )
        groups = [(_members(sobolev, kind, x.device), kind) for kind in (False, True)]
        plan = [(chosen, kind) for chosen, kind in groups if chosen is not None]
        train = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        with self._own_precision():
            total, value, derivative = _ClosedForm.apply(
                self, plan, train, x, y, dy, weight, *self.weights, *self.biases
            )
        return total, value, derivative

    def _kinked(self, chosen: Index) -> Signals:
        """The activation of some members, with the kernel for its second derivative."""
        rule, slope_ = self.rule, self.rule.slope_
        assert slope_ is not None

        def signals(layer: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            width: float | Tensor = self.kink_bandwidth or 0.0
            if self.scale_bandwidth:
                spread, batches = (getattr(self, f"{n}_{layer}") for n in ("spread", "batches"))
                if self.training:
                    own = (spread[chosen], batches[chosen])
                    change, usable = kinks.spread_step(*own, z, MOMENTUM, dim=(1, 2))
                    spread[chosen], batches[chosen] = own[0] + change, own[1] + usable
                width = width * spread[chosen]
            a = rule.value(z)
            return a, slope_(a.clone()), self.kernel(z, width, rule.jump)

        return signals

    def _points(self, x: Tensor) -> Tensor:
        check_like("x", x, self.weights[0], "the stack")
        fits = x.ndim == 2 or (x.ndim == 3 and len(x) == self.members)
        if not fits or x.shape[-1] != self.in_features:
            needed = f"(B, {self.in_features}) or ({self.members}, B, {self.in_features})"
            raise shape_error("x", x.shape, needed)
        if x.shape[-2] == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}: the batch is empty")
        return x if x.ndim == 3 else x.expand(self.members, -1, -1)

    def _targets(self, name: str, t: Tensor, shape: tuple[int, int]) -> Tensor:
        check_like(name, t, self.weights[0], "the stack")
        if tuple(t.shape) not in (shape, (self.members, *shape)):
            raise shape_error(name, t.shape, shape, f" or {(self.members, *shape)}")
        t = t.detach()
        return t if t.ndim == 3 else t.expand(self.members, -1, -1)

    def _own_precision(self) -> torch.autocast:
        """Autocast would mix precisions in the closed form; a stack has that of its weights."""
        return torch.autocast(self.weights[0].device.type, enabled=False)

    def _weight(self, weight: float | Tensor) -> tuple[Tensor, list[bool]]:
        """Weights (E,), and who matches gradients."""
        w = weight if isinstance(weight, Tensor) else torch.as_tensor(weight, dtype=torch.float64)
        if w.ndim > 1 or (w.ndim == 1 and len(w) != self.members):
            raise shape_error("derivative_weight", w.shape, f"() or ({self.members},)")
        if w.is_complex() or not bool(((w >= 0) & w.isfinite()).all()):
            raise ValueError(
                f"derivative_weight is {w.tolist()}; weights must be finite and not negative"
            )
        sobolev = (w != 0).expand(self.members).tolist()
        own = wide(self.weights[0])
        return w.to(device=own.device, dtype=own.dtype).expand(self.members), sobolev


class _ClosedForm(torch.autograd.Function):
    """Losses of all members, with all parameter gradients computed on the way.

    See :mod:`sobolev_lib.closed_form`.
    """

    @staticmethod
    def forward(ctx, stack, plan, train, x, y, dy, weight, *parameters):  # type: ignore[no-untyped-def]
        layers = len(parameters) // 2
        value, derivative = torch.zeros_like(weight), torch.zeros_like(weight)
        gradients = [torch.empty_like(p) for p in parameters]
        for chosen, sobolev in plan:
            part = [p[chosen] for p in parameters]
            group = Group(stack.rule, part[:layers], part[layers:], x[chosen], y[chosen], train)
            if not sobolev:
                value[chosen], found = group.values()
            else:
                way = group.slopes
                if stack.rule.all is not None:
                    way = partial(group.moving_slopes, stack.rule.all)
                elif train and stack.kink_bandwidth is not None:
                    kinked = stack._kinked(chosen)
                    # whoever looks at the whole batch needs it in one piece
                    whole = stack.scale_bandwidth or stack.kernel is not kinks.logistic_
                    way = partial(group.moving_slopes, kinked, whole=whole)
                value[chosen], derivative[chosen], found = way(dy[chosen], weight[chosen])
            if len(plan) == 1:
                gradients = found
                break
            for every, piece in zip(gradients, found, strict=train):
                every[chosen] = piece
        ctx.save_for_backward(derivative, *gradients)
        ctx.mark_non_differentiable(value, derivative)
        return value + weight * derivative, value, derivative

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer, *_):  # type: ignore[no-untyped-def]
        derivative, *gradients = ctx.saved_tensors
        # A plain sum of the losses needs no second pass over memory; asking would make a GPU wait.
        if outer.is_cuda or not bool((outer == 1).all()):
            gradients = [g * outer.to(g.dtype).view(-1, *[1] * (g.ndim - 1)) for g in gradients]
        return (None,) * 6 + (outer * derivative, *gradients)


def _members(sobolev: list[bool], kind: bool, device: torch.device) -> Index | None:
    """Index of one kind of member: a slice where they are neighbours (no copy), else numbers."""
    numbers = [i for i, one in enumerate(sobolev) if one == kind]
    if not numbers:
        return None
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return slice(numbers[0], numbers[-1] + 1)
    return torch.tensor(numbers, device=device)


def _check_configuration(
    members: int, in_features: int, hidden: Sequence[int], activation: str, bandwidth: float | None
) -> None:
    check_count("members", members, 1)
    check_count("in_features", in_features, 1)
    if isinstance(hidden, str) or not hasattr(hidden, "__len__"):
        raise ValueError(f"hidden is {hidden!r}; give a sequence of widths, as (64, 64)")
    if not len(hidden):
        raise ValueError(f"hidden is {hidden!r}; at least one layer is needed")
    for width in hidden:
        check_count("a width in hidden", width, 1)
    check_choice("activation", activation, ACTIVATIONS)
    if bandwidth is None:
        return
    if isinstance(bandwidth, str) or not (math.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"kink_bandwidth is {bandwidth!r}; it must be positive and finite")
    if ACTIVATIONS[activation].all is not None:
        raise ValueError(f"kink_bandwidth was given, but {activation} has no kinks; use None")


def _initialize(
    sizes: Sequence[int],
    members: int,
    scheme: str,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> list[tuple[Tensor, Tensor]]:
    """Initial weights and biases of each layer.

    They are drawn in float64, so that every dtype starts from the same numbers.
    """
    check_choice("initialization", scheme, ("torch", "sonnet"))
    one = generator is None or isinstance(generator, torch.Generator)
    if not one and not isinstance(generator, Iterable):
        kind = type(generator).__name__
        raise TypeError(f"generator must be a torch.Generator or a sequence of them, got {kind}")
    sources: list[Any] = [generator] * members if one else list(generator)  # type: ignore[arg-type]
    if len(sources) != members:
        raise ValueError(f"generator has {len(sources)} entries; the stack has {members} members")
    networks = [
        [_draw(n_in, n_out, scheme, source) for n_in, n_out in itertools.pairwise(sizes)]
        for source in sources
    ]
    layers = [list(zip(*layer, strict=True)) for layer in zip(*networks, strict=True)]
    return [(torch.stack(w), torch.stack(b)) for w, b in layers]


def _draw(
    n_in: int, n_out: int, scheme: str, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    bound = 1 / math.sqrt(n_in)
    exact: Any = {"dtype": torch.float64, "device": "cpu"}
    w, b = torch.empty(n_out, n_in, **exact), torch.zeros(n_out, **exact)
    if scheme == "sonnet":
        nn.init.trunc_normal_(w, std=bound, a=-2 * bound, b=2 * bound, generator=generator)
    else:
        w.uniform_(-bound, bound, generator=generator)
        b.uniform_(-bound, bound, generator=generator)
    return w, b
