"""What the paper claims on Table 1, each claim with a measurement of ours and a verdict.

The paper's runs and ours are different experiments where scales differ.  A claim is measured on the
nearest runs of every data set that answers it; a verdict is computed from paired differences over
seeds, never typed, and one that goes against the paper at another scale than the paper's says so.
The second half asks, over all experiments at once, whether a better aligned synthetic gradient is a
better one.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import special

from sobolev_lib.records.claims import (
    FAILS,
    HOLDS,
    NOT_HERE,
    NOT_RUN,
    OPEN,
    PARTLY,
    Claim,
    Finding,
    at_all_budgets,
    verdict,
)
from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import FEWEST, Interval, number
from sobolev_lib.synthetic_gradients import results
from sobolev_lib.synthetic_gradients.modules import PREDICTING
from sobolev_lib.synthetic_gradients.paper import BLOCKS, CARES, METRICS, NAMES, Block, Cell
from sobolev_lib.synthetic_gradients.results import Group
from sobolev_lib.synthetic_gradients.settings import ARMS, PAPERS_RATE, sparing

COMPARED = (
    *("digits", "digits_deep", "cifar10", "cifar10_reduced", "imagenette_reduced_1"),
    *("imagenette_reduced_3", "imagenet200_reduced_1", "imagenet200_reduced_3"),
)
"""Arms over which alignment and accuracy are compared."""

PAIRS = (("sobolev", "critic"), ("sobolev", "local_ce"), ("critic", "local_ce"))

WITHIN = 1.5
"""Points of accuracy within which Sobolev counts as close to backpropagation; our threshold."""

MOSTLY = 0.5
"""Share of dead units of a module from which its runs alone settle nothing."""

Measure = Callable[[Group, Sequence[Record]], Finding | None]
"""A claim's answer of one experiment; other experiments are among the records."""
Compare = Callable[[Group, Sequence[Record], Sequence[str]], Finding | None]
"""The same of the rows that it is given: those of the claim, or what was done to their modules."""


def answers(block: str, records: Sequence[Record]) -> list[Group]:
    """For each data set of a block the nearest runs that answer it, those of the paper first."""
    data = dict.fromkeys(str(ARMS[arm].get("data", "cifar10")) for arm in BLOCKS[block].arms)
    return [g for name in data if (g := results.answering(block, records, name))]


def claims_on(records: Sequence[Record] | None = None) -> list[Claim]:
    """The paper's claims on Table 1, as rows of *paper versus ours*.

    Each is measured on :func:`answers` among the records it is given; its command is that of the
    runs that are there now.
    """
    records = results.read() if records is None else records
    claims = []
    for key, block in BLOCKS.items():
        found = answers(key, records)
        commands = [results.command(g.arm, None, g) for g in found]
        how = "; ".join(commands) or results.command(block.arms[0])
        deviations = "; ".join([*(g.title for g in found), *(_choices(g) for g in found[:1])])
        claims += [
            Claim(
                f"table1-{key}-{name}",
                f"Table 1, {block.title}",
                paper,
                _on_all(key, measure),
                how,
                deviations or "splits, schedule and reduction",
            )
            for name, paper, measure in _measures(block)
        ]
    return claims


def _on_all(block: str, measure: Measure) -> Callable[[Sequence[Record]], Finding | None]:
    """Measure on every data set that answers a block, and say it in one finding."""

    def found(records: Sequence[Record]) -> Finding | None:
        pairs = [(g, one) for g in answers(block, records) if (one := measure(g, records))]
        if not pairs:
            return None
        words = [_at_scale(one.verdict, g) for g, one in pairs]
        ours = ". ".join(f"{one.ours}; {g.title}" for g, one in pairs)
        return Finding(ours, _together(words), min(one.seeds for _, one in pairs))

    return found


def _at_scale(word: str, found: Group) -> str:
    return NOT_HERE if word == FAILS and found.scale != "paper" else word


def _together(words: Sequence[str]) -> str:
    """One verdict of several: theirs if they agree, *partly* if all are settled, else open."""
    if len(set(words)) == 1:
        return words[0]
    return OPEN if OPEN in words else PARTLY


def tally(findings: Iterable[Finding | None]) -> str:
    """Count verdicts in words: "3 hold, 1 does not hold, 2 not settled, 1 not run yet"."""
    counts = Counter(NOT_RUN if f is None else f.verdict for f in findings)
    words = {
        HOLDS: ("holds", "hold"),
        PARTLY: ("holds in part", "hold in part"),
        FAILS: ("does not hold", "do not hold"),
        NOT_HERE: ("does not hold at this scale", "do not hold at this scale"),
        OPEN: (OPEN, OPEN),
        NOT_RUN: (NOT_RUN, NOT_RUN),
    }
    return ", ".join(
        f"{counts[key]} {word[counts[key] > 1]}" for key, word in words.items() if counts[key]
    )


