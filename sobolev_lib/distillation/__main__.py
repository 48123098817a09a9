"""Command line: ``python -m sobolev_lib.distillation expert --game breakout --hours 0.5``."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
