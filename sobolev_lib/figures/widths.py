"""Each figure a second time, for a phone: the same axes, laid out anew in the width of its column.

A figure drawn for a desk is 650 to 1,000 pixels wide; a phone leaves 342, and shrinking would bring
the text to five pixels.  `narrow` puts the panels of a finished figure below one another, or two in
a row where there are many, breaks long titles and legends into lines, and puts everything back.
`drawing` returns both in one SVG file, the narrow one packed into a comment: a notebook shows the
wide one, and the build of the book serves each where it belongs.

.. rubric:: Examples

>>> from matplotlib import pyplot as plt
>>> from sobolev_lib.figures import style, widths
>>> fig, axes = style.figure(1, 3, width="wide")
>>> with widths.narrow(fig):
...     print(float(fig.get_figwidth()))
3.56
>>> float(fig.get_figwidth())
8.6
>>> plt.close(fig)
"""

from __future__ import annotations

import base64
import re
import textwrap
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend
from matplotlib.text import Text

from sobolev_lib.figures import ends

__all__ = ["MARK", "NARROW", "drawing", "narrow", "smallest_text"]

#: Width in inches of what a phone of 390 pixels leaves to a figure, at 96 pixels an inch.
NARROW = 3.56
#: Words in the comment that carries the narrow drawing; before it the size of its smallest text.
MARK = "narrow:"
#: Panels from which two stand in a row, and names of a list from which three do.
MANY, LONG = 5, 11
#: Inches: the most a panel of numbers is high, alone in its row and beside another.
TALL, TALL_OF_TWO = 2.45, 1.75
#: Inches below a panel for its ticks, and above for its title.
ROOM = 0.35
#: Inches for the names along an ordinate, and for those at the ends of lines.
LIST, ENDS = 1.5, 1.15
#: Points of both, and of them between two lines.
SMALL, LINE = 8.0, 11.0
#: Points: titles are not larger; inches a letter is wide for each point of its size, on average.
TITLE, LETTER = 10.0, 0.0082


class _Changes(ExitStack):
    """What was changed in a ``with`` block, put back at its end in the opposite order."""

    def set(self, artist: Artist, **properties: Any) -> None:
        """Set properties and remember what they were."""
        for name, value in properties.items():
            before = getattr(artist, f"get_{name}")()
            setter = getattr(artist, f"set_{name}")
            setter(value)
            self.callback(setter, before)


@contextmanager
def narrow(fig: Figure) -> Iterator[Figure]:
    """Lay a figure out `NARROW` inches wide inside a ``with`` block; afterwards it is as it was.

    Its panels stand in one grid, or it is of any other making: then it only becomes smaller.
    """
    size = tuple(fig.get_size_inches())
    with _Changes() as changes:
        changes.callback(fig.set_size_inches, *size)
        panels = _panels(fig)
        if panels:
            _stack(fig, panels, changes)
        else:
            fig.set_size_inches(NARROW, NARROW * size[1] / size[0])
        _break_texts(fig, changes)
        _refit_ends(fig, changes)
        yield fig


def drawing(fig: Figure) -> str:
    """Return a figure as SVG: as it is, and packed into a comment as a phone should show it."""
    wide = _svg(fig)
    with narrow(fig):
        packed = base64.b64encode(zlib.compress(_svg(fig).encode(), 9)).decode()
    return f"{wide}<!--{MARK}{smallest_text(fig):g}:{packed}-->\n"


def _svg(fig: Figure) -> str:
    buffer = BytesIO()
    how: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.03, "metadata": {"Date": None}}
    fig.savefig(buffer, format="svg", **how)
    return buffer.getvalue().decode()


def smallest_text(fig: Figure) -> float:
    """Points of the smallest text that a figure shows."""
    shown = [t for t in fig.findobj(Text) if isinstance(t, Text) and t.get_visible()]
    return min((_points(text) for text in shown if text.get_text().strip()), default=10.0)


def _points(text: Text) -> float:
    return float(text.get_fontsize())


# --- panels --------------------------------------------------------------------------------------


def _panels(fig: Figure) -> list[list[Axes]]:
    """Rows of the panels that the figure's grid has; colour bars follow their panels."""
    found: dict[int, list[tuple[int, Axes]]] = {}
    for ax in fig.axes:
        spec = ax.get_subplotspec()
        if spec is not None and not hasattr(ax, "_colorbar") and ax.get_visible():
            found.setdefault(spec.rowspan.start, []).append((spec.colspan.start, ax))
    return [[ax for _, ax in sorted(found[row], key=lambda p: p[0])] for row in sorted(found)]


