"""Two networks trained in the reader's browser: on values only, and on values and slopes."""

from __future__ import annotations

import anywidget
import traitlets

from sobolev_lib.widgets import _assets


class SobolevFit1D(anywidget.AnyWidget):
    """One-dimensional Sobolev training that runs on the page itself, with no kernel.

    Two networks 1-H-H-1 start from the same weights and see the same points.  One minimises the
    mean of ``(m - y)**2``, the other that of ``(m - y)**2 + weight * (m' - y')**2``, the paper's
    Eq. 1 to first order; both by full-batch Adam, whose rate falls to zero along a cosine.  The
    reader chooses the first five traits below; each can also be set from Python.

    Parameters
    ----------
    target : {"smooth", "kinked", "bumpy"}
        Function to fit on [-1, 1].
    n : int
        Training points, 3 to 20, drawn uniformly.
    weight : float
        Weight of the derivative term, at least 0; 0 makes both networks equal.  The slider has the
        places 0, 0.01, 0.03, 0.1, 0.3, 1, 3 and 10.
    activation : {"relu", "kernel", "tanh"}
        "kernel" is ReLU whose step has a logistic kernel as its derivative (see
        `sobolev_lib.kinks`), so that the derivative term can move the kinks.
    seed : int
        Of the points and of the initial weights, 0 to 20.
    hidden : int
        H, units in each of the two hidden layers.
    steps : int
        Length of the training.
    learning_rate : float
        First rate of Adam.

    Raises
    ------
    traitlets.TraitError
        For a value outside these choices.
    """

    _esm = _assets.script("fit1d")
    _css = _assets.styles()

    target = traitlets.Enum(["smooth", "kinked", "bumpy"], "smooth").tag(sync=True)
    n = traitlets.Int(8, min=3, max=20).tag(sync=True)
    weight = traitlets.Float(1.0, min=0.0).tag(sync=True)
    activation = traitlets.Enum(["relu", "kernel", "tanh"], "tanh").tag(sync=True)
    seed = traitlets.Int(0, min=0, max=20).tag(sync=True)
    hidden = traitlets.Int(24, min=1, max=128).tag(sync=True)
    steps = traitlets.Int(3000, min=1).tag(sync=True)
    learning_rate = traitlets.Float(0.01, min=0.0).tag(sync=True)
