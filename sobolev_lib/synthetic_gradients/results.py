"""Runs of Table 1's experiment as numbers: sorted into experiments, compared seed by seed.

Records are selected by their whole configuration.  A :class:`Group` is one experiment: runs that
differ in row and seed only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sobolev_lib.records.claims import FAILS, HOLDS, NOT_RUN, OPEN, verdict
from sobolev_lib.records.ledger import Ledger, Record
from sobolev_lib.records.summary import FEWEST, Interval, interval, number, unbroken
from sobolev_lib.synthetic_gradients import settings as arms
from sobolev_lib.synthetic_gradients.paper import BLOCKS, NAMES, plural

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

ORDER = (
    ("direct", "noprop"),
    ("vfbn", "direct"),
    ("critic", "vfbn"),
    ("sobolev", "critic"),
    ("sobolev", "local_ce"),
)
"""Comparisons (higher, lower): the order of Table 1, and the control that it lacks."""

REDUCTION_ROWS = (
    *("backprop", "vfbn", "sobolev_tenfold", "sobolev", "sobolev_tenth", "sobolev_mean", "critic"),
    *("sobolev_kernel", "local_ce"),
)
"""Rows from the gradient alone to the loss alone.

Direct SG, far below, would squeeze the others.
"""

Records = Ledger | Iterable[Record]


@dataclass(frozen=True)
class Group:
    """One experiment: runs that differ in row and seed only.

    Parameters
    ----------
    config : dict
        What they share.
    scale : str
        As in the ledger.
    rows : dict
        From row to its records, in the order of :data:`.settings.ROWS`, each sorted by seed.
    """

    config: dict[str, Any]
    scale: str
    rows: dict[str, list[Record]]

    @property
    def arm(self) -> str:
        """Arm of :data:`.settings.ARMS`."""
        return str(self.config["arm"])

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from the arm; an arm that is no longer known counts as changed."""
        if self.arm not in arms.ARMS:
            return {"arm": self.arm}
        standard = json.loads(json.dumps(arms.DEFAULTS | arms.ARMS[self.arm]))  # tuples as lists
        found = {k: v for k, v in self.config.items() if k in standard and k != "arm"}
        return {k: v for k, v in found.items() if v != standard[k]}

    def listed(self, also: Iterable[str] = ()) -> list[str]:
        """Rows that were run, and ``also`` these, each followed by itself at the paper's rate.

        Others that spare units have a table of their own.
        """
        plain = [row for row in arms.ROWS if row not in arms.SPARING_ROWS]
        pairs = [dict.fromkeys((row, arms.sparing(row, "slow"))) for row in plain]
        return [row for pair in pairs for row in pair if row in {*self.rows, *also}]

    @property
    def count(self) -> int:
        """Number of runs."""
        return sum(len(runs) for runs in self.rows.values())

    @property
    def short(self) -> str:
        """Name for a panel: the data, and what tells apart experiments on the same data."""
        name = SHORT.get(self.config["data"], str(self.config["data"]))
        if (self.config["depth"] or 8) > 8:
            name += " (deep)"
        if self.config["network"] != "resnet50":
            full = " (full size)" if self.scale == "paper" else " (reduced)"
            return name + full * (self.config["network"] == "cifar")
        return f"{name} ({plural(len(self.config['splits']), 'split')})"

    @property
    def title(self) -> str:
        """What was run, in words."""
        return describe(self.config, next(iter(self.rows.values()))[0].deviations)

    def values(self, row: str, metric: str = "top1", step: int | None = None) -> dict[int, float]:
        """Return a metric by seed, the mean over splits where it has one number for each.

        With ``step`` the metric is a curve of the records of fidelity, and its value there is
        meant.  Runs that diverged (null), and rows without the metric, are left out.
        """
        found = {}
        for record in self.rows.get(row, []):
            value = record.metrics.get(metric)
            if value is not None and step is not None:
                value = value[record.metrics["steps"].index(step)]
            numbers: list[Any] = value if isinstance(value, list) else [value]
            if numbers and None not in numbers:
                found[record.seed] = float(np.mean(numbers))
        return found

    def difference(
        self, row: str, other: str, metric: str = "top1", step: int | None = None
    ) -> dict[int, float]:
        """Row minus other by seed: same initial weights, same batches."""
        a, b = self.values(row, metric, step), self.values(other, metric, step)
        return {seed: a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())}

    def cosine(self, row: str, metric: str = "cosine") -> np.ndarray:
        """Cosine to the true gradient late in training, (seeds, splits); (0, 0) if there is none.

        ``metric`` is a key of :data:`COSINES`.  Seeds with a split that could not be measured are
        left out.
        """
        kept = [c for r in self.rows.get(row, []) if (c := measured_cosine(r, metric))]
        return np.array(kept, dtype=float) if kept else np.empty((0, 0))


