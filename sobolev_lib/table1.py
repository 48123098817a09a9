"""Table 1 of the paper beside ours: its numbers, our records, and verdicts on what it claims.

The paper's runs and ours are different experiments where scales differ, and the table says so in
every row.  A number of ours comes from the ledger ``synthetic_gradients`` only; a verdict is
computed from paired differences over seeds, never typed.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from scipy import stats

from sobolev_lib.claims import FAILS, HOLDS, OPEN, Claim, Finding
from sobolev_lib.ledger import Ledger, Record
from sobolev_lib.summary import Interval, interval
from sobolev_lib.synthetic_gradients import training

FEWEST = 3
"""Seeds below which there is no interval and no verdict."""

WITHIN = 1.5
"""Points of accuracy within which Sobolev counts as close to backpropagation; our threshold."""

NAMES: dict[str, str] = {
    "backprop": "Backpropagation",
    "noprop": "Noprop",
    "direct": "Direct SG",
    "vfbn": "VFBN",
    "critic": "Critic",
    "sobolev": "Sobolev",
    "local_ce": "Local CE",
    "sobolev_mean": "Sobolev, mean over elements",
    "sobolev_tenth": "Sobolev, gradient term × 0.1",
    "sobolev_kernel": "Sobolev, kink kernel",
    "sobolev_label": "Sobolev, label derivative too",
    "sobolev_l2": "Sobolev, L2",
    "sobolev_bootstrapped": "Sobolev, bootstrapped targets",
    "direct_bootstrapped": "Direct SG, bootstrapped targets",
    "vfbn_kernel": "VFBN, kink kernel",
}
"""Names of the rows, keys as in :data:`.training.ROWS`."""

COSINES = {"cosine": "cosine over examples", "batch_cosine": "cosine of the batch"}
"""The two measures of alignment, as :class:`.decoupling.Step` has them."""

METRICS = {"top1": "top 1", "top5": "top 5"}

DATA = {
    "digits": "scikit-learn's digits",
    "cifar10": "CIFAR-10",
    "imagenette": "Imagenette, a 10-class subset of ImageNet",
    "imagenet200": "a 200-class subset of ImageNet",
    "imagenet": "ImageNet",
}


@dataclass(frozen=True)
class Cell:
    """One number of the paper's Table 1.

    Parameters
    ----------
    value : float
        Accuracy on the test set, per cent.
    deviation : float or None
        Standard deviation as printed; ``None`` for backpropagation, whose table has none.
    where : str
        Place in the paper.
    """

    value: float
    deviation: float | None
    where: str

    def __str__(self) -> str:
        return f"{self.value:.1f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")


@dataclass(frozen=True)
class Block:
    """A part of Table 1: one data set and one number of splits.

    Parameters
    ----------
    key, title : str
        Short name, and its heading in the paper.
    modules : int
        Number of synthetic gradient modules.
    arms : tuple of str
        Our arms that answer it (:data:`.training.ARMS`), the nearest to the paper first.
    cells : dict
        From metric ("top1", "top5") and row to the paper's number.
    """

    key: str
    title: str
    modules: int
    arms: tuple[str, ...]
    cells: dict[str, dict[str, Cell]]


def _block(
    key: str,
    data: str,
    modules: int,
    arms: tuple[str, ...],
    printed: dict[str, tuple[float | tuple[float, float] | None, ...]],
) -> Block:
    rows = ("backprop", "noprop", "direct", "vfbn", "critic", "sobolev")
    cells = {}
    for metric, numbers in printed.items():
        where = f"Table 1, {data}, {modules} module{'s'[: modules - 1]}, {METRICS[metric]}"
        cells[metric] = {
            row: Cell(number[0], number[1], where)
            if isinstance(number, tuple)
            else Cell(number, None, where)
            for row, number in zip(rows, numbers, strict=True)
            if number is not None
        }
    title = f"{data} with {modules} synthetic gradient module{'s'[: modules - 1]}"
    return Block(key, title, modules, arms, cells)


def _at_all_scales(modules: int) -> tuple[str, ...]:
    """Arms of ResNet-50, the nearest to the paper first."""
    data = ("imagenet", "imagenette", "imagenet200", "imagenette_reduced", "imagenet200_reduced")
    return tuple(f"{name}_{modules}" for name in data)


BLOCKS: dict[str, Block] = {
    block.key: block
    for block in (
        _block(
            "cifar10",
            "CIFAR-10",
            3,
            ("cifar10", "cifar10_small_batch", "cifar10_reduced"),
            {"top1": (94.3, (54.5, 1.15), (79.2, 0.01), (88.5, 2.70), (93.2, 0.02), (93.5, 0.01))},
        ),
        _block(
            "imagenet_1",
            "ImageNet",
            1,
            _at_all_scales(1),
            {
                "top1": (75.0, (54.0, 0.29), None, (57.9, 2.03), (71.7, 0.23), (72.0, 0.05)),
                "top5": (92.3, (77.3, 0.06), None, (81.5, 1.20), (90.5, 0.15), (90.8, 0.01)),
            },
        ),
        _block(
            "imagenet_3",
            "ImageNet",
            3,
            _at_all_scales(3),
            {
                "top1": (75.0, (18.7, 0.18), None, (28.3, 5.24), (65.7, 0.56), (66.5, 0.22)),
                "top5": (92.3, (38.0, 0.34), None, (52.9, 6.62), (86.9, 0.33), (87.4, 0.11)),
            },
        ),
    )
}
"""The paper's Table 1; the numbers in parentheses there are the row "backprop" here."""

