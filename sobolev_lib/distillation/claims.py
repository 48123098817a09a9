"""The paper's sentences on Fig. 4 beside our records: rows of the *paper versus ours* table.

Students are read at two moments, at the end of training and where their validation divergence was
lowest; a verdict has to be the same at both.  Our teachers are not the paper's, so that what comes
out otherwise is *not at this scale*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy

from sobolev_lib.records import claims
from sobolev_lib.records.claims import (
    HOLDS,
    NOT_HERE,
    OPEN,
    Claim,
    Finding,
    at_all_budgets,
    verdict,
)
from sobolev_lib.records.ledger import Ledger, Record
from sobolev_lib.records.summary import FEWEST, Interval, difference

from . import results
from .arms import EXPERIMENT
from .games import GAMES
from .results import Cell, Runs

SEEDS = 5
READINGS = {"": "at the end", "best_": "at the best validation"}
ERRORS = {
    "kl": "KL(teacher, student)",
    "kl_reverse": "KL(student, teacher)",
    "action_error": "action error",
}
Measure = Callable[[Sequence[Record]], Finding | None]


def _seeds(cells: Sequence[Cell]) -> int:
    return min(len(cell.values.keys() & cell.sobolev.keys()) for cell in cells)


def _compared(records: Sequence[Record]) -> list[Cell]:
    """Cells in which both methods have at least two seeds in common."""
    return [cell for cell in results.cells(records) if cell.gain("kl")]


def _closer(records: Sequence[Record]) -> Finding | None:
    cells = _compared(records)
    if not cells:
        return None
    said, verdicts, worse = [], [], []
    for at, words in READINGS.items():
        gains = {
            f"{cell.title}, {name}": cell.gain(at + metric)
            for cell in cells
            for metric, name in ERRORS.items()
        }
        each = {name: verdict(found, scale="small") for name, found in gains.items()}
        closer = [name for name, v in each.items() if v == HOLDS]
        further = [name for name, v in each.items() if v == NOT_HERE]
        said.append(
            f"{words}: closer in {len(closer)} of {len(each)} comparisons, "
            f"further away in {len(further)}"
        )
        worse += [f"<em>Further away {words}</em>", *(further or ["none"])]
        verdicts.append(HOLDS if len(closer) == len(each) else NOT_HERE if further else OPEN)
    return Finding("; ".join(said), at_all_budgets(verdicts), _seeds(cells), "; ".join(worse))


def _ratio(cell: Cell, at: str) -> dict[int, float]:
    """Decades of divergence that derivatives gain, by seed."""
    plain, sobolev = (results.values(mine, f"{at}kl") for mine in (cell.values, cell.sobolev))
    return {
        seed: float(numpy.log10(plain[seed] / sobolev[seed]))
        for seed in plain.keys() & sobolev.keys()
    }


def _differences(pairs: Sequence[tuple[str, Cell, Cell]], where: str) -> Finding | None:
    """Judge gains of the first cell minus those of the second: they hold if all are positive.

    ``where`` says of which gain a sentence speaks.
    """
    if not pairs:
        return None
    said, verdicts, shown = [], [], []
    for at, words in READINGS.items():
        found = {name: difference(_ratio(one, at), _ratio(two, at)) for name, one, two in pairs}
        each = [verdict(one, scale="small") for one in found.values()]
        shown += [f"<em>Decades, {words}</em>"]
        shown += [f"{name} {one:+.2f}" for name, one in found.items() if one]
        said.append(
            f"{words}: larger {where} in {each.count(HOLDS)} of {len(each)} comparisons, "
            f"smaller in {each.count(NOT_HERE)}"
        )
        verdicts.append(HOLDS if set(each) == {HOLDS} else NOT_HERE if NOT_HERE in each else OPEN)
    cells = [cell for _, one, two in pairs for cell in (one, two)]
    said[0] = f"gain in KL(teacher, student) {said[0]}"
    return Finding("; ".join(said), at_all_budgets(verdicts), _seeds(cells), "; ".join(shown))


def _less_data(records: Sequence[Record]) -> Finding | None:
    cells = _compared(records)
    pairs = []
    for game in GAMES:
        mine = [cell for cell in cells if cell.game == game]
        if len(mine) > 1:
            few, many = mine[0], mine[-1]
            name = f"{GAMES[game].title}, {100 * few.fraction:g} % less {100 * many.fraction:g} %:"
            pairs.append((name, few, many))
    return _differences(pairs, "with less data")


def _pong(records: Sequence[Record]) -> Finding | None:
    cells = {(cell.game, cell.fraction): cell for cell in _compared(records)}
    pairs = [
        (f"{cell.title} less Pong:", cell, cells["pong", fraction])
        for (game, fraction), cell in cells.items()
        if game != "pong" and ("pong", fraction) in cells
    ]
    return _differences(pairs, "than on Pong")


def _risen(mine: Runs) -> dict[int, float]:
    """Decades by which the test divergence at the end is above its lowest."""
    risen = {}
    for seed, record in mine.items():
        kl = record.metrics["curve"]["kl"]
        risen[seed] = float(numpy.log10(kl[-1] / min(kl)))
    return risen


def overfitting(cell: Cell) -> dict[str, Interval] | None:
    """Rise of the test divergence from its lowest to the end, decades: both methods, difference."""
    both = _risen(cell.values), _risen(cell.sobolev)
    if (apart := difference(*both)) is None:
        return None
    zero = dict.fromkeys(both[0] | both[1], 0.0)
    rises = [difference(each, zero) for each in both]
    assert all(rises)
    return {"values": rises[0], "sobolev": rises[1], "apart": apart}  # type: ignore[dict-item]


def _little(records: Sequence[Record]) -> Finding | None:
    cells = _compared(records)
    found = {cell.title: rise for cell in cells if (rise := overfitting(cell))}
    if not found:
        return None
    each = [verdict(rise["apart"], scale="small") for rise in found.values()]
    little = [
        rise["sobolev"].count >= FEWEST and rise["sobolev"].high < LITTLE for rise in found.values()
    ]
    judged = (
        HOLDS
        if all(little)
        else NOT_HERE
        if any(r["sobolev"].low > LITTLE for r in found.values())
        else OPEN
    )
    shown = "; ".join(
        f"{title}: {rise['sobolev']:.2f} decades with derivatives, {rise['values']:.2f} without"
        for title, rise in found.items()
    )
    most = {
        name: max(rise[name].centre for rise in found.values()) for name in ("sobolev", "values")
    }
    return Finding(
        f"less overfitting with derivatives in {each.count(HOLDS)} of {len(each)} comparisons, "
        f"more in {each.count(NOT_HERE)}; the mean rise is at most "
        f"{most['sobolev']:.2f} decades with them, {most['values']:.2f} without",
        judged, _seeds(cells), shown,
    )  # fmt: skip


LITTLE = 0.1
"""Decades of test divergence, from its lowest to the end, that we call minor overfitting."""


def _uniform(records: Sequence[Record]) -> Finding | None:
    pong = [cell for cell in results.cells(records, ["pong"]) if cell.values or cell.sobolev]
    if not pong:
        return None
    mine = next(iter((pong[0].values or pong[0].sobolev).values()))
    share = float(mine.metrics["teacher_uniform"])
    said = f"entropy above 90 % of a uniform policy's in {share:.0%} of the test states"
    return Finding(said, HOLDS if share > 0.5 else NOT_HERE, 1)


def _claim(key: str, where: str, paper: str, measure: Measure) -> Claim:
    return Claim(key, where, paper, measure, COMMAND, DEVIATIONS)


COMMAND = "; ".join(
    "python -m sobolev_lib.distillation distill --game pong breakout space_invaders "
    f"--fractions {fractions} --seeds {seeds} --keep --book"
    for fractions, seeds in (("0.01 0.05", SEEDS), ("0.25 0.9", 3))
)
DEVIATIONS = (
    "teachers trained by PPO for fewer steps than the paper's; alpha, updates and the direction of "
    "the divergence are not stated there"
)
CLAIMS: list[Claim] = [
    _claim(
        "fig4-closer", "Fig. 4",
        "In all scenarios the Sobolev distilled networks are significantly more similar to the "
        "target policy", _closer,
    ),
    _claim(
        "fig4-less-data", "4.2", "This is especially true in low data regimes", _less_data,
    ),
    _claim(
        "fig4-pong", "4.2", "The gap on Pong is small, on the other games large", _pong,
    ),
    _claim("fig4-overfitting", "4.2", "Minor to no overfitting with derivatives", _little),
    _claim(
        "fig4-uniform", "footnote 4", "For most of the time the policy in Pong is uniform", _uniform
    ),
]  # fmt: skip


def findings(records: Sequence[Record] | None = None) -> dict[str, Finding | None]:
    """What was measured for each claim, by key."""
    records = Ledger(EXPERIMENT).read() if records is None else records
    return {claim.key: claim.measure(records) for claim in CLAIMS}


def table(records: Sequence[Record] | None = None) -> str:
    """The claims beside our records, as an HTML table for a page."""
    return claims.table(CLAIMS, findings(records), "with our teachers")