def _spread_of(values: Iterable[float]) -> Interval | None:
    numbers = list(values)
    return spread(numbers) if numbers else None


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
    return [*arms.Setting(**record.config).deviations(), *images]


def read() -> list[Record]:
    """All records of the experiment."""
    return Ledger(arms.EXPERIMENT).read()


def groups(records: Records) -> list[Group]:
    """Sort records into experiments: arms in their order, the one with most runs first."""
    found: dict[str, Group] = {}
    for record in records.read() if isinstance(records, Ledger) else records:
        row = arms.row_of(record.config)
        if row:
            shared = arms.shared(record.config)
            name = json.dumps(shared, sort_keys=True) + record.scale
            group = found.setdefault(name, Group(shared, record.scale, {}))
            group.rows.setdefault(row, []).append(record)
    rank = {name: i for i, name in enumerate(arms.ARMS)}
    ordered = []
    for g in found.values():
        rows = {
            row: sorted(g.rows[row], key=lambda r: r.seed) for row in arms.ROWS if row in g.rows
        }
        ordered.append(Group(g.config, g.scale, rows))
    return sorted(ordered, key=lambda g: (rank.get(g.arm, len(rank)), -g.count))


def group(records: Records, arm: str) -> Group | None:
    """Return the runs of an arm, ``None`` if there are none.

    Of the arm as it stands; if all were made with a change (``--epochs 2``), those with it.

    Raises
    ------
    ValueError
        If there are only changed ones, with several changes: they are several experiments.
    """
    every = records.read() if isinstance(records, Ledger) else records
    found = groups([r for r in every if r.config.get("arm") == arm])
    exact = [g for g in found if not g.changes]
    if not exact and len(found) > 1:
        listed = "; ".join(str(g.changes) for g in found)
        raise ValueError(f"records of arm {arm!r} are {len(found)} experiments: {listed}")
    return next(iter(exact or found), None)


def pilots(records: Records, arm: str) -> Group | None:
    """Return an arm's runs that were tested on images kept from training, ``None`` if none was.

    A setting can be chosen by them, and tested by the others.
    """
    every = records.read() if isinstance(records, Ledger) else records
    found = groups([r for r in every if r.config.get("arm") == arm])
    return next((g for g in found if g.changes.keys() == {"held_out"}), None)


def by_row(records: Records, arm: str = "digits") -> dict[str, list[Record]]:
    """Records of an arm (:func:`group`) by their row."""
    found = group(records, arm)
    return found.rows if found else {}


def answering(block: str, records: Records, data: str | None = None) -> Group | None:
    """Return the runs that answer a block of the paper, of one data set if that is named.

    The nearest to the paper of those with the most seeds on Critic and Sobolev (at most three
    count: a single run at full size decides nothing).
    """
    known = BLOCKS[block].arms
    found = [
        g
        for g in groups(records)
        if g.arm in known and not g.changes and data in (None, g.config["data"])
    ]

    def rank(g: Group) -> tuple[int, int]:
        common = len(g.difference("sobolev", "critic"))
        return min(common, FEWEST), -known.index(g.arm)

    return max(found, key=rank, default=None)


def summarise(
    records: Records, row: str, metric: str = "top1", arm: str = "digits", step: int | None = None
) -> Interval | None:
    """Centre of a metric over the seeds of a row, with its interval; ``step`` as for Group."""
    found = group(records, arm)
    return _spread_of(found.values(row, metric, step).values()) if found else None


