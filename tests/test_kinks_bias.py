"""The bias of the kernel estimate (theorem *Bias* of the chapter on kinks), measured on networks.

One to three hidden layers in the plane, uniform density on a square, a linear target gradient.
Integrals over the level lines of a pre-activation are exact: the lines are cut into the pieces on
which the network is affine.
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
    """A network on [-1, 1]^2 with one parameter t, added to the bias of its first unit."""

    def __init__(self, layers, out, g):
        self.layers = [tuple(map(np.asarray, layer)) for layer in layers]  # weights and biases
        self.out = np.asarray(out)
        self.g = g  # matrix and offset of the target's gradient

    @classmethod
    def random(cls, seed, sizes=(3, 3)):
        rng = np.random.default_rng(seed)
        layers = [
            (rng.normal(size=(units, inputs)), rng.normal(size=units) * 0.4)
            for inputs, units in itertools.pairwise((2, *sizes))
        ]
        target = rng.normal(size=(2, 2)), rng.normal(size=2)
        return cls(layers, rng.normal(size=sizes[-1]), target)

    def units(self):
        return [(k, j) for k, (_, b) in enumerate(self.layers) for j in range(len(b))]

    def affine(self, gates):
        """Matrix and offset of the pre-activations above layers that have these gates."""
        (matrix, offset), *above = self.layers
        for gate, (w, b) in zip(gates, above, strict=False):
            matrix, offset = (w * gate) @ matrix, (w * gate) @ offset + b
        return matrix, offset

    def gates(self, x):
        """Which units of each layer are on at the point x."""
        found = []
        for _ in self.layers:
            matrix, offset = self.affine(found)
            found.append(matrix @ x + offset > 0)
        return found

    def quantities(self, gates, k, j):
        """Signal, slope and tangent of unit j of layer k, and the network's slope, for gates."""
        signal, moved = self.out, np.eye(len(self.layers[0][1]))[0]
        for gate, (w, _) in zip(gates[:k:-1], self.layers[:k:-1], strict=True):
            signal = (signal * gate) @ w
        for gate, (w, _) in zip(gates[:k], self.layers[1:], strict=False):
            moved = (w * gate) @ moved
        slope = (self.out * gates[-1]) @ self.affine(gates[:-1])[0]
        return signal[j], self.affine(gates[:k])[0][j], moved[j], slope

    def boundary_density(self, x, gates, k, j):
        """What Gamma_j integrates."""
        beta, normal, moved, slope = self.quantities(gates, k, j)
        residual = slope - x @ self.g[0].T - self.g[1]
        return 0.25 * 2 * beta * (residual @ normal) * moved / np.linalg.norm(normal)

    def jump_density(self, x, gates, k, j):
        """What the second formula integrates."""
        beta, normal, moved, _ = self.quantities(gates, k, j)
        return np.full(len(x), 0.25 * 2 * beta**2 * np.linalg.norm(normal) * moved)

    def pieces(self, start, along):
        """Intervals of a line inside the square on which the network is affine."""
        with np.errstate(divide="ignore"):  # a parallel line never meets a side
            sides = np.sort([(side - start) / along for side in (-1, 1)], axis=0)
        pieces = [(sides[0].max(), sides[1].min())] if sides[0].max() < sides[1].min() else []
        for k in range(len(self.layers)):
            cut = []
            for low, high in pieces:
                matrix, offset = self.affine(self.gates(start + along * (low + high) / 2)[:k])
                with np.errstate(divide="ignore", invalid="ignore"):
                    at = -(matrix @ start + offset) / (matrix @ along)
                inside = sorted(at[np.isfinite(at) & (at > low) & (at < high)])
                cut += itertools.pairwise([low, *inside, high])
            pieces = cut
        return pieces

    def level(self, density, k, j, u):
        """Integral of a density over {z_j = u}."""
        total = 0.0
        ends = np.cumsum([len(b) for _, b in self.layers[:k]], dtype=int)
        for flat in itertools.product((False, True), repeat=ends[-1] if k else 0):
            # The level is part of a line where the layers below have this pattern.
            pattern = np.split(np.array(flat), ends[:-1])[:k]
            matrix, offset = self.affine(pattern)
            normal, size = matrix[j], np.linalg.norm(matrix[j])
            if size == 0:
                continue
            start = (u - offset[j]) * normal / size**2
            along = np.array([-normal[1], normal[0]]) / size
            for low, high in self.pieces(start, along):
                gates = self.gates(start + along * (low + high) / 2)
                if all(map(np.array_equal, pattern, gates)):
                    x = start + along * ((low + high) / 2 + NODES[:, None] * (high - low) / 2)
                    total += (high - low) / 2 * WEIGHTS @ density(x, gates, k, j)
        return total

    def slope_at_zero(self, density, k, j, side, step=1e-4):
        """One-sided value and derivative at u = 0, from a parabola through three levels."""
        levels = side * step * np.arange(1, 4)
        values = [self.level(density, k, j, u) for u in levels]
        slope, value = np.polyfit(levels, values, 2)[1:]
        return value, slope

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
        found = []
        for activation in (kinks.ReLU(h), nn.ReLU()):
            t = torch.zeros((), dtype=torch.float64, requires_grad=True)
            a = x
            for k, (w, b) in enumerate(self.layers):
                moved = t * torch.eye(len(b), dtype=torch.float64)[0] if k == 0 else 0
                a = activation(a @ torch.tensor(w.T) + torch.tensor(b) + moved)
            m = a @ torch.tensor(self.out)
            (slope,) = torch.autograd.grad(m.sum(), x, create_graph=True)
            loss = (slope - target).square().sum(1).mean()
            found.append(torch.autograd.grad(loss, t, materialize_grads=True)[0].item())
        return found[0] - found[1]


