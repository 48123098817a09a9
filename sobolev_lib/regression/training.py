"""The regression experiment of section 4.1: Fig. 2 (right), Fig. 3 and Fig. 5-11.

Two-hidden-layer networks learn the seven functions of :mod:`sobolev_lib.functions` from N points,
on values only or on values and gradients.  A *setting* is one configuration without its seed;
settings that share everything that shapes the computation (N, steps, batch, activation, ...) are
trained together as one :class:`~sobolev_lib.stack.MLPStack`, seed by seed.
"""

from __future__ import annotations

import itertools
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sobolev_lib import functions
from sobolev_lib.records import ledger, states
from sobolev_lib.stack import MLPStack

EXPERIMENT = "regression"
METHODS = ("values", "sobolev")
TEST_POINTS = 10_000

DEVIATIONS = {
    "steps": "The paper gives no number of steps: {steps} here, "
    "the same for every function, size and method.",
    "batch": "The paper gives no batch size: {batch} here (all points where there are no more).",
    "initialization": "The paper gives no initialisation: "
    "{initialization} (default of the paper's library) here.",
    "seeds": "The paper does not say how many runs a bar shows: each record here is one seed.",
    "test": "Test points are drawn once per function, and shared by all seeds, sizes and methods.",
}


@dataclass(frozen=True)
class Setting:
    """One configuration of the experiment; the defaults are the paper's, where it says.

    Parameters
    ----------
    function : str
        Key of :data:`sobolev_lib.functions.FUNCTIONS`.
    n : int
        Number of training points; the paper uses 20, 100 and 10,000.
    method : {"values", "sobolev"}
        What is matched.
    arm : str
        Name of the variant; "paper" is the paper's own.
    steps, batch : int
        Number of Adam steps, and points per step (drawn without replacement within an epoch; at
        most the training set).
    learning_rate : float
        Adam's; 3e-5 in the paper.
    schedule : {"constant", "cosine"}
        Learning rate over the steps.
    activation : str
        Key of :data:`sobolev_lib.closed_form.ACTIVATIONS`.
    bandwidth : float or None
        Kernel width at the kinks (:mod:`sobolev_lib.kinks`), ``None`` for plain ReLU.
    scaled_bandwidth : bool
        Bandwidth in units of the spread of each layer's pre-activations.
    normalized : bool
        Train on z-scored inputs and targets (statistics of the training points); errors are always
        reported in raw units.
    initialization : {"sonnet", "torch"}
        See :class:`~sobolev_lib.stack.MLPStack`.
    points_factor : int
        Training points per n: 3 in the arm "equal_information" (a value and a gradient are three
        numbers in the plane).
    """

    function: str
    n: int
    method: str
    arm: str = "paper"
    steps: int = 60_000
    batch: int = 100
    learning_rate: float = 3e-5
    schedule: str = "constant"
    activation: str = "relu"
    bandwidth: float | None = None
    scaled_bandwidth: bool = False
    normalized: bool = False
    initialization: str = "sonnet"
    points_factor: int = 1

    def __post_init__(self) -> None:
        functions.get(self.function)
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; it must be one of {', '.join(METHODS)}")
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule is {self.schedule!r}; it must be 'constant' or 'cosine'")
        for name in ("n", "steps", "batch", "points_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive")

    @property
    def points(self) -> int:
        """Number of training points."""
        return self.n * self.points_factor

    @property
    def program(self) -> tuple[Any, ...]:
        """What members of one stack must share: everything but function and method."""
        shared = asdict(self)
        del shared["function"], shared["method"], shared["arm"]
        return (self.arm, *shared.items())

    def deviations(self) -> list[str]:
        """Where this setting decides what the paper leaves open, or departs from it."""
        notes = [text.format(**asdict(self)) for text in DEVIATIONS.values()]
        paper = Setting(self.function, self.n, self.method)
        for name in (
            "learning_rate",
            "schedule",
            "activation",
            "bandwidth",
            "normalized",
            "points_factor",
        ):
            if getattr(self, name) != getattr(paper, name):
                notes.append(
                    f"{name} is {getattr(self, name)}; the paper has {getattr(paper, name)}."
                )
        return notes


