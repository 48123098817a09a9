"""Write into ``data/README.md`` the command behind every record, read from the records themselves.

What stands between the two marks there is this program's; a test compares it with the ledger.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sobolev_lib.distillation import arms as distilled
from sobolev_lib.distillation import results
from sobolev_lib.records import options
from sobolev_lib.records.ledger import Ledger, Record, default_folder
from sobolev_lib.regression import arms, kriging
from sobolev_lib.synthetic_gradients import settings

README = Path(__file__).resolve().parent.parent / "data" / "README.md"
MARKS = "<!-- commands: written by tools/provenance.py -->", "<!-- end of commands -->"
TAKEN = {name for row in settings.ROWS.values() for name in row} | {"arm", "workers", "hogwild"}


def grouped(
    records: Iterable[Record], key: Callable[[Record], Any]
) -> Iterator[tuple[Any, list[Record]]]:
    """Records by a key, in its order."""
    found = sorted(records, key=lambda r: repr(key(r)))
    for name, group in itertools.groupby(found, key=key):
        yield name, list(group)


def seeds(records: Sequence[Record]) -> str:
    """The options that make these seeds."""
    first, last = (end(r.seed for r in records) for end in (min, max))
    return f"--seeds {1 + last - first}" + (f" --first-seed {first}" if first else "")


def listed(flag: str, values: Iterable[Any]) -> str:
    """An option with several values."""
    return " ".join([flag, *(str(value) for value in values)])


def line(
    words: Sequence[str],
    records: Sequence[Record],
    start: str = "python",
    module: str = "sobolev_lib",
) -> str:
    """A command with what it made: how many records, on what, how many of a modified library."""
    command = " ".join([start, f"-m {module}", *filter(None, words), "--book"])
    on_gpu = sum(not r.device.startswith("cpu") for r in records)
    note = f", {on_gpu} of them with --device cuda" if on_gpu else ""
    if records and on_gpu == len(records):
        note, command = "", command.replace(" --device cuda", "") + " --device cuda"
    modified = sum(r.modified for r in records)
    note += f", {modified} of them by a library with uncommitted changes" if modified else ""
    return f"{command}  # {len(records)} records{note}"


def regression(records: Sequence[Record]) -> list[str]:
    """Commands of the networks of section 4.1, and of kriging."""
    lines = []
    networks = [r for r in records if r.config["arm"] != kriging.ARM]
    for arm, of_arm in grouped(networks, lambda r: member(r.config)):
        by_seeds: dict[str, list[Record]] = {}
        for _, of_size in grouped(of_arm, lambda r: r.config["n"]):
            by_seeds.setdefault(seeds(of_size), []).extend(of_size)
        for option, group in by_seeds.items():
            sizes = sorted({r.config["n"] for r in group})
            words = [f"regression --scale paper --arms {arm}", listed("--sizes", sizes), option]
            lines.append(line(words, group))
    rest = [r for r in records if r.config["arm"] == kriging.ARM]
    return lines + ([line(["kriging", seeds(rest)], rest)] if rest else [])


def member(config: dict[str, Any]) -> str:
    """Name of the arm that a configuration is."""
    whole = {k: v for k, v in config.items() if k not in arms.IDENTITY}
    family = arms.family(config["arm"])
    for name in (name for name in arms.ARMS if arms.family(name) == family):
        [setting] = arms.settings(name, [20], ["booth"], arms.methods_of(name)[:1])
        if {k: v for k, v in arms.config(setting).items() if k in whole} == whole:
            return name
    raise ValueError(f"no arm has the configuration {config}")


def rows_of(records: Sequence[Record], experiment: str, *more: str) -> list[str]:
    """Commands of an experiment of section 4.3: rows with the same seeds share one."""
    lines = []
    for (arm, changed, workers, hogwild), group in grouped(records, _setting):
        by_seeds: dict[str, list[str]] = {}
        for row, of_row in grouped(group, lambda r: row_name(r.config)):
            by_seeds.setdefault(seeds(of_row), []).append(row)
        for option, names in by_seeds.items():
            made = [r for r in group if row_name(r.config) in names]
            ordered = [row for row in settings.ROWS if row in names]
            words = [f"{experiment} --arm {arm}", listed("--rows", ordered), option, *changed]
            start = "python"
            if workers > 1:
                start = f"torchrun --standalone --nproc-per-node {workers}"
                words += ["--hogwild"] if hogwild else []
            lines.append(line([*words, *more], made, start))
    return lines


def _setting(record: Record) -> tuple[str, tuple[str, ...], int, bool]:
    """Arm, what was changed in it as options, processes, and whether they were unlocked."""
    config = record.config
    [plain] = settings.settings(config["arm"], [row_name(config)])
    standard = settings.LATER | settings.config(plain)
    changed = {
        name: config[name]
        for name, value in standard.items()
        if name not in TAKEN and name in config and config[name] != value
    }
    words = tuple(options.words(changed))
    return config["arm"], words, config.get("workers", 1), config.get("hogwild", False)


def row_name(config: dict[str, Any]) -> str:
    """Row of a configuration, whatever the number of processes."""
    return settings.row_of({**config, "workers": 1, "hogwild": False})


def throughput(records: Sequence[Record]) -> list[str]:
    """Commands of the images per second."""
    lines = []
    for (arm, compiled), group in grouped(
        records, lambda r: (r.config["arm"], r.config["compiled"])
    ):
        names = {r.config["row"] for r in group}
        ordered = listed("--rows", [row for row in settings.ROWS if row in names])
        flag = "--compile" if compiled else ""
        lines.append(line([f"throughput --arm {arm}", ordered, flag], group))
    return lines


def operations(records: Sequence[Record]) -> list[str]:
    """Commands of the operations counted; without seeds, for they do not depend on one."""
    return [
        line(
            [f"operations --arm {arm}", listed("--rows", (row_name(r.config) for r in group))],
            group,
        )
        for arm, group in grouped(records, lambda r: r.config["arm"])
    ]


def cost(records: Sequence[Record]) -> list[str]:
    """Commands of the benchmark."""
    names = ("threads", "clock", "device")
    return [
        line(["cost", *(f"--{k} {v}" for k, v in zip(names, values, strict=True))], group)
        for values, group in grouped(records, lambda r: tuple(r.config[k] for k in names))
    ]


def rivals(records: Sequence[Record]) -> list[str]:
    """Command of the regressor beside its rivals."""
    return [line(["rivals", seeds(records)], records)]


def rounding(records: Sequence[Record]) -> list[str]:
    """Commands of the runs that were repeated on other kernels: those of the machine, or older."""
    return [
        ("" if which != "default" else "ATEN_CPU_CAPABILITY=default ")
        + line(["rounding", seeds(group)], group)
        for which, group in grouped(records, lambda r: r.config["kernels"])
    ]


def distillation(records: Sequence[Record]) -> list[str]:
    """Commands of the students of section 4.2; their pilots are what the first one runs first."""
    lines = []
    for game, group in grouped(records, lambda r: r.config["game"]):
        for arm in distilled.ARMS:
            by_seeds: dict[str, list[Record]] = {}
            for fraction in sorted({r.config["fraction"] for r in group}):
                for _, runs in results.arm(group, arm, game, fraction):
                    if made := list(runs.values()):
                        by_seeds.setdefault(seeds(made), []).extend(made)
            for option, made in by_seeds.items():
                fractions = listed("--fractions", sorted({r.config["fraction"] for r in made}))
                words = ["distill", f"--game {game}", fractions, f"--arms {arm}", option]
                lines.append(line(words, made, module="sobolev_lib.distillation"))
    return lines


EXPERIMENTS: dict[str, Callable[[Sequence[Record]], list[str]]] = {
    "regression": regression,
    "cost": cost,
    "rivals": rivals,
    "rounding": rounding,
    "synthetic_gradients": lambda records: rows_of(records, "synthetic_gradients"),
    "probes": lambda records: rows_of(records, "probes"),
    "fidelity": lambda records: rows_of(records, "fidelity"),
    "throughput": throughput,
    "operations": operations,
    "distillation": distillation,
}


def commands() -> str:
    """All commands, one block an experiment that has records."""
    blocks = []
    for path in sorted(default_folder().glob("*.jsonl")):
        of = EXPERIMENTS.get(path.stem)
        # Pilots alone have no command of their own.
        if of and (made := of(Ledger(path.stem).read())):
            blocks.append(f"`ledger/{path.name}`:\n\n```sh\n" + "\n".join(made) + "\n```")
    return "\n\n".join(blocks)


def filled(text: str) -> str:
    """Return the text with the present commands between its marks."""
    first, last = map(re.escape, MARKS)
    body = f"{MARKS[0]}\n\n{commands()}\n\n{MARKS[1]}"
    return re.sub(f"{first}.*{last}", lambda _: body, text, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
