r"""Many small networks trained together, with the Sobolev gradient in closed form.

A stack holds ``E`` multilayer perceptrons of one shape and one scalar output each.  Every layer is
one batched matrix product, so that a whole figure (functions x methods x seeds) is one program.

For a network with layers
:math:`z_l = W_l a_{l-1} + b_l,\; a_l = \phi(z_l),\; m = W_L a_{L-1} + b_L`
the loss of section 4.1 needs the gradient, with respect to the parameters, of

.. math:: \sum_b e_b\, m(x_b) + r_b \cdot \nabla m(x_b),

where :math:`e_b` and :math:`r_b` are the residuals of the value and of the input gradient
(constants here, times 2/B).  With :math:`s_l = \phi'(z_l)` and the backpropagated slopes
:math:`g_l = \partial m / \partial z_l`, define the combined forward signal
:math:`u_0 = e\,x + r,\; u_l = s_l \odot (W_l u_{l-1} + e\, b_l)`.  For a piecewise-linear
:math:`\phi`

.. math:: \partial W_l = g_l^\top u_{l-1}, \qquad \partial b_l = g_l^\top e,

because :math:`u_l = e\,a_l + t_l` with :math:`t_l` the forward-mode tangent along :math:`r`.  That
is four large products a layer (forward, slopes, combined signal, weights) against three for values
alone.

The last hidden layer needs no combined signal.  The output is a scalar, so
:math:`g_{L-1} = s_{L-1} \odot W_L` for every sample, and with :math:`P = s_{L-1}^\top u_{L-2}` and
:math:`p = s_{L-1}^\top e` (sums over the batch)

.. math:: \partial W_{L-1} = \mathrm{diag}(W_L)\, P, \qquad
          \partial W_L = \sum_b u_{L-1} = (W_{L-1} \odot P)\,\mathbf 1 + b_{L-1} \odot p .

With ``n`` hidden layers that leaves :math:`4(n-1) - 1` large products against :math:`3(n-1)`: for
two hidden layers, as in section 4.1, three against three.  Chapter *What a derivative costs* proves
it.

Where :math:`\phi'' \ne 0` (smooth activations, or the kernel of :mod:`sobolev_lib.kinks` standing
in for the Dirac delta of a kink) the slopes depend on the parameters too, and a second backward
signal

.. math:: \delta_l = s_l \odot (W_{l+1}^\top \delta_{l+1})
                    + \phi''(z_l) \odot (W_{l+1}^\top g_{l+1}) \odot (W_l t_{l-1})

adds :math:`\delta_l^\top a_{l-1}` to :math:`\partial W_l`: six products.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sobolev_lib import kinks


@dataclass(frozen=True)
class Activation:
    """An activation with what its Sobolev gradient needs.

    ``value(z)`` is the activation, ``pull(g, z)`` is ``g * value'(z)`` and ``curvature(g, z)`` is
    ``g * value''(z)``, each in as few passes over memory as PyTorch offers; ``curvature`` is
    ``None`` where the second derivative is zero almost everywhere.  Piecewise-linear activations,
    whose slope can be read from their value as well as from ``z``, also work in place: ``value_``,
    ``pull_`` (on ``g``) and ``slope_`` (a value becomes its slope).
    """

    value: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]
    module: Callable[[], nn.Module]
    curvature: Callable[[Tensor, Tensor], Tensor] | None = None
    value_: Callable[[Tensor], Tensor] | None = None
    pull_: Callable[[Tensor, Tensor], Tensor] | None = None
    slope_: Callable[[Tensor], Tensor] | None = None


SLOPE = 0.01  # negative slope of the leaky ReLU: PyTorch's default
aten = torch.ops.aten


def _silu_curvature(g: Tensor, z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return aten.sigmoid_backward(g, s).mul_((z * (1 - 2 * s)).add_(2))


def _tanh_curvature(g: Tensor, z: Tensor) -> Tensor:
    t = torch.tanh(z)
    return aten.tanh_backward(g, t).mul_(t).mul_(-2)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(
        torch.relu,
        lambda g, z: aten.threshold_backward(g, z, 0.0),
        nn.ReLU,
        value_=torch.relu_,
        pull_=lambda g, a: aten.threshold_backward.grad_input(g, a, 0.0, grad_input=g),
        slope_=lambda a: a.sign_(),
    ),
    "leaky_relu": Activation(
        lambda z: F.leaky_relu(z, SLOPE),
        lambda g, z: aten.leaky_relu_backward(g, z, SLOPE, False),
        lambda: nn.LeakyReLU(SLOPE),
        value_=lambda z: F.leaky_relu_(z, SLOPE),
        pull_=lambda g, a: aten.leaky_relu_backward.grad_input(g, a, SLOPE, False, grad_input=g),
        slope_=lambda a: aten.leaky_relu_backward(torch.ones_like(a), a, SLOPE, False),
    ),
    "silu": Activation(
        F.silu, lambda g, z: aten.silu_backward(g, z), nn.SiLU, curvature=_silu_curvature
    ),
    "tanh": Activation(
        torch.tanh,
        lambda g, z: aten.tanh_backward(g, torch.tanh(z)),
        nn.Tanh,
        curvature=_tanh_curvature,
    ),
    "softplus": Activation(
        F.softplus,
        lambda g, z: aten.softplus_backward(g, z, 1.0, 20.0),
        nn.Softplus,
        curvature=lambda g, z: aten.sigmoid_backward(g, torch.sigmoid(z)),
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
        Width of the kernel that stands in for the derivative of a kink's step
        (:mod:`sobolev_lib.kinks`); only for piecewise-linear activations.  ``None``: the kinks are
        not seen, as in autograd.
    scale_bandwidth : bool
        Multiply the bandwidth by the spread (standard deviation) of each member's pre-activations
        in that layer, a running estimate kept in the buffers ``spread_<layer>``.
    initialization : {"torch", "sonnet"}
        ``"torch"``: as :class:`torch.nn.Linear`, uniform weights and biases in
        ``±1/sqrt(fan_in)``.  ``"sonnet"``: the default of the library that the paper used, weights
        normal with standard deviation ``1/sqrt(fan_in)`` truncated at two of it, biases zero.
    generator : torch.Generator or sequence of torch.Generator, optional
        Source of the initial weights.  A sequence gives each member its own, so that a member does
        not depend on its neighbours.
    device, dtype : optional
        As for :class:`torch.nn.Linear`.

    Raises
    ------
    ValueError
        If a size is not positive, the activation or initialisation unknown, or the bandwidth not
        positive or given to a smooth activation.

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
        self._last_plan: tuple[Tensor, tuple[Any, ...], tuple[Tensor, Plan]] | None = None
        for layer in range(len(self.hidden) if scale_bandwidth else 0):
            # 0 = "not measured yet": the first training step sets it.
            self.register_buffer(
                f"spread_{layer}", torch.zeros(members, 1, 1, device=device, dtype=dtype)
            )

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
        """Input gradients (E, B, d) at ``x``, (B, d) shared or (E, B, d).

        They are differentiable with respect to the parameters.  The derivative of a kink is not
        seen through this function; :meth:`losses` sees it if ``kink_bandwidth`` is set.
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
            kinked = kinks.replace(network, self.kink_bandwidth)
            assert isinstance(kinked, nn.Sequential)
            return kinked
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
            w, one for all or (E,).  Members with weight 0 are trained on values only, at the cost
            of values only.

        Returns
        -------
        Tensor
            Losses (E,); ``losses(...).sum().backward()`` fills the gradients of all members at
            once.

        Raises
        ------
        ValueError
            If a shape does not fit (both shapes are named), the batch is empty, a weight is
            negative, or ``dy`` is missing.
        TypeError
            If a dtype is not that of the parameters.
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
        y = self._targets("y", y, (x.shape[1], 1))
        weight, plan = self._planned(derivative_weight)
        if dy is not None:
            dy = self._targets("dy", dy, (x.shape[1], self.in_features))
        elif any(sobolev for _, sobolev in plan):
            raise ValueError(
                "dy is None but derivative_weight is not 0; give gradients of x's shape"
            )
        total, value, derivative = _ClosedForm.apply(
            self, plan, x, y, dy, weight, *self.weights, *self.biases
        )
        return total, value, derivative

    def _curvatures(self, chosen: Index) -> Curvatures | None:
        """Product with the activation's second derivative for each hidden layer.

        It is a smooth activation's own, or the kernel of a kink.
        """
        layers = range(len(self.hidden))
        if self.rule.curvature is not None:
            return [self.rule.curvature for _ in layers]
        if self.kink_bandwidth is None:
            return None
        return [self._kernel(layer, chosen) for layer in layers]

    def _kernel(self, layer: int, chosen: Index) -> Callable[[Tensor, Tensor], Tensor]:
        jump = 1 - SLOPE if self.activation == "leaky_relu" else 1.0

        def curvature(g: Tensor, z: Tensor) -> Tensor:
            bandwidth: float | Tensor = self.kink_bandwidth or 0.0
            if self.scale_bandwidth:
                spread = getattr(self, f"spread_{layer}")
                if self.training:
                    now = z.std(dim=(1, 2), keepdim=True, correction=0)
                    old = spread[chosen]
                    spread[chosen] = torch.where(old > 0, 0.9 * old + 0.1 * now, now)
                bandwidth = bandwidth * spread[chosen]
            # kinks.kernel(z, bandwidth) * g in fewer passes: the logistic kernel is s(1 - s) / h
            # with s = sigmoid(-|z| / h).
            s = z.abs().mul_(-1 / bandwidth).sigmoid_()
            return aten.sigmoid_backward(g, s).mul_(jump / bandwidth)

        return curvature

    def _points(self, x: Tensor) -> Tensor:
        if (
            x.shape[-1:] != (self.in_features,)
            or x.ndim not in (2, 3)
            or (x.ndim == 3 and len(x) != self.members)
        ):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; needed is (B, {self.in_features}) "
                f"or ({self.members}, B, {self.in_features})"
            )
        if x.shape[-2] == 0:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: the batch is empty; at least one point is needed"
            )
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
            raise TypeError(
                f"{name} has dtype {t.dtype}; the stack has {own.dtype}: "
                f"convert with .to({own.dtype})"
            )
        if t.device != own.device:
            raise ValueError(
                f"{name} is on {t.device}; the stack is on {own.device}: move one of them"
            )

    def _planned(self, weight: float | Tensor) -> tuple[Tensor, Plan]:
        """Weights (E,) and who matches what; remembered for a tensor given again unchanged.

        Reading a tensor makes the CPU wait for a GPU: once is enough.
        """
        if not isinstance(weight, Tensor) or weight.is_inference():
            return self._plan(weight)
        own = self.weights[0]
        state = (weight._version, own.device, own.dtype)
        if (
            self._last_plan is None
            or self._last_plan[0] is not weight
            or self._last_plan[1] != state
        ):
            self._last_plan = (weight, state, self._plan(weight))
        return self._last_plan[2]

    def _plan(self, weight: float | Tensor) -> tuple[Tensor, Plan]:
        vector = self._weight_vector(weight)
        if isinstance(weight, Tensor):
            sobolev = (vector != 0).cpu()
        else:
            sobolev = torch.full((self.members,), weight != 0)
        groups = [(_as_slice(sobolev == kind, vector.device), kind) for kind in (False, True)]
        return vector, [(chosen, kind) for chosen, kind in groups if chosen is not None]

    def _weight_vector(self, weight: float | Tensor) -> Tensor:
        own = self.weights[0]
        w = torch.as_tensor(weight, dtype=own.dtype)  # a number is checked on the CPU
        if w.ndim > 1 or (w.ndim == 1 and len(w) != self.members):
            raise ValueError(
                f"derivative_weight has shape {tuple(w.shape)}; needed is () or ({self.members},)"
            )
        if not bool(((w >= 0) & torch.isfinite(w)).all()):
            raise ValueError(
                f"derivative_weight is {w.tolist()}; weights must be finite and not negative"
            )
        return w.to(own.device).expand(self.members)


