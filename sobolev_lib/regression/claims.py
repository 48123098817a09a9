"""The paper's claims of section 4.1 beside our records: rows of the *paper versus ours* table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.records import claims
from sobolev_lib.records.claims import FAILS, HOLDS, OPEN, PARTLY, Claim, Finding
from sobolev_lib.records.ledger import Ledger, Record
from sobolev_lib.records.summary import Interval, gain


def gains_at(records: Sequence[Record], n: int, arm: str = "paper") -> dict[str, Interval]:
    """Decades of test error that Sobolev training gains over values only, by function.

    Functions without two seeds are left out.
    """
    found = {}
    for name in FUNCTIONS:
        both = [
            [
                r
                for r in records
                if (r.config["function"], r.config["n"], r.config["method"], r.config["arm"])
                == (name, n, method, arm)
            ]
            for method in ("values", "sobolev")
        ]
        if gained := gain(both[0], both[1]):
            found[name] = gained
    return found


def _names(chosen: Iterable[str]) -> str:
    return ", ".join(FUNCTIONS[name].title for name in chosen) or "none"


def _complete(gains: dict[str, Interval]) -> bool:
    return len(gains) == len(FUNCTIONS)


def _six_of_seven(n: int) -> Callable[[Sequence[Record]], Finding | None]:
    def measure(records: Sequence[Record]) -> Finding | None:
        gains = gains_at(records, n)
        if not _complete(gains):
            return None
        better = [name for name, g in gains.items() if g.sign > 0]
        worse = [name for name, g in gains.items() if g.sign < 0]
        verdict = HOLDS if len(better) >= 6 else FAILS if len(gains) - len(worse) < 6 else OPEN
        ours = (
            f"smaller error on {len(better)} of {len(gains)} ({_names(better)}); "
            f"larger on {len(worse)} ({_names(worse)})"
        )
        return Finding(ours, verdict, min(g.count for g in gains.values()))

    return measure


def _orders_of_magnitude(records: Sequence[Record]) -> Finding | None:
    gains = gains_at(records, 100)
    if not _complete(gains):
        return None
    at_least_one = [name for name, g in gains.items() if g.low >= 1]
    best = max(gains, key=lambda name: gains[name].centre)
    ours = (
        "at N = 100 at least one decade for certain on "
        f"{len(at_least_one)} ({_names(at_least_one)}); "
        f"most on {FUNCTIONS[best].title}: {gains[best]:.2f} decades"
    )
    verdict = HOLDS if len(at_least_one) >= 6 else PARTLY if at_least_one else FAILS
    return Finding(ours, verdict, min(g.count for g in gains.values()))


def _stronger_with_less_data(records: Sequence[Record]) -> Finding | None:
    few, many = gains_at(records, 20), gains_at(records, 10_000)
    if not (_complete(few) and _complete(many)):
        return None
    stronger = [name for name in FUNCTIONS if few[name].low > many[name].high]
    weaker = [name for name in FUNCTIONS if few[name].high < many[name].low]
    middle = np.median([few[name].centre - many[name].centre for name in FUNCTIONS])
    ours = (
        f"gain at N = 20 minus gain at 10,000: median {middle:+.2f} decades; "
        f"larger at 20 on {len(stronger)} ({_names(stronger)}), "
        f"smaller on {len(weaker)} ({_names(weaker)})"
    )
    verdict = HOLDS if len(stronger) >= 4 else FAILS if len(weaker) >= 4 else OPEN
    return Finding(ours, verdict, min(g.count for g in (*few.values(), *many.values())))


def _one(name: str, n: int, sign: int) -> Callable[[Sequence[Record]], Finding | None]:
    def measure(records: Sequence[Record]) -> Finding | None:
        found = gains_at(records, n).get(name)
        if found is None:
            return None
        verdict = HOLDS if found.sign == sign else FAILS if found.sign == -sign else OPEN
        return Finding(f"{found:+.2f} decades gained by Sobolev training", verdict, found.count)

    return measure


def _styblinski_low_data(records: Sequence[Record]) -> Finding | None:
    gains = [gains_at(records, n).get("styblinski_tang") for n in (20, 100)]
    if None in gains:
        return None
    signs = [g.sign for g in gains if g]
    verdict = (
        HOLDS if min(signs) > 0 else FAILS if max(signs) < 0 else PARTLY if max(signs) > 0 else OPEN
    )
    ours = "; ".join(f"N = {n}: {g:+.2f} decades" for n, g in zip((20, 100), gains, strict=True))
    return Finding(ours, verdict, min(g.count for g in gains if g))


COMMAND = "python -m sobolev_lib regression --scale paper --seeds 10 --sizes "
OPEN_CHOICES = "steps, batch and initial weights are ours (the paper gives none)"

CLAIMS: list[Claim] = [
    Claim(
        "six-20",
        "p. 5, Fig. 2",
        "N = 20: Sobolev better on six of seven functions",
        _six_of_seven(20),
        COMMAND + "20",
        OPEN_CHOICES,
    ),
    Claim(
        "six-100",
        "p. 5, Fig. 2",
        "N = 100: Sobolev better on six of seven functions",
        _six_of_seven(100),
        COMMAND + "100",
        OPEN_CHOICES,
    ),
    Claim(
        "gap-10000",
        "p. 5, Fig. 2",
        "N = 10,000: the effect does not disappear",
        _six_of_seven(10_000),
        COMMAND + "10000",
        OPEN_CHOICES,
    ),
    Claim(
        "orders",
        "p. 5",
        "errors “orders of magnitude smaller”",
        _orders_of_magnitude,
        COMMAND + "100",
        OPEN_CHOICES,
    ),
    Claim(
        "low-data",
        "p. 5",
        "the effect is stronger in low-data regimes",
        _stronger_with_less_data,
        COMMAND + "20 10000",
        OPEN_CHOICES,
    ),
    Claim(
        "fig3",
        "p. 5, Fig. 3",
        "Styblinski-Tang: shape captured even with little data",
        _styblinski_low_data,
        COMMAND + "20 100",
        OPEN_CHOICES,
    ),
    Claim(
        "ackley-20",
        "p. 5, Fig. 2",
        "Ackley, N = 20: regular training is better",
        _one("ackley", 20, -1),
        COMMAND + "20",
        OPEN_CHOICES,
    ),
    Claim(
        "ackley-10000",
        "p. 5",
        "Ackley, N = 10,000: Sobolev is better",
        _one("ackley", 10_000, 1),
        COMMAND + "10000",
        OPEN_CHOICES,
    ),
]
"""Claims of section 4.1."""


def findings(book: Ledger | None = None) -> dict[str, Finding | None]:
    """Measure every claim; ``None`` where records are missing."""
    records = [r for r in (book or Ledger("regression")).read() if r.scale == "paper"]
    return {claim.key: claim.measure(records) for claim in CLAIMS}


def table(book: Ledger | None = None) -> str:
    """*Paper versus ours* for section 4.1, as an HTML table."""
    return claims.table(CLAIMS, findings(book))
