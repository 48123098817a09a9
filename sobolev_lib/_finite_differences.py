"""Derivatives of a black box; `sobolev_lib.derivatives` passes the function on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .checks import check_input


@torch.no_grad()
def finite_differences(
    function: Callable[[Tensor], Any],
    x: Tensor,
    order: Literal[1, 2] = 1,
    step: float | Tensor | None = None,
) -> Tensor:
    """Derivatives of a black box by central differences: targets where no gradient exists.

    Section 1 of the paper names this way. The error is of order step**2 from truncation plus
    eps / step**order from rounding, eps being the relative error of `function`. The default step
    eps**(1 / (order + 2)) * max(1, abs(x)) balances them for a function that is accurate to its
    dtype; use float64, and a larger `step` for a noisy function.

    Parameters
    ----------
    function : callable
        Maps a tensor (B, *in) to something `torch.as_tensor` reads, (B,) or (B, out). It is called
        2 d times for order 1 and 2 d**2 + 1 times for order 2, d = prod(in), at points up to one
        step outside the batch's range.
    x : Tensor
        (B, *in), floating point and finite.
    order : {1, 2}
        1 for the Jacobian, 2 for the Hessian.
    step : float or Tensor, optional
        In the units of x, positive: one number, or one for each component, shape (*in,).

    Returns
    -------
    Tensor
        (B, out, *in), or (B, out, *in, *in) for order 2. NaN where `function` gave NaN (outside its
        domain, say), which `SobolevLoss` reads as not measured.

    Raises
    ------
    TypeError, ValueError
        For a bad `x`, `order`, `step`, or an output of another shape.
    """
    check_input(x)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    flat, h = x.reshape(len(x), -1), _steps(x, step, order)
    d, shape = flat.shape[1], tuple(x.shape[1:])

    def shifted(*moves: tuple[int, int]) -> Tensor:
        moved = flat.clone()
        for component, sign in moves:
            moved[:, component] += sign * h[:, component]
        return _black_box(function, moved.reshape(x.shape))

    if order == 1:
        rows = [(shifted((i, 1)) - shifted((i, -1))) / (2 * h[:, i, None]) for i in range(d)]
        return torch.stack(rows, 2).reshape(len(x), -1, *shape)
    centre = shifted()
    hessian = centre.new_empty(*centre.shape, d, d)
    for i in range(d):
        hi = h[:, i, None]
        hessian[..., i, i] = (shifted((i, 1)) - 2 * centre + shifted((i, -1))) / hi**2
        for j in range(i):
            same = shifted((i, 1), (j, 1)) + shifted((i, -1), (j, -1))
            opposite = shifted((i, 1), (j, -1)) + shifted((i, -1), (j, 1))
            hessian[..., i, j] = (same - opposite) / (4 * hi * h[:, j, None])
            hessian[..., j, i] = hessian[..., i, j]
    return hessian.reshape(len(x), -1, *shape, *shape)


def _black_box(function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    found = function(x)
    if torch.is_complex(torch.as_tensor(found)):
        raise TypeError("function must return real numbers, got complex ones")
    y = torch.as_tensor(found, dtype=x.dtype, device=x.device)
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(
            f"function must return shape (B,) or (B, out) with B = {len(x)}, got {tuple(y.shape)}"
        )
    return y.unsqueeze(1) if y.ndim == 1 else y


def _steps(x: Tensor, step: float | Tensor | None, order: int) -> Tensor:
    """One step for each input component, (B, d), that x + step represents exactly."""
    flat, shape = x.reshape(len(x), -1), tuple(x.shape[1:])
    if step is None:
        # Balances the truncation error h^2 against the rounding error eps / h^order.
        h = torch.finfo(x.dtype).eps ** (1 / (order + 2)) * flat.abs().clamp(min=1.0)
    else:
        each = torch.as_tensor(step).to(x)
        if tuple(each.shape) not in ((), shape):
            raise ValueError(
                f"step must be a number or have the shape of one input {shape}, got "
                f"{tuple(each.shape)}"
            )
        h = each.expand(shape).reshape(1, -1).expand_as(flat)
    h = (flat + h) - flat
    if not bool((h.isfinite() & (h > 0)).all()):
        raise ValueError(
            "step must be finite, positive and large enough to change x in its dtype, got "
            f"{step} for x of {x.dtype}"
        )
    return h
