"""Image data: digits from scikit-learn, CIFAR-10 from its official archive, folders of images.

Images are prepared once, in parallel, into memory-mapped arrays of bytes at the size that is
trained on: ``NAME-SIZE-train.npy`` (N, 3, SIZE, SIZE) and so on, under :func:`default_folder`.
Nothing here is ever unpickled.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import tarfile
import tempfile
import tokenize
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sobolev_lib.records import ledger

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_HASH = "md5:c32a1d4ab5d03f1284b67883e8d87530"  # as its page gives it
CIFAR10_CLASSES = 10
ALGORITHMS = ("md5", "sha1", "sha256", "sha512")
SUFFIXES = (".jpg", ".jpeg", ".png")
DIGITS_TRAIN = 1_200
# What NumPy raises on .npy files whose header is damaged, found by changing bytes at random.
DAMAGED_HEADER = (OSError, ValueError, TypeError, OverflowError, SyntaxError, tokenize.TokenError)


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
    stem = f"{name}-{size}"
    about = root / f"{stem}.json"
    if not about.exists():
        raise DataError(
            f"{about} is not there: prepare the images first, with\n{_command(name, size)}"
        )
    again = f"prepare the images again, with\n{_command(name, size)}"
    meta = _description(about, again)
    parts = {}
    for part in ("train", "test"):
        images, labels = _pair(root, f"{stem}-{part}", size, meta["classes"], again)
        parts[f"{part}_x"], parts[f"{part}_y"] = torch.from_numpy(images), torch.from_numpy(labels)
    return ImageData(
        **parts,
        classes=meta["classes"],
        mean=torch.tensor(meta["mean"]),
        std=torch.tensor(meta["std"]),
        source=meta["source"],
    )


def _command(name: str, size: int) -> str:
    """How the images are prepared, for messages."""
    command = f"  python -m sobolev_lib images {name} --size {size}"
    if name == "cifar10":
        return command
    return command + " --source FOLDER\nwhere FOLDER holds train/CLASS/*.jpg and val/CLASS/*.jpg"


def _description(about: Path, again: str) -> dict[str, Any]:
    """Read the description of prepared images, and check it."""
    try:
        meta = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{about} cannot be read ({error}); {again}") from error
    if not isinstance(meta, dict):
        raise DataError(f"{about} holds {meta!r:.50}: an object is needed; {again}")
    rules = {
        "classes": ("a whole number of at least 1", lambda v: type(v) is int and v > 0),
        "mean": ("3 numbers from 0 to 255", lambda v: _channels(v, 0)),
        "std": ("3 numbers from 0.0001 to 255", lambda v: _channels(v, 1e-4)),
        "source": ("a text", lambda v: isinstance(v, str)),
    }
    for key, (needed, holds) in rules.items():
        if key not in meta:
            raise DataError(f"{about} has no {key!r}: it must be {needed}; {again}")
        if not holds(meta[key]):
            raise DataError(f"{about} has {key} {meta[key]!r:.50}: it must be {needed}; {again}")
    return meta


def _channels(value: object, least: float) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(v) in (int, float) and least <= v <= 255 for v in value)
    )


def _pair(
    root: Path, stem: str, size: int, classes: int, again: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a set, checked; of the images only the header is read."""
    x, y = root / f"{stem}-x.npy", root / f"{stem}-y.npy"
    images = _opened(x, np.dtype(np.uint8), (3, size, size), again)
    labels = _opened(y, np.dtype(np.int64), (), again)
    if len(labels) != len(images):
        raise DataError(
            f"{y} holds {len(labels)} labels, but {x.name} holds {len(images)} images: one label "
            f"an image is needed; {again}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{y} holds labels from {labels.min()} to {labels.max()}: labels from 0 to "
            f"{classes - 1} are needed, since the description has {classes} classes; {again}"
        )
    return images, labels


def _opened(path: Path, dtype: np.dtype, rest: tuple[int, ...], again: str) -> np.ndarray:
    """Memory-mapped array (N, *rest) with N > 0; only its header is read."""
    try:
        # Copied on write: torch wants writable memory, the file stays as it is.
        array = np.lib.format.open_memmap(path, "c")
    except DAMAGED_HEADER as error:
        raise DataError(f"{path} cannot be read ({error}); {again}") from error
    as_needed = array.ndim == 1 + len(rest) and array.shape[1:] == rest and array.size > 0
    if array.dtype != dtype or not as_needed:
        wanted = "(" + ", ".join(["N", *map(str, rest)]) + ("" if rest else ",") + ")"
        raise DataError(
            f"{path} holds {array.dtype} of shape {array.shape}: {dtype} of shape {wanted} with "
            f"N > 0 is needed; {again}"
        )
    return array