ROW_KEYS = frozenset(name for row in training.ROWS.values() for name in row)
"""Entries of a configuration that tell rows apart; the others are one experiment's."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in row and seed only.

    Parameters
    ----------
    config : dict
        What they share.
    scale : str
        As in the ledger.
    rows : dict
        From row to its records, in the order of :data:`.training.ROWS`.
    """

    config: dict[str, Any]
    scale: str
    rows: dict[str, list[Record]]

    @property
    def arm(self) -> str:
        """Arm of :data:`.training.ARMS`."""
        return str(self.config["arm"])

    @property
    def count(self) -> int:
        """Number of runs."""
        return sum(len(runs) for runs in self.rows.values())

    @property
    def seeds(self) -> int:
        """Largest number of seeds of a row."""
        return max(len(runs) for runs in self.rows.values())

    @property
    def title(self) -> str:
        """What was run, in words."""
        return describe(self.config, next(iter(self.rows.values()))[0].deviations)

    def values(self, row: str, metric: str = "top1") -> dict[int, float]:
        """Return a metric by seed; runs that diverged (null) are left out."""
        return {
            r.seed: float(r.metrics[metric])
            for r in self.rows.get(row, [])
            if r.metrics[metric] is not None
        }

    def cosine(self, row: str, metric: str = "cosine") -> np.ndarray:
        """Cosine to the true gradient late in training, (seeds, splits); (0, 0) if there is none.

        ``metric`` is "cosine", the mean over examples, or "batch_cosine", that of the batch as one
        vector.  Seeds with a split that could not be measured are left out.
        """
        kept = [c for r in self.rows.get(row, []) if (c := measured_cosine(r, metric))]
        return np.array(kept, dtype=float) if kept else np.empty((0, 0))

    def difference(self, row: str, other: str, metric: str = "top1") -> dict[int, float]:
        """Row minus other by seed: same initial weights, same batches."""
        a, b = self.values(row, metric), self.values(other, metric)
        return {seed: a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())}


def describe(config: dict[str, Any], deviations: Sequence[str] = ()) -> str:
    """Name data and scale of a configuration, with the paper's scale beside it where it differs."""
    copies = any("JPEG copies" in note for note in deviations)
    parts = [DATA.get(config["data"], config["data"]) + (" (JPEG copies)" if copies else "")]
    if config.get("train_images"):
        parts[0] += f", {config['train_images']:,} training images"
    if config["network"] == "mlp":
        parts.append(f"network of {config['depth'] or 8} hidden layers of {config['width']}")
    else:
        full = 32 if config["network"] == "cifar" else 224
        size, width = config["image_size"], config["width"]
        parts.append(f"{size} px" + (f" (paper: {full})" if size != full else ""))
        parts.append(f"width {width}" + (" (paper: 64)" if width != 64 else ""))
    parts.append(f"{config['epochs']} epochs")
    return ", ".join(parts)


