"""One step of a decoupled network: who gets which gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from sg_helpers import F64, batch, grads, make, small
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib.synthetic_gradients import MODES, Decoupled, Objective, decouple, networks
from sobolev_lib.synthetic_gradients import modules as sg
from sobolev_lib.synthetic_gradients.decoupling import cosine, cross_entropy, ratio_of_norms


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


@pytest.fixture
def handed(monkeypatch):
    """Targets that modules are given, by split: true loss, gradient, log-probabilities."""
    found, real = [], sg.SGModule.loss

    def spy(self, said, loss, gradient, logp=None):
        found.append((loss, gradient, logp))
        return real(self, said, loss, gradient, logp)

    monkeypatch.setattr(sg.SGModule, "loss", spy)
    return found


# Gradients of the main network.


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


@pytest.mark.parametrize("mode", ["direct", "vfbn", "sobolev"])
def test_modules_are_trained_on_the_true_gradient(mode, handed):
    net = make(mode, small(batch_norm=True))
    x, y = batch()
    true = copy.deepcopy(net).true_gradients(x, y)
    net.accumulate(x, y)
    for (_, a, _), b in zip(handed, true, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("mode", ["critic", "sobolev"])
def test_label_targets_are_the_networks_log_probabilities(mode, handed):
    net = make(mode, objective=Objective("l2", label_weight=0.6))
    x, y = batch()
    logits = net(x).detach()
    wanted = logits - logits.exp().sum(dim=1, keepdim=True).log()
    cross = -wanted[torch.arange(len(y)), y]
    step = net.accumulate(x, y)
    assert len(handed) == 3
    for loss, _, logp in handed:
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
    for k, (segment, module) in enumerate(zip(net.segments, net.sg_modules, strict=False)):
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
    above = [*list(other.segments)[split + 1 :], *list(other.sg_modules)[split + 1 :]]
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


@pytest.mark.parametrize("mode", sg.SG_MODES)
@pytest.mark.parametrize("split", range(3))
@pytest.mark.parametrize("measure", [False, True])
def test_a_segment_sees_nothing_above_its_split(mode, split, measure):
    check_isolation(make(mode, small(batch_norm=measure)), split, measure)


@pytest.mark.parametrize("mode", ["direct", "vfbn", "sobolev"])
@pytest.mark.parametrize("split", range(3))
def test_bootstrapped_targets_change_modules_only(mode, split):
    check_isolation(make(mode, targets="bootstrapped"), split)


class Leaky(Decoupled):
    """Adds the true gradient of one segment's weights; what the check must not let pass."""

    into = 1

    def accumulate(self, x: Tensor, y: Tensor, measure: bool = False):
        step = super().accumulate(x, y, measure)
        own = list(self.segments[self.into].parameters())
        true = torch.autograd.grad(cross_entropy(self(x), y).mean(), own)
        for p, g in zip(own, true, strict=True):
            p.grad = g if p.grad is None else p.grad + g
        return step


@pytest.mark.parametrize("mode", sg.SG_MODES)
@pytest.mark.parametrize("into", range(3))
def test_the_check_finds_a_true_gradient_in_any_segment(mode, into):
    net = make(mode)
    leaky = Leaky(net.segments, net.sg_modules, mode)
    leaky.into = into
    with pytest.raises(AssertionError):
        check_isolation(leaky, into)


@pytest.mark.parametrize("mode", ["direct", "vfbn", "critic", "sobolev", "local_ce"])
def test_every_lower_segment_gets_its_own_modules_prediction(mode):
    net = make(mode, small(batch_norm=True))
    x, y = batch()
    value, wanted = x, []
    reference = copy.deepcopy(net)
    for segment, module in zip(reference.segments, reference.sg_modules, strict=False):
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
    for mode in sg.SG_MODES:
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
    for module in net.sg_modules:
        module.objective = Objective(gradient_weight=100.0)
    after = net.accumulate(x, y).module_losses
    assert all(a > b for a, b in zip(after, before, strict=True))
    for a, b in zip(main, grads(net.main_parameters()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_bootstrapped_targets_are_the_next_prediction_sent_back(handed):
    net = make("sobolev", targets="bootstrapped")
    assert not net.needs_true_gradients
    x, y = batch()
    net.accumulate(x, y)
    true, seen = net.true_gradients(x, y), [gradient for _, gradient, _ in handed]
    torch.testing.assert_close(seen[2], true[2], rtol=1e-10, atol=1e-14)
    h = net.segments[0](x).detach().requires_grad_()
    above = net.segments[1](h)
    (back,) = torch.autograd.grad(above, h, net.sg_modules[1](above, y).gradient.detach())
    torch.testing.assert_close(seen[0], back, rtol=1e-10, atol=1e-14)
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


def test_a_weight_of_0_asks_for_no_true_gradient(handed):
    net = make("sobolev", objective=Objective(gradient_weight=0.0))
    assert not net.needs_true_gradients
    net.accumulate(*batch())
    assert [gradient for _, gradient, _ in handed] == [None] * 3


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
        said = net.sg_modules[k](h, y).gradient
        each = functional.cosine_similarity(said, g, dim=1).mean()
        whole = (said * g).sum() / (said.norm() * g.norm())
        torch.testing.assert_close(step.cosines[k], each.detach(), rtol=1e-10, atol=0)
        torch.testing.assert_close(step.batch_cosines[k], whole.detach(), rtol=1e-10, atol=0)
        torch.testing.assert_close(step.scales[k], (said.norm() / g.norm()).detach())
        assert step.zeros[k] == 0
        assert step.dead[k] == net.sg_modules[k].dead_units(h, y)


def test_exactly_zero_slopes_are_counted():
    net = make("critic")
    x, y = batch()
    for module in net.sg_modules:
        module.network.network[0].bias.data.fill_(-100.0)
    step = net.accumulate(x, y, measure=True)
    assert step.dead == step.zeros == [1.0] * 3


def test_cosine_of_short_vectors():
    a, b = torch.randn(4, 6), torch.randn(4, 6)
    wanted = functional.cosine_similarity(a.double(), b.double(), dim=1).float()
    for size in (1e-36, 1e-15, 1.0, 1e30):
        torch.testing.assert_close(cosine(a * size, b), wanted, rtol=1e-4, atol=1e-6)
        ratio = ratio_of_norms(a * size, b).item()
        assert ratio / size == pytest.approx((a.norm() / b.norm()).item(), rel=1e-5)
    assert cosine(torch.zeros(1, 6), torch.ones(1, 6)).item() == 0
