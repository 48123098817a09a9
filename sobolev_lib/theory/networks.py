"""Networks with given weights: plain layers, the same with leaky units, and gated planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["GatedPlanes", "Interpolant", "layers", "leaky"]


def layers(weights: Sequence[tuple[Tensor, Tensor]]) -> nn.Sequential:
    """Put `nn.Linear` layers with these weights and biases together, ReLU between them."""
    stack: list[nn.Module] = []
    for weight, bias in weights:
        linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0]).to(weight)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        stack += [linear, nn.ReLU()]
    return nn.Sequential(*stack[:-1])


def leaky(network: nn.Sequential, slope: float = 0.01) -> nn.Sequential:
    """Write a ReLU network with leaky ReLUs, whose slope for negative inputs is `slope`.

    With L the leaky ReLU, relu(z) = (L(z) + slope L(-z)) / (1 - slope^2), so that each hidden layer
    gets twice the units.

    Parameters
    ----------
    network : nn.Sequential
        `nn.Linear` and `nn.ReLU` in turns, such as ``Interpolant.sequential()``.
    slope : float
        Neither 1 nor -1.

    Raises
    ------
    ValueError
        For a slope of 1 or -1, where the identity fails, or one that is not finite.
    """
    if not np.isfinite(slope) or abs(slope) == 1.0:
        raise ValueError(f"slope must be finite and neither 1 nor -1, got {slope}")
    linears = [layer for layer in network if isinstance(layer, nn.Linear)]
    weights = []
    for k, layer in enumerate(linears):
        weight: Tensor = layer.weight
        bias: Tensor = layer.bias
        if k > 0:
            weight = torch.cat([weight, slope * weight], 1) / (1 - slope**2)
        if k + 1 < len(linears):
            weight, bias = torch.cat([weight, -weight]), torch.cat([bias, -bias])
        weights.append((weight, bias))
    plain = layers(weights)
    return nn.Sequential(*(nn.LeakyReLU(slope) if isinstance(u, nn.ReLU) else u for u in plain))


class GatedPlanes(nn.Module):
    """An affine function plus sum_i relu(L_i + C_i - M_i D_i) - relu(C_i - M_i D_i).

    L_i is the affine function with value `values[i]` and gradient `slopes[i]` at ``points[i]``, and
    D_i the l1 distance from that point.  Where both ReLUs of a summand are on, it is L_i, and the
    kinks of D_i cancel; where both are off, it is 0.

    A network of two hidden layers: the units relu(x - p)_k and relu(p - x)_k for each point and
    coordinate, which add up to distances and are not stored as a matrix; then the gates.  The input
    is carried along (`sequential` writes it out).

    Parameters
    ----------
    parts : mapping of str to array
        `points` and `slopes` (n, d); `values`, `room` (C) and `steepness` (M), (n,); `slope` (d,)
        and `offset` () of the affine function.  They become parameters.
    """

    points: Tensor
    slopes: Tensor
    values: Tensor
    room: Tensor
    steepness: Tensor
    slope: Tensor
    offset: Tensor

    def __init__(self, parts: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.register_parameter(name, nn.Parameter(torch.from_numpy(np.array(part))))

    def _constants(self) -> Tensor:
        """L_i at the origin, (n,)."""
        return self.values - (self.points * self.slopes).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return h(x), (B, 1), for x of shape (B, d)."""
        gates = self.room - self.steepness * (x[:, None] - self.points).abs().sum(2)
        planes = x @ self.slopes.T + self._constants()
        bumps = torch.relu(planes + gates) - torch.relu(gates)
        return bumps.sum(1, keepdim=True) + x @ self.slope[:, None] + self.offset

    @torch.no_grad()
    def sequential(self) -> nn.Sequential:
        """Return plain layers, of 2nd + 2d and 2n + 2 units."""
        (n, d), like = self.points.shape, self.points
        eye, zeros = torch.eye(d).to(like), torch.zeros(n).to(like)
        # x climbs beside the distances as relu(x - low) - relu(low - x); no point is on this kink
        low = self.points.amin(0) - 1.0
        ends = torch.cat([torch.cat([self.points, -self.points], 1).flatten(), low, -low])
        first = (torch.cat([eye, -eye]).repeat(n + 1, 1), -ends)
        gate = torch.block_diag(*[torch.ones(1, 2 * d).to(like)] * n) * -self.steepness[:, None]
        climb = torch.cat([self.slopes, -self.slopes], 1)
        line = torch.cat([zeros.repeat(2 * d), self.slope, -self.slope])
        rows = [torch.cat([gate, c], 1) for c in (climb, 0 * climb)] + [line[None], -line[None]]
        # the affine part as relu(z) - relu(-z), its kink beyond the points as well
        beyond = 1.0 + ((self.points - low) @ self.slope).abs().amax()
        base = self._constants() + self.slopes @ low
        biases = [base + self.room, self.room, beyond[None], -beyond[None]]
        last = torch.cat([zeros + 1.0, zeros - 1.0, zeros.new_tensor([1.0, -1.0])])
        bias = self.offset + self.slope @ low - beyond
        return layers([first, (torch.cat(rows), torch.cat(biases)), (last[None], bias[None])])


class Interpolant(nn.Module):
    """A ReLU network that interpolates values and gradients.

    `sobolev_lib.theory.interpolation.relu_interpolant` makes it.

    Parameters
    ----------
    network : nn.Module
        From (B, d), with `centre` as the origin, to (B, 1).
    centre : ndarray, shape (d,)
        Subtracted first, so that data far from the origin lose no digits.  In plain layers it is
        part of the first bias.
    units : tuple of int
        Hidden units, layer by layer.
    lipschitz : float
        A bound on the Euclidean norm of the network's gradient, everywhere.
    """

    centre: Tensor

    def __init__(
        self,
        network: nn.Module,
        centre: NDArray[np.float64],
        units: tuple[int, ...],
        lipschitz: float,
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("centre", torch.from_numpy(centre))
        self.units = units
        self.lipschitz = lipschitz

    def forward(self, x: Tensor) -> Tensor:
        """Return h(x), (B, 1), for x of shape (B, d)."""
        if x.ndim != 2 or x.shape[1] != len(self.centre):
            raise ValueError(f"x must have shape (B, {len(self.centre)}), got {tuple(x.shape)}")
        return self.network(x - self.centre)

    def sequential(self) -> nn.Sequential:
        """Return the same network as `nn.Linear` and `nn.ReLU` in turns.

        The matrices of a "gated" network have some 2 n^2 d entries, nearly all of them 0: this is
        for looking at small examples.
        """
        gated = isinstance(self.network, GatedPlanes)
        plain: Any = self.network.sequential() if gated else self.network  # type: ignore[operator]
        linears = [layer for layer in plain if isinstance(layer, nn.Linear)]
        (first, bias), *rest = [(layer.weight, layer.bias) for layer in linears]
        return layers([(first, bias - first @ self.centre), *rest])
