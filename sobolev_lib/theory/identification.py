"""Propositions 2 and 3: how many points identify a function, by values and by values and slopes.

`gaussian` and `polynomial` carry out the two proofs that the paper gives or cites: they compute the
only member of the family that agrees with the data.  `generic_count` counts points for polynomials
in several variables, hence also for the pieces of a piecewise-linear map, by exact ranks.
`sobolev_lib.theory.enumeration` treats families that are not linear in their parameters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import wrightomega
from torch import Tensor

from .balls import flint
from .sampling import Array, real

__all__ = ["gaussian", "generic_count", "polynomial"]

_PRIME = 2**31 - 1


def gaussian(x: Any, value: Any, slope: Any) -> tuple[Any, Any]:
    """Find the only normal density with a given value and slope at one point (Prop. 3).

    With c = (slope / value)^2 and T = -2 ln(sqrt(2 pi) value) the variance solves
    ln v + c v = T, hence c v = omega(T + ln c) with Wright's function omega; then
    mu = x + v slope / value.

    Parameters
    ----------
    x, value, slope : float or array_like
        The point, the density there (positive, in units of 1 / x), its derivative there.

    Returns
    -------
    mu, sigma : float or ndarray
        Mean and standard deviation; arrays if any argument is one (they broadcast), else floats.

    Raises
    ------
    ValueError
        If a number is not finite, a value is not positive, or mean or deviation overflow.
    """
    given = (("x", x), ("value", value), ("slope", slope))
    try:
        x, value, slope = np.broadcast_arrays(*(real(name, part) for name, part in given))
    except ValueError as error:
        raise ValueError(f"x, value and slope: {error}") from error
    if (value <= 0).any():
        raise ValueError(f"value must be positive, as a density is, got {value[value <= 0].min()}")
    with np.errstate(over="ignore", divide="ignore", under="ignore", invalid="ignore"):
        ratio = slope / value
        level = -2 * np.log(value) - math.log(2 * math.pi)
        # ln c + T apart from c, which may underflow where its logarithm does not
        omega = np.real(wrightomega(level + 2 * np.log(np.abs(ratio))))
        log_variance = np.where(
            omega > 1.0, np.log(omega) - 2 * np.log(np.abs(ratio)), level - omega
        )
        sigma = np.exp(log_variance / 2)
        mu = x + sigma * (sigma * ratio)
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all() and (sigma > 0).all()):
        raise ValueError("value and slope: mean or standard deviation of this density overflow")
    return (mu, sigma) if mu.ndim else (float(mu), float(sigma))


def polynomial(
    x: ArrayLike | Tensor,
    values: ArrayLike | Tensor,
    slopes: ArrayLike | Tensor | None,
    degree: int,
) -> Any:
    """Find the only polynomial of a degree with given values and slopes (Hermite).

    ceil((degree + 1) / 2) points with slopes are enough, degree + 1 without.  Newton's divided
    differences, where a point with a slope counts twice, are computed in rational arithmetic:
    the result is the exact answer for the numbers given, rounded once, however badly conditioned
    the problem is.  What is given beyond degree + 1 numbers is compared with the answer.

    Parameters
    ----------
    x : array_like, shape (k,)
        Different points.
    values, slopes : array_like, shape (k,)
        Values and slopes there; `slopes` may be None.
    degree : int
        Largest power, at least 0.

    Returns
    -------
    Tensor or ndarray, shape (degree + 1,)
        Coefficients in float64, lowest power first; a tensor if `x` is one.

    Raises
    ------
    ValueError
        For shapes that differ, numbers that are not finite, a point that occurs twice, too few
        points, or data that no polynomial of this degree has.
    """
    points, v = real("x", x), real("values", values)
    s = None if slopes is None else real("slopes", slopes)
    if isinstance(degree, bool) or not isinstance(degree, Real) or degree % 1 or degree < 0:
        raise ValueError(f"degree must be an integer of at least 0, got {degree!r}")
    degree = int(degree)
    if points.ndim != 1 or v.shape != points.shape or (s is not None and s.shape != points.shape):
        shapes = [points.shape, v.shape] + ([] if s is None else [s.shape])
        raise ValueError(f"x, values and slopes must have one shape (k,), got {shapes}")
    if len(np.unique(points)) < len(points):
        twice = next(p for i, p in enumerate(points) if p in points[:i])
        raise ValueError(f"x must hold different points, got {twice} twice")
    times = 1 if s is None else 2
    needed = math.ceil((degree + 1) / times)
    if len(points) < needed:
        kind = "values" if s is None else "values and slopes"
        raise ValueError(f"x: degree {degree} needs {kind} at {needed} points, got {len(points)}")
    order = _spread(points)
    chosen = order[:needed]
    knots = [Fraction(points[i]) for i in chosen for _ in range(times)][: degree + 1]
    numbers = [[Fraction(v[i])] if s is None else [Fraction(v[i]), Fraction(s[i])] for i in chosen]
    exact = _expand(knots, _divided_differences(knots, numbers, times))
    try:
        result = np.array([float(c) for c in exact])
    except OverflowError:
        raise ValueError("values: the coefficients of this polynomial overflow") from None
    _compare(result, points, v, s)
    return torch.from_numpy(result).to(x.device) if isinstance(x, Tensor) else result


def generic_count(degree: int, dimension: int, *, slopes: bool) -> int:
    """Count the points that identify a polynomial in several variables, for almost all positions.

    The count is the least K at which the equations of K random points have full rank.  Ranks are
    computed modulo a prime: full rank at one set of points proves full rank at almost every set;
    a deficit proves the contrary but for a chance of some 1e-7.

    Parameters
    ----------
    degree : int
        Total degree; 1 for an affine function, a piece of a piecewise-linear map.
    dimension : int
        Number of variables d.
    slopes : bool
        Whether all d partial derivatives are known at the points.

    Raises
    ------
    ValueError
        If `degree` is negative or `dimension` is below 1.
    ImportError
        Without python-flint, the optional extra "theory".
    """
    if degree < 0 or dimension < 1:
        raise ValueError(f"degree >= 0 and dimension >= 1 are needed, got {degree}, {dimension}")
    every = itertools.product(range(degree + 1), repeat=dimension)
    powers = [e for e in every if sum(e) <= degree]
    rng = np.random.default_rng(0)
    rows: list[list[int]] = []
    for count in itertools.count(1):
        rows += _equations(rng.integers(1, _PRIME, size=dimension).tolist(), powers, slopes)
        matrix = flint().nmod_mat(len(rows), len(powers), [v for row in rows for v in row], _PRIME)
        if matrix.rank() == len(powers):
            return count
    raise AssertionError


# --- Hermite interpolation in rational numbers ----------------------------------------------------


def _spread(x: Array) -> list[int]:
    """Leja's order: each point is the furthest, in the product of distances, from those before."""
    order = [int(np.argmax(np.abs(x - x.mean())))]
    logs = np.zeros(len(x))
    with np.errstate(divide="ignore"):
        while len(order) < len(x):
            logs += np.log(np.abs(x - x[order[-1]]))
            order.append(int(np.argmax(logs)))
    return order


