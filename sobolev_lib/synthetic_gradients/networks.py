"""Main networks: the CIFAR-10 net of SM 4.2, ResNet-50 (SM 4.3), and a small one for digits.

All are ``nn.Sequential`` with named children, so that :func:`~.decoupling.decouple` can cut them
between any two.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from sobolev_lib.checks import check_choice


def digits_mlp(
    width: int = 16, depth: int = 8, in_features: int = 64, classes: int = 10
) -> nn.Sequential:
    """Multilayer perceptron with batch normalisation, for vectors (B, in_features).

    Children ``layer1`` ... ``layerD`` (linear, batch norm, ReLU) and ``head``.
    """
    children: OrderedDict[str, nn.Module] = OrderedDict()
    for k in range(1, depth + 1):
        children[f"layer{k}"] = nn.Sequential(
            nn.Linear(in_features if k == 1 else width, width), nn.BatchNorm1d(width), nn.ReLU()
        )
    children["head"] = nn.Linear(width, classes)
    return nn.Sequential(children)


CIFAR_STAGES = ((1, 2), (2, 3), (4, 3), (8, 3))
"""Stages of SM 4.2: (width in units of the first, number of convolutions)."""

CIFAR_SPLITS = ("conv2", "conv5", "conv8")
"""The three splits: before each convolution of stride 2. The paper does not say where."""


def cifar_net(width: int = 64, classes: int = 10, image_size: int = 32) -> nn.Sequential:
    """The eleven convolutions of SM 4.2, with batch normalisation and ReLU, and a linear layer.

    Children ``conv1`` ... ``conv11`` and ``head``; 64, 64, 128/2, 128, 128, 256/2, 256, 256,
    512/2, 512, 512 channels for ``width`` = 64, "/2" a stride of 2.

    The height and width of images is a multiple of 8; the linear layer sees all positions, as the
    paper names no pooling.
    """
    if image_size % 8 or image_size < 8:
        raise ValueError(f"image_size is {image_size}; it must be a multiple of 8")
    children: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for stage, (factor, count) in enumerate(CIFAR_STAGES):
        for k in range(count):
            out = width * factor
            # No bias: batch normalisation takes every constant away.
            children[f"conv{len(children) + 1}"] = nn.Sequential(
                nn.Conv2d(channels, out, 3, 2 if stage and not k else 1, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            )
            channels = out
    children["head"] = nn.Sequential(
        nn.Flatten(), nn.Linear(channels * (image_size // 8) ** 2, classes)
    )
    return nn.Sequential(children)


class Bottleneck(nn.Module):
    """Residual block of ResNet-50: 1 x 1, 3 x 3, 1 x 1 convolutions (He et al. 2016).

    The stride is in the 3 x 3 convolution, as in the implementations that publish weights, whose
    names the parameters have.
    """

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU()
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)
            )
            if stride != 1 or channels != out
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, channels, H, W) to (B, 4 width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        value = self.relu(self.bn1(self.conv1(x)))
        value = self.relu(self.bn2(self.conv2(value)))
        return self.relu(self.bn3(self.conv3(value)) + shortcut)


RESNET_SPLITS = {1: ("layer2",), 3: ("layer1", "layer2", "layer3")}
"""Splits by number of modules. One: "after second ResNet block" (SM 4.3), read as the stage."""


def resnet50(classes: int = 1000, width: int = 64, stem: str = "imagenet") -> nn.Sequential:
    """ResNet-50; children as in the usual implementations: ``conv1`` ... ``layer4`` ... ``fc``.

    Parameters
    ----------
    width : int
        Channels after the stem; 64 in the paper, 25,557,032 parameters for 1,000 classes.
    stem : {"imagenet", "small"}
        "imagenet": 7 x 7 convolution of stride 2 and max pooling; "small", for images of some 32
        pixels: a 3 x 3 convolution of stride 1.
    """
    check_choice("stem", stem, ("imagenet", "small"))
    large = stem == "imagenet"
    kernel, stride, padding = (7, 2, 3) if large else (3, 1, 1)
    children: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, width, kernel, stride, padding, bias=False),
        bn1=nn.BatchNorm2d(width),
        relu=nn.ReLU(),
    )
    if large:
        children["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    channels = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        layers = []
        for k in range(blocks):
            stride = 2 if stage and not k else 1
            layers.append(Bottleneck(channels, width * 2**stage, stride))
            channels = width * 2**stage * Bottleneck.expansion
        children[f"layer{stage + 1}"] = nn.Sequential(*layers)
    children["avgpool"] = nn.AdaptiveAvgPool2d(1)
    children["flatten"] = nn.Flatten()
    children["fc"] = nn.Linear(channels, classes)
    network = nn.Sequential(children)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


NETWORKS = {"mlp": digits_mlp, "cifar": cifar_net, "resnet50": resnet50}
"""Networks by name, as the ledger's ``network`` has it."""
