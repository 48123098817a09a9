"""Numbers of the regression experiment, read from its ledger; figures and claims draw on them.

A *line* is an arm and a method, ``("schedule", "sobolev")``.  With a function and a size it is one
whole configuration, and that alone decides which records answer.  A run is read at three budgets:
at its last step, at a quarter of the steps, and at its own best step on the test points, which no
user could choose but which shows what a stopping rule decides.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.records.ledger import Ledger, LedgerError, Record
from sobolev_lib.records.summary import FEWEST, Interval, difference, interval, log_errors
from sobolev_lib.regression import arms, kriging
from sobolev_lib.regression import training as regression

Line = tuple[str, str]
SIZES = (20, 100, 10_000)
READINGS = {"last": "last step", "quarter": "a quarter of the steps", "best": "best step"}
"""Where a run is read."""
LEARNT = 0.1
"""Error over variance of the target above which a function was hardly learnt."""

VALUES: Line = ("paper", "values")
SOBOLEV: Line = ("paper", "sobolev")
_PLAIN, _SLOPES = ("schedule", "values"), ("schedule", "sobolev")
KNOBS: dict[str, tuple[Line, Line]] = {
    "Sobolev for values, paper's setting": (VALUES, SOBOLEV),
    "Sobolev for values, normalised, annealed": (_PLAIN, _SLOPES),
    "Rate 1e-3 annealed, a tenth of the steps": (SOBOLEV, ("raw_fast", "sobolev")),
    "Data normalised, paper's rate and steps": (SOBOLEV, ("paper_normalized", "sobolev")),
    "Data normalised, 1e-3 annealed": (("raw_fast", "sobolev"), _SLOPES),
    "Rate annealed, not constant": (("normalized", "sobolev"), _SLOPES),
    "Four times the steps": (_SLOPES, ("long", "sobolev")),
    "Batches of 20": (SOBOLEV, ("small_batch", "sobolev")),
    "PyTorch's initial weights": (_SLOPES, ("torch_initialization", "sobolev")),
    "Weight of the slopes 0.1": (_SLOPES, ("weight/0.1", "sobolev")),
    "Weight of the slopes 0.01": (_SLOPES, ("weight/0.01", "sobolev")),
    "Kink kernel": (_SLOPES, ("activation/kernel", "sobolev")),
    "SiLU": (_SLOPES, ("activation/silu", "sobolev")),
    "Three times as many values, no slopes": (_PLAIN, ("equal_information", "values")),
    "… with SiLU on both sides": (
        ("activation/silu", "values"),
        ("equal_information/silu", "values"),
    ),
}
"""Choices, and what is compared for each: first slopes with values, then all else with slopes."""


class Results:
    """Records of the experiment, found by whole configuration.

    Parameters
    ----------
    records : iterable of Record
        All of one scale.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        self._found: dict[str, list[Record]] = {}
        for record in self.records:
            self._found.setdefault(_completed(_name(record.config)), []).append(record)

    def select(self, function: str, n: int, line: Line) -> list[Record]:
        """Records of a line, by seed."""
        found = self._found.get(_wanted(function, n, line), [])
        return sorted(found, key=lambda r: r.seed)

    def has(self, n: int, line: Line) -> bool:
        """Whether a line has records with two seeds on a function."""
        return any(len(self.select(name, n, line)) > 1 for name in FUNCTIONS)

    def seeds(self, n: int, arm: str) -> int:
        """Largest number of seeds of an arm at a size."""
        lines = [(arm, method) for method in arms.METHODS]
        return max(len(self.select(name, n, line)) for name in FUNCTIONS for line in lines)

    def errors(
        self, function: str, n: int, line: Line, metric: str = "test_mse", at: str = "last"
    ) -> dict[int, float]:
        """Decimal logarithm of an error by seed, read at a key of :data:`READINGS`."""
        records = self.select(function, n, line)
        if at == "last":
            return log_errors(records, metric)
        return {r.seed: _read(r, metric, at) for r in records if r.metrics[metric] is not None}

    def error(
        self, function: str, n: int, line: Line, metric: str = "test_mse", at: str = "last"
    ) -> Interval | None:
        """Interval of the error over seeds, in the error's unit; None below two seeds."""
        logs = list(self.errors(function, n, line, metric, at).values())
        return interval(logs).map(power) if len(logs) > 1 else None

    def paired(
        self, function: str, n: int, baseline: Line, other: Line, metric: str = "test_mse",
        at: str = "last",
    ) -> Interval | None:  # fmt: skip
        """Decades that ``other`` gains over ``baseline``, paired by seed; None below two seeds."""
        a, b = (self.errors(function, n, line, metric, at) for line in (baseline, other))
        return difference(a, b)

    def gains(
        self, n: int, baseline: Line = VALUES, other: Line = SOBOLEV, metric: str = "test_mse",
        at: str = "last",
    ) -> dict[str, Interval]:  # fmt: skip
        """Decades gained by function; functions without two seeds are left out."""
        pairs = {name: self.paired(name, n, baseline, other, metric, at) for name in FUNCTIONS}
        return {name: found for name, found in pairs.items() if found}

    def effects(self, n: int) -> dict[str, tuple[float, list[float]]]:
        """What each of :data:`KNOBS` with records gains: median over functions, and each."""
        found = {}
        for label, (before, after) in KNOBS.items():
            gains = self.gains(n, before, after).values()
            if centres := [gain.centre for gain in gains if gain.count >= FEWEST]:
                found[label] = float(np.median(centres)), centres
        return found

    def grown(self, function: str, n: int, larger: int, line: Line) -> Interval | None:
        """Decades by which the error at ``larger`` exceeds that at ``n``, paired by seed.

        The points of the smaller size are among those of the larger one.
        """
        return difference(self.errors(function, larger, line), self.errors(function, n, line))

    def gains_apart(self, function: str, runs: Mapping[int, tuple[str, str]]) -> Interval | None:
        """Decades gained at the first of two sizes minus those at the second, paired by seed.

        Parameters
        ----------
        function : str
        runs : mapping
            From each size to the arm and the key of :data:`READINGS`; the points are nested.
        """
        by_size = []
        for n, (arm, at) in runs.items():
            a, b = (self.errors(function, n, (arm, method), at=at) for method in arms.METHODS)
            by_size.append({seed: a[seed] - b[seed] for seed in a.keys() & b.keys()})
        return difference(*by_size)

    def normalised(self, function: str, n: int, line: Line, at: str = "last") -> Interval | None:
        """Error over the variance of the target: 1 for the best constant."""
        found = self.error(function, n, line, at=at)
        return found.map(lambda error: error / variance(function)) if found else None

    def learnt(self, n: int, arm: str = "paper", at: str = "last") -> list[str]:
        """Functions that one of the two methods brought below :data:`LEARNT`."""
        lines = [(arm, method) for method in arms.METHODS]
        found = {name: [self.normalised(name, n, line, at) for line in lines] for name in FUNCTIONS}
        return [k for k, both in found.items() if any(i and i.centre <= LEARNT for i in both)]

    def curve(
        self, function: str, n: int, line: Line, metric: str = "test_mse"
    ) -> tuple[np.ndarray, list[Interval]]:
        """Steps, and median and middle half of the seeds at each; empty below two seeds."""
        records = [r for r in self.select(function, n, line) if "curve" in r.metrics]
        if len(records) < 2:
            return np.empty(0), []
        steps, logs = _logs(records, metric)
        low, middle, high = np.nanquantile(logs, [0.25, 0.5, 0.75], axis=0)
        marks = zip(middle.tolist(), low.tolist(), high.tolist(), strict=True)
        return steps, [Interval(m, a, b, len(records)).map(power) for m, a, b in marks]

    def gain_curve(self, function: str, n: int) -> tuple[np.ndarray, list[Interval]]:
        """Steps, and decades gained by Sobolev training had all runs been stopped there."""
        both = []
        for method in arms.METHODS:
            found = self.select(function, n, ("paper", method))
            both.append({r.seed: r for r in found if r.metrics["test_mse"] is not None})
        seeds = sorted(both[0].keys() & both[1].keys())
        if len(seeds) < 2:
            return np.empty(0), []
        steps, values = _logs([both[0][s] for s in seeds], "test_mse")
        _, sobolev = _logs([both[1][s] for s in seeds], "test_mse")
        return steps, [interval(column) for column in (values - sobolev).T]

    def gain_at_price(self, function: str, n: int, price: float) -> Interval | None:
        """Decades gained by Sobolev training when its steps cost ``price`` steps on values.

        Values only get all steps of the record, Sobolev training 1/price of them, read from the
        learning curves (straight lines between checkpoints, both axes logarithmic).

        Raises
        ------
        ValueError
            If the price is below 1.
        """
        if price < 1:
            raise ValueError(f"price is {price}; a Sobolev step costs at least one step on values")
        charged = []
        for method, part in zip(arms.METHODS, (1.0, price), strict=True):
            records = self.select(function, n, ("paper", method))
            kept = [r for r in records if r.metrics["test_mse"] is not None]
            charged.append({r.seed: _at_part(r, part) for r in kept})
        return difference(*charged)

    def growth(self, n: int, line: Line) -> dict[str, Interval]:
        """Growth of the training error of the slopes after its lowest, beyond a tenth, in decades.

        By function. For each seed the last value over 1.1 times the smallest one before it; above 0
        the error that was being minimised has grown by more than 10 per cent.
        """
        found = {}
        for name in FUNCTIONS:
            records = self.select(name, n, line)
            curves = [r.metrics["curve"]["train_gradient_mse"] for r in records]
            curves = [curve for curve in curves if None not in curve]
            if len(curves) > 1:
                found[name] = interval([float(np.log10(c[-1] / (1.1 * min(c)))) for c in curves])
        return found

    def errors_of(
        self, grids: Iterable[tuple[str, int, str, int]]
    ) -> dict[tuple[str, int, str, int], tuple[float, float]]:
        """Test errors (value, gradient) of each network (function, n, method, seed)."""
        found = {}
        for function, n, method, seed in grids:
            [record] = [r for r in self.select(function, n, ("paper", method)) if r.seed == seed]
            errors = record.metrics["test_mse"], record.metrics["test_gradient_mse"]
            found[function, n, method, seed] = errors
        return found

    def check(self) -> None:
        """Refuse what would make a page say something else than its rows do.

        Raises
        ------
        LedgerError
            If a record's label is not that of its configuration, or functions of one line and size
            have different seeds.
        """
        seeds: dict[str, dict[str, set[int]]] = {}
        for record in self.records:
            whole = json.loads(_completed(_name(record.config)))
            if whole["arm"] != record.config["arm"]:
                raise LedgerError(
                    f"a record of seed {record.seed} is labelled {record.config['arm']!r}, but its "
                    f"configuration is {whole['arm']!r}: correct the label or delete the line"
                )
            function = str(whole.pop("function"))
            seeds.setdefault(_name(whole), {}).setdefault(function, set()).add(record.seed)
        for line, found in seeds.items():
            if len({frozenset(s) for s in found.values()}) > 1:
                counts = {name: len(s) for name, s in sorted(found.items())}
                raise LedgerError(
                    f"the functions of one row have different seeds ({counts}): run the missing "
                    f"ones with the command of data/README.md. The row: {line}"
                )