def groups(records: Iterable[Record]) -> list[Group]:
    """Sort records into experiments: arms in their order, the one with most runs first."""
    found: dict[str, Group] = {}
    for record in records:
        row = training.row_of(record.config)
        if not row:
            continue
        shared = {k: v for k, v in record.config.items() if k not in ROW_KEYS}
        name = json.dumps(shared, sort_keys=True) + record.scale
        group = found.setdefault(name, Group(shared, record.scale, {}))
        group.rows.setdefault(row, []).append(record)
    rank = {name: i for i, name in enumerate(training.ARMS)}
    order = {name: i for i, name in enumerate(training.ROWS)}
    for name, group in found.items():
        rows = dict(sorted(group.rows.items(), key=lambda item: order[item[0]]))
        found[name] = Group(group.config, group.scale, rows)
    return sorted(found.values(), key=lambda g: (rank.get(g.arm, len(rank)), -g.count))


def group(records: Iterable[Record], arm: str) -> Group | None:
    """Return the runs of an arm, the experiment with most of them; ``None`` if there is none."""
    return next((g for g in groups(records) if g.arm == arm), None)


def read(book: Ledger | None = None) -> list[Record]:
    """All records of the experiment."""
    return (book or Ledger(training.EXPERIMENT)).read()


def spread(values: Sequence[float]) -> Interval:
    """Interquartile mean with its interval; for one or two seeds their mean and their range."""
    if len(values) >= FEWEST:
        return interval(list(values))
    return Interval(float(np.mean(values)), min(values), max(values), len(values))


def shown(values: Sequence[float], spec: str = ".1f", unit: str = "") -> str:
    """Seeds as text: an interval from three on, the values themselves below."""
    numbers = sorted(values)
    if not numbers:
        return "not run yet"
    if len(numbers) == 1:
        return f"{numbers[0]:{spec}}{unit} (1 seed)"
    if len(numbers) < FEWEST:
        listed = " and ".join(f"{v:{spec}}" for v in numbers)
        return f"{listed}{unit} ({len(numbers)} seeds)"
    return f"{interval(numbers):{spec}}{unit} ({len(numbers)} seeds)"


def command(arm: str, row: str | None = None, found: Group | None = None, seeds: int = 3) -> str:
    """Return the command that makes an arm's records.

    Parameters
    ----------
    arm : str
        Arm of :data:`.training.ARMS`.
    row : str, optional
        One row only.
    found : Group, optional
        Runs to repeat: their device, and what they changed in the arm.
    seeds : int
        Number of seeds, at least; more if the runs have more.
    """
    words = ["python -m sobolev_lib synthetic_gradients", f"--arm {arm}"]
    if row:
        words.append(f"--rows {row}")
    runs = [] if found is None else [r for name in found.rows for r in found.rows[name]]
    words.append(f"--seeds {max([seeds, *(r.seed + 1 for r in runs)])}")
    standard = training.config(training.settings(arm, ["backprop"])[0])
    if found is not None:
        for name in ("batch", "epochs", "width", "image_size", "train_images", "precision"):
            if found.config[name] != standard[name]:
                words.append(f"--{name.replace('_', '-')} {found.config[name]}")
    on_gpu = any(not r.device.startswith("cpu") for r in runs)
    if on_gpu or (not runs and standard["precision"] == "bf16"):
        words.append("--device cuda")
    return " ".join(words)


# ---------------------------------------------------------------- the table


