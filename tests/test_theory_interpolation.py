"""Proposition 1: values and gradients are met, whatever the points; bad data are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from sobolev_lib import SobolevLoss, derivatives
from sobolev_lib.theory.interpolation import errors, relu_interpolant
from sobolev_lib.theory.networks import GatedPlanes, leaky

METHODS = ["gated", "pair", "paper"]
SLOW = settings(max_examples=40, deadline=None)
NUMBERS = st.floats(-5, 5, width=32, allow_subnormal=False)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data(x, seed=1):
    return x, normal(len(x), seed=seed), normal(*x.shape, seed=seed + 1)


def grid(per_axis, d, step=1.0):
    return step * torch.cartesian_prod(*[torch.arange(float(per_axis)).double()] * d).reshape(-1, d)


SETS = {
    "random": normal(60, 7),
    "one point": normal(1, 3),
    "one dimension": normal(30, 1),
    "grid": grid(4, 3),
    "line": torch.linspace(-1, 2, 40).double()[:, None] * normal(1, 6, seed=3),
    "close": grid(3, 3, step=1e-4),
    "far": 1e4 + normal(50, 4),
    "far and close": 1e6 + grid(3, 2, step=1e-4),
    "two clusters": torch.cat([normal(9, 2), 1e5 + normal(9, 2)]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SETS)
def test_values_and_gradients_are_met(name, method):
    x, y, dy = data(SETS[name])
    found = errors(relu_interpolant(x, y, dy, method=method), x, y, dy)
    exact = method == "gated" and name != "two clusters"  # there g.x is 1e5, with its rounding
    assert found.values < (1e-13 if exact else 1e-6)
    assert found.gradients < (1e-13 if exact else 1e-5)


def test_a_thousand_points_in_fifty_dimensions():
    x, y, dy = data(normal(1000, 50))
    for method in ("gated", "pair"):
        found = errors(relu_interpolant(x, y, dy, method=method), x, y, dy)
        assert max(found.values, found.gradients) < 1e-6


@given(
    hnp.arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=NUMBERS),
    st.floats(-1e3, 1e3),
    st.integers(0, 99),
)
@SLOW
def test_any_points_that_hypothesis_finds(points, shift, seed):
    """Also points that coincide, or nearly: equal ones get equal data."""
    x = torch.from_numpy(np.unique(points + shift, axis=0))
    x, y, dy = data(x, seed)
    net = relu_interpolant(x, y, dy)
    found = errors(net, x, y, dy)
    assert max(found.values, found.gradients) < 1e-9


@given(
    st.integers(1, 15), st.integers(1, 4), st.integers(0, 10**6),
    st.floats(-0.9, 0.9), st.sampled_from(METHODS),
)  # fmt: skip
@SLOW
def test_random_points_by_every_method_and_with_leaky_units(n, d, seed, slope, method):
    x, y, dy = data(normal(n, d, seed=seed), seed + 1)
    net = relu_interpolant(x, y, dy, method=method, seed=seed)
    for plain in (net, leaky(net.sequential(), slope)):
        found = errors(plain, x, y, dy)
        assert max(found.values, found.gradients) < 1e-11 * (1 + net.lipschitz)


@given(
    hnp.arrays(int, st.tuples(st.integers(2, 8), st.integers(1, 3)), elements=st.integers(-1, 1)),
    st.sampled_from(METHODS), st.integers(0, 10**6),
)  # fmt: skip
@SLOW
def test_small_whole_numbers_where_much_coincides(points, method, seed):
    """Tangent planes that meet in further points, points on a line, values and slopes of 0."""
    x = torch.from_numpy(np.unique(points, axis=0)).double()
    rng = np.random.default_rng(seed)
    y, dy = (torch.from_numpy(rng.integers(-1, 2, size=s)).double() for s in (len(x), x.shape))
    found = errors(relu_interpolant(x, y, dy, method=method, seed=seed), x, y, dy)
    assert max(found.values, found.gradients) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_slopes_across_the_line_of_the_points(method):
    """One affine function turns into the next on the very line on which all points are."""
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]).double()
    dy = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, -2.0]]).double()
    found = errors(relu_interpolant(x, x[:, 1], dy, method=method), x, x[:, 1], dy)
    assert max(found.values, found.gradients) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_the_output_is_what_the_loss_expects(method):
    x, y, dy = data(SETS["random"])
    net = relu_interpolant(x, y, dy, method=method)
    assert net(x).shape == (60, 1)
    for backend in ("autograd", "func"):
        total, _ = SobolevLoss(backend=backend)(net, x, y[:, None], dy[:, None])
        assert total < 1e-12
    with pytest.raises(ValueError, match=r"x must have shape \(B, 7\), got \(60,\)"):
        net(x[:, 0])


@pytest.mark.parametrize("method", METHODS)
def test_the_plain_layers_are_the_same_network_and_have_the_units_it_says(method):
    x, y, dy = data(normal(9, 2) + 3.0)
    net = relu_interpolant(x, y, dy, method=method)
    plain = net.sequential()
    assert {type(layer) for layer in plain} == {nn.Linear, nn.ReLU}
    assert tuple(layer.out_features for layer in plain if isinstance(layer, nn.Linear)) == (
        *net.units,
        1,
    )
    far = 0.3 * normal(500, 2, seed=9) + 3.0
    far = far[((far > x.amin(0)) & (far < x.amax(0))).all(1)]  # linear units turn beyond the data
    points = torch.cat([x, far])
    assert len(far) > 100
    with torch.no_grad():
        both = [derivatives.value_and_derivatives(m, points) for m in (net, plain)]
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize("slope", [0.01, -0.5, 0.3])
@pytest.mark.parametrize("method", METHODS)
def test_leaky_units_compute_the_same(method, slope):
    x, y, dy = data(normal(8, 2))
    net = leaky(relu_interpolant(x, y, dy, method=method).sequential(), slope)
    assert any(isinstance(unit, nn.LeakyReLU) for unit in net)
    assert not any(isinstance(unit, nn.ReLU) for unit in net)
    found = errors(net, x, y, dy)
    assert max(found.values, found.gradients) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_no_gradient_passes_the_bound(method):
    x, y, dy = data(normal(20, 3))
    net = relu_interpolant(x, y, dy, method=method)
    probes = torch.cat([normal(4000, 3, seed=5), x.repeat(100, 1) + 0.1 * normal(2000, 3, seed=6)])
    steepest = derivatives.jacobian(net, probes).flatten(1).norm(dim=1).max()
    assert steepest <= net.lipschitz * (1 + 1e-9)
    if method == "gated":  # tight enough to be of use
        assert steepest > 0.2 * net.lipschitz


def test_away_from_the_points_the_gated_network_is_affine():
    """Each bump ends half-way to the nearest point."""
    x, y, dy = data(grid(3, 2))
    net = relu_interpolant(x, y, dy)
    middles = grid(2, 2) + 0.5  # l1 distance 1 from four points, reach 0.5
    plane = dy.mean(0) * torch.ones(4, 2).double()
    torch.testing.assert_close(derivatives.jacobian(net, middles)[:, 0], plane)


def test_distances_have_the_right_derivatives_twice():
    gated = GatedPlanes(
        {
            "points": normal(4, 3).numpy(), "slopes": normal(4, 3, seed=1).numpy(),
            "values": normal(4, seed=2).numpy(),
            "room": np.full(4, 9.0), "steepness": np.full(4, 1.7),
            "slope": normal(3, seed=3).numpy(), "offset": np.array(0.3),
        }
    )  # fmt: skip
    x = normal(6, 3, seed=4).requires_grad_()
    points = dict(gated.named_parameters())

    def call(z, p):
        return torch.func.functional_call(gated, {**points, "points": p}, z)

    assert torch.autograd.gradcheck(call, (x, gated.points))
    assert torch.autograd.gradgradcheck(call, (x, gated.points))


def test_duplicates_are_merged_or_refused():
    x, y, dy = data(normal(5, 2))
    twice = [torch.cat([part, part[1:3]]) for part in (x, y, dy)]
    net = relu_interpolant(*twice)
    assert net.units == relu_interpolant(x, y, dy).units
    assert errors(net, x, y, dy).values < 1e-13
    twice[1][6] += 1e-3
    with pytest.raises(ValueError, match="points 2 and 6 are the same, with different values"):
        relu_interpolant(*twice)
    twice[1][6] -= 1e-3
    twice[2][5, 0] += 1e-3
    with pytest.raises(ValueError, match="points 1 and 5 are the same, with different gradients"):
        relu_interpolant(*twice)
    zeros = torch.tensor([[0.0], [-0.0]]).double()
    with pytest.raises(ValueError, match="points 0 and 1 are the same"):
        relu_interpolant(zeros, torch.tensor([1.0, 2.0]), torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3).double()}, r"x must have shape \(n, d\).*got \(3,\)"),
        ({"x": torch.zeros(0, 2).double()}, "x must have shape"),
        ({"y": torch.zeros(4).double()}, r"y must have shape \(3,\).*got \(4,\)"),
        ({"dy": torch.zeros(3, 3).double()}, r"dy must have shape \(3, 2\).*got \(3, 3\)"),
        ({"y": torch.tensor([0.0, float("nan"), 1.0])}, "y must be finite"),
        ({"dy": [["a", "b"]] * 3}, "dy must hold real numbers"),
        ({"method": "gates"}, "method is 'gates'; it must be one of gated, pair"),
    ],
)
def test_bad_data_are_refused_by_name(change, message):
    x, y, dy = data(normal(3, 2))
    with pytest.raises(ValueError, match=message):
        relu_interpolant(**({"x": x, "y": y, "dy": dy} | change))


def test_points_that_double_precision_cannot_keep_apart_are_refused():
    x, y, dy = data(torch.tensor([[0.0], [1e-14], [1e4]]).double())
    for method in ("pair", "paper"):
        with pytest.raises(ValueError, match="x: projections of the points are only"):
            relu_interpolant(x, y, dy, method=method)
    assert errors(relu_interpolant(x, y, dy), x, y, dy).values < 1e-9
    with pytest.raises(ValueError, match=r"x: points 1\.0e-310 apart are too close"):
        relu_interpolant([[0.0], [1e-310]], y[:2], dy[:2])


def test_dtypes_and_arrays():
    x, y, dy = data(100 + normal(50, 3))
    net = relu_interpolant(x.float(), y.float(), dy.float())
    assert net(x.float()).dtype == torch.float32
    value, gradient = derivatives.value_and_derivatives(net, x.float())
    torch.testing.assert_close(value[:, 0], y.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient[:, 0], dy.float(), rtol=1e-5, atol=1e-5)
    for array in (x.numpy(), x.tolist()):
        assert relu_interpolant(array, y.numpy(), dy)(x).dtype == torch.float64
    whole = torch.tensor([[0], [2]])
    assert relu_interpolant(whole, [1, 2], [[0], [1]])(whole.double()).tolist() == [[1.0], [2.0]]
    with pytest.raises(TypeError, match=r"x must be float32 or float64, got torch.float16"):
        relu_interpolant(x.half(), y, dy)


@pytest.mark.parametrize("method", ["pair", "paper"])
def test_random_directions_come_from_the_seed(method):
    x, y, dy = data(normal(6, 3))
    nets = [relu_interpolant(x, y, dy, method=method, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (net.sequential()[0].weight for net in nets)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("slope", [1.0, -1.0, float("nan")])
def test_slopes_for_which_leaky_units_fail(slope):
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with pytest.raises(ValueError, match="slope must be finite and neither 1 nor -1"):
        leaky(net, slope)
