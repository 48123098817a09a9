"""Students: the objective of section 4.2, with and without its derivative term."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from sobolev_lib import SobolevLoss
from sobolev_lib.records import states
from sobolev_lib.records.sweep import Job, Result, Run, Tick

from . import data, weights
from .games import game_named
from .networks import ACTIVATIONS, Student, Teacher
from .targets import Targets

EXPERIMENT = "distillation"
CURVE_STATES = 2_000  # of the test states, for the curves
TEST_STATES = 10_000  # and for the last point
METRICS = ("action_error", "kl", "kl_reverse")


@dataclass(frozen=True)
class Settings:
    """What a student depends on, but for its seed, the teacher and the recording.

    Parameters
    ----------
    game : str
    fraction : float
        Of the recorded states, for training and validation.
    method : {"values", "sobolev"}
    activation : {"relu", "kinks", "silu"}
    alpha : float
        Weight of the derivative term; 0 for "values".
    norm : {"norm", "squared"}
        The term's norm: as 4.2 prints it, or its square.
    projections : int
        Random directions for each state; 0: the whole Jacobian (its rows' norms summed).
    derivatives : {"own", "another"}
        "another": of another state of the batch, a null that keeps the noise and drops what it
        says.
    temperature : float
        Divides the teacher's log-probabilities before they are normalised again; 1: as they are.
    learning_rate : float
        Of Adam.
    updates, batch : int
    points : int
        Of the curves.
    """

    game: str
    fraction: float = 0.01
    method: str = "sobolev"
    activation: str = "relu"
    alpha: float = 1.0
    norm: str = "norm"
    projections: int = 1
    derivatives: str = "own"
    temperature: float = 1.0
    learning_rate: float = 3e-4
    updates: int = 3_000
    batch: int = 200
    points: int = 20

    def __post_init__(self) -> None:
        game_named(self.game)
        allowed: dict[str, Sequence[str]] = {
            "method": ("values", "sobolev"),
            "norm": ("norm", "squared"),
            "derivatives": ("own", "another"),
            "activation": list(ACTIVATIONS),
        }
        for name, options in allowed.items():
            if getattr(self, name) not in options:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(options)}"
                )
        for name in ("learning_rate", "temperature", "updates", "batch", "points"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.projections < 0 or self.alpha < 0:
            raise ValueError(
                f"projections is {self.projections} and alpha {self.alpha}; neither may be negative"
            )
        if self.method == "values":  # one value student, however the others are set
            standard = {"alpha": 0.0, "norm": "norm", "projections": 1, "derivatives": "own"}
            for name, value in standard.items():
                object.__setattr__(self, name, value)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(pi, pi*) of each state, (B,), from log-probabilities (B, actions): as 4.2 has it."""
    return (student.exp() * (student - teacher)).sum(-1)


def norm(mine: Tensor, goal: Tensor) -> Tensor:
    """Euclidean norm of the difference for each state, or the sum of those of a Jacobian's rows."""
    rows = 1 if mine.ndim == 4 else 2
    return (
        torch.linalg.vector_norm((mine - goal).flatten(rows), dim=-1).reshape(len(mine), -1).sum(1)
    )


def squared(mine: Tensor, goal: Tensor) -> Tensor:
    """Squared Euclidean norm of the difference for each state."""
    return (mine - goal).flatten(1).square().sum(1)


class Training:
    """One student in training.

    Parameters
    ----------
    settings : Settings
    seed : int
        Of the weights, the batches and the directions.
    train, validation, test : Targets
        Only ``train`` needs gradients.
    """

    def __init__(
        self, settings: Settings, seed: int, train: Targets, validation: Targets, test: Targets
    ) -> None:
        self.settings, self.train, self.validation, self.test = settings, train, validation, test
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.net = Student(train.logs.shape[1], settings.activation)
        self.net = self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.net.parameters(), settings.learning_rate)
        element = {"norm": norm, "squared": squared}[settings.norm]
        self.loss = SobolevLoss(
            order=1,
            weights=(1.0, settings.alpha),
            projections=settings.projections or None,
            loss=(divergence, element),
            generator=self.generator,
        )
        self.goals = (train.logs / settings.temperature).log_softmax(-1)
        self.update = 0
        self.seconds = 0.0
        self.curve: dict[str, list[float]] = {}

    def step(self) -> None:
        """One update of Adam."""
        began = time.perf_counter()
        s = self.settings
        chosen = torch.randint(len(self.train), (s.batch,), generator=self.generator)
        source = chosen.roll(1) if s.derivatives == "another" else chosen
        goal: Any = None
        if s.alpha:
            goal = (
                functools.partial(self.train.gradient, source)
                if s.projections
                else self.train.jacobian(source)
            )
        self.optimizer.zero_grad(set_to_none=True)
        total, _ = self.loss(self.net, self.train.frames(chosen), self.goals[chosen], goal)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.update += 1
        self.seconds += time.perf_counter() - began

    def note(self) -> None:
        """Add a point to the curves."""
        count = len(self.test) if self.update >= self.settings.updates else CURVE_STATES
        point = {"update": float(self.update), "seconds": round(self.seconds, 2)}
        point |= compare(self.net, self.test, count)
        point["validation_kl"] = compare(self.net, self.validation, CURVE_STATES)["kl"]
        point["train_kl"] = compare(self.net, self.train, CURVE_STATES)["kl"]
        for name, value in point.items():
            self.curve.setdefault(name, []).append(value)

    def run(self, tick: Tick, path: Path | None = None) -> bool:
        """Train to the end; False if it was asked to stop, its state then written."""
        every = max(1, self.settings.updates // self.settings.points)
        if path and path.exists():
            notes = states.load(
                path,
                self.net,
                {"adam": self.optimizer},
                ("update", "seconds", "curve", "generator"),
            )
            self.update, self.seconds, self.curve = (
                notes["update"],
                notes["seconds"],
                notes["curve"],
            )
            self.generator.set_state(torch.tensor(notes["generator"], dtype=torch.uint8))
        while self.update < self.settings.updates:
            self.step()
            if self.update % every == 0 or self.update == self.settings.updates:
                self.note()
            if tick(self.update) and self.update < self.settings.updates:
                if path:
                    notes = {
                        "update": self.update,
                        "seconds": self.seconds,
                        "curve": self.curve,
                        "generator": self.generator.get_state().tolist(),
                    }
                    states.save(path, self.net, {"adam": self.optimizer}, notes)
                return False
        return True


@torch.no_grad()
def compare(net: Student, targets: Targets, count: int) -> dict[str, float]:
    """Measure a student on evenly spaced states of ``targets``.

    Returns
    -------
    dict
        ``action_error`` (the most probable actions differ), ``kl`` = KL(teacher, student) and
        ``kl_reverse`` = KL(student, teacher), which is what training minimises.  Fig. 4 does not
        say which it shows.
    """
    index = torch.linspace(0, len(targets) - 1, min(count, len(targets))).long()
    mine = torch.cat([net(targets.frames(part)) for part in index.split(500)])
    goal = targets.logs[index]
    return {
        "action_error": float((mine.argmax(-1) != goal.argmax(-1)).float().mean()),
        "kl": float(divergence(goal, mine).mean()),
        "kl_reverse": float(divergence(mine, goal).mean()),
    }


def load_teacher(game: str) -> tuple[Teacher, dict[str, Any]]:
    """Return the committed teacher; its notes have the file's SHA-256 as ``weights``."""
    path = weights.folder() / f"teacher-{game}.safetensors"
    net, notes = weights.load(path, Teacher(len(game_named(game).actions)))
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net, notes | {"weights": hashlib.sha256(path.read_bytes()).hexdigest()}


@functools.lru_cache(maxsize=2)
def sets(game: str, fraction: float) -> tuple[Targets, Targets, Targets]:
    """Training, validation and test states of a game's recording, with the teacher's answers.

    Raises
    ------
    RecordingError
        If the recording is of another teacher than the committed one.
    """
    teacher, notes = load_teacher(game)
    recording = data.Recording.load(data.folder() / f"{game}.npz")
    if recording.notes["weights"] != notes["weights"]:
        raise data.RecordingError(
            f"the recording of {game} was played by another teacher than the committed weights; "
            f"record again: python -m sobolev_lib.distillation record --game {game}"
        )
    frames = data.replay(recording)
    parts = data.split(frames.starts, fraction)
    spread = numpy.linspace(0, len(parts.test) - 1, min(TEST_STATES, len(parts.test)))
    return (
        Targets(teacher, frames, parts.train),
        Targets(teacher, frames, parts.validation, gradients=False),
        Targets(teacher, frames, parts.test[spread.astype(numpy.int64)], gradients=False),
    )


def work(settings: Settings, seed: int, path: Path | None, tick: Tick) -> list[Result] | None:
    """Train one student and measure it; see :class:`.sweep.Job`."""
    training = Training(settings, seed, *sets(settings.game, settings.fraction))
    if not training.run(tick, path):
        return None
    last = {name: values[-1] for name, values in training.curve.items()}
    metrics: dict[str, Any] = {name: last[name] for name in (*METRICS, "validation_kl", "train_kl")}
    metrics |= {"curve": training.curve, "train_states": len(training.train)}
    return [Result(metrics, training.seconds)]


def jobs(
    chosen: Sequence[Settings],
    seeds: Sequence[int],
    teachers: Mapping[str, Mapping[str, Any]],
    folder: Path | None = None,
) -> list[Job]:
    """Return one job for each student.

    Parameters
    ----------
    chosen : sequence of Settings
    seeds : sequence of int
    teachers : mapping
        From a game to the notes of its teacher (:func:`load_teacher`).
    folder : Path, optional
        For states of students that are stopped.
    """
    result = []
    for settings in chosen:
        teacher = teachers[settings.game]
        config = asdict(settings) | {"teacher": teacher["weights"][:12]}
        for seed in seeds:
            run = Run(config, seed, "paper", deviations(settings, teacher))
            path = (
                folder
                and folder
                / f"student-{hashlib.sha256(run.key.encode()).hexdigest()[:16]}.safetensors"
            )
            result.append(
                Job(
                    [run],
                    functools.partial(work, settings, seed, path),
                    settings.updates,
                    libraries=("ale_py",),
                    states=[path] if path else [],
                )
            )
    return result


def deviations(settings: Settings, teacher: Mapping[str, Any]) -> list[str]:
    """Where a student differs from the paper, and what was decided that it leaves open."""
    said = [
        f"The teacher was trained by {teacher['route']} for {teacher['steps']} decisions and "
        f"returns {teacher['return_mean']:.1f}; the paper's by A3C for 80e6 steps.",
        f"alpha is {settings.alpha:g} and the number of updates {settings.updates}; "
        "the paper states neither.",
        "Frames are scaled from 0 to 1 and the gradient is taken with respect to all four of them; "
        "one v for each state; KL(student, teacher) is minimised, as printed.",
        "A validation part is cut from the training states; the paper names none.",
    ]
    printed = Settings(settings.game)
    for name in ("activation", "norm", "projections", "derivatives", "temperature", "batch"):
        if getattr(settings, name) != getattr(printed, name):
            said.append(f"{name} is {getattr(settings, name)}, not {getattr(printed, name)}.")
    return said
