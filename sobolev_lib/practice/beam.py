r"""A clamped beam of variable thickness: a simulator whose gradient costs one more solve.

Euler-Bernoulli, eight elements with Hermite cubics, both ends clamped, uniform load.  In units of
length L, load q and bending stiffness EI at thickness 1 the stiffness matrix is
:math:`K(t) = \sum_e t_e^3 K_e`, the deflections solve :math:`K u = f`, and the quantity of
interest is the deflection at mid-span, :math:`J = c^\top u`.  The adjoint gradient is

.. math:: \frac{\partial J}{\partial t_e} = -3 t_e^2\, \lambda^\top K_e u,
          \qquad K \lambda = c,

one more solve with the same matrix, whatever the number of parameters.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["ELEMENTS", "THICKNESS", "adjoint", "deflection", "sample", "shape"]

ELEMENTS = 8
THICKNESS = (0.6, 1.4)
"""Thicknesses are uniform between these."""


def sample(count: int, generator: torch.Generator) -> Tensor:
    """Thicknesses (count, 8), uniform in :data:`THICKNESS`."""
    low, high = THICKNESS
    u = torch.rand(count, ELEMENTS, dtype=torch.float64, generator=generator)
    return low + (high - low) * u


def deflection(thickness: Tensor) -> Tensor:
    """Deflection at mid-span (B,) of beams (B, 8); autograd differentiates the solve.

    Raises
    ------
    ValueError
        If the shape is another, or a thickness is not positive.
    """
    matrix, load, middle = _system(thickness)
    return torch.linalg.solve(matrix, load) @ middle


def adjoint(thickness: Tensor) -> tuple[Tensor, Tensor]:
    """Deflections (B,) and their gradients (B, 8) by the adjoint equation, written out."""
    matrix, load, middle = _system(thickness)
    both = torch.linalg.solve(matrix, torch.stack([load, middle], dim=1))
    u, dual = both[..., 0], both[..., 1]
    pulls = torch.einsum("bi,eij,bj->be", dual, _elements(), u)
    return u @ middle, -3 * thickness**2 * pulls


def shape(thickness: Tensor) -> Tensor:
    """Deflection at the nine nodes (B, 9)."""
    matrix, load, _ = _system(thickness)
    inside = torch.linalg.solve(matrix, load)[:, ::2]
    ends = inside.new_zeros(len(inside), 1)
    return torch.cat([ends, inside, ends], dim=1)


def _system(thickness: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Stiffness (B, 14, 14), load (14,), and what reads the deflection at mid-span (14,)."""
    if thickness.ndim != 2 or thickness.shape[1] != ELEMENTS:
        raise ValueError(f"thickness has shape {tuple(thickness.shape)}; needed is (B, {ELEMENTS})")
    if not bool((thickness > 0).all()):
        raise ValueError("thickness has entries that are not positive")
    matrix = torch.einsum("be,eij->bij", thickness.double() ** 3, _elements())
    h = 1 / ELEMENTS
    load = torch.tensor([h, 0.0], dtype=torch.float64).repeat(ELEMENTS - 1)
    middle = torch.zeros_like(load)
    middle[ELEMENTS - 2] = 1.0
    return matrix, load, middle


@functools.cache
def _elements() -> Tensor:
    """Stiffness of each element at thickness 1, (8, 14, 14): deflection and slope at each node."""
    h = 1 / ELEMENTS
    one = torch.tensor(
        [
            [12, 6 * h, -12, 6 * h],
            [6 * h, 4 * h**2, -6 * h, 2 * h**2],
            [-12, -6 * h, 12, -6 * h],
            [6 * h, 2 * h**2, -6 * h, 4 * h**2],
        ],
        dtype=torch.float64,
    )
    whole = torch.zeros(ELEMENTS, 2 * ELEMENTS + 2, 2 * ELEMENTS + 2, dtype=torch.float64)
    for e in range(ELEMENTS):
        whole[e, 2 * e : 2 * e + 4, 2 * e : 2 * e + 4] = one / h**3
    return whole[:, 2:-2, 2:-2]  # both ends are clamped
