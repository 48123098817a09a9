"""Is a better aligned synthetic gradient a better one?  Answers over all experiments at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from sobolev_lib.records.claims import FAILS, HOLDS, OPEN
from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import number
from sobolev_lib.synthetic_gradients.modules import PREDICTING
from sobolev_lib.synthetic_gradients.paper import NAMES
from sobolev_lib.synthetic_gradients.results import (
    COSINES,
    FEWEST,
    Group,
    command,
    compare,
    cosine_gain,
    group,
    measured_cosine,
    spread,
    verdict,
)


def rank_correlation(found: Group, rows: Sequence[str], metric: str = "cosine") -> list[float]:
    """Spearman correlation over rows of accuracy with mean cosine, one for each common seed.

    If gradients that are better aligned trained better networks, it would be near 1.  It describes
    the rows that were run, no others: with five of them, chance alone often makes it large.
    Seeds that lack a row which others have are left out.
    """
    late: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        for r in found.rows.get(row, []):
            cosine, top1 = measured_cosine(r, metric), r.metrics["top1"]
            if cosine and top1 is not None:
                late.setdefault(r.seed, []).append((float(np.mean(cosine)), top1))
    most = max((len(pairs) for pairs in late.values()), default=0)
    return [
        float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)
        for _, pairs in sorted(late.items())
        if len(pairs) == most and most >= FEWEST
    ]


def alignment(found: Group, row: str) -> str:
    """Mean cosine of a row by split, in words."""
    cosine = found.cosine(row)
    if not len(cosine):
        return f"{NAMES[row]}: not run yet"
    return f"{NAMES[row]} " + ", ".join(number(c, ".2f") for c in cosine.mean(axis=0))


def findings_on_alignment(records: Sequence[Record], arms: Sequence[str]) -> str:
    """Markdown list: for each arm, cosines and accuracies of Sobolev, Critic and Local CE."""
    lines = []
    for arm in arms:
        found = group(records, arm)
        if found is None:
            lines.append(f"- *{arm}*: not run yet (`{command(arm)}`).")
            continue
        rows = ("sobolev", "critic", "local_ce")
        cosines = "; ".join(alignment(found, row) for row in rows)
        lines.append(
            f"- *{found.title}* (`{arm}`). {compare(found, 'sobolev', 'critic')}; "
            f"{compare(found, 'sobolev', 'local_ce')}; {compare(found, 'critic', 'local_ce')}. "
            f"Cosines from the input up: {cosines}."
        )
    return "\n".join(lines)


def conclusions(records: Sequence[Record], arms: Sequence[str]) -> str:
    """Answer the chapter's three questions from the records, as a Markdown list.

    Is Sobolev better than Critic, is either better than Local CE, is Sobolev better aligned than
    Critic, and do better aligned rows train better?  Experiments without three seeds abstain.
    """
    found = [g for g in (group(records, arm) for arm in arms) if g]
    lines = []
    for row, other in (("sobolev", "critic"), ("sobolev", "local_ce"), ("critic", "local_ce")):
        votes = {g.short: list(g.difference(row, other).values()) for g in found}
        lines.append(f"- **{NAMES[row]} against {NAMES[other]}, test accuracy:** {_votes(votes)}.")
    for metric, name in COSINES.items():
        lines.append(
            f"- **Sobolev against Critic, {name} gained by split, from the input up:** "
            f"{_gained(found, metric) or 'not run yet'}."
        )
    for metric, name in COSINES.items():
        ranks = {g.short: rank_correlation(g, PREDICTING, metric) for g in found}
        lines.append(
            f"- **Do rows with a larger {name} train better networks?** The rank correlation is "
            f"{_votes(ranks, SIGNS)}."
        )
    return "\n".join(lines)


def _gained(found: Sequence[Group], metric: str) -> str:
    gains = {g.short: cosine_gain(g, "sobolev", "critic", metric) for g in found}
    return "; ".join(
        f"{name} " + ", ".join(number(gain.centre, "+.2f") for gain in by_split)
        for name, by_split in gains.items()
        if by_split and all(gain.count >= FEWEST for gain in by_split)
    )


AHEAD = {HOLDS: "ahead on", FAILS: "behind on", OPEN: "not settled on"}
SIGNS = {HOLDS: "positive on", FAILS: "negative on", OPEN: "of no settled sign on"}


def _votes(differences: dict[str, list[float]], words: dict[str, str] = AHEAD) -> str:
    """Name the experiments where a number is above 0, below 0, or neither is settled."""
    kinds: dict[str, list[str]] = {word: [] for word in words}
    for name, values in differences.items():
        if values:
            kinds[verdict(spread(values))].append(f"*{name}*")
    said = [f"{words[kind]} {', '.join(names)}" for kind, names in kinds.items() if names]
    return "; ".join(said) or "not run yet"