def table(block: str, records: Sequence[Record] | None = None) -> str:
    """One block of Table 1 beside ours, as an HTML table for a page.

    Parameters
    ----------
    block : str
        Key of :data:`BLOCKS`.
    records : sequence of Record, optional
        Those of the experiment's ledger unless given.

    Raises
    ------
    ValueError
        If the block is unknown.
    """
    if block not in BLOCKS:
        raise ValueError(f"block is {block!r}; it must be one of {', '.join(BLOCKS)}")
    part = BLOCKS[block]
    every = groups(read() if records is None else records)
    ours = [g for arm in part.arms for g in every if g.arm == arm]
    bodies = [_body(part, g) for g in ours]
    if part.arms[0] not in {g.arm for g in ours}:
        bodies.append(_missing(part))
    return _html(
        ("Row", "Paper", "Ours"), (32, 24, 44), bodies, f"Table 1 beside ours: {part.title}"
    )


def _html(head: Sequence[str], widths: Sequence[int], bodies: Sequence[str], label: str) -> str:
    """Table in a box that scrolls by itself; ``widths`` in per cent."""
    top = "".join(
        f"<th scope='col' style='width:{width}%'>{escape(name)}</th>"
        for name, width in zip(head, widths, strict=True)
    )
    caption = f"<caption style='caption-side:top;text-align:left'>{escape(label)}</caption>"
    # three columns that fit a phone; the theme would make the table a block and scroll it
    style = "display:table;min-width:0"
    return (
        f"<div class='claims' tabindex='0' role='region' aria-label='{escape(label)}'>"
        f"<table style='{style}'>{caption}<thead><tr>{top}</tr></thead>"
        f"{''.join(bodies)}</table></div>"
    )


def _heading(text: str) -> str:
    return f"<tr><th scope='rowgroup' colspan='3'>{text}</th></tr>"


def _body(block: Block, found: Group) -> str:
    rows = [*training.MAIN_ROWS, *(row for row in found.rows if row not in training.MAIN_ROWS)]
    title = f"Ours: {escape(found.title)} <small>({found.scale} scale)</small>"
    lines = "".join(_row(block, found, row) for row in rows)
    return f"<tbody>{_heading(title)}{lines}</tbody>"


