"""Fidelity of synthetic gradients: four ways to compare them with the true ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients import decouple, fidelity, settings, training
from sobolev_lib.synthetic_gradients.decoupling import cross_entropy


def network(norm=True):
    return nn.Sequential(
        *(nn.Sequential(
            nn.Linear(a, b), nn.BatchNorm1d(b) if norm else nn.Identity(), nn.Tanh())
          for a, b in ((6, 7), (7, 5), (5, 8))),
        nn.Linear(8, 4),
    ).double()  # fmt: skip


@pytest.fixture
def batch():
    source = torch.Generator().manual_seed(3)
    x = torch.randn(24, 6, generator=source, dtype=torch.float64)
    return x, torch.randint(4, (24,), generator=source)


def decoupled(mode="sobolev", norm=True, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        example = torch.zeros(2, 6, dtype=torch.float64)
        return decouple(network(norm), ["0", "1", "2"], mode, example=example, **options)


def test_fidelity_agrees_with_what_a_step_measures(batch):
    net = decoupled().train()
    found = fidelity.fidelity(net, *batch, batch=24)
    step = net.accumulate(*batch, measure=True)
    assert found.cosine.shape == (3, 24)
    assert found.cosine.mean(axis=1) == pytest.approx([c.item() for c in step.cosines])
    assert found.loss == pytest.approx(step.loss.numpy())


def test_weight_cosine_is_that_of_the_gradients_a_step_leaves(batch):
    net = decoupled("vfbn")
    found = fidelity.fidelity(net, *batch, batch=24)
    net.train().accumulate(*batch)
    sent = [[p.grad.flatten() for p in s.parameters()] for s in net.segments[:3]]
    net.zero_grad()
    cross_entropy(net(batch[0]), batch[1]).mean().backward()
    true = [[p.grad.flatten() for p in s.parameters()] for s in net.segments[:3]]
    for k in range(3):
        a, b = torch.cat(sent[k]), torch.cat(true[k])
        assert found.weights[k] == pytest.approx((a @ b / a.norm() / b.norm()).item())


def test_frozen_gradients_are_those_of_single_examples(batch):
    x, y = batch
    net = decoupled("critic")
    found = fidelity.fidelity(net, x, y, batch=24)
    net.eval()
    for k in range(3):
        with torch.no_grad():
            h = net.segments[0](x)
            for segment in net.segments[1 : k + 1]:
                h = segment(h)
        for b in (0, 11, 23):
            one = h[b : b + 1].clone().requires_grad_()
            value = one
            for segment in net.segments[k + 1 :]:
                value = segment(value)
            (g,) = torch.autograd.grad(cross_entropy(value, y[b : b + 1]).sum(), one)
            assert found.frozen_norm[k, b] == pytest.approx(g.norm().item())
            s = net.sg_modules[k](one, y[b : b + 1]).gradient
            expected = ((s * g).sum() / s.norm() / g.norm()).item()
            assert found.frozen[k, b] == pytest.approx(expected)
    assert not np.allclose(found.norm, found.frozen_norm)


def test_without_batch_norm_freezing_changes_nothing(batch):
    found = fidelity.fidelity(decoupled(norm=False), *batch, batch=12)
    assert found.cosine == pytest.approx(found.frozen)
    assert found.norm == pytest.approx(found.frozen_norm)


def test_a_perfect_module_is_perfectly_faithful(batch):
    """One split whose module is what lies above it; without batch statistics."""
    whole = network(norm=False)
    net = decouple(
        whole, ["2"], "critic", example=batch[0],
        architecture=lambda shape, classes: copy.deepcopy(whole[3:]),
    )  # fmt: skip
    found = fidelity.fidelity(net, *batch, batch=8)
    for value in (found.cosine, found.frozen, found.batch, found.weights):
        assert value == pytest.approx(np.ones_like(value))


def test_fidelity_leaves_the_network_alone(batch):
    net = decoupled().eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fidelity.fidelity(net, *batch, batch=7)
    assert not net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_fidelity_says_what_is_wrong(batch):
    with pytest.raises(ValueError, match="mode 'noprop'"):
        fidelity.fidelity(decoupled("noprop"), *batch)
    with pytest.raises(ValueError, match="batch is 64, x has 24"):
        fidelity.fidelity(decoupled(), *batch)


def test_easy_and_hard_are_parts_by_loss(batch):
    found = fidelity.fidelity(decoupled(), *batch, batch=24)
    by_loss, means = found.cosine[:, np.argsort(found.loss)], found.means()
    assert means["easy"] == pytest.approx(by_loss[:, :12].mean(), rel=1e-5)
    assert means["hard"] == pytest.approx(by_loss[:, -3:].mean(), rel=1e-5)


def test_follow_does_not_disturb_the_run():
    pytest.importorskip("sklearn")
    setting = settings.settings("digits", ["critic"], epochs=2)[0]
    last = fidelity.follow(training.Training(setting, 0), (3, 20, 36), 200)[36]
    run = training.Training(setting, 0)
    run.run()
    x = images.normalize(run.data.train_x[:200], run.data)
    again = fidelity.fidelity(run.net, x, run.data.train_y[:200], 64)
    assert last.loss.shape == (192,)
    assert np.array_equal(last.weights, again.weights)
    with pytest.raises(ValueError, match=r"at holds step 37; the run has 36"):
        fidelity.follow(training.Training(setting, 0), (37,))


def test_recall_of_the_classes_adds_up_to_the_accuracy():
    pytest.importorskip("sklearn")
    run = training.Training(settings.settings("digits", ["critic"], epochs=2)[0], 0)
    run.run()
    counts = torch.bincount(run.data.test_y, minlength=10).double()
    right = torch.tensor(fidelity.recall(run), dtype=torch.float64) @ counts / counts.sum()
    assert 100 * right.item() == pytest.approx(run.tests["top1"][-1], abs=1e-3)
