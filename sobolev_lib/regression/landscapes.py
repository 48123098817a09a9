"""Figures of the seven benchmark functions: surfaces, gradient fields, what :mod:`.signal` says.

They are drawn from the functions alone, from no ledger.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sobolev_lib.figures import style
from sobolev_lib.functions import FUNCTIONS, BenchmarkFunction
from sobolev_lib.regression.signal import BUKIN_TAIL, MINIMA, Signal, running_mean, signal

_DARK = "#222222"


def _field(f: BenchmarkFunction, side: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cell centres and arrows (side, side, 2), arrows of length <= 1 in cells."""
    low, high = np.array(f.domain).T
    centres = f.grid(side, centres=True)
    slopes = f.gradient(centres).numpy()
    sizes = np.linalg.norm(slopes, axis=-1, keepdims=True)
    # square roots, so that small slopes stay visible beside large ones
    lengths = np.sqrt(sizes / np.quantile(sizes, 0.95)).clip(max=1)
    ahead = slopes / (high - low)
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True).clip(min=1e-300)
    return centres.numpy(), ahead * lengths


def _surface(f: BenchmarkFunction, side: int) -> tuple[NDArray[Any], ...]:
    """Coordinates and values on a grid, each (side, side)."""
    points = f.grid(side)
    return points[..., 0].numpy(), points[..., 1].numpy(), f(points)[..., 0].numpy()


def draw_surfaces() -> Figure:
    """Draw the seven surfaces from above at an angle, heights in the units of each function."""
    fig, axes = style.figure(
        4, 2, width=5.6, height=9.4, subplot_kw={"projection": "3d", "computed_zorder": False}
    )
    for ax, f in zip(axes.flat, FUNCTIONS.values(), strict=False):
        x, y, z = _surface(f, 61)
        surface = ax.plot_surface(x, y, z, cmap=style.FIELD_CMAP, rcount=61, ccount=61, lw=0)
        surface.set_rasterized(True)  # thousands of facets: an image inside the drawing
        ax.set_title(f.title, loc="center", pad=-4)
        ax.set(xticks=f.domain[0], yticks=f.domain[1], zticks=[])
        ax.set_xlabel("x", labelpad=-12)
        ax.set_ylabel("y", labelpad=-12)
        ax.tick_params(pad=-4, labelsize=8)
        ax.view_init(elev=32, azim=-60)
    for ax in axes.flat[len(FUNCTIONS) :]:
        ax.set_axis_off()
    return fig


def draw_fields() -> Figure:
    """Draw maps of the seven functions with contours, gradient fields and global minima."""
    fig, axes = style.figure(4, 2, width=5.6, height=9.4)
    for ax, f in zip(axes.flat, FUNCTIONS.values(), strict=False):
        x, y, z = _surface(f, 81)
        mesh = ax.pcolormesh(x, y, z, shading="gouraud", cmap=style.FIELD_CMAP)
        mesh.set_rasterized(True)
        levels = np.unique(np.quantile(z, [0.05, 0.15, 0.3, 0.5, 0.7, 0.9]))
        ax.contour(x, y, z, levels=levels, colors="black", linewidths=0.4, alpha=0.5)
        _arrows(ax, f, 13)
        spots, _ = MINIMA[f.name]
        ax.plot(*zip(*spots, strict=True), "o", ms=5, mfc="#D55E00", mec="white", mew=1.2)
        ax.set_title(f.title)
        ax.grid(False)
        ax.set(xlim=f.domain[0], ylim=f.domain[1], xticks=f.domain[0], yticks=f.domain[1])
        ax.set_xlabel("x", labelpad=-8)
        ax.set_ylabel("y", labelpad=-8)
    last = axes.flat[len(FUNCTIONS)]
    last.set_axis_off()
    words = (
        "Bright: high.\nArrow: gradient, length\nwith the root of its size.\nDot: global minimum."
    )
    last.text(0, 0.5, words, va="center", fontsize=9)
    return fig


def _arrows(ax: Axes, f: BenchmarkFunction, count: int) -> None:
    centres, ahead = _field(f, count)
    widths = np.array([high - low for low, high in f.domain])
    step = ahead * widths * 0.9 / count
    ax.quiver(
        *np.moveaxis(centres, -1, 0), *np.moveaxis(step, -1, 0), angles="xy", scale_units="xy",
        scale=1, pivot="mid", color="white", width=0.011, edgecolor="black", linewidth=0.4,
    )  # fmt: skip


def draw_scales(signals: dict[str, Signal]) -> Figure:
    """Draw range and standard deviation of each function on one logarithmic axis."""
    fig, ax = style.figure(width=5.6, height=2.9)
    order = sorted(signals, key=lambda name: signals[name].variance)
    for row, name in enumerate(order):
        s = signals[name]
        deviation = math.sqrt(s.variance)
        ax.plot([deviation, s.high - s.low], [row, row], color="#777777", lw=1.2, zorder=1)
        ax.plot(s.high - s.low, row, "|", color="#333333", ms=11, mew=1.8)
        ax.plot(deviation, row, "o", color=_DARK, ms=6)
    style.log_scale(ax, "x")
    ax.set_yticks(range(len(order)), [FUNCTIONS[name].title for name in order])
    ax.set_xlabel("units of the function (log)")
    top = signals[order[-1]]
    note = {"textcoords": "offset points", "fontsize": 9}
    spot = (math.sqrt(top.variance), len(order) - 1)
    ax.annotate("standard deviation", spot, xytext=(4, 9), ha="right", **note)
    ax.annotate("range", (top.high - top.low, len(order) - 1), xytext=(0, 9), ha="center", **note)
    ax.set_ylim(-0.6, len(order) - 0.1)
    return fig


