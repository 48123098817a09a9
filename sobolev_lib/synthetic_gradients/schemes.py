"""The schemes of Table 1 as data, and the figure drawn from them.

One data structure, `SCHEMES`, holds for each way of training the nodes, the arrows, what the main
network supervises, and what happens in which phase of a training step.  The figure, its text
alternative and the widget `sobolev_lib.widgets.schemes` all read it.

For example:

>>> from sobolev_lib.synthetic_gradients import schemes
>>> schemes.SCHEMES["critic"].supervised
('m',)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from sobolev_lib.figures.style import COLOURS, figure
from sobolev_lib.records.summary import listed
from sobolev_lib.records.table import Table

INK = "#222222"
_PALE = "#CDEBE1"  # green, light: the paper's shading
_HALF = 0.24  # half the height of a node
_GAP = 0.06  # between a node and the tip of an arrow
_ASIDE = 0.16  # how far a gradient runs beside the forward arrow


@dataclass(frozen=True)
class Kind:
    """How a kind of arrow looks, in the figure and in the widget.

    ``dash`` holds lengths of strokes and gaps (empty for a solid line), in points as ``width``.
    """

    label: str
    colour: str
    dash: tuple[float, ...]
    width: float


#: Kinds of arrow: no two differ in colour alone.
KINDS: dict[str, Kind] = {
    "forward": Kind("Forward", "#777777", (), 1.1),
    "true": Kind("True gradient", COLOURS["values"], (), 2.4),
    "synthetic": Kind("Synthetic gradient", COLOURS["sobolev"], (4.5, 2.0), 2.0),
    "target": Kind("Target for the module", COLOURS["kernel"], (1.2, 1.6), 2.2),
}

#: The phases of one training step.
PHASES: tuple[str, ...] = ("Forward pass", "Prediction", "Lower segment", "True signal", "Module")


@dataclass(frozen=True)
class Node:
    """A quantity; its box, or the dot that stands for the parameters of a segment.

    Attributes
    ----------
    name, plain, math : str
        By which arrows refer to it; as text, ``_`` before a subscript; as a formula for matplotlib.
    x, y : float
        Centre; the input of the network is at the bottom.
    module : bool
        Whether it belongs to the synthetic gradient module.
    """

    name: str
    plain: str
    math: str
    x: float
    y: float
    module: bool = False

    @property
    def half_width(self) -> float:
        """Half the width of the box."""
        return 0.05 if self.is_dot else 0.17 + 0.062 * len(self.plain.replace("_", ""))

    @property
    def half_height(self) -> float:
        """Half the height of the box."""
        return 0.05 if self.is_dot else _HALF

    @property
    def is_dot(self) -> bool:
        """Whether it marks the parameters of a segment."""
        return self.name in ("lower", "upper")


@dataclass(frozen=True)
class Arrow:
    """Something that flows: a kind of `KINDS` between two nodes, in phases from 1 to 5.

    ``aside`` shifts it to the left of its direction, in units of the drawing.
    """

    start: str
    end: str
    kind: str
    phases: tuple[int, ...]
    aside: float = 0.0


@dataclass(frozen=True)
class Scheme:
    """One way of training the part of a network below a split.

    Attributes
    ----------
    key : str
        As in `sobolev_lib.synthetic_gradients.MODES`.
    supervised : tuple of str
        Nodes of the module that are compared with an object of the main network.
    loss : str
        What the module minimises, as text.
    sentences : tuple of str
        What happens in each of the `PHASES`.
    """

    key: str
    title: str
    nodes: tuple[Node, ...]
    arrows: tuple[Arrow, ...]
    supervised: tuple[str, ...]
    loss: str
    sentences: tuple[str, ...]

    def node(self, name: str) -> Node:
        """The node of that name."""
        return {node.name: node for node in self.nodes}[name]

    def inputs(self) -> list[str]:
        """What the module gets from outside, as text: h, y, or nothing."""
        inside = {node.name for node in self.nodes if node.module}
        into = [
            a.start
            for a in self.arrows
            if a.kind == "forward" and a.end in inside and a.start not in inside
        ]
        return sorted({self.node(name).plain for name in into})

    def active(self, phase: int) -> list[str]:
        """Names of the nodes that take part in a phase (1 to 5)."""
        ends = {name for a in self.arrows if phase in a.phases for name in (a.start, a.end)}
        if phase == len(PHASES) and self.loss:
            ends |= {node.name for node in self.nodes if node.module}
        return [node.name for node in self.nodes if node.name in ends]

    def as_dict(self) -> dict[str, Any]:
        """Everything the widget needs to draw it, as JSON types."""
        nodes = [
            {
                "name": n.name, "text": n.plain, "x": n.x, "y": n.y, "dot": n.is_dot,
                "w": n.half_width, "h": n.half_height, "supervised": n.name in self.supervised,
            }
            for n in self.nodes
        ]  # fmt: skip
        arrows = [
            {"kind": a.kind, "phases": list(a.phases), "line": segment(self, a)}
            for a in self.arrows
        ]
        return {
            "key": self.key, "title": self.title, "nodes": nodes, "arrows": arrows,
            "active": [self.active(k + 1) for k in range(len(PHASES))],
            "sentences": list(self.sentences), "description": describe(self),
        }  # fmt: skip


# --- the seven schemes ---------------------------------------------------------------------------

_LEFT, _RIGHT = 0.0, 2.5
_ROWS = (0.0, 1.35, 2.7, 3.75)

_MAIN = (
    Node("x", "x", "$x$", _LEFT, _ROWS[0]),
    Node("lower", "Θ", r"$\Theta$", _LEFT, _ROWS[1] / 2),
    Node("h", "h", "$h$", _LEFT, _ROWS[1]),
    Node("upper", "", "", _LEFT, (_ROWS[1] + _ROWS[2]) / 2),
    Node("p_h", "p_h", "$p_h$", _LEFT, _ROWS[2]),
    Node("L", "L", "$L$", _LEFT, _ROWS[3]),
    Node("y", "y", "$y$", _RIGHT / 2, 4.45),
)
_FORWARD = (
    Arrow("x", "h", "forward", (1,)),
    Arrow("h", "p_h", "forward", (1,)),
    Arrow("p_h", "L", "forward", (1,)),
    Arrow("y", "L", "forward", (1,)),
)
_STRAIGHT = (Node("SG", "SG(h, y | θ)", r"$SG(h, y\,|\,\theta)$", _RIGHT, _ROWS[1], module=True),)
_PREDICTOR = (
    Node("p", "p(h | θ)", r"$p(h\,|\,\theta)$", _RIGHT, _ROWS[2], module=True),
    Node("m", "m", "$m$", _RIGHT, _ROWS[3], module=True),
    Node("SG", "∂m/∂h", r"$\partial m/\partial h$", _RIGHT, _ROWS[1], module=True),
)
_STRAIGHT_ARROWS = (Arrow("h", "SG", "forward", (2,), _ASIDE), Arrow("y", "SG", "forward", (2,)))
_PREDICTOR_ARROWS = (
    Arrow("h", "p", "forward", (2,)),
    Arrow("p", "m", "forward", (2,)),
    Arrow("y", "m", "forward", (2,)),
    Arrow("m", "p", "synthetic", (2,), _ASIDE),
    Arrow("p", "SG", "synthetic", (2,), _ASIDE),
)
_SEND = Arrow("SG", "lower", "synthetic", (3,))

_S1 = "The batch runs from x through h to the prediction p_h, and with the labels y to the loss L."
_S2 = "From h and y the module makes the class prediction p(h | θ), its loss m, and the slope of m."
_S3 = "The slope ∂m/∂h takes the place of the true gradient: Θ can move without waiting."
_S4 = "The true gradient trains the upper segment"


def _true(reach: str) -> tuple[Arrow, ...]:
    """The true gradient, down to the upper segment's parameters, to h, or to all of the network."""
    path = {
        "upper": ("L", "p_h", "upper"),
        "h": ("L", "p_h", "h"),
        "lower": ("L", "p_h", "h", "lower"),
    }[reach]
    # To the left of the column: the direction is down, so its right.
    return tuple(Arrow(a, b, "true", (4,), -_ASIDE) for a, b in itertools.pairwise(path))