def load(book: Ledger | None = None) -> Results:
    """Results at the paper scale; those of the book's ledger, checked, unless one is given."""
    chosen = book or Ledger(regression.EXPERIMENT)
    stamp = chosen.path.stat().st_mtime_ns if chosen.path.exists() else 0
    return _loaded(str(chosen.path), stamp, book is None)


@functools.lru_cache(maxsize=2)
def _loaded(path: str, stamp: int, checked: bool) -> Results:
    folder, _, name = path.rpartition("/")
    records = Ledger(name.removesuffix(".jsonl"), folder).read()
    results = Results(r for r in records if r.scale == "paper")
    if checked:
        results.check()
    return results


@functools.cache
def variance(function: str) -> float:
    """Variance of a function over its test points: the error of the best constant."""
    return float(FUNCTIONS[function](regression.test_points(function)).var(correction=0))


@dataclass(frozen=True)
class Comparisons:
    """How many comparisons there are, how many are decided, and which survive their number.

    Parameters
    ----------
    count : int
        Comparisons.
    decided : int
        Those whose 95 per cent interval is on one side of 0.
    lost : list of str
        Decided ones that do not survive Benjamini-Hochberg at 5 per cent.
    """

    count: int
    decided: int
    lost: list[str]

    @property
    def survive(self) -> int:
        """Number of decided comparisons that survive."""
        return self.decided - len(self.lost)


