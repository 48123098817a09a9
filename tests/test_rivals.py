"""The regressor beside JENN and kriging: what a record holds, and how records are compared."""

import importlib.util
import sys

import pytest
import torch

from sobolev_lib import functions
from sobolev_lib.records import ledger
from sobolev_lib.records.sweep import sweep
from sobolev_lib.regression import rivals
from sobolev_lib.regression import training as regression
from sobolev_lib.regression.training import Setting

needs_rivals = pytest.mark.skipif(
    importlib.util.find_spec("jenn") is None or importlib.util.find_spec("smt") is None,
    reason='JENN and SMT are not installed: pip install "sobolev-lib[rivals]"',
)


@pytest.fixture
def short(monkeypatch):
    """Few points, few steps."""
    monkeypatch.setattr(rivals, "N", 12)
    monkeypatch.setattr(rivals, "STEPS", 8)
    monkeypatch.setattr(rivals, "WIDTHS", (5, 4))


@needs_rivals
@pytest.mark.parametrize("model", ["regressor_one", "jenn", "kriging"])
def test_slopes_are_those_of_the_values_of_every_model(model, short):
    f = functions.get("booth")
    x = regression.training_points(Setting("booth", 12, "sobolev"), 0)
    values, slopes = rivals._fit(model, f, x, 0)
    points = x[:3] + 0.1
    found = slopes(points)
    assert values(points).shape == (3, 1) and found.shape == (3, 2)
    # Kriging's predictions carry rounding noise: a long step, and a difference of fourth order.
    size = 0.1
    for k, step in enumerate(size * torch.eye(2, dtype=torch.float64)):
        one, two = (values(points + j * step) - values(points - j * step) for j in (1, 2))
        difference = (8 * one - two)[:, 0] / (12 * size)
        torch.testing.assert_close(found[:, k], difference, rtol=1e-3, atol=1e-2)


@needs_rivals
def test_records_hold_what_was_measured_and_are_made_once(short, tmp_path, monkeypatch):
    monkeypatch.setattr(rivals, "NAMES", ("booth",))
    book = ledger.Ledger(rivals.EXPERIMENT, tmp_path)
    jobs = rivals.jobs([0, 1], names=["booth"], models=["jenn", "regressor_one"])
    threads = torch.get_num_threads()
    assert sweep(rivals.EXPERIMENT, jobs, book, quiet=True) == 4
    assert sweep(rivals.EXPERIMENT, jobs, book, quiet=True) == 0
    assert torch.get_num_threads() == threads
    comparison = rivals.load(book)
    record = comparison.records[0]
    assert {"jenn", "smt"} <= set(record.versions) and record.config["n"] == 12
    f, u = functions.get("booth"), regression.test_points("booth")
    variance = f(u).var(correction=0).item()
    for one in comparison.records:
        metrics = one.metrics
        assert metrics["test_normalised"] == pytest.approx(metrics["test_mse"] / variance)
        assert metrics["fit_seconds"] > 0
    model = rivals._fit("regressor_one", f, regression.training_points(
        Setting("booth", 12, "sobolev"), 1), 1)[0]  # fmt: skip
    [again] = [r for r in comparison._of("regressor_one", "booth") if r.seed == 1]
    assert (model(u) - f(u)).square().mean().item() == pytest.approx(again.metrics["test_mse"])


def record(model, name, seed, error, seconds=1.0):
    metrics = {"fit_seconds": seconds, "test_mse": error, "test_normalised": error / 10}
    return ledger.Record(
        rivals.EXPERIMENT, rivals.config(model, name), seed, metrics, "small", [], commit="c",
        versions={}, device="cpu", seconds=1.0, peak_memory=1, date="2026-01-01",
    )  # fmt: skip


def test_comparisons_are_paired_by_seed():
    errors = {"jenn": (1.0, 10.0, 100.0), "regressor": (0.1, 1.0, 10.0)}
    comparison = rivals.Comparison(
        [
            record(model, name, seed, error, seconds=2.0 if model == "jenn" else 4.0 + seed)
            for model, each in errors.items()
            for name in rivals.NAMES
            for seed, error in enumerate(each)
        ]
    )
    gains = comparison.against("jenn", "regressor")
    assert set(gains) == set(rivals.NAMES)
    for gain in gains.values():
        assert gain.centre == pytest.approx(1.0) and gain.low == pytest.approx(1.0)
    assert comparison.error("jenn", "booth").centre == pytest.approx(1.0)
    assert comparison.seconds("jenn") == 2.0 and comparison.seconds("regressor") == 5.0


def test_bad_requests_are_named(tmp_path, monkeypatch):
    with pytest.raises(LookupError, match="python -m sobolev_lib rivals"):
        rivals.load(ledger.Ledger(rivals.EXPERIMENT, tmp_path))
    monkeypatch.setitem(sys.modules, "jenn", None)
    with pytest.raises(ImportError, match=r"sobolev-lib\[rivals\]"):
        rivals.measure("jenn", "booth", 0)