def deviation_ratio(values: Sequence[float], other: Sequence[float]) -> Interval:
    """Standard deviation of ``other`` over that of ``values``, with its 95 per cent interval.

    The interval is that of the F distribution: normal, independent samples.  Deviations need many
    more runs than means: with three runs each, the ends are a factor of 39 apart.
    """
    sizes = len(values), len(other)
    ratio = float(np.std(other, ddof=1) / np.std(values, ddof=1))
    low, high = special.fdtri(sizes[1] - 1, sizes[0] - 1, [0.025, 0.975])
    return Interval(ratio, ratio / float(np.sqrt(high)), ratio / float(np.sqrt(low)), min(sizes))


def _choices(found: Group) -> str:
    config = found.config
    return (
        f"batch {config['batch']}, SGD at {config['learning_rate']:g}, Adam at "
        f"{config['module_rate']:g} for modules, losses summed over elements, synchronous"
    )


def _measures(block: Block) -> list[tuple[str, str, Measure]]:
    """Name, the paper's words and our measurement of each claim on a block."""
    made: list[tuple[str, str, Measure]] = []
    for metric, cells in block.cells.items():
        order = [row for row in cells if row != "backprop"]
        for low, high in [*itertools.pairwise(order), ("vfbn", "sobolev")]:
            name = f"{low}-{high}" + ("" if metric == "top1" else f"-{metric}")
            paper = (
                f"{NAMES[high]} is better than {NAMES[low]}: "
                f"{cells[high].value:.1f} against {cells[low].value:.1f}"
                + (f", {METRICS[metric]}" if len(block.cells) > 1 else "")
            )
            made.append((name, paper, _all_ways([high, low], _better(metric))))
    cells = block.cells["top1"]
    if block.key == "cifar10":
        lost = cells["backprop"].value - cells["sobolev"].value
        paper = f"Sobolev loses {lost:.1f} points to backpropagation (we ask: less than {WITHIN:g})"
        close = _all_ways(["sobolev", "backprop"], _better("top1", -WITHIN))
        made.append(("backprop", paper, close))
    if block.key == "imagenet_3":
        made.append(("splits", _splits_claim(), _all_ways(["critic", "vfbn"], _splits)))
    made.append(("reliable", _reliable_claim(cells), _all_ways(list(cells)[1:], _reliable)))
    paper = (
        "gradient supervision makes “sure that synthetic gradients are truly aligned”: "
        "the cosine is larger than the critic’s at every split (no number in the paper)"
    )
    return [*made, ("aligned", paper, _all_ways(["sobolev", "critic"], _aligned))]


def _all_ways(rows: list[str], compare: Compare) -> Measure:
    """Judge rows as they are, and with what was done against units that die: all must agree.

    A change with fewer than three seeds is shown and has no say.  Where there are :func:`_doubts`
    about the modules of the row that lost, the rows as they are can settle nothing: that takes a
    change that agrees.  Units that die in the row that won are no reason for its lead.
    """

    def measure(found: Group, records: Sequence[Record]) -> Finding | None:
        ours: list[str] = []
        judged: dict[str, Finding] = {}
        for care, how in {"": "", **CARES}.items():
            own = [sparing(row, care) for row in rows]
            one = compare(found, records, own) if not care or own != rows else None
            if one:
                said = one.ours.replace(f", {how}", "")  # of the names of rows
                ours.append(f"with {how}: {said}" if care else one.ours)
                judged |= {care: one} if not care or one.seeds >= FEWEST else {}
        if not judged:
            return None
        word = at_all_budgets([one.verdict for one in judged.values()])
        lost = {HOLDS: rows[1:], FAILS: rows[:1], NOT_HERE: rows[:1]} if len(rows) == 2 else {}
        if judged.keys() == {""} and (doubts := _doubts(found, lost.get(word, rows))):
            word = OPEN
            ours += doubts
        return Finding("; ".join(ours), word, min(one.seeds for one in judged.values()))

    return measure


def _doubts(found: Group, rows: Sequence[str]) -> list[str]:
    """Why an order of rows could be that of the modules that survived, with their names."""
    why = {
        "most units of the modules have died": _mostly_dead,
        "whether the modules’ units died was not recorded": _unrecorded,
    }
    named = {words: [NAMES[row] for row in rows if sign(found, row)] for words, sign in why.items()}
    return [f"{words}: {', '.join(names)}" for words, names in named.items() if names]


