"""The hypotheses that agree with points: linear algebra in JavaScript, and a reader who drags."""

from __future__ import annotations

import re

import numpy as np
import pytest
import traitlets
from widget_helpers import LISTEN, VIEWS, needs_node, run_js, stop_clock

from sobolev_lib.widgets import HypothesisExplorer


@pytest.mark.parametrize(
    ("key", "bad"), [("family", "lines"), ("degree", 7), ("degree", -1), ("n", 0), ("n", 7)]
)
def test_nonsense_is_refused(key, bad):
    with pytest.raises(traitlets.TraitError, match=f"'{key}'"):
        HypothesisExplorer(**{key: bad})


CASES = [("pieces", 0), ("joined", 0), *(("polynomial", n) for n in (0, 1, 2, 5))]


@needs_node
@pytest.mark.parametrize(("family", "degree"), CASES)
def test_slopes_of_the_basis_are_its_derivatives(family, degree, tmp_path):
    x = np.array([0.21, 0.77, 1.4, 2.3, 2.9])
    out = run_js(
        HypothesisExplorer,
        "out = input.x.map((x) => w.basis(input.family, input.degree, x));",
        {"x": [*x, *(x + 1e-6), *(x - 1e-6)], "family": family, "degree": degree},
        tmp_path,
    )
    values, slopes = np.array(out).transpose(1, 0, 2)
    differences = (values[5:10] - values[10:]) / 2e-6
    np.testing.assert_allclose(slopes[:5], differences, atol=1e-8)
    if family == "polynomial":
        expected = np.polynomial.chebyshev.chebvander((x - 1.5) / 1.5, degree)
        np.testing.assert_allclose(values[:5], expected)


@needs_node
@pytest.mark.parametrize(("family", "degree"), CASES)
@pytest.mark.parametrize("slopes", [False, True])
def test_counts_and_hypotheses_are_those_of_numpy(family, degree, slopes, tmp_path):
    rng = np.random.default_rng(degree)
    sets = [np.sort(rng.uniform(0, 3, size=k)) for k in (1, 2, 3, 4, 6)] + [np.array([0.2, 0.5])]
    out = run_js(
        HypothesisExplorer,
        """out = input.sets.map((xs) => {
             const truth = w.truthOf(input.family, input.degree);
             const dot = (a, b) => a.reduce((s, v, i) => s + v * b[i], 0);
             const points = xs.map((x) => {
               const [y, slope] = w.basis(input.family, input.degree, x).map((b) => dot(b, truth));
               return { x, y, slope };
             });
             const result = w.solveAll(input.family, input.degree, points, input.slopes);
             const rows = points.map((p) => w.basis(input.family, input.degree, p.x));
             const spread = w.spread(input.family, input.degree, result.hypotheses);
             return { result, points, rows, verdict: w.verdict(result), truth, spread };
           });""",
        {"sets": [s.tolist() for s in sets], "family": family, "degree": degree, "slopes": slopes},
        tmp_path,
    )
    for case in out:
        rows = np.array([r[0] for r in case["rows"]])
        target = np.array([p["y"] for p in case["points"]])
        if slopes:
            rows = np.concatenate([rows, [r[1] for r in case["rows"]]])
            target = np.concatenate([target, [p["slope"] for p in case["points"]]])
        rank, unknowns = np.linalg.matrix_rank(rows), rows.shape[1]
        result = case["result"]
        assert (result["unknowns"], result["given"]) == (unknowns, len(rows))
        assert (result["independent"], result["free"]) == (rank, unknowns - rank)
        assert result["agrees"]
        hypotheses = np.array(result["hypotheses"])
        met = np.tile(target, (len(hypotheses), 1))
        np.testing.assert_allclose(hypotheses @ rows.T, met, atol=1e-9)
        spanned = np.linalg.matrix_rank(hypotheses - hypotheses[0], tol=1e-9)
        assert spanned == unknowns - rank  # what is drawn shows every free direction
        if rank == unknowns:
            assert case["verdict"] == "exactly one"
            assert case["spread"] == 0
            np.testing.assert_allclose(hypotheses[0], case["truth"], atol=1e-9)
        else:
            assert case["verdict"] == "infinitely many"
            assert case["spread"] > 0.01


@needs_node
def test_contradictions_are_noticed(tmp_path):
    points = [{"x": 0.2, "y": 1.0, "slope": 1.0}, {"x": 0.7, "y": 1.0, "slope": 1.0}]
    script = "out = input.map((s) => w.verdict(w.solveAll('pieces', 0, s.points, s.slopes)));"
    sets = [{"points": points, "slopes": slopes} for slopes in (False, True)]
    assert run_js(HypothesisExplorer, script, sets, tmp_path) == ["infinitely many", "none"]


# --- in the browser -------------------------------------------------------------------------------


@pytest.fixture
def explorer(built_page):
    """Open the chapter; gives (page, the widget's section)."""

    def find(**view):
        page = built_page("identification", **view)
        section = page.locator("section.sob-hypotheses").first
        section.wait_for()
        section.scroll_into_view_if_needed()
        return page, section

    return find


def state(section):
    """The table: unknowns, given, independent, free, verdict, spread."""
    return section.locator("td").all_inner_texts()


def centre(handle):
    box = handle.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, handle, dx, dy):
    handle.scroll_into_view_if_needed()
    x, y = centre(handle)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2)
    page.mouse.move(x + dx, y + dy)
    page.mouse.up()


def place(handle):
    """x, value and slope of a point as it is spoken."""
    words = handle.get_attribute("aria-valuetext").replace("−", "-")
    return [float(v) for v in re.findall(r"-?\d+\.\d+", words)]


