"""Image data: digits from scikit-learn, CIFAR-10 from its official archive, folders of images.

Images are prepared once, in parallel, into memory-mapped arrays of bytes at the size that is
trained on: ``NAME-SIZE-train.npy`` (N, 3, SIZE, SIZE) and so on, under :func:`default_folder`.
Nothing here is ever unpickled.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sobolev_lib import ledger

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_HASH = "md5:c32a1d4ab5d03f1284b67883e8d87530"  # as its page gives it
SUFFIXES = (".jpg", ".jpeg", ".png")
DIGITS_TRAIN = 1_200


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


def default_folder() -> Path:
    """Folder of the prepared images: ``images`` beside the ledger's folder."""
    return ledger.default_folder().parent / "images"


def digits() -> ImageData:
    """The 1,797 digits of scikit-learn as vectors (N, 64), standardised; 1,200 for training.

    One fixed split for all seeds.

    Raises
    ------
    DataError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits need scikit-learn: pip install 'sobolev-lib[images]'") from error
    pixels, labels = load_digits(return_X_y=True)
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
        "digits", or the name given to :func:`prepare_cifar10` or :func:`prepare_folder`.
    size : int
        Height and width.
    folder : path, optional
        :func:`default_folder` unless given.

    Raises
    ------
    DataError
        If the images have not been prepared (the message has the command), or are damaged.
    """
    if name == "digits":
        return digits()
    root = Path(folder) if folder is not None else default_folder()
    about = root / f"{name}-{size}.json"
    if not about.exists():
        raise DataError(
            f"{about} is not there: prepare the images first, with\n"
            f"  python -m sobolev_lib images {name} --size {size}"
            + (
                ""
                if name == "cifar10"
                else " --source FOLDER\nwhere FOLDER holds train/CLASS/*.jpg and val/CLASS/*.jpg"
            )
        )
    meta = json.loads(about.read_text())
    parts = {}
    for part in ("train", "test"):
        for kind in ("x", "y"):
            path = root / f"{name}-{size}-{part}-{kind}.npy"
            try:
                # Copied on write: torch wants writable memory, the file stays as it is.
                array = np.load(path, mmap_mode="c", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{path} cannot be read ({error}); delete {about.name} and prepare again"
                ) from error
            parts[f"{part}_{kind}"] = torch.from_numpy(array)
    return ImageData(
        **parts,
        classes=meta["classes"],
        mean=torch.tensor(meta["mean"]),
        std=torch.tensor(meta["std"]),
        source=meta["source"],
    )


