"""Table 1 of the paper beside ours: its numbers, our records, and verdicts on what it claims.

The paper's runs and ours are different experiments where scales differ, and the table says so in
every row.  A number of ours comes from the ledger ``synthetic_gradients`` only; a verdict is
computed from paired differences over seeds, never typed.  :mod:`.table1.paper` holds the paper's
numbers, :mod:`.table1.runs` ours, :mod:`.table1.verdicts` the claims, :mod:`.table1.alignment`
what the cosine to the true gradient has to do with accuracy, :mod:`.table1.pages` the tables.
"""

from sobolev_lib.synthetic_gradients.alignment import (
    conclusions,
    findings_on_alignment,
    rank_correlation,
)
from sobolev_lib.synthetic_gradients.claims import claims_on, deviation_ratio, tally
from sobolev_lib.synthetic_gradients.pages import claims_table, table
from sobolev_lib.synthetic_gradients.paper import BLOCKS, METRICS, NAMES, Block, Cell
from sobolev_lib.synthetic_gradients.results import (
    COSINES,
    Group,
    answering,
    command,
    compare,
    cosine_gain,
    group,
    groups,
    measured_cosine,
    read,
    shown,
    spread,
)

__all__ = [
    "BLOCKS", "COSINES", "METRICS", "NAMES", "Block", "Cell", "Group", "answering", "claims_on",
    "claims_table", "command", "compare", "conclusions", "cosine_gain", "deviation_ratio",
    "findings_on_alignment", "group", "groups", "measured_cosine", "rank_correlation", "read",
    "shown", "spread", "table", "tally",
]  # fmt: skip
