r"""What cannot be encoded: close to f, with a derivative close to g (Theorem 2).

Along a curve from s to t a function h within eta of f changes by f(t) - f(s) up to 2 eta, and one
whose gradient is within eta of g changes by the integral of g up to eta times the length.  So

.. math:: \eta \ge \frac{\bigl|f(t) - f(s) - \int_s^t g\bigr|}{2 + \text{length}}

for every curve.  On an interval the largest of these numbers is attained, and it is the best eta of
Theorem 2 (`lower_bound`).  In the plane the best curve may be a loop; `walks` finds it.

How sure a number is depends on what is given.  Of functions that can only be called the integral is
*estimated*, and the estimate of its error is taken off.  With formulas for interval arithmetic as
well (`balls`) both sides are *certified*: ``eta`` is no larger than the best constant, and ``most``
no smaller.

The bounds hold for every Lipschitz h, hence for ReLU networks, which are not C1.

For example:

>>> import numpy as np
>>> round(lower_bound(np.sin, lambda x: np.cos(x) + 0.3, (0.0, 6.0)), 6)  # 6 * 0.3 / (2 + 6)
0.225
>>> lower_bound(np.sin, np.cos, (0.0, 6.0))
0.0
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .balls import flint, integral, outward, series, span, working
from .sampling import Array, Function, check_interval, vectorised

__all__ = ["Bound", "best_pair", "closest", "lower_bound"]

_EPS = float(np.finfo(np.float64).eps)
_CELLS, _MOST_CELLS = 2048, 1 << 20


class Bound(NamedTuple):
    """What is known of the best eta, and the pair of points that gives the lower bound.

    Parameters
    ----------
    eta : float
        Lower bound: no Lipschitz function is closer than this to both f and g.
    s, t : float
        ``|f(t) - f(s) - integral of g| / (2 + t - s)`` is at least `eta`.
    most : float
        Upper bound: some Lipschitz function is within `most` of f, with a slope within `most` of g.
        Infinite if nothing is certified, or the slopes could not be bounded.
    certified : bool
        True if the bounds follow from the formulas given, by interval arithmetic with outward
        rounding.  False if only values of f and g were known: then `eta` is an estimate, less an
        estimate of its error.
    points : int
        How many points s and t were looked for among.
    """

    eta: float
    s: float
    t: float
    most: float = math.inf
    certified: bool = False
    points: int = 0


def lower_bound(f: Function, g: Function, interval: tuple[float, float]) -> float:
    """Give an eta so that for every Lipschitz h ``sup|f - h| >= eta`` or ``sup|g - h'| >= eta``.

    Suprema are over the interval.  Up to the choice of points it is the largest such number;
    `best_pair` says where it comes from, how sure it is, and how far from the largest.

    Parameters
    ----------
    f, g : callable
        Elementwise on NumPy arrays or tensors of float64.
    interval : (float, float)

    Returns
    -------
    float
        Never above the true optimum as far as the estimated error of the quadrature and the
        rounding of `f` and `g` go, which have been subtracted; exactly 0 where ``g = f'``.

    Raises
    ------
    ValueError
        If the interval is empty, or `f` or `g` has a wrong shape or is not finite.
    """
    return best_pair(f, g, interval).eta


def best_pair(
    f: Function,
    g: Function,
    interval: tuple[float, float],
    *,
    balls: tuple[Function, Function] | None = None,
) -> Bound:
    """Find the two points with the largest ``|f(t) - f(s) - integral of g| / (2 + t - s)``.

    Arguments and errors are those of `lower_bound`.

    The integrals are those of a Gauss rule on cells that are halved where two orders differ; four
    times the difference is taken off the numerator.  Then the points next to the best pair are
    looked at more closely.  Cost: n evaluations and a few passes over n numbers.

    With `balls` the best pair is evaluated once more, with integrals by `balls.integral`, and an
    upper bound is computed from the ranges of ``f' - g`` on some two thousand cells.
    """
    a, b = check_interval(interval)
    probe = np.linspace(a, b, 9)
    f, g = vectorised(f, "f", probe), vectorised(g, "g", probe)
    x = _halved(g, np.linspace(a, b, _CELLS + 1))
    best = Bound(0.0, a, b)
    for _ in range(4):
        part, error = _integrals(g, x[:-1], x[1:])
        y, climb = f(x), np.append(0.0, np.cumsum(part))
        # of f itself, and of its argument (|x| eps times the slope)
        steep = np.abs(x).max() * np.abs(g(x)).max()
        rounding = 8 * _EPS * (np.abs(y).max() + np.abs(part).sum() + steep)
        error = np.append(0.0, np.cumsum(error + _EPS * np.abs(climb[1:])))
        found = _ratio(x, y - climb, error, rounding)
        best = max(best, found)
        if best.eta == 0:
            break
        spots = np.searchsorted(x, [best.s, best.t])
        beside = np.unique(np.clip(np.append(spots - 1, spots), 0, len(x) - 2))
        x = np.unique(np.append(x, np.linspace(x[beside], x[beside + 1], 65)))
    if balls is None:
        return best._replace(points=len(x))
    with working(2):
        return _certified(f, g, balls, np.union1d(np.linspace(a, b, _CELLS + 1), best[1:3]), best)


def _certified(
    f: Callable[[Array], Array],
    g: Callable[[Array], Array],
    balls: tuple[Function, Function],
    x: Array,
    found: Bound,
) -> Bound:
    """Bounds of eta from interval arithmetic: below from the pair found, above from all cells."""
    try:
        f_ball, g_ball = balls
    except (TypeError, ValueError) as error:
        raise ValueError(f"balls is {balls!r}; a pair, of f and of g, is needed") from error
    library = flint()
    values = [series(f_ball, library.arb(t))[0] for t in x.tolist()]
    slopes = [series(g_ball, library.arb(t))[0] for t in x.tolist()]
    for name, plain, sure in (("f", f(x), values), ("g", g(x), slopes)):
        off = np.abs(plain - [float(v) for v in sure])
        if not (off <= 1e-9 * (1 + np.abs(plain))).all():
            raise ValueError(f"balls: {name} and its ball differ by up to {off.max():.3g}")
    gap, total = [values[0]], library.arb(0)
    for y, (a, b) in zip(values[1:], pairwise(x.tolist()), strict=True):
        total += integral(g_ball, a, b, name="balls: g")
        gap.append(y - total)
    s, t = np.searchsorted(x, [found.s, found.t])
    ratio = abs(gap[t] - gap[s]) / (library.arb(found.t) - found.s + 2)
    eta = max(0.0, outward(ratio)[0])
    change = [_change(f_ball, g_ball, a, b) for a, b in pairwise(x.tolist())]
    ends = np.array([outward(v) for v in gap])
    return found._replace(
        eta=eta, most=_most(x, ends, np.array(change), eta), certified=True, points=len(x)
    )


def _change(f: Function, g: Function, a: float, b: float) -> tuple[float, float]:
    """Bounds of f' - g between a and b; infinite where a ball has none."""
    cell = span(a, b)
    try:
        low, high = outward(series(f, cell)[1] - series(g, cell)[0])
    except (ValueError, ZeroDivisionError):  # a denominator whose ball contains 0
        return -math.inf, math.inf
    return (low, high) if math.isfinite(high - low) else (-math.inf, math.inf)


