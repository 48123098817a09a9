"""Figures of the regression experiment, drawn from the ledger and from the committed grids only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from sobolev_lib.figures import style
from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.records.ledger import Ledger, Record
from sobolev_lib.records.summary import (
    Interval,
    error,
    gain,
    interquartile_mean,
    interval,
    log_errors,
)
from sobolev_lib.regression import grids as surfaces

SIZES = (20, 100, 10_000)


def select(
    function: str,
    n: int,
    method: str,
    arm: str = "paper",
    book: Ledger | None = None,
    **config: Any,
) -> list[Record]:
    """Records of one function, size and method, from all seeds at the paper scale."""
    return _all(book).find_in(function=function, n=n, method=method, arm=arm, **config)


class _Index:
    """Records read once, found by configuration."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def find_in(self, **config: Any) -> list[Record]:
        """Records at the paper scale whose configuration has these entries."""
        return [
            r
            for r in self.records
            if r.scale == "paper" and all(r.config.get(k) == v for k, v in config.items())
        ]


_read: dict[tuple[str, float], _Index] = {}


def _all(book: Ledger | None) -> _Index:
    book = book or Ledger("regression")
    stamp = (str(book.path), book.path.stat().st_mtime if book.path.exists() else 0.0)
    if stamp not in _read:
        _read.clear()
        _read[stamp] = _Index(book.read())
    return _read[stamp]


