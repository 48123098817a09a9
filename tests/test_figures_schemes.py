"""The schemes of Table 1: the diagrams say what the library does."""

from __future__ import annotations

import matplotlib as mpl
import nbformat
import pytest
import torch
from book_files import ROOT
from matplotlib import pyplot as plt
from pictures import contrast
from torch import nn

from sobolev_lib.figures import style
from sobolev_lib.synthetic_gradients import MODES, decouple, instrument_figures, schemes
from sobolev_lib.synthetic_gradients import modules as sg
from sobolev_lib.synthetic_gradients.schemes import KINDS, PHASES, SCHEMES, Arrow, Node, Scheme

mpl.use("Agg")
EACH = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


def ends(scheme: Scheme, kind: str) -> set[tuple[str, str]]:
    return {(a.start, a.end) for a in scheme.arrows if a.kind == kind}


def test_every_mode_of_the_library_has_a_diagram():
    assert tuple(SCHEMES) == MODES


@EACH
def test_the_diagram_supervises_what_the_library_trains_on(scheme):
    """A module of the library is asked which targets its loss depends on."""
    wanted = set()
    if scheme.key in sg.SG_MODES and scheme.key != "noprop":
        torch.manual_seed(0)
        module = sg.build(scheme.key, (5,), 3)
        h, y = torch.randn(4, 5), torch.tensor([0, 2, 1, 1])
        loss, gradient = torch.rand(4, requires_grad=True), torch.randn(4, 5)
        base = module.loss(module(h, y), loss, gradient)
        for name, targets in (("m", (loss + 1, gradient)), ("SG", (loss, gradient + 1))):
            if not torch.allclose(module.loss(module(h, y), *targets), base):
                wanted.add(name)
    assert set(scheme.supervised) == wanted
    assert ends(scheme, "target") == {({"m": "L", "SG": "h"}[name], name) for name in wanted}


@EACH
def test_the_diagram_moves_the_lower_segment_as_the_library_does(scheme):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    net = decouple(network, ["1"], scheme.key, example=torch.zeros(2, 4))
    for parameter in net.module_parameters():  # direct starts at zero
        nn.init.normal_(parameter)
    net.accumulate(torch.randn(7, 4), torch.randint(3, (7,)))
    moves = network[0].weight.grad is not None
    into = {kind for kind in KINDS for _, end in ends(scheme, kind) if end == "lower"}
    assert into == ({"true" if scheme.key == "backprop" else "synthetic"} if moves else set())
    assert moves is (scheme.key != "noprop")


@EACH
def test_the_true_gradient_goes_no_further_than_it_must(scheme):
    """Below h in backpropagation only; as far as h where a module is compared with it."""
    reached = {end for _, end in ends(scheme, "true")}
    assert {"p_h"} < reached
    assert ("lower" in reached) is (scheme.key == "backprop")
    assert ("h" in reached) is ("SG" in scheme.supervised or scheme.key == "backprop")


@EACH
def test_labels_and_activations_enter_where_the_module_needs_them(scheme):
    has_module = any(node.module for node in scheme.nodes)
    assert scheme.inputs() == (["h", "y"] if has_module else [])
    assert has_module is (scheme.key not in ("backprop", "noprop"))
    assert ends(scheme, "forward") >= {("x", "h"), ("h", "p_h"), ("p_h", "L"), ("y", "L")}


@EACH
def test_phases_are_in_the_order_of_a_step(scheme):
    assert len(scheme.sentences) == len(PHASES)
    first = {kind: [a.phases[0] for a in scheme.arrows if a.kind == kind] for kind in KINDS}
    assert set(first["true"]) == {4}
    assert all(phase in (2, 3) for phase in first["synthetic"])
    assert all(phase == 4 for phase in first["target"])
    for arrow in scheme.arrows:
        assert all(1 <= phase <= len(PHASES) for phase in arrow.phases)
    # what is known is used only afterwards
    known = {"x", "y", "lower", "upper"}
    for phase in (1, 2):
        for _ in scheme.nodes:
            known |= {
                a.end for a in scheme.arrows
                if a.kind != "target" and phase in a.phases and a.start in known
            }  # fmt: skip
    assert {node.name for node in scheme.nodes} <= known
    assert scheme.active(5) == [n.name for n in scheme.nodes if n.name in _taking_part(scheme)]


def _taking_part(scheme: Scheme) -> set[str]:
    if not scheme.loss:
        return set()
    sources = {start for start, _ in ends(scheme, "target")}
    return sources | {node.name for node in scheme.nodes if node.module}


def outside(node: Node, x: float, y: float) -> bool:
    return abs(x - node.x) >= node.half_width or abs(y - node.y) >= node.half_height


