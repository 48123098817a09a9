"""Runs of the experiment behind Table 1 as jobs of a sweep, and those of the instruments."""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from sobolev_lib.records import ledger
from sobolev_lib.records import sweep as runner
from sobolev_lib.records.sweep import Job, Result, Run, Tick
from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients import hogwild
from sobolev_lib.synthetic_gradients.settings import EXPERIMENT, Setting, config
from sobolev_lib.synthetic_gradients.training import Training, state_path


def sweep(
    chosen: Sequence[Setting],
    seeds: Sequence[int],
    book: ledger.Ledger | None = None,
    device: str = "cpu",
    folder: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    quiet: bool = False,
    save_every: float = 60.0,
    compiled: bool = False,
    seconds: float | None = None,
) -> int:
    """Train every setting for every seed, seed by seed; enter the records that the ledger lacks.

    Device, folder, ``save_every`` and ``compiled`` are those of :class:`Training`, the rest of
    :func:`sobolev_lib.records.sweep.sweep`.  Returned is the number of records entered.
    """
    rank, processes = hogwild.world()
    # Several processes have to agree when time is over, or some would wait for the others forever.
    shared = seconds is not None and processes > 1
    deadline = time.time() + seconds if seconds is not None and shared else None
    options = {"device": device, "folder": folder, "save_every": save_every, "compiled": compiled}
    loaded: dict[tuple[str, int], images.ImageData] = {}  # shared by the runs of one process
    jobs = [
        job(
            setting, seed, functools.partial(_work, setting, seed, loaded, options, deadline),
            config(setting), device, folder,
        )
        for seed, setting in itertools.product(seeds, chosen)
    ]  # fmt: skip
    return runner.sweep(
        EXPERIMENT, jobs, book, executor, quiet or bool(rank), None if shared else seconds, not rank
    )


def _work(
    setting: Setting,
    seed: int,
    loaded: dict[tuple[str, int], images.ImageData],
    options: dict[str, Any],
    deadline: float | None,
    tick: Tick,
) -> list[Result] | None:
    """Train one run; nothing if it was stopped, with its state saved."""

    def over(done: int) -> bool:
        return hogwild.agree(tick(done) or (deadline is not None and time.time() > deadline))

    if over(0):
        return None
    where = (setting.data, setting.image_size)
    if where not in loaded:
        loaded[where] = images.load(*where)
    run = Training(setting, seed, loaded[where], **options)
    while run.step < run.steps:
        if over(10 * run.step // run.per_epoch):
            run.save()
            return None
        run.run(until=run.step + max(1, run.per_epoch // 10), keep=False)
    return results_of(run, run.metrics())


def results_of(run: Training, metrics: dict[str, Any]) -> list[Result]:
    """What a run leaves, with the deviations that only its data can tell."""
    told = run.setting.deviations()
    more = [note for note in run.setting.deviations(run.data.source) if note not in told]
    return [Result(metrics, run.seconds, more)]


def job(
    setting: Setting,
    seed: int,
    work: Callable[[Tick], Sequence[Result] | None],
    config: dict[str, Any],
    device: str = "cpu",
    folder: str | os.PathLike[str] | None = None,
) -> Job:
    """One run as :mod:`sobolev_lib.records.sweep` wants it, ten steps of its bar an epoch."""
    return Job(
        [Run(config, seed, setting.scale, setting.deviations())],
        work,
        10 * setting.epochs,
        device,
        ("scikit-learn",) if setting.data == "digits" else (),
        [state_path(setting, seed, folder)] if folder else [],
    )


def watching(
    work: Callable[..., list[Result]],
    chosen: Sequence[Setting],
    seeds: Sequence[int],
    asked: dict[str, Any],
) -> list[Job]:
    """Jobs of an instrument, which looks at runs, for a sweep.

    ``work`` takes setting, seed, the values of ``asked``, which the records carry, and a tick.
    """
    return [
        job(
            setting, seed, functools.partial(work, setting, seed, *asked.values()),
            config(setting) | asked,
        )
        for seed, setting in itertools.product(seeds, chosen)
    ]  # fmt: skip
