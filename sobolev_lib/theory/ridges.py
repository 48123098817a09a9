r"""Sums of ridge functions as ReLU networks with one hidden layer (Theorem 1).

A ridge function :math:`g(w \cdot x)` varies in one direction only, so Lemma 1 turns it into
ReLUs of :math:`w \cdot x`; a sum of ridges becomes one hidden layer.  Sums of sigmoids are the
ridges of the paper's proof, a Fourier series is another, and several benchmark functions are finite
sums of ridges as they stand.

The budget matters.  Errors of the parts add up with their weights: if the profile :math:`g_j` is
known within :math:`\delta_j` in value and slope, then the sum is known within

.. math:: \sum_j \delta_j \quad\text{in value and}\quad \sum_j \delta_j \lVert w_j\rVert
   \quad\text{in gradient.}

For example:

>>> import torch
>>> bowl = [Ridge((1.0, 1.0), lambda t: t**2, lambda t: 2 * t),
...         Ridge((1.0, -1.0), lambda t: 0.5 * t**2, lambda t: t)]
>>> net = ridge_network(bowl, [(-1.0, 1.0), (-1.0, 1.0)], eps=0.25)
>>> x = torch.rand(1000, 2, dtype=torch.float64) * 2 - 1
>>> f = (x[:, 0] + x[:, 1]) ** 2 + 0.5 * (x[:, 0] - x[:, 1]) ** 2
>>> bool((net(x)[:, 0] - f).abs().max() < 0.25)
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit, iv
from torch import Tensor, nn

from .approximation import relu_network
from .broken_line import BrokenLine, in_parts
from .sampling import Array, Function, check_interval, positive, vectorised

Box = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Ridge:
    """``profile(direction . x)`` with the derivative of the profile."""

    direction: tuple[float, ...]
    profile: Function
    slope: Function

    def reach(self, box: Box) -> tuple[float, float]:
        """Smallest and largest value of ``direction . x`` on a box."""
        if len(box) != len(self.direction):
            raise ValueError(f"box has {len(box)} sides; the ridge has {len(self.direction)}")
        ends = [
            sorted((w * a, w * b))
            for w, (a, b) in zip(self.direction, map(check_interval, box), strict=True)
        ]
        return sum(end[0] for end in ends), sum(end[1] for end in ends)


class HiddenLayer(nn.Module):
    """Network with one hidden layer of ReLUs from (B, d) to (B, 1).

    On a kink PyTorch takes the slope of one side for each unit.  In a sum of broken lines
    (`ridge_network`) the gradient there is the one that each line has on one of its two sides, so
    that the bound of the gradient holds on the kinks, too.  `weight` is (n, d), `bias` and `outer`
    are (n,).
    """

    def __init__(self, weight: Tensor, bias: Tensor, outer: Tensor, constant: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        self.output = nn.Linear(weight.shape[0], 1, dtype=weight.dtype)
        with torch.no_grad():
            self.hidden.weight.copy_(weight)
            self.hidden.bias.copy_(bias)
            self.output.weight.copy_(outer[None])
            self.output.bias.fill_(constant)
        self.requires_grad_(False)

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return self.hidden.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Values (B, 1) at `x` (B, d)."""
        if x.ndim != 2 or x.shape[1] != self.hidden.in_features:
            raise ValueError(f"x has shape {tuple(x.shape)}; (B, {self.hidden.in_features}) needed")
        return in_parts(self._values, x, self.width)

    def _values(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x).relu())


def merge(ridges: Sequence[Ridge], lines: Sequence[BrokenLine]) -> HiddenLayer:
    """Write a sum of broken lines, one along each ridge's direction, as one hidden layer."""
    weight = torch.cat(
        [
            line.hidden.weight * torch.tensor(ridge.direction, dtype=torch.float64)
            for ridge, line in zip(ridges, lines, strict=True)
        ]
    )
    bias = torch.cat([line.hidden.bias for line in lines])
    outer = torch.cat([line.output.weight[0] for line in lines])
    constant = sum(float(line.output.bias) for line in lines)
    return HiddenLayer(weight, bias, outer, constant)


def tolerances(ridges: Sequence[Ridge], box: Box, eps: float) -> list[float]:
    """Split eps among the profiles so that the number of pieces is about as small as possible.

    A profile whose slope has the total variation T_j takes about ``T_j / (2 delta_j)`` pieces.
    Under ``sum_j delta_j max(1, |w_j|) = eps`` the sum is least for delta_j proportional to the
    root of ``T_j / max(1, |w_j|)``.
    """
    price = np.array([max(1.0, math.hypot(*ridge.direction)) for ridge in ridges])
    change = []
    for ridge in ridges:
        grid = np.linspace(*ridge.reach(box), 4097)
        slopes = vectorised(ridge.slope, "slope", grid[:9])(grid)
        change.append(max(float(np.abs(np.diff(slopes)).sum()), 1e-9))
    share = np.sqrt(np.array(change) / price)
    return [float(delta) for delta in eps * share / (share @ price)]


