"""What a figure keeps for its drawing on a phone: labels at line ends, rows of panels."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

#: The labels at the ends of lines by axes, for whoever changes the size of a figure.
END_LABELS: WeakKeyDictionary[Axes, list[Annotation]] = WeakKeyDictionary()

#: Rows of panels on a phone, for a figure that does not want them in the order of its grid.
NARROW_ROWS: WeakKeyDictionary[Figure, list[list[Axes]]] = WeakKeyDictionary()


def spread_ends(ax: Axes, gap: float = 13.0) -> None:
    """Move the labels of :func:`.style.label_ends` to ``gap`` points apart, as the axes are now."""
    notes = END_LABELS[ax]
    figure = ax.get_figure(root=True)
    assert figure is not None
    ax.get_ylim()  # settles the limits, as drawing would
    if engine := figure.get_layout_engine():
        engine.execute(figure)  # fixes the distances in points, without drawing
    points = 72.0 / figure.dpi
    ends = [ax.transData.transform(note.xy)[1] * points for note in notes]
    places = apart(ends, gap, ax.bbox.y0 * points, ax.bbox.y1 * points)
    for note, end, place in zip(notes, ends, places, strict=True):
        note.xyann = (note.xyann[0], place - end)


def apart(
    places: Sequence[float], gap: float, low: float = -np.inf, high: float = np.inf
) -> list[float]:
    """Positions closest in least squares to `places` that keep their order and are `gap` apart.

    All lie between `low` and `high`, unless that many have no room there.
    """
    if not len(places):
        return []
    from scipy.optimize import isotonic_regression  # takes a moment to import

    order, steps = np.argsort(places, kind="stable"), gap * np.arange(len(places))
    spots = isotonic_regression(np.asarray(places)[order] - steps).x  # less steps, they only grow
    if low <= high - steps[-1]:
        spots = spots.clip(low, high - steps[-1])
    out = np.empty(len(spots))
    out[order] = spots + steps
    return out.tolist()
