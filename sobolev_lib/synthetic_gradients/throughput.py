"""What a row costs: images per second, operations counted, sizes of networks and modules."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sobolev_lib.records import ledger
from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients.paper import NAMES
from sobolev_lib.synthetic_gradients.settings import Setting, config, row_of
from sobolev_lib.synthetic_gradients.training import Training, build

EXPERIMENT = "throughput"
OPERATIONS = "operations"
"""Experiment of :func:`count`."""
IMAGES = {
    **{"digits": images.DIGITS_TRAIN, "cifar10": 50_000},
    **{"imagenet": 1_281_167, "imagenette": 9_469, "imagenet200": 100_000},
}
"""Training images."""

CLASSES = {"digits": 10, "cifar10": 10, "imagenet": 1_000, "imagenette": 10, "imagenet200": 200}


class _Counter(TorchDispatchMode):
    """Sum of torch's own formulas over all operations.

    ``FlopCounterMode`` would do, but it follows modules too and cannot do that where
    ``torch.autograd.grad`` asks for the gradient of a leaf.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def flops(setting: Setting, data: images.ImageData, count: int = 4) -> float:
    """Floating-point operations of one training step, per image (products of matrices and maps).

    Counted, not estimated: a step of ``count`` images runs on the CPU.
    """
    net = build(setting, data, 0)
    x = images.normalize(data.train_x[:count], data)
    with _Counter() as counter:
        net.accumulate(x, data.train_y[:count])
    return counter.total / count


def stand_in(setting: Setting, classes: int = 10, count: int = 64) -> images.ImageData:
    """Random images of a setting's shape: speed does not depend on what is on them."""
    source = torch.Generator().manual_seed(0)
    size = setting.image_size
    if setting.network == "mlp":
        x = torch.randn(count, 64, generator=source)
    else:
        x = torch.randint(256, (count, 3, size, size), generator=source).to(torch.uint8)
    y = torch.randint(classes, (count,), generator=source)
    channels = torch.full((3,), 127.5), torch.full((3,), 74.0)
    return images.ImageData(x, y, x, y, classes, *channels, "random bytes")


def count(chosen: Sequence[Setting]) -> list[ledger.Record]:
    """Count the operations of each setting (:func:`flops`) on a random image of its shape.

    On two where they are vectors, of which one alone has no variance to normalise by.  A large
    network takes seconds to build, so pages read the count from the ledger.
    """
    records = []
    for setting in chosen:
        data = stand_in(setting, CLASSES[setting.data], 2)
        metrics = {"flops_per_image": flops(setting, data, 2 if setting.network == "mlp" else 1)}
        records.append(
            ledger.Record(
                OPERATIONS, config(setting), 0, metrics, setting.scale,
                device=ledger.device_name("cpu"), **ledger.provenance(),
            )
        )  # fmt: skip
    return records


def training_flops(setting: Setting, records: Sequence[ledger.Record] | None = None) -> float:
    """Floating-point operations of a whole training run.

    ``records`` are those of :func:`count`, or the ledger's.  What they lack is counted.
    """
    every = ledger.Ledger(OPERATIONS).read() if records is None else records
    found = ledger.select(every, config(setting)) or count([setting])
    images = setting.train_images or IMAGES[setting.data]
    return float(found[0].metrics["flops_per_image"]) * images * setting.epochs


def gpu_hours(operations: float, teraflops: float = 100.0) -> float:
    """Hours at a sustained rate of so many 10^12 operations a second."""
    return operations / (teraflops * 1e12) / 3600


def module_sizes(setting: Setting) -> list[dict[str, Any]]:
    """Shape at each split, and number of parameters below it and of its module."""
    data = stand_in(setting, CLASSES[setting.data], 2)
    net = build(setting, data, 0)
    found, x = [], data.train_x[:2].float()
    net.eval()
    for segment, module in zip(net.segments, net.sg_modules, strict=False):
        x = segment(x)
        found.append(
            {
                "shape": tuple(x.shape[1:]),
                "segment": sum(p.numel() for p in segment.parameters()),
                "module": sum(p.numel() for p in module.parameters()),
            }
        )
    return found


