"""Centres and intervals over seeds."""

import numpy as np
import pytest
from scipy import stats

from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import error, gain, interquartile_mean, interval, number


def records(errors):
    return [Record("t", {}, seed, {"test_mse": e}, "small") for seed, e in errors.items()]


def test_interquartile_mean_drops_a_quarter_at_each_end():
    assert interquartile_mean([1e9, 1, 2, 3, 4, 5, 6, -1e9]) == 3.5  # the middle four: 2, 3, 4, 5


def test_interval_covers_at_about_its_level():
    rng = np.random.default_rng(0)
    trials = [interval(rng.normal(size=20), seed) for seed in range(200)]
    hits = sum(t.low <= 0 <= t.high for t in trials)
    # A percentile bootstrap of 20 numbers covers a little less than 95 per cent.
    assert 0.85 * 200 <= hits <= 0.99 * 200
    assert interval(np.ones(5)).low == interval(np.ones(5)).high == 1


def test_few_seeds_have_an_interval_that_covers():
    """Student's: exact for normal values, where resampling three of them is not."""
    rng = np.random.default_rng(0)
    for n in (2, 3, 4):
        trials = [interval(rng.normal(5.0, 2.0, size=n)) for _ in range(1_000)]
        hits = sum(t.low <= 5 <= t.high for t in trials)
        assert 0.93 * 1_000 <= hits <= 0.97 * 1_000
    found = interval([1.0, 2.0, 6.0])
    expected = stats.t.interval(0.95, 2, loc=3.0, scale=stats.sem([1.0, 2.0, 6.0]))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.centre == 3.0


def test_error_is_in_decades_and_leaves_out_diverged_runs():
    found = error(records({0: 10.0, 1: 1000.0, 2: None}))
    assert (found.centre, found.count) == (2.0, 2)
    assert found.map(lambda v: 10**v).centre == 100


def test_gain_is_paired_by_seed():
    found = gain(records({0: 100.0, 1: 1e4, 2: 5.0}), records({0: 10.0, 1: 1e3, 7: 3.0}))
    assert (found.centre, found.low, found.high, found.count) == (1.0, 1.0, 1.0, 2)
    assert found.sign == 1
    assert interval([-1.0, 1.0, -1.0, 1.0]).sign == 0


def test_errors():
    with pytest.raises(ValueError, match="at least 2 seeds"):
        interval([1.0])
    with pytest.raises(ValueError, match="not finite"):
        interval([1.0, np.nan])


def test_format():
    assert f"{interval([1.0, 1.0]):.1f}" == "1.0 [1.0, 1.0]"
    assert number(-0.004, ".2f") == "0.00" and number(-0.004, "+.2f") == "+0.00"
    assert number(-0.006, "+.2f") == "-0.01" and number(-10.0, ".0f") == "-10"
    assert number(-0.0, ".2g") == "0" and number(-1e-9, ".2g") == "-1e-09"
