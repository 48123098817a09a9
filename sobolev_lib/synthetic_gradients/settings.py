"""Configurations of the experiment behind Table 1: a :class:`Setting`, arms and rows.

An *arm* is data, network and schedule (:data:`ARMS`); a *row* (:data:`ROWS`) is what the pages call
a scheme: a mode with its options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sobolev_lib.checks import check_choice
from sobolev_lib.synthetic_gradients import networks
from sobolev_lib.synthetic_gradients.decoupling import MODES
from sobolev_lib.synthetic_gradients.modules import PREDICTING, WEIGHTS, Objective

EXPERIMENT = "synthetic_gradients"
PAPERS_RATE = 1e-4
"""Adam's rate for the modules in SM 4.2."""
LEAK = 0.01
LATER: dict[str, Any] = {"leak": 0.0, "held_out": 0}
"""Options that no record had before, with the values that all those runs had."""
CHANGEABLE = (
    *("batch", "epochs", "width", "image_size", "train_images", "precision", "learning_rate"),
    *("module_rate", "held_out"),
)
"""What the command line can change in an arm."""
ALLOWED = {"module": MODES, "network": tuple(networks.NETWORKS), "precision": ("fp32", "bf16")}
LEAST = dict.fromkeys(("epochs", "batch", "width", "workers", "image_size"), 1)
LEAST |= dict.fromkeys(("depth", "hidden", "train_images"), 1) | {"leak": 0, "held_out": 0}