def _stack(fig: Figure, rows: Sequence[Sequence[Axes]], changes: _Changes) -> None:
    """Lay the panels out anew: as their maker asked, or below one another, or two in a row."""
    panels = [ax for row in rows for ax in row]
    long = len(panels) > 2 and any(len(_names_listed(ax)) >= LONG for ax in panels)
    columns = 2 if len(panels) >= MANY or long else 1
    grid = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    grid = ends.NARROW_ROWS.get(fig, grid)
    columns = max(map(len, grid))
    old = fig.get_figheight() / len(rows)
    heights = [max(_height(ax, old, columns) for ax in row) for row in grid]
    fig.set_size_inches(NARROW, sum(heights) + _extra(fig))
    spec = GridSpec(len(grid), columns, figure=fig, height_ratios=heights)
    for i, row in enumerate(grid):
        for j, ax in enumerate(row):
            before = ax.get_subplotspec()
            assert before is not None
            ax.set_subplotspec(spec[i, j])
            changes.callback(ax.set_subplotspec, before)
    if len(panels) > 1:
        _names(rows, grid, changes)


def _height(ax: Axes, old: float, columns: int) -> float:
    """Inches of a panel's row: lists need their lines, maps are as high as wide, curves get lower.

    ``old`` is what it has in the wide figure.
    """
    wide = NARROW / columns
    if ax.name == "3d":
        return 0.95 * wide
    if ax.get_aspect() != "auto" or ax.get_box_aspect() is not None:
        ratio = ax.get_data_ratio() if ax.get_aspect() == 1 else 1.0
        return wide * min(max(ratio, 0.6), 1.3) + (0.0 if columns > 1 else -ROOM)
    names = _names_listed(ax)
    if names and ax.axison:
        broken = [_break(name.get_text(), LIST, SMALL) for name in names]
        lines = sum(0.06 + 0.125 * (1 + name.count("\n")) for name in broken)
        return max(lines + ROOM + 0.25, min(old, 0.6 + 0.3 * len(names)))
    gap, notes = _ends(ax)
    return max(min(old, TALL if columns == 1 else TALL_OF_TWO), gap / 72 * notes + 2 * ROOM)


def _ends(ax: Axes) -> tuple[float, int]:
    """Points between labels at the ends of lines, once they are broken, and their number."""
    notes = ends.END_LABELS.get(ax, [])
    lines = [_break(note.get_text(), ENDS, SMALL).count("\n") + 1 for note in notes]
    return LINE * max(lines, default=1) + 1.0, len(notes)


def _names_listed(ax: Axes) -> list[Text]:
    """Names along the ordinate, its own or those of the panel that it shares it with."""
    read = set()  # panels that share a formatter have the same names, and reading them is slow
    for one in [ax, *ax.get_shared_y_axes().get_siblings(ax)]:
        formatter = one.yaxis.get_major_formatter()
        if formatter in read:
            continue
        labels = one.get_yticklabels()
        words = [label.get_text().split("mathdefault")[-1] for label in labels]
        if sum(any(c.isalpha() for c in word) for word in words) > 1:
            return list(labels)
        if any(words):
            read.add(formatter)
    return []


def _extra(fig: Figure) -> float:
    """Inches for what stands outside the panels."""
    legends = sum(0.17 * len(legend.get_texts()) for legend in _legends(fig))
    return legends + 0.4 * bool(fig.get_supxlabel())


def _legends(fig: Figure) -> list[Legend]:
    """Legends of the figure, and that of a panel if it is the only one."""
    own = [legend for ax in fig.axes if (legend := ax.get_legend()) is not None]
    return [*fig.legends, *(own if len(own) == 1 else ())]


def _names(
    rows: Sequence[Sequence[Axes]], grid: Sequence[Sequence[Axes]], changes: _Changes
) -> None:
    """Give every panel the names that it took from a neighbour: of axes, of ticks, its title."""
    inherited = {ax: (row[0], rows[0][j]) for row in rows for j, ax in enumerate(row)}
    shown = [ax for row in grid for ax in row if ax.axison]
    below = {ax.get_xlabel() for ax in shown} - {""}
    beside = {ax.get_ylabel() for ax in shown} - {""}
    for i, row in enumerate(grid):
        for j, ax in enumerate(row):
            if not ax.axison or ax.name == "3d":
                continue
            first, top = inherited[ax]
            if not ax.get_title(loc="left") and top is not ax and len(rows) > 1:
                _title(ax, top.get_title(loc="left"), changes)
            under = grid[i + 1][j] if i + 1 < len(grid) and j < len(grid[i + 1]) else None
            last = under is None or not under.axison
            joined = under is not None and ax.get_shared_x_axes().joined(ax, under)
            if len(below) == 1:
                _label(ax, "x", next(iter(below)) if last else "", changes)
            if last or not joined:
                _ticks(ax, "x", changes)
            leader = row[0]
            if j and ax.get_shared_y_axes().joined(ax, leader):
                continue
            if len(beside) == 1:
                _label(ax, "y", next(iter(beside)) if j == 0 else "", changes)
            elif not ax.get_ylabel():
                _label(ax, "y", first.get_ylabel(), changes)
            _ticks(ax, "y", changes)


def _label(ax: Axes, axis: str, text: str, changes: _Changes) -> None:
    changes.set(getattr(ax, f"{axis}axis").label, text=text)


def _title(ax: Axes, text: str, changes: _Changes) -> None:
    ax.set_title(text)
    changes.callback(ax.set_title, "")


