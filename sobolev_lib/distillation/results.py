"""From records to Fig. 4: which learning rate, what each method reached, how far they are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy
from numpy.typing import NDArray

from sobolev_lib.records.ledger import Record, select
from sobolev_lib.records.summary import Interval, difference

from .students import Settings


def arm(
    records: Sequence[Record], settings: Settings, teacher: str, rates: Sequence[float]
) -> dict[int, Record]:
    """Return the records of a student by seed, at the learning rate that validation prefers.

    Parameters
    ----------
    records : sequence of Record
        Of the experiment.
    settings : Settings
        Of the student; its learning rate does not matter.
    teacher : str
        The first twelve digits of the SHA-256 of the teacher's weights.
    rates : sequence of float
        To choose from: the one whose mean validation divergence is lowest over the seeds that
        every rate has.

    Returns
    -------
    dict
        Empty if the rates have no seed in common.
    """
    found: dict[float, dict[int, Record]] = {}
    for rate in rates:
        config = asdict(settings) | {"teacher": teacher, "learning_rate": rate}
        found[rate] = {record.seed: record for record in select(records, config)}
    common = set.intersection(*(set(runs) for runs in found.values())) if found else set()
    if not common:
        return {}

    def cost(rate: float) -> float:
        return float(numpy.mean([found[rate][seed].metrics["validation_kl"] for seed in common]))

    return found[min(found, key=cost)]


def values(runs: Mapping[int, Record], metric: str) -> dict[int, float]:
    """A metric at the end of training, by seed."""
    return {seed: float(record.metrics[metric]) for seed, record in runs.items()}


def curves(runs: Mapping[int, Record], metric: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Updates (points,) and a metric over training (seeds, points), as Fig. 4 draws them.

    Raises
    ------
    ValueError
        If there is no run.
    """
    if not runs:
        raise ValueError("there is no run; distill first (data/README.md)")
    ordered = [runs[seed].metrics["curve"] for seed in sorted(runs)]
    return numpy.array(ordered[0]["update"]), numpy.array([curve[metric] for curve in ordered])


def gain(
    plain: Mapping[int, Record], sobolev: Mapping[int, Record], metric: str
) -> Interval | None:
    """How much lower the Sobolev student's metric is, paired by seed; None below two seeds."""
    return difference(values(plain, metric), values(sobolev, metric))
