"""Theorem 2: the bound is never above the optimum, is sharp, and vanishes where g = f'."""

import importlib.util
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog

from sobolev_lib.theory.approximation import relu_network
from sobolev_lib.theory.compatibility import best_pair, closest, lower_bound
from sobolev_lib.theory.walks import lattice, path_bound, walk_bound

needs_flint = pytest.mark.skipif(
    importlib.util.find_spec("flint") is None,
    reason='python-flint is not installed: pip install "sobolev-lib[theory]"',
)
quick = settings(max_examples=25, deadline=None, derandomize=True)


def linear_programme(f, integral, x):
    """Least eta for which a function on the points x exists (the graph's optimum, from below)."""
    n = len(x)
    near = sparse.eye_array(n)
    difference = sparse.diags_array([-np.ones(n), np.ones(n - 1)], offsets=[0, 1]).tocsr()[: n - 1]
    gains, step = np.diff(integral(x)), np.diff(x)[:, None]
    rows, ends = [], []
    for sign in (1, -1):
        rows += [[sign * near, -np.ones((n, 1))], [sign * difference, -step]]
        ends += [sign * f(x), sign * gains]
    cost = np.append(np.zeros(n), 1.0)
    return linprog(cost, sparse.block_array(rows), np.concatenate(ends), bounds=(None, None)).fun


@quick
@given(
    a=st.floats(-2, 2), w=st.floats(0.3, 3), b=st.floats(-1, 1), v=st.floats(0.3, 3),
    low=st.floats(-5, 5), length=st.floats(0.5, 6),
)  # fmt: skip
def test_bound_is_the_optimum_of_the_linear_programme(a, w, b, v, low, length):
    def f(x):
        return a * np.sin(w * x)

    def integral(x):
        return a * np.sin(w * x) + b * np.sin(v * x)

    def g(x):
        return a * w * np.cos(w * x) + b * v * np.cos(v * x)

    eta = lower_bound(f, g, (low, low + length))
    discrete = linear_programme(f, integral, np.linspace(low, low + length, 81))
    assert eta >= discrete - 1e-9  # a function on the line is one on the points
    assert eta <= discrete * 1.01 + 1e-3 * abs(b) * v


@pytest.mark.parametrize(
    ("f", "integral", "g"),
    [
        (np.sin, lambda x: np.sin(x) + 0.3 * x, lambda x: np.cos(x) + 0.3),
        (
            np.sin,
            lambda x: np.sin(x) - 0.3 * np.cos(2 * x),
            lambda x: np.cos(x) + 0.6 * np.sin(2 * x),
        ),
        (np.cos, lambda x: x**3 / 9, lambda x: x**2 / 3),
    ],
    ids=["offset", "wave", "another function"],
)
def test_the_linear_programme_agrees_to_four_digits(f, integral, g):
    eta = lower_bound(f, g, (0, 6))
    assert linear_programme(f, integral, np.linspace(0, 6, 1601)) == pytest.approx(eta, rel=5e-5)


@quick
@given(
    a=st.floats(-2, 2), w=st.floats(0.3, 3), b=st.floats(-1, 1), v=st.floats(0.3, 3),
    low=st.floats(-5, 5), length=st.floats(0.5, 6),
)  # fmt: skip
def test_the_closest_function_attains_the_bound(a, w, b, v, low, length):
    """The infimum of the proof: its values and its slopes are wrong by eta, and no more."""

    def f(x):
        return a * np.sin(w * x)

    def g(x):
        return a * w * np.cos(w * x) + b * v * np.cos(v * x)

    interval = (low, low + length)
    eta = lower_bound(f, g, interval)
    x, h = closest(f, g, interval)
    assert np.abs(h - f(x)).max() <= eta + 1e-6
    climb = np.diff(a * np.sin(w * x) + b * np.sin(v * x))
    assert (np.abs(np.diff(h) - climb) <= eta * np.diff(x) + 1e-9).all()


@needs_flint
@quick
@given(shift=st.floats(-3, 3), length=st.floats(0.1, 30), low=st.sampled_from([0.0, -7.5, 1e4]))
def test_certified_bounds_hold_to_the_last_bit(shift, length, low):
    """An offset of the slopes has a closed form, and a fraction has no rounding."""
    high = low + length
    found = best_pair(
        np.sin, lambda x: np.cos(x) + shift, (low, high),
        balls=(lambda x: x.sin(), lambda x: x.cos() + shift),
    )  # fmt: skip
    long = Fraction(high) - Fraction(low)
    exact = abs(Fraction(shift)) * long / (2 + long)
    assert found.certified
    assert Fraction(found.eta) <= exact <= Fraction(found.most)
    assert found.eta >= float(exact) * (1 - 1e-9) - 1e-9


