"""The regressor beside maintained rivals: time to fit and error, on the same points in one run.

`SobolevRegressor` as it comes; JENN, another network trained on gradients (Berguin 2024), of the
same widths and for as many steps, else as it comes; kriging and gradient-enhanced kriging of SMT,
as in :mod:`.kriging`.  All on one thread, timed by the processor's clock, so that other work on the
machine does not count.  Three functions: a bowl, a curved valley, a landscape of four basins.

JENN and SMT are optional extras::

    pip install "sobolev-lib[regressor,rivals]"

    python -m sobolev_lib rivals --seeds 3
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sobolev_lib import functions
from sobolev_lib.records import ledger
from sobolev_lib.records.summary import Interval, difference, interval, log_errors
from sobolev_lib.records.sweep import Job, Result, Run, Tick
from sobolev_lib.regression import training as regression
from sobolev_lib.regression.kriging import Kriging
from sobolev_lib.regression.training import Setting

__all__ = ["EXPERIMENT", "MODELS", "NAMES", "TITLES", "Comparison", "jobs", "load", "measure"]

EXPERIMENT = "rivals"
N = 50
NAMES = ("booth", "rosenbrock", "styblinski_tang")
LIBRARIES = ("jenn", "smt", "scipy", "scikit-learn")
WIDTHS = (64, 64)
STEPS = 2_000

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "regressor": ("SobolevRegressor", {"gradients": True, "n_estimators": 5}),
    "regressor_one": ("SobolevRegressor", {"gradients": True, "n_estimators": 1}),
    "jenn": ("jenn.NeuralNet", {"gradients": True, "is_normalize": True}),
    "kriging": ("smt KRG", {"gradients": False}),
    "kriging_gradients": ("smt GEKPLS", {"gradients": True}),
}
"""What is compared: whose model, and how it is used; networks have 64-64 units, 2,000 steps."""

TITLES = {
    "regressor": "SobolevRegressor (5 networks)",
    "regressor_one": "SobolevRegressor, 1 network",
    "jenn": "JENN (1 network)",
    "kriging": "Kriging, values only",
    "kriging_gradients": "Kriging with gradients",
}

Predict = Callable[[Tensor], Tensor]


def measure(model: str, name: str, seed: int, tick: Tick | None = None) -> list[Result]:
    """Fit a model once: processor seconds of the fit, and errors on the test points.

    Parameters
    ----------
    model : str
        A key of :data:`MODELS`.
    name : str
        A benchmark function.
    seed : int
        Of training points and initial weights.
    tick : callable, optional
        Not used: a fit is short.
    """
    f = functions.get(name)
    x = regression.training_points(Setting(name, N, "sobolev"), seed)
    threads, began = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(1)
    try:
        start = time.thread_time()
        values, slopes = _fit(model, f, x, seed)
        spent = time.thread_time() - start
    finally:
        torch.set_num_threads(threads)
    u = regression.test_points(name)
    truth, tilt = f(u), f.gradient(u)
    off = (values(u) - truth).square().mean().item()
    metrics = {
        "fit_seconds": float(f"{spent:.3g}"),
        "test_mse": ledger.number_or_null(off),
        "test_normalised": ledger.number_or_null(off / truth.var(correction=0).item()),
        "test_gradient_mse": ledger.number_or_null(
            (slopes(u) - tilt).square().sum(1).mean().item()
        ),
    }
    return [Result(metrics, time.perf_counter() - began)]


def _fit(
    model: str, f: functions.BenchmarkFunction, x: Tensor, seed: int
) -> tuple[Predict, Predict]:
    """Return functions for values (m, 1) and gradients (m, 2)."""
    options = MODELS[model][1]
    y, dy = f(x), f.gradient(x)
    if model.startswith("regressor"):
        from sobolev_lib.regressor import SobolevRegressor

        fitted = SobolevRegressor(
            WIDTHS, steps=STEPS, n_estimators=options["n_estimators"], random_state=seed
        ).fit(x.numpy(), y.numpy(), dy.numpy() if options["gradients"] else None)
        return (
            lambda u: torch.from_numpy(fitted.predict(u.numpy())),
            lambda u: torch.from_numpy(fitted.predict_derivatives(u.numpy())[:, 0]),
        )
    if model == "jenn":
        return _fit_jenn(x, y, dy, seed)
    kriging = Kriging(x, y, dy if options["gradients"] else None, domain=f.domain)
    return kriging, kriging.gradient


def _fit_jenn(x: Tensor, y: Tensor, dy: Tensor, seed: int) -> tuple[Predict, Predict]:
    try:
        import jenn
    except ImportError as error:
        raise ImportError('JENN is an extra: pip install "sobolev-lib[rivals]"') from error
    options = MODELS["jenn"][1]
    net = jenn.NeuralNet([x.shape[1], *WIDTHS, 1], "tanh").fit(
        x.T.numpy(), y.T.numpy(), dy.T.numpy()[None], is_normalize=options["is_normalize"],
        max_iter=STEPS, random_state=seed,
    )  # fmt: skip
    return (
        lambda u: torch.from_numpy(np.ascontiguousarray(net.predict(u.T.numpy()).T)),
        lambda u: torch.from_numpy(np.ascontiguousarray(net.predict_partials(u.T.numpy())[0].T)),
    )


def config(model: str, name: str) -> dict[str, Any]:
    """Entries of a record."""
    whose, options = MODELS[model]
    entries = {"function": name, "n": N, "model": model, "of": whose, "options": options}
    if "kriging" not in model:
        entries |= {"widths": list(WIDTHS), "steps": STEPS}
    return entries


def jobs(
    seeds: Sequence[int], names: Sequence[str] = NAMES, models: Sequence[str] = tuple(MODELS)
) -> list[Job]:
    """Fits for a sweep, on the regression experiment's points; ``models`` are of :data:`MODELS`."""
    return [
        Job(
            [Run(config(model, name), seed, "small", ("Not in the paper: a baseline.",))],
            partial(measure, model, name, seed),
            libraries=LIBRARIES,
        )
        for seed, name, model in itertools.product(seeds, names, models)
    ]


