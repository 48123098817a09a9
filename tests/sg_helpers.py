"""What several tests of synthetic gradients need: small networks, settings, records."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from sobolev_lib.records.ledger import Record
from sobolev_lib.synthetic_gradients import Decoupled, decouple, throughput
from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients.settings import EXPERIMENT, Setting, config, row_of, settings

F64 = torch.float64
SPLITS = ("layer1", "layer2", "layer3")


def small(batch_norm: bool = False) -> nn.Sequential:
    """Three splits, every width another one."""
    network = nn.Sequential()
    for k, (a, b) in enumerate(itertools.pairwise((6, 7, 5, 8))):
        norm = nn.BatchNorm1d(b) if batch_norm else nn.Identity()
        network.add_module(f"layer{k + 1}", nn.Sequential(nn.Linear(a, b), norm, nn.Tanh()))
    network.add_module("head", nn.Linear(8, 4))
    return network.double()


def batch(count: int = 9, classes: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 6, dtype=F64), torch.randint(classes, (count,))


def make(mode: str, network: nn.Sequential | None = None, **options) -> Decoupled:
    network = network or small()
    net = decouple(network, SPLITS, mode, example=torch.zeros(2, 6, dtype=F64), **options)
    for parameter in net.module_parameters():  # direct: not at zero
        nn.init.normal_(parameter, std=0.3)
    return net


def grads(parameters) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in parameters]


def tiny(row: str = "sobolev", **changes) -> Setting:
    """The digits, six steps."""
    base = {"epochs": 2, "train_images": 96, "batch": 32}
    return settings("digits", [row], **{**base, **changes})[0]


def picture(row: str = "sobolev", **changes) -> Setting:
    """CIFAR's network, tiny, on random images, augmented."""
    base = {"width": 4, "hidden": 5, "image_size": 8, "epochs": 2, "batch": 16}
    return settings("cifar10_reduced", [row], **{**base, **changes})[0]


def fake_images(count: int = 48) -> images.ImageData:
    return throughput.stand_in(picture(), count=count)


TOP1 = {
    "backprop": 94.0, "noprop": 50.0, "direct": 79.0, "vfbn": 88.0, "critic": 92.0,
    "sobolev": 93.5, "local_ce": 92.5,
}  # fmt: skip
COSINE = {"direct": 0.4, "vfbn": 0.3, "critic": 0.1, "sobolev": 0.2, "local_ce": 0.05}


def made(arm="cifar10_reduced", top1=TOP1, seeds=4, spread=0.1, cosine=COSINE, dead=0.0, **changes):
    """Return records of an arm with given accuracies, cosines by split, a little spread.

    ``dead`` is the share of dead units of every module; ``None``: it was not recorded.
    """
    records = []
    for setting in settings(arm, list(top1), **changes):
        row = row_of(config(setting))
        for seed in range(seeds):
            wave = spread * np.sin(seed + 10 * len(row))
            late = [
                cosine.get(row, 0.0) + 0.01 * seed + 0.1 * k for k in range(len(setting.splits))
            ]
            late = late if setting.module in COSINE else []
            metrics = {
                "top1": top1[row] + wave, "top5": 99.0 + 0.1 * wave, "cosine": late,
                "gradient_scale": [0.5] * len(late),
                **({} if dead is None else {"dead": [dead] * len(late)}),
                "curve": {
                    "steps": [0, 10], "cosine": [late] * 2, "scale": [late] * 2, "loss": [2.0, 1.0],
                },
                "tests": {
                    "steps": [10, 20], "top1": [1.0, 2.0], "top5": [1.0, 2.0], "loss": [1.0, 1.0],
                },
            }  # fmt: skip
            told = setting.deviations("folder of images")
            records.append(Record(EXPERIMENT, config(setting), seed, metrics, "small", told))
    return records
