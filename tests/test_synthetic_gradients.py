"""Modules, decoupling and networks of synthetic gradients."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib import kinks
from sobolev_lib.synthetic_gradients import (
    MODES,
    Decoupled,
    Objective,
    cut,
    decouple,
    decoupling,
    networks,
)
from sobolev_lib.synthetic_gradients import modules as sg
from sobolev_lib.synthetic_gradients.decoupling import cross_entropy

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def small(batch_norm: bool = False) -> nn.Sequential:
    """Three splits, every width another one."""
    norm = (lambda n: nn.BatchNorm1d(n)) if batch_norm else (lambda n: nn.Identity())
    children = {}
    sizes = (6, 7, 5, 8)
    for k, (a, b) in enumerate(itertools.pairwise(sizes)):
        children[f"layer{k + 1}"] = nn.Sequential(nn.Linear(a, b), norm(b), nn.Tanh())
    network = nn.Sequential()
    for name, child in children.items():
        network.add_module(name, child)
    network.add_module("head", nn.Linear(8, 4))
    return network.double()


SPLITS = ("layer1", "layer2", "layer3")


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


# The class predictor's slope and its derivative by the parameters.

HEADS = {
    "vector": lambda: sg.classifier((7,), 4, 6),
    "map": lambda: sg.classifier((3, 5, 6), 4, 6),
    "pooled": lambda: sg.classifier((3, 5, 6), 4, 6, pooled=True),
    "odd strides": lambda: nn.Sequential(
        nn.Conv2d(3, 4, (3, 2), stride=(2, 3), padding=(0, 1)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4, bias=False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_the_written_out_slope_is_autograds_with_its_parameter_gradients(name):
    network = HEADS[name]().double()
    shape = (7,) if name == "vector" else (3, 5, 6)
    h, y = torch.randn(5, *shape, dtype=F64), torch.randint(4, (5,))
    weights = torch.randn(5, *shape, dtype=F64), torch.randn(5, dtype=F64)
    found = []
    for way in ("explicit", "autograd"):
        model = sg.LossModel(network, way)
        assert model.explicit is (way == "explicit")
        m, slope, logp = model(h, y)
        network.zero_grad()
        ((slope * weights[0]).sum() + (m * weights[1]).sum()).backward()
        found.append([m, slope, logp, *(p.grad.clone() for p in network.parameters())])
    for a, b in zip(*found, strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_the_slope_is_that_of_the_cross_entropy():
    model = sg.LossModel(sg.classifier((7,), 4).double())
    h, y = torch.randn(3, 7, dtype=F64), torch.tensor([1, 0, 3])
    step = 1e-6
    _, slope, logp = model(h, y)
    wanted = model.network(h).log_softmax(dim=1)
    torch.testing.assert_close(logp, wanted, rtol=1e-12, atol=0)
    for k in range(7):
        move = torch.zeros(7, dtype=F64)
        move[k] = step
        ahead, behind = (
            functional.cross_entropy(model.network(h + s * move), y, reduction="none")
            for s in (1, -1)
        )
        torch.testing.assert_close(slope[:, k], (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


def test_a_constant_slope_has_the_same_values():
    model = sg.LossModel(sg.classifier((3, 5, 6), 4, 6).double())
    h, y = torch.randn(5, 3, 5, 6, dtype=F64), torch.randint(4, (5,))
    (m, slope, _), (m0, slope0, _) = model(h, y), model(h, y, differentiable=False)
    torch.testing.assert_close((m, slope.detach()), (m0, slope0), rtol=1e-12, atol=1e-14)
    assert slope.requires_grad and not slope0.requires_grad


def test_kink_kernel_adds_a_gradient_that_plain_relu_lacks():
    plain = sg.build("vfbn", (7,), 4).double()
    bent = copy.deepcopy(plain)
    kinks.replace(bent.network.network, 0.5)
    bent.network = sg.LossModel(bent.network.network)
    assert plain.network.explicit and not bent.network.explicit
    h, y = torch.randn(20, 7, dtype=F64), torch.randint(4, (20,))
    target, loss = torch.randn(20, 7, dtype=F64), torch.rand(20, dtype=F64)
    values = []
    for module in (plain, bent):
        total = module.loss(module(h, y), loss, target)
        total.backward()
        values.append((total.detach(), module.network.network[0].bias.grad))
    torch.testing.assert_close(values[0][0], values[1][0], rtol=1e-12, atol=0)
    assert not torch.allclose(values[0][1], values[1][1], rtol=1e-3)


def test_build_scales_the_bandwidth_by_the_spread():
    module = sg.build("sobolev", (3, 8, 8), 4, bandwidth=0.2)
    relu = module.network.network[1]
    assert isinstance(relu, kinks.ReLU) and relu.scaled and relu.bandwidth == 0.2


# Losses of the modules.


@pytest.mark.parametrize("element", ["l1", "l2"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_losses_by_hand(element, reduction):
    objective = Objective(element, reduction, gradient_weight=0.7, label_weight=0.3)
    h, y = torch.randn(5, 7, dtype=F64), torch.randint(4, (5,))
    true_loss, true_gradient = torch.rand(5, dtype=F64), torch.randn(5, 7, dtype=F64)
    true_logp = torch.log_softmax(torch.randn(5, 4, dtype=F64), dim=1)
    power = 1 if element == "l1" else 2
    each = 1 if reduction == "sum" else 7
    label = 1 if reduction == "sum" else 4
    for kind in sg.KINDS:
        module = sg.build(kind, (7,), 4, objective).double()
        said = module(h, y)
        got = module.loss(said, true_loss, true_gradient, true_logp)
        if kind == "noprop":
            assert got is None and said.gradient is None
            continue
        gap = ((said.gradient - true_gradient).abs() ** power).sum(dim=1).mean() / each
        if kind in ("direct", "vfbn"):
            wanted = gap
        elif kind == "local_ce":
            wanted = functional.cross_entropy(module.network.network(h), y)
        else:
            wanted = ((said.loss - true_loss).abs() ** power).mean()
            off = (said.log_probabilities - true_logp).abs() ** power
            wanted = wanted + 0.3 * off.sum(dim=1).mean() / label
            wanted = wanted + 0.7 * gap if kind == "sobolev" else wanted
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)


def test_label_derivative_identity():
    """SM 4.1: with y free, ||dm/dy - dL/dy||^2 = ||log p(h) - log p_h||^2."""
    logits, true = (torch.randn(6, 4, dtype=F64) for _ in range(2))
    y = functional.one_hot(torch.randint(4, (6,)), 4).to(F64).requires_grad_()
    slopes = [
        torch.autograd.grad(functional.cross_entropy(z, y, reduction="sum"), y)[0]
        for z in (logits, true)
    ]
    squared = (slopes[0] - slopes[1]).square().sum(dim=1).mean()
    objective = Objective("l2", "sum")
    logp, true_logp = logits.log_softmax(dim=1), true.log_softmax(dim=1)
    found = sg.label_derivative_distance(logp, true_logp, objective)
    torch.testing.assert_close(found, squared, rtol=1e-12, atol=0)
    # and the loss term sees the true class only
    of_true = (logp - true_logp).gather(1, y.argmax(dim=1, keepdim=True)).square().mean()
    m, big = (functional.cross_entropy(z, y, reduction="none") for z in (logits, true))
    torch.testing.assert_close(objective.distance(m, big), of_true, rtol=1e-12, atol=0)


# One step.


@pytest.mark.parametrize("mode", MODES)
def test_upper_segment_always_has_the_true_gradient(mode):
    net = make(mode)
    x, y = batch()
    reference = copy.deepcopy(net)
    functional.cross_entropy(reference(x), y).backward()
    net.accumulate(x, y)
    for a, b in zip(
        net.segments[-1].parameters(), reference.segments[-1].parameters(), strict=True
    ):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-14)


def test_backprop_mode_is_backpropagation_everywhere():
    net = make("backprop")
    x, y = batch()
    reference = copy.deepcopy(net)
    functional.cross_entropy(reference(x), y).backward()
    net.accumulate(x, y)
    for a, b in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_true_gradients_are_those_of_backpropagation(batch_norm):
    net = make("sobolev", small(batch_norm))
    x, y = batch()
    value, kept = x, []
    for segment in net.segments:
        value = segment(value)
        value.retain_grad()
        kept.append(value)
    functional.cross_entropy(value, y, reduction="sum").backward()
    found = net.true_gradients(x, y)
    assert len(found) == 3
    for g, h in zip(found, kept, strict=False):
        torch.testing.assert_close(g, h.grad, rtol=1e-10, atol=1e-14)


@pytest.fixture
def seen(monkeypatch):
    """Gradients that modules are given as targets, in order."""
    found = []
    real = sg.Module.loss

    def spy(self, said, loss, gradient, logp=None):
        found.append(gradient.clone())
        return real(self, said, loss, gradient, logp)

    monkeypatch.setattr(sg.Module, "loss", spy)
    return found


@pytest.mark.parametrize("mode", ["direct", "vfbn", "sobolev"])
def test_modules_are_trained_on_the_true_gradient(mode, seen):
    net = make(mode, small(batch_norm=True))
    x, y = batch()
    true = copy.deepcopy(net).true_gradients(x, y)
    net.accumulate(x, y)
    for a, b in zip(seen, true, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("mode", sg.KINDS)
@pytest.mark.parametrize("measure", [False, True])
def test_lower_segments_never_see_the_true_gradient(mode, measure):
    """Other weights above a split: the true gradient changes, what is below does not notice."""
    net = make(mode)
    other = copy.deepcopy(net)
    for segment in list(other.segments)[1:]:
        for parameter in segment.parameters():
            nn.init.normal_(parameter)
    x, y = batch()
    assert not torch.allclose(net.true_gradients(x, y)[0], other.true_gradients(x, y)[0])
    for one in (net, other):
        one.accumulate(x, y, measure=measure)
    for a, b in zip(
        grads(net.segments[0].parameters()), grads(other.segments[0].parameters()), strict=True
    ):
        if mode == "noprop":
            assert a is None and b is None
        else:
            assert a.abs().max() > 0
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["direct", "critic", "sobolev", "local_ce"])
def test_lower_segments_get_the_synthetic_gradient(mode):
    net = make(mode)
    x, y = batch()
    h = net.segments[0](x)
    said = net.synthesizers[0](h, y).gradient.detach()
    wanted = torch.autograd.grad((h * said).sum() / len(x), list(net.segments[0].parameters()))
    net.accumulate(x, y)
    for p, g in zip(net.segments[0].parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-10, atol=1e-14)


def test_a_module_that_is_right_gives_backpropagation():
    """The head of the network as class predictor: the synthetic gradient is the true one."""
    network = small()
    net = decouple(
        network, ["layer3"], "sobolev", example=torch.zeros(2, 6, dtype=F64),
        architecture=lambda shape, classes: copy.deepcopy(network.head),
    )  # fmt: skip
    x, y = batch()
    reference = copy.deepcopy(net)
    functional.cross_entropy(reference(x), y).backward()
    step = net.accumulate(x, y, measure=True)
    for a, b in zip(net.main_parameters(), reference.main_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-14)
    assert step.cosines[0].item() == pytest.approx(1)
    assert step.batch_cosines[0].item() == pytest.approx(1)
    assert step.scales[0].item() == pytest.approx(1)
    assert step.module_losses[0].item() == pytest.approx(0, abs=1e-7)


def test_measuring_changes_nothing():
    x, y = batch()
    for mode in sg.KINDS:
        one = make(mode, small(batch_norm=True))
        two = copy.deepcopy(one)
        one.accumulate(x, y)
        two.accumulate(x, y, measure=True)
        for a, b in zip(grads(one.parameters()), grads(two.parameters()), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_module_losses_train_modules_only():
    net = make("sobolev")
    x, y = batch()
    before = net.accumulate(x, y).module_losses
    main = grads(net.main_parameters())
    net.zero_grad()
    for module in net.synthesizers:
        module.objective = Objective(gradient_weight=100.0)
    after = net.accumulate(x, y).module_losses
    assert all(a > b for a, b in zip(after, before, strict=True))
    for a, b in zip(main, grads(net.main_parameters()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_bootstrapped_targets_are_the_next_prediction_sent_back(seen):
    net = make("sobolev", targets="bootstrapped")
    assert not net.needs_true_gradients
    x, y = batch()
    net.accumulate(x, y)
    true = net.true_gradients(x, y)
    torch.testing.assert_close(seen[2], true[2], rtol=1e-10, atol=1e-14)
    h = net.segments[0](x).detach().requires_grad_()
    above = net.segments[1](h)
    said = net.synthesizers[1](above, y).gradient.detach()
    torch.testing.assert_close(
        seen[0], torch.autograd.grad(above, h, said)[0], rtol=1e-10, atol=1e-14
    )
    assert not torch.allclose(seen[0], true[0])


@pytest.mark.parametrize("mode", MODES)
def test_batch_statistics_move_once_a_step(mode):
    net = make(mode, small(batch_norm=True))
    reference = copy.deepcopy(net)
    x, y = batch()
    net.accumulate(x, y, measure=True)
    reference(x)
    for (name, a), b in zip(net.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14, msg=name)
        if name.endswith("num_batches_tracked"):
            assert a == 1


def test_decouple_leaves_batch_statistics_and_mode_alone():
    network = small(batch_norm=True)
    make("sobolev", network)
    assert network.training
    assert all(
        b.num_batches_tracked == 0 for b in network.modules() if hasattr(b, "num_batches_tracked")
    )


def test_zero_weight_skips_true_gradients(monkeypatch):
    net = make("sobolev", objective=Objective(gradient_weight=0.0))
    monkeypatch.setattr(Decoupled, "_true_gradients", lambda *_: pytest.fail("paid for"))
    net.accumulate(*batch())


def test_works_in_bfloat16_and_channels_last():
    net = decouple(
        networks.cifar_net(4, image_size=8), networks.CIFAR_SPLITS, "sobolev",
        example=torch.zeros(2, 3, 8, 8), hidden=5,
    ).to(memory_format=torch.channels_last)  # fmt: skip
    x, y = (
        torch.randn(16, 3, 8, 8).contiguous(memory_format=torch.channels_last),
        torch.randint(10, (16,)),
    )
    exact = net.accumulate(x, y, measure=True)
    plain = grads(net.parameters())
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rough = net.accumulate(x, y, measure=True)
    assert rough.loss.dtype == torch.float32
    torch.testing.assert_close(rough.loss, exact.loss, rtol=0.05, atol=0.05)
    # signs of L1 and of ReLU flip where rounding decides, so the whole vector is compared
    whole = [torch.cat([g.flatten() for g in found]) for found in (grads(net.parameters()), plain)]
    assert functional.cosine_similarity(*whole, dim=0) > 0.95


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", MODES)
def test_gpu_agrees_with_cpu(mode):
    net = make(mode)
    x, y = batch()
    other = copy.deepcopy(net).cuda()
    net.accumulate(x, y)
    other.accumulate(x.cuda(), y.cuda())
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad.cpu(), rtol=1e-8, atol=1e-12)


def test_measures_by_hand():
    net = make("sobolev")
    x, y = batch()
    true = net.true_gradients(x, y)
    step = net.accumulate(x, y, measure=True)
    h = x
    for k, g in enumerate(true):
        h = net.segments[k](h)
        said = net.synthesizers[k](h, y).gradient
        each = functional.cosine_similarity(said, g, dim=1).mean()
        whole = (said * g).sum() / (said.norm() * g.norm())
        torch.testing.assert_close(step.cosines[k], each.detach(), rtol=1e-10, atol=0)
        torch.testing.assert_close(step.batch_cosines[k], whole.detach(), rtol=1e-10, atol=0)
        torch.testing.assert_close(step.scales[k], (said.norm() / g.norm()).detach())


def test_cosine_of_short_vectors():
    a, b = torch.randn(4, 6), torch.randn(4, 6)
    wanted = functional.cosine_similarity(a.double(), b.double(), dim=1).float()
    for size in (1e-36, 1e-15, 1.0, 1e30):
        torch.testing.assert_close(decoupling.cosine(a * size, b), wanted, rtol=1e-4, atol=1e-6)
        ratio = decoupling._ratio_of_norms(a * size, b).item()
        assert ratio / size == pytest.approx((a.norm() / b.norm()).item(), rel=1e-5)
    assert decoupling.cosine(torch.zeros(1, 6), torch.ones(1, 6)).item() == 0


# Networks.


def test_parameter_counts():
    count = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    assert count(networks.resnet50()) == 25_557_032
    convolutions = 9 * (
        3 * 64 + 64 * 64 + 64 * 128 + 2 * 128 * 128 + 128 * 256 + 2 * 256 * 256
        + 256 * 512 + 2 * 512 * 512
    )  # fmt: skip
    norms = 2 * (2 * 64 + 3 * 128 + 3 * 256 + 3 * 512)
    assert count(networks.cifar_net()) == convolutions + norms + 512 * 16 * 10 + 10


def test_cifar_shapes_at_the_splits():
    net = decouple(
        networks.cifar_net(8), networks.CIFAR_SPLITS, "direct", example=torch.zeros(1, 3, 32, 32)
    )
    h, shapes = torch.zeros(1, 3, 32, 32), []
    net.eval()
    for segment in net.segments:
        h = segment(h)
        shapes.append(tuple(h.shape[1:]))
    assert shapes == [(8, 32, 32), (16, 16, 16), (32, 8, 8), (10,)]


@pytest.mark.parametrize(("stem", "size", "first"), [("imagenet", 64, 16), ("small", 32, 32)])
def test_resnet_splits(stem, size, first):
    network = networks.resnet50(7, 4, stem)
    segments = cut(network, networks.RESNET_SPLITS[3])
    h = torch.randn(2, 3, size, size)
    sizes = []
    for segment in segments:
        h = segment(h)
        sizes.append(tuple(h.shape[1:]))
    assert sizes == [
        (16, first, first),
        (32, first // 2, first // 2),
        (64, first // 4, first // 4),
        (7,),
    ]


@pytest.mark.parametrize("pooled", [False, True])
def test_default_architectures(pooled):
    shape = (12, 8, 8)
    net = sg.classifier(shape, 10, pooled=pooled)
    layers = [type(m).__name__ for m in net]
    units = 64 if pooled else 128
    assert layers[0] == "Conv2d" and net[0].out_channels == units
    assert net(torch.zeros(2, *shape)).shape == (2, 10)
    straight = sg.direct(shape, 10)
    assert [m.out_channels for m in straight.layers] == [128, 128, 12]
    h, y = torch.randn(2, *shape), torch.tensor([1, 2])
    assert straight(h, y).shape == h.shape
    assert not straight(h, y).any()  # starts at zero
    nn.init.normal_(straight.layers[-1].weight)
    assert not torch.equal(straight(h, y), straight(h, y.flip(0)))  # sees the label


# Bad input.


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        (["layer9"], "layer9"),
        ([], "at least one"),
        (["layer2", "layer1"], "from input to output"),
        (["layer1", "layer1"], "each once"),
        (["head"], "last child"),
    ],
)
def test_wrong_splits(splits, says):
    with pytest.raises(ValueError, match=says):
        decouple(small(), splits, example=torch.zeros(2, 6, dtype=F64))


def test_wrong_labels_and_batches():
    net = make("sobolev")
    x, y = batch()
    with pytest.raises(ValueError, match="label 4; the network has classes 0 to 3"):
        net.accumulate(x, torch.full_like(y, 4))
    with pytest.raises(ValueError, match="label -1"):
        net.accumulate(x, torch.full_like(y, -1))
    with pytest.raises(ValueError, match=r"\(9, 6\) and y \(8,\)"):
        net.accumulate(x, y[:8])
    with pytest.raises(TypeError, match="int64"):
        net.accumulate(x, y.float())
    with pytest.raises(ValueError, match="empty"):
        net.accumulate(x[:0], y[:0])


def test_wrong_words():
    example = torch.zeros(2, 6, dtype=F64)
    with pytest.raises(ValueError, match="module is 'sobelov'"):
        decouple(small(), SPLITS, "sobelov", example=example)
    with pytest.raises(ValueError, match="targets is 'false'"):
        make("sobolev", targets="false")
    for name in ("element", "reduction"):
        with pytest.raises(ValueError, match=f"{name} is 'l3'"):
            Objective(**{name: "l3"})
    for name in ("gradient_weight", "label_weight"):
        with pytest.raises(ValueError, match=f"{name} is -1"):
            Objective(**{name: -1.0})
    with pytest.raises(ValueError, match="no explicit backward pass for Tanh"):
        sg.LossModel(nn.Sequential(nn.Tanh(), nn.Linear(2, 2)), "explicit")
    with pytest.raises(ValueError, match="differentiation is 'numeric'"):
        sg.LossModel(nn.Sequential(nn.Linear(2, 2)), "numeric")
    with pytest.raises(ValueError, match="pass `architecture`"):
        sg.build("critic", (2, 3), 4)
    with pytest.raises(ValueError, match="multiple of 8"):
        networks.cifar_net(image_size=20)
    with pytest.raises(ValueError, match="stem is 'tiny'"):
        networks.resnet50(stem="tiny")
    module = sg.build("sobolev", (6,), 4).double()
    h, y = batch()
    with pytest.raises(ValueError, match="true_gradient is needed"):
        module.loss(module(h, y), torch.zeros(9), None)


def test_a_network_that_is_not_a_sequence_is_refused():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x):
            return self.b(x + self.a(x))

    with pytest.raises(ValueError, match="one after the other"):
        decouple(Skip(), ["a"], example=torch.randn(2, 6))


# ---------------------------------------------------------------- networks as users have them


def test_a_segment_without_parameters_gets_no_gradient_and_needs_none():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(5, 3, 4), torch.tensor([0, 2, 1, 1, 0])
    for mode in ("noprop", "vfbn", "critic", "sobolev"):
        net = decouple(network, ["0", "2"], mode, example=x)
        net.zero_grad()
        net.accumulate(x, y)
        assert network[3].weight.grad is not None
        assert (network[1].weight.grad is None) == (mode == "noprop")


def test_a_frozen_segment_stays_as_it_is():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    network[0].requires_grad_(False)
    x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    for targets in ("true", "bootstrapped"):
        net = decouple(network, ["1", "3"], "sobolev", example=x, targets=targets)
        step = net.accumulate(x, y, measure=True)
        assert network[0].weight.grad is None and network[2].weight.grad is not None
        assert len(step.cosines) == 2 and all(p.grad is not None for p in net.module_parameters())


def test_decoupling_leaves_frozen_batch_statistics_frozen():
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    network.train()
    network[1].eval()
    decouple(network, ["2"], "critic", example=torch.randn(5, 4))
    assert [part.training for part in network] == [True, False, True, True] and network.training


def test_more_classes_than_outputs_are_refused():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="classes is 5; the network has 3 outputs"):
        decouple(network, ["1"], example=torch.zeros(2, 4), classes=5)
    with pytest.raises(ValueError, match="hidden is 0"):
        decouple(network, ["1"], example=torch.zeros(2, 4), hidden=0)


def test_signals_stop_at_the_input_of_a_segment():
    """No backward pass makes the gradient of an input that nobody asks for."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    for targets, reached in (("true", [False] * 2), ("bootstrapped", [True] * 2)):
        net = decouple(network, ["1", "3"], "sobolev", example=x, targets=targets)
        inputs, outputs = net._forward(x)
        predictions = [m(h, y) for m, h in zip(net.synthesizers, outputs, strict=False)]
        loss = cross_entropy(outputs[-1], y)
        arrived = net._send(inputs, outputs, loss, predictions)
        assert [g is not None for g in arrived] == reached