def measure(
    chosen: Sequence[Setting],
    seconds: float = 5.0,
    device: str = "cpu",
    compiled: bool = False,
    rounds: int = 3,
) -> list[ledger.Record]:
    """Time training steps of each setting of an arm in turn, several rounds; best round of each.

    Data are random bytes of the same shape, ``seconds`` are for each setting and round: other work
    on the machine then hits all alike.  Records have ``images_per_second`` and ``flops_per_image``.
    """
    runs = []
    for setting in chosen:
        data = stand_in(setting, CLASSES[setting.data], max(64, setting.batch))
        run = Training(setting, 0, data, device, compiled=compiled)
        run.run(until=2)  # memory, plans of the libraries, compilation
        runs.append((run, data))
    best = [0.0] * len(runs)
    for _ in range(rounds):
        best = [max(b, _speed(run, seconds)) for b, (run, _) in zip(best, runs, strict=True)]
    return [
        _record(run, data, speed, device, compiled)
        for (run, data), speed in zip(runs, best, strict=True)
    ]


def _speed(run: Training, seconds: float) -> float:
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds or not done:
        run.make_step(measure=False)
        run.step -= 1  # the same step again: the schedule does not matter here
        done += 1
        if done % 10 == 0:
            run.wait()
    run.wait()
    return done * run.setting.batch / (time.perf_counter() - began)


def _record(
    run: Training, data: images.ImageData, speed: float, device: str, compiled: bool
) -> ledger.Record:
    setting = run.setting
    told: dict[str, Any] = {
        "arm": setting.arm,
        "row": row_of(config(setting)),
        "batch": setting.batch,
        "precision": setting.precision,
        "compiled": compiled,
        "device": ledger.device_name(device),
    }
    metrics = {"images_per_second": round(speed, 1), "flops_per_image": flops(setting, data)}
    return ledger.Record(
        EXPERIMENT, told, 0, metrics, setting.scale, ["Random images; no data loading."],
        device=told["device"], peak_memory=ledger.peak_memory(device), **ledger.provenance(),
    )  # fmt: skip


Run = tuple[str, int, str, bool]
"""Device, batch, precision, compiled or not: what timings have in common that can be compared."""


def runs(
    arm: str, records: Sequence[ledger.Record] | None = None
) -> dict[Run, dict[str, dict[str, float]]]:
    """Metrics of an arm's rows by run, of runs that have backpropagation to compare with."""
    found: dict[Run, dict[str, dict[str, float]]] = {}
    for r in ledger.Ledger(EXPERIMENT).read() if records is None else records:
        config = r.config
        if config["arm"] == arm and config["row"] in NAMES:
            run = (
                str(config.get("device", r.device)),
                int(config["batch"]),
                str(config.get("precision", "")),
                bool(config.get("compiled", False)),
            )
            found.setdefault(run, {})[config["row"]] = r.metrics
    return {
        run: {row: found[run][row] for row in NAMES if row in found[run]}
        for run in sorted(found)
        if "backprop" in found[run]
    }


def relative(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Speed of each row of a run over that of backpropagation, measured and by operations."""
    base = found["backprop"]
    return {
        row: {
            "measured": m["images_per_second"] / base["images_per_second"],
            "predicted": base["flops_per_image"] / m["flops_per_image"],
        }
        for row, m in found.items()
    }


def timed(*arms: str, records: Sequence[ledger.Record] | None = None) -> str:
    """Return the first of some arms whose speed has been measured, the last if none has."""
    return next((arm for arm in arms if runs(arm, records)), arms[-1])


def slower(arm: str, records: Sequence[ledger.Record] | None = None) -> str:
    """Name the rows that reach less than 0.9 of the speed their operations predict.

    Of the first run of an arm, with what they reach: "Sobolev 0.81, VFBN 0.80".
    """
    found = next(iter(runs(arm, records).values()), None)
    if found is None:
        return "not run yet"
    reached = {row: v["measured"] / v["predicted"] for row, v in relative(found).items()}
    return ", ".join(f"{NAMES[row]} {v:.2f}" for row, v in reached.items() if v < 0.9) or "none"
