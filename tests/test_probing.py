"""Probes of modules while they train, and what a run costs."""

import pytest
import torch
from torch import nn

from sobolev_lib.records import ledger
from sobolev_lib.records.sweep import sweep
from sobolev_lib.synthetic_gradients import decouple, probing, settings, throughput, training


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def small_network(norm=True, mode="critic", **options):
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Tanh()]
    top = [nn.Linear(8, 7), nn.BatchNorm1d(7) if norm else nn.Identity(), nn.Tanh()]
    network = nn.Sequential(nn.Sequential(*layers), nn.Sequential(*top), nn.Linear(7, 3))
    network.double()
    example = torch.zeros(2, 6, dtype=torch.float64)
    return decouple(network, ["0", "1"], mode, example=example, **options)


def batch(count=9):
    return torch.randn(count, 6, dtype=torch.float64), torch.randint(3, (count,))


@pytest.mark.parametrize("norm", [True, False])
def test_own_gradients_against_autograd_example_by_example(norm):
    net, (x, y) = small_network(norm), batch()
    every, own = probing.own_gradients(net, x, y)
    for a, b in zip(every, net.true_gradients(x, y), strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    h = net.segments[0](x).detach().requires_grad_()
    losses = nn.functional.cross_entropy(net.segments[2](net.segments[1](h)), y, reduction="none")
    for b, loss in enumerate(losses):
        (g,) = torch.autograd.grad(loss, h, retain_graph=True)
        assert torch.allclose(own[0][b], g[b], atol=1e-12)
    assert torch.allclose(every[0], own[0]) != norm


def test_probe_leaves_the_network_alone_and_knows_local_ce():
    net, (x, y) = small_network(mode="local_ce"), batch(40)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = probing.probe(net, x, y)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert found.pull == pytest.approx([1.0, 1.0])
    assert len(found.size) == 2 and all(0 <= v <= 1 for v in (*found.above, *found.right))
    step = net.accumulate(x, y, measure=True)
    assert found.cosine == pytest.approx([c.item() for c in step.cosines])


def test_a_critic_is_pulled_by_signs():
    """Where m > L for all examples its pull is the labels', where m < L for all the opposite."""
    net, (x, y) = small_network(), batch()
    module = net.sg_modules[0]
    said = module(net.segments[0](x), y)
    for shift, expected in ((-1.0, 1.0), (1.0, -1.0)):
        target = (said.loss + shift).detach()
        pull = probing.pull(module, said, target, None, None)
        assert pull == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["direct", "noprop"])
def test_probe_refuses_modules_without_a_loss(mode):
    with pytest.raises(ValueError, match="predict no loss"):
        probing.probe(small_network(mode=mode), *batch())


def test_probes_do_not_change_the_training():
    setting = settings.settings("digits", ["sobolev"], epochs=1)[0]
    watched, plain = training.Training(setting, 0), training.Training(setting, 0)
    found = probing.probes(watched, times=2, batch=16)
    plain.run()
    assert [step for step, _ in found] == [0, watched.steps // 2, watched.steps]
    for a, b in zip(
        watched.net.state_dict().values(), plain.net.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def test_probes_are_entered_once(tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "TIMES", 2)
    monkeypatch.setattr(probing, "BATCH", 16)
    book = ledger.Ledger(probing.EXPERIMENT, tmp_path)
    chosen = settings.settings("digits", ["critic", "local_ce"], epochs=1)
    for expected in (2, 0):
        assert sweep(probing.EXPERIMENT, probing.jobs(chosen, [3]), book, quiet=True) == expected
    critic, local = sorted(book.read(), key=lambda r: r.config["module"])
    assert critic.metrics["steps"] == [0, 9, 18] and critic.config["probed"] == 16
    assert all(pull == pytest.approx([1.0] * 3) for pull in local.metrics["pull"])
    again = probing.probes(training.Training(chosen[0], 3), times=2, batch=16)
    assert critic.metrics["above"] == [p.above for _, p in again]
    assert critic.metrics["size"] == [p.size for _, p in again]
    monkeypatch.setattr(probing, "BATCH", 8)
    assert sweep(probing.EXPERIMENT, probing.jobs(chosen[:1], [3]), book, quiet=True) == 1


def test_cost_of_a_run():
    setting = settings.settings("cifar10", ["noprop"], epochs=2, train_images=100)[0]
    data = throughput.stand_in(setting, 10, 2)
    assert throughput.training_flops(setting, []) == 200 * throughput.flops(setting, data, 2)
    records = throughput.count([setting])
    assert throughput.training_flops(setting, records) == throughput.training_flops(setting, [])
    records[0].metrics["flops_per_image"] = 7.0
    assert throughput.training_flops(setting, records) == 7.0 * 200
    assert throughput.gpu_hours(3.6e15, teraflops=1.0) == pytest.approx(1.0)


def test_the_ledgers_count_is_what_the_code_does():
    setting = settings.settings("imagenet_1", ["critic"])[0]
    book = ledger.Ledger(throughput.OPERATIONS).read()
    assert ledger.select(book, settings.config(setting))
    assert throughput.training_flops(setting, book) == throughput.training_flops(setting, [])


def test_sizes_of_the_modules_of_the_supplement():
    """SM 4.2: a 3 x 3 convolution to 128 channels, a linear layer to 10, at the first split."""
    first, second, third = throughput.module_sizes(settings.settings("cifar10", ["critic"])[0])
    assert first["shape"] == (64, 32, 32)
    assert first["module"] == (9 * 64 + 1) * 128 + (128 * 32 * 32 + 1) * 10
    assert first["segment"] == 9 * 3 * 64 + 9 * 64 * 64 + 4 * 64
    assert (second["shape"], third["shape"]) == ((128, 16, 16), (256, 8, 8))
