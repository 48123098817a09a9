"""Worked examples: closed forms, adjoints, unbiased labels, forces, arms and seeds."""

import importlib.util
import math
import sys

import pytest
import torch
from numerics import F64, close, normal

from sobolev_lib import SobolevLoss
from sobolev_lib.practice import beam, cluster, pricing
from sobolev_lib.practice.ensembles import Ensemble, gains

needs_ase = pytest.mark.skipif(
    importlib.util.find_spec("ase") is None,
    reason='ASE is not installed: pip install "sobolev-lib[molecules]"',
)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


# --- options ---

MARKET = pricing.Market(strike=90.0, volatility=0.3, maturity=0.5, low=70.0, high=120.0)
SPOTS = torch.linspace(72, 118, 5, dtype=F64)
CALLED = {
    "pathwise": {"call": "delta", "digital": "zero"},
    "likelihood_ratio": {"call": "delta", "digital": "delta"},
}


@pytest.mark.parametrize("payoff", pricing.PAYOFFS)
def test_prices_are_expectations_and_deltas_their_slopes(payoff):
    for spot in SPOTS:
        mean = MARKET.bundle(spot.item()).payoff(payoff).mean()
        close(mean, MARKET.price(payoff, spot), 1e-3)
    s = SPOTS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(MARKET.price(payoff, s).sum(), s)
    close(slope, MARKET.delta(payoff, SPOTS))


@pytest.mark.parametrize("payoff", pricing.PAYOFFS)
@pytest.mark.parametrize("label", CALLED)
def test_the_expectation_of_a_label(label, payoff):
    truth = {"delta": MARKET.delta(payoff, SPOTS), "zero": torch.zeros_like(SPOTS)}
    means = torch.stack([MARKET.bundle(spot.item()).slope(payoff, label).mean() for spot in SPOTS])
    torch.testing.assert_close(means, truth[CALLED[label][payoff]], rtol=5e-3, atol=1e-4)


def test_the_kernels_bias_is_of_second_order():
    bias = []
    for h in (2.0, 1.0):
        means = [MARKET.bundle(spot.item()).slope("digital", "kernel", h).mean() for spot in SPOTS]
        bias.append((torch.stack(means) - MARKET.delta("digital", SPOTS)).abs().max())
    assert 3.5 < bias[0] / bias[1] < 4.5
    # without a jump there is nothing to repair
    paths = MARKET.sample(50, source())
    close(paths.slope("call", "kernel", 1.0), paths.slope("call", "pathwise"))


def test_the_kernels_label_is_the_chain_rule():
    paths = MARKET.sample(50, source())
    z = (paths.final() - MARKET.strike) / 3.0
    bump = torch.sigmoid(z) * torch.sigmoid(-z) / 3.0
    close(paths.slope("digital", "kernel", 3.0), bump * paths.final() / paths.spot)
    s = paths.spot.clone().requires_grad_()
    assert torch.equal(pricing.step(paths.final(s) - MARKET.strike, 3.0), paths.payoff("digital"))


def test_spots_are_uniform_and_a_seed_repeats_them():
    paths = MARKET.sample(20_000, source(3))
    assert MARKET.low <= paths.spot.min() < 71 < 119 < paths.spot.max() <= MARKET.high
    assert abs(paths.spot.mean() - 95) < 0.5 and abs(paths.z.mean()) < 0.03
    assert torch.equal(paths.z, MARKET.sample(20_000, source(3)).z)


def test_zero_slopes_blur_the_values():
    n, length = 400, 0.1
    x = (torch.arange(n, dtype=F64) + 0.5) / n
    wave = torch.cos(3 * math.pi * x)  # its slope is 0 at both ends
    close(pricing.blurred(wave, length, 1 / n), wave / (1 + (3 * math.pi * length) ** 2), 1e-4)

    def cost(m):
        return ((m - x**3).square().sum() + ((m.diff() * n * length) ** 2).sum()) / n

    best = pricing.blurred(x**3, length, 1 / n)
    for seed in range(3):
        assert cost(best) < cost(best + 1e-3 * normal(n, seed=seed))
    best.requires_grad_()
    (slope,) = torch.autograd.grad(cost(best), best)
    assert slope.abs().max() < 1e-12


