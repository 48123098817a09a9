"""The regression experiment of section 4.1: Fig. 2 (right), Fig. 3 and Fig. 5-11.

Two-hidden-layer networks learn the seven functions of :mod:`sobolev_lib.functions` from N points,
on values only or on values and gradients.  A *setting* is one configuration without its seed;
settings that share everything that shapes the computation (N, steps, batch, activation, ...) are
trained together as one :class:`~sobolev_lib.stack.MLPStack`: seed by seed, or on a GPU all seeds.
"""

from __future__ import annotations

import itertools
import math
import os
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sobolev_lib import functions, kinks
from sobolev_lib.records import ledger, states
from sobolev_lib.records.sweep import Job, Result, Run, Tick
from sobolev_lib.regression import controls
from sobolev_lib.regression.arms import (
    ARMS,
    DEVIATIONS,
    EXPERIMENT,
    METHODS,
    SCHEDULES,
    Setting,
    config,
    family,
    settings,
)
from sobolev_lib.stack import Kernel, MLPStack

__all__ = ["ARMS", "DEVIATIONS", "EXPERIMENT", "METHODS", "Setting", "Training", "jobs", "settings"]

TEST_POINTS = 10_000


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
    scale_y: Tensor  # (E,): raw value = training value * scale_y + shift_y
    scale_x: Tensor  # (E, 2)
    shift_y: Tensor
    shift_x: Tensor

    @classmethod
    def of(cls, members: Sequence[Setting], seeds: Sequence[int], device: torch.device) -> Problem:
        """Draw the data of these members, each with its seed."""
        parts = [cls._one(*member) for member in zip(members, seeds, strict=True)]
        columns = [torch.stack(column).to(device) for column in zip(*parts, strict=True)]
        x, y, dy, *test = (column.float() for column in columns[:6])
        return cls(x, y, dy, (test[0], test[1], test[2]), *columns[6:])

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
            scale_y, scale_x, shift_y, shift_x,
        )  # fmt: skip

    def fresh(
        self, members: Sequence[Setting], count: int, source: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Points, values and gradients in training units: drawn anew, the same for equal functions.

        Functions are known where they are asked here: this is no use of the training points.
        """
        state, parts = source.get_state(), []
        for i, setting in enumerate(members):
            f = functions.get(setting.function)
            x = f.sample(count, source.set_state(state), torch.float64)
            shift_x, scale_x = self.shift_x[i].cpu(), self.scale_x[i].cpu()
            shift_y, scale_y = self.shift_y[i].cpu(), self.scale_y[i].cpu()
            slope = f.gradient(x) * (scale_x / scale_y)
            parts.append(((x - shift_x) / scale_x, (f(x) - shift_y) / scale_y, slope))
        x, y, dy = (torch.stack(part).to(self.x) for part in zip(*parts, strict=True))
        return x, y, dy

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


def checkpoints(steps: int) -> list[int]:
    """Steps at which the errors are measured: 0, then eight a decade from 10.

    The last step is included.  Runs of fewer than 1,000 steps are measured at their ends only: all
    those test points cost as much as some hundred steps.
    """
    if steps < 1_000:
        return sorted({0, steps})
    decades = math.log10(max(steps, 10) / 10)
    marks = {round(10 * 10 ** (k / 8)) for k in range(int(decades * 8) + 1)}
    return sorted({0, steps, *(m for m in marks if m < steps)})


class Training:
    """Training of one stack, resumable at any checkpoint.

    Parameters
    ----------
    members : sequence of Setting
        Settings of one program (:attr:`Setting.program`).
    seed : int or sequence of int
        Seed of points, initial weights and batches. Several: each setting is there with every seed.
    device : str or torch.device
        Where to train.
    folder : path, optional
        Where to keep the state; nothing is kept without it.
    save_every : float
        Seconds between two saved states.
    """

    def __init__(
        self, members: Sequence[Setting], seed: int | Sequence[int],
        device: str | torch.device = "cpu", folder: str | os.PathLike[str] | None = None,
        save_every: float = 60.0,
    ) -> None:  # fmt: skip
        if len({setting.program for setting in members}) != 1:
            raise ValueError("members must share everything but function and method")
        chosen = (seed,) if isinstance(seed, int) else tuple(seed)
        if len(chosen) > 1 and members[0].kernel in controls.DRAWING:
            raise ValueError(f"kernel is {members[0].kernel!r}, which draws for one seed at a time")
        together = list(itertools.product(ordered(members), chosen))
        self.members = [setting for setting, _ in together]
        self.seeds = [own for _, own in together]
        self.seed, self.device, self.save_every = chosen[0], torch.device(device), save_every
        self.setting = self.members[0]
        self.problem = Problem.of(self.members, self.seeds, self.device)
        self.stack = _stack(self.members, self.seeds).to(self.device)
        # On the CPU: the stack looks at it in each step, and a GPU would have to wait for that.
        self.weight = torch.tensor([s.weight * (s.method == "sobolev") for s in self.members])
        self.optimizer = torch.optim.Adam(
            self.stack.parameters(), lr=self.setting.learning_rate, fused=True
        )
        self.step, self.seconds = 0, 0.0
        self.curve: dict[str, list[Any]] = {"steps": []}
        self._epoch = -1
        self._shuffled: tuple[Tensor, ...] = ()
        who = [(s.function, s.method) for s in ordered(members)]
        which = "-".join(map(str, chosen))
        name = f"{zlib.crc32(repr((self.setting.program, who)).encode()):08x}"
        self.path = (
            Path(folder) / f"{family(self.setting.arm)}-{self.setting.n}-{name}-{which}.safetensors"
            if folder
            else None
        )
        if self.path and self.path.exists():
            self._load()

    def run(self, tick: Tick | None = None, until: int | None = None) -> bool:
        """Train to the last step (or ``until``), measuring at the checkpoints.

        Returns
        -------
        bool
            False if ``tick``, called with the steps done, asked to stop before that.
        """
        last = self.setting.steps if until is None else min(until, self.setting.steps)
        marks = set(checkpoints(self.setting.steps))
        if not self.curve["steps"]:
            self._measure()
        saved, stopped = time.monotonic(), False
        while self.step < last and not stopped:
            began = time.perf_counter()
            self._steps(min(self.step + 500, last, *(m for m in marks if m > self.step)))
            self.seconds += time.perf_counter() - began
            if self.step in marks:
                self._measure()
            stopped = tick is not None and tick(self.step)
            if self.path and time.monotonic() - saved > self.save_every:
                self._save()
                saved = time.monotonic()
        if self.path:
            self._save()
        return self.step >= last

    def _steps(self, last: int) -> None:
        for step in range(self.step, last):
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(step)
            self.optimizer.zero_grad()
            self._losses(step).sum().backward()
            self.optimizer.step()
        self.step = last

    def _losses(self, step: int) -> Tensor:
        """Losses of the members on the batch of a step, with whatever kernel the setting has."""
        batch, kind = self._batch(step), self.setting.kernel
        if self.setting.bandwidth is not None:
            width = controls.width(self.setting.bandwidth, kind, step, self.setting.steps)
            self.stack.kink_bandwidth = width
        if isinstance(self.stack.kernel, controls.Kernel):
            # From the step's number alone: a resumed run draws the same.
            self.stack.kernel.source = _generator("kernel", self.seed, step)
        if kind not in controls.ELSEWHERE:
            return self.stack.losses(*batch, self.weight)
        source = _generator(kind, self.seed, step)
        there = (
            controls.jittered(*batch, source)
            if kind == "jittered"
            else self.problem.fresh(self.members, self.setting.batch, source)
        )
        plain = controls.without_kernel(self.stack, *batch, self.weight)
        more = controls.slopes_term if kind == "slopes" else controls.boundary_term
        return plain + more(self.stack, *there, self.weight)

    def _rate(self, step: int) -> float:
        rate, start = self.setting.learning_rate, SCHEDULES[self.setting.schedule]
        part = step / self.setting.steps
        if start is None or part < start:
            return rate
        return rate * (1 + math.cos(math.pi * (part - start) / (1 - start))) / 2

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Points and targets of a step.

        A slice of the epoch's shuffle, the same places for all members of a seed; or everything.
        """
        data = (self.problem.x, self.problem.y, self.problem.dy)
        n, size = self.setting.points, self.setting.batch
        if size >= n:
            return data
        epoch, place = divmod(step, n // size)
        if self._epoch != epoch:
            # From the epoch's number alone: a resumed run sees the same batches.
            orders = {
                seed: torch.randperm(n, generator=_generator("batches", seed, epoch))
                for seed in set(self.seeds)
            }
            order = torch.stack([orders[seed] for seed in self.seeds]).to(self.device)
            self._epoch = epoch
            self._shuffled = tuple(t.take_along_dim(order[..., None], dim=1) for t in data)
        x, y, dy = (t[:, place * size : (place + 1) * size] for t in self._shuffled)
        return x, y, dy

    def _measure(self) -> None:
        self.curve["steps"].append(self.step)
        for name, values in self.problem.errors(self.stack).items():
            self.curve.setdefault(name, []).append(values)

    def results(self) -> list[Result]:
        """Return metrics of the members: curves rounded to four digits, final errors not."""
        seconds = self.seconds / len(self.members)
        return [Result(self._metrics(i), seconds) for i in range(len(self.members))]

    def _metrics(self, i: int) -> dict[str, Any]:
        names = [name for name in self.curve if name != "steps"]
        series = {name: [values[i] for values in self.curve[name]] for name in names}
        final = {name: ledger.number_or_null(values[-1]) for name, values in series.items()}
        return {
            **final,
            "curve": {
                "steps": self.curve["steps"],
                **{k: [ledger.number_or_null(v, 4) for v in s] for k, s in series.items()},
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


def _stack(members: Sequence[Setting], seeds: Sequence[int]) -> MLPStack:
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
        kernel=_kernel(setting),
        generator=[_generator("weights", seed) for seed in seeds],
    )


def _kernel(setting: Setting) -> Kernel:
    """The library's kernel, or one of the controls."""
    if (setting.kernel, setting.amplitude) == ("plain", 1.0):
        return kinks.logistic_
    return controls.Kernel(setting.kernel, setting.amplitude)


def ordered(chosen: Iterable[Setting]) -> list[Setting]:
    """Members of a stack in its order: values first, so that it works on slices without copies."""
    return sorted(chosen, key=lambda s: (METHODS.index(s.method), s.function))


def jobs(
    chosen: Iterable[Setting],
    seeds: Iterable[int],
    scale: str = "small",
    device: str = "cpu",
    folder: str | os.PathLike[str] | None = None,
    save_every: float = 60.0,
) -> list[Job]:
    """Jobs for a sweep, one for each program and seed: a stack of settings.

    The scale is what the records say: whoever asks for a run knows.  On a GPU all seeds are one job
    where the kernel allows it: a small stack leaves it idle between two calls.  A stack whose
    records are partly there is trained whole, so that its members' numbers do not depend on the
    history.
    """
    seeds, groups = tuple(seeds), dict[tuple[Any, ...], list[Setting]]()
    for setting in chosen:
        groups.setdefault(setting.program, []).append(setting)

    def together(members: Sequence[Setting]) -> bool:
        drawing = members[0].kernel in controls.DRAWING
        return torch.device(device).type == "cuda" and not drawing

    stacks = [(members, seeds) for members in groups.values() if together(members)]
    stacks += [
        (members, (seed,)) for seed in seeds for members in groups.values() if not together(members)
    ]
    return [
        Job(
            [
                Run(config(s), seed, scale, s.deviations())
                for s, seed in itertools.product(ordered(members), which)
            ],
            partial(train, members, which, device, folder, save_every),
            steps=members[0].steps,
            device=device,
        )
        for members, which in stacks
    ]


def train(
    members: Sequence[Setting],
    seed: int | Sequence[int],
    device: str = "cpu",
    folder: str | os.PathLike[str] | None = None,
    save_every: float = 60.0,
    tick: Tick | None = None,
) -> list[Result] | None:
    """Train the members of one program; their results, in the order of `ordered`, then by seed.

    Training resumes from ``folder`` if a state is there, and returns None if it was stopped.
    """
    training = Training(members, seed, device, folder, save_every)
    return training.results() if training.run(tick) else None
