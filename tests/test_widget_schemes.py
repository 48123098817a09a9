"""The widget of the schemes: its traits, its geometry, and a reader who steps through it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import traitlets
from widget_helpers import CONTRAST, LISTEN, VIEWS, needs_node, run_js

from sobolev_lib.synthetic_gradients.schemes import KINDS, PHASES, SCHEMES
from sobolev_lib.widgets.schemes import SchemeExplorer

#: What the drawing shows: kind of every arrow that is on, name of every node that is on.
LIT = """svg => ({
  arrows: [...svg.querySelectorAll('.sob-arrow[data-on=true]')].map(g => g.dataset.kind).sort(),
  nodes: [...svg.querySelectorAll('.sob-node[data-on=true]')].map(g => g.dataset.name).sort(),
  thick: [...svg.querySelectorAll('.sob-node')]
    .filter(g => g.querySelector('rect')?.getAttribute('stroke-width') === '4')
    .map(g => g.dataset.name).sort(),
})"""
#: Boxes of all texts and boxes, in the drawing's own units, against its view box.
SPILL = """svg => {
  const view = svg.viewBox.baseVal;
  return [...svg.querySelectorAll('text, rect, line, polygon, circle')].filter(e => {
    const b = e.getBBox();
    return b.x < 0 || b.y < 0 || b.x + b.width > view.width || b.y + b.height > view.height;
  }).map(e => e.outerHTML);
}"""


@pytest.mark.parametrize(
    ("key", "bad"), [("scheme", "sobelov"), ("scheme", None), ("phase", 0), ("phase", 6)]
)
def test_nonsense_is_refused(key, bad):
    with pytest.raises(traitlets.TraitError, match=f"'{key}'|phase"):
        SchemeExplorer(**{key: bad})


def test_the_page_gets_the_data_of_the_figure():
    widget = SchemeExplorer(scheme="critic", phase=4)
    assert [one["key"] for one in widget.schemes] == list(SCHEMES)
    assert (widget.scheme, widget.phase) == ("critic", 4)
    state = json.loads(json.dumps(widget.get_state()["schemes"]))
    critic = {node["name"]: node for node in state[list(SCHEMES).index("critic")]["nodes"]}
    assert [name for name, node in critic.items() if node["supervised"]] == ["m"]
    assert widget.phases == list(PHASES)
    assert widget.kinds["synthetic"]["colour"] == KINDS["synthetic"].colour


@needs_node
def test_an_arrow_ends_where_python_says(tmp_path):
    lines = [arrow["line"] for arrow in SCHEMES["sobolev"].as_dict()["arrows"]]
    out = run_js(
        SchemeExplorer,
        "out = input.map((line) => ({ ...w.arrowShape(line, 2),"
        " ends: [w.px(line[0]), w.py(line[1]), w.px(line[2]), w.py(line[3])] }));",
        lines,
        tmp_path,
    )
    for line, got in zip(lines, out, strict=True):
        start, end = np.array(got["ends"][:2]), np.array(got["ends"][2:])
        # upwards in the diagram is upwards on the page, where y counts down
        assert np.sign(end[1] - start[1]) == -np.sign(line[3] - line[1])
        tip, left, right = np.array(got["head"])
        np.testing.assert_allclose(tip, end, atol=0.011)
        np.testing.assert_allclose(got["line"][:2], start, atol=0.011)
        neck = np.array(got["line"][2:])
        np.testing.assert_allclose((left + right) / 2, neck, atol=0.011)
        assert np.linalg.norm(end - neck) == pytest.approx(10, abs=0.02)  # 8 + width
        assert abs((end - start) @ (left - right)) < 0.02 * np.linalg.norm(end - start)


@pytest.fixture
def explorer(built_page):
    """Open the chapter; gives (page, the widget's section)."""

    def find(**view):
        page = built_page("synthetic_gradients", **view)
        section = page.locator("section.sob-schemes").first
        section.wait_for()
        return page, section

    return find


def expected(key: str, phase: int) -> dict[str, list[str]]:
    scheme = SCHEMES[key]
    return {
        "arrows": sorted(a.kind for a in scheme.arrows if phase in a.phases),
        "nodes": sorted(scheme.active(phase)),
        "thick": sorted(scheme.supervised),
    }


def spoken(key: str, phase: int) -> str:
    scheme = SCHEMES[key]
    return (
        f"{scheme.title}, phase {phase} of {len(PHASES)}, {PHASES[phase - 1]}: "
        f"{scheme.sentences[phase - 1]}"
    )


@pytest.mark.parametrize("view", VIEWS)
def test_every_scheme_shows_every_phase(explorer, view):
    _, section = explorer(**view)
    svg = section.get_by_role("img")
    status = section.get_by_role("status")
    assert section.get_by_role("radio", name="Sobolev").is_checked()
    for key, scheme in SCHEMES.items():
        section.get_by_role("radio", name=scheme.title, exact=True).check()
        for phase, title in enumerate(PHASES, start=1):
            section.get_by_role("button", name=f"{phase}. {title}", exact=True).click()
            assert svg.evaluate(LIT) == expected(key, phase)
            assert status.inner_text() == spoken(key, phase)
            assert svg.evaluate(SPILL) == []
        label = svg.get_attribute("aria-label")
        assert scheme.title in label and PHASES[-1] in label


@pytest.mark.parametrize("view", VIEWS)
def test_it_is_driven_by_keyboard(explorer, view):
    page, section = explorer(**view)
    svg, status = section.get_by_role("img"), section.get_by_role("status")
    section.get_by_role("radio", name="Sobolev").focus()
    page.keyboard.press("ArrowDown")  # the next of the group
    assert section.get_by_role("radio", name="Local CE").is_checked()
    assert svg.evaluate(LIT) == expected("local_ce", 1)
    page.keyboard.press("Tab")
    for phase in range(2, len(PHASES) + 1):
        page.keyboard.press("Tab")
        page.keyboard.press("Enter" if phase % 2 else "Space")
        assert status.inner_text() == spoken("local_ce", phase)
    current = section.locator("[aria-current=step]")
    assert current.count() == 1 and current.inner_text().startswith(f"{len(PHASES)}.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # back
    assert status.inner_text() == spoken("local_ce", 4)
    page.keyboard.press("Tab")
    for _ in range(3):  # next, and no further than the last
        page.keyboard.press("Enter")
    assert status.inner_text() == spoken("local_ce", 5)
    following = section.get_by_role("button", name="Next")
    assert following.evaluate("node => node === document.activeElement")
    assert following.get_attribute("aria-disabled") == "true"
    assert following.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"


def test_a_screen_reader_hears_one_sentence_for_a_step(explorer):
    page, section = explorer()
    section.get_by_role("status").evaluate(LISTEN)
    for _ in range(4):
        section.get_by_role("button", name="Next").click()
    assert page.evaluate("window.said") == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_active_can_be_seen_in_both_themes(explorer, scheme):
    """Ink of arrows and boxes against the ground: at least 3 to 1 (WCAG 2, graphics)."""
    _, section = explorer(width=360, height=800, scheme=scheme)
    section.get_by_role("button", name="4. True signal").click()
    ratios = section.evaluate(
        f"""section => {{{CONTRAST}
          const ground = getComputedStyle(section).backgroundColor;
          return [...section.querySelectorAll('[data-on=true] polygon, [data-on=true] rect')]
            .map(e => getComputedStyle(e)[e.tagName === 'rect' ? 'stroke' : 'fill'])
            .map(ink => contrast(ink, ground));
        }}"""
    )
    assert len(ratios) >= 8
    assert min(ratios) >= 3
