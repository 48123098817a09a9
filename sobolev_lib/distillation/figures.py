"""Figures of section 4.2: learning curves of teachers, Fig. 4, controls, gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from sobolev_lib.figures import marks, style
from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import Interval, interval

from . import results
from .controls import LABELS, Control
from .games import GAMES
from .results import Cell

METHODS = ("values", "sobolev")
LOOKS = {"memory": "kriging", "pixels": "critic"}
NAMES = {
    "kl": "KL(teacher, student)",
    "kl_reverse": "KL(student, teacher)",
    "action_error": "Other action, part of the states",
}


def over_seeds(rows: NDArray[numpy.float64]) -> list[Interval]:
    """Intervals over seeds of each column; of one seed, that seed without a width."""
    if len(rows) == 1:
        return [Interval(v, v, v, 1) for v in rows[0].tolist()]
    return [interval(column) for column in rows.T]


def fig4(cells: Sequence[Cell], metric: str) -> Figure:
    """Fig. 4: a metric on test states over training, a panel for each game and fraction.

    Parameters
    ----------
    cells : sequence of Cell
    metric : str
        A key of :data:`NAMES`.

    Raises
    ------
    ValueError
        If there is no cell, or the metric is unknown.
    """
    if not cells or metric not in NAMES:
        raise ValueError(f"cells is {len(cells)} long, metric {metric!r}: nothing can be drawn")
    height = 2.0 * -(-len(cells) // marks.COLUMNS) + 0.5
    fig, axes = marks.grid(len(cells), width="wide", height=height)
    for place, (ax, cell) in enumerate(zip(axes, cells, strict=True)):
        ax.set_title(cell.title)
        if place % marks.COLUMNS == 0:
            ax.set_ylabel(NAMES[metric].replace("action, ", "action,\n"))
        if place + marks.COLUMNS >= len(cells):
            ax.set_xlabel("Updates")
        for method, mine in (("values", cell.values), ("sobolev", cell.sobolev)):
            if mine:
                updates, found = results.curves(mine, metric)
                marks.band(ax, updates, over_seeds(found), method)
        _from_zero(ax)
    lines = [Line2D([], [], color=marks.look(name)["color"]) for name in METHODS]
    fig.legend(lines, [style.LABELS[name] for name in METHODS], loc="outside lower center", ncols=2)
    return fig


def _from_zero(ax: Axes) -> None:
    ax.set_ylim(0, 1.07 * ax.dataLim.y1)


def live(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Two metrics of one seed over training, a line for each method."""
    fig, axes = style.figure(1, 2, height=2.9)
    for ax, metric in zip(axes, ("kl", "action_error"), strict=True):
        for method, curve in curves.items():
            ax.plot(
                curve["update"], curve[metric], **marks.look(method), label=style.LABELS[method]
            )
        ax.set_title(NAMES[metric], fontsize=9)
        ax.set_xlabel("Updates")
        _from_zero(ax)
    axes[0].legend(loc="lower left")
    return fig


def controls(found: Sequence[Control]) -> Figure | None:
    """Divergence at the end with the paper's two methods and the controls, a panel a game.

    Parameters
    ----------
    found : sequence of Control
        Of :func:`.controls.collect`; without any the figure is None.
    """
    if not found:
        return None
    order, games = ["paper", *LABELS], list(dict.fromkeys(each.game for each in found))
    lines = sorted(found, key=lambda each: order.index(each.arm))[::-1]
    place = {label: i for i, label in enumerate(dict.fromkeys(each.label for each in lines))}
    height = 0.3 * len(place) + 0.9
    fig, grid = style.figure(1, len(games), width="wide", height=height, sharey=True, squeeze=False)
    for ax, game in zip(grid[0], games, strict=True):
        for each in (each for each in lines if each.game == game):
            at, method = place[each.label], each.settings.method
            every = list(results.values(each.runs, "kl").values())
            marks.dots(ax, at, every, method, horizontal=True)
            marks.interval(ax, at, results.mean(each.runs, "kl"), method, horizontal=True)
        ax.set_title(GAMES[game].title)
        ax.set_xlabel(NAMES["kl"])
        ax.set_xlim(left=0)
    grid[0][0].set_yticks(list(place.values()), list(place))
    return fig


def learning(records: Sequence[Record]) -> Figure:
    """Return over decisions of experts and teachers, a panel for each game.

    Parameters
    ----------
    records : sequence of Record
        Of the experiment ``teacher``; of one training the one with the most decisions is drawn.
    """
    fig, axes, last = marks.panels(
        [game.title for game in GAMES.values()], "Decisions, millions", "Return", 4.4,
        columns=2, width="text",
    )  # fmt: skip
    for ax, game in zip(axes, GAMES, strict=True):
        for kind, record in latest(records, game).items():
            steps, found = _curve(records, record)
            marks.band(ax, numpy.array(steps) / 1e6, found, LOOKS[kind])
    texts = {LOOKS["memory"]: "Expert on memory", LOOKS["pixels"]: "Teacher on pixels"}
    marks.key(last, texts, "Games of each stretch of training,\nband: 95 % interval.", marker=False)
    return fig