FAST: dict[str, Any] = {"normalized": True, "learning_rate": 1e-3, "steps": 6_000}
"""What the arms beside the paper's share: z-scored data and a higher rate.

At that rate six thousand steps are enough to compare.
"""

ARMS: dict[str, list[dict[str, Any]]] = {
    "paper": [{}],
    "raw_fast": [{**FAST, "normalized": False, "schedule": "cosine"}],
    "normalized": [dict(FAST)],
    "schedule": [{**FAST, "schedule": "cosine"}],
    "activation": [
        {**FAST, "schedule": "cosine", "bandwidth": 0.1},
        {**FAST, "schedule": "cosine", "activation": "silu"},
        {**FAST, "schedule": "cosine", "activation": "tanh"},
        {**FAST, "schedule": "cosine", "activation": "softplus"},
    ],
    "bandwidth": [
        {**FAST, "schedule": "cosine", "bandwidth": h, "scaled_bandwidth": s}
        for h, s in ((0.03, False), (0.3, False), (0.1, True), (0.3, True))
    ],
    "equal_information": [{**FAST, "schedule": "cosine", "points_factor": 3}],
    "paper_kernel": [{"bandwidth": 0.1, "scaled_bandwidth": True}],
    "small_batch": [{"batch": 20}],
    "paper_torch_initialization": [{"initialization": "torch"}],
}
"""Variants of the experiment: what each changes in a :class:`Setting`.

A list: an arm can hold several.
"""


def settings(
    arm: str = "paper",
    sizes: Sequence[int] = (20, 100, 10_000),
    names: Sequence[str] = tuple(functions.FUNCTIONS),
    methods: Sequence[str] = METHODS,
    **changes: Any,
) -> list[Setting]:
    """Every setting of an arm, ``changes`` on top.

    Raises
    ------
    ValueError
        If the arm, a function or a method is unknown.
    """
    if arm not in ARMS:
        raise ValueError(f"arm is {arm!r}; it must be one of {', '.join(ARMS)}")
    if arm == "equal_information":
        methods = [m for m in methods if m == "values"]
    return [
        Setting(name, n, method, arm=arm, **{**variant, **changes})
        for variant, n, method, name in itertools.product(ARMS[arm], sizes, methods, names)
        # The kernel does nothing to values alone.
        if method == "sobolev" or "bandwidth" not in variant
    ]


def training_points(setting: Setting, seed: int) -> Tensor:
    """Training points (points, 2) in float64: the first of one stream per function and seed.

    Larger sets contain the smaller ones, both methods see the same points, and so do all arms.
    """
    return functions.get(setting.function).sample(
        setting.points, _generator("train", setting.function, seed), torch.float64
    )


def test_points(name: str) -> Tensor:
    """The 10,000 test points (10000, 2) of a function in float64, the same for all runs."""
    return functions.get(name).sample(TEST_POINTS, _generator("test", name, 0), torch.float64)


def _generator(*words: str | int) -> torch.Generator:
    """Return a generator whose stream depends on the words only (crc32: equal on all machines)."""
    return torch.Generator().manual_seed(zlib.crc32(repr(words).encode()))