def _row(block: Block, found: Group, row: str) -> str:
    runs = found.rows.get(row, [])
    paper = [
        f"{_label(block, metric)}{cells[row]}"
        for metric, cells in block.cells.items()
        if row in cells
    ]
    missing = "not run there" if row == "direct" else "not in the paper"
    if runs:
        mine = [
            f"{_label(block, metric)}{shown(list(found.values(row, metric).values()))}"
            + _deviation(list(found.values(row, metric).values()))
            for metric in block.cells
        ]
        lost = len(runs) - len(found.values(row))
        mine += [f"{lost} diverged"] if lost else []
    else:
        mine = ["not run yet"]
    where = DATA.get(found.config["data"], found.config["data"])
    if where not in block.title:  # a subset says so in its row
        mine.append(f"<small style='white-space:normal'>on {escape(where)}</small>")
    notes = [] if not runs else [*runs[0].deviations, f"Run on: {runs[0].device}"]
    how = _how(notes, command(found.arm, row, found))
    cells = (
        "<br>".join(paper) or f"<small style='white-space:normal'>{missing}</small>",
        "<br>".join(mine) + how,
    )
    return (
        f"<tr><th scope='row'>{_name(row)}</th>"
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def _name(row: str) -> str:
    """Name of a row that may be broken on a phone."""
    return escape(NAMES[row]).replace("Backpropagation", "Back&shy;propagation")


def _label(block: Block, metric: str) -> str:
    return f"{METRICS[metric]}: " if len(block.cells) > 1 else ""


def _deviation(values: Sequence[float]) -> str:
    if len(values) < FEWEST:
        return ""
    return f"<small>, s.d. {np.std(values, ddof=1):.2f}</small>"


def _how(notes: Sequence[str], words: str) -> str:
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    differs = f"Differs from the paper:<ul>{listed}</ul>" if notes else ""
    return (
        f"<details><summary>how</summary><small style='white-space:normal'>{differs}"
        f"<code>{escape(words)}</code></small></details>"
    )


def _missing(block: Block) -> str:
    """The paper's own scale, while nobody has run it."""
    setting = training.settings(block.arms[0], ["sobolev"])[0]
    title = f"Ours: {escape(describe(training.config(setting)))}"
    lines = "".join(
        f"<tr><th scope='row'>{_name(row)}</th><td>"
        + "<br>".join(
            f"{_label(block, metric)}{cells[row]}"
            for metric, cells in block.cells.items()
            if row in cells
        )
        + f"</td><td>not run yet{_how([], command(block.arms[0], row))}</td></tr>"
        for row in next(iter(block.cells.values()))
    )
    return f"<tbody>{_heading(title)}{lines}</tbody>"


# ---------------------------------------------------------------- the claims


def verdict(found: Interval, threshold: float = 0.0) -> str:
    """Whether a difference is above a threshold: its whole interval, from three seeds on."""
    if found.count < FEWEST:
        return OPEN
    return HOLDS if found.low > threshold else FAILS if found.high < threshold else OPEN


def answering(block: str, records: Sequence[Record]) -> Group | None:
    """Return the runs that answer a block of the paper.

    The nearest to the paper of those with the most seeds on Critic and Sobolev (at most three
    count: a single run at full size decides nothing).
    """
    arms = BLOCKS[block].arms
    found = [g for g in groups(records) if g.arm in arms]

    def rank(g: Group) -> tuple[int, int]:
        common = len(g.difference("sobolev", "critic"))
        return min(common, FEWEST), -arms.index(g.arm)

    return max(found, key=rank, default=None)


def claims_on(records: Sequence[Record] | None = None) -> list[Claim]:
    """The paper's claims on Table 1, as rows of *paper versus ours*.

    Each is measured on the runs that :func:`answering` finds among the records it is given; its
    command is that of the runs that are there now.

    Parameters
    ----------
    records : sequence of Record, optional
        Those of the experiment's ledger unless given.
    """
    records = read() if records is None else records
    claims = []
    for key, block in BLOCKS.items():
        found = answering(key, records)
        how = command(found.arm, None, found) if found else command(block.arms[0])
        deviations = (
            f"{found.title}; {_choices(found)}" if found else "splits, schedule and reduction"
        )
        for name, paper, measure in _measures(block):
            claims.append(
                Claim(
                    f"table1-{key}-{name}",
                    f"Table 1, {block.title}",
                    paper,
                    measure,
                    how,
                    deviations,
                )
            )
    return claims


def _choices(found: Group) -> str:
    config = found.config
    return (
        f"batch {config['batch']}, SGD at {config['learning_rate']:g}, Adam at "
        f"{config['module_rate']:g} for modules, losses summed over elements, synchronous"
    )


_Measure = Callable[[Sequence[Record]], Finding | None]


def _measures(block: Block) -> list[tuple[str, str, _Measure]]:
    cells = block.cells["top1"]
    order = [row for row in ("noprop", "direct", "vfbn", "critic", "sobolev") if row in cells]
    made: list[tuple[str, str, _Measure]] = []
    for low, high in itertools.pairwise(order):
        paper = (
            f"{NAMES[high]} is better than {NAMES[low]}: "
            f"{cells[high].value:.1f} against {cells[low].value:.1f}"
        )
        made.append((f"{low}-{high}", paper, _better(block.key, high, low)))
    lost = cells["backprop"].value - cells["sobolev"].value
    if block.key == "cifar10":
        made.append(
            (
                "backprop",
                f"Sobolev loses {lost:.1f} points to backpropagation "
                f"(we ask: less than {WITHIN:g})",
                _better(block.key, "sobolev", "backprop", -WITHIN),
            )
        )
    if block.key == "imagenet_3":
        made.append(("splits", _splits_claim(), _splits))
    made.append(("reliable", _reliable_claim(cells), _reliable(block.key)))
    made.append(
        (
            "aligned",
            "gradient supervision makes “sure that synthetic gradients are truly aligned”: "
            "the cosine is larger than the critic’s at every split (no number in the paper)",
            _aligned(block.key),
        )
    )
    return made


def _better(block: str, row: str, other: str, threshold: float = 0.0) -> _Measure:
    def measure(records: Sequence[Record]) -> Finding | None:
        found = answering(block, records)
        differences = list(found.difference(row, other).values()) if found else []
        if found is None or not differences:
            return None
        ours = f"{shown(differences, '+.1f', ' points')}; {found.title}"
        return Finding(ours, verdict(spread(differences), threshold), len(differences))

    return measure


def _splits_claim() -> str:
    gaps = [
        BLOCKS[key].cells["top1"]["critic"].value - BLOCKS[key].cells["top1"]["vfbn"].value
        for key in ("imagenet_1", "imagenet_3")
    ]
    return (
        "loss supervision counts for more with more splits: Critic minus VFBN is "
        f"{gaps[1]:.1f} points with three, {gaps[0]:.1f} with one"
    )


def _splits(records: Sequence[Record]) -> Finding | None:
    """Gap with three splits minus gap with one, on pairs of arms of the same scale."""
    three = answering("imagenet_3", records)
    if three is None:
        return None
    one = group(records, three.arm[:-1] + "1")
    if one is None:
        return None
    gaps = [found.difference("critic", "vfbn") for found in (one, three)]
    change = [gaps[1][seed] - gaps[0][seed] for seed in sorted(gaps[0].keys() & gaps[1].keys())]
    if not change:
        return None
    ours = f"the gap grows by {shown(change, '+.1f', ' points')}; {three.title}"
    return Finding(ours, verdict(spread(change)), len(change))


def _reliable_claim(cells: dict[str, Cell]) -> str:
    sobolev, critic = cells["sobolev"].deviation, cells["critic"].deviation
    return (
        "Sobolev has the smallest standard deviation over runs: "
        f"{sobolev:g}, the critic {critic:g}; “much more reliable”"
    )


def deviation_ratio(values: Sequence[float], other: Sequence[float]) -> Interval:
    """Standard deviation of ``other`` over that of ``values``, with its 95 per cent interval.

    The interval is that of the F distribution: normal, independent samples.  Deviations need many
    more runs than means: with three runs each, the ends are a factor of 39 apart.

    Raises
    ------
    ValueError
        If there are fewer than two numbers, or equal ones only.
    """
    sizes = len(values), len(other)
    if min(sizes) < 2 or min(np.ptp(values), np.ptp(other)) == 0:
        raise ValueError(f"two different numbers each are needed; given {sizes} numbers")
    ratio = float(np.std(other, ddof=1) / np.std(values, ddof=1))
    low, high = stats.f.ppf([0.025, 0.975], sizes[1] - 1, sizes[0] - 1)
    return Interval(ratio, ratio / float(np.sqrt(high)), ratio / float(np.sqrt(low)), min(sizes))


def _reliable(block: str) -> _Measure:
    def measure(records: Sequence[Record]) -> Finding | None:
        found = answering(block, records)
        rows = list(BLOCKS[block].cells["top1"])[1:]
        values = {row: list(found.values(row).values()) for row in rows} if found else {}
        values = {row: v for row, v in values.items() if len(v) >= FEWEST and np.ptp(v) > 0}
        if found is None or "sobolev" not in values or "critic" not in values:
            return None
        ratios = {
            row: deviation_ratio(values["sobolev"], v)
            for row, v in values.items()
            if row != "sobolev"
        }
        said = ", ".join(f"{NAMES[row]} {np.std(v, ddof=1):.2f}" for row, v in values.items())
        ours = (
            f"s.d. over seeds: {said}; the critic’s is {ratios['critic']:.1f} times "
            f"Sobolev’s; {found.title}"
        )
        complete = set(values) == set(rows)
        smallest = complete and all(r.low > 1 for r in ratios.values())
        word = HOLDS if smallest else FAILS if any(r.high < 1 for r in ratios.values()) else OPEN
        return Finding(ours, word, min(len(v) for v in values.values()))

    return measure


def _aligned(block: str) -> _Measure:
    def measure(records: Sequence[Record]) -> Finding | None:
        found = answering(block, records)
        gains = cosine_gain(found, "sobolev", "critic") if found else []
        if found is None or not gains:
            return None
        means = {
            row: ", ".join(f"{c:.2f}" for c in found.cosine(row).mean(axis=0))
            for row in ("sobolev", "critic")
        }
        ours = (
            f"cosine by split, from the input: Sobolev {means['sobolev']}, "
            f"Critic {means['critic']}; {found.title}"
        )
        words = {verdict(gain) for gain in gains}
        word = words.pop() if len(words) == 1 else FAILS if FAILS in words else OPEN
        return Finding(ours, word, gains[0].count)

    return measure


def measured_cosine(record: Record, metric: str = "cosine") -> list[float]:
    """Late cosines of a run by split; empty if one could not be measured, or none was."""
    found = record.metrics.get(metric) or []
    return [] if None in found else found


def cosine_gain(found: Group, row: str, other: str, metric: str = "cosine") -> list[Interval]:
    """Cosine of a row minus that of another, by split, over common seeds."""
    late = [
        {r.seed: c for r in found.rows.get(name, []) if (c := measured_cosine(r, metric))}
        for name in (row, other)
    ]
    seeds = sorted(late[0].keys() & late[1].keys())
    if not seeds:
        return []
    change = np.array([late[0][s] for s in seeds]) - np.array([late[1][s] for s in seeds])
    return [spread(list(column)) for column in change.T]


def claims_table(
    blocks: Sequence[str] = tuple(BLOCKS), records: Sequence[Record] | None = None
) -> str:
    """The claims on some blocks with their verdicts, as an HTML table for a page."""
    records = read() if records is None else records
    places = {f"Table 1, {BLOCKS[key].title}" for key in blocks}
    rows = [
        _claim_row(claim, claim.measure(records))
        for claim in claims_on(records)
        if claim.where in places
    ]
    return _html(
        ("The paper says", "We measure", "Verdict"),
        (42, 38, 20),
        [f"<tbody>{''.join(rows)}</tbody>"],
        "Claims on Table 1",
    )


def _claim_row(claim: Claim, finding: Finding | None) -> str:
    ours, word = (finding.ours, finding.verdict) if finding else ("not run yet", "—")
    where = f"<small style='white-space:normal'>({escape(claim.where)})</small>"
    how = _how([claim.deviations] if finding else [], claim.command)
    cells = (f"{escape(claim.paper)} {where}", escape(ours) + how, f"<strong>{word}</strong>")
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def tally(findings: Iterable[Finding | None]) -> str:
    """Count verdicts in words: "3 hold, 1 do not hold, 2 not settled, 1 not run yet"."""
    counts = Counter("not run yet" if f is None else f.verdict for f in findings)
    words = {HOLDS: "hold", FAILS: "do not hold", OPEN: "not settled"}
    words["not run yet"] = "not run yet"
    return ", ".join(f"{counts[key]} {word}" for key, word in words.items() if counts[key])


# ---------------------------------------------------------------- alignment and accuracy


def rank_correlation(found: Group, rows: Sequence[str], metric: str = "cosine") -> list[float]:
    """Spearman correlation over rows of accuracy with mean cosine, one for each common seed.

    If gradients that are better aligned trained better networks, it would be near 1.
    """
    late: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        for r in found.rows.get(row, []):
            cosine, top1 = measured_cosine(r, metric), r.metrics["top1"]
            if cosine and top1 is not None:
                late.setdefault(r.seed, []).append((float(np.mean(cosine)), top1))
    most = max((len(pairs) for pairs in late.values()), default=0)
    return [
        float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)
        for _, pairs in sorted(late.items())
        if len(pairs) == most and most >= FEWEST
    ]


