"""Fig. 1 of the paper, drawn from the graph that PyTorch records.

The diagrams are not drawn by hand: `record` evaluates a `SobolevLoss` on a small network, walks the
graph of the result from node to node, and notes for each operation whether it computes the value,
a derivative or the loss. `summary` merges the operations of one role and gives the paper's figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor, nn

from sobolev_lib.checks import nodes_behind
from sobolev_lib.figures.style import COLOURS, figure
from sobolev_lib.loss import SobolevLoss

_INK = "#222222"
_COLOURS = {
    "x": "#BBBBBB",
    "parameters": "#777777",
    "value": COLOURS["values"],
    "derivative 1": COLOURS["sobolev"],
    "derivative 2": "#8A3D00",
    "loss": COLOURS["kernel"],
}


@dataclass(frozen=True)
class Graph:
    """The operations behind a tensor.

    Attributes
    ----------
    names : list of str
        What PyTorch calls each operation.
    roles : list of str
        "x", "parameters", "value", "derivative j", "loss j" or "total".
    edges : list of (int, int)
        From the operation that makes a number to the one that uses it.
    """

    names: list[str]
    roles: list[str]
    edges: list[tuple[int, int]]

    def count(self, role: str) -> int:
        """The number of operations with this role."""
        return self.roles.count(role)


def operations(tensor: Tensor) -> int:
    """Number of operations, leaves included, that PyTorch recorded for a tensor; 0: a constant."""
    return len(nodes_behind(tensor))


def record(
    loss: SobolevLoss, model: nn.Module, x: Tensor, y: Tensor, dy: Sequence[Tensor]
) -> Graph:
    """Walk the graph of a Sobolev loss, from the total to the leaves (input and parameters).

    Parameters
    ----------
    loss : SobolevLoss
        With one draw if it has projections.
    model : nn.Module
        A model with parameters.
    x, y, dy
        A batch, as the loss takes it; `dy` is a sequence.
    """
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(j: int, element: Any) -> Any:
        def watched(prediction: Tensor, target: Tensor) -> Tensor:
            errors = element(prediction, target)
            seen[j] = prediction, errors
            return errors

        return watched

    elements = loss.losses
    loss.losses = [watch(j, element) for j, element in enumerate(elements)]
    try:
        total, _ = loss(model, x, y, dy)
    finally:
        loss.losses = elements
    return _with_roles(total, seen, {id(p) for p in model.parameters()})


def _with_roles(
    total: Tensor, seen: dict[int, tuple[Tensor, Tensor]], parameters: set[int]
) -> Graph:
    nodes = nodes_behind(total)
    roles: dict[Any, str] = {}
    for node in nodes:
        if hasattr(node, "variable"):  # a leaf
            roles[node] = "parameters" if id(node.variable) in parameters else "x"
    for j, (prediction, _) in sorted(seen.items()):
        for node in nodes_behind(prediction):
            roles.setdefault(node, f"derivative {j}" if j else "value")
    for j, (_, errors) in sorted(seen.items()):
        for node in nodes_behind(errors):
            roles.setdefault(node, f"loss {j}")
    number = {node: i for i, node in enumerate(nodes)}
    edges = sorted(
        {
            (number[parent], number[node])
            for node in nodes
            for parent, _ in node.next_functions
            if parent is not None
        }
    )
    names = [node.name() for node in nodes]
    return Graph(names, [roles.get(node, "total") for node in nodes], edges)


def loss_graph(order: int = 2, projections: int | None = None) -> Graph:
    """The graph of the loss of a tanh network 2-3-1, or with projections 2-3-3."""
    out = 1 if projections is None else 3
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, out))
    x = torch.randn(4, 2, generator=generator)
    targets = [torch.randn(4, out, *[2] * j, generator=generator) for j in range(order + 1)]
    loss = SobolevLoss(order, projections=projections, generator=generator)
    return record(loss, model, x, targets[0], targets[1:])


def summary(graph: Graph) -> set[tuple[str, str]]:
    """The arrows (from, to) between roles: the graph with all operations of one role merged."""
    pairs = {(graph.roles[a], graph.roles[b]) for a, b in graph.edges}
    return {(a, b) for a, b in pairs if a != b}


# --- drawing ------------------------------------------------------------------------------------


def _colour(role: str) -> str:
    return _COLOURS.get("loss" if role.startswith("loss") or role == "total" else role, "#999999")


def _text(role: str, projected: bool) -> str:
    order = role[-1]
    if role == "x":
        return "$x$"
    if role == "parameters":
        return r"$\theta$"
    if role == "value":
        return "$m(x)$"
    if role == "total":
        return "sum"
    if role.startswith("loss"):
        return r"$\ell$" if order == "0" else rf"$\ell_{order}$"
    inner = "D m" if order == "1" else f"D^{order} m"
    if not projected:
        return f"${inner}$"
    directions = "v" if order == "1" else r"v \otimes u"
    return rf"$\langle {inner}, {directions} \rangle$"


def _box(
    ax: Axes, at: tuple[float, float], text: str, colour: str, dashed: bool = False
) -> FancyBboxPatch:
    half = 0.16 + 0.078 * len(_plain(text))
    box = FancyBboxPatch(
        (at[0] - half, at[1] - 0.17), 2 * half, 0.34,
        boxstyle="round,pad=0.02,rounding_size=0.1",
        facecolor="white", edgecolor=colour, linewidth=1.2 if dashed else 2.2,
        linestyle="--" if dashed else "-", zorder=3,
    )  # fmt: skip
    ax.add_patch(box)
    ax.text(*at, text, ha="center", va="center", fontsize=10, color=_INK, zorder=4)
    return box


def _plain(text: str) -> str:
    """About as many characters as the formula shows."""
    for code in (r"\langle", r"\rangle", r"\otimes", r"\theta", r"\ell"):
        text = text.replace(code, "o")
    return "".join(c for c in text if c not in "${}^_ ")


def _arrow(
    ax: Axes, a: FancyBboxPatch, b: FancyBboxPatch, bent: float = 0.0, dashed: bool = False
) -> None:
    ends = [(p.get_x() + p.get_width() / 2, p.get_y() + p.get_height() / 2) for p in (a, b)]
    ax.add_patch(
        FancyArrowPatch(
            *ends, patchA=a, patchB=b, shrinkA=1, shrinkB=1, connectionstyle=f"arc3,rad={bent}",
            arrowstyle="-|>", mutation_scale=11, color="#555555", lw=0.9 if dashed else 1.2,
            linestyle="--" if dashed else "-", zorder=2,
        )
    )  # fmt: skip


def draw_summary(graph: Graph, ax: Axes, projected: bool = False) -> None:
    """Draw the merged graph: Fig. 1a, or Fig. 1b for a projected loss.

    Solid boxes and arrows are in the recorded graph: the error flows back along the arrows. Dashed
    ones are constants of the batch, which autograd does not record.  If `projected`, the
    derivatives are written as projections, beside their directions.
    """
    orders = sorted(int(role[-1]) for role in set(graph.roles) if role.startswith("loss"))
    middle = 0.9 * orders[-1] + 0.9
    place = {"x": (0.0, 0.5), "parameters": (0.0, -0.5), "total": (6.0, middle - 0.2)}
    for j in orders:
        place[f"derivative {j}" if j else "value"] = (1.9, 1.8 * j)
        place[f"loss {j}"] = (4.0, 1.8 * j + 0.5)
    boxes = {
        role: _box(ax, at, _text(role, projected), _colour(role))
        for role, at in place.items()
        if role in graph.roles
    }
    for a, b in sorted(summary(graph)):
        _arrow(ax, boxes[a], boxes[b], 0.45 if (a, b) == ("value", "derivative 2") else 0.0)
    for j in orders:
        name = "$f(x)$" if j == 0 else _text(f"derivative {j}", projected).replace(" m", " f")
        target = _box(ax, (4.0, 1.8 * j - 0.42), name, COLOURS["truth"], dashed=True)
        _arrow(ax, target, boxes[f"loss {j}"], dashed=True)
        if projected and j:
            name = "$v$" if j == 1 else "$u$"
            direction = _box(ax, (0.55, 1.8 * j - 0.1), name, COLOURS["truth"], dashed=True)
            _arrow(ax, direction, boxes[f"derivative {j}"], dashed=True)
    ax.set(xlim=(-0.5, 6.5), ylim=(-0.85, 1.8 * orders[-1] + 0.8), aspect="equal")
    ax.axis("off")


def _ranks(graph: Graph) -> list[int]:
    """Longest path from a leaf to each operation."""
    parents: dict[int, list[int]] = {}
    for a, b in graph.edges:
        parents.setdefault(b, []).append(a)
    rank: dict[int, int] = {}

    def depth(node: int) -> int:
        if node not in rank:
            rank[node] = 1 + max((depth(parent) for parent in parents.get(node, [])), default=-1)
        return rank[node]

    return [depth(node) for node in range(len(graph.names))]


def _positions(graph: Graph) -> np.ndarray:
    """Layers by longest path; within a layer each node is drawn towards its neighbours."""
    rank = np.array(_ranks(graph))
    across = np.zeros(len(rank))
    for layer in range(rank.max() + 1):
        members = np.flatnonzero(rank == layer)
        across[members] = np.arange(len(members)) - (len(members) - 1) / 2
    neighbours: list[list[int]] = [[] for _ in rank]
    for a, b in graph.edges:
        neighbours[a].append(b)
        neighbours[b].append(a)
    for _ in range(40):
        wish = np.array([np.mean(across[near]) for near in neighbours])
        for layer in range(rank.max() + 1):
            members = np.flatnonzero(rank == layer)
            ordered = members[np.argsort(wish[members], kind="stable")]
            spread = np.arange(len(members)) - (len(members) - 1) / 2
            across[ordered] = spread + wish[members].mean()
    return np.stack([rank.astype(float), across], 1)


def draw_operations(graph: Graph, ax: Axes) -> None:
    """Draw every recorded operation as a dot, coloured by its role; numbers flow to the right."""
    at = _positions(graph)
    for a, b in graph.edges:
        arrow = FancyArrowPatch(
            at[a], at[b], arrowstyle="-|>", mutation_scale=5, color="#BBBBBB", lw=0.6,
            shrinkA=3, shrinkB=3, zorder=1,
        )  # fmt: skip
        ax.add_patch(arrow)
    groups: dict[str, list[int]] = {}
    for node, role in enumerate(graph.roles):
        merged = "loss" if role == "total" or role.startswith("loss") else role
        groups.setdefault(merged, []).append(node)
    shapes = {"x": "s", "parameters": "s", "value": "o", "loss": "D"}
    for role in (r for r in _COLOURS if r in groups):
        dots = at[groups[role]]
        ax.scatter(
            dots[:, 0], dots[:, 1], s=26, color=_COLOURS[role], zorder=3,
            marker=shapes.get(role, "^"), label=f"{role}: {len(dots)}",
        )  # fmt: skip
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, frameon=False)
    ax.axis("off")


def figure_1(
    order: int = 2, projections: int | None = None, operations: bool = False
) -> tuple[Figure, Graph]:
    """Fig. 1a (no projections) or Fig. 1b, or all operations behind it; and what was drawn."""
    graph = loss_graph(order, projections)
    if operations:
        fig, ax = figure(width="wide", height=4.2)
        draw_operations(graph, ax)
    else:
        fig, ax = figure(width="text", height=4.6)
        draw_summary(graph, ax, projected=projections is not None)
    return fig, graph