@dataclass
class Problem:
    """Data of the members of one stack: training and test points, their targets, and the units."""

    x: Tensor  # (E, N, 2) in training units, y (E, N, 1), dy (E, N, 2)
    y: Tensor
    dy: Tensor
    test: tuple[Tensor, Tensor, Tensor]  # in training units
    scale_y: Tensor  # (E,): raw value = training value * scale_y + shift
    scale_x: Tensor  # (E, 2)

    @classmethod
    def of(cls, members: Sequence[Setting], seed: int, device: torch.device) -> Problem:
        """Draw the data of these members for a seed."""
        parts = [cls._one(setting, seed) for setting in members]
        columns = [torch.stack(column).to(device) for column in zip(*parts, strict=True)]
        x, y, dy, *test = (column.float() for column in columns[:6])
        return cls(x, y, dy, (test[0], test[1], test[2]), columns[6], columns[7])

    @staticmethod
    def _one(setting: Setting, seed: int) -> tuple[Tensor, ...]:
        f = functions.get(setting.function)
        x, u = training_points(setting, seed), test_points(setting.function)
        y = f(x)
        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        shift_x, scale_x, shift_y, scale_y = zero.expand(2), one.expand(2), zero, one
        if setting.normalized:
            shift_x, scale_x, shift_y, scale_y = x.mean(dim=0), x.std(dim=0), y.mean(), y.std()
        slope = scale_x / scale_y
        return (
            (x - shift_x) / scale_x, (y - shift_y) / scale_y, f.gradient(x) * slope,
            (u - shift_x) / scale_x, (f(u) - shift_y) / scale_y, f.gradient(u) * slope,
            scale_y, scale_x,
        )  # fmt: skip

    def errors(self, stack: MLPStack, chunk: int = 1_000) -> dict[str, list[float]]:
        """Test and training errors of each member in raw units.

        They are means over points; those of gradients are summed over components.
        """
        found: dict[str, list[float]] = {}
        for prefix, (x, y, dy) in (("test", self.test), ("train", (self.x, self.y, self.dy))):
            value, slope = torch.zeros(stack.members), torch.zeros(stack.members)
            with torch.no_grad():
                for part in range(0, x.shape[1], chunk):
                    here = slice(part, part + chunk)
                    misfit = (stack(x[:, here]) - y[:, here]) * self.scale_y.view(-1, 1, 1).float()
                    tilt = (stack.gradient(x[:, here]) - dy[:, here]) * (
                        self.scale_y[:, None] / self.scale_x
                    )[:, None].float()
                    value += misfit.double().square().sum(dim=(1, 2)).cpu()
                    slope += tilt.double().square().sum(dim=(1, 2)).cpu()
            found[f"{prefix}_mse"] = (value / x.shape[1]).tolist()
            found[f"{prefix}_gradient_mse"] = (slope / x.shape[1]).tolist()
        return found


def checkpoints(steps: int, per_decade: int = 8) -> list[int]:
    """Steps at which the errors are measured: 0, then evenly in the logarithm from 10.

    The last step is included.
    """
    decades = math.log10(max(steps, 10) / 10)
    marks = {round(10 * 10 ** (k / per_decade)) for k in range(int(decades * per_decade) + 1)}
    return sorted({0, steps, *(m for m in marks if m < steps)})


