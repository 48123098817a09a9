"""Verdicts on the paper's claims, on made-up records."""

import pytest

from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.records.ledger import Ledger, Record
from sobolev_lib.regression import claims


def records(gain_by_size, seeds=6):
    """Return records whose Sobolev error is 10^-gain times that on values, with a little spread."""
    made = []
    for n, gains in gain_by_size.items():
        for name, gain in zip(FUNCTIONS, gains, strict=True):
            for seed in range(seeds):
                for method, power in (("values", 0.0), ("sobolev", -gain - 0.01 * seed)):
                    config = {"function": name, "n": n, "method": method, "arm": "paper"}
                    made.append(
                        Record("regression", config, seed, {"test_mse": 10.0**power}, "paper")
                    )
    return made


ALL = [-1.0, 1.0, 1.5, 1.2, 1.3, 2.0, 1.1]  # Ackley first


def verdicts(tmp_path, gain_by_size):
    book = Ledger("regression", tmp_path)
    book.append(records(gain_by_size))
    return {key: f.verdict if f else None for key, f in claims.findings(book).items()}


def test_the_papers_own_story_holds(tmp_path):
    few, many = ALL, [0.2] * 7
    found = verdicts(tmp_path, {20: few, 100: few, 10_000: many})
    assert set(found.values()) == {claims.HOLDS}


def test_the_opposite_story_fails(tmp_path):
    found = verdicts(tmp_path, {20: [0.5] + [-0.5] * 6, 100: [-0.5] * 7, 10_000: [-0.2] * 7})
    assert found == {
        "six-20": claims.FAILS,
        "six-100": claims.FAILS,
        "gap-10000": claims.FAILS,
        "orders": claims.FAILS,
        "low-data": claims.FAILS,
        "fig3": claims.FAILS,
        "ackley-20": claims.FAILS,
        "ackley-10000": claims.FAILS,
    }


def test_an_interval_around_zero_is_not_settled(tmp_path):
    book = Ledger("regression", tmp_path)
    noisy = records({20: [0.0] * 7})
    book.append([r for r in noisy if r.config["method"] == "values"])
    book.append(
        [
            Record("regression", r.config, r.seed, {"test_mse": 10.0 ** (-1) ** r.seed}, "paper")
            for r in noisy
            if r.config["method"] == "sobolev"
        ]
    )
    assert claims.findings(book)["six-20"].verdict == claims.OPEN


def test_missing_records_leave_a_claim_open(tmp_path):
    found = verdicts(tmp_path, {20: ALL})
    assert found["six-100"] is None and found["six-20"] == claims.HOLDS
    page = claims.table(Ledger("regression", tmp_path))
    assert page.count("<tr>") == len(claims.CLAIMS) + 1 and "not run yet" in page


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda c: c.key)
def test_commands_are_understood_by_the_command_line(claim):
    from sobolev_lib.__main__ import _parser

    options = _parser().parse_args(claim.command.split()[3:])
    assert options.scale == "paper" and options.seeds >= 10
