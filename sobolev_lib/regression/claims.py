"""The paper's claims of section 4.1 beside our records: rows of the *paper versus ours* table.

A claim counts no function that was hardly learnt (:data:`.results.LEARNT`).  Its verdict has to be
the same wherever the runs are read (:data:`.results.READINGS`): at the last step, at a quarter of
the steps and at each run's own best step; else it is *not settled*.  Whatever is said of 10,000
points asks runs of four times the steps as well (the arm "annealed_tail"), if they have records.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import median

from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.records import claims
from sobolev_lib.records.claims import FAILS, HOLDS, OPEN, PARTLY, Claim, Finding, at_all_budgets
from sobolev_lib.records.ledger import Ledger, LedgerError, Record
from sobolev_lib.records.summary import FEWEST, Interval
from sobolev_lib.regression.results import LEARNT, READINGS, SIZES, SOBOLEV, VALUES, Results, load

SEEDS = 10
"""Seeds that the rows' commands ask for."""

Gains = dict[str, Interval]
Reading = dict[int, tuple[str, str]]
"""For each size the arm that is asked, and where its runs are read."""
LONGER = "annealed_tail"


def _names(chosen: Iterable[str]) -> str:
    return ", ".join(FUNCTIONS[name].title for name in chosen) or "none"


def _complete(results: Results, n: int) -> bool:
    return len(results.gains(n)) == len(FUNCTIONS)


def _asked(results: Results, sizes: Collection[int]) -> dict[str, Reading]:
    """Each reading, by its words; the last is of longer runs at 10,000 points, if there are any."""
    asked = {words: {n: ("paper", at) for n in sizes} for at, words in READINGS.items()}
    longer = results.gains(10_000, (LONGER, "values"), (LONGER, "sobolev"))
    if 10_000 in sizes and len(longer) == len(FUNCTIONS):
        seeds = min(gain.count for gain in longer.values())
        words = f"four times the steps at 10,000 points, annealed, {seeds} seeds"
        asked[words] = asked[READINGS["last"]] | {10_000: (LONGER, "last")}
    return asked


def _counted(results: Results, n: int, arm: str, at: str) -> Gains:
    """Gains of the functions that were learnt."""
    gains = results.gains(n, (arm, "values"), (arm, "sobolev"), at=at)
    learnt = results.learnt(n, arm, at)
    return {name: g for name, g in gains.items() if name in learnt and g.count >= FEWEST}


def _sides(gains: Gains) -> tuple[list[str], list[str]]:
    better = [name for name, g in gains.items() if g.sign > 0]
    return better, [name for name, g in gains.items() if g.sign < 0]


def _seeds(results: Results, sizes: Iterable[int], names: Iterable[str] = FUNCTIONS) -> int:
    counts = [
        len(results.select(k, n, ln)) for k in names for n in sizes for ln in (VALUES, SOBOLEV)
    ]
    return min(counts)


def _counted_names(chosen: Sequence[str]) -> str:
    return f"{len(chosen)} ({_names(chosen)})" if chosen else "none"


def _readings(said: dict[str, str]) -> str:
    return "; ".join(f"{reading}: {words}" for reading, words in said.items())


def _counts(
    n: int, judge: Callable[[int, int, int], str]
) -> Callable[[Sequence[Record]], Finding | None]:
    """Count functions with a smaller and with a larger error; ``judge`` them among the learnt."""

    def measure(records: Sequence[Record]) -> Finding | None:
        results = Results(records)
        if not _complete(results, n):
            return None
        said, verdicts = {}, []
        for words, runs in _asked(results, [n]).items():
            gains = _counted(results, n, *runs[n])
            better, worse = _sides(gains)
            said[words] = (
                f"of {len(gains)} functions learnt a smaller error on {_counted_names(better)}, "
                f"larger on {_counted_names(worse)}"
            )
            verdicts.append(judge(len(better), len(worse), len(gains)))
        return Finding(_readings(said), at_all_budgets(verdicts), _seeds(results, [n]))

    return measure


def _six(better: int, worse: int, learnt: int) -> str:
    return HOLDS if better >= 6 else FAILS if worse > 1 else OPEN


