"""Lemmas 1 and 2, Corollary 1, Theorem 1: bounds hold on dense grids, counts are right."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sobolev_lib.theory import ridges
from sobolev_lib.theory.approximation import (
    fewest_pieces,
    least_slope_error,
    line_network,
    relu_network,
)
from sobolev_lib.theory.balls import enclosed
from sobolev_lib.theory.broken_line import broken_line
from sobolev_lib.theory.ridges import Ridge
from sobolev_lib.theory.sampling import cells

needs_flint = pytest.mark.skipif(
    importlib.util.find_spec("flint") is None,
    reason='python-flint is not installed: pip install "sobolev-lib[theory]"',
)
quick = settings(max_examples=25, deadline=None, derandomize=True)


def errors(net, f, df, low, high, n=5_011):
    """Largest errors of value and slope on a dense grid, by autograd."""
    x = torch.linspace(low, high, n, dtype=net.output.weight.dtype).clamp(low, high)
    x.requires_grad_()
    y = net(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    points = x.detach().double().numpy()
    value_error = np.abs(y.detach().double().numpy() - f(points)).max()
    return value_error, np.abs(slope.double().numpy() - df(points)).max()


def assert_holds(net, f, df, low, high, eps, n=5_011):
    value_error, slope_error = errors(net, f, df, low, high, n)
    bounds = net.certificate
    assert value_error <= bounds.value_error * (1 + 1e-9) + 1e-15
    assert slope_error <= bounds.slope_error * (1 + 1e-9) + 1e-15
    assert max(bounds.value_error, bounds.slope_error) <= eps == bounds.eps
    assert bounds.least_pieces <= bounds.pieces <= len(net.slopes)


def fine_errors(net, f, df, low, high, n):
    """The same on any number of points: between its kinks the network is affine."""
    ends = np.concatenate([[low], net.kinks.numpy(), [high]])
    with torch.no_grad():
        values = net(torch.from_numpy(ends)).numpy()
    x = np.linspace(low, high, n)
    piece = np.clip(np.searchsorted(ends, x, side="right") - 1, 0, len(ends) - 2)
    slope = (np.diff(values) / np.diff(ends))[piece]
    return np.abs(np.interp(x, ends, values) - f(x)).max(), np.abs(slope - df(x)).max()


def logistic(x):
    return 1 / (1 + np.exp(-x))


def logistic_slope(x):
    return np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2


def waves(parts):
    """A sum of a sin(w x + p), its derivative, and the exact bound of its second derivative."""

    def f(x):
        return sum(a * np.sin(w * x + p) for a, w, p in parts)

    def df(x):
        return sum(a * w * np.cos(w * x + p) for a, w, p in parts)

    return f, df, sum(abs(a) * w * w for a, w, _ in parts)


wave_parts = st.lists(
    st.tuples(st.floats(-3, 3), st.floats(0.1, 4), st.floats(0, 7)), min_size=1, max_size=3
)


@quick
@given(
    parts=wave_parts,
    low=st.floats(-50, 50),
    length=st.floats(0.1, 12),
    share=st.floats(0.02, 0.8),
    negative_slope=st.sampled_from([0.0, 0.01, 0.3, -1.0, -0.5]),
    certified=st.booleans(),
)
def test_errors_stay_within_the_bound(parts, low, length, share, negative_slope, certified):
    f, df, lipschitz = waves(parts)
    eps = share * max(lipschitz, 0.1) / 4
    how = {"lipschitz": lipschitz} if certified else {}
    net = relu_network(f, df, (low, low + length), eps, negative_slope=negative_slope, **how)
    assert net.certificate.certified is certified
    assert_holds(net, f, df, low, low + length, eps)


@quick
@given(
    coefficients=st.lists(st.floats(-2, 2), min_size=1, max_size=6),
    low=st.sampled_from([-2.0, 0.0, 30.0, -1e3]),
    power=st.integers(2, 4),
)
def test_polynomials_with_a_certain_modulus(coefficients, low, power):
    p = np.polynomial.Polynomial(coefficients, domain=[low, low + 2], window=[-1, 1])
    second = p.deriv(2)
    bound = float(np.abs(second.coef).sum()) * 1.001 + 1e-9  # |u| <= 1 in the window
    eps = 2.0**-power
    net = relu_network(p, p.deriv(), (low, low + 2), eps, lipschitz=bound)
    assert_holds(net, p, p.deriv(), low, low + 2, eps)


@quick
@given(
    power=st.floats(0.5, 1.0), size=st.floats(0.1, 3), at=st.floats(-1, 1),
    low=st.floats(-2, 0), length=st.floats(0.5, 3),
    negative_slope=st.sampled_from([0.0, 0.2, -0.5]),
)  # fmt: skip
def test_a_modulus_that_is_no_lipschitz_constant(power, size, at, low, length, negative_slope):
    """f' = size |x - at|^power has the modulus size h^power, and no second derivative at all."""

    def f(x):
        return size * np.sign(x - at) * np.abs(x - at) ** (1 + power) / (1 + power)

    def df(x):
        return size * np.abs(x - at) ** power

    eps = 0.15 * size
    net = relu_network(
        f, df, (low, low + length), eps, modulus=lambda h: size * h**power,
        negative_slope=negative_slope,
    )  # fmt: skip
    assert net.certificate.certified
    assert_holds(net, f, df, low, low + length, eps)


