r"""Theorem 2 in several dimensions: bounds from curves, and the best curve on a graph.

Every curve from s to t bounds the eta of `compatibility` from below by
``|f(t) - f(s) - integral of g| / (2 + length)``.  A loop can be run many times, and then the 2 no
longer counts: circulation over length.

A rotation about the origin, on the unit circle: circulation 2 pi, length 2 pi.

>>> import numpy as np
>>> angle = np.linspace(0, 2 * np.pi, 101)
>>> circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
>>> circle[-1] = circle[0]
>>> bound = path_bound(lambda x: 0 * x[:, 0], lambda x: x[:, ::-1] * [-1, 1], circle)
>>> round(bound, 3)
1.0
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array

from .balls import flint, integral, outward, working
from .sampling import Array, Function

__all__ = ["Walk", "lattice", "path_bound", "walk_bound"]


def path_bound(
    f: Function, g: Function, path: Any, *, balls: tuple[Function, Function] | None = None
) -> float:
    """Bound of eta from one polygon: what f and g say about its ends, over 2 plus its length.

    Parameters
    ----------
    f, g : callable
        From points (n, d) to values (n,), and to (n, d).
    path : array_like, shape (m, d), m >= 2
        Corners.  If it ends where it begins the path is a loop; run many times it gives the
        integral over the length, without the 2, and this is returned.
    balls : (callable, callable), optional
        f and g for the power series of python-flint (extra "theory"): functions of d numbers, f to
        one and g to a sequence of d.  They take the place of `f` and `g`.

    Returns
    -------
    float
        For gradients measured in the Euclidean norm.  With `balls` it is certain: integrals are
        enclosed, and the result is rounded down.  Without, it is an estimate, by a Gauss
        rule of 32 points on each side.

    Raises
    ------
    ValueError
        If `path`, or what `f`, `g` or `balls` give, has a wrong shape, or the path no length.
    """
    corners = np.asarray(path, dtype=np.float64)
    if corners.ndim != 2 or len(corners) < 2 or not np.isfinite(corners).all():
        raise ValueError(f"path has shape {corners.shape}; corners (m, d), m >= 2, are needed")
    length = np.linalg.norm(np.diff(corners, axis=0), axis=1).sum()
    if not length > 0:
        raise ValueError("path has length 0; two different corners are needed")
    loop = bool((corners[0] == corners[-1]).all())
    if balls is not None:
        if not isinstance(balls, (tuple, list)) or len(balls) != 2:
            raise ValueError(f"balls is {balls!r}; a pair, of f and of g, is needed")
        with working(2):
            return _certified(*balls, corners, loop)
    gain = _sides(g, corners[:-1], corners[1:], 32).sum()
    rise = 0.0 if loop else float(np.subtract(*_values(f, corners[[-1, 0]])))
    return float(abs(rise - gain) / (length if loop else 2 + length))


def _certified(f: Function, g: Function, corners: Array, loop: bool) -> float:
    """As `path_bound`, by interval arithmetic, rounded down."""
    arb = flint().arb
    points = [[arb(p) for p in corner] for corner in corners.tolist()]
    gain, length = arb(0), arb(0)
    if (given := len(g(*points[0]))) != len(points[0]):
        raise ValueError(f"balls: g gives {given} numbers; {len(points[0])} are needed")
    for start, end in pairwise(points):
        step = [q - p for p, q in zip(start, end, strict=True)]

        def along(t: Any, start: list[Any] = start, step: list[Any] = step) -> Any:
            slopes = g(*(p + t * q for p, q in zip(start, step, strict=True)))
            return sum((q * slope for q, slope in zip(step, slopes, strict=True)), arb(0))

        gain += integral(along, 0.0, 1.0, name="balls: g")
        length += sum((q * q for q in step), arb(0)).sqrt()
    rise = 0 if loop else arb(f(*points[-1])) - arb(f(*points[0]))
    bound = outward(abs(rise - gain) / (length if loop else 2 + length))[0]
    return max(0.0, bound)


def _values(f: Function, points: Array) -> Array:
    """Values of f at points, checked."""
    values = np.asarray(f(points), dtype=np.float64)
    if values.shape not in ((len(points),), (len(points), 1)):
        raise ValueError(
            f"f gives shape {values.shape}; one value for each of {len(points)} points"
        )
    return values.reshape(-1)


def _sides(g: Function, start: Array, end: Array, order: int) -> Array:
    """Integral of g along straight lines from `start` to `end` (m, d)."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    points = start[:, None] + (end - start)[:, None] * ((1 + nodes) / 2)[:, None]
    values = np.asarray(g(points.reshape(-1, start.shape[1])), dtype=np.float64)
    if values.shape != (points.shape[0] * order, start.shape[1]):
        raise ValueError(f"g gives shape {values.shape}; that of its points (n, d) is needed")
    return np.einsum("mkd,md,k->m", values.reshape(points.shape), end - start, weights / 2)


