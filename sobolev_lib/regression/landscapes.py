"""The seven benchmark functions: surfaces, gradient fields and how much signal a gradient holds.

Numbers here are computed from the functions alone, so this module draws from no ledger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from sobolev_lib.figures import style
from sobolev_lib.functions import FUNCTIONS, BenchmarkFunction

__all__ = [
    "BUKIN_TAIL",
    "MINIMA",
    "Signal",
    "draw_ackley",
    "draw_balance",
    "draw_fields",
    "draw_running_mean",
    "draw_scales",
    "draw_surfaces",
    "quadrature",
    "running_mean",
    "signal",
]

_DARK = "#222222"

#: Global minimisers and minima, as collections of test functions for optimisation give them.
MINIMA: dict[str, tuple[list[tuple[float, float]], float]] = {
    "ackley": ([(0.0, 0.0)], 0.0),
    "beale": ([(3.0, 0.5)], 0.0),
    "booth": ([(1.0, 3.0)], 0.0),
    "bukin": ([(-10.0, 1.0)], 0.0),
    "mccormick": ([(-0.5471975512, -1.5471975512)], -1.9132229550),
    "rosenbrock": ([(1.0, 1.0)], 0.0),
    "styblinski_tang": ([(-2.9035340276, -2.9035340276)], -78.3323314075),
}

#: c in ``P(|grad f|^2 > t) = c / t`` for Bukin and large t: ``2 * 50^2 (1 + 4e-4 E x^2) / 6``
#: with x uniform on [-15, -5].
BUKIN_TAIL = 2 * 2500 * (1 + 4e-4 * (100 + 100 / 12)) / 6


@dataclass(frozen=True)
class Signal:
    """Moments of a function and of its gradient over its domain.

    Parameters
    ----------
    variance : float
        Var f for uniform x, in squared units of f.
    low, high : float
        Least and largest value on a fine grid.
    gradient : float
        ``E |grad f|^2``; infinite where the integral diverges.
    raw : float
        ``E |grad f|^2 / Var f``, in squared units of 1 / x.
    normalised : float
        The same after inputs and values are brought to mean 0 and variance 1: no unit.
    """

    variance: float
    low: float
    high: float
    gradient: float
    raw: float
    normalised: float


def quadrature(name: str, panels: int = 20, nodes: int = 8) -> tuple[Tensor, Tensor]:
    """Points and weights for means over the domain: composite Gauss-Legendre, a product rule.

    Exact for the polynomials among the functions, their squares and squared gradients.  For Bukin
    the rule follows the valley: with ``y = x^2 / 100 +- s^2`` both f and ``|grad f|`` times the
    volume element are smooth in s.

    Parameters
    ----------
    name : str
        Key of `sobolev_lib.functions.FUNCTIONS`.
    panels : int
        Equal pieces of each axis.
    nodes : int
        Gauss nodes in each piece; exact up to degree 2 * nodes - 1.

    Returns
    -------
    points : Tensor, shape (n, 2), float64
    weights : Tensor, shape (n,), float64
        Positive, with sum 1.
    """
    unit, weight = _gauss(panels, nodes)
    (x_lo, x_hi), (y_lo, y_hi) = FUNCTIONS[name].domain
    x = x_lo + (x_hi - x_lo) * unit
    if name != "bukin":
        y = y_lo + (y_hi - y_lo) * unit
        points = torch.cartesian_prod(x, y)
        return points, torch.outer(weight, weight).reshape(-1)
    sides = []
    for end, sign in ((y_hi, 1.0), (y_lo, -1.0)):
        reach = torch.sqrt((end - 0.01 * x**2).abs())[:, None]  # s runs from 0 to reach
        s = reach * unit
        y = 0.01 * x[:, None] ** 2 + sign * s**2
        w = weight[:, None] * weight * reach * 2 * s / (y_hi - y_lo)
        sides.append((torch.stack([x[:, None].expand_as(y), y], -1).reshape(-1, 2), w.reshape(-1)))
    return torch.cat([p for p, _ in sides]), torch.cat([w for _, w in sides])


def _gauss(panels: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Composite Gauss-Legendre nodes and weights on [0, 1]."""
    z, w = np.polynomial.legendre.leggauss(nodes)
    starts = np.arange(panels)[:, None]
    points = (starts + (z + 1) / 2) / panels
    weights = np.broadcast_to(w / (2 * panels), points.shape)
    return torch.from_numpy(points.ravel().copy()), torch.from_numpy(weights.ravel().copy())


def signal(name: str) -> Signal:
    """Compute how large a function is and how much of it is in its gradient.

    Parameters
    ----------
    name : str
        Key of `sobolev_lib.functions.FUNCTIONS`.

    Returns
    -------
    Signal
        By `quadrature`; the mean of Bukin's squared gradient is infinite (chapter *Seven
        landscapes* has the proof).

    Raises
    ------
    KeyError
        If there is no such function.
    """
    f = FUNCTIONS[name]
    points, weights = quadrature(name)
    values = f(points)[:, 0]
    mean = (weights * values).sum()
    variance = float((weights * (values - mean) ** 2).sum())
    _, _, surface = grid(f, 401)
    widths = torch.tensor([high - low for low, high in f.domain], dtype=torch.float64)
    if name == "bukin":
        square = scaled = math.inf
    else:
        squares = f.gradient(points) ** 2
        square = float(weights @ squares.sum(1))
        scaled = float(weights @ (squares * widths**2 / 12).sum(1))  # variance of a uniform input
    return Signal(
        variance=variance,
        low=float(surface.min()),
        high=float(surface.max()),
        gradient=square,
        raw=square / variance,
        normalised=scaled / variance,
    )


