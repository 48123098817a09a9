"""A single kink: its derivative loss, what autograd sees of it, what the kernel estimates."""

from __future__ import annotations

import anywidget
import traitlets

from sobolev_lib.widgets import _assets


class KinkDemo(anywidget.AnyWidget):
    """relu(x - t) learns the derivative of relu(x - s) from n uniform points on [0, 1].

    The derivative loss is the share of the points between t and s.  Its population value is
    ``|t - s|`` with slope +1 or -1 in t; on samples it is a staircase, whose gradient autograd
    gives correctly and uselessly as 0.  The kernel estimate of the slope is
    ``-2 / n * sum((H(x - t) - H(x - s)) * k(x - t))`` with H the step and k the logistic density of
    width h, as in `sobolev_lib.kinks`; its population value is ``tanh((t - s) / (2 h))``.

    Parameters
    ----------
    s : float
        Kink of the target, between 0 and 1; fixed in the page.
    t : float
        Kink of the model, between 0 and 1.
    bandwidth : float
        h; the slider has the places 0.005, 0.01, 0.02, 0.05, 0.1, 0.2 and 0.4.
    n : int
        Points; the slider has the places 5, 10, 20, 50, 100, 200, 500, 1000 and 2000.
    seed : int
        Of the points, 0 to 20.

    Raises
    ------
    traitlets.TraitError
        For a value outside these ranges.
    """

    _esm = _assets.script("kinkdemo")
    _css = _assets.styles()

    s = traitlets.Float(0.4, min=0.0, max=1.0).tag(sync=True)
    t = traitlets.Float(0.7, min=0.0, max=1.0).tag(sync=True)
    bandwidth = traitlets.Float(0.05, min=1e-4).tag(sync=True)
    n = traitlets.Int(50, min=1, max=100_000).tag(sync=True)
    seed = traitlets.Int(0, min=0, max=20).tag(sync=True)
