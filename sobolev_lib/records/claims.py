"""A claim of the paper beside what was measured, and the table of claims.

A claim is a function of the ledger.  Verdicts are computed, never typed: ``holds`` needs the whole
95 per cent interval on the claim's side, ``does not hold`` the whole interval on the other; what is
between is ``not settled``, and so is what holds at one budget and not at another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import FEWEST, Interval

HOLDS, FAILS, PARTLY, OPEN = "holds", "does not hold", "partly", "not settled"
NOT_HERE = "not at this scale"
NOT_RUN = "not run yet"


def verdict(found: Interval | None, threshold: float = 0.0, scale: str = "paper") -> str:
    """Whether a quantity is above a threshold, by its whole 95 per cent interval.

    Parameters
    ----------
    found : Interval or None
        The quantity over seeds; None where there are no records.
    threshold : float
        What is claimed to be exceeded.
    scale : str
        Of the records: what fails at another scale than the paper's has not failed at the paper's.

    Returns
    -------
    str
        :data:`HOLDS`, :data:`FAILS` (:data:`NOT_HERE` at the small scale), :data:`OPEN` (always
        below :data:`.summary.FEWEST` seeds) or :data:`NOT_RUN`.
    """
    if found is None:
        return NOT_RUN
    if found.count >= FEWEST and found.low > threshold:
        return HOLDS
    if found.count >= FEWEST and found.high < threshold:
        return FAILS if scale == "paper" else NOT_HERE
    return OPEN


def at_all_budgets(verdicts: Sequence[str]) -> str:
    """One verdict from those at several budgets: theirs if they agree, else :data:`OPEN`."""
    return verdicts[0] if len(set(verdicts)) == 1 else OPEN


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim; ``one_by_one`` unfolds where ``ours`` only counts."""

    ours: str
    verdict: str
    seeds: int
    one_by_one: str = ""


@dataclass(frozen=True)
class Claim:
    """A numeric claim of the paper.

    Parameters
    ----------
    key, where, paper : str
        Short name; place in the paper; the claim in the paper's numbers.
    measure : callable
        Ledger records to a :class:`Finding`; ``None`` while records are missing.
    command, deviations : str
        What makes the records; where ours differs.
    """

    key: str
    where: str
    paper: str
    measure: Callable[[Sequence[Record]], Finding | None]
    command: str
    deviations: str


def table(
    claims: Sequence[Claim], found: Mapping[str, Finding | None], at: str = "at the paper scale"
) -> str:
    """*Paper versus ours* as an HTML table; how a row was made unfolds below our number.

    ``found`` goes from a claim's key to what was measured, ``at`` says at what the seeds were run.
    """
    rows = "".join(_row(claim, found[claim.key], at) for claim in claims)
    return verdicts("Paper versus ours", rows)


def verdicts(label: str, rows: str) -> str:
    """Table of claims with their verdicts, around its rows; on a phone each row is a card.

    The rows are HTML (claim, our number, verdict), the label is for those who do not see the table.
    """
    widths = {"The paper says": 34, "We measure": 48, "Verdict": 18}
    return boxed(label, widths, f"<tbody>{rows}</tbody>", " verdicts")


def boxed(
    label: str, columns: Mapping[str, int], body: str, kind: str = "", table: str = "<table>"
) -> str:
    """Table in a box that scrolls by itself; columns with their widths in per cent."""
    head = "".join(f"<th scope='col' style='width:{w}%'>{n}</th>" for n, w in columns.items())
    return (
        f"<div class='claims{kind}' tabindex='0' role='region' aria-label='{label}'>"
        f"{table}<thead><tr>{head}</tr></thead>{body}</table></div>"
    )


def _row(claim: Claim, finding: Finding | None, at: str) -> str:
    ours, said = (finding.ours, finding.verdict) if finding else (NOT_RUN, "\u2014")
    many = f"{finding.seeds} seed{'s' * (finding.seeds != 1)}" if finding else ""
    seeds = f"{many} {at}" if finding else "no seeds yet"
    each = finding.one_by_one.replace("; ", "<br>") if finding else ""
    fold = f"<details><summary>One by one</summary>{each}</details>" if each else ""
    how = (
        f"{fold}<details><summary>{seeds}</summary>Deviations: {claim.deviations}.<br>"
        f"<code>{claim.command}</code></details>"
    )
    # several readings of the same runs, one a line
    lines = ours.replace("; ", "<br>")
    paper = f"{claim.paper} <small>({claim.where})</small>"
    cells = (paper, lines + how, f"<strong>{said}</strong>")
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
