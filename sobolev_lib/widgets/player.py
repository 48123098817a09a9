"""A policy at play: frames, where it looks, what it would do."""

from __future__ import annotations

import anywidget
import traitlets

from sobolev_lib.widgets import _assets


class Player(anywidget.AnyWidget):
    """Clips of games, frame by frame, with the policy's probabilities over time.

    Parameters
    ----------
    clips : list of dict
        As :func:`sobolev_lib.distillation.scenes.clip` makes them: ``title``, ``names``,
        ``probabilities``, ``played``, ``columns``, ``side``, ``frames``, ``looks``.
    clip : int
        The one that is shown, from 0.
    frame : int
        From 0.
    looks : bool
        Show where the policy looks.

    Raises
    ------
    traitlets.TraitError
        If there is no clip, or a clip lacks an entry.
    """

    _esm = _assets.script("player")
    _css = _assets.styles()

    clips = traitlets.List(traitlets.Dict(), minlen=1).tag(sync=True)
    clip = traitlets.Int(0, min=0).tag(sync=True)
    frame = traitlets.Int(0, min=0).tag(sync=True)
    looks = traitlets.Bool(True).tag(sync=True)

    ENTRIES = ("title", "names", "probabilities", "played", "columns", "side", "frames", "looks")

    @traitlets.validate("clips")
    def _whole(self, proposal: traitlets.Bunch) -> list[dict]:
        for one in proposal["value"]:
            missing = [name for name in self.ENTRIES if name not in one]
            if missing:
                raise traitlets.TraitError(f"a clip of 'clips' lacks {', '.join(missing)}")
        return proposal["value"]
