r"""The Sobolev gradient of multilayer perceptrons in closed form.

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

.. math:: \partial W_{L-1} &= \mathrm{diag}(W_L)\, P, \\
          \partial W_L &= \sum_b u_{L-1} \\ &= (W_{L-1} \odot P)\,\mathbf 1 + b_{L-1} \odot p .

With ``n`` hidden layers that leaves :math:`4(n-1) - 1` large products against :math:`3(n-1)`: for
two hidden layers, as in section 4.1, three against three.  Chapter *What a derivative costs* proves
it.

Where :math:`\phi'' \ne 0` (smooth activations, or the kernel of :mod:`sobolev_lib.kinks` standing
in for the Dirac delta of a kink) the slopes depend on the parameters too, and a second backward
signal

.. math:: \delta_l = s_l \odot (W_{l+1}^\top \delta_{l+1})
                    + \phi''(z_l) \odot (W_{l+1}^\top g_{l+1}) \odot (W_l t_{l-1})

adds :math:`\delta_l^\top a_{l-1}` to :math:`\partial W_l`: six products.  Here, too, the output
weights of the last hidden layer go into :math:`W_{L-1}`, which saves no product but memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import wide

__all__ = ["ACTIVATIONS", "Activation", "Group", "affine"]

Signals = Callable[[int, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Activation:
    """An activation with what its Sobolev gradient needs.

    ``value(z)`` is the activation and ``pull(g, z, a)`` is ``g * value'(z)`` in one pass over
    memory, with ``a = value(z)`` at hand.  A smooth activation has ``all(layer, z)``: the value,
    the first and the second derivative, no function evaluated twice.  A piecewise-linear one has
    ``jump``, that of its derivative, and works in place: ``value_``, ``pull_`` (on ``g``, from
    ``a``) and ``slope_`` (a value becomes its slope).
    """

    module: Callable[[], nn.Module]
    value: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor, Tensor], Tensor]
    all: Signals | None = None
    jump: float = 0.0
    value_: Callable[[Tensor], Tensor] | None = None
    pull_: Callable[[Tensor, Tensor], Tensor] | None = None
    slope_: Callable[[Tensor], Tensor] | None = None


SIGNAL, ROWS = 2**18, 256  # entries of a signal that fits the cache; fewer rows cost more than that
SLOPE = 0.01  # negative slope of the leaky ReLU: PyTorch's default
aten = torch.ops.aten


# They overwrite z: on one core, fresh memory costs as much as arithmetic.


def _tanh(layer: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a = z.tanh_()
    slope = torch.addcmul(torch.ones((), dtype=z.dtype, device=z.device), a, a, value=-1)
    return a, slope, torch.mul(a, slope).mul_(-2)


def _softplus(layer: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, slope = F.softplus(z), torch.sigmoid(z)
    return a, slope, torch.addcmul(slope, slope, slope, value=-1, out=z)


def _silu(layer: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = torch.sigmoid(z)
    a, bell = z * s, torch.addcmul(s, s, s, value=-1)  # bell is s'
    slope = s.addcmul_(z, bell)
    return a, slope, z.sub_(a, alpha=2).add_(2).mul_(bell)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(
        nn.ReLU,
        torch.relu,
        lambda g, z, a: aten.threshold_backward(g, z, 0.0),
        jump=1.0,
        value_=torch.relu_,
        pull_=lambda g, a: aten.threshold_backward.grad_input(g, a, 0.0, grad_input=g),
        slope_=lambda a: a.sign_(),
    ),
    "leaky_relu": Activation(
        lambda: nn.LeakyReLU(SLOPE),
        lambda z: F.leaky_relu(z, SLOPE),
        lambda g, z, a: aten.leaky_relu_backward(g, z, SLOPE, False),
        jump=1 - SLOPE,
        value_=lambda z: F.leaky_relu_(z, SLOPE),
        pull_=lambda g, a: aten.leaky_relu_backward.grad_input(g, a, SLOPE, False, grad_input=g),
        slope_=lambda a: aten.leaky_relu_backward(torch.ones_like(a), a, SLOPE, False),
    ),
    "silu": Activation(nn.SiLU, F.silu, lambda g, z, a: aten.silu_backward(g, z), _silu),
    "tanh": Activation(nn.Tanh, torch.tanh, lambda g, z, a: aten.tanh_backward(g, a), _tanh),
    "softplus": Activation(
        nn.Softplus, F.softplus, lambda g, z, a: aten.softplus_backward(g, z, 1.0, 20.0), _softplus
    ),
}
"""Activations a stack knows, by name."""


@dataclass
class Group:
    """Members that match the same things, on one batch; `train`: gradients are wanted."""

    rule: Activation
    weights: list[Tensor]
    biases: list[Tensor]
    x: Tensor
    y: Tensor
    train: bool

    def values(self) -> tuple[Tensor, list[Tensor]]:
        """Values only, three large products a layer: the loss and its gradients."""
        z, a = self._ahead()
        value, e = self._error(a)
        if not self.train:
            return value, []
        slopes, offsets = [torch.bmm(e.mT, a[-1])], [e.sum(dim=1)]
        signal = e
        for layer in reversed(range(len(z))):
            signal = torch.bmm(signal, self.weights[layer + 1])
            if self.rule.pull_ is not None:
                signal = self.rule.pull_(signal, a[layer + 1])
            else:
                signal = self.rule.pull(signal, z[layer], a[layer + 1])
            slopes.insert(0, torch.bmm(signal.mT, a[layer]))
            offsets.insert(0, signal.sum(dim=1))
        return value, slopes + offsets

    def slopes(self, dy: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Piecewise-linear networks: four large products a layer, three in the last hidden one.

        The gradients are those of sum_b e_b m + r_b . grad m: g_l^T u_{l-1} and g_l^T e.
        """
        rule, weights, biases = self.rule, self.weights, self.biases
        assert rule.pull_ is not None and rule.slope_ is not None
        _, a = self._ahead()
        value, e = self._error(a)
        # s_{L-1}; g_{L-1} is this times the output weights, which are the same for all samples.
        g = [rule.slope_(a[-1])]
        arriving = torch.bmm(g[0], weights[-1].mT * weights[-2])
        for layer in reversed(range(len(a) - 2)):
            g.insert(0, rule.pull_(arriving, a[layer + 1]))
            arriving = torch.bmm(arriving, weights[layer])
        derivative, r = self._misfit(arriving, dy, weight)
        if not self.train:
            return value, derivative, []
        u = torch.addcmul(r, a[0], e)
        slopes, offsets = [], []
        for layer, g_l in enumerate(g):
            slopes.append(torch.bmm(g_l.mT, u))
            offsets.append(torch.bmm(e.mT, g_l)[:, 0])
            if layer + 1 < len(g):
                u = torch.bmm(u, weights[layer].mT).addcmul_(e, biases[layer].unsqueeze(1))
                u = rule.pull_(u, a[layer + 1])
        # The last hidden layer: its products hold what the output weights need, and lack the
        # factor by which g differs from s.
        last = (slopes[-1] * weights[-2]).sum(dim=2) + offsets[-1] * biases[-2]
        slopes[-1].mul_(weights[-1].mT)
        offsets[-1].mul_(weights[-1][:, 0])
        return value, derivative, [*slopes, last.unsqueeze(1), *offsets, e.sum(dim=1)]

    def moving_slopes(
        self, signals: Signals, dy: Tensor, weight: Tensor, whole: bool = False
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Networks whose phi'' is not zero: six large products a layer.

        The gradients are g_l^T t_{l-1} + delta_l^T a_{l-1}, with the value's residual in delta. On
        the CPU a large batch is taken some rows at a time, so that the signals stay in the cache;
        `whole` where the activation looks at the whole batch.
        """
        members, points = self.x.shape[:2]
        rows = max(ROWS, SIGNAL // (members * max(w.shape[1] for w in self.weights)))
        if whole or self.x.is_cuda or rows >= points:
            return self._moving_slopes(signals, dy, weight)
        found: list[Tensor] = []
        for start in range(0, points, rows):
            part = slice(start, start + rows)
            few = replace(self, x=self.x[:, part], y=self.y[:, part])
            *losses, gradients = few._moving_slopes(signals, dy[:, part], weight)
            share = few.x.shape[1] / points  # all of them are means over points
            new = [t.mul_(share) for t in (*losses, *gradients)]
            found = [a.add_(b) for a, b in zip(found, new, strict=True)] if found else new
        return found[0], found[1], found[2:]

    def _moving_slopes(
        self, signals: Signals, dy: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        weights, biases = self.weights, self.biases
        a, s, c = [self.x], list[Tensor](), list[Tensor]()  # a_l, phi'(z_l), phi''(z_l)
        for layer, (w, b) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            for signal, new in zip((a, s, c), signals(layer, affine(a[-1], w, b)), strict=True):
                signal.append(new)
        value, e = self._error(a)
        # g_{L-1} is s_{L-1} times the output weights, which go into the matrix below them: nothing
        # of the last hidden layer is multiplied sample by sample. Fresh memory costs more than
        # arithmetic, so each signal overwrites what is no longer needed.
        below = weights[-1].mT * weights[-2]
        arriving = torch.bmm(s[-1], below)  # W_{l+1}^T g_{l+1}
        g: list[Tensor] = []
        for layer in reversed(range(len(s) - 1)):
            c[layer].mul_(arriving)
            g.insert(0, arriving.mul_(s[layer]))
            arriving = torch.bmm(g[0], weights[layer])
        derivative, r = self._misfit(arriving, dy, weight)
        if not self.train:
            return value, derivative, []
        t = [r]
        for layer, s_l in enumerate(s):
            q = torch.bmm(t[-1], weights[layer].mT)
            c[layer].mul_(q)
            t.append(q.mul_(s_l))
        output = torch.baddbmm(t.pop().sum(dim=1, keepdim=True), e.mT, a.pop())
        bent, s_l, below_a = c.pop(), s.pop(), a.pop()
        slopes = [torch.bmm(s_l.mT, t.pop().addcmul_(e, below_a)).baddbmm_(bent.mT, below_a)]
        slopes[0].mul_(weights[-1].mT)
        offsets = [(torch.bmm(e.mT, s_l)[:, 0] + bent.sum(dim=1)).mul_(weights[-1][:, 0])]
        delta = bent
        for layer in reversed(range(len(s))):
            delta = c.pop().addcmul_(torch.bmm(delta, below), s.pop())
            if layer == len(weights) - 3:
                delta.addcmul_(g[layer], e)  # the residual of the value, from the last hidden layer
            slopes.insert(0, torch.bmm(g.pop().mT, t.pop()).baddbmm_(delta.mT, a.pop()))
            offsets.insert(0, delta.sum(dim=1))
            below = weights[layer]
        return value, derivative, [*slopes, output, *offsets, e.sum(dim=1)]

    def _ahead(self) -> tuple[list[Tensor], list[Tensor]]:
        """z_1 .. and a_0 ..; piecewise-linear activations overwrite z, whose sign is theirs."""
        z, a = list[Tensor](), [self.x]
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            z.append(affine(a[-1], w, b))
            a.append((self.rule.value_ or self.rule.value)(z[-1]))
        return z, a

    def _error(self, a: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The value part (E,) and e = 2/B (m - y), 0 where y was not measured."""
        error = affine(a[-1], self.weights[-1], self.biases[-1]).sub_(self.y)
        error.masked_fill_(self.y.isnan(), 0.0)
        return wide(error).square().mean(dim=(1, 2)), error * (2 / error.shape[1])

    def _misfit(self, slope: Tensor, dy: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The derivative part (E,) and r = 2w/B (grad m - dy)."""
        misfit = slope.sub_(dy).masked_fill_(dy.isnan(), 0.0)
        r = misfit * (weight.view(-1, 1, 1) * (2 / misfit.shape[1])).to(misfit.dtype)
        return wide(misfit).square().sum(dim=2).mean(dim=1), r


def affine(a: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """One layer of every member: (E, B, in) to (E, B, out)."""
    return torch.baddbmm(b.unsqueeze(1), a, w.mT)