def compare(found: Group | None, row: str, other: str, metric: str = "top1") -> str:
    """Say in words how two rows compare, as strongly as the seeds allow."""
    differences = list(found.difference(row, other, metric).values()) if found else []
    a, b = NAMES[row], NAMES[other]
    if not differences:
        return f"{a} against {b}: not run yet"
    word = verdict(spread(differences))
    how = {
        HOLDS: f"{a} is ahead of {b}",
        FAILS: f"{a} is behind {b}",
        OPEN: f"{a} and {b} cannot be told apart"
        if len(differences) >= FEWEST
        else f"{a} against {b}, too few seeds to tell",
    }[word]
    return f"{how}: {shown(differences, '+.1f', ' points')}"


def alignment(found: Group, row: str) -> str:
    """Mean cosine of a row by split, in words."""
    cosine = found.cosine(row)
    if not len(cosine):
        return f"{NAMES[row]}: not run yet"
    return f"{NAMES[row]} " + ", ".join(f"{c:.2f}" for c in cosine.mean(axis=0))


def findings_on_alignment(records: Sequence[Record], arms: Sequence[str]) -> str:
    """Markdown list: for each arm, cosines and accuracies of Sobolev, Critic and Local CE."""
    lines = []
    for arm in arms:
        found = group(records, arm)
        if found is None:
            lines.append(f"- *{arm}*: not run yet (`{command(arm)}`).")
            continue
        rows = ("sobolev", "critic", "local_ce")
        cosines = "; ".join(alignment(found, row) for row in rows)
        lines.append(
            f"- *{found.title}* (`{arm}`). {compare(found, 'sobolev', 'critic')}; "
            f"{compare(found, 'sobolev', 'local_ce')}; {compare(found, 'critic', 'local_ce')}. "
            f"Cosines from the input up: {cosines}."
        )
    return "\n".join(lines)


