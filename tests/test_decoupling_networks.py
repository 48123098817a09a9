"""Networks as users have them: layers in place, shared weights, frozen parts, bad input."""

from __future__ import annotations

import copy

import pytest
import torch
from sg_helpers import F64, SPLITS, batch, grads, make, small
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib.synthetic_gradients import MODES, cut, decouple
from sobolev_lib.synthetic_gradients import modules as sg
from sobolev_lib.synthetic_gradients.decoupling import cross_entropy


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def flat(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), *layers, nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


class Writes(nn.Module):
    """Changes its input without saying so by an attribute."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.5)


IN_PLACE = {
    "relu": lambda: flat(nn.ReLU(inplace=True)),
    "elu": lambda: flat(nn.ELU(inplace=True)),
    "hard": lambda: flat(nn.Hardtanh(inplace=True)),
    "dropout": lambda: flat(nn.Dropout(0.5, inplace=True)),
    "nested": lambda: flat(nn.Sequential(nn.Identity(), nn.SiLU(inplace=True))),
    "behind a view": lambda: flat(nn.Sequential(nn.Flatten(), nn.LeakyReLU(0.3, inplace=True))),
    "unknown code": lambda: flat(Writes()),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", IN_PLACE)
def test_layers_in_place_after_a_split_train_as_others_do(name, mode):
    network = IN_PLACE[name]().double()
    plain = copy.deepcopy(network)
    for part in plain.modules():
        if getattr(part, "inplace", False):
            part.inplace = False
    if name == "unknown code":
        plain[1] = nn.Hardtanh(-1e9, 1e9)
        plain[1].forward = lambda x: 0.5 * x
    x, y = torch.randn(5, 4, dtype=F64), torch.tensor([0, 2, 1, 1, 0])
    found = []
    for one in (network, plain):
        torch.manual_seed(1)
        net = decouple(one, ["0", "2"], mode, example=x)
        torch.manual_seed(2)  # dropout
        step = net.accumulate(x.clone(), y, measure=True)
        torch.manual_seed(2)
        found.append([step.loss, step.logits, *grads(net.parameters()), *net.true_gradients(x, y)])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_first_layer_in_place_leaves_the_batch_alone():
    network = nn.Sequential(nn.ELU(inplace=True), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    kept = x.clone()
    net = decouple(network, ["1"], example=x)
    first = net.accumulate(x, y, measure=True)
    assert torch.equal(x, kept) and torch.equal(net.accumulate(x, y).loss, first.loss)


@pytest.mark.parametrize("mode", sg.PREDICTING)
def test_modules_that_begin_in_place_leave_the_activations_alone(mode):
    class Direct(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layer = nn.Linear(width, width)

        def forward(self, h, y):
            return self.layer(h.mul_(2.0))

    def architecture(shape, classes):
        if mode == "direct":
            return Direct(*shape)
        return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(*shape, classes))

    network = flat(nn.Tanh())
    x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    net = decouple(network, ["1"], mode, example=x, architecture=architecture)
    step = net.accumulate(x, y, measure=True)
    torch.testing.assert_close(step.loss, cross_entropy(network(x), y))


def test_a_module_used_twice_counts_twice():
    act, norm = nn.ReLU(), nn.BatchNorm1d(8)
    layers = [nn.Linear(4, 8), norm, act, nn.Linear(8, 8), norm, act, nn.Linear(8, 3)]
    network = nn.Sequential(*layers)
    x, y = torch.randn(9, 4), torch.randint(3, (9,))
    value = x
    for part in cut(network.eval(), ["2", "5"]):
        value = part(value)
    assert torch.equal(value, network(x))
    net = decouple(network.train(), ["2"], "sobolev", example=x)
    net.accumulate(x, y, measure=True)
    assert all(p.grad is not None for p in net.parameters())


def test_weights_on_both_sides_of_a_split_get_both_gradients():
    shared = nn.Linear(6, 6)
    network = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(9, 6, dtype=F64), torch.randint(3, (9,))
    above = network[2:]
    net = decouple(
        network, ["1"], "sobolev", example=x, architecture=lambda *_: copy.deepcopy(above)
    )
    net.accumulate(x, y)
    found = grads(net.main_parameters())
    net.zero_grad()
    functional.cross_entropy(network(x), y).backward()
    assert len(found) == len(list(network.parameters())) == 4
    for a, b in zip(found, grads(network.parameters()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "example",
    [
        torch.full((2, 4), torch.nan),
        torch.full((2, 4), torch.inf),
        torch.zeros(2, 4),
        torch.empty(2, 4, device="meta"),
    ],
    ids=["nan", "inf", "zeros", "meta"],
)
def test_values_of_the_example_do_not_matter(example):
    before = torch.get_rng_state()
    net = decouple(flat(nn.ReLU()), ["1"], "noprop", example=example)
    torch.set_rng_state(before)
    net.accumulate(torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0]))


def test_integers_serve_as_an_example():
    words = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 3))
    net = decouple(words, ["1"], example=torch.full((2, 3), 999))
    net.accumulate(torch.randint(5, (6, 3)), torch.randint(3, (6,)))


def test_a_network_without_values_is_refused():
    with torch.device("meta"):
        network = flat(nn.ReLU())
    with pytest.raises(ValueError, match="meta device"):
        decouple(network, ["1"], example=torch.zeros(2, 4))


@pytest.mark.parametrize("mode", MODES)
def test_a_used_network_can_be_copied(mode):
    net = make(mode, small(batch_norm=True))
    x, y = batch()
    net.accumulate(x, y, measure=True)
    net.zero_grad()
    other = copy.deepcopy(net)
    steps = [one.accumulate(x, y, measure=True) for one in (net, other)]
    assert torch.equal(steps[0].loss, steps[1].loss)
    for a, b in zip(grads(net.parameters()), grads(other.parameters()), strict=True):
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b))


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


def test_modules_without_units_are_refused():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="hidden is 0"):
        decouple(network, ["1"], example=torch.zeros(2, 4), hidden=0)


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


def test_a_network_that_is_not_a_sequence_is_refused():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x):
            return self.b(x + self.a(x))

    with pytest.raises(ValueError, match="one after the other"):
        decouple(Skip(), ["a"], example=torch.randn(2, 6))


def test_children_that_do_not_fit_together_are_refused():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.b, self.a = nn.Linear(5, 4), nn.Linear(6, 5)

        def forward(self, x):
            return self.b(self.a(x))

    with pytest.raises(ValueError, match="child by child"):
        decouple(Other(), ["b"], example=torch.randn(2, 6))