@pytest.mark.parametrize(
    ("f", "df", "interval", "eps"),
    [
        (np.sin, np.cos, (0, 6), 0.05),
        (np.exp, np.exp, (-2, 2), 0.02),
        (lambda x: np.sin(x * x), lambda x: 2 * x * np.cos(x * x), (0, 4), 0.2),
        (logistic, logistic_slope, (-20, 5), 0.01),
    ],
    ids=["sin", "exp", "chirp", "sigmoid"],
)
def test_checked_at_points_and_good_between_them(f, df, interval, eps):
    net = relu_network(f, df, interval, eps)
    found = net.certificate
    assert (found.certified, found.how) == (False, "points alone")
    value_error, slope_error = fine_errors(net, f, df, *interval, 50 * found.points)
    assert max(value_error, slope_error) <= eps


def test_a_thousand_units_of_length():
    """Over 150 periods the values do not drift, and pieces stay near the fewest possible."""
    net = relu_network(np.sin, np.cos, (0, 1000), 0.01, lipschitz=1.0)
    assert_holds(net, np.sin, np.cos, 0, 1000, 0.01, n=997)
    assert net.certificate.certified
    assert net.certificate.pieces <= 1.03 * net.certificate.least_pieces


@needs_flint
@quick
@given(rate=st.floats(0.2, 3), low=st.floats(-2, 2), length=st.floats(0.2, 3))
def test_interval_arithmetic_certifies(rate, low, length):
    def f(x):
        return np.sin(rate * x * x) + np.exp(-x)

    def df(x):
        return 2 * rate * x * np.cos(rate * x * x) - np.exp(-x)

    def ball(x):
        return (rate * x * x).sin() + (-x).exp()

    net = relu_network(f, df, (low, low + length), 0.5, ball=ball)
    assert net.certificate.certified
    assert_holds(net, f, df, low, low + length, 0.5)


@needs_flint
def test_a_denominator_whose_ball_contains_zero_is_halved():
    """On whole cells interval arithmetic cannot tell that x^2 - x + 0.26 has no zero."""
    values, found = enclosed(lambda x: 1 / (x * x - x + 0.26), np.linspace(-3, 3, 13))
    p = np.polynomial.Polynomial([0.26, -1, 1])
    np.testing.assert_allclose(values, 1 / p(found.x), rtol=1e-14)
    x = np.linspace(found.x[:-1], found.x[1:], 99)
    slope = -p.deriv()(x) / p(x) ** 2
    assert (found.lo <= slope.min(0) + 1e-9).all() and (slope.max(0) <= found.hi + 1e-9).all()
    assert (found.hi - found.lo < 5000).all()


@needs_flint
def test_what_interval_arithmetic_cannot_enclose_is_refused():
    with pytest.raises(ValueError, match="f and ball disagree"):
        relu_network(np.sin, np.cos, (0, 1), 0.1, ball=lambda x: x.cos())
    with pytest.raises(ValueError, match="ball is not known"):
        relu_network(np.sin, np.cos, (0, 1), 0.1, ball=lambda x: (x - 0.5).log())


