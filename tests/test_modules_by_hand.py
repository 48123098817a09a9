"""Modules, networks and steps against computations written out; every split is cut off."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from test_synthetic_gradients import F64, SPLITS, batch, make, small
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib.synthetic_gradients import Decoupled, Objective, decouple, networks, table1
from sobolev_lib.synthetic_gradients import modules as sg


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


# Losses on maps.


def distance_by_hand(a: Tensor, b: Tensor, element: str, reduction: str) -> float:
    """Over all elements of an example, one after the other; then the mean over examples."""
    each = []
    for u, v in zip(a.flatten(1).tolist(), b.flatten(1).tolist(), strict=True):
        gaps = [abs(p - q) if element == "l1" else (p - q) ** 2 for p, q in zip(u, v, strict=True)]
        each.append(math.fsum(gaps) / (len(gaps) if reduction == "mean" else 1))
    return math.fsum(each) / len(each)


@pytest.mark.parametrize("element", ["l1", "l2"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("shape", [(5,), (5, 7), (5, 3, 4, 6)])
def test_distance_by_hand(shape, element, reduction):
    a, b = torch.randn(shape, dtype=F64), torch.randn(shape, dtype=F64)
    columns = (x.reshape(len(x), -1) for x in (a, b))
    wanted = distance_by_hand(*columns, element, reduction)
    found = Objective(element, reduction).distance(a, b)
    assert found.shape == () and found.item() == pytest.approx(wanted, rel=1e-12)
    last = a.reshape(shape)
    if len(shape) == 4:  # the order in memory does not matter
        last = a.contiguous(memory_format=torch.channels_last)
    assert Objective(element, reduction).distance(last, b).item() == pytest.approx(wanted)


@pytest.mark.parametrize("element", ["l1", "l2"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("kind", ["direct", "vfbn", "critic", "sobolev"])
def test_losses_on_maps_by_hand(kind, pooled, element, reduction):
    objective = Objective(element, reduction, gradient_weight=0.7, label_weight=0.3)
    module = sg.build(kind, (3, 4, 6), 4, objective, 5, pooled).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    h, y = torch.randn(5, 3, 4, 6, dtype=F64), torch.randint(4, (5,))
    true_loss, true_gradient = torch.rand(5, dtype=F64), torch.randn(5, 3, 4, 6, dtype=F64)
    true_logp = torch.randn(5, 4, dtype=F64).log_softmax(dim=1)
    said = module(h, y)
    assert said.gradient is not None
    found = module.loss(said, true_loss, true_gradient, true_logp)
    wanted = 0.0
    if kind != "critic":
        weight = 0.7 if kind == "sobolev" else 1.0
        wanted += weight * distance_by_hand(said.gradient, true_gradient, element, reduction)
    if kind in ("critic", "sobolev"):
        pairs = ((said.loss[:, None], true_loss[:, None], 1.0),)
        pairs += ((said.log_probabilities, true_logp, 0.3),)
        wanted += sum(w * distance_by_hand(a, b, element, reduction) for a, b, w in pairs)
    assert found.item() == pytest.approx(wanted, rel=1e-12)


# What `accumulate` hands to the modules, and what it does with their losses.


@pytest.fixture
def handed(monkeypatch):
    """Arguments of `Module.loss`, by split."""
    found = []
    real = sg.Module.loss

    def spy(self, said, loss, gradient, logp=None):
        found.append((said, loss, gradient, logp))
        return real(self, said, loss, gradient, logp)

    monkeypatch.setattr(sg.Module, "loss", spy)
    return found


@pytest.mark.parametrize("mode", ["critic", "sobolev"])
def test_label_targets_are_the_networks_log_probabilities(mode, handed):
    net = make(mode, objective=Objective("l2", label_weight=0.6))
    x, y = batch()
    logits = net(x).detach()
    wanted = logits - logits.exp().sum(dim=1, keepdim=True).log()
    cross = -wanted[torch.arange(len(y)), y]
    step = net.accumulate(x, y)
    assert len(handed) == 3
    for _, loss, _, logp in handed:
        torch.testing.assert_close(logp, wanted, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(loss, cross, rtol=1e-12, atol=1e-14)
        assert not logp.requires_grad and not loss.requires_grad
    torch.testing.assert_close(step.loss, cross, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(step.logits, logits, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", ["direct", "vfbn", "critic", "sobolev", "local_ce"])
def test_each_module_has_the_gradient_of_its_own_whole_loss(mode):
    """However many splits there are: the sum of the losses, not their mean."""
    net = make(mode, objective=Objective(gradient_weight=0.7, label_weight=0.3))
    x, y = batch()
    true, logits = net.true_gradients(x, y), net(x).detach()
    cross, logp = functional.cross_entropy(logits, y, reduction="none"), logits.log_softmax(dim=1)
    step = net.accumulate(x, y)
    h = x
    for k, (segment, module) in enumerate(zip(net.segments, net.synthesizers, strict=False)):
        h = segment(h).detach()
        own = module.loss(module(h, y), cross, true[k], logp)
        assert own is not None
        torch.testing.assert_close(step.module_losses[k], own.detach(), rtol=1e-10, atol=0)
        wanted = torch.autograd.grad(own, list(module.parameters()), allow_unused=True)
        for p, g in zip(module.parameters(), wanted, strict=True):
            g = torch.zeros_like(p) if g is None else g
            found = torch.zeros_like(p) if p.grad is None else p.grad
            torch.testing.assert_close(found, g, rtol=1e-9, atol=1e-13)


# Nothing above a split is seen below it.


def renewed(net: Decoupled, split: int) -> Decoupled:
    """A copy with other weights everywhere above a split, in its modules too."""
    other = copy.deepcopy(net)
    above = [*list(other.segments)[split + 1 :], *list(other.synthesizers)[split + 1 :]]
    for part in above:
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.6)
    return other


def check_isolation(net: Decoupled, split: int, measure: bool = False) -> None:
    """The segment under a split learns the same, bit for bit, whatever is above."""
    x, y = batch()
    other = renewed(net, split)
    assert not torch.allclose(net.true_gradients(x, y)[split], other.true_gradients(x, y)[split])
    for one in (net, other):
        one.accumulate(x, y, measure=measure)
    pairs = zip(net.segments[split].parameters(), other.segments[split].parameters(), strict=True)
    for a, b in pairs:
        if net.mode == "noprop":
            assert a.grad is None and b.grad is None
        else:
            assert a.grad.abs().max() > 0
            assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("mode", sg.KINDS)
@pytest.mark.parametrize("split", range(3))
@pytest.mark.parametrize("measure", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_segment_sees_nothing_above_its_split(mode, split, measure, batch_norm):
    check_isolation(make(mode, small(batch_norm)), split, measure)


@pytest.mark.parametrize("mode", ["direct", "vfbn", "sobolev"])
@pytest.mark.parametrize("split", range(3))
def test_bootstrapped_targets_change_modules_only(mode, split):
    check_isolation(make(mode, targets="bootstrapped"), split)


class Leaky(Decoupled):
    """Sends the true gradient into one segment; what the tests above must not let pass."""

    into = 1

    def _send(self, inputs, outputs, loss, predictions):
        true = self._true_gradients(inputs, outputs, loss)
        leaked = list(predictions)
        leaked[self.into] = sg.Prediction(true[self.into])
        return super()._send(inputs, outputs, loss, leaked)


@pytest.mark.parametrize("mode", sg.KINDS)
@pytest.mark.parametrize("into", range(3))
def test_the_check_finds_a_true_gradient_in_any_segment(mode, into, monkeypatch):
    net = make(mode)
    leaky = Leaky(net.segments, net.synthesizers, mode)
    monkeypatch.setattr(Leaky, "into", into)
    with pytest.raises(AssertionError):
        check_isolation(leaky, into)


@pytest.mark.parametrize("mode", ["direct", "vfbn", "critic", "sobolev", "local_ce"])
def test_every_lower_segment_gets_its_own_modules_prediction(mode):
    net = make(mode, small(batch_norm=True))
    x, y = batch()
    value, wanted = x, []
    reference = copy.deepcopy(net)
    for segment, module in zip(reference.segments, reference.synthesizers, strict=False):
        h = segment(value)
        said = module(h, y).gradient
        assert said is not None
        wanted.append(
            torch.autograd.grad((h * said.detach()).sum() / len(x), list(segment.parameters()))
        )
        value = h.detach()
    net.accumulate(x, y)
    for segment, by_hand in zip(net.segments, wanted, strict=False):
        for p, g in zip(segment.parameters(), by_hand, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-10, atol=1e-14)


# Architectures, layer by layer.


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


@pytest.mark.parametrize("shape", [(7,), (3, 5, 6)])
def test_direct_gradients_by_hand(shape):
    """Three layers, the label a bias of the first, ReLU between them and none at the end."""
    model = sg.direct(shape, 4, 5).double()
    convolution = len(shape) == 3
    a = f"Conv2d {shape[0]}-5 3x3 /1 p1 bias" if convolution else f"Linear {shape[0]}-5"
    b = "Conv2d 5-5 3x3 /1 p1 bias" if convolution else "Linear 5-5"
    c = f"Conv2d 5-{shape[0]} 3x3 /1 p1 bias" if convolution else f"Linear 5-{shape[0]}"
    assert layers(model) == [a, b, c, "Linear 4-5"] and model.label.bias is None
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    h, y = torch.randn(6, *shape, dtype=F64), torch.tensor([0, 1, 2, 3, 3, 0])
    operation: Callable[..., Tensor] = functional.linear
    if convolution:
        operation = lambda x, w, b: functional.conv2d(x, w, b, padding=1)  # noqa: E731
    label = model.label.weight.t()[y].reshape(6, 5, *([1] * (len(shape) - 1)))
    one, two, three = model.layers
    first = operation(h, one.weight, one.bias) + label
    second = operation(first.clamp_min(0), two.weight, two.bias)
    wanted = operation(second.clamp_min(0), three.weight, three.bias)
    for value in (first, second, wanted):  # each kink matters
        assert value.min() < 0 < value.max()
    torch.testing.assert_close(model(h, y), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "pooled", "wanted"),
    [
        ((7,), False, ["Linear 7-64", "ReLU", "Linear 64-10"]),
        (
            (12, 8, 6),
            False,
            ["Conv2d 12-128 3x3 /1 p1 bias", "ReLU", "FlattenMaps", "Linear 6144-10"],
        ),
        (
            (12, 8, 6),
            True,
            [
                "Conv2d 12-64 3x3 /1 p1 bias", "ReLU", "Conv2d 64-64 3x3 /2 p1 bias", "ReLU",
                "AdaptiveAvgPool2d", "Flatten", "Linear 64-10",
            ],
        ),
    ],
)  # fmt: skip
def test_class_predictors_layer_by_layer(shape, pooled, wanted):
    """SM 4.2 and 4.3; `FlattenMaps` is the only layer of ours."""
    network = sg.classifier(shape, 10, pooled=pooled)
    found = ["FlattenMaps" if type(m) is sg.FlattenMaps else layers(m)[0] for m in network]
    assert found == wanted


def test_modules_of_several_splits_share_nothing():
    net = decouple(small(), SPLITS, "sobolev", example=torch.zeros(2, 6, dtype=F64))
    parameters = list(net.parameters())
    assert len({p.data_ptr() for p in parameters}) == len(parameters)


# The paper's Table 1.

ROWS = ("noprop", "direct", "vfbn", "critic", "sobolev")
PRINTED = {
    ("cifar10", "top1"): (
        94.3, (54.5, 1.15), (79.2, 0.01), (88.5, 2.70), (93.2, 0.02), (93.5, 0.01),
    ),
    ("imagenet_1", "top1"): (75.0, (54.0, 0.29), None, (57.9, 2.03), (71.7, 0.23), (72.0, 0.05)),
    ("imagenet_1", "top5"): (92.3, (77.3, 0.06), None, (81.5, 1.20), (90.5, 0.15), (90.8, 0.01)),
    ("imagenet_3", "top1"): (75.0, (18.7, 0.18), None, (28.3, 5.24), (65.7, 0.56), (66.5, 0.22)),
    ("imagenet_3", "top5"): (92.3, (38.0, 0.34), None, (52.9, 6.62), (86.9, 0.33), (87.4, 0.11)),
}  # fmt: skip


def test_all_numbers_of_the_papers_table():
    """Line by line as printed: backpropagation in parentheses, then the five modules."""
    wanted = {}
    for (key, metric), (backprop, *numbers) in PRINTED.items():
        wanted[key, metric, "backprop"] = (backprop, None)
        for row, number in zip(ROWS, numbers, strict=True):
            if number is not None:
                wanted[key, metric, row] = number
    found = {
        (key, metric, row): (cell.value, cell.deviation)
        for key, part in table1.BLOCKS.items()
        for metric, cells in part.cells.items()
        for row, cell in cells.items()
    }
    assert len(wanted) == 26 and found == wanted


def test_places_in_the_paper():
    for key, title in (
        ("cifar10", "CIFAR-10 with 3 synthetic gradient modules"),
        ("imagenet_1", "ImageNet with 1 synthetic gradient module"),
        ("imagenet_3", "ImageNet with 3 synthetic gradient modules"),
    ):
        part = table1.BLOCKS[key]
        assert part.title == title and part.modules == int(title.split()[2])
        for metric, cells in part.cells.items():
            name = {"top1": "top 1", "top5": "top 5"}[metric]
            place = f"Table 1, {title.replace(' with', ',').replace('synthetic gradient ', '')}"
            assert {cell.where for cell in cells.values()} == {f"{place}, {name}"}
