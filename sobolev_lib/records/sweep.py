"""Run what a ledger lacks: here, in local processes or on a Dask cluster, and enter the records.

An experiment hands in its jobs, and each job the work that returns metrics.  What is still to run,
where, progress, stopping in time, Ctrl-C, and the record with its provenance are decided here, once
for all experiments.  A sweep that is stopped loses nothing: what is finished is in the ledger, what
is not has been told to keep its state, and the same sweep goes on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from sobolev_lib.records import ledger

Tick = Callable[[int], bool]
"""What work calls now and then with the steps done so far; True asks it to keep its state and stop.
"""


@dataclass(frozen=True)
class Run:
    """What a record will be about: its identity, and how it differs from the paper."""

    config: dict[str, Any]
    seed: int
    scale: str
    deviations: Sequence[str] = ()

    @property
    def key(self) -> str:
        """Identity, as :attr:`.ledger.Record.key`."""
        return ledger.key(self.config, self.scale, self.seed)


@dataclass(frozen=True)
class Result:
    """What work returns for a run: metrics, wall seconds, and deviations known afterwards only."""

    metrics: dict[str, Any]
    seconds: float = 0.0
    deviations: Sequence[str] = ()


@dataclass(frozen=True)
class Job:
    """Runs that are done together, and the work that does them.

    Parameters
    ----------
    runs : sequence of Run
        One a record.  A job is done if one of them is not in the ledger.
    work : callable
        Takes a :data:`Tick`; returns a :class:`Result` for each run, or None if it was stopped and
        has kept its state.  With an executor it has to survive pickling: a function of a module,
        or :func:`functools.partial` of one.
    steps : int
        Length on the progress bar, in the units of the tick.
    device : str
        Where it runs, for the record.
    libraries : tuple of str
        Packages beside torch and numpy whose version can change the numbers.
    states : sequence of path
        Files that are not needed any more once the records are entered.
    """

    runs: Sequence[Run]
    work: Callable[[Tick], Sequence[Result] | None]
    steps: int = 1
    device: str = "cpu"
    libraries: tuple[str, ...] = ()
    states: Sequence[Path] = ()


def sweep(
    experiment: str,
    jobs: Sequence[Job],
    book: ledger.Ledger | None = None,
    executor: Executor | None = None,
    quiet: bool = False,
    seconds: float | None = None,
    enter: bool = True,
) -> int:
    """Do every job that has a run which the ledger lacks; return how many records were entered.

    A record is entered as soon as it is there.

    Parameters
    ----------
    jobs : sequence of Job
        In the order in which they are done.
    book : Ledger, optional
        The experiment's in the book's data unless given.  Only this process writes it.
    executor : concurrent.futures.Executor, optional
        Runs the jobs (:func:`workers`); in this process, one after the other, unless given.
    seconds : float, optional
        Ask the work to stop after that time.
    enter : bool
        Write the records; False in all but one of several processes that share each job.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, once the work in hand has kept its state and what is finished is entered.
    """
    for job in jobs:
        ledger.provenance(job.libraries)  # cached now: the checkout may move on while this runs
    book = book or ledger.Ledger(experiment)
    done = book.keys()
    todo = [job for job in jobs if any(run.key not in done for run in job.runs)]
    deadline = None if seconds is None else time.time() + seconds
    entered = 0
    with (
        interruptible() as interrupted,
        tqdm(
            total=sum(job.steps for job in todo), unit="step", unit_scale=True, disable=quiet,
            smoothing=0.05,
        ) as bar,
    ):  # fmt: skip
        for job, records in _each(experiment, todo, executor, deadline, bar):
            if records and enter:
                entered += book.append(records)
                for path in job.states:
                    path.unlink(missing_ok=True)
        if interrupted.is_set():
            raise KeyboardInterrupt
    return entered


def perform(
    experiment: str,
    job: Job,
    deadline: float | None = None,
    report: Callable[[int], object] | None = None,
) -> list[ledger.Record]:
    """Do one job where we are; its records with their provenance, none if it was stopped.

    After ``deadline`` (of ``time.time()``) the work is asked to stop; ``report`` is told the steps
    done so far.
    """

    def over() -> bool:
        return _stop.is_set() or (deadline is not None and time.time() > deadline)

    def tick(steps: int) -> bool:
        if report:
            report(steps)
        return over()

    made = dict(ledger.provenance(job.libraries))
    results = None if over() else job.work(tick)
    if results is None:
        return []
    made["device"] = ledger.device_name(job.device)
    made["peak_memory"] = ledger.peak_memory(job.device)
    return [
        ledger.Record(
            experiment, run.config, run.seed, result.metrics, run.scale,
            [*run.deviations, *result.deviations], seconds=round(result.seconds, 2), **made,
        )
        for run, result in zip(job.runs, results, strict=True)
    ]  # fmt: skip


def _each(
    experiment: str,
    todo: Sequence[Job],
    executor: Executor | None,
    deadline: float | None,
    bar: Any,
) -> Iterator[tuple[Job, list[ledger.Record]]]:
    """Jobs with their records, in the order in which they end."""
    if executor is None:
        for job in todo:
            yield job, perform(experiment, job, deadline, partial(_move, bar, bar.n))
        return
    waiting = {executor.submit(perform, experiment, job, deadline): job for job in todo}
    failed: list[Future[list[ledger.Record]]] = []
    for future in as_completed(waiting):
        if _stop.is_set():
            for other in waiting:
                other.cancel()
        if future.cancelled():
            continue
        if future.exception():
            failed.append(future)  # the others' records are entered first
            continue
        bar.update(waiting[future].steps)
        yield waiting[future], future.result()
    if failed:
        failed[0].result()


def _move(bar: Any, first: int, steps: int) -> None:
    """Show what a job that began at ``first`` has done; a resumed one begins with some steps."""
    bar.update(first + steps - bar.n)


_stop = threading.Event()


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Let the first Ctrl-C ask the work to stop, and only the second one break it off.

    Nothing is changed outside the main thread, where Python takes no signals.
    """
    _stop.clear()
    if threading.current_thread() is not threading.main_thread():
        yield _stop
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: Any) -> None:
        if _stop.is_set():
            raise KeyboardInterrupt
        _stop.set()

    signal.signal(signal.SIGINT, ask)
    try:
        yield _stop
    finally:
        signal.signal(signal.SIGINT, before)


def workers(
    count: int = 1, scheduler: str | None = None
) -> AbstractContextManager[Executor | None]:
    """Workers of the Dask scheduler at that address, ``count`` local processes, or None: this one.

    Raises
    ------
    ImportError
        If a scheduler is named and Dask is not installed.
    """
    if scheduler:
        try:
            from dask.distributed import Client
        except ImportError as error:
            raise ImportError(
                'a scheduler needs Dask: pip install "sobolev-lib[scheduler]"'
            ) from error
        return Client(scheduler).get_executor()  # type: ignore[no-any-return]
    if count == 1:
        return nullcontext()
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_as_worker)


def _as_worker() -> None:
    """One thread; a Ctrl-C in the terminal reaches every worker too and asks it to stop."""

    def ask(number: int, frame: Any) -> None:
        if _stop.is_set():
            os._exit(130)
        _stop.set()

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, ask)
