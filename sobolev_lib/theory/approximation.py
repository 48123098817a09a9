"""ReLU networks that approximate a function *and* its derivative (Lemmas 1, 2, Corollary 1).

A network with one hidden layer of ReLUs is, in one variable, a broken line.  To be within eps of
f' a piece of slope s must lie on an interval where f' stays in [s - eps, s + eps]; so the pieces
follow the range of f', long where f' hardly changes, short where it does.  `relu_network` cuts the
interval greedily into such pieces, which no method can do with fewer (`fewest_pieces`), keeps the
values in hand while it goes, and writes the broken line as a `torch.nn.Module` that carries its own
certificate.

Theorem 1, in several variables, is in `ridges`.

For example:

>>> import torch
>>> net = relu_network(torch.sin, torch.cos, (0.0, 6.0), eps=0.05, lipschitz=1.0)
>>> x = torch.linspace(0, 6, 1001, dtype=torch.float64)
>>> bool((net(x) - torch.sin(x)).abs().max() <= net.certificate.value_error <= 0.05)
True
>>> net.certificate.certified, len(net.kinks) + 1 == net.certificate.pieces
(True, True)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .balls import enclosed
from .broken_line import BrokenLine, Certificate
from .sampling import Array, Cells, Function, cells, check_interval, positive, vectorised

__all__ = ["fewest_pieces", "least_slope_error", "line_network", "relu_network"]

_FINENESS = 32  # cells change by eps/32; cutting at their ends makes about 1 % more pieces
_RESERVE = 2.0**-9  # share of eps kept for rounding
_MOST_PIECES = 500_000


def relu_network(
    f: Function,
    df: Function,
    interval: tuple[float, float],
    eps: float,
    *,
    lipschitz: float | None = None,
    modulus: Callable[[float], float] | None = None,
    ball: Function | None = None,
    negative_slope: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> BrokenLine:
    """Approximate f and f' on an interval within eps by one hidden layer of ReLUs (Lemma 1).

    Parameters
    ----------
    f, df : callable
        The function and its derivative, elementwise on NumPy arrays or tensors of float64.
    interval : (float, float)
    eps : float
        Largest error of the values, and of the slopes off the kinks (on a kink PyTorch's gradient
        is the slope of one side, so it holds there, too).
    lipschitz : float, optional
        ``|f'(x) - f'(y)| <= lipschitz |x - y|``, for instance a bound of ``|f''|``.
    modulus : callable, optional
        The same for any C1 function: ``|f'(x) - f'(y)| <= modulus(|x - y|)``, increasing.
    ball : callable, optional
        `f` for the balls of python-flint, such as ``lambda x: (x * x).sin()``; the bounds are then
        proven by interval arithmetic.
    negative_slope : float
        Of a leaky ReLU; 0 is the ReLU.
    dtype : torch.dtype
        float64, or float32 where it can hold the bound (for inputs that are float32 numbers).

    Returns
    -------
    BrokenLine
        With a `Certificate`.  Of `lipschitz`, `modulus` and `ball` at most one is given; with none
        the bounds are *found at points*, several in each of the cells that `sampling.cells` makes,
        and ``certificate.certified`` is False.

    Raises
    ------
    ValueError
        If an argument is out of range, `f` and `df` disagree, `df` changes faster than numbers of
        `dtype` can resolve, more than 500,000 pieces are needed, or rounding in `dtype` exceeds
        what is left of `eps`.
    """
    ends, slopes, values, bounds = _pieces(f, df, interval, eps, dtype, lipschitz, modulus, ball)
    k, start = len(slopes) // 2, 2 * ends[0] - ends[-1]
    net = BrokenLine(
        ends[1:-1], slopes, ends[k], values[k], start, negative_slope=negative_slope, dtype=dtype
    )  # fmt: skip
    return _certified(net, ends, bounds)


def line_network(
    f: Function,
    df: Function,
    interval: tuple[float, float],
    eps: float,
    *,
    limits: tuple[float, float],
    lipschitz: float | None = None,
) -> BrokenLine:
    """Approximate on the whole line a function that has limits at both ends (Lemma 2, mended).

    Outside the interval the network is constant, with the value that it has at the end of the
    interval.  (The paper takes the limit of f instead, and jumps.)  Far out the *computed* values
    have a rounding error that grows like ``1e-16 |x|`` times the sum of the weights.

    Parameters
    ----------
    f, df, eps, lipschitz
        As for `relu_network`.
    interval : (float, float)
        Outside it the caller vouches that f stays between its value at the end and its limit, and
        ``|f'| <= eps``.
    limits : (float, float)
        Of f at minus and plus infinity.

    Raises
    ------
    ValueError
        As `relu_network`; if at an end of the interval ``|f'| > eps`` or f is not within eps/2 of
        its limit.
    """
    a, b = check_interval(interval)
    ends = np.array([a, b])
    eps = positive("eps", eps)
    off = np.abs(vectorised(f, "f", ends)(ends) - np.asarray(limits, dtype=np.float64))
    steep = vectorised(df, "df", ends)(ends)
    if not (off < eps / 2).all() or (np.abs(steep) > eps).any():
        raise ValueError(
            f"interval {interval} is too short: at its ends f is {off} from its limits, eps/2 is "
            f"{eps / 2}; the slope has to be at most eps there, too"
        )
    ends, slopes, values, bounds = _pieces(f, df, (a, b), eps / 2, torch.float64, lipschitz)
    slopes = np.concatenate([[0.0], slopes, [0.0]])
    net = BrokenLine(ends, slopes, a, values[0], 2 * a - b)
    tails = replace(  # beyond an end: the error there, and how far f still is from its limit
        bounds,
        eps=eps,
        value_error=bounds.value_error + float(off.max()),
        slope_error=max(bounds.slope_error, float(np.abs(steep).max())),
        least_pieces=fewest_pieces(df, (a, b), eps),  # `bounds` has that for eps / 2
    )
    return _certified(net, ends, tails)


def fewest_pieces(df: Function, interval: tuple[float, float], eps: float) -> int:
    """Lower bound of the number of pieces of every broken line whose slopes are within eps of `df`.

    A piece fits where f' changes by at most 2 eps, and cutting greedily gives the fewest such
    pieces.  Counted at points, the number can only come out too small, never too large.

    A network with one hidden layer has at most one kink for each unit on a line, also in R^d; its
    width is therefore at least this number minus 1 for the slope along any line.
    """
    a, b = check_interval(interval)
    eps = positive("eps", eps)
    g = vectorised(df, "df", np.linspace(a, b, 9))
    return _least(g(_cells(g, (a, b), eps).x), eps)


def least_slope_error(df: Function, interval: tuple[float, float], pieces: int) -> float:
    """Lower bound of the slope error of every broken line with so many pieces, by bisection.

    It is the largest eps at which points of `df` still need more.
    """
    if pieces < 1:
        raise ValueError(f"pieces is {pieces}; at least 1 is needed")
    x = np.linspace(*check_interval(interval), 1 << 15)
    d = vectorised(df, "df", x[:9])(x)
    low, high = 0.0, float(np.ptp(d)) / 2
    for _ in range(40):
        eps = (low + high) / 2
        low, high = (eps, high) if _least(d, eps) > pieces else (low, eps)
    return low


def _pieces(
    f: Function,
    df: Function,
    interval: tuple[float, float],
    eps: float,
    dtype: torch.dtype,
    lipschitz: float | None = None,
    modulus: Callable[[float], float] | None = None,
    ball: Function | None = None,
) -> tuple[Array, Array, Array, Certificate]:
    """Lemma 1: ends, slopes and values at the ends of the pieces, and bounds of their errors."""
    a, b = check_interval(interval)
    eps = positive("eps", eps)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype is {dtype}; torch.float64 or torch.float32 is needed")
    if sum(how is not None for how in (lipschitz, modulus, ball)) > 1:
        raise ValueError("lipschitz, modulus, ball: give at most one of them")
    if lipschitz is not None:
        if not (math.isfinite(lipschitz) and lipschitz >= 0):
            raise ValueError(f"lipschitz is {lipschitz}; a finite number >= 0 is needed")
        modulus = float(lipschitz).__mul__
    elif modulus is not None:
        modulus = _bound(modulus)
    if dtype == torch.float32:  # the numbers of float32 inside the interval
        a, b = _inside(a, b)
    probe = np.linspace(a, b, 9)
    value, slope = vectorised(f, "f", probe), vectorised(df, "df", probe)
    certified = modulus is not None or ball is not None
    for start in (1 << 10, 1 << 15, 1 << 18):
        start = max(start, min(int(2 * (b - a)), 1 << 18))
        grid = _cells(slope, (a, b), eps, modulus=modulus, dtype=dtype, start=start)
        x, y, d = grid.x, value(grid.x), slope(grid.x)
        if modulus is not None:
            _check_modulus(modulus, x, d, eps)
        if ball is not None:
            exact, grid = enclosed(ball, x)
            if (np.abs(exact - y) > eps / 8 + 1e-12 * np.abs(y)).any():
                raise ValueError(f"f and ball disagree, by up to {np.abs(exact - y).max():.3g}")
            y = exact
        ends, slopes, shift, value_error, slope_error = _fit(grid, y, eps, dtype)
        values = y[0] + shift + np.append(0.0, np.cumsum(slopes * np.diff(ends)))
        points = 2 * len(x) - 1
        if not certified:  # look between the points that were used, too
            between = (x[:-1] + np.diff(x) * np.array([[0.21], [0.71]])).ravel()
            line = np.interp(between, ends, values)
            piece = np.searchsorted(ends[1:-1], between, side="right")
            value_error = max(value_error, float(np.abs(line - value(between)).max()))
            slope_error = max(slope_error, float(np.abs(slopes[piece] - slope(between)).max()))
            points += len(between)
        if max(value_error, slope_error) <= eps:
            break
    else:
        if certified:
            raise ValueError(
                f"eps is {eps}: with the rounding of {dtype} the error is "
                f"{max(value_error, slope_error):.3g}, as df is as large as {np.abs(d).max():.3g}"
            )
        raise ValueError(
            f"df varies too fast between {points:,} points to be followed within {eps}: the error "
            f"is {max(value_error, slope_error):.3g} at a point; give lipschitz, modulus or ball"
        )
    how = (
        "a modulus of continuity" if modulus else "interval arithmetic" if ball else "points alone"
    )
    bounds = Certificate(
        eps, value_error, slope_error, certified, how, points, len(slopes), _least(d, eps)
    )  # fmt: skip
    return ends, slopes, values, bounds


def _bound(modulus: Callable[[float], float]) -> Callable[[float], float]:
    """The same modulus of continuity, whose answers are looked at."""

    def bound(h: float) -> float:
        most = float(modulus(h))
        if not (math.isfinite(most) and most >= 0):
            raise ValueError(f"modulus gives {most} for {h}; a finite number >= 0 is needed")
        return most

    return bound


def _check_modulus(modulus: Callable[[float], float], x: Array, d: Array, eps: float) -> None:
    """Refuse a bound that the slopes at some pairs of points contradict."""
    at = np.unique(np.linspace(0, len(x) - 1, 257).astype(np.int64))
    room = eps / 64 + 2.0**-30 * np.abs(d).max()  # for the rounding of df
    for step in (1, 4, 16, 64):
        i, j = at[:-step], at[step:]
        most = np.array([modulus(h) for h in (x[j] - x[i]).tolist()])
        change = np.abs(d[j] - d[i])
        k = int((change - most).argmax()) if len(change) else 0
        if len(change) and change[k] > most[k] + room:
            raise ValueError(
                f"lipschitz or modulus is too small: df changes by {change[k]:.3g} from "
                f"{x[i][k]:.9g} to {x[j][k]:.9g}, where it allows {most[k]:.3g}"
            )


def _inside(a: float, b: float) -> tuple[float, float]:
    """Smallest and largest float32 in [a, b]."""
    low, high = np.float32(a), np.float32(b)
    low = low if low >= a else np.nextafter(low, np.float32(np.inf))
    high = high if high <= b else np.nextafter(high, np.float32(-np.inf))
    if not low < high:
        raise ValueError(f"interval ({a}, {b}) holds fewer than two numbers of torch.float32")
    return float(low), float(high)


def _cells(
    g: Callable[[Array], Array], interval: tuple[float, float], eps: float, **how: Any
) -> Cells:
    """Cells as fine as memory allows; what takes too many pieces is refused before it is tried."""
    change = np.abs(np.diff(g(np.linspace(*interval, 1 << 16)))).sum()
    pieces = change / (2 * eps)
    if pieces > _MOST_PIECES:
        raise ValueError(
            f"eps is {eps}: df changes by {change:.3g} in all, which takes {pieces:.3g} pieces; "
            f"at most {_MOST_PIECES:,} are made"
        )
    return cells(g, interval, eps / min(_FINENESS, max(4, 2_000_000 / (pieces + 1))), **how)


def _least(d: Array, eps: float) -> int:
    """Number of runs of points, each as long as possible, in which d changes by at most 2 eps."""
    tolerance = 2 * eps + 4 * np.spacing(np.abs(d).max())
    runs, i, window = 1, 0, 64
    while i + 1 < len(d):
        part = d[i : i + window]
        over = np.maximum.accumulate(part) - np.minimum.accumulate(part) > tolerance
        if over.any():
            step = int(over.argmax())
            runs, i, window = runs + 1, i + step, max(64, 2 * step)
        elif i + window >= len(d):
            break
        else:
            window *= 2
    return runs


def _fit(
    grid: Cells, y: Array, eps: float, dtype: torch.dtype
) -> tuple[Array, Array, float, float, float]:
    """Ends and slopes of the pieces, shift of the values, errors of values and slopes."""
    target, width = eps * (1 - _RESERVE), np.diff(grid.x)
    # slopes are multiples of a power of two so large that every sum of weights is exact
    size = np.abs(np.diff(grid.lo)).sum() + 2 * np.abs([grid.lo, grid.hi]).max() + 4 * eps
    quantum = 2.0 ** math.ceil(math.log2(4 * size * torch.finfo(dtype).eps))
    at, slopes = _greedy(grid, y, target, quantum)
    _check_agreement(grid, y, at, eps)
    every = np.repeat(slopes, np.diff(at))
    path = np.cumsum(every * width.astype(np.longdouble))
    error = np.append(0.0, np.asarray(path - (y[1:] - y[0]), dtype=np.float64))
    inside = np.maximum(every - grid.lo, grid.hi - every)
    room = inside * width / 2  # how far the error can go between the ends of a cell
    top = float((np.maximum(error[:-1], error[1:]) + room).max())
    bottom = float((np.minimum(error[:-1], error[1:]) - room).min())
    shift, value_error = -(top + bottom) / 2, (top - bottom) / 2
    return grid.x[at], slopes, shift, value_error, float(inside.max())


def _greedy(
    grid: Cells, y: Array, target: float, quantum: float
) -> tuple[NDArray[np.int64], Array]:
    """First cells and slopes of pieces that are as long as possible.

    A piece may have every slope in [max f' - target, min f' + target].  The one is taken that
    brings the value back to f at its end, or closest to it.  On an interval no longer than 2 the
    values need no care: an error of eps in the slope moves them by eps at most, from the middle.
    On a longer one a piece ends where they would stray from f by more than half the target.
    """
    x, n = grid.x, len(grid.lo)
    care = x[-1] - x[0] > 2
    at, slopes, i, stray, window = [0], [], 0, 0.0, 64
    while i < n:
        last = min(i + window, n)
        top = np.maximum.accumulate(grid.hi[i:last]) - target
        bottom = np.minimum.accumulate(grid.lo[i:last]) + target
        fits = top <= bottom
        if fits.all() and last < n:
            window *= 2
            continue
        if not fits[0]:
            raise ValueError(f"df cannot be enclosed within {target:.3g} near {x[i]:.9g}")
        k = int(fits.argmin()) if not fits.all() else len(fits)  # cells that fit
        h, rise = x[i + 1 : i + 1 + k] - x[i], y[i + 1 : i + 1 + k] - y[i]
        best = np.clip((rise - stray) / h, top[:k], bottom[:k])
        ends = np.flatnonzero(np.abs(stray + best * h - rise) <= target / 2) if care else [k - 1]
        k = int(ends[-1]) + 1 if len(ends) else 1
        while care and k > 1 and np.abs(stray + best[k - 1] * h[:k] - rise[:k]).max() > target:
            k = k // 2 + k // 4 or 1
        slopes.append(round(best[k - 1] / quantum) * quantum)
        stray += slopes[-1] * h[k - 1] - rise[k - 1]
        i, window = i + k, max(64, 2 * k)
        at.append(i)
    return np.array(at), np.array(slopes)


def _check_agreement(grid: Cells, y: Array, at: NDArray[np.int64], eps: float) -> None:
    """A chord's slope is a mean of f', so it lies in the range of df, up to the rounding of f."""
    ends, first = grid.x[at], at[:-1]
    lo, hi = np.minimum.reduceat(grid.lo, first), np.maximum.reduceat(grid.hi, first)
    chord = np.diff(y[at]) / np.diff(ends)
    noise = 2.0**-48 * np.maximum(np.abs(y[at][:-1]), np.abs(y[at][1:])) / np.diff(ends)
    off = np.maximum(lo - chord, chord - hi) - noise - eps / 8
    if (off > 0).any():
        j = int(off.argmax())
        raise ValueError(
            f"f and df disagree: from {ends[j]:.9g} to {ends[j + 1]:.9g} the mean slope of f is "
            f"{chord[j]:.6g}, while df stays between {lo[j]:.6g} and {hi[j]:.6g}"
        )


def _certified(net: BrokenLine, ends: Array, bounds: Certificate) -> BrokenLine:
    """Add what rounding does to the network's own numbers, and refuse if that is too much."""
    weights = net.output.weight.double()[0]
    rounding = net.rounding(ends[0], ends[-1])
    exact = 0.0 if net.negative_slope == 0 else torch.finfo(net.output.weight.dtype).eps
    value_error = bounds.value_error + rounding
    slope_error = bounds.slope_error + exact * (len(weights) + 4) * float(weights.abs().sum())
    if max(value_error, slope_error) > bounds.eps:
        raise ValueError(
            f"dtype {net.output.weight.dtype} cannot hold eps = {bounds.eps}: with rounding the "
            f"errors are {value_error:.3g} in value and {slope_error:.3g} in slope"
        )
    net.certificate = replace(bounds, value_error=value_error, slope_error=slope_error)
    return net
