"""Teachers at play, for pages: some frames again, what the policy says and where it looks."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from . import arms, data, weights
from .games import FRAME, GAMES
from .looking import saliency
from .networks import Student, Teacher, scaled
from .students import Settings, Training
from .targets import Targets

COLUMNS = 12  # of a sprite sheet
FIRST, COUNT = 30, 96  # states of a clip
LEVELS = 15  # of a saliency: it is noise below
Sets = tuple[Targets, Targets, Targets]


@dataclass(frozen=True)
class Beginning:
    """The first decisions of a recording.

    Parameters
    ----------
    teacher : Teacher
    frames : Frames
        Stream after stream.
    actions : (states,) uint8
        What was played.
    recorded : bool
        Replayed from the committed recording; False: the teacher has just played it.
    """

    teacher: Teacher
    frames: data.Frames
    actions: NDArray[numpy.uint8]
    recorded: bool


def has_teacher(game: str) -> bool:
    """Whether weights of a game's teacher are committed."""
    return weights.path("teacher", game).exists()


def chooser(
    teacher: Teacher, seed: int, device: str = "cpu"
) -> Callable[[NDArray[numpy.uint8]], Any]:
    """Return what draws actions from the teacher's policy, which moves to ``device``."""
    teacher.to(device)
    generator = torch.Generator().manual_seed(seed)

    def choose(stack: NDArray[numpy.uint8]) -> Any:
        with torch.no_grad():
            logs = teacher(torch.from_numpy(stack).to(device))[0].log_softmax(-1).cpu()
        return torch.multinomial(logs.exp(), 1, generator=generator)[:, 0].numpy()

    return choose


def beginning(game: str) -> Beginning:
    """Bring the beginning of a game's recording back; without one let the teacher play."""
    teacher, notes = arms.load_teacher(game)
    path = data.path(game)
    recording = data.Recording.load(path) if path.exists() else None
    recorded = recording is not None and recording.notes["weights"] == notes["weights"]
    if recording is None or not recorded:
        states = data.BEGINNING * data.STREAMS
        recording = data.record(game, chooser(teacher, 0), 0, {}, states, quiet=True)
    actions = recording.actions[: data.BEGINNING].T.reshape(-1)
    return Beginning(teacher, data.beginning(recording), actions, recorded)


def policy(start: Beginning, every: int = 1) -> NDArray[numpy.float32]:
    """Log-probabilities of the actions in each ``every``-th state, (states, actions)."""
    said = []
    with torch.no_grad():
        for index in torch.arange(0, len(start.frames), every).split(250):
            x = torch.from_numpy(start.frames.stacks(index.numpy()))
            said.append(start.teacher(x)[0].log_softmax(-1))
    return torch.cat(said).numpy()


def small_sets(start: Beginning) -> Sets:
    """Training, validation and test states of a beginning, for :func:`teach`."""
    parts = data.split(start.frames.starts, SMALL["fraction"])
    return arms.answers(start.teacher, start.frames, parts, most=SMALL_TEST)


def teach(sets: Sets, settings: Settings) -> Training:
    """Train one student on :func:`small_sets`, in seconds if the settings are :data:`SMALL`."""
    training = Training(settings, 0, *sets)
    training.run(lambda step: False)
    return training


SMALL: dict[str, Any] = {
    "fraction": 0.1, "alpha": 3.0, "learning_rate": 1e-3, "updates": 120, "batch": 40,
    "points": 5, "games": 0,
}  # fmt: skip
"""Settings of :func:`teach` for a page."""
SMALL_TEST = 400


def kept_students(game: str) -> dict[str, Student]:
    """Students of Fig. 4 whose weights are committed, by method."""
    return {method: arms.load_student(game, method) for method in ("values", "sobolev")}


def clip(game: str, start: Beginning) -> dict[str, Any]:
    """What :class:`sobolev_lib.widgets.player.Player` shows of some states of the first stream.

    ``title``, ``names`` of the actions, ``probabilities`` (states, actions), ``played``,
    ``columns``, ``side``, and two sprite sheets as data URIs: ``frames``, and ``looks``, how large
    the gradient of the most probable action's log-probability is.
    """
    index = numpy.arange(FIRST, FIRST + COUNT)
    x = scaled(torch.from_numpy(start.frames.stacks(index)))
    start.teacher.requires_grad_(False)

    def logs(seen: torch.Tensor) -> torch.Tensor:
        said: torch.Tensor = start.teacher(seen)[0].log_softmax(-1)
        return said

    with torch.no_grad():
        said = logs(x)
    size = saliency(logs, x, said.argmax(1)).square().sum(1).sqrt()
    top = size.flatten(1).quantile(0.999, dim=1).clamp(min=1e-30)
    level = (size / top[:, None, None]).clamp(max=1).mul(LEVELS).round() / LEVELS
    return {
        "title": GAMES[game].title,
        "names": list(GAMES[game].names),
        "probabilities": said.exp().numpy().astype(float).round(3).tolist(),
        "played": start.actions[index].tolist(),
        "columns": COLUMNS,
        "side": FRAME,
        "frames": sheet(start.frames.frames[index]),
        "looks": sheet((255 * level).byte().numpy()),
    }


def sheet(pictures: NDArray[numpy.uint8]) -> str:
    """Pictures (n, side, side) on one sheet of :data:`COLUMNS` columns, as the URI of a PNG."""
    from PIL import Image  # the command of this part of the library runs without it

    count, side, _ = pictures.shape
    rows = -(-count // COLUMNS)
    whole = numpy.zeros((rows * COLUMNS, side, side), numpy.uint8)
    whole[:count] = pictures
    whole = whole.reshape(rows, COLUMNS, side, side).swapaxes(1, 2)
    packed = io.BytesIO()
    Image.fromarray(whole.reshape(rows * side, -1)).save(packed, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(packed.getvalue()).decode()