Index = slice | Tensor
Plan = list[tuple[Index, bool]]  # who, and whether they match gradients
Curvatures = Sequence[Callable[[Tensor, Tensor], Tensor]]


class _ClosedForm(torch.autograd.Function):
    """Losses of all members, with all parameter gradients computed on the way.

    See the module's docstring.
    """

    @staticmethod
    def forward(ctx, stack, plan, x, y, dy, weight, *parameters):  # type: ignore[no-untyped-def]
        layers = len(parameters) // 2
        needed = any(ctx.needs_input_grad)
        value, derivative = torch.zeros_like(weight), torch.zeros_like(weight)
        gradients = [] if len(plan) == 1 else [torch.empty_like(p) for p in parameters if needed]
        for chosen, sobolev in plan:
            part = [p[chosen] for p in parameters]
            curvatures = stack._curvatures(chosen) if sobolev else None
            kind = _method(stack.rule, sobolev, curvatures is not None)
            net = kind(stack.rule, part[:layers], part[layers:], x[chosen], y[chosen])
            value[chosen] = net.error.square().mean(dim=(1, 2))
            if isinstance(net, _Sobolev):
                net.match(dy[chosen], weight[chosen])
                derivative[chosen] = net.misfit.square().sum(dim=2).mean(dim=1)
            if not needed:
                continue
            found = net.gradients(curvatures)
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
        # A plain sum of the losses needs no second pass over memory; asking would make a GPU wait.
        if outer.is_cuda or not bool((outer == 1).all()):
            gradients = [g * outer.view(-1, *[1] * (g.ndim - 1)) for g in gradients]
        return (None,) * 6 + tuple(gradients)