def _log_axis(ax: Axes) -> None:
    """Logarithmic error axis with at least two labelled marks, however short its range."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    decades = np.log10(high / low)
    subs: tuple[float, ...] = (
        (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
    )
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
    ax.yaxis.set_major_formatter(FuncFormatter(_power))
    ax.yaxis.set_minor_locator(NullLocator())


def _power(value: float, _: object = None) -> str:
    """Write 300 as 3·10², 1000 as 10³, and 0.5, 3 or 20 as they are."""
    exponent = int(np.floor(np.log10(value) + 1e-9))
    factor = round(value / 10.0**exponent, 1)
    if -1 <= exponent <= 1:
        return f"{value:g}"
    return f"$10^{{{exponent}}}$" if factor == 1 else f"${factor:g}\\!\\cdot\\!10^{{{exponent}}}$"


def _power_of_ten(value: float) -> float:
    return float(10**value)


def _name(n: int) -> str:
    return f"{n:,}"


def error_against_data(
    arm: str = "paper",
    metric: str = "test_mse",
    sizes: Sequence[int] = SIZES,
    book: Ledger | None = None,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> Figure:
    """Fig. 2, right: test error against the number of training points, seven functions.

    Parameters
    ----------
    arm : str
        Arm of :data:`sobolev_lib.regression.training.ARMS`.
    metric : str
        "test_mse" or "test_gradient_mse".
    sizes : sequence of int
        Numbers of training points.
    book : Ledger, optional
        The experiment's ledger unless given.
    extra : mapping, optional
        Further lines: a key of the style's colours to what selects their records, e.g.
        ``{"kriging": {"arm": "kriging", "method": "values"}}``.
    """
    lines = {method: {"arm": arm, "method": method} for method in ("values", "sobolev")} | {
        k: dict(v) for k, v in (extra or {}).items()
    }
    fig, axes = style.figure(2, 4, width="wide", height=4.9)
    for ax, name in zip(axes.flat, FUNCTIONS, strict=False):
        for shift, (method, where) in zip(
            np.linspace(-0.12, 0.12, len(lines)), lines.items(), strict=True
        ):
            _errors_by_size(ax, name, method, where, metric, sizes, float(shift), book)
        ax.set(
            title=FUNCTIONS[name].title,
            xticks=range(len(sizes)),
            xticklabels=[_name(n) for n in sizes],
            xlim=(-0.5, len(sizes) - 0.5),
        )
        _log_axis(ax)
    _key(
        axes.flat[-1],
        list(lines),
        "Line: interquartile mean and\n95 % bootstrap interval.\nPale dots: single seeds.",
    )
    for ax in axes[:, 0]:
        ax.set_ylabel(
            "Test MSE of the value" if metric == "test_mse" else "Test MSE of the gradient"
        )
    for ax in (*axes[1, :3], axes[0, 3]):
        ax.set_xlabel("Training points N")
    return fig


def _errors_by_size(
    ax: Axes,
    name: str,
    method: str,
    where: Mapping[str, Any],
    metric: str,
    sizes: Sequence[int],
    shift: float,
    book: Ledger | None,
) -> None:
    found = [(k, _all(book).find_in(function=name, n=n, **where)) for k, n in enumerate(sizes)]
    found = [(k, records) for k, records in found if len(log_errors(records, metric)) > 1]
    if not found:
        return
    intervals = [error(records, metric).map(_power_of_ten) for _, records in found]
    places = [k + shift for k, _ in found]
    centre, low, high = (
        [getattr(i, part) for i in intervals] for part in ("centre", "low", "high")
    )
    ax.plot(
        places, centre, color=style.COLOURS[method], linestyle=style.DASHES[method], linewidth=1.2
    )
    style.error_bars(ax, places, centre, low, high, method)
    for place, (_, records) in zip(places, found, strict=True):
        single = [10**v for v in log_errors(records, metric).values()]
        ax.plot(
            [place] * len(single),
            single,
            linestyle="none",
            marker=".",
            markersize=3,
            alpha=0.35,
            color=style.COLOURS[method],
        )


def _key(ax: Axes, methods: Sequence[str], note: str = "") -> None:
    """Use a panel for the names of the methods, each beside its mark."""
    ax.axis("off")
    for row, method in enumerate(methods):
        y = 0.92 - 0.13 * row
        ax.plot(
            [0.02, 0.12],
            [y, y],
            transform=ax.transAxes,
            color=style.COLOURS[method],
            linestyle=style.DASHES[method],
        )
        ax.plot(
            [0.07],
            [y],
            transform=ax.transAxes,
            color=style.COLOURS[method],
            marker=style.MARKERS[method],
        )
        ax.text(
            0.17,
            y,
            style.LABELS[method],
            transform=ax.transAxes,
            va="center",
            fontsize=9,
            color=style.TEXT_COLOURS[method],
        )
    ax.text(0.02, 0.86 - 0.13 * len(methods), note, transform=ax.transAxes, va="top", fontsize=8)


def gains(
    rows: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]],
    n: int,
    book: Ledger | None = None,
    metric: str = "test_mse",
) -> Figure:
    """Decades gained over a baseline, function by function.

    Parameters
    ----------
    rows : mapping
        Label of a panel to (baseline, other): what selects the records of each.
    n : int
        Number of training points.
    """
    fig, axes = style.figure(
        1, len(rows), width="wide", height=2.9, sharey=True, sharex=True, squeeze=False
    )
    names = list(FUNCTIONS)
    for ax, (label, (baseline, other)) in zip(axes[0], rows.items(), strict=True):
        ax.axvline(0, color="#777777", linewidth=1)
        for place, name in enumerate(names):
            found = paired(name, n, baseline, other, book, metric)
            if found is None:
                continue
            colour = (
                style.COLOURS["sobolev"]
                if found.sign > 0
                else style.COLOURS["values"]
                if found.sign < 0
                else "#777777"
            )
            ax.plot([found.low, found.high], [place, place], color=colour)
            ax.plot([found.centre], [place], color=colour, marker="s" if found.sign > 0 else "o")
        ax.set_title(label, fontsize=9)
        ax.set(yticks=range(len(names)), yticklabels=[FUNCTIONS[k].title for k in names])
    axes[0, 0].invert_yaxis()
    fig.supxlabel(
        f"Decades of test error gained at N = {_name(n)} (right of the line: smaller error)",
        fontsize=9,
    )
    return fig


def paired(
    function: str,
    n: int,
    baseline: Mapping[str, Any],
    other: Mapping[str, Any],
    book: Ledger | None = None,
    metric: str = "test_mse",
) -> Interval | None:
    """Decades gained by ``other`` over ``baseline`` (what selects their records).

    None with fewer than two common seeds.
    """
    a = _all(book).find_in(**{"function": function, "n": n, **baseline})
    b = _all(book).find_in(**{"function": function, "n": n, **other})
    return gain(a, b, metric)


def errors_of(
    grids: Mapping[tuple[str, int, str, int], Any], arm: str = "paper", book: Ledger | None = None
) -> dict[tuple[str, int, str, int], tuple[float, float]]:
    """Test errors (value, gradient) of each network in ``grids``, by the same key."""
    metrics = {
        (r.config["function"], r.config["n"], r.config["method"], r.seed): (
            r.metrics["test_mse"],
            r.metrics["test_gradient_mse"],
        )
        for r in _all(book).find_in(arm=arm)
    }
    return {key: metrics[key] for key in grids}


def learning_curves(
    n: int,
    lines: Mapping[str, Mapping[str, Any]] | None = None,
    metric: str = "test_mse",
    book: Ledger | None = None,
) -> Figure:
    """Error against training steps: interquartile mean over seeds, and band of the middle half.

    Parameters
    ----------
    n : int
        Number of training points.
    lines : mapping, optional
        A key of the style's colours to what selects the records of its line; the two methods of the
        paper's arm unless given.
    metric : str
        A curve of the records: "test_mse", "train_mse", "test_gradient_mse", "train_gradient_mse".
    book : Ledger, optional
        The experiment's ledger unless given.
    """
    lines = PAPER_LINES if lines is None else lines
    fig, axes = style.figure(2, 4, width="wide", height=4.6)
    for ax, name in zip(axes.flat, FUNCTIONS, strict=False):
        for colour, where in lines.items():
            records = _all(book).find_in(function=name, n=n, **where)
            if len(records) > 1:
                _curve(ax, records, metric, colour)
        ax.set_title(FUNCTIONS[name].title)
        ax.set_xscale("log")
        _log_axis(ax)
    _key(axes.flat[-1], list(lines), f"N = {_name(n)}.\nBand: middle half of the seeds.")
    for ax in axes[:, 0]:
        ax.set_ylabel(
            ("Test" if metric.startswith("test") else "Training")
            + (" MSE of the gradient" if "gradient" in metric else " MSE of the value")
        )
    for ax in (*axes[1, :3], axes[0, 3]):
        ax.set_xlabel("Adam steps")
    return fig


PAPER_LINES: dict[str, dict[str, Any]] = {
    "values": {"arm": "paper", "method": "values"},
    "sobolev": {"arm": "paper", "method": "sobolev"},
}
"""The two methods at the paper's setting."""

