"""A table of a chapter's numbers; it needs no plotting library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any


@dataclass(frozen=True)
class Table:
    """A table of a chapter's numbers; a notebook shows it as HTML, anything else as text.

    Parameters
    ----------
    rows : mapping
        From the name of a row to its entries by column; all rows have the same columns.
    formats : mapping, optional
        Format specification of a column's entries, such as ``".2e"``; others are shown by `str`.
    corner : str
        Heading of the column of row names.

    Raises
    ------
    ValueError
        If there is no row, or rows differ in their columns.
    """

    rows: Mapping[str, Mapping[str, Any]]
    formats: Mapping[str, str] = field(default_factory=dict)
    corner: str = ""

    def __post_init__(self) -> None:
        columns = [tuple(row) for row in self.rows.values()]
        if not columns or len(set(columns)) > 1:
            raise ValueError(f"rows need the same columns, at least one row; given {set(columns)}")

    def _cells(self) -> list[list[str]]:
        """Heading and body as text."""
        columns = list(next(iter(self.rows.values())))
        body = [
            [name, *(format(row[key], self.formats.get(key, "")) for key in columns)]
            for name, row in self.rows.items()
        ]
        return [[self.corner, *columns], *body]

    def _repr_html_(self) -> str:
        head, *body = self._cells()
        top = "".join(f'<th scope="col">{_shown(cell)}</th>' for cell in head[1:])
        corner = f'<th scope="col">{_shown(head[0])}</th>' if head[0] else "<td></td>"
        lines = [
            f'<tr><th scope="row">{_shown(name)}</th>'
            + "".join(f"<td>{_shown(cell)}</td>" for cell in cells)
            + "</tr>"
            for name, *cells in body
        ]
        # the theme leaves tables of this class in its own colours, light and dark
        return (
            f'<div class="table-box"><table class="dataframe"><thead><tr>{corner}{top}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>"
        )

    def __repr__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in cells
        )


def _shown(cell: str) -> str:
    """Return the HTML of a cell, in which a number stays with its per cent sign."""
    return escape(cell).replace(" %", "&nbsp;%")
