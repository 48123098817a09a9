"""The experiment behind Table 1: decoupled training of image classifiers (section 4.3, SM 4).

A :class:`Setting` is one configuration without its seed; :class:`Training` runs it, resumable at
any step (to the last bit on the CPU).  Batches, crops and flips depend on seed and step only, so
that nothing but weights, momenta and the step has to be kept.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sobolev_lib.records import ledger, states
from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients import hogwild, networks
from sobolev_lib.synthetic_gradients.decoupling import MODES, Decoupled, Step, decouple
from sobolev_lib.synthetic_gradients.modules import PREDICTING, Objective

EXPERIMENT = "synthetic_gradients"
MEASUREMENTS = 25
"""How often a run compares synthetic with true gradients."""
NOTES = ("step", "seconds", "curve", "tests")
"""What a saved state holds beside tensors."""


@dataclass(frozen=True)
class Setting:
    """One configuration of the experiment; the defaults are the CIFAR-10 column of Table 1.

    Parameters
    ----------
    arm : str
        Key of :data:`ARMS`.
    data : str
        "digits", "cifar10", or the name of a prepared folder.
    image_size, train_images : int
        Height and width; number of training images (the first of a fixed shuffle), ``None``: all.
    network : str
        Key of :data:`.networks.NETWORKS`.
    width, depth : int
        Of the network; ``depth`` for "mlp" only.
    stem : str
        Of ResNet-50.
    splits : tuple of str
        Children after which the network is cut.
    module : str
        One of :data:`.decoupling.MODES`.
    targets, element, reduction, gradient_weight, label_weight
        See :class:`.decoupling.Decoupled` and :class:`.modules.Objective`.
    hidden : int or None
        Units of the modules; ``None``: the paper's.
    pooled : bool
        Modules of SM 4.3 instead of SM 4.2.
    bandwidth : float or None
        Width of the kink kernel in the modules, in units of the spread of the pre-activations.
    epochs, batch : int
        Length and size; a batch is over all processes.
    learning_rate, warmup, momentum, nesterov, weight_decay
        SGD of the main network: linear warm-up over that part of the run, then linearly to 0.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", tuple(self.splits))
        if self.module not in MODES:
            raise ValueError(f"module is {self.module!r}; it must be one of {', '.join(MODES)}")
        if self.network not in networks.NETWORKS:
            raise ValueError(
                f"network is {self.network!r}; it must be one of {', '.join(networks.NETWORKS)}"
            )
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; it must be 'fp32' or 'bf16'")
        for name in ("epochs", "batch", "width", "workers", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("depth", "hidden", "train_images"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1, or None")
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
        processes = {"cifar": "10 processes", "resnet50": "34 processes"}.get(
            self.network, "several processes"
        )
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
        return notes

    def _on_modules(self) -> list[str]:
        notes = [
            f"Adam at {self.module_rate:g} for the modules; the paper: 1e-4 over a longer run."
        ]
        if self.module == "local_ce":
            notes.append("Modules are trained on the labels; the paper has no such row.")
        else:
            notes.append(
                f"Module losses: {self.element.upper()}, {self.reduction} over elements, mean over "
                "the batch; the paper: L1, reduction not said."
            )
        if self.module in ("vfbn", "direct", "sobolev"):
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
    "imagenet200_1": {
        **RESNET, "data": "imagenet200", "image_size": 32, "stem": "small", "epochs": 30,
        "splits": networks.RESNET_SPLITS[1],
    },
    "imagenet200_3": {
        **RESNET, "data": "imagenet200", "image_size": 32, "stem": "small", "epochs": 30,
        "splits": networks.RESNET_SPLITS[3],
    },
    "imagenette_1": {
        **RESNET, "data": "imagenette", "image_size": 128, "stem": "imagenet", "epochs": 40,
        "splits": networks.RESNET_SPLITS[1],
    },
    "imagenette_3": {
        **RESNET, "data": "imagenette", "image_size": 128, "stem": "imagenet", "epochs": 40,
        "splits": networks.RESNET_SPLITS[3],
    },
    "imagenette_reduced_1": {
        **RESNET, "data": "imagenette", "image_size": 64, "stem": "imagenet", "width": 16,
        "hidden": 16, "epochs": 5, "batch": 64, "learning_rate": 0.05, "precision": "fp32",
        "splits": networks.RESNET_SPLITS[1],
    },
    "imagenette_reduced_3": {
        **RESNET, "data": "imagenette", "image_size": 64, "stem": "imagenet", "width": 16,
        "hidden": 16, "epochs": 5, "batch": 64, "learning_rate": 0.05, "precision": "fp32",
        "splits": networks.RESNET_SPLITS[3],
    },
    "imagenet200_reduced_1": {
        **RESNET, "data": "imagenet200", "image_size": 32, "stem": "imagenet", "width": 16,
        "hidden": 16, "epochs": 3, "batch": 128, "precision": "fp32",
        "splits": networks.RESNET_SPLITS[1],
    },
    "imagenet200_reduced_3": {
        **RESNET, "data": "imagenet200", "image_size": 32, "stem": "imagenet", "width": 16,
        "hidden": 16, "epochs": 3, "batch": 128, "precision": "fp32",
        "splits": networks.RESNET_SPLITS[3],
    },
    "imagenet_1": {
        **RESNET, "data": "imagenet", "image_size": 224, "stem": "imagenet", "epochs": 90,
        "splits": networks.RESNET_SPLITS[1],
    },
    "imagenet_3": {
        **RESNET, "data": "imagenet", "image_size": 224, "stem": "imagenet", "epochs": 90,
        "splits": networks.RESNET_SPLITS[3],
    },
}  # fmt: skip
"""Presets: data, network and schedule; every one serves all modes."""

ROWS: dict[str, dict[str, Any]] = {
    "backprop": {"module": "backprop"},
    "noprop": {"module": "noprop"},
    "direct": {"module": "direct"},
    "vfbn": {"module": "vfbn"},
    "critic": {"module": "critic"},
    "sobolev": {"module": "sobolev"},
    "local_ce": {"module": "local_ce"},
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
"""Rows of the tables: the five modules of Table 1, the two controls, and what they leave open."""

MAIN_ROWS = ("backprop", "noprop", "direct", "vfbn", "critic", "sobolev", "local_ce")


def settings(
    arm: str = "cifar10", rows: Sequence[str] = MAIN_ROWS, **changes: Any
) -> list[Setting]:
    """Settings of an arm, one for each row, ``changes`` on top.

    Raises
    ------
    ValueError
        If the arm or a row is unknown.
    """
    if arm not in ARMS:
        raise ValueError(f"arm is {arm!r}; it must be one of {', '.join(ARMS)}")
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise ValueError(f"rows names {unknown}; known are {', '.join(ROWS)}")
    return [Setting(arm=arm, **{**ARMS[arm], **ROWS[row], **changes}) for row in rows]


def row_of(config: dict[str, Any]) -> str:
    """Name of the row a record's configuration belongs to, "" if to none.

    Runs of several processes belong to none: they answer another question.
    """
    options = {name for row in ROWS.values() for name in row} - {"module"}
    options |= {"workers", "hogwild"}
    standard = Setting()
    for name, row in ROWS.items():
        wanted = {option: getattr(standard, option) for option in options} | row
        if all(config.get(option) == value for option, value in wanted.items()):
            return name
    return ""


def build(setting: Setting, data: images.ImageData, seed: int) -> Decoupled:
    """The network of a setting with fresh weights, on the CPU.

    A seed's initial weights of the main network are the same for all modes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_stream("weights", seed))
        if setting.network == "mlp":
            network = networks.digits_mlp(
                setting.width, setting.depth or 8, data.train_x[0].numel(), data.classes
            )
        elif setting.network == "cifar":
            network = networks.cifar_net(setting.width, data.classes, setting.image_size)
        else:
            network = networks.resnet50(data.classes, setting.width, setting.stem or "imagenet")
        example = images.normalize(data.test_x[:2], data)
        torch.manual_seed(_stream("modules", seed))
        return decouple(
            network, setting.splits, setting.module, example=example, classes=data.classes,
            objective=setting.objective(), targets=setting.targets, hidden=setting.hidden,
            pooled=setting.pooled, bandwidth=setting.bandwidth,
        )  # fmt: skip


def _stream(*words: str | int) -> int:
    return zlib.crc32(repr(words).encode())


class Training:
    """Training of one network for one seed.

    Parameters
    ----------
    setting : Setting
        What to train.
    seed : int
        Seed of weights, batches and augmentation.
    data : ImageData, optional
        Loaded by the setting's name unless given.
    device : str or torch.device
        Where to train.
    folder : path, optional
        Where to keep the state; nothing is kept without it.
    save_every : float
        Seconds between two saved states.
    compiled : bool
        Compile segments and modules (:func:`torch.compile`), where double backward is written out.

    Raises
    ------
    ValueError
        If the training set is smaller than a batch, or the state cannot be read.
    """

    def __init__(
        self,
        setting: Setting,
        seed: int,
        data: images.ImageData | None = None,
        device: str | torch.device = "cpu",
        folder: str | os.PathLike[str] | None = None,
        save_every: float = 60.0,
        compiled: bool = False,
    ) -> None:
        self.setting, self.seed, self.save_every = setting, seed, save_every
        self.device = _checked(hogwild.own_device(device))
        self.rank, self.workers = hogwild.world()
        if self.workers != setting.workers:
            raise ValueError(
                f"setting.workers is {setting.workers}, but {self.workers} processes run; start "
                f"{setting.workers} with torchrun --nproc-per-node"
            )
        self.data = data or images.load(setting.data, setting.image_size)
        self.chosen = self._choose()
        self.per_epoch = len(self.chosen) // setting.batch
        if not self.per_epoch:
            raise ValueError(
                f"batch is {setting.batch}, but there are only {len(self.chosen)} training images"
            )
        self.steps = self.per_epoch * setting.epochs
        self._put_on_device()
        with self._advice():
            net = build(setting, self.data, seed).to(self.device)
        if setting.network != "mlp":
            net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net = net
        self.step, self.seconds, self._saved = 0, 0.0, time.monotonic()
        names = ("steps", "cosine", "batch_cosine", "scale", "loss")
        self.curve: dict[str, list[Any]] = {name: [] for name in names}
        self.tests: dict[str, list[Any]] = {"steps": [], "top1": [], "top5": [], "loss": []}
        self._make_optimizers()
        name = f"{zlib.crc32(repr(asdict(setting)).encode()):08x}"
        self.path = (
            Path(folder) / f"sg-{setting.arm}-{setting.module}-{name}-{seed}.safetensors"
            if folder
            else None
        )
        self._epoch, self._order = -1, torch.empty(0)
        if self.path and self.path.exists():
            self._load()
        if setting.hogwild and net.module_parameters():
            memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(folder or ".")
            run = os.environ.get("TORCHELASTIC_RUN_ID", str(os.getpid()))
            hogwild.share(net.module_parameters(), memory / f"sg-{name}-{seed}-{run}.bin")
        if compiled:
            self._compile()

    def _choose(self) -> Tensor:
        """Indices of the training images, the same for all seeds."""
        count = len(self.data.train_x)
        if self.setting.train_images is None:
            return torch.arange(count)
        if not 0 < self.setting.train_images <= count:
            raise ValueError(f"train_images is {self.setting.train_images}; there are {count}")
        source = torch.Generator().manual_seed(_stream("subset", self.setting.data))
        return torch.randperm(count, generator=source)[: self.setting.train_images]

    def _put_on_device(self) -> None:
        """On a GPU keep all images there, as bytes, if they fit; else they stay memory-mapped."""
        names = ("train_x", "train_y", "test_x", "test_y")
        tensors = {name: getattr(self.data, name) for name in names}
        place = self.device
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            free, _ = torch.cuda.mem_get_info(self.device)
            place = place_of(sum(t.nbytes for t in tensors.values()), free, self.device)
        self.tensors = {name: t.to(place) for name, t in tensors.items()}
        data = self.data
        self.data = replace(data, mean=data.mean.to(self.device), std=data.std.to(self.device))

    def _pick(self, name: str, index: Tensor | slice) -> Tensor:
        """Entries of the data on the device, wherever the data are."""
        return images.on_device(self.tensors[name][index], self.device)

    def _make_optimizers(self) -> None:
        setting = self.setting
        self.main = torch.optim.SGD(
            [p for p in self.net.main_parameters() if p.requires_grad],
            lr=setting.learning_rate,
            momentum=setting.momentum,
            nesterov=setting.nesterov,
            weight_decay=setting.weight_decay,
        )
        own = self.net.module_parameters()
        self.adam = torch.optim.Adam(own, lr=setting.module_rate) if own else None

    def _compile(self) -> None:
        # A compiled backward pass may otherwise overwrite what a second one needs.
        import torch._functorch.config as functorch

        functorch.donated_buffer = False
        self.net.compile_segments()
        for module in self.net.synthesizers:
            network = module.network
            # Double backward by autograd cannot be compiled.
            if isinstance(network, torch.nn.Module) and getattr(network, "explicit", True):
                network.compile()

    def run(
        self,
        progress: Callable[[Training], object] | None = None,
        until: int | None = None,
        keep: bool = True,
    ) -> None:
        """Train to the last step (or ``until``); test after every epoch.

        Parameters
        ----------
        progress : callable, optional
            Called now and then with this object.
        until : int, optional
            Step to stop at.
        keep : bool
            Save the state at the end, too, not only every ``save_every`` seconds.

        Raises
        ------
        RuntimeError
            Out of memory; the message suggests a batch size.
        """
        with self._advice(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
            self._train(progress, until, keep)

    def _train(
        self, progress: Callable[[Training], object] | None, until: int | None, keep: bool
    ) -> None:
        last = self.steps if until is None else min(until, self.steps)
        every = max(1, self.steps // MEASUREMENTS)
        while self.step < last:
            began = time.perf_counter()
            stop = min(last, (self.step // self.per_epoch + 1) * self.per_epoch)
            while True:  # one step at least, however short the time between two states
                self.one(measure=self.step % every == 0)
                if self.step == stop or self._overdue():
                    break
            self._wait()
            self.seconds += time.perf_counter() - began
            if self.step % self.per_epoch == 0 and (
                not self.tests["steps"] or self.tests["steps"][-1] != self.step
            ):
                self._test()
            if self._overdue() or (keep and self.step == last):
                self.save()
            if progress:
                progress(self)

    def _overdue(self) -> bool:
        return time.monotonic() - self._saved > self.save_every

    @contextlib.contextmanager
    def _advice(self) -> Iterator[None]:
        """Say what helps where memory ends."""
        try:
            yield
        except RuntimeError as error:
            on_cpu = "allocate memory" in str(error)  # that one has no class of its own
            if not isinstance(error, torch.OutOfMemoryError) and not on_cpu:
                raise
            half = max(1, self.setting.batch // 2)
            raise RuntimeError(
                f"out of memory on {self.device} with batch = {self.setting.batch}; try "
                f"--batch {half} --learning-rate {self.setting.learning_rate / 2:g}"
            ) from error

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a step, for this process: from seed and step only."""
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch != epoch:
            source = torch.Generator().manual_seed(_stream("order", self.seed, epoch))
            order = torch.randperm(len(self.chosen), generator=source)
            # where the images are, so that no step waits for a copy
            self._epoch, self._order = epoch, self.chosen[order].to(self.tensors["train_x"].device)
        size = self.setting.batch // self.workers
        first = place * self.setting.batch + self.rank * size
        index = self._order[first : first + size]
        x = images.normalize(self._pick("train_x", index), self.data)
        if self.setting.augmented:
            source = torch.Generator().manual_seed(_stream("augment", self.seed, step, self.rank))
            x = images.augment(x, source, max(1, self.setting.image_size // 8))
        return self._laid_out(x), self._pick("train_y", index)

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        on = self.setting.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def _rate(self) -> float:
        """Linear warm-up, then linearly to 0."""
        done, warm = self.step / self.steps, self.setting.warmup
        part = min((done + 1 / self.steps) / warm, 1.0) if done < warm else (1 - done) / (1 - warm)
        return self.setting.learning_rate * part

    def one(self, measure: bool = False) -> None:
        """One step: batch, gradients, both optimisers."""
        self.net.train()
        x, y = self.batch(self.step)
        self.main.param_groups[0]["lr"] = self._rate()
        self.main.zero_grad()
        if self.adam:
            self.adam.zero_grad()
        with self._autocast():
            said = self.net.accumulate(x, y, measure=measure)
        self._synchronize()
        self.main.step()
        if self.adam:
            self.adam.step()
        if measure:
            self._note(said)
        self.step += 1

    def _synchronize(self) -> None:
        """Average main gradients and batch statistics over processes, and module gradients too.

        Hogwild modules have no such meeting.
        """
        if self.workers == 1:
            return
        chosen = list(self.net.main_parameters())
        if not self.setting.hogwild:
            chosen += self.net.module_parameters()
        grads = [p.grad for p in chosen if p.grad is not None]
        hogwild.average([*grads, *self.net.segments.buffers()])

    def _note(self, said: Step) -> None:
        self.curve["steps"].append(self.step)
        self.curve["loss"].append(_number(said.loss.mean().item(), 4))
        self.curve["cosine"].append([_number(c.item(), 4) for c in said.cosines])
        self.curve["batch_cosine"].append([_number(c.item(), 4) for c in said.batch_cosines])
        self.curve["scale"].append([_number(s.item(), 4) for s in said.scales])

    @torch.no_grad()
    def _test(self) -> None:
        self.net.eval()
        count, size = len(self.tensors["test_x"]), 1_000
        total = torch.zeros(3, dtype=torch.float64)
        for first in range(0, count, size):
            part = slice(first, first + size)
            x = self._laid_out(images.normalize(self._pick("test_x", part), self.data))
            with self._autocast():
                logits = self.net(x).float()
            total += _scores(logits, self._pick("test_y", part)).cpu()
        top1, top5, loss = (total / count).tolist()
        for name, value in (
            ("steps", self.step),
            ("top1", 100 * top1),
            ("top5", 100 * top5),
            ("loss", loss),
        ):
            self.tests[name].append(value if name == "steps" else _number(value, 6))

    def metrics(self) -> dict[str, Any]:
        """Final figures, and the curves: accuracies in per cent.

        ``cosine``, ``batch_cosine`` and ``gradient_scale`` are means over the measurements in the
        last fifth of the run, by split; see :class:`.decoupling.Step`.
        """
        tail = max(1, len(self.curve["steps"]) // 5)

        def late(name: str) -> list[float | None]:
            columns = list(zip(*self.curve[name][-tail:], strict=True))
            return [
                None if None in column else round(sum(column) / len(column), 5)
                for column in columns
            ]

        return {
            "top1": self.tests["top1"][-1],
            "top5": self.tests["top5"][-1],
            "test_loss": self.tests["loss"][-1],
            "cosine": late("cosine"),
            "batch_cosine": late("batch_cosine"),
            "gradient_scale": late("scale"),
            "images_per_second": round(self.step * self.setting.batch / self.seconds, 1),
            "curve": self.curve,
            "tests": self.tests,
        }

    def record(self) -> ledger.Record:
        """Return the record of a finished run."""
        return ledger.Record(
            EXPERIMENT,
            config(self.setting),
            self.seed,
            self.metrics(),
            self.setting.scale,
            self.setting.deviations(self.data.source),
            device=ledger.device_name(self.device),
            seconds=round(self.seconds, 2),
            peak_memory=ledger.peak_memory(self.device),
            **ledger.provenance(),
        )

    def save(self) -> None:
        """Keep the whole state (:mod:`.states`), if there is a folder for it."""
        if self.path and not self.rank:
            notes = {name: getattr(self, name) for name in NOTES}
            states.save(self.path, self.net, self._optimizers(), notes)
        self._saved = time.monotonic()

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"main": self.main} | ({"adam": self.adam} if self.adam else {})

    def _load(self) -> None:
        assert self.path is not None
        notes = states.load(self.path, self.net, self._optimizers(), NOTES)
        if set(notes["curve"]) != set(self.curve):
            raise states.unreadable(self.path, "another version of this library wrote it")
        for name in NOTES:
            setattr(self, name, notes[name])


def place_of(nbytes: int, free: int, device: torch.device) -> torch.device:
    """Where images belong: on the device if they take at most half of its free memory.

    Parameters
    ----------
    nbytes, free : int
        Size of the images, and free memory, in bytes.
    device : torch.device
        Where the network is.
    """
    return device if 2 * nbytes <= free else torch.device("cpu")


def _checked(device: torch.device) -> torch.device:
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device}, but PyTorch sees no CUDA device; use 'cpu'")
    return device


def _scores(logits: Tensor, y: Tensor) -> Tensor:
    """Numbers of examples right at first, right among five, and summed cross entropy."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    right = best == y[:, None]
    loss = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
    return torch.stack([right[:, 0].sum().double(), right.any(dim=1).sum().double(), loss.double()])


def _number(value: float, digits: int) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def config(setting: Setting) -> dict[str, Any]:
    """Entries of a setting as the ledger holds them."""
    return {**asdict(setting), "splits": list(setting.splits)}


def train(
    setting: Setting,
    seed: int,
    device: str = "cpu",
    folder: str | os.PathLike[str] | None = None,
    save_every: float = 60.0,
    compiled: bool = False,
) -> ledger.Record:
    """Train one setting for one seed and return its record; see :class:`Training`."""
    run = Training(setting, seed, None, device, folder, save_every, compiled)
    run.run()
    return run.record()


def sweep(
    chosen: Sequence[Setting],
    seeds: Sequence[int],
    book: ledger.Ledger | None = None,
    device: str = "cpu",
    folder: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    quiet: bool = False,
    save_every: float = 60.0,
    compiled: bool = False,
    seconds: float | None = None,
) -> int:
    """Train every setting for every seed and enter the records; those there are left out.

    Parameters
    ----------
    chosen : sequence of Setting
        See :func:`settings`.
    seeds : sequence of int
        Seeds; all settings of a seed come before the next seed.
    book : Ledger, optional
        The experiment's ledger unless given.  Only this process writes it.
    device, folder, save_every, compiled
        See :class:`Training`.
    executor : concurrent.futures.Executor, optional
        Runs the jobs; in this process, one after the other, unless given.
    quiet : bool
        No progress bar.
    seconds : float, optional
        Without an executor: stop after that time, with the state of the run in hand saved.

    Returns
    -------
    int
        Number of records entered.
    """
    ledger.provenance()  # now: the checkout may move on while this runs
    book = book or ledger.Ledger(EXPERIMENT)
    done = book.keys()
    todo = [
        (setting, seed)
        for seed, setting in itertools.product(seeds, chosen)
        if ledger.key(config(setting), setting.scale, seed) not in done
    ]
    if executor is not None:
        return _spread(todo, book, executor, quiet, device, folder, save_every, compiled)
    began, entered = time.monotonic(), 0
    loaded: dict[tuple[str, int], images.ImageData] = {}
    for setting, seed in todo:
        where = (setting.data, setting.image_size)
        if where not in loaded:
            loaded[where] = images.load(*where)
        run = Training(setting, seed, loaded[where], device, folder, save_every, compiled)
        if not _run(run, quiet or bool(run.rank), began, seconds):
            return entered
        if run.rank == 0:
            entered += book.append([run.record()])
            if run.path:
                run.path.unlink(missing_ok=True)
    return entered


def _spread(
    todo: Sequence[tuple[Setting, int]],
    book: ledger.Ledger,
    executor: Executor,
    quiet: bool,
    *options: Any,
) -> int:
    """Jobs return records; only this process writes."""
    waiting = [executor.submit(train, setting, seed, *options) for setting, seed in todo]
    entered = 0
    for job in tqdm(as_completed(waiting), total=len(waiting), unit="run", disable=quiet):
        entered += book.append([job.result()])
    return entered


def _run(run: Training, quiet: bool, began: float, seconds: float | None) -> bool:
    """Train with a progress bar; ``False`` if the time was over first."""
    name = f"{run.setting.arm} {run.setting.module} seed {run.seed}"
    size = run.setting.batch
    with tqdm(
        total=run.steps * size, initial=run.step * size, desc=name, unit="image",
        unit_scale=True, disable=quiet,
    ) as bar:  # fmt: skip
        while run.step < run.steps:
            if seconds is not None and hogwild.agree(time.monotonic() - began > seconds):
                run.save()
                return False
            before = run.step
            run.run(until=run.step + max(1, run.per_epoch // 10), keep=False)
            bar.update((run.step - before) * size)
            shown = {"top1": run.tests["top1"][-1:], "cosine": run.curve["cosine"][-1:]}
            bar.set_postfix({k: v[0] for k, v in shown.items() if v})
    return True
