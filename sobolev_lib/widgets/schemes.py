"""The schemes of Table 1, one training step at a time."""

from __future__ import annotations

from dataclasses import asdict

import anywidget
import traitlets

from sobolev_lib.synthetic_gradients.schemes import KINDS, PHASES, SCHEMES
from sobolev_lib.widgets import _assets


class SchemeExplorer(anywidget.AnyWidget):
    """The diagram of one scheme, with what flows in one phase of a training step.

    It draws from `sobolev_lib.synthetic_gradients.schemes`, as the figure does.

    Parameters
    ----------
    scheme : str
        A key of `sobolev_lib.synthetic_gradients.schemes.SCHEMES`.
    phase : int
        1 to 5: forward pass, prediction, lower segment, true signal, module.

    Raises
    ------
    traitlets.TraitError
        For another scheme or phase.
    """

    _esm = _assets.script("schemes")
    _css = _assets.styles()

    schemes = traitlets.List([scheme.as_dict() for scheme in SCHEMES.values()]).tag(sync=True)
    kinds = traitlets.Dict({name: asdict(kind) for name, kind in KINDS.items()}).tag(sync=True)
    phases = traitlets.List(list(PHASES)).tag(sync=True)
    scheme = traitlets.Enum(list(SCHEMES), "sobolev").tag(sync=True)
    phase = traitlets.Int(1, min=1, max=len(PHASES)).tag(sync=True)
