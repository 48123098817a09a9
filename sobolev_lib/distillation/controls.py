"""What else would have done: the controls beside the paper's two methods, in words and numbers.

A control answers a question by a difference that is paired by seed: to the student with
derivatives, and to the one on values only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy

from sobolev_lib.figures import style
from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import Interval, difference, listed
from sobolev_lib.records.table import Table

from . import arms, results
from .games import GAMES
from .results import Runs
from .students import Settings

LABELS = {
    "equal_cost": "Values only, same time",
    "temperature": "Values only, softened targets",
    "null": "Sobolev, another state's gradients",
    "jacobian": "Sobolev, whole Jacobian",
    "squared": "Sobolev, squared norm",
    "alpha": "Sobolev, α × {times:g}",
    "silu": "{method}, SiLU",
    "kinks": "Sobolev, kink kernel",
}
BOTH = ("sobolev", "values")
QUESTIONS = {
    "null": ("Is it information, or would any gradient of the right size do", BOTH),
    "equal_cost": ("Would the same time do, spent on more updates on values", BOTH),
    "temperature": ("Would softer targets do", BOTH),
    "kinks": ("Does the boundary term matter that a ReLU's derivative loses", BOTH),
    "silu": ("Does a smooth activation help", BOTH),
    "jacobian": ("Is one random direction enough", BOTH[:1]),
    "squared": ("Does it matter that the norm is not squared", BOTH[:1]),
    "alpha": ("Does alpha matter", BOTH[:1]),
}
"""What an arm asks, and the paper's methods that it is held against."""
NOTHING = "No control has been run yet."


@dataclass(frozen=True)
class Control:
    """A student that differs from the paper's in one thing, in one game.

    Parameters
    ----------
    arm : str
        Of :data:`sobolev_lib.distillation.arms.ARMS`.
    label : str
        What a figure and a table call it.
    game : str
    settings : Settings
    runs : mapping
        From a seed to its record.
    """

    arm: str
    label: str
    game: str
    settings: Settings
    runs: Runs


def of_game(records: Sequence[Record], game: str, fraction: float) -> list[Control]:
    """The paper's two methods and the controls that have two seeds at least, in a game."""
    pilots = results.chosen(records, game)
    found = []
    for name in ("paper", *LABELS):
        for settings, mine in results.arm(records, name, game, fraction):
            pilot = pilots.get(arms.row(asdict(settings)))
            times = settings.alpha / pilot.alpha if pilot and pilot.alpha else 1.0
            method = style.LABELS[settings.method]
            label = LABELS.get(name, "{method}").format(times=times, method=method)
            if len(mine) > 1:
                found.append(Control(name, label, game, settings, mine))
    return found


def collect(records: Sequence[Record], fraction: float) -> list[Control]:
    """Controls of all games, the paper's methods first in each; empty where a game has none."""
    games = [of_game(records, game, fraction) for game in GAMES]
    return [each for found in games if any(c.arm != "paper" for c in found) for each in found]


def beside(found: Sequence[Control], each: Control, method: str, metric: str) -> Interval | None:
    """How much larger a metric is than with the paper's method in the same game."""
    rival = results.values(_paper(found, each.game, method), metric)
    return difference(results.values(each.runs, metric), rival)


def _paper(found: Sequence[Control], game: str, method: str) -> Runs:
    for each in found:
        if (each.arm, each.game, each.settings.method) == ("paper", game, method):
            return each.runs
    return {}


def table(found: Sequence[Control], metric: str) -> Table | None:
    """How much larger a metric is with each control than with derivatives, a column for each game.

    Parameters
    ----------
    found : sequence of Control
        Of :func:`collect`.
    metric : str
    """
    rows: dict[str, dict[str, str]] = {}
    games = list(dict.fromkeys(each.game for each in found))
    for each in found:
        if each.arm == "paper" and each.settings.method == "sobolev":
            continue
        gap = beside(found, each, "sobolev", metric)
        row = rows.setdefault(each.label, {GAMES[g].title: "\u2014" for g in games})
        row[GAMES[each.game].title] = f"{gap:+.2f}" if gap else "\u2014"
    return Table(rows, corner="more than with derivatives") if rows else None


