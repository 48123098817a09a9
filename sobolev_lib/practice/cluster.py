"""Energies and forces of a small copper cluster, from the calculators of ASE.

Four atoms near the corners of a tetrahedron, displaced at random.  The effective medium theory of
ASE gives energy and forces at once; the force is *minus* the gradient of the energy.  ASE is an
optional extra::

    pip install "sobolev-lib[molecules]"
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from sobolev_lib.stack import MLPStack

__all__ = ["ATOMS", "Energies", "distances", "frames", "label"]

ATOMS = 4
BOND = 2.4
"""Edge of the tetrahedron in angstrom, near that of least energy."""
SPREAD = 0.1
"""Standard deviation of each coordinate, in angstrom."""
PAIRS = list(itertools.combinations(range(ATOMS), 2))


def frames(count: int, generator: torch.Generator) -> Tensor:
    """Positions (count, 12) in angstrom: a tetrahedron, each atom displaced by `SPREAD`."""
    corners = torch.tensor(
        [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64
    ) * (BOND / 8**0.5)
    moved = torch.randn(count, ATOMS, 3, dtype=torch.float64, generator=generator)
    return (corners + SPREAD * moved).flatten(1)


def label(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Energies (B,) in eV and forces (B, 12) in eV per angstrom, at positions (B, 12).

    Raises
    ------
    ImportError
        If ASE is not installed.
    ValueError
        If the shape is another.
    """
    _check(positions)
    try:
        from ase import Atoms
        from ase.calculators.emt import EMT
    except ImportError as error:
        raise ImportError('the cluster needs ASE: pip install "sobolev-lib[molecules]"') from error
    atoms = Atoms(f"Cu{ATOMS}", calculator=EMT())
    energies, forces = [], []
    for one in positions.double().view(-1, ATOMS, 3).numpy(force=True):
        atoms.positions = one
        energies.append(float(atoms.get_potential_energy()))
        forces.append(torch.tensor(atoms.get_forces()).flatten())
    return torch.tensor(energies, dtype=torch.float64), torch.stack(forces)


def distances(positions: Tensor) -> Tensor:
    """The six distances (..., 6) between four atoms (..., 12): blind to shifts and turns."""
    atoms = positions.unflatten(-1, (ATOMS, 3))
    first, second = (list(side) for side in zip(*PAIRS, strict=True))
    return (atoms[..., first, :] - atoms[..., second, :]).norm(dim=-1)


class Energies(nn.Module):
    """Energies of E networks, each at positions of its own, as one model of E x B samples.

    It is what :class:`~sobolev_lib.loss.SobolevLoss` takes: sample number e B + b goes through
    network e, and its derivative with respect to its positions runs through the distances.

    Parameters
    ----------
    members : int
        Number of networks.
    mean, std : Tensor
        Of the distances (6,) in the training data; the networks see standardised ones.
    generator
        As for :class:`~sobolev_lib.stack.MLPStack`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, members: int, mean: Tensor, std: Tensor, generator: Any = None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.stack = MLPStack(
            members, len(PAIRS), (32, 32), "silu", generator=generator, dtype=mean.dtype
        )

    def forward(self, positions: Tensor) -> Tensor:
        """Energies (E B, 1) at positions (E B, 12)."""
        _check(positions)
        if len(positions) % self.stack.members:
            raise ValueError(
                f"positions has {len(positions)} samples; {self.stack.members} networks need a "
                "multiple of their number"
            )
        seen = (distances(positions) - self.mean) / self.std
        return self.stack(seen.unflatten(0, (self.stack.members, -1))).flatten(0, 1)


def _check(positions: Tensor) -> None:
    if positions.ndim != 2 or positions.shape[1] != 3 * ATOMS:
        raise ValueError(
            f"positions has shape {tuple(positions.shape)}; needed is (B, {3 * ATOMS})"
        )
