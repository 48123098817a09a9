"""Figures of Table 1, of the digits, and of how synthetic gradients are aligned.

They draw the numbers of ``results`` in this folder, whatever runs are there; an arm
without runs gives a card that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sobolev_lib.figures import marks, style
from sobolev_lib.records.claims import NOT_RUN
from sobolev_lib.records.ledger import Record
from sobolev_lib.synthetic_gradients import results
from sobolev_lib.synthetic_gradients.modules import PREDICTING
from sobolev_lib.synthetic_gradients.paper import BLOCKS, BRIEF, METRICS, NAMES, Cell, printed
from sobolev_lib.synthetic_gradients.results import REDUCTION_ROWS, Group, Records, spread
from sobolev_lib.synthetic_gradients.settings import ARMS, AT_PAPERS_RATE, MAIN_ROWS, PAPERS_RATE

ALIGNED = (
    *("direct", "vfbn", "critic", "sobolev", "local_ce"),
    *("sobolev_tenfold", "sobolev_mean", "sobolev_kernel"),
)
"""Rows with a synthetic gradient, for figures of its cosine."""

VARIANTS = {"sobolev_tenfold": "p", "sobolev_tenth": "d"}
"""Marks of variants; the others have that of what they vary, open."""

LABELS = {"cosine": "Cosine over examples", "batch_cosine": "Cosine of the batch"}
"""The two measures of alignment, for axes."""

ACCURACY = "Test accuracy (%)"


def method(row: str) -> str:
    """Key of the style's colours for a row: variants take the colour of what they vary."""
    if row.endswith("_kernel"):
        return "kernel"
    return next(name for name in style.COLOURS if row == name or row.startswith(f"{name}_"))


def look(row: str) -> dict[str, Any]:
    """Line and mark of a row; variants have open marks and dots for a line."""
    found = marks.look(method(row))
    if row in style.COLOURS or method(row) == "kernel":
        return {**found, "markerfacecolor": found["color"]}
    variant = {"marker": VARIANTS.get(row, found["marker"]), "linestyle": (0, (1, 1))}
    return {**found, **variant, "markerfacecolor": "white"}


def mark(row: str) -> dict[str, Any]:
    """Mark of a row alone."""
    return {k: v for k, v in look(row).items() if k in ("marker", "markerfacecolor")}


def nothing(arm: str, words: str | None = None) -> Figure:
    """Card that says which command would fill the figure."""
    fig, ax = style.figure(width="text", height=1.1)
    ax.axis("off")
    ax.text(0.5, 0.7, NOT_RUN, ha="center", va="center", fontsize=11)
    ax.text(0.5, 0.25, words or results.command(arm), ha="center", va="center", fontsize=8)
    return fig


def legend(fig: Figure, rows: Iterable[str], reference: bool = False) -> None:
    """Names of the rows below the panels, each beside its mark."""
    handles = [Line2D([], [], **look(row), label=NAMES[row]) for row in rows]
    if reference:
        colour = style.COLOURS["backprop"]
        handles.append(Line2D([], [], color=colour, linestyle="--", label=NAMES["backprop"]))
    fig.legend(handles=handles, loc="outside lower center", ncols=min(max(len(handles), 1), 4))


# --- rows as lines of a panel --------------------------------------------------------------------


def _ours(
    ax: Axes,
    found: Group | None,
    rows: Sequence[str],
    metric: str = "top1",
    names: Mapping[str, str] = NAMES,
) -> None:
    """One line a row, the first at the top: interval and mark, below them the single seeds."""
    for place, row in enumerate(rows):
        values = list(found.values(row, metric).values()) if found else []
        if values:
            size = {"markersize": 7, **mark(row)}
            marks.interval(ax, place, spread(values), method(row), horizontal=True, **size)
            marks.dots(ax, place + 0.27, values, method(row), horizontal=True)
        else:
            at = ax.get_yaxis_transform()
            ax.text(0.02, place, NOT_RUN, color="#666666", transform=at, va="center", fontsize=8)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks(range(len(rows)), [names[row] for row in rows])
    ax.xaxis.set_major_locator(MaxNLocator(6))
    for tick, row in zip(ax.get_yticklabels(), rows, strict=False):
        tick.set_color(style.TEXT_COLOURS[method(row)])


def _papers(ax: Axes, cells: Mapping[str, Cell], rows: Sequence[str]) -> None:
    """Another experiment, and it looks like one: grey card, open marks, an axis of its own."""
    ax.set_facecolor("#F1F1F1")
    for place, row in enumerate(rows):
        if (cell := printed(cells, row)) is None:
            continue
        open_mark = {**marks.look(method(row)), "markerfacecolor": "none", "markersize": 7}
        if cell.deviation is not None:
            ends = [cell.value - cell.deviation, cell.value + cell.deviation]
            ax.plot(ends, [place] * 2, color=open_mark["color"], linewidth=1)
        ax.plot(cell.value, place, **open_mark)
    ax.set_title("The paper (full size, ± s.d.)")


