"""Students: the objective of section 4.2, with and without its derivative term."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sobolev_lib.checks import check_choice
from sobolev_lib.loss import unit_vectors
from sobolev_lib.records import states
from sobolev_lib.records.sweep import Tick

from .closed_form import differentiate
from .games import game_named
from .networks import ACTIVATIONS, Student
from .targets import Targets

SEEN = 500  # states of the training and of the validation part that a point of a curve looks at
METRICS = ("action_error", "kl", "kl_reverse")
UPDATES = 2_000


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
    updates : int
        Steps of Adam.
    batch : int
        States in a step.
    points : int
        Points of the curves; closer at their beginning.
    games : int
        Games that the student plays at the end; 0: it does not play, and its gradients are not
        compared.
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
    updates: int = UPDATES
    batch: int = 200
    points: int = 16
    games: int = 4

    def __post_init__(self) -> None:
        game_named(self.game)
        allowed: dict[str, Sequence[str]] = {
            "method": ("values", "sobolev"),
            "norm": ("norm", "squared"),
            "derivatives": ("own", "another"),
            "activation": list(ACTIVATIONS),
        }
        for name, options in allowed.items():
            check_choice(name, getattr(self, name), options)
        for name in ("learning_rate", "temperature", "updates", "batch", "points"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("projections", "alpha", "games"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.games == 1:
            raise ValueError("games is 1; it must be 0, or at least 2 for an interval")
        if self.method == "values":  # one value student, however the others are set
            standard = {"alpha": 0.0, "norm": "norm", "projections": 1, "derivatives": "own"}
            for name, value in standard.items():
                object.__setattr__(self, name, value)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(pi, pi*) of each state, (B,), from log-probabilities (B, actions): as 4.2 has it."""
    return (student.exp() * (student - teacher)).sum(-1)


def norm(mine: Tensor, goal: Tensor) -> Tensor:
    """Euclidean norm of the difference for each state, or the sum of those of a Jacobian's rows."""
    far = (mine - goal).flatten(1 if mine.ndim == 4 else 2)
    return torch.linalg.vector_norm(far, dim=-1).reshape(len(mine), -1).sum(1)


class Training:
    """One student in training.

    Parameters
    ----------
    settings : Settings
    seed : int
        Of the weights, the batches and the directions.
    train, validation, test : Targets
        Only ``train`` needs gradients; the student lives where it does.  Random numbers are drawn
        on the CPU, so that all devices see the same batches and directions.
    """

    def __init__(
        self, settings: Settings, seed: int, train: Targets, validation: Targets, test: Targets
    ) -> None:
        self.settings, self.train, self.validation, self.test = settings, train, validation, test
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(seed)  # batches: the same for each method
        self.sphere = torch.Generator().manual_seed(1_000_003 + seed)
        self.device = train.device
        # on a GPU, where a step is queued, the time that passes, which others share
        self.clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        self.net = Student(train.logs.shape[1], settings.activation).to(self.device)
        self.net = self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.net.parameters(), settings.learning_rate)
        self.goals = (train.logs / settings.temperature).log_softmax(-1)
        self.update = 0
        self.seconds = 0.0  # of computing, in all updates
        self.teacher_seconds = 0.0  # of those, for the teacher's gradients
        self.curve: dict[str, list[float]] = {}

    def step(self) -> None:
        """One update of Adam."""
        began = self.clock()
        s = self.settings
        chosen = torch.randint(len(self.train), (s.batch,), generator=self.generator)
        chosen = chosen.to(self.device)
        source = chosen.roll(1) if s.derivatives == "another" else chosen
        self._differentiate(chosen, source)
        self.optimizer.step()
        self.update += 1
        self.seconds += self.clock() - began

    def _differentiate(self, chosen: Tensor, source: Tensor) -> None:
        s = self.settings
        x, goals = self.train.frames(chosen), self.goals[chosen]
        directions, weight = [], s.alpha
        if s.alpha and s.projections:
            shape, draws = goals.shape[1:], range(s.projections)
            directions = [unit_vectors(len(x), shape, x, self.sphere) for _ in draws]
            weight /= s.projections
        elif s.alpha:
            units = torch.eye(goals.shape[1], device=self.device)
            directions = [unit.expand_as(goals) for unit in units]
        goal = functools.partial(self._goal, source)
        differentiate(self.net, x, goals, goal, directions, weight, s.norm == "squared")

    def _goal(self, source: Tensor, v: Tensor) -> Tensor:
        began = self.clock()
        gradient = self.train.gradient(source, v)
        self.teacher_seconds += self.clock() - began
        return gradient

    def note(self) -> None:
        """Add a point to the curves."""
        point = {"update": self.update, "seconds": round(self.seconds, 2)}
        point |= compare(self.net, self.test, len(self.test))
        point["validation_kl"] = compare(self.net, self.validation, SEEN)["kl"]
        point["train_kl"] = compare(self.net, self.train, SEEN)["kl"]
        for name, value in point.items():
            self.curve.setdefault(name, []).append(value)

    def due(self) -> set[int]:
        """Updates after which there is a point: their square roots are evenly spaced."""
        s = self.settings
        return {max(1, round(s.updates * (k / s.points) ** 2)) for k in range(1, s.points + 1)}

    def run(self, tick: Tick, path: Path | None = None) -> bool:
        """Train to the end; False if it was asked to stop, its state then written."""
        due = self.due()
        if path and path.exists():
            self._resume(path)
        while self.update < self.settings.updates:
            self.step()
            if self.update in due:
                self.note()
            if tick(self.update) and self.update < self.settings.updates:
                if path:
                    self._save(path)
                return False
        return True

    def _save(self, path: Path) -> None:
        notes = {
            "update": self.update,
            "seconds": [self.seconds, self.teacher_seconds],
            "curve": self.curve,
            "generator": self.generator.get_state().tolist(),
            "sphere": self.sphere.get_state().tolist(),
        }
        states.save(path, self.net, {"adam": self.optimizer}, notes)

    def _resume(self, path: Path) -> None:
        names = ("update", "seconds", "curve", "generator", "sphere")
        notes = states.load(path, self.net, {"adam": self.optimizer}, names)
        self.update, (self.seconds, self.teacher_seconds) = notes["update"], notes["seconds"]
        self.curve = notes["curve"]
        for name in ("generator", "sphere"):
            getattr(self, name).set_state(torch.tensor(notes[name], dtype=torch.uint8))


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
