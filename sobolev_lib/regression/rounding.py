"""The same runs once more, on other kernels: how far apart rounding alone takes them.

A processor adds a sum in its own order, and rounds once or twice where it multiplies and adds.
PyTorch takes the newest kernels that the processor has; ``ATEN_CPU_CAPABILITY`` takes older ones.
Seed, data and initial weights are those of runs that the regression ledger has.  Each run here is
compared with that one, or with the same one on other kernels::

    python -m sobolev_lib rounding --seeds 5
    ATEN_CPU_CAPABILITY=default python -m sobolev_lib rounding --seeds 5
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sobolev_lib import functions
from sobolev_lib.records import ledger
from sobolev_lib.records.summary import Interval, difference, log_errors
from sobolev_lib.records.sweep import Job, Result, Run, Tick
from sobolev_lib.records.table import Table
from sobolev_lib.regression.arms import Setting, config, settings
from sobolev_lib.regression.training import ordered, train

__all__ = ["EXPERIMENT", "ROWS", "Twins", "jobs", "kernels"]

EXPERIMENT = "rounding"
N = 100
ROWS = {
    "ReLU, values only": ("schedule", "values"),
    "ReLU, Sobolev": ("schedule", "sobolev"),
    "Kink kernel, Sobolev": ("activation/kernel", "sobolev"),
    "SiLU, values only": ("activation/silu", "values"),
    "SiLU, Sobolev": ("activation/silu", "sobolev"),
}
"""Arm and method of what is run again, at N = 100."""


def kernels() -> str:
    """Name of the set of kernels that this process uses, such as ``avx2`` or ``default``."""
    return torch.backends.cpu.get_cpu_capability().lower()


def _config(setting: Setting, which: str | None) -> dict[str, Any]:
    return config(setting) | ({"kernels": which} if which else {})


def _kernels_of(runs: Sequence[ledger.Record]) -> str | None:
    """The set that all runs share; those of the regression ledger do not say which it was."""
    sets = {r.config.get("kernels") for r in runs}
    if len(sets) != 1:
        raise ValueError(f"the runs have the kernels {list(sets)}; give those of one set")
    return sets.pop()


def _run(members: Sequence[Setting], seed: int, tick: Tick | None = None) -> list[Result] | None:
    """Train a stack; keep the test errors only, at the end and at the checkpoints."""
    found = train(members, seed, tick=tick)
    return found and [
        replace(
            result,
            metrics={
                "test_mse": result.metrics["test_mse"],
                "curve": {k: result.metrics["curve"][k] for k in ("steps", "test_mse")},
            },
        )
        for result in found
    ]


def jobs(seeds: Sequence[int], names: Sequence[str] = tuple(functions.FUNCTIONS)) -> list[Job]:
    """Training with this process's kernels, for a sweep; an arm's functions are one stack."""
    which, made = kernels(), []
    for seed, arm in itertools.product(seeds, dict.fromkeys(arm for arm, _ in ROWS.values())):
        members = ordered(settings(arm, [N], names))
        runs = [Run(_config(s, which), seed, "paper", s.deviations()) for s in members]
        made.append(Job(runs, partial(_run, members, seed), steps=members[0].steps))
    return made


class Twins:
    """Runs and the same runs of the regression ledger, paired by function and seed.

    Parameters
    ----------
    again : sequence of Record
        Of this experiment, with one set of kernels.
    first : sequence of Record
        Of the regression experiment, or of this one with another set.

    Raises
    ------
    ValueError
        If there is no run, or runs are of several sets of kernels.
    """

    def __init__(self, again: Sequence[ledger.Record], first: Sequence[ledger.Record]) -> None:
        self.again, self.kernels = list(again), _kernels_of(again)
        self.first, self.before = list(first), _kernels_of(first)
        there = {r.config["function"] for r in again}
        self.names = [name for name in functions.FUNCTIONS if name in there]
        self.steps: list[int] = again[0].metrics["curve"]["steps"]

    def pair(self, row: str, name: str) -> tuple[list[ledger.Record], list[ledger.Record]]:
        """Records of a row on a function, first and again, of the seeds that have both."""
        arm, method = ROWS[row]
        [setting] = settings(arm, [N], [name], [method])
        first = ledger.select(self.first, _config(setting, self.before), "paper")
        again = ledger.select(self.again, _config(setting, self.kernels))
        both = {r.seed for r in first} & {r.seed for r in again}
        return [r for r in first if r.seed in both], [r for r in again if r.seed in both]

    def apart(self, row: str) -> NDArray[np.float64]:
        """Decades between the test errors of two equal runs: (pairs, checkpoints)."""
        found = []
        for name in self.names:
            for pair in zip(*self.pair(row, name), strict=True):
                curves = np.array([r.metrics["curve"]["test_mse"] for r in pair], dtype=float)
                found.append(np.abs(np.subtract(*np.log10(curves))))
        return np.array(found).reshape(-1, len(self.steps))

    def seeds_apart(self, row: str) -> NDArray[np.float64]:
        """Decades between the final test errors of two seeds: (pairs of all functions,)."""
        found = []
        for name in self.names:
            errors = log_errors(self.pair(row, name)[1])
            found += [abs(a - b) for a, b in itertools.combinations(errors.values(), 2)]
        return np.array(found)

    def gains(self, name: str) -> tuple[Interval | None, ...]:
        """Decades that a ReLU network gains by slopes on a function, first and again."""
        plain = self.pair("ReLU, values only", name)
        slopes = self.pair("ReLU, Sobolev", name)
        return tuple(
            difference(log_errors(without), log_errors(with_))
            for without, with_ in zip(plain, slopes, strict=True)
        )


def table(twins: Twins) -> Table:
    """Decades between two equal runs at the end, a row each, beside those between two seeds."""
    rows = {}
    for row in ROWS:
        if len(apart := twins.apart(row)):
            others = twins.seeds_apart(row)
            rows[row] = {
                "runs": len(apart),
                "median": float(np.median(apart[:, -1])),
                "largest": float(apart[:, -1].max()),
                "two seeds, median": float(np.median(others)) if len(others) else math.nan,
            }
    columns = ("median", "largest", "two seeds, median")
    return Table(rows, dict.fromkeys(columns, ".3f"), corner="decades apart")


def verdicts(twins: Twins) -> str:
    """Sentences: on how many functions slopes lower the error, first and again; what changed."""
    pairs = {name: tuple(filter(None, twins.gains(name))) for name in twins.names}
    signs = {k: tuple(gain.sign for gain in pair) for k, pair in pairs.items() if len(pair) == 2}
    if not signs:
        return "Two seeds at least are needed to compare verdicts."
    first, again = zip(*signs.values(), strict=True)
    seeds = min(gain.count for name in signs for gain in pairs[name])
    counts = {sign: f"{first.count(sign)} and {again.count(sign)}" for sign in (1, -1)}
    said = (
        f"Of {len(signs)} functions, first and again, slopes lower the error of ReLU on {counts[1]}"
        f"{f' and raise it on {counts[-1]}' if -1 in (*first, *again) else ''} "
        f"(95 % intervals over the same {seeds} seeds)."
    )
    changed = [functions.get(name).title for name, (a, b) in signs.items() if a != b]
    end = f"The verdict changes on {', '.join(changed)}" if changed else "No verdict changes"
    return f"{said} {end}."
