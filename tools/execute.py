"""Execute the chapters whose outputs are not stored yet, two at a time, and store them.

``make book`` runs this before Sphinx, which would execute them one after another and say nothing
meanwhile. ``make test`` does not need it: there pytest executes every chapter (``conftest.py`` in
the checkout). With names of chapters it executes those, stored or not.
"""

import argparse
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import nbcache
import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError


class ChapterError(RuntimeError):
    """A chapter that failed; the message names the cell."""


def chapters() -> list[Path]:
    """Return the notebooks of the table of contents, in its order."""
    contents = yaml.safe_load((nbcache.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [contents["root"]]
    names += [entry["file"] for part in contents["parts"] for entry in part["chapters"]]
    paths = [nbcache.ROOT / f"{name}.ipynb" for name in names]
    return [path for path in paths if path.exists()]


def where(notebook: Any) -> int:
    """Return the index of the cell that failed, or was running when the kernel died or hung."""
    waiting = [
        index
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
        and "shell.execute_reply" not in cell.metadata.get("execution", {})
    ]
    return min(nbcache.faults(notebook) or waiting)


def execute(path: Path, announcement: str = "") -> float:
    """Execute one notebook in its own folder, as nbmake does; store it; return the seconds.

    Raises
    ------
    ChapterError
        If a cell raised an error, wrote to stderr, hung, or its kernel died.
    """
    print(announcement or f"{path.stem}: running", flush=True)
    notebook = nbformat.read(path, 4)
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=nbcache.time_limit(),
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],  # else each kernel warns that it speaks TCP here
    )
    message = ""
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        message = str(error)
    message = message or next(iter(nbcache.faults(notebook).values()), "")
    if message:
        index = where(notebook)
        line = notebook.cells[index].source.partition("\n")[0]
        raise ChapterError(f"cell {index + 1}, which starts with {line!r}:\n{message}")
    seconds = time.perf_counter() - start
    nbcache.store(notebook, path, seconds)
    return seconds


def choose(names: list[str]) -> list[tuple[int, Path]]:
    """Return number and path of the chapters to execute: those named, or those not stored."""
    every = list(enumerate(chapters(), 1))
    unknown = set(names) - {path.stem for _, path in every}
    if unknown:
        known = ", ".join(path.stem for _, path in every)
        raise SystemExit(f"There is no chapter {', '.join(sorted(unknown))}; there are {known}.")
    if names:
        return [(number, path) for number, path in every if path.stem in names]
    return [
        (number, path) for number, path in every if not nbcache.is_stored(nbformat.read(path, 4))
    ]


def end_quietly() -> None:
    """Let the main process alone answer Ctrl-C; a worker that runs a kernel ends that first."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> int:
    """Execute what is missing; return the number of chapters that failed."""
    parser = argparse.ArgumentParser(description="Execute chapters and store their outputs.")
    parser.add_argument("names", nargs="*", metavar="CHAPTER", help="these only, stored or not")
    chosen = choose(parser.parse_args().names)
    total = len(chapters())
    start = time.perf_counter()
    failed: list[str] = []

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - start:4.0f} s] {text}", flush=True)

    print(f"Chapters: {total}, to execute: {len(chosen)}, two at a time.", flush=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    nbcache.prepare()
    pool = ProcessPoolExecutor(max_workers=2, initializer=end_quietly)
    try:
        runs = {
            pool.submit(execute, path, f"{path.stem}: running, chapter {number} of {total}"): path
            for number, path in chosen
        }
        for done, run in enumerate(as_completed(runs), 1):
            name = runs[run].stem
            try:
                say(f"{name}: done in {run.result():.0f} s, {done} of {len(runs)}")
            except ChapterError as error:
                failed.append(name)
                say(f"{name}: FAILED in {error}")
    except KeyboardInterrupt:
        pool.shutdown(cancel_futures=True)
        print("Stopped. The chapters that are done are stored: make book goes on from there.")
        return 130
    pool.shutdown()  # left to the interpreter, its pipes may be closed before it is told
    for name in failed:
        print(f"{name} failed, see above. Alone: .venv/bin/python tools/execute.py {name}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
