"""Numbers of the benchmark, read from its ledger."""

from __future__ import annotations

from typing import Any

from sobolev_lib.cost.benchmark import EXPERIMENT
from sobolev_lib.records.ledger import Ledger, Record


def records(book: Ledger | None = None, **config: Any) -> list[Record]:
    """Records of the benchmark whose configuration has these entries.

    Raises
    ------
    LookupError
        If there are none; the command that makes them is named.
    """
    every = (book or Ledger(EXPERIMENT)).read()
    found = [r for r in every if all(r.config.get(name) == v for name, v in config.items())]
    if not found:
        wanted = ", ".join(f"{k} = {v}" for k, v in config.items())
        raise LookupError(f"no record of the benchmark with {wanted}: python -m sobolev_lib cost")
    return found


def metric(
    variant: str, members: int, n: int, name: str = "step_ratio", book: Ledger | None = None,
    **config: Any,
) -> float:  # fmt: skip
    """One number of the benchmark, of one thread on the CPU unless ``config`` says otherwise.

    Raises
    ------
    LookupError
        If not exactly one record answers.
    """
    config = {"threads": 1, "device": "cpu", **config}
    found = records(book, variant=variant, members=members, n=n, **config)
    if len(found) > 1:
        raise LookupError(f"{len(found)} records of {variant} on {members} x {n} answer; say more")
    return float(found[0].metrics[name])


def layers(record: Record) -> float:
    """Peak memory of a record in units of one hidden layer's signals in single precision."""
    config = record.config
    one = 4 * config["members"] * config["n"] * config["width"]
    return float(record.metrics["peak_bytes"]) / one
