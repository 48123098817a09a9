r"""Many small networks trained together, with the Sobolev gradient in closed form.

A stack holds ``E`` multilayer perceptrons of one shape and one scalar output each.  Every layer is one batched
matrix product, so that a whole figure (functions x methods x seeds) is one program.

For a network with layers :math:`z_l = W_l a_{l-1} + b_l,\; a_l = \phi(z_l),\; m = W_L a_{L-1} + b_L` the loss of
section 4.1 needs the gradient, with respect to the parameters, of

.. math:: \sum_b e_b\, m(x_b) + r_b \cdot \nabla m(x_b),

where :math:`e_b` and :math:`r_b` are the residuals of the value and of the input gradient (constants here, times 2/B).
With :math:`s_l = \phi'(z_l)` and the backpropagated slopes :math:`g_l = \partial m / \partial z_l`, define the combined
forward signal :math:`u_0 = e\,x + r,\; u_l = s_l \odot (W_l u_{l-1} + e\, b_l)`.  For a piecewise-linear :math:`\phi`

.. math:: \partial W_l = g_l^\top u_{l-1}, \qquad \partial b_l = g_l^\top e,

because :math:`u_l = e\,a_l + t_l` with :math:`t_l` the forward-mode tangent along :math:`r`.  That is four large products
a layer (forward, slopes, combined signal, weights) against three for values alone.

Where :math:`\phi'' \ne 0` (smooth activations, or the kernel of :mod:`sobolev_lib.kinks` standing in for the Dirac delta of a kink)
the slopes depend on the parameters too, and a second backward signal

.. math:: \delta_l = s_l \odot (W_{l+1}^\top \delta_{l+1})
                    + \phi''(z_l) \odot (W_{l+1}^\top g_{l+1}) \odot (W_l t_{l-1})

adds :math:`\delta_l^\top a_{l-1}` to :math:`\partial W_l`: six products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sobolev_lib import kinks


@dataclass(frozen=True)
class Activation:
    """An activation with what its Sobolev gradient needs.

    ``value(z)`` is the activation, ``pull(g, z)`` is ``g * value'(z)`` in one pass over memory, ``curvature(z)`` is ``value''(z)``
    or ``None`` where it is zero almost everywhere.
    """

    value: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor] | None
    module: Callable[[], nn.Module]


SLOPE = 0.01  # negative slope of the leaky ReLU: PyTorch's default


def _silu_curvature(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


def _tanh_curvature(z: Tensor) -> Tensor:
    t = torch.tanh(z)
    return -2 * t * (1 - t * t)


def _softplus_curvature(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(
        torch.relu, lambda g, z: torch.ops.aten.threshold_backward(g, z, 0.0), None, nn.ReLU
    ),
    "leaky_relu": Activation(
        lambda z: F.leaky_relu(z, SLOPE),
        lambda g, z: torch.ops.aten.leaky_relu_backward(g, z, SLOPE, False),
        None,
        lambda: nn.LeakyReLU(SLOPE),
    ),
    "silu": Activation(
        F.silu, lambda g, z: torch.ops.aten.silu_backward(g, z), _silu_curvature, nn.SiLU
    ),
    "tanh": Activation(
        torch.tanh, lambda g, z: g * (1 - torch.tanh(z) ** 2), _tanh_curvature, nn.Tanh
    ),
    "softplus": Activation(
        F.softplus, lambda g, z: g * torch.sigmoid(z), _softplus_curvature, nn.Softplus
    ),
}
"""Activations a stack knows, by name."""


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
        A key of :data:`ACTIVATIONS`.
    kink_bandwidth : float, optional
        Width of the kernel that stands in for the derivative of a kink's step (:mod:`sobolev_lib.kinks`); only for piecewise-linear
        activations.  ``None``: the kinks are not seen, as in autograd.
    scale_bandwidth : bool
        Multiply the bandwidth by the spread (standard deviation) of each member's pre-activations in that layer, a running estimate kept in
        the buffers ``spread_<layer>``.
    initialization : {"torch", "sonnet"}
        ``"torch"``: as :class:`torch.nn.Linear`, uniform weights and biases in ``±1/sqrt(fan_in)``.  ``"sonnet"``: the default of the library
        that the paper used, weights normal with standard deviation ``1/sqrt(fan_in)`` truncated at two of it, biases zero.
    generator : torch.Generator or sequence of torch.Generator, optional
        Source of the initial weights.  A sequence gives each member its own, so that a member does not depend on its neighbours.
    device, dtype : optional
        As for :class:`torch.nn.Linear`.

    Raises
    ------
    ValueError
        If a size is not positive, the activation or initialisation unknown, or the bandwidth not positive or given to a smooth activation.

    Notes
    -----
    Parameters are ``weights[l]`` (E, out, in) and ``biases[l]`` (E, out).  The state dict is an ordinary one.
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
    ) -> None:
        super().__init__()
        _check_configuration(members, in_features, hidden, activation, kink_bandwidth)
        if scale_bandwidth and kink_bandwidth is None:
            raise ValueError("scale_bandwidth needs a kink_bandwidth to scale; none was given")
        self.members, self.in_features = members, in_features
        self.hidden, self.activation = tuple(hidden), activation
        self.kink_bandwidth, self.scale_bandwidth = kink_bandwidth, scale_bandwidth
        sizes = (in_features, *self.hidden, 1)
        weights, biases = _initialize(sizes, members, initialization, generator)
        self.weights = nn.ParameterList(w.to(device=device, dtype=dtype) for w in weights)
        self.biases = nn.ParameterList(b.to(device=device, dtype=dtype) for b in biases)
        for layer in range(len(self.hidden) if scale_bandwidth else 0):
            # 0 = "not measured yet": the first training step sets it.
            self.register_buffer(f"spread_{layer}", torch.zeros(members, 1, 1, device=device, dtype=dtype))

    @property
    def rule(self) -> Activation:
        """The activation with its derivatives."""
        return ACTIVATIONS[self.activation]

    def extra_repr(self) -> str:
        """Return the configuration, as ``print(stack)`` shows it."""
        return (
            f"members={self.members}, in_features={self.in_features}, hidden={self.hidden}, "
            f"activation={self.activation!r}, kink_bandwidth={self.kink_bandwidth}"
        )

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (E, B, 1) at ``x``, (B, d) shared or (E, B, d)."""
        a = self._points(x)
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            a = self.rule.value(_affine(a, w, b))
        return _affine(a, self.weights[-1], self.biases[-1])

    def gradient(self, x: Tensor) -> Tensor:
        """Input gradients (E, B, d) at ``x``, (B, d) shared or (E, B, d); differentiable with respect to the parameters.

        The derivative of a kink is not seen through this function; :meth:`losses` sees it if ``kink_bandwidth`` is set.
        """
        a, z = self._points(x), []
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            z.append(_affine(a, w, b))
            a = self.rule.value(z[-1])
        g = self.weights[-1].expand(-1, a.shape[1], -1)
        for w, z_l in zip(reversed(self.weights[:-1]), reversed(z), strict=True):
            g = self.rule.pull(g, z_l) @ w
        return g

    def member(self, i: int) -> nn.Sequential:
        """Network ``i`` as an :class:`torch.nn.Sequential` with a copy of its weights."""
        if not -self.members <= i < self.members:
            raise IndexError(f"i is {i}; the stack has {self.members} members")
        layers: list[nn.Module] = []
        for depth, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            linear = nn.Linear(w.shape[2], w.shape[1], device=w.device, dtype=w.dtype)
            with torch.no_grad():
                linear.weight.copy_(w[i])
                linear.bias.copy_(b[i])
            layers += [linear] if depth == len(self.hidden) else [linear, self.rule.module()]
        network = nn.Sequential(*layers)
        if self.kink_bandwidth is not None and not self.scale_bandwidth:
            network = kinks.replace(network, self.kink_bandwidth)
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
            Values, (B, 1) or (E, B, 1).
        dy : Tensor, optional
            Gradients, (B, d) or (E, B, d); needed unless every weight is 0.
        derivative_weight : float or Tensor
            w, one for all or (E,).  Members with weight 0 are trained on values only, at the cost of values only.

        Returns
        -------
        Tensor
            Losses (E,); ``losses(...).sum().backward()`` fills the gradients of all members at once.

        Raises
        ------
        ValueError
            If a shape does not fit (both shapes are named), the batch is empty, a weight is negative, or ``dy`` is missing.
        TypeError
            If a dtype is not that of the parameters.
        """
        return self._evaluate(x, y, dy, derivative_weight)[0]

    def terms(
        self, x: Tensor, y: Tensor, dy: Tensor | None = None, derivative_weight: float | Tensor = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Value and derivative part of :meth:`losses`, each (E,), detached, the derivative part unweighted.

        The derivative part is 0, and costs nothing, for members of weight 0.
        """
        with torch.no_grad():
            _, value, derivative = self._evaluate(x, y, dy, derivative_weight)
        return value, derivative

    def _evaluate(
        self, x: Tensor, y: Tensor, dy: Tensor | None, derivative_weight: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = self._points(x)
        y = self._targets("y", y, (x.shape[1], 1))
        weight = self._weight_vector(derivative_weight)
        sobolev = weight != 0
        if dy is not None:
            dy = self._targets("dy", dy, (x.shape[1], self.in_features))
        elif sobolev.any():
            raise ValueError("dy is None but derivative_weight is not 0; give gradients of x's shape")
        groups = [(_as_slice(sobolev == kind), kind) for kind in (False, True)]
        plan = [(chosen, kind) for chosen, kind in groups if chosen is not None]
        total, value, derivative = _ClosedForm.apply(
            self, plan, x, y, dy, weight, *self.weights, *self.biases
        )
        return total, value, derivative

    def _curvatures(self, chosen: Index) -> Curvatures | None:
        """Second derivative of the activation for each hidden layer: a smooth one's own, or the kernel of a kink."""
        layers = range(len(self.hidden))
        if self.rule.curvature is not None:
            return [self.rule.curvature for _ in layers]
        if self.kink_bandwidth is None:
            return None
        return [self._kernel(layer, chosen) for layer in layers]

    def _kernel(self, layer: int, chosen: Index) -> Callable[[Tensor], Tensor]:
        jump = 1 - SLOPE if self.activation == "leaky_relu" else 1.0

        def curvature(z: Tensor) -> Tensor:
            bandwidth: float | Tensor = self.kink_bandwidth or 0.0
            if self.scale_bandwidth:
                spread = getattr(self, f"spread_{layer}")
                if self.training:
                    now = z.std(dim=(1, 2), keepdim=True, correction=0)
                    old = spread[chosen]
                    spread[chosen] = torch.where(old > 0, 0.9 * old + 0.1 * now, now)
                bandwidth = bandwidth * spread[chosen]
            return jump * kinks.kernel(z, bandwidth)

        return curvature

    def _points(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != (self.in_features,) or x.ndim not in (2, 3) or (x.ndim == 3 and len(x) != self.members):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; needed is (B, {self.in_features}) "
                f"or ({self.members}, B, {self.in_features})"
            )
        if x.shape[-2] == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}: the batch is empty; at least one point is needed")
        self._check_type("x", x)
        return x if x.ndim == 3 else x.expand(self.members, -1, -1)

    def _targets(self, name: str, t: Tensor, shape: tuple[int, int]) -> Tensor:
        if tuple(t.shape) not in (shape, (self.members, *shape)):
            raise ValueError(
                f"{name} has shape {tuple(t.shape)}; needed is {shape} or {(self.members, *shape)}"
            )
        self._check_type(name, t)
        return t if t.ndim == 3 else t.expand(self.members, -1, -1)

    def _check_type(self, name: str, t: Tensor) -> None:
        own = self.weights[0]
        if t.dtype != own.dtype:
            raise TypeError(f"{name} has dtype {t.dtype}; the stack has {own.dtype}: convert with .to({own.dtype})")
        if t.device != own.device:
            raise ValueError(f"{name} is on {t.device}; the stack is on {own.device}: move one of them")

    def _weight_vector(self, weight: float | Tensor) -> Tensor:
        own = self.weights[0]
        w = torch.as_tensor(weight, dtype=own.dtype, device=own.device)
        if w.ndim > 1 or (w.ndim == 1 and len(w) != self.members):
            raise ValueError(f"derivative_weight has shape {tuple(w.shape)}; needed is () or ({self.members},)")
        if not bool(((w >= 0) & torch.isfinite(w)).all()):
            raise ValueError(f"derivative_weight is {w.tolist()}; weights must be finite and not negative")
        return w.expand(self.members)


