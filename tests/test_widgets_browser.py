"""A reader drives each widget on the built pages: by keyboard, on a phone, from a file."""

import re

import pytest
from widget_helpers import CONTRAST, VIEWS

#: Hash of what a canvas shows.
PIXELS = """canvas => {
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let hash = 0;
  for (let i = 0; i < data.length; i++) hash = (hash * 31 + data[i]) | 0;
  return hash;
}"""
#: Share of a canvas's pixels that are painted at all.
INKED = """canvas => {
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
  return count / (data.length / 4);
}"""
#: Contrast of the widget's text with the ground painted behind it.
TEXT_CONTRAST = f"""section => {{{CONTRAST}
  const style = getComputedStyle(section);
  if (/rgba\\(.*, 0\\)/.test(style.backgroundColor)) return 0;
  return contrast(style.color, style.backgroundColor);
}}"""
#: Whatever waits for the next frame, such as the first picture on a canvas, has been done.
TWO_FRAMES = "() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"


@pytest.fixture
def open_widget(site, built_page):
    """Open the first page that holds the widget class; gives (page, the widget's section)."""

    def find(name, css, **view):
        for path in sorted((site / "book").glob("*.html")):
            if f'"_anywidget_id": "sobolev_lib.widgets.{name}"' in path.read_text("utf-8"):
                page = built_page(path.stem, **view)
                section = page.locator(f"section.{css}").first
                section.wait_for()
                page.evaluate(TWO_FRAMES)
                return page, section
        return pytest.fail(f"no page of the book shows {name}", pytrace=False)

    return find


def numbers(section):
    """Numbers in the widget's table, row by row."""
    cells = section.locator("td").all_inner_texts()
    return [re.sub("⁻", "-", cell).replace("−", "-") for cell in cells]


def wait_for_a_change(page, canvas, before):
    """Wait until a canvas shows something else."""
    changed = f"([canvas, before]) => ({PIXELS})(canvas) !== before"
    page.wait_for_function(changed, arg=[canvas.element_handle(), before])


@pytest.mark.parametrize("view", VIEWS)
def test_playground_trains_and_takes_the_settings_of_a_link(built_page, view):
    page = built_page("playground", **view)
    section = page.locator("section.sob-play")
    section.scroll_into_view_if_needed()
    finished = section.get_by_role("status").filter(has_text="Finished")
    finished.wait_for()
    values, sobolev = (float(numbers(section)[i]) for i in (0, 3))
    assert values > 10 * sobolev
    assert not page.evaluate("location.hash")
    page.get_by_role("link", name="Twelve points of the same wave.").click()
    page.wait_for_function("() => document.querySelector('.sob-point').innerText.includes('/12')")
    top = "section => section.getBoundingClientRect().top"
    assert 0 <= section.evaluate(top) < page.viewport_size["height"] / 2
    finished.wait_for()
    assert "&n=12&" in page.evaluate("location.hash")


@pytest.mark.parametrize("view", VIEWS)
def test_explorer_shows_each_choice(open_widget, view):
    _, section = open_widget("explorer.SurfaceExplorer", "sob-surfaces", **view)
    panels = section.locator("figure canvas")
    assert panels.count() >= 3
    for i in range(panels.count()):
        assert panels.nth(i).evaluate(INKED) > 0.1
    for act in (
        lambda: section.get_by_label("Function").select_option("booth"),
        lambda: section.get_by_label("Function").select_option("ackley"),
        lambda: section.get_by_role("slider", name="Turn the surface").press("ArrowRight"),
        lambda: section.get_by_label("View").select_option("map"),
    ):
        before = [panels.nth(i).evaluate(PIXELS) for i in range(panels.count())]
        act()
        after = [panels.nth(i).evaluate(PIXELS) for i in range(panels.count())]
        assert all(a != b for a, b in zip(before, after, strict=True))
    assert section.get_by_role("slider", name="Turn the surface").is_disabled()

    table, truth = numbers(section), panels.nth(0).evaluate(PIXELS)
    learned = panels.nth(1).evaluate(PIXELS)
    section.get_by_role("slider", name="Seed").press("ArrowRight")
    assert numbers(section) != table
    assert panels.nth(0).evaluate(PIXELS) == truth  # the truth has no seed
    assert panels.nth(1).evaluate(PIXELS) != learned
    section.get_by_role("status").filter(has_text="Ackley").wait_for()
    label = panels.nth(1).get_attribute("aria-label")
    assert "Values only" in label
    assert numbers(section)[0] in label


