"""What a Sobolev step costs: counted, and measured.

:mod:`.ways` holds the ways to take a step, :mod:`.figures` the figures of the chapter.
"""

from sobolev_lib.cost.ways import measure, products

__all__ = ["measure", "products"]
