"""Numbers of the chapter *Seven landscapes*, each against an independent computation."""

import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from scipy import integrate, special

from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.regression import landscapes, signal

mpl.use("Agg")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_weights_are_a_probability_on_the_domain(name):
    points, weights = signal.quadrature(name)
    assert weights.min() > 0
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-12)
    low, high = torch.tensor(FUNCTIONS[name].domain, dtype=torch.float64).T
    assert ((points >= low) & (points <= high)).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signal_agrees_with_sampling(name):
    """Within five standard errors of 200,000 uniform points."""
    f, s = FUNCTIONS[name], signal.signal(name)
    x = f.sample(200_000, torch.Generator().manual_seed(1), torch.float64)
    y, g = f(x)[:, 0], f.gradient(x)
    squares = (y - y.mean()) ** 2
    assert abs(squares.mean() - s.variance) < 5 * squares.std() / len(y) ** 0.5
    slack = 0.005 * (s.high - s.low)  # a sample may fall between the points of the grid
    assert s.low - slack <= y.min() <= s.low + 0.05 * (s.high - s.low)
    assert y.max() <= s.high + slack
    if name == "bukin":
        assert s.gradient == s.raw == s.normalised == math.inf
        return
    widths = torch.tensor([b - a for a, b in f.domain], dtype=torch.float64)
    for sizes, value in (
        ((g**2).sum(1), s.gradient),
        ((g**2 * widths**2 / 12).sum(1), s.normalised * s.variance),
    ):
        assert abs(sizes.mean() - value) < 5 * sizes.std() / len(y) ** 0.5
    assert s.raw == pytest.approx(s.gradient / s.variance)


def test_booth_by_hand():
    """(x + 2y - 7)^2 + (2x + y - 5)^2 with E x^2 = 100/3: the gradient is linear."""
    second = 100 / 3
    gx = 10**2 * second + 8**2 * second + 34**2  # d/dx = 10 x + 8 y - 34
    gy = 8**2 * second + 10**2 * second + 38**2  # d/dy = 8 x + 10 y - 38
    assert signal.signal("booth").gradient == pytest.approx(gx + gy, rel=1e-12)


def test_ackley_waves_by_bessel_functions():
    """The wave part alone: whole periods, so its moments are modified Bessel functions."""
    points, weights = signal.quadrature("ackley")
    t = 2 * math.pi * points
    wave = torch.exp(0.5 * torch.cos(t).sum(1))
    mean = weights @ wave
    assert mean.item() == pytest.approx(special.i0(0.5) ** 2, rel=1e-8)
    energy = weights @ (math.pi**2 * wave**2 * (torch.sin(t) ** 2).sum(1))
    exact = 2 * math.pi**2 * special.i0(1) * special.i1(1)
    assert energy.item() == pytest.approx(exact, rel=1e-5)


def test_bukin_rule_against_nested_integration():
    """The mean of f and of |grad f| by scipy, with the valley given as a break point."""
    points, weights = signal.quadrature("bukin")
    f = FUNCTIONS["bukin"]

    def mean_over_y(x, power):
        def size(y):
            p = torch.tensor([[x, y]], dtype=torch.float64)
            return f(p).item() if power == 0 else f.gradient(p).norm().item()

        value, _ = integrate.quad(size, -3, 3, points=[0.01 * x * x], limit=200)
        return value / 6

    nodes, w = np.polynomial.legendre.leggauss(6)
    for power, ours in ((0, f(points)[:, 0]), (1, f.gradient(points).norm(dim=1))):
        theirs = sum(
            wk * mean_over_y(-10 + 5 * z, power) for z, wk in zip(nodes, w / 2, strict=True)
        )
        assert (weights @ ours).item() == pytest.approx(theirs, rel=2e-4)


def test_bukin_tail_constant():
    """P(|grad f|^2 > t) * t over two million points at several t, within five standard errors."""
    x = FUNCTIONS["bukin"].sample(2_000_000, torch.Generator().manual_seed(5), torch.float64)
    sizes = FUNCTIONS["bukin"].gradient(x).square().sum(1)
    for t in (1e5, 1e6):
        share = (sizes > t).double().mean().item()
        error = t * math.sqrt(share / len(x))
        assert abs(share * t - signal.BUKIN_TAIL) < 5 * error


@pytest.mark.parametrize("name", FUNCTIONS)
def test_minima_are_minima(name):
    f = FUNCTIONS[name]
    spots, least = signal.MINIMA[name]
    spots = torch.tensor(spots, dtype=torch.float64)
    assert f(spots)[:, 0].tolist() == pytest.approx([least] * len(spots), abs=1e-9)
    if name != "bukin":  # Bukin has a ridge there
        assert f.gradient(spots).abs().max() < 1e-6
    x = f.sample(200_000, torch.Generator().manual_seed(0), torch.float64)
    assert f(x).min() >= least
    near = (
        spots + 1e-3 * torch.randn(5000, 1, 2, generator=torch.Generator().manual_seed(1)).double()
    )
    assert f(near).min() >= least


def test_running_mean_is_a_mean_and_has_powers():
    means = signal.running_mean("booth", 1000, seed=3)
    x = FUNCTIONS["booth"].sample(1000, torch.Generator().manual_seed(3), torch.float64)
    sizes = FUNCTIONS["booth"].gradient(x).norm(dim=1)
    assert means[9].item() == pytest.approx(sizes[:10].square().mean().item())
    first = signal.running_mean("booth", 1000, seed=3, power=1.0)
    assert first[-1].item() == pytest.approx(sizes.mean().item())


def test_figures_show_all_seven_functions():
    signals = {name: signal.signal(name) for name in FUNCTIONS}
    titles = {f.title for f in FUNCTIONS.values()}
    for fig in (landscapes.draw_surfaces(), landscapes.draw_fields()):
        assert {ax.get_title("left") + ax.get_title("center") for ax in fig.axes} - {""} == titles
    for fig in (landscapes.draw_scales(signals), landscapes.draw_balance(signals)):
        assert {t.get_text() for t in fig.axes[0].get_yticklabels()} == titles
    assert len(landscapes.draw_running_mean().axes[1].lines) == 9
    slope = landscapes.draw_ackley().axes[1].lines[0].get_ydata()
    assert np.abs(slope).max() == pytest.approx(8.6, abs=0.5)
    plt.close("all")


def test_arrows_run_uphill_in_units_of_the_domain():
    f = FUNCTIONS["mccormick"]
    centres, ahead = landscapes._field(f, 4)
    low, high = np.array(f.domain).T
    slopes = f.gradient(torch.from_numpy(centres)).numpy()
    cross = ahead[..., 0] * (slopes / (high - low))[..., 1]
    cross -= ahead[..., 1] * (slopes / (high - low))[..., 0]
    np.testing.assert_allclose(cross, 0, atol=1e-12)
    assert ((ahead * slopes).sum(-1) > 0).all()
    assert np.linalg.norm(ahead, axis=-1).max() <= 1 + 1e-12
