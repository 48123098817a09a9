"""Weights of teachers, experts and students as files: no pickle, the network checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn

from sobolev_lib.records import ledger, states

Net = TypeVar("Net", bound=nn.Module)


def path(kind: str, game: str) -> Path:
    """File of the committed weights of a game's "expert" or "teacher"."""
    return ledger.beside("teachers") / f"{kind}-{game}.safetensors"


def save(
    path: Path, net: nn.Module, notes: Mapping[str, Any], dtype: torch.dtype = torch.float16
) -> None:
    """Write weights, and how they were made; in half precision a teacher has 3.4 MB."""
    tensors = {name: value.to(dtype) for name, value in net.state_dict().items()}
    states.write(path, tensors, {"notes": dict(notes)})


def load(path: Path, net: Net) -> tuple[Net, dict[str, Any]]:
    """Fill a network with the weights of a file; return it, in evaluation mode, and the notes.

    Raises
    ------
    ValueError
        If there is no such file, it is damaged, or it is of another network.
    """
    if not path.exists():
        raise ValueError(f"there are no weights at {path}; train them first (data/README.md)")
    try:
        tensors, notes = states.read(path, ["notes"])
        net.load_state_dict(tensors)  # in the network's own precision
    except (SafetensorError, LookupError, ValueError, RuntimeError) as error:
        raise ValueError(f"weights {path} cannot be read ({error}); restore the file") from error
    return net.eval(), notes["notes"]
