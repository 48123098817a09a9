"""Interactive figures that compute in the reader's browser: no kernel, no server, no network."""

from sobolev_lib.widgets.explorer import SurfaceExplorer
from sobolev_lib.widgets.hypotheses import HypothesisExplorer
from sobolev_lib.widgets.kinkdemo import KinkDemo
from sobolev_lib.widgets.playground import Playground

__all__ = ["HypothesisExplorer", "KinkDemo", "Playground", "SurfaceExplorer"]