def prepare_cifar10(
    size: int = 32,
    archive: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    *,
    known_hash: str | None = CIFAR10_HASH,
) -> Path:
    """Prepare CIFAR-10 from its official binary archive, downloaded unless it is there.

    Images that were prepared before stay until the new ones are complete.

    Parameters
    ----------
    size : int
        Height and width; 32 keeps every byte.
    archive : path, optional
        ``cifar-10-binary.tar.gz``, put there by hand.
    folder : path, optional
        :func:`default_folder` unless given.
    known_hash : str, optional
        Checksum that ``archive`` must have, "ALGORITHM:DIGEST" (md5, sha1, sha256 or sha512), the
        official one unless given; None takes any archive with the official layout, of any number of
        images.  A download must always have the official one.

    Returns
    -------
    Path
        The description of the prepared images.

    Raises
    ------
    DataError
        If the archive cannot be had (the message says what to put where) or is damaged.
    ValueError
        If ``size`` is below 1, or ``known_hash`` is no checksum.
    """
    _check_size(size)
    root = Path(folder) if folder is not None else default_folder()
    if archive is None:
        found = fetch(CIFAR10_URL, CIFAR10_HASH, root)
    else:
        found = Path(archive)
        _check_archive(found, known_hash)
    sets = _cifar10_rows(found)
    with _replacing(root, f"cifar10-{size}") as fresh:
        for part, rows in sets.items():
            images = rows[:, 1:].reshape(-1, 3, 32, 32)
            if size != 32:
                images = np.stack([_resized(_picture(image), size) for image in images])
            np.save(fresh / f"cifar10-{size}-{part}-x.npy", np.ascontiguousarray(images))
            np.save(fresh / f"cifar10-{size}-{part}-y.npy", rows[:, 0].astype(np.int64))
        _describe(fresh, "cifar10", size, CIFAR10_CLASSES, "official binary archive")
    return root / f"cifar10-{size}.json"


def _check_archive(path: Path, known_hash: str | None) -> None:
    """Raise a DataError unless the archive is there and has the checksum."""
    if not path.is_file():
        raise DataError(
            f"archive is {path}, where no file is: get {CIFAR10_URL} ({CIFAR10_HASH}) and put it "
            "there, or leave archive out, and it is downloaded"
        )
    if known_hash is None:
        return
    algorithm, _, wanted = known_hash.partition(":")
    if algorithm not in ALGORITHMS or not wanted:
        raise ValueError(
            f"known_hash is {known_hash!r}: 'ALGORITHM:DIGEST' is needed, as in {CIFAR10_HASH!r}, "
            f"with an algorithm of {', '.join(ALGORITHMS)}"
        )
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise DataError(f"archive is {path}, which cannot be read ({error})") from error
    if digest != wanted.lower():
        raise _not_official(path, f"its checksum is {algorithm}:{digest}, not {known_hash}")


def _not_official(path: Path, why: object) -> DataError:
    return DataError(
        f"{path} is not the official binary archive of CIFAR-10 ({why}); "
        f"delete it, and get {CIFAR10_URL} again"
    )


def _cifar10_rows(archive: Path) -> dict[str, np.ndarray]:
    """Rows of bytes by set: a label, then 3 x 32 x 32 of an image."""
    batches = {"train": [f"data_batch_{k}.bin" for k in range(1, 6)], "test": ["test_batch.bin"]}
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            sets = {
                part: np.concatenate([_cifar10_batch(tar, name) for name in names])
                for part, names in batches.items()
            }
            while stream.read(1 << 20):  # at the end gzip compares its own checksum
                pass
    except (OSError, tarfile.TarError, zlib.error, KeyError, ValueError, EOFError) as error:
        raise _not_official(archive, error) from error
    return sets


