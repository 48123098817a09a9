"""Time, count and weigh the ways of :mod:`.ways`, side by side, and enter the records.

Ways are compared by the number of large matrix products (of B x H by H x H entries, where B points
meet layers of width H), by time and by memory, as ratios to a step on values alone of the same
stack.  Repetitions are interleaved, so that a ratio compares times of the same round; still, what
else the machine does is in the numbers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from sobolev_lib.checks import check_choice
from sobolev_lib.cost.ways import COMPILED, WAYS, Size, Way, peak_bytes, products, way
from sobolev_lib.records import ledger
from sobolev_lib.records import sweep as runner
from sobolev_lib.records.sweep import Job, Result, Run, Tick

EXPERIMENT = "cost"
BASE = "values"
SIZES = (Size(1, 100), Size(1, 4096), Size(28, 100), Size(8, 1024))


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}
"""Clocks: "cpu" counts what the calling thread computes, whatever else runs; one thread only."""


def measure(ways: dict[str, Way], seconds: float, clock: str = "wall") -> dict[str, list[float]]:
    """Time steps of the ways in turn, again and again: what else the machine does meets all.

    Parameters
    ----------
    ways : dict
        What to compare, by name.
    seconds : float
        About how long to measure, after two rounds to warm up; five rounds at least.
    clock : str
        A key of :data:`CLOCKS`.

    Raises
    ------
    ValueError
        If the clock is unknown, or "cpu" is asked for where more than one thread or a GPU computes.
    """
    check_choice("clock", clock, CLOCKS)
    if clock == "cpu" and (
        torch.get_num_threads() > 1 or any(w.device.type == "cuda" for w in ways.values())
    ):
        raise ValueError("clock is 'cpu', which sees one thread; use 'wall' for several or a GPU")
    for chosen in ways.values():
        for _ in range(2):
            chosen.step()
    found: dict[str, list[float]] = {name: [] for name in ways}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 5 or time.perf_counter() < end:
        for name, chosen in ways.items():
            found[name].append(_one(chosen, CLOCKS[clock]))
        rounds += 1
    return found


def _one(chosen: Way, clock: Callable[[], float]) -> float:
    def now() -> float:
        if chosen.device.type == "cuda":
            torch.cuda.synchronize()
        return clock()

    chosen.zero()
    start = now()
    chosen.gradient()
    chosen.update()
    return now() - start


def ratios(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Ratios to the base in the same round, for each way."""
    return {
        name: [t / b for t, b in zip(own, times[BASE], strict=True)] for name, own in times.items()
    }


def sweep(
    sizes: Sequence[Size] = SIZES,
    names: Sequence[str] = tuple(WAYS),
    threads: Sequence[int] = (1, 2),
    seconds: float = 20.0,
    device: str = "cpu",
    clock: str = "wall",
    book: ledger.Ledger | None = None,
    quiet: bool = False,
) -> int:
    """Measure what the ledger lacks; return how many records were entered.

    Parameters
    ----------
    sizes : sequence of Size
        Each is measured by itself, all ways in turn.
    names : sequence of str
        Keys of :data:`.ways.WAYS`; "values" is measured anyway.
    seconds : float
        Of measuring, for each size and number of threads.
    clock : str
        A key of :data:`CLOCKS`.
    book, quiet
        See :func:`sobolev_lib.records.sweep.sweep`.
    """
    names = [BASE, *(name for name in names if name != BASE)]
    before = torch.get_num_threads()
    jobs = [
        Job(
            [Run(_config(size, n, count, device, clock), 0, "paper", DEVIATIONS) for n in names],
            partial(compare, size, names, count, seconds, device, clock),
            device=device,
        )
        for count in threads
        for size in sizes
    ]
    try:
        return runner.sweep(EXPERIMENT, jobs, book, quiet=quiet)
    finally:
        torch.set_num_threads(before)


DEVIATIONS = ("Not in the paper: what a step costs.",)


def _config(size: Size, name: str, threads: int, device: str, clock: str) -> dict[str, Any]:
    what = {**asdict(size), "variant": name, "threads": threads}
    return {**what, "device": torch.device(device).type, "clock": clock}


def compare(
    size: Size, names: Sequence[str], threads: int, seconds: float, device: str = "cpu",
    clock: str = "wall", tick: Tick | None = None,
) -> list[Result]:  # fmt: skip
    """Measure the ways of one size: medians with smallest and largest, counts, memory."""
    torch.set_num_threads(threads)
    ways = {name: way(name, size, device) for name in names}
    times = measure(ways, seconds, clock)
    entries = []
    for (name, own), ratio in zip(times.items(), ratios(times).values(), strict=True):
        metrics = _counts(name, ways[name]) | _summary("step_ratio", ratio)
        metrics |= _summary("step_milliseconds", [1e3 * t for t in own])
        entries.append(Result(metrics, sum(own)))
    return entries


def table(book: ledger.Ledger | None = None) -> str:
    """Ratios of the records in a ledger as plain text, one line a way and size."""
    lines = [f"{'way':24}{'size':>10}{'threads':>9}   ratio of steps (smallest - largest)"]
    for record in (book or ledger.Ledger(EXPERIMENT)).read():
        config, found = record.config, record.metrics
        size = f"{config['members']} x {config['n']}"
        spread = f"{found['step_ratio_min']:.2f} - {found['step_ratio_max']:.2f}"
        lines.append(
            f"{config['variant']:24}{size:>10}{config['threads']:9}   "
            f"{found['step_ratio']:.2f} ({spread})"
        )
    return "\n".join(lines)


def _counts(name: str, chosen: Way) -> dict[str, Any]:
    """Large products and memory; neither can be watched inside a compiled graph."""
    if name in COMPILED:
        return {"products": None, "peak_bytes": None}
    size = chosen.size
    enough = replace(size, members=min(size.members, 2), n=max(size.n, size.width))
    counted = chosen if size == enough else way(name, enough, chosen.device.type)
    return {"products": products(counted), "peak_bytes": peak_bytes(chosen)}


def _summary(name: str, values: Sequence[float]) -> dict[str, float]:
    digits = {"": statistics.median(values), "_min": min(values), "_max": max(values)}
    return {name + end: float(f"{value:.4g}") for end, value in digits.items()}
