"""Verdicts by whole intervals."""

import pytest

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
