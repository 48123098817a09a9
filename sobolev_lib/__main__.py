"""Command line: ``python -m sobolev_lib EXPERIMENT --scale small|paper --device ...``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_context
from pathlib import Path

import torch

from sobolev_lib import functions, ledger, regression

SMALL_STEPS = 300


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one experiment; return the exit status."""
    options = _parser().parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(
            "--device is cuda, but PyTorch sees no CUDA device; use --device cpu", file=sys.stderr
        )
        return 2
    try:
        entered = _regression(options)
    except (ValueError, ledger.LedgerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{entered} records entered in {ledger.Ledger(options.experiment, options.ledger).path}")
    return 0


def _regression(options: argparse.Namespace) -> int:
    changes = {
        name: getattr(options, name) for name in ("steps", "batch") if getattr(options, name)
    }
    if options.scale == "small":
        changes = {"steps": SMALL_STEPS, **changes}
    chosen = [
        setting
        for arm in options.arms
        for setting in regression.settings(
            arm, options.sizes, options.functions, options.methods, **changes
        )
    ]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    book = ledger.Ledger(regression.EXPERIMENT, options.ledger)
    with _executor(options) as executor:
        return regression.sweep(
            chosen,
            seeds,
            book,
            options.device,
            options.states,
            executor,
            options.quiet,
            options.save_every,
        )


def _executor(options: argparse.Namespace) -> AbstractContextManager[Executor | None]:
    """Local processes, a Dask cluster's workers, or none: this process."""
    if options.scheduler:
        from dask.distributed import Client

        return Client(options.scheduler).get_executor()  # type: ignore[no-any-return]
    if options.workers > 1:
        return ProcessPoolExecutor(
            options.workers,
            mp_context=get_context("spawn"),
            initializer=torch.set_num_threads,
            initargs=(1,),
        )
    return nullcontext()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m sobolev_lib", description=__doc__)
    parser.add_argument("experiment", choices=[regression.EXPERIMENT])
    parser.add_argument(
        "--scale",
        choices=ledger.SCALES,
        default="small",
        help="small: seconds; paper: the paper's setting",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--arms",
        nargs="+",
        default=["paper"],
        choices=list(regression.ARMS),
        metavar="ARM",
        help=f"variants: {', '.join(regression.ARMS)}",
    )
    parser.add_argument("--functions", nargs="+", default=list(functions.FUNCTIONS), metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=list(regression.METHODS), metavar="METHOD")
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=[20, 100],
        metavar="N",
        help="training points (default: 20 100)",
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="number of seeds (default: %(default)s)"
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of the arm's (or of the small scale's)")
    parser.add_argument("--batch", type=int, help="instead of the arm's")
    parser.add_argument(
        "--workers", type=int, default=1, help="local processes (default: %(default)s)"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler that runs the jobs")
    parser.add_argument("--ledger", type=Path, help="folder of the ledger (default: data/ledger)")
    parser.add_argument(
        "--states",
        type=Path,
        default=_states(),
        help="folder of resumable states (default: %(default)s)",
    )
    parser.add_argument(
        "--save-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="between two saved states (default: 60)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _states() -> Path:
    return Path(os.environ.get("SOBOLEV_STATES", ledger.default_folder().parent / "states"))


if __name__ == "__main__":
    raise SystemExit(main())