def prepare_cifar10(
    size: int = 32,
    archive: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Prepare CIFAR-10 from its official binary archive, downloaded unless it is there.

    Parameters
    ----------
    size : int
        Height and width; 32 keeps every byte.
    archive : path, optional
        ``cifar-10-binary.tar.gz``, put there by hand.
    folder : path, optional
        :func:`default_folder` unless given.

    Returns
    -------
    Path
        The description of the prepared images.

    Raises
    ------
    DataError
        If the archive cannot be had (the message says what to put where) or is damaged.
    """
    root = Path(folder) if folder is not None else default_folder()
    found = Path(archive) if archive is not None else fetch(CIFAR10_URL, CIFAR10_HASH, root)
    sets: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    try:
        with tarfile.open(found) as tar:
            for number in (*range(1, 6), None):
                name = f"data_batch_{number}.bin" if number else "test_batch.bin"
                member = tar.extractfile(f"cifar-10-batches-bin/{name}")
                assert member is not None
                rows = np.frombuffer(member.read(), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
                sets["train" if number else "test"].append(rows)
    except (OSError, tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise DataError(
            f"{found} is not the official binary archive of CIFAR-10 ({error}); "
            f"delete it, and get {CIFAR10_URL} again"
        ) from error
    root.mkdir(parents=True, exist_ok=True)
    for part, pieces in sets.items():
        rows = np.concatenate(pieces)
        images = rows[:, 1:].reshape(-1, 3, 32, 32)
        if size != 32:
            images = np.stack([_resized(_picture(image), size) for image in images])
        _write(root, f"cifar10-{size}-{part}", images, rows[:, 0].astype(np.int64))
    return _describe(root, "cifar10", size, 10, "official binary archive")


def fetch(url: str, known_hash: str, folder: str | os.PathLike[str]) -> Path:
    """Download a file with progress and checksum; an interrupted download goes on where it was.

    Raises
    ------
    DataError
        If it cannot be downloaded; the message says what to put where.
    """
    import pooch
    import requests

    target = Path(folder) / url.rsplit("/", 1)[1]
    try:
        return Path(
            pooch.retrieve(url, known_hash, target.name, target.parent, downloader=_resuming)
        )
    except (requests.RequestException, OSError, ValueError) as error:
        raise DataError(
            f"{url} cannot be downloaded ({error}). Without a connection: get the file elsewhere "
            f"({known_hash}) and put it at {target}"
        ) from error


def _resuming(url: str, output_file: str, _: Any) -> None:
    """Downloader for pooch that keeps what an interrupted download had got."""
    import requests

    part = Path(output_file).parent / (url.rsplit("/", 1)[1] + ".part")
    have = part.stat().st_size if part.exists() else 0
    wanted = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(url, headers=wanted, stream=True, timeout=30) as answer:
        if answer.status_code != 416:  # 416: nothing is missing
            answer.raise_for_status()
            resumed = answer.status_code == 206
            length = int(answer.headers.get("content-length", 0)) + (have if resumed else 0)
            with (
                part.open("ab" if resumed else "wb") as file,
                tqdm(total=length, initial=have * resumed, unit="B", unit_scale=True) as bar,
            ):
                for block in answer.iter_content(1 << 20):
                    bar.update(file.write(block))
    os.replace(part, output_file)


def prepare_folder(
    source: str | os.PathLike[str],
    name: str,
    size: int,
    folder: str | os.PathLike[str] | None = None,
    workers: int | None = None,
) -> Path:
    """Prepare a folder of images in ImageNet's layout, in parallel.

    ``train/CLASS/...`` and ``val/CLASS/...`` (or ``test``), images anywhere below their class; or a
    flat ``val`` whose ``val_annotations.txt`` names file and class, tab between.  Each image is
    resized until its short side is ``size``, and its centre is cut out.

    Parameters
    ----------
    source : path
        The folder.
    name : str
        Name of the data, e.g. "imagenet200".
    size : int
        Height and width.
    folder : path, optional
        Where to write; :func:`default_folder` unless given.
    workers : int, optional
        Processes; one a core unless given.

    Returns
    -------
    Path
        The description of the prepared images.

    Raises
    ------
    DataError
        If the layout is another one, or an image is damaged (it is named).
    """
    root, base = Path(folder) if folder is not None else default_folder(), Path(source)
    held = next((p for p in ("val", "test") if (base / p).is_dir()), None)
    if held is None or not (base / "train").is_dir():
        raise DataError(
            f"{base} needs the folders train/CLASS/ and val/CLASS/ (or test/CLASS/) with images"
        )
    classes = sorted(p.name for p in (base / "train").iterdir() if p.is_dir())
    root.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        for part, place in (("train", "train"), ("test", held)):
            listed = sorted(_listed(base / place, classes))
            if not listed:
                raise DataError(f"{base / place} holds no images ({', '.join(SUFFIXES)})")
            stem = f"{name}-{size}-{part}"
            images = np.lib.format.open_memmap(
                root / f"{stem}-x.npy", "w+", np.uint8, (len(listed), 3, size, size)
            )
            jobs = pool.map(_read, [p for p, _ in listed], [size] * len(listed), chunksize=64)
            for i, image in enumerate(tqdm(jobs, total=len(listed), desc=stem, unit="image")):
                images[i] = image
            images.flush()
            np.save(root / f"{stem}-y.npy", np.array([label for _, label in listed], np.int64))
    return _describe(root, name, size, len(classes), f"folder of images, {size} px")


def _listed(place: Path, classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    number = {name: i for i, name in enumerate(classes)}
    notes = place / "val_annotations.txt"
    if notes.exists():
        for line in notes.read_text().splitlines():
            file, name = line.split("\t")[:2]
            yield place / "images" / file, number[name]
        return
    for name in classes:
        for path in (place / name).rglob("*"):
            if path.suffix.lower() in SUFFIXES:
                yield path, number[name]


def _picture(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image.transpose(1, 2, 0))


def _read(path: Path, size: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return _resized(picture.convert("RGB"), size)
    except OSError as error:
        raise DataError(f"{path} is not an image that can be read ({error})") from error


def _resized(picture: Any, size: int) -> np.ndarray:
    """Bytes (3, size, size): short side to ``size``, then the centre."""
    from PIL import Image

    width, height = picture.size
    if (width, height) != (size, size):
        factor = size / min(width, height)
        width, height = max(size, round(width * factor)), max(size, round(height * factor))
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture, np.uint8).transpose(2, 0, 1)


def _write(root: Path, stem: str, images: np.ndarray, labels: np.ndarray) -> None:
    np.save(root / f"{stem}-x.npy", np.ascontiguousarray(images))
    np.save(root / f"{stem}-y.npy", labels)


def _describe(root: Path, name: str, size: int, classes: int, source: str) -> Path:
    """Write the description last: it says that the arrays are complete."""
    images = np.load(root / f"{name}-{size}-train-x.npy", mmap_mode="r", allow_pickle=False)
    sample = images[:: max(1, len(images) // 10_000)].astype(np.float64)
    path = root / f"{name}-{size}.json"
    path.write_text(
        json.dumps(
            {
                "classes": classes,
                "mean": sample.mean(axis=(0, 2, 3)).round(4).tolist(),
                "std": sample.std(axis=(0, 2, 3)).round(4).tolist(),
                "source": source,
            }
        )
    )
    return path


def normalize(x: Tensor, data: ImageData) -> Tensor:
    """Bytes (B, 3, H, W) to floats of mean 0 and spread 1 by channel; vectors as they are."""
    if x.dtype != torch.uint8:
        return x
    mean, std = (v.to(x.device).reshape(1, -1, 1, 1) for v in (data.mean, data.std))
    return (x.float() - mean) / std


def augment(x: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Random flips, and random crops of the images padded by zeros, on the device of x.

    Parameters
    ----------
    x : Tensor
        Normalised images (B, 3, H, W).
    generator : torch.Generator
        On the CPU, so that all devices draw the same.
    padding : int
        Pixels on each side.

    Returns
    -------
    Tensor
        Images of the same shape.
    """
    count, _, height, width = x.shape
    top = torch.randint(2 * padding + 1, (count,), generator=generator)
    left = torch.randint(2 * padding + 1, (count,), generator=generator)
    flip = torch.randint(2, (count,), generator=generator).bool()
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    rows, columns = rows.to(x.device), columns.to(x.device)
    padded = torch.nn.functional.pad(x, [padding] * 4)
    each = torch.arange(count, device=x.device)[:, None, None]
    # Advanced indices around the channel slice put channels last: (B, H, W, 3).
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def toy_images(count: int = 600, size: int = 16, classes: int = 10, seed: int = 0) -> ImageData:
    """Images to try the code on: each class has its own blurred pattern, with noise on top.

    Parameters
    ----------
    count : int
        Number of training images; half as many for the test.
    size : int
        Height and width, a multiple of 4.
    classes : int
        Number of classes.
    seed : int
        Of patterns and noise.

    Returns
    -------
    ImageData
        As :func:`load` gives it.
    """
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