def _targets(supervised: Iterable[str], straight: bool) -> tuple[Arrow, ...]:
    """From L to m, from the gradient that arrives at h to the synthetic one."""
    sources = {"m": "L", "SG": "h"}
    aside = -_ASIDE if straight else 0.0  # there the arrow from h into the module runs beside it
    return tuple(Arrow(sources[name], name, "target", (4, 5), aside) for name in supervised)


def _with_module(
    key: str, title: str, supervised: tuple[str, ...], loss: str, *sentences: str,
    straight: bool = False,
) -> Scheme:  # fmt: skip
    """The last sentences; a module that is not straight shares the others."""
    nodes = _STRAIGHT if straight else _PREDICTOR
    arrows = _STRAIGHT_ARROWS if straight else _PREDICTOR_ARROWS
    reach = "h" if "SG" in supervised else "upper"
    whole = (*_FORWARD, *arrows, _SEND, *_true(reach), *_targets(supervised, straight))
    said = ((_S1,) if straight else (_S1, _S2, _S3)) + sentences
    return Scheme(key, title, _MAIN + nodes, whole, supervised, loss, said)


def _without_module(key: str, title: str, reach: str, *sentences: str) -> Scheme:
    """The sentences on the lower segment and on the true signal."""
    none = "There is no module, so there is nothing to predict."
    said = (_S1, none, *sentences, "There is no module to train.")
    return Scheme(key, title, _MAIN, _FORWARD + _true(reach), (), "", said)