def test_bad_requests_for_labels_are_named():
    paths = MARKET.sample(3, source())
    with pytest.raises(ValueError, match="payoff is 'put'; it must be one of call, digital"):
        paths.payoff("put")
    with pytest.raises(ValueError, match="label is 'exact'"):
        paths.slope("call", "exact")
    with pytest.raises(ValueError, match="bandwidth is None with label 'kernel'"):
        paths.slope("digital", "kernel")
    with pytest.raises(ValueError, match=r"bandwidth is 1\.0 with label 'pathwise'"):
        paths.slope("digital", "pathwise", 1.0)
    with pytest.raises(ValueError, match="count is 0"):
        MARKET.sample(0, source())
    for bad in ({"volatility": -0.2}, {"strike": 0.0}, {"low": math.nan}, {"high": 60.0}):
        [name] = bad
        with pytest.raises(ValueError, match=f"{name} is {bad[name]}; it must be"):
            pricing.Market(**bad)


# --- the beam ---


def test_a_prismatic_beam_bends_as_in_the_handbook():
    for t in (0.7, 1.0, 1.3):
        one = torch.full((1, beam.ELEMENTS), t, dtype=F64)
        close(beam.deflection(one), torch.tensor([1 / 384 / t**3], dtype=F64), 1e-9)
        x = torch.linspace(0, 1, 9, dtype=F64)
        # Hermite cubics are exact at the nodes under a uniform load
        close(beam.shape(one)[0], (x * (1 - x)) ** 2 / 24 / t**3, 1e-9)


def test_the_adjoint_is_the_gradient():
    t = beam.sample(6, source())
    value, gradient = beam.adjoint(t)
    t.requires_grad_()
    (found,) = torch.autograd.grad(beam.deflection(t).sum(), t)
    close(gradient, found, 1e-10)
    close(value, beam.deflection(t).detach())
    step = 1e-5 * torch.eye(beam.ELEMENTS, dtype=F64)
    with torch.no_grad():
        for e in range(beam.ELEMENTS):
            both = [beam.deflection(t + sign * step[e]) for sign in (1, -1)]
            close(gradient[:, e], (both[0] - both[1]) / 2e-5, 1e-7)
    # deflection is of degree -3 in the thickness (Euler)
    close((gradient * t.detach()).sum(1), -3 * value, 1e-10)


def test_a_beam_is_symmetric_and_bad_ones_are_named():
    t = beam.sample(3, source(1))
    close(beam.deflection(t.flip(1)), beam.deflection(t), 1e-9)
    assert t.shape == (3, 8) and t.min() >= 0.6 and t.max() <= 1.4
    with pytest.raises(ValueError, match=r"thickness has shape \(3, 7\).*\(B, 8\)"):
        beam.deflection(t[:, :7])
    with pytest.raises(ValueError, match="not positive"):
        beam.adjoint(-t)


# --- the cluster ---


@needs_ase
def test_forces_are_minus_the_gradient_of_the_energy():
    x = cluster.frames(2, source())
    energy, force = cluster.label(x)
    for j in (0, 5, 11):
        step = 1e-4 * torch.eye(12, dtype=F64)[j]
        difference = cluster.label(x + step)[0] - cluster.label(x - step)[0]
        close(-force[:, j], difference / 2e-4, 1e-5)
    close(force.view(-1, 4, 3).sum(1), torch.zeros(2, 3, dtype=F64), 1e-10)
    assert energy.shape == (2,) and energy.std() > 0


def test_distances_do_not_see_shifts_and_turns(monkeypatch):
    x = cluster.frames(5, source())
    q, _ = torch.linalg.qr(normal(3, 3))
    moved = (x.view(-1, 4, 3) @ q + 7).flatten(1)
    close(cluster.distances(moved), cluster.distances(x), 1e-10)
    monkeypatch.setattr(cluster, "SPREAD", 0.0)
    close(cluster.distances(cluster.frames(1, source())), torch.full((1, 6), 2.4, dtype=F64))


