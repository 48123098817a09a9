"""How large the seven benchmark functions are, and how much of that is in their gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sobolev_lib.functions import FUNCTIONS

#: Global minimisers and minima, as collections of test functions for optimisation give them.
MINIMA: dict[str, tuple[list[tuple[float, float]], float]] = {
    "ackley": ([(0.0, 0.0)], 0.0),
    "beale": ([(3.0, 0.5)], 0.0),
    "booth": ([(1.0, 3.0)], 0.0),
    "bukin": ([(-10.0, 1.0)], 0.0),
    "mccormick": ([(-0.5471975512, -1.5471975512)], -1.9132229550),
    "rosenbrock": ([(1.0, 1.0)], 0.0),
    "styblinski_tang": ([(-2.9035340276, -2.9035340276)], -78.3323314075),
}

#: c in ``P(|grad f|^2 > t) = c / t`` for Bukin and large t: ``2 * 50^2 (1 + 4e-4 E x^2) / 6``
#: with x uniform on [-15, -5].
BUKIN_TAIL = 2 * 2500 * (1 + 4e-4 * (100 + 100 / 12)) / 6


@dataclass(frozen=True)
class Signal:
    """Moments of a function and of its gradient over its domain.

    Parameters
    ----------
    variance : float
        Var f for uniform x, in squared units of f.
    low, high : float
        Least and largest value on a fine grid.
    gradient : float
        ``E |grad f|^2``; infinite where the integral diverges.
    raw : float
        ``E |grad f|^2 / Var f``, in squared units of 1 / x.
    normalised : float
        The same after inputs and values are brought to mean 0 and variance 1: no unit.
    """

    variance: float
    low: float
    high: float
    gradient: float
    raw: float
    normalised: float


def quadrature(name: str) -> tuple[Tensor, Tensor]:
    """Points and weights for means over the domain: composite Gauss-Legendre, a product rule.

    Twenty panels an axis, eight nodes in each: exact for the polynomials among the functions, their
    squares and squared gradients.  For Bukin the rule follows the valley: with
    ``y = x^2 / 100 +- s^2`` both f and ``|grad f|`` times the volume element are smooth in s.

    Parameters
    ----------
    name : str
        Key of `sobolev_lib.functions.FUNCTIONS`.

    Returns
    -------
    points : Tensor, shape (n, 2), float64
    weights : Tensor, shape (n,), float64
        Positive, with sum 1.
    """
    unit, weight = _gauss(panels=20, nodes=8)
    (x_lo, x_hi), (y_lo, y_hi) = FUNCTIONS[name].domain
    x = x_lo + (x_hi - x_lo) * unit
    if name != "bukin":
        y = y_lo + (y_hi - y_lo) * unit
        points = torch.cartesian_prod(x, y)
        return points, torch.outer(weight, weight).reshape(-1)
    sides = []
    for end, sign in ((y_hi, 1.0), (y_lo, -1.0)):
        reach = torch.sqrt((end - 0.01 * x**2).abs())[:, None]  # s runs from 0 to reach
        s = reach * unit
        y = 0.01 * x[:, None] ** 2 + sign * s**2
        w = weight[:, None] * weight * reach * 2 * s / (y_hi - y_lo)
        sides.append((torch.stack([x[:, None].expand_as(y), y], -1).reshape(-1, 2), w.reshape(-1)))
    return torch.cat([p for p, _ in sides]), torch.cat([w for _, w in sides])


def _gauss(panels: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Composite Gauss-Legendre nodes and weights on [0, 1]."""
    z, w = np.polynomial.legendre.leggauss(nodes)
    starts = np.arange(panels)[:, None]
    points = (starts + (z + 1) / 2) / panels
    weights = np.broadcast_to(w / (2 * panels), points.shape)
    return torch.from_numpy(points.ravel().copy()), torch.from_numpy(weights.ravel().copy())


def signal(name: str) -> Signal:
    """Compute how large a function is and how much of it is in its gradient.

    Parameters
    ----------
    name : str
        Key of `sobolev_lib.functions.FUNCTIONS`.

    Returns
    -------
    Signal
        By `quadrature`; the mean of Bukin's squared gradient is infinite (chapter *Seven
        landscapes* has the proof).

    Raises
    ------
    KeyError
        If there is no such function.
    """
    f = FUNCTIONS[name]
    points, weights = quadrature(name)
    values = f(points)[:, 0]
    mean = (weights * values).sum()
    variance = float((weights * (values - mean) ** 2).sum())
    surface = f(f.grid(401))
    widths = torch.tensor([high - low for low, high in f.domain], dtype=torch.float64)
    if name == "bukin":
        square = scaled = math.inf
    else:
        squares = f.gradient(points) ** 2
        square = float(weights @ squares.sum(1))
        scaled = float(weights @ (squares * widths**2 / 12).sum(1))  # variance of a uniform input
    return Signal(
        variance=variance,
        low=float(surface.min()),
        high=float(surface.max()),
        gradient=square,
        raw=square / variance,
        normalised=scaled / variance,
    )


def running_mean(name: str, n: int, seed: int, power: float = 2.0) -> Tensor:
    """Means of ``|grad f|**power`` over the first 1, ..., n uniform points, shape (n,), float64."""
    x = FUNCTIONS[name].sample(n, torch.Generator().manual_seed(seed), torch.float64)
    sizes = FUNCTIONS[name].gradient(x).norm(dim=1) ** power
    return sizes.cumsum(0) / torch.arange(1, n + 1, dtype=torch.float64)
