"""Put together the JavaScript and the style sheet of a widget.

The page has to work with no server, so a widget's module imports nothing: what the widgets share is
put before each widget's own text.
"""

from __future__ import annotations

import json
from pathlib import Path

from sobolev_lib.figures.style import COLOURS, LABELS

_FOLDER = Path(__file__).resolve().parent


def script(*names: str) -> str:
    """Return one self-contained ECMAScript module made of the files ``NAME.js``, in this order."""
    common = (_FOLDER / "common.js").read_text(encoding="utf-8")
    for mark, table in (("__COLOURS__", COLOURS), ("__LABELS__", LABELS)):
        common = common.replace(mark, json.dumps(table))
    own = [(_FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in names]
    return "\n".join([common, *own])


def styles() -> str:
    """Return the style sheet that all widgets share."""
    return (_FOLDER / "common.css").read_text(encoding="utf-8")
