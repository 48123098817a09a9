"""Which students are trained: the paper's two, controls, and short runs that choose their rates.

A *pilot* is a short run, judged on validation states only.  For each game and each row of
:data:`PILOTED` the learning rates are tried at the middle alpha, then the alphas at the best rate;
what was best is used at every fraction.  Shorter pilots mislead: Pong's students still say the
same of every state after 200 updates, and a large alpha is ahead at first and stops learning
sooner.  Pilots are records as all others are.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from sobolev_lib.checks import check_choice
from sobolev_lib.records import ledger
from sobolev_lib.records.ledger import Record
from sobolev_lib.records.sweep import Job, Result, Run, Tick

from . import data, milestones, teachers, weights
from .games import game_named
from .looking import agreement
from .networks import Student, Teacher
from .students import METRICS, Settings, Training
from .targets import Targets

EXPERIMENT = "distillation"
TEST_STATES = 3_000
LONGEST = 5_000  # decisions of a student's game: one that never serves would wait for ever

UNIFORM = 0.9  # part of the largest entropy above which a policy counts as uniform

RATES = (1e-3, 3e-4, 1e-4)
ALPHAS = (0.1, 1.0, 10.0)
PILOT: dict[str, Any] = {"fraction": 0.05, "updates": 600, "points": 4, "games": 0}
PILOT_SEED = 1_000
PILOTED: dict[str, dict[str, Any]] = {
    "values": {"method": "values"},
    "sobolev": {"method": "sobolev"},
    "squared": {"method": "sobolev", "norm": "squared"},
}
SCALED = {
    "squared": 0.05
}  # its alphas, times this: the gradient of |r|^2 is 2 |r| times that of |r|

EQUAL_COST = 2.25
ARMS: dict[str, tuple[dict[str, Any], ...]] = {
    "paper": ({"method": "values"}, {"method": "sobolev"}),
    "equal_cost": ({"method": "values", "longer": EQUAL_COST},),
    "null": ({"derivatives": "another"},),
    "temperature": ({"method": "values", "temperature": 2.0},),
    "jacobian": ({"projections": 0},),
    "squared": ({"norm": "squared"},),
    "alpha": ({"times": 0.1}, {"times": 10.0}),
    "silu": ({"method": "values", "activation": "silu"}, {"activation": "silu"}),
    "kinks": ({"activation": "kinks"},),
}
"""What each arm changes; ``longer`` multiplies the updates, ``times`` alpha."""

WAYS = {
    "ppo": "PPO on pixels",
    "dagger": "imitation of an expert on the console's memory",
    "kickstart": "PPO beside an expert on the console's memory, whose weight fades,",
}
KEPT = 0.05
"""Fraction whose students of seed 0 are kept, for pages that show what they see."""


def load_teacher(game: str) -> tuple[Teacher, dict[str, Any]]:
    """Return the committed teacher; its notes have the file's SHA-256 as ``weights``."""
    path = weights.path("teacher", game)
    net, notes = weights.load(path, Teacher(len(game_named(game).actions)))
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net, notes | {"weights": hashlib.sha256(path.read_bytes()).hexdigest()}


def recorded(game: str) -> data.Recording:
    """Return the committed recording.

    Raises
    ------
    RecordingError
        If it is missing or damaged, or of another teacher than the committed one.
    """
    recording = data.Recording.load(data.path(game))
    if recording.notes["weights"] != load_teacher(game)[1]["weights"]:
        raise data.RecordingError(
            f"the recording of {game} was played by another teacher than the committed weights; "
            f"record again: python -m sobolev_lib.distillation record --game {game}"
        )
    return recording


@functools.lru_cache(maxsize=1)
def sets(game: str, fraction: float, device: str = "cpu") -> tuple[Targets, Targets, Targets]:
    """Training, validation and test states of a game's recording, with the teacher's answers.

    Raises
    ------
    RecordingError
        As :func:`recorded`.
    """
    frames = data.replay(recorded(game))
    return answers(load_teacher(game)[0], frames, data.split(frames.starts, fraction), device)


def answers(
    teacher: Teacher,
    frames: data.Frames,
    parts: data.Split,
    device: str = "cpu",
    most: int = TEST_STATES,
) -> tuple[Targets, Targets, Targets]:
    """Ask the teacher; of the test states, at most ``most`` evenly spaced ones."""
    spread = numpy.linspace(0, len(parts.test) - 1, min(most, len(parts.test)))
    return (
        Targets(teacher, frames, parts.train, device=device),
        Targets(teacher, frames, parts.validation, False, device=device),
        Targets(teacher, frames, parts.test[spread.astype(numpy.int64)], False, device=device),
    )


