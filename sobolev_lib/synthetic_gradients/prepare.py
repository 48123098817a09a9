"""Prepare images once, in parallel: CIFAR-10 from its official archive, folders of images.

What is written, :func:`.data.load` opens.  Downloads are checked by their hash and go on where they
were interrupted.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from sobolev_lib.checks import check_count
from sobolev_lib.records import ledger
from sobolev_lib.synthetic_gradients.data import PARTS, DataError, checksum

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_HASH = "md5:c32a1d4ab5d03f1284b67883e8d87530"  # as its page gives it
SUFFIXES = (".jpg", ".jpeg", ".png")
DAMAGED = (OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error)
"""What Pillow's decoders raise on damaged files."""


def cifar10(
    size: int = 32,
    archive: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    *,
    known_hash: str = CIFAR10_HASH,
) -> Path:
    """Prepare CIFAR-10 from its official binary archive, downloaded unless it is there.

    Images that were prepared before stay until the new ones are complete.  Returned is the path of
    their description, here and below.

    Parameters
    ----------
    size : int
        Height and width; 32 keeps every byte.
    archive : path, optional
        ``cifar-10-binary.tar.gz``, put there by hand.
    folder : path, optional
        ``images`` beside the ledgers unless given.
    known_hash : str
        Checksum that the archive must have, "ALGORITHM:DIGEST"; the official one unless given.

    Raises
    ------
    DataError
        If the archive cannot be had (the message says what to put where) or is another one.
    ValueError
        If ``size`` is below 1.
    """
    check_count("size", size, 1)
    root = Path(folder) if folder is not None else ledger.beside("images")
    found = fetch(CIFAR10_URL, known_hash, root) if archive is None else Path(archive)
    _check_archive(found, known_hash)
    with _replacing(root, f"cifar10-{size}") as fresh:
        for part, rows in _rows(found).items():
            images = rows[:, 1:].reshape(-1, 3, 32, 32)
            if size != 32:
                images = np.stack([_resized(_picture(image), size) for image in images])
            np.save(fresh / f"cifar10-{size}-{part}-x.npy", np.ascontiguousarray(images))
            np.save(fresh / f"cifar10-{size}-{part}-y.npy", rows[:, 0].astype(np.int64))
        _describe(fresh, "cifar10", size, 10, "official binary archive")
    return root / f"cifar10-{size}.json"


def _check_archive(path: Path, known_hash: str) -> None:
    """Raise a DataError unless the archive is there and has the checksum."""
    algorithm, _, wanted = known_hash.partition(":")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise DataError(
            f"archive is {path}, which cannot be read ({error}): get {CIFAR10_URL} ({known_hash}) "
            "and put it there, or leave archive out, and it is downloaded"
        ) from error
    if digest != wanted.lower():
        raise DataError(
            f"{path} is not the archive that is needed: its checksum is {algorithm}:{digest}, not "
            f"{known_hash}; delete it, and get {CIFAR10_URL} again"
        )


def _rows(archive: Path) -> dict[str, np.ndarray]:
    """Rows of bytes by set: a label, then 3 x 32 x 32 of an image."""
    batches = {"train": [f"data_batch_{k}.bin" for k in range(1, 6)], "test": ["test_batch.bin"]}
    found = {}
    with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for part, names in batches.items():
            members = [tar.extractfile(f"cifar-10-batches-bin/{name}") for name in names]
            content = b"".join(member.read() for member in members if member)
            found[part] = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return found


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


def folder(
    source: str | os.PathLike[str],
    name: str,
    size: int,
    target: str | os.PathLike[str] | None = None,
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
    target : path, optional
        Folder to write in; ``images`` beside the ledgers unless given.
    workers : int, optional
        Processes; one a core unless given.

    Raises
    ------
    DataError
        If the layout is another one, a class is not among those of ``train``, or an image is
        damaged (it is named).
    ValueError
        If ``size`` is below 1.
    """
    check_count("size", size, 1)
    root, base = Path(target) if target is not None else ledger.beside("images"), Path(source)
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
    """Images of a set with their labels, from its folders or its annotations."""
    notes = place / "val_annotations.txt"
    if notes.exists():
        lines = notes.read_text(encoding="utf-8").splitlines()
        found = [
            (notes.parent / "images" / file, name, f"{notes}, line {count}: {line!r:.80}")
            for count, line in enumerate(lines, 1)
            if line.strip()
            for file, name, *_ in [[*line.split("\t"), "", ""]]
        ]
    else:
        found = [
            (path, home.name, str(path))
            for home in sorted(p for p in place.iterdir() if p.is_dir())
            for path in home.rglob("*")
            if path.suffix.lower() in SUFFIXES
        ]
    number = {name: i for i, name in enumerate(classes)}
    for path, name, where in found:
        if name not in number:
            shown = ", ".join(classes[:5]) + (f", ... ({len(classes)})" if len(classes) > 5 else "")
            raise DataError(
                f"{where}: the class {name!r} is not among those of train, {shown} (a flat "
                f"{place.name} needs {notes.name}: a file and its class a line, tab between)"
            )
        yield path, number[name]


def _picture(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image.transpose(1, 2, 0))


def _read(path: Path, size: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = picture.convert("RGB")
    except (*DAMAGED, Image.DecompressionBombError) as error:
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
    root: Path, stem: str, listed: Sequence[tuple[Path, int]], size: int, pool: ProcessPoolExecutor
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
    stem = f"{name}-{size}"
    files = [root / f"{stem}-{part}.npy" for part in PARTS]
    about = {
        "classes": classes,
        "mean": sample.mean(axis=(0, 2, 3)).round(4).tolist(),
        "std": std,
        "source": source,
        "checksums": {path.name: checksum(path) for path in files},
    }
    (root / f"{stem}.json").write_text(json.dumps(about))
