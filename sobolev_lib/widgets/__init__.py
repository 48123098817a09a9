"""Interactive figures that compute in the reader's browser: they need no kernel, no server, no network."""

from sobolev_lib.widgets.fit1d import SobolevFit1D

__all__ = ["SobolevFit1D"]