def difference(
    records: Records,
    higher: str,
    lower: str,
    metric: str = "top1",
    arm: str = "digits",
    step: int | None = None,
) -> Interval | None:
    """Interval of the paired difference ``higher`` minus ``lower``, seed by seed."""
    found = group(records, arm)
    return _spread_of(found.difference(higher, lower, metric, step).values()) if found else None


def failures(records: Records, row: str, arm: str = "digits") -> tuple[int, int]:
    """Seeds of a row that end five points or more below the critic's centre, and all its seeds.

    The critic is the row that fails least on the deep network; (0, 0) without records of it.
    """
    found = group(records, arm)
    values = list(found.values(row).values()) if found else []
    critic = _spread_of(found.values("critic").values()) if found else None
    if critic is None:
        return 0, 0
    return sum(v <= critic.centre - 5.0 for v in values), len(values)


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
    """Centre with its interval (:func:`.summary.interval`); of one or two seeds mean and range."""
    if len(values) >= FEWEST:
        return interval(list(values))
    return Interval(float(np.mean(values)), min(values), max(values), len(values))


def said(found: Interval | None, spec: str = "") -> str:
    """Return an interval as text; without a format two digits after the point, one from 10 on."""
    if found is None:
        return NOT_RUN
    digits = 2 if max(abs(found.low), abs(found.high)) < 10 else 1
    return unbroken(found, spec or f".{digits}f")


def shown(values: Sequence[float], spec: str = ".1f", unit: str = "") -> str:
    """Seeds as text: an interval from three on, the values themselves below."""
    if not values:
        return NOT_RUN
    return f"{stated(values, spec)}{unit} ({plural(len(values), 'seed')})"


def stated(values: Sequence[float], spec: str = ".1f") -> str:
    """As :func:`shown`, without the number of seeds."""
    if len(values) < FEWEST:
        return " and ".join(number(v, spec) for v in sorted(values)) or NOT_RUN
    return unbroken(spread(values), spec)


def compare(found: Group | None, row: str, other: str, metric: str = "top1") -> str:
    """Say in words how two rows compare, as strongly as the seeds allow."""
    differences = list(found.difference(row, other, metric).values()) if found else []
    a, b = NAMES[row], NAMES[other]
    if not differences:
        return f"{a} against {b}: {NOT_RUN}"
    how = {
        HOLDS: f"{a} is ahead of {b}",
        FAILS: f"{a} is behind {b}",
        OPEN: f"{a} and {b} cannot be told apart",
    }[verdict(spread(differences))]
    if len(differences) < FEWEST:
        how = f"{a} against {b}, too few seeds to tell"
    return f"{how}: {shown(differences, '+.1f', ' points')}"


def command(arm: str, row: str | None = None, found: Group | None = None) -> str:
    """Return the command that makes an arm's records, or those of one row.

    ``found`` are runs to repeat: with their device, their seeds, and what they changed in the arm.
    Of runs that were tested on images kept from training it is these rows and seeds and no others.
    """
    words = ["python -m sobolev_lib synthetic_gradients", f"--arm {arm}"]
    runs = [] if found is None else [r for name in found.rows for r in found.rows[name]]
    if found is not None and "held_out" in found.changes:
        seeds = sorted({r.seed for r in runs})
        words.append(f"--rows {row or ' '.join(found.rows)}")
        words.append(f"--seeds {1 + seeds[-1] - seeds[0]} --first-seed {seeds[0]}")
    else:
        words += [f"--rows {row}"] if row else []
        words.append(f"--seeds {max([FEWEST, *(r.seed + 1 for r in runs)])}")
    if found is not None:
        changes = {k: v for k, v in found.changes.items() if k in arms.CHANGEABLE}
        words += [f"--{name.replace('_', '-')} {value}" for name, value in changes.items()]
    on_gpu = any(not r.device.startswith("cpu") for r in runs)
    if on_gpu or (not runs and arms.ARMS[arm].get("precision") == "bf16"):
        words.append("--device cuda")
    return " ".join(words)