def compared(found: Mapping[str, Interval]) -> Comparisons:
    """Count comparisons, by name, and those lost when 5 per cent may be false discoveries.

    Benjamini and Hochberg 1995; independent or positively dependent tests.
    """
    from scipy import stats  # takes a second to import

    adjusted = stats.false_discovery_control([i.p for i in found.values()])
    decided = [name for name, i in found.items() if i.sign]
    lost = {name for name, p in zip(found, adjusted, strict=True) if p > 0.05}
    return Comparisons(len(found), len(decided), [name for name in decided if name in lost])


def power(value: float) -> float:
    """Ten to that power: the way back from a decimal logarithm."""
    return float(10.0**value)


@functools.cache
def _wanted(function: str, n: int, line: Line) -> str:
    """Name of the configuration that a line is."""
    arm, method = line
    if arm == kriging.ARM:
        return _name(kriging.config(arms.Setting(function, n, method, arm=arm)))
    [member] = arms.members(arm)
    setting = arms.Setting(function, n, method, arm=arms.family(member), **arms.ARMS[member])
    return _name(arms.config(setting))


@functools.cache
def _completed(name: str) -> str:
    """Name of a record's configuration with today's entries, at their defaults if it is older."""
    config = json.loads(name)
    return name if config["arm"] == kriging.ARM else _name(arms.config(arms.Setting(**config)))


def _name(config: Mapping[str, Any]) -> str:
    """Canonical JSON: the cached functions read a configuration from it."""
    return json.dumps(dict(config), sort_keys=True)


def _read(record: Record, metric: str, at: str) -> float:
    steps, [logs] = _logs([record], metric)
    if at == "best":
        return float(np.nanmin(logs))
    return float(logs[steps <= steps[-1] / 4][-1])


def _logs(records: Sequence[Record], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps from the first on, and the logarithms of a curve there, one row a record."""
    steps = np.array(records[0].metrics["curve"]["steps"])
    curves: Iterator[list[float | None]] = (r.metrics["curve"][metric] for r in records)
    rows = [[np.nan if v is None else max(v, 1e-12) for v in curve] for curve in curves]
    return steps[steps > 0], np.log10(np.array(rows))[:, steps > 0]


def _at_part(record: Record, price: float) -> float:
    steps, [logs] = _logs([record], "test_mse")
    return float(np.interp(np.log(steps[-1] / price), np.log(steps), logs))
