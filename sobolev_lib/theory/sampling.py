"""Functions of one variable on an interval: calling them, and enclosing their range on small cells.

The constructions of this package take functions as people write them, with NumPy or with torch.
`vectorised` makes either a function from float64 arrays to float64 arrays, and looks at what comes
back.  `cells` cuts an interval so finely that a function hardly changes inside a cell, and says
between which two numbers it stays there.  How sure that is depends on what is known of the
function: values at points only, or a modulus of continuity.  For a formula see `balls`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[[Any], Any]

_MOST_CELLS = 1 << 22


def check_interval(interval: tuple[float, float]) -> tuple[float, float]:
    """Return the two ends as floats.

    Raises
    ------
    ValueError
        If there are not two finite ends, or the first is not smaller than the second.
    """
    try:
        a, b = (float(end) for end in interval)
    except (TypeError, ValueError) as error:
        raise ValueError(f"interval is {interval!r}; two numbers (a, b) are needed") from error
    if not (math.isfinite(a) and math.isfinite(b) and a < b):
        raise ValueError(f"interval is ({a}, {b}); finite ends with a < b are needed")
    return a, b


def positive(name: str, value: float) -> float:
    """Return a positive finite number as a float; else raise an error that names it."""
    if not (isinstance(value, Real) and math.isfinite(value) and value > 0):  # NumPy's are Real
        raise ValueError(f"{name} is {value!r}; a positive number is needed")
    return float(value)


def real(name: str, given: Any) -> Array:
    """Return finite real numbers, as an array or a tensor has them, in float64; else raise."""
    array = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold real numbers, got {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array


def vectorised(f: Function, name: str, probe: Array) -> Callable[[Array], Array]:
    """Make a function of NumPy arrays or torch tensors one of float64 arrays of shape (n,).

    Parameters
    ----------
    f : callable
        Elementwise, on a NumPy array (n,), a tensor (n,) or a tensor (n, 1) of float64; the first
        of these that it answers is used.  A constant may come back as one number.
    name : str
        Name of the argument, for the messages.
    probe : array, shape (n,)
        Points at which the function is tried.

    Raises
    ------
    TypeError
        If `f` is not callable, or answers none of the three.
    ValueError
        If the answer has another shape, less than double precision, or is not finite (raised by
        the returned function as well).
    """
    if not callable(f):
        raise TypeError(f"{name} is {f!r}; a function of one variable is needed")
    ways: list[Callable[[Array], Any]] = [
        lambda x: f(x),
        lambda x: f(torch.from_numpy(x)),
        lambda x: f(torch.from_numpy(x).unsqueeze(1)),
    ]

    def call(way: Callable[[Array], Any], x: Array) -> Array:
        y = way(x.copy())
        if isinstance(y, torch.Tensor):
            y = y.detach().cpu().numpy()
        y = np.asarray(y)
        if y.dtype in (np.float16, np.float32):
            raise ValueError(f"{name} answers float64 points in {y.dtype}; float64 is needed")
        if y.size not in (1, x.size) or (y.ndim > 1 and y.shape != (x.size, 1)):
            raise ValueError(f"{name} maps shape {x.shape} to {y.shape}; the same shape is needed")
        y = np.broadcast_to(y.astype(np.float64).reshape(-1), x.shape).copy()
        if not np.isfinite(y).all():
            where = x[~np.isfinite(y)][0]
            raise ValueError(f"{name} is not finite at {where}; a function that is C1 is needed")
        return y

    reasons = []
    for way in ways:
        try:
            call(way, probe)
        except (TypeError, AttributeError, RuntimeError) as error:
            reasons.append(f"{type(error).__name__}: {error}")
        else:
            return lambda x: call(way, x)
    raise TypeError(f"{name} takes neither NumPy arrays nor tensors: " + "; ".join(reasons))


class Cells(NamedTuple):
    """A partition of an interval and the range of a function on each cell.

    ``x`` (n + 1,) are the ends of the cells; on cell i the function stays in ``[lo[i], hi[i]]``.
    """

    x: Array
    lo: Array
    hi: Array


def _rounded_up(x: Array) -> Array:
    """A little larger, so that nearly equal numbers become equal."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.ceil(mantissa * 2.0**20) / 2.0**20, exponent)