def _unrecorded(found: Group, row: str) -> bool:
    """Whether modules learnt faster than the paper's, and no run says how many units died."""
    fast = float(found.config["module_rate"]) > PAPERS_RATE
    return fast and row in PREDICTING and row in found.rows and not found.values(row, "dead")


def _mostly_dead(found: Group, row: str) -> bool:
    shares = list(found.values(row, "dead").values()) if row in PREDICTING else []
    return bool(shares) and float(np.mean(shares)) > MOSTLY


def _better(metric: str, threshold: float = 0.0) -> Compare:
    def compare(found: Group, _records: Sequence[Record], rows: Sequence[str]) -> Finding | None:
        row, other = rows
        differences = list(found.difference(row, other, metric).values())
        if not differences:
            return None
        word = verdict(results.spread(differences), threshold)
        if threshold and word == FAILS:
            word = NOT_HERE  # points of accuracy: all our runs are shorter than the paper's
        return Finding(results.shown(differences, "+.1f", " points"), word, len(differences))

    return compare


def _splits_claim() -> str:
    gaps = [
        BLOCKS[key].cells["top1"]["critic"].value - BLOCKS[key].cells["top1"]["vfbn"].value
        for key in ("imagenet_1", "imagenet_3")
    ]
    return (
        "loss supervision counts for more with more splits: Critic minus VFBN is "
        f"{gaps[1]:.1f} points with three, {gaps[0]:.1f} with one"
    )


def _splits(three: Group, records: Sequence[Record], rows: Sequence[str]) -> Finding | None:
    """Gap with three splits minus gap with one, on pairs of arms of the same scale."""
    one = results.group(records, three.arm[:-1] + "1")
    if one is None:
        return None
    row, other = rows
    gaps = [found.difference(row, other) for found in (one, three)]
    change = [gaps[1][seed] - gaps[0][seed] for seed in sorted(gaps[0].keys() & gaps[1].keys())]
    if not change:
        return None
    ours = f"the gap grows by {results.shown(change, '+.1f', ' points')}"
    return Finding(ours, verdict(results.spread(change)), len(change))


def _reliable_claim(cells: dict[str, Cell]) -> str:
    sobolev, critic = cells["sobolev"].deviation, cells["critic"].deviation
    return (
        "Sobolev has the smallest standard deviation over runs: "
        f"{sobolev:g}, the critic {critic:g}; “much more reliable”"
    )


def _reliable(found: Group, _records: Sequence[Record], rows: Sequence[str]) -> Finding | None:
    """Compare standard deviations of rows, of which Sobolev's and the critic's end the list."""
    every = {row: list(found.values(row).values()) for row in rows}
    values = {row: v for row, v in every.items() if len(v) >= FEWEST and np.ptp(v) > 0}
    critic, sobolev = rows[-2:]
    if not {sobolev, critic} <= values.keys():
        return None
    ratios = {
        row: deviation_ratio(values[sobolev], v) for row, v in values.items() if row != sobolev
    }
    said = ", ".join(f"{NAMES[row]} {np.std(v, ddof=1):.2f}" for row, v in values.items())
    smaller = [row for row, ratio in ratios.items() if ratio.high < 1]
    shares = "; ".join(f"{NAMES[row]}’s is {ratios[row]:.1f} times" for row in [critic, *smaller])
    smallest = len(values) == len(rows) and all(r.low > 1 for r in ratios.values())
    word = HOLDS if smallest else FAILS if smaller else OPEN
    seeds = min(len(v) for v in values.values())
    return Finding(f"s.d. over seeds: {said}; over Sobolev’s: {shares}", word, seeds)


def _aligned(found: Group, _records: Sequence[Record], rows: Sequence[str]) -> Finding | None:
    row, other = rows
    gains = results.cosine_gain(found, row, other)
    if not gains:
        return None
    means = [", ".join(f"{c:.2f}" for c in found.cosine(row).mean(axis=0)) for row in rows]
    differences = ", ".join(f"{gain:+.2f}" for gain in gains)
    ours = (
        f"cosine by split, from the input: Sobolev {means[0]}, "
        f"Critic {means[1]}, difference {differences}"
    )
    words = {verdict(gain) for gain in gains}
    word = words.pop() if len(words) == 1 else FAILS if FAILS in words else OPEN
    return Finding(ours, word, gains[0].count)


