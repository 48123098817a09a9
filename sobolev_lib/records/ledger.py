"""Ledger of finished runs: one plain-text line a run, the only road from an experiment to a page.

``data/ledger/EXPERIMENT.jsonl`` holds one JSON object a line, sorted by configuration and seed, so
that a new record is one new line in a diff.  A file is replaced as a whole (written beside,
flushed, renamed), under a lock: whoever is killed, at whatever moment, leaves either the old file
or the new one.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy
import torch
from filelock import FileLock

SCALES = ("small", "paper")


class LedgerError(RuntimeError):
    """A ledger that cannot be read or written; the message says what to do."""


@dataclass(frozen=True)
class Record:
    """One finished run.

    Parameters
    ----------
    experiment : str
        Name of the experiment, and of its file.
    config : dict
        What was run: everything but the seed that decides the result.
    metrics : dict
        Results: numbers, or lists of numbers (learning curves).
    scale : {"small", "paper"}
        "paper": the paper's setting, or the closest one (then see ``deviations``).
    deviations : list of str
        Where the run differs from the paper, or decides what it leaves open.
    commit, versions, device, seconds, peak_memory, date
        Where it comes from: git commit ("+": the library differed from it), versions of what can
        change the number, processor with instruction set and threads, wall seconds, peak memory of
        the process in bytes, day (UTC).
    """

    experiment: str
    config: dict[str, Any]
    seed: int
    metrics: dict[str, Any]
    scale: str
    deviations: list[str] = field(default_factory=list)
    commit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    seconds: float = 0.0
    peak_memory: int = 0
    date: str = ""

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale is {self.scale!r}; it must be one of {', '.join(SCALES)}")

    @property
    def key(self) -> str:
        """Identity of the run: its configuration, scale and seed."""
        return key(self.config, self.scale, self.seed)

    @property
    def modified(self) -> bool:
        """Whether the library that made it had uncommitted changes."""
        return self.commit.endswith("+")

    def line(self) -> str:
        """Return the record as one line of JSON; NaN and infinity, not being JSON, are refused."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)


def key(config: Mapping[str, Any], scale: str, seed: int) -> str:
    """Identity of a run: canonical JSON of its configuration, its scale, then the seed.

    The lines sort by configuration and seed.
    """
    return f"{json.dumps(dict(config), sort_keys=True)} {scale} {seed:09d}"


def number_or_null(value: float, digits: int | None = None) -> float | None:
    """Return a number as records keep it, rounded if asked; None (null) where a run diverged."""
    if not math.isfinite(value):
        return None
    return value if digits is None else float(f"{value:.{digits}g}")


def default_folder() -> Path:
    """Folder of the book's ledgers: ``$SOBOLEV_DATA/ledger``, or the checkout's ``data/ledger``."""
    root = os.environ.get("SOBOLEV_DATA")
    return (Path(root) if root else Path(__file__).resolve().parents[2] / "data") / "ledger"


def beside(name: str) -> Path:
    """Folder of other data of the book, such as ``images``, beside the ledgers."""
    return default_folder().parent / name


def select(
    records: Iterable[Record], config: Mapping[str, Any], scale: str | None = None
) -> list[Record]:
    """Return the records of one whole configuration (and scale), by seed; no label decides."""
    wanted = json.dumps(dict(config), sort_keys=True)
    found = [
        r
        for r in records
        if json.dumps(r.config, sort_keys=True) == wanted and scale in (None, r.scale)
    ]
    return sorted(found, key=lambda r: r.seed)