class _Values:
    """Signals of some members on one batch that match values: three large products a layer.

    With piecewise-linear activations the pre-activations are overwritten: their sign is that of
    the activations.
    """

    in_place = True

    def __init__(
        self, rule: Activation, weights: list[Tensor], biases: list[Tensor], x: Tensor, y: Tensor
    ) -> None:
        self.rule, self.weights, self.biases = rule, weights, biases
        self.z: list[Tensor] = []  # z_1 .. z_{L-1}; or a_1 .. a_{L-1} where they serve as well
        self.a = [x]  # a_0 .. a_{L-1}
        in_place = self.in_place and rule.value_ is not None
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            z = _affine(self.a[-1], w, b)
            self.a.append(rule.value_(z) if in_place and rule.value_ else rule.value(z))
            self.z.append(self.a[-1] if in_place else z)
        self.error = _affine(self.a[-1], weights[-1], biases[-1]).sub_(y)  # (E, B, 1)
        self.e = self.error * (2 / self.error.shape[1])
        self.pull_ = rule.pull_ or rule.pull

    def gradients(self, curvatures: Curvatures | None) -> list[Tensor]:
        """Parameter gradients of the loss, weights, then biases: those of sum_b e_b m(x_b)."""
        slopes, offsets = [torch.bmm(self.e.mT, self.a[-1])], [self.e.sum(dim=1)]
        signal = self.e
        for layer in reversed(range(len(self.z))):
            signal = self.pull_(torch.bmm(signal, self.weights[layer + 1]), self.z[layer])
            slopes.insert(0, torch.bmm(signal.mT, self.a[layer]))
            offsets.insert(0, signal.sum(dim=1))
        return slopes + offsets