def test_explorer_reads_the_address(open_widget):
    page, section = open_widget("explorer.SurfaceExplorer", "sob-surfaces")
    section.get_by_label("Function").select_option("rosenbrock")
    section.get_by_role("slider", name="Seed").press("End")
    if not page.evaluate("location.hash").startswith("#explore="):
        pytest.skip("the page's widget does not share its choice in the address (share=False)")
    table = numbers(section)
    page.reload()
    section.wait_for()
    assert section.get_by_label("Function").input_value() == "rosenbrock"
    assert numbers(section) == table


@pytest.mark.parametrize("view", VIEWS)
def test_kink_slider_moves_loss_and_slopes(open_widget, view):
    _, section = open_widget("kinkdemo.KinkDemo", "sob-kink", **view)
    kink = section.get_by_role("slider", name="Kink of the model")
    kink.press("End")
    sampled, population, exact, autograd, estimate, mean = map(float, numbers(section))
    assert population == pytest.approx(1 - 0.4)
    assert sampled == pytest.approx(population, abs=0.35)
    assert (exact, autograd) == (1.0, 0.0)
    assert mean == pytest.approx(1.0, abs=0.05)
    pixels = section.locator("canvas").evaluate(PIXELS)
    kink.press("Home")
    population, exact, autograd, estimate = map(float, numbers(section)[1:5])
    assert (population, exact, autograd) == (0.4, -1.0, 0.0)
    assert estimate < 0
    assert section.locator("canvas").evaluate(PIXELS) != pixels
    for name in ("Kernel width", "Points n", "Seed"):
        pixels = section.locator("canvas").evaluate(PIXELS)
        section.get_by_role("slider", name=name).press("ArrowRight")
        assert section.locator("canvas").evaluate(PIXELS) != pixels
    section.get_by_role("status").filter(has_text="Kink of the model at 0,").wait_for()


WIDGETS = [
    ("hypotheses.HypothesisExplorer", "sob-hypotheses"),
    ("playground.Playground", "sob-play"),
    ("explorer.SurfaceExplorer", "sob-surfaces"),
    ("kinkdemo.KinkDemo", "sob-kink"),
]


@pytest.mark.parametrize(("name", "css"), WIDGETS)
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_widgets_are_legible_and_follow_the_theme(open_widget, name, css, scheme):
    page, section = open_widget(name, css, width=360, height=800, scheme=scheme)
    assert section.evaluate(TEXT_CONTRAST) >= 7
    canvas = section.locator("canvas").first
    before = canvas.evaluate(PIXELS)
    other = {"light": "dark", "dark": "light"}[scheme]
    page.evaluate(f"document.documentElement.dataset.theme = '{other}'")
    wait_for_a_change(page, canvas, before)  # labels are redrawn in the theme's ink
    assert section.evaluate(TEXT_CONTRAST) >= 7


@pytest.mark.parametrize(("name", "css"), WIDGETS)
def test_widgets_are_reached_in_order_by_the_tab_key(open_widget, name, css):
    page, section = open_widget(name, css)
    inputs = section.locator("select, input, button, [tabindex='0']")
    inputs.first.focus()
    shown = [i for i in range(inputs.count()) if inputs.nth(i).is_visible()]
    for i in shown:
        if inputs.nth(i).is_enabled():
            assert inputs.nth(i).evaluate("node => node === document.activeElement")
            assert inputs.nth(i).evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
            page.keyboard.press("Tab")
    for i in shown:
        snapshot = inputs.nth(i).aria_snapshot()
        assert re.search(r'"[^"]+"', snapshot), f"no name: {snapshot}"
