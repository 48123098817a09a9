"""Figures of the worked examples, one panel above the other so that a phone can show them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from torch import Tensor

from sobolev_lib.figures import marks, style
from sobolev_lib.practice import beam
from sobolev_lib.practice.pricing import Market, Paths
from sobolev_lib.records.summary import Interval, interval

INK = "#222222"
Curves = Mapping[str, tuple[str, Tensor]]
"""From a label to the look of a line and its values (seeds, points)."""


def labels(market: Market, paths: Paths, shown: Mapping[str, tuple[str, Tensor]]) -> Figure:
    """Payoffs of a digital option on single paths, and labels for the slope.

    ``shown`` goes from the name of a label to its look and its values (n,).
    """
    fig, (top, bottom) = style.figure(2, 1, width="narrow", height=5.6, sharex=True)
    x = torch.linspace(market.low, market.high, 200, dtype=torch.float64)
    top.plot(paths.spot, paths.payoff("digital"), ".", color=marks.GREY, alpha=0.5, markersize=4)
    style.curve(top, x, market.price("digital", x), "truth", marker=False, label="price")
    top.set_ylabel("Payoff of one path")
    for name, (look, values) in shown.items():
        colour = style.COLOURS[look]
        bottom.plot(
            paths.spot, values, linestyle="none", marker=style.MARKERS[look], markersize=3,
            alpha=0.6, color=colour, label=name,
        )  # fmt: skip
    style.curve(bottom, x, market.delta("digital", x), "truth", marker=False, label="its slope")
    bottom.set(xlabel="Spot", ylabel="Label for the slope")
    for ax in (top, bottom):
        ax.legend(loc="upper left")
    return fig


def learned(x: Tensor, panels: Mapping[str, Curves], xlabel: str) -> Figure:
    """Means over seeds at x (points,) with the band of all seeds, one panel a quantity.

    ``panels`` goes from the name of an ordinate to its curves; one of a single row is a plain line.
    """
    rows = len(panels)
    fig, axes = style.figure(rows, 1, width="narrow", height=2.6 * rows + 0.6, sharex=True)
    for ax, (ylabel, curves) in zip(np.ravel(axes), panels.items(), strict=True):
        for name, (look, values) in curves.items():
            band = {"low": values.amin(0), "high": values.amax(0)} if len(values) > 1 else {}
            style.curve(ax, x, values.mean(0), look, label=name, marker=False, **band)
        ax.set_ylabel(ylabel)
    np.ravel(axes)[-1].set_xlabel(xlabel)
    handles, names = np.ravel(axes)[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper left", ncols=2)
    return fig


def gains(rows: Mapping[str, Mapping[str, Interval]], baseline: str) -> Figure:
    """Decades of error gained over a baseline: a filled and an open mark a row.

    ``rows`` goes from the name of a row to at most two intervals by the name of their quantity.
    """
    fig, ax = style.figure(width="narrow", height=1.2 + 0.42 * len(rows))
    quantities = list(next(iter(rows.values())))
    for place, found in enumerate(rows.values()):
        for k, quantity in enumerate(quantities):
            how = {"markerfacecolor": INK if k == 0 else "white"}
            shift = 0.13 * (2 * k - len(quantities) + 1)
            marks.interval(ax, place + shift, found[quantity], INK, horizontal=True, **how)
    for k, quantity in enumerate(quantities):
        ax.plot([], [], "o", color=INK, markerfacecolor=INK if k == 0 else "white", label=quantity)
    marks.line_at_zero(ax, vertical=True)
    ax.set_yticks(range(len(rows)), labels=list(rows))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    fig.supxlabel(f"Decades of error gained over {baseline}", fontsize=9)
    fig.legend(loc="outside upper left", ncols=2)
    return fig


def beams(thickness: Tensor) -> Figure:
    """One beam: thickness (8,), deflected axis, and what each element does to mid-span."""
    fig, (top, bottom) = style.figure(2, 1, width="narrow", height=4.4, sharex=True)
    edges = np.linspace(0, 1, beam.ELEMENTS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    sag = -beam.shape(thickness[None])[0] / beam.deflection(torch.ones(1, beam.ELEMENTS))
    half = 0.1 * thickness.numpy()
    line = np.interp(middle, edges, sag)
    for left, right, centre, h in zip(edges[:-1], edges[1:], line, half, strict=True):
        top.fill_between([left, right], centre - h, centre + h, color="#B0B0B0", linewidth=0)
    top.plot(edges, sag, color=INK, marker="o", markersize=3)
    top.set_ylabel("Deflection\n(uniform beam = 1)")
    _, gradient = beam.adjoint(thickness[None])
    bottom.bar(middle, gradient[0] * 384, width=0.1, color=style.COLOURS["sobolev"])
    bottom.set(xlabel="Position along the beam", ylabel="Derivative of the\nmid-span deflection")
    return fig


def errors(
    lines: Mapping[str, tuple[str, Mapping[float, Tensor]]], xlabel: str, ylabel: str
) -> Figure:
    """Errors against an amount of work or data, with intervals over seeds.

    ``lines`` goes from a label to its look and, by abscissa, the errors (seeds,).
    """
    fig, ax = style.figure(width="narrow", height=3.6)
    for name, (look, found) in lines.items():
        logs = [interval(e.log10().tolist()).map(lambda v: 10.0**v) for e in found.values()]
        low, high = [i.low for i in logs], [i.high for i in logs]
        centres = [i.centre for i in logs]
        style.curve(ax, list(found), centres, look, label=name, low=low, high=high)
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    ticks = sorted({x for _, found in lines.values() for x in found})
    ax.set_xticks(ticks, labels=[f"{x:g}" for x in ticks])
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.minorticks_off()
    ax.legend(loc="best")
    return fig
