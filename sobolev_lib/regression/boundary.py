"""What the controls of the kernel say, in numbers and sentences.

A row is a ReLU network, trained on values and slopes, whose kernel was changed
(:mod:`sobolev_lib.regression.controls`).
Its number is the mean over functions of the decades gained, seed by seed.  Functions that were
hardly learnt (:data:`.results.LEARNT`) are left out, and so is the one on which the kernel's width
was chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.records.claims import FAILS, HOLDS, NOT_RUN, OPEN, at_all_budgets, verdict
from sobolev_lib.records.summary import Interval, difference, listed
from sobolev_lib.records.table import Table
from sobolev_lib.regression import controls
from sobolev_lib.regression.results import LEARNT, READINGS, Line, Results

PLAIN: Line = ("schedule", "sobolev")
KERNEL: Line = ("activation/kernel", "sobolev")
SMOOTH: Line = ("activation/silu", "sobolev")
WIDTH_CHOSEN_ON = "styblinski_tang"
"""The function on which the width of the kernel was chosen; it is not judged on it."""


def _control(name: str) -> Line:
    return f"kernel_control/{name}", "sobolev"


def _away(kind: str) -> str:
    return f"{controls.SHIFTS[kind]:g} widths away"


NEEDED: dict[str, Line] = {
    "Sign turned": _control("flipped"),
    _away("shifted"): _control("shifted"),
    "Noise of equal size": _control("noise"),
}
"""Controls that the kernel has to beat if the boundary term is what helps."""
FURTHER: dict[str, Line] = {
    _away("far"): _control("far"),
    "Other samples' values": _control("permuted"),
}
"""Kernels that are spoilt for good: in a place that shares next to nothing with the kink's, and
with values that belong to other points."""
SPOILT = {**NEEDED, **FURTHER}
SIZES: dict[str, Line] = {"Half as large": _control("half"), "Twice as large": _control("double")}
CONTROLS: dict[str, Line] = {**SPOILT, **SIZES}
VARIANTS: dict[str, Line] = {
    "Width annealed": _control("annealed"),
    "At jittered points": _control("jittered"),
    "At fresh points": _control("fresh"),
    "No kernel, slopes at fresh points": _control("slopes"),
}
"""Attempts at a better estimate."""
ROWS: dict[str, Line] = {"The kernel": KERNEL, **CONTROLS, **VARIANTS}
WIDTHS: dict[str, Line] = {
    "0.03": ("bandwidth/narrow", "sobolev"),
    "0.1": KERNEL,
    "0.3": ("bandwidth/wide", "sobolev"),
    "0.1 of the spread": ("bandwidth/scaled", "sobolev"),
    "0.3 of the spread": ("bandwidth/scaled_wide", "sobolev"),
}
"""Kernels of other widths; the spread is that of the pre-activations of a layer."""


def counted(results: Results, n: int, at: str = "last") -> list[str]:
    """Functions that count: learnt with or without the kernel, and not used to choose its width."""
    found = []
    for name in FUNCTIONS:
        errors = [results.normalised(name, n, line, at) for line in (PLAIN, KERNEL)]
        if name != WIDTH_CHOSEN_ON and any(e and e.centre <= LEARNT for e in errors):
            found.append(name)
    return found


def gain(
    results: Results, n: int, baseline: Line, other: Line, at: str = "last"
) -> Interval | None:
    """Decades that ``other`` gains over ``baseline``: mean over functions, interval over seeds.

    Paired by seed; None below two seeds that both have on every function that counts.
    """
    names = counted(results, n, at)
    if not names:
        return None
    means = []
    for line in (baseline, other):
        errors = [results.errors(name, n, line, at=at) for name in names]
        seeds = set.intersection(*map(set, errors))
        means.append({seed: fmean(e[seed] for e in errors) for seed in seeds})
    return difference(*means)


def widths(results: Results, n: int) -> Table:
    """Decades that each width gains over plain ReLU, where it was chosen and where it is judged."""
    rows = {}
    for label, line in WIDTHS.items():
        own, mean = results.paired(WIDTH_CHOSEN_ON, n, PLAIN, line), gain(results, n, PLAIN, line)
        rows[label] = {
            FUNCTIONS[WIDTH_CHOSEN_ON].title: f"{own:+.2f}" if own else "not run",
            "mean of the others": f"{mean:+.2f}" if mean else "not run",
            "seeds": own.count if own else 0,
        }
    return Table(rows, corner=f"width, N = {n:,}")


def word(results: Results, n: int, baseline: Line, other: Line) -> str:
    """Whether ``other`` is better, the same at all readings of the runs: a word of `claims`."""
    return at_all_budgets([verdict(gain(results, n, baseline, other, at)) for at in READINGS])


def answers(results: Results, n: int) -> dict[str, str]:
    """For each control that is needed, whether the kernel is better."""
    return {label: word(results, n, line, KERNEL) for label, line in NEEDED.items()}


def conclusion(results: Results, n: int) -> str:
    """One sentence for a number of training points, whatever the records say."""
    own, found = word(results, n, PLAIN, KERNEL), answers(results, n)
    of = {said: _quoted(k for k, v in found.items() if v == said) for said in found.values()}
    if own == NOT_RUN:
        said = "there is nothing to compare yet"
    elif own == FAILS:
        said = "the kernel is worse than plain ReLU: there is no gain whose cause could be sought"
    elif own == OPEN:
        said = "it is not settled whether the kernel gains anything over plain ReLU"
        if ahead := _ahead(results, n, SPOILT):
            said += f", and it is behind {ahead}, which speaks against the boundary term"
        else:
            said += ", so that a control cannot say why"
    elif FAILS in of:
        said = f"something else than the boundary term helps: the kernel is behind {of[FAILS]}"
    elif set(of) == {HOLDS}:
        over = {label: gain(results, n, line, KERNEL) for label, line in NEEDED.items()}
        label, least = min(over.items(), key=lambda pair: pair[1].centre if pair[1] else 0.0)
        said = (
            f"the records speak for the boundary term: the kernel is ahead of {of[HOLDS]}, by the "
            f"least ({least:+.2f} decades) of “{label}”"
        )
        if ahead := _ahead(results, n, SIZES):
            said += f"; {ahead} is ahead of the kernel itself, so the full term is not the best"
    else:
        parts = {
            HOLDS: "it is ahead of {}",
            OPEN: "against {} nothing is settled",
            NOT_RUN: "there are no records of {} yet",
        }
        rest = "; ".join(words.format(of[key]) for key, words in parts.items() if key in of)
        said = f"the kernel gains over plain ReLU, and its cause is not settled: {rest}"
        won = [k for k, line in FURTHER.items() if word(results, n, line, KERNEL) == HOLDS]
        said += f"; it is also ahead of {_quoted(won)}" if won else ""
    return f"At N = {n:,} {said}."


def _ahead(results: Results, n: int, lines: Mapping[str, Line]) -> str:
    """Which lines are better than the kernel; empty if none is."""
    better = [k for k, line in lines.items() if word(results, n, KERNEL, line) == HOLDS]
    return _quoted(better)


def against(results: Results, n: int, label: str) -> dict[str, tuple[Line, Interval]]:
    """What a row of :data:`ROWS` is set beside, as far as there are records: line and lead."""
    rivals = {"plain ReLU": PLAIN}
    if ROWS[label] != KERNEL:
        rivals["the kernel"] = KERNEL
    if label in VARIANTS:
        rivals["SiLU"] = SMOOTH
    found = {rival: (line, gain(results, n, line, ROWS[label])) for rival, line in rivals.items()}
    return {rival: (line, lead) for rival, (line, lead) in found.items() if lead}


def sentences(results: Results, n: int) -> list[str]:
    """One item a row that has records, then the rows that have none, with their command."""
    said = []
    for label, own in ROWS.items():
        found = against(results, n, label)
        if "plain ReLU" not in found:
            continue
        parts = [
            _over(rival, lead, word(results, n, line, own)) for rival, (line, lead) in found.items()
        ]
        seeds = f"{found['plain ReLU'][1].count} seeds"
        if own == KERNEL:
            titles = _list(FUNCTIONS[name].title for name in counted(results, n))
            seeds = f"mean over {titles}; {seeds}"
        said.append(f"*{label}*: {'; '.join(parts)} ({seeds}).")
    missing = _missing(results, n)
    return (
        [*said, *missing] if said else ["No function was learnt in records of two seeds.", *missing]
    )


def _over(rival: str, found: Interval, said: str) -> str:
    words = {HOLDS: "better", FAILS: "worse"}
    return f"{found:+.2f} decades over {rival}, {words.get(said, 'not settled')}"


def _missing(results: Results, n: int) -> list[str]:
    lines: Mapping[str, Line] = {**CONTROLS, **VARIANTS}
    none = {k: arm for k, (arm, method) in lines.items() if not results.has(n, (arm, method))}
    if not none:
        return []
    return [f"No records of two seeds yet: {_list(none)}. They come from `{command(none, n)}`."]


def command(labels: Sequence[str] | Mapping[str, object], n: int) -> str:
    """The command that makes the records of some rows; of all controls by their family."""
    chosen = [{**CONTROLS, **VARIANTS}[label][0] for label in labels]
    every = len(chosen) == len(CONTROLS) + len(VARIANTS)
    arms = "kernel_control" if every else " ".join(chosen)
    words = f"regression --scale paper --arms {arms} --sizes {n} --seeds 10 --book"
    return f"python -m sobolev_lib {words}"


def leads(results: Results, sizes: Sequence[int]) -> dict[str, Interval]:
    """Every interval that :func:`sentences` states at these sizes, by name."""
    return {
        f"{label} over {rival}, N = {n:,}": lead
        for n in sizes
        for label in ROWS
        for rival, (_, lead) in against(results, n, label).items()
    }


def text(results: Results, sizes: Sequence[int]) -> str:
    """Markdown for the page: for each size the conclusion, then a list of the rows."""
    parts = []
    for n in sizes:
        rows = "\n".join(f"- {sentence}" for sentence in sentences(results, n))
        parts += [f"**{conclusion(results, n)}**", rows]
    return "\n\n".join(parts)


def _quoted(labels: Iterable[str]) -> str:
    return listed(f"“{label}”" for label in labels)


def _list(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"