# Units of each hidden layer, and seeds that give networks whose bias is not 0.
SIZES = {(4,): (4, 14, 16), (3, 3): (1, 2, 6), (2, 3, 2): (1, 6, 8)}
CASES = [(seed, sizes) for sizes, seeds in SIZES.items() for seed in seeds]
COUNTEREXAMPLE = Plane(
    [([[1.0, 0.0], [0.0, 1.0]], [0.0, 3.0]), ([[1.5, 1.0], [1.0, 0.0]], [-2.8, 5.0])],
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


@pytest.mark.parametrize("sizes", SIZES)
def test_the_library_estimates_the_integrals_over_levels(sizes):
    plane, h = Plane.random(SIZES[sizes][0], sizes), 0.1
    expected = sum(smoothed(plane, unit, h) for unit in plane.units())
    assert plane.estimate(h, side=800) == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_the_bias_of_the_counterexample_is_that_of_the_first_formula():
    boundary, difference = COUNTEREXAMPLE.first()
    h = 0.02
    wide, narrow = (COUNTEREXAMPLE.estimate(width, side=1000) for width in (2 * h, h))
    assert 2 * narrow - wide == pytest.approx(boundary, rel=1e-3)
    assert (wide - narrow) / (h * LOG2) == pytest.approx(difference, rel=1e-2)


@pytest.mark.parametrize(("seed", "sizes"), CASES)
def test_the_first_formula_holds_in_every_layer(seed, sizes):
    plane, h, found = Plane.random(seed, sizes), 2e-6, []
    for unit in plane.units():
        plus, minus = (plane.slope_at_zero(plane.boundary_density, *unit, s, 1e-5) for s in (1, -1))
        bias = smoothed(plane, unit, h, nodes=8) - (plus[0] + minus[0]) / 2
        expected = plus[1] - minus[1]
        assert bias / (h * LOG2) == pytest.approx(expected, rel=1e-2, abs=1e-3), unit
        found.append(expected)
    assert max(map(abs, found)) > 0.1


def jumps(plane, k, j):
    """The first formula for one unit, and the one-sided slopes of the second."""
    plus, minus = (plane.slope_at_zero(plane.boundary_density, k, j, s)[1] for s in (1, -1))
    second = [plane.slope_at_zero(plane.jump_density, k, j, s)[1] for s in (1, -1)]
    return plus - minus, second


@pytest.mark.parametrize(("seed", "sizes"), CASES)
def test_the_second_formula_holds_in_the_last_hidden_layer(seed, sizes):
    plane = Plane.random(seed, sizes)
    for j in range(sizes[-1]):
        first, second = jumps(plane, len(sizes) - 1, j)
        assert second == pytest.approx([first, first], abs=1e-6)


def test_it_does_not_hold_where_kinks_of_a_later_layer_cross():
    first, second = jumps(COUNTEREXAMPLE, 0, 0)
    assert first == pytest.approx(1.0125, abs=1e-4)
    assert min(abs(value - first) for value in second) > 0.5