@needs_flint
@settings(quick, max_examples=5)
@given(
    a=st.floats(-2, 2), w=st.floats(0.3, 3), b=st.floats(-1, 1), v=st.floats(0.3, 3),
    low=st.floats(-5, 5), length=st.floats(0.5, 6),
)  # fmt: skip
def test_certified_bounds_enclose_the_optimum(a, w, b, v, low, length):
    def f(x):
        return a * np.sin(w * x)

    def g(x):
        return a * w * np.cos(w * x) + b * v * np.cos(v * x)

    def integral(x):
        return a * np.sin(w * x) + b * np.sin(v * x)

    def f_ball(x):
        return a * (w * x).sin()

    def g_ball(x):
        return a * w * (w * x).cos() + b * v * (v * x).cos()

    interval = (low, low + length)
    found = best_pair(f, g, interval, balls=(f_ball, g_ball))
    discrete = linear_programme(f, integral, np.linspace(*interval, 81))
    assert discrete <= found.most + 1e-9
    assert found.eta <= found.most <= found.eta + 1e-4
    plain = best_pair(f, g, interval)
    assert (plain.certified, plain.most) == (False, math.inf)
    assert plain.points > 1000
    assert found.eta == pytest.approx(plain.eta, abs=1e-9)


@needs_flint
def test_certified_quadrature_is_not_fooled():
    """A spike between the nodes of every cell: the estimate misses it, the enclosure does not."""

    def spike(x):
        return 1000 * np.exp(-((1e7 * (x - 0.12345)) ** 2))

    def ball(x):
        return 1000 * (-((1e7 * (x - 0.12345)) ** 2)).exp()

    assert lower_bound(lambda x: 0 * x, spike, (0, 1)) == 0
    found = best_pair(lambda x: 0 * x, spike, (0, 1), balls=(lambda x: 0 * x, ball))
    assert found.eta == pytest.approx(1e-4 * math.sqrt(math.pi) / 3)  # of the pair 0, 1
    assert found.most > 1e-4 * math.sqrt(math.pi) / 2  # a pair on both sides of the spike


@needs_flint
@pytest.mark.parametrize(
    ("balls", "message"),
    [
        ((lambda x: x.cos(), lambda x: x.cos()), "balls: f and its ball differ"),
        ((lambda x: x.sin(), lambda x: x.cos() + 0.1), "balls: g and its ball differ"),
        (lambda x: x.sin(), "balls is .*; a pair"),
    ],
)
def test_balls_that_are_other_functions_are_refused(balls, message):
    with pytest.raises(ValueError, match=message):
        best_pair(np.sin, np.cos, (0, 1), balls=balls)


@needs_flint
def test_a_function_that_no_ball_encloses_is_refused():
    with pytest.raises(ValueError, match="balls: g has no finite value or varies too fast near"):
        best_pair(np.sin, np.sqrt, (0, 1), balls=(lambda x: x.sin(), lambda x: x.sqrt()))


@quick
@given(shift=st.floats(-3, 3), length=st.floats(0.1, 30))
def test_a_constant_offset_has_a_closed_form(shift, length):
    eta = lower_bound(np.sin, lambda x: np.cos(x) + shift, (0, length))
    exact = abs(shift) * length / (2 + length)
    assert exact * (1 - 1e-9) - 1e-12 <= eta <= exact


@pytest.mark.parametrize(
    ("f", "df", "interval"),
    [
        (np.sin, np.cos, (0, 6)),
        (np.exp, np.exp, (-3, 20)),
        (torch.sin, torch.cos, (1e6, 1e6 + 6)),
        (lambda x: np.sin(100 * x), lambda x: 100 * np.cos(100 * x), (1e3, 1e3 + 2)),
        (lambda x: x**1.5, lambda x: 1.5 * np.sqrt(x), (0, 1)),
        (lambda x: 3.0, lambda x: 0.0, (-5, 5)),
        (lambda x: 1e8 + x**3, lambda x: 3 * x**2, (-2, 2)),
    ],
)
def test_zero_where_g_is_the_derivative(f, df, interval):
    assert lower_bound(f, df, interval) == 0.0