def _most(x: Array, ends: Array, change: Array, eta: float) -> float:
    """Upper bound of the best eta: if D_t - D_s - eta (t - s) <= E for all s < t, it is E / 2.

    (If E / 2 is above eta, as it is, then the inequality holds for E / 2 in place of eta, too.)
    `ends` and `change` enclose D at the points and its derivative on the cells.
    """
    width, most = np.diff(x), eta
    for sign in (1, -1):
        low, high = (sign * ends)[:, ::sign].T
        slope_low, slope_high = (sign * change)[:, ::sign].T
        low, high = low - eta * x, high - eta * x
        down = np.minimum(slope_low - eta, 0) * width
        up = np.maximum(slope_high - eta, 0) * width
        top = np.minimum(high[:-1] + up, high[1:] - down)  # of a function between two points
        bottom = np.maximum(low[:-1] + down, low[1:] - up)
        excess = (top - np.minimum.accumulate(bottom)).max()
        rounding = (
            32 * _EPS * (np.abs(ends).max() + eta * np.abs(x).max() + np.abs(down - up).max())
        )
        most = max(most, (excess + rounding) / 2)
    return float(most)


def closest(f: Function, g: Function, interval: tuple[float, float]) -> tuple[Array, Array]:
    r"""Points and values of a function that attains the bound: the one of the proof of sharpness.

    .. math:: h(x) = \eta + \min_s \bigl[ f(s) + \textstyle\int_s^x g + \eta\, |x - s| \bigr]

    The points and the values are (n,).
    """
    eta, s, t, *_ = best_pair(f, g, interval)
    a, b = check_interval(interval)
    x = np.unique(np.append(np.linspace(a, b, _CELLS + 1), [s, t]))
    f, g = vectorised(f, "f", x), vectorised(g, "g", x)
    climb = np.append(0.0, np.cumsum(_integrals(g, x[:-1], x[1:])[0]))
    gap = f(x) - climb
    left = np.minimum.accumulate(gap - eta * x) + eta * x
    right = np.minimum.accumulate((gap + eta * x)[::-1])[::-1] - eta * x
    return x, eta + climb + np.minimum(left, right)


