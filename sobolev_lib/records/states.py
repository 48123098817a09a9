"""States of trainings that are not over: written so that no cut spoils them, read without pickle.

A state holds the tensors of a network, those of its optimisers, and *notes* (the step, curves),
which are JSON.  What comes back is the same to the last bit, and laid out as in memory before, so a
resumed run ends with the weights of one that was never stopped: to the last bit on the CPU, up to
the order in which its kernels add on a GPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Optimizers = Mapping[str, torch.optim.Optimizer]


def write(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write tensors and notes beside the old file, then swap: a cut leaves one of the two whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory, hence the clones
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    part = path.with_suffix(".part")
    save_file(kept, part, {name: json.dumps(v, sort_keys=True) for name, v in notes.items()})
    os.replace(part, path)


def read(path: Path, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write` wrote: the tensors, and the notes of these names."""
    with safe_open(path, framework="pt") as file:
        meta = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    return tensors, {name: json.loads(meta[name]) for name in names}


def save(path: Path, net: nn.Module, optimizers: Optimizers, notes: Mapping[str, Any]) -> None:
    """Write a state: parameters, buffers, and what optimisers keep for them, not their settings."""
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, entries in optimizer.state_dict()["state"].items():
            for entry, value in entries.items():
                if value is not None:  # a momentum before the first step
                    tensors[f"{name}.{index}.{entry}"] = torch.as_tensor(value)
    write(path, tensors, notes)


def load(
    path: Path, net: nn.Module, optimizers: Optimizers, names: Sequence[str]
) -> dict[str, Any]:
    """Put a state back into a network and its optimisers; return the notes of these names.

    Raises
    ------
    ValueError
        If the file is damaged, or not the state of this network; see :func:`unreadable`.
    """
    try:
        tensors, notes = read(path, names)
        net.load_state_dict(_below("net", tensors))
        for name, optimizer in optimizers.items():
            _fill(optimizer, _below(name, tensors))
    except (SafetensorError, LookupError, ValueError, RuntimeError) as error:
        raise unreadable(path, str(error)) from error
    return notes


def _fill(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, entry = key.split(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:  # channels last stays so: momenta are read beside it
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def unreadable(path: Path, why: str) -> ValueError:
    """Return the error for a state that cannot be used, with what to do about it."""
    return ValueError(f"state {path} cannot be read ({why}); delete it to train that run anew")


def _below(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