KERNEL_LINES: dict[str, dict[str, Any]] = {
    "sobolev": {"arm": "schedule", "method": "sobolev"},
    "kernel": {"arm": "activation", "activation": "relu", "method": "sobolev"},
    "smooth": {"arm": "activation", "activation": "silu", "method": "sobolev"},
}
"""Sobolev training with plain ReLU, with the kink kernel, and with SiLU; all else equal."""


def growth(
    n: int, where: Mapping[str, Any], metric: str = "train_gradient_mse", book: Ledger | None = None
) -> dict[str, Interval]:
    """Growth of a curve after its lowest point, beyond a tenth, in decades: by function.

    For each seed the last value over 1.1 times the smallest one before it; above 0 the error that
    was being minimised has grown by more than 10 per cent.
    """
    found = {}
    for name in FUNCTIONS:
        records = _all(book).find_in(function=name, n=n, **where)
        curves = [r.metrics["curve"][metric] for r in records]
        curves = [curve for curve in curves if None not in curve]
        if len(curves) > 1:
            found[name] = interval([float(np.log10(c[-1] / (1.1 * min(c)))) for c in curves])
    return found


ARM_ROWS: dict[str, dict[str, Any]] = {
    "Paper: raw, 3e-5, 60,000 steps": {"arm": "paper"},
    "… with the kink kernel (scaled)": {"arm": "paper_kernel", "method": "sobolev"},
    "… batches of 20": {"arm": "small_batch"},
    "Raw, 1e-3 annealed, 6,000 steps": {"arm": "raw_fast"},
    "Normalised, 1e-3 constant": {"arm": "normalized"},
    "Normalised, 1e-3 annealed": {"arm": "schedule"},
    "… with the kink kernel": {"arm": "activation", "activation": "relu", "method": "sobolev"},
    "… SiLU": {"arm": "activation", "activation": "silu"},
    "… tanh": {"arm": "activation", "activation": "tanh"},
    "… softplus": {"arm": "activation", "activation": "softplus"},
    "… values only, 3N values": {"arm": "equal_information", "method": "values"},
    "Kriging (SMT; with gradients: GEKPLS)": {"arm": "kriging"},
}
"""Rows of :func:`arms`: what selects the records of each."""