def _ticks(ax: Axes, axis: str, changes: _Changes) -> None:
    """Show the labels of the ticks, where sharing an axis had hidden them."""
    side = {"x": "labelbottom", "y": "labelleft"}[axis]
    before = getattr(ax, f"{axis}axis").get_tick_params().get(side, True)
    if not before:
        ax.tick_params(axis=axis, **{side: True})  # type: ignore[arg-type]
        changes.callback(ax.tick_params, axis=axis, **{side: False})  # type: ignore[arg-type]


# --- texts ---------------------------------------------------------------------------------------


def _break(text: str, inches: float, points: float) -> str:
    """Break a text into lines; formulae stay whole."""
    most = max(6, int(inches / (LETTER * points)))
    if "$" in text or max(map(len, text.split("\n"))) <= most:
        return text
    text = re.sub(r"(\d) %", "\\1\N{NO-BREAK SPACE}%", re.sub(r"[ \n]+", " ", text))
    return textwrap.fill(text, most, break_long_words=False)


def _letters(line: str) -> int:
    return len(line) if "$" not in line else len(line) // 2


def _break_texts(fig: Figure, changes: _Changes) -> None:
    """Break what is too long for its panel, or for the figure, into lines."""
    for ax in fig.axes:
        spec = ax.get_subplotspec()
        if spec is None or hasattr(ax, "_colorbar"):
            continue
        rows, columns = spec.get_gridspec().nrows, spec.get_gridspec().ncols
        wide, high = NARROW / columns, fig.get_figheight() / rows
        for title in (ax.title, ax._left_title, ax._right_title):  # type: ignore[attr-defined]
            size = min(_points(title), TITLE)
            changes.set(title, text=_break(title.get_text(), wide - 0.45, size), fontsize=size)
        if not ax.axison:  # a key: what it says must not make the others narrower
            _break_key(ax, wide - 0.7, high - 2 * ROOM, changes)
            continue
        for label, room in ((ax.xaxis.label, wide - 0.3), (ax.yaxis.label, high - 0.2)):
            changes.set(label, text=_break(label.get_text(), room, _points(label)))
        if _names_listed(ax):
            _break_list(ax, changes)
    for text in (fig._supxlabel, fig._suptitle):  # type: ignore[attr-defined]
        if text is not None:
            broken = _break(text.get_text(), NARROW - 0.2, _points(text))
            changes.set(text, text=broken)
    for legend in _legends(fig):
        _relay(fig, legend, changes)


def _break_key(ax: Axes, wide: float, high: float, changes: _Changes) -> None:
    """Break what a key says, and move the marks and words below it down by the lines that adds."""
    down = 0.0
    for text in sorted(ax.texts, key=lambda text: -text.get_position()[1]):
        x, y = text.get_position()
        size = min(_points(text), SMALL)
        broken = _break(text.get_text(), wide, size)
        added = (broken.count("\n") - text.get_text().count("\n")) * LINE / 72 / high
        middle = added / 2 if text.get_verticalalignment() == "center" else 0.0
        beside = [line for line in ax.lines if np.allclose(line.get_ydata(), y)]
        for line in beside:
            changes.set(line, ydata=np.subtract(line.get_ydata(), down + middle))
        place = (x, y - down - middle)
        changes.set(text, text=broken, fontsize=size, position=place, in_layout=False)
        down += added


def _break_list(ax: Axes, changes: _Changes) -> None:
    """Break the names along the ordinate, so that they leave room to what they name."""
    ticks = ax.get_yticklabels()
    places, colours = list(ax.get_yticks()), [tick.get_color() for tick in ticks]
    labels, size = [tick.get_text() for tick in ticks], max(map(_points, ticks), default=SMALL)
    broken = [_break(label, LIST, SMALL) for label in labels]

    def put(texts: Sequence[str], points: float) -> None:
        ax.set_yticks(places, labels=list(texts))
        ax.tick_params(axis="y", labelsize=points)
        for tick, colour in zip(ax.get_yticklabels(), colours, strict=True):
            tick.set_color(colour)

    if any(labels):
        put(broken, SMALL)
        changes.callback(put, labels, size)


def _relay(fig: Figure, legend: Legend, changes: _Changes) -> None:
    """Put a legend outside the panels, in as many columns as fit."""
    texts = [text.get_text() for text in legend.get_texts()]
    if not texts:
        return
    widest = max(_letters(text) for text in texts) * LETTER * 9 + 0.45
    changes.set(legend, visible=False, in_layout=False)
    other = fig.legend(
        handles=[handle for handle in legend.legend_handles if handle is not None],
        labels=texts,
        loc="outside upper center" if fig.get_supxlabel() else "outside lower center",
        ncols=max(1, min(len(texts), int(NARROW / widest))),
    )
    changes.callback(other.remove)


def _refit_ends(fig: Figure, changes: _Changes) -> None:
    """Place the labels at the ends of lines again: their distances were for another height."""
    for ax in [ax for ax in fig.axes if ax in ends.END_LABELS]:
        gap, _ = _ends(ax)
        for note in ends.END_LABELS[ax]:
            changes.set(note, text=_break(note.get_text(), ENDS, SMALL), fontsize=SMALL)
            changes.callback(setattr, note, "xyann", note.xyann)
        ends.spread_ends(ax, gap)
