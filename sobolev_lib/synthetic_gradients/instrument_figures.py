"""Figures of what looks at modules from outside: speed, probes, fidelity, fields of gradients.

They draw what :mod:`.throughput`, :mod:`.probing` and :mod:`.fidelity` measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sobolev_lib.figures import marks, style
from sobolev_lib.records.ledger import Record
from sobolev_lib.synthetic_gradients import probing, throughput
from sobolev_lib.synthetic_gradients.fidelity import Fidelity
from sobolev_lib.synthetic_gradients.figures import legend, look, method, nothing
from sobolev_lib.synthetic_gradients.paper import NAMES
from sobolev_lib.synthetic_gradients.probing import Probe
from sobolev_lib.synthetic_gradients.results import Group, Records, by_row, spread
from sobolev_lib.synthetic_gradients.schemes import INK, KINDS

DASHES, MARKS = ("-", "--", ":"), ("o", "s", "^")
"""Looks of the splits, from the input."""


def speeds(arm: str, records: Sequence[Record] | None = None) -> Figure:
    """Images per second relative to backpropagation, beside what floating-point counts predict."""
    runs = throughput.runs(arm, records)
    if not runs:
        return nothing(arm, f"python -m sobolev_lib throughput --arm {arm}")
    width = "text" if len(runs) == 1 else "wide"
    fig, axes = style.figure(1, len(runs), width=width, height=3.6, sharey=True, squeeze=False)
    for ax, (run, found) in zip(axes[0], runs.items(), strict=True):
        _bars(ax, found)
        ax.set_title(f"{run[0]}, batch {run[1]}", fontsize=9)
    axes[0, 0].legend(loc="lower right")
    return fig


def _bars(ax: Axes, found: dict[str, dict[str, float]]) -> None:
    for k, (row, ratio) in enumerate(throughput.relative(found).items()):
        label = "from operations" if k == 0 else None
        ax.barh(-k, ratio["measured"], color=style.COLOURS[method(row)], height=0.6)
        ends = [-k - 0.4, -k + 0.4]
        ax.plot([ratio["predicted"]] * 2, ends, color="black", linewidth=2, label=label)
        ax.annotate(
            f"{ratio['measured']:.2f}", (max(ratio.values()), -k), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    ax.set_yticks([-k for k in range(len(found))], [NAMES[row] for row in found])
    ax.set_xlabel("Images per second, backpropagation = 1")


def probed(found: Mapping[str, Sequence[tuple[int, Probe]]]) -> Figure:
    """What the modules of each row do over training (:mod:`.probing`), at the first split."""
    labels = {
        "pull": "Module's loss against labels, cosine",
        "right": "Module's own accuracy",
        "cosine": "Cosine, synthetic and true",
        "own": "Cosine, own part and true",
    }
    fig, axes = style.figure(2, 2, width="text", height=5.0, sharex=True)
    for ax, (name, label) in zip(axes.flat, labels.items(), strict=True):
        for row, points in found.items():
            values = [getattr(p, name)[0] for _, p in points]
            how = {**look(row), "markersize": 4, "label": NAMES[row]}
            ax.plot([step for step, _ in points], values, **how)
        ax.set(title=label, ylim=(-1.05 if name == "pull" else -0.25, 1.05))
        marks.line_at_zero(ax)
    for ax in axes[1]:
        ax.set_xlabel("Step")
    legend(fig, found)
    return fig


def pulls(arms: Sequence[str], records: Sequence[Record] | None = None) -> Figure:
    """Whether critics are local classifiers, over training: a column for each arm.

    Upper row: the share of examples whose loss a module puts above the true one.  Lower row: the
    cosine of its own loss's gradient with that of the labels' cross entropy.
    """
    found = {arm: runs for arm in arms if (runs := probing.probed_runs(arm, records))}
    if not found:
        return nothing(arms[0], f"python -m sobolev_lib probes --arm {arms[0]} --rows critic")
    fig, axes = style.figure(
        2, len(found), width="wide", height=5.0, sharex="col", sharey="row", squeeze=False
    )
    for column, runs in zip(axes.T, found.values(), strict=True):
        for ax, name in zip(column, ("above", "pull"), strict=True):
            _pulled(ax, runs, name)
        column[0].set_title(Group(runs[0].config, runs[0].scale, {}).short)
        column[1].set_xlabel("Epoch")
        marks.line_at_zero(column[1])
    axes[0, 0].set(ylabel="Share of losses above", ylim=(-0.05, 1.05))
    axes[1, 0].set(ylabel="Pull of the labels, cosine", ylim=(-1.05, 1.05))
    fig.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def _pulled(ax: Axes, runs: Sequence[Record], name: str) -> None:
    """Mean over seeds, a line for each split, and the seeds as dots: a band would hide all."""
    steps = np.array(runs[0].metrics["steps"])
    epochs = steps / steps[-1] * runs[0].config["epochs"]
    colour = look("critic")["color"]
    for k in range(len(runs[0].config["splits"])):
        values = np.array([[point[k] for point in r.metrics[name]] for r in runs])
        line = {"color": colour, "linestyle": DASHES[k % 3], "label": f"split {k + 1}"}
        ax.plot(epochs, values.mean(axis=0), **line)
        ax.plot(
            np.tile(epochs, len(values)), values.ravel(), color=colour, linestyle="none",
            marker=MARKS[k % 3], markersize=3, markeredgewidth=0, alpha=0.35,
        )  # fmt: skip


MEASURES = {
    "cosine": "Mean over examples,\nbatch statistics (as recorded)",
    "frozen": "Mean over examples,\nstatistics frozen",
    "batch": "Whole batch as one vector,\nbatch statistics",
    "weights": "Gradient of the weights\nbelow the split",
}
"""Ways to say how well a synthetic gradient points: metrics of the records of fidelity."""


def fidelity_over_training(records: Records) -> Figure:
    """Four ways to compare synthetic with true gradients on the digits, over training."""
    found = by_row(records)
    fig, axes = style.figure(2, 2, width="wide", height=5.4, sharex=True, sharey=True)
    for ax, (name, title) in zip(axes.flat, MEASURES.items(), strict=True):
        marks.line_at_zero(ax)
        for row, runs in found.items():
            seeds = zip(*(r.metrics[name] for r in runs), strict=True)
            points = [spread(list(values)) for values in seeds]
            marks.band(ax, runs[0].metrics["steps"], points, method(row), marker=True)
        ax.set_title(title, fontsize=10)
    for ax in axes[1]:
        ax.set_xlabel("Steps")
    for ax in axes[:, 0]:
        ax.set_ylabel("Cosine")
    legend(fig, found)
    return fig


def examples(found: Fidelity) -> Figure:
    """Cosine, and length of the true gradient, of single examples against their loss.

    At the second split of one network.  One example in three is drawn; the lines are medians of
    tenths of all.
    """
    fig, axes = style.figure(1, 2, width="wide", height=3.4)
    k = 1
    both = (
        ("truth", "o", "Batch statistics", found.cosine[k], found.norm[k]),
        ("smooth", "s", "Statistics frozen", found.frozen[k], found.frozen_norm[k]),
    )
    loss = np.maximum(found.loss, 1e-12)
    for name, marker, label, cosines, norms in both:
        for ax, y in ((axes[0], cosines), (axes[1], norms)):
            ax.plot(
                loss[::3], y[::3], color=style.COLOURS[name], linestyle="none",
                marker=marker, markersize=2, alpha=0.3,
            )  # fmt: skip
            tenths = np.array_split(np.argsort(loss), 10)
            middle, height = ([np.median(v[t]) for t in tenths] for v in (loss, y))
            how: dict[str, Any] = {"label": label, "linestyle": "-", "marker": False}
            style.curve(ax, middle, height, name, **how).set_marker(marker)
    marks.line_at_zero(axes[0])
    axes[0].set_ylabel("Cosine to the true gradient")
    axes[1].set(ylabel="Length of the true gradient")
    for ax, which in zip(axes, ("x", "xy"), strict=True):
        style.log_scale(ax, which)
        ax.set(xlabel="Loss of the example")
    axes[1].legend(loc="lower right")
    return fig


def draw_fields(
    h: Tensor, true: Tensor, synthetic: Mapping[str, Tensor], seen: Tensor | None = None
) -> Figure:
    """True and synthetic gradients at points of a two-dimensional h, a panel for each module.

    Parameters
    ----------
    h, true : Tensor
        Points (n, 2), and dL/dh there, (n, 2).
    synthetic : mapping of str to Tensor
        From the title of a panel to the synthetic gradients (n, 2).
    seen : Tensor, optional
        Points (k, 2) to mark: those that the modules were trained on.

    Raises
    ------
    ValueError
        If a shape is not (n, 2).
    """
    for name, value in {"h": h, "true": true, **synthetic}.items():
        if value.shape != (len(h), 2):
            raise ValueError(f"{name} has shape {tuple(value.shape)}; ({len(h)}, 2) is needed")
    fig, axes = style.figure(
        1, len(synthetic), width="wide", height=3.6, squeeze=False, sharex=True, sharey=True
    )
    place = h.T.numpy()
    longest = float(true.norm(dim=1).max())
    for ax, (title, field) in zip(axes[0], synthetic.items(), strict=True):
        for kind, value, width in (("true", true, 0.014), ("synthetic", field, 0.006)):
            # downhill, as a step goes; the longest true gradient is a tenth of the panel
            ax.quiver(
                *place, *(-value.T.numpy()), color=KINDS[kind].colour,
                label=f"Minus the {KINDS[kind].label.lower()}", width=width, scale=10 * longest,
                scale_units="width",
            )  # fmt: skip
        if seen is not None:
            ax.plot(*seen.T.numpy(), "o", color=INK, markersize=5, label="Seen by the module")
        ax.set(title=title, xlabel="$h_1$", ylabel="$h_2$")
        ax.label_outer()
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig
