"""Images: prepared from archives and folders, loaded, augmented; what is damaged is named."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import itertools
import json
import os
import struct
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sobolev_lib import __main__ as command
from sobolev_lib.synthetic_gradients import data as images

BATCHES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]


def folder_of_images(root, part="val", flat=False):
    """Two classes, plain colours, other sizes than wanted."""
    source = np.random.default_rng(0)
    for place, count in (("train", 3), (part, 2)):
        lines = []
        for k, name in enumerate(("cat", "dog")):
            for i in range(count):
                pixels = source.integers(100, 120, (20, 24 + 4 * i, 3), dtype=np.uint8)
                pixels[..., k] += 100
                file = f"{name}{i}.png"
                held = flat and place == part
                home = root / place / ("images" if held else name)
                home.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(home / file)
                lines.append(f"{file}\t{name}\t0\t0\t63\t63\n")
        if flat and place == part:
            (root / place / "val_annotations.txt").write_text("".join(lines))
    return root


@pytest.mark.parametrize(("part", "flat"), [("val", False), ("test", False), ("val", True)])
def test_folders_are_prepared(tmp_path, part, flat):
    source = folder_of_images(tmp_path / "source", part, flat)
    images.prepare_folder(source, "pets", 10, tmp_path / "out", workers=1)
    data = images.load("pets", 10, tmp_path / "out")
    assert data.train_x.shape == (6, 3, 10, 10) and data.train_x.dtype == torch.uint8
    assert data.train_y.tolist() == [0, 0, 0, 1, 1, 1] and data.test_y.tolist() == [0, 0, 1, 1]
    assert data.classes == 2
    bright = data.train_x.float().mean(dim=(2, 3)).argmax(dim=1)
    assert bright.tolist() == data.train_y.tolist()
    x = images.normalize(data.train_x, data)
    assert x.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert (x.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-3


def test_folder_errors(tmp_path):
    with pytest.raises(images.DataError, match="train/CLASS/"):
        images.prepare_folder(tmp_path, "pets", 8, tmp_path)
    (tmp_path / "source/train/cat").mkdir(parents=True)
    (tmp_path / "source/val/cat").mkdir(parents=True)
    with pytest.raises(images.DataError, match="holds no images"):
        images.prepare_folder(tmp_path / "source", "pets", 8, tmp_path / "out", 1)
    (tmp_path / "source/train/cat/a.jpg").write_bytes(b"not a picture")
    (tmp_path / "source/val/cat/b.jpg").write_bytes(b"not a picture")
    with pytest.raises(images.DataError, match=r"a\.jpg is not an image"):
        images.prepare_folder(tmp_path / "source", "pets", 8, tmp_path / "out", 1)


def test_missing_and_damaged_arrays(tmp_path):
    with pytest.raises(images.DataError, match="sobolev_lib images imagenet --size 64 --source"):
        images.load("imagenet", 64, tmp_path)
    with pytest.raises(images.DataError, match=r"sobolev_lib images cifar10 --size 32$"):
        images.load("cifar10", 32, tmp_path)
    source = folder_of_images(tmp_path / "source")
    images.prepare_folder(source, "pets", 8, tmp_path, 1)
    (tmp_path / "pets-8-test-x.npy").write_bytes(b"short")
    with pytest.raises(images.DataError, match="cannot be read"):
        images.load("pets", 8, tmp_path)


def cifar_archive(path, rows: int = 3, **blocks):
    """A small archive with the official layout; ``blocks`` take the place of some files."""
    source, kept = np.random.default_rng(1), {}
    with tarfile.open(path, "w:gz") as tar:
        for name in BATCHES:
            block = source.integers(0, 256, (rows, 3073), dtype=np.uint8)
            block[:, 0] %= 10
            kept[name] = block = blocks.get(name, block)
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = block.nbytes
            tar.addfile(info, io.BytesIO(block.tobytes()))
    return kept


def test_the_official_archive_keeps_every_byte(tmp_path):
    kept = cifar_archive(tmp_path / "cifar.tar.gz")
    images.prepare_cifar10(32, tmp_path / "cifar.tar.gz", tmp_path, known_hash=None)
    data = images.load("cifar10", 32, tmp_path)
    assert data.train_x.shape == (15, 3, 32, 32) and data.classes == 10
    block = kept["data_batch_2"]
    np.testing.assert_array_equal(data.train_x[3:6].reshape(3, -1).numpy(), block[:, 1:])
    np.testing.assert_array_equal(data.test_y.numpy(), kept["test_batch"][:, 0])
    images.prepare_cifar10(16, tmp_path / "cifar.tar.gz", tmp_path, known_hash=None)
    small = images.load("cifar10", 16, tmp_path)
    assert small.test_x.shape == (3, 3, 16, 16)
    gap = small.test_x.float().mean() - data.test_x.float().mean()
    assert abs(gap) < 3


def test_damaged_archive(tmp_path):
    (tmp_path / "cifar.tar.gz").write_bytes(b"no archive")
    with pytest.raises(images.DataError, match="not the official binary archive"):
        images.prepare_cifar10(32, tmp_path / "cifar.tar.gz", tmp_path)


class _Ranges(http.server.BaseHTTPRequestHandler):
    content = bytes(range(256)) * 8_000
    asked: list[str | None] = []  # noqa: RUF012

    def do_GET(self):
        start = 0
        wanted = self.headers.get("Range")
        type(self).asked.append(wanted)
        if wanted:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    _Ranges.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Ranges) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/file.bin"
        running.shutdown()


def test_download_is_checked_and_goes_on_where_it_was(server, tmp_path):
    known = "md5:" + hashlib.md5(_Ranges.content).hexdigest()
    (tmp_path / "file.bin.part").write_bytes(_Ranges.content[:1234])
    path = images.fetch(server, known, tmp_path)
    assert path.read_bytes() == _Ranges.content
    assert _Ranges.asked == ["bytes=1234-"] and not (tmp_path / "file.bin.part").exists()
    assert images.fetch(server, known, tmp_path) == path and len(_Ranges.asked) == 1
    with pytest.raises(images.DataError, match="hash"):
        images.fetch(server, "md5:" + "0" * 32, tmp_path / "other")


def test_offline_says_what_to_put_where(tmp_path):
    with pytest.raises(images.DataError, match=r"put it at .*file\.bin"):
        images.fetch("http://127.0.0.1:9/file.bin", "md5:" + "0" * 32, tmp_path)


def test_augmented_images_are_crops_and_flips():
    x = torch.randn(64, 3, 8, 8)
    out = images.augment(x, torch.Generator().manual_seed(0), 2)
    assert out.shape == x.shape
    padded = nn.functional.pad(x, [2] * 4)
    seen = set()
    for i in range(64):
        found = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if torch.equal(
                out[i],
                (lambda crop, flip: crop.flip(2) if flip else crop)(
                    padded[i, :, top : top + 8, left : left + 8], flip
                ),
            )
        ]
        assert len(found) == 1
        seen.update(found)
    assert {f for *_, f in seen} == {False, True} and len(seen) > 30


def test_digits_need_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(images.DataError, match="pip install"):
        images.digits()


def test_command_line_prepares_images(tmp_path, capsys, monkeypatch):
    cifar_archive(tmp_path / "a.tar.gz")
    monkeypatch.setenv("SOBOLEV_DATA", str(tmp_path))
    words = ["images", "cifar10", "--archive", str(tmp_path / "a.tar.gz")]
    assert command.main(words) == 2
    assert "not the official binary archive" in capsys.readouterr().err
    monkeypatch.setattr(
        images, "prepare_cifar10", functools.partial(images.prepare_cifar10, known_hash=None)
    )
    assert command.main(words) == 0
    assert images.load("cifar10", 32).train_x.shape[0] == 15
    assert command.main(["images", "imagenette"]) == 2
    assert "--source is needed" in capsys.readouterr().err
    assert command.main(["synthetic_gradients", "--arm", "imagenette_1", "--quiet"]) == 2
    assert "prepare the images first" in capsys.readouterr().err


# What `load` takes.


def prepared(folder, size: int = 4):
    """Prepared images of two classes: five for training, three for the test."""
    source = np.random.default_rng(2)
    for part, count in (("train", 5), ("test", 3)):
        x = source.integers(0, 256, (count, 3, size, size), dtype=np.uint8)
        np.save(folder / f"pets-{size}-{part}-x.npy", x)
        np.save(folder / f"pets-{size}-{part}-y.npy", np.arange(count) % 2)
    write_about(folder / f"pets-{size}.json")
    return folder


def write_about(path, **changes):
    about = {"classes": 2, "mean": [120.0] * 3, "std": [60.0] * 3, "source": "a test", **changes}
    path.write_text(json.dumps({k: v for k, v in about.items() if v is not None}))


def test_prepared_images_are_loaded(tmp_path):
    data = images.load("pets", 4, prepared(tmp_path))
    assert data.train_x.shape == (5, 3, 4, 4) and data.test_y.tolist() == [0, 1, 0]
    assert (data.classes, data.source) == (2, "a test")


def test_loading_reads_no_images(tmp_path):
    prepared(tmp_path, 64)
    count = 20_000  # of 12 KiB
    path = tmp_path / "pets-64-train-x.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (count, 3, 64, 64))  # sparse on the disk
    np.save(tmp_path / "pets-64-train-y.npy", np.zeros(count, np.int64))
    tracemalloc.start()
    try:
        data = images.load("pets", 64, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert data.train_x.shape == (count, 3, 64, 64) and peak < 10e6
    before = path.stat().st_mtime_ns
    data.train_x[0] = 7  # writable for torch, the file stays as it is
    assert path.stat().st_mtime_ns == before and not np.load(path, mmap_mode="r")[0].any()


WRONG_ARRAYS = [
    ("train-x", np.zeros((5, 3, 4, 4), np.float32), "holds float32 of shape"),
    ("test-x", np.zeros((3, 3, 4, 4), np.int8), "holds int8 of shape"),
    ("train-x", np.zeros((5, 3, 8, 8), np.uint8), r"\(5, 3, 8, 8\): uint8 of shape \(N, 3, 4, 4\)"),
    ("train-x", np.zeros((5, 4, 4, 3), np.uint8), r"\(5, 4, 4, 3\)"),
    ("train-x", np.zeros((5, 48), np.uint8), r"\(5, 48\)"),
    ("train-x", np.zeros((), np.uint8), r"\(\)"),
    ("train-x", np.zeros((4, 3, 4, 4), np.uint8), "5 labels, but pets-4-train-x.npy holds 4"),
    ("test-x", np.zeros((0, 3, 4, 4), np.uint8), r"N > 0|empty"),
    ("train-y", np.zeros(5, np.int32), r"holds int32 of shape \(5,\): int64 of shape \(N,\)"),
    ("train-y", np.zeros(5, ">i8"), "holds >i8"),
    ("train-y", np.zeros((), np.int64), r"\(\)"),
    ("train-y", np.zeros((5, 1), np.int64), r"\(5, 1\)"),
    ("test-y", np.zeros(4, np.int64), "4 labels, but pets-4-test-x.npy holds 3"),
    ("test-y", np.zeros(0, np.int64), r"N > 0|empty"),
    ("train-y", np.array([0, 1, 2, 1, 0]), "labels from 0 to 2: labels from 0 to 1 are needed"),
    ("test-y", np.array([0, -1, 1]), "labels from -1 to 1"),
]


@pytest.mark.parametrize(("part", "array", "says"), WRONG_ARRAYS)
def test_wrong_arrays_are_named(tmp_path, part, array, says):
    path = prepared(tmp_path) / f"pets-4-{part}.npy"
    np.save(path, array)
    with pytest.raises(images.DataError, match=says) as caught:
        images.load("pets", 4, tmp_path)
    assert str(path.parent) in str(caught.value) and path.name in str(caught.value)
    assert "sobolev_lib images pets --size 4 --source" in str(caught.value)


@pytest.mark.parametrize("part", ["train-x", "train-y", "test-x", "test-y"])
@pytest.mark.parametrize("kept", [0, 3, 60, 140])
def test_truncated_arrays_are_named(tmp_path, part, kept):
    path = prepared(tmp_path) / f"pets-4-{part}.npy"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(images.DataError, match=rf"pets-4-{part}\.npy cannot be read"):
        images.load("pets", 4, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"(5, 3, 4, 4)", b"(5, 3, 4, 4 "),  # TokenError
        (b"'|u1'", b"'|01'"),  # SyntaxError
        (b"'shape'", b"b'shap'"),  # TypeError
        (b"(5, 3, 4, 4)", b"(-5, 3, 4,4)"),  # OverflowError or ValueError
        (b"NUMPY", b"PK\x03\x04Y"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # NumPy warns of headers that Python 2 may have written
def test_damaged_headers_are_named(tmp_path, old, new):
    path = prepared(tmp_path) / "pets-4-train-x.npy"
    content = path.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    path.write_bytes(content.replace(old, new))
    with pytest.raises(images.DataError, match=r"pets-4-train-x\.npy"):
        images.load("pets", 4, tmp_path)


def test_pickles_are_not_opened(tmp_path):
    path = prepared(tmp_path) / "pets-4-train-y.npy"
    np.save(path, np.array([0, 1, 0, 1, None], object))
    with pytest.raises(images.DataError, match=r"train-y\.npy cannot be read"):
        images.load("pets", 4, tmp_path)


WRONG_DESCRIPTIONS = [
    ({"classes": None}, "has no 'classes'"),
    ({"mean": None}, "has no 'mean': it must be 3 numbers"),
    ({"std": None}, "has no 'std'"),
    ({"source": None}, "has no 'source'"),
    ({"classes": 0}, "has classes 0: it must be a whole number of at least 1"),
    ({"classes": 2.0}, r"has classes 2\.0"),
    ({"classes": True}, "has classes True"),
    ({"classes": "2"}, "has classes '2'"),
    ({"mean": [120.0, 120.0]}, "has mean .*: it must be 3 numbers from 0 to 255"),
    ({"mean": [120.0, 120.0, float("nan")]}, "has mean .*nan"),
    ({"mean": 120.0}, r"has mean 120\.0"),
    ({"std": [60.0, 0.0, 60.0]}, "has std .*: it must be 3 numbers from 0.0001"),
    ({"std": [60.0, "60", 60.0]}, "has std"),
    ({"std": [60.0, float("inf"), 60.0]}, "has std .*inf"),
    ({"source": 7}, "has source 7"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG_DESCRIPTIONS)
def test_wrong_descriptions_are_named(tmp_path, changes, says):
    write_about(prepared(tmp_path) / "pets-4.json", **changes)
    with pytest.raises(images.DataError, match=says) as caught:
        images.load("pets", 4, tmp_path)
    assert str(tmp_path / "pets-4.json") in str(caught.value)
    assert "sobolev_lib images pets --size 4 --source" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b'{"classes": 2', b"[1]", b"\xff\xfe{", b"null"])
def test_damaged_descriptions_are_named(tmp_path, content):
    (prepared(tmp_path) / "pets-4.json").write_bytes(content)
    with pytest.raises(images.DataError, match=r"pets-4\.json (cannot be read|holds)"):
        images.load("pets", 4, tmp_path)


def test_training_on_damaged_images_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SOBOLEV_DATA", str(tmp_path))
    cifar_archive(tmp_path / "a.tar.gz")
    images.prepare_cifar10(16, tmp_path / "a.tar.gz", known_hash=None)
    path = tmp_path / "images/cifar10-16-train-x.npy"
    np.save(path, np.load(path).astype(np.float32))
    assert command.main(["synthetic_gradients", "--arm", "cifar10_reduced", "--quiet"]) == 2
    assert f"{path} holds float32" in capsys.readouterr().err


# The archive of CIFAR-10.


def labelled_block(labels):
    """Rows whose pixels tell their label: channel c of class k is 20 k + c."""
    block = np.empty((len(labels), 3073), np.uint8)
    block[:, 0] = labels
    for c in range(3):
        block[:, 1 + 1024 * c : 1025 + 1024 * c] = 20 * block[:, :1] + c
    return block


@pytest.mark.parametrize("size", [32, 8])
def test_labels_belong_to_their_images(tmp_path, size):
    source = np.random.default_rng(3)
    blocks = {name: labelled_block(source.integers(0, 10, 7)) for name in BATCHES}
    cifar_archive(tmp_path / "a.tar.gz", **blocks)
    images.prepare_cifar10(size, tmp_path / "a.tar.gz", tmp_path, known_hash=None)
    data = images.load("cifar10", size, tmp_path)
    for x, y, count in ((data.train_x, data.train_y, 35), (data.test_x, data.test_y, 7)):
        assert x.shape == (count, 3, size, size) and y.unique().numel() > 2
        wanted = (20 * y[:, None] + torch.arange(3))[:, :, None, None].expand_as(x)
        assert torch.equal(x.long(), wanted)
    assert data.train_y.tolist() == [k for n in BATCHES[:5] for k in blocks[n][:, 0]]


def test_an_archive_put_there_by_hand_is_compared_with_its_checksum(tmp_path):
    path = tmp_path / "a.tar.gz"
    cifar_archive(path)
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(images.DataError) as caught:
        images.prepare_cifar10(32, path, tmp_path)
    for said in (str(path), digest, images.CIFAR10_HASH, images.CIFAR10_URL):
        assert said in str(caught.value)
    assert not list(tmp_path.glob("cifar10-*"))
    images.prepare_cifar10(32, path, tmp_path, known_hash=f"md5:{digest.upper()}")
    with pytest.raises(images.DataError, match="not sha256:00"):
        images.prepare_cifar10(32, path, tmp_path, known_hash="sha256:" + "0" * 64)


@pytest.mark.parametrize("known_hash", ["", "md5", "md5:", "crc:12", "shake_128:12", "0" * 32])
def test_a_checksum_needs_its_algorithm(tmp_path, known_hash):
    cifar_archive(tmp_path / "a.tar.gz")
    with pytest.raises(ValueError, match=r"known_hash is .*ALGORITHM:DIGEST"):
        images.prepare_cifar10(32, tmp_path / "a.tar.gz", tmp_path, known_hash=known_hash)


def test_an_absent_archive_has_its_own_message(tmp_path):
    with pytest.raises(images.DataError, match="where no file is: get https") as caught:
        images.prepare_cifar10(32, tmp_path / "absent.tar.gz", tmp_path)
    assert str(tmp_path / "absent.tar.gz") in str(caught.value)
    assert "not the official" not in str(caught.value)
    with pytest.raises(images.DataError, match="where no file is"):
        images.prepare_cifar10(32, tmp_path, tmp_path, known_hash=None)


@pytest.mark.parametrize("at", [0, 200, 0.3, 0.6, 0.9, -8, -4])
def test_changed_bytes_of_an_archive_are_found_without_a_checksum(tmp_path, at):
    """Deflate's own errors, tar's, and the checksum at the end of a gzip file."""
    path = tmp_path / "a.tar.gz"
    cifar_archive(path, 20)
    content = bytearray(path.read_bytes())
    first = int(at * len(content)) if isinstance(at, float) else at % len(content)
    for i in range(first, min(first + 4, len(content))):
        content[i] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(images.DataError, match="not the official binary archive"):
        images.prepare_cifar10(32, path, tmp_path, known_hash=None)
    assert not list(tmp_path.glob("cifar10-*"))


def test_any_damage_to_a_compressed_archive_is_found(tmp_path):
    """Pixels that compress, so that a damaged code ends zlib's decoding."""
    path, source = tmp_path / "a.tar.gz", np.random.default_rng(4)
    pixels = source.integers(0, 10, (len(BATCHES), 20, 3073), dtype=np.uint8)
    cifar_archive(path, **dict(zip(BATCHES, pixels, strict=True)))
    content, causes = path.read_bytes(), set()
    for first in source.integers(200, len(content) - 200, 40):
        path.write_bytes(content[:first] + source.bytes(100) + content[first + 100 :])
        with pytest.raises(images.DataError, match="not the official") as caught:
            images.prepare_cifar10(32, path, tmp_path, known_hash=None)
        causes.add(type(caught.value.__cause__))
    assert zlib.error in causes


