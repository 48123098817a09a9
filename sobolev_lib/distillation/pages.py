"""Section 4.2 as tables and sentences for the pages of the book, whatever has been run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy

from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import difference, listed, unbroken
from sobolev_lib.records.table import Table

from . import arms, data, results
from .arms import UNIFORM
from .figures import latest
from .games import GAMES
from .results import Cell, Runs

AIMS = {"pong": 15, "breakout": 150, "space_invaders": 500}
ROUTES = {
    "memory": "PPO on memory",
    "ppo": "PPO on pixels",
    "dagger": "imitation of an expert",
    "kickstart": "PPO on pixels, expert first",
}
METHODS = {"values": "values only", "sobolev": "Sobolev", "squared": "Sobolev, squared norm"}
DIVERGENCES = {
    "kl": "KL(teacher, student)",
    "kl_reverse": "KL(student, teacher), which training minimises,",
}
NOTHING = "No student has been trained yet: the figures appear here when their records do."


def shown(mine: Runs, metric: str, spec: str = ".2g") -> str:
    """A metric over seeds: with its interval from two seeds on, of one seed alone, or a dash."""
    if not mine:
        return "\u2014"
    found = results.mean(mine, metric)
    if found is None:
        return f"{next(iter(results.values(mine, metric).values())):{spec}} (1 seed)"
    return unbroken(found, spec)


def fig4(cells: Sequence[Cell], metric: str, spec: str = ".3f") -> Table | None:
    """A metric of the paper's two methods, a row for each cell; None without any.

    Parameters
    ----------
    cells : sequence of Cell
    metric : str
    spec : str
        Format of its numbers.
    """
    rows = {
        cell.title: {
            "seeds": len(cell.values.keys() & cell.sobolev.keys()),
            "values only": shown(cell.values, metric, spec),
            "Sobolev": shown(cell.sobolev, metric, spec),
            "less by": unbroken(gain, spec) if (gain := cell.gain(metric)) else "\u2014",
        }
        for cell in cells
    }
    return Table(rows, corner="game, states") if rows else None


def teachers(records: Sequence[Record]) -> Table | None:
    """What experts and teachers reached, a row for each; None without any."""
    rows = {}
    for game, entry in GAMES.items():
        # the teacher on pixels first
        for kind, record in sorted(latest(records, game).items(), reverse=True):
            metrics = record.metrics
            half = f" \u00b1 {metrics['return_interval']:.1f}" if metrics["episodes"] > 1 else ""
            rows[f"{entry.title}, {'expert' if kind == 'memory' else 'teacher'}"] = {
                "return": f"{metrics['return_mean']:.1f}{half}".replace(" ", "\u00a0"),
                "games": metrics["episodes"],
                "aim": AIMS[game],
                "decisions": f"{record.config['steps'] / 1e6:.2f} M",
                "way": ROUTES[record.config["route"]],
            }
    return Table(rows, corner="policy") if rows else None


def reached(records: Sequence[Record]) -> str:
    """Sentence: each teacher's mean return, beside the aim; empty without any."""
    parts = [
        f"{record.metrics['return_mean']:.0f} in {entry.title} (we aimed at {AIMS[game]})"
        for game, entry in GAMES.items()
        if (record := latest(records, game).get("pixels"))
    ]
    return f"Their mean returns are {listed(parts)}." if parts else ""


def gains(cells: Sequence[Cell]) -> str:
    """Sentences: where derivatives bring the student closer, where not, and what is not settled."""
    compared = [cell for cell in cells if cell.gain("kl")]
    if not compared:
        return NOTHING if not cells else (
            "The two methods have no two seeds in common yet, so that nothing can be compared."
        )  # fmt: skip
    said = []
    for metric, name in {**DIVERGENCES, "action_error": "the part of other actions"}.items():
        signs = {cell.title: gain.sign for cell in compared if (gain := cell.gain(metric))}
        closer = [title for title, sign in signs.items() if sign > 0]
        further = [title for title, sign in signs.items() if sign < 0]
        open_ = [title for title, sign in signs.items() if not sign]
        parts = [f"smaller with derivatives in {_named(closer)}"] if closer else []
        parts += [f"larger in {_named(further)}"] if further else []
        parts += [f"not settled in {_named(open_)}"] if open_ else []
        said.append(f"{name[0].upper()}{name[1:]} is {', '.join(parts)}.")
    half = [cell.title for cell in cells if bool(cell.values) != bool(cell.sobolev)]
    if half:
        said.append(f"Only one of the two methods has been run in {_named(half)}.")
    return " ".join(said)