def _most(better: int, worse: int, learnt: int) -> str:
    return HOLDS if 2 * better > learnt else FAILS if learnt and not better else OPEN


def _orders_of_magnitude(records: Sequence[Record]) -> Finding | None:
    results = Results(records)
    if not all(_complete(results, n) for n in SIZES):
        return None
    said, verdicts = {}, []
    for words, runs in _asked(results, SIZES).items():
        gains = {n: _counted(results, n, *runs[n]) for n in SIZES}
        learnt = ", ".join(str(len(found)) for found in gains.values())
        one, two = (_reaching(gains, decades) for decades in (1, 2))
        said[words] = (
            f"one decade on {one} of the {learnt} functions learnt at N = 20, 100, 10,000, "
            f"two on {two}{_most_gained(gains)}"
        )
        # six functions with two decades at one size; impossible where two stay below
        enough = any(sum(g.low >= 2 for g in gains[n].values()) >= 6 for n in SIZES)
        never = all(sum(g.high < 2 for g in gains[n].values()) >= 2 for n in SIZES)
        verdicts.append(HOLDS if enough else FAILS if never else OPEN)
    return Finding(_readings(said), at_all_budgets(verdicts), _seeds(results, SIZES))


def _reaching(gains: dict[int, Gains], decades: float) -> str:
    return ", ".join(str(sum(g.low >= decades for g in gains[n].values())) for n in SIZES)


def _most_gained(gains: dict[int, Gains]) -> str:
    every = [(g, name, n) for n, found in gains.items() for name, g in found.items()]
    if not every:
        return ""
    most, name, n = max(every, key=lambda one: one[0].centre)
    return f"; most on {FUNCTIONS[name].title}, N = {n:,}: {most:.2f}"


def _stronger_with_less_data(records: Sequence[Record]) -> Finding | None:
    results = Results(records)
    if not (_complete(results, 20) and _complete(results, 10_000)):
        return None
    said, verdicts = {}, []
    for words, runs in _asked(results, (20, 10_000)).items():
        learnt = set.intersection(*(set(results.learnt(n, *run)) for n, run in runs.items()))
        found = {name: results.gains_apart(name, runs) for name in FUNCTIONS if name in learnt}
        apart = {name: g for name, g in found.items() if g}
        stronger, weaker = _sides(apart)
        middle = f"{median(g.centre for g in apart.values()):+.2f}" if apart else "none"
        said[words] = (
            f"gain at N = 20 minus gain at 10,000 on {len(apart)} learnt: median {middle} decades, "
            f"larger at 20 on {_counted_names(stronger)}, "
            f"smaller on {_counted_names(weaker)}"
        )
        verdicts.append(HOLDS if len(stronger) >= 4 else FAILS if len(weaker) >= 4 else OPEN)
    return Finding(_readings(said), at_all_budgets(verdicts), _seeds(results, (20, 10_000)))


def _one(name: str, n: int, sign: int) -> Callable[[Sequence[Record]], Finding | None]:
    def measure(records: Sequence[Record]) -> Finding | None:
        results = Results(records)
        said, verdicts = {}, []
        for words, runs in _asked(results, [n]).items():
            arm, at = runs[n]
            found = results.paired(name, n, (arm, "values"), (arm, "sobolev"), at=at)
            if found is None:
                return None
            said[words] = f"{found:+.2f}"
            verdicts.append(claims.verdict(found) if sign > 0 else _opposite(found))
        ours = f"decades gained by Sobolev training: {_readings(said)}"
        return Finding(ours, at_all_budgets(verdicts), _seeds(results, [n], [name]))

    return measure


def _opposite(found: Interval) -> str:
    return claims.verdict(Interval(-found.centre, -found.high, -found.low, found.count))


def _only_exception(records: Sequence[Record]) -> Finding | None:
    results = Results(records)
    if not all(_complete(results, n) for n in SIZES):
        return None
    said, verdicts = {}, []
    for words, runs in _asked(results, SIZES).items():
        worse = {n: _sides(_counted(results, n, *runs[n]))[1] for n in SIZES}
        said[words] = ", ".join(f"N = {n:,}: {_names(names)}" for n, names in worse.items())
        others = {name for names in worse.values() for name in names} - {"ackley"}
        ackley = any("ackley" in names for names in worse.values())
        verdicts.append(FAILS if others else HOLDS if ackley else OPEN)
    ours = f"larger error with Sobolev training, {_readings(said)}"
    return Finding(ours, at_all_budgets(verdicts), _seeds(results, SIZES))


