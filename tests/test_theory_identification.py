"""Propositions 2 and 3: the identified function is the right one, and certificates certify."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import polynomial as power
from scipy import optimize, stats

from sobolev_lib.theory.identification import gaussian, generic_count, polynomial

flint = pytest.importorskip("flint", reason="the optional extra `theory` is not installed")
from sobolev_lib.theory import enumeration  # noqa: E402
from sobolev_lib.theory.enumeration import consistent, enclose, most_members  # noqa: E402
from sobolev_lib.theory.families import FAMILIES, Family  # noqa: E402

PLENTY = settings(max_examples=150, deadline=None)
DENSITY = FAMILIES["gaussian density"].formula
#: The two Gaussians of the paper have the same values at 0 and 3.
PAIR = Family(DENSITY, {"mu": (-6.0, 10.0), "sigma": (0.2, 6.0)})


def density(x, mu, sigma):
    value = math.exp(-(((x - mu) / sigma) ** 2) / 2) / (math.sqrt(2 * math.pi) * sigma)
    return value, -(x - mu) / sigma**2 * value


# --- gaussian -------------------------------------------------------------------------------------


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.floats(-6, 6))
@PLENTY
def test_one_point_with_its_slope_identifies_a_gaussian(mu, sigma, away):
    x = mu + away * sigma
    found = gaussian(x, *density(x, mu, sigma))
    room = 1 + abs(mu) / sigma  # x itself is rounded, in units of sigma
    assert found[0] == pytest.approx(mu, rel=0, abs=1e-12 * sigma * room)
    assert found[1] == pytest.approx(sigma, rel=1e-12 * room)


def test_gaussians_far_out_and_in_arrays():
    x = np.array([[0.0], [37.0]])
    sigma = np.array([1.0, 2.0])
    value = stats.norm.pdf(x, 0.0, sigma)
    mu, found = gaussian(x, value, -x / sigma**2 * value)
    np.testing.assert_allclose(found, np.broadcast_to(sigma, (2, 2)), rtol=1e-11)
    np.testing.assert_allclose(mu, 0.0, atol=1e-10)
    assert all(isinstance(part, float) for part in gaussian(torch.tensor(0.5), 0.1, 0))
    many = gaussian(x[:, 0], 0.1, 0.02)  # both are arrays, of the points that were given
    assert [part.shape for part in many] == [(2,), (2,)]
    tiny = 1e-200  # its square is not a number that a double holds
    assert gaussian(0.0, 0.1, tiny)[1] == pytest.approx(gaussian(0.0, 0.1, 0.0)[1], rel=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.0, 1.0), "value must be positive"),
        ((0.0, -0.1, 1.0), "value must be positive.*got -0.1"),
        ((float("nan"), 0.1, 1.0), "x must be finite"),
        ((0.0, 0.1, float("inf")), "slope must be finite"),
        ((0.0, "0.1", 1.0), "value must hold real numbers"),
        ((0.0, 5e-324, 1.0), "value and slope: .* overflow"),
        (([0.0, 1.0], [0.1, 0.1, 0.1], 0.0), "x, value and slope: shape mismatch"),
    ],
)
def test_no_gaussian(arguments, message):
    with pytest.raises(ValueError, match=message):
        gaussian(*arguments)


# --- polynomials ----------------------------------------------------------------------------------


@given(st.integers(0, 9), st.booleans(), st.integers(0, 3), st.integers(0, 10**6))
@PLENTY
def test_polynomials_come_back(degree, with_slopes, more, seed):
    rng = np.random.default_rng(seed)
    c = rng.integers(-9, 10, size=degree + 1).astype(float)
    k = math.ceil((degree + 1) / (1 + with_slopes)) + more
    x = rng.choice(np.arange(-8, 9) / 4, size=k, replace=False)  # all numbers below are exact
    slopes = power.polyval(x, power.polyder(c)) if with_slopes else None
    found = polynomial(x, power.polyval(x, c), slopes, degree)
    assert found.tolist() == c.tolist()


def test_badly_conditioned_problems_are_solved_exactly():
    """Points 1e-5 apart, degree 9: the condition number of the equations is beyond 1e30."""
    rng = np.random.default_rng(0)
    x = 1 + 1e-5 * np.arange(5)
    exact = [Fraction(int(c)) for c in rng.integers(-9, 10, size=10)]
    numbers = [
        [sum(c * Fraction(t) ** k for k, c in enumerate(exact)) for t in x],
        [sum(k * c * Fraction(t) ** (k - 1) for k, c in enumerate(exact) if k) for t in x],
    ]
    values, slopes = (np.array([float(n) for n in row]) for row in numbers)
    found = polynomial(x, values, slopes, 9)
    # the answer to the rounded data, checked in the data themselves to the last digit
    for row, given_, derivative in ((found, values, 0), (found, slopes, 1)):
        powers = [Fraction(c) for c in row]
        for _ in range(derivative):
            powers = [k * c for k, c in enumerate(powers)][1:]
        terms = [[c * Fraction(t) ** k for k, c in enumerate(powers)] for t in x]
        size = max(abs(float(term)) for line in terms for term in line)
        for line, target in zip(terms, given_, strict=True):
            assert abs(float(sum(line)) - target) < 1e-14 * size


def test_degree_forty_on_a_wide_interval():
    c = np.cos(np.arange(41.0))
    x = np.cos(np.pi * (np.arange(21) + 0.5) / 21)
    found = polynomial(x, power.polyval(x, c), power.polyval(x, power.polyder(c)), 40)
    at = np.linspace(-1, 1, 101)
    assert np.abs(power.polyval(at, found) - power.polyval(at, c)).max() < 1e-11


def test_types_of_polynomials():
    x = torch.tensor([0.0, 1.0])
    found = polynomial(x, x**3, 3 * x**2, 3)
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float64
    assert found.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert isinstance(polynomial([2], [5], None, 0), np.ndarray)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0, 1], [0, 0], 4), "x: degree 4 needs values and slopes at 3 points, got 2"),
        (([0, 1], [0, 1], None, 2), "x: degree 2 needs values at 3 points, got 2"),
        (([], [], [], 0), "x: degree 0 needs values and slopes at 1 points, got 0"),
        (([1, 1], [0, 0], [0, 0], 1), "x must hold different points, got 1.0 twice"),
        (([0, 1], [0], [0, 0], 1), r"one shape \(k,\)"),
        (([0, 1], [0, 1], [0, 0], -1), "degree must be an integer of at least 0"),
        (([0, 1], [0, 1], [0, 0], 1.5), "degree must be an integer of at least 0"),
        (([0, 1], [0, 1], [0, 0], None), "degree must be an integer of at least 0, got None"),
        (([0, 1], [0, 1], [0, 0], math.inf), "degree must be an integer of at least 0, got inf"),
        (([0, 1, 2], [0, 1, 4], [0, 2, 4.1], 2), "slopes: no polynomial of degree 2"),
        (([0, 1, 2], [0, 1, 5], None, 1), "values: no polynomial of degree 1"),
        (([0, 1e-200], [0, 1e200], None, 1), "values: the coefficients .* overflow"),
        (([0, float("nan")], [0, 1], None, 1), "x must be finite"),
    ],
)
def test_no_polynomial(arguments, message):
    with pytest.raises(ValueError, match=message):
        polynomial(*arguments)


@pytest.mark.parametrize("degree", range(7))
def test_fewer_points_leave_another_polynomial(degree):
    """The counts are sharp: a product of (squared) distances is invisible at one point fewer."""
    for times in (1, 2):
        x = np.arange(math.ceil((degree + 1) / times) - 1.0)
        invisible = power.polyfromroots(np.repeat(x, times))
        assert len(invisible) <= degree + 1
        assert np.abs(invisible).max() > 0
        assert not power.polyval(x, invisible).any()
        assert times == 1 or not power.polyval(x, power.polyder(invisible)).any()


def test_generic_counts_in_several_variables():
    for d in range(1, 5):
        assert [generic_count(1, d, slopes=s) for s in (False, True)] == [d + 1, 1]
    for n in range(9):
        assert generic_count(n, 1, slopes=False) == n + 1
        assert generic_count(n, 1, slopes=True) == math.ceil((n + 1) / 2)
    # where counting unknowns is not enough (Alexander and Hirschowitz): quadratics, four others
    more = {}
    for d in range(2, 5):
        for n in range(1, 5):
            unknowns = math.comb(n + d, d)
            assert generic_count(n, d, slopes=False) == unknowns
            count = generic_count(n, d, slopes=True)
            if count != math.ceil(unknowns / (d + 1)):
                more[d, n] = count
    quadratics = {(d, 2): d + 1 for d in (2, 3, 4)}
    assert more == quadratics | {(2, 4): 6, (3, 4): 10, (4, 3): 8, (4, 4): 15}
    with pytest.raises(ValueError, match="dimension >= 1"):
        generic_count(2, 0, slopes=True)


# --- certified enumeration ------------------------------------------------------------------------


def test_the_papers_pair_of_gaussians_is_certified():
    members = consistent(PAIR, (2.0, 1.0), [0.0, 3.0])
    assert members.undecided == 0
    assert len(members.certified) == 2
    assert members.certified[0] == pytest.approx((2.0, 1.0), abs=1e-9)
    mu, sigma = enclose(PAIR, (2.0, 1.0), [0.0, 3.0], members.certified[1], digits=42)
    with flint.ctx.workprec(200):
        # by elimination of mu: k(v) = ln(v) / 2 + (v + 3)^2 / (8 v) - 2 = 0
        v = sigma**2
        assert (v.log() / 2 + (v + 3) ** 2 / (8 * v) - 2).contains(0)
        assert (mu - (v + 3) / 2).contains(0)
        assert float(mu.rad()) < 1e-42
        assert float(sigma.rad()) < 1e-42
    v = optimize.brentq(lambda v: math.log(v) / 2 + (v + 3) ** 2 / (8 * v) - 2, 2.0, 5.0)
    assert [float(mu.mid()), float(sigma.mid())] == pytest.approx([(v + 3) / 2, math.sqrt(v)])
    # the paper's digits, with its second number read as a standard deviation
    assert f"{float(mu.mid()):.4f}"[:5] == "2.847"
    assert f"{float(sigma.mid()):.4f}"[:5] == "1.641"


def test_a_third_value_or_a_slope_leaves_one():
    assert len(consistent(PAIR, (2.0, 1.0), [0.0, 3.0, 1.0]).certified) == 1
    alone = consistent(PAIR, (2.0, 1.0), [0.0], slopes=True)
    assert alone.undecided == 0
    assert len(alone.certified) == 1


@pytest.mark.parametrize(
    ("name", "by_values", "by_slopes"),
    [
        ("gaussian density", {2: 2, 3: 1}, {1: 1}),
        ("exponential", {2: 1}, {1: 1}),
        ("wave of known frequency", {2: 1}, {1: 1}),
        ("exponential and constant", {3: 1}, {2: 1}),
        ("gaussian bump", {3: 1}, {2: 1}),
        ("quotient of two lines", {3: 1}, {2: 1}),
    ],
)
def test_members_left_by_random_points(name, by_values, by_slopes):
    for slopes, expected in ((False, by_values), (True, by_slopes)):
        for points, count in expected.items():
            found = most_members(FAMILIES[name], points, slopes=slopes, draws=3 * count)
            assert found.undecided == 0
            assert len(found.certified) == count


def test_waves_are_not_told_apart_by_points_half_a_period_apart(monkeypatch):
    """Why the count for every set of points is infinite: no member is certified to be alone."""
    family = FAMILIES["wave of known frequency"]
    x = np.pi / 4 + np.pi / 2 * np.arange(-3, 4)
    assert np.abs(family(x, (1.0, 0.5)) - family(x, (1.0, -1.5))).max() < 1e-14
    monkeypatch.setattr(enumeration, "MOST", 300)
    found = consistent(family, (1.0, 0.5), x)
    assert found.certified == ()
    assert found.undecided > 0


def test_every_certified_member_agrees_with_the_data():
    """A cubic in its parameter: three members share one value, and Krawczyk proves each."""
    family = Family("t**3 - t + 0 * x", {"t": (-2.0, 2.0)})
    members = consistent(family, (0.5,), [1.0])
    roots = np.roots([1.0, 0.0, -1.0, 0.5 - 0.5**3])
    assert sorted(m[0] for m in members.certified) == pytest.approx(sorted(roots.real), abs=1e-9)
    assert np.abs(roots.imag).max() < 1e-12
    assert members.undecided == 0


def test_what_cannot_be_told_is_said(monkeypatch):
    """A double zero is never certified: t = 1 has a parallel tangent."""
    family = Family("(t - 1)**2 + 0 * x", {"t": (-0.5, 3.0)})
    members = consistent(family, (1.0,), [0.0])
    assert members.undecided > 0
    assert members.certified == ()
    monkeypatch.setattr(enumeration, "MOST", 10)
    stopped = consistent(PAIR, (2.0, 1.0), [0.0, 3.0])
    assert stopped.parts == 10
    assert stopped.undecided > 0


def test_balls_and_floats_compute_the_same_member():
    for family in FAMILIES.values():
        theta = [0.6 * low + 0.4 * high for low, high in family.box.values()]
        for order in (0, 1):
            value, *by_theta = family.on_balls[order](flint.arb(0.3), *map(flint.arb, theta))
            at = family([0.3], theta, order)
            assert float(value) == pytest.approx(float(at[0]), rel=1e-13)
            for k, derivative in enumerate(by_theta):
                up, down = (list(theta), list(theta))
                up[k] += 1e-6
                down[k] -= 1e-6
                difference = (family([0.3], up, order) - family([0.3], down, order))[0] / 2e-6
                assert float(flint.arb(derivative)) == pytest.approx(float(difference), abs=1e-7)


def test_fractions_in_a_formula_are_exact():
    """A third is no float: a proof about the nearest float is one about another family."""
    family = Family("a / 3 + x**3 / 7 + exp(x / 9)", {"a": (0.0, 2.0)})
    with flint.ctx.workprec(200):
        one = flint.arb(1)
        growth = (one / 9).exp()
        for order, exact in ((0, one / 3 + one / 7 + growth), (1, one * 3 / 7 + growth / 9)):
            assert (family.on_balls[order](one, one)[0] - exact).contains(0)
        assert (family.on_balls[0](one, one)[1] - one / 3).contains(0)


@pytest.mark.parametrize(
    ("theta", "x", "message"),
    [
        ((2.0, 1.0), [0.0], "1 numbers leave a continuum"),
        ((2.0, 1.0), [1.0, 1.0], "x must hold different points"),
        ((2.0, 7.0), [0.0, 3.0], "theta must lie in the box"),
        ((2.0,), [0.0, 3.0], "theta must lie in the box"),
    ],
)
def test_systems_that_make_no_sense(theta, x, message):
    with pytest.raises(ValueError, match=message):
        consistent(PAIR, theta, x)


def test_enclosing_something_that_is_not_there():
    with pytest.raises(ValueError, match="no member of the family is proved near it"):
        enclose(PAIR, (2.0, 1.0), [0.0, 3.0], (0.0, 5.9), digits=20)
    with pytest.raises(ValueError, match="3 equations for the 2 parameters"):
        enclose(PAIR, (2.0, 1.0), [0.0, 3.0, 4.0], (2.0, 1.0))
    with pytest.raises(ValueError, match=r"holds \{z\}, which is no parameter"):
        Family("z * x", {"a": (0.0, 1.0)})([0.0], (0.5,))