def _divided_differences(
    knots: list[Fraction], numbers: list[list[Fraction]], times: int
) -> list[Fraction]:
    """Newton's coefficients f[t_0], f[t_0, t_1], ...; f[t, t] is the slope at t."""
    column = [numbers[i // times][0] for i in range(len(knots))]
    result = [column[0]]
    for order in range(1, len(knots)):
        following = []
        for i in range(len(knots) - order):
            gap = knots[i + order] - knots[i]
            double = gap == 0  # only neighbours coincide, and only in pairs
            step = numbers[i // times][1] if double else (column[i + 1] - column[i]) / gap
            following.append(step)
        column = following
        result.append(column[0])
    return result


def _expand(knots: list[Fraction], newton: list[Fraction]) -> list[Fraction]:
    """Powers of x from Newton's form, by Horner's rule."""
    powers = [newton[-1]]
    for knot, c in zip(reversed(knots[:-1]), reversed(newton[:-1]), strict=True):
        shifted = [Fraction(0), *powers]
        powers = [a - knot * b for a, b in zip(shifted, [*powers, Fraction(0)], strict=True)]
        powers[0] += c
    return powers


def _compare(c: Array, x: Array, values: Array, slopes: Array | None) -> None:
    """Refuse data that miss the polynomial by more than a millionth of the size of its terms."""
    tables = [("values", c, values)]
    if slopes is not None:
        tables.append(("slopes", np.arange(1, len(c)) * c[1:] if len(c) > 1 else 0 * c, slopes))
    for name, powers, given in tables:
        with np.errstate(over="ignore", invalid="ignore"):
            miss = np.abs(np.polynomial.polynomial.polyval(x, powers) - given)
            size = np.polynomial.polynomial.polyval(np.abs(x), np.abs(powers)) + np.abs(given)
            wrong = np.flatnonzero(miss > 1e-6 * size)
        if len(wrong):
            i = int(wrong[0])
            raise ValueError(
                f"{name}: no polynomial of degree {len(c) - 1} has these data; the one through the "
                f"others misses {given[i]} at {x[i]} by {miss[i]:.2g}"
            )


# --- ranks ----------------------------------------------------------------------------------------


def _equations(point: list[int], powers: list[tuple[int, ...]], slopes: bool) -> list[list[int]]:
    """Rows of one point: all monomials there, and all their partial derivatives."""

    def monomial(exponents: Iterable[int]) -> int:
        return math.prod(pow(p, e, _PRIME) for p, e in zip(point, exponents, strict=True))

    rows = [[monomial(e) for e in powers]]
    for k in range(len(point)) if slopes else ():
        rows.append([e[k] * monomial((*e[:k], max(e[k] - 1, 0), *e[k + 1 :])) for e in powers])
    return rows
