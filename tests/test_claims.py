"""Verdicts, and how many survive many comparisons."""

import numpy as np
import pytest
from scipy import stats

from sobolev_lib.records import claims
from sobolev_lib.records.claims import FAILS, HOLDS, NOT_HERE, NOT_RUN, OPEN, verdict
from sobolev_lib.records.summary import Interval


@pytest.mark.parametrize(
    ("low", "high", "count", "options", "word"),
    [
        (0.1, 0.3, 3, {}, HOLDS),
        (-0.3, -0.1, 3, {}, FAILS),
        (-0.3, -0.1, 3, {"scale": "small"}, NOT_HERE),
        (-0.1, 0.3, 10, {}, OPEN),
        (0.1, 0.3, 2, {}, OPEN),  # two seeds settle nothing
        (-0.3, -0.1, 2, {}, OPEN),
        (0.1, 0.3, 3, {"threshold": 0.2}, OPEN),
        (-1.2, -1.0, 3, {"threshold": -1.5}, HOLDS),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(low, high, count, options, word):
    assert verdict(Interval((low + high) / 2, low, high, count), **options) == word


def test_without_records_there_is_no_verdict():
    assert verdict(None) == NOT_RUN


def test_what_holds_at_one_budget_only_is_not_settled():
    assert claims.at_all_budgets([HOLDS, HOLDS]) == HOLDS
    assert claims.at_all_budgets([HOLDS, OPEN]) == claims.at_all_budgets([FAILS, HOLDS]) == OPEN


def test_benjamini_hochberg_on_its_papers_example():
    # Benjamini and Hochberg 1995, section 3.2: of 15 tests the first four survive at 5 per cent
    p = [
        *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240),
        *(0.4262, 0.5719, 0.6528, 0.7590, 1.0000),
    ]
    assert claims.benjamini_hochberg(p) == [True] * 4 + [False] * 11
    assert claims.benjamini_hochberg(p[::-1]) == [False] * 11 + [True] * 4
    assert claims.benjamini_hochberg([]) == []


def test_benjamini_hochberg_agrees_with_scipys_adjusted_values():
    p = np.random.default_rng(3).beta(0.3, 1.0, size=40)
    adjusted = stats.false_discovery_control(p)
    assert claims.benjamini_hochberg(p) == (adjusted <= 0.05).tolist()


def test_a_p_value_is_a_probability():
    with pytest.raises(ValueError, match="from 0 to 1"):
        claims.benjamini_hochberg([0.5, 1.5])