@pytest.mark.parametrize("part", [0.0, 0.2, 0.99])
def test_truncated_archives_are_found_without_a_checksum(tmp_path, part):
    path = tmp_path / "a.tar.gz"
    cifar_archive(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(images.DataError, match="not the official binary archive"):
        images.prepare_cifar10(32, path, tmp_path, known_hash=None)


@pytest.mark.parametrize(
    ("block", "says"),
    [
        (np.full((2, 3073), 77, np.uint8), "data_batch_3.bin has label 77: 0 to 9"),
        (np.zeros((2, 3000), np.uint8), "data_batch_3.bin has 6000 bytes: 3073 an image"),
        (np.zeros((0, 3073), np.uint8), "data_batch_3.bin has 0 bytes"),
    ],
)
def test_rows_of_an_archive_are_checked(tmp_path, block, says):
    cifar_archive(tmp_path / "a.tar.gz", data_batch_3=block)
    with pytest.raises(images.DataError, match=says):
        images.prepare_cifar10(32, tmp_path / "a.tar.gz", tmp_path, known_hash=None)


def test_a_folder_in_the_place_of_a_batch(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    with pytest.raises(images.DataError, match=r"data_batch_1\.bin is no file"):
        images.prepare_cifar10(32, tmp_path / "a.tar.gz", tmp_path, known_hash=None)


def test_a_download_with_another_checksum_is_refused(server, tmp_path, monkeypatch):
    with pytest.raises(images.DataError, match="hash") as caught:
        images.fetch(server, "md5:" + "0" * 32, tmp_path)
    assert str(tmp_path / "file.bin") in str(caught.value)
    assert not list(tmp_path.iterdir())  # nothing that the next try could take for the file
    # The same holds for what is there already, and for the download of CIFAR-10.
    (tmp_path / "file.bin").write_bytes(b"something else")
    with pytest.raises(images.DataError, match="hash"):
        images.fetch(server, "md5:" + "0" * 32, tmp_path)
    monkeypatch.setattr(images, "CIFAR10_URL", server)
    with pytest.raises(images.DataError, match="c32a1d4ab5d03f1284b67883e8d87530"):
        images.prepare_cifar10(32, folder=tmp_path, known_hash=None)


@pytest.mark.parametrize("size", [0, -3])
def test_sizes_are_checked(tmp_path, size):
    with pytest.raises(ValueError, match=f"size is {size}"):
        images.prepare_cifar10(size, tmp_path / "a.tar.gz", tmp_path)
    with pytest.raises(ValueError, match=f"size is {size}"):
        images.prepare_folder(tmp_path, "pets", size, tmp_path)


# Preparing again.


def everything(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_preparing_again_keeps_the_old_images_until_the_new_are_complete(tmp_path):
    source, out = folder_of_images(tmp_path / "source"), tmp_path / "out"
    images.prepare_folder(source, "pets", 8, out, 1)
    old, mapped = everything(out), images.load("pets", 8, out)
    pixels = mapped.train_x.clone()
    damaged = source / "train/dog/dog2.png"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:100])
    with pytest.raises(images.DataError, match=r"dog2\.png is not an image"):
        images.prepare_folder(source, "pets", 8, out, 1)
    assert everything(out) == old
    damaged.unlink()
    images.prepare_folder(source, "pets", 8, out, 1)
    assert images.load("pets", 8, out).train_x.shape[0] == 5 and len(everything(out)) == 5
    assert torch.equal(mapped.train_x, pixels)  # who has them open keeps them


@pytest.mark.parametrize("which", range(5))
def test_a_preparation_that_dies_leaves_nothing_false(tmp_path, monkeypatch, which):
    """At each of the five replacements: old images, new ones, or a message, never a mixture."""
    cifar_archive(tmp_path / "a.tar.gz", 2)
    cifar_archive(tmp_path / "b.tar.gz", 2, **{n: labelled_block([1, 2]) for n in BATCHES})
    out = tmp_path / "out"
    images.prepare_cifar10(32, tmp_path / "a.tar.gz", out, known_hash=None)
    count, replace = itertools.count(), os.replace

    def dying(*places):
        if next(count) == which:
            raise KeyboardInterrupt
        replace(*places)

    monkeypatch.setattr(images.os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        images.prepare_cifar10(32, tmp_path / "b.tar.gz", out, known_hash=None)
    monkeypatch.undo()
    with pytest.raises(images.DataError, match="prepare the images first"):
        images.load("cifar10", 32, out)
    images.prepare_cifar10(32, tmp_path / "b.tar.gz", out, known_hash=None)
    assert images.load("cifar10", 32, out).train_y.tolist() == [1, 2] * 5


def test_a_killed_preparation_leaves_no_black_images(tmp_path):
    """Killed outright, while the arrays are half written."""
    source, out = folder_of_images(tmp_path / "source"), tmp_path / "out"
    images.prepare_folder(source, "pets", 8, out, 1)
    pixels = images.load("pets", 8, out).train_x.clone()
    program = (
        "import os, sys\n"
        "from sobolev_lib.synthetic_gradients import data as images\n"
        "images.tqdm = lambda jobs, **_: (os.kill(os.getpid(), 9) for _ in [0])\n"
        "images.prepare_folder(*sys.argv[1:3], 8, sys.argv[3], 1)\n"
    )
    words = [sys.executable, "-c", program, str(source), "pets", str(out)]
    assert subprocess.run(words).returncode == -9
    assert any(out.glob("pets-8-*.part"))  # it was on its way
    assert torch.equal(images.load("pets", 8, out).train_x, pixels)


# Folders.


def test_blank_lines_of_annotations_say_nothing(tmp_path):
    source = folder_of_images(tmp_path / "source", flat=True)
    notes = source / "val/val_annotations.txt"
    first, *others = notes.read_text().splitlines()
    notes.write_text("\n".join(["", first, "  ", *others, "", ""]))
    images.prepare_folder(source, "pets", 8, tmp_path, 1)
    assert images.load("pets", 8, tmp_path).test_y.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("cat0.png\tcow\t0", r"line 5 of .*val_annotations\.txt has class 'cow'.*cat, dog"),
        ("cat0.png cat", r"line 5 of .*val_annotations\.txt is 'cat0\.png cat': a file and its"),
        ("\tcat", r"line 5 of .*val_annotations\.txt is"),
        ("absent.png\tcat", r"absent\.png is not an image"),
    ],
)
def test_wrong_annotations_are_named(tmp_path, line, says):
    source = folder_of_images(tmp_path / "source", flat=True)
    with (source / "val/val_annotations.txt").open("a") as notes:
        notes.write(line + "\n")
    with pytest.raises(images.DataError, match=says):
        images.prepare_folder(source, "pets", 8, tmp_path / "out", 1)