def accuracy(arm: str, block: str, metric: str = "top1", *, records: Records) -> Figure:
    """Test accuracy by row: ours at the left, the paper's numbers at the right, scales apart.

    ``arm`` is one of :data:`.settings.ARMS`, ``block`` one of :data:`.paper.BLOCKS`, ``metric``
    one of :data:`.paper.METRICS`.
    """
    found = results.group(records, arm)
    if found is None:
        return nothing(arm)
    cells = BLOCKS[block].cells[metric]
    rows = found.listed(cells)
    fig, axes = style.figure(1, 2, width="text", height=1.3 + 0.3 * len(rows), sharey=True)
    _ours(axes[0], found, rows, metric)
    axes[0].set_title(f"Ours ({found.scale} scale)")
    _papers(axes[1], cells, rows)
    for ax in axes:
        ax.set_xlabel(f"Test accuracy, {METRICS[metric]} (%)")
    return fig


def accuracy_enlarged(records: Records) -> Figure:
    """Test accuracy on the digits; the right panel is the left one, enlarged around the best."""
    found = results.group(records, "digits")
    height = 0.7 + 0.36 * len(MAIN_ROWS)
    fig, axes = style.figure(1, 2, width="wide", height=height, sharey=True, width_ratios=(2, 3))
    for ax, title in zip(axes, ("All schemes", "Enlarged"), strict=True):
        _ours(ax, found, MAIN_ROWS)
        ax.set_title(title)
    values = [v for row in MAIN_ROWS if found and (v := list(found.values(row).values()))]
    if values:
        best = max(spread(v).centre for v in values)
        kept = [x for v in values if spread(v).centre > best - 15 for x in v]
        axes[1].set_xlim(min(kept) - 0.4, max(kept) + 0.4)
    fig.supxlabel(ACCURACY, fontsize=10)
    return fig


def sum_or_mean(records: Records) -> Figure:
    """Test accuracy where the gradient term of Sobolev training is weighted in different ways."""
    height = 0.9 + 0.34 * len(REDUCTION_ROWS)
    fig, axes = style.figure(1, 2, width="wide", height=height, sharey=True)
    for ax, arm in zip(axes, ("digits", "digits_deep"), strict=True):
        _ours(ax, results.group(records, arm), REDUCTION_ROWS, names=BRIEF)
        ax.set_title(f"{ARMS[arm]['depth']} hidden layers of {ARMS[arm]['width']}")
    fig.supxlabel(ACCURACY, fontsize=10)
    return fig


# --- lines over training -------------------------------------------------------------------------


def _line(
    ax: Axes,
    row: str,
    x: Sequence[float] | np.ndarray,
    curves: Sequence[Sequence[float | None]],
    ratios: bool = False,
    **options: Any,
) -> Line2D:
    """Centre and band over seeds at each place; seeds without a number there are left out.

    ``ratios`` are averaged by their logarithms.
    """
    table = np.array(curves, dtype=float)
    if ratios:
        table = np.log10(np.where(table > 0, table, np.nan))  # Direct SG starts at zero
    columns = [column[np.isfinite(column)] for column in table.T]
    found = [spread(list(c)) if len(c) else None for c in columns]
    centre, low, high = (
        np.array([np.nan if s is None else getattr(s, end) for s in found])
        for end in ("centre", "low", "high")
    )
    if ratios:
        centre, low, high = (np.power(10.0, y) for y in (centre, low, high))
    how = {**look(row), "markersize": 4, **options}
    (line,) = ax.plot(x, centre, label=NAMES[row], **how)
    ax.fill_between(x, low, high, color=how["color"], alpha=0.15, linewidth=0)
    return line


def accuracy_over_epochs(arm: str, records: Records) -> Figure:
    """Test accuracy after each epoch, a line for each row.

    Where schemes were run with the paper's module rate as well, they have a panel of their own.
    """
    found = results.group(records, arm)
    if found is None:
        return nothing(arm)
    rates = {f"{found.config['module_rate']:g}": ""}
    if found.rows.keys() & AT_PAPERS_RATE.keys():
        rates[f"{PAPERS_RATE:g}"] = "slow"
    fig, axes = marks.grid(len(rates), height=3.6, sharey=True, sharex=True)
    drawn: list[list[Line2D]] = []
    for ax, (rate, care) in zip(axes, rates.items(), strict=True):
        lines = []
        for scheme in ("backprop", *ALIGNED, "noprop"):
            own = bool(care) and scheme not in ("backprop", "noprop")
            if runs := found.rows.get(f"{scheme}_{care}" if own else scheme):
                curves = [r.metrics["tests"]["top1"] for r in runs]
                epochs = np.arange(1, min(map(len, curves)) + 1)
                lines.append(_line(ax, scheme, epochs, [c[: len(epochs)] for c in curves]))
        ax.set(xlabel="Epoch", ylabel="" if care else "Test accuracy, top 1 (%)")
        ax.set_title(f"Modules: Adam at {rate}", fontsize=10)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawn.append(lines)
    low, high = axes[0].get_ylim()  # an interval of few seeds may go beyond what is possible
    axes[0].set_ylim(max(low, 0), min(high, 100))
    for ax, lines in zip(axes, drawn, strict=True):
        style.label_ends(ax, lines)
    return fig