def draw_balance(signals: dict[str, Signal]) -> Figure:
    """Draw the ratio of squared gradient to variance, raw and after normalisation."""
    fig, ax = style.figure(width=5.6, height=3.1)
    order = sorted(signals, key=lambda name: signals[name].raw)
    finite = [s.normalised for s in signals.values() if math.isfinite(s.normalised)]
    edge = 4 * max(finite)
    for row, name in enumerate(order):
        s = signals[name]
        if not math.isfinite(s.raw):
            ax.annotate(
                "infinite", (edge, row), xytext=(edge / 30, row), va="center", ha="right",
                fontsize=9, arrowprops={"arrowstyle": "->", "color": "#333333"},
            )  # fmt: skip
            continue
        ax.plot([s.raw, s.normalised], [row, row], color="#BBBBBB", lw=1.2, zorder=1)
        ax.plot(s.raw, row, "o", color=_DARK, ms=7)
        ax.plot(s.normalised, row, "s", mfc="white", mec=_DARK, mew=1.6, ms=7)
    ax.axvline(1, color="#777777", lw=1, ls=(0, (4, 2)))
    style.log_scale(ax, "x")
    ax.set_xlim(min(s.raw for s in signals.values()) / 3, edge)
    ax.set_yticks(range(len(order)), [FUNCTIONS[name].title for name in order])
    ax.set_xlabel("squared gradient / variance (log)")
    first = signals[order[0]]
    note = {"xytext": (0, -14), "textcoords": "offset points", "ha": "center", "fontsize": 9}
    ax.annotate("raw", (first.raw, 0), **note | {"ha": "left"})
    ax.annotate("normalised", (first.normalised, 0), **note | {"ha": "left"})
    ax.set_ylim(-1.3, len(order) - 0.4)
    return fig


def draw_running_mean() -> Figure:
    """Draw running means of the squared gradient: Booth settles, Bukin climbs and jumps."""
    fig, axes = style.figure(2, 1, width=5.6, height=5.4)
    n = 300_000
    places = np.unique(np.geomspace(10, n, 400).astype(int)) - 1
    for ax, name in zip(axes, ("booth", "bukin"), strict=True):
        for seed in range(8):
            means = running_mean(name, n, seed)[places]
            ax.plot(places + 1, means, lw=1, alpha=0.7, color=style.COLOURS["truth"])
        style.log_scale(ax, "x")
        ax.set_title(FUNCTIONS[name].title)
        ax.set_xlabel("points n (log)")
    axes[0].axhline(signal("booth").gradient, color="black", lw=2, ls=(0, (4, 2)))
    for ax in axes:
        ax.set_ylabel("mean squared gradient")
    axes[0].set_ylim(0, 2 * signal("booth").gradient)
    typical = BUKIN_TAIL * np.log(places + 1)
    axes[1].plot(places + 1, typical, color="black", lw=2, ls=(0, (4, 2)))
    axes[1].annotate(
        "c log n", (places[-1] + 1, typical[-1]), xytext=(0, -12), ha="right",
        textcoords="offset points", fontsize=9,
    )  # fmt: skip
    style.log_scale(axes[1])
    return fig


def draw_ackley() -> Figure:
    """Draw Ackley along y = 0: the cone, and the waves that hold most of the slope."""
    fig, axes = style.figure(2, 1, width=5.6, height=5.2)
    x = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    x[500] = 1e-9  # the tip has no slope
    line = torch.stack([x, torch.zeros_like(x)], 1)
    f = FUNCTIONS["ackley"]
    cone = 20 - 20 * torch.exp(-0.2 * torch.sqrt(0.5 * x**2))
    slope = 2 * math.sqrt(2) * torch.sign(x) * torch.exp(-0.2 * torch.sqrt(0.5 * x**2))
    panels = (
        (f(line)[:, 0], cone, "Value on y = 0"),
        (f.gradient(line)[:, 0], slope, "Slope in x on y = 0"),
    )
    for ax, (whole, smooth, title) in zip(axes, panels, strict=True):
        ax.plot(x, whole, color=style.COLOURS["truth"], lw=1.6)
        ax.plot(x, smooth, color="black", lw=2, ls=(0, (4, 2)))
        ax.set(title=title, xlabel="x")
        ax.margins(y=0.1)
    axes[0].annotate("cone alone", (-3.2, float(cone[180])), xytext=(-3.6, 1.8), fontsize=9)
    axes[0].set_ylim(-8.5, 13)
    for k, n in enumerate((20, 100, 10_000)):
        spacing, y = 10 / math.sqrt(n), -2 - 2.2 * k
        axes[0].plot([5 - spacing, 5], [y, y], color=_DARK, lw=3)
        axes[0].text(
            4.9 - spacing, y, f"mean spacing, N = {n:,}", ha="right", va="center", fontsize=8
        )  # fmt: skip
    return fig
