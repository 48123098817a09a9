"""Sobolev Training: fit a network to values and derivatives (Czarnecki et al., 2017)."""

from typing import TYPE_CHECKING, Any

from . import derivatives, kinks
from .loss import SobolevLoss

if TYPE_CHECKING:
    from .regressor import SobolevRegressor as SobolevRegressor

# SobolevRegressor is not among them: a star must not ask for scikit-learn.
__all__ = ["SobolevLoss", "derivatives", "kinks"]


def __getattr__(name: str) -> Any:
    """Import the regressor when it is asked for: scikit-learn is an extra of the library."""
    if name == "SobolevRegressor":
        from .regressor import SobolevRegressor

        return SobolevRegressor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
