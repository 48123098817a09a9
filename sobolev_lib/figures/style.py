"""The one visual language of the book.

The same method has the same colour in every figure and every widget.  The palette is that of Okabe
and Ito, which readers with the common kinds of colour blindness can tell apart.  Figures are opaque
white cards, so that one file is legible on the light and on the dark theme.

Examples
--------
>>> from matplotlib import pyplot as plt
>>> from sobolev_lib.figures import style
>>> with plt.rc_context():  # undone afterwards
...     style.use_style()
...     fig, ax = style.figure(width="narrow")
...     line = style.curve(ax, [20, 100], [3.0, 1.0], "sobolev", low=[2.0, 0.5], high=[4.0, 2.0])
>>> float(fig.get_figwidth()) == style.WIDTHS["narrow"]
True
>>> plt.close(fig)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation, NullLocator
from numpy.typing import ArrayLike

from sobolev_lib.figures.ends import END_LABELS, spread_ends
from sobolev_lib.records.table import Table as Table  # chapters read style.Table

# Colour, the same hue for text, name, mark, dash.  The rows of Table 1 (from "backprop" on, with
# "sobolev" and "kernel") are a second set.  They never share a figure with the methods whose
# colours they take; a critic, which is trained on values only, takes that of "values".
_METHODS: dict[str, tuple[str, str, str, str, Any]] = {
    "values": ("#0072B2", "#0072B2", "Values only", "o", "-"),
    "sobolev": ("#D55E00", "#B85100", "Sobolev", "s", "-"),
    "kernel": ("#009E73", "#007A59", "Sobolev, kink kernel", "D", (0, (5, 1.2))),
    "equal_information": (
        "#CC79A7", "#A34F7E", "Values only, 3N values", "^", (0, (3, 1.2, 1, 1.2))
    ),
    "smooth": ("#E69F00", "#8F6300", "Smooth activation", "v", (0, (1.2, 1.2))),
    "kriging": ("#56B4E9", "#1B77AC", "Kriging", "P", (0, (6, 2))),
    "truth": ("#555555", "#555555", "Truth", "", (0, (4, 2))),
    "backprop": ("#222222", "#222222", "Backpropagation", "*", (0, (4, 2))),
    "noprop": ("#888888", "#707070", "Noprop", "X", (0, (1, 1.6))),
    "direct": ("#CC79A7", "#A34F7E", "Direct SG", "^", (0, (3, 1.2, 1, 1.2))),
    "vfbn": ("#E69F00", "#8F6300", "VFBN", "v", (0, (1.2, 1.2))),
    "critic": ("#0072B2", "#0072B2", "Critic", "o", "-"),
    "local_ce": ("#56B4E9", "#1B77AC", "Local CE", "P", (0, (6, 2))),
}  # fmt: skip

#: Colour of each method, for lines, marks and bands.
COLOURS: dict[str, str] = {method: row[0] for method, row in _METHODS.items()}
#: The same hues, darkened until text on white has a contrast of at least 4.5 (WCAG AA).
TEXT_COLOURS: dict[str, str] = {method: row[1] for method, row in _METHODS.items()}
#: Name of each method as the reader sees it.
LABELS: dict[str, str] = {method: row[2] for method, row in _METHODS.items()}
#: Mark of each method: colour is never the only difference.
MARKERS: dict[str, str] = {method: row[3] for method, row in _METHODS.items()}
#: Dash pattern of each method.
DASHES: dict[str, Any] = {method: row[4] for method, row in _METHODS.items()}

#: Widths in inches: a figure beside nothing, a small one, a wide table of panels.
WIDTHS: dict[str, float] = {"narrow": 4.6, "text": 6.8, "wide": 8.6}

#: Colour map of a scalar field (a surface, a density); monotone in lightness.
FIELD_CMAP = "viridis"

_CYCLE = ("values", "sobolev", "kernel", "equal_information", "smooth", "kriging")
_INK = "#222222"
_GRID = "#D9D9D9"

_RC: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#777777",
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=[COLOURS[method] for method in _CYCLE]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "errorbar.capsize": 2.5,
    "figure.constrained_layout.use": True,
    "figure.dpi": 96,
    "figure.facecolor": "white",
    "figure.figsize": (WIDTHS["text"], 3.6),
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same glyphs on every machine
    "font.size": 10,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "image.cmap": FIELD_CMAP,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "mathtext.fontset": "dejavusans",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",  # an image cannot load fonts from its page
    "svg.hashsalt": "sobolev",  # the same figure gives the same file
    "text.color": _INK,
    "xtick.color": "#444444",
    "xtick.labelsize": 9,
    "ytick.color": "#444444",
    "ytick.labelsize": 9,
}


# matplotlib types its settings by every single name; ours come from a table
_settings: Any = mpl.rcParams


def use_style() -> None:
    """Switch the book's style on; in a notebook the figures become SVG as well.

    It stays on, except in a ``with plt.rc_context():`` block.
    """
    _settings.update(_RC)
    _svg_in_notebooks()


def _svg_in_notebooks() -> None:
    """Ask for SVG in two widths where there is a notebook; do nothing elsewhere."""
    try:
        from IPython.core.getipython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # the library without its book extra
        return
    shell = get_ipython()
    if shell is not None:
        from sobolev_lib.figures import widths

        set_matplotlib_formats("svg")
        # pyplot would draw every figure once more after each cell, for a window that is not there
        plt.switch_backend(mpl.get_backend())  # registers that drawing
        plt.uninstall_repl_displayhook()
        formatters: Any = shell.display_formatter.formatters  # type: ignore[union-attr]
        formatters["image/svg+xml"].for_type(Figure, widths.drawing)


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: str | float = "text",
    height: float | None = None,
    **options: Any,
) -> tuple[Figure, Any]:
    """Make a figure of one of the book's widths; like ``plt.subplots``.

    Parameters
    ----------
    width : str or float
        A key of `WIDTHS`, or inches.
    height : float, optional
        Inches; by default 0.72 of a panel's width for each row.
    **options
        Passed on to ``plt.subplots``.

    Raises
    ------
    ValueError
        If `width` is a name that is not in `WIDTHS`.
    """
    if isinstance(width, str):
        if width not in WIDTHS:
            raise ValueError(
                f"width is {width!r}; use one of {sorted(WIDTHS)} or a number of inches"
            )
        width = WIDTHS[width]
    tall = height if height is not None else 0.72 * width * rows / columns
    return plt.subplots(rows, columns, figsize=(width, tall), **options)


def curve(
    ax: Axes,
    x: ArrayLike,
    y: ArrayLike,
    method: str,
    *,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    label: str | None = None,
    marker: bool = True,
    **options: Any,
) -> Line2D:
    """Draw one method's line and the band of its interval.

    Parameters
    ----------
    method : str
        A key of `COLOURS`; it chooses colour, dash and mark.
    low, high : array_like, optional
        Ends of the interval; give both or neither.
    label : str, optional
        Instead of ``LABELS[method]``.
    marker : bool
        Draw the method's mark at each point.
    **options
        Passed on to ``ax.plot``.

    Raises
    ------
    ValueError
        If `method` is unknown, or only one end of the interval is given.
    """
    if method not in COLOURS:
        raise ValueError(f"method is {method!r}; use one of {sorted(COLOURS)}")
    if (low is None) != (high is None):
        raise ValueError("low and high: give both ends of the interval or neither")
    style: dict[str, Any] = {
        "color": COLOURS[method],
        "linestyle": DASHES[method],
        "marker": MARKERS[method] if marker else "",
        "label": LABELS[method] if label is None else label,
    }
    (line,) = ax.plot(np.asarray(x), np.asarray(y), **(style | options))
    if low is not None and high is not None:
        ax.fill_between(
            np.asarray(x), np.asarray(low), np.asarray(high),
            color=COLOURS[method], alpha=0.2, linewidth=0,
        )  # fmt: skip
    return line


def label_ends(ax: Axes, lines: Sequence[Line2D]) -> None:
    """Write each line's label at its right end, in its colour; labels move apart where they touch.

    Call it last: it uses the limits and scales that the axes have by then.  Lines whose last point
    is not finite get no label.
    """
    shown = [line for line in lines if np.isfinite(_end(line)).all()]
    notes = [
        ax.annotate(
            str(line.get_label()), _end(line), xytext=(6, 0), textcoords="offset points",
            va="center", ha="left", fontsize=9, color=_readable(line.get_color()),
            annotation_clip=False,
        )
        for line in shown
    ]  # fmt: skip
    END_LABELS[ax] = notes
    spread_ends(ax)


def ten_to_the(exponent: int, factor: str = "") -> str:
    """Power of ten as text, 10⁻³ or 2 × 10⁻³: much faster to draw than mathtext."""
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return (f"{factor}\u2009×\u2009" if factor else "") + f"10{raised}"


class PowersOfTen(LogFormatterSciNotation):
    """matplotlib's own labels of a logarithmic axis, without mathtext."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Label of the tick at ``x``; empty where matplotlib leaves it out."""
        label = super().__call__(x, pos)
        found = re.fullmatch(r"\$\\mathdefault\{(?:(.+)\\times)?10\^\{(-?\d+)\}\}\$", label)
        return ten_to_the(int(found[2]), found[1] or "") if found else label


