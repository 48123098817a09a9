"""The command line of an experiment, made from the dataclass of its settings.

A field is an option, its annotation the type, its paragraph in the class's docstring the help.
What is not given is not changed; :func:`words` writes what was changed back as options.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch

from sobolev_lib.records import ledger

OWN = Path("out") / "ledger"
"""Where a reader's own records go, unless the command says ``--book``."""


def add_fields(
    parser: argparse.ArgumentParser,
    cls: type,
    skip: Collection[str] = (),
    title: str = "instead of the arm's",
) -> None:
    """Add an option for each field of a dataclass but those in ``skip``.

    Its docstring has a numpydoc section *Parameters*.  What is not given on the command line is
    absent from the parser's namespace.
    """
    hints, said = get_type_hints(cls), descriptions(cls)
    group = parser.add_argument_group(title)
    for field in fields(cls):
        if field.name in skip:
            continue
        how: dict[str, Any] = {"help": said.get(field.name), **_kind(hints[field.name])}
        group.add_argument(_flag(field.name), default=argparse.SUPPRESS, **how)


def changes(options: argparse.Namespace, cls: type, skip: Collection[str] = ()) -> dict[str, Any]:
    """Return what a command line gave for the fields of a dataclass."""
    names = [field.name for field in fields(cls) if field.name not in skip]
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def words(changed: Mapping[str, Any]) -> list[str]:
    """Return options that make these changes: the way back from :func:`changes`."""
    said = []
    for name, value in changed.items():
        if isinstance(value, bool):
            said.append(_flag(name) if value else _flag(f"no_{name}"))
        elif isinstance(value, (list, tuple)):
            said.append(" ".join([_flag(name), *map(str, value)]))
        else:
            said.append(f"{_flag(name)} {'none' if value is None else value}")
    return said


def descriptions(cls: type) -> dict[str, str]:
    """Return the first sentence on each parameter in the numpydoc docstrings of a class's line."""
    # Python 3.13 takes the indentation off a docstring, older ones keep it
    texts = [inspect.cleandoc(one.__doc__ or "") for one in reversed(cls.__mro__)]
    text = "\n".join(one.partition("Parameters\n")[2] for one in texts)
    found = {}
    for names, body in re.findall(r"^(\w[^\n]*)\n((?:    [^\n]*\n?)+)", text, re.MULTILINE):
        sentence = re.sub(r":\w+:`(?:~?\.|~)?|`", "", " ".join(body.split()))
        for name in names.partition(" : ")[0].split(", "):
            found[name] = _first(sentence).replace("%", "%%")
    return found


def _first(text: str) -> str:
    """Return the first sentence, or what comes before a semicolon that no bracket holds."""
    return re.split(r"(?<=\w\w[.)])\s|;(?![^(]*\))", text)[0].rstrip(".")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _kind(hint: Any) -> dict[str, Any]:
    """Return argparse's words for a type."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is tuple:
        return {"nargs": "+", "type": get_args(hint)[0], "metavar": "NAME"}
    if get_origin(hint) in (Union, types.UnionType):
        [inner] = [part for part in get_args(hint) if part is not type(None)]
        return {"type": _or_none(inner), "metavar": inner.__name__.upper()}
    return {"type": hint, "metavar": hint.__name__.upper()}


def _or_none(inner: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return None if text == "none" else inner(text)

    read.__name__ = getattr(inner, "__name__", "value")  # argparse names it where text is refused
    return read


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add what a sweep takes: seeds, where to run, where to write."""
    add_seeds(parser)
    add = parser.add_argument
    add("--workers", type=positive, default=1, help="local processes (default: %(default)s)")
    add("--scheduler", metavar="ADDRESS", help="Dask scheduler that runs the jobs")
    add("--seconds", type=duration, help="stop after that time; the same command goes on")
    add_ledger(parser)


def add_seeds(parser: argparse.ArgumentParser) -> None:
    """Add the seeds, and whether to show progress."""
    add = parser.add_argument
    add("--seeds", type=positive, default=1, help="number of seeds (default: %(default)s)")
    add("--first-seed", type=natural, default=0, metavar="SEED")
    add("--quiet", action="store_true", help="no progress bar")


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """Add where the records go."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--ledger", type=Path, default=OWN, metavar="FOLDER", help="of records (%(default)s)"
    )
    where.add_argument(
        "--book", action="store_true", help="enter the records in the book's ledger, data/ledger"
    )


def add_states(parser: argparse.ArgumentParser) -> None:
    """Add where the states of long runs are kept, and how often."""
    folder = Path(os.environ.get("SOBOLEV_STATES", Path("out") / "states"))
    add, said = parser.add_argument, "to resume from (%(default)s)"
    add("--states", type=Path, default=folder, metavar="FOLDER", help=said)
    add("--save-every", type=float, default=60.0, metavar="SECONDS", help="(default: 60)")


def add_scale(parser: argparse.ArgumentParser) -> None:
    """Add the scale, which the records carry."""
    said = "small: shortened to seconds; paper: full length (default: %(default)s)"
    parser.add_argument("--scale", choices=ledger.SCALES, default="small", help=said)


@dataclass(frozen=True)
class Places:
    """Where the records of a command go, and the seeds it runs."""

    book: ledger.Ledger
    seeds: Sequence[int]

    @classmethod
    def of(cls, options: argparse.Namespace, experiment: str) -> Places:
        """Read what :func:`add_runs` added."""
        folder = ledger.default_folder() if options.book else options.ledger
        if options.book and not (folder.is_dir() or "SOBOLEV_DATA" in os.environ):
            raise ValueError(f"--book: there is no {folder}, as in a checkout; use --ledger FOLDER")
        first = getattr(options, "first_seed", 0)
        count = getattr(options, "seeds", 1)
        return cls(ledger.Ledger(experiment, folder), range(first, first + count))


def run(options: argparse.Namespace) -> int:
    """Do what a command asks (``options.act``), say how it ended, return the exit status."""
    try:
        _check_device(getattr(options, "device", "cpu"))
        said = options.act(options)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks
        print(said)
    return 0


def _check_device(name: str) -> None:
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device is {name!r}; it must be cpu, cuda or cuda:K")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device is {name}, but PyTorch sees no CUDA device; use --device cpu")


def natural(text: str, least: int = 0) -> int:
    """Read a whole number of at least 0."""
    if int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is not at least {least}")
    return int(text)


def duration(text: str) -> float:
    """Read a number of seconds of at least 0."""
    if not float(text) >= 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return float(text)


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    return natural(text, 1)