def test_many_networks_in_one_model_have_their_own_losses():
    x, y, dy = (normal(8, 12, seed=1), normal(8, 1, seed=2), normal(8, 1, 12, seed=3))
    dy[3, 0, 4] = torch.nan
    mean, std = torch.full((6,), 2.0, dtype=F64), torch.full((6,), 0.3, dtype=F64)
    model = cluster.Energies(2, mean, std, source())
    loss = SobolevLoss(weights=(1.0, 0.7))
    total, _ = loss(model, x, y, dy)
    each = []
    for i, rows in enumerate((slice(0, 4), slice(4, 8))):
        member = model.stack.member(i)
        alone = lambda p, m=member: m((cluster.distances(p) - mean) / std)  # noqa: E731
        each.append(loss(alone, x[rows], y[rows], dy[rows])[0])
    close(total, (each[0] + each[1]) / 2)


def test_bad_clusters_are_named(monkeypatch):
    mean = torch.ones(6, dtype=F64)
    model = cluster.Energies(2, mean, mean, generator=source())
    with pytest.raises(ValueError, match="positions has 3 samples; 2 networks need a multiple"):
        model(normal(3, 12))
    with pytest.raises(ValueError, match=r"positions has shape \(3, 9\).*\(B, 12\)"):
        model(normal(3, 9))
    monkeypatch.setitem(sys.modules, "ase", None)
    with pytest.raises(ImportError, match=r"sobolev-lib\[molecules\]"):
        cluster.label(normal(1, 12))


# --- arms and seeds ---


def problem(n=16):
    """Two arms (values only, slopes), two seeds, one input: y = 50 sin(x / 3)."""
    x = torch.stack([torch.rand(n, 1, dtype=F64, generator=source(s)) * 12 for s in range(2)])
    x = x.expand(2, -1, -1, -1)
    y, dy = 50 * torch.sin(x[..., 0] / 3), 50 / 3 * torch.cos(x / 3)
    dy = dy.clone()
    dy[0] = torch.nan
    return x, y, dy


def test_arms_learn_in_raw_units_and_slopes_are_those_of_the_values():
    ensemble = Ensemble(*problem(), steps=400)
    x = torch.linspace(2, 10, 30, dtype=F64)[:, None]
    value, slope = ensemble(x), ensemble.gradient(x)
    assert value.shape == (2, 2, 30) and slope.shape == (2, 2, 30, 1) and value.dtype == F64
    assert (value[1] - 50 * torch.sin(x[:, 0] / 3)).abs().max() < 2.5
    steps = (ensemble(x + 0.05) - ensemble(x - 0.05)) / 0.1
    torch.testing.assert_close(slope[..., 0], steps, rtol=0.02, atol=0.05)


def test_arms_start_alike_and_differ_by_their_slopes_alone():
    x, y, dy = problem()
    gone = torch.full_like(dy, torch.nan)
    same = Ensemble(x, y, gone, steps=5)(x[0, 0])
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0, 0], same[0, 1])
    one = Ensemble(x, y, dy, steps=5)(x[0, 0])
    close(one[0], same[0], 1e-4)
    assert (one[1] - same[1]).abs().max() > 1e-3


def test_bad_arms_are_named():
    x, y, dy = problem()
    with pytest.raises(ValueError, match=r"x has shape \(2, 16, 1\); needed is \(arms"):
        Ensemble(x[0], y, dy)
    with pytest.raises(ValueError, match=r"dy has shape \(1, 2, 16, 1\); needed is \(2, 2, 16"):
        Ensemble(x, y, dy[:1])


def test_gains_are_paired_decades():
    errors = {"a": torch.tensor([1.0, 10.0, 100.0]), "b": torch.tensor([0.1, 1.0, 10.0])}
    [(name, found)] = gains(errors, "a").items()
    assert name == "b" and found.centre == pytest.approx(1.0) and found.count == 3
    assert found.high - found.low < 1e-6