def _ratio(x: Array, gap: Array, error: Array, rounding: float) -> Bound:
    """Dinkelbach: the best pair for a trial eta gives a better eta, until it does not.

    For a given eta the pair with the largest ``sign (gap_t - gap_s) - error - eta (t - s)`` is
    found in one pass with a running minimum: that is a term in t less the same term in s.
    """
    best = Bound(0.0, float(x[0]), float(x[-1]))
    for sign in (1.0, -1.0):
        term = sign * gap - error
        while True:
            height = term - best.eta * x
            t = int((height - np.minimum.accumulate(height)).argmax())
            s = int(height[: t + 1].argmin())
            eta = (term[t] - term[s] - rounding) / (2 + x[t] - x[s]) * (1 - 8 * _EPS)
            if not eta > best.eta:
                break
            best = Bound(float(eta), float(x[s]), float(x[t]))
    return best


def _integrals(g: Callable[[Array], Array], left: Array, right: Array) -> tuple[Array, Array]:
    """Integral over each cell by 15 Gauss points, and four times the distance to that by 7."""
    half, found = (right - left) / 2, []
    for order in (15, 7):
        nodes, weights = np.polynomial.legendre.leggauss(order)
        values = g((left[:, None] + half[:, None] * (1 + nodes)).ravel()).reshape(-1, order)
        found.append((half * (values @ weights), np.abs(values).max(1)))
    (best, size), (coarse, _) = found
    return best, 4 * np.abs(best - coarse) + 4 * _EPS * half * size


def _halved(g: Callable[[Array], Array], x: Array) -> Array:
    """Halve the cells whose share of the error is too large, as often as helps."""
    for _ in range(40):
        part, error = _integrals(g, x[:-1], x[1:])
        split = error > 1e-13 * np.abs(part).sum() + 1e-300
        middle = (x[:-1] + x[1:])[split] / 2
        if not split.any() or len(x) + len(middle) > _MOST_CELLS:
            break
        if error[split].sum() < 1e-10 * np.abs(part).sum():
            break
        x = np.unique(np.append(x, middle))
    return x