@pytest.mark.parametrize(
    ("f", "df", "interval", "eps"),
    [
        (np.exp, np.exp, (-3.0, 4.0), 0.1),
        (np.sin, np.cos, (1e6, 1e6 + 10), 0.01),
        (np.sin, np.cos, (-60.0, 60.0), 0.05),
        (lambda x: x**1.5, lambda x: 1.5 * np.sqrt(x), (0.0, 2.0), 0.02),
        (lambda x: x * np.abs(x), lambda x: 2 * np.abs(x), (-1.0, 0.7), 0.01),
        (lambda x: 1000 * x + np.sin(x), lambda x: 1000 + np.cos(x), (0.0, 6.0), 0.1),
        (lambda x: 2.0, lambda x: 0.0, (-1.0, 1e4), 0.01),
        (torch.tanh, lambda x: 1 - torch.tanh(x) ** 2, (-30.0, 40.0), 0.01),
        (lambda x: x.sin(), lambda x: x.cos(), (0.0, 3.0), 0.01),
    ],
    ids=["exp", "far", "long", "C1 only", "kink of f'", "steep", "constant", "torch", "methods"],
)
def test_functions_as_people_write_them(f, df, interval, eps):
    net = relu_network(f, df, interval, eps)

    def plain(g):
        def call(x):
            try:
                return np.asarray(g(x)) + 0 * x
            except (TypeError, AttributeError):
                return g(torch.from_numpy(x)).numpy()

        return call

    assert_holds(net, plain(f), plain(df), *interval, eps)


def test_count_is_near_the_least_and_below_uniform():
    eps, (low, high) = 0.3, (0.0, 5.0)
    net = relu_network(np.exp, np.exp, (low, high), eps)
    # f' = exp is monotone, so the least number is its change over 2 eps
    least = math.ceil((math.exp(high) - 1) / (2 * eps))
    assert least - 1 <= fewest_pieces(np.exp, (low, high), eps) <= least
    assert net.certificate.pieces <= 1.03 * least + 1
    assert net.certificate.pieces < (high - low) * math.exp(high) / (2 * eps) / 4


@pytest.mark.parametrize("pieces", [1, 2, 10, 100])
def test_least_error_is_the_change_of_a_monotone_slope_over_twice_the_pieces(pieces):
    exact = (math.exp(3) - 1) / (2 * pieces)
    assert 0.98 * exact <= least_slope_error(np.exp, (0, 3), pieces) <= exact
    with pytest.raises(ValueError, match="pieces is 0"):
        least_slope_error(np.exp, (0, 3), 0)


def test_long_gentle_pieces_do_not_lose_the_values():
    """Slopes alone would allow a tail where the values drift by more than eps."""
    net = relu_network(logistic, logistic_slope, (-40, 40), 0.01)
    x = torch.linspace(-40, 40, 5001, dtype=torch.float64)
    assert (net(x) - torch.sigmoid(x)).abs().max() <= 0.01
    assert net.certificate.pieces <= 40


def test_gradient_on_a_kink_is_that_of_a_side():
    net = relu_network(np.sin, np.cos, (0, 6), 0.2)
    x = net.kinks.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x)
    sides = torch.stack([net.slopes[:-1], net.slopes[1:]])
    assert ((slope - sides).abs().amin(0) == 0).all()
    assert (slope - net.kinks.cos()).abs().max() <= 0.2


def test_float32_holds_what_it_can_and_refuses_the_rest():
    net = relu_network(np.sin, np.cos, (0, 6), 0.05, dtype=torch.float32)
    assert net.output.weight.dtype == torch.float32
    assert_holds(net, np.sin, np.cos, 0, 6, 0.05)
    with pytest.raises(ValueError, match="float32"):
        relu_network(np.sin, np.cos, (1e6, 1e6 + 6), 0.05, dtype=torch.float32)
    with pytest.raises(ValueError, match="float32 cannot hold"):
        relu_network(lambda x: 1e6 + np.sin(x), np.cos, (0, 6), 0.01, dtype=torch.float32)


@quick
@given(
    low=st.floats(-5e3, 5e3, width=32), length=st.floats(0.5, 12, width=32),
    steep=st.floats(-100, 100), negative_slope=st.sampled_from([0.0, 0.1]),
)  # fmt: skip
@example(low=-2047.89990234375, length=7.900000095367432, steep=100.0, negative_slope=0.0)
def test_float32_bounds_count_every_rounding(low, length, steep, negative_slope):
    def f(x):
        return steep * (x - low) + np.sin(x)

    def df(x):
        return steep + np.cos(x)

    net = relu_network(
        f, df, (low, low + length), 0.5, lipschitz=1.0, dtype=torch.float32,
        negative_slope=negative_slope,
    )  # fmt: skip
    assert_holds(net, f, df, *np.float32([low, low + length]).tolist(), 0.5, n=511)