def count(cells: Sequence[Cell]) -> str:
    """Sentence: in how many games and fractions derivatives bring the student closer."""
    said = []
    for metric, name in DIVERGENCES.items():
        signs = [gain.sign for cell in cells if (gain := cell.gain(metric))]
        if not signs:
            return NOTHING
        smaller, larger, open_ = (signs.count(sign) or "none" for sign in (1, -1, 0))
        said.append(
            f"{name} is smaller with derivatives in {smaller}, larger in {larger} and not settled "
            f"in {open_}"
        )
    return f"Of {len(signs)} comparisons, {'; '.join(said)}."


def reach(cells: Sequence[Cell]) -> str:
    """Sentence: at which parts of the states derivatives bring each game's student closer."""
    said = []
    for metric, name in DIVERGENCES.items():
        signs: dict[str, dict[float, int]] = {}
        for cell in cells:
            if gain := cell.gain(metric):
                signs.setdefault(cell.game, {})[cell.fraction] = gain.sign
        helped = {
            GAMES[game].title: listed([f"{100 * f:g}" for f, sign in mine.items() if sign > 0])
            for game, mine in signs.items()
            if 1 in mine.values()
        }
        never = [GAMES[game].title for game, mine in signs.items() if 1 not in mine.values()]
        parts = [f"at {those} % of the states in {game}" for game, those in helped.items()]
        where = ([listed(parts)] if parts else []) + (
            [f"at no size tried in {listed(never)}"] if never else []
        )
        said += [f"by {name} {', '.join(where)}"] if where else []
    return f"Derivatives bring the student closer {'; '.join(said)}." if said else ""


def settled(cells: Sequence[Cell]) -> str:
    """Sentence: in how many runs validation had turned or was flat at the end; empty without."""
    found = [each for cell in cells for mine in (cell.values, cell.sobolev)
             for each in results.settled(mine).values()]  # fmt: skip
    if not found:
        return ""
    return (
        f"In {sum(found)} of {len(found)} runs the validation divergence had turned, or was flat, "
        "when training ended."
    )


def cost(records: Sequence[Record]) -> str:
    """Sentence: what a Sobolev step costs."""
    found = [each for game in GAMES if (each := results.cost(records, game))]
    if not found:
        return "What a step costs will stand here when both methods have records."
    ratios = [f["ratio"] for f in found]
    back = [f["back"] for f in found if f["back"] == f["back"]]
    said = (
        f"A Sobolev step took {_range(ratios)} times the processor time of a step on values where "
        "the teacher's gradients fit into memory; reading them is "
        f"{_range([f['share'] for f in found])} of a step on values."
    )
    return said + (
        f" Where each step went back through the teacher it took {_range(back)} times."
        if back
        else ""
    )


def _range(found: Sequence[float]) -> str:
    low, high = (f"{end:.2f}" for end in (min(found), max(found)))
    return low if low == high else f"{low} to {high}"


def choices(records: Sequence[Record]) -> Table | None:
    """Learning rate and alpha that the pilots chose, a row for each game and method."""
    rows = {}
    for game in GAMES:
        if not data.path(game).exists():
            continue
        for row, best in results.chosen(records, game).items():
            edge = row != "values" and best.alpha in (
                arms.SCALED.get(row, 1.0) * each for each in (min(arms.ALPHAS), max(arms.ALPHAS))
            )
            alpha = f"{best.alpha:g}{', the edge of what was tried' if edge else ''}"
            rows[f"{GAMES[game].title}, {METHODS[row]}"] = {
                "learning rate": f"{best.learning_rate:g}",
                "alpha": "\u2014" if row == "values" else alpha,
            }
    return Table(rows, corner="game, method") if rows else None


def play(cells: Sequence[Cell]) -> Table | None:
    """Returns of the students when they play, a row for each cell; None without any."""
    played = [
        cell for cell in cells
        if all("return_mean" in r.metrics for m in (cell.values, cell.sobolev) for r in m.values())
    ]  # fmt: skip
    table = fig4(played, "return_mean", ".1f")
    if table is None:
        return None
    rows = {
        name: {"values only": row["values only"], "Sobolev": row["Sobolev"]}
        for name, row in table.rows.items()
    }
    return Table(rows, corner="game, states")


def played(cells: Sequence[Cell]) -> str:
    """Sentence: where students trained on derivatives play better or worse; empty without any."""
    found: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for cell in cells:
        fewer = cell.gain("return_mean") if play([cell]) else None
        if fewer is None:
            continue
        mine, plain = (results.values(r, "return_mean") for r in (cell.sobolev, cell.values))
        apart = fewer if fewer.sign > 0 else difference(mine, plain)
        found[-fewer.sign].append(
            f"{cell.title} ({fmean(mine.values()):.1f} beside {fmean(plain.values()):.1f}, "
            f"a difference of {apart:.1f} on equal seeds)"
        )
    words = {1: "more points", -1: "fewer points"}
    parts = [f"{word} in {listed(found[sign])}" for sign, word in words.items() if found[sign]]
    said = [f"Students that were trained on derivatives get {listed(parts)}."] if parts else []
    if found[0]:
        said.append(f"Not settled: {len(found[0])} of {sum(map(len, found.values()))} comparisons.")
    return " ".join(said)


