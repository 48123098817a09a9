"""Distillation: from records to what Fig. 4 shows."""

from dataclasses import asdict

import pytest

from sobolev_lib.distillation import results
from sobolev_lib.distillation.students import Settings
from sobolev_lib.records.ledger import Record


def made(seed, rate, validation, kl, **changes):
    settings = Settings("pong", learning_rate=rate, **changes)
    metrics = {
        "kl": kl,
        "validation_kl": validation,
        "curve": {"update": [1.0, 2.0], "kl": [2 * kl, kl]},
    }
    config = asdict(settings) | {"teacher": "abc"}
    return Record("distillation", config, seed, metrics, "paper")


def test_validation_chooses_the_rate_and_not_the_test():
    records = [made(s, 1e-3, 0.5, 0.1) for s in (0, 1, 2)]
    records += [made(s, 1e-4, 0.4, 0.2) for s in (0, 1)]
    records += [made(2, 1e-3, 0.0, 0.0, method="values")]  # another arm
    chosen = results.arm(records, Settings("pong"), "abc", [1e-3, 1e-4])
    assert results.values(chosen, "kl") == {0: 0.2, 1: 0.2}
    assert results.arm(records, Settings("pong"), "abc", [1e-3, 3e-4]) == {}
    assert results.arm(records, Settings("pong"), "another", [1e-3]) == {}


def test_gains_are_paired_by_seed():
    sobolev = {s: made(s, 1e-3, 1, kl) for s, kl in enumerate([0.1, 0.2, 0.3])}
    plain = {s: made(s, 1e-3, 1, kl + 0.5, method="values") for s, kl in enumerate([0.1, 0.2, 0.3])}
    found = results.gain(plain, sobolev, "kl")
    assert found.centre == pytest.approx(0.5)
    assert found.count == 3
    assert found.high - found.low < 1e-9
    assert results.gain(plain, {7: sobolev[0]}, "kl") is None


def test_curves_have_a_row_for_each_seed():
    updates, kl = results.curves({1: made(1, 1e-3, 1, 0.4), 0: made(0, 1e-3, 1, 0.3)}, "kl")
    assert updates.tolist() == [1, 2]
    assert kl.tolist() == [[0.6, 0.3], [0.8, 0.4]]
    with pytest.raises(ValueError, match="distill first"):
        results.curves({}, "kl")
