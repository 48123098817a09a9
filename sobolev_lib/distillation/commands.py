"""The steps from a game to Fig. 4, one command each."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sobolev_lib import ledger

from .games import GAMES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; return the exit status."""
    parser = argparse.ArgumentParser("python -m sobolev_lib.distillation", description=__doc__)
    steps = parser.add_subparsers(required=True, metavar="STEP")
    add(steps)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)  # a training writes its state and ends
    try:
        print(options.act(options))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the state", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def add(steps: Any) -> None:
    """Add the steps to a command line's subparsers."""
    expert = steps.add_parser("expert", help="train a policy on the console's memory")
    _add_training(expert)
    expert.set_defaults(act=_expert)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--game", choices=list(GAMES), required=True)
    parser.add_argument("--hours", type=float, default=0.5, help="time limit of this call")
    parser.add_argument("--until", type=int, help="decisions in all after which to stop")
    parser.add_argument("--planned", type=int, help="decisions over which the rate falls")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--states", type=Path, default=ledger.default_folder().parent / "states")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _expert(options: argparse.Namespace) -> str:
    from . import experts, ppo

    changes = {"planned": options.planned} if options.planned else {}
    training = experts.trainer(ppo.Settings(options.game, options.seed, **changes))
    path = options.states / f"expert-{options.game}-{options.seed}.safetensors"
    ppo.train(training, path, options.hours, options.until, quiet=options.quiet)
    return f"{options.game}: {training.steps} decisions, state in {path}"