class Walk(NamedTuple):
    """A lower bound of eta and the polygon that gives it (closed if it ends where it begins)."""

    eta: float
    path: Array


def walk_bound(f: Function, g: Function, points: Array, edges: NDArray[np.int64]) -> Walk:
    """Best bound over all walks on a graph: a cycle of largest ratio, by linear programming.

    A function h on the nodes with ``|h - f| <= eta``, and ``|h_j - h_i - integral of g| <= eta
    length`` on every edge, is a potential of a graph with one more node, joined to every other both
    ways.  It exists if and only if no cycle has a negative length there (Farkas).

    Parameters
    ----------
    f, g : callable
        As for `path_bound`; that of the path found is the eta, and certifies it with `balls`.
    points : array, shape (n, d)
    edges : array, shape (m, 2)
        Pairs of points that are joined by a straight line, in one of the two directions.

    Raises
    ------
    ValueError
        If `points`, `edges`, or what `f` or `g` gives, has a wrong shape.
    """
    points, edges = np.asarray(points, dtype=np.float64), np.asarray(edges)
    n = len(points)
    if points.ndim != 2 or edges.ndim != 2 or edges.shape[1] != 2:
        raise ValueError(
            f"points {points.shape} and edges {edges.shape}: shapes (n, d) and (m, 2) are needed"
        )
    if edges.dtype.kind not in "iu" or edges.min() < 0 or edges.max() >= n:
        raise ValueError(f"edges must hold numbers of points, integers from 0 to {n - 1}")
    ends = np.concatenate([edges, edges[:, ::-1]])
    values = _values(f, points)
    gain = _sides(g, points[edges[:, 0]], points[edges[:, 1]], 8)
    # an edge i -> j says h_j <= h_i + gain + eta length; node n is the number 0
    hub, all_ = np.full(n, n), np.arange(n)
    tail = np.concatenate([ends[:, 0], hub, all_])
    head = np.concatenate([ends[:, 1], all_, hub])
    price = np.concatenate([gain, -gain, values, -values])
    length = np.linalg.norm(points[ends[:, 1]] - points[ends[:, 0]], axis=1)
    length = np.concatenate([length, np.ones(2 * n)])
    # circulations of a given total length: the corners of the set of all these are single cycles
    rows = np.concatenate([tail, head, np.full(len(price), n + 1)])
    entries = np.concatenate([np.ones(len(price)), -np.ones(len(price)), length / length.max()])
    columns = np.tile(np.arange(len(price)), 3)
    unit = float(np.abs(price).max()) or 1.0  # the solver's tolerances are absolute
    flow = linprog(
        price / unit, A_eq=csr_array((entries, (rows, columns))), b_eq=[0.0] * (n + 1) + [1.0],
        method="highs-ds",
    ).x  # fmt: skip
    used = np.flatnonzero(flow > 1e-9)
    eta = float(-price[used].sum() / length[used].sum())
    if not eta * length.max() > 1e-12 * unit:
        return Walk(0.0, points[:0])
    after = dict(zip(tail[used].tolist(), head[used].tolist(), strict=True))
    nodes = [n if n in after else int(tail[used[0]])]
    while len(nodes) <= len(used):
        nodes.append(after[nodes[-1]])
    return Walk(eta, points[nodes[1:-1] if nodes[0] == n else nodes])


def lattice(n: int, reach: int = 1) -> tuple[Array, NDArray[np.int64]]:
    """Points of an n x n grid on the unit square, and edges to all neighbours up to `reach` away.

    Neighbours that lie in one direction are joined through the nearest.  With a larger reach walks
    have more directions, and lengths come closer to Euclidean ones.
    """
    if n < 2 or reach < 1:
        raise ValueError(f"n is {n} and reach {reach}; at least 2 and 1 are needed")
    t, index = np.linspace(0, 1, n), np.arange(n * n).reshape(n, n)
    points = np.stack(np.meshgrid(t, t, indexing="ij"), axis=-1).reshape(-1, 2)
    edges = []
    for i in range(min(reach, n - 1) + 1):
        for j in range(-min(reach, n - 1), min(reach, n - 1) + 1):
            if (i, j) > (0, 0) and np.gcd(i, abs(j)) == 1:
                start = index[: n - i, max(0, -j) : n - max(0, j)]
                end = index[i:, max(0, j) : n + min(0, j)]
                edges.append(np.stack([start.ravel(), end.ravel()], axis=1))
    return points, np.concatenate(edges)
