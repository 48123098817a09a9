"""Figures of the book: one function per figure, one visual language for all of them.

Only the style is imported here, so that ``from sobolev_lib.figures import COLOURS`` needs
matplotlib and nothing heavier.  Import the module of a figure by its name, for instance
``sobolev_lib.regression.landscapes``.
"""

from sobolev_lib.figures import style
from sobolev_lib.figures.style import COLOURS, LABELS, TEXT_COLOURS, use_style

__all__ = ["COLOURS", "LABELS", "TEXT_COLOURS", "style", "use_style"]
