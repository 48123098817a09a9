"""Whether the order of the schemes is that of the modules that survive.

A hidden ReLU unit that is 0 on every example gives a module no slope there, and no step wakes it.
Large steps kill units: the reduced experiments train their modules at ten times the paper's rate.
So the same experiment is run with the paper's rate, with leaky units, and with both.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from sobolev_lib.records.summary import FEWEST, number
from sobolev_lib.records.table import Table
from sobolev_lib.synthetic_gradients import claims, results
from sobolev_lib.synthetic_gradients.paper import CARES, NAMES, plural
from sobolev_lib.synthetic_gradients.results import Group
from sobolev_lib.synthetic_gradients.settings import sparing

CHANGES: dict[str, str] = {"": "the fast rate", **CARES}
"""What is done against dying units."""
SCHEMES = ("vfbn", "critic", "sobolev", "local_ce")
PAIRS = (("critic", "vfbn"), ("sobolev", "vfbn"), ("sobolev", "critic"), ("sobolev", "local_ce"))
SHARES = ("dead", "zeros")
"""Metrics that are shares, which by seed may be 0 or 1."""
WORDS = dict(zip(claims.AHEAD, ("ahead with", "behind with", "not settled with"), strict=True))


def table(found: Group, metric: str = "top1", factor: float = 1.0) -> Table:
    """Return a metric of each scheme (down) with each of :data:`CHANGES` that was run (across).

    ``metric`` is one number of a record, or one for each split, of which the mean is shown;
    ``factor`` multiplies it.  With it stands its interval, or, of one of :data:`SHARES`, the range
    of the seeds.

    Raises
    ------
    ValueError
        If no record has the metric.
    """
    values = {
        (scheme, care): [factor * v for v in found.values(sparing(scheme, care), metric).values()]
        for scheme in SCHEMES
        for care in CHANGES
    }
    run = [care for care in CHANGES if any(values[scheme, care] for scheme in SCHEMES)]
    if not run:
        raise ValueError(f"no record of {found.arm} has {metric!r}")
    cells: dict[str, dict[str, str]] = {NAMES[scheme]: {} for scheme in SCHEMES}
    say = _ranged if metric in SHARES else results.stated
    for care in run:
        counts = {len(v) for scheme in SCHEMES if (v := values[scheme, care])}
        same = len(counts) == 1  # then the column's head says it
        head = CHANGES[care] + (f" ({plural(max(counts), 'seed')})" if same else "")
        for scheme in SCHEMES:
            numbers = values[scheme, care]
            seeds = "" if same or not numbers else f" ({plural(len(numbers), 'seed')})"
            cells[NAMES[scheme]][head] = say(numbers) + seeds
    return Table(cells, corner="scheme")


def _ranged(shares: Sequence[float]) -> str:
    """Mean, smallest and largest: where seeds are 0 or 1, Student's interval says nothing."""
    if len(shares) < FEWEST:
        return results.stated(shares)
    mean, low, high = (number(v, ".1f") for v in (fmean(shares), min(shares), max(shares)))
    return mean if low == high else f"{mean} ({low} to {high})"


def best(pilots: Group | None, scheme: str) -> str | None:
    """Return the key of :data:`CHANGES` with the highest accuracy on images kept from training.

    ``pilots`` are the runs that were made for the choice (:func:`.results.pilots`).
    """
    means = {
        care: fmean(values.values())
        for care in CHANGES
        if pilots and (values := pilots.values(sparing(scheme, care)))
    }
    return max(means, key=lambda care: means[care]) if means else None


def at_best(found: Group, pilots: Group | None, scheme: str, other: str) -> dict[int, float]:
    """Return a scheme minus another by seed, each with the change that is :func:`best` for it."""
    own, others = best(pilots, scheme), best(pilots, other)
    if own is None or others is None:
        return {}
    return found.difference(sparing(scheme, own), sparing(other, others))


def answers(found: Group, pilots: Group | None = None) -> str:
    """Say for each pair of schemes how it ends with each of :data:`CHANGES`, as a Markdown list.

    With ``pilots`` also how it ends if each scheme has its :func:`best` change.
    """
    lines = []
    for scheme, other in PAIRS:
        by_change = {
            said: list(found.difference(sparing(scheme, care), sparing(other, care)).values())
            for care, said in CHANGES.items()
        }
        kept = {said: values for said, values in by_change.items() if len(values) >= FEWEST}
        line = f"- **{NAMES[scheme]} against {NAMES[other]}:** {claims.votes(kept, WORDS)}."
        if ends := at_best(found, pilots, scheme, other):
            own, others = (
                f"{NAMES[one]}: {CHANGES[best(pilots, one) or '']}" for one in (scheme, other)
            )
            shown = results.shown(list(ends.values()), "+.1f", " points")
            line += f" Each at its best ({own}; {others}): {shown}."
        lines.append(line)
    return "\n".join(lines)


def compare(found: Group, scheme: str, other: str, care: str) -> str:
    """Say how two schemes compare with a change of :data:`CHANGES`, which the context names."""
    said = results.compare(found, sparing(scheme, care), sparing(other, care))
    return said.replace(f", {CHANGES[care]}", "")


def moved(found: Group, scheme: str, other: str, care: str) -> dict[int, float]:
    """Return by seed how far a change moves the lead of one scheme over the other, in points."""
    before = found.difference(scheme, other)
    after = found.difference(sparing(scheme, care), sparing(other, care))
    return {seed: after[seed] - before[seed] for seed in sorted(before.keys() & after.keys())}
