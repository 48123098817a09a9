"""Image data: digits from scikit-learn, and images that were prepared (:mod:`.prepare`).

Prepared images are memory-mapped arrays of bytes at the size that is trained on, in ``images``
beside the ledgers: ``NAME-SIZE-train-x.npy`` (N, 3, SIZE, SIZE) and so on, described by
``NAME-SIZE.json``.  Nothing here is ever unpickled.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sobolev_lib.records import ledger

DIGITS_TRAIN = 1_200
PARTS = ("train-x", "train-y", "test-x", "test-y")
SEEN = 1 << 20
"""Bytes at the start and at the end of a file that its checksum covers; images are too many to be
read each time."""


class DataError(RuntimeError):
    """Image data is missing or damaged; the message says what to put where."""


@dataclass(frozen=True)
class ImageData:
    """A training and a test set.

    Parameters
    ----------
    train_x, test_x : Tensor
        Bytes (N, 3, H, W), or float vectors (N, d).
    train_y, test_y : Tensor
        Labels (N,), int64.
    classes : int
        Number of classes.
    mean, std : Tensor
        Of the training images by channel, in units of bytes; of length 0 for vectors, which are
        standardised already.
    source : str
        Where it comes from, for the record.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    mean: Tensor
    std: Tensor
    source: str


def digits() -> ImageData:
    """The 1,797 digits of scikit-learn as vectors (N, 64), standardised; 1,200 for training.

    One fixed split for all seeds.

    Raises
    ------
    DataError
        If scikit-learn is not installed.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("digits need scikit-learn: pip install 'sobolev-lib[images]'")
    # what load_digits reads; importing scikit-learn for it would take a second or two
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, delimiter=",")
    pixels, labels = table[:, :-1], table[:, -1]
    order = np.random.default_rng(0).permutation(len(labels))
    x = torch.as_tensor(pixels[order], dtype=torch.float32)
    y = torch.as_tensor(labels[order], dtype=torch.int64)
    train = x[:DIGITS_TRAIN]
    x = (x - train.mean(dim=0)) / train.std(dim=0).clamp_min(1e-3)  # some pixels are never on
    nothing = torch.empty(0)
    return ImageData(
        x[:DIGITS_TRAIN], y[:DIGITS_TRAIN], x[DIGITS_TRAIN:], y[DIGITS_TRAIN:], 10,
        nothing, nothing, "scikit-learn",
    )  # fmt: skip


def load(name: str, size: int, folder: str | os.PathLike[str] | None = None) -> ImageData:
    """Open prepared images, memory-mapped.

    Parameters
    ----------
    name : str
        "digits", or the name given to :func:`.prepare.cifar10` or :func:`.prepare.folder`.
    size : int
        Height and width.
    folder : path, optional
        ``images`` beside the ledgers unless given.

    Raises
    ------
    DataError
        If the images have not been prepared, or are not as they were then; the message has the
        command.
    """
    if name == "digits":
        return digits()
    root = Path(folder) if folder is not None else ledger.beside("images")
    about = root / f"{name}-{size}.json"
    try:
        meta = json.loads(about.read_text(encoding="utf-8"))
        parts = {part: _opened(root / f"{name}-{size}-{part}.npy", meta) for part in PARTS}
        return ImageData(
            **{part.replace("-", "_"): torch.from_numpy(array) for part, array in parts.items()},
            classes=meta["classes"],
            mean=torch.tensor(meta["mean"]),
            std=torch.tensor(meta["std"]),
            source=meta["source"],
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        what = "prepare the images again" if about.exists() else "prepare the images first"
        raise DataError(
            f"{about} and its arrays cannot be used ({error}): {what}, with\n{command(name, size)}"
        ) from error


def _opened(path: Path, meta: dict[str, Any]) -> np.ndarray:
    """Memory-mapped array, if the file is the one that was prepared."""
    if checksum(path) != meta["checksums"][path.name]:
        raise ValueError(f"{path.name} is not the file that was prepared")
    # Copied on write: torch wants writable memory, the file stays as it is.
    return np.lib.format.open_memmap(path, "c")


def checksum(path: Path) -> str:
    """Size of a file, and a digest of its first and last :data:`SEEN` bytes."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(SEEN))
        file.seek(max(0, size - SEEN))
        digest.update(file.read(SEEN))
    return f"{size}:{digest.hexdigest()}"


def command(name: str, size: int) -> str:
    """How the images are prepared, for messages."""
    words = f"  python -m sobolev_lib images {name} --size {size}"
    if name == "cifar10":
        return words
    return words + " --source FOLDER\nwhere FOLDER holds train/CLASS/*.jpg and val/CLASS/*.jpg"


def on_device(value: Tensor, device: torch.device) -> Tensor:
    """Value on the device; for a GPU through pinned memory, so that no step waits for the copy."""
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def normalize(x: Tensor, data: ImageData) -> Tensor:
    """Bytes (B, 3, H, W) to floats of mean 0 and spread 1 by channel; vectors as they are."""
    if x.dtype != torch.uint8:
        return x
    mean, std = (v.to(x.device).reshape(1, -1, 1, 1) for v in (data.mean, data.std))
    return (x.float() - mean) / std


def augment(x: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Random flips, and random crops of normalised images x (B, 3, H, W) padded by zeros.

    The generator is on the CPU, so that all devices draw the same.
    """
    count, _, height, width = x.shape
    top = torch.randint(2 * padding + 1, (count,), generator=generator)
    left = torch.randint(2 * padding + 1, (count,), generator=generator)
    flip = torch.randint(2, (count,), generator=generator).bool()
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    rows, columns = on_device(rows, x.device), on_device(columns, x.device)
    padded = torch.nn.functional.pad(x, [padding] * 4)
    each = torch.arange(count, device=x.device)[:, None, None]
    # Advanced indices around the channel slice put channels last: (B, H, W, 3).
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def toy_images(count: int, size: int = 16, seed: int = 0) -> ImageData:
    """Images to try the code on: each class has its own blurred pattern, with noise on top.

    There are ``count`` for training and half as many for the test; their ``size`` is a multiple of
    4.
    """
    classes = 10
    source = torch.Generator().manual_seed(seed)
    coarse = torch.rand(classes, 3, size // 4, size // 4, generator=source)
    patterns = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    total = count + count // 2
    y = torch.randint(classes, (total,), generator=source)
    noise = torch.randn(total, 3, size, size, generator=source)
    x = (255 * (patterns[y] + 0.5 * noise)).clamp(0, 255).to(torch.uint8)
    channels = x[:count].float()
    return ImageData(
        x[:count], y[:count], x[count:], y[count:], classes,
        channels.mean(dim=(0, 2, 3)), channels.std(dim=(0, 2, 3)), "made by code",
    )  # fmt: skip
