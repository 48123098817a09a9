"""ReLU whose derivative has a derivative: a kernel in place of the delta that sampling misses."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["KERNELS", "kernel"]


def _logistic(u: Tensor) -> Tensor:
    # sigmoid(-u) and not 1 - sigmoid(u): exact symmetry and no loss of digits in the tails
    return torch.sigmoid(u) * torch.sigmoid(-u)


def _gaussian(u: Tensor) -> Tensor:
    return torch.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)


def _triangular(u: Tensor) -> Tensor:
    return (1 - u.abs()).clamp_min(0)


def _box(u: Tensor) -> Tensor:
    return 0.5 * (u.abs() <= 1).to(u.dtype)


def _extrapolated(u: Tensor) -> Tensor:
    return 2 * _logistic(u) - 0.5 * _logistic(0.5 * u)


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": _logistic,
    "gaussian": _gaussian,
    "triangular": _triangular,
    "box": _box,
    "extrapolated": _extrapolated,
}


def kernel(z: Tensor, bandwidth: float | Tensor, name: str = "logistic") -> Tensor:
    """Kernel k_h(z) = k(z / h) / h: symmetric, of unit integral, concentrated at 0 as h falls.

    Parameters
    ----------
    z : Tensor
        Pre-activations, any shape, floating point.
    bandwidth : float or Tensor
        Width h > 0 in the units of z; a tensor must broadcast against z.
    name : str
        "logistic" s(1 - s) with s the sigmoid (default), "gaussian", "triangular" and "box" (both
        zero for ``|z| > h``), or "extrapolated": 2 k_h - k_2h of the logistic kernel, whose first
        absolute moment is zero (it is the only one with negative values).

    Returns
    -------
    Tensor
        k_h(z), shape and dtype of z, in units of 1 / z.

    Raises
    ------
    ValueError
        Unknown name, or a float bandwidth that is not positive and finite.
    """
    if name not in KERNELS:
        raise ValueError(f"name must be one of {sorted(KERNELS)}, got {name!r}")
    if not isinstance(bandwidth, Tensor) and not (0 < bandwidth < math.inf):
        raise ValueError(f"bandwidth must be positive and finite, got {bandwidth!r}")
    return KERNELS[name](z / bandwidth) / bandwidth