def test_pair_at_a_jump_is_found_and_not_overstated():
    c = 0.3712345
    found = best_pair(lambda x: 0 * x, lambda x: np.sign(x - c), (0, 1))
    exact = (1 - c) / (3 - c)
    assert exact - 1e-6 < found.eta <= exact
    assert found.s == pytest.approx(c, abs=1e-5) and found.t == 1


def test_no_network_beats_it():
    """A broken line that follows f, and one that follows g, and all between."""
    eta = lower_bound(np.sin, lambda x: np.cos(x) + 0.3, (0, 6))
    x = torch.linspace(0, 6, 4001, dtype=torch.float64)
    ends = []
    for share in np.linspace(0, 1, 9):
        net = relu_network(
            lambda x, s=share: np.sin(x) + 0.3 * s * (x - 3),
            lambda x, s=share: np.cos(x) + 0.3 * s,
            (0, 6), 0.01,
        )  # fmt: skip
        z = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(net(z).sum(), z)
        errors = (net(x) - x.sin()).abs().max(), (slope - x.cos() - 0.3).abs().max()
        ends.append(max(errors).item())
    assert min(ends) >= eta
    assert min(ends) < eta + 0.02  # a function with slope error 0.225 is among them


@pytest.mark.parametrize("interval", [(1, 1), (2, 1), (0, math.nan), "ab"])
def test_empty_intervals_are_refused(interval):
    with pytest.raises(ValueError, match="interval"):
        lower_bound(np.sin, np.cos, interval)


def test_functions_are_checked_by_name():
    with pytest.raises(ValueError, match="g maps shape"):
        lower_bound(np.sin, lambda x: x[1:], (0, 1))
    with pytest.raises(ValueError, match="f is not finite"):
        lower_bound(lambda x: x * np.inf, np.cos, (1, 2))
    with pytest.raises(TypeError, match="g is None"):
        lower_bound(np.sin, None, (0, 1))


def rotation(x):
    return (x - 0.5)[:, ::-1] * [-1, 1]


def nothing(x):
    return 0 * x[:, 0]


CHEEGER = 2 / (2 + math.sqrt(math.pi))  # twice the inverse Cheeger constant of the unit square


def test_best_walk_for_a_rotation_is_a_loop_near_the_cheeger_set():
    bounds = [walk_bound(nothing, rotation, *lattice(n, r)) for n, r in ((9, 1), (15, 2), (21, 4))]
    for found in bounds:
        assert (found.path[0] == found.path[-1]).all()
        assert path_bound(nothing, rotation, found.path) == pytest.approx(found.eta)
        assert found.eta < CHEEGER
    assert bounds[0].eta < bounds[1].eta < bounds[2].eta
    assert bounds[-1].eta > 0.99 * CHEEGER


@needs_flint
@quick
@given(corners=st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=2, max_size=6),
       loop=st.booleans(), scale=st.floats(-2, 2))  # fmt: skip
def test_bounds_of_polygons_are_certified(corners, loop, scale):
    """A rotation is linear on a side, so that its integral is a fraction."""
    path = corners + corners[:1] if loop else corners
    if len({*path}) < 2:
        return
    found = path_bound(
        lambda x: scale * x[:, 0], lambda x: x[:, ::-1] * [-1, 1], path,
        balls=(lambda x, y: scale * x, lambda x, y: (-y, x)),
    )  # fmt: skip
    exact = [[Fraction(c) for c in corner] for corner in path]
    gain = sum(p[0] * q[1] - p[1] * q[0] for p, q in itertools.pairwise(exact))
    rise = 0 if path[0] == path[-1] else Fraction(scale) * (exact[-1][0] - exact[0][0])
    length = math.fsum(math.dist(p, q) for p, q in itertools.pairwise(path))
    bound = abs(rise - gain) / Fraction(length if path[0] == path[-1] else 2 + length)
    assert Fraction(found) <= bound * (1 + Fraction(1, 10**15))  # the length is rounded here
    assert found >= float(bound) * (1 - 1e-12) - 1e-12


@needs_flint
def test_a_field_with_too_few_components_is_refused():
    with pytest.raises(ValueError, match="balls: g gives 1 numbers; 2 are needed"):
        path_bound(
            nothing, rotation, [[0.0, 1.0], [1.0, 1.0]],
            balls=(lambda x, y: 0 * x, lambda x, y: (x,)),
        )  # fmt: skip


def test_best_walk_for_an_open_problem_is_a_path():
    found = walk_bound(lambda x: x[:, 0], lambda x: 0 * x, *lattice(7))
    assert found.eta == pytest.approx(1 / 3)
    assert found.path[0][0] != found.path[-1][0]


