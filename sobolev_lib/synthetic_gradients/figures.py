"""Figures of Table 1 and of what synthetic gradient modules learn, drawn from the ledger only.

Every figure draws the runs that are there; an arm without runs gives a card that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sobolev_lib.figures import style
from sobolev_lib.records.ledger import Ledger, Record
from sobolev_lib.synthetic_gradients import probing, table1, training
from sobolev_lib.synthetic_gradients.probing import Probe
from sobolev_lib.synthetic_gradients.table1 import NAMES, Group, spread

ALIGNED = (
    *("direct", "vfbn", "critic", "sobolev", "local_ce"),
    *("sobolev_tenfold", "sobolev_mean", "sobolev_kernel"),
)
"""Rows with a synthetic gradient, for figures of its cosine."""

VARIANTS = {"sobolev_tenfold": "p", "sobolev_tenth": "d"}
"""Marks of variants; the others have that of what they vary, open."""

LABELS = {"cosine": "Cosine over examples", "batch_cosine": "Cosine of the batch"}
"""The two measures of alignment, for axes."""

DASHES, MARKS = ("-", "--", ":"), ("o", "s", "^")
"""Looks of the splits, from the input."""

COLUMNS = 4
"""Panels in a row, at most: more cannot be read."""


def method(row: str) -> str:
    """Key of the style's colours for a row: variants take the colour of their kind."""
    if row == "sobolev_kernel":
        return "kernel"
    return row if row in style.COLOURS else row.split("_")[0]


def _options(row: str) -> dict[str, Any]:
    """Line and mark of a row; variants have open marks and dots for a line."""
    key = method(row)
    variant = row not in style.COLOURS and key != "kernel"
    return {
        "color": style.COLOURS[key],
        "marker": VARIANTS.get(row, style.MARKERS[key]),
        "linestyle": (0, (1, 1)) if variant else style.DASHES[key],
        "markerfacecolor": "white" if variant else style.COLOURS[key],
    }


def _group(arm: str, records: Sequence[Record] | None) -> Group | None:
    return table1.group(table1.read() if records is None else records, arm)


def _nothing(arm: str, words: str | None = None) -> Figure:
    """Card that says which command would fill the figure."""
    fig, ax = style.figure(width="text", height=1.1)
    ax.axis("off")
    ax.text(0.5, 0.7, "not run yet", ha="center", va="center", fontsize=11)
    ax.text(0.5, 0.25, words or table1.command(arm), ha="center", va="center", fontsize=8)
    return fig


def accuracy(
    arm: str,
    block: str | None = None,
    metric: str = "top1",
    records: Sequence[Record] | None = None,
) -> Figure:
    """Test accuracy by row: ours at the left, the paper's numbers at the right, scales apart.

    Parameters
    ----------
    arm : str
        Arm of :data:`.training.ARMS`.
    block : str, optional
        Key of :data:`sobolev_lib.synthetic_gradients.table1.BLOCKS`; no paper's panel without it.
    metric : {"top1", "top5"}
        Which accuracy.
    records : sequence of Record, optional
        Those of the experiment's ledger unless given.
    """
    found = _group(arm, records)
    if found is None:
        return _nothing(arm)
    cells = table1.BLOCKS[block].cells[metric] if block else {}
    rows = [*cells, *(row for row in found.rows if row not in cells)]
    height = 1.3 + 0.3 * len(rows)
    fig, axes = style.figure(
        1, 2 if cells else 1, width="text", height=height, sharey=True, squeeze=False
    )
    places = {row: -k for k, row in enumerate(rows)}
    _ours(axes[0, 0], found, places, metric)
    if cells:
        _papers(axes[0, 1], cells, places, metric)
    axes[0, 0].set_yticks(list(places.values()), [NAMES[row] for row in places])
    axes[0, 0].set_ylim(-len(rows) + 0.4, 0.6)
    return fig


def _ours(ax: Axes, found: Group, places: Mapping[str, int], metric: str) -> None:
    for row, place in places.items():
        values = list(found.values(row, metric).values())
        look = _options(row)
        if not values:
            ax.text(
                0.02, place, "not run yet", transform=ax.get_yaxis_transform(), va="center",
                fontsize=8, color="#666666",
            )  # fmt: skip
            continue
        middle = spread(values)
        ax.plot([middle.low, middle.high], [place] * 2, color=look["color"], linewidth=2)
        ax.plot(middle.centre, place, **(look | {"linestyle": "none"}), markersize=7)
        ax.plot(
            values, np.full(len(values), place - 0.27), ".", color=look["color"], alpha=0.6,
            markersize=4,
        )  # fmt: skip
    ax.set_title(f"Ours ({found.scale} scale)")
    ax.set_xlabel(f"Test accuracy, {table1.METRICS[metric]} (%)")


