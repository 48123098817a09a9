"""Centres and intervals over seeds."""

import itertools

import numpy as np
import pytest
from scipy import stats

from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import Interval, difference, interval, log_errors, number


def records(errors):
    return [Record("t", {}, seed, {"test_mse": e}, "small") for seed, e in errors.items()]


@pytest.mark.parametrize("values", [[1.0, 2.0, 6.0], list(np.random.default_rng(0).normal(size=9))])
def test_the_interval_is_students(values):
    found, n = interval(values), len(values)
    low, high = stats.t.interval(0.95, n - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (found.centre, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)


def test_the_order_of_seeds_does_not_matter():
    values = [0.1, 0.7, -0.3, 1e9, 1e-9]
    assert len({interval(order) for order in itertools.permutations(values)}) == 1


DRAWS = {
    "normal": (lambda rng, shape: rng.normal(3.0, 2.0, shape), 3.0),
    "Student's t with 3 degrees": (lambda rng, shape: rng.standard_t(3, shape), 0.0),
    "log of a mean of two squares": (
        # as of an error over few hard points: E log(chi2_4) = log 2 + digamma(2)
        lambda rng, shape: np.log(rng.chisquare(4, shape)),
        np.log(2) + 1 - np.euler_gamma,
    ),
}


def coverage(kind, n, trials):
    draw, truth = DRAWS[kind]
    found = [interval(row) for row in draw(np.random.default_rng(n), (trials, n))]
    return sum(i.low <= truth <= i.high for i in found) / trials


def test_the_interval_keeps_its_promise_for_five_seeds():
    assert 0.93 < coverage("normal", 5, 2_000) < 0.97  # four standard errors of the simulation


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_the_interval_keeps_its_promise(kind, n):
    covered = coverage(kind, n, 5_000)
    assert 0.935 < covered and (kind != "normal" or covered < 0.965)


def test_equal_values_have_no_width():
    for value, p in ((1.3, 0.0), (0.0, 1.0)):
        found = interval([value] * 3)
        assert (found.centre, found.low, found.high, found.p) == (value, value, value, p)


def test_errors_are_in_decades_and_leave_out_diverged_runs():
    logs = log_errors(records({0: 10.0, 1: 1000.0, 2: None}))
    assert logs == {0: 1.0, 1: 3.0}
    found = interval(list(logs.values()))
    assert (found.centre, found.count) == (2.0, 2)
    assert found.map(lambda v: 10**v).centre == 100


def test_difference_is_paired_by_seed():
    found = difference({0: 2.0, 1: 4.0, 2: 0.7}, {0: 1.0, 1: 3.0, 7: 0.5})
    assert (found.centre, found.low, found.high, found.count) == (1.0, 1.0, 1.0, 2)
    assert found.sign == 1
    assert interval([-1.0, 1.0, -1.0, 1.0]).sign == 0
    assert difference({0: 1.0, 1: 2.0}, {1: 2.0}) is None


def test_records_of_two_configurations_are_no_sample():
    with pytest.raises(ValueError, match="several records of seed 1"):
        log_errors([*records({0: 1.0, 1: 2.0}), *records({1: 3.0})])


@pytest.mark.parametrize(
    ("values", "said"), [([1.0], "at least 2 seeds"), ([1.0, np.nan], "not finite")]
)
def test_what_is_no_sample_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        interval(values)


def test_format():
    assert f"{interval([1.0, 1.0]):.1f}" == "1.0 [1.0, 1.0]"
    assert number(-0.004, ".2f") == "0.00" and number(-0.004, "+.2f") == "+0.00"
    assert number(-0.006, "+.2f") == "-0.01" and number(-10.0, ".0f") == "-10"
    assert number(-0.0, ".2g") == "0" and number(-1e-9, ".2g") == "-1e-09"
    ends = Interval(-0.01, -0.04, 0.0, 3)
    assert f"{ends:+.1f}" == "+0.0 [-0.0, +0.0]" and f"{ends:.1f}" == "0.0 [0.0, 0.0]"
