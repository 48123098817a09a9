"""From seeds to a number with its interval.

The centre is the mean over seeds, the interval Student's, mean ± t s / sqrt(n).  It is exact for
normal values from two seeds on, and for the few seeds that a training run allows, nothing else is:
a percentile bootstrap of five values misses the truth twice as often as it says, a trimmed mean
gives away a third of the width.  Errors of trained networks spread over decades, so they are
averaged as logarithms; there they are normal enough (coverage is tested by simulation, skewed and
heavy-tailed values included).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sobolev_lib.records.ledger import Record

LEVEL = 0.95
FEWEST = 3
"""Seeds below which nothing is settled, whatever their interval says."""


@dataclass(frozen=True)
class Interval:
    """A centre with the ends of its 95 per cent interval, and the number of seeds behind it."""

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

    @property
    def p(self) -> float:
        """Two-sided p-value of Student's test that the mean is 0.

        For an interval that :func:`interval` made and nobody mapped.
        """
        half = self.high - self.centre
        if half == 0:
            return float(self.centre == 0)
        statistic = abs(self.centre) / half * _quantile(self.count)
        from scipy import special  # the command needs no scipy, only who reads its records

        return float(2 * special.stdtr(self.count - 1, -statistic))

    def __format__(self, spec: str) -> str:
        spec = spec or ".2g"
        # the ends of a difference keep their sign: it tells on which side of 0 they lie
        low, high = (
            f"{end:{spec}}" if "+" in spec and end else number(end, spec)
            for end in (self.low, self.high)
        )
        return f"{number(self.centre, spec)} [{low}, {high}]"


def number(value: float, spec: str) -> str:
    """Return a number as text; what rounds to zero has no minus."""
    text = f"{value:{spec}}"
    return text if text.strip("+-0.") else f"{0.0:{spec}}"


def unbroken(found: Interval, spec: str) -> str:
    """Return an interval as text that breaks before its bracket at most: tables are narrow."""
    return f"{found:{spec}}".replace(", ", ",\u00a0")


def listed(words: Iterable[str]) -> str:
    """Words in a sentence, "A", "A and B", "A, B and C"; empty without any."""
    *first, last = [*words] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Mean of ``values`` with Student's 95 per cent interval; their order does not matter.

    Parameters
    ----------
    values : sequence of float
        One number a seed, already on the scale on which they should be averaged.

    Raises
    ------
    ValueError
        If there are fewer than two values, or one is not finite.
    """
    array = np.sort(np.asarray(values, dtype=float))  # a sum depends on the order of its terms
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(
            f"values has shape {array.shape}; one number for each of at least 2 seeds is needed"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"values has {int((~np.isfinite(array)).sum())} entries that are not finite; "
            "leave diverged runs out and say so"
        )
    if array[0] == array[-1]:
        return Interval(float(array[0]), float(array[0]), float(array[0]), len(array))
    centre, n = float(array.mean()), len(array)
    half = _quantile(n) * float(array.std(ddof=1)) / n**0.5
    return Interval(centre, centre - half, centre + half, n)


@functools.cache
def _quantile(count: int) -> float:
    """Student's, for ``count`` values."""
    from scipy import special

    return float(special.stdtrit(count - 1, (1 + LEVEL) / 2))


def difference(higher: Mapping[int, float], lower: Mapping[int, float]) -> Interval | None:
    """Interval of ``higher`` minus ``lower``, paired by seed; None below two common seeds."""
    common = sorted(higher.keys() & lower.keys())
    return interval([higher[seed] - lower[seed] for seed in common]) if len(common) > 1 else None


def log_errors(records: Sequence[Record], metric: str = "test_mse") -> dict[int, float]:
    """Decimal logarithm of a metric by seed; diverged runs (null) are left out.

    Raises
    ------
    ValueError
        If two records have the same seed: then they are not one configuration's.
    """
    seeds = [r.seed for r in records]
    if len(set(seeds)) < len(seeds):
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        raise ValueError(f"several records of seed {twice[0]}; choose one whole configuration")
    return {
        r.seed: float(np.log10(r.metrics[metric])) for r in records if r.metrics[metric] is not None
    }
