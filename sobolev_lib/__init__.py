"""Sobolev Training: fit a network to values and derivatives (Czarnecki et al., 2017)."""

from . import derivatives, kinks
from .loss import SobolevLoss

__all__ = ["SobolevLoss", "derivatives", "kinks"]
