"""What the networks learned, on grids: data of Fig. 3 and Fig. 5-11, and of the page's explorer.

A trained network of section 4.1 has 67 thousand weights; what a figure needs of it is a coarse
grid of values and of gradients.  ``collect`` reads the states that a sweep left behind and writes
the grids of all seeds, and the weights of the first one.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from sobolev_lib import functions
from sobolev_lib.records import ledger
from sobolev_lib.regression import training as regression

VALUE_POINTS, ARROW_POINTS = 33, 13
"""Points per side of the grid of values and of the grid of gradients."""

SEEDS = 10


def value_grid(name: str) -> Tensor:
    """Points at which surfaces are sampled (33, 33, 2)."""
    return functions.get(name).grid(VALUE_POINTS)


def arrow_grid(name: str) -> Tensor:
    """Points at which gradient fields are sampled (13, 13, 2)."""
    return functions.get(name).grid(ARROW_POINTS, centres=True)


def truth(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values (33, 33) and gradients (13, 13, 2) of a benchmark function."""
    f = functions.get(name)
    return f(value_grid(name))[..., 0].numpy(), f.gradient(arrow_grid(name)).numpy()


def learned(training: regression.Training) -> list[tuple[np.ndarray, np.ndarray]]:
    """Values (33, 33) and gradients (13, 13, 2) of each member of a training, in raw units."""
    points = [
        torch.stack([place(s.function).reshape(-1, 2) for s in training.members]).to(
            training.device, torch.float32
        )
        for place in (value_grid, arrow_grid)
    ]
    with torch.no_grad():
        values = training.stack(points[0]).cpu().numpy().reshape(-1, VALUE_POINTS, VALUE_POINTS)
        slopes = training.stack.gradient(points[1]).cpu().numpy()
        slopes = slopes.reshape(-1, ARROW_POINTS, ARROW_POINTS, 2)
    return list(zip(values, slopes, strict=True))


def collect(
    states: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write ``grids.npz`` and ``weights-N.safetensors``.

    The grids are those of all finished stacks of the paper's arm, the weights those of the first
    seed.

    Parameters
    ----------
    states : path
        Folder of the states that ``python -m sobolev_lib regression --scale paper`` leaves.
    folder : path, optional
        Where to write; ``data/regression`` unless given.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ValueError
        If nothing has finished; no file is touched then.
    """
    grids: dict[str, np.ndarray] = {}
    first: dict[int, dict[str, np.ndarray]] = {}
    for n in (20, 100, 10_000):
        for seed in range(SEEDS):
            training = regression.Training(regression.settings("paper", [n]), seed, folder=states)
            if training.step < training.setting.steps:
                continue
            for setting, (values, slopes) in zip(training.members, learned(training), strict=True):
                name = f"{setting.function}/{n}/{setting.method}/{seed}"
                grids[f"{name}/values"], grids[f"{name}/gradient"] = values, slopes
            if not seed:
                first[n] = _weights(training)
    if not grids:
        raise ValueError(
            f"states is {states}; no run of the arm “paper” that has finished on a processor, seed "
            "by seed, has left its state there (python -m sobolev_lib regression --scale paper)"
        )
    out = Path(folder) if folder else ledger.beside(regression.EXPERIMENT)
    out.mkdir(parents=True, exist_ok=True)
    written = [out / f"weights-{n}.safetensors" for n in first]
    for path, (n, weights) in zip(written, first.items(), strict=True):
        notes = {"experiment": regression.EXPERIMENT, "n": str(n), "seed": "0"}
        save_file(weights, path, notes)
    written.append(out / "grids.npz")
    np.savez_compressed(written[-1], **grids)  # type: ignore[arg-type] # names are not allow_pickle
    return written


def _weights(training: regression.Training) -> dict[str, np.ndarray]:
    """Weights by name, ``booth/sobolev/0.weight`` as in the state dict of a member."""
    return {
        f"{setting.function}/{setting.method}/{name}": tensor.numpy()
        for i, setting in enumerate(training.members)
        for name, tensor in training.stack.member(i).state_dict().items()
    }


def load() -> dict[tuple[str, int, str, int], tuple[np.ndarray, np.ndarray]]:
    """Grids by (function, n, method, seed): values (33, 33) and gradients (13, 13, 2).

    Raises
    ------
    FileNotFoundError
        If ``grids.npz`` is not there; the message says how to make it.
    """
    path = ledger.beside(regression.EXPERIMENT) / "grids.npz"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; it is part of the repository, or made by training "
            "(python -m sobolev_lib regression --scale paper) and then "
            "python -m sobolev_lib grids"
        )
    found = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            if name.endswith("/values"):
                function, n, method, seed, _ = name.split("/")
                found[function, int(n), method, int(seed)] = (
                    file[name],
                    file[name[: -len("values")] + "gradient"],
                )
    return found


def network(function: str, n: int, method: str) -> torch.nn.Sequential:
    """Trained network of the paper's arm (first seed), from its committed weights."""
    tensors = load_file(ledger.beside(regression.EXPERIMENT) / f"weights-{n}.safetensors")
    prefix = f"{function}/{method}/"
    state = {
        name[len(prefix) :]: torch.from_numpy(value)
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    if not state:
        known = sorted({k.rsplit("/", 1)[0] for k in tensors})
        raise ValueError(
            f"no network for function {function!r} and method {method!r}; there are {known}"
        )
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 1),
    )
    model.load_state_dict(state)
    return model