def _cifar10_batch(tar: tarfile.TarFile, name: str) -> np.ndarray:
    member = tar.extractfile(f"cifar-10-batches-bin/{name}")
    if member is None:
        raise ValueError(f"{name} is no file")
    content, width = member.read(), 1 + 3 * 32 * 32
    if not content or len(content) % width:
        raise ValueError(f"{name} has {len(content)} bytes: {width} an image are needed")
    rows = np.frombuffer(content, np.uint8).reshape(-1, width)
    if rows[:, 0].max() >= CIFAR10_CLASSES:
        raise ValueError(f"{name} has label {rows[:, 0].max()}: 0 to 9 are needed")
    return rows


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
    resized until its short side is ``size``, and its centre is cut out.  Images that were prepared
    before stay until the new ones are complete.

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
        If the layout is another one, a class is not among those of ``train``, or an image is
        damaged (it is named).
    ValueError
        If ``size`` is below 1.
    """
    _check_size(size)
    root, base = Path(folder) if folder is not None else default_folder(), Path(source)
    held = next((p for p in ("val", "test") if (base / p).is_dir()), None)
    if held is None or not (base / "train").is_dir():
        raise DataError(
            f"{base} needs the folders train/CLASS/ and val/CLASS/ (or test/CLASS/) with images"
        )
    classes = sorted(p.name for p in (base / "train").iterdir() if p.is_dir())
    listed = {}
    for part, place in (("train", base / "train"), ("test", base / held)):
        listed[part] = sorted(_listed(place, classes))
        if not listed[part]:
            raise DataError(f"{place} holds no images ({', '.join(SUFFIXES)})")
    with _replacing(root, f"{name}-{size}") as fresh:
        with ProcessPoolExecutor(workers) as pool:
            for part, images in listed.items():
                _write(fresh, f"{name}-{size}-{part}", images, size, pool)
        _describe(fresh, name, size, len(classes), f"folder of images, {size} px")
    return root / f"{name}-{size}.json"


def _listed(place: Path, classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    number = {name: i for i, name in enumerate(classes)}
    notes = place / "val_annotations.txt"
    if notes.exists():
        yield from _annotated(notes, number)
        return
    for home in sorted(p for p in place.iterdir() if p.is_dir()):
        for path in home.rglob("*"):
            if path.suffix.lower() in SUFFIXES:
                if home.name not in number:
                    raise DataError(
                        f"{home} holds images of a class that train has not: "
                        f"{_known(classes)} (a flat {place.name} needs {notes.name})"
                    )
                yield path, number[home.name]


def _annotated(notes: Path, number: dict[str, int]) -> Iterator[tuple[Path, int]]:
    """Images and labels by the lines of ``val_annotations.txt``; blank lines say nothing."""
    try:
        lines = notes.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{notes} cannot be read as text ({error})") from error
    for count, line in enumerate(lines, 1):
        if not line.strip():
            continue
        file, *others = line.split("\t")
        if not file or not others:
            raise DataError(
                f"line {count} of {notes} is {line!r:.80}: a file and its class, tab between, are "
                "needed"
            )
        if others[0] not in number:
            raise DataError(
                f"line {count} of {notes} has class {others[0]!r:.80}, which train has not: "
                f"{_known(list(number))}"
            )
        yield notes.parent / "images" / file, number[others[0]]


def _known(classes: Sequence[str]) -> str:
    """Name the classes of train, for messages."""
    more = f", ... ({len(classes)} in all)" if len(classes) > 5 else ""
    return f"its classes are {', '.join(classes[:5])}{more}"


def _picture(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image.transpose(1, 2, 0))


def _read(path: Path, size: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = picture.convert("RGB")
    # What Pillow's decoders raise on damaged files.
    except (
        OSError,
        EOFError,
        SyntaxError,
        ValueError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(
            f"{path} is not an image that can be read ({error}); mend it or take it away"
        ) from error
    return _resized(pixels, size)


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


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size is {size}: it must be at least 1")


@contextmanager
def _replacing(root: Path, stem: str) -> Iterator[Path]:
    """Folder to write in; once all is written, its files replace those of ``stem`` in ``root``.

    Whoever has the old files mapped keeps them.  An error leaves the old files as they were.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(".part", f"{stem}-", root) as made:
        fresh = Path(made)
        yield fresh
        about = fresh / f"{stem}.json"
        arrays = [path for path in fresh.iterdir() if path != about]
        # No description is there while arrays of two preparations are side by side.
        (root / about.name).unlink(missing_ok=True)
        for path in (*arrays, about):
            os.replace(path, root / path.name)


def _write(
    root: Path,
    stem: str,
    listed: Sequence[tuple[Path, int]],
    size: int,
    pool: ProcessPoolExecutor,
) -> None:
    """Write the arrays of a set of images, read by the pool."""
    images = np.lib.format.open_memmap(
        root / f"{stem}-x.npy", "w+", np.uint8, (len(listed), 3, size, size)
    )
    jobs = pool.map(_read, [p for p, _ in listed], [size] * len(listed), chunksize=64)
    for i, image in enumerate(tqdm(jobs, total=len(listed), desc=stem, unit="image")):
        images[i] = image
    images.flush()
    np.save(root / f"{stem}-y.npy", np.array([label for _, label in listed], np.int64))


def _describe(root: Path, name: str, size: int, classes: int, source: str) -> None:
    """Write the description of the arrays."""
    images = np.load(root / f"{name}-{size}-train-x.npy", mmap_mode="r", allow_pickle=False)
    sample = images[:: max(1, len(images) // 10_000)].astype(np.float64)
    std = sample.std(axis=(0, 2, 3)).round(4).tolist()
    if min(std) == 0:
        raise DataError(
            f"the training images of {name} have standard deviations {std} by channel: each must "
            "be above 0"
        )
    (root / f"{name}-{size}.json").write_text(
        json.dumps(
            {
                "classes": classes,
                "mean": sample.mean(axis=(0, 2, 3)).round(4).tolist(),
                "std": std,
                "source": source,
            }
        )
    )


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
    rows, columns = on_device(rows, x.device), on_device(columns, x.device)
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
