"""Figures of the chapters on Theorems 1 and 2."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from sobolev_lib.figures import style

from .approximation import fewest_pieces, relu_network
from .broken_line import BrokenLine
from .compatibility import Bound, closest
from .ridges import HiddenLayer
from .sampling import Array

_SQUARE = math.pi
_WIDTH = 3.45  # inches: fits a phone without shrinking or scrolling

Plain = Callable[[Array], Array]


def draw_pieces(f: Plain, df: Plain, net: BrokenLine, interval: tuple[float, float]) -> Figure:
    """Draw a function and its broken line, and below the slope in its band of width 2 eps."""
    if net.certificate is None:
        raise ValueError("net has no certificate; use approximation.relu_network")
    eps, x = net.certificate.eps, np.linspace(*interval, 1001)
    fig, (above, below) = style.figure(2, 1, width=_WIDTH, height=4.4, sharex=True)
    truth, ours = style.COLOURS["truth"], style.COLOURS["sobolev"]
    above.plot(x, f(x), ls=style.DASHES["truth"], color=truth, label="$f$")
    above.plot(x, net(torch.from_numpy(x)).numpy(), color=ours, lw=1.4, label="network")
    kinks = net.kinks.numpy()
    above.plot(kinks, net(net.kinks).numpy(), "o", ms=3, color=ours)
    above.set(ylabel="value")
    above.legend()
    below.fill_between(x, df(x) - eps, df(x) + eps, color=truth, alpha=0.2, lw=0)
    below.plot(x, df(x), ls=style.DASHES["truth"], color=truth)
    below.stairs(net.slopes.numpy(), np.concatenate([[x[0]], kinks, [x[-1]]]), baseline=None,
                 color=ours, lw=1.4)  # fmt: skip
    below.set(xlabel="$x$", ylabel="slope")
    return fig


def count_pieces(df: Plain, f: Plain, interval: tuple[float, float], eps: Sequence[float],
                 lipschitz: float, steepest: float) -> dict[str, list[int]]:  # fmt: skip
    """Number of pieces for each eps: by the paper's delta, equal, adaptive, least possible."""
    length = interval[1] - interval[0]
    paper = [min(e / lipschitz, e / (2 * steepest)) for e in eps]
    nets = [relu_network(f, df, interval, e, lipschitz=lipschitz) for e in eps]
    return {
        "paper's proof": [math.ceil(length / step) for step in paper],
        "equal pieces": [math.ceil(length * lipschitz / (2 * e)) for e in eps],
        "adaptive": [len(net.slopes) for net in nets],
        "least possible": [fewest_pieces(df, interval, e) for e in eps],
    }


def draw_counts(eps: Sequence[float], counts: Mapping[str, Sequence[int]]) -> Figure:
    """Draw the numbers of pieces against eps."""
    fig, ax = style.figure(width=_WIDTH, height=3.4)
    looks = {"paper's proof": ("values", "-"), "equal pieces": ("smooth", "-"),
             "adaptive": ("sobolev", "-"), "least possible": ("truth", ":")}  # fmt: skip
    for name, numbers in counts.items():
        method, dash = looks[name]
        (line,) = ax.plot(eps, numbers, dash, color=style.COLOURS[method], label=name)
        line.set_marker(style.MARKERS[method])
    style.log_scale(ax, "xy")
    ax.set(xlabel="eps", ylabel="pieces")
    ax.invert_xaxis()
    ax.legend()
    return fig


def slope_errors(net: HiddenLayer) -> tuple[float, float]:
    r"""Largest and rms gradient error for :math:`e^{\cos x + \sin y}` at random points."""
    u = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = ((2 * u - 1) * _SQUARE).requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x)
    p = x.detach()
    exact = torch.exp(p[:, :1].cos() + p[:, 1:].sin()) * torch.stack(
        [-p[:, 0].sin(), p[:, 1].cos()], dim=1
    )
    off = (slope - exact).norm(dim=1)
    return float(off.max()), float(off.square().mean().sqrt())


def draw_rates(knots: Mapping[int, float], random: Mapping[int, float]) -> Figure:
    """Draw the gradient error against the width for chosen and for drawn units."""
    fig, ax = style.figure(width=_WIDTH, height=3.4)
    rows = (
        ("knots of Lemma 1", knots, "sobolev", -1.0),
        ("units at random", random, "values", -0.5),
    )
    for label, errors, method, power in rows:
        n, e = np.array(list(errors)), np.array(list(errors.values()))
        ax.plot(n, e, style.MARKERS[method] + "-", color=style.COLOURS[method], label=label)
        guide = e[0] * (n / n[0]) ** power
        ax.plot(n, guide, ":", color=style.COLOURS["truth"])
        ax.annotate(
            f"slope −{-power:g}", (n[1], guide[1]), xytext=(-4, -4), textcoords="offset points",
            ha="right", va="top", fontsize=9, color=style.TEXT_COLOURS["truth"],
        )  # fmt: skip
    style.log_scale(ax, "xy")
    ax.set(xlabel="hidden units", ylabel="rms error of the gradient")
    ax.legend()
    return fig


