"""Main networks, layer by layer: SM 4.2, ResNet-50 of SM 4.3, the digits' network."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib.synthetic_gradients import cut, networks

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_parameter_counts():
    count = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    assert count(networks.resnet50()) == 25_557_032
    convolutions = 9 * (
        3 * 64 + 64 * 64 + 64 * 128 + 2 * 128 * 128 + 128 * 256 + 2 * 256 * 256
        + 256 * 512 + 2 * 512 * 512
    )  # fmt: skip
    norms = 2 * (2 * 64 + 3 * 128 + 3 * 256 + 3 * 512)
    assert count(networks.cifar_net()) == convolutions + norms + 512 * 16 * 10 + 10


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_resnet_splits(stem):
    size = 64 if stem == "imagenet" else 32
    value, shapes = torch.randn(2, 3, size, size), []
    for segment in cut(networks.resnet50(7, 4, stem), networks.RESNET_SPLITS[3]):
        value = segment(value)
        shapes.append(tuple(value.shape[1:]))
    first = size // 4 if stem == "imagenet" else size
    assert shapes == [(16 * 2**k, first >> k, first >> k) for k in range(3)] + [(7,)]


def test_wrong_options():
    with pytest.raises(ValueError, match="multiple of 8"):
        networks.cifar_net(image_size=20)
    with pytest.raises(ValueError, match="stem is 'tiny'"):
        networks.resnet50(stem="tiny")


def layers(part: nn.Module) -> list[str]:
    """Exact types of all layers without children, in order; sizes of convolutions."""
    found = []
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            size = f"{layer.in_channels}-{layer.out_channels} {layer.kernel_size[0]}x"
            size += f"{layer.kernel_size[1]} /{layer.stride[0]} p{layer.padding[0]}"
            found.append(f"Conv2d {size}" + ("" if layer.bias is None else " bias"))
        elif isinstance(layer, nn.Linear):
            found.append(f"Linear {layer.in_features}-{layer.out_features}")
        elif not list(layer.children()):
            assert type(layer).__module__.startswith("torch.nn.")
            found.append(type(layer).__name__)
    return found


def test_the_cifar_network_layer_by_layer():
    """SM 4.2, retyped."""
    printed = (
        (64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2), (256, 1), (256, 1),
        (512, 2), (512, 1), (512, 1),
    )  # fmt: skip
    wanted, channels = [], 3
    for out, stride in printed:
        wanted += [f"Conv2d {channels}-{out} 3x3 /{stride} p1", "BatchNorm2d", "ReLU"]
        channels = out
    assert layers(networks.cifar_net()) == [*wanted, "Flatten", f"Linear {512 * 4 * 4}-10"]


def test_the_digits_network_layer_by_layer():
    sizes = (64, 5, 5, 5)
    wanted = []
    for a, b in itertools.pairwise(sizes):
        wanted += [f"Linear {a}-{b}", "BatchNorm1d", "ReLU"]
    assert layers(networks.digits_mlp(5, 3)) == [*wanted, "Linear 5-10"]


def bottleneck(channels: int, width: int, stride: int) -> list[str]:
    """He et al. 2016, Table 1, with the stride in the 3 x 3 convolution."""
    found = [f"Conv2d {channels}-{width} 1x1 /1 p0", "BatchNorm2d"]
    found += [f"Conv2d {width}-{width} 3x3 /{stride} p1", "BatchNorm2d"]
    found += [f"Conv2d {width}-{4 * width} 1x1 /1 p0", "BatchNorm2d", "ReLU"]
    if channels != 4 * width or stride != 1:
        found += [f"Conv2d {channels}-{4 * width} 1x1 /{stride} p0", "BatchNorm2d"]
    return found


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_resnet_layer_by_layer(stem):
    first = "Conv2d 3-6 7x7 /2 p3" if stem == "imagenet" else "Conv2d 3-6 3x3 /1 p1"
    wanted = [first, "BatchNorm2d", "ReLU", *(["MaxPool2d"] if stem == "imagenet" else [])]
    channels = 6
    for width, blocks, stride in ((6, 3, 1), (12, 4, 2), (24, 6, 2), (48, 3, 2)):
        for k in range(blocks):
            wanted += bottleneck(channels, width, stride if k == 0 else 1)
            channels = 4 * width
    wanted += ["AdaptiveAvgPool2d", "Flatten", "Linear 192-9"]
    network = networks.resnet50(9, 6, stem)
    assert layers(network) == wanted
    names = ["conv1", "bn1", "relu", *(["maxpool"] if stem == "imagenet" else [])]
    names += ["layer1", "layer2", "layer3", "layer4", "avgpool", "flatten", "fc"]
    assert [name for name, _ in network.named_children()] == names


BLOCKS = {"plain": (12, 3, 1), "wider": (5, 3, 1), "strided": (12, 3, 2)}


def block(name: str) -> networks.Bottleneck:
    """A block with norms unlike the identity."""
    found = networks.Bottleneck(*BLOCKS[name]).double()
    for layer in found.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1, 0.3)
            nn.init.normal_(layer.bias, 0, 0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.running_mean, 0, 0.3)
    return found


def normed(layer: nn.BatchNorm2d, x: Tensor, training: bool) -> Tensor:
    mean = x.mean(dim=(0, 2, 3)) if training else layer.running_mean
    variance = x.var(dim=(0, 2, 3), correction=0) if training else layer.running_var
    mean, variance, weight, bias = (
        v.detach()[:, None, None] for v in (mean, variance, layer.weight, layer.bias)
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_resnet_block_by_hand(name, training):
    one = block(name).train(training)
    channels, width, stride = BLOCKS[name]
    x = torch.randn(4, channels, 6, 6, dtype=F64)
    value = functional.conv2d(x, one.conv1.weight)
    value = normed(one.bn1, value, training).clamp_min(0)
    value = functional.conv2d(value, one.conv2.weight, stride=stride, padding=1)
    value = normed(one.bn2, value, training).clamp_min(0)
    value = normed(one.bn3, functional.conv2d(value, one.conv3.weight), training)
    shortcut = x
    if name != "plain":
        convolution, norm = one.downsample
        shortcut = functional.conv2d(x, convolution.weight, stride=stride)
        shortcut = normed(norm, shortcut, training)
    else:
        assert one.downsample is None
    wanted = (value + shortcut).clamp_min(0)
    found = one(x)
    assert found.shape == (4, 4 * width, 6 // stride, 6 // stride)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    # with the last norm at zero nothing is left but the shortcut
    nn.init.zeros_(one.bn3.weight)
    nn.init.zeros_(one.bn3.bias)
    assert shortcut.min() < 0 < shortcut.max()
    torch.testing.assert_close(one(x), shortcut.clamp_min(0), rtol=1e-10, atol=1e-12)
