"""Figures of the chapter on cost: products, times, memory, and what equal time buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sobolev_lib.cost.benchmark import SIZES
from sobolev_lib.cost.results import layers, records
from sobolev_lib.figures import style
from sobolev_lib.records.ledger import Ledger

WAYS: dict[str, tuple[str, str]] = {
    "values": ("Values only, stack", "values"),
    "sobolev": ("Sobolev, stack", "sobolev"),
    "sobolev_kernel": ("Sobolev, kink kernel, stack", "kernel"),
    "sobolev_silu": ("Sobolev, SiLU, stack", "smooth"),
    "autograd_values_loop": ("Values only, loop", "values"),
    "autograd_stack": ("Sobolev, autograd, stack", "truth"),
    "autograd_loop": ("Sobolev, autograd, loop", "truth"),
    "autograd_separate_loop": ("Sobolev, autograd, loop, E optimisers", "truth"),
    "autograd_silu_loop": ("Sobolev, SiLU, autograd, loop", "smooth"),
    "func_compiled": ("Sobolev, torch.func, compiled", "truth"),
    "func_compiled_gradient": ("Sobolev, torch.func, all compiled", "truth"),
    "func_reverse": ("Sobolev, torch.func, reverse", "truth"),
    "func_forward": ("Sobolev, torch.func, forward", "truth"),
}
"""Label and colour of each way."""


def steps(threads: int = 1, book: Ledger | None = None) -> Figure:
    """Time of a whole step relative to a step on values alone: medians, smallest and largest."""
    found = records(book, threads=threads, device="cpu")
    present = {r.config["variant"] for r in found}
    names = [name for name in WAYS if name in present]
    height = 0.6 + 0.29 * len(names)
    fig, axes = style.figure(1, len(SIZES), width="wide", height=height, sharey=True)
    for ax, size in zip(axes, SIZES, strict=True):
        ax.axvline(1, color=style.COLOURS["values"], linewidth=1)
        here = {
            r.config["variant"]: r.metrics
            for r in found
            if (r.config["members"], r.config["n"]) == (size.members, size.n)
        }
        for place, name in enumerate(names):
            if name in here:
                _ratio(ax, place, here[name], WAYS[name][1])
        ax.set_title(f"{size.members} x {size.n:,}".replace(",", "\u2009"))
        style.log_scale(ax, "x")
        ax.set_xlim(0.55, 6.5)
        ax.set_xticks([1, 2, 4], labels=["1", "2", "4"])
        ax.minorticks_off()
    axes[0].set_yticks(range(len(names)), labels=[WAYS[name][0] for name in names])
    axes[0].invert_yaxis()
    fig.supxlabel(
        "Time of a step / time of a step on values alone (networks x points above)", fontsize=9
    )
    return fig


def _ratio(ax: Axes, place: int, metrics: Mapping[str, Any], method: str) -> None:
    centre = metrics["step_ratio"]
    colour = style.COLOURS[method]
    ends = np.clip([metrics["step_ratio_min"], metrics["step_ratio_max"]], 0.56, 6.4)
    ax.plot(ends, [place, place], color=colour, linewidth=1.2)
    ax.plot([centre], [place], color=colour, marker=style.MARKERS[method] or "o")
    ax.annotate(
        f"{centre:.2f}", (centre, place), xytext=(0, 4), textcoords="offset points",
        ha="center", va="bottom", fontsize=7, color=style.TEXT_COLOURS[method],
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def products_by_depth(counts: Mapping[str, Sequence[float]], depths: Sequence[int]) -> Figure:
    """Large products of a step over those of values alone, against the number of hidden layers.

    ``counts`` are those of each way, one for each depth; "values" must be among them.
    """
    fig, ax = style.figure(width="narrow", height=3.2)
    base = np.asarray(counts["values"], dtype=float)
    methods = {"values": "values", "sobolev": "sobolev", "sobolev_kernel": "kernel"}
    lines = [
        style.curve(ax, depths, np.asarray(counts[name], dtype=float) / base, method)
        for name, method in methods.items()
    ]
    auto = np.asarray(counts["autograd_loop"], dtype=float) / base
    lines += ax.plot(depths, auto, "x:", color=style.COLOURS["truth"], label="Sobolev, autograd")
    ax.axhline(4 / 3, color="#999999", linewidth=0.8, linestyle=(0, (2, 2)))
    ax.text(depths[0], 4 / 3 + 0.02, "4/3", fontsize=8, color="#555555")
    ax.set(xlabel="Hidden layers", ylabel="Large products / values only", xticks=list(depths))
    ax.set_xlim(depths[0] - 0.2, depths[-1] + 2.6)
    ax.set_ylim(0.9, 2.15)
    style.label_ends(ax, lines)
    return fig


def memory(book: Ledger | None = None) -> Figure:
    """Most memory a gradient holds, in units of one layer's signals (points x width numbers)."""
    found = {
        r.config["variant"]: r
        for r in records(book, members=1, n=4096, threads=1, device="cpu")
        if r.metrics["peak_bytes"] is not None
    }
    names = [name for name in WAYS if name in found]
    fig, ax = style.figure(width="text", height=0.7 + 0.24 * len(names))
    for place, name in enumerate(names):
        method = WAYS[name][1]
        size = layers(found[name])
        ax.barh(place, size, color=style.COLOURS[method], height=0.7)
        ax.text(size + 0.15, place, f"{size:.1f}", va="center", fontsize=8)
    ax.set_yticks(range(len(names)), labels=[WAYS[name][0] for name in names])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("Peak memory of one gradient (signals of one hidden layer = 1)")
    return fig