Index = slice | Tensor
Curvatures = Sequence[Callable[[Tensor], Tensor]]


class _ClosedForm(torch.autograd.Function):
    """Losses of all members with all parameter gradients computed on the way (see the module's docstring)."""

    @staticmethod
    def forward(ctx, stack, plan, x, y, dy, weight, *parameters):  # type: ignore[no-untyped-def]
        layers = len(parameters) // 2
        needed = any(ctx.needs_input_grad)
        value, derivative = torch.zeros_like(weight), torch.zeros_like(weight)
        gradients = [] if len(plan) == 1 else [torch.empty_like(p) for p in parameters if needed]
        for chosen, sobolev in plan:
            part = [p[chosen] for p in parameters]
            net = _Pass(stack.rule, part[:layers], part[layers:], x[chosen], y[chosen])
            value[chosen] = net.error.square().mean(dim=(1, 2))
            if sobolev:
                net.match(dy[chosen])
                derivative[chosen] = net.misfit.square().sum(dim=2).mean(dim=1)
            if not needed:
                continue
            curvatures = stack._curvatures(chosen) if sobolev else None
            found = net.gradients(weight[chosen], curvatures)
            if len(plan) == 1:
                gradients = found
            else:
                for whole, piece in zip(gradients, found, strict=True):
                    whole[chosen] = piece
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(value, derivative)
        return value + weight * derivative, value, derivative

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer, *_):  # type: ignore[no-untyped-def]
        gradients = ctx.saved_tensors
        if not bool((outer == 1).all()):  # a plain sum of the losses needs no second pass over memory
            gradients = [g * outer.view(-1, *[1] * (g.ndim - 1)) for g in gradients]
        return (None,) * 6 + tuple(gradients)


