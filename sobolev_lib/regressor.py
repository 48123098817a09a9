"""A regressor for a table of values and gradients, by the conventions of scikit-learn.

It composes what the library has: :class:`~sobolev_lib.normalization.Normalized` for the units,
:class:`~sobolev_lib.stack.MLPStack` for an ensemble whose Sobolev gradient is in closed form, and
:func:`~sobolev_lib.fitting.fit_stack` for the training.  scikit-learn is an optional extra::

    pip install "sobolev-lib[regressor]"
"""

from __future__ import annotations

import json
import math
import numbers
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

try:
    from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
    from sklearn.metrics import r2_score
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        'SobolevRegressor needs scikit-learn 1.6 or newer: pip install "sobolev-lib[regressor]"'
    ) from error

from .checks import check_count
from .fitting import Data, History, fit_stack
from .normalization import Normalized
from .stack import MLPStack

__all__ = ["SobolevRegressor"]

CHUNK = 10_000  # points predicted at a time
HEADER = "sobolev_regressor"
STEEPEST = 30.0  # norm of slopes, in units of the training, above which values set no unit
STEEP = 10.0  # the norm that slopes have where they set it


@contextmanager
def _own_modes() -> Iterator[None]:
    """Leave the caller's modes: gradients are recorded, new tensors are on the CPU."""
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        yield


class SobolevRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    r"""An ensemble of small networks, fitted to values and whatever gradients were measured.

    Inputs and values are brought to mean 0 and variance 1 inside, gradients by the chain rule;
    what comes back is in the units that came in.  Where the values hardly differ, as a single
    reference energy beside many forces, the gradients set the unit of the values instead.
    All arithmetic is in float64.  Each network is trained from its own initial weights and stops
    early on its own held-out part of the data.

    Parameters
    ----------
    hidden : sequence of int
        Widths of the hidden layers.
    activation : str
        A key of :data:`sobolev_lib.stack.ACTIVATIONS`; a smooth one is the better choice.
    derivative_weight : float or "balanced"
        Weight w of the derivative term in the units of the training (variance 1).  ``"balanced"``:
        the one that makes it as large as the value term for a constant network, one over the mean
        squared norm of the scaled gradients.
    n_estimators : int
        Networks in the ensemble.
    steps : int
        Steps of Adam at most.
    learning_rate : float
        Of the first step; it falls to 0 along half a cosine.
    batch_size : int, optional
        Points in a step; all unless given.
    validation_fraction : float
        Part of the points, rounded down, that each network holds out to choose its best weights;
        points whose values are not all measured are never held out.  With 0 it keeps its last
        weights.
    patience : int, optional
        Stop when no network has got better on what it holds out for so many steps, rounded
        up to a multiple of ``steps / 40``.  Where nothing is held out (few points) all are done.
    kink_bandwidth : float, optional
        For piecewise-linear activations, see :class:`~sobolev_lib.stack.MLPStack`.
    random_state : int, RandomState or None
        Seed of initial weights, held-out parts and batches.
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    model_ : Normalized
        The units and, as ``model_.model``, the stack: network by network, and for each its outputs.
    history_ : History
        Losses on the way (:class:`sobolev_lib.fitting.History`).
    n_features_in_ : int
        Number of inputs d.
    feature_names_in_ : ndarray
        Names of the inputs; only if X had names.
    derivative_weight_ : ndarray
        Weight that was used for each output (out,).

    Examples
    --------
    >>> import numpy as np
    >>> from sobolev_lib import SobolevRegressor
    >>> X = np.linspace(-2, 2, 9)[:, None]
    >>> model = SobolevRegressor(random_state=0, steps=500).fit(X, np.sin(X[:, 0]), np.cos(X))
    >>> value, spread = model.predict([[0.1]], return_std=True)
    >>> bool(abs(value[0] - np.sin(0.1)) < 0.02)
    True
    >>> model.predict_derivatives([[0.1]]).shape
    (1, 1)
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64, 64),
        *,
        activation: str = "silu",
        derivative_weight: float | str = "balanced",
        n_estimators: int = 5,
        steps: int = 2_000,
        learning_rate: float = 0.01,
        batch_size: int | None = None,
        validation_fraction: float = 0.1,
        patience: int | None = None,
        kink_bandwidth: float | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.derivative_weight = derivative_weight
        self.n_estimators = n_estimators
        self.steps = steps
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.kink_bandwidth = kink_bandwidth
        self.random_state = random_state
        self.verbose = verbose

    @_own_modes()
    def fit(self, X: Any, y: Any, dy: Any = None) -> SobolevRegressor:
        """Fit the ensemble.

        Parameters
        ----------
        X : array_like
            Points (n, d), finite.
        y : array_like
            Values (n,) or (n, out); NaN, or masked, where not measured.
        dy : array_like, optional
            Derivatives (n, d) or, for several outputs, (n, out, d): the derivative of output k
            with respect to input j at [:, k, j]; NaN, or masked, where not measured.

        Returns
        -------
        SobolevRegressor
            Itself.

        Raises
        ------
        ValueError
            If a shape does not fit, X is not finite, y or dy hold infinity, an output was never
            measured, or an option is not one of those above.
        FloatingPointError
            If the training diverges.
        """
        self._check_options()
        x, values, slopes, self._single = self._table(X, y, dy)
        self._fitted_with = self.get_params()
        outputs = values.shape[1]
        random = check_random_state(self.random_state)
        *seeds, shuffles = random.randint(2**31 - 1, size=self.n_estimators + 1).tolist()
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]
        stack = self._stack(x.shape[1], outputs, sources)
        self.model_ = Normalized(stack).fit(x, values)
        self._widen(values, slopes)
        x, values, slopes = self.model_.normalise(x, values, slopes)
        weight = self._weights(slopes)
        self.derivative_weight_ = weight.numpy()
        splits = self._splits(values, sources)
        training, held_out = ([self._columns(x, values, slopes, rows) for rows in part]
                              for part in zip(*splits, strict=True))  # fmt: skip
        self.history_: History = fit_stack(
            stack,
            _together(training),
            weight.repeat(self.n_estimators),
            steps=self.steps,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            generator=torch.Generator().manual_seed(shuffles),
            held_out=_together(held_out) if len(splits[0][1]) else None,
            patience=self.patience if len(splits[0][1]) else None,
            progress=bool(self.verbose),
        )
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Values in the units of y: the mean over the ensemble.

        Parameters
        ----------
        X : array_like
            Points (m, d).
        return_std : bool
            Return the standard deviation over the ensemble as well.  It says where the networks
            disagree, which is far from the data; it is no calibrated error.

        Returns
        -------
        ndarray or tuple of two
            (m,) or (m, out), as y in `fit`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X does not have the features of `fit`, or one network has no deviation.
        """
        stack = self._fitted()
        shift, scale = self.model_.y_mean, self.model_.y_std
        return self._predict(X, lambda x: stack(x)[..., 0], lambda m: shift + scale * m, return_std)

    def predict_derivatives(self, X: Any, return_std: bool = False) -> Any:
        """Derivatives with respect to the inputs, in the units of dy: the mean over the ensemble.

        They are those of :meth:`predict`.  Parameters and errors as there.

        Returns
        -------
        ndarray or tuple of two
            (m, d), or (m, out, d) if y in `fit` had two axes.
        """
        stack = self._fitted()
        factor = self.model_.y_std[:, None] / self.model_.x_std
        return self._predict(X, stack.gradient, lambda g: factor * g, return_std)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Coefficient of determination of the values, a mean over the outputs.

        Parameters
        ----------
        X, y : array_like
            As in `fit`; a value that is NaN, or masked, is left out.
        sample_weight : array_like, optional
            Weights (n,).

        Raises
        ------
        ValueError
            If an output has no value.
        """
        found = self.predict(X)
        wanted = np.asarray(_filled(y), dtype=float)
        if wanted.size != found.size or len(wanted) != len(found):
            raise ValueError(f"y has shape {wanted.shape}; needed is {found.shape}")
        columns = zip(
            wanted.reshape(len(found), -1).T, found.reshape(len(found), -1).T, strict=True
        )
        weight = np.ones(len(found)) if sample_weight is None else np.asarray(sample_weight)
        check_consistent_length(found, weight)
        scores = []
        for k, (true, mine) in enumerate(columns):
            rows = ~np.isnan(true)
            if not rows.any():
                raise ValueError(f"y has no value of output {k}")
            scores.append(r2_score(true[rows], mine[rows], sample_weight=weight[rows]))
        return float(np.mean(scores))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted regressor as safetensors, which is read without pickle.

        Parameters
        ----------
        path : path
            The file.  Weights, units and the parameters of the fit are kept, `history_` is not,
            and of `random_state` only a plain number.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        self._fitted()
        params = {**self._fitted_with}
        if not isinstance(params["random_state"], numbers.Integral):
            params["random_state"] = None
        names = getattr(self, "feature_names_in_", None)
        params["hidden"] = list(params["hidden"])
        notes = {
            "params": {k: _plain(v) for k, v in params.items()},
            "single": self._single,
            "names": None if names is None else list(names),
            "derivative_weight_": self.derivative_weight_.tolist(),
        }
        tensors = {k: v.detach().clone() for k, v in self.model_.state_dict().items()}
        save_file(tensors, path, {HEADER: json.dumps(notes)})

    @classmethod
    @_own_modes()
    def load(cls, path: str | os.PathLike[str]) -> SobolevRegressor:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            If the file is damaged or was not written by :meth:`save`.
        """
        try:
            with safe_open(path, framework="pt") as file:
                notes = json.loads((file.metadata() or {})[HEADER])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            params = notes["params"]
            model = cls(**{**params, "hidden": tuple(params["hidden"])})
            model._single, model._fitted_with = notes["single"], model.get_params()
            model.derivative_weight_ = np.array(notes["derivative_weight_"])
            model.n_features_in_ = len(tensors["x_mean"])
            if notes["names"] is not None:
                model.feature_names_in_ = np.array(notes["names"], dtype=object)
            outputs = len(tensors["y_mean"])
            sources = [torch.Generator() for _ in range(model.n_estimators)]
            stack = model._stack(model.n_features_in_, outputs, sources)
            model.model_ = Normalized(stack)
            model.model_.load_state_dict(tensors)
        except (SafetensorError, LookupError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is not a regressor that save() wrote: {error}") from error
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        return tags

    def _check_options(self) -> None:
        check_count("n_estimators", self.n_estimators, 1)
        if self.patience is not None:
            check_count("patience", self.patience, 1)
        weight, part = self.derivative_weight, self.validation_fraction
        real = isinstance(weight, numbers.Real)
        if not real and not (isinstance(weight, str) and weight == "balanced"):
            raise ValueError(f"derivative_weight is {weight!r}; give a number or 'balanced'")
        for name in ("validation_fraction", "learning_rate"):
            if not isinstance(getattr(self, name), numbers.Real):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a number")
        if not isinstance(weight, str) and not 0 <= weight < math.inf:
            raise ValueError(f"derivative_weight is {weight}; it must be finite and not negative")
        if not 0 <= part < 1:
            raise ValueError(f"validation_fraction is {part}; it must be at least 0 and below 1")

    def _table(self, X: Any, y: Any, dy: Any) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Data as tensors (n, d), (n, out), (n, out, d), and whether y had one axis."""
        if y is None:
            raise ValueError("fit requires y to be passed, but the target y is None")
        if np.ma.is_masked(X):
            raise ValueError("X has masked entries; every input must be known")
        x = validate_data(self, X, dtype=np.float64, ensure_min_samples=1)
        options: dict[str, Any] = {
            "dtype": np.float64, "ensure_all_finite": "allow-nan",
            "ensure_2d": False, "allow_nd": True,
        }  # fmt: skip
        values = check_array(_filled(y), **options, input_name="y")
        if values.ndim > 2:
            raise ValueError(f"y has shape {values.shape}; needed is (n,) or (n, out)")
        check_consistent_length(x, values)
        single, values = values.ndim == 1, values.reshape(len(x), -1)
        shape = (*values.shape, x.shape[1])
        slopes = np.full(shape, np.nan)
        if dy is not None:
            given = check_array(_filled(dy), **options, input_name="dy")
            flat = (len(x), x.shape[1])
            if given.shape not in ((shape, flat) if shape[1] == 1 else (shape,)):
                needed = f"{flat} or {shape}" if shape[1] == 1 else shape
                raise ValueError(f"dy has shape {given.shape}; needed is {needed}")
            slopes = given.reshape(shape)
        # copies: torch warns of arrays that cannot be written to, and refuses those read backwards
        copied = [torch.from_numpy(array.copy()) for array in (x, values, slopes)]
        return copied[0], copied[1], copied[2], single

    def _stack(self, inputs: int, outputs: int, sources: list[torch.Generator]) -> MLPStack:
        return MLPStack(
            len(sources) * outputs, inputs, self.hidden, self.activation,
            kink_bandwidth=self.kink_bandwidth, dtype=torch.float64,
            generator=[source for source in sources for _ in range(outputs)],
        )  # fmt: skip

    def _widen(self, values: Tensor, slopes: Tensor) -> None:
        """Let the slopes set the unit of values whose own deviation says nothing."""
        size = (slopes * self.model_.x_std).square().nanmean(dim=0).nansum(dim=1).sqrt()
        lowest = values.nan_to_num(nan=math.inf).amin(dim=0)
        same = values.nan_to_num(nan=-math.inf).amax(dim=0) == lowest
        steep = (size > 0) & (same | (self.model_.y_std < size / STEEPEST))
        self.model_.y_std = torch.where(steep, size / STEEP, self.model_.y_std)

    def _weights(self, slopes: Tensor) -> Tensor:
        """Weight of the derivative term of each output; 0 where no slope is known."""
        known = slopes.isfinite().any(dim=2).any(dim=0)
        if not isinstance(self.derivative_weight, str):
            return known.double() * float(self.derivative_weight)
        # by component: what was measured stands for what was not
        size = slopes.square().nanmean(dim=0).nansum(dim=1)
        return torch.where(known & (size > 0), 1 / size, known.double())

    def _splits(
        self, values: Tensor, sources: list[torch.Generator]
    ) -> list[tuple[Tensor, Tensor]]:
        """Rows that each network trains on, and those that it holds out."""
        measured = values.isfinite().all(dim=1)
        usable, others = measured.nonzero()[:, 0], (~measured).nonzero()[:, 0]
        count = min(int(self.validation_fraction * len(values)), len(usable) - 1)
        found = []
        for source in sources:
            order = usable[torch.randperm(len(usable), generator=source)]
            held = order[: max(count, 0)]
            found.append((torch.cat([order[len(held) :], others]), held))
        return found

    def _columns(self, x: Tensor, values: Tensor, slopes: Tensor, rows: Tensor) -> Data:
        """Data of one network's outputs: (out, n, d), (out, n, 1), (out, n, d)."""
        outputs = values.shape[1]
        return (
            x[rows].expand(outputs, -1, -1),
            values[rows].T.unsqueeze(-1),
            slopes[rows].transpose(0, 1),
        )

    def _fitted(self) -> MLPStack:
        check_is_fitted(self, "model_")
        return self.model_.model  # type: ignore[return-value]

    @torch.no_grad()
    def _predict(self, X: Any, inner: Any, outer: Any, return_std: bool) -> Any:
        if return_std and (number := self._fitted_with["n_estimators"]) < 2:
            raise ValueError(
                f"return_std needs an ensemble; n_estimators is {number}, give 2 or more"
            )
        x = torch.tensor(validate_data(self, X, dtype=np.float64, reset=False), device="cpu")
        outputs = len(self.model_.y_std)
        parts: list[tuple[Tensor, Tensor | None]] = []
        for points in x.split(CHUNK):
            [scaled] = self.model_.normalise(points)
            found = inner(scaled).unflatten(0, (-1, outputs)).transpose(1, 2)
            found = outer(found)  # (networks, m, out) or (networks, m, out, d)
            parts.append((found.mean(dim=0), found.std(dim=0) if return_std else None))
        joined = [
            torch.cat([part for part in column if part is not None]).numpy()
            for column in zip(*parts, strict=True)
            if column[0] is not None
        ]
        if self._single:
            joined = [array[:, 0] for array in joined]
        return tuple(joined) if return_std else joined[0]


def _together(parts: list[Data]) -> Data:
    """Join the data of all networks along the axis of the stack's members."""
    columns = zip(*parts, strict=True)
    x, y, dy = (torch.cat(column) for column in columns)  # type: ignore[arg-type]
    return x, y, dy


def _filled(table: Any) -> Any:
    """The table; NaN where a masked array has a mask."""
    return np.ma.filled(table.astype(float), np.nan) if np.ma.isMaskedArray(table) else table


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value