def ridge_network(ridges: Sequence[Ridge], box: Box, eps: float) -> HiddenLayer:
    """Approximate a sum of ridges and its gradient within eps on a box by one hidden layer.

    Parameters
    ----------
    box : sequence of (float, float)
        One interval for each coordinate.
    eps : float
        Bound of the value's error and of the Euclidean norm of the gradient's (on the kinks see
        `HiddenLayer`).

    Raises
    ------
    ValueError
        As `approximation.relu_network`, for the profile in question.
    """
    eps = positive("eps", eps)
    if not ridges:
        raise ValueError("ridges is empty; at least one is needed")
    lines = [
        relu_network(r.profile, r.slope, r.reach(box), delta)
        for r, delta in zip(ridges, tolerances(ridges, box, eps), strict=True)
    ]
    return merge(ridges, lines)


def sigmoid_budget(coefficients: Array, weights: Array, eps: float) -> float:
    r"""How well a sigmoid has to be known for :math:`\sum_i c_i \sigma(w_i \cdot x + b_i)`.

    Half of eps is left for the sum itself, as in the paper's proof of Theorem 1, which forgets
    coefficients (n,) and weights (n, d): ``eps / (2 max(sum |c_i|, sum |c_i| |w_i|))``.
    """
    sizes = np.abs(np.asarray(coefficients, dtype=np.float64))
    slopes = np.asarray(weights, dtype=np.float64)
    eps = positive("eps", eps)
    if sizes.ndim != 1 or slopes.ndim != 2 or len(sizes) != len(slopes):
        raise ValueError(
            f"coefficients {sizes.shape} and weights {slopes.shape}: (n,) and (n, d) are needed"
        )
    steep = sizes * np.linalg.norm(slopes, axis=1)
    return float(eps / (2 * max(sizes.sum(), steep.sum())))


def sigmoid_cosine(reach: float, spacing: float, width: float = 0.3) -> tuple[Array, Array, float]:
    r"""Cosine as a sum of sigmoids, with all coefficients known: Hornik's step in one dimension.

    The convolution of the cosine with the logistic density of width tau is
    :math:`\cos t \cdot \pi\tau / \sinh \pi\tau`.  Its integral by parts, as a sum over equispaced
    shifts, is

    .. math:: \cos t \approx c_0 + \sum_j c_j\, \sigma\bigl((t - s_j)/\tau\bigr), \qquad
       c_j = -h \sin(s_j) \frac{\sinh \pi\tau}{\pi\tau} .

    Parameters
    ----------
    reach : float
        The sum is good on [-reach, reach]; the shifts go 40 tau beyond.
    spacing, width : float
        h and tau.

    Returned are coefficients (n,), shifts (n,), and the constant.
    """
    for name, value in (("reach", reach), ("spacing", spacing), ("width", width)):
        positive(name, value)
    count = math.ceil((reach + 40 * width) / spacing)
    shifts: Array = spacing * np.arange(-count, count + 1, dtype=np.float64)
    factor = math.sinh(math.pi * width) / (math.pi * width)
    coefficients = -spacing * factor * np.sin(shifts)
    at_zero = coefficients @ expit(-shifts / width)
    return coefficients, shifts, float(1 - at_zero)


def sigmoid_ridges(
    direction: tuple[float, ...], reach: float, spacing: float, width: float = 0.3
) -> tuple[list[Ridge], float]:
    r"""Write :math:`\cos(w \cdot x)` as a sum of sigmoids of w.x, each a ridge, and a constant.

    `direction` is w, `reach` bounds ``|w.x|``, and the rest is as in `sigmoid_cosine`.
    """
    coefficients, shifts, constant = sigmoid_cosine(reach, spacing, width)

    def sigmoid(c: float, s: float) -> Ridge:
        return Ridge(
            direction,
            lambda t: c * expit((t - s) / width),
            lambda t: c / width * expit((t - s) / width) * expit((s - t) / width),
        )

    pairs = zip(coefficients.tolist(), shifts.tolist(), strict=True)
    return [sigmoid(c, s) for c, s in pairs if c != 0], constant