def answers(found: Sequence[Control]) -> str:
    """A question and its answer a line, as Markdown: larger or smaller than what, in which game."""
    lines = []
    for name, (question, rivals) in QUESTIONS.items():
        mine = [each for each in found if each.arm == name]
        parts = []
        for label in dict.fromkeys(each.label for each in mine):
            same = [each for each in mine if each.label == label]
            told = [_held_against(found, same, method) for method in rivals]
            parts.append(f"*{label}*: {'; '.join(filter(None, told))}.")
        if parts:
            lines.append(f"- **{question}?** {' '.join(parts)}")
    return "\n".join(lines) or NOTHING


def _held_against(found: Sequence[Control], same: Sequence[Control], method: str) -> str:
    signs = {
        GAMES[each.game].title: gap.sign
        for each in same
        if (gap := beside(found, each, method, "kl"))
    }
    rival = {"sobolev": "derivatives", "values": "values only"}[method]
    words = {1: "larger in", -1: "smaller in", 0: "not settled in"}
    named = {
        text: [game for game, sign in signs.items() if sign == value]
        for value, text in words.items()
    }
    told = ", ".join(f"{text} {listed(games)}" for text, games in named.items() if games)
    return told and f"beside {rival} {told}"


def kernel(found: Sequence[Control]) -> str:
    """Sentence: what the kernel at the kinks does to the part of other actions, in each game."""
    parts, signs = [], []
    for each in found:
        gap = beside(found, each, "sobolev", "action_error") if each.arm == "kinks" else None
        if gap is None:
            continue
        mine = results.values(each.runs, "action_error")
        plain = results.values(_paper(found, each.game, "sobolev"), "action_error")
        common = mine.keys() & plain.keys()
        before, after = (numpy.mean([v[s] for s in common]) for v in (plain, mine))
        signs.append(gap.sign)
        parts.append(f"from {100 * before:.0f} to {100 * after:.0f} % in {GAMES[each.game].title}")
    if not parts:
        return ""
    words = {1: "rises", -1: "falls", 0: "goes (not settled)"}
    if len(set(signs)) > 1:
        parts = [f"{words[sign]} {part}" for sign, part in zip(signs, parts, strict=True)]
    else:
        parts[0] = f"{words[signs[0]]} {parts[0]}"
    return (
        "With the kernel at the kinks the part of the states in which a student trained on "
        f"derivatives prefers another action than its teacher {listed(parts)}."
    )


def share(found: Sequence[Control], game: str, metric: str) -> tuple[float, int] | None:
    """Part of the derivatives' gain over values only that another state's gradients bring as well.

    Beside it the sign of what these bring, 0 if it is not settled.  All of it over the seeds that
    all three have; None where derivatives do not gain there.
    """
    runs = {
        "null" if each.arm == "null" else each.settings.method: each.runs
        for each in found
        if each.game == game and each.arm in ("paper", "null")
    }
    if len(runs) < 3:
        return None
    plain, both, null = (results.values(runs[n], metric) for n in ("values", "sobolev", "null"))
    common = plain.keys() & both.keys() & null.keys()
    plain, both, null = ({s: found[s] for s in common} for found in (plain, both, null))
    gain, own = difference(plain, both), difference(plain, null)
    if gain is None or own is None or gain.sign < 1:
        return None
    return own.centre / gain.centre, own.sign


BY = {"kl": "KL(teacher, student)", "action_error": "the part of other actions"}


def shares(found: Sequence[Control], metric: str = "kl") -> str:
    """Sentence: how much of the gain needs no information on the state."""
    games = [game for game in GAMES if any((c.arm, c.game) == ("null", game) for c in found)]
    each = {GAMES[game].title: share(found, game, metric) for game in games}
    parts = {game: part for game, part in each.items() if part is not None}
    if not parts:
        return ""
    [fraction] = {each.settings.fraction for each in found}
    helped = [f"{100 * part:.0f} % in {game}" for game, (part, _) in parts.items() if part > 0]
    idle = [game for game, (part, sign) in parts.items() if part <= 0 <= sign]
    harmed = [game for game, (part, sign) in parts.items() if part <= 0 and sign < 0]
    said = [listed(helped)] if helped else []
    said += [f"nothing in {listed(idle)}"] if idle else []
    said += [f"less than nothing in {listed(harmed)}"] if harmed else []
    others = listed([game for game in each if game not in parts])
    less = (
        f" In {others} no such gain is settled on the seeds that the control has, too."
        if others
        else ""
    )
    return (
        f"By {BY[metric]}, at {100 * fraction:g} % of the states, derivatives of another state, "
        f"given as a control, bring {', and '.join(said)}{',' * (len(said) - 1)} of what those "
        f"of the right state gain over values only.{less}"
    )