def arms(
    n: int,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
    metric: str = "test_mse",
    book: Ledger | None = None,
) -> Figure:
    """Test errors of both methods: one panel a function, one row an arm that has records."""
    rows = ARM_ROWS if rows is None else rows
    rows = {k: where for k, where in rows.items() if _all(book).find_in(n=n, **where)}
    fig, axes = style.figure(2, 4, width="wide", height=6.4, sharey=True)
    for ax, name in zip(axes.flat, FUNCTIONS, strict=False):
        for place, where in enumerate(rows.values()):
            for method, shift in (("values", -0.13), ("sobolev", 0.13)):
                records = _all(book).find_in(function=name, n=n, **{"method": method, **where})
                if where.get("method", method) == method and len(log_errors(records, metric)) > 1:
                    _bar(ax, place + shift, error(records, metric).map(_power_of_ten), method)
        ax.set(
            title=FUNCTIONS[name].title,
            yticks=range(len(rows)),
            yticklabels=list(rows),
            xscale="log",
        )
        ax.tick_params(axis="y", labelsize=8)
        ax.xaxis.set_major_locator(LogLocator(numticks=4))
        ax.xaxis.set_minor_locator(NullLocator())
    axes[0, 0].invert_yaxis()
    axes.flat[-1].set_ylim(axes[0, 0].get_ylim())
    _key(
        axes.flat[-1],
        ["values", "sobolev"],
        f"N = {_name(n)}. Mark: interquartile\nmean; bar: 95 % interval.",
    )
    fig.supxlabel(
        "Test MSE of the value" if metric == "test_mse" else "Test MSE of the gradient", fontsize=9
    )
    return fig


def _bar(ax: Axes, place: float, found: Interval, method: str) -> None:
    ax.plot([found.low, found.high], [place, place], color=style.COLOURS[method])
    ax.plot(
        [found.centre],
        [place],
        color=style.COLOURS[method],
        marker=style.MARKERS[method],
        markersize=4,
    )


def gain_over_steps(
    sizes: Sequence[int] = SIZES, arm: str = "paper", book: Ledger | None = None
) -> Figure:
    """Decades gained by Sobolev training if training had been stopped earlier.

    One line a size, one panel a function.
    """
    fig, axes = style.figure(2, 4, width="wide", height=4.6, sharex=True)
    shades = dict(zip(sizes, ("#DE9560", "#B85100", "#5E2A00"), strict=False))
    for ax, name in zip(axes.flat, FUNCTIONS, strict=False):
        ax.axhline(0, color="#777777", linewidth=1)
        for n in sizes:
            steps, found = _gain_curve(name, n, arm, book)
            if len(found):
                ax.plot(steps, found[:, 0], color=shades[n])
                ax.fill_between(
                    steps, found[:, 1], found[:, 2], color=shades[n], alpha=0.2, linewidth=0
                )
        ax.set_title(FUNCTIONS[name].title)
        ax.set_xscale("log")
    key = axes.flat[-1]
    key.axis("off")
    for row, n in enumerate(sizes):
        y = 0.9 - 0.13 * row
        key.plot([0.02, 0.12], [y, y], color=shades[n], transform=key.transAxes)
        key.text(0.17, y, f"N = {_name(n)}", va="center", fontsize=9, transform=key.transAxes)
    key.text(
        0.05,
        0.85 - 0.13 * len(sizes),
        "Above 0: Sobolev better.\nBand: 95 % interval.",
        fontsize=8,
        va="top",
        transform=key.transAxes,
    )
    for ax in axes[:, 0]:
        ax.set_ylabel("Decades gained")
    for ax in (*axes[1, :3], axes[0, 3]):
        ax.set_xlabel("Adam steps")
        ax.tick_params(labelbottom=True)
    return fig