class Training:
    """Training of one stack for one seed, resumable at any checkpoint.

    Parameters
    ----------
    members : sequence of Setting
        Settings of one program (:attr:`Setting.program`).
    seed : int
        Seed of points, initial weights and batches.
    device : str or torch.device
        Where to train.
    folder : path, optional
        Where to keep the state; nothing is kept without it.
    save_every : float
        Seconds between two saved states.
    """

    def __init__(
        self, members: Sequence[Setting], seed: int, device: str | torch.device = "cpu",
        folder: str | os.PathLike[str] | None = None, save_every: float = 60.0,
    ) -> None:  # fmt: skip
        if len({setting.program for setting in members}) != 1:
            raise ValueError("members must share everything but function and method")
        # Values first: the stack then works on slices without copies.
        self.members = sorted(members, key=lambda s: (METHODS.index(s.method), s.function))
        self.seed, self.device, self.save_every = seed, torch.device(device), save_every
        self.setting = self.members[0]
        self.problem = Problem.of(self.members, seed, self.device)
        self.stack = _stack(self.members, seed).to(self.device)
        # On the CPU: the stack looks at it in each step, and a GPU would have to wait for that.
        self.weight = torch.tensor([float(s.method == "sobolev") for s in self.members])
        self.optimizer = torch.optim.Adam(
            self.stack.parameters(), lr=self.setting.learning_rate, fused=True
        )
        self.step, self.seconds = 0, 0.0
        self.curve: dict[str, list[Any]] = {"steps": []}
        self._epoch = -1
        self._shuffled: tuple[Tensor, ...] = ()
        who = [(s.function, s.method) for s in self.members]
        name = f"{zlib.crc32(repr((self.setting.program, who)).encode()):08x}"
        self.path = (
            Path(folder) / f"{self.setting.arm}-{self.setting.n}-{name}-{seed}.safetensors"
            if folder
            else None
        )
        if self.path and self.path.exists():
            self._load()

    def run(
        self, progress: Callable[[int], object] | None = None, until: int | None = None
    ) -> None:
        """Train to the last step (or ``until``), measuring at the checkpoints."""
        last = self.setting.steps if until is None else min(until, self.setting.steps)
        marks = set(checkpoints(self.setting.steps))
        if not self.curve["steps"]:
            self._measure()
        saved = time.monotonic()
        while self.step < last:
            began = time.perf_counter()
            self._steps(min(self.step + 500, last, *(m for m in marks if m > self.step)))
            self.seconds += time.perf_counter() - began
            if self.step in marks:
                self._measure()
            if self.path and time.monotonic() - saved > self.save_every:
                self._save()
                saved = time.monotonic()
            if progress:
                progress(self.step)
        if self.path:
            self._save()

    def _steps(self, last: int) -> None:
        for step in range(self.step, last):
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(step)
            self.optimizer.zero_grad()
            self.stack.losses(*self._batch(step), self.weight).sum().backward()
            self.optimizer.step()
        self.step = last

    def _rate(self, step: int) -> float:
        rate = self.setting.learning_rate
        return (
            rate
            if self.setting.schedule == "constant"
            else rate * (1 + math.cos(math.pi * step / self.setting.steps)) / 2
        )

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Points and targets of a step.

        A slice of the epoch's shuffle, the same places for all members; or everything.
        """
        data = (self.problem.x, self.problem.y, self.problem.dy)
        n, size = self.setting.points, self.setting.batch
        if size >= n:
            return data
        epoch, place = divmod(step, n // size)
        if self._epoch != epoch:
            # From the epoch's number alone: a resumed run sees the same batches.
            source = _generator("batches", self.seed, epoch)
            order = torch.randperm(n, generator=source).to(self.device)
            self._epoch, self._shuffled = epoch, tuple(t.index_select(1, order) for t in data)
        x, y, dy = (t[:, place * size : (place + 1) * size] for t in self._shuffled)
        return x, y, dy

    def _measure(self) -> None:
        self.curve["steps"].append(self.step)
        for name, values in self.problem.errors(self.stack).items():
            self.curve.setdefault(name, []).append(values)

    def records(self) -> list[ledger.Record]:
        """Return the records of the members.

        The curves are rounded to four digits, the final errors are not.
        """
        memory, device = ledger.peak_memory(self.device), ledger.device_name(self.device)
        return [
            ledger.Record(
                EXPERIMENT,
                config(setting),
                self.seed,
                self._metrics(i),
                "paper" if setting.steps >= 1_000 else "small",
                setting.deviations(),
                device=device,
                seconds=round(self.seconds / len(self.members), 2),
                peak_memory=memory,
                **ledger.provenance(),
            )
            for i, setting in enumerate(self.members)
        ]

    def _metrics(self, i: int) -> dict[str, Any]:
        names = [name for name in self.curve if name != "steps"]
        series = {name: [values[i] for values in self.curve[name]] for name in names}
        final = {name: _number(values[-1]) for name, values in series.items()}
        return {
            **final,
            "curve": {
                "steps": self.curve["steps"],
                **{k: [_number(v, 4) for v in s] for k, s in series.items()},
            },
        }

    def _save(self) -> None:
        assert self.path is not None
        notes = {"step": self.step, "seconds": self.seconds, "curve": self.curve}
        states.save(self.path, self.stack, {"adam": self.optimizer}, notes)

    def _load(self) -> None:
        assert self.path is not None
        names = ("step", "seconds", "curve")
        notes = states.load(self.path, self.stack, {"adam": self.optimizer}, names)
        self.step, self.seconds, self.curve = notes["step"], notes["seconds"], notes["curve"]


def _stack(members: Sequence[Setting], seed: int) -> MLPStack:
    """Untrained networks; a seed's initial weights are the same for all functions and methods."""
    setting = members[0]
    return MLPStack(
        len(members),
        2,
        (256, 256),
        setting.activation,
        kink_bandwidth=setting.bandwidth,
        scale_bandwidth=setting.scaled_bandwidth,
        initialization=setting.initialization,
        generator=[_generator("weights", seed) for _ in members],
    )


