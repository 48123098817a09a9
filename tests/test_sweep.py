"""The one runner: what is still to do, where, stopping in time, Ctrl-C, provenance."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from sobolev_lib.records import sweep as runner
from sobolev_lib.records.ledger import Ledger
from sobolev_lib.records.sweep import Job, Result, Run, sweep, workers


def double(number, tick):
    """Work of one run."""
    tick(1)
    return [Result({"double": 2 * number}, seconds=0.5)]


def job(number, seed=0, **options):
    run = Run({"number": number}, seed, "small", ["made up"])
    return Job([run], partial(double, number), **options)


@pytest.fixture
def book(tmp_path):
    return Ledger("trial", tmp_path)


@pytest.mark.parametrize("where", ["here", "threads", "processes"])
def test_every_run_is_entered_once_wherever_it_is_done(book, where):
    jobs = [job(number, seed) for seed in range(2) for number in range(3)]
    executor = {"here": workers(), "threads": ThreadPoolExecutor(2), "processes": workers(2)}[where]
    with executor as pool:
        assert sweep("trial", jobs, book, pool, quiet=True) == 6
        assert sweep("trial", [*jobs, job(7)], book, pool, quiet=True) == 1
    assert {(r.config["number"], r.seed): r.metrics["double"] for r in book.read()} == {
        (number, seed): 2 * number for seed in range(2) for number in range(3)
    } | {(7, 0): 14}


def test_a_record_says_what_it_was_made_on(book):
    assert sweep("trial", [job(1, libraries=("scipy",))], book, quiet=True) == 1
    [record] = book.read()
    assert set(record.versions) == {"python", "torch", "numpy", "scipy"}
    assert record.commit and record.date and record.seconds == 0.5 and record.peak_memory > 1e6
    assert record.deviations == ["made up"]
    processor, instructions, threads = record.device.removeprefix("cpu (").split(", ")
    assert processor and instructions.isupper() and threads.split()[1].startswith("thread")


def test_runs_of_one_job_are_done_together_unless_all_are_there(book):
    calls = []

    def work(tick):
        calls.append(1)
        return [Result({"n": n}) for n in range(2)]

    both = Job([Run({"n": n}, 0, "small") for n in range(2)], work)
    book.append(runner.perform("trial", Job([both.runs[0]], lambda tick: [Result({"n": -1})])))
    assert sweep("trial", [both], book, quiet=True) == 1, "one of the two was there"
    assert [r.metrics["n"] for r in book.read()] == [-1, 1], "the first record stays"
    assert sweep("trial", [both], book, quiet=True) == 0 and calls == [1]


def test_time_that_is_over_stops_the_work_and_the_same_sweep_goes_on(book):
    asked = []

    def slow(tick):
        asked.append(tick(0))
        return None if asked[-1] else [Result({})]

    jobs = [Job([Run({"n": n}, 0, "small")], slow) for n in range(2)]
    assert sweep("trial", jobs, book, quiet=True, seconds=-1) == 0 and not asked
    assert sweep("trial", jobs, book, quiet=True, seconds=3600) == 2 and asked == [False, False]


def test_a_failing_job_does_not_take_the_others_with_it(book):
    def fails(tick):
        raise RuntimeError("out of memory")

    jobs = [Job([Run({"n": -1}, 0, "small")], fails), *(job(n) for n in range(3))]
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="out of memory"):
        sweep("trial", jobs, book, pool, quiet=True)
    assert len(book.read()) == 3


def test_states_of_entered_runs_are_removed(book, tmp_path):
    for name in ("done", "stopped"):
        (tmp_path / name).write_text("")
    stopped = Job([Run({}, 0, "small")], lambda tick: None, states=[tmp_path / "stopped"])
    assert sweep("trial", [job(1, states=[tmp_path / "done"]), stopped], book, quiet=True) == 1
    assert (tmp_path / "stopped").exists() and not (tmp_path / "done").exists()


def test_only_one_of_several_processes_writes(book):
    assert sweep("trial", [job(1)], book, quiet=True, enter=False) == 0
    assert book.read() == []


INTERRUPTED = """
import sys, time
from sobolev_lib.records.ledger import Ledger
from sobolev_lib.records.sweep import Job, Result, Run, sweep
def work(tick):
    print("working", flush=True)
    while not tick(0):
        time.sleep(0.01)
    print("kept its state", flush=True)
works = [lambda tick: [Result({})], work]
jobs = [Job([Run({"n": n}, 0, "small")], work) for n, work in enumerate(works)]
try:
    sweep("trial", jobs, Ledger("trial", sys.argv[1]), quiet=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_ctrl_c_keeps_what_is_done(book, tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "working\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.read() == "kept its state\nstopped\n"
    assert process.returncode == 0
    assert [r.config["n"] for r in book.read()] == [0]


def test_the_handler_of_before_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with runner.interruptible() as asked:
        signal.raise_signal(signal.SIGINT)
        for _ in range(100):
            if asked.is_set():
                break
            time.sleep(0.01)
        assert asked.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        workers(0)