def cells(
    g: Callable[[Array], Array],
    interval: tuple[float, float],
    tolerance: float,
    *,
    modulus: Callable[[float], float] | None = None,
    dtype: torch.dtype = torch.float64,
    start: int = 4096,
) -> Cells:
    """Cut an interval until a function changes by at most `tolerance` inside each cell.

    Cells are halved where the values at their ends and middle differ by more, and where a
    neighbour is more than four times smaller, so that a fast part of the function warns the cells
    beside it.

    Parameters
    ----------
    g : callable
        From `vectorised`.
    interval : (float, float)
    tolerance : float
        Largest change inside a cell.
    modulus : callable, optional
        ``modulus(h)`` bounds ``|g(x) - g(y)|`` for ``|x - y| <= h``.  With it the ranges are
        certain.  Without it they are those of the parabola through the three values, with twice
        its overshoot.
    dtype : torch.dtype
        The ends of the cells are numbers of this type.
    start : int
        Number of equal cells to begin with.

    Raises
    ------
    ValueError
        If a cell would have to be smaller than the numbers of `dtype` allow (`g` jumps, or the
        interval is too far from the origin), or more than 2**22 cells would be needed.
    """
    kind = {torch.float64: np.float64, torch.float32: np.float32}[dtype]

    def rounded(x: Array) -> Array:
        return x.astype(kind).astype(np.float64)

    a, b = interval
    x = np.unique(np.clip(rounded(np.linspace(a, b, start + 1)), a, b))
    x[0], x[-1] = a, b
    left, right = x[:-1], x[1:]
    middle = rounded((left + right) / 2)
    values = g(x)
    low, mid, high = values[:-1], g(middle), values[1:]
    while True:
        width = right - left
        bend = np.abs(low - 2 * mid + high) / 4
        if modulus is not None:  # of the distance to the nearest of the three points
            reach = _rounded_up(np.maximum(middle - left, right - middle) / 2)
            distances, which = np.unique(reach, return_inverse=True)
            bend = np.array([modulus(h) for h in distances.tolist()])[which]
        top = np.maximum(np.maximum(low, mid), high)
        bottom = np.minimum(np.minimum(low, mid), high)
        split = (top - bottom > tolerance) | (bend > tolerance / 2)
        smallest = np.minimum(np.append(np.inf, width[:-1]), np.append(width[1:], np.inf))
        split |= width > 4 * smallest
        if not split.any():
            return Cells(np.append(left, b), bottom - bend, top + bend)
        stuck = split & ((middle <= left) | (middle >= right))
        if stuck.any():
            raise ValueError(
                f"the function changes by more than {tolerance:.3g} between neighbouring numbers "
                f"of {dtype} near {left[stuck][0]:.9g}: it jumps there, or the interval is too far "
                f"from the origin for {dtype}"
            )
        if split.sum() + left.size > _MOST_CELLS:
            raise ValueError(f"more than {_MOST_CELLS:,} cells are needed; ask for a larger eps")
        q1 = rounded((left[split] + middle[split]) / 2)
        q3 = rounded((middle[split] + right[split]) / 2)
        new = g(np.concatenate([q1, q3]))
        parts = [
            (left, np.where(split, middle, right), middle, low, np.where(split, mid, high), mid),
            (middle[split], right[split], q3, mid[split], high[split], new[q1.size :]),
        ]
        parts[0][2][split], parts[0][5][split] = q1, new[: q1.size]
        order = np.argsort(np.concatenate([left, middle[split]]), kind="stable")
        left, right, middle, low, high, mid = (
            np.concatenate(pair)[order] for pair in zip(*parts, strict=True)
        )
