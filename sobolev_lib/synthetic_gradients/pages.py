"""Table 1, the claims on it and the digits as tables for the pages of the book."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from sobolev_lib.records.claims import NOT_RUN, Claim, Finding, boxed, verdict, verdicts
from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import FEWEST
from sobolev_lib.records.table import Table
from sobolev_lib.synthetic_gradients import results
from sobolev_lib.synthetic_gradients import settings as arms
from sobolev_lib.synthetic_gradients.claims import answers, claims_on
from sobolev_lib.synthetic_gradients.paper import BLOCKS, BRIEF, METRICS, NAMES, Block, printed
from sobolev_lib.synthetic_gradients.results import Group, Records

SMALL = "<small style='white-space:normal'>{}</small>"


def table(block: str, records: Sequence[Record] | None = None) -> str:
    """One block of Table 1 (a key of :data:`.BLOCKS`) beside ours, as an HTML table for a page.

    Runs that were tested on images kept from training (:func:`.results.pilots`) are left out.
    """
    part = BLOCKS[block]
    every = results.groups(results.read() if records is None else records)
    ours = [g for arm in part.arms for g in every if g.arm == arm and "held_out" not in g.changes]
    bodies = [_body(part, g.title, g) for g in ours]
    first = part.arms[0]
    if first not in {g.arm for g in ours}:  # the paper's own scale, while nobody has run it
        setting = arms.settings(first, ["sobolev"])[0]
        bodies.append(_body(part, results.describe(arms.config(setting)), None))
    label = escape(f"Table 1 beside ours: {part.title}")
    columns = {"Scheme": 32, "Paper": 24, "Ours": 44}
    # three columns that fit a phone; the theme would make the table a block and scroll it
    caption = f"<caption style='caption-side:top;text-align:left'>{label}</caption>"
    top = f"<table style='display:table;min-width:0'>{caption}"
    return "".join(boxed(label, columns, body, table=top) for body in bodies)


def claims_table(
    blocks: Sequence[str] = tuple(BLOCKS), records: Sequence[Record] | None = None
) -> str:
    """The claims on some blocks with their verdicts, as HTML tables for a page, one a block."""
    records = results.read() if records is None else records
    return "".join(_claims_on_block(key, records) for key in blocks)


def _claims_on_block(key: str, records: Sequence[Record]) -> str:
    """One block; what was run is said once, above, and rows name it where it is not all."""
    where, ours = f"Table 1, {BLOCKS[key].title}", answers(key, records)
    names = {g.title: results.SHORT.get(g.config["data"], g.title) for g in ours}
    runs = "; ".join(
        title if len(names) == 1 or title.startswith(name) else f"{name}: {title}"
        for title, name in names.items()
    )
    heading = f"<strong>{escape(where)}.</strong> Our runs: {escape(runs or NOT_RUN)}."
    rows = "".join(
        _claim_row(claim, claim.measure(records), names)
        for claim in claims_on(records)
        if claim.where == where
    )
    return f"<p>{heading}</p>" + verdicts(f"Claims on {escape(where)}", rows)


def _body(block: Block, title: str, found: Group | None) -> str:
    """Rows of one experiment of ours, or of none yet."""
    rows = next(iter(block.cells.values())) if found is None else found.listed(arms.MAIN_ROWS)
    scale = "" if found is None else f" <small>({found.scale} scale)</small>"
    if found is not None and found.changes:
        changed = ", ".join(f"{k} {v}" for k, v in found.changes.items())
        scale += f" <small>(changed: {escape(changed)})</small>"
    heading = f"<tr><th scope='rowgroup' colspan='3'>Ours: {escape(title)}{scale}</th></tr>"
    lines = [_row(block, found, row) for row in rows]
    return f"<tbody>{heading}{''.join(lines)}</tbody>"


def _row(block: Block, found: Group | None, row: str) -> str:
    label = {
        metric: f"{METRICS[metric]}: " if len(block.cells) > 1 else "" for metric in block.cells
    }
    paper = [
        f"{label[metric]}{cell}"
        for metric, cells in block.cells.items()
        if (cell := printed(cells, row))
    ]
    direct = arms.AT_PAPERS_RATE.get(row, row) == "direct"
    missing = "not run there" if direct else "not in the paper"
    mine, differs = [NOT_RUN], []
    if found is not None and row in found.rows:
        runs, values = found.rows[row], {m: list(found.values(row, m).values()) for m in label}
        mine = [f"{label[m]}{results.shown(v)}{_deviation(v)}" for m, v in values.items()]
        lost = len(runs) - len(found.values(row))
        mine += [f"{lost} diverged"] if lost else []
        differs = [*results.notes(runs[0]), f"Run on: {runs[0].device}"]
    if found is not None:
        data = found.config["data"]
        if results.DATA.get(data, data) not in block.title:  # a subset says so in its row
            mine.append(SMALL.format(f"on {escape(results.SHORT.get(data, data))}"))
    words = results.command(block.arms[0] if found is None else found.arm, row, found)
    # a name that may be broken on a phone
    name = escape(NAMES[row]).replace("Backpropagation", "Back&shy;propagation")
    return (
        f"<tr><th scope='row'>{name}</th>"
        f"<td>{'<br>'.join(paper) or SMALL.format(missing)}</td>"
        f"<td>{'<br>'.join(mine)}{_how(differs, words)}</td></tr>"
    )


def _deviation(values: Sequence[float]) -> str:
    if len(values) < FEWEST:
        return ""
    return f"<small>, s.d. {np.std(values, ddof=1):.2f}</small>"


def _how(differs: Sequence[str], words: str) -> str:
    listed = "".join(f"<li>{escape(note)}</li>" for note in differs)
    text = f"Differs from the paper:<ul>{listed}</ul>" if differs else ""
    small = SMALL.format(f"{text}<code>{escape(words)}</code>")
    return f"<details><summary>how</summary>{small}</details>"


def _claim_row(claim: Claim, finding: Finding | None, names: Mapping[str, str]) -> str:
    ours, word = (finding.ours, finding.verdict) if finding else (NOT_RUN, "—")
    how = _how([claim.deviations] if finding else [], claim.command)
    lines = []
    for title, name in names.items():  # "number; title. number; title"
        number, told, ours = ours.partition(f"; {title}")
        lines.append(f"{name}: {number}" if told and len(names) > 1 else number)
        ours = ours.removeprefix(". ")
    shown_lines = "<br>".join(escape(line).replace("; ", "<br>") for line in [*lines, ours] if line)
    cells = (escape(claim.paper), shown_lines + how, f"<strong>{word}</strong>")
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def accuracy_table(sources: Mapping[str, Records]) -> Table:
    """Test accuracy on the digits in per cent, by row and source (heading to records)."""

    def cell(records: Records, row: str) -> str:
        found = results.summarise(records, row)
        return results.said(found, ".1f") + (f", n\u00a0=\u00a0{found.count}" if found else "")

    return Table(
        {
            BRIEF[row]: {heading: cell(records, row) for heading, records in sources.items()}
            for row in arms.MAIN_ROWS
        },
        corner="Test accuracy (%)",
    )


def order_table(sources: Mapping[str, Records]) -> Table:
    """Differences in accuracy on the digits between neighbours of Table 1, with verdicts."""
    theirs = BLOCKS["cifar10"].cells["top1"]
    rows = {}
    for higher, lower in results.ORDER:
        both = higher in theirs and lower in theirs
        apart = f"{theirs[higher].value - theirs[lower].value:+.1f}" if both else "—"
        cells = {"Table 1": apart}
        for heading, records in sources.items():
            found = results.difference(records, higher, lower)
            cells[heading] = results.said(found, "+.2f")
            cells[f"{heading}: verdict"] = verdict(found)
        rows[f"{NAMES[higher]} above {NAMES[lower]}"] = cells
    return Table(rows, corner="Accuracy, points")


def fidelity_table(records: Records, step: int) -> Table:
    """Fidelity of every row on the digits at a step: mean over the splits, interval over seeds."""
    columns = {
        "cosine": "As recorded",
        "frozen": "Statistics frozen",
        "batch": "Whole batch",
        "weights": "Weights",
    }
    rows = {
        NAMES[row]: {
            heading: results.said(results.summarise(records, row, name, step=step))
            for name, heading in columns.items()
        }
        for row in results.by_row(records)
    }
    return Table(rows, corner=f"Cosine, step {step}")


def recall_table(records: Records, seed: int, rows: Sequence[str], arm: str) -> Table:
    """Share of the test images named right, digit by digit, at the end of single runs."""
    found = results.by_row(records, arm)
    table = {
        BRIEF[row]: {str(digit): share for digit, share in enumerate(run.metrics["recall"])}
        for row in rows
        for run in found.get(row, [])
        if run.seed == seed
    }
    return Table(table, {str(digit): ".2f" for digit in range(10)}, f"Seed {seed}")