def log_scale(ax: Axes, which: str = "y", *, minor: bool = True) -> None:
    """Make axes ("x", "y" or "xy") logarithmic, with labels that are fast to draw.

    The minor ticks between the powers of ten are mostly noise in a small panel.
    """
    for axis in (getattr(ax, f"{name}axis") for name in which):
        ax.set(**{f"{axis.axis_name}scale": "log"})
        axis.set_major_formatter(PowersOfTen())
        axis.set_minor_formatter(PowersOfTen(labelOnlyBase=False))
        if not minor:
            axis.set_minor_locator(NullLocator())


def panel_letters(axes: ArrayLike) -> None:
    """Put a, b, c, ... at the left above the panels, in reading order."""
    for letter, ax in zip("abcdefghijklmnopqrstuvwxyz", np.ravel(np.asarray(axes)), strict=False):
        ax.text(
            -0.02, 1.03, letter, transform=ax.transAxes, ha="right", va="bottom",
            fontweight="bold", fontsize=11,
        )  # fmt: skip


def _end(line: Line2D) -> tuple[float, float]:
    """Last point of a line."""
    x, y = (np.asarray(data, dtype=float) for data in line.get_data())
    return float(x[-1]), float(y[-1])


def _readable(colour: Any) -> Any:
    """The darker twin of a method's colour; any other colour as it is."""
    twins = {COLOURS[method]: TEXT_COLOURS[method] for method in COLOURS}
    return twins.get(colour, colour)
