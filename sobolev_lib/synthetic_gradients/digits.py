"""Figures of the digits experiment: five kinds of module, two controls, a network of a few layers.

Every figure takes records (a ledger, or any iterable) and draws the rows that it finds.  What the
records do not hold, how far a synthetic gradient can be trusted once batch normalisation mixes the
examples, is measured by :mod:`.synthetic_gradients.fidelity`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sobolev_lib.figures import style
from sobolev_lib.records.claims import FAILS, HOLDS, OPEN
from sobolev_lib.records.ledger import Ledger, Record
from sobolev_lib.records.summary import Interval, interquartile_mean, interval
from sobolev_lib.synthetic_gradients import table1, training
from sobolev_lib.synthetic_gradients.fidelity import Fidelity
from sobolev_lib.synthetic_gradients.modules import PREDICTING

Records = Ledger | Iterable[Record]

NOT_RUN = "not run yet"

REDUCTION_ROWS = (
    *("backprop", "vfbn", "sobolev_tenfold", "sobolev", "sobolev_tenth", "sobolev_mean", "critic"),
    *("sobolev_kernel", "local_ce"),
)
"""Rows of :func:`sum_or_mean`, from the gradient alone to the loss alone.

Direct SG, far below, would squeeze the others.
"""

ORDER = (
    ("direct", "noprop"),
    ("vfbn", "direct"),
    ("critic", "vfbn"),
    ("sobolev", "critic"),
    ("sobolev", "local_ce"),
)
"""Comparisons (higher, lower): the order of Table 1, and the control that it lacks."""


def by_row(records: Records, arm: str = "digits") -> dict[str, list[Record]]:
    """Records of an arm by their row (:func:`.training.row_of`), each row sorted by seed."""
    found: dict[str, list[Record]] = {}
    for record in records.read() if isinstance(records, Ledger) else records:
        row = training.row_of(record.config)
        if record.config.get("arm") == arm and row:
            found.setdefault(row, []).append(record)
    return {row: sorted(found[row], key=lambda r: r.seed) for row in training.ROWS if row in found}


def summarise(
    records: Records, row: str, metric: str = "top1", arm: str = "digits"
) -> Interval | None:
    """Interquartile mean of a metric over seeds; ``None`` with fewer than two."""
    values = list(_by_seed(by_row(records, arm).get(row, []), metric).values())
    return interval(values) if len(values) > 1 else None


def difference(
    records: Records, higher: str, lower: str, metric: str = "top1", arm: str = "digits"
) -> Interval | None:
    """Interval of the paired difference ``higher`` minus ``lower``, seed by seed.

    For equal seeds both start from the same main network and see the same batches.  ``None`` with
    fewer than two common seeds.
    """
    rows = by_row(records, arm)
    a, b = (_by_seed(rows.get(row, []), metric) for row in (higher, lower))
    common = sorted(a.keys() & b.keys())
    return interval([a[seed] - b[seed] for seed in common]) if len(common) > 1 else None


def failures(
    records: Records, row: str, arm: str = "digits", points: float = 5.0
) -> tuple[int, int]:
    """Seeds of a row that end ``points`` or more below the critic's centre, and all its seeds.

    The critic is the row that fails least on the deep network; (0, 0) without records of it.
    """
    rows = by_row(records, arm)
    if row not in rows or "critic" not in rows:
        return 0, 0
    values = _values(rows[row])
    return int((values <= _centre(rows["critic"]) - points).sum()), len(values)


def said(found: Interval | None, spec: str = "") -> str:
    """Return an interval as text; without a format two digits after the point, one from 10 on."""
    if found is None:
        return NOT_RUN
    digits = 2 if max(abs(found.low), abs(found.high)) < 10 else 1
    # one line break at most, before the bracket
    return f"{found:{spec or f'.{digits}f'}}".replace(", ", ",\u00a0")


def verdict(found: Interval | None) -> str:
    """Of the claim that a difference is positive: needs the whole interval on one side of 0."""
    if found is None:
        return NOT_RUN
    return {1: HOLDS, -1: FAILS, 0: OPEN}[found.sign]


def agreement(one: Records, other: Records, arm: str = "digits") -> tuple[int, int, float]:
    """Compare two sets of records: runs in both, those with the same accuracy, largest difference.

    The difference, in points, is that of the means of a row; 0 if none is in both.
    """
    a, b = (by_row(records, arm) for records in (one, other))
    common = a.keys() & b.keys()
    runs = []
    for row in common:
        x, y = _by_seed(a[row], "top1"), _by_seed(b[row], "top1")
        runs += [(x[seed], y[seed]) for seed in x.keys() & y.keys()]
    apart = [abs(_centre(a[row]) - _centre(b[row])) for row in common]
    return len(runs), sum(x == y for x, y in runs), max(apart, default=0.0)


def accuracy_table(
    sources: Mapping[str, Records],
    arm: str = "digits",
    rows: Sequence[str] = training.MAIN_ROWS,
) -> style.Table:
    """Test accuracy of each row in per cent, for each source (heading to records)."""
    loaded = {k: _loaded(v) for k, v in sources.items()}
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        cells = table.setdefault(_name(row), {})
        for heading, records in loaded.items():
            found = summarise(records, row, arm=arm)
            cells[heading] = said(found, ".1f") + (
                f", n\u00a0=\u00a0{found.count}" if found else ""
            )
    return style.Table(table, corner="Test accuracy (%)")


def order_table(
    sources: Mapping[str, Records],
    arm: str = "digits",
    pairs: Sequence[tuple[str, str]] = ORDER,
) -> style.Table:
    """Differences in accuracy between neighbours of Table 1, with a verdict for each source.

    The first column is the paper's, on CIFAR-10 with three modules.

    Parameters
    ----------
    sources : mapping
        Heading to records.
    arm : str
        Key of :data:`.training.ARMS`.
    pairs : sequence of (str, str)
        Rows (higher, lower).
    """
    loaded = {k: _loaded(v) for k, v in sources.items()}
    printed = table1.BLOCKS["cifar10"].cells["top1"]
    rows = {}
    for higher, lower in pairs:
        both = higher in printed and lower in printed
        apart = printed[higher].value - printed[lower].value if both else None
        cells = {"Table 1": "—" if apart is None else f"{apart:+.1f}"}
        for heading, records in loaded.items():
            found = difference(records, higher, lower, arm=arm)
            cells[heading] = said(found, "+.2f")
            cells[f"{heading}: verdict"] = verdict(found)
        rows[f"{table1.NAMES[higher]} above {table1.NAMES[lower]}"] = cells
    return style.Table(rows, corner="Accuracy, points")


def accuracy(
    records: Records, arm: str = "digits", rows: Sequence[str] = training.MAIN_ROWS
) -> Figure:
    """Test accuracy of each row: single seeds, mean and 95 % interval.

    The right panel is the left one, enlarged around its best rows.
    """
    found = {k: v for k, v in by_row(records, arm).items() if k in rows}
    fig, axes = style.figure(
        1, 2, width="wide", height=0.7 + 0.36 * len(rows), sharey=True, width_ratios=(2, 3)
    )
    for ax in axes:
        _dots(ax, found, rows)
    found = {k: v for k, v in found.items() if len(_values(v))}
    centres = [_centre(v) for v in found.values()]
    if centres:
        kept = [v for v, c in zip(found.values(), centres, strict=True) if c > max(centres) - 15]
        low = min(float(_values(v).min()) for v in kept)
        axes[1].set_xlim(low - 0.4, max(float(_values(v).max()) for v in kept) + 0.4)
    axes[0].set_title("All rows")
    axes[1].set_title("Enlarged")
    fig.supxlabel("Test accuracy (%)", fontsize=10)
    return fig


def sum_or_mean(
    records: Records,
    arms: Sequence[str] = ("digits", "digits_deep"),
    rows: Sequence[str] = REDUCTION_ROWS,
) -> Figure:
    """Test accuracy where the gradient term of Sobolev training is weighted in different ways."""
    records = _loaded(records)
    fig, axes = style.figure(
        1, len(arms), width="wide", height=0.9 + 0.34 * len(rows), sharey=True, squeeze=False
    )
    for ax, arm in zip(axes[0], arms, strict=True):
        found = {k: v for k, v in by_row(records, arm).items() if k in rows}
        _dots(ax, found, rows)
        setting = training.ARMS[arm]
        ax.set_title(f"{setting['depth']} hidden layers of {setting['width']}")
    fig.supxlabel("Test accuracy (%)", fontsize=10)
    return fig


def accuracy_against_cosine(records: Records, arm: str = "digits") -> Figure:
    """Accuracy against the recorded cosine to the true gradient, one panel a split."""
    found = {k: v for k, v in by_row(records, arm).items() if k in PREDICTING}
    splits = max((len(r.metrics["cosine"]) for v in found.values() for r in v), default=3)
    fig, axes = style.figure(
        1, splits, width="wide", height=3.2, sharey=True, sharex=True, squeeze=False
    )
    for k, ax in enumerate(axes[0]):
        ax.axvline(0, color="#777777", linewidth=1)
        for row, runs in found.items():
            pairs = [(r.metrics["cosine"][k], r.metrics["top1"]) for r in runs]
            _cross(ax, np.array([p for p in pairs if None not in p], dtype=float), row)
        ax.set_title(f"Split {k + 1}" + (" (next to the input)" if k == 0 else ""), fontsize=10)
    axes[0, 0].set_ylabel("Test accuracy (%)")
    fig.supxlabel("Mean cosine to the true gradient, last fifth of training", fontsize=10)
    _legend(fig, list(found))
    return fig


def curves(
    records: Records, arm: str = "digits", rows: Sequence[str] = training.MAIN_ROWS
) -> Figure:
    """Learning curves: test accuracy, training loss, recorded cosine, ratio of norms.

    Lines are interquartile means over seeds, bands the middle half of the seeds; cosine and ratio
    are averaged over the splits first.
    """
    found = {k: v for k, v in by_row(records, arm).items() if k in rows and len(v) > 1}
    panels: list[tuple[str, Callable[[Record], tuple[Sequence[int], Any]]]] = [
        ("Test accuracy (%)", lambda r: (r.metrics["tests"]["steps"], r.metrics["tests"]["top1"])),
        ("Training loss", lambda r: (r.metrics["curve"]["steps"], r.metrics["curve"]["loss"])),
        ("Mean cosine to the true gradient", lambda r: _over_splits(r, "cosine")),
        ("Norm: synthetic over true", lambda r: _over_splits(r, "scale")),
    ]
    fig, axes = style.figure(2, 2, width="wide", height=5.6)
    for ax, (name, curve) in zip(axes.flat, panels, strict=True):
        logarithmic = name in ("Training loss", "Norm: synthetic over true")
        for row, runs in found.items():
            _band(ax, row, [curve(r) for r in runs], logarithmic)
        if logarithmic:
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_title(name, fontsize=10)
    for ax in axes[1]:
        ax.set_xlabel("Steps")
    _legend(fig, list(found))
    return fig


MEASURES: dict[str, tuple[str, Callable[[Fidelity], float]]] = {
    "cosine": ("Mean over examples,\nbatch statistics (as recorded)", lambda f: f.cosine.mean()),
    "frozen": ("Mean over examples,\nstatistics frozen", lambda f: f.frozen.mean()),
    "batch": ("Whole batch as one vector,\nbatch statistics", lambda f: f.batch.mean()),
    "weights": ("Gradient of the weights\nbelow the split", lambda f: f.weights.mean()),
}
"""Ways to say how well a synthetic gradient points: heading, and number, mean over the splits."""

Followed = Mapping[str, Sequence[Mapping[int, Fidelity]]]


def measured(
    followed: Followed, row: str, measure: str | Callable[[Fidelity], float], step: int
) -> Interval:
    """Interval over seeds of a measure (a key of :data:`MEASURES`, or a function) at a step."""
    number = MEASURES[measure][1] if isinstance(measure, str) else measure
    return interval([float(number(run[step])) for run in followed[row]])


def measured_difference(
    followed: Followed, higher: str, lower: str, measure: str, step: int
) -> Interval:
    """Interval of the paired difference of a measure between two rows at a step."""
    number = MEASURES[measure][1]
    pairs = zip(followed[higher], followed[lower], strict=True)
    return interval([float(number(a[step]) - number(b[step])) for a, b in pairs])


def fidelity_table(followed: Followed, step: int) -> style.Table:
    """:data:`MEASURES` of every row at a step: mean over the splits, interval over seeds."""
    columns = {
        "cosine": "As recorded",
        "frozen": "Statistics frozen",
        "batch": "Whole batch",
        "weights": "Weights",
    }
    rows = {
        _name(row): {
            heading: said(measured(followed, row, name, step)) for name, heading in columns.items()
        }
        for row in followed
    }
    return style.Table(rows, corner=f"Cosine, step {step}")


def fidelity_over_training(followed: Followed) -> Figure:
    """Four ways to compare synthetic with true gradients, over the steps of training.

    Parameters
    ----------
    followed : mapping
        From the row to what :func:`follow` returned for each seed, at least two.
    """
    fig, axes = style.figure(2, 2, width="wide", height=5.4, sharex=True, sharey=True)
    for ax, (name, (title, _)) in zip(axes.flat, MEASURES.items(), strict=True):
        ax.axhline(0, color="#777777", linewidth=1)
        for row, runs in followed.items():
            steps = sorted(runs[0])
            found = [measured(followed, row, name, step) for step in steps]
            low, high = [i.low for i in found], [i.high for i in found]
            style.curve(ax, steps, [i.centre for i in found], row, low=low, high=high)
        ax.set_title(title, fontsize=10)
    for ax in axes[1]:
        ax.set_xlabel("Steps")
    for ax in axes[:, 0]:
        ax.set_ylabel("Cosine")
    _legend(fig, list(followed))
    return fig


def examples(found: Fidelity, split: int = 2, every: int = 3) -> Figure:
    """Cosine, and length of the true gradient, of single examples against their loss.

    Parameters
    ----------
    found : Fidelity
        Of one network.
    split : int
        1 next to the input.
    every : int
        One example in so many is drawn; the lines are medians of tenths of all.
    """
    if not 1 <= split <= len(found.cosine):
        raise ValueError(f"split is {split}; the network has 1 to {len(found.cosine)}")
    fig, axes = style.figure(1, 2, width="wide", height=3.4)
    k = split - 1
    both = (
        ("truth", "o", "Batch statistics", found.cosine[k], found.norm[k]),
        ("smooth", "s", "Statistics frozen", found.frozen[k], found.frozen_norm[k]),
    )
    loss = np.maximum(found.loss, 1e-12)
    for method, marker, label, cosines, norms in both:
        for ax, y in ((axes[0], cosines), (axes[1], norms)):
            ax.plot(
                loss[::every], y[::every], color=style.COLOURS[method], linestyle="none",
                marker=marker, markersize=2, alpha=0.3,
            )  # fmt: skip
            tenths = np.array_split(np.argsort(loss), 10)
            style.curve(
                ax,
                [np.median(loss[t]) for t in tenths],
                [np.median(y[t]) for t in tenths],
                method,
                label=label,
                marker=False,
                linestyle="-",
            ).set_marker(marker)
    axes[0].axhline(0, color="#777777", linewidth=1)
    axes[0].set_ylabel("Cosine to the true gradient")
    axes[1].set(ylabel="Length of the true gradient", yscale="log")
    for ax in axes:
        ax.set(xscale="log", xlabel="Loss of the example")
    axes[1].legend(loc="lower right")
    return fig


def _loaded(records: Records) -> list[Record]:
    return records.read() if isinstance(records, Ledger) else list(records)


def _by_seed(records: Sequence[Record], metric: str) -> dict[int, float]:
    """Return a metric by seed, the mean over splits where it has one number for each.

    Diverged runs (null) and rows without the metric are left out.
    """
    found = {}
    for record in records:
        value = record.metrics[metric]
        values = value if isinstance(value, list) else [value]
        if values and None not in values:
            found[record.seed] = float(np.mean(values))
    return found


def _values(records: Sequence[Record]) -> np.ndarray:
    return np.array(list(_by_seed(records, "top1").values()))


def _centre(records: Sequence[Record]) -> float:
    return float(_values(records).mean())


def _name(row: str) -> str:
    """Name of a row, of those in the figures' short form."""
    short = {
        "sobolev_mean": "Sobolev, mean",
        "sobolev_tenth": "Sobolev, sum × 0.1",
        "sobolev_tenfold": "Sobolev, sum × 10",
    }
    return short.get(row, table1.NAMES[row])