def agreement(cells: Sequence[Cell]) -> Table | None:
    """How students' gradients agree with the teacher's, a row for each cell and method."""
    columns = {
        "gradient_cosine": "cosine",
        "gradient_cosine_other": "with another state's",
        "gradient_overlap": "inside",
        "gradient_size": "size",
    }
    rows = {}
    for cell in cells:
        for name, mine in (("values only", cell.values), ("Sobolev", cell.sobolev)):
            if mine and all("gradient_cosine" in r.metrics for r in mine.values()):
                rows[f"{cell.title}, {name}"] = {
                    title: shown(mine, metric, ".2f") for metric, title in columns.items()
                }
    return Table(rows, corner="game, states, method") if rows else None


def looking(cells: Sequence[Cell]) -> str:
    """Sentences: the cosines of students' input gradients with the teacher's, and the control."""
    means = {
        name: [float(numpy.mean(list(found.values())))
               for cell in cells
               if (found := results.values(getattr(cell, method), metric))]
        for method, metric, name in (
            ("sobolev", "gradient_cosine", "derivatives"),
            ("values", "gradient_cosine", "values"),
            ("sobolev", "gradient_cosine_other", "control"),
        )
    }  # fmt: skip
    if not all(means.values()):
        return NOTHING
    ranges = {name: _range(found) for name, found in means.items()}
    several = len(means["derivatives"]) > 1
    over = "; the ranges are over games and parts of the states" if several else ""
    return (
        "On states that it has not seen, the cosine of its gradient with the teacher's is "
        f"{ranges['derivatives']} (means over seeds{over}), "
        f"against {ranges['values']} for a student trained on values only. The control, "
        f"the teacher's gradient in another state, gives {ranges['control']}."
    )


def ways(records: Sequence[Record]) -> str:
    """Sentences: how each teacher began, and where it went on; empty without any."""
    pixels = {g: mine["pixels"] for g in GAMES if "pixels" in (mine := latest(records, g))}
    beside = [GAMES[g].title for g, r in pixels.items() if r.config["route"] == "kickstart"]
    moved = [GAMES[g].title for g, r in pixels.items() if r.metrics.get("begun")]
    alone = [GAMES[g].title for g, r in pixels.items() if r.config["route"] == "ppo"]
    said = [f"In {listed(beside)} ours began beside an expert."] if beside else []
    said += [f"Training went on from there on a GPU in {listed(moved)}."] if moved else []
    said += [f"In {listed(alone)} it had nothing but pixels."] if alone else []
    return " ".join(said)


def deviations(records: Sequence[Record]) -> str:
    """List of what differs from the paper by the teachers' records, with the games concerned."""
    said: dict[str, list[str]] = {}
    found = {entry.title: mine for game, entry in GAMES.items() if (mine := latest(records, game))}
    for title, mine in found.items():
        for line in dict.fromkeys(line for record in mine.values() for line in record.deviations):
            said.setdefault(line, []).append(title)
    return "\n".join(
        f"- {_grouped(line)}{'' if len(titles) == len(found) else f' ({listed(titles)})'}"
        for line, titles in said.items()
    )


def _grouped(text: str) -> str:
    """Put commas into long numbers."""
    return re.sub(r"\d{5,}", lambda found: f"{int(found[0]):,}", text)


def uniform(shares: Mapping[str, float]) -> str:
    """Sentence: in how many of the states each teacher's policy is nearly uniform."""
    if not shares:
        return "No teacher has been trained yet."
    parts = [f"{share:.0%} of the states in {GAMES[game].title}" for game, share in shares.items()]
    return f"The entropy is above {UNIFORM:.0%} of that of a uniform policy in {listed(parts)}."


def origin(recorded: Mapping[str, bool]) -> str:
    """Sentence: which games were replayed from a recording, and which were played for the page."""
    kept = [GAMES[game].title for game, there in recorded.items() if there]
    live = [GAMES[game].title for game, there in recorded.items() if not there]
    said = [f"Replayed from the committed recording: {listed(kept)}."] if kept else []
    said += [f"Played by the teacher while this page was built: {listed(live)}."] if live else []
    return " ".join(said) or "No teacher has been trained yet."


def _named(titles: Sequence[str]) -> str:
    return listed([f"{title}".replace(", ", " at ") for title in titles])
