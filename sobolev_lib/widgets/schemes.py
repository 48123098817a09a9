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

    schemes = traitlets.List(traitlets.Dict()).tag(sync=True)
    kinds = traitlets.Dict().tag(sync=True)
    phases = traitlets.List(traitlets.Unicode()).tag(sync=True)
    scheme = traitlets.Enum(list(SCHEMES), "sobolev").tag(sync=True)
    phase = traitlets.Int(1, min=1, max=len(PHASES)).tag(sync=True)

    @traitlets.default("schemes")
    def _all_schemes(self) -> list[dict]:
        return [scheme.as_dict() for scheme in SCHEMES.values()]

    @traitlets.default("kinds")
    def _all_kinds(self) -> dict[str, dict]:
        return {name: asdict(kind) for name, kind in KINDS.items()}

    @traitlets.default("phases")
    def _all_phases(self) -> list[str]:
        return list(PHASES)
