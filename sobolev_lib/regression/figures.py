"""Figures of the regression experiment; they draw what ``results`` and the grids hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from sobolev_lib.figures import ends, marks, style
from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.regression import boundary
from sobolev_lib.regression import grids as surfaces
from sobolev_lib.regression.results import (
    KNOBS,
    READINGS,
    SIZES,
    SOBOLEV,
    VALUES,
    Line,
    load,
    power,
)
from sobolev_lib.regression.rounding import ROWS, Twins
from sobolev_lib.regression.training import settings, training_points

TITLES = [f.title for f in FUNCTIONS.values()]
BOTH: dict[str, Line] = {"values": VALUES, "sobolev": SOBOLEV}
"""The two methods at the paper's setting, by the look of their lines."""

KERNEL_LINES: dict[str, Line] = {
    "sobolev": ("schedule", "sobolev"),
    "kernel": ("activation/kernel", "sobolev"),
    "smooth": ("activation/silu", "sobolev"),
}
"""Sobolev training with plain ReLU, with the kink kernel, and with SiLU; all else equal."""

ARM_ROWS: dict[str, str] = {
    "Paper: raw, 3e-5, 60,000 steps": "paper",
    "… with the kink kernel (scaled)": "paper_kernel",
    "… batches of 20": "small_batch",
    "… batches of 32, 240,000 steps, annealed": "annealed_tail",
    "Raw, 1e-3 annealed, 6,000 steps": "raw_fast",
    "Normalised, 1e-3 constant": "normalized",
    "Normalised, 1e-3 annealed": "schedule",
    "… with the kink kernel": "activation/kernel",
    "… SiLU": "activation/silu",
    "… tanh": "activation/tanh",
    "… softplus": "activation/softplus",
    "… values only, 3N values": "equal_information",
    "… the same with SiLU": "equal_information/silu",
    "Kriging (SMT; with gradients: GEKPLS)": "kriging",
}
"""Rows of :func:`arms`."""

SMALL = SIZES[:2]
"""Sizes at which most arms were run."""