def _method(row: str) -> str:
    """Key of the style for a row: variants have the colour of what they vary."""
    if row.endswith("_kernel"):
        return "kernel"
    return row if row in style.COLOURS else row.split("_")[0]


def _dots(ax: Axes, found: Mapping[str, Sequence[Record]], rows: Sequence[str]) -> None:
    """One line a row, the first at the top."""
    for place, row in enumerate(rows):
        values = _values(found.get(row, []))
        if not len(values):
            ax.text(
                0.03, place, NOT_RUN, transform=ax.get_yaxis_transform(), va="center", fontsize=9
            )
            continue
        colour = style.COLOURS[_method(row)]
        ax.plot(
            values, np.full(len(values), place + 0.0), linestyle="none", marker="o", markersize=4,
            color=colour, alpha=0.3, markeredgewidth=0,
        )  # fmt: skip
        if len(values) > 1:
            i = interval(values)
            ax.errorbar(
                [i.centre], [place], xerr=[[i.centre - i.low], [i.high - i.centre]], color=colour,
                marker=style.MARKERS[_method(row)], markersize=6, markeredgecolor="white",
                markeredgewidth=0.5, linewidth=2, capsize=3,
            )  # fmt: skip
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks(range(len(rows)), [_name(row) for row in rows])
    ax.xaxis.set_major_locator(MaxNLocator(6))
    for tick, row in zip(ax.get_yticklabels(), rows, strict=False):
        tick.set_color(style.TEXT_COLOURS[_method(row)])


