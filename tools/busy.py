"""Run ``make book`` and ``make test`` as on a slow and busy machine: before a release.

A fresh clone of this checkout's commit, with a fresh ``.venv``, is pinned to one core beside two
loops that keep the same core busy. Nothing may fail there. The log goes to ``OUT/busy.log``; each
command's last line says whether it passed and what processor time it took. A run that was stopped
goes on where it was: what has passed for the same commit is not repeated.

    python tools/busy.py                         # needs Linux (taskset, nice); takes hours
    python tools/busy.py --bare --busy 0 --python python3.13 "make book"
"""

import argparse
import datetime
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("make book", "make test")
LOOP = "while True: pass"


def git(*words: str) -> bytes:
    """Return what git says in this checkout."""
    return subprocess.check_output(["git", *words], cwd=ROOT)


def pinned(core: int) -> list[str]:
    """Return the words that put a command on one core, at the priority of all of them here."""
    return ["taskset", "--cpu-list", str(core), "nice", "-n", "10"]


def unpack(folder: Path, bare: bool) -> None:
    """Make the folder from this checkout's commit, with git or without."""
    if folder.exists():
        return
    if bare:
        folder.mkdir()
        subprocess.run(["tar", "-x"], input=git("archive", "HEAD"), cwd=folder, check=True)
    else:
        git("clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder))


def run(words: list[str], folder: Path, environment: dict[str, str], log: Path) -> int:
    """Run a command; append what it says to the log; return its exit status."""
    with log.open("a", encoding="utf-8") as out:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait()
        except BaseException:  # stopped: all that the command started ends too
            os.killpg(process.pid, signal.SIGTERM)
            raise


def minutes() -> float:
    """Return the processor time of all commands so far, in minutes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) / 60


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="make book and make test on one busy core")
    add = parser.add_argument
    add("commands", nargs="*", default=COMMANDS, help='"make book" "make test" unless given')
    add("--busy", type=int, default=2, help="loops beside the command")
    add("--core", type=int, default=max(os.sched_getaffinity(0)), help="which core")
    add("--out", type=Path, default=ROOT / "out" / "busy", help="clones and log")
    add("--python", default="python3", help="what .venv is made from")
    add("--bare", action="store_true", help="no git, no home to write to, spaces in the path")
    return parser.parse_args()


def main() -> int:
    """Run the commands; return the number of those that failed."""
    chosen = options()
    commit = git("rev-parse", "--short=12", "HEAD").decode().strip()
    out = chosen.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    log = out / "busy.log"
    name = ("a bare book" if chosen.bare else "clone", Path(chosen.python).name, commit)
    folder = out / (" " if chosen.bare else "-").join(name)
    environment = {"PYTHON": chosen.python}
    if chosen.bare:
        environment |= {"HOME": os.devnull, "GIT_CEILING_DIRECTORIES": str(out)}
    unpack(folder, chosen.bare)
    print(f"In {folder}, on core {chosen.core}; what the commands say: {log}", flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the loops end too
    loop = [*pinned(chosen.core), sys.executable, "-c", LOOP]
    loops = [subprocess.Popen(loop) for _ in range(chosen.busy)]
    failed = 0
    try:
        for command in chosen.commands:
            mark = f"{command}, {' '.join(name)}, beside {chosen.busy} loops"
            if log.exists() and f"PASSED {mark}:" in log.read_text(encoding="utf-8"):
                print(f"{mark}: passed before", flush=True)
                continue
            began, before = time.monotonic(), minutes()
            words = [*pinned(chosen.core), "sh", "-c", command]
            status = run(words, folder, environment, log)
            failed += status != 0
            verdict = "PASSED" if status == 0 else f"FAILED ({status})"
            wall, used = (time.monotonic() - began) / 60, minutes() - before
            when = datetime.datetime.now().isoformat(" ", "seconds")
            line = f"{verdict} {mark}: {used:.1f} CPU-minutes, {wall:.0f} minutes, at {when}"
            with log.open("a", encoding="utf-8") as file:
                print(line, file=file)
            print(line, flush=True)
    finally:
        for process in loops:
            process.kill()
            process.wait()
    return failed


if __name__ == "__main__":
    sys.exit(main())