class Ledger:
    """The records of one experiment, in a file in :func:`default_folder` or another folder."""

    def __init__(self, experiment: str, folder: str | os.PathLike[str] | None = None) -> None:
        self.experiment = experiment
        self.path = Path(folder if folder is not None else default_folder()) / f"{experiment}.jsonl"

    def read(self) -> list[Record]:
        """All records, in the order of the file; none if there is no file yet.

        Raises
        ------
        LedgerError
            If a line is not a record, or a run is there twice; file and line are named.
        """
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        found: dict[str, Record] = {}
        for number, line in enumerate(lines, start=1):
            if line.strip():
                record = self._parse(number, line)
                if record.key in found:
                    raise LedgerError(
                        f"{self.path}, line {number} is a second record of seed {record.seed} of "
                        "one configuration. Delete one of the two lines."
                    )
                found[record.key] = record
        return list(found.values())

    def keys(self) -> set[str]:
        """Identities of the runs that are already there."""
        return {record.key for record in self.read()}

    def append(self, records: Iterable[Record]) -> int:
        """Add records, sorted in, unless their identity is there already; return how many.

        Raises
        ------
        LedgerError
            If the folder cannot be written, or the file there is damaged (it is not touched then).
        ValueError
            If a record belongs to another experiment, or holds NaN or infinity.
        """
        new = list(records)
        for record in new:
            if record.experiment != self.experiment:
                raise ValueError(
                    f"record of experiment {record.experiment!r} "
                    f"in the ledger of {self.experiment!r}"
                )
            try:
                record.line()
            except ValueError as error:
                raise ValueError(
                    f"metrics of seed {record.seed}, {record.config}: {error}; "
                    "store null for a run that diverged"
                ) from error
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")):
                known = {record.key: record for record in self.read()}
                before = len(known)
                for record in new:
                    known.setdefault(record.key, record)
                self._replace([known[name] for name in sorted(known)])
        except OSError as error:
            raise LedgerError(
                f"cannot write {self.path}: {error}. "
                "Make the folder writable, or name another (--ledger; SOBOLEV_DATA for the book's)."
            ) from error
        return len(known) - before

    def _replace(self, records: list[Record]) -> None:
        part = self.path.with_suffix(".part")  # one writer at a time: the lock is held
        with part.open("w", encoding="utf-8") as file:
            file.writelines(record.line() + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path)

    def _parse(self, number: int, line: str) -> Record:
        try:
            entries = json.loads(line)
            unknown = set(entries) - {f.name for f in fields(Record)}
            if unknown:
                raise ValueError(f"unknown entries {sorted(unknown)}")
            record = Record(**entries)
            if not isinstance(record.config, dict) or not isinstance(record.metrics, dict):
                raise ValueError("config and metrics must be objects")
            return record
        except (ValueError, TypeError) as error:
            raise LedgerError(
                f"{self.path}, line {number} is not a record ({error}). "
                f"Restore the file (git checkout -- {self.path.name}) or delete that line: "
                "its run will be done again."
            ) from error


@functools.cache
def provenance(libraries: Sequence[str] = ()) -> dict[str, Any]:
    """Commit, day, and versions of what can change the numbers, as a record holds them."""
    return {
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            **{name: metadata.version(name) for name in libraries},
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def peak_memory(device: torch.device | str = "cpu") -> int:
    """Peak memory in bytes: of the process, or of the CUDA device; 0 where nobody counts it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux


def device_name(device: torch.device | str = "cpu") -> str:
    """Name of the device for the record: processor, instruction set that PyTorch uses, threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    counted = "1 thread" if threads == 1 else f"{threads} threads"
    return f"cpu ({_processor()}, {torch.backends.cpu.get_cpu_capability()}, {counted})"


@functools.cache
def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    if named := os.environ.get("SOBOLEV_COMMIT"):  # a copy without its history, on another machine
        return named
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        command = ["git", *words]
        try:
            done = subprocess.run(
                command, cwd=here.parents[1], capture_output=True, text=True, check=False
            )
        except OSError:  # no git on this machine
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    # an installed package may lie inside somebody else's checkout
    head = git("rev-parse", "--short=12", "HEAD") if git("ls-files", str(here)) else ""
    if not head:
        return "unknown"
    return head + ("+" if git("status", "--porcelain", "--untracked-files=no", ".") else "")
