"""Weights of teachers, experts and students as files: no pickle, the network checked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sobolev_lib.records import ledger

Net = TypeVar("Net", bound=nn.Module)


def folder() -> Path:
    """Folder of the committed weights."""
    return ledger.default_folder().parent / "teachers"


def save(
    path: Path, net: nn.Module, notes: Mapping[str, Any], dtype: torch.dtype = torch.float16
) -> None:
    """Write a network's weights, and how they were made, beside the old file; then swap them.

    Parameters
    ----------
    path : Path
    net : Module
    notes : mapping
        JSON.
    dtype : torch.dtype
        Half precision keeps a teacher at 3.4 MB.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().cpu().to(dtype).contiguous().clone()
        for name, value in net.state_dict().items()
    }
    part = path.with_suffix(".part")
    save_file(tensors, part, {"notes": json.dumps(dict(notes), sort_keys=True)})
    os.replace(part, path)


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
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {})["notes"])
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    except (SafetensorError, LookupError, ValueError) as error:
        raise ValueError(f"weights {path} cannot be read ({error}); restore the file") from error
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != given:
        names = sorted(k for k in wanted | given if wanted.get(k) != given.get(k))
        first = names[0]
        raise ValueError(
            f"weights {path} are of another network: {first} is {given.get(first, 'missing')}, "
            f"but must be {wanted.get(first, 'absent')} ({len(names)} tensors differ)"
        )
    net.load_state_dict(tensors)
    return net.eval(), notes
