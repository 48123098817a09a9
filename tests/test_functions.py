"""The seven benchmark functions: gradients against autograd, values against published minima."""

import pytest
import torch

from sobolev_lib.functions import FUNCTIONS, get

# Known minima (Jamil & Yang 2013 and the standard tables); Styblinski-Tang's holds for each
# coordinate twice.
MINIMA = {
    "ackley": ((0.0, 0.0), 0.0),
    "beale": ((3.0, 0.5), 0.0),
    "booth": ((1.0, 3.0), 0.0),
    "bukin": ((-10.0, 1.0), 0.0),
    "mccormick": ((-0.54719755, -1.54719755), -1.91322295),
    "rosenbrock": ((1.0, 1.0), 0.0),
    "styblinski_tang": ((-2.90353403, -2.90353403), -78.33233141),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_agrees_with_autograd(name):
    f = FUNCTIONS[name]
    x = f.sample(200, torch.Generator().manual_seed(1), torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(f(x).sum(), x)
    assert torch.allclose(f.gradient(x), expected, rtol=1e-10, atol=1e-10)
    assert f(x).shape == (200, 1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_known_minimum(name):
    point, value = MINIMA[name]
    x = torch.tensor([point], dtype=torch.float64)
    assert FUNCTIONS[name](x).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_samples_fill_the_domain_and_repeat(name):
    f = FUNCTIONS[name]
    x = f.sample(20_000, torch.Generator().manual_seed(3))
    assert torch.equal(x, f.sample(20_000, torch.Generator().manual_seed(3)))
    for axis, (low, high) in enumerate(f.domain):
        assert low <= x[:, axis].min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < x[:, axis].max() <= high
        # Uniform: the mean's standard error is (high - low) / sqrt(12 n); five of them are allowed.
        assert abs(x[:, axis].mean() - (low + high) / 2) < 5 * (high - low) / (12 * 20_000) ** 0.5


def test_grids_have_y_first_and_the_edges_or_the_centres():
    f = FUNCTIONS["bukin"]  # x from -15 to -5, y from -3 to 3
    edges, centres = f.grid(5), f.grid(2, centres=True)
    assert edges.shape == (5, 5, 2) and edges.dtype == torch.float64
    assert edges[1, 2].tolist() == [-10, -1.5] and edges[-1, -1].tolist() == [-5, 3]
    assert centres.tolist() == [[[-12.5, -1.5], [-7.5, -1.5]], [[-12.5, 1.5], [-7.5, 1.5]]]
    for points, inside in ((1, False), (0, True)):
        with pytest.raises(ValueError, match=f"points is {points}"):
            f.grid(points, inside)


def test_singular_points_stay_finite():
    assert torch.isfinite(FUNCTIONS["ackley"].gradient(torch.zeros(1, 2))).all()
    on_the_valley = torch.tensor([[-10.0, 1.0]], dtype=torch.float64)
    assert torch.isfinite(FUNCTIONS["bukin"].gradient(on_the_valley)).all()


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"function is 'boot'.*booth"):
        get("boot")
    with pytest.raises(ValueError, match=r"x has shape \(3, 3\).*\(B, 2\)"):
        FUNCTIONS["booth"](torch.zeros(3, 3))
    with pytest.raises(TypeError, match="dtype"):
        FUNCTIONS["booth"](torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="n is 0"):
        FUNCTIONS["booth"].sample(0, torch.Generator())