class Comparison:
    """The records of a comparison, by model and function.

    Parameters
    ----------
    records : sequence of Record
        Of this experiment.
    """

    def __init__(self, records: Sequence[ledger.Record]) -> None:
        self.records = list(records)

    def _of(self, model: str, name: str) -> list[ledger.Record]:
        return ledger.select(self.records, config(model, name))

    def error(self, model: str, name: str) -> Interval:
        """Error over the variance of the target, geometric mean over seeds."""
        logs = log_errors(self._of(model, name), "test_normalised")
        return interval(list(logs.values())).map(lambda v: 10.0**v)

    def seconds(self, model: str) -> float:
        """Median processor time of a fit, over functions and seeds."""
        found = [r.metrics["fit_seconds"] for k in NAMES for r in self._of(model, k)]
        return float(np.median(found))

    def against(self, baseline: str, model: str) -> dict[str, Interval]:
        """Decades of test error that a model gains over another, by function."""
        found = {}
        for name in NAMES:
            logs = [log_errors(self._of(m, name), "test_mse") for m in (baseline, model)]
            gain = difference(*logs)
            if gain:
                found[name] = gain
        return found


def load(book: ledger.Ledger | None = None) -> Comparison:
    """The comparison in a ledger; in the book's unless one is given.

    Raises
    ------
    LookupError
        If there are no records; the command that makes them is named.
    """
    records = (book or ledger.Ledger(EXPERIMENT)).read()
    if not records:
        raise LookupError(f"no records of {EXPERIMENT}: python -m sobolev_lib {EXPERIMENT}")
    return Comparison(records)