def draw_practice(
    widths: Sequence[int], errors: Sequence[float], trained: Mapping[str, float]
) -> Figure:
    """Draw the rms gradient error of explicit networks against width, and that of trained ones."""
    fig, ax = style.figure(width=_WIDTH, height=3.4)
    ax.plot(widths, errors, "D-", color=style.COLOURS["kernel"], label="one hidden layer, built")
    for method, level in trained.items():
        dash = {"values": "--", "sobolev": "-."}[method]
        label = f"256-256, trained: {style.LABELS[method]}"
        ax.axhline(level, color=style.COLOURS[method], ls=dash, lw=1.4, label=label)
    style.log_scale(ax, "xy")
    ax.set(xlabel="hidden units", ylabel="rms error of the gradient")
    ax.legend(loc="lower left")
    return fig


def draw_conflict(f: Plain, g: Plain, interval: tuple[float, float], found: Bound) -> Figure:
    """Draw f and g in their tubes of radius eta, and the function that stays in both."""
    x, h = closest(f, g, interval)
    fig, axes = style.figure(2, 1, width=_WIDTH, height=4.4, sharex=True)
    slope, middle = np.diff(h) / np.diff(x), (x[:-1] + x[1:]) / 2
    rows = (
        (axes[0], f, x, h, "value", ("$f$", "best $h$")),
        (axes[1], g, middle, slope, "slope", ("$g$", "$h'$")),
    )
    for ax, target, at, best, name, labels in rows:
        ax.fill_between(x, target(x) - found.eta, target(x) + found.eta,
                        color=style.COLOURS["truth"], alpha=0.2, lw=0)  # fmt: skip
        truth = {"ls": style.DASHES["truth"], "color": style.COLOURS["truth"]}
        ax.plot(x, target(x), label=labels[0], **truth)
        ax.plot(at, best, color=style.COLOURS["sobolev"], label=labels[1])
        ax.set(ylabel=name)
        ax.legend()
    axes[1].set(xlabel="$x$")
    return fig


def draw_pairs(x: Array, gap: Array, found: Bound) -> Figure:
    """Draw what every pair s < t says about eta, and the best one."""
    ratio = (gap[None] - gap[:, None]) / (2 + np.abs(x[None] - x[:, None]))
    shown = np.where(x[None] >= x[:, None], np.abs(ratio), np.nan)
    fig, ax = style.figure(width=_WIDTH, height=3.3)
    mesh = ax.pcolormesh(x, x, shown.T, cmap=style.FIELD_CMAP, rasterized=True)
    ax.plot(found.s, found.t, "o", color="white", mec="black", ms=8, clip_on=False)
    ax.set(xlabel="$s$", ylabel="$t$", aspect="equal")
    fig.colorbar(mesh, shrink=0.8, label="bound of $\\eta$ from the pair")
    return fig


def draw_loop(path: Array) -> Figure:
    """Draw a rotation about the middle of the unit square and two loops: from a graph, and best."""
    fig, ax = style.figure(width=_WIDTH, height=4.0)
    t = np.linspace(0.05, 0.95, 10)
    u, v = np.meshgrid(t, t)
    ax.quiver(u, v, -(v - 0.5), u - 0.5, color=style.COLOURS["truth"], alpha=0.6, width=0.005)
    ax.plot(*path.T, color=style.COLOURS["values"], label="best walk on the grid")
    radius = 1 / (2 + math.sqrt(math.pi))
    angle = np.linspace(0, np.pi / 2, 40)
    corner = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius + 0.5 - radius
    turns = [corner @ np.array([[np.cos(q), np.sin(q)], [-np.sin(q), np.cos(q)]])
             for q in np.arange(4) * np.pi / 2]  # fmt: skip
    best = np.concatenate([*turns, turns[0][:1]]) + 0.5
    ax.plot(*best.T, "--", color=style.COLOURS["sobolev"], label="best loop")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel="$x$", ylabel="$y$")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return fig


def draw_trained(eta: float, errors: Mapping[str, float]) -> Figure:
    """Draw the largest error of trained networks above the bound."""
    fig, ax = style.figure(width=_WIDTH, height=2.4)
    names = list(errors)
    ax.plot([errors[name] for name in names], names, "s", color=style.COLOURS["sobolev"], ms=8)
    ax.axvline(eta, color=style.COLOURS["truth"], ls="--")
    ax.annotate("bound", (eta, 0.5), xytext=(-5, 0), textcoords="offset points",
                xycoords=("data", "axes fraction"), rotation=90, ha="right", va="center",
                fontsize=9)  # fmt: skip
    ax.set(xlabel="largest error of value or slope", xlim=(0.85 * eta, None))
    ax.margins(y=0.2)
    ax.invert_yaxis()
    return fig