def running_mean(name: str, n: int, seed: int, power: float = 2.0) -> Tensor:
    """Means of ``|grad f|**power`` over the first 1, ..., n uniform points, shape (n,), float64."""
    x = FUNCTIONS[name].sample(n, torch.Generator().manual_seed(seed), torch.float64)
    sizes = FUNCTIONS[name].gradient(x).norm(dim=1) ** power
    return sizes.cumsum(0) / torch.arange(1, n + 1, dtype=torch.float64)


def grid(f: BenchmarkFunction, side: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Coordinates and values on a regular grid that includes the edges, each (side, side)."""
    x, y = np.meshgrid(*(np.linspace(low, high, side) for low, high in f.domain))
    points = torch.from_numpy(np.stack([x, y], -1))
    return x, y, f(points)[..., 0].numpy()


def _field(f: BenchmarkFunction, side: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Cell centres and arrows (side, side, 2), arrows of length <= 1 in cells; slope sizes."""
    low, high = np.array(f.domain).T
    steps = (np.arange(side) + 0.5) / side
    centres = np.stack(np.meshgrid(*(low[k] + (high - low)[k] * steps for k in (0, 1))), -1)
    slopes = f.gradient(torch.from_numpy(centres)).numpy()
    sizes = np.linalg.norm(slopes, axis=-1, keepdims=True)
    # square roots, so that small slopes stay visible beside large ones
    lengths = np.sqrt(sizes / np.quantile(sizes, 0.95)).clip(max=1)
    ahead = slopes / (high - low)
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True).clip(min=1e-300)
    return centres, ahead * lengths, sizes[..., 0]


def draw_surfaces(side: int = 61) -> Figure:
    """Draw the seven surfaces from above at an angle, heights in the units of each function."""
    fig, axes = style.figure(
        4, 2, width=5.6, height=9.4, subplot_kw={"projection": "3d", "computed_zorder": False}
    )
    for ax, f in zip(axes.flat, FUNCTIONS.values(), strict=False):
        x, y, z = grid(f, side)
        surface = ax.plot_surface(x, y, z, cmap=style.FIELD_CMAP, rcount=side, ccount=side, lw=0)
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


def draw_fields(side: int = 81, arrows: int = 13) -> Figure:
    """Draw maps of the seven functions with contours, gradient fields and global minima."""
    fig, axes = style.figure(4, 2, width=5.6, height=9.4)
    for ax, f in zip(axes.flat, FUNCTIONS.values(), strict=False):
        x, y, z = grid(f, side)
        mesh = ax.pcolormesh(x, y, z, shading="gouraud", cmap=style.FIELD_CMAP)
        mesh.set_rasterized(True)
        levels = np.unique(np.quantile(z, [0.05, 0.15, 0.3, 0.5, 0.7, 0.9]))
        ax.contour(x, y, z, levels=levels, colors="black", linewidths=0.4, alpha=0.5)
        _arrows(ax, f, arrows)
        spots, _ = MINIMA[f.name]
        ax.plot(*zip(*spots, strict=True), "o", ms=5, mfc="#D55E00", mec="white", mew=1.2)
        ax.set_title(f.title)
        ax.grid(False)
        ax.set(xlim=f.domain[0], ylim=f.domain[1], xticks=f.domain[0], yticks=f.domain[1])
        ax.set_xlabel("x", labelpad=-8)
        ax.set_ylabel("y", labelpad=-8)
    last = axes.flat[len(FUNCTIONS)]
    last.set_axis_off()
    words = "Bright: high\nArrow: gradient, length\nwith the root of its size\nDot: global minimum"
    last.text(0, 0.5, words, va="center", fontsize=9)
    return fig


def _arrows(ax: Axes, f: BenchmarkFunction, count: int) -> None:
    centres, ahead, _ = _field(f, count)
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
    ax.set_xscale("log")
    ax.set_yticks(range(len(order)), [FUNCTIONS[name].title for name in order])
    ax.set_xlabel("units of the function (log)")
    top = signals[order[-1]]
    note = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "fontsize": 9}
    spot = (math.sqrt(top.variance), len(order) - 1)
    ax.annotate("standard deviation", spot, **note)
    ax.annotate("range", (top.high - top.low, len(order) - 1), **note)
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
    ax.set_xscale("log")
    ax.set_xlim(min(s.raw for s in signals.values()) / 3, edge)
    ax.set_yticks(range(len(order)), [FUNCTIONS[name].title for name in order])
    ax.set_xlabel("squared gradient / variance (log)")
    first = signals[order[0]]
    note = {"xytext": (0, -14), "textcoords": "offset points", "ha": "center", "fontsize": 9}
    ax.annotate("raw, per unit$^2$ of x", (first.raw, 0), **note)
    ax.annotate("normalised", (first.normalised, 0), **note)
    ax.set_ylim(-0.9, len(order) - 0.4)
    return fig


def draw_running_mean(n: int = 300_000, seeds: int = 8) -> Figure:
    """Draw running means of the squared gradient: Booth settles, Bukin climbs and jumps."""
    fig, axes = style.figure(2, 1, width=5.6, height=5.4)
    places = np.unique(np.geomspace(10, n, 400).astype(int)) - 1
    for ax, name in zip(axes, ("booth", "bukin"), strict=True):
        for seed in range(seeds):
            means = running_mean(name, n, seed)[places]
            ax.plot(places + 1, means, lw=1, alpha=0.7, color=style.COLOURS["truth"])
        ax.set_xscale("log")
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
    axes[1].set_yscale("log")
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