def conclusions(records: Sequence[Record], arms: Sequence[str]) -> str:
    """Answer the chapter's three questions from the records, as a Markdown list.

    Is Sobolev better than Critic, is either better than Local CE, is Sobolev better aligned than
    Critic, and do better aligned rows train better?  Experiments without three seeds abstain.
    """
    found = [g for g in (group(records, arm) for arm in arms) if g]
    lines = []
    for row, other in (("sobolev", "critic"), ("sobolev", "local_ce"), ("critic", "local_ce")):
        votes = {g.arm: list(g.difference(row, other).values()) for g in found}
        lines.append(f"- **{NAMES[row]} against {NAMES[other]}, test accuracy:** {_votes(votes)}.")
    for metric, name in COSINES.items():
        lines.append(
            f"- **Sobolev against Critic, {name} gained by split, from the input up:** "
            f"{_gained(found, metric) or 'not run yet'}."
        )
    rows = ("direct", "vfbn", "critic", "sobolev")
    for metric, name in COSINES.items():
        ranks = {g.arm: rank_correlation(g, rows, metric) for g in found}
        lines.append(
            f"- **Do rows with a larger {name} train better networks?** Rank correlation above 0 "
            f"means yes: {_votes(ranks)}."
        )
    return "\n".join(lines)


def _gained(found: Sequence[Group], metric: str) -> str:
    gains = {g.arm: cosine_gain(g, "sobolev", "critic", metric) for g in found}
    return "; ".join(
        f"`{arm}` " + ", ".join(f"{gain.centre:+.2f}" for gain in by_split)
        for arm, by_split in gains.items()
        if by_split and all(gain.count >= FEWEST for gain in by_split)
    )


def _votes(differences: dict[str, list[float]]) -> str:
    """Name the experiments where a difference is above 0, below 0, or neither is settled."""
    words = {HOLDS: "ahead (above 0) on", FAILS: "behind (below 0) on", OPEN: "not settled on"}
    kinds: dict[str, list[str]] = {word: [] for word in words}
    for arm, values in differences.items():
        if values:
            kinds[verdict(spread(values))].append(f"`{arm}`")
    said = [f"{words[kind]} {', '.join(names)}" for kind, names in kinds.items() if names]
    return "; ".join(said) or "not run yet"