@EACH
def test_arrows_run_from_edge_to_edge_and_through_no_other_box(scheme):
    for arrow in scheme.arrows:
        x0, y0, x1, y1 = schemes.segment(scheme, arrow)
        a, b = scheme.node(arrow.start), scheme.node(arrow.end)
        forwards = (x1 - x0) * (b.x - a.x) + (y1 - y0) * (b.y - a.y)
        assert forwards > 0.1, arrow
        for k in range(51):
            x, y = x0 + (x1 - x0) * k / 50, y0 + (y1 - y0) * k / 50
            for node in scheme.nodes:
                if not node.is_dot:
                    assert outside(node, x, y), (arrow, node)


def test_a_segment_by_hand():
    a, b = Node("a", "a", "a", 0.0, 0.0), Node("b", "b", "b", 0.0, 2.0)
    scheme = Scheme("t", "T", (a, b), (), (), "", ())
    edge = a.half_height + 0.06
    assert schemes.segment(scheme, Arrow("a", "b", "forward", (1,))) == pytest.approx(
        (0, edge, 0, 2 - edge)
    )
    # aside: to the left of the direction, which is up
    assert schemes.segment(scheme, Arrow("a", "b", "true", (1,), 0.1)) == pytest.approx(
        (-0.1, edge, -0.1, 2 - edge)
    )
    with pytest.raises(KeyError, match="nothing"):
        scheme.node("nothing")


def test_kinds_differ_without_colour():
    looks = [(kind.dash, kind.width) for kind in KINDS.values()]
    assert len(set(looks)) == len(looks)
    gradients = [KINDS[name] for name in ("true", "synthetic", "target")]
    assert len({kind.dash for kind in gradients}) == 3
    # and their colours are of the palette that the colour-blind can tell apart
    assert len({kind.colour for kind in gradients} & set(style.COLOURS.values())) == 3
    for kind in KINDS.values():
        assert contrast(kind.colour, "#ffffff") >= 3  # WCAG 2, graphics


def test_descriptions_are_made_from_the_data():
    sobolev = schemes.describe(SCHEMES["sobolev"])
    assert sobolev == (
        "Sobolev: the module gets h and y, and makes p(h | θ), m and ∂m/∂h. ∂m/∂h goes into the "
        "lower segment Θ. The main network supervises m and ∂m/∂h."
    )
    assert len({schemes.describe(s) for s in SCHEMES.values()}) == len(SCHEMES)
    rows = schemes.table().rows
    assert rows["Sobolev"]["supervised"] == "m and ∂m/∂h"
    assert rows["Backpropagation"]["Θ gets"] == "the true gradient"
    assert rows["Noprop"]["Θ gets"] == "nothing"


def test_the_chapter_shows_the_generated_text_alternative():
    notebook = nbformat.read(ROOT / "book" / "synthetic_gradients.ipynb", 4)
    alts = {
        cell.metadata["mystnb"]["image"]["alt"]
        for cell in notebook.cells
        if "image" in cell.metadata.get("mystnb", {})
    }
    start = "In each diagram the main network runs upwards from x over h and p_h to the loss L."
    assert " ".join([start, *map(schemes.describe, SCHEMES.values())]) in alts


def test_the_figure_has_a_panel_for_each_scheme_and_a_legend():
    with mpl.rc_context():
        style.use_style()
        fig = schemes.draw_schemes()
    chosen = list(SCHEMES.values())
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert [title for title in titles if title] == [scheme.title for scheme in chosen]
    fig.canvas.draw()
    for ax, scheme in zip(fig.axes, chosen, strict=False):
        drawn = {text.get_text() for text in ax.texts}
        assert {node.math for node in scheme.nodes} <= drawn
        thick = [p for p in ax.patches if p.get_linewidth() == 3.0]
        assert len(thick) == len(scheme.supervised)
    [legend] = [ax.get_legend() for ax in fig.axes if ax.get_legend()]
    labels = [text.get_text() for text in legend.get_texts()]
    assert {kind.label for kind in KINDS.values()} < set(labels)
    plt.close(fig)


def test_fields_point_downhill_in_both_colours():
    h = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]])
    true = torch.tensor([[1.0, 0.0], [0.0, -2.0], [0.5, 0.5]])
    fig = instrument_figures.draw_fields(h, true, {"One": 2 * true, "Two": -true}, seen=h[:1])
    fig.canvas.draw()
    for ax, factor in zip(fig.axes, (2, -1), strict=True):
        blue, orange = ax.collections
        for arrows, sign in ((blue, -1), (orange, -factor)):
            torch.testing.assert_close(torch.tensor(arrows.U), sign * true[:, 0], check_dtype=False)
            torch.testing.assert_close(torch.tensor(arrows.V), sign * true[:, 1], check_dtype=False)
        assert len(ax.lines) == 1
    plt.close(fig)
    with pytest.raises(ValueError, match=r"Two has shape \(3, 1\); \(3, 2\) is needed"):
        instrument_figures.draw_fields(h, true, {"One": true, "Two": true[:, :1]})