# --- what to train --------------------------------------------------------------------------------


def sources(game: str) -> dict[str, str]:
    """What a record's configuration says of teacher and recording: digits of their hashes."""
    files = (data.path(game), weights.path("teacher", game))
    # a page asks a hundred times; another file at the same place has another time
    return _sources(game, *((str(f), f.stat().st_mtime_ns) for f in files if f.exists()))


@functools.lru_cache
def _sources(game: str, *files: tuple[str, int]) -> dict[str, str]:
    notes = recorded(game).notes
    return {"teacher": notes["weights"][:12], "recording": notes["frames"][:12]}


def config(settings: Settings, made_from: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration of a student's record."""
    return asdict(settings) | dict(made_from)


def pilots(
    game: str, row: str, records: Iterable[Record], made_from: Mapping[str, str]
) -> tuple[list[Settings], Settings | None]:
    """Pilots of a row of :data:`PILOTED`: those to run next, and the best one when all are done."""
    known = {ledger.key(r.config, r.scale, r.seed): r for r in records}

    def score(settings: Settings) -> float | None:
        found = known.get(ledger.key(config(settings, made_from), "paper", PILOT_SEED))
        return None if found is None else float(found.metrics["validation_kl"])

    alphas = [alpha * SCALED.get(row, 1.0) for alpha in ALPHAS]
    middle = Settings(game, alpha=alphas[1], **PILOT, **PILOTED[row])
    tried = [replace(middle, learning_rate=rate) for rate in RATES]
    for stage in range(2):
        if todo := [settings for settings in tried if score(settings) is None]:
            return todo, None
        best = min(tried, key=lambda settings: score(settings) or 0.0)
        if best.method == "values" or stage:
            break
        tried = [replace(best, alpha=alpha) for alpha in alphas]
    return [], best


def students(
    arm: str, game: str, fraction: float, chosen: Mapping[str, Settings], **given: Any
) -> list[Settings]:
    """Students of an arm, with the rate and alpha of their pilot.

    Parameters
    ----------
    arm : str
        Of :data:`ARMS`.
    game : str
    fraction : float
    chosen : mapping
        From a row of :data:`PILOTED` to its best pilot.
    **given
        Other entries of :class:`.students.Settings`.

    Raises
    ------
    ValueError
        If there is no such arm.
    """
    check_choice("arm", arm, ARMS)
    result = []
    for changes in ARMS[arm]:
        entries = {"method": "sobolev"} | given | changes
        longer, times = entries.pop("longer", 1.0), entries.pop("times", 1.0)
        pilot = chosen[row(entries)]
        alpha = pilot.alpha * times
        if entries.get("projections") == 0:  # a sum over rows where the others have one draw
            alpha /= len(game_named(game).actions)
        settings = Settings(
            game, fraction, learning_rate=pilot.learning_rate, alpha=alpha, **entries
        )
        result.append(replace(settings, updates=round(longer * settings.updates)))
    return result


def row(entries: Mapping[str, Any]) -> str:
    """Which row of :data:`PILOTED` chooses for a student."""
    if entries["method"] == "values":
        return "values"
    return "squared" if entries.get("norm") == "squared" else "sobolev"


def rows(names: Sequence[str]) -> list[str]:
    """Rows of :data:`PILOTED` that some arms need."""
    changes = [changes for name in names for changes in ARMS[name]]
    return list(dict.fromkeys(row({"method": "sobolev"} | each) for each in changes))


# --- jobs -----------------------------------------------------------------------------------------


def work(
    settings: Settings, seed: int, path: Path | None, kept: Path | None, device: str, tick: Tick
) -> list[Result] | None:
    """Train one student and measure it; see :class:`.sweep.Job`."""
    torch.backends.cudnn.allow_tf32 = False  # single precision means single precision
    training = Training(settings, seed, *sets(settings.game, settings.fraction, device))
    if not training.run(tick, path):
        return None
    metrics = measure(training, seed)
    if kept:
        notes = {"seed": seed, "fraction": settings.fraction, "method": settings.method}
        weights.save(kept, training.net, notes)
    return [Result(metrics, training.seconds)]


def measure(training: Training, seed: int) -> dict[str, Any]:
    """Metrics of a student at its end: on test states, of its gradients, in play."""
    settings, curve = training.settings, training.curve
    best = int(numpy.argmin(curve["validation_kl"]))
    metrics: dict[str, Any] = {
        name: curve[name][-1] for name in (*METRICS, "validation_kl", "train_kl")
    }
    metrics |= {f"best_{name}": curve[name][best] for name in (*METRICS, "update")}
    metrics |= {"curve": curve, "train_states": len(training.train)}
    spread = entropy(training.test.logs)
    metrics |= {
        "teacher_entropy": float(spread.mean()),
        "teacher_uniform": float((spread > UNIFORM).float().mean()),
        "step_seconds": training.seconds / settings.updates,
        "teacher_seconds": training.teacher_seconds / settings.updates,
    }
    if settings.games:
        metrics |= agreement(training.net, training.test)
        met = milestones.returns(
            training.net.cpu(), settings.game, teachers.frames, seed,
            settings.games, settings.games, quiet=True, longest=LONGEST,
        )  # fmt: skip
        metrics |= {"return_mean": float(numpy.mean(met["returns"])), "returns": met["returns"]}
    return metrics


def entropy(logs: Tensor) -> Tensor:
    """Entropy of policies (n, actions) given by their logarithms, as a part of a uniform one's."""
    return -(logs.exp() * logs).sum(1) / math.log(logs.shape[1])


def jobs(
    chosen: Sequence[Settings],
    seeds: Sequence[int],
    folder: Path | None = None,
    keep: bool = False,
    device: str = "cpu",
) -> list[Job]:
    """Return one job for each student.

    Parameters
    ----------
    chosen : sequence of Settings
    seeds : sequence of int
    folder : Path, optional
        For states of students that are stopped.
    keep : bool
        Write the weights of seed 0 (:func:`kept`).
    device : str
    """
    result = []
    for settings in chosen:
        made_from, teacher = sources(settings.game), load_teacher(settings.game)[1]
        for seed in seeds:
            run = Run(config(settings, made_from), seed, "paper", deviations(settings, teacher))
            name = hashlib.sha256(run.key.encode()).hexdigest()[:16]
            path = folder / f"student-{name}.safetensors" if folder else None
            place = kept(settings) if keep and seed == 0 else None
            result.append(
                Job(
                    [run],
                    functools.partial(work, settings, seed, path, place, device),
                    settings.updates,
                    device,
                    libraries=("ale_py",),
                    states=[path] if path else [],
                )
            )
    return result


def kept(settings: Settings) -> Path:
    """Where the weights of a student of the paper's arm are kept."""
    percent = f"{100 * settings.fraction:g}"
    name = f"student-{settings.game}-{percent}-{settings.method}.safetensors"
    return ledger.beside("students") / name


def load_student(game: str, method: str, fraction: float = KEPT) -> Student:
    """Return a student that was kept.

    Raises
    ------
    ValueError
        If there is none.
    """
    path = kept(Settings(game, fraction, method))
    net = Student(len(game_named(game).actions))
    net = weights.load(path, net)[0]
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def deviations(settings: Settings, teacher: Mapping[str, Any]) -> list[str]:
    """Where a student differs from the paper's, or decides what the paper leaves open."""
    said = [
        f"The teacher was trained by {WAYS[teacher['route']]} for {teacher['steps']} decisions and "
        f"returns {teacher['return_mean']:.1f}; the paper's by A3C for 80e6 steps.",
        f"alpha is {settings.alpha:g} and the number of updates {settings.updates}; "
        "the paper states neither.",
        "Frames are scaled from 0 to 1 and the gradient is taken with respect to all four of them; "
        "one v for each state; KL(student, teacher) is minimised, as printed.",
        "A validation part is cut from the training states; the paper names none.",
    ]
    if settings.games:
        said.append(
            "Learning rate and alpha had the lowest validation divergence after "
            f"{PILOT['updates']} updates with {100 * PILOT['fraction']:g} % of the states, one "
            "seed, and are the same for all fractions; the paper chooses the rate for each game "
            "and method, in a way that it does not state."
        )
    printed = Settings(settings.game)
    for name in ("activation", "norm", "projections", "derivatives", "temperature", "batch"):
        if getattr(settings, name) != getattr(printed, name):
            said.append(f"{name} is {getattr(settings, name)}, not {getattr(printed, name)}.")
    return said
