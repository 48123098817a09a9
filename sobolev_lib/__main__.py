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

from sobolev_lib import functions
from sobolev_lib.records import ledger
from sobolev_lib.regression import training as regression
from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients import hogwild, probing, throughput, training

SMALL_STEPS = 300


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one experiment; return the exit status."""
    options = _parser().parse_args(arguments)
    device = getattr(options, "device", "cpu")
    if device.split(":")[0] not in ("cpu", "cuda"):
        print(f"--device is {device!r}; it must be cpu, cuda or cuda:K", file=sys.stderr)
        return 2
    if device.startswith("cuda") and not torch.cuda.is_available():
        print(
            "--device is cuda, but PyTorch sees no CUDA device; use --device cpu", file=sys.stderr
        )
        return 2
    try:
        said = options.act(options)
    except (ValueError, RuntimeError, OSError) as error:  # LedgerError and DataError among them
        print(f"error: {error}", file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks
        print(said)
    return 0


def _entered(count: int, experiment: str, folder: Path | None) -> str:
    return f"{count} records entered in {ledger.Ledger(experiment, folder).path}"


def _regression(options: argparse.Namespace) -> str:
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
        entered = regression.sweep(
            chosen,
            seeds,
            book,
            options.device,
            options.states,
            executor,
            options.quiet,
            options.save_every,
        )
    return _entered(entered, regression.EXPERIMENT, options.ledger)


def _synthetic_gradients(options: argparse.Namespace) -> str:
    sizes = ("batch", "epochs", "width", "image_size", "train_images", "precision")
    names = (*sizes, "learning_rate", "module_rate")
    if options.seconds is not None and (options.workers > 1 or options.scheduler):
        raise ValueError("--seconds needs one process: leave out --workers and --scheduler")
    changes = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    if options.hogwild:
        changes["hogwild"] = True
    joined = hogwild.start(options.device)
    changes["workers"] = hogwild.world()[1]
    arm = options.arm or ("digits" if options.scale == "small" else "cifar10")
    try:
        chosen = training.settings(arm, options.rows, **changes)
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        with _executor(options) as executor:
            entered = training.sweep(
                chosen,
                seeds,
                ledger.Ledger(training.EXPERIMENT, options.ledger),
                options.device,
                options.states,
                executor,
                options.quiet,
                options.save_every,
                options.compile,
                options.seconds,
            )
    finally:
        if joined:
            torch.distributed.destroy_process_group()
    return _entered(entered, training.EXPERIMENT, options.ledger)


def _throughput(options: argparse.Namespace) -> str:
    changes = {n: getattr(options, n) for n in ("batch", "precision") if getattr(options, n)}
    records = throughput.measure(
        training.settings(options.arm or "cifar10_reduced", options.rows, **changes),
        options.seconds or 5.0,
        options.device,
        options.compile,
    )
    book = ledger.Ledger(throughput.EXPERIMENT, options.ledger)
    return _entered(book.append(records), throughput.EXPERIMENT, options.ledger)


def _probes(options: argparse.Namespace) -> str:
    book = ledger.Ledger(probing.EXPERIMENT, options.ledger)
    chosen = training.settings(options.arm or "digits", options.rows)
    entered = probing.sweep(chosen, range(options.seeds), book, quiet=options.quiet)
    return _entered(entered, probing.EXPERIMENT, options.ledger)


def _images(options: argparse.Namespace) -> str:
    if options.source is None:
        if options.name != "cifar10":
            raise ValueError(f"--source is needed: the folder that holds {options.name}")
        return str(images.prepare_cifar10(options.size, options.archive, options.folder))
    return str(
        images.prepare_folder(
            options.source, options.name, options.size, options.folder, options.workers
        )
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
    commands = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    _add_regression(commands.add_parser(regression.EXPERIMENT, help="section 4.1"))
    _add_synthetic_gradients(commands.add_parser(training.EXPERIMENT, help="section 4.3"))
    _add_throughput(commands.add_parser(throughput.EXPERIMENT, help="images per second, 4.3"))
    _add_probes(commands.add_parser(probing.EXPERIMENT, help="what modules learn, 4.3"))
    _add_images(commands.add_parser("images", help="prepare image data for section 4.3"))
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scale",
        choices=ledger.SCALES,
        default="small",
        help="small: seconds; paper: the paper's setting",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=_positive, default=1, help="number of seeds (default: %(default)s)"
    )
    parser.add_argument("--first-seed", type=_natural, default=0)
    parser.add_argument("--batch", type=_positive, help="instead of the arm's")
    parser.add_argument(
        "--workers", type=_positive, default=1, help="local processes (default: %(default)s)"
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


def _add_regression(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
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
    parser.add_argument("--steps", type=int, help="instead of the arm's (or of the small scale's)")
    parser.set_defaults(act=_regression)


def _add_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arm",
        choices=list(training.ARMS),
        metavar="ARM",
        help=f"data, network and schedule: {', '.join(training.ARMS)} "
        "(default: digits at the small scale, cifar10 at the paper's)",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        default=list(training.MAIN_ROWS),
        choices=list(training.ROWS),
        metavar="ROW",
        help=f"what is compared: {', '.join(training.ROWS)} (default: the first seven)",
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="instead of the arm's")
    parser.add_argument("--compile", action="store_true", help="torch.compile where possible")


def _add_synthetic_gradients(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    _add_rows(parser)
    for name in ("epochs", "width", "image-size", "train-images"):
        parser.add_argument(f"--{name}", type=int, help="instead of the arm's")
    parser.add_argument("--learning-rate", type=float, help="SGD's, instead of the arm's")
    parser.add_argument("--module-rate", type=float, help="Adam's, instead of the arm's")
    parser.add_argument(
        "--hogwild", action="store_true", help="modules in shared memory (with torchrun, CPU)"
    )
    parser.add_argument(
        "--seconds", type=float, help="stop after that time; the same command goes on"
    )
    parser.set_defaults(act=_synthetic_gradients)


def _add_throughput(parser: argparse.ArgumentParser) -> None:
    _add_rows(parser)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--batch", type=int, help="instead of the arm's")
    parser.add_argument("--seconds", type=float, help="for each row and round (default: 5)")
    parser.add_argument("--ledger", type=Path, help="folder of the ledger (default: data/ledger)")
    parser.set_defaults(act=_throughput)


def _add_probes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arm", choices=list(training.ARMS), metavar="ARM", help="default: digits")
    rows = [row for row, changes in training.ROWS.items() if changes["module"] in probing.PROBED]
    parser.add_argument("--rows", nargs="+", choices=rows, default=["critic"], metavar="ROW")
    parser.add_argument("--seeds", type=_positive, default=1, help="number of seeds (default: 1)")
    parser.add_argument("--ledger", type=Path, help="folder of the ledger (default: data/ledger)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(act=_probes)


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="cifar10, or a name for the folder's images")
    parser.add_argument("--size", type=int, default=32, help="pixels (default: %(default)s)")
    parser.add_argument("--source", type=Path, help="folder with train/CLASS/*.jpg and val/CLASS")
    parser.add_argument("--archive", type=Path, help="cifar-10-binary.tar.gz (default: downloaded)")
    parser.add_argument("--folder", type=Path, help="where to write (default: data/images)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.set_defaults(act=_images)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def _natural(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return int(text)


def _states() -> Path:
    return Path(os.environ.get("SOBOLEV_STATES", ledger.default_folder().parent / "states"))


if __name__ == "__main__":
    raise SystemExit(main())
