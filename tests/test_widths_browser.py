"""No figure, formula or table is cut at any width, and axe-core finds nothing, on any page."""

import pytest
from book_files import ROOT, contents

AXE = ROOT / "tests" / "vendor" / "axe.min.js"
PAGES = [page.removeprefix("book/") for page in contents()]
WIDTHS = (360, 390, 768, 1280)
HEIGHT = 844
#: Pages that `make test` measures: figures of every kind, long formulae, tables, claims.
QUICK = ("loss", "kinks", "error_against_data", "table1_resnet")
SWEEP = [
    pytest.param(page, width, marks=() if page in QUICK and width == 390 else pytest.mark.slow)
    for page in PAGES
    for width in WIDTHS
]
AXE_VIEWS = {"phone": (390, "light"), "desk": (1280, "light"), "dark": (1280, "dark")}
AXE_QUICK = {("index", "phone"), ("loss", "desk"), ("table1_cifar", "dark"), ("results", "phone")}
AXE_SWEEP = [
    pytest.param(page, view, marks=() if (page, view) in AXE_QUICK else pytest.mark.slow)
    for page in PAGES
    for view in AXE_VIEWS
]
# What is hidden has no size. How claims were made stays folded: that is how long their table is.
UNFOLD = """() => {
  document.querySelectorAll('details').forEach(e => { e.open = !e.closest('.claims'); });
  document.querySelectorAll('button.toggle-button').forEach(e => {
    if (e.getAttribute('aria-expanded') === 'false') e.click(); });
}"""
CUT = """() => {
  const found = [];
  const seen = e => e.getClientRects().length > 0;
  const name = e => (e.closest('[id]')?.id || '') + ': '
    + (e.alt || e.innerText || '').trim().replace(/\\s+/g, ' ').slice(0, 50);
  const say = (what, e, ...numbers) => found.push([what, name(e), ...numbers.map(Math.round)]);
  const all = (selector, look) =>
    [...document.querySelectorAll(selector)].filter(seen).forEach(look);
  const wide = e => e.scrollWidth > e.clientWidth + 1;
  const right = e => e.getBoundingClientRect().right;

  all('article figure', e => { if (wide(e)) say('figure', e, e.clientWidth, e.scrollWidth); });
  all('article picture > img', e => {
    const shown = e.getBoundingClientRect();
    if (shown.right > innerWidth + 1) say('picture', e, shown.right);
    const points = Number(e.parentElement.dataset.text);
    const pixels = points * 96 / 72 * shown.width / e.naturalWidth;
    if (innerWidth <= 600 && !(pixels >= 8)) say('small text', e, pixels);
  });
  all('article mjx-container[display="true"]', e => {
    const svg = e.getBoundingClientRect(), box = e.parentElement.getBoundingClientRect();
    if (wide(e) || svg.right > box.right + 1) say('formula', e, e.clientWidth, e.scrollWidth);
    // what is broken after every letter fits, too
    const drawn = Math.max(...[...e.querySelectorAll('svg')].map(s => s.clientWidth));
    const thin = drawn < Math.min(box.width / 3, 120);
    if (thin && svg.height > 160) say('letters', e, drawn, svg.height);
    if (svg.height > 400) say('many lines', e, svg.height);
  });
  all('article mjx-container:not([display="true"])', e => {
    const box = e.closest('.bd-article p, .bd-article li, td, th, dd, dt, figcaption, h1, h2, h3')
      || e.parentElement;
    const scrolls = e.closest('.table-box, .pst-scrollable-table-container, .table-wrapper');
    const end = Math.max(...[...e.querySelectorAll('svg')].map(right));
    if (!scrolls && end > right(box) + 1) say('inline', e, right(box), end);
  });
  all('article table', e => {
    const verdicts = [...e.querySelectorAll('thead :is(th, td)')]
      .some(cell => /verdict/i.test(cell.innerText)) || e.closest('.verdicts');
    const box = [e, e.parentElement].find(wide);
    if (box && verdicts) say('verdict', e, box.clientWidth, box.scrollWidth);
    if (right(e.parentElement) > innerWidth + 1) say('table', e, right(e.parentElement));
    if (innerWidth <= 400 && e.offsetHeight > 7 * innerHeight) say('long table', e, e.offsetHeight);
    for (const cell of [...e.querySelectorAll('td, th')].filter(seen)) {
      const word = Math.max(0, ...cell.innerText.split(/\\s+/).map(w => w.length));
      if (word > 3 && cell.clientWidth < 34) say('thin column', cell, cell.clientWidth);
    }
  });
  // what scrolls sideways is reached by keyboard
  all('article *', e => {
    if (wide(e) && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)
      && e.clientWidth > 0 && e.tabIndex < 0
      && !e.querySelector('a[href], button, input, select, [tabindex="0"]')) say('keyboard', e);
  });
  return found;
}"""
# What the theme does by itself, by rule and place: its sidebar's logo stands outside a landmark.
THEIRS = {
    "region": (".sidebar-primary-item",),
    "landmark-unique": (".bd-",),
    "label-content-name-mismatch": ("theme-switch-button",),  # on a busy machine, at times
}


