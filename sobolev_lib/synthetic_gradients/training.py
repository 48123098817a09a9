"""Decoupled training of image classifiers, the experiment behind Table 1 (section 4.3, SM 4).

:class:`Training` runs one :class:`.settings.Setting` for one seed, resumable at any step (to the
last bit on the CPU).  Batches, crops and flips depend on seed and step only, so
that nothing but weights, momenta and the step has to be kept.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sobolev_lib.records import ledger, states
from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients import hogwild, networks
from sobolev_lib.synthetic_gradients.decoupling import Decoupled, Step, decouple
from sobolev_lib.synthetic_gradients.settings import Setting

MEASUREMENTS = 25
"""How often a run compares synthetic with true gradients."""
CURVES = {
    "cosine": "cosines", "batch_cosine": "batch_cosines", "scale": "scales", "dead": "dead",
    "zeros": "zeros",
}  # fmt: skip
"""Curves of a record that have a number for each split, and their names in :class:`Step`."""
NOTES = ("step", "seconds", "curve", "tests")
"""What a saved state holds beside tensors."""


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
            network, setting.splits, setting.module, example=example,
            objective=setting.objective(), targets=setting.targets, hidden=setting.hidden,
            pooled=setting.pooled, bandwidth=setting.bandwidth, leak=setting.leak,
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
        Of weights, batches and augmentation.
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
        self.device = hogwild.own_device(device)
        self.rank, self.workers = hogwild.world()
        if self.workers != setting.workers:
            raise ValueError(
                f"setting.workers is {setting.workers}, but {self.workers} processes run; start "
                f"{setting.workers} with torchrun --nproc-per-node"
            )
        self.data = data or images.load(setting.data, setting.image_size)
        self.chosen, self.held_out = self._choose()
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
        names = ("steps", "loss", *CURVES)
        self.curve: dict[str, list[Any]] = {name: [] for name in names}
        self.tests: dict[str, list[Any]] = {"steps": [], "top1": [], "top5": [], "loss": []}
        self._make_optimizers()
        self.path = state_path(setting, seed, folder) if folder else None
        self._epoch, self._order = -1, torch.empty(0)
        if self.path and self.path.exists():
            self._load()
        if setting.hogwild and net.module_parameters():
            memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(folder or ".")
            run = os.environ.get("TORCHELASTIC_RUN_ID", str(os.getpid()))
            hogwild.share(
                net.module_parameters(),
                memory / f"{state_path(setting, seed, memory).stem}-{run}.bin",
            )
        if compiled:
            self._compile()

    def run(self, until: int | None = None, keep: bool = True) -> None:
        """Train to the last step (or ``until``); test after every epoch.

        With ``keep`` the state is saved at the end, too, not only every ``save_every`` seconds.

        Raises
        ------
        RuntimeError
            Out of memory; the message suggests a batch size.
        """
        with self._advice(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
            self._train(until, keep)

    def _train(self, until: int | None, keep: bool) -> None:
        last = self.steps if until is None else min(until, self.steps)
        every = max(1, self.steps // MEASUREMENTS)
        while self.step < last:
            began = time.perf_counter()
            stop = min(last, (self.step // self.per_epoch + 1) * self.per_epoch)
            while True:  # one step at least, however short the time between two states
                self.make_step(measure=self.step % every == 0)
                if self.step == stop or self._overdue():
                    break
            self.wait()
            self.seconds += time.perf_counter() - began
            if self.step % self.per_epoch == 0 and (
                not self.tests["steps"] or self.tests["steps"][-1] != self.step
            ):
                self._test()
            if self._overdue() or (keep and self.step == last):
                self.save()

    def make_step(self, measure: bool = False) -> None:
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

    def _rate(self) -> float:
        """Linear warm-up, then linearly to 0."""
        done, warm = self.step / self.steps, self.setting.warmup
        part = min((done + 1 / self.steps) / warm, 1.0) if done < warm else (1 - done) / (1 - warm)
        return self.setting.learning_rate * part

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
        self.curve["loss"].append(ledger.number_or_null(said.loss.mean().item(), 4))
        for name, source in CURVES.items():
            self.curve[name].append(
                [ledger.number_or_null(float(v), 4) for v in getattr(said, source)]
            )

    @torch.no_grad()
    def _test(self) -> None:
        self.net.eval()
        part, among = ("train", self.held_out) if len(self.held_out) else ("test", None)
        count, size = len(self.tensors["test_x"] if among is None else among), 1_000
        total = torch.zeros(3, dtype=torch.float64)
        for first in range(0, count, size):
            index = slice(first, first + size) if among is None else among[first : first + size]
            x = self._laid_out(images.normalize(self._pick(f"{part}_x", index), self.data))
            with self._autocast():
                logits = self.net(x).float()
            total += scores(logits, self._pick(f"{part}_y", index)).cpu()
        top1, top5, loss = (total / count).tolist()
        self.tests["steps"].append(self.step)
        for name, value in (("top1", 100 * top1), ("top5", 100 * top5), ("loss", loss)):
            self.tests[name].append(ledger.number_or_null(value, 6))

    def metrics(self) -> dict[str, Any]:
        """Final figures, and the curves: accuracies in per cent.

        ``cosine``, ``batch_cosine``, ``gradient_scale``, ``dead`` and ``zeros`` are means over the
        measurements in the last fifth of the run, by split; see :class:`.decoupling.Step`.
        """
        tail = max(1, len(self.curve["steps"]) // 5)

        def late(name: str) -> list[float | None]:
            return [
                None if None in column else round(sum(column) / len(column), 5)
                for column in zip(*self.curve[name][-tail:], strict=True)
            ]

        return {
            "top1": self.tests["top1"][-1],
            "top5": self.tests["top5"][-1],
            "test_loss": self.tests["loss"][-1],
            "cosine": late("cosine"),
            "batch_cosine": late("batch_cosine"),
            "gradient_scale": late("scale"),
            "dead": late("dead"),
            "zeros": late("zeros"),
            "images_per_second": round(self.step * self.setting.batch / self.seconds, 1),
            "curve": self.curve,
            "tests": self.tests,
        }

    def save(self) -> None:
        """Keep the whole state (:mod:`.states`), if there is a folder for it."""
        if self.path and not self.rank:
            notes = {name: getattr(self, name) for name in NOTES}
            states.save(self.path, self.net, self._optimizers(), notes)
        self._saved = time.monotonic()

    def _load(self) -> None:
        assert self.path is not None
        notes = states.load(self.path, self.net, self._optimizers(), NOTES)
        if set(notes["curve"]) != set(self.curve):
            raise states.unreadable(self.path, "another version of this library wrote it")
        for name in NOTES:
            setattr(self, name, notes[name])

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"main": self.main} | ({"adam": self.adam} if self.adam else {})

    def _choose(self) -> tuple[Tensor, Tensor]:
        """Indices of the training images and of those held out, the same for all seeds."""
        count = len(self.data.train_x)
        wanted, held = self.setting.train_images, self.setting.held_out
        if wanted is None and not held:
            return torch.arange(count), torch.arange(0)
        if (wanted or 1) + held > count:
            raise ValueError(f"train_images is {wanted}, held_out {held}; there are {count}")
        source = torch.Generator().manual_seed(_stream("subset", self.setting.data))
        order = torch.randperm(count, generator=source)
        kept = len(order) - held
        return order[: min(wanted or kept, kept)], order[kept:]

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
            [p for p in self.net.main_parameters() if p.requires_grad], setting.learning_rate,
            setting.momentum, nesterov=setting.nesterov, weight_decay=setting.weight_decay,
        )  # fmt: skip
        own = self.net.module_parameters()
        self.adam = torch.optim.Adam(own, lr=setting.module_rate) if own else None

    def _compile(self) -> None:
        # A compiled backward pass may otherwise overwrite what a second one needs.
        import torch._functorch.config as functorch

        functorch.donated_buffer = False
        self.net.compile_segments()
        for module in self.net.sg_modules:
            network = module.network
            # Double backward by autograd cannot be compiled.
            if isinstance(network, torch.nn.Module) and getattr(network, "explicit", True):
                network.compile()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        on = self.setting.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def wait(self) -> None:
        """Wait until a GPU has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

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


def place_of(nbytes: int, free: int, device: torch.device) -> torch.device:
    """Where images belong: on the device if they take at most half of its free memory."""
    return device if 2 * nbytes <= free else torch.device("cpu")


def scores(logits: Tensor, y: Tensor) -> Tensor:
    """Numbers of examples right at first, right among five, and summed cross entropy."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    right = best == y[:, None]
    loss = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
    return torch.stack([right[:, 0].sum().double(), right.any(dim=1).sum().double(), loss.double()])


def state_path(setting: Setting, seed: int, folder: str | os.PathLike[str]) -> Path:
    """File of the state of an unfinished run."""
    name = f"{zlib.crc32(repr(asdict(setting)).encode()):08x}"
    return Path(folder) / f"sg-{setting.arm}-{setting.module}-{name}-{seed}.safetensors"