def test_annotations_that_are_no_text(tmp_path):
    source = folder_of_images(tmp_path / "source", flat=True)
    (source / "val/val_annotations.txt").write_bytes(b"cat\xff\xfe\tcat\n")
    with pytest.raises(images.DataError, match=r"val_annotations\.txt cannot be read as text"):
        images.prepare_folder(source, "pets", 8, tmp_path / "out", 1)


def test_a_class_that_train_lacks_is_named(tmp_path):
    source = folder_of_images(tmp_path / "source")
    (source / "val/cow").mkdir()  # without images: nothing is lost
    images.prepare_folder(source, "pets", 8, tmp_path / "out", 1)
    (source / "val/dog/dog0.png").rename(source / "val/cow/0.png")
    with pytest.raises(images.DataError, match=r"val/cow holds images .* cat, dog"):
        images.prepare_folder(source, "pets", 8, tmp_path / "out", 1)


def png(width: int, height: int) -> bytes:
    """The head of a PNG file that promises an image of this size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in (head, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_an_image_too_large_to_open_is_named(tmp_path):
    source = folder_of_images(tmp_path / "source")
    (source / "train/cat/huge.png").write_bytes(png(60_000, 60_000))
    with pytest.raises(images.DataError, match=r"huge\.png is not an image .*bomb"):
        images.prepare_folder(source, "pets", 8, tmp_path / "out", 1)


def test_images_without_any_spread_are_refused(tmp_path):
    cifar_archive(tmp_path / "a.tar.gz", **{n: np.zeros((2, 3073), np.uint8) for n in BATCHES})
    with pytest.raises(images.DataError, match="standard deviations"):
        images.prepare_cifar10(32, tmp_path / "a.tar.gz", tmp_path, known_hash=None)
