"""The set of hypotheses that agree with a few points: Fig. 2, left, to be dragged."""

from __future__ import annotations

import anywidget
import traitlets

from sobolev_lib.widgets import _assets


class HypothesisExplorer(anywidget.AnyWidget):
    """Points on [0, 3], and the members of a family that agree with their values and slopes.

    The families are linear in their p parameters, so each value and each slope is one linear
    equation.  The page counts the independent ones, draws some of the members that are left, and
    says whether there are infinitely many, exactly one or none.  Points are dragged by mouse, touch
    or arrow keys; they stay on a true function of the family unless the reader lets them go.

    Parameters
    ----------
    family : {"pieces", "joined", "polynomial"}
        Straight pieces on [0, 1), [1, 2), [2, 3], the paper's example (p = 6); the same, joined at
        1 and 2 (p = 4); polynomials (p = degree + 1).
    degree : int
        Of the polynomials, 0 to 6.
    n : int
        Points, 1 to 6.
    slopes : bool
        Whether slopes are known besides values.
    measured : bool
        Whether values and slopes are those of the true function.

    Raises
    ------
    traitlets.TraitError
        For a value outside these choices.
    """

    _esm = _assets.script("hypotheses")
    _css = _assets.styles()

    family = traitlets.Enum(["pieces", "joined", "polynomial"], "pieces").tag(sync=True)
    degree = traitlets.Int(3, min=0, max=6).tag(sync=True)
    n = traitlets.Int(3, min=1, max=6).tag(sync=True)
    slopes = traitlets.Bool(False).tag(sync=True)
    measured = traitlets.Bool(True).tag(sync=True)
