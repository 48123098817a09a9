"""Proposition 1: a ReLU network through any finite set of values and gradients.

Three constructions of a network h with h(x_i) = y_i and grad h(x_i) = dy_i at n distinct points of
R^d:

=========  =============  ===================  =============================================
method     hidden layers  units                slopes grow with
=========  =============  ===================  =============================================
"gated"    2              2nd + 2n + 2d + 2    1 / distance of a point to its nearest one
"pair"     1              2n                   1 / smallest gap of projections on a line
"paper"    1              4nd                  1 / smallest gap of projections on d lines
=========  =============  ===================  =============================================

"gated" is ours and the default: a gate opens around each point, and where it is open the network is
the affine function with that point's value and gradient.  "paper" is the proof of SM 1 with its
slips mended: gradients change coordinates by the *transpose* of A^-1, and the outer branches of a
bump go from 0 to the middle branch.  "pair" is ours, too: two units change one affine function into
the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sobolev_lib import derivatives
from sobolev_lib.checks import check_choice
from sobolev_lib.theory.networks import GatedPlanes, Interpolant, layers
from sobolev_lib.theory.sampling import Array, real

__all__ = ["Errors", "errors", "relu_interpolant"]

Method = Literal["gated", "pair", "paper"]

#: Directions that "pair" chooses from, and orthogonal matrices that "paper" chooses from.
TRIES = {"pair": 200, "paper": 20}


def relu_interpolant(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    dy: ArrayLike | Tensor,
    *,
    method: Method = "gated",
    seed: int = 0,
) -> Interpolant:
    """Build a network of Proposition 1 through all values and gradients.

    A point that occurs twice with the same data (to rounding) is used once.  Weights are computed
    in float64; the network has the dtype and device of `x`, or float64 for arrays and lists.  In
    float32 only "gated" is of use (`errors` tells).

    Parameters
    ----------
    x : array_like, shape (n, d)
        Points.
    y : array_like, shape (n,) or (n, 1)
        Values.
    dy : array_like, shape (n, d) or (n, 1, d)
        Gradients.
    method : {"gated", "pair", "paper"}
        See the module's docstring.
    seed : int
        Of the random directions of "pair" and "paper"; "gated" has none.

    Returns
    -------
    Interpolant
        A module from (B, d) to (B, 1).

    Raises
    ------
    TypeError
        If `x` is a tensor of another dtype than float32, float64 or an integer one.
    ValueError
        For wrong shapes, no points, numbers that are not finite, a point with two values or two
        gradients, points too close for the method and double precision.
    """
    builders: dict[str, Callable[[Array, Array, Array, np.random.Generator], Interpolant]]
    builders = {"gated": _gated, "pair": _pair, "paper": _paper}
    check_choice("method", method, builders)
    points, values, slopes, dtype = _data(x, y, dy)
    net = builders[method](points, values, slopes, np.random.default_rng(seed))
    return net.to(dtype=dtype, device=x.device if isinstance(x, Tensor) else None)


@dataclass(frozen=True)
class Errors:
    """Largest differences between a network and its data, over points and components."""

    values: float
    gradients: float


def errors(
    net: nn.Module, x: Tensor, y: Tensor, dy: Tensor, *, dtype: torch.dtype = torch.float64
) -> Errors:
    """Evaluate a network and its gradient by autograd in some precision.

    Parameters
    ----------
    net : nn.Module
        From (B, d) to (B, 1); it comes back in the dtype that it had.
    x, y, dy : Tensor
        Float64 data, (n, d), (n,) and (n, d); in a lower precision the points are rounded.
    dtype : torch.dtype
        In which the network computes.
    """
    before = next(net.parameters()).dtype
    net.to(dtype)
    with torch.no_grad():  # one batch at a time: a thousand points do not fit every memory
        batches = [derivatives.value_and_derivatives(net, z) for z in x.to(dtype).split(100)]
    net.to(before)
    value, gradient = (torch.cat(part).double() for part in zip(*batches, strict=True))
    return Errors((value[:, 0] - y).abs().max().item(), (gradient[:, 0] - dy).abs().max().item())


# --- the constructions ----------------------------------------------------------------------------


def _gated(x: Array, y: Array, dy: Array, _: np.random.Generator) -> Interpolant:
    """Gated planes: the supports |x - x_i|_1 < reach_i do not meet, one gate is open at a time."""
    (n, d), (z, centre) = x.shape, _centred(x)
    slope = dy.mean(0)  # an affine fit first: the gates are as steep as what is left
    offset = (y - z @ slope).mean()
    f, g = y - z @ slope - offset, dy - slope
    reach = _nearest(z) / 2
    size, largest = np.abs(f), np.abs(g).max(1)
    # C_i > 0 and f_i + C_i > 0, with room to spare, so that rounding does not close the gate
    room = 2 * size + largest * reach / 4
    with np.errstate(over="ignore", divide="ignore"):
        steepness = (room + size) / reach + largest
    if not np.isfinite(steepness).all():
        raise ValueError(
            f"x: points {reach.min() * 2:.1e} apart are too close in double precision for values "
            f"and gradients up to {max(np.abs(y).max(), np.abs(dy).max()):.1e}"
        )
    parts = {
        "points": z, "slopes": g, "values": f, "room": room,
        "steepness": steepness, "slope": slope, "offset": offset,
    }  # fmt: skip
    bumps = np.linalg.norm(g, axis=1) + steepness * np.sqrt(d)
    lipschitz = float(bumps.max() + np.linalg.norm(slope))
    units = (2 * n * d + 2 * d, 2 * n + 2)
    return Interpolant(GatedPlanes(parts), centre, units, lipschitz)


def _pair(x: Array, y: Array, dy: Array, rng: np.random.Generator) -> Interpolant:
    """Walk along a direction a; between neighbours two units change one affine piece into the next.

    relu(s a.x + v.x + k - b) - relu(s a.x - b) is 0 where both are off and v.x + k where both are
    on.  b / s is the middle of the gap, and s so large that at each point both are on or both off,
    also where v.x + k is 0 at all of them (points on a line, say, and slopes across it).
    """
    (n, d), (z, centre) = x.shape, _centred(x)
    a = _directions(rng.normal(size=(TRIES["pair"], 1, d)), z, "pair")[0]
    order = np.argsort(z @ a)
    z, f, g = z[order], y[order], dy[order]
    t = z @ a
    middle, v = (t[1:] + t[:-1]) / 2, np.diff(g, axis=0)
    k = np.diff(f - (g * z).sum(1))
    change = np.abs(v @ z.T + k[:, None])
    scale = 2 * (change / np.abs(t - middle[:, None])).max(1, initial=0.0)
    scale = np.maximum(scale, np.linalg.norm(v, axis=1))
    along, shift = scale[:, None] * a, scale * middle
    # the first affine piece, with its kink beyond all points
    start = f[0] - g[0] @ z[0]
    beyond = 1.0 + np.abs(z @ g[0]).max()
    weights = np.concatenate([along + v, along, g[:1], -g[:1]])
    biases = np.concatenate([k - shift, -shift, [beyond, -beyond]])
    signs = np.concatenate([np.ones(n - 1), -np.ones(n - 1), [1.0, -1.0]])
    lipschitz = float(np.linalg.norm(g[0]) + np.linalg.norm(v, axis=1).sum() + scale.sum())
    net = _one_hidden(weights, biases, signs, start - beyond)
    return Interpolant(net, centre, (2 * n,), lipschitz)


def _paper(x: Array, y: Array, dy: Array, rng: np.random.Generator) -> Interpolant:
    """Bumps on d projections, as SM 1 has it: each carries 1/d of the value and one slope."""
    (n, d), (z, centre) = x.shape, _centred(x)
    matrices = np.linalg.qr(rng.normal(size=(TRIES["paper"], d, d)))[0]
    a = _directions(matrices, z, "paper")
    # h(x) = sum_k b_k((A x)_k) has the gradient A^T (b_1', ..., b_d'), hence the transpose
    along = np.linalg.solve(a.T, dy.T)  # (d, n)
    weights, biases, outputs, steepest = [], [], [], []
    for k in range(d):
        t = z @ a[k]
        width = 0.2 * _smallest_gap(t) if n > 1 else 1.0
        left, right = y / d - along[k] * width, y / d + along[k] * width
        slopes = np.stack([left / width, along[k], -right / width, np.zeros(n)])
        knots = t + width * np.array([[-2.0], [-1.0], [1.0], [2.0]])
        outputs.append(np.diff(slopes, axis=0, prepend=0.0).ravel())
        biases.append(-knots.ravel())
        weights.append(np.tile(a[k], (4 * n, 1)))
        steepest.append(np.abs(slopes).max())
    joined = [np.concatenate(part) for part in (weights, biases, outputs)]
    net = _one_hidden(joined[0], joined[1], joined[2], 0.0)
    return Interpolant(net, centre, (4 * n * d,), float(np.linalg.norm(steepest)))


def _one_hidden(weight: Array, bias: Array, output: Array, constant: float) -> nn.Sequential:
    first = (torch.from_numpy(weight), torch.from_numpy(bias))
    last = (torch.from_numpy(output)[None], torch.tensor([constant], dtype=torch.float64))
    return layers([first, last])


# --- points and their projections -----------------------------------------------------------------


def _centred(x: Array) -> tuple[Array, Array]:
    """Move the origin to the mean, unless points of very different sizes would coincide there."""
    with np.errstate(over="ignore"):  # then it is not finite, and x stays where it is
        centre = x.mean(0).astype(np.float32).astype(np.float64)  # exact in either precision
    z = x - centre
    if not np.isfinite(centre).all() or len(np.unique(z, axis=0)) < len(x):
        return x, np.zeros_like(centre)
    return z, centre


def _nearest(x: Array) -> Array:
    """l1 distance of each point to the nearest other one, (n,); 1 for a single point."""
    if len(x) == 1:
        return np.ones(1)
    tensor = torch.from_numpy(x)
    rows = [
        torch.cdist(part, tensor, p=1.0).topk(2, largest=False)[0][:, 1]
        for part in tensor.split(1000)
    ]
    return torch.cat(rows).numpy()


def _smallest_gap(t: Array) -> float:
    return float(np.diff(np.sort(t)).min())


def _directions(candidates: Array, x: Array, method: str) -> Array:
    """Of several sets of directions, (k, m, d), the one whose projections stay furthest apart."""
    candidates = candidates / np.linalg.norm(candidates, axis=2, keepdims=True)
    if len(x) == 1:
        return candidates[0]
    gaps = [min(_smallest_gap(x @ a) for a in rows) for rows in candidates]
    best = candidates[int(np.argmax(gaps))]
    if max(gaps) < 64 * np.finfo(float).eps * np.abs(x @ best.T).max():
        raise ValueError(
            f"x: projections of the points are only {max(gaps):.1e} apart, too close for "
            f'method="{method}" in double precision; use method="gated"'
        )
    return best


def _data(
    x: ArrayLike | Tensor, y: ArrayLike | Tensor, dy: ArrayLike | Tensor
) -> tuple[Array, Array, Array, torch.dtype]:
    """Check, convert to float64, and keep each point once."""
    dtype = torch.float64
    if isinstance(x, Tensor) and x.is_floating_point():
        dtype = x.dtype
    if dtype not in (torch.float32, torch.float64) or (isinstance(x, Tensor) and x.is_complex()):
        raise TypeError(f"x must be float32 or float64, got {x.dtype}")  # type: ignore[union-attr]
    points, values, slopes = (real(name, part) for name, part in (("x", x), ("y", y), ("dy", dy)))
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"x must have shape (n, d) with n and d at least 1, got {points.shape}")
    n, d = points.shape
    if values.shape not in ((n,), (n, 1)):
        raise ValueError(f"y must have shape ({n},) for x of shape {(n, d)}, got {values.shape}")
    if slopes.shape not in ((n, d), (n, 1, d)):
        raise ValueError(f"dy must have shape {(n, d)}, the shape of x, got {slopes.shape}")
    values, slopes = values.reshape(n), slopes.reshape(n, d)
    _, first, group = np.unique(points + 0.0, axis=0, return_index=True, return_inverse=True)
    same = first[group.reshape(n)]  # where each point occurs first
    rounding = 8 * torch.finfo(dtype).eps
    for name, part in (("values", values[:, None]), ("gradients", slopes)):
        wrong = (np.abs(part - part[same]) > rounding * np.abs(part)).any(1)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise ValueError(f"x: points {same[i]} and {i} are the same, with different {name}")
    keep = np.sort(first)
    return points[keep], values[keep], slopes[keep], dtype