@dataclass(frozen=True)
class Setting:
    """One configuration of the experiment; the defaults are the CIFAR-10 column of Table 1.

    Parameters
    ----------
    arm : str
        Key of :data:`ARMS`.
    data : str
        "digits", "cifar10", or the name of a prepared folder.
    image_size : int
        Height and width.
    train_images : int or None
        Number of training images (the first of a fixed shuffle), ``None``: all.
    network : str
        Key of :data:`.networks.NETWORKS`.
    width : int
        Channels or units of the network.
    depth : int or None
        Layers, for "mlp" only.
    stem : str
        Of ResNet-50.
    splits : tuple of str
        Children after which the network is cut.
    module : str
        The mode: one of :data:`.decoupling.MODES`.
    targets, element, reduction, gradient_weight, label_weight
        See :class:`.decoupling.Decoupled` and :class:`.modules.Objective`.
    hidden : int or None
        Units of the modules; ``None``: the paper's.
    pooled : bool
        Modules of SM 4.3 instead of SM 4.2.
    bandwidth : float or None
        Width of the kink kernel in the modules, in units of the spread of the pre-activations.
    leak : float
        Slope of the modules' units below 0; the paper has ReLU.
    epochs : int
        Passes over the training images.
    batch : int
        Images in a step, over all processes.
    learning_rate : float
        Of SGD for the main network, at its highest.
    warmup : float
        Part of the run over which the rate rises linearly; then it falls linearly to 0.
    momentum : float
        Of SGD.
    nesterov : bool
        Nesterov's kind of momentum.
    weight_decay : float
        Of SGD.
    module_rate : float
        Adam's rate for the modules, constant.
    augmented : bool
        Random crops and flips.
    precision : {"fp32", "bf16"}
        Of the forward and backward pass.
    hogwild : bool
        Modules in shared memory (:mod:`.hogwild`).
    workers : int
        Processes.
    held_out : int
        Training images that are kept for validation: ``tests`` of a record are then of them, and
        the test set stays unseen.
    """

    arm: str = "cifar10"
    data: str = "cifar10"
    image_size: int = 32
    train_images: int | None = None
    network: str = "cifar"
    width: int = 64
    depth: int | None = None
    stem: str | None = None
    splits: tuple[str, ...] = networks.CIFAR_SPLITS
    module: str = "sobolev"
    targets: str = "true"
    element: str = "l1"
    reduction: str = "sum"
    gradient_weight: float = 1.0
    label_weight: float = 0.0
    hidden: int | None = None
    pooled: bool = False
    bandwidth: float | None = None
    leak: float = 0.0
    epochs: int = 30
    batch: int = 512
    learning_rate: float = 0.4
    warmup: float = 0.2
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    module_rate: float = 1e-3
    augmented: bool = True
    precision: str = "fp32"
    hogwild: bool = False
    workers: int = 1
    held_out: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", tuple(self.splits))
        for name, known in ALLOWED.items():
            check_choice(name, getattr(self, name), known)
        for name, least in LEAST.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.hogwild and self.workers == 1:
            raise ValueError("hogwild is True, but workers is 1; start several with torchrun")
        for name in ("learning_rate", "module_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.batch % self.workers:
            raise ValueError(f"batch is {self.batch}; {self.workers} workers must divide it")
        self.objective()  # checks the rest

    def objective(self) -> Objective:
        """Losses of the modules."""
        return Objective(self.element, self.reduction, self.gradient_weight, self.label_weight)

    @property
    def scale(self) -> str:
        """Return "paper" for the paper's networks at their full size, "small" for the others."""
        full = {"cifar": (64, 32), "resnet50": (64, 128)}.get(self.network)
        big = full is not None and self.width >= full[0] and self.image_size >= full[1]
        return "paper" if big and self.train_images is None and self.epochs > 1 else "small"

    def deviations(self, source: str = "") -> list[str]:
        """Where this setting decides what the paper leaves open, or departs from it."""
        processes = {"cifar": "10", "resnet50": "34"}.get(self.network, "several") + " processes"
        notes = [
            f"SGD at {self.learning_rate:g}, batch {self.batch}, {self.epochs} epochs, warm-up "
            f"then linear to 0, L2 {self.weight_decay:g}; the paper: 0.1 in three steps, batches "
            f"of 32 from each of {processes}, L2 1e-4.",
        ]
        if self.nesterov:
            notes.append("Nesterov momentum; the paper does not say.")
        if self.augmented:
            notes.append("Random flips and shifted crops; not said, and for ImageNet other crops.")
        if self.precision == "bf16":
            notes.append("Products in bf16; the paper does not say.")
        if self.module != "backprop":
            notes.append(f"Splits after {', '.join(self.splits)}: the paper does not say where.")
        if self.module in PREDICTING:
            notes += self._on_modules()
        if self.network == "cifar" and (self.width, self.image_size) != (64, 32):
            notes.append(
                f"Width {self.width} instead of 64, images of {self.image_size} instead of 32 px."
            )
        if self.network == "resnet50":
            notes.append(
                f"ResNet-50 of width {self.width} (64) on {self.data} at {self.image_size} px; "
                "the paper: ImageNet, presumably at 224."
            )
        if self.network == "mlp":
            notes.append("A small network on digits; not in the paper.")
        if source.startswith("folder") and self.data == "cifar10":
            notes.append(f"CIFAR-10 from JPEG copies ({source}), not the lossless original.")
        if self.workers == 1:
            notes.append("One process, synchronous; the paper: several, with Hogwild modules.")
        if self.train_images is not None:
            notes.append(f"{self.train_images:,} training images only.")
        if self.held_out:
            notes.append(f"Tested on {self.held_out:,} training images that were kept apart.")
        return notes

    def _on_modules(self) -> list[str]:
        same = self.module_rate == PAPERS_RATE
        paper = ", as in the paper" if same else "; the paper: 1e-4"
        notes = [f"Adam at {self.module_rate:g} for the modules{paper} over a longer run."]
        if self.module == "local_ce":
            notes.append("Modules are trained on the labels; the paper has no such row.")
        else:
            notes.append(
                f"Module losses: {self.element.upper()}, {self.reduction} over elements, mean over "
                "the batch; the paper: L1, reduction not said."
            )
        if WEIGHTS.get(self.module, (0.0, 0.0))[1]:
            notes.append(
                "Targets are true gradients: rows of the gradient of the batch's summed loss."
                if self.targets == "true"
                else "Targets are bootstrapped (Jaderberg et al. 2016); the paper: true gradients."
            )
        if self.module == "sobolev" and self.gradient_weight != 1:
            notes.append(f"Gradient term times {self.gradient_weight:g}; no weight in the paper.")
        if self.label_weight:
            notes.append(f"Label derivative too, times {self.label_weight:g} (SM 4.1).")
        if self.hidden is not None:
            paper = f"; the paper: {64 if self.pooled else 128}" if self.network != "mlp" else ""
            notes.append(f"Modules with {self.hidden} hidden channels{paper}.")
        if self.bandwidth is not None:
            notes.append(f"Kink kernel of width {self.bandwidth:g} in the modules' ReLU.")
        if self.leak:
            notes.append(f"Modules with units of slope {self.leak:g} below 0; the paper: ReLU.")
        return notes


DIGITS: dict[str, Any] = {
    "data": "digits", "network": "mlp", "image_size": 8, "width": 16, "depth": 8,
    "splits": ("layer2", "layer4", "layer6"), "epochs": 20, "batch": 64,
    "learning_rate": 0.1, "weight_decay": 1e-4, "augmented": False,
}  # fmt: skip

RESNET: dict[str, Any] = {
    "network": "resnet50", "pooled": True, "batch": 256, "learning_rate": 0.1,
    "weight_decay": 1e-4, "precision": "bf16",
}  # fmt: skip

ARMS: dict[str, dict[str, Any]] = {
    "digits": DIGITS,
    "digits_deep": {
        **DIGITS, "width": 12, "depth": 12, "splits": ("layer3", "layer6", "layer9"),
    },
    "cifar10": {"precision": "bf16"},
    "cifar10_small_batch": {"precision": "bf16", "batch": 128, "learning_rate": 0.1},
    "cifar10_reduced": {
        "image_size": 16, "width": 16, "hidden": 32, "epochs": 10, "batch": 128,
        "learning_rate": 0.1,
    },
}  # fmt: skip
"""Presets: data, network and schedule; every one serves all modes."""

_IMAGENETS: dict[str, dict[str, Any]] = {
    "imagenet200": {"data": "imagenet200", "image_size": 32, "stem": "small", "epochs": 30},
    "imagenette": {"data": "imagenette", "image_size": 128, "stem": "imagenet", "epochs": 40},
    "imagenette_reduced": {
        "data": "imagenette", "image_size": 64, "stem": "imagenet", "width": 16, "hidden": 16,
        "epochs": 5, "batch": 64, "learning_rate": 0.05, "precision": "fp32",
    },
    "imagenet200_reduced": {
        "data": "imagenet200", "image_size": 32, "stem": "imagenet", "width": 16, "hidden": 16,
        "epochs": 3, "batch": 128, "precision": "fp32",
    },
    "imagenet": {"data": "imagenet", "image_size": 224, "stem": "imagenet", "epochs": 90},
}  # fmt: skip
ARMS |= {
    f"{name}_{count}": {**RESNET, **own, "splits": splits}
    for name, own in _IMAGENETS.items()
    for count, splits in networks.RESNET_SPLITS.items()
}

ROWS: dict[str, dict[str, Any]] = {
    **{mode: {"module": mode} for mode in MODES},
    "sobolev_mean": {"module": "sobolev", "reduction": "mean"},
    "sobolev_tenth": {"module": "sobolev", "gradient_weight": 0.1},
    "sobolev_tenfold": {"module": "sobolev", "gradient_weight": 10.0},
    "sobolev_kernel": {"module": "sobolev", "bandwidth": 0.1},
    "sobolev_label": {"module": "sobolev", "label_weight": 1.0},
    "sobolev_l2": {"module": "sobolev", "element": "l2"},
    "sobolev_bootstrapped": {"module": "sobolev", "targets": "bootstrapped"},
    "direct_bootstrapped": {"module": "direct", "targets": "bootstrapped"},
    "vfbn_kernel": {"module": "vfbn", "bandwidth": 0.1},
}
CHANGES: dict[str, dict[str, Any]] = {
    "slow": {"module_rate": PAPERS_RATE},
    "leaky": {"leak": LEAK},
    "leaky_slow": {"leak": LEAK, "module_rate": PAPERS_RATE},
}
"""What is done against units that die: Adam at the paper's rate, leaky units, both."""
SPARING_ROWS: dict[str, dict[str, Any]] = {
    f"{mode}_{name}": {"module": mode, **changes}
    for mode in PREDICTING
    for name, changes in CHANGES.items()
}
"""Modules that are less likely to die, by mode and change."""
AT_PAPERS_RATE: dict[str, str] = {f"{mode}_slow": mode for mode in PREDICTING}
"""Rows that only have the paper's rate, and the schemes of Table 1 that they are."""
ROWS |= SPARING_ROWS
"""Rows of the tables, a mode with its options: the five of Table 1, the two controls, what they
leave open, and those of :data:`SPARING_ROWS`."""


def sparing(row: str, care: str) -> str:
    """Return a row with something done against dying units; itself if nothing is, or can be."""
    name = f"{row}_{care}"
    return name if name in SPARING_ROWS else row


MAIN_ROWS = MODES


def settings(
    arm: str = "cifar10", rows: Sequence[str] = MAIN_ROWS, **changes: Any
) -> list[Setting]:
    """Settings of an arm, one for each row, ``changes`` on top.

    Raises
    ------
    ValueError
        If the arm or a row is unknown.
    """
    check_choice("arm", arm, ARMS)
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise ValueError(f"rows names {unknown}; known are {', '.join(ROWS)}")
    return [Setting(arm=arm, **{**ARMS[arm], **ROWS[row], **changes}) for row in rows]


ROW_KEYS = frozenset(name for row in ROWS.values() for name in row) - {"module_rate"}
"""Entries of a configuration that tell rows apart; the others are one experiment's.  The modules'
rate is a row's where the row names it."""


DEFAULTS: dict[str, Any] = asdict(Setting())
_KEYS = tuple(sorted(ROW_KEYS))
_ROWS: dict[tuple[Any, ...], dict[float | None, str]] = {}
for _name, _row in ROWS.items():  # by their options, then by the rate where the row names one
    _options = tuple(_row.get(key, DEFAULTS[key]) for key in _KEYS)
    _ROWS.setdefault(_options, {})[_row.get("module_rate")] = _name


def row_of(config: Mapping[str, Any]) -> str:
    """Name of the row a record's configuration belongs to, "" if to none.

    Runs of several processes belong to none: they answer another question.
    """
    if config.get("workers", 1) != 1 or config.get("hogwild", False):
        return ""
    rates = _ROWS.get(tuple(config.get(key, DEFAULTS[key]) for key in _KEYS), {})
    return rates.get(config.get("module_rate")) or rates.get(None, "")


def config(setting: Setting) -> dict[str, Any]:
    """Entries of a setting as the ledger holds them.

    Options that came later (:data:`LATER`) are left out at their defaults, so that a run keeps its
    identity.
    """
    entries = {**asdict(setting), "splits": list(setting.splits)}
    return {k: v for k, v in entries.items() if k not in LATER or v != LATER[k]}


def shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a configuration that all rows of an experiment have in common."""
    kept = {k: v for k, v in config.items() if k not in ROW_KEYS}
    if "module_rate" in ROWS.get(row_of(config), {}) and config["arm"] in ARMS:
        kept["module_rate"] = Setting(**ARMS[config["arm"]]).module_rate
    return kept