def _number(value: float, digits: int | None = None) -> float | None:
    if not math.isfinite(value):
        return None  # a run that diverged
    return value if digits is None else float(f"{value:.{digits}g}")


def config(setting: Setting) -> dict[str, Any]:
    """Entries of a setting as the ledger holds them."""
    return asdict(setting)


def jobs(
    chosen: Iterable[Setting], seeds: Iterable[int], done: set[str]
) -> list[tuple[list[Setting], int]]:
    """Group settings into stacks: one job per program and seed.

    Runs whose identity is in ``done`` are left out.  A stack whose records are partly there is
    trained whole, so that its members' numbers do not depend on the history.
    """
    groups: dict[tuple[Any, ...], list[Setting]] = {}
    for setting in chosen:
        groups.setdefault(setting.program, []).append(setting)
    wanted = []
    for seed in seeds:
        for members in groups.values():
            scale = "paper" if members[0].steps >= 1_000 else "small"
            if any(ledger.key(config(s), scale, seed) not in done for s in members):
                wanted.append((members, seed))
    return wanted


def train(
    members: Sequence[Setting],
    seed: int,
    device: str = "cpu",
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[int], object] | None = None,
    save_every: float = 60.0,
) -> list[ledger.Record]:
    """Train the members of one program for one seed and return their records.

    Training resumes from ``folder`` if a state is there.
    """
    training = Training(members, seed, device, folder, save_every)
    training.run(progress)
    return training.records()


def sweep(
    chosen: Sequence[Setting],
    seeds: Sequence[int],
    book: ledger.Ledger | None = None,
    device: str = "cpu",
    folder: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    quiet: bool = False,
    save_every: float = 60.0,
) -> int:
    """Train every setting for every seed and enter the records.

    Those that are there already are not trained again.

    Parameters
    ----------
    chosen : sequence of Setting
        Settings, see :func:`settings`.
    seeds : sequence of int
        Seeds.
    book : Ledger, optional
        Where to enter records; the default ledger of the experiment unless given.  Only this
        process writes it.
    device : str
        Where to train.
    folder : path, optional
        Where to keep states for resuming (about 45 MB for 14 networks).
    executor : concurrent.futures.Executor, optional
        Runs the jobs; in this process, one after the other, unless given.
    quiet : bool
        No progress bar.
    save_every : float
        Seconds between two saved states of a job.

    Returns
    -------
    int
        Number of records entered.
    """
    ledger.provenance()  # now: the checkout may move on while this runs
    book = book or ledger.Ledger(EXPERIMENT)
    todo = jobs(chosen, seeds, book.keys())
    total = sum(members[0].steps for members, _ in todo)
    entered = 0
    with tqdm(total=total, unit="step", unit_scale=True, disable=quiet, smoothing=0.05) as bar:
        if executor is None:
            for members, seed in todo:
                entered += book.append(train(members, seed, device, folder, _Tick(bar), save_every))
            return entered
        waiting = {}
        for members, seed in todo:
            job = executor.submit(train, members, seed, device, folder, None, save_every)
            waiting[job] = members[0].steps
        for future in as_completed(waiting):
            entered += book.append(future.result())
            bar.update(waiting[future])
    return entered


class _Tick:
    """Move a progress bar to the step that a job has reached.

    The first call shows what a resumed job had done.
    """

    def __init__(self, bar: Any) -> None:
        self.bar, self.done = bar, 0

    def __call__(self, step: int) -> None:
        self.bar.update(step - self.done)
        self.done = step
