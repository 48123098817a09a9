"""Recorded games: actions and seeds are kept, frames come back by replay, bit for bit.

A recording is the actions of a teacher in the vector environment, its seed and options, and the
SHA-256 of the frames: tens of kilobytes instead of 700 MB.  :func:`replay` plays the actions again
into a local cache and compares the hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from tqdm.auto import tqdm

from sobolev_lib.records import ledger

from .games import FRAME, STACK
from .screens import OPTIONS, Screens

STREAMS = 8
STATES = 100_000  # as the paper records
BEGINNING = 250  # decisions of each stream that :func:`beginning` plays again, in seconds
VALIDATION = 0.2  # of the states for training and validation
DAMAGED = (ValueError, LookupError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
STUCK = 500  # the same frame so often: the policy waits for ever (Breakout without FIRE)


class RecordingError(RuntimeError):
    """A recording that cannot be read, or whose replay differs; the message says what to do."""


@dataclass(frozen=True)
class Recording:
    """What is committed of a game.

    Parameters
    ----------
    actions : (decisions, streams) uint8
        Indices into the game's actions, by time and stream.
    notes : dict
        ``game``, ``seed``, ``options``, ``ale_py``, ``frames`` (SHA-256 of the frames in the order
        of replay), ``beginning`` (the same of the first :data:`BEGINNING` decisions), ``actions``
        (SHA-256), ``teacher`` (its notes), ``weights`` (SHA-256 of the teacher's file).
    """

    actions: NDArray[numpy.uint8]
    notes: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write it beside the old file, then swap them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        notes = numpy.frombuffer(json.dumps(self.notes, sort_keys=True).encode(), numpy.uint8)
        with part.open("wb") as file:
            numpy.savez_compressed(file, actions=self.actions, notes=notes)
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read a recording.

        Raises
        ------
        RecordingError
            If it is missing or damaged.
        """
        if not path.exists():
            raise RecordingError(f"there is no recording at {path}; make it first (data/README.md)")
        try:
            with numpy.load(path, allow_pickle=False) as file:
                actions = file["actions"]
                notes = json.loads(file["notes"].tobytes())
            if digest(actions) != notes["actions"]:
                raise ValueError("the actions do not have the hash that is noted")
        except DAMAGED as error:
            raise RecordingError(
                f"recording {path} is damaged ({error}); restore it: git checkout -- {path.name}"
            ) from error
        return cls(actions, notes)


def path(game: str) -> Path:
    """File of a game's committed recording."""
    return ledger.beside("recordings") / f"{game}.npz"


def digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array's bytes."""
    return hashlib.sha256(numpy.ascontiguousarray(array).tobytes()).hexdigest()


def record(
    game: str,
    choose: Callable[[NDArray[numpy.uint8]], NDArray[numpy.int64]],
    seed: int,
    notes: dict[str, Any],
    states: int = STATES,
    streams: int = STREAMS,
    quiet: bool = False,
    cache: Path | None = None,
) -> Recording:
    """Let a policy play; keep its actions and the hash of what it saw.

    Parameters
    ----------
    choose : callable
        From the last four frames (streams, 4, 84, 84), uint8, to actions.
    notes : dict
        Of the teacher.
    states : int
        Of all streams together, rounded up to whole decisions of all of them.
    cache : Path, optional
        Keep the frames there, as :func:`replay` would.

    Raises
    ------
    RecordingError
        If a stream shows the same frame :data:`STUCK` times.
    """
    import ale_py

    length = -(-states // streams)
    actions = numpy.zeros((length, streams), numpy.uint8)
    last = numpy.zeros((streams, FRAME, FRAME), numpy.uint8)
    still = numpy.zeros(streams, numpy.int64)

    def act(t: int, stack: NDArray[numpy.uint8]) -> NDArray[numpy.uint8]:
        nonlocal last, still
        still = numpy.where((stack[:, -1] == last).all((1, 2)), still + 1, 0)
        last = stack[:, -1].copy()
        if still.max() >= STUCK:
            raise RecordingError(
                f"{game}: a game has stood still for {STUCK} decisions; the policy never presses "
                "FIRE, or waits for ever. Train it on, or take another seed"
            )
        actions[t] = choose(stack)
        return actions[t]

    screens = Screens(game, streams, seed)
    with _part(cache, streams, length) if cache else contextlib.nullcontext() as frames:
        starts, first, whole = _walk(screens, length, act, frames, quiet=quiet)
        told = {
            "game": game, "seed": seed, "options": OPTIONS, "ale_py": ale_py.__version__,
            "frames": whole, "beginning": first, "actions": digest(actions),
        }  # fmt: skip
        made = Recording(actions, notes | told)
        if cache and frames is not None:
            _keep(frames, starts, made, cache)
    return made


def _walk(
    screens: Screens,
    length: int,
    act: Callable[[int, NDArray[numpy.uint8]], NDArray[numpy.uint8]],
    frames: NDArray[numpy.uint8] | None,
    title: str | None = None,
    quiet: bool = False,
) -> tuple[NDArray[numpy.bool_], str, str]:
    """Play ``length`` decisions, and keep the frames (streams, decisions, 84, 84) if asked to.

    Returned are where games start (streams, decisions), and the hashes of the frames up to
    :data:`BEGINNING` and of all.
    """
    starts = numpy.zeros((len(screens), length), bool)
    starts[:, 0] = True
    hashed, first = hashlib.sha256(), ""
    for t in tqdm(range(length), title, unit="decision", disable=quiet):
        now = screens.stack[:, -1]
        hashed.update(now.tobytes())
        if t < BEGINNING:
            first = hashed.hexdigest()
        if frames is not None:
            frames[:, t] = now
        over = screens.step(act(t, screens.stack).astype(numpy.int64))[2]
        starts[:, t + 1 : t + 2] = over[:, None]
    return starts, first, hashed.hexdigest()


@contextlib.contextmanager
def _part(folder: Path, streams: int, length: int) -> Iterator[numpy.memmap[Any, Any]]:
    """Frames to fill, in a part of the cache that is removed unless :func:`_keep` moves it."""
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(suffix=".part", dir=folder))
    try:
        yield numpy.lib.format.open_memmap(
            part / "frames.npy", "w+", numpy.uint8, (streams, length, FRAME, FRAME)
        )
    finally:  # after Ctrl-C as well: the frames take hundreds of megabytes
        if part.exists():
            shutil.rmtree(part)


def _keep(
    frames: numpy.memmap[Any, Any], starts: NDArray[numpy.bool_], recording: Recording, folder: Path
) -> None:
    frames.flush()
    part = Path(str(frames.filename)).parent
    numpy.save(part / "starts.npy", starts)
    place = _place(folder, recording)
    if not place.exists():  # or another process was faster
        os.replace(part, place)


def _place(folder: Path, recording: Recording) -> Path:
    return folder / f"{recording.notes['game']}-{recording.notes['frames'][:16]}"


@dataclass(frozen=True)
class Frames:
    """The frames of a recording, stream after stream.

    Parameters
    ----------
    frames : (states, 84, 84) uint8
        Mapped from the cache.
    starts : (states,) bool
        First state of a game, or of a stream.
    """

    frames: NDArray[numpy.uint8]
    starts: NDArray[numpy.bool_]

    def __len__(self) -> int:
        return len(self.starts)

    def behind(self, index: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        """Numbers of the four frames that each state shows, (n, 4); -1 before a game's start."""
        index = numpy.asarray(index)
        numbers = numpy.full((len(index), STACK), -1)
        alive = numpy.ones(len(index), bool)
        for back in range(STACK):
            numbers[alive, STACK - 1 - back] = index[alive] - back
            alive = alive & ~self.starts[index - back]
        return numbers

    def stacks(self, index: NDArray[numpy.int64]) -> NDArray[numpy.uint8]:
        """What the policy saw: (n, 4, 84, 84); zero before the start of a game."""
        numbers = self.behind(index)
        result = self.frames[numbers]
        result[numbers < 0] = 0
        return result


def replay(recording: Recording, cache: Path | None = None, quiet: bool = False) -> Frames:
    """Play a recording again, or take its frames from the cache.

    That is ``cache`` beside the ledgers unless given, and can be deleted at any time.

    Raises
    ------
    RecordingError
        If the frames differ from those that were recorded.
    """
    folder = cache or ledger.beside("cache")
    here = _place(folder, recording)
    if not here.exists():
        length, streams = recording.actions.shape
        with _part(folder, streams, length) as made:
            _keep(made, _play(recording, made, "frames", quiet), recording, folder)
    frames = numpy.load(here / "frames.npy", mmap_mode="r", allow_pickle=False)
    starts = numpy.load(here / "starts.npy", allow_pickle=False)
    return Frames(frames.reshape(-1, FRAME, FRAME), starts.reshape(-1))


def beginning(recording: Recording) -> Frames:
    """Play the first :data:`BEGINNING` decisions of each stream again: seconds, and no cache.

    Raises
    ------
    RecordingError
        If the frames differ from those that were recorded.
    """
    length, streams = recording.actions[:BEGINNING].shape
    frames = numpy.zeros((streams, length, FRAME, FRAME), numpy.uint8)
    starts = _play(recording, frames, "beginning", quiet=True)
    return Frames(frames.reshape(-1, FRAME, FRAME), starts.reshape(-1))


def _play(
    recording: Recording, frames: NDArray[numpy.uint8], note: str, quiet: bool
) -> NDArray[numpy.bool_]:
    """Fill ``frames`` (streams, decisions, 84, 84), check them; return where games start."""
    notes = recording.notes
    streams, length = frames.shape[:2]
    screens = Screens(notes["game"], streams, notes["seed"], options=notes["options"])
    title = f"replay of {notes['game']}"
    starts, _, found = _walk(
        screens, length, lambda t, stack: recording.actions[t], frames, title, quiet
    )
    if found != notes[note]:
        import ale_py

        raise RecordingError(
            f"the replay of {notes['game']} shows other frames than were recorded "
            f"(SHA-256 {found[:12]}, recorded {notes[note][:12]}). They were made "
            f"with ale-py {notes['ale_py']}, here is {ale_py.__version__}: install "
            f"ale-py=={notes['ale_py']}, or make a recording of your own with "
            f"python -m sobolev_lib.distillation record --game {notes['game']}"
        )
    return starts


@dataclass(frozen=True)
class Split:
    """States to train on, to choose the learning rate on, and to test on."""

    train: NDArray[numpy.int64]
    validation: NDArray[numpy.int64]
    test: NDArray[numpy.int64]


def split(starts: NDArray[numpy.bool_], fraction: float) -> Split:
    """Split by time: the first part trains, whole games after it test.

    Parameters
    ----------
    starts : (states,) bool
        First states of games.
    fraction : float
        Of all states, for training and validation, from the beginning; the last game of that part
        may be cut, and what is left of it is not used.

    Raises
    ------
    ValueError
        If the fraction is not between 0 and 1, or no game is left to test on.

    Notes
    -----
    The last fifth of the first part validates; from the start of a game if one lies in that fifth's
    first half, else cut out of a game (a fraction of 1 % may hold one game only).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; it must lie between 0 and 1")
    begins = numpy.flatnonzero(starts)
    cut = round(fraction * len(starts))
    middle = cut - round(VALIDATION * cut)
    after = begins[begins >= cut]
    if not len(after) or not 0 < middle < cut:
        raise ValueError(
            f"fraction is {fraction}: of {len(starts)} states in {len(begins)} games nothing is "
            "left for training, validation or testing; choose another fraction"
        )
    games = begins[(begins >= middle) & (begins < middle + (cut - middle) // 2)]
    first = int(games[0]) if len(games) else middle
    return Split(
        numpy.arange(middle), numpy.arange(first, cut), numpy.arange(after[0], len(starts))
    )
