"""Figures of the chapter *What the derivative term cannot see*: drawn from numbers given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sobolev_lib.figures import marks, style

Curves = Mapping[str, ArrayLike]

#: Name of each estimate of the gradient, as the reader sees it, and the style it borrows.
ESTIMATES: dict[str, str] = {
    "truth": "true derivative",
    "sobolev": "autograd",
    "kernel": "autograd with the kernel",
}


def one_dimensional(t: ArrayLike, s: float, sampled: ArrayLike, slopes: Curves) -> Figure:
    """Derivative loss of relu(x - t) against relu(x - s), and three answers for its slope in t.

    Parameters
    ----------
    t : array_like, shape (n,)
        Places of the kink.
    s : float
        Place of the target's kink.
    sampled : array_like, shape (n,)
        Derivative loss on a fixed sample.
    slopes : mapping
        Keys of `ESTIMATES`, values (n,).
    """
    t = np.asarray(t)
    fig, (left, right) = style.figure(1, 2, width="wide", height=3.3)
    style.curve(left, t, np.abs(t - s), "truth", marker=False, label="population, |t − s|")
    left.step(t, np.asarray(sampled), where="mid", color=style.COLOURS["sobolev"], lw=1.2)
    left.set(xlabel="kink of the network, t", ylabel="derivative loss", ylim=(0, None))
    left.set_title("Flat between samples")
    for at, text, look in (
        ((0.6, 0.08), "on samples:\na staircase", "sobolev"),
        ((0.45, 0.75), "population: |t − s|", "truth"),
    ):
        left.text(*at, text, transform=left.transAxes, fontsize=9, color=style.TEXT_COLOURS[look])
    lines = [
        style.curve(right, t, values, name, marker=False, label=ESTIMATES[name])
        for name, values in slopes.items()
    ]
    right.set(xlabel="kink of the network, t", ylabel="its slope in t", ylim=(-1.5, 1.5))
    right.set_title("What a gradient step is told")
    style.label_ends(right, lines)
    style.panel_letters((left, right))
    return fig


def uphill(
    w: ArrayLike, loss: ArrayLike, paths: Mapping[str, tuple[ArrayLike, ArrayLike]]
) -> Figure:
    """Population loss over the one parameter w, and the loss along two descents from the minimum.

    Parameters
    ----------
    w, loss : array_like, shape (n,)
        The population loss.
    paths : mapping
        Keys of `ESTIMATES`; values (w, loss) after each step.
    """
    fig, (left, right) = style.figure(1, 2, width="wide", height=3.2)
    style.curve(left, w, loss, "truth", marker=False)
    lines = []
    for name, (where, height) in paths.items():
        where, height = np.asarray(where), np.asarray(height)
        options: dict[str, Any] = {"color": style.COLOURS[name], "marker": style.MARKERS[name]}
        left.plot(where[-1:], height[-1:], markersize=8, linestyle="none", **options)
        lines.append(
            style.curve(
                right, np.arange(len(height)), height, name, marker=False, label=ESTIMATES[name]
            )
        )
    left.set(xlabel="parameter w", ylabel="population derivative loss")
    left.set_title("Where each descent ends")
    right.set(xlabel="step", ylabel="population derivative loss")
    right.set_title("Started at the minimum")
    style.label_ends(right, lines)
    style.panel_letters((left, right))
    return fig


def map_of_kinks(
    model: nn.Sequential,
    target: Callable[[Tensor], Tensor],
    points: Tensor,
    weight: Callable[[Tensor], Tensor],
) -> Figure:
    """Squared gradient error over [-2, 2]², the kinks where it jumps, and the samples near a kink.

    Parameters
    ----------
    model : Sequential
        Linear layers and ReLUs in turn, two inputs, one output.
    target : callable
        Gradient of the target, (n, 2) to (n, 2).
    points : Tensor, shape (n, 2)
        Samples to show.
    weight : callable
        Kernel as a function of the pre-activations; its sum over the units sets a sample's size.
    """
    side = torch.linspace(-2, 2, 321, dtype=points.dtype)
    grid = torch.cartesian_prod(side, side)
    leaf = grid.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(leaf).sum(), leaf)
    error = (slope - target(grid)).square().sum(1).reshape(len(side), -1).T
    fig, (left, right) = style.figure(1, 2, width="wide", height=3.9, sharey=True)
    mesh = left.pcolormesh(
        side, side, error, cmap=style.FIELD_CMAP, shading="nearest", rasterized=True
    )
    fig.colorbar(mesh, ax=left, label="squared gradient error", shrink=0.85)
    pre = [z.detach() for z in _pre_activations(model, grid)]
    for layer, (z, dashes) in enumerate(zip(pre, ("-", "--"), strict=False)):
        for j in range(z.shape[1]):
            sheet = z[:, j].reshape(len(side), -1).T[::2, ::2]  # lines need fewer points
            right.contour(
                side[::2],
                side[::2],
                sheet,
                levels=[0.0],
                colors="#777777",
                linestyles=[dashes],
                linewidths=1,
            )
        right.plot([], [], color="#777777", ls=dashes, lw=1, label=f"kinks of layer {layer + 1}")
    size = sum(weight(z.detach()).sum(1) for z in _pre_activations(model, points))
    right.scatter(
        *points.T, s=3 + 5 * np.asarray(size), color=style.COLOURS["kernel"], alpha=0.8, linewidth=0
    )
    left.set_title("The error jumps at the kinks")
    right.set_title("The kernel weighs samples near them")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    for ax in (left, right):
        ax.set(xlabel="$x_1$", xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
        ax.grid(False)
    left.set_ylabel("$x_2$")
    style.panel_letters((left, right))
    return fig


def _pre_activations(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    found = []
    for module in model:
        if isinstance(module, nn.ReLU | nn.LeakyReLU):
            found.append(x)
        x = module(x)
    return found


def convergence(
    h: ArrayLike,
    bias: Mapping[str, ArrayLike],
    variance: Mapping[int, ArrayLike],
    constant: float,
    error: Mapping[int, ArrayLike],
    samples: int,
) -> Figure:
    """Bias, variance and root mean square error of the kernel estimate against width and samples.

    Parameters
    ----------
    h : array_like, shape (k,)
        Widths.
    bias : mapping
        Label to absolute bias (k,).
    variance, error : mapping
        Number of samples n of one estimate to variance, and to root mean square error, (k,).
    constant : float
        The theory's limit of n h times the variance.
    samples : int
        All samples used; ``samples / n`` estimates stand behind a point, which gives its interval.
    """
    h = np.asarray(h)
    fig, axes = style.figure(1, 3, width=10.2, height=3.5)
    looks = ("-", "D"), ("--", "s"), (":", "o")
    for (label, values), (dashes, marker) in zip(bias.items(), looks, strict=False):
        look = {"marker": marker, "color": style.COLOURS["kernel"], "markersize": 4}
        axes[0].plot(h, values, dashes, label=label, **look)
    firsts = [np.asarray(values)[0] for values in bias.values()]
    for order, height in ((1, 2 * max(firsts)), (2, 0.5 * min(firsts))):
        axes[0].plot(h, height * (h / h[0]) ** order, color="#999999", lw=0.8)
        axes[0].annotate(f"order {order}", (h[0], height), fontsize=8, va="bottom", color="#555555")
    axes[0].legend(loc="lower right", fontsize=8)
    axes[0].set(ylabel="|bias|", title="Bias")
    for grey, mark, n in zip(np.linspace(0.7, 0.1, len(variance)), "osD^v", variance, strict=False):
        look = {"marker": mark, "color": str(grey), "markersize": 4, "label": f"n = {n:,}"}
        scaled, count = n * h * np.asarray(variance[n]), samples / n
        axes[1].errorbar(h, scaled, 2 * scaled * np.sqrt(2 / (count - 1)), **look)
        axes[2].errorbar(h, error[n], 2 * np.asarray(error[n]) / np.sqrt(2 * count), **look)
    axes[1].axhline(constant, color=style.COLOURS["kernel"], ls="--", label="theory, small h")
    axes[1].set(ylabel="n h × variance", title="Variance is 1 / (n h)", ylim=(0, None))
    axes[2].set(ylabel="root mean square error", title="Both together")
    for ax, which in zip(axes, ("xy", "x", "xy"), strict=True):
        style.log_scale(ax, which)
        ax.set(xlabel="width h")
        _plain_ticks(ax, (0.003, 0.01, 0.03))
    for ax in axes[1:]:
        ax.legend(fontsize=8)
    style.panel_letters(axes)
    return fig


def _plain_ticks(ax: Axes, ticks: Sequence[float]) -> None:
    """Few labels on a logarithmic axis that spans hardly more than a decade."""
    ax.xaxis.set_major_locator(FixedLocator(list(ticks)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def student_teacher(
    degrees: ArrayLike,
    curves: Curves,
    sampled_at: ArrayLike,
    estimates: Mapping[str, tuple[ArrayLike, ArrayLike]],
) -> Figure:
    """The gradient's component that turns the student, against the angle to the teacher.

    Parameters
    ----------
    degrees : array_like, shape (n,)
        Angles between student and teacher.
    curves : mapping
        "truth" and "sobolev": population gradient and its sampled part, closed forms, (n,).
    sampled_at : array_like, shape (k,)
        Angles of the estimates.
    estimates : mapping
        "sobolev" and "kernel": means (k,) and standard errors (k,) over samples.
    """
    fig, ax = style.figure(width="text", height=3.6)
    names = {"truth": "population gradient", "sobolev": "its sampled part"}
    lines = [
        style.curve(ax, degrees, values, name, marker=False, label=names[name])
        for name, values in curves.items()
    ]
    for name, (mean, deviation) in estimates.items():
        how = {"linestyle": "none", "markersize": 4, "label": f"{ESTIMATES[name]}, sampled"}
        ax.errorbar(sampled_at, mean, 2 * np.asarray(deviation), **marks.look(name) | how)
    ax.axhline(0, color="#999999", lw=0.8)
    ax.set(
        xlabel="angle between student and teacher, degrees", ylabel="force that turns the student"
    )
    ax.legend(*_legend_of_marks(ax), loc="upper right")
    style.label_ends(ax, lines)
    return fig


def _legend_of_marks(ax: Axes) -> tuple[list, list]:
    handles, labels = ax.get_legend_handles_labels()
    kept = [
        (h, name)
        for h, name in zip(handles, labels, strict=True)
        if "sampled" in name and "part" not in name
    ]
    return [h for h, _ in kept], [name for _, name in kept]


#: The arms of the small training run: style and name.
ARMS: dict[str, str] = {"sobolev": "ReLU", "kernel": "ReLU with the kernel", "smooth": "SiLU"}


def training(steps: Sequence[int], derivative: Curves, test: Curves) -> Figure:
    """Derivative part of the training loss, and the test error of the values, during training.

    Parameters
    ----------
    steps : sequence of int, length k
    derivative, test : mapping
        Keys of `ARMS`; values (k, seeds).
    """
    fig, axes = style.figure(1, 2, width="wide", height=3.6)
    for ax, curves in zip(axes, (derivative, test), strict=True):
        lines = [_seeds(ax, steps, values, name, ARMS[name]) for name, values in curves.items()]
        style.log_scale(ax)
        ax.set(xlabel="step")
        style.label_ends(ax, lines)
    axes[0].set(ylabel="derivative part of the training loss")
    axes[1].set(ylabel="test error of the values")
    axes[0].set_title("What is minimised")
    axes[1].set_title("What is wanted")
    style.panel_letters(axes)
    return fig


def _seeds(
    ax: Axes, x: ArrayLike, values: ArrayLike, look: str, label: str, *, logs: bool = True,
    marker: bool = False,
) -> Line2D:  # fmt: skip
    """Line of the mean over seeds, the last axis (geometric for logs), and the band of them all."""
    values = np.asarray(values, dtype=float)
    middle = np.exp(np.log(values).mean(-1)) if logs else values.mean(-1)
    band = {"low": values.min(-1), "high": values.max(-1)}
    return style.curve(ax, x, middle, look, marker=marker, label=label, **band)


def _over_seeds(values: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Geometric mean, smallest and largest over the last axis."""
    values = np.asarray(values, dtype=float)
    return np.exp(np.log(values).mean(-1)), values.min(-1), values.max(-1)