def _cross(ax: Axes, pairs: np.ndarray, row: str) -> None:
    """Single seeds, and the intervals of both coordinates."""
    if not len(pairs):
        return
    colour, marker = style.COLOURS[row], style.MARKERS[row]
    ax.plot(*pairs.T, linestyle="none", marker=marker, markersize=3, color=colour, alpha=0.35)
    if len(pairs) > 1:
        x, y = (interval(column) for column in pairs.T)
        ax.errorbar(
            [x.centre], [y.centre], xerr=[[x.centre - x.low], [x.high - x.centre]],
            yerr=[[y.centre - y.low], [y.high - y.centre]], color=colour, marker=marker,
            markersize=7, markeredgecolor="white", markeredgewidth=0.5,
        )  # fmt: skip


def _over_splits(record: Record, name: str) -> tuple[Sequence[int], list[float]]:
    """Steps and a curve averaged over the splits; empty for rows that predict nothing."""
    curve = record.metrics["curve"]
    kept = [
        (step, float(np.mean(v)))
        for step, v in zip(curve["steps"], curve[name], strict=True)
        if v and None not in v
    ]
    return [step for step, _ in kept], [value for _, value in kept]


def _band(
    ax: Axes, row: str, lines: Sequence[tuple[Sequence[int], Any]], logarithmic: bool
) -> None:
    """Interquartile mean and middle half of the seeds; steps that some seed lacks are left out."""
    points = [
        {
            s: float(v)
            for s, v in zip(*line, strict=True)
            if v is not None and (v > 0 or not logarithmic)
        }
        for line in lines
    ]
    steps = sorted(set.intersection(*(set(p) for p in points)))
    if not steps:
        return
    values = np.array([[p[s] for s in steps] for p in points])
    values = np.log10(values) if logarithmic else values
    centre = interquartile_mean(values, axis=0)
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    low, high = np.minimum(low, centre), np.maximum(high, centre)
    if logarithmic:
        centre, low, high = 10**centre, 10**low, 10**high
    style.curve(ax, steps, centre, row, low=low, high=high, marker=False)


def _legend(fig: Figure, rows: Sequence[str]) -> None:
    """Names of the rows above the panels, each beside its line and mark."""
    lines = [style.curve(fig.axes[0], [], [], row, label=_name(row)) for row in rows]
    if lines:
        fig.legend(handles=lines, loc="outside upper center", ncols=min(len(lines), 4))
