"""Run ``make book`` and ``make test`` as on a slow and busy machine: before a release.

A fresh clone of this checkout's commit, with a fresh ``.venv``, is pinned to one core beside two
loops that keep the same core busy. Nothing may fail there. The log goes to
``OUT/busy.log``; each command's last line says whether it passed and what processor time it took.
A run that was stopped goes on where it was: what has passed for the same commit is not repeated.

    python tools/busy.py                         # needs Linux (taskset, nice); takes hours
    python tools/busy.py --busy 0 "make test-all"
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


def pinned(core: int) -> list[str]:
    """Return the words that put a command on one core, at the priority of all of them here."""
    return ["taskset", "--cpu-list", str(core), "nice", "-n", "10"]


def clone(target: Path) -> str:
    """Bring a clone to this checkout's commit; return the commit."""
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    if not (target / ".git").exists():
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, target], check=True)
    subprocess.run(["git", "fetch", "--quiet", ROOT, commit], cwd=target, check=True)
    subprocess.run(["git", "checkout", "--quiet", "--force", commit], cwd=target, check=True)
    return commit


def run(command: str, folder: Path, core: int, log: Path) -> int:
    """Run one command on one core; append what it says to the log; return its exit status."""
    words = [*pinned(core), "sh", "-c", command]
    with log.open("a", encoding="utf-8") as out:
        process = subprocess.Popen(
            words, cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
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


def attempt(command: str, folder: Path, core: int, log: Path, mark: str) -> bool:
    """Run one command and say what came of it, in the log and here."""
    began, before = time.monotonic(), minutes()
    status = run(command, folder, core, log)
    verdict = "PASSED" if status == 0 else f"FAILED ({status})"
    wall, used = (time.monotonic() - began) / 60, minutes() - before
    when = datetime.datetime.now().isoformat(" ", "seconds")
    line = f"{verdict} {mark}: {used:.1f} CPU-minutes, {wall:.0f} minutes, at {when}"
    with log.open("a", encoding="utf-8") as out:
        print(line, file=out)
    print(line, flush=True)
    return status == 0


def main() -> int:
    """Run the commands; return the number of those that failed."""
    parser = argparse.ArgumentParser(description="make book and make test on one busy core")
    parser.add_argument("commands", nargs="*", default=COMMANDS, help='"make book" "make test"')
    parser.add_argument("--busy", type=int, default=2, help="loops beside the command")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="which core")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "busy", help="clone and log")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "busy.log"
    commit = clone(options.out / "clone")[:12]
    print(f"Commit {commit}, core {options.core}; what the commands say: {log}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the loops end too
    loop = [*pinned(options.core), sys.executable, "-c", LOOP]
    loops = [subprocess.Popen(loop) for _ in range(options.busy)]
    failed = 0
    try:
        for command in options.commands:
            mark = f"{command} at {commit} beside {options.busy} loops"
            if log.exists() and f"PASSED {mark}:" in log.read_text(encoding="utf-8"):
                print(f"{mark}: passed before", flush=True)
            elif not attempt(command, options.out / "clone", options.core, log, mark):
                failed += 1
    finally:
        for process in loops:
            process.kill()
            process.wait()
    return failed


if __name__ == "__main__":
    sys.exit(main())