@pytest.mark.parametrize("view", VIEWS)
def test_slopes_leave_one_hypothesis(explorer, view):
    _, section = explorer(**view)
    assert state(section)[:5] == ["6", "3", "3", "3", "infinitely many"]
    assert float(state(section)[5]) > 0.5
    section.get_by_label("Slopes are known, too").check()
    assert state(section) == ["6", "6", "6", "0", "exactly one", "0"]
    section.get_by_role("status").filter(has_text="6 of 6 unknown numbers determined").wait_for()
    section.get_by_label("Family").select_option("polynomial")
    degree = section.get_by_role("slider", name="Degree")
    for n in (3, 4, 5, 6):  # three points with slopes are six numbers
        degree.fill(str(n))
        one = n + 1 <= 6
        assert state(section)[:5] == [
            str(n + 1), "6", str(min(6, n + 1)), str(max(0, n - 5)),
            "exactly one" if one else "infinitely many",
        ]  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
def test_a_point_is_dragged_from_piece_to_piece(explorer, view):
    page, section = explorer(**view)
    section.get_by_label("Slopes are known, too").check()
    point = section.get_by_role("slider", name="Point 2", exact=True)
    assert place(point)[0] == 1.5
    width = section.locator("canvas").bounding_box()["width"] - 46
    drag(page, point, -0.8 * width / 3, 30)
    x, value, slope = place(point)
    assert x == pytest.approx(0.7, abs=0.021)
    assert value == pytest.approx(0.3 + 1.4 * x, abs=0.011)  # it stays on the function
    assert slope == 1.4
    assert state(section)[:5] == ["6", "6", "4", "2", "infinitely many"]
    label = section.locator("canvas").get_attribute("aria-label")
    assert "4 of 6 unknown numbers determined" in label
    section.get_by_role("button", name="Reset the points").click()
    assert state(section)[4] == "exactly one"


@pytest.mark.parametrize("view", VIEWS)
def test_points_and_slopes_that_are_let_go_can_contradict(explorer, view):
    page, section = explorer(**view)
    section.get_by_label("Slopes are known, too").check()
    section.get_by_label("Points stay on the true function").uncheck()
    section.get_by_label("Family").select_option("joined")
    assert state(section)[:5] == ["4", "6", "4", "0", "exactly one"]
    slope = section.get_by_role("slider", name="Slope of point 2")
    before = place(slope)[0]
    point = section.get_by_role("slider", name="Point 2", exact=True)
    slope.scroll_into_view_if_needed()
    (px, py), (sx, sy) = centre(point), centre(slope)
    assert (sy - py) / (sx - px) > 0  # the piece falls: its arm points down
    drag(page, slope, 0, 2 * (py - sy))
    assert place(slope)[0] == pytest.approx(-before, abs=0.11)
    assert state(section)[4:] == ["none", "–"]
    section.get_by_role("status").filter(has_text="hypotheses that agree: none").wait_for()


def test_the_keyboard_moves_points_and_slopes(explorer):
    page, section = explorer()
    point = section.get_by_role("slider", name="Point 1", exact=True)
    point.focus()
    assert point.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowUp")  # does nothing: it stays on the function
    assert place(point) == pytest.approx([0.62, 0.3 + 1.4 * 0.62], abs=0.006)
    section.get_by_label("Points stay on the true function").uncheck()
    section.get_by_label("Slopes are known, too").check()
    point.focus()
    page.keyboard.press("ArrowDown")
    assert place(point)[:2] == pytest.approx([0.62, 1.14], abs=0.011)
    page.keyboard.press("Tab")
    slope = section.get_by_role("slider", name="Slope of point 1")
    assert slope.evaluate("node => node === document.activeElement")
    before = place(slope)[0]
    page.keyboard.press("ArrowUp")
    assert place(slope)[0] == pytest.approx(before + 0.1, abs=0.051)
    for _ in range(40):  # two points never coincide
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Tab")
    xs = [place(section.get_by_role("slider", name=f"Point {k}", exact=True))[0] for k in (1, 2, 3)]
    assert len(set(xs)) == 3
    assert xs[0] == 3.0


def test_a_finger_drags_without_scrolling(explorer):
    page, section = explorer(width=360, height=800)
    section.get_by_label("Slopes are known, too").check()
    point = section.get_by_role("slider", name="Point 3", exact=True)
    assert point.evaluate("node => getComputedStyle(node).touchAction") == "none"
    box = point.bounding_box()
    assert min(box["width"], box["height"]) >= 36
    point.scroll_into_view_if_needed()
    scrolled = page.evaluate("window.scrollY")
    per_unit = (section.locator("canvas").bounding_box()["width"] - 46) / 3
    x, y = centre(point)
    finger = page.context.new_cdp_session(page)
    finger.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    path = [(x - share * per_unit, y + 150 * share) for share in (0.0, 0.3, 0.6, 0.9)]
    for kind, places in zip(
        ["touchStart", *["touchMove"] * 3, "touchEnd"], [*path, None], strict=True
    ):
        points = [] if places is None else [{"x": places[0], "y": places[1]}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert place(point)[0] == pytest.approx(1.6, abs=0.021)  # from 2.5 by 0.9, beside point 2
    assert state(section)[:5] == ["6", "6", "4", "2", "infinitely many"]  # two on one piece
    assert page.evaluate("window.scrollY") == scrolled


def test_a_screen_reader_hears_one_sentence_for_a_drag(explorer):
    page, section = explorer()
    section.get_by_role("status").filter(has_text="New setting.").wait_for()
    section.get_by_role("status").evaluate(LISTEN)
    stop_clock(page)  # however long the drag takes
    drag(page, section.get_by_role("slider", name="Point 1", exact=True), 60, 0)
    page.clock.run_for(400)
    section.get_by_role("status").filter(has_text="Point 1 at").wait_for()
    assert page.evaluate("window.said") == 1
