"""Equal runs on other kernels: what is run again, and how two runs are compared."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib import pyplot as plt

from sobolev_lib.records.ledger import Ledger
from sobolev_lib.records.sweep import sweep
from sobolev_lib.regression import arms, figures, rounding
from sobolev_lib.regression import training as regression

SEEDS = [0, 1]
NAMES = ["booth", "ackley"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of the regression ledger and the same runs once more, of four steps on few points."""
    folder = tmp_path_factory.mktemp("ledger")
    first, again = (Ledger(e, folder) for e in (regression.EXPERIMENT, rounding.EXPERIMENT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "N", 5)
        patch.setattr(regression, "TEST_POINTS", 50)
        for arm, _ in rounding.ROWS.values():
            patch.setitem(arms.ARMS, arm, {**arms.ARMS[arm], "steps": 4})
        for arm in dict.fromkeys(arm for arm, _ in rounding.ROWS.values()):
            chosen = regression.settings(arm, [5], NAMES)
            sweep(regression.EXPERIMENT, regression.jobs(chosen, SEEDS, "paper"), first, quiet=True)
        jobs = rounding.jobs(SEEDS, NAMES)
        assert sweep(rounding.EXPERIMENT, jobs, again, quiet=True) == 2 * 2 * len(rounding.ROWS)
        assert sweep(rounding.EXPERIMENT, jobs, again, quiet=True) == 0, "nothing is run twice"
        yield again.read(), first.read()


def scaled(records, factor, **where):
    """Multiply the errors of some records."""
    return [
        replace(r, metrics={
            "test_mse": r.metrics["test_mse"] * factor,
            "curve": {
                "steps": r.metrics["curve"]["steps"],
                "test_mse": [e * factor for e in r.metrics["curve"]["test_mse"]],
            },
        }) if all(r.config[k] == v for k, v in where.items()) else r
        for r in records
    ]  # fmt: skip


def test_the_same_kernels_repeat_a_run_to_the_last_digit(made):
    twins = rounding.Twins(*made)
    assert twins.kernels == rounding.kernels()
    for row in rounding.ROWS:
        apart = twins.apart(row)
        assert apart.shape == (len(SEEDS) * len(NAMES), len(twins.steps))
        assert np.all(apart == 0)
    assert twins.gains("booth")[0] == twins.gains("booth")[1]


def test_runs_that_differ_are_told_apart_row_by_row(made):
    again, first = made
    twins = rounding.Twins(scaled(again, 10.0, method="sobolev", activation="relu"), first)
    rows = rounding.table(twins).rows
    for row, numbers in rows.items():
        far = 1.0 if "Sobolev" in row and "SiLU" not in row else 0.0
        assert numbers["runs"] == len(SEEDS) * len(NAMES)
        assert numbers["median"] == pytest.approx(far, abs=1e-3)
        assert numbers["largest"] == pytest.approx(far, abs=1e-3)
    one, two = (
        np.log10([r.metrics["test_mse"] for r in twins.pair("SiLU, Sobolev", name)[1]])
        for name in NAMES
    )
    expected = [abs(one[0] - one[1]), abs(two[0] - two[1])]
    np.testing.assert_allclose(sorted(twins.seeds_apart("SiLU, Sobolev")), sorted(expected))
    before, after = twins.gains("booth")
    assert before.centre - after.centre == pytest.approx(1)
    plt.close(figures.twins(twins))


def test_a_verdict_that_changes_is_named(made):
    again, first = made
    tell = {
        0.01: "slopes lower the error of ReLU on 1 and 1 (95",
        100.0: "on 1 and 0 and raise it on 0 and 1",
    }
    for factor, words in tell.items():
        # one function, clear in the first runs; both seeds alike, so that the interval is short
        both = [
            replace(r, metrics=next(
                s.metrics for s in first if s.seed == 0 and s.config == r.config
            ))
            for r in first if r.config["function"] == "booth"
        ]  # fmt: skip
        clear = scaled(both, 1e-3, method="sobolev")
        other = [
            replace(r, metrics=next(
                c.metrics for c in clear
                if {**c.config, "kernels": r.config["kernels"]} == r.config and c.seed == r.seed
            ))
            for r in again if r.config["function"] == "booth"
        ]  # fmt: skip
        turned = scaled(other, factor * 1e3, method="sobolev")
        said = rounding.verdicts(rounding.Twins(turned, clear))
        assert words in said
        assert ("changes on Booth" in said) == (factor > 1)
    alone = rounding.Twins([again[0]], first)
    assert "Two seeds" in rounding.verdicts(alone)


def test_two_sets_of_kernels_are_compared_with_each_other(made):
    again, _ = made
    moved = scaled(again, 10.0, method="sobolev", activation="relu")
    other = [replace(r, config={**r.config, "kernels": "other"}) for r in moved]
    twins = rounding.Twins(other, again)
    assert (twins.before, twins.kernels) == (rounding.kernels(), "other")
    assert twins.apart("ReLU, Sobolev") == pytest.approx(1)
    assert np.all(twins.apart("SiLU, Sobolev") == 0)


def test_runs_of_several_kernels_or_none_are_refused(made):
    again, first = made
    other = replace(again[0], config={**again[0].config, "kernels": "other"})
    for runs in ([*again, other], []):
        with pytest.raises(ValueError, match="one set"):
            rounding.Twins(runs, first)
