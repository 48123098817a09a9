"""A broken line as a network with one hidden layer of ReLUs (Corollary 1), and its certificate.

Any continuous function of one variable that is made of finitely many affine pieces is a sum of
ReLUs: one unit for the affine part and one for each kink, weighted by the jump of the slope there.

For example:

>>> import torch
>>> hat = broken_line([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])
>>> hat(torch.tensor([0.5, 1.0, 1.75], dtype=torch.float64))
tensor([0.5000, 1.0000, 0.2500], dtype=torch.float64)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .sampling import Array

_CHUNK = 1 << 23  # entries of the hidden layer that are in memory at once


@dataclass(frozen=True)
class Certificate:
    """What is known about the error of a network of this module.

    Parameters
    ----------
    eps : float
        What was asked for.
    value_error, slope_error : float
        Bounds of ``sup|f - net|`` and, off the kinks, ``sup|f' - net'|`` on the interval, with
        those rounding errors that the network makes itself in its own dtype.
    certified : bool
        True if the bounds follow from the modulus or the formula given, up to the rounding of `f`
        and `df` themselves; False if they were found at points.
    how : str
        In words, how.
    points : int
        At how many points the derivative was looked at.
    pieces : int
        Number of affine pieces on the interval.
    least_pieces : int
        No broken line with fewer pieces has a slope within eps of f' (so that the width of every
        network with one hidden layer is at least one less).
    """

    eps: float
    value_error: float
    slope_error: float
    certified: bool
    how: str
    points: int
    pieces: int
    least_pieces: int


def in_parts(values: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """Values of a hidden layer of that width at x (B, d), a part of the points at a time.

    Where there are many, the hidden layer is computed again in the backward pass, not kept.
    """
    parts = x.split(max(1, _CHUNK // width))
    if len(parts) == 1 or not torch.is_grad_enabled():
        return torch.cat([values(part) for part in parts])
    return torch.cat([checkpoint(values, part, use_reentrant=False) for part in parts])


class BrokenLine(nn.Module):
    r"""A continuous piecewise affine function of one variable as a network with one hidden layer.

    .. math:: p(x) = v + \sum_j c_j\, \sigma(w_j x + b_j), \qquad w_j = \pm 1

    Input of any shape; each entry is mapped by itself.  Each unit but the first has its kink on one
    of `kinks`; units to the right of the middle face right and the others left, which halves the
    sums.  The first unit is active on the whole interval and carries the affine part.  On a kink
    PyTorch's gradient is that of one of the two sides.  Left and right of the interval the network
    goes on straight, on the left as far as the interval is long.

    Parameters
    ----------
    kinks : array, shape (n,)
        Increasing.
    slopes : array, shape (n + 1,)
        Slopes of the pieces between them.
    anchor, value : float
        The function has the value `value` at `anchor`.
    start : float
        Where the affine unit begins to be active.
    negative_slope : float
        Slope of the activation on the left: 0 for ReLU, leaky ReLU otherwise.
    dtype : torch.dtype
        Of the weights.
    """

    kinks: Tensor
    slopes: Tensor

    def __init__(
        self,
        kinks: Array,
        slopes: Array,
        anchor: float,
        value: float,
        start: float,
        *,
        negative_slope: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        alpha = float(negative_slope)
        if not math.isfinite(alpha) or alpha == 1:
            raise ValueError(f"negative_slope is {alpha}; a finite number other than 1 is needed")
        self.negative_slope = alpha
        self.certificate: Certificate | None = None
        jumps, faces = np.diff(slopes), np.where(kinks >= anchor, 1.0, -1.0)
        start = torch.tensor(start, dtype=dtype).item()  # so that the bias is exact
        # relu(z) = (L(z) - alpha z) / (1 - alpha): all parts alpha z together are one affine map
        tilt = alpha / (1 - alpha) * jumps * faces
        slope = float(slopes[np.searchsorted(kinks, anchor)]) - math.fsum(tilt)
        value -= math.fsum(tilt * (anchor - kinks))
        weights = np.append(1.0, faces)
        self.hidden = nn.Linear(1, len(weights), dtype=dtype)
        self.output = nn.Linear(len(weights), 1, dtype=dtype)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.from_numpy(weights[:, None]))
            self.hidden.bias.copy_(torch.from_numpy(-weights * np.append(start, kinks)))
            self.output.weight.copy_(torch.from_numpy(np.append(slope, jumps / (1 - alpha)))[None])
            self.output.bias.fill_(value - slope * (anchor - start))
        self.requires_grad_(False)  # a construction, not a start: switch it on to train further
        self.register_buffer("kinks", torch.from_numpy(kinks.copy()))
        self.register_buffer("slopes", torch.from_numpy(slopes.copy()))

    def forward(self, x: Tensor) -> Tensor:
        """Values at `x`, same shape."""
        if not isinstance(x, Tensor) or x.dtype != self.output.weight.dtype:
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"x is {given}; a tensor of {self.output.weight.dtype} is needed")
        return in_parts(self._values, x.reshape(-1, 1), self.hidden.out_features).reshape(x.shape)

    def _values(self, x: Tensor) -> Tensor:
        return self.output(functional.leaky_relu(self.hidden(x), self.negative_slope))

    def rounding(self, low: float, high: float) -> float:
        """Bound of the rounding error of a value on [low, high].

        The network computes in the dtype of its weights; the weights were computed in float64.
        """
        sizes = self.output.weight.abs().double()[0]
        ends = torch.tensor([[low], [high]], dtype=torch.float64)
        hidden, bias = self.hidden.weight.double(), self.hidden.bias.double()
        reach = (ends @ hidden.T + bias).abs().amax(0)
        total = float(sizes @ reach) + float(self.output.bias.abs())
        unit = (torch.finfo(self.output.weight.dtype).eps + torch.finfo(torch.float64).eps) / 2
        return (len(sizes) + 4) * unit * total


def broken_line(knots: Any, values: Any) -> BrokenLine:
    """Network that joins given points by straight lines (Corollary 1).

    Parameters
    ----------
    knots : array_like, shape (n,), n >= 2
        Strictly increasing; the inner ones become kinks.
    values : array_like, shape (n,)

    Raises
    ------
    ValueError
        If shapes differ, a number is not finite, or the knots do not increase.
    """
    x, y = (np.asarray(v, dtype=np.float64) for v in (knots, values))
    if x.ndim != 1 or len(x) < 2 or x.shape != y.shape:
        raise ValueError(f"knots {x.shape} and values {y.shape}: both need the shape (n,), n >= 2")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (np.diff(x) > 0).all()):
        raise ValueError("knots and values: finite numbers, knots that increase, are needed")
    slopes, start = np.diff(y) / np.diff(x), 2 * x[0] - x[-1]
    k = len(x) // 2
    return BrokenLine(x[1:-1], slopes, x[k], y[k], start)