def _shape(records: Sequence[Record]) -> Finding | None:
    """Whether the normalised error of Sobolev training is below :data:`.results.LEARNT`."""
    results, name = Results(records), "styblinski_tang"
    said, words = [], []
    for n in (20, 100):
        verdicts = []
        for at in READINGS:
            found = results.normalised(name, n, SOBOLEV, at)
            if found is None:
                return None
            if at == "last":
                said.append(f"N = {n}: {found:.2g}")
            verdicts.append(_opposite(found.map(lambda v: v - LEARNT)))
        words.append(at_all_budgets(verdicts))
    word = words[0] if len(set(words)) == 1 else PARTLY if HOLDS in words else OPEN
    ours = f"error over variance of the target, Sobolev training: {'; '.join(said)}"
    return Finding(f"{ours} (we ask for {LEARNT:g})", word, _seeds(results, (20, 100), [name]))


COMMAND = f"python -m sobolev_lib regression --scale paper --seeds {SEEDS} --sizes "
LONGER_COMMAND = (
    f"python -m sobolev_lib regression --scale paper --arms {LONGER} --seeds 5 --sizes 10000"
)
OPEN_CHOICES = "steps, batch and initial weights are ours (the paper gives none)"

_ROWS: list[tuple[str, str, str, Callable[[Sequence[Record]], Finding | None], str]] = [
    (
        "six-20", "p. 5, Fig. 2", "N = 20: Sobolev better on six of seven functions",
        _counts(20, _six), "20",
    ),
    (
        "six-100", "p. 5, Fig. 2", "N = 100: Sobolev better on six of seven functions",
        _counts(100, _six), "100",
    ),
    (
        "gap-10000", "p. 5, Fig. 2", "N = 10,000: the effect does not disappear",
        _counts(10_000, _most), f"10000; {LONGER_COMMAND}",
    ),
    (
        "orders", "p. 5", "errors “orders of magnitude smaller” on six of seven",
        _orders_of_magnitude, f"20 100 10000; {LONGER_COMMAND}",
    ),
    (
        "low-data", "p. 5", "the effect is stronger in low-data regimes",
        _stronger_with_less_data, f"20 10000; {LONGER_COMMAND}",
    ),
    (
        "fig3", "p. 5, Fig. 3", "Styblinski-Tang: shape captured even with little data",
        _shape, "20 100",
    ),
    (
        "ackley-only", "p. 5, Fig. 2", "Ackley is the only case where regular training is better",
        _only_exception, f"20 100 10000; {LONGER_COMMAND}",
    ),
    (
        "ackley-20", "p. 5, Fig. 2", "Ackley, N = 20: regular training is better",
        _one("ackley", 20, -1), "20",
    ),
    (
        "ackley-10000", "p. 5", "Ackley, N = 10,000: Sobolev is better",
        _one("ackley", 10_000, 1), f"10000; {LONGER_COMMAND}",
    ),
]  # fmt: skip

CLAIMS: list[Claim] = [
    Claim(key, where, paper, measure, COMMAND + sizes, OPEN_CHOICES)
    for key, where, paper, measure, sizes in _ROWS
]
"""Claims of section 4.1."""


def findings(book: Ledger | None = None) -> dict[str, Finding | None]:
    """Measure every claim; ``None`` where records are missing.

    Raises
    ------
    LedgerError
        If a row of the book's own ledger has fewer seeds than its command asks for.
    """
    records = load(book).records
    found = {claim.key: claim.measure(records) for claim in CLAIMS}
    short = {key: f.seeds for key, f in found.items() if f and f.seeds < SEEDS}
    if book is None and short:
        raise LedgerError(f"these rows say {SEEDS} seeds and have fewer: {short}")
    return found


def table(found: Mapping[str, Finding | None] | None = None) -> str:
    """*Paper versus ours* for section 4.1, as an HTML table; measured unless ``found`` is given."""
    return claims.table(CLAIMS, findings() if found is None else found)
