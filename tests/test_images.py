"""Images: prepared from archives and folders, loaded, augmented; what is damaged is named."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
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
from sklearn.datasets import load_digits
from torch import nn

from sobolev_lib import __main__ as command
from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients import prepare

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
    prepare.folder(source, "pets", 10, tmp_path / "out", workers=1)
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
        prepare.folder(tmp_path, "pets", 8, tmp_path)
    (tmp_path / "source/train/cat").mkdir(parents=True)
    (tmp_path / "source/val/cat").mkdir(parents=True)
    with pytest.raises(images.DataError, match="holds no images"):
        prepare.folder(tmp_path / "source", "pets", 8, tmp_path / "out", 1)
    (tmp_path / "source/train/cat/a.jpg").write_bytes(b"not a picture")
    (tmp_path / "source/val/cat/b.jpg").write_bytes(b"not a picture")
    with pytest.raises(images.DataError, match=r"a\.jpg is not an image"):
        prepare.folder(tmp_path / "source", "pets", 8, tmp_path / "out", 1)


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
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return kept, {"archive": path, "known_hash": f"sha256:{digest}"}


def test_the_official_archive_keeps_every_byte(tmp_path):
    kept, given = cifar_archive(tmp_path / "cifar.tar.gz")
    prepare.cifar10(32, folder=tmp_path, **given)
    data = images.load("cifar10", 32, tmp_path)
    assert data.train_x.shape == (15, 3, 32, 32) and data.classes == 10
    block = kept["data_batch_2"]
    np.testing.assert_array_equal(data.train_x[3:6].reshape(3, -1).numpy(), block[:, 1:])
    np.testing.assert_array_equal(data.test_y.numpy(), kept["test_batch"][:, 0])
    prepare.cifar10(16, folder=tmp_path, **given)
    small = images.load("cifar10", 16, tmp_path)
    assert small.test_x.shape == (3, 3, 16, 16)
    assert abs(small.test_x.float().mean() - data.test_x.float().mean()) < 3


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
    path = prepare.fetch(server, known, tmp_path)
    assert path.read_bytes() == _Ranges.content
    assert _Ranges.asked == ["bytes=1234-"] and not (tmp_path / "file.bin.part").exists()
    assert prepare.fetch(server, known, tmp_path) == path and len(_Ranges.asked) == 1


def test_a_download_with_another_checksum_is_refused(server, tmp_path, monkeypatch):
    with pytest.raises(images.DataError, match="hash") as caught:
        prepare.fetch(server, "md5:" + "0" * 32, tmp_path)
    assert str(tmp_path / "file.bin") in str(caught.value)
    assert not list(tmp_path.iterdir())  # nothing that the next try could take for the file
    monkeypatch.setattr(prepare, "CIFAR10_URL", server)
    with pytest.raises(images.DataError, match="c32a1d4ab5d03f1284b67883e8d87530"):
        prepare.cifar10(32, folder=tmp_path)


def test_offline_says_what_to_put_where(tmp_path):
    with pytest.raises(images.DataError, match=r"put it at .*file\.bin"):
        prepare.fetch("http://127.0.0.1:9/file.bin", "md5:" + "0" * 32, tmp_path)


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


def test_digits_are_those_of_scikit_learn_and_need_it(monkeypatch):
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    found = images.digits()
    assert torch.cat([found.train_y, found.test_y]).tolist() == labels[order].tolist()
    x = torch.cat([found.train_x, found.test_x]).double()
    raw = torch.as_tensor(pixels[order])
    mean, std = raw[:1200].mean(dim=0), raw[:1200].std(dim=0)
    torch.testing.assert_close(x * std.clamp_min(1e-3) + mean, raw, rtol=0, atol=1e-4)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(images.DataError, match="pip install"):
        images.digits()


def test_command_line_prepares_images(tmp_path, capsys, monkeypatch):
    _, given = cifar_archive(tmp_path / "a.tar.gz")
    monkeypatch.setenv("SOBOLEV_DATA", str(tmp_path))
    words = ["images", "cifar10", "--archive", str(tmp_path / "a.tar.gz")]
    assert command.main(words) == 2
    assert "not the archive that is needed" in capsys.readouterr().err
    official = functools.partial(prepare.cifar10, known_hash=given["known_hash"])
    monkeypatch.setattr(prepare, "cifar10", official)
    assert command.main(words) == 0
    assert images.load("cifar10", 32).train_x.shape[0] == 15
    assert command.main(["images", "imagenette"]) == 2
    assert "--source is needed" in capsys.readouterr().err
    assert command.main(["synthetic_gradients", "--arm", "imagenette_1", "--quiet"]) == 2
    assert "prepare the images first" in capsys.readouterr().err


# What `load` takes.


def prepared(root, size=8):
    prepare.folder(folder_of_images(root / "source"), "pets", size, root / "out", 1)
    return root / "out"


def test_loading_reads_no_images(tmp_path):
    out = prepared(tmp_path, 64)
    count, path = 20_000, out / "pets-64-train-x.npy"  # of 12 KiB
    np.lib.format.open_memmap(path, "w+", np.uint8, (count, 3, 64, 64))  # sparse on the disk
    about = json.loads((out / "pets-64.json").read_text())
    about["checksums"][path.name] = images.checksum(path)
    (out / "pets-64.json").write_text(json.dumps(about))
    tracemalloc.start()
    try:
        data = images.load("pets", 64, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert data.train_x.shape == (count, 3, 64, 64) and peak < 10e6
    before = path.stat().st_mtime_ns
    data.train_x[0] = 7  # writable for torch, the file stays as it is
    assert path.stat().st_mtime_ns == before and not np.load(path, mmap_mode="r")[0].any()


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"0"),
    "of another type": lambda path: np.save(path, np.load(path).astype(np.float32)),
    "with another value": lambda path: np.save(path, np.load(path) + 1),
    "a pickle": lambda path: np.save(path, np.array([None, 1], object)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("part", ["train-x", "test-y"])
def test_damaged_arrays_are_refused_with_the_command(tmp_path, part, damage):
    out = prepared(tmp_path)
    DAMAGE[damage](out / f"pets-8-{part}.npy")
    with pytest.raises(images.DataError, match="prepare the images again") as caught:
        images.load("pets", 8, out)
    assert f"pets-8-{part}.npy" in str(caught.value)
    assert "sobolev_lib images pets --size 8 --source" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b'{"classes": 2', b"[1]", b"\xff\xfe{", b"null", b"{}"])
def test_damaged_descriptions_are_refused_with_the_command(tmp_path, content):
    out = prepared(tmp_path)
    (out / "pets-8.json").write_bytes(content)
    with pytest.raises(images.DataError, match=r"pets-8\.json .* prepare the images again"):
        images.load("pets", 8, out)


def test_missing_images_are_named_with_the_command(tmp_path):
    with pytest.raises(images.DataError, match="sobolev_lib images imagenet --size 64 --source"):
        images.load("imagenet", 64, tmp_path)
    with pytest.raises(images.DataError, match=r"sobolev_lib images cifar10 --size 32$"):
        images.load("cifar10", 32, tmp_path)


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
    _, given = cifar_archive(tmp_path / "a.tar.gz", **blocks)
    prepare.cifar10(size, folder=tmp_path, **given)
    data = images.load("cifar10", size, tmp_path)
    for x, y, count in ((data.train_x, data.train_y, 35), (data.test_x, data.test_y, 7)):
        assert x.shape == (count, 3, size, size) and y.unique().numel() > 2
        wanted = (20 * y[:, None] + torch.arange(3))[:, :, None, None].expand_as(x)
        assert torch.equal(x.long(), wanted)
    assert data.train_y.tolist() == [k for n in BATCHES[:5] for k in blocks[n][:, 0]]


def test_an_archive_put_there_by_hand_is_compared_with_its_checksum(tmp_path):
    path = tmp_path / "a.tar.gz"
    with pytest.raises(images.DataError, match="get https"):
        prepare.cifar10(32, path, tmp_path)
    _, given = cifar_archive(path)
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(images.DataError) as caught:
        prepare.cifar10(32, path, tmp_path)
    for said in (str(path), digest, prepare.CIFAR10_HASH, prepare.CIFAR10_URL):
        assert said in str(caught.value)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(images.DataError, match=r"its checksum is sha256:.*, not sha256:"):
        prepare.cifar10(32, folder=tmp_path, **given)
    assert not list(tmp_path.glob("cifar10-*"))


@pytest.mark.parametrize("size", [0, -3])
def test_sizes_are_checked(tmp_path, size):
    with pytest.raises(ValueError, match=f"size must be an integer of at least 1, got {size}"):
        prepare.cifar10(size, tmp_path / "a.tar.gz", tmp_path)
    with pytest.raises(ValueError, match=f"size must be an integer of at least 1, got {size}"):
        prepare.folder(tmp_path, "pets", size, tmp_path)


# Preparing again.


def everything(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_preparing_again_keeps_the_old_images_until_the_new_are_complete(tmp_path):
    source, out = folder_of_images(tmp_path / "source"), tmp_path / "out"
    prepare.folder(source, "pets", 8, out, 1)
    old, mapped = everything(out), images.load("pets", 8, out)
    pixels = mapped.train_x.clone()
    damaged = source / "train/dog/dog2.png"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:100])
    with pytest.raises(images.DataError, match=r"dog2\.png is not an image"):
        prepare.folder(source, "pets", 8, out, 1)
    assert everything(out) == old
    damaged.unlink()
    prepare.folder(source, "pets", 8, out, 1)
    assert images.load("pets", 8, out).train_x.shape[0] == 5 and len(everything(out)) == 5
    assert torch.equal(mapped.train_x, pixels)  # who has them open keeps them


@pytest.mark.parametrize("which", range(5))
def test_a_preparation_that_dies_leaves_nothing_false(tmp_path, monkeypatch, which):
    """At each of the five replacements: old images, new ones, or a message, never a mixture."""
    _, one = cifar_archive(tmp_path / "a.tar.gz", 2)
    blocks = {n: labelled_block([1, 2]) for n in BATCHES}
    _, two = cifar_archive(tmp_path / "b.tar.gz", 2, **blocks)
    out = tmp_path / "out"
    prepare.cifar10(32, folder=out, **one)
    count, replace = itertools.count(), os.replace

    def dying(*places):
        if next(count) == which:
            raise KeyboardInterrupt
        replace(*places)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            prepare.cifar10(32, folder=out, **two)
    with pytest.raises(images.DataError, match="prepare the images first"):
        images.load("cifar10", 32, out)
    prepare.cifar10(32, folder=out, **two)
    assert images.load("cifar10", 32, out).train_y.tolist() == [1, 2] * 5


def test_a_killed_preparation_leaves_no_black_images(tmp_path):
    """Killed outright, while the arrays are half written."""
    source, out = folder_of_images(tmp_path / "source"), tmp_path / "out"
    prepare.folder(source, "pets", 8, out, 1)
    pixels = images.load("pets", 8, out).train_x.clone()
    program = (
        "import os, sys\n"
        "from sobolev_lib.synthetic_gradients import prepare\n"
        "prepare.np.save = lambda *_: os.killpg(0, 9)\n"  # between images and labels, workers too
        "prepare.folder(*sys.argv[1:3], 8, sys.argv[3], 1)\n"
    )
    words = [sys.executable, "-c", program, str(source), "pets", str(out)]
    assert subprocess.run(words, start_new_session=True).returncode == -9
    assert any(out.glob("pets-8-*.part"))  # it was on its way
    assert torch.equal(images.load("pets", 8, out).train_x, pixels)


# Folders.


def test_blank_lines_of_annotations_say_nothing(tmp_path):
    source = folder_of_images(tmp_path / "source", flat=True)
    notes = source / "val/val_annotations.txt"
    first, *others = notes.read_text().splitlines()
    notes.write_text("\n".join(["", first, "  ", *others, "", ""]))
    prepare.folder(source, "pets", 8, tmp_path, 1)
    assert images.load("pets", 8, tmp_path).test_y.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("cat0.png\tcow\t0", r"val_annotations\.txt, line 5: .*'cow'.*cat, dog"),
        ("cat0.png cat", r"val_annotations\.txt, line 5: 'cat0\.png cat'.*a file and its class"),
        ("absent.png\tcat", r"absent\.png is not an image"),
    ],
)
def test_wrong_annotations_are_named(tmp_path, line, says):
    source = folder_of_images(tmp_path / "source", flat=True)
    with (source / "val/val_annotations.txt").open("a") as notes:
        notes.write(line + "\n")
    with pytest.raises(images.DataError, match=says):
        prepare.folder(source, "pets", 8, tmp_path / "out", 1)


def test_a_class_that_train_lacks_is_named(tmp_path):
    source = folder_of_images(tmp_path / "source")
    (source / "val/cow").mkdir()  # without images: nothing is lost
    prepare.folder(source, "pets", 8, tmp_path / "out", 1)
    (source / "val/dog/dog0.png").rename(source / "val/cow/0.png")
    with pytest.raises(images.DataError, match=r"val/cow/0\.png: the class 'cow' .* cat, dog"):
        prepare.folder(source, "pets", 8, tmp_path / "out", 1)


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
        prepare.folder(source, "pets", 8, tmp_path / "out", 1)


def test_images_without_any_spread_are_refused(tmp_path):
    blocks = {n: np.zeros((2, 3073), np.uint8) for n in BATCHES}
    _, given = cifar_archive(tmp_path / "a.tar.gz", **blocks)
    with pytest.raises(images.DataError, match="standard deviations"):
        prepare.cifar10(32, folder=tmp_path, **given)


def test_toy_images_can_be_learnt_and_are_reproducible():
    a, b = images.toy_images(300, seed=3), images.toy_images(300, seed=3)
    assert torch.equal(a.train_x, b.train_x) and a.train_x.dtype == torch.uint8
    assert (len(a.train_x), len(a.test_x)) == (300, 150)
    means = torch.stack([a.train_x[a.train_y == k].float().mean(dim=0) for k in range(10)])
    gaps = (a.test_x.float()[:, None] - means).flatten(2).norm(dim=2)
    assert (gaps.argmin(dim=1) == a.test_y).double().mean() > 0.9
