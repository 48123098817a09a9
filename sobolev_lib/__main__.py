"""Run an experiment: ``python -m sobolev_lib EXPERIMENT --help``.

Records go to a ledger of your own, out/ledger, unless you say --book.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from sobolev_lib import functions
from sobolev_lib.cost import benchmark
from sobolev_lib.cost.ways import WAYS, Size
from sobolev_lib.records import options as given
from sobolev_lib.records.ledger import Ledger
from sobolev_lib.records.sweep import Job, sweep, workers
from sobolev_lib.regression import arms, grids, kriging, rivals, rounding
from sobolev_lib.regression import training as regression
from sobolev_lib.synthetic_gradients import (
    fidelity,
    hogwild,
    jobs,
    prepare,
    probing,
    settings,
    throughput,
)
from sobolev_lib.synthetic_gradients.modules import PREDICTING
from sobolev_lib.synthetic_gradients.settings import ROW_KEYS

SMALL_STEPS = 300
TIMED, COUNTED = "cifar10_reduced", "imagenet_3"  # the default arms of two commands
INSTRUMENTS = {probing.EXPERIMENT: probing, fidelity.EXPERIMENT: fidelity}
SKIPPED = {"arm", "workers", *ROW_KEYS}  # chosen in other ways


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one experiment; return the exit status."""
    return given.run(_parser().parse_args(arguments))


def _entered(count: int, book: Ledger) -> str:
    return f"{count} records entered in {book.path}"


def _swept(
    options: argparse.Namespace, experiment: str, jobs: Callable[[Sequence[int]], list[Job]]
) -> str:
    """Do the jobs of the seeds where the options say, with the workers that they ask for."""
    places = given.Places.of(options, experiment)
    with workers(options.workers, options.scheduler) as executor:
        entered = sweep(
            experiment, jobs(places.seeds), places.book, executor, options.quiet, options.seconds
        )
    return _entered(entered, places.book)


def _regression(options: argparse.Namespace) -> str:
    changes = given.changes(options, regression.Setting, arms.IDENTITY)
    if options.scale == "small":
        changes = {"steps": SMALL_STEPS, **changes}
    chosen = [
        setting
        for arm in options.arms
        for setting in regression.settings(
            arm, options.sizes, options.functions, options.methods, **changes
        )
    ]
    how = (options.scale, options.device, options.states, options.save_every)
    return _swept(
        options, regression.EXPERIMENT, lambda seeds: regression.jobs(chosen, seeds, *how)
    )


def _kriging(options: argparse.Namespace) -> str:
    chosen = (options.sizes, options.functions, options.methods)
    return _swept(options, regression.EXPERIMENT, lambda seeds: kriging.jobs(seeds, *chosen))


def _rivals(options: argparse.Namespace) -> str:
    chosen = (options.functions, options.models)
    return _swept(options, rivals.EXPERIMENT, lambda seeds: rivals.jobs(seeds, *chosen))


def _rounding(options: argparse.Namespace) -> str:
    names = options.functions
    return _swept(options, rounding.EXPERIMENT, lambda seeds: rounding.jobs(seeds, names))


def _grids(options: argparse.Namespace) -> str:
    return "\n".join(map(str, grids.collect(options.states, options.folder)))


def _cost(options: argparse.Namespace) -> str:
    places = given.Places.of(options, benchmark.EXPERIMENT)
    entered = benchmark.sweep(
        options.sizes, options.ways, options.threads, options.seconds, options.device,
        options.clock, places.book, options.quiet,
    )  # fmt: skip
    return f"{benchmark.table(places.book)}\n{_entered(entered, places.book)}"


def _synthetic_gradients(options: argparse.Namespace) -> str:
    changes = given.changes(options, settings.Setting, SKIPPED)
    joined = hogwild.start(options.device)
    changes["workers"] = hogwild.world()[1]
    arm = options.arm or ("digits" if options.scale == "small" else "cifar10")
    try:
        chosen = settings.settings(arm, options.rows, **changes)
        places = given.Places.of(options, settings.EXPERIMENT)
        with workers(options.workers, options.scheduler) as executor:
            entered = jobs.sweep(
                chosen, places.seeds, places.book, options.device, options.states, executor,
                options.quiet, options.save_every, options.compile, options.seconds,
            )  # fmt: skip
        return _entered(entered, places.book)
    finally:
        if joined:
            torch.distributed.destroy_process_group()


