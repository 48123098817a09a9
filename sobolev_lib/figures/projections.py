"""How much a random projection scatters: closed forms, and the figures that show them.

For v uniform on the unit sphere of R^d. The proofs are in the chapter *Projections*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sobolev_lib.figures.marks import look
from sobolev_lib.figures.style import (
    COLOURS,
    TEXT_COLOURS,
    curve,
    figure,
    label_ends,
    log_scale,
)


def square_variance(singular_values: Tensor) -> Tensor:
    r"""Variance of :math:`\|E^\top v\|^2` for a matrix E with d rows and these singular values.

    Parameters
    ----------
    singular_values : Tensor
        (..., d): one for each row of E, zeros included.

    Notes
    -----
    It is :math:`\frac{2}{d+2}` times the variance of the d numbers :math:`\sigma_i^2`.
    For one nonzero value, the vector case, :math:`2 \sigma^4 (d-1) / (d^2 (d+2))`.
    """
    squares = singular_values.square()
    d = squares.shape[-1]
    return 2 / (d + 2) * (squares.square().mean(-1) - squares.mean(-1).square())


def absolute_mean(d: int) -> float:
    r"""The constant c with :math:`E|\langle g, v\rangle| = c\,|g|` for g in R^d.

    It is :math:`\Gamma(d/2) / (\sqrt\pi\, \Gamma((d+1)/2))`: 1 for d = 1, and close to
    :math:`\sqrt{2 / (\pi d)}` for large d.

    Raises
    ------
    ValueError
        If `d` is less than 1.
    """
    if d < 1:
        raise ValueError(f"d must be at least 1, got {d}")
    return math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)


def draw_spread(samples: Mapping[int, Tensor]) -> Figure:
    """Histograms of d <g, v>^2 / |g|^2 beside their density, one panel for each d > 1."""
    from scipy import stats  # takes a second to import

    fig, axes = figure(1, len(samples), width="wide", height=2.6, sharey=True)
    for ax, (d, ratios) in zip(axes, samples.items(), strict=True):
        ax.hist(
            ratios.numpy(), bins=np.linspace(0, 5, 41), density=True, color=COLOURS["sobolev"],
            alpha=0.45,
        )  # fmt: skip
        grid = np.linspace(0.02, min(d, 5) - 0.005, 400)
        # <g, v>^2 / |g|^2 has the beta distribution with parameters 1/2 and (d - 1) / 2
        ax.plot(grid, stats.beta.pdf(grid / d, 0.5, (d - 1) / 2) / d, color=TEXT_COLOURS["truth"])
        ax.axvline(1, color=TEXT_COLOURS["truth"], linestyle=":")
        ax.set(title=f"$d = {d}$", xlabel=r"$d\,\langle g, v\rangle^2 / |g|^2$", ylim=(0, 1.6))
    axes[0].set_ylabel("density")
    axes[0].annotate("mean", (1, 1.35), xytext=(4, 0), textcoords="offset points", fontsize=9)
    return fig


def draw_variance(dimensions: Sequence[int], simulated: Tensor, error: Tensor) -> Figure:
    """Variance of the rescaled projection against dimension, simulated and exact.

    Parameters
    ----------
    dimensions : sequence of int
        The dimensions d.
    simulated, error : Tensor
        (n,): estimates of Var[d <g, v>^2] for |g| = 1 and their standard errors, of which marks
        show two.
    """
    fig, ax = figure(width="narrow")
    grid = np.geomspace(1, max(dimensions), 200)
    ax.plot(grid, 2 * (grid - 1) / (grid + 2), color=COLOURS["truth"])
    ax.axhline(2, color=COLOURS["truth"], linestyle=":", linewidth=1)
    _error_bars(ax, dimensions, torch.stack([simulated, error], 1), "sobolev")
    log_scale(ax, "x")
    ax.set(xlabel="dimension $d$", ylabel=r"variance of $d\,\langle g, v\rangle^2$")
    ax.text(1.1, 2.04, "limit 2", color=TEXT_COLOURS["truth"], fontsize=9)
    ax.text(9, 0.95, r"exact: $2(d-1)/(d+2)$", color=TEXT_COLOURS["truth"], fontsize=9)
    ax.text(9, 0.75, "marks: simulated", color=TEXT_COLOURS["sobolev"], fontsize=9)
    return fig


def draw_costs(panels: Mapping[str, tuple[Sequence[int], Mapping[str, np.ndarray]]]) -> Figure:
    """Time of one training step against a size, one panel for each kind of size.

    Parameters
    ----------
    panels : mapping
        From the name of the size, which labels the axis, to the sizes and the milliseconds
        (n, repeats) for "values" (values only), "whole" and "projected" (one draw); shown are
        medians and quartiles.
    """
    fig, axes = figure(1, len(panels), width="wide", height=3.2, sharey=True, squeeze=False)
    for ax, (name, (sizes, milliseconds)) in zip(axes[0], panels.items(), strict=True):
        _draw_cost(ax, sizes, milliseconds)
        ax.set_xlabel(name)
    axes[0, 0].set_ylabel("processor time of a step / ms")
    return fig


def _draw_cost(ax: Axes, sizes: Sequence[int], milliseconds: Mapping[str, np.ndarray]) -> None:
    looks = {
        "values": ("values", "o", "values only"),
        "whole": ("truth", "^", "whole"),
        "projected": ("sobolev", "s", "projected"),
    }
    for name, times in milliseconds.items():
        method, marker, label = looks[name]
        low, middle, high = np.quantile(times, [0.25, 0.5, 0.75], axis=1)
        ax.plot(sizes, middle, marker=marker, color=COLOURS[method])
        ax.fill_between(sizes, low, high, color=COLOURS[method], alpha=0.2, linewidth=0)
        ax.annotate(
            label, (sizes[-1], middle[-1]), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=9, color=TEXT_COLOURS[method], annotation_clip=False,
        )  # fmt: skip
    log_scale(ax, "xy")
    ax.set_xticks(list(sizes), [str(n) for n in sizes])
    ax.minorticks_off()


def _error_bars(ax: Axes, x: Sequence[int], found: Tensor, method: str) -> np.ndarray:
    """Means, the first column, with two standard errors, the second; the means."""
    mean, error = found.double().numpy().T
    ax.errorbar(x, mean, 2 * error, **look(method) | {"linestyle": "none"})
    return mean


def draw_inputs(inputs: Sequence[int], simulated: Mapping[int, Tensor]) -> Figure:
    r"""Relative variance of a projected Gaussian error matrix against its number of columns.

    Parameters
    ----------
    inputs : sequence of int
        Numbers of columns n.
    simulated : mapping of int to Tensor
        For each number of rows d, (n, 2): mean over matrices and its standard error of the
        variance of :math:`d\,\|E^\top v\|^2 / \|E\|_F^2`, beside its exact mean,
        2 (d - 1) / (d n + 2), and the line 2 / n that it tends to with d.
    """
    fig, ax = figure(width="narrow")
    grid = np.geomspace(min(inputs), max(inputs), 50)
    ax.plot(grid, 2 / grid, color=COLOURS["truth"], linestyle=":")
    ax.text(grid[30], 2.5 / grid[30], "$2/n$", color=TEXT_COLOURS["truth"])
    for (d, values), method in zip(simulated.items(), ("values", "sobolev"), strict=False):
        mean = _error_bars(ax, inputs, values, method)
        ax.plot(grid, 2 * (d - 1) / (d * grid + 2), color=COLOURS[method], linewidth=0.8)
        ax.annotate(
            f"$d = {d}$", (inputs[-1], mean[-1]), xytext=(7, 4 if d > 8 else -4),
            textcoords="offset points", fontsize=9, color=TEXT_COLOURS[method], va="center",
            annotation_clip=False,
        )  # fmt: skip
    log_scale(ax, "xy")
    ax.set(xlabel="inputs $n$", ylabel="relative variance")
    return fig


def draw_training(steps: Sequence[int], errors: Mapping[str, np.ndarray]) -> Figure:
    """Test error against training steps: medians over seeds, with the range of all seeds.

    ``errors`` are (seeds, n) for "values", "whole" and "projected".
    """
    fig, ax = figure(width="text", height=3.4)
    looks = {
        "values": ("values", "values only"),
        "whole": ("truth", "whole Jacobian"),
        "projected": ("sobolev", "one projection"),
    }
    lines = []
    for name, runs in errors.items():
        method, label = looks[name]
        bounds = {"low": runs.min(0), "high": runs.max(0)}
        middle = np.median(runs, axis=0)
        lines.append(curve(ax, steps, middle, method, label=label, marker=False, **bounds))
    log_scale(ax)
    ax.set(xlabel="step", ylabel="test error of the values")
    label_ends(ax, lines)
    return fig


def draw_norms(dimensions: Sequence[int], simulated: Mapping[str, Tensor]) -> Figure:
    r"""Mean of the unsquared projection of two matrices of Frobenius norm 1.

    Parameters
    ----------
    dimensions : sequence of int
        Numbers of rows d.
    simulated : mapping of str to Tensor
        (n, 2), mean and standard error of :math:`\sqrt d\, E\|E^\top v\|`, for "one" (a matrix of
        rank one) and "equal" (all singular values equal), drawn on the exact curves.
    """
    fig, ax = figure(width="narrow")
    dense = np.unique(np.geomspace(1, max(dimensions), 60).astype(int))
    exact: dict[str, list[float]] = {
        "one": [absolute_mean(int(d)) * math.sqrt(d) for d in dense],
        "equal": [1.0 for _ in dense],
    }
    texts = {"one": "rank one", "equal": "equal singular values"}
    for name, method in (("equal", "values"), ("one", "sobolev")):
        ax.plot(dense, exact[name], color=COLOURS[method])
        _error_bars(ax, dimensions, simulated[name], method)
        ax.text(
            dense[-1], exact[name][-1] + 0.012, texts[name], ha="right", fontsize=9,
            color=TEXT_COLOURS[method],
        )  # fmt: skip
    ax.axhline(math.sqrt(2 / math.pi), color=COLOURS["truth"], linestyle=":", linewidth=1)
    ax.text(1, math.sqrt(2 / math.pi) - 0.018, r"$\sqrt{2/\pi}$", color=TEXT_COLOURS["truth"])
    log_scale(ax, "x")
    ax.set(xlabel="outputs $d$", ylabel=r"$\sqrt{d}\;\mathbb{E}\,\|E^\top v\|$")
    ax.set_ylim(0.75, 1.05)
    return fig