class _Pass:
    """Forward and backward signals of some members on one batch, kept for their gradients."""

    def __init__(self, rule: Activation, weights: list[Tensor], biases: list[Tensor], x: Tensor, y: Tensor) -> None:
        self.pull, self.weights, self.biases = rule.pull, weights, biases
        self.z: list[Tensor] = []  # z_1 .. z_{L-1}
        self.a = [x]  # a_0 .. a_{L-1}
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            self.z.append(_affine(self.a[-1], w, b))
            self.a.append(rule.value(self.z[-1]))
        self.error = _affine(self.a[-1], weights[-1], biases[-1]) - y  # (E, B, 1)
        self.misfit: Tensor | None = None  # (E, B, d), only for members that match gradients
        self._slopes()

    def _slopes(self) -> None:
        """Slopes g_l = dm/dz_l, and what arrives at a_l from above, W_{l+1}^T g_{l+1}."""
        top = self.weights[-1].expand(-1, self.error.shape[1], -1)
        self.arriving, self.g = [top], [torch.ones_like(self.error)]
        for layer in reversed(range(len(self.z))):
            self.g.insert(0, self.pull(self.arriving[0], self.z[layer]))
            if layer > 0:
                self.arriving.insert(0, torch.bmm(self.g[0], self.weights[layer]))

    def match(self, dy: Tensor) -> None:
        """Compare the input gradient with its target."""
        self.misfit = torch.bmm(self.g[0], self.weights[0]) - dy

    def gradients(self, weight: Tensor, curvatures: Curvatures | None) -> list[Tensor]:
        """Parameter gradients of the loss: weights first, then biases."""
        scale = 2 / self.error.shape[1]
        e = self.error * scale
        if self.misfit is None:
            return self._of_values(e)
        r = self.misfit * (scale * weight.view(-1, 1, 1))
        return self._of_slopes(e, r) if curvatures is None else self._of_moving_slopes(e, r, curvatures)

    def _of_values(self, e: Tensor) -> list[Tensor]:
        """Gradients of sum_b e_b m(x_b): (e g_l)^T a_{l-1}."""
        signals = [g * e for g in self.g]
        return [torch.bmm(s.mT, a) for s, a in zip(signals, self.a, strict=True)] + [s.sum(dim=1) for s in signals]

    def _of_slopes(self, e: Tensor, r: Tensor) -> list[Tensor]:
        """Gradients of sum_b e_b m + r_b . grad m, piecewise-linear network: g_l^T u_{l-1}."""
        u = [self.a[0] * e + r]
        for w, b, z in zip(self.weights[:-1], self.biases[:-1], self.z, strict=True):
            u.append(self.pull(torch.baddbmm(e * b.unsqueeze(1), u[-1], w.mT), z))
        return [torch.bmm(g.mT, u_l) for g, u_l in zip(self.g, u, strict=True)] + [
            torch.bmm(e.mT, g)[:, 0] for g in self.g
        ]

    def _of_moving_slopes(self, e: Tensor, r: Tensor, curvatures: Curvatures) -> list[Tensor]:
        """Gradients of sum_b e_b m + r_b . grad m where phi'' is not zero: g_l^T t_{l-1} + delta_l^T a_{l-1}."""
        t, bend = [r], []
        for w, z, arriving, curvature in zip(self.weights[:-1], self.z, self.arriving, curvatures, strict=True):
            q = torch.bmm(t[-1], w.mT)
            bend.append(curvature(z) * arriving * q)
            t.append(self.pull(q, z))
        delta = [e]  # the value's residual enters here: delta_l contains e g_l
        for layer in reversed(range(len(self.z))):
            delta.insert(0, self.pull(torch.bmm(delta[0], self.weights[layer + 1]), self.z[layer]) + bend[layer])
        return [
            torch.baddbmm(torch.bmm(g.mT, t_l), d.mT, a)
            for g, t_l, d, a in zip(self.g, t, delta, self.a, strict=True)
        ] + [d.sum(dim=1) for d in delta]


