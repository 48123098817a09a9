r"""Kriging beside the networks: the baselines of the regression experiment.

Kriging (Gaussian process regression) is the method of choice for a smooth function of two
variables known at a few points, and its gradient-enhanced form uses derivatives as Sobolev training
does.  Both come from a maintained library, the Surrogate Modeling Toolbox SMT (Saves et al. 2024,
Bouhlel et al. 2019), and see the training and test points of
:mod:`sobolev_lib.regression.training`.  SMT is an optional extra::

    pip install "sobolev-lib[kriging]"

    python -m sobolev_lib kriging --seeds 5

Gradients enter SMT's model through extra points: with the partial derivatives at :math:`x` it
predicts the values at :math:`x + \Delta_j` to first order, and interpolates those too.  SMT has no
model whose likelihood holds the derivatives themselves.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sobolev_lib import functions
from sobolev_lib.records import ledger
from sobolev_lib.records.sweep import Job, Result, Run, Tick
from sobolev_lib.regression import training as regression
from sobolev_lib.regression.arms import METHODS, Setting

ARM = "kriging"
SIZES = (20, 100)
LIBRARIES = ("smt", "scipy", "scikit-learn")  # SMT's fits are made by the other two
CHUNK = 2_000  # points predicted at a time: SMT holds their distances to all training points

_BOTH = {"corr": "squar_exp", "poly": "constant", "theta_bounds": [1e-6, 100.0]}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "values": ("KRG", _BOTH),
    "sobolev": ("GEKPLS", {**_BOTH, "n_comp": 2, "extra_points": 2, "delta_x": 1e-4}),
}
"""SMT's model and its options for each method; what is not named is SMT's default."""


class Kriging:
    """A kriging model of a function of the plane, fitted by maximum likelihood.

    Parameters
    ----------
    x : Tensor
        Training points (n, 2), float64.
    y : Tensor
        Values (n, 1).
    dy : Tensor, optional
        Gradients (n, 2); with them the model is the gradient-enhanced one.
    domain : tuple
        ``((x_lo, x_hi), (y_lo, y_hi))``, in units of ``x``; the steps to the extra points are
        fractions of it.

    Raises
    ------
    ImportError
        If SMT is not installed.
    ValueError
        If a shape does not fit, fewer than two points are given, or an entry is not finite.
    """

    def __init__(
        self, x: Tensor, y: Tensor, dy: Tensor | None = None, *, domain: functions.Domain
    ) -> None:
        _check(x, y, dy)
        self.method = "values" if dy is None else "sobolev"
        self.model = _smt_model(self.method, domain)
        points = x.numpy(force=True)
        self.model.set_training_values(points, y.numpy(force=True))
        if dy is not None:
            for k, column in enumerate(dy.numpy(force=True).T):
                self.model.set_training_derivatives(points, column[:, None], k)
        with warnings.catch_warnings():
            # Values to first order depend on one direction: a second component has nothing to
            # explain.
            warnings.filterwarnings("ignore", "y residual is constant", UserWarning)
            self.model.train()

    def __call__(self, x: Tensor) -> Tensor:
        """Values (m, 1) predicted at ``x`` (m, 2)."""
        return _in_chunks(self.model.predict_values, x)

    def gradient(self, x: Tensor) -> Tensor:
        """Gradients (m, 2) of the prediction at ``x`` (m, 2)."""

        def both(points: np.ndarray) -> np.ndarray:
            return np.hstack([self.model.predict_derivatives(points, k) for k in range(2)])

        return _in_chunks(both, x)


def fit(setting: Setting, seed: int) -> Kriging:
    """Kriging model on a setting's training points, with gradients if its method is "sobolev"."""
    f, x = functions.get(setting.function), regression.training_points(setting, seed)
    return Kriging(x, f(x), f.gradient(x) if setting.method == "sobolev" else None, domain=f.domain)


def measure(setting: Setting, seed: int, tick: Tick | None = None) -> list[Result]:
    """Fit and measure; errors are means over points in raw units."""
    began = time.perf_counter()
    model, f = fit(setting, seed), functions.get(setting.function)
    metrics: dict[str, float | None] = {}
    for name, x in (
        ("test", regression.test_points(setting.function)),
        ("train", regression.training_points(setting, seed)),
    ):
        metrics[f"{name}_mse"] = _mean_square(model(x) - f(x))
        metrics[f"{name}_gradient_mse"] = _mean_square(model.gradient(x) - f.gradient(x))
    return [Result(metrics, time.perf_counter() - began)]


def config(setting: Setting) -> dict[str, Any]:
    """Entries of a baseline as the ledger holds them; those of the networks where they apply."""
    model, options = MODELS[setting.method]
    return {
        "function": setting.function,
        "n": setting.n,
        "method": setting.method,
        "arm": ARM,
        "library": "smt",
        "model": model,
        "options": options,
    }


def jobs(
    seeds: Sequence[int],
    sizes: Sequence[int] = SIZES,
    names: Sequence[str] = tuple(functions.FUNCTIONS),
    methods: Sequence[str] = METHODS,
) -> list[Job]:
    """Baselines for a sweep: records of the regression experiment, on the networks' points."""
    return [
        Job(
            [Run(config(setting), seed, "paper", _deviations(setting.method))],
            partial(measure, setting, seed),
            libraries=LIBRARIES,
        )
        for seed, name, n, method in itertools.product(seeds, names, sizes, methods)
        for setting in [Setting(name, n, method, arm=ARM)]
    ]


def _check(x: Tensor, y: Tensor, dy: Tensor | None) -> None:
    if x.ndim != 2 or x.shape[1] != 2 or len(x) < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; needed is (n, 2) with n at least 2")
    for name, t, shape in (("y", y, (len(x), 1)), ("dy", dy, (len(x), 2))):
        if t is not None and tuple(t.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(t.shape)}; needed is {shape}")
    for name, t in (("x", x), ("y", y), ("dy", dy)):
        if t is not None and not bool(torch.isfinite(t).all()):
            raise ValueError(f"{name} has entries that are not finite; leave those points out")


def _smt_model(method: str, domain: functions.Domain) -> Any:
    try:
        from smt import surrogate_models
        from smt.design_space import DesignSpace, FloatVariable
    except ImportError as error:
        raise ImportError(
            'kriging needs the Surrogate Modeling Toolbox: pip install "sobolev-lib[kriging]"'
        ) from error
    name, options = MODELS[method]
    if method == "sobolev":
        sides = [FloatVariable(*side) for side in domain]
        options = {**options, "design_space": DesignSpace(sides)}
    return getattr(surrogate_models, name)(print_global=False, **options)


def _in_chunks(predict: Any, x: Tensor) -> Tensor:
    parts = [predict(part.numpy(force=True)) for part in x.double().split(CHUNK)]
    return torch.from_numpy(np.concatenate(parts))


def _mean_square(error: Tensor) -> float | None:
    return ledger.number_or_null(error.square().sum(dim=1).mean().item())


def _deviations(method: str) -> list[str]:
    model, _ = MODELS[method]
    return [
        f"Not in the paper: a baseline, the model {model} of SMT on the same points.",
        "Correlation lengths by maximum likelihood; bounds wider than SMT's: Ackley reaches those.",
        regression.DEVIATIONS["seeds"],
        regression.DEVIATIONS["test"],
    ]