def _throughput(options: argparse.Namespace) -> str:
    changes = given.changes(options, settings.Setting, SKIPPED)
    records = throughput.measure(
        settings.settings(options.arm or TIMED, options.rows, **changes),
        options.seconds,
        options.device,
        options.compile,
    )
    book = given.Places.of(options, throughput.EXPERIMENT).book
    return _entered(book.append(records), book)


def _operations(options: argparse.Namespace) -> str:
    changes = given.changes(options, settings.Setting, SKIPPED)
    chosen = settings.settings(options.arm or COUNTED, options.rows, **changes)
    book = given.Places.of(options, throughput.OPERATIONS).book
    return _entered(book.append(throughput.count(chosen)), book)


def _watch(options: argparse.Namespace) -> str:
    places = given.Places.of(options, options.experiment)
    chosen = settings.settings(options.arm or "digits", options.rows)
    instrument = INSTRUMENTS[options.experiment]
    entered = sweep(
        options.experiment, instrument.jobs(chosen, places.seeds), places.book, quiet=options.quiet
    )
    return _entered(entered, places.book)


def _images(options: argparse.Namespace) -> str:
    if options.source is None:
        if options.name != "cifar10":
            raise ValueError(f"--source is needed: the folder that holds {options.name}")
        return str(prepare.cifar10(options.size, options.archive, options.folder))
    return str(
        prepare.folder(options.source, options.name, options.size, options.folder, options.workers)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m sobolev_lib", description=__doc__)
    commands = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    for name, (act, add, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        add(command)
        command.set_defaults(act=act)
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")


def _add_regression(parser: argparse.ArgumentParser) -> None:
    given.add_scale(parser)
    _add_device(parser)
    known = list(dict.fromkeys([*map(arms.family, arms.ARMS), *arms.ARMS]))
    parser.add_argument(
        "--arms", nargs="+", default=["paper"], choices=known, metavar="ARM",
        help=f"variants: {', '.join(known)}",
    )  # fmt: skip
    _add_problems(parser)
    given.add_fields(parser, regression.Setting, arms.IDENTITY)
    given.add_runs(parser)
    given.add_states(parser)


def _add_problems(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--functions", nargs="+", default=list(functions.FUNCTIONS), metavar="NAME")
    methods = list(regression.METHODS)
    add("--methods", nargs="+", choices=methods, default=methods, metavar="METHOD",
        help=", ".join(methods))  # fmt: skip
    add("--sizes", nargs="+", type=int, default=[20, 100], metavar="N", help="training points")


def _add_kriging(parser: argparse.ArgumentParser) -> None:
    _add_problems(parser)
    given.add_runs(parser)


def _add_rivals(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--functions", nargs="+", default=list(rivals.NAMES), metavar="NAME")
    known = list(rivals.MODELS)
    add("--models", nargs="+", choices=known, default=known, metavar="MODEL", help=", ".join(known))
    given.add_runs(parser)


def _add_rounding(parser: argparse.ArgumentParser) -> None:
    names = list(functions.FUNCTIONS)
    parser.add_argument("--functions", nargs="+", default=names, metavar="NAME")
    given.add_runs(parser)


def _add_grids(parser: argparse.ArgumentParser) -> None:
    given.add_states(parser)
    parser.add_argument("--folder", type=Path, help="where to write (default: data/regression)")


def _add_cost(parser: argparse.ArgumentParser) -> None:
    def pair(text: str) -> Size:
        members, n = text.split("x")
        return Size(int(members), int(n))

    _add_device(parser)
    names = list(WAYS)
    add = parser.add_argument
    add("--sizes", nargs="+", type=pair, default=list(benchmark.SIZES), metavar="ExN")
    add("--ways", nargs="+", choices=names, default=names, metavar="WAY", help=", ".join(names))
    add("--threads", nargs="+", type=given.positive, default=[1, 2])
    add("--seconds", type=given.duration, default=20.0, help="of measuring, for each size")
    add("--clock", choices=list(benchmark.CLOCKS), default="wall", help="cpu: computing time only")
    add("--quiet", action="store_true", help="no progress bar")
    given.add_ledger(parser)


def _add_rows(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--arm", choices=list(settings.ARMS), metavar="ARM",
        help=f"data, network and schedule: {', '.join(settings.ARMS)} (default: {default})",
    )  # fmt: skip
    parser.add_argument(
        "--rows", nargs="+", default=list(settings.MAIN_ROWS), choices=list(settings.ROWS),
        metavar="ROW",
        help=f"what is compared: {', '.join(settings.ROWS)} (default: the first seven)",
    )  # fmt: skip
    given.add_fields(parser, settings.Setting, SKIPPED)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compile", action="store_true", help="torch.compile where possible")
    _add_device(parser)


def _add_synthetic_gradients(parser: argparse.ArgumentParser) -> None:
    given.add_scale(parser)
    _add_rows(parser, "digits at the small scale, cifar10 at the paper's")
    _add_machine(parser)
    given.add_runs(parser)
    given.add_states(parser)


def _add_throughput(parser: argparse.ArgumentParser) -> None:
    _add_rows(parser, TIMED)
    _add_machine(parser)
    parser.add_argument(
        "--seconds", type=given.duration, default=5.0, help="for each row and round"
    )
    given.add_ledger(parser)


def _add_operations(parser: argparse.ArgumentParser) -> None:
    _add_rows(parser, COUNTED)
    given.add_ledger(parser)


def _add_watch(parser: argparse.ArgumentParser, modules: Sequence[str]) -> None:
    parser.add_argument("--arm", choices=list(settings.ARMS), metavar="ARM", help="default: digits")
    rows = [row for row, changes in settings.ROWS.items() if changes["module"] in modules]
    parser.add_argument("--rows", nargs="+", choices=rows, default=["critic"], metavar="ROW")
    given.add_seeds(parser)
    given.add_ledger(parser)


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="cifar10, or a name for the folder's images")
    parser.add_argument(
        "--size", type=given.positive, default=32, help="pixels (default: %(default)s)"
    )
    parser.add_argument("--source", type=Path, help="folder with train/CLASS/*.jpg and val/CLASS")
    parser.add_argument("--archive", type=Path, help="cifar-10-binary.tar.gz (default: downloaded)")
    parser.add_argument("--folder", type=Path, help="where to write (default: data/images)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")


Act = Callable[[argparse.Namespace], str]
Add = Callable[[argparse.ArgumentParser], None]
COMMANDS: dict[str, tuple[Act, Add, str]] = {
    regression.EXPERIMENT: (_regression, _add_regression, "networks of section 4.1"),
    "kriging": (_kriging, _add_kriging, "the baseline beside them"),
    rivals.EXPERIMENT: (_rivals, _add_rivals, "the regressor beside JENN and kriging"),
    rounding.EXPERIMENT: (
        _rounding, _add_rounding, "equal runs with this process's kernels (ATEN_CPU_CAPABILITY)"
    ),
    "grids": (_grids, _add_grids, "values and slopes of finished networks, for figures"),
    benchmark.EXPERIMENT: (_cost, _add_cost, "time of a training step"),
    settings.EXPERIMENT: (_synthetic_gradients, _add_synthetic_gradients, "section 4.3"),
    throughput.EXPERIMENT: (_throughput, _add_throughput, "images per second, 4.3"),
    throughput.OPERATIONS: (_operations, _add_operations, "floating-point operations, 4.3"),
    probing.EXPERIMENT: (
        _watch, partial(_add_watch, modules=probing.PROBED), "what SG modules learn, 4.3"
    ),
    fidelity.EXPERIMENT: (
        _watch, partial(_add_watch, modules=PREDICTING), "how well synthetic gradients point, 4.3"
    ),
    "images": (_images, _add_images, "prepare image data for section 4.3"),
}  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(main())
