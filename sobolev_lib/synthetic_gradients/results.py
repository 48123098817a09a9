"""Our runs beside Table 1: sorted into experiments, compared seed by seed, said in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sobolev_lib.records.claims import FAILS, HOLDS, OPEN
from sobolev_lib.records.ledger import Ledger, Record
from sobolev_lib.records.summary import Interval, interval, number
from sobolev_lib.synthetic_gradients import training
from sobolev_lib.synthetic_gradients.paper import BLOCKS, NAMES

FEWEST = 3
"""Seeds below which there is no interval and no verdict."""

COSINES = {"cosine": "cosine over examples", "batch_cosine": "cosine of the batch"}
"""The two measures of alignment, as :class:`.decoupling.Step` has them."""

DATA = {
    "digits": "scikit-learn's digits",
    "cifar10": "CIFAR-10",
    "imagenette": "Imagenette, a 10-class subset of ImageNet",
    "imagenet200": "a 200-class subset of ImageNet",
    "imagenet": "ImageNet",
}

SHORT = {
    "digits": "Digits",
    "cifar10": "CIFAR-10",
    "imagenette": "Imagenette",
    "imagenet200": "200 classes",
    "imagenet": "ImageNet",
}

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
    def short(self) -> str:
        """Name for a panel: the data, and what tells apart experiments on the same data."""
        name = SHORT.get(self.config["data"], str(self.config["data"]))
        if (self.config["depth"] or 8) > 8:
            name += ", deep"
        splits = len(self.config["splits"])
        several = self.config["network"] == "resnet50"
        return name + (f", {splits} split{'s'[: splits - 1]}" if several else "")

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


def notes(record: Record) -> list[str]:
    """Where a run differs from the paper, in the words of this version of the library.

    Made from its configuration; what the images were is known to the record only.
    """
    images = [note for note in record.deviations if "JPEG copies" in note]
    return [*training.Setting(**record.config).deviations(), *images]


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


def spread(values: Sequence[float]) -> Interval:
    """Interquartile mean with its interval; for one or two seeds their mean and their range."""
    if len(values) >= FEWEST:
        return interval(list(values))
    return Interval(float(np.mean(values)), min(values), max(values), len(values))


def verdict(found: Interval, threshold: float = 0.0) -> str:
    """Whether a difference is above a threshold: its whole interval, from three seeds on."""
    if found.count < FEWEST:
        return OPEN
    return HOLDS if found.low > threshold else FAILS if found.high < threshold else OPEN


def shown(values: Sequence[float], spec: str = ".1f", unit: str = "") -> str:
    """Seeds as text: an interval from three on, the values themselves below."""
    numbers = sorted(values)
    if not numbers:
        return "not run yet"
    if len(numbers) == 1:
        return f"{number(numbers[0], spec)}{unit} (1 seed)"
    if len(numbers) < FEWEST:
        listed = " and ".join(number(v, spec) for v in numbers)
        return f"{listed}{unit} ({len(numbers)} seeds)"
    return f"{spread(numbers):{spec}}{unit} ({len(numbers)} seeds)"


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
        names = ("batch", "epochs", "width", "image_size", "train_images", "precision")
        for name in (*names, "learning_rate", "module_rate"):
            if found.config[name] != standard[name]:
                words.append(f"--{name.replace('_', '-')} {found.config[name]}")
    on_gpu = any(not r.device.startswith("cpu") for r in runs)
    if on_gpu or (not runs and standard["precision"] == "bf16"):
        words.append("--device cuda")
    return " ".join(words)
