"""The marks that every figure of results is made of: interval, band, single seeds, key.

Each takes what :mod:`sobolev_lib.records.summary` computes; nothing is computed here.  A *look* is
a method of :data:`.style.COLOURS`, which brings colour, dash and mark, or any colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sobolev_lib.figures import style
from sobolev_lib.records.summary import Interval

GREY = "#777777"
COLUMNS = 4
"""Panels in a row, at most: more cannot be read."""


def look(name: str) -> dict[str, Any]:
    """Colour, dash and mark of a method; for a colour a plain line and a dot."""
    if name in style.COLOURS:
        return {
            "color": style.COLOURS[name],
            "linestyle": style.DASHES[name],
            "marker": style.MARKERS[name],
        }
    return {"color": name, "linestyle": "-", "marker": "o"}


def interval(
    ax: Axes,
    place: float,
    found: Interval | None,
    name: str,
    *,
    horizontal: bool = False,
    **options: Any,
) -> None:
    """Draw one centre with its interval; nothing where there is none.

    Parameters
    ----------
    place : float
        On the other axis: the abscissa, or the ordinate if ``horizontal``.
    name : str
        Method, or colour.
    horizontal : bool
        Lay it down: values along the abscissa.
    **options
        For the mark at the centre, such as ``marker`` or ``markersize``.
    """
    intervals(ax, [place], [found], name, horizontal=horizontal, **options)


def intervals(
    ax: Axes,
    places: ArrayLike,
    found: Sequence[Interval | None],
    name: str,
    *,
    horizontal: bool = False,
    **options: Any,
) -> None:
    """Draw one method's centres with their intervals as two artists; else as :func:`interval`."""
    kept = [(at, i) for at, i in zip(np.asarray(places), found, strict=True) if i]
    if not kept:
        return
    shown = look(name)
    at = np.array([place for place, _ in kept])
    ends = np.array([[i.low, i.high, np.nan] for _, i in kept])  # the line breaks at a NaN
    for values, where, how in (
        (ends.ravel()[:-1], np.repeat(at, 3)[:-1], {**shown, "marker": "", "linestyle": "-"}),
        (np.array([i.centre for _, i in kept]), at, {**shown, "linestyle": "none", **options}),
    ):
        ax.plot(*((values, where) if horizontal else (where, values)), **how)


def band(
    ax: Axes, x: ArrayLike, found: Sequence[Interval], name: str, *, marker: bool = False,
    **options: Any,
) -> None:  # fmt: skip
    """Draw a line of centres at x (n,) and the band of their intervals, one for each x.

    Nothing where there are none.  ``name`` is a method or a colour, ``marker`` draws its mark at
    each point, ``options`` are the line's.
    """
    if not len(found):
        return
    shown = look(name) | ({} if marker else {"marker": ""}) | options
    ax.plot(np.asarray(x), [i.centre for i in found], **shown)
    low, high = [i.low for i in found], [i.high for i in found]
    ax.fill_between(np.asarray(x), low, high, color=shown["color"], alpha=0.2, linewidth=0)


def dots(
    ax: Axes,
    place: ArrayLike,
    values: Sequence[float] | np.ndarray,
    name: str,
    *,
    horizontal: bool = False,
) -> None:
    """Draw single seeds as pale dots; ``place`` (or one a dot) as for :func:`interval`."""
    if not len(values):
        return
    how = {"color": look(name)["color"], "linestyle": "none", "marker": ".", "markersize": 3}
    places = np.broadcast_to(np.asarray(place, dtype=float), len(values))
    data = (values, places) if horizontal else (places, values)
    ax.plot(*data, alpha=0.35, **how)


def key(
    ax: Axes, names: Sequence[str] | Mapping[str, str], note: str = "", *, marker: bool = True
) -> None:
    """Use a panel for the names of what is drawn, each beside its mark, and a note below.

    ``names`` are methods, or go from method or colour to the text.  Without ``marker`` the lines
    are shown alone.
    """
    texts = names if isinstance(names, Mapping) else {name: style.LABELS[name] for name in names}
    ax.axis("off")
    where: dict[str, Any] = {"transform": ax.transAxes}
    for row, (name, text) in enumerate(texts.items()):
        y, shown = 0.92 - 0.13 * row, look(name)
        ax.plot([0.02, 0.12], [y, y], **{**shown, "marker": ""}, **where)
        if marker:
            ax.plot([0.07], [y], **shown, **where)
        colour = style.TEXT_COLOURS.get(name, shown["color"])
        ax.text(0.17, y, text, va="center", fontsize=9, color=colour, **where)
    ax.text(0.02, 0.86 - 0.13 * len(texts), note, va="top", fontsize=8, **where)


def panels(
    titles: Sequence[str], xlabel: str, ylabel: str, height: float, *, columns: int = COLUMNS,
    **options: Any,
) -> tuple[Figure, list[Axes], Axes]:  # fmt: skip
    """Make a wide figure of one panel a title and one more for the :func:`key`.

    Panels and key fill rows of ``columns``; outer panels carry the axes' names.  ``options`` are
    those of :func:`.style.figure`.  Returned are the figure, the panels in the order of the titles,
    and the one for the key.
    """
    rows = -(-(len(titles) + 1) // columns)
    options = {"width": "wide", "height": height, "squeeze": False, **options}
    fig, grid = style.figure(rows, columns, **options)
    axes = list(grid.flat)
    for place, (ax, title) in enumerate(zip(axes, titles, strict=False)):
        ax.set_title(title)
        if place % columns == 0:
            ax.set_ylabel(ylabel)
        if place + columns >= len(titles):
            ax.set_xlabel(xlabel)
            ax.tick_params(labelbottom=True)
    for ax in axes[len(titles) : -1]:
        ax.axis("off")
    return fig, axes[: len(titles)], axes[-1]


def grid(count: int, **options: Any) -> tuple[Figure, list[Axes]]:
    """Panels in rows of at most :data:`COLUMNS`; places that are left over stay empty.

    ``options`` are those of :func:`.style.figure`.
    """
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    how = {"width": "wide" if count > 1 else "text", "height": 0.8 + 2.7 * rows} | options
    fig, axes = style.figure(rows, columns, squeeze=False, **how)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return fig, list(axes.flat[:count])


def line_at_zero(ax: Axes, *, vertical: bool = False) -> None:
    """Draw where two methods are equal."""
    (ax.axvline if vertical else ax.axhline)(0, color=GREY, linewidth=1)
