"""Regression on seven benchmark functions, values only against Sobolev: section 4.1, Fig. 2.

:mod:`.arms` holds the settings, :mod:`.training` is the experiment, :mod:`.kriging` a rival,
:mod:`.grids` what the trained networks look like, :mod:`.results` reads the records, :mod:`.claims`
puts the paper's sentences beside them, :mod:`.signal` measures the functions, :mod:`.figures` and
:mod:`.landscapes` draw.
"""