def cosine_over_training(arm: str, records: Records) -> Figure:
    """Cosine of synthetic and true gradient over training, a panel for each split."""
    return _by_split(arm, records, "cosine", LABELS["cosine"])


def scale_over_training(arm: str, records: Records) -> Figure:
    """Norm of the synthetic gradient over that of the true one, a panel for each split."""
    return _by_split(arm, records, "scale", "Norm, synthetic over true")


def _by_split(arm: str, records: Records, name: str, label: str) -> Figure:
    found = results.group(records, arm)
    every = {
        row: kept
        for row in ALIGNED
        if found and (kept := [r for r in found.rows.get(row, []) if any(_curve(r, name))])
    }
    if found is None or not every:
        return nothing(arm)
    splits = found.config["splits"]
    fig, axes = marks.grid(len(splits), height=3.4, sharey=True)
    for k, (ax, split) in enumerate(zip(axes, splits, strict=True)):
        lines = [_split_line(ax, row, runs, name, k) for row, runs in every.items()]
        ax.set(title=f"after {split}", xlabel="Epoch")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.axhline(1 if name == "scale" else 0, color=marks.GREY, linewidth=0.8)
        if name == "scale":
            style.log_scale(ax, minor=False)
    if name != "scale":  # few seeds have bands that leave the range of a cosine
        low, high = axes[0].get_ylim()
        axes[0].set_ylim(max(low, -0.4), min(high, 1.02))
    axes[0].set_ylabel(label)
    style.label_ends(axes[-1], lines)
    return fig


def _curve(record: Record, name: str) -> list[list[float | None]]:
    return record.metrics["curve"].get(name) or []


def _split_line(ax: Axes, row: str, runs: Sequence[Record], name: str, split: int) -> Line2D:
    """Line of a row; a diverged run's missing numbers leave gaps."""
    steps, whole = runs[0].metrics["curve"]["steps"], runs[0].metrics["tests"]["steps"]
    epochs = np.array(steps) / (whole[-1] / len(whole))
    values = [
        [point[split] for point in _curve(r, name)]
        for r in runs
        if len(_curve(r, name)) == len(steps)
    ]
    return _line(ax, row, epochs, values, name == "scale", marker="")


def curves(records: Records) -> Figure:
    """Learning curves on the digits: test accuracy, training loss, cosine, ratio of norms.

    Lines are centres over seeds, bands their intervals; cosine and ratio are averaged over the
    splits first.
    """
    found = results.by_row(records)
    panels: dict[str, Callable[[Record], tuple[Sequence[int], Sequence[Any]]]] = {
        ACCURACY: lambda r: (r.metrics["tests"]["steps"], r.metrics["tests"]["top1"]),
        "Training loss": lambda r: (r.metrics["curve"]["steps"], r.metrics["curve"]["loss"]),
        "Mean cosine to the true gradient": lambda r: _over_splits(r, "cosine"),
        "Norm: synthetic over true": lambda r: _over_splits(r, "scale"),
    }
    fig, axes = style.figure(2, 2, width="wide", height=5.6)
    shown = [row for row in MAIN_ROWS if row in found]
    for ax, (name, curve) in zip(axes.flat, panels.items(), strict=True):
        logarithmic = name in ("Training loss", "Norm: synthetic over true")
        for row in shown:
            steps, lines = zip(*map(curve, found[row]), strict=True)
            if steps[0] and len(set(map(tuple, steps))) == 1:
                _line(ax, row, steps[0], lines, logarithmic, marker="")
        if logarithmic:
            style.log_scale(ax)
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_title(name, fontsize=10)
    for ax in axes[1]:
        ax.set_xlabel("Steps")
    legend(fig, shown)
    return fig


def _over_splits(record: Record, name: str) -> tuple[Sequence[int], Sequence[float | None]]:
    """Steps and a curve averaged over the splits; empty for rows that predict nothing."""
    curve = record.metrics["curve"]
    if not any(curve[name]):
        return [], []
    means = [None if not v or None in v else float(np.mean(v)) for v in curve[name]]
    return curve["steps"], means


# --- cosines -------------------------------------------------------------------------------------


