"""From records to Fig. 4: what each method reached, how far they are apart, at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from sobolev_lib.records.ledger import Record, select
from sobolev_lib.records.summary import Interval, difference, interval

from . import arms, data
from .games import GAMES
from .students import Settings

Runs = Mapping[int, Record]
"""Records of one student by seed."""


@dataclass(frozen=True)
class Cell:
    """A game and a fraction: the paper's two methods.

    Parameters
    ----------
    game : str
    fraction : float
    values, sobolev : mapping
        From a seed to its record; empty where there is none.
    """

    game: str
    fraction: float
    values: Runs
    sobolev: Runs

    @property
    def title(self) -> str:
        """Game and percentage."""
        return f"{GAMES[self.game].title}, {100 * self.fraction:g} %"

    def gain(self, metric: str) -> Interval | None:
        """How much lower the metric is with derivatives, paired by seed."""
        return difference(values(self.values, metric), values(self.sobolev, metric))


def chosen(records: Sequence[Record], game: str) -> dict[str, Settings]:
    """Best pilots of a game by row of :data:`.arms.PILOTED`, where they are complete."""
    made_from = arms.sources(game)
    found = {row: arms.pilots(game, row, records, made_from)[1] for row in arms.PILOTED}
    return {row: best for row, best in found.items() if best}


def runs(records: Sequence[Record], settings: Settings) -> dict[int, Record]:
    """Records of a student of the committed teacher and recording, by seed."""
    config = arms.config(settings, arms.sources(settings.game))
    return {record.seed: record for record in select(records, config)}


def arm(
    records: Sequence[Record], name: str, game: str, fraction: float, **given: Any
) -> list[tuple[Settings, dict[int, Record]]]:
    """Students of an arm with their records; empty while a pilot is missing."""
    known = chosen(records, game)
    if any(row not in known for row in arms.rows([name])):
        return []
    some = arms.students(name, game, fraction, known, **given)
    return [(settings, runs(records, settings)) for settings in some]


def cells(records: Sequence[Record], games: Sequence[str] = tuple(GAMES)) -> list[Cell]:
    """Games and fractions that have a record of either of the paper's methods."""
    found = []
    for game in games:
        if not data.path(game).exists():
            continue
        fractions = {
            r.config["fraction"] for r in records
            if r.config["game"] == game and r.seed != arms.PILOT_SEED
        }  # fmt: skip
        for fraction in sorted(fractions):
            pair = [mine for _, mine in arm(records, "paper", game, fraction)]
            if any(pair):
                found.append(Cell(game, fraction, *pair))
    return found


def values(mine: Runs, metric: str) -> dict[int, float]:
    """A metric by seed."""
    return {seed: float(record.metrics[metric]) for seed, record in mine.items()}


def mean(mine: Runs, metric: str) -> Interval | None:
    """A metric over seeds; None below two."""
    return interval(list(values(mine, metric).values())) if len(mine) > 1 else None


def curves(mine: Runs, metric: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Updates (points,) and a metric over training (seeds, points), as Fig. 4 draws them."""
    ordered = [mine[seed].metrics["curve"] for seed in sorted(mine)]
    return numpy.array(ordered[0]["update"]), numpy.array([curve[metric] for curve in ordered])


def settled(mine: Runs) -> dict[int, bool]:
    """Whether the validation divergence had turned, or was flat, at the end, by seed.

    Turned: its lowest point lies before the last.  Flat: the last point is less than 2 per cent
    below the one at half of the updates.
    """
    found = {}
    for seed, record in mine.items():
        curve = record.metrics["curve"]
        updates, kl = numpy.array(curve["update"]), numpy.array(curve["validation_kl"])
        half = kl[numpy.searchsorted(updates, updates[-1] / 2)]
        found[seed] = bool(kl[-1] > kl.min() or kl[-1] > 0.98 * half)
    return found


def cost(records: Sequence[Record], game: str) -> dict[str, float] | None:
    """Processor time of an update: of values only, of both, of the teacher; their ratios.

    From the students of the paper's two methods, pilots included.  Those that were trained on a
    GPU do not count: there others' steps are in the time of each.

    Returns
    -------
    dict or None
        ``sobolev`` in seconds, a median over records whose teacher's gradients were kept in memory;
        ``ratio`` and ``share`` (the teacher's) in steps of values only; ``back``, the ratio where
        each step went back through the teacher, NaN without such records.  None if a method has no
        record.
    """
    printed = Settings(game)
    same = ("game", "activation", "norm", "projections", "derivatives", "batch")
    paid = [
        r for r in records
        if r.device.startswith("cpu") and all(r.config[k] == getattr(printed, k) for k in same)
    ]  # fmt: skip
    taken = {
        method: [r.metrics for r in paid if r.config["method"] == method]
        for method in ("values", "sobolev")
    }
    plain = _median([m["step_seconds"] for m in taken["values"]])
    kept: list[dict[str, Any]] = []
    back: list[dict[str, Any]] = []
    for each in taken["sobolev"]:
        (kept if each["teacher_seconds"] < WENT_BACK * plain else back).append(each)
    both = _median([m["step_seconds"] for m in kept])
    if numpy.isnan(both / plain):
        return None
    return {
        "sobolev": both,
        "ratio": both / plain,
        "share": _median([m["teacher_seconds"] for m in kept]) / plain,
        "back": _median([m["step_seconds"] for m in back]) / plain,
    }


WENT_BACK = 0.5
"""Teacher's part, in steps of values only, above which its gradients cannot have been kept."""


def _median(found: Sequence[float]) -> float:
    return float(numpy.median(found)) if found else numpy.nan


def costs(records: Sequence[Record]) -> list[str]:
    """Return a line on each game's :func:`cost`."""
    said = []
    for game, entry in GAMES.items():
        if found := cost(records, game):
            said.append(
                f"{entry.title}: a Sobolev step costs {found['ratio']:.2f} steps of values only "
                f"({1e3 * found['sobolev']:.0f} ms), {found['share']:.2f} of them the teacher's"
            )
    return said