def _gain_curve(name: str, n: int, arm: str, book: Ledger | None) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and centre and ends of the gain at each."""
    curves = {}
    for method in ("values", "sobolev"):
        records = _all(book).find_in(function=name, n=n, method=method, arm=arm)
        curves[method] = {
            r.seed: r.metrics["curve"] for r in records if r.metrics["test_mse"] is not None
        }
    seeds = sorted(curves["values"].keys() & curves["sobolev"].keys())
    if len(seeds) < 2:
        return np.empty(0), np.empty((0, 3))
    steps = np.array(curves["values"][seeds[0]]["steps"])
    logs = {
        method: np.log10([curve[s]["test_mse"] for s in seeds]) for method, curve in curves.items()
    }
    found = [interval(column) for column in (logs["values"] - logs["sobolev"]).T[steps > 0]]
    return steps[steps > 0], np.array([(i.centre, i.low, i.high) for i in found])


def _curve(ax: Axes, records: Sequence[Record], metric: str, method: str) -> None:
    steps = np.array(records[0].metrics["curve"]["steps"])
    logs = np.log10(
        [
            [np.nan if v is None else max(v, 1e-12) for v in r.metrics["curve"][metric]]
            for r in records
        ]
    )
    shown = steps > 0
    low, high = np.nanquantile(logs, [0.25, 0.75], axis=0)
    centre = interquartile_mean(logs, axis=0)
    centre, low, high = (10 ** v[shown] for v in (centre, low, high))
    style.curve(ax, steps[shown], centre, method, low=low, high=high, marker=False)


def learned_surfaces(
    function: str, sizes: Sequence[int] = (20, 100), seed: int = 0,
    grids: Mapping[tuple[str, int, str, int], tuple[np.ndarray, np.ndarray]] | None = None,
) -> Figure:  # fmt: skip
    """Fig. 3 and 5-11: a function and its models as surfaces, the gradient fields beneath.

    All surfaces share the truth's axes and colours; what lies outside is cut off there.
    """
    grids = surfaces.load() if grids is None else grids
    truth = surfaces.truth(function)
    panels = [("Truth", truth)] + [
        (f"N = {_name(n)}\n{style.LABELS[method]}", grids[function, n, method, seed])
        for n in sizes
        for method in ("values", "sobolev")
    ]
    fig = plt.figure(figsize=(style.WIDTHS["wide"], 3.9), layout="constrained")
    limits = (float(truth[0].min()), float(truth[0].max()))
    for column, (label, (values, slopes)) in enumerate(panels):
        _surface(
            fig.add_subplot(2, len(panels), column + 1, projection="3d"),
            function,
            values,
            limits,
            label,
        )
        _field(
            fig.add_subplot(2, len(panels), len(panels) + column + 1),
            function,
            values,
            slopes,
            truth,
            limits,
        )
    return fig


def _surface(
    ax: Any, function: str, values: np.ndarray, limits: tuple[float, float], label: str
) -> None:
    points = surfaces.value_grid(function).numpy()
    shown = np.clip(values, *limits)
    ax.plot_surface(
        points[..., 0],
        points[..., 1],
        shown,
        cmap=style.FIELD_CMAP,
        vmin=limits[0],
        vmax=limits[1],
        rstride=1,
        cstride=1,
        linewidth=0,
        antialiased=False,
        rasterized=True,
    )
    ax.set_zlim(*limits)
    ax.set_title(label, fontsize=9, pad=0)
    ax.set(xticklabels=[], yticklabels=[], zticklabels=[])
    ax.tick_params(length=0)


def _field(
    ax: Axes,
    function: str,
    values: np.ndarray,
    slopes: np.ndarray,
    truth: tuple[np.ndarray, np.ndarray],
    limits: tuple[float, float],
) -> None:
    domain = FUNCTIONS[function].domain
    ax.imshow(
        values,
        origin="lower",
        extent=(*domain[0], *domain[1]),
        aspect="auto",
        cmap=style.FIELD_CMAP,
        vmin=limits[0],
        vmax=limits[1],
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
    ax.set(xticks=list(domain[0]), yticks=list(domain[1]))
    ax.tick_params(labelsize=7)