def _curve(records: Sequence[Record], record: Record) -> tuple[list[int], list[Interval]]:
    """Decisions and returns of a training, with those of the one that it went on from."""
    curve, before = record.metrics["curve"], record.metrics.get("begun", {}).get("steps", 0)
    steps, found = [before + s for s in curve["steps"]], []
    for centre, half, count in zip(
        curve["return_mean"], curve["return_interval"], curve["episodes"], strict=True
    ):
        found.append(Interval(centre, centre - half, centre + half, count))
    for other in records if before else ():
        same = other.config["game"] == record.config["game"] and other.config["steps"] == before
        if same and other.config["route"] == record.config["route"]:
            first = _curve(records, other)
            return first[0] + steps, first[1] + found
    return steps, found


def entropies(spread: Mapping[str, NDArray[numpy.float32]]) -> Figure:
    """Histograms of normalised entropies over states, a panel for each game.

    Parameters
    ----------
    spread : mapping
        From a game to the entropies (states,).
    """
    fig, grid = style.figure(1, max(len(spread), 1), height=2.3, squeeze=False, sharey=True)
    for ax, (game, each) in zip(grid[0], spread.items(), strict=False):
        ax.hist(each, numpy.linspace(0, 1, 26), weights=numpy.full(len(each), 100 / len(each)))
        ax.set_title(GAMES[game].title)
        ax.set_xlabel("Entropy, 1: uniform")
    grid[0][0].set_ylabel("States, %")
    return fig


def latest(records: Sequence[Record], game: str) -> dict[str, Record]:
    """Records of a game's expert ("memory") and teacher ("pixels") with the most decisions."""
    found: dict[str, Record] = {}
    for record in records:
        kind = "memory" if record.config["route"] == "memory" else "pixels"
        if record.config["game"] != game:
            continue
        if kind not in found or record.config["steps"] > found[kind].config["steps"]:
            found[kind] = record
    return found


def agreement(cells: Sequence[Cell]) -> Figure:
    """The cosine of :func:`.looking.agreement`, a row for each cell."""
    fig, ax = style.figure(height=0.55 * len(cells) + 1.0)
    for place, cell in enumerate(reversed(cells)):
        for shift, method, mine in (
            (0.15, "values", cell.values),
            (-0.15, "sobolev", cell.sobolev),
        ):
            found = results.values(mine, "gradient_cosine")
            marks.dots(ax, place + shift, list(found.values()), method, horizontal=True)
            mean = results.mean(mine, "gradient_cosine")
            marks.interval(ax, place + shift, mean, method, horizontal=True)
    ax.set_yticks(range(len(cells)), [cell.title for cell in reversed(cells)])
    marks.line_at_zero(ax, vertical=True)
    for method in METHODS:
        ax.plot([], [], **marks.look(method), label=style.LABELS[method])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.6 / (len(cells) + 1)), ncols=2)
    ax.set_xlabel("Cosine of input gradients, student and teacher")
    return fig


def looks(frames: NDArray[numpy.uint8], gradients: Mapping[str, NDArray[numpy.float32]]) -> Figure:
    """Frames, and beside them where each policy looks: a column for each.

    Parameters
    ----------
    frames : (n, 84, 84) uint8
    gradients : mapping
        From the name of a policy to input gradients (n, 4, 84, 84).
    """
    rows, columns = len(frames), 1 + len(gradients)
    fig, grid = style.figure(
        rows, columns, width="text", height=6.8 / columns * rows + 0.3, squeeze=False
    )
    for row in range(rows):
        pictures = {"What is seen": frames[row] / 255.0} | {
            name: heat(each[row]) for name, each in gradients.items()
        }
        for ax, (name, picture) in zip(grid[row], pictures.items(), strict=True):
            shades = "gray" if name == "What is seen" else "inferno"
            ax.imshow(picture, cmap=shades, vmin=0, vmax=1, interpolation="none")  # 84 x 84 pixels
            ax.set_axis_off()
            if row == 0:
                ax.set_title(name, fontsize=9)
    return fig


def heat(gradient: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
    """Size of a gradient (4, 84, 84) over the four frames, from 0 to 1; the top per mille at 1."""
    size = numpy.sqrt((gradient.astype(numpy.float64) ** 2).sum(0))
    return numpy.clip(size / max(numpy.quantile(size, 0.999), 1e-30), 0, 1).astype(numpy.float32)