class _Sobolev(_Values):
    """Signals of members that match values and input gradients."""

    def match(self, dy: Tensor, weight: Tensor) -> None:
        """Compare the input gradient with its target.

        ``weight`` is that of the derivative part, one a member.
        """
        self.misfit = self.slopes().sub_(dy)  # (E, B, d)
        self.r = self.misfit * (weight.view(-1, 1, 1) * (2 / self.error.shape[1]))

    def slopes(self) -> Tensor:
        """Input gradient (E, B, d), a new tensor; the signals on the way are kept."""
        raise NotImplementedError


class _Slopes(_Sobolev):
    """Piecewise-linear networks: four large products a layer, three in the last hidden one."""

    def slopes(self) -> Tensor:
        """Input gradient (E, B, d)."""
        assert self.rule.slope_ is not None
        top = self.weights[-1].mT  # (E, H, 1)
        # s_{L-1}; g_{L-1} is this times the output weights, which are the same for all samples.
        self.g = [self.rule.slope_(self.a[-1])]
        arriving = torch.bmm(self.g[0], top * self.weights[-2])
        for layer in reversed(range(len(self.z) - 1)):
            self.g.insert(0, self.pull_(arriving, self.z[layer]))
            arriving = torch.bmm(arriving, self.weights[layer])
        return arriving

    def gradients(self, curvatures: Curvatures | None) -> list[Tensor]:
        """Parameter gradients: those of sum_b e_b m + r_b . grad m.

        They are g_l^T u_{l-1} and g_l^T e.
        """
        u = torch.addcmul(self.r, self.a[0], self.e)
        slopes, offsets = [], []
        for layer, g in enumerate(self.g):
            w, b = self.weights[layer], self.biases[layer]
            slopes.append(torch.bmm(g.mT, u))
            offsets.append(torch.bmm(self.e.mT, g)[:, 0])
            if layer + 1 < len(self.g):
                u = self.pull_(torch.bmm(u, w.mT).addcmul_(self.e, b.unsqueeze(1)), self.z[layer])
        # The last hidden layer: its products hold what the output weights need, and lack the
        # factor by which g differs from s.
        last = (slopes[-1] * self.weights[-2]).sum(dim=2) + offsets[-1] * self.biases[-2]
        slopes[-1].mul_(self.weights[-1].mT)
        offsets[-1].mul_(self.weights[-1][:, 0])
        return [*slopes, last.unsqueeze(1), *offsets, self.e.sum(dim=1)]


