"""The bias of the kernel estimate (theorem *Bias* of the chapter on kinks), measured on deep nets.

Two hidden layers in the plane, uniform density on a square, a linear target gradient.  Integrals
over the level lines of a pre-activation are exact: the lines are clipped to the linear pieces.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from sobolev_lib import kinks

LOG2 = math.log(2)  # the kernel's first absolute moment, one side
NODES, WEIGHTS = np.polynomial.legendre.leggauss(3)


class Plane:
    """A network on [-1, 1]^2 with one parameter t, the bias of its first unit."""

    def __init__(self, w1, b1, w2, b2, w3, g):
        self.w1, self.b1, self.w2, self.b2, self.w3 = map(np.asarray, (w1, b1, w2, b2, w3))
        self.g = g  # matrix and offset of the target's gradient

    @classmethod
    def random(cls, seed, sizes=(3, 3)):
        rng = np.random.default_rng(seed)
        a, b = sizes
        return cls(
            rng.normal(size=(a, 2)),
            rng.normal(size=a) * 0.4,
            rng.normal(size=(b, a)),
            rng.normal(size=b) * 0.4,
            rng.normal(size=b),
            (rng.normal(size=(2, 2)), rng.normal(size=2)),
        )

    def quantities(self, x, layer, j):
        """Density, signal, tangent and residual of a unit at the points x, none on a kink."""
        z1 = x @ self.w1.T + self.b1
        s1 = z1 > 0
        z2 = (z1 * s1) @ self.w2.T + self.b2
        out = self.w3 * (z2 > 0)  # signal at each z2
        back = (out @ self.w2) * s1  # signal at each z1
        residual = back @ self.w1 - x @ self.g[0].T - self.g[1]
        if layer == 1:
            beta, slope = out @ self.w2[:, j], np.tile(self.w1[j], (len(x), 1))
            moved = np.full(len(x), float(j == 0))
        else:
            beta = np.full(len(x), self.w3[j])
            slope = (self.w2[j] * s1) @ self.w1
            moved = self.w2[j, 0] * s1[:, 0]
        return beta, slope, moved, residual

    def boundary_density(self, x, layer, j):
        """What Gamma_j integrates."""
        beta, slope, moved, residual = self.quantities(x, layer, j)
        size = np.linalg.norm(slope, axis=1)
        return 0.25 * 2 * beta * (slope * residual).sum(1) * moved / size

    def jump_density(self, x, layer, j):
        """What the second formula integrates."""
        beta, slope, moved, _ = self.quantities(x, layer, j)
        return 0.25 * 2 * beta**2 * np.linalg.norm(slope, axis=1) * moved

    def level(self, density, layer, j, u):
        """Integral of a density over {z_j = u}."""
        total = 0.0
        patterns = itertools.product((0, 1), repeat=len(self.b1)) if layer == 2 else [None]
        for pattern in patterns:
            if layer == 1:
                normal, offset = self.w1[j], self.b1[j] - u
            else:
                gate = self.w2[j] * np.array(pattern)
                normal, offset = gate @ self.w1, gate @ self.b1 + self.b2[j] - u
            size = np.linalg.norm(normal)
            if size == 0:
                continue
            start = -offset * normal / size**2
            along = np.array([-normal[1], normal[0]]) / size
            # Cut where the line meets the square, or a kink of the first layer, ...
            with np.errstate(divide="ignore"):  # a parallel line is cut at infinity
                cuts = [(s - start[k]) / along[k] for k in (0, 1) for s in (-1, 1)]
                cuts += list(-(self.w1 @ start + self.b1) / (self.w1 @ along))
            # ... or, between those, a kink of the second.
            cuts = np.unique(np.clip(cuts, -3, 3))
            for low, high in itertools.pairwise(cuts):
                gates = self.w1 @ (start + along * (low + high) / 2) + self.b1 > 0
                if layer == 2 and (gates != np.array(pattern)).any():
                    continue
                inner = (self.w2 * gates) @ self.w1
                value = inner @ start + (self.w2 * gates) @ self.b1 + self.b2
                with np.errstate(divide="ignore", invalid="ignore"):
                    more = -value / (inner @ along)
                more = more[np.isfinite(more) & (more > low) & (more < high)]
                for a, b in itertools.pairwise([low, *sorted(more), high]):
                    x = start + along * ((a + b) / 2 + NODES[:, None] * (b - a) / 2)
                    if np.abs(x).max() <= 1:
                        total += (b - a) / 2 * WEIGHTS @ density(x, layer, j)
        return total

    def slope_at_zero(self, density, layer, j, side, step=1e-4):
        """One-sided value and derivative at u = 0, from a parabola through three levels."""
        levels = side * step * np.arange(1, 4)
        values = [self.level(density, layer, j, u) for u in levels]
        slope, value = np.polyfit(levels, values, 2)[1:]
        return value, slope

    def units(self):
        return [(1, j) for j in range(len(self.b1))] + [(2, j) for j in range(len(self.b2))]

    def first(self):
        """Boundary term B, and the sum of Gamma_j'(0+) - Gamma_j'(0-)."""
        sums = np.zeros(2)
        for unit in self.units():
            plus, minus = (self.slope_at_zero(self.boundary_density, *unit, s) for s in (1, -1))
            sums += (plus[0] + minus[0]) / 2, plus[1] - minus[1]
        return sums

    def estimate(self, h, side=1400):
        """E[T_h] by the library: gradient with the kernel minus the plain one, on a fine grid."""
        line = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1
        x = torch.cartesian_prod(line, line).requires_grad_()
        target = x.detach() @ torch.tensor(self.g[0].T) + torch.tensor(self.g[1])
        w1, b1, w2, b2, w3 = map(torch.tensor, (self.w1, self.b1, self.w2, self.b2, self.w3))
        found = []
        for activation in (kinks.ReLU(h), nn.ReLU()):
            t = torch.zeros((), dtype=torch.float64, requires_grad=True)
            first = torch.cat([(b1[0] + t)[None], b1[1:]])
            m = activation(activation(x @ w1.T + first) @ w2.T + b2) @ w3
            (slope,) = torch.autograd.grad(m.sum(), x, create_graph=True)
            loss = (slope - target).square().sum(1).mean()
            found.append(torch.autograd.grad(loss, t, materialize_grads=True)[0].item())
        return found[0] - found[1]


COUNTEREXAMPLE = Plane(
    [[1.0, 0.0], [0.0, 1.0]],
    [0.0, 3.0],
    [[1.5, 1.0], [1.0, 0.0]],
    [-2.8, 5.0],
    [1.0, 0.7],
    (np.zeros((2, 2)), np.array([2.0, 0.0])),
)


def smoothed(plane, unit, h, nodes=24):
    """Integral of k_h Gamma_j over all levels, and so unit j's part of E[T_h]."""
    u, weight = np.polynomial.legendre.leggauss(nodes)
    total = 0.0
    for low, high in itertools.pairwise(h * np.array([0, 2, 6, 14, 40])):
        for side in (1, -1):
            levels = side * ((low + high) / 2 + (high - low) / 2 * u)
            kernel = kinks.kernel(torch.tensor(levels), h).numpy()
            values = [plane.level(plane.boundary_density, *unit, level) for level in levels]
            total += (high - low) / 2 * (weight * kernel) @ np.array(values)
    return total