def rank_correlation(found: Group, rows: Sequence[str], metric: str = "cosine") -> list[float]:
    """Spearman correlation over rows of accuracy with mean cosine, one for each common seed.

    If gradients that are better aligned trained better networks, it would be near 1.  It describes
    the rows that were run, no others: with five of them, chance alone often makes it large.
    Seeds that lack a row which others have are left out.
    """
    from scipy.stats import rankdata  # takes a second to import

    late: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        for r in found.rows.get(row, []):
            cosine, top1 = results.measured_cosine(r, metric), r.metrics["top1"]
            if cosine and top1 is not None:
                late.setdefault(r.seed, []).append((float(np.mean(cosine)), top1))
    most = max((len(pairs) for pairs in late.values()), default=0)
    return [
        float(np.corrcoef([rankdata(column) for column in zip(*pairs, strict=True)])[0, 1])
        for _, pairs in sorted(late.items())
        if len(pairs) == most and most >= FEWEST
    ]


def alignment(found: Group, row: str) -> str:
    """Mean cosine of a row by split, in words."""
    cosine = found.cosine(row)
    if not len(cosine):
        return f"{NAMES[row]}: {NOT_RUN}"
    return f"{NAMES[row]} " + ", ".join(number(c, ".2f") for c in cosine.mean(axis=0))


def findings_on_alignment(records: Sequence[Record], arms: Sequence[str]) -> str:
    """Markdown list: for each arm, cosines and accuracies of Sobolev, Critic and Local CE."""
    lines = []
    for arm in arms:
        found = results.group(records, arm)
        if found is None:
            lines.append(f"- *{arm}*: {NOT_RUN} (`{results.command(arm)}`).")
            continue
        accuracies = "; ".join(results.compare(found, *pair) for pair in PAIRS)
        cosines = "; ".join(alignment(found, row) for row in ("sobolev", "critic", "local_ce"))
        lines.append(
            f"- *{found.title}* (`{arm}`). {accuracies}. Cosines from the input up: {cosines}."
        )
    return "\n".join(lines)


def settled(
    records: Sequence[Record], arms: Sequence[str], row: str, other: str
) -> dict[str, list[str]]:
    """Names of the experiments by the verdict on ``row`` being ahead of ``other`` in accuracy."""
    found = [g for g in (results.group(records, arm) for arm in arms) if g]
    return _verdicts({g.short: list(g.difference(row, other).values()) for g in found})


def conclusions(records: Sequence[Record], arms: Sequence[str]) -> str:
    """Answer the chapter's three questions from the records, as a Markdown list.

    Is Sobolev better than Critic, is either better than Local CE, is Sobolev better aligned than
    Critic, and do better aligned rows train better?  Experiments without three seeds abstain.
    """
    found = [g for g in (results.group(records, arm) for arm in arms) if g]
    lines = []
    for row, other in PAIRS:
        ends = {_marked(g, row, other): list(g.difference(row, other).values()) for g in found}
        lines.append(f"- **{NAMES[row]} against {NAMES[other]}, test accuracy:** {votes(ends)}.")
    for metric, name in results.COSINES.items():
        lines.append(
            f"- **Sobolev against Critic, {name} gained by split, from the input up:** "
            f"{_gained(found, metric) or NOT_RUN}."
        )
    for metric, name in results.COSINES.items():
        ranks = {g.short: rank_correlation(g, PREDICTING, metric) for g in found}
        lines.append(
            f"- **Do schemes with a larger {name} train better networks?** The rank correlation is "
            f"{votes(ranks, SIGNS)}."
        )
    return "\n".join(lines)


def _marked(found: Group, *rows: str) -> str:
    """Name of an experiment, with a warning if the modules of a row have mostly died."""
    if not any(_mostly_dead(found, row) for row in rows):
        return found.short
    name, _, scale = found.short.rstrip(")").partition(" (")
    return f"{name} ({'; '.join(filter(None, [scale, 'most units dead']))})"


def _gained(found: Sequence[Group], metric: str) -> str:
    gains = {g.short: results.cosine_gain(g, "sobolev", "critic", metric) for g in found}
    return "; ".join(
        f"{name} " + ", ".join(number(gain.centre, "+.2f") for gain in by_split)
        for name, by_split in gains.items()
        if by_split and all(gain.count >= FEWEST for gain in by_split)
    )


AHEAD = {HOLDS: "ahead on", FAILS: "behind on", OPEN: "not settled on"}
SIGNS = {HOLDS: "positive on", FAILS: "negative on", OPEN: "of no settled sign on"}


def votes(differences: dict[str, list[float]], words: dict[str, str] = AHEAD) -> str:
    """Name the experiments where a number is above 0, below 0, or neither is settled."""
    said = [
        f"{words[kind]} {', '.join(f'*{name}*' for name in names)}"
        for kind, names in _verdicts(differences).items()
        if names
    ]
    return "; ".join(said) or NOT_RUN


def _verdicts(differences: dict[str, list[float]]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {HOLDS: [], FAILS: [], OPEN: []}
    for name, values in differences.items():
        if values:
            kinds[verdict(results.spread(values))].append(name)
    return kinds
