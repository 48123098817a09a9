"""Kriging baselines: interpolation, gradients against finite differences, records, errors."""

import importlib.util
import sys

import pytest
import torch

from sobolev_lib import functions
from sobolev_lib.records import ledger
from sobolev_lib.records.sweep import sweep
from sobolev_lib.regression import kriging
from sobolev_lib.regression import training as regression
from sobolev_lib.regression.training import Setting

needs_smt = pytest.mark.skipif(
    importlib.util.find_spec("smt") is None,
    reason='SMT is not installed: pip install "sobolev-lib[kriging]"',
)


@pytest.fixture(scope="module", params=["values", "sobolev"])
def fitted(request):
    pytest.importorskip("smt", reason='pip install "sobolev-lib[kriging]"')
    setting = Setting("mccormick", 20, request.param, arm=kriging.ARM)
    return setting, kriging.fit(setting, seed=0)


@needs_smt
def test_passes_through_the_training_points(fitted):
    setting, model = fitted
    f, x = functions.get(setting.function), regression.training_points(setting, 0)
    assert (model(x) - f(x)).abs().max() < 1e-4 * f(x).std()
    if setting.method == "sobolev":  # through first-order extra points: nearly
        assert (model.gradient(x) - f.gradient(x)).abs().max() < 1e-2 * f.gradient(x).std()


@needs_smt
def test_gradient_is_that_of_the_prediction(fitted):
    _, model = fitted
    x = functions.get("mccormick").sample(7, torch.Generator().manual_seed(1), torch.float64)
    # The extra points beside each point make the fit ill-conditioned: its predictions carry
    # rounding noise of 1e-8 and more, so the step is long and the difference of fourth order.
    for k in range(2):
        shift = 0.1 * torch.eye(2, dtype=torch.float64)[k]
        one, two = model(x + shift) - model(x - shift), model(x + 2 * shift) - model(x - 2 * shift)
        slope = (8 * one - two)[:, 0] / (12 * 0.1)
        assert torch.allclose(model.gradient(x)[:, k], slope, rtol=1e-4, atol=1e-4)


@needs_smt
def test_gradients_help_and_records_hold_what_was_measured(tmp_path):
    book = ledger.Ledger(regression.EXPERIMENT, tmp_path)
    jobs = kriging.jobs([3], [20], ["mccormick"])
    one = kriging.jobs([3], [20], ["mccormick"], ["sobolev"])
    assert sweep(regression.EXPERIMENT, one, book, quiet=True) == 1
    assert sweep(regression.EXPERIMENT, jobs, book, quiet=True) == 1, "what is there stays"
    assert sweep(regression.EXPERIMENT, jobs, book, quiet=True) == 0
    found = {r.config["method"]: r for r in book.read()}
    told = {(r.config["arm"], r.config["library"], r.config["n"]) for r in found.values()}
    assert told == {("kriging", "smt", 20)}
    assert found["sobolev"].metrics["test_mse"] < found["values"].metrics["test_mse"]
    assert {"smt", "scipy", "scikit-learn"} <= set(found["sobolev"].versions)
    setting = Setting("mccormick", 20, "values")
    f, x = functions.get("mccormick"), regression.test_points("mccormick")
    model = kriging.fit(setting, 3)
    error, tilt = model(x) - f(x), model.gradient(x) - f.gradient(x)
    metrics = found["values"].metrics
    assert metrics["test_mse"] == pytest.approx((error**2).mean().item(), rel=1e-6)
    assert metrics["test_gradient_mse"] == pytest.approx((tilt**2).mean().item() * 2, rel=1e-6)


@needs_smt
def test_bad_input_is_named():
    x = torch.rand(5, 2, dtype=torch.float64)
    domain = ((0.0, 1.0), (0.0, 1.0))
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\).*\(n, 2\)"):
        kriging.Kriging(torch.rand(5, 3), x[:, :1], domain=domain)
    with pytest.raises(ValueError, match=r"y has shape \(5,\).*\(5, 1\)"):
        kriging.Kriging(x, x[:, 0], domain=domain)
    with pytest.raises(ValueError, match=r"dy has shape \(5, 1\).*\(5, 2\)"):
        kriging.Kriging(x, x[:, :1], x[:, :1], domain=domain)
    with pytest.raises(ValueError, match="y has entries that are not finite"):
        kriging.Kriging(x, x[:, :1] * torch.nan, domain=domain)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "smt", None)
    x = torch.rand(5, 2, dtype=torch.float64)
    with pytest.raises(ImportError, match=r"sobolev-lib\[kriging\]"):
        kriging.Kriging(x, x[:, :1], domain=((0.0, 1.0), (0.0, 1.0)))