def ledger_of_steps(steps: Sequence[int], smooth: Curves, jumps: Curves) -> Figure:
    """Change of the training loss since a given step, split into what gradients explain and jumps.

    Parameters
    ----------
    steps : sequence of int, length k
    smooth, jumps : mapping
        Keys of `ARMS`; cumulative sums (k, seeds) of the two parts.
    """
    fig, axes = style.figure(1, len(smooth), width="wide", height=3.3, sharey=True)
    for ax, name in zip(np.atleast_1d(axes), smooth, strict=True):
        parts = {
            "truth": ("total change", np.asarray(smooth[name]) + np.asarray(jumps[name])),
            "values": ("along gradients", np.asarray(smooth[name])),
            "sobolev": ("jumps at kinks", np.asarray(jumps[name])),
        }
        lines = [
            _seeds(ax, steps, values, look, label, logs=False)
            for look, (label, values) in parts.items()
        ]
        ax.set(xlabel="step")
        ax.set_title(ARMS[name])
        style.label_ends(ax, lines)
    np.atleast_1d(axes)[0].set_ylabel("change of the training loss")
    style.panel_letters(axes)
    return fig


def bandwidths(
    h: Sequence[float], derivative: ArrayLike, test: ArrayLike, reference: Curves
) -> Figure:
    """Final training and test error against the width of the kernel.

    Parameters
    ----------
    h : sequence of float, length k
    derivative, test : array_like, shape (k, seeds)
    reference : mapping
        "sobolev" and "smooth": (derivative, test), each (seeds,), of plain ReLU and of SiLU.
    """
    fig, axes = style.figure(1, 2, width="wide", height=3.3)
    titles = ("derivative part of the training loss", "test error of the values")
    for k, (ax, values, title) in enumerate(zip(axes, (derivative, test), titles, strict=True)):
        _seeds(ax, h, values, "kernel", ARMS["kernel"], marker=True)
        for name, pair in reference.items():
            level, low, high = _over_seeds(np.asarray(pair)[k])
            line = ax.axhline(level, color=style.COLOURS[name], ls=style.DASHES[name])
            ax.axhspan(low, high, color=style.COLOURS[name], alpha=0.12, lw=0)
            ax.annotate(
                ARMS[name], (h[-1], level), xytext=(0, 3), textcoords="offset points", fontsize=9,
                color=style.TEXT_COLOURS[name], ha="right", va="bottom",
            )  # fmt: skip
            line.set_label(ARMS[name])
        style.log_scale(ax, "xy")
        ax.set(xlabel="width of the kernel, h", ylabel=title)
        _plain_ticks(ax, h)
    style.panel_letters(axes)
    return fig