#: The five schemes of Table 1 between the two controls, by their keys in the library.
SCHEMES: dict[str, Scheme] = {
    scheme.key: scheme
    for scheme in (
        _without_module(
            "backprop", "Backpropagation", "lower",
            "Θ has to wait: nothing below the split moves until the gradient comes back.",
            "The true gradient runs from L all the way down, and only now can Θ move.",
        ),
        _without_module(
            "noprop", "Noprop", "upper",
            "No gradient goes below the split: Θ keeps its random start.",
            f"{_S4}, and stops there.",
        ),
        _with_module(
            "direct", "Direct SG", ("SG",), "ℓ(SG, ∂L/∂h)",
            "A network turns h and y straight into a gradient. No loss stands behind it.",
            "Its output takes the place of the true gradient: Θ can move without waiting.",
            f"{_S4} and goes on to h. There it is the target of SG; it goes no further.",
            "θ moves to bring SG closer to ∂L/∂h.",
            straight=True,
        ),
        _with_module(
            "vfbn", "VFBN", ("SG",), "ℓ(∂m/∂h, ∂L/∂h)",
            f"{_S4} and goes on to h. There it is the target of ∂m/∂h; it goes no further.",
            "θ moves to bring the slope ∂m/∂h closer to ∂L/∂h. The value of m may be anything.",
        ),
        _with_module(
            "critic", "Critic", ("m",), "ℓ(m, L)",
            f"{_S4}. The loss L is the target of m; no gradient is needed at h.",
            "θ moves to bring the value m closer to L. Its slope is used, but never compared.",
        ),
        _with_module(
            "sobolev", "Sobolev", ("m", "SG"), "ℓ(m, L) + ℓ₁(∂m/∂h, ∂L/∂h)",
            f"{_S4} and goes on to h. L is the target of m, and ∂L/∂h that of ∂m/∂h.",
            "θ moves to bring both closer: m to L, and ∂m/∂h to ∂L/∂h.",
        ),
        _with_module(
            "local_ce", "Local CE", (), "m",
            f"{_S4}. The module gets nothing of it.",
            "θ moves to make m itself small: the module is a classifier of its own, trained on y.",
        ),
    )
}  # fmt: skip


# --- in words -----------------------------------------------------------------------------------


def _into_lower(scheme: Scheme) -> str:
    found = [a for a in scheme.arrows if a.end == "lower" and a.kind != "forward"]
    if not found:
        return "nothing"
    return "the true gradient" if found[0].kind == "true" else scheme.node(found[0].start).plain


def describe(scheme: Scheme) -> str:
    """What the diagram of a scheme shows, in words; made from its nodes and arrows."""
    module = [node.plain for node in scheme.nodes if node.module]
    has = (
        f"the module gets {listed(scheme.inputs())}, and makes {listed(module)}"
        if module
        else "no module"
    )
    into = _into_lower(scheme)
    goes = f"{into[0].upper()}{into[1:]} goes into the lower segment Θ."
    if not module:
        return f"{scheme.title}: {has}. {goes}"
    names = [scheme.node(name).plain for name in scheme.supervised] or ["nothing"]
    return f"{scheme.title}: {has}. {goes} The main network supervises {listed(names)}."


def table() -> Table:
    """The schemes as a table: what goes into the module, what comes out, what it is trained on."""
    none = "–"
    return Table(
        {
            scheme.title: {
                "module gets": listed(scheme.inputs() or [none]),
                "Θ gets": _into_lower(scheme),
                "supervised": listed([scheme.node(n).plain for n in scheme.supervised] or [none]),
                "module minimises": scheme.loss or none,
            }
            for scheme in SCHEMES.values()
        },
        corner="scheme",
    )


