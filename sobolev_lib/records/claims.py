"""A claim of the paper beside what was measured, and the table of claims.

A claim is a function of the ledger.  Verdicts are computed, never typed: ``holds`` needs the whole
95 per cent interval on the claim's side, ``fails`` the whole interval on the other, anything
between is ``open``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sobolev_lib.records.ledger import Record

HOLDS, FAILS, PARTLY, OPEN = "holds", "does not hold", "partly", "not settled"


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim."""

    ours: str
    verdict: str
    seeds: int


@dataclass(frozen=True)
class Claim:
    """A numeric claim of the paper.

    Parameters
    ----------
    key : str
        Short name.
    where : str
        Place in the paper.
    paper : str
        The claim in the paper's numbers.
    measure : callable
        Ledger records to a :class:`Finding`; ``None`` while records are missing.
    command : str
        Makes the records.
    deviations : str
        Where ours differs.
    """

    key: str
    where: str
    paper: str
    measure: Callable[[Sequence[Record]], Finding | None]
    command: str
    deviations: str


def table(claims: Sequence[Claim], found: Mapping[str, Finding | None]) -> str:
    """*Paper versus ours* as an HTML table; how a row was made unfolds in its last cell."""
    names = ("The paper says", "We measure", "Verdict", "How")
    head = "".join(f"<th scope='col'>{name}</th>" for name in names)
    rows = "".join(_row(claim, found[claim.key]) for claim in claims)
    return (
        "<div class='claims' tabindex='0' role='region' aria-label='Paper versus ours'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(claim: Claim, finding: Finding | None) -> str:
    ours, verdict = (finding.ours, finding.verdict) if finding else ("not run yet", "\u2014")
    seeds = f"{finding.seeds} seeds at the paper scale" if finding else "no seeds yet"
    how = (
        f"<details><summary>{seeds}</summary>Deviations: {claim.deviations}.<br>"
        f"<code>{claim.command}</code></details>"
    )
    paper = f"{claim.paper} <small>({claim.where})</small>"
    cells = (paper, ours, f"<strong>{verdict}</strong>", how)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
