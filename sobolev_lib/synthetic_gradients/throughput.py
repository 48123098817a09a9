"""Images per second of each mode, beside what its floating-point operations predict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sobolev_lib.records import ledger
from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients import training

EXPERIMENT = "throughput"


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


def flops(setting: training.Setting, data: images.ImageData, count: int = 4) -> float:
    """Floating-point operations of one training step, per image (products of matrices and maps).

    Counted, not estimated: a step of ``count`` images runs on the CPU.
    """
    net = training.build(setting, data, 0)
    x, y = _batch(data, count)
    with _Counter() as counter:
        net.accumulate(x, y)
    return counter.total / count


def _batch(data: images.ImageData, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = images.normalize(data.train_x[:count], data)
    return x, data.train_y[:count]


def stand_in(setting: training.Setting, classes: int = 10, count: int = 64) -> images.ImageData:
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


def measure(
    chosen: Sequence[training.Setting],
    seconds: float = 5.0,
    device: str = "cpu",
    compiled: bool = False,
    rounds: int = 3,
) -> list[ledger.Record]:
    """Time training steps of each setting in turn, several rounds; best round of each.

    Parameters
    ----------
    chosen : sequence of Setting
        Settings of one arm; data are random bytes of the same shape.
    seconds : float
        Time for each setting and round.
    device, compiled
        See :class:`.training.Training`.
    rounds : int
        Rounds over all settings: other work on the machine then hits all alike.

    Returns
    -------
    list of Record
        With metrics ``images_per_second`` and ``flops_per_image``.
    """
    runs, best = [], []
    for setting in chosen:
        data = stand_in(setting, count=max(64, setting.batch))
        run = training.Training(setting, 0, data, device, compiled=compiled)
        run.run(until=2)  # memory, plans of the libraries, compilation
        runs.append((run, data))
        best.append(0.0)
    for _ in range(rounds):
        for i, (run, _) in enumerate(runs):
            best[i] = max(best[i], _speed(run, seconds))
    return [
        _record(run, data, speed, device, compiled)
        for (run, data), speed in zip(runs, best, strict=True)
    ]


def _speed(run: training.Training, seconds: float) -> float:
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds or not done:
        run.one(measure=False)
        run.step -= 1  # the same step again: the schedule does not matter here
        done += 1
        if run.device.type == "cuda" and done % 10 == 0:
            torch.cuda.synchronize(run.device)
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return done * run.setting.batch / (time.perf_counter() - began)


def _record(
    run: training.Training, data: images.ImageData, speed: float, device: str, compiled: bool
) -> ledger.Record:
    setting = run.setting
    config: dict[str, Any] = {
        "arm": setting.arm,
        "row": training.row_of(training.config(setting)),
        "batch": setting.batch,
        "precision": setting.precision,
        "compiled": compiled,
        "device": ledger.device_name(device),
    }
    metrics = {"images_per_second": round(speed, 1), "flops_per_image": flops(setting, data)}
    return ledger.Record(
        EXPERIMENT,
        config,
        0,
        metrics,
        setting.scale,
        ["Random images; no data loading."],
        device=ledger.device_name(device),
        peak_memory=ledger.peak_memory(device),
        **ledger.provenance(),
    )