class _MovingSlopes(_Sobolev):
    """Networks whose phi'' is not zero: six large products a layer."""

    in_place = False

    def slopes(self) -> Tensor:
        """Input gradient (E, B, d)."""
        arriving = self.weights[-1].expand(-1, self.error.shape[1], -1)
        # W_{l+1}^T g_{l+1} and g_l, l = 1 .. L-1
        self.arriving: list[Tensor] = [arriving]
        self.g: list[Tensor] = []
        for layer in reversed(range(len(self.z))):
            self.g.insert(0, self.rule.pull(arriving, self.z[layer]))
            arriving = torch.bmm(self.g[0], self.weights[layer])
            self.arriving.insert(0, arriving)
        return self.arriving.pop(0)

    def gradients(self, curvatures: Curvatures | None) -> list[Tensor]:
        """Parameter gradients: those of sum_b e_b m + r_b . grad m.

        They are g_l^T t_{l-1} + delta_l^T a_{l-1}.
        """
        assert curvatures is not None
        t, bend = [self.r], []
        for layer, curvature in enumerate(curvatures):
            q = torch.bmm(t[-1], self.weights[layer].mT)
            bend.append(curvature(self.arriving[layer] * q, self.z[layer]))
            t.append(self.pull_(q, self.z[layer]))
        slopes = [torch.baddbmm(t[-1].sum(dim=1, keepdim=True), self.e.mT, self.a[-1])]
        offsets = [self.e.sum(dim=1)]
        delta = self.e  # the value's residual enters here: delta_l contains e g_l
        for layer in reversed(range(len(self.z))):
            delta = self.pull_(torch.bmm(delta, self.weights[layer + 1]), self.z[layer]).add_(
                bend[layer]
            )
            slopes.insert(
                0, torch.bmm(self.g[layer].mT, t[layer]).baddbmm_(delta.mT, self.a[layer])
            )
            offsets.insert(0, delta.sum(dim=1))
        return slopes + offsets


def _method(rule: Activation, sobolev: bool, moving: bool) -> type[_Values]:
    return (_MovingSlopes if moving else _Slopes) if sobolev else _Values


def _affine(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.baddbmm(b.unsqueeze(1), a, w.mT)


def _as_slice(mask: Tensor, device: torch.device) -> Index | None:
    """Index of the members in ``mask``.

    A slice where they are neighbours (no copy), else their numbers.
    """
    numbers = mask.nonzero().flatten()
    if len(numbers) == 0:
        return None
    first, last = int(numbers[0]), int(numbers[-1])
    return slice(first, last + 1) if last - first + 1 == len(numbers) else numbers.to(device)


def _check_configuration(
    members: int, in_features: int, hidden: Sequence[int], activation: str, bandwidth: float | None
) -> None:
    for name, value in (("members", members), ("in_features", in_features)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not hidden or min(hidden) < 1:
        raise ValueError(
            f"hidden is {tuple(hidden)}; at least one layer of width 1 or more is needed"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}"
        )
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
    """Initial weights and biases.

    They are drawn in float64, so that every dtype starts from the same numbers.
    """
    if scheme not in ("torch", "sonnet"):
        raise ValueError(f"initialization is {scheme!r}; it must be 'torch' or 'sonnet'")
    if generator is None or isinstance(generator, torch.Generator):
        sources: Sequence[torch.Generator | None] = [generator] * members
    else:
        sources = list(generator)
        if len(sources) != members:
            raise ValueError(
                f"generator has {len(sources)} entries; the stack has {members} members"
            )
    networks = [
        [_draw(n_in, n_out, scheme, source) for n_in, n_out in itertools.pairwise(sizes)]
        for source in sources
    ]
    weights = [
        torch.stack([network[layer][0] for network in networks]) for layer in range(len(sizes) - 1)
    ]
    biases = [
        torch.stack([network[layer][1] for network in networks]) for layer in range(len(sizes) - 1)
    ]
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
