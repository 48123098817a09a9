"""Synthetic gradients: train the parts of a network without waiting for the true gradient.

Section 4.3 and SM 4 of the paper.  :func:`decouple` cuts a network and puts a module at every
split.  :mod:`.modules` holds the modules, :mod:`.networks` the paper's networks, :mod:`.data` and
:mod:`.prepare` the images, :mod:`.training` the experiment behind Table 1, :mod:`.jobs` its runs
for a sweep, :mod:`.hogwild` several processes, :mod:`.probing` and :mod:`.fidelity` instruments
that look at modules while they train.
"""

from sobolev_lib.synthetic_gradients.decoupling import MODES, Decoupled, Step, cut, decouple
from sobolev_lib.synthetic_gradients.modules import SG_MODES, Objective, Prediction

__all__ = ["MODES", "SG_MODES", "Decoupled", "Objective", "Prediction", "Step", "cut", "decouple"]