# --- geometry and drawing -----------------------------------------------------------------------


def _leave(node: Node, at: tuple[float, float], way: tuple[float, float]) -> float:
    """Distance along the unit vector `way` from `at` until the padded box of a node is left."""
    reach = [math.inf, math.inf]
    sizes = (node.half_width + _GAP, node.half_height + _GAP)
    for i, (centre, half) in enumerate(zip((node.x, node.y), sizes, strict=True)):
        if way[i]:
            reach[i] = (centre - at[i] + math.copysign(half, way[i])) / way[i]
    return min(reach)


def segment(scheme: Scheme, arrow: Arrow) -> tuple[float, float, float, float]:
    """Ends (x0, y0, x1, y1) of an arrow, from the edge of one node to that of the other."""
    a, b = scheme.node(arrow.start), scheme.node(arrow.end)
    dx, dy = b.x - a.x, b.y - a.y
    length = math.hypot(dx, dy)
    way = (dx / length, dy / length)
    shift = (-way[1] * arrow.aside, way[0] * arrow.aside)
    start, end = (a.x + shift[0], a.y + shift[1]), (b.x + shift[0], b.y + shift[1])
    first = max(0.0, _leave(a, start, way))
    last = max(0.0, _leave(b, end, (-way[0], -way[1])))
    return (
        round(start[0] + first * way[0], 4),
        round(start[1] + first * way[1], 4),
        round(end[0] - last * way[0], 4),
        round(end[1] - last * way[1], 4),
    )


def _dashes(kind: Kind) -> Any:
    return (0, kind.dash) if kind.dash else "-"


def _box(ax: Axes, node: Node, supervised: bool) -> None:
    if node.is_dot:
        ax.plot(node.x, node.y, "o", color=INK, markersize=4, zorder=4)
        ax.text(node.x - 0.33, node.y, node.math, ha="right", va="center", fontsize=10)
        return
    pad = 0.06
    ax.add_patch(
        FancyBboxPatch(
            (node.x - node.half_width + pad, node.y - node.half_height + pad),
            2 * (node.half_width - pad), 2 * (node.half_height - pad),
            boxstyle=f"round,pad={pad},rounding_size=0.1",
            facecolor=_PALE if supervised else "white",
            edgecolor=COLOURS["kernel"] if supervised else "#777777",
            linewidth=3.0 if supervised else 1.0, zorder=3,
        )
    )  # fmt: skip
    ax.text(node.x, node.y, node.math, ha="center", va="center", fontsize=9.5, zorder=5)


def draw(scheme: Scheme, ax: Axes) -> None:
    """Draw one scheme, with its title."""
    for arrow in scheme.arrows:
        kind = KINDS[arrow.kind]
        x0, y0, x1, y1 = segment(scheme, arrow)
        ax.add_patch(
            FancyArrowPatch(
                (x0, y0), (x1, y1), shrinkA=0, shrinkB=0, arrowstyle="-|>", mutation_scale=10,
                color=kind.colour, linewidth=kind.width, linestyle=_dashes(kind), zorder=2,
            )
        )  # fmt: skip
    for node in scheme.nodes:
        _box(ax, node, node.name in scheme.supervised)
    ax.set(xlim=(-0.75, 3.45), ylim=(-0.35, 4.75), aspect="equal")
    ax.set_title(scheme.title)
    ax.axis("off")


def _legend(ax: Axes) -> None:
    handles: list[Any] = [
        Line2D([], [], color=k.colour, linewidth=k.width, linestyle=_dashes(k), label=k.label)
        for k in KINDS.values()
    ]
    handles += [
        Line2D([], [], color=INK, marker="o", markersize=4, linestyle="", label="Parameters"),
        Patch(
            facecolor=_PALE, edgecolor=COLOURS["kernel"], linewidth=3.0,
            label="Supervised by the\nmain network",
        ),
    ]  # fmt: skip
    ax.legend(handles=handles, loc="center left", handlelength=3.2, labelspacing=1.1)
    ax.axis("off")


def draw_schemes() -> Figure:
    """Table 1's diagrams: the five schemes and the two controls, with a legend."""
    fig, axes = figure(3, 3, width=6.8, height=2.75 * 3)
    *panels, last, empty = axes.flat
    for ax, scheme in zip(panels, SCHEMES.values(), strict=True):
        draw(scheme, ax)
    _legend(last)
    empty.remove()
    return fig