def _papers(
    ax: Axes, cells: Mapping[str, table1.Cell], places: Mapping[str, int], metric: str
) -> None:
    """Another experiment, and it looks like one: grey card, open marks, an axis of its own."""
    ax.set_facecolor("#F1F1F1")
    for row, cell in cells.items():
        colour = style.COLOURS[method(row)]
        if cell.deviation is not None:
            ends = [cell.value - cell.deviation, cell.value + cell.deviation]
            ax.plot(ends, [places[row]] * 2, color=colour, linewidth=1)
        ax.plot(
            cell.value, places[row], marker=style.MARKERS[method(row)], color=colour,
            markerfacecolor="none", markersize=7,
        )  # fmt: skip
    ax.set_title("The paper (full size, ± s.d.)")
    ax.set_xlabel(f"Test accuracy, {table1.METRICS[metric]} (%)")


def accuracy_over_epochs(
    arm: str,
    rows: Sequence[str] = ("backprop", *ALIGNED, "noprop"),
    records: Sequence[Record] | None = None,
) -> Figure:
    """Test accuracy after each epoch, a line for each row."""
    found = _group(arm, records)
    if found is None:
        return _nothing(arm)
    fig, ax = style.figure(width="text", height=4.2)
    lines = []
    for row in rows:
        if runs := found.rows.get(row):
            curves = [r.metrics["tests"]["top1"] for r in runs]
            epochs = np.arange(1, min(map(len, curves)) + 1)
            lines.append(_line(ax, row, epochs, [c[: len(epochs)] for c in curves]))
    ax.set(xlabel="Epoch", ylabel="Test accuracy, top 1 (%)")
    _note(ax, found)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.label_ends(ax, lines)
    return fig


def cosine_over_training(
    arm: str,
    rows: Sequence[str] = ALIGNED,
    records: Sequence[Record] | None = None,
    metric: str = "cosine",
) -> Figure:
    """Cosine of synthetic and true gradient over training, a panel for each split.

    ``metric`` as for :meth:`sobolev_lib.synthetic_gradients.table1.Group.cosine`, here and below.
    """
    return _by_split(arm, rows, records, metric, LABELS[metric])


def scale_over_training(
    arm: str, rows: Sequence[str] = ALIGNED, records: Sequence[Record] | None = None
) -> Figure:
    """Norm of the synthetic gradient over that of the true one, a panel for each split."""
    return _by_split(arm, rows, records, "scale", "Norm, synthetic over true")