def test_a_gradient_has_no_bound():
    def f(x):
        return x[:, 0] ** 2 * x[:, 1]

    def g(x):
        return np.stack([2 * x[:, 0] * x[:, 1], x[:, 0] ** 2], axis=1)

    assert walk_bound(f, g, *lattice(7, 2)).eta < 1e-12


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1e10])
def test_the_best_walk_keeps_its_ratio_in_other_units(unit):
    def f(x):
        return np.sin(3 * x[:, 0]) + 0.4 * x[:, 1]

    one = walk_bound(f, rotation, *lattice(7, 2)).eta
    other = walk_bound(lambda x: unit * f(x), lambda x: unit * rotation(x), *lattice(7, 2)).eta
    assert other == pytest.approx(unit * one, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1e9])
def test_the_best_walk_is_found_on_domains_of_any_size(scale):
    points, edges = lattice(7, 2)

    def f(x):
        return np.sin(3 * x[:, 0] / scale)

    # A walk of two points, one edge: its length is that of the edge, and 2 for the two values.
    found = walk_bound(f, lambda x: 0 * x, scale * points, edges)
    values, ends = f(scale * points), edges.T
    length = scale * np.linalg.norm(points[ends[1]] - points[ends[0]], axis=1)
    least = (np.abs(values[ends[1]] - values[ends[0]]) / (2 + length)).max()
    assert found.eta >= least > 0
    a, b = (f(found.path[[k]])[0] for k in (0, -1))
    way = np.linalg.norm(np.diff(found.path, axis=0), axis=1).sum()
    assert found.eta == pytest.approx(abs(b - a) / (2 + way), rel=1e-9)


@quick
@given(scale=st.floats(0.1, 5), tilt=st.floats(-2, 2), bend=st.floats(-2, 2))
def test_walks_solve_the_linear_programme_of_their_graph(scale, tilt, bend):
    points, edges = lattice(4)

    def f(x):
        return tilt * x[:, 0] + bend * x[:, 0] * x[:, 1]

    def g(x):
        return scale * rotation(x) + np.stack([0 * x[:, 0], bend * x[:, 0]], axis=1)

    n, m = len(points), len(edges)
    gain = np.array([
        np.mean([g(points[[i]] * (1 - t) + points[[j]] * t)[0] for t in (0.5,)], axis=0)
        @ (points[j] - points[i])
        for i, j in edges
    ])  # fmt: skip
    length = np.linalg.norm(points[edges[:, 1]] - points[edges[:, 0]], axis=1)
    move = np.zeros((m, n + 1))
    move[np.arange(m), edges[:, 0]], move[np.arange(m), edges[:, 1]] = -1, 1
    near = np.hstack([np.eye(n), np.zeros((n, 1))])
    rows, ends = [], []
    for sign in (1, -1):
        part = sign * move
        part[:, -1] = -length
        rows += [sign * near - np.eye(n + 1)[-1], part]
        ends += [sign * f(points), sign * gain]
    optimum = linprog(
        np.eye(n + 1)[-1], np.vstack(rows), np.concatenate(ends), bounds=(None, None)
    ).fun  # fmt: skip
    assert walk_bound(f, g, points, edges).eta == pytest.approx(optimum, abs=1e-9)


def test_paths_are_checked():
    with pytest.raises(ValueError, match="path has shape"):
        path_bound(nothing, rotation, [0.0, 1.0])
    with pytest.raises(ValueError, match="length 0"):
        path_bound(nothing, rotation, [[0.0, 1.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="g gives shape"):
        path_bound(nothing, lambda x: x[:, 0], [[0.0, 1.0], [1.0, 1.0]])
    side = [[0.0, 1.0], [1.0, 1.0]]
    with pytest.raises(ValueError, match=r"balls is .* a pair, of f and of g"):
        path_bound(nothing, rotation, side, balls=(lambda x, y: x,))
    with pytest.raises(ValueError, match="n is 1"):
        lattice(1)
    points, edges = lattice(3)
    with pytest.raises(ValueError, match="edges must hold numbers of points"):
        walk_bound(nothing, rotation, points, edges + 1)
    with pytest.raises(ValueError, match="f gives shape"):
        walk_bound(rotation, rotation, points, edges)
    with pytest.raises(ValueError, match=r"points \(9,\) and edges"):
        walk_bound(nothing, rotation, points[:, 0], edges)