@pytest.mark.parametrize("seed", [1])
def test_the_library_estimates_the_integrals_over_levels(seed):
    plane, h = Plane.random(seed), 0.1
    expected = sum(smoothed(plane, unit, h) for unit in plane.units())
    assert plane.estimate(h, side=800) == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_the_bias_of_the_counterexample_is_that_of_the_first_formula():
    boundary, difference = COUNTEREXAMPLE.first()
    h = 0.02
    wide, narrow = (COUNTEREXAMPLE.estimate(width, side=1000) for width in (2 * h, h))
    assert 2 * narrow - wide == pytest.approx(boundary, rel=1e-3)
    assert (wide - narrow) / (h * LOG2) == pytest.approx(difference, rel=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_formula_holds_in_every_layer(seed):
    plane, h = Plane.random(seed), 2e-6
    for unit in plane.units():
        plus, minus = (plane.slope_at_zero(plane.boundary_density, *unit, s, 1e-5) for s in (1, -1))
        bias = smoothed(plane, unit, h, nodes=8) - (plus[0] + minus[0]) / 2
        expected = plus[1] - minus[1]
        assert bias / (h * LOG2) == pytest.approx(expected, rel=1e-2, abs=1e-3), unit


def jumps(plane, layer, j):
    """The first formula for one unit, and the one-sided slopes of the second."""
    plus, minus = (plane.slope_at_zero(plane.boundary_density, layer, j, s)[1] for s in (1, -1))
    second = [plane.slope_at_zero(plane.jump_density, layer, j, s)[1] for s in (1, -1)]
    return plus - minus, second


@pytest.mark.parametrize("seed", range(6))
def test_the_second_formula_holds_in_the_last_hidden_layer(seed):
    plane = Plane.random(seed)
    for j in range(len(plane.b2)):
        first, second = jumps(plane, 2, j)
        assert second == pytest.approx([first, first], abs=1e-6)


def test_it_does_not_hold_where_kinks_of_a_later_layer_cross():
    first, second = jumps(COUNTEREXAMPLE, 1, 0)
    assert first == pytest.approx(1.0125, abs=1e-4)
    assert min(abs(value - first) for value in second) > 0.5
