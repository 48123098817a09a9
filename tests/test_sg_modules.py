"""SG modules: slopes against autograd, losses against Eq. 1 and by hand, architectures."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from sg_helpers import F64
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib import SobolevLoss, kinks
from sobolev_lib.synthetic_gradients import Objective
from sobolev_lib.synthetic_gradients import modules as sg
from sobolev_lib.synthetic_gradients.loss_model import FlattenMaps


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# The class predictor's slope and its derivative by the parameters.

MAP = (4, 6, 7)


def head(*layers: nn.Module) -> nn.Sequential:
    """Layers on maps, then whatever linear layer their output needs."""
    flat = nn.Sequential(*layers, nn.Flatten())
    width = flat(torch.zeros(2, *MAP)).shape[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 4))


WRITTEN_OUT = {
    "vector": lambda: sg.classifier((7,), 4, 6),
    "leaky vector": lambda: sg.classifier((7,), 4, 6, leak=0.1),
    "map": lambda: sg.classifier(MAP, 4, 6),
    "pooled": lambda: sg.classifier(MAP, 4, 6, pooled=True),
    "odd strides": lambda: head(
        nn.Conv2d(4, 4, (3, 2), stride=(2, 3), padding=(0, 1)), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    ),
    "groups": lambda: head(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ReLU()),
    "dilation": lambda: head(nn.Conv2d(4, 6, 3, 2, padding=(2, 1), dilation=(2, 1))),
    "all at once": lambda: head(nn.Conv2d(4, 8, (2, 3), (3, 2), 1, dilation=2, groups=4)),
}
LEFT_TO_AUTOGRAD = {
    "circular": lambda: head(nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), nn.ReLU()),
    "reflect": lambda: head(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")),
    "replicate": lambda: head(nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate")),
    "same": lambda: head(nn.Conv2d(4, 6, 3, padding="same")),
    "valid": lambda: head(nn.Conv2d(4, 6, 3, padding="valid")),
    "transposed": lambda: head(nn.ConvTranspose2d(4, 3, 3, stride=2, output_padding=1)),
    "pool to 2": lambda: head(nn.AdaptiveAvgPool2d(2)),
    "pool to (1, 3)": lambda: head(nn.AdaptiveAvgPool2d((1, 3))),
    "average pool": lambda: head(nn.Conv2d(4, 3, 3), nn.AvgPool2d(2)),
    "max pool": lambda: head(nn.MaxPool2d(2), nn.SiLU()),
    "norms": lambda: head(nn.GroupNorm(2, 4), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.ReLU()),
    "smooth": lambda: head(nn.Conv2d(4, 3, 3), nn.Tanh()),
    "in place": lambda: head(nn.Conv2d(4, 3, 3), nn.ReLU(inplace=True)),
    "in place at once": lambda: head(nn.LeakyReLU(0.2, inplace=True)),
    "in place behind a view": lambda: nn.Sequential(
        nn.Flatten(), nn.ELU(inplace=True), nn.Linear(168, 4)
    ),
    "weight norm": lambda: head(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 3))),
    "subclass": lambda: head(type("Odd", (nn.ReLU,), {"forward": lambda _, x: x.square()})()),
}


def by_hand(network: nn.Sequential, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """m and dm/dh by autograd alone, on values that nobody else needs."""
    leaf = h.clone().requires_grad_()
    m = functional.cross_entropy(network(leaf.clone()), y, reduction="none")
    return m, torch.autograd.grad(m.sum(), leaf, create_graph=True)[0]


@pytest.mark.parametrize("name", WRITTEN_OUT | LEFT_TO_AUTOGRAD)
def test_the_slope_is_autograds_with_its_parameter_gradients(name):
    network = (WRITTEN_OUT | LEFT_TO_AUTOGRAD)[name]().double()
    h, y = torch.randn(5, *((7,) if "vector" in name else MAP), dtype=F64), torch.arange(5) % 4
    weights = torch.randn(h.shape, dtype=F64), torch.randn(5, dtype=F64)
    model, kept = sg.LossModel(network), h.clone()
    assert model.explicit is (name in WRITTEN_OUT)
    found = []
    for m, slope in (model(h, y)[:2], by_hand(network, h, y)):
        total = (slope * weights[0]).sum() + (m * weights[1]).sum()
        own = torch.autograd.grad(total, list(network.parameters()), materialize_grads=True)
        found.append([m, slope, *own])
    assert torch.equal(h, kept)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_what_is_not_understood_is_seen_when_it_changes():
    network = WRITTEN_OUT["map"]()
    model = sg.LossModel(network)
    assert model.explicit
    network[0].padding_mode = "circular"
    assert not model.explicit
    network[0].padding_mode = "zeros"
    with_hook = network[1].register_forward_hook(lambda *_: None)
    assert not model.explicit
    with_hook.remove()
    assert model.explicit


def test_the_slope_is_that_of_the_cross_entropy():
    model = sg.LossModel(sg.classifier((7,), 4).double())
    h, y, step = torch.randn(3, 7, dtype=F64), torch.tensor([1, 0, 3]), 1e-6
    _, slope, logp = model(h, y)
    torch.testing.assert_close(logp, model.network(h).log_softmax(dim=1), rtol=1e-12, atol=0)
    for k in range(7):
        move = functional.one_hot(torch.tensor(k), 7) * step
        ahead, behind = (
            functional.cross_entropy(model.network(h + s * move), y, reduction="none")
            for s in (1, -1)
        )
        torch.testing.assert_close(slope[:, k], (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("unit", [nn.ReLU, nn.Tanh])  # written out, and left to autograd
def test_a_constant_slope_has_the_same_values(unit):
    network = sg.classifier((3, 5, 6), 4, 6).double()
    network[1] = unit()
    model = sg.LossModel(network)
    assert model.explicit is (unit is nn.ReLU)
    h, y = torch.randn(5, 3, 5, 6, dtype=F64), torch.randint(4, (5,))
    (m, slope, _), (m0, slope0, _) = model(h, y), model(h, y, differentiable=False)
    torch.testing.assert_close((m, slope.detach()), (m0, slope0), rtol=1e-12, atol=1e-14)
    assert slope.requires_grad and not slope0.requires_grad


def test_kink_kernel_adds_a_gradient_that_plain_relu_lacks():
    plain = sg.build("vfbn", (7,), 4).double()
    bent = copy.deepcopy(plain)
    kinks.replace(bent.network.network, 0.5)
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


# Losses.


@pytest.mark.parametrize("element", ["l1", "l2"])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 6)])
@pytest.mark.parametrize("mode", ["critic", "vfbn", "sobolev"])
def test_the_losses_are_eq_1(mode, shape, element):
    """`SobolevLoss` of h -> m(h, y) with the module's weights: value, and gradient by theta."""
    objective = Objective(element, gradient_weight=0.7)
    module = sg.build(mode, shape, 4, objective, 5).double()
    h, y = torch.randn(5, *shape, dtype=F64), torch.randint(4, (5,))
    true_loss, true_gradient = torch.rand(5, dtype=F64), torch.randn(5, *shape, dtype=F64)
    assert module.weights == {"critic": (1, 0), "vfbn": (0, 1), "sobolev": (1, 0.7)}[mode]
    model = nn.Sequential(module.network.network)
    given = (true_loss if module.weights[0] else None, true_gradient if module.weights[1] else None)
    eq1, _ = SobolevLoss(weights=module.weights, loss=element)(
        lambda x: functional.cross_entropy(model(x), y, reduction="none"), h, *given
    )
    own = module.loss(module(h, y), true_loss, true_gradient)
    torch.testing.assert_close(own, eq1, rtol=1e-12, atol=0)
    parameters = list(module.parameters())
    pair = [torch.autograd.grad(v, parameters, materialize_grads=True) for v in (own, eq1)]
    for a, b in zip(*pair, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def distance_by_hand(a: Tensor, b: Tensor, element: str, reduction: str) -> float:
    """Over all elements of an example, one after the other; then the mean over examples."""
    each = []
    for u, v in zip(a.flatten(1).tolist(), b.flatten(1).tolist(), strict=True):
        gaps = [abs(p - q) if element == "l1" else (p - q) ** 2 for p, q in zip(u, v, strict=True)]
        each.append(math.fsum(gaps) / (len(gaps) if reduction == "mean" else 1))
    return math.fsum(each) / len(each)


@pytest.mark.parametrize("element", ["l1", "l2"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("shape", [(5,), (5, 3, 4, 6)])
def test_distance_by_hand(shape, element, reduction):
    a, b = torch.randn(shape, dtype=F64), torch.randn(shape, dtype=F64)
    wanted = distance_by_hand(a.reshape(5, -1), b.reshape(5, -1), element, reduction)
    found = Objective(element, reduction).distance(a, b)
    assert found.shape == () and found.item() == pytest.approx(wanted, rel=1e-12)
    if len(shape) == 4:  # the order in memory does not matter
        last = a.contiguous(memory_format=torch.channels_last)
        again = Objective(element, reduction).distance(last, b).item()
        assert again == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("element", ["l1", "l2"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 6)])
@pytest.mark.parametrize("mode", sg.SG_MODES)
def test_losses_by_hand(mode, shape, element, reduction):
    objective = Objective(element, reduction, gradient_weight=0.7, label_weight=0.3)
    module = sg.build(mode, shape, 4, objective, 5).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    h, y = torch.randn(5, *shape, dtype=F64), torch.randint(4, (5,))
    true_loss, true_gradient = torch.rand(5, dtype=F64), torch.randn(5, *shape, dtype=F64)
    true_logp = torch.randn(5, 4, dtype=F64).log_softmax(dim=1)
    said = module(h, y)
    found = module.loss(said, true_loss, true_gradient, true_logp)
    if mode == "noprop":
        assert found is None and said.gradient is None
        return
    by_element = (element, reduction)
    wanted = 0.0
    if mode == "local_ce":
        wanted = functional.cross_entropy(module.network.network(h), y).item()
    if mode in ("direct", "vfbn", "sobolev"):
        weight = 0.7 if mode == "sobolev" else 1.0
        wanted += weight * distance_by_hand(said.gradient, true_gradient, *by_element)
    if mode in ("critic", "sobolev"):
        wanted += distance_by_hand(said.loss[:, None], true_loss[:, None], *by_element)
        wanted += 0.3 * distance_by_hand(said.log_probabilities, true_logp, *by_element)
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_label_derivative_identity():
    """SM 4.1: with y free, ||dm/dy - dL/dy||^2 = ||log p(h) - log p_h||^2."""
    logits, true = (torch.randn(6, 4, dtype=F64) for _ in range(2))
    y = functional.one_hot(torch.randint(4, (6,)), 4).to(F64).requires_grad_()
    slopes = [
        torch.autograd.grad(functional.cross_entropy(z, y, reduction="sum"), y)[0]
        for z in (logits, true)
    ]
    squared = (slopes[0] - slopes[1]).square().sum(dim=1).mean()
    logp, true_logp = logits.log_softmax(dim=1), true.log_softmax(dim=1)
    module = sg.build("critic", (3,), 4, Objective("l2", "sum", label_weight=1.0))
    loss = torch.rand(6, dtype=F64)  # the same for both: only the label derivative is left
    found = module.loss(sg.Prediction(None, loss, logp), loss, None, true_logp)
    torch.testing.assert_close(found, squared, rtol=1e-12, atol=0)


# Dead units.


@pytest.mark.parametrize("shape", [(7,), (3, 5, 6)])
@pytest.mark.parametrize("mode", ["direct", "critic"])
def test_dead_units_are_those_that_are_0_on_the_whole_batch(mode, shape):
    module = sg.build(mode, shape, 4, hidden=8).double()
    h, y = torch.randn(9, *shape, dtype=F64), torch.randint(4, (9,))
    first = next(m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    if mode == "direct":
        nn.init.zeros_(module.network.label.weight)
    before = module.dead_units(h, y)
    nn.init.constant_(first.bias, 100.0)
    first.bias.data[:3] = -100.0
    rest = 0 if mode == "critic" else module_dead_second(module, h, y)
    layers = 1 if mode == "critic" else 2
    assert module.dead_units(h, y) == pytest.approx((3 + rest) / (8 * layers))
    assert before < module.dead_units(h, y)


def module_dead_second(module: sg.SGModule, h: Tensor, y: Tensor) -> int:
    """Units of the second layer of Direct SG that are never above 0."""
    one, two, _ = module.network.layers
    after = two(one(h).relu()).transpose(0, 1).flatten(1)
    return int((after <= 0).all(dim=1).sum())


def test_leaky_units_are_never_dead_and_looking_changes_nothing():
    module = sg.build("sobolev", (7,), 4, leak=0.01)
    nn.init.constant_(module.network.network[0].bias, -100.0)
    h, y = torch.randn(9, 7), torch.randint(4, (9,))
    assert module.dead_units(h, y) == 0
    bent = sg.build("sobolev", (7,), 4, bandwidth=0.2)
    bent(h, y)
    before = {k: v.clone() for k, v in bent.state_dict().items()}
    bent.dead_units(5 * h, y)
    assert all(torch.equal(v, before[k]) for k, v in bent.state_dict().items())
    assert bent.training and not any(m._forward_hooks for m in bent.modules())


# Architectures.


@pytest.mark.parametrize(
    ("shape", "pooled", "wanted"),
    [
        ((7,), False, [nn.Linear, nn.ReLU, nn.Linear]),
        ((12, 8, 6), False, [nn.Conv2d, nn.ReLU, FlattenMaps, nn.Linear]),
        (
            (12, 8, 6),
            True,
            [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear],
        ),
    ],
)
def test_class_predictors_of_the_supplement(shape, pooled, wanted):
    """SM 4.2: 128 channels; SM 4.3, pooled: 64."""
    network = sg.classifier(shape, 10, pooled=pooled)
    assert [type(m) for m in network] == wanted
    units = 128 if len(shape) == 3 and not pooled else 64
    assert network[0].weight.shape[:1] == (units,)
    assert network(torch.zeros(2, *shape)).shape == (2, 10)
    leaky = sg.classifier(shape, 10, pooled=pooled, leak=0.1)
    slopes = [m.negative_slope for m in leaky if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.1] * wanted.count(nn.ReLU)


@pytest.mark.parametrize("leak", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(7,), (3, 5, 6)])
def test_direct_gradients_by_hand(shape, leak):
    """Three layers, the label a bias of the first, units between them and none at the end."""
    model = sg.direct(shape, 4, 5, leak).double()
    h, y = torch.randn(6, *shape, dtype=F64), torch.tensor([0, 1, 2, 3, 3, 0])
    assert not model(h, y).any()  # starts at zero
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    label = model.label.weight.t()[y].reshape(6, 5, *([1] * (len(shape) - 1)))
    one, two, three = model.layers
    first = one(h) + label
    second = two(functional.leaky_relu(first, leak))
    wanted = three(functional.leaky_relu(second, leak))
    for value in (first, second, wanted):  # each kink matters
        assert value.min() < 0 < value.max()
    torch.testing.assert_close(model(h, y), wanted, rtol=1e-12, atol=1e-12)


def test_build_scales_the_bandwidth_by_the_spread():
    relu = sg.build("sobolev", (3, 8, 8), 4, bandwidth=0.2).network.network[1]
    assert isinstance(relu, kinks.ReLU) and relu.scaled and relu.bandwidth == 0.2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Objective("l3"), "element is 'l3'"),
        (lambda: Objective(reduction="max"), "reduction is 'max'"),
        (lambda: Objective(gradient_weight=-1.0), "gradient_weight is -1"),
        (lambda: sg.build("critics", (4,), 4), "mode is 'critics'"),
        (lambda: sg.build("critic", (2, 3), 4), "pass `architecture`"),
        (lambda: sg.build("critic", (2,), 4, hidden=0), "hidden is 0"),
        (lambda: sg.build("critic", (2,), 4, bandwidth=0.1, leak=0.1), "bandwidth is 0.1 and leak"),
    ],
)
def test_wrong_options(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_a_missing_target_is_named():
    module = sg.build("sobolev", (6,), 4)
    h, y = torch.randn(9, 6), torch.randint(4, (9,))
    with pytest.raises(ValueError, match="true_gradient is needed"):
        module.loss(module(h, y), torch.zeros(9), None)
