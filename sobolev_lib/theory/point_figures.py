"""Figures of the chapters on finitely many points: interpolation, identification, errata.

All are as wide as a phone's column, so that they are shown at their own size everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sobolev_lib.figures import style
from sobolev_lib.theory.interpolation import Method, relu_interpolant
from sobolev_lib.theory.sampling import Array

WIDTH = 3.45  # inches; notebooks add 0.1 at each side: 350 of the 358 pixels that a phone has

_METHODS: dict[Method, tuple[str, str]] = {
    "paper": ("values", "The paper's bumps"),
    "pair": ("equal_information", "Two units a point"),
    "gated": ("sobolev", "Gated planes"),
}
_INK = style.COLOURS["truth"]


def _needles(ax: Axes, x: Array, y: Array, slope: Array, length: float) -> None:
    """Points, each with a short line of its slope."""
    for a, b, s in zip(x, y, slope, strict=True):
        half = length / 2 / np.hypot(1.0, s * _aspect(ax))
        ends = [a - half, a + half], [b - s * half, b + s * half]
        ax.plot(*ends, color="#222222", lw=2.2, zorder=4)
    ax.plot(x, y, "o", color="#222222", ms=5, zorder=5)


def _aspect(ax: Axes) -> float:
    """Units of x for one unit of y, as they are on the page."""
    box = ax.get_position()
    width, height = ax.figure.get_size_inches()  # type: ignore[union-attr]
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    return float((x1 - x0) / (box.width * width) * (box.height * height) / (y1 - y0))


def draw_interpolants(x: Array, y: Array, slope: Array) -> Figure:
    """Networks of Proposition 1 through the same values and slopes on a line."""
    at = np.unique(np.concatenate([np.linspace(x.min() - 0.6, x.max() + 0.6, 4001), x]))
    fig, axes = style.figure(2, 1, width=WIDTH, height=4.9, sharex=True)
    shown: tuple[Method, Method] = ("paper", "gated")
    for method, ax in zip(shown, axes, strict=True):
        net = relu_interpolant(x[:, None], y, slope[:, None], method=method)
        value = net(torch.from_numpy(at)[:, None]).detach()[:, 0]
        colour, title = _METHODS[method]
        ax.plot(at, value, color=style.COLOURS[colour], lw=1.6)
        ax.set(title=title, ylabel="value")
        ax.set_ylim(-2.6, 2.6)
        _needles(ax, x, y, slope, 0.34)
    axes[-1].set_xlabel("$x$")
    return fig


def draw_gate(value: float = 1.0, slope: float = 1.5) -> Figure:
    """The parts of one gated piece on a line: the two ReLUs, and their difference."""
    x = np.linspace(-1.6, 1.6, 1601)
    room = 2 * abs(value) + abs(slope) / 4
    gate = room - (room + abs(value) + abs(slope)) * np.abs(x)
    plane = value + slope * x
    first, second = np.maximum(plane + gate, 0), np.maximum(gate, 0)
    fig, (top, low) = style.figure(2, 1, width=WIDTH, height=4.4, sharex=True)
    top.plot(x, first, color=style.COLOURS["sobolev"], label="relu(L + C − MD)")
    top.plot(x, second, color=style.COLOURS["values"], ls="--", label="relu(C − MD)")
    top.set_ylim(-0.2, first.max() * 1.55)
    low.plot(x, plane, color=_INK, ls=":", label="L")
    low.plot(x, first - second, color=style.COLOURS["sobolev"], label="difference")
    low.set_ylim(-1.8, 3.4)
    low.set_xlabel("$x - x_i$")
    both = x[(first > 0) & (second > 0)]
    for ax in (top, low):
        ax.legend(loc="upper left", fontsize=8)
        ax.axvspan(both[0], both[-1], color="#BBBBBB", alpha=0.35, lw=0)
        for edge in (-1, 1):
            ax.axvline(edge, color="#777777", lw=0.8, ls=":")
    return fig


def draw_steepness(
    sizes: list[int], gaps: dict[str, list[float]], distances: list[float]
) -> Figure:
    """Smallest gaps of projections beside the smallest distance, against the number of points."""
    fig, ax = style.figure(width=WIDTH, height=3.3)
    looks = {"paper": ("values", "gap, $d$ lines"), "pair": ("equal_information", "gap, one line")}
    lines = [
        style.curve(ax, sizes, gaps[name], colour, label=label)
        for name, (colour, label) in looks.items()
    ]
    lines.append(style.curve(ax, sizes, distances, "sobolev", label="distance"))
    style.log_scale(ax, "xy")
    ax.set(xlabel="points $n$", title="Smallest of the data set")
    ax.set_xlim(sizes[0] * 0.8, sizes[-1] * 9)
    style.label_ends(ax, lines)
    return fig


def draw_bump(value: float = 1.0, slope: float = 2.0, width: float = 0.1) -> Figure:
    """The bump of SM 1 as our text of it prints it, and mended."""
    t = np.linspace(-2.3 * width, 2.3 * width, 2001)
    outer_left = (value - slope * width) / width * (t + 2 * width)
    printed = [
        outer_left,
        (value + slope * t) / width,
        (-value + slope * width) / width * (t - 2 * width),
    ]
    mended = [outer_left, value + slope * t, -(value + slope * width) / width * (t - 2 * width)]
    places = [(t >= k * width) & (t <= (k + 1 + (k == -1)) * width) for k in (-2, -1, 1)]
    fig, axes = style.figure(2, 1, width=WIDTH, height=4.6, sharex=True)
    for ax, branches, title, colour in (
        (axes[0], printed, "As printed", "values"),
        (axes[1], mended, "Mended", "sobolev"),
    ):
        for branch, place in zip(branches, places, strict=True):
            ax.plot(t[place], branch[place], color=style.COLOURS[colour], lw=2.2)
        for side in (-1, 1):
            ax.plot(side * np.array([2, 2.3]) * width, [0, 0], color=style.COLOURS[colour], lw=2.2)
        ax.plot(0, value, "o", color="#222222")
        ax.set(title=title, ylabel="$p_i$")
    axes[1].set_xlabel(r"$x - \sigma_i$")
    return fig


def draw_density_pair(first: tuple[float, float], second: tuple[float, float], x: Array) -> Figure:
    """Two normal densities with equal values at the points x."""
    at = np.linspace(-2.5, 7.5, 801)
    fig, ax = style.figure(width=WIDTH, height=3.0)
    for (mu, sigma), name in ((first, "values"), (second, "sobolev")):

        def density(t: Array, mu: float = mu, sigma: float = sigma) -> Array:
            return np.exp(-(((t - mu) / sigma) ** 2) / 2) / (np.sqrt(2 * np.pi) * sigma)

        dash = style.DASHES["kernel"] if name == "sobolev" else "-"
        label = f"$\\mu$ = {mu:.4g}, $\\sigma$ = {sigma:.4g}"
        ax.plot(at, density(at), color=style.COLOURS[name], ls=dash, label=label)
    ax.plot(x, density(x), "o", color="#222222", zorder=5)
    ax.set(xlabel="$x$", ylabel="density", ylim=(0, 0.52))
    ax.legend(loc="upper right", fontsize=8)
    return fig


def draw_pieces() -> Figure:
    """Fig. 2, left: a broken line, pieces through three of its values, the one with slopes."""
    knots = np.array([0.3, 1.7, 0.6, 1.4])
    x, rng = np.array([0.5, 1.5, 2.5]), np.random.default_rng(0)
    y, slope = (knots[1:] + knots[:-1]) / 2, np.diff(knots)
    fig, axes = style.figure(3, 1, width=WIDTH, height=5.4, sharex=True, sharey=True)
    titles = ("The function", "3 values: 14 of infinitely many", "3 values, 3 slopes: one")
    for ax, title in zip(axes, titles, strict=True):
        ax.set(title=title, ylim=(-0.4, 2.4), ylabel="value")
    axes[0].plot([0, 1, 2, 3], knots, color=_INK)
    for _ in range(14):
        for k, s in enumerate(1.2 * rng.normal(size=3)):
            ends = y[k] + s * np.array([-0.5, 0.5])
            axes[1].plot([k, k + 1], ends, color=style.COLOURS["values"], lw=1.0, alpha=0.7)
    axes[1].plot(x, y, "o", color="#222222", zorder=5)
    axes[2].plot([0, 1, 2, 3], knots, color=style.COLOURS["sobolev"], lw=2.4)
    _needles(axes[2], x, y, slope, 0.36)
    axes[2].set_xlabel("$x$")
    return fig