def _affine(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.baddbmm(b.unsqueeze(1), a, w.mT)


def _as_slice(mask: Tensor) -> Index | None:
    """Index of the members in ``mask``: a slice where they are neighbours (no copy), else their numbers."""
    numbers = mask.nonzero().flatten()
    if len(numbers) == 0:
        return None
    first, last = int(numbers[0]), int(numbers[-1])
    return slice(first, last + 1) if last - first + 1 == len(numbers) else numbers


def _check_configuration(
    members: int, in_features: int, hidden: Sequence[int], activation: str, bandwidth: float | None
) -> None:
    for name, value in (("members", members), ("in_features", in_features)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden is {tuple(hidden)}; at least one layer of width 1 or more is needed")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}")
    if bandwidth is None:
        return
    if not (math.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"kink_bandwidth is {bandwidth}; it must be positive and finite")
    if ACTIVATIONS[activation].curvature is not None:
        raise ValueError(f"kink_bandwidth was given, but {activation} has no kinks; use None")


def _initialize(
    sizes: Sequence[int],
    members: int,
    scheme: str,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Initial weights and biases, drawn in float64 so that every dtype starts from the same numbers."""
    if scheme not in ("torch", "sonnet"):
        raise ValueError(f"initialization is {scheme!r}; it must be 'torch' or 'sonnet'")
    if generator is None or isinstance(generator, torch.Generator):
        sources: Sequence[torch.Generator | None] = [generator] * members
    else:
        sources = list(generator)
        if len(sources) != members:
            raise ValueError(f"generator has {len(sources)} entries; the stack has {members} members")
    networks = [[_draw(n_in, n_out, scheme, source) for n_in, n_out in zip(sizes, sizes[1:], strict=False)] for source in sources]
    weights = [torch.stack([network[layer][0] for network in networks]) for layer in range(len(sizes) - 1)]
    biases = [torch.stack([network[layer][1] for network in networks]) for layer in range(len(sizes) - 1)]
    default = torch.get_default_dtype()
    return [w.to(default) for w in weights], [b.to(default) for b in biases]


def _draw(
    n_in: int, n_out: int, scheme: str, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    bound = 1 / math.sqrt(n_in)
    w, b = torch.empty(n_out, n_in, dtype=torch.float64), torch.zeros(n_out, dtype=torch.float64)
    if scheme == "sonnet":
        nn.init.trunc_normal_(w, std=bound, a=-2 * bound, b=2 * bound, generator=generator)
    else:
        w.uniform_(-bound, bound, generator=generator)
        b.uniform_(-bound, bound, generator=generator)
    return w, b