def _log_axis(ax: Axes) -> None:
    """Logarithmic error axis with at least two labelled marks, however short its range."""
    if not ax.has_data():
        return
    style.log_scale(ax, minor=False)
    low, high = ax.get_ylim()
    decades = np.log10(high / low)
    subs: tuple[float, ...] = (
        (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
    )
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
    ax.yaxis.set_major_formatter(FuncFormatter(_power))


def _power(value: float, _: object = None) -> str:
    """Write 300 as 3·10², 1000 as 10³, and 0.5, 3 or 20 as they are."""
    exponent = int(np.floor(np.log10(value) + 1e-9))
    factor = round(value / 10.0**exponent, 1)
    if -1 <= exponent <= 1:
        return f"{value:g}"
    return ("" if factor == 1 else f"{factor:g}·") + style.ten_to_the(exponent)


def _mse(metric: str) -> str:
    """Name of an error for an axis."""
    data = "Test" if metric.startswith("test") else "Training"
    return f"{data} MSE of the {'gradient' if 'gradient' in metric else 'value'}"


def error_against_data(metric: str = "test_mse") -> Figure:
    """Fig. 2, right: test error against the number of training points, seven functions.

    Parameters
    ----------
    metric : str
        "test_mse" or "test_gradient_mse".
    """
    results = load()
    fig, axes, last = marks.panels(TITLES, "Training points N", _mse(metric), 4.9)
    for ax, name in zip(axes, FUNCTIONS, strict=True):
        for shift, (look, line) in zip((-0.12, 0.12), BOTH.items(), strict=True):
            found = [results.error(name, n, line, metric) for n in SIZES]
            centres = {k + shift: i.centre for k, i in enumerate(found) if i}
            if centres:
                how = {**marks.look(look), "marker": "", "linewidth": 1.2}
                ax.plot(list(centres), list(centres.values()), **how)
            marks.intervals(ax, np.arange(len(SIZES)) + shift, found, look)
            seeds = [
                (k + shift, power(v))
                for k, n in enumerate(SIZES)
                if found[k]
                for v in results.errors(name, n, line, metric).values()
            ]
            marks.dots(ax, [place for place, _ in seeds], [v for _, v in seeds], look)
        ax.set(xticks=range(len(SIZES)), xlim=(-0.5, len(SIZES) - 0.5))
        ax.set_xticklabels([f"{n:,}" for n in SIZES])
        _log_axis(ax)
    marks.key(
        last,
        list(BOTH),
        "Line: mean of the logarithms,\n95 % interval over seeds.\nPale dots: single seeds.",
    )
    return fig


def gains(rows: Mapping[str, tuple[Line, Line]], n: int) -> Figure:
    """Decades gained over a baseline, function by function.

    Parameters
    ----------
    rows : mapping
        Label of a panel to (baseline, other).
    n : int
        Number of training points.
    """
    results = load()
    fig, axes = _by_function(len(rows), 2.9)
    for ax, (label, (baseline, other)) in zip(axes, rows.items(), strict=True):
        for place, name in enumerate(FUNCTIONS):
            found = results.paired(name, n, baseline, other)
            look = ("#777777", "sobolev", "values")[found.sign] if found else "#777777"
            marks.interval(ax, place, found, look, horizontal=True)
        ax.set_title(label, fontsize=9)
    fig.supxlabel(
        f"Decades of test error gained at N = {n:,} (right of the line: smaller error)", fontsize=9
    )
    return fig


def kernel_controls() -> Figure:
    """Decades that each kernel of :data:`.boundary.ROWS` gains over plain ReLU.

    Mark and bar: mean over the functions that count, interval over seeds.  Dots: single functions,
    hollow where they do not count.
    """
    results = load()
    shown = {
        label: line
        for label, line in boundary.ROWS.items()
        if any(results.has(n, line) for n in SMALL)
    }
    spoilt = boundary.CONTROLS.values()
    height = 1.4 + 0.28 * len(shown)
    fig, axes = style.figure(1, len(SMALL), width="wide", height=height, sharey=True)
    for ax, n in zip(axes, SMALL, strict=True):
        marks.line_at_zero(ax, vertical=True)
        names = boundary.counted(results, n)
        for row, line in enumerate(shown.values()):
            look = marks.GREY if line in spoilt else "kernel"
            gains = results.gains(n, boundary.PLAIN, line)
            for counts, face in ((True, marks.look(look)["color"]), (False, "none")):
                centres = [g.centre for k, g in gains.items() if (k in names) == counts]
                how = {"color": marks.look(look)["color"], "markerfacecolor": face, "marker": "o"}
                places = [row + 0.28] * len(centres)
                ax.plot(centres, places, linestyle="none", markersize=3, alpha=0.6, **how)
            marks.interval(
                ax, row - 0.1, boundary.gain(results, n, boundary.PLAIN, line), look,
                horizontal=True, markersize=5,
            )  # fmt: skip
        ax.set_title(f"N = {n:,}")
    axes[0].set_yticks(range(len(shown)), list(shown))
    axes[0].set_ylim(len(shown) - 0.4, -0.6)
    fig.supxlabel("Decades by which the test error is below that of plain ReLU", fontsize=9)
    return fig


def stopping() -> Figure:
    """Decades gained by Sobolev training, each run read at its last and at its own best step."""
    results = load()
    fig, axes = _by_function(len(SIZES), 3.3)
    shown = {"last": ("sobolev", {}), "quarter": ("#777777", {"marker": "|"}),
             "best": ("values", {"marker": "o", "markerfacecolor": "white"})}  # fmt: skip
    for ax, n in zip(axes, SIZES, strict=True):
        for shift, (at, (look, how)) in zip((-0.22, 0, 0.22), shown.items(), strict=True):
            found = [results.paired(name, n, VALUES, SOBOLEV, at=at) for name in FUNCTIONS]
            places = np.arange(len(found)) + shift
            marks.intervals(ax, places, found, look, horizontal=True, **how)
        ax.set_title(f"N = {n:,}", fontsize=10)
    for at, (look, how) in shown.items():
        axes[0].plot([], [], label=READINGS[at], **{**marks.look(look), "linestyle": "-", **how})
    fig.legend(loc="outside upper center", ncols=len(shown))
    fig.supxlabel("Decades of test error gained (right of the line: Sobolev better)", fontsize=9)
    return fig


def _by_function(columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels that share a list of the functions, each with a line at 0."""
    fig, axes = style.figure(
        1, columns, width="wide", height=height, sharey=True, sharex=True, squeeze=False
    )
    for ax in axes[0]:
        marks.line_at_zero(ax, vertical=True)
        ax.set_yticks(range(len(TITLES)), labels=TITLES)
    axes[0, 0].invert_yaxis()
    return fig, list(axes[0])


def learning_curves(n: int, lines: Mapping[str, Line] = BOTH, metric: str = "test_mse") -> Figure:
    """Error against training steps: median over seeds, and band of the middle half.

    Parameters
    ----------
    n : int
        Number of training points.
    lines : mapping
        From the look of a line to its arm and method.
    metric : str
        A curve of the records: "test_mse", "train_mse", "test_gradient_mse", "train_gradient_mse".
    """
    results = load()
    fig, axes, last = marks.panels(TITLES, "Adam steps", _mse(metric), 4.6)
    for ax, name in zip(axes, FUNCTIONS, strict=True):
        for look, line in lines.items():
            marks.band(ax, *results.curve(name, n, line, metric), look)
        style.log_scale(ax, "x", minor=False)
        _log_axis(ax)
    marks.key(last, list(lines), f"N = {n:,}. Median,\nmiddle half of the seeds.")
    return fig


def arms(n: int) -> Figure:
    """Test errors of both methods: one panel a function, one row an arm that has records."""
    results = load()
    kept = {
        label: arm
        for label, arm in ARM_ROWS.items()
        if any(results.has(n, (arm, method)) for method in BOTH)
    }
    fig, axes, last = marks.panels(TITLES, "", "", 6.4, sharey=True)
    for ax, name in zip(axes, FUNCTIONS, strict=True):
        for look, shift in (("values", -0.13), ("sobolev", 0.13)):
            found = [results.error(name, n, (arm, look)) for arm in kept.values()]
            places = np.arange(len(kept)) + shift
            marks.intervals(ax, places, found, look, horizontal=True, markersize=4)
        style.log_scale(ax, "x", minor=False)
        ax.set(yticks=range(len(kept)))
        ax.set_yticklabels([f"{label} ({results.seeds(n, arm)})" for label, arm in kept.items()])
        ax.tick_params(axis="y", labelsize=8)
        ax.xaxis.set_major_locator(LogLocator(numticks=4))
    axes[0].invert_yaxis()
    last.set_ylim(axes[0].get_ylim())
    marks.key(last, list(BOTH), f"N = {n:,}. Mark: mean, bar: 95 %\ninterval; in brackets: seeds.")
    fig.supxlabel(_mse("test_mse"), fontsize=9)
    return fig


def knobs() -> Figure:
    """What each choice changes, stated by the paper or left open, beside Sobolev training itself.

    Decades by which the test error falls: a point for each function, a bar for their median.
    """
    found = {n: load().effects(n) for n in SMALL}
    rows = [label for label in KNOBS if any(label in effects for effects in found.values())]
    fig, axes = style.figure(1, len(SMALL), width="wide", height=5.2, sharey=True)
    for ax, (n, effects) in zip(axes, found.items(), strict=True):
        marks.line_at_zero(ax, vertical=True)
        for label, (middle, centres) in effects.items():
            row, (before, after) = rows.index(label), KNOBS[label]
            look = marks.look("values" if before[1] == after[1] else "sobolev")
            dot = {"marker": "o", "linestyle": "none", "markersize": 4, "alpha": 0.6}
            ax.plot(centres, [row] * len(centres), color=look["color"], **dot)
            ax.plot([middle] * 2, [row - 0.3, row + 0.3], color=look["color"], linewidth=2.5)
        ax.set_title(f"N = {n}")
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].invert_yaxis()
    fig.supxlabel("Decades by which the test error falls", fontsize=9)
    return fig


def gain_over_steps() -> Figure:
    """Decades gained by Sobolev training if training had been stopped earlier.

    One line a size, one panel a function.
    """
    results = load()
    fig, axes, last = marks.panels(TITLES, "Adam steps", "Decades gained", 4.6, sharex=True)
    shades = dict(zip(SIZES, ("#DE9560", "#B85100", "#5E2A00"), strict=True))
    for ax, name in zip(axes, FUNCTIONS, strict=True):
        marks.line_at_zero(ax)
        for n, shade in shades.items():
            marks.band(ax, *results.gain_curve(name, n), shade)
        style.log_scale(ax, "x", minor=False)
    names = {shade: f"N = {n:,}" for n, shade in shades.items()}
    marks.key(last, names, "Above 0: Sobolev better.\nBand: 95 % interval.", marker=False)
    return fig


def twins(runs: Twins) -> Figure:
    """How far apart two equal runs are: the median during training, and each pair at the end.

    Parameters
    ----------
    runs : Twins
    """
    fig, (during, end) = style.figure(1, 2, width="text", height=3.4)
    names = ("values", "sobolev", "kernel", marks.GREY, "smooth")
    shown = {row: name for row, name in zip(ROWS, names, strict=True) if len(runs.apart(row))}
    for place, (row, name) in enumerate(reversed(shown.items())):
        apart = runs.apart(row)
        middle = np.median(apart, axis=0)
        kept = middle > 0  # the first steps agree in all recorded digits
        look = marks.look(name) | {"marker": ""}
        during.plot(np.array(runs.steps)[kept], middle[kept], **look)
        marks.dots(end, place, apart[:, -1], name, horizontal=True)
        end.plot(middle[-1], place, **marks.look(name))
        if len(others := runs.seeds_apart(row)):
            end.plot(np.median(others), place, "|", color="#222222", markersize=12)
    during.set(xscale="log", yscale="log", xlabel="Adam steps", title="Decades, during training")
    end.set(xscale="log", xlabel="Decades", title="At the end")
    end.set_yticks(range(len(shown)), list(reversed(shown)))
    return fig


def equal_time(n: int, prices: Mapping[str, float]) -> Figure:
    """Decades gained by Sobolev training when its steps are charged at different prices.

    Parameters
    ----------
    n : int
        Number of training points.
    prices : mapping
        Label to the price p of a Sobolev step, in steps on values: it gets 1/p of the steps.  At
        most four.
    """
    results = load()
    fig, ax = style.figure(width="text", height=4.2)
    marks.line_at_zero(ax, vertical=True)
    looks = (("#E8A679", "o"), ("#D17A3C", "s"), ("#9C4400", "D"), ("#4A2000", "^"))
    if len(prices) > len(looks):
        raise ValueError(
            f"prices has {len(prices)} entries; at most {len(looks)} can be told apart"
        )
    for k, ((label, price), (shade, marker)) in enumerate(zip(prices.items(), looks, strict=False)):
        shift = 0.66 / max(len(prices) - 1, 1) * (k - (len(prices) - 1) / 2)
        for place, name in enumerate(FUNCTIONS):
            found = results.gain_at_price(name, n, price)
            marks.interval(ax, place + shift, found, shade, horizontal=True, marker=marker)
        ax.plot([], [], color=shade, marker=marker, linestyle="", label=label)
    ax.set_yticks(range(len(TITLES)), labels=TITLES)
    ax.invert_yaxis()
    ax.set_xlabel(f"Decades gained, N = {n}")
    ax.legend(loc="best")
    return fig


def learned_surfaces(function: str) -> Figure:
    """Fig. 3 and 5-11 as maps: a function and its models (seed 0) with their gradients.

    One row a size. All maps have the truth's colours; what lies outside is cut off there. Dots are
    the training points.
    """
    grids = surfaces.load()
    truth = surfaces.truth(function)
    fig, axes = style.figure(len(SMALL), 3, width="wide", height=2.85 * len(SMALL) + 0.1)
    shown = _field(axes[0, 0], function, *truth, truth)
    axes[0, 0].set_title("Truth")
    for row, n in zip(axes, SMALL, strict=True):
        found = {s.method: s for s in settings("paper", [n]) if s.function == function}
        for ax, method in zip(row[1:], ("values", "sobolev"), strict=True):
            _field(ax, function, *grids[function, n, method, 0], truth)
            dots = training_points(found[method], 0).T.numpy()
            ax.plot(*dots, "o", ms=3.2, mfc="white", mec="black", mew=0.7)
            ax.set_title(f"{style.LABELS[method]}, N\u00a0=\u00a0{n:,}")
    key = axes[1, 0]
    key.axis("off")
    fig.colorbar(shown, cax=key.inset_axes((0.05, 0.72, 0.9, 0.07)), orientation="horizontal")
    words = ("Colour: value.", "Arrow: gradient, length", "with the root of its size.")
    key.text(
        0.05, 0.5, "\n".join((*words, "Dot: training point.")), va="top", fontsize=9,
        transform=key.transAxes,
    )  # fmt: skip
    ends.NARROW_ROWS[fig] = [[axes[0, 0], key], *([*row[1:]] for row in axes)]
    return fig


def _field(
    ax: Axes,
    function: str,
    values: np.ndarray,
    slopes: np.ndarray,
    truth: tuple[np.ndarray, np.ndarray],
) -> Any:
    domain = FUNCTIONS[function].domain
    image = ax.imshow(
        values,
        origin="lower",
        extent=(*domain[0], *domain[1]),
        aspect="auto",
        cmap=style.FIELD_CMAP,
        vmin=float(truth[0].min()),
        vmax=float(truth[0].max()),
        alpha=0.45,
        interpolation="bilinear",
    )
    points = surfaces.arrow_grid(function).numpy()
    # Arrow lengths grow with the square root of the slope, on the truth's scale: steep rims would
    # hide the rest.
    longest = np.linalg.norm(truth[1], axis=-1).max()
    length = np.linalg.norm(slopes, axis=-1, keepdims=True)
    arrows = (
        slopes / np.where(length > 0, length, 1) * np.sqrt(np.minimum(length, longest) / longest)
    )
    ax.quiver(
        points[..., 0],
        points[..., 1],
        arrows[..., 0],
        arrows[..., 1],
        scale=14,
        width=0.006,
        color="#222222",
    )
    ax.grid(visible=False)
    ax.set(xticks=list(domain[0]), yticks=list(domain[1]), box_aspect=1)
    return image
