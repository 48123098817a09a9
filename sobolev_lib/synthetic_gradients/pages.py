"""Table 1 and the claims on it as HTML tables for the pages of the book."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from sobolev_lib.records.claims import Claim, Finding
from sobolev_lib.records.ledger import Record
from sobolev_lib.synthetic_gradients import training
from sobolev_lib.synthetic_gradients.claims import claims_on
from sobolev_lib.synthetic_gradients.paper import BLOCKS, METRICS, NAMES, Block
from sobolev_lib.synthetic_gradients.results import (
    DATA,
    FEWEST,
    Group,
    command,
    describe,
    groups,
    notes,
    read,
    shown,
)


def table(block: str, records: Sequence[Record] | None = None) -> str:
    """One block of Table 1 beside ours, as an HTML table for a page.

    Parameters
    ----------
    block : str
        Key of :data:`.BLOCKS`.
    records : sequence of Record, optional
        Those of the experiment's ledger unless given.

    Raises
    ------
    ValueError
        If the block is unknown.
    """
    if block not in BLOCKS:
        raise ValueError(f"block is {block!r}; it must be one of {', '.join(BLOCKS)}")
    part = BLOCKS[block]
    every = groups(read() if records is None else records)
    ours = [g for arm in part.arms for g in every if g.arm == arm]
    bodies = [_body(part, g) for g in ours]
    if part.arms[0] not in {g.arm for g in ours}:
        bodies.append(_missing(part))
    return _html(
        ("Row", "Paper", "Ours"), (32, 24, 44), bodies, f"Table 1 beside ours: {part.title}"
    )


def claims_table(
    blocks: Sequence[str] = tuple(BLOCKS), records: Sequence[Record] | None = None
) -> str:
    """The claims on some blocks with their verdicts, as an HTML table for a page."""
    records = read() if records is None else records
    places = {f"Table 1, {BLOCKS[key].title}" for key in blocks}
    rows = [
        _claim_row(claim, claim.measure(records))
        for claim in claims_on(records)
        if claim.where in places
    ]
    return _html(
        ("The paper says", "We measure", "Verdict"),
        (42, 38, 20),
        [f"<tbody>{''.join(rows)}</tbody>"],
        "Claims on Table 1",
    )


def _html(head: Sequence[str], widths: Sequence[int], bodies: Sequence[str], label: str) -> str:
    """Table in a box that scrolls by itself; ``widths`` in per cent."""
    top = "".join(
        f"<th scope='col' style='width:{width}%'>{escape(name)}</th>"
        for name, width in zip(head, widths, strict=True)
    )
    caption = f"<caption style='caption-side:top;text-align:left'>{escape(label)}</caption>"
    # three columns that fit a phone; the theme would make the table a block and scroll it
    style = "display:table;min-width:0"
    return (
        f"<div class='claims' tabindex='0' role='region' aria-label='{escape(label)}'>"
        f"<table style='{style}'>{caption}<thead><tr>{top}</tr></thead>"
        f"{''.join(bodies)}</table></div>"
    )


def _heading(text: str) -> str:
    return f"<tr><th scope='rowgroup' colspan='3'>{text}</th></tr>"


def _body(block: Block, found: Group) -> str:
    rows = [*training.MAIN_ROWS, *(row for row in found.rows if row not in training.MAIN_ROWS)]
    title = f"Ours: {escape(found.title)} <small>({found.scale} scale)</small>"
    lines = "".join(_row(block, found, row) for row in rows)
    return f"<tbody>{_heading(title)}{lines}</tbody>"


def _row(block: Block, found: Group, row: str) -> str:
    runs = found.rows.get(row, [])
    paper = [
        f"{_label(block, metric)}{cells[row]}"
        for metric, cells in block.cells.items()
        if row in cells
    ]
    missing = "not run there" if row == "direct" else "not in the paper"
    if runs:
        mine = [
            f"{_label(block, metric)}{shown(list(found.values(row, metric).values()))}"
            + _deviation(list(found.values(row, metric).values()))
            for metric in block.cells
        ]
        lost = len(runs) - len(found.values(row))
        mine += [f"{lost} diverged"] if lost else []
    else:
        mine = ["not run yet"]
    where = DATA.get(found.config["data"], found.config["data"])
    if where not in block.title:  # a subset says so in its row
        mine.append(f"<small style='white-space:normal'>on {escape(where)}</small>")
    differs = [] if not runs else [*notes(runs[0]), f"Run on: {runs[0].device}"]
    how = _how(differs, command(found.arm, row, found))
    cells = (
        "<br>".join(paper) or f"<small style='white-space:normal'>{missing}</small>",
        "<br>".join(mine) + how,
    )
    return (
        f"<tr><th scope='row'>{_name(row)}</th>"
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def _name(row: str) -> str:
    """Name of a row that may be broken on a phone."""
    return escape(NAMES[row]).replace("Backpropagation", "Back&shy;propagation")


def _label(block: Block, metric: str) -> str:
    return f"{METRICS[metric]}: " if len(block.cells) > 1 else ""


def _deviation(values: Sequence[float]) -> str:
    if len(values) < FEWEST:
        return ""
    return f"<small>, s.d. {np.std(values, ddof=1):.2f}</small>"


def _how(differs: Sequence[str], words: str) -> str:
    listed = "".join(f"<li>{escape(note)}</li>" for note in differs)
    said = f"Differs from the paper:<ul>{listed}</ul>" if differs else ""
    return (
        f"<details><summary>how</summary><small style='white-space:normal'>{said}"
        f"<code>{escape(words)}</code></small></details>"
    )


def _missing(block: Block) -> str:
    """The paper's own scale, while nobody has run it."""
    setting = training.settings(block.arms[0], ["sobolev"])[0]
    title = f"Ours: {escape(describe(training.config(setting)))}"
    lines = "".join(
        f"<tr><th scope='row'>{_name(row)}</th><td>"
        + "<br>".join(
            f"{_label(block, metric)}{cells[row]}"
            for metric, cells in block.cells.items()
            if row in cells
        )
        + f"</td><td>not run yet{_how([], command(block.arms[0], row))}</td></tr>"
        for row in next(iter(block.cells.values()))
    )
    return f"<tbody>{_heading(title)}{lines}</tbody>"


def _claim_row(claim: Claim, finding: Finding | None) -> str:
    ours, word = (finding.ours, finding.verdict) if finding else ("not run yet", "—")
    where = f"<small style='white-space:normal'>({escape(claim.where)})</small>"
    how = _how([claim.deviations] if finding else [], claim.command)
    cells = (f"{escape(claim.paper)} {where}", escape(ours) + how, f"<strong>{word}</strong>")
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
