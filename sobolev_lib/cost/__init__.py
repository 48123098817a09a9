"""What a Sobolev step costs: counted, and measured.

:mod:`.ways` holds the ways to take a step, :mod:`.benchmark` times them, :mod:`.results` reads the
records, :mod:`.figures` draws them.
"""

from sobolev_lib.cost.ways import products

__all__ = ["products"]