def settle(page):
    """Wait until MathJax has set the formulae and what depends on sizes has been told."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")


@pytest.mark.parametrize(("name", "width"), SWEEP)
def test_nothing_is_cut(built_page, name, width):
    page = built_page(name, width=width, height=HEIGHT)
    page.evaluate(UNFOLD)
    settle(page)
    assert page.evaluate(CUT) == []


@pytest.mark.parametrize(("name", "view"), AXE_SWEEP)
def test_axe_finds_nothing(built_page, name, view):
    width, scheme = AXE_VIEWS[view]
    page = built_page(name, width=width, height=HEIGHT, scheme=scheme)
    settle(page)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(
        "async () => (await axe.run(document, {resultTypes: ['violations']})).violations.map("
        "v => [v.id, v.nodes.map(n => n.target.join(' ') + ' | ' + n.html.slice(0, 120))])"
    )
    ours = [
        (rule, kept)
        for rule, nodes in found
        if (kept := [n for n in nodes if not any(t in n for t in THEIRS.get(rule, ()))])
    ]
    assert ours == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_one_drawing_is_loaded_for_each_width_and_scheme(built_page, width, scheme):
    page = built_page("loss", width=width, height=HEIGHT, scheme=scheme)
    shown = page.evaluate(
        "() => [...document.querySelectorAll('picture > img')]"
        ".filter(e => e.getClientRects().length)"
        ".map(e => [e.parentElement.className, e.src, e.currentSrc])"
    )
    assert shown
    for picture, address, loaded in shown:  # of what was loaded Chromium forgets the fragment
        assert picture == f"for-{scheme}"
        assert address.endswith("#dark") == (scheme == "dark")
        assert ("-narrow.svg" in loaded) == (width == 390)


def test_a_dark_page_has_dark_figures(built_page):
    """The corner of a figure has the colour of the page, and the reader's button changes both."""
    page = built_page("loss", scheme="dark", height=HEIGHT)
    figure = page.locator("figure picture.for-dark img").first
    figure.scroll_into_view_if_needed()
    corner = """async (image) => {
      await image.decode();
      const canvas = document.createElement('canvas');
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      const drawing = canvas.getContext('2d');
      drawing.drawImage(image, 0, 0);
      return [...drawing.getImageData(2, 2, 1, 1).data];
    }"""
    red, green, blue, opacity = figure.evaluate(corner)
    assert max(red, green, blue) < 60 and opacity == 255
    light = page.locator("figure picture.for-light img").first
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    light.scroll_into_view_if_needed()
    page.wait_for_function("e => e.complete && e.naturalWidth > 0", arg=light.element_handle())
    assert min(light.evaluate(corner)[:3]) > 200