def _panel_per_arm(
    arms: Sequence[str],
    records: Records,
    metric: str,
    draw: Callable[[Axes, Group, list[str]], None],
    label: str,
    *,
    dots: bool = False,
    **options: Any,
) -> Figure:
    """A panel for each arm in which that cosine was measured; `draw` gets the rows that have it."""
    found = [g for g in (results.group(records, arm) for arm in arms) if g]
    shown = [(g, [row for row in ALIGNED if len(g.cosine(row, metric))]) for g in found]
    shown = [(g, own) for g, own in shown if own]
    if not shown:
        return nothing(arms[0])
    fig, panels = marks.grid(len(shown), **options)
    for ax, (g, own) in zip(panels, shown, strict=True):
        draw(ax, g, own)
        ax.set_title(g.short)
    fig.supylabel(label, fontsize=10)
    legend(fig, [row for row in ALIGNED if any(row in own for _, own in shown)], dots)
    return fig


def cosine_by_split(arms: Sequence[str], records: Records, metric: str = "cosine") -> Figure:
    """Cosine late in training (last fifth), by split: a panel for each arm that has runs.

    ``metric`` as for :meth:`~sobolev_lib.synthetic_gradients.results.Group.cosine`, here and below.
    """

    def draw(ax: Axes, g: Group, shown: list[str]) -> None:
        shifts = np.linspace(-0.3, 0.3, len(shown)) if len(shown) > 1 else np.zeros(1)
        for row, shift in zip(shown, shifts, strict=True):
            values = g.cosine(row, metric)  # (seeds, splits)
            places = np.arange(values.shape[1]) + shift
            found_here = [spread(list(column)) for column in values.T]
            marks.intervals(ax, places, found_here, method(row), **mark(row))
            marks.dots(ax, np.tile(places, len(values)), values.ravel(), method(row))
        splits = g.config["splits"]
        ax.set_xticks(range(len(splits)), splits)
        # few seeds have intervals that leave the range of a cosine
        ax.set(xlim=(-0.5, len(splits) - 0.5), ylim=(-0.4, 1.02))
        marks.line_at_zero(ax)
        ax.grid(visible=False, axis="x")

    return _panel_per_arm(arms, records, metric, draw, LABELS[metric], sharey=True)


def accuracy_against_cosine(
    arms: Sequence[str], records: Records, metric: str = "cosine"
) -> Figure:
    """Test accuracy against mean cosine over splits: one dot a seed, the centre of a row larger."""

    def draw(ax: Axes, g: Group, shown: list[str]) -> None:
        for row in shown:
            cosines, top1 = g.values(row, metric), g.values(row)
            _cloud(ax, row, [(c, top1[seed]) for seed, c in cosines.items() if seed in top1])
        reference = list(g.values("backprop").values())
        if reference:
            ax.axhline(float(np.mean(reference)), color=style.COLOURS["backprop"], linestyle="--")
        ax.set_xlabel(LABELS[metric])

    label = "Test accuracy, top 1 (%)"
    return _panel_per_arm(arms, records, metric, draw, label, dots=True)


def accuracy_against_cosine_by_split(records: Records) -> Figure:
    """Accuracy on the digits against the cosine to the true gradient, one panel a split."""
    found = results.group(records, "digits")
    rows = [row for row in PREDICTING if found and len(found.cosine(row))]
    splits = len(found.config["splits"]) if found else 3
    fig, axes = marks.grid(splits, height=3.2, sharey=True, sharex=True)
    for k, ax in enumerate(axes):
        marks.line_at_zero(ax, vertical=True)
        for row in rows:
            assert found is not None
            runs = [(results.measured_cosine(r), r.metrics["top1"]) for r in found.rows[row]]
            _cloud(ax, row, [(c[k], top1) for c, top1 in runs if c and top1 is not None])
        ax.set_title(f"Split {k + 1}" + (" (next to the input)" if k == 0 else ""), fontsize=10)
    axes[0].set_ylabel(ACCURACY)
    axes[splits // 2].set_xlabel("Mean cosine to the true gradient, last fifth of training")
    legend(fig, rows)
    return fig


def _cloud(ax: Axes, row: str, pairs: Sequence[tuple[float, float]]) -> None:
    """Single seeds, and the intervals of both coordinates."""
    if not pairs:
        return
    x, y = np.array(pairs).T
    across, up = spread(list(x)), spread(list(y))
    colour = look(row)["color"]
    ax.plot(x, y, ".", color=colour, alpha=0.5, markersize=4)
    cross = (
        [across.low, across.high, np.nan, across.centre, across.centre],
        [up.centre, up.centre, np.nan, up.low, up.high],
    )
    ax.plot(*cross, color=colour, linewidth=1)
    ax.plot(across.centre, up.centre, **(look(row) | {"linestyle": "none", "markersize": 8}))