def cosines(order: int) -> list[tuple[float, tuple[int, int], float]]:
    r"""Fourier series of :math:`\exp(\cos x + \sin y)`: triples (c, k, phase) of its waves.

    .. math:: e^{\cos x + \sin y} \approx \sum_k c_k \cos(k \cdot x + \varphi_k)

    The coefficients are products of modified Bessel functions at 1, from
    :math:`e^{\cos x} = I_0 + 2 \sum_n I_n \cos n x`.
    """
    waves = []
    for m in range(order + 1):
        for n in range(-order, order + 1):
            if m == 0 and n < 0:
                continue
            size = float(iv(m, 1.0) * iv(abs(n), 1.0)) * (1 if m == n == 0 else 2)
            waves.append((size, (m, n), -n * math.pi / 2))
    return sorted(waves, reverse=True)


def fourier_example(eps: float) -> tuple[HiddenLayer, float]:
    r"""Approximate :math:`\exp(\cos x + \sin y)` and its gradient on a square within eps.

    The square is :math:`[-\pi, \pi]^2`.  The series is cut where what is left out is below eps / 4,
    coefficients and weights counted.
    Each wave that stays becomes ReLUs by `ridge_network`, with the rest of eps.  Returned with the
    network is a bound of the error of the cut series.
    """
    eps = positive("eps", eps)
    waves = cosines(16)
    costs = np.array([c * max(1.0, math.hypot(*k)) for c, k, _ in waves])
    by_cost = np.argsort(-costs)
    tails = costs[by_cost][::-1].cumsum()[::-1]  # of this wave and all cheaper ones
    kept = [waves[i] for i in by_cost[: int((tails > eps / 4).sum())]]
    left_out = float(costs.sum() - sum(c * max(1.0, math.hypot(*k)) for c, k, _ in kept))
    constant = sum(c for c, k, _ in kept if k == (0, 0))
    ridges = [_wave(c, k, phase) for c, k, phase in kept if k != (0, 0)]
    net = ridge_network(ridges, [(-math.pi, math.pi)] * 2, eps - left_out)
    net.output.bias.add_(constant)
    return net, left_out


def _wave(size: float, k: tuple[int, int], phase: float) -> Ridge:
    return Ridge(
        (float(k[0]), float(k[1])),
        lambda t: size * np.cos(t + phase),
        lambda t: -size * np.sin(t + phase),
    )


def maurey_network(units: int, generator: torch.Generator) -> HiddenLayer:
    r"""Draw the units of a network for :math:`\exp(\cos x + \sin y)` at random (Maurey's argument).

    On [-R, R] a wave is an affine function plus a mean of ReLUs,
    :math:`\cos t = \text{affine} - \int \cos(s)\, \mathrm{relu}(t - s)\, ds`.  So f is affine plus
    an expectation over (k, s) with density proportional to
    :math:`c_k |k|\, |\cos(s + \varphi_k)|`, and a mean of `units` draws has an error of order
    ``units ** -0.5`` in value and gradient.

    The affine part takes one unit more for each direction.
    """
    if units < 1:
        raise ValueError(f"units is {units}; at least 1 is needed")
    every = cosines(16)
    waves = [(c, k, p) for c, k, p in every if k != (0, 0)]
    size, phase = (torch.tensor([w[j] for w in waves], dtype=torch.float64) for j in (0, 2))
    k = torch.tensor([w[1] for w in waves], dtype=torch.float64)
    constant = sum(c for c, k, _ in every if k == (0, 0))
    # the wave at -R, R = pi |k|_1, and its tangent there
    half_waves = 2 * k.abs().sum(1)
    reach = math.pi * half_waves / 2
    affine = -(size * (phase - reach).sin()) @ k
    constant += float(size @ ((phase - reach).cos() - (phase - reach).sin() * reach))
    # each half wave of |cos| has the mass 2; arcsin of a uniform number has its density
    mass = size * k.norm(dim=1) * 2 * half_waves
    chosen = torch.multinomial(mass, units, replacement=True, generator=generator)
    u = torch.rand(2, units, generator=generator, dtype=torch.float64)
    number = (u[0] * half_waves[chosen]).floor()
    s = (2 * u[1] - 1).arcsin() + math.pi * number - phase[chosen]
    s = (s + reach[chosen]).remainder(2 * reach[chosen]) - reach[chosen]
    sign = 2 * (number % 2) - 1  # minus cos is negative on half wave 0
    outer = sign * mass.sum() / units / k[chosen].norm(dim=1)
    # two ReLUs that are active on the whole square carry the affine part
    far = torch.full((2,), 2 * math.pi, dtype=torch.float64)
    return HiddenLayer(
        torch.cat([k[chosen], torch.eye(2, dtype=torch.float64)]),
        torch.cat([-s, far]),
        torch.cat([outer, affine]),
        constant - float(affine @ far),
    )
