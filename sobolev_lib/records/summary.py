"""From seeds to a number with its interval.

Errors of trained networks spread over decades and have outliers, so they are compared by their
logarithm, and their centre is the interquartile mean (the mean of the middle half): less moved by
one bad seed than the mean, less jumpy than the median.  Intervals are percentile bootstrap
intervals over seeds (Efron 1979; for few runs of learning algorithms see Agarwal et al. 2021).
Resampling three numbers hardly makes more than their range, which misses the truth one time in
four; below :data:`FEW` seeds the interval is Student's instead, wide, and for normal values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from sobolev_lib.records.ledger import Record

RESAMPLES = 2_000
LEVEL = 0.95
FEW = 5
"""Number of seeds below which resampling says too little."""


@dataclass(frozen=True)
class Interval:
    """A centre with the ends of its interval, and the number of seeds behind it."""

    centre: float
    low: float
    high: float
    count: int

    def map(self, function: Callable[[float], float]) -> Interval:
        """Apply an increasing function to the three numbers, e.g. the way back from a logarithm."""
        return Interval(function(self.centre), function(self.low), function(self.high), self.count)

    @property
    def sign(self) -> int:
        """1 if the whole interval is above 0, -1 if below, 0 if it contains 0."""
        return int(self.low > 0) - int(self.high < 0)

    def __format__(self, spec: str) -> str:
        spec = spec or ".2g"
        centre, low, high = (number(v, spec) for v in (self.centre, self.low, self.high))
        return f"{centre} [{low}, {high}]"


def number(value: float, spec: str) -> str:
    """Return a number as text; what rounds to zero has no minus."""
    text = f"{value:{spec}}"
    return text if text.strip("+-0.") else f"{0.0:{spec}}"


def interquartile_mean(values: ArrayLike, axis: int = -1) -> Any:
    """Mean of the middle half: a quarter is cut off at each end (rounded down)."""
    return stats.trim_mean(values, 0.25, axis=axis)


def interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """Interquartile mean of ``values`` with its 95 per cent bootstrap interval.

    Below :data:`FEW` values their mean, with Student's interval mean ± t s / sqrt(n).

    Parameters
    ----------
    values : sequence of float
        One number a seed, already on the scale on which they should be averaged.
    seed : int
        Of the resampling.

    Raises
    ------
    ValueError
        If there are fewer than two values, or one is not finite.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(
            f"values has shape {array.shape}; one number for each of at least 2 seeds is needed"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"values has {int((~np.isfinite(array)).sum())} entries that are not finite; "
            "leave diverged runs out and say so"
        )
    if len(array) < FEW:
        return _student(array)
    centre = float(interquartile_mean(array))
    drawn = np.random.default_rng(seed).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.quantile(interquartile_mean(array[drawn]), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(centre, min(float(low), centre), max(float(high), centre), len(array))


def _student(array: np.ndarray) -> Interval:
    n = len(array)
    centre, s = float(array.mean()), float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * s / n**0.5
    return Interval(centre, centre - half, centre + half, n)


def log_errors(records: Sequence[Record], metric: str = "test_mse") -> dict[int, float]:
    """Decimal logarithm of a metric by seed; diverged runs (null) are left out."""
    return {
        r.seed: float(np.log10(r.metrics[metric])) for r in records if r.metrics[metric] is not None
    }


def error(records: Sequence[Record], metric: str = "test_mse") -> Interval:
    """Logarithm of an error over seeds."""
    return interval(list(log_errors(records, metric).values()))


def gain(baseline: Sequence[Record], other: Sequence[Record], metric: str = "test_mse") -> Interval:
    """Decades by which ``other`` is better than ``baseline``, seed by seed.

    Positive means a smaller error.  Both were trained on the same points from the same initial
    weights (for equal seeds), so the difference is paired.

    Raises
    ------
    ValueError
        If fewer than two seeds are in both.
    """
    a, b = log_errors(baseline, metric), log_errors(other, metric)
    return interval([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])
