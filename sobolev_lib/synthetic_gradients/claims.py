"""What the paper claims on Table 1, each claim with a measurement of ours and a verdict."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import stats

from sobolev_lib.records.claims import FAILS, HOLDS, OPEN, Claim, Finding
from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import Interval
from sobolev_lib.synthetic_gradients.paper import BLOCKS, NAMES, Block, Cell
from sobolev_lib.synthetic_gradients.results import (
    FEWEST,
    Group,
    answering,
    command,
    cosine_gain,
    group,
    read,
    shown,
    spread,
    verdict,
)

WITHIN = 1.5
"""Points of accuracy within which Sobolev counts as close to backpropagation; our threshold."""


def claims_on(records: Sequence[Record] | None = None) -> list[Claim]:
    """The paper's claims on Table 1, as rows of *paper versus ours*.

    Each is measured on the runs that :func:`.answering` finds among the records it is given; its
    command is that of the runs that are there now.

    Parameters
    ----------
    records : sequence of Record, optional
        Those of the experiment's ledger unless given.
    """
    records = read() if records is None else records
    claims = []
    for key, block in BLOCKS.items():
        found = answering(key, records)
        how = command(found.arm, None, found) if found else command(block.arms[0])
        deviations = (
            f"{found.title}; {_choices(found)}" if found else "splits, schedule and reduction"
        )
        for name, paper, measure in _measures(block):
            claims.append(
                Claim(
                    f"table1-{key}-{name}",
                    f"Table 1, {block.title}",
                    paper,
                    measure,
                    how,
                    deviations,
                )
            )
    return claims


def tally(findings: Iterable[Finding | None]) -> str:
    """Count verdicts in words: "3 hold, 1 do not hold, 2 not settled, 1 not run yet"."""
    counts = Counter("not run yet" if f is None else f.verdict for f in findings)
    words = {HOLDS: "hold", FAILS: "do not hold", OPEN: "not settled"}
    words["not run yet"] = "not run yet"
    return ", ".join(f"{counts[key]} {word}" for key, word in words.items() if counts[key])


def deviation_ratio(values: Sequence[float], other: Sequence[float]) -> Interval:
    """Standard deviation of ``other`` over that of ``values``, with its 95 per cent interval.

    The interval is that of the F distribution: normal, independent samples.  Deviations need many
    more runs than means: with three runs each, the ends are a factor of 39 apart.

    Raises
    ------
    ValueError
        If there are fewer than two numbers, or equal ones only.
    """
    sizes = len(values), len(other)
    if min(sizes) < 2 or min(np.ptp(values), np.ptp(other)) == 0:
        raise ValueError(f"two different numbers each are needed; given {sizes} numbers")
    ratio = float(np.std(other, ddof=1) / np.std(values, ddof=1))
    low, high = stats.f.ppf([0.025, 0.975], sizes[1] - 1, sizes[0] - 1)
    return Interval(ratio, ratio / float(np.sqrt(high)), ratio / float(np.sqrt(low)), min(sizes))


def _choices(found: Group) -> str:
    config = found.config
    return (
        f"batch {config['batch']}, SGD at {config['learning_rate']:g}, Adam at "
        f"{config['module_rate']:g} for modules, losses summed over elements, synchronous"
    )


_Measure = Callable[[Sequence[Record]], Finding | None]


def _measures(block: Block) -> list[tuple[str, str, _Measure]]:
    cells = block.cells["top1"]
    order = [row for row in ("noprop", "direct", "vfbn", "critic", "sobolev") if row in cells]
    made: list[tuple[str, str, _Measure]] = []
    for low, high in itertools.pairwise(order):
        paper = (
            f"{NAMES[high]} is better than {NAMES[low]}: "
            f"{cells[high].value:.1f} against {cells[low].value:.1f}"
        )
        made.append((f"{low}-{high}", paper, _better(block.key, high, low)))
    lost = cells["backprop"].value - cells["sobolev"].value
    if block.key == "cifar10":
        made.append(
            (
                "backprop",
                f"Sobolev loses {lost:.1f} points to backpropagation "
                f"(we ask: less than {WITHIN:g})",
                _better(block.key, "sobolev", "backprop", -WITHIN),
            )
        )
    if block.key == "imagenet_3":
        made.append(("splits", _splits_claim(), _splits))
    made.append(("reliable", _reliable_claim(cells), _reliable(block.key)))
    made.append(
        (
            "aligned",
            "gradient supervision makes “sure that synthetic gradients are truly aligned”: "
            "the cosine is larger than the critic’s at every split (no number in the paper)",
            _aligned(block.key),
        )
    )
    return made


def _better(block: str, row: str, other: str, threshold: float = 0.0) -> _Measure:
    def measure(records: Sequence[Record]) -> Finding | None:
        found = answering(block, records)
        differences = list(found.difference(row, other).values()) if found else []
        if found is None or not differences:
            return None
        ours = f"{shown(differences, '+.1f', ' points')}; {found.title}"
        return Finding(ours, verdict(spread(differences), threshold), len(differences))

    return measure


def _splits_claim() -> str:
    gaps = [
        BLOCKS[key].cells["top1"]["critic"].value - BLOCKS[key].cells["top1"]["vfbn"].value
        for key in ("imagenet_1", "imagenet_3")
    ]
    return (
        "loss supervision counts for more with more splits: Critic minus VFBN is "
        f"{gaps[1]:.1f} points with three, {gaps[0]:.1f} with one"
    )


def _splits(records: Sequence[Record]) -> Finding | None:
    """Gap with three splits minus gap with one, on pairs of arms of the same scale."""
    three = answering("imagenet_3", records)
    if three is None:
        return None
    one = group(records, three.arm[:-1] + "1")
    if one is None:
        return None
    gaps = [found.difference("critic", "vfbn") for found in (one, three)]
    change = [gaps[1][seed] - gaps[0][seed] for seed in sorted(gaps[0].keys() & gaps[1].keys())]
    if not change:
        return None
    ours = f"the gap grows by {shown(change, '+.1f', ' points')}; {three.title}"
    return Finding(ours, verdict(spread(change)), len(change))


def _reliable_claim(cells: dict[str, Cell]) -> str:
    sobolev, critic = cells["sobolev"].deviation, cells["critic"].deviation
    return (
        "Sobolev has the smallest standard deviation over runs: "
        f"{sobolev:g}, the critic {critic:g}; “much more reliable”"
    )


def _reliable(block: str) -> _Measure:
    def measure(records: Sequence[Record]) -> Finding | None:
        found = answering(block, records)
        rows = list(BLOCKS[block].cells["top1"])[1:]
        values = {row: list(found.values(row).values()) for row in rows} if found else {}
        values = {row: v for row, v in values.items() if len(v) >= FEWEST and np.ptp(v) > 0}
        if found is None or "sobolev" not in values or "critic" not in values:
            return None
        ratios = {
            row: deviation_ratio(values["sobolev"], v)
            for row, v in values.items()
            if row != "sobolev"
        }
        said = ", ".join(f"{NAMES[row]} {np.std(v, ddof=1):.2f}" for row, v in values.items())
        ours = (
            f"s.d. over seeds: {said}; the critic’s is {ratios['critic']:.1f} times "
            f"Sobolev’s; {found.title}"
        )
        complete = set(values) == set(rows)
        smallest = complete and all(r.low > 1 for r in ratios.values())
        word = HOLDS if smallest else FAILS if any(r.high < 1 for r in ratios.values()) else OPEN
        return Finding(ours, word, min(len(v) for v in values.values()))

    return measure


def _aligned(block: str) -> _Measure:
    def measure(records: Sequence[Record]) -> Finding | None:
        found = answering(block, records)
        gains = cosine_gain(found, "sobolev", "critic") if found else []
        if found is None or not gains:
            return None
        means = {
            row: ", ".join(f"{c:.2f}" for c in found.cosine(row).mean(axis=0))
            for row in ("sobolev", "critic")
        }
        differences = ", ".join(f"{gain:+.2f}" for gain in gains)
        ours = (
            f"cosine by split, from the input: Sobolev {means['sobolev']}, "
            f"Critic {means['critic']}, difference {differences}; {found.title}"
        )
        words = {verdict(gain) for gain in gains}
        word = words.pop() if len(words) == 1 else FAILS if FAILS in words else OPEN
        return Finding(ours, word, gains[0].count)

    return measure