def test_cells_hold_at_all_numbers_where_their_middle_is_rounded():
    """Cells of three numbers of float32: the one in the middle is nearer to one of the ends."""
    every = np.arange(4096, 4097, 2.0**-11)
    assert (every == every.astype(np.float32)).all()
    steps = np.random.default_rng(0).choice([-1.0, 1.0], size=len(every) - 1)
    values = np.append(0.0, np.cumsum(steps))  # as steep as its modulus everywhere

    found = cells(
        lambda x: np.interp(x, every, values), (4096.0, every[-1]), 40.0,
        modulus=lambda h: h * 2.0**11, dtype=torch.float32, start=len(every) // 3,
    )  # fmt: skip
    assert np.diff(found.x).max() > 2 * 2.0**-11
    for number, value in zip(every, values, strict=True):
        at = (found.x[:-1] <= number) & (number <= found.x[1:])
        assert (found.lo[at] <= value).all() and (value <= found.hi[at]).all()


@pytest.mark.parametrize("eps", [np.float32(0.125), np.int64(1), np.float64(0.1)])
def test_eps_is_any_real_number(eps):
    found = relu_network(np.sin, np.cos, (0, 6), eps).certificate
    assert found.eps == float(eps)
    assert type(found.eps) is float


def test_input_of_any_shape_and_many_points():
    net = relu_network(np.sin, np.cos, (0, 6), 0.01)
    x = torch.rand(3, 5, 1, dtype=torch.float64) * 6
    assert net(x).shape == x.shape
    many = torch.linspace(0, 6, 100_003, dtype=torch.float64, requires_grad=True)
    net(many).sum().backward()  # in parts
    piece = torch.searchsorted(net.kinks, many.detach())
    assert torch.equal(many.grad, net.slopes[piece])
    with pytest.raises(TypeError, match="float64 is needed"):
        net(torch.zeros(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0.0}, "eps is 0.0"),
        ({"eps": -1}, "eps is -1"),
        ({"eps": math.nan}, "eps is nan"),
        ({"interval": (1.0, 1.0)}, "interval"),
        ({"interval": (0.0, math.inf)}, "interval"),
        ({"interval": 3.0}, "interval"),
        ({"df": np.sin}, "f and df disagree"),
        ({"df": lambda x: np.cos(x) + 0.1}, "f and df disagree"),
        ({"f": lambda x: x[:-1]}, "f maps shape"),
        ({"df": lambda x: np.stack([x, x], 1)}, "df maps shape"),
        ({"df": lambda x: np.cos(x).astype(np.float32)}, "df answers .* float32"),
        ({"f": lambda x: np.where(x < 1, x, np.nan)}, "f is not finite at 1"),
        ({"f": np.abs, "df": np.sign, "interval": (-1.0, 1.1)}, "jumps"),
        ({"eps": 1e-12}, "pieces"),
        ({"lipschitz": 1.0, "modulus": lambda h: h}, "at most one"),
        ({"lipschitz": -1.0}, "lipschitz is -1"),
        ({"lipschitz": 0.7}, "lipschitz or modulus is too small"),  # sin has slopes up to 0.9
        ({"modulus": lambda h: h * h}, "lipschitz or modulus is too small"),
        ({"modulus": lambda h: -h}, "modulus gives -"),
        ({"modulus": lambda h: math.nan}, "modulus gives nan"),
        ({"negative_slope": 1.0}, "negative_slope"),
        ({"dtype": torch.float16}, "dtype"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    arguments = {"f": np.sin, "df": np.cos, "interval": (0.0, 2.0), "eps": 0.1}
    with pytest.raises(ValueError, match=message):
        relu_network(**(arguments | change))


def test_slopes_too_large_for_double_precision_are_refused_as_such():
    with pytest.raises(ValueError, match=r"with the rounding of torch\.float64 the error is"):
        relu_network(
            lambda x: 1e12 * x + np.sin(x), lambda x: 1e12 + np.cos(x), (0, 6), 0.01, lipschitz=1.0
        )


def test_two_neighbouring_numbers_are_an_interval():
    net = relu_network(np.sin, np.cos, (1.0, np.nextafter(1.0, 2.0)), 0.1)
    assert net.certificate.pieces == 1


def test_a_function_that_is_none_is_refused():
    with pytest.raises(TypeError, match="df is 3"):
        relu_network(np.sin, 3, (0, 1), 0.1)


def test_sigmoid_on_the_whole_line():
    net = line_network(logistic, logistic_slope, (-8, 8), 0.01, limits=(0, 1), lipschitz=0.1)
    assert_holds(net, logistic, logistic_slope, -300.0, 300.0, 0.01)
    # the network is made with eps / 2, what it says about all others is said for eps
    assert net.certificate.least_pieces == fewest_pieces(logistic_slope, (-8, 8), 0.01)
    x = torch.tensor([-1e6, -9.0, 9.0, 1e6], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(net(x).sum(), x)
    assert slope.abs().max() == 0  # constant outside
    with pytest.raises(ValueError, match="too short"):
        line_network(logistic, logistic_slope, (-8, 3), 0.01, limits=(0, 1))


@quick
@given(
    steep=st.floats(0.2, 3), centre=st.floats(-5, 5), height=st.floats(-3, 3),
    share=st.floats(0.02, 0.3),
)  # fmt: skip
def test_sigmoids_on_the_whole_line(steep, centre, height, share):
    def f(x):
        return height * logistic(steep * (x - centre))

    def df(x):
        return height * steep * logistic_slope(steep * (x - centre))

    eps = share * max(abs(height), 0.1) * max(steep, 1.0) / 4
    reach = 1 + max(0.0, math.log(4 * (1 + abs(height)) * (1 + steep) / eps)) / steep
    net = line_network(
        f, df, (centre - reach, centre + reach), eps, limits=(0, height),
        lipschitz=abs(height) * steep**2 / 10,
    )  # fmt: skip
    assert_holds(net, f, df, centre - 100, centre + 100, eps)


@quick
@given(
    values=st.lists(st.floats(-5, 5), min_size=2, max_size=20),
    seed=st.integers(0, 99),
)
def test_any_broken_line_is_a_network(values, seed):
    knots = np.cumsum(0.1 + np.random.default_rng(seed).random(len(values)))
    net = broken_line(knots, values)
    x = np.linspace(knots[0], knots[-1], 999)
    assert np.abs(net(torch.from_numpy(x)).numpy() - np.interp(x, knots, values)).max() < 1e-11
    assert net.hidden.out_features == len(values) - 1


@pytest.mark.parametrize("knots", [[0, 0, 1], [0, 1, math.nan], [1], [0, 1]])
def test_bad_knots_are_refused(knots):
    with pytest.raises(ValueError, match="knots"):
        broken_line(knots, [0.0, 1.0, 2.0])


SQUARE = [(-math.pi, math.pi)] * 2


def gradient_errors(net, f, df, box, n=2000):
    """Largest error of value and gradient (Euclidean) at random points, and its mean square."""
    low, high = torch.tensor(box, dtype=torch.float64).T
    u = torch.rand(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (low + (high - low) * u).requires_grad_()
    y = net(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    off = (slope - df(x.detach())).norm(dim=1)
    value_error = (y.detach()[:, 0] - f(x.detach())).abs().max()
    return value_error.item(), off.max().item(), off.square().mean().item()


def bumps(x):
    return torch.exp(x[:, 0].cos() + x[:, 1].sin())


def bumps_slope(x):
    return bumps(x)[:, None] * torch.stack([-x[:, 0].sin(), x[:, 1].cos()], dim=1)


@quick
@given(
    directions=st.lists(
        st.tuples(st.floats(-3, 3), st.floats(-3, 3)).filter(lambda w: math.hypot(*w) > 0.1),
        min_size=1, max_size=4,
    ),
)  # fmt: skip
def test_sums_of_ridges_keep_their_budget(directions):
    parts = [Ridge(w, np.sin, np.cos) for w in directions]
    net = ridges.ridge_network(parts, [(-1, 1), (0, 2)], 0.3)
    w = torch.tensor(directions, dtype=torch.float64)

    def f(x):
        return (x @ w.T).sin().sum(1)

    def df(x):
        return (x @ w.T).cos() @ w

    value_error, slope_error, _ = gradient_errors(net, f, df, [(-1, 1), (0, 2)])
    assert max(value_error, slope_error) <= 0.3


@pytest.mark.parametrize("eps", [1.0, 0.3])
def test_fourier_example_holds_its_bound(eps):
    net, left_out = ridges.fourier_example(eps)
    assert left_out < eps / 4
    value_error, slope_error, _ = gradient_errors(net, bumps, bumps_slope, SQUARE)
    assert max(value_error, slope_error) <= eps


def test_fourier_series_is_that_of_the_function():
    x = torch.rand(50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    k = torch.tensor([w[1] for w in ridges.cosines(16)], dtype=torch.float64)
    size, phase = (torch.tensor([w[j] for w in ridges.cosines(16)]).double() for j in (0, 2))
    total = (size * (x @ k.T + phase).cos()).sum(1)
    assert (total - bumps(x)).abs().max() < 1e-6  # coefficients and phases are rounded to float32


def test_random_units_err_like_one_over_the_root_of_their_number():
    def mean_square(n):
        nets = [ridges.maurey_network(n, torch.Generator().manual_seed(s)) for s in range(6)]
        return np.mean([gradient_errors(net, bumps, bumps_slope, SQUARE)[2] for net in nets])

    few, many = mean_square(100), mean_square(1600)
    assert 5 < few / many < 50  # 16 on average
    with pytest.raises(ValueError, match="units is 0"):
        ridges.maurey_network(0, torch.Generator())


@pytest.mark.parametrize(("forget", "holds"), [(False, True), (True, False)])
def test_budget_counts_coefficients_and_weights(forget, holds):
    """f = 100 sigma(100 x): with the paper's eps / (2N), N = 1, its slope is wrong by hundreds."""
    eps = 0.1
    delta = eps / 2 if forget else ridges.sigmoid_budget([100.0], [[100.0]], eps)
    reach = 5.0 if forget else 0.05  # a fine budget takes many pieces: a short interval shows it
    line = relu_network(logistic, logistic_slope, (-reach, reach), delta, lipschitz=0.1)
    part = ridges.merge([Ridge((100.0,), logistic, logistic_slope)], [line])
    x = torch.linspace(-reach, reach, 999, dtype=torch.float64).div(100).requires_grad_()
    (slope,) = torch.autograd.grad(100 * part(x[:, None]).sum(), x)
    off = np.abs(slope.numpy() - 1e4 * logistic_slope(100 * x.detach().numpy())).max()
    assert (off <= eps / 2) == holds
    assert not forget or off > 100


@pytest.mark.parametrize(("spacing", "error"), [(1.0, 0.1), (0.5, 6e-4), (0.3, 4e-7)])
def test_a_cosine_is_a_sum_of_sigmoids(spacing, error):
    coefficients, shifts, constant = ridges.sigmoid_cosine(math.pi, spacing)
    t = np.linspace(-math.pi, math.pi, 501)
    units = logistic((t[:, None] - shifts) / 0.3)
    assert np.abs(constant + units @ coefficients - np.cos(t)).max() < error
    slope = (units * (1 - units)) @ coefficients / 0.3
    assert np.abs(slope + np.sin(t)).max() < error


def test_a_wave_through_sigmoids_is_a_network_of_theorem_one():
    parts, constant = ridges.sigmoid_ridges((1.0, -0.5), reach=1.5, spacing=0.5)
    net = ridges.ridge_network(parts, [(-1, 1)] * 2, 0.1)
    net.output.bias.add_(constant)
    k = torch.tensor([1.0, -0.5], dtype=torch.float64)

    def f(x):
        return (x @ k).cos()

    def df(x):
        return -(x @ k).sin()[:, None] * k

    value_error, slope_error, _ = gradient_errors(net, f, df, [(-1, 1)] * 2)
    assert max(value_error, slope_error) <= 0.1 + 1e-3  # the sum of sigmoids itself errs by 6e-4


def test_boxes_and_shapes_are_checked():
    part = Ridge((1.0, 1.0), np.sin, np.cos)
    with pytest.raises(ValueError, match="box has 1"):
        ridges.ridge_network([part], [(0, 1)], 0.1)
    with pytest.raises(ValueError, match="eps"):
        ridges.ridge_network([part], [(0, 1)] * 2, 0)
    with pytest.raises(ValueError, match="eps is 0"):
        ridges.fourier_example(0)
    with pytest.raises(ValueError, match=r"spacing is -1\.0"):
        ridges.sigmoid_cosine(1.0, -1.0)
    with pytest.raises(ValueError, match="ridges is empty"):
        ridges.ridge_network([], [(0, 1)] * 2, 0.1)
    with pytest.raises(ValueError, match="eps is -1"):
        ridges.sigmoid_budget([1.0], [[1.0]], -1)
    with pytest.raises(ValueError, match=r"coefficients \(2,\) and weights \(1, 1\)"):
        ridges.sigmoid_budget([1.0, 2.0], [[1.0]], 0.1)
    net = ridges.ridge_network([part], [(0, 1)] * 2, 0.5)
    with pytest.raises(ValueError, match=r"x has shape \(3,\)"):
        net(torch.zeros(3, dtype=torch.float64))