def _by_split(
    arm: str,
    rows: Sequence[str],
    records: Sequence[Record] | None,
    name: str,
    label: str,
) -> Figure:
    found = _group(arm, records)
    shown = [row for row in rows if found and _have(found, row, name)]
    if found is None or not shown:
        return _nothing(arm)
    splits = found.config["splits"]
    fig, axes = style.figure(
        1, len(splits), width="wide" if len(splits) > 1 else "text", height=3.4, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for k, (ax, split) in enumerate(zip(axes[0], splits, strict=True)):
        lines = [_split_line(ax, row, found, name, k) for row in shown]
        ax.set(title=f"after {split}", xlabel="Epoch")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if name == "scale":
            ax.set_yscale("log")
            ax.axhline(1, color="#777777", linewidth=0.8)
        else:
            ax.axhline(0, color="#777777", linewidth=0.8)
    if name != "scale":  # few seeds have bands that leave the range of a cosine
        low, high = axes[0, 0].get_ylim()
        axes[0, 0].set_ylim(max(low, -0.4), min(high, 1.02))
    axes[0, 0].set_ylabel(label)
    style.label_ends(axes[0, -1], lines)
    return fig


def _have(found: Group, row: str, name: str) -> bool:
    """Whether some run of the row has that curve."""
    return any(r.metrics["curve"].get(name) for r in found.rows.get(row, []))


def _split_line(ax: Axes, row: str, found: Group, name: str, split: int) -> Line2D:
    """Line of a row; a diverged run's missing numbers leave gaps."""
    runs = found.rows[row]
    steps = runs[0].metrics["curve"]["steps"]
    whole = runs[0].metrics["tests"]["steps"]
    epochs = np.array(steps) / (whole[-1] / len(whole))
    values = [
        [
            np.nan if point[split] is None else float(point[split])
            for point in r.metrics["curve"][name]
        ]
        for r in runs
        if len(r.metrics["curve"].get(name, [])) == len(steps)
    ]
    return _line(ax, row, epochs, values, name == "scale", marker="")


def _line(
    ax: Axes,
    row: str,
    x: np.ndarray,
    curves: Sequence[Sequence[float]],
    ratios: bool = False,
    **options: Any,
) -> Line2D:
    """Centre and band over seeds at each place; seeds without a number there are left out.

    ``ratios`` are averaged by their logarithms.
    """
    table = np.array(curves, dtype=float)
    if ratios:
        table = np.log10(np.where(table > 0, table, np.nan))  # Direct SG starts at zero
    columns = [column[np.isfinite(column)] for column in table.T]
    spreads = [spread(list(c)) if len(c) else None for c in columns]
    centre, low, high = (
        np.array([np.nan if s is None else getattr(s, end) for s in spreads])
        for end in ("centre", "low", "high")
    )
    if ratios:
        centre, low, high = (np.power(10.0, y) for y in (centre, low, high))
    look = _options(row) | {"markersize": 4} | options
    (line,) = ax.plot(x, centre, label=NAMES[row], **look)
    ax.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
    return line


def _note(ax: Axes, found: Group) -> None:
    ax.set_title(f"{found.config['data']}, seeds: {found.seeds}", fontsize=10)


def _measured(
    arms: Sequence[str], rows: Sequence[str], records: Sequence[Record] | None, metric: str
) -> list[Group]:
    """Experiments in which that cosine was measured for some row."""
    every = table1.read() if records is None else records
    found = [g for g in (table1.group(every, arm) for arm in arms) if g]
    return [g for g in found if any(len(g.cosine(row, metric)) for row in rows)]


def cosine_by_split(
    arms: Sequence[str],
    rows: Sequence[str] = ALIGNED,
    records: Sequence[Record] | None = None,
    metric: str = "cosine",
) -> Figure:
    """Cosine late in training (last fifth), by split: a panel for each arm that has runs."""
    found = _measured(arms, rows, records, metric)
    if not found:
        return _nothing(arms[0])
    fig, panels = _grid(len(found), sharey=True)
    for ax, g in zip(panels, found, strict=True):
        shown = [row for row in rows if len(g.cosine(row, metric))]
        shifts = np.linspace(-0.3, 0.3, len(shown)) if len(shown) > 1 else [0.0]
        for row, shift in zip(shown, shifts, strict=True):
            _dots(ax, row, float(shift), g.cosine(row, metric))
        splits = g.config["splits"]
        ax.set_xticks(range(len(splits)), splits)
        # few seeds have intervals that leave the range of a cosine
        ax.set(title=g.short, xlim=(-0.5, len(splits) - 0.5), ylim=(-0.4, 1.02))
        ax.axhline(0, color="#777777", linewidth=0.8)
        ax.grid(visible=False, axis="x")
    fig.supylabel(LABELS[metric], fontsize=10)
    _legend(fig, [row for row in rows if any(len(g.cosine(row, metric)) for g in found)])
    return fig


def _grid(count: int, **options: Any) -> tuple[Figure, list[Axes]]:
    """Panels in rows of at most :data:`COLUMNS`; places that are left over stay empty."""
    columns = min(count, COLUMNS)
    lines = -(-count // columns)
    fig, axes = style.figure(
        lines, columns, width="wide" if count > 1 else "text", height=0.8 + 2.7 * lines,
        squeeze=False, **options,
    )  # fmt: skip
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return fig, list(axes.flat[:count])


def _dots(ax: Axes, row: str, shift: float, cosines: np.ndarray) -> None:
    """Centre, interval and seeds at each split."""
    look = _options(row) | {"linestyle": "none"}
    for split, values in enumerate(cosines.T):
        middle, x = spread(list(values)), split + shift
        ax.plot([x, x], [middle.low, middle.high], color=look["color"], linewidth=1.5)
        ax.plot(x, middle.centre, **look)
        ax.plot(np.full(len(values), x), values, ".", color=look["color"], alpha=0.4, markersize=3)


def _legend(fig: Figure, rows: Sequence[str], reference: bool = False) -> None:
    handles = [
        Line2D([], [], **(_options(row) | {"linestyle": "none"}), label=NAMES[row]) for row in rows
    ]
    if reference:
        colour = style.COLOURS["backprop"]
        handles.append(Line2D([], [], color=colour, linestyle="--", label=NAMES["backprop"]))
    fig.legend(handles=handles, loc="outside lower center", ncols=min(len(rows), 4))


def accuracy_against_cosine(
    arms: Sequence[str],
    rows: Sequence[str] = ALIGNED,
    records: Sequence[Record] | None = None,
    metric: str = "cosine",
) -> Figure:
    """Test accuracy against mean cosine over splits: one dot a seed, the mean of a row larger."""
    found = _measured(arms, rows, records, metric)
    if not found:
        return _nothing(arms[0])
    fig, panels = _grid(len(found))
    for ax, g in zip(panels, found, strict=True):
        for row in rows:
            _cloud(ax, row, g, metric)
        reference = list(g.values("backprop").values())
        if reference:
            ax.axhline(float(np.mean(reference)), color=style.COLOURS["backprop"], linestyle="--")
        ax.set(title=g.short, xlabel=LABELS[metric])
    fig.supylabel("Test accuracy, top 1 (%)", fontsize=10)
    _legend(fig, [row for row in rows if any(len(g.cosine(row, metric)) for g in found)], True)
    return fig


def _cloud(ax: Axes, row: str, found: Group, metric: str) -> None:
    pairs = [
        (float(np.mean(cosine)), r.metrics["top1"])
        for r in found.rows.get(row, [])
        if (cosine := table1.measured_cosine(r, metric)) and r.metrics["top1"] is not None
    ]
    if not pairs:
        return
    x, y = np.array(pairs).T
    look = _options(row) | {"linestyle": "none"}
    across, up = spread(list(x)), spread(list(y))
    ax.plot(x, y, ".", color=look["color"], alpha=0.5, markersize=4)
    ax.plot([across.low, across.high], [up.centre] * 2, color=look["color"], linewidth=1)
    ax.plot([across.centre] * 2, [up.low, up.high], color=look["color"], linewidth=1)
    ax.plot(across.centre, up.centre, **look, markersize=8)


def throughput(arm: str, records: Sequence[Record] | None = None) -> Figure:
    """Images per second relative to backpropagation, beside what floating-point counts predict.

    Parameters
    ----------
    arm : str
        Arm of :data:`.training.ARMS`.
    records : sequence of Record, optional
        Those of the ledger ``throughput`` unless given.
    """
    speeds, runs = _speeds(arm, records)
    if not runs:
        return _nothing(arm, f"python -m sobolev_lib throughput --arm {arm}")
    fig, axes = style.figure(
        1, len(runs), width="text" if len(runs) == 1 else "wide", height=3.6, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for ax, run in zip(axes[0], runs, strict=True):
        found = {r.config["row"]: r.metrics for r in speeds if _run(r) == run}
        _bars(ax, {row: found[row] for row in NAMES if row in found})
        ax.set_title(f"{run[0]}, batch {run[1]}", fontsize=9)
    axes[0, 0].legend(loc="lower right")
    return fig


def _speeds(
    arm: str, records: Sequence[Record] | None
) -> tuple[list[Record], list[tuple[str, int, str, bool]]]:
    """Timings of an arm's rows, and the runs that have backpropagation to compare with."""
    every = Ledger("throughput").read() if records is None else records
    speeds = [r for r in every if r.config["arm"] == arm and r.config["row"] in NAMES]
    return speeds, sorted({_run(r) for r in speeds if r.config["row"] == "backprop"})


def _run(record: Record) -> tuple[str, int, str, bool]:
    config = record.config
    return (
        str(config.get("device", record.device)),
        int(config["batch"]),
        str(config.get("precision", "")),
        bool(config.get("compiled", False)),
    )


def _bars(ax: Axes, found: Mapping[str, Mapping[str, float]]) -> None:
    base = found["backprop"]
    for k, (row, metrics) in enumerate(found.items()):
        measured = metrics["images_per_second"] / base["images_per_second"]
        predicted = base["flops_per_image"] / metrics["flops_per_image"]
        ax.barh(-k, measured, color=style.COLOURS[method(row)], height=0.6)
        ax.plot(
            [predicted] * 2, [-k - 0.4, -k + 0.4], color="black", linewidth=2,
            label="from operations" if k == 0 else None,
        )  # fmt: skip
        ax.annotate(
            f"{measured:.2f}", (max(measured, predicted), -k), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    ax.set_yticks([-k for k in range(len(found))], [NAMES[row] for row in found])
    ax.set_xlabel("Images per second, backpropagation = 1")


def probed(found: Mapping[str, Sequence[tuple[int, Probe]]], split: int = 0) -> Figure:
    """What modules do over training (:mod:`sobolev_lib.synthetic_gradients.probing`), at one split.

    Parameters
    ----------
    found : mapping
        From row to its probes.
    split : int
        Which split, from the input.
    """
    labels = {
        "pull": "Module's loss against labels, cosine",
        "right": "Module's own accuracy",
        "cosine": "Cosine, synthetic and true",
        "own": "Cosine, own part and true",
    }
    fig, axes = style.figure(2, 2, width="text", height=5.0, sharex=True)
    for ax, (name, label) in zip(axes.flat, labels.items(), strict=True):
        for row, points in found.items():
            values = [getattr(p, name)[split] for _, p in points]
            look = _options(row) | {"markersize": 4}
            ax.plot([step for step, _ in points], values, label=NAMES[row], **look)
        ax.set(title=label, ylim=(-1.05 if name == "pull" else -0.25, 1.05))
        ax.axhline(0, color="#777777", linewidth=0.8)
    for ax in axes[1]:
        ax.set_xlabel("Step")
    _legend(fig, list(found))
    return fig


def pulls(
    arms: Sequence[str], row: str = "critic", records: Sequence[Record] | None = None
) -> Figure:
    """Whether modules are local classifiers, over training: a column for each arm.

    Upper row: the share of examples whose loss a module puts above the true one.  Lower row: the
    cosine of its own loss's gradient with that of the labels' cross entropy.

    Parameters
    ----------
    arms : sequence of str
        Arms of :data:`.training.ARMS`.
    row : str
        Row of :data:`.training.ROWS`.
    records : sequence of Record, optional
        Those of the ledger "probes" unless given.
    """
    found = {arm: runs for arm in arms if (runs := probed_runs(arm, row, records))}
    if not found:
        return _nothing(arms[0], f"python -m sobolev_lib probes --arm {arms[0]} --rows {row}")
    fig, axes = style.figure(
        2, len(found), width="wide", height=5.0, sharex="col", sharey="row", squeeze=False
    )
    for column, runs in zip(axes.T, found.values(), strict=True):
        for ax, name in zip(column, ("above", "pull"), strict=True):
            _pulled(ax, row, runs, name)
        column[0].set_title(Group(runs[0].config, runs[0].scale, {}).short)
        column[1].set_xlabel("Epoch")
    axes[0, 0].set(ylabel="Share of losses above", ylim=(-0.05, 1.05))
    axes[1, 0].set(ylabel="Pull of the labels, cosine", ylim=(-1.05, 1.05))
    fig.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def probed_runs(
    arm: str, row: str = "critic", records: Sequence[Record] | None = None
) -> list[Record]:
    """Records of the ledger "probes" of an arm and a row."""
    every = Ledger(probing.EXPERIMENT).read() if records is None else records
    return [r for r in every if r.config["arm"] == arm and training.row_of(r.config) == row]


def _pulled(ax: Axes, row: str, runs: Sequence[Record], name: str) -> None:
    """Mean over seeds, a line for each split, and the seeds as dots: a band would hide all."""
    steps = np.array(runs[0].metrics["steps"])
    epochs = steps / steps[-1] * runs[0].config["epochs"]
    colour = _options(row)["color"]
    for k in range(len(runs[0].config["splits"])):
        curves = np.array([[point[k] for point in r.metrics[name]] for r in runs])
        ax.plot(
            epochs, curves.mean(axis=0), color=colour, linestyle=DASHES[k % 3],
            label=f"split {k + 1}",
        )  # fmt: skip
        for values in curves:
            ax.plot(
                epochs, values, color=colour, linestyle="none", marker=MARKS[k % 3], markersize=3,
                alpha=0.35, markeredgewidth=0,
            )  # fmt: skip
    if name == "pull":
        ax.axhline(0, color="#777777", linewidth=0.8)


def timed(*arms: str, records: Sequence[Record] | None = None) -> str:
    """Return the first of some arms whose speed has been measured, the last if none has."""
    every = Ledger("throughput").read() if records is None else records
    known = {r.config["arm"] for r in every if r.config["row"] == "backprop"}
    return next((arm for arm in arms if arm in known), arms[-1])


def slower(arm: str, share: float = 0.9, records: Sequence[Record] | None = None) -> str:
    """Name the rows that reach less than a share of the speed their operations predict.

    Of the first run of an arm, with that share: "Sobolev 0.81, VFBN 0.80".
    """
    speeds, runs = _speeds(arm, records)
    if not runs:
        return "not run yet"
    found = {r.config["row"]: r.metrics for r in speeds if _run(r) == runs[0]}
    work = {row: m["images_per_second"] * m["flops_per_image"] for row, m in found.items()}
    reached = {row: work[row] / work["backprop"] for row in NAMES if row in work}
    return ", ".join(f"{NAMES[row]} {v:.2f}" for row, v in reached.items() if v < share) or "none"
