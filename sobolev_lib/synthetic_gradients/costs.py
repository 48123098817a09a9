"""What a full run of Table 1 costs: operations counted, sizes of networks and modules."""

from __future__ import annotations

from typing import Any

from sobolev_lib.synthetic_gradients import networks, throughput, training

IMAGES = {"cifar10": 50_000, "imagenet": 1_281_167, "imagenette": 9_469, "imagenet200": 100_000}
"""Training images."""

CLASSES = {"cifar10": 10, "imagenet": 1_000, "imagenette": 10, "imagenet200": 200}


def training_flops(setting: training.Setting) -> float:
    """Floating-point operations of a whole training run, counted on one small batch."""
    data = throughput.stand_in(setting, CLASSES[setting.data], 2)
    count = setting.train_images or IMAGES[setting.data]
    return throughput.flops(setting, data, 1) * count * setting.epochs


def gpu_hours(operations: float, teraflops: float = 100.0) -> float:
    """Hours at a sustained rate of so many 10^12 operations a second.

    Raises
    ------
    ValueError
        If the rate is not positive.
    """
    if not teraflops > 0:
        raise ValueError(f"teraflops is {teraflops}; it must be positive")
    return operations / (teraflops * 1e12) / 3600


def module_sizes(setting: training.Setting) -> list[dict[str, Any]]:
    """Shape at each split, and number of parameters below it and of its module."""
    data = throughput.stand_in(setting, CLASSES[setting.data], 2)
    net = training.build(setting, data, 0)
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


def resnet_parameters(classes: int = 1000) -> int:
    """Number of parameters of ResNet-50, counted."""
    return sum(p.numel() for p in networks.resnet50(classes).parameters())
