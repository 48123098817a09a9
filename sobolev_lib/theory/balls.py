"""Interval arithmetic: ranges of derivatives, and integrals, that are certain.

A ball is an interval whose arithmetic keeps every possible value (python-flint's `arb`), so that a
statement about balls is a statement about real numbers.  A function is given as a formula for power
series with balls as coefficients (`flint.arb_series`), such as ``lambda x: (x * x).sin()``.  One
evaluation around a ball then encloses the function and its derivatives on a whole interval.

>>> sine = integral(lambda x: x.cos(), 0.0, 6.0)
>>> sine.overlaps(flint().arb(6).sin()), sine.rad() < 1e-14
(True, True)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from .sampling import Array, Cells, Function

__all__ = ["enclosed", "flint", "integral", "outward", "series", "span", "working"]

_TERMS = 10  # of Taylor's formula for an integral
_HALVINGS = 40
_BITS = 80


def flint() -> ModuleType:
    """Return the module python-flint, or say how to get it.

    Raises
    ------
    ImportError
        Without python-flint, the optional extra "theory".
    """
    try:
        import flint as library
    except ImportError as error:
        raise ImportError('this needs python-flint: pip install "sobolev-lib[theory]"') from error
    return library


@contextmanager
def working(terms: int) -> Iterator[None]:
    """Work with power series of so many terms, in 80 bits; then as before."""
    ctx = flint().ctx
    before = ctx.prec, ctx.cap
    ctx.prec, ctx.cap = _BITS, terms
    try:
        yield
    finally:
        ctx.prec, ctx.cap = before


def integral(ball: Function, a: float, b: float, *, name: str = "ball") -> Any:
    """Enclose the integral of a function from a to b.

    Taylor's formula with its remainder, on intervals that are halved until the remainder is below
    1e-15 of what the values would give.  (`flint.acb.integral` is faster where a function is
    analytic, and has to be told where it is not.  This needs no more than `enclosed` does.)

    Parameters
    ----------
    ball : callable
        The integrand, for ``flint.arb_series``.
    a, b : float
        ``a <= b``.
    name : str
        Of the argument, for the message.

    Raises
    ------
    ValueError
        If the function is not finite somewhere, or too rough.
    """
    with working(_TERMS + 1):
        return _integral(ball, a, b, _HALVINGS, name)


def _integral(ball: Function, a: float, b: float, halvings: int, name: str) -> Any:
    """As `integral`, at the precision that is set."""
    centre = (a + b) / 2
    total = _by_taylor(ball, a, centre, b)
    if total is not None:
        return total
    if halvings == 0 or not a < centre < b:
        raise ValueError(f"{name} has no finite value or varies too fast near {centre}")
    left = _integral(ball, a, centre, halvings - 1, name)
    return left + _integral(ball, centre, b, halvings - 1, name)


def _by_taylor(ball: Function, a: float, centre: float, b: float) -> Any:
    """The integral by Taylor's formula at the centre, or None if the remainder is too large."""
    library = flint()
    try:
        at = series(ball, library.arb(centre))
        around = series(ball, span(a, b))[_TERMS]  # the next coefficient, everywhere on [a, b]
    except (ValueError, ZeroDivisionError):  # a denominator whose ball contains 0: halve
        return None
    taylor = library.arb_poly([*(at[k] for k in range(_TERMS)), around]).integral()
    total = taylor(library.arb(b) - centre) - taylor(library.arb(a) - centre)
    tight = total.is_finite() and total.rad() <= 1e-15 * (b - a) * (1 + abs(at[0]).upper())
    return total if tight else None


def span(a: float, b: float) -> Any:
    """A ball that holds the interval [a, b]."""
    arb = flint().arb
    return arb(a).union(arb(b))


def enclosed(ball: Function, x: Array) -> tuple[Array, Cells]:
    """Values at points, and certain bounds of the derivative between them, by ball arithmetic.

    Where the second derivative provably has no zero the first is monotone, and its range is that
    between its values at the two ends.  Elsewhere the cell is halved, and after six halvings the
    mean value form is used.

    Parameters
    ----------
    ball : callable
        The *function* (not its derivative), written with the operations of ``flint.arb_series``:
        ``lambda x: (x * x).sin()``.
    x : array, shape (n + 1,)
        Increasing.

    Returns
    -------
    values : array, shape (n + 1,)
        To a rounding of float64.
    cells : Cells
        With `x` and the ranges of the derivative.

    Raises
    ------
    ValueError
        If `ball` is not known to double precision at a point, or has no finite derivative.
    """
    with working(3):
        ends = [_end(ball, t) for t in x.tolist()]
        ranges = [
            _slopes(ball, *pair, depth=6) for pair in pairwise(zip(x.tolist(), ends, strict=True))
        ]
    lo, hi = np.array(ranges).T
    if not np.isfinite(ranges).all():
        where = x[:-1][~np.isfinite(lo + hi)][0]
        raise ValueError(f"ball has no finite derivative near {where}")
    return np.array([end[0] for end in ends]), Cells(x, lo, hi)


_End = tuple[float, float, float]  # value, lower and upper bound of the derivative


def _end(ball: Function, x: float) -> _End:
    """Value and derivative at a point."""
    try:
        y = series(ball, flint().arb(x))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"ball has no value at {x}: {error}") from error
    if not y[0].rad() <= 1e-15 * (1 + abs(y[0].mid())):
        raise ValueError(f"ball is not known to double precision at {x}: {y[0]}")
    return float(y[0].mid()), *outward(y[1])


def _slopes(
    ball: Function, left: tuple[float, _End], right: tuple[float, _End], depth: int
) -> tuple[float, float]:
    """Bounds of the derivative between two points."""
    (a, (_, low_a, high_a)), (b, (_, low_b, high_b)) = left, right
    centre = (a + b) / 2
    try:
        curvature = 2 * series(ball, span(a, b))[2]
    except (ValueError, ZeroDivisionError):  # a denominator whose ball contains 0: halve
        curvature = flint().arb("nan")
    if not curvature.contains(0):
        return min(low_a, low_b), max(high_a, high_b)
    middle = (centre, _end(ball, centre))
    if depth == 0:
        reach = outward(abs(curvature))[1] * max(b - centre, centre - a) * (1 + 2.0**-40)
        return middle[1][1] - reach, middle[1][2] + reach
    low, high = _slopes(ball, left, middle, depth - 1), _slopes(ball, middle, right, depth - 1)
    return min(low[0], high[0]), max(low[1], high[1])


def outward(x: Any) -> tuple[float, float]:
    """Floats around a ball."""
    low, high = float(x.lower()), float(x.upper())
    return math.nextafter(low, -math.inf), math.nextafter(high, math.inf)


def series(ball: Function, x: Any) -> Any:
    """Coefficients of the Taylor series at a ball, as many as ``ctx.cap`` says."""
    arb_series = flint().arb_series
    y = ball(arb_series([x, 1]))
    return y if isinstance(y, arb_series) else arb_series([y])
