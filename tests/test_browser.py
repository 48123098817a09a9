"""Every page in a browser: ``conftest.py`` says what fails a test once its page has been opened."""

import pytest
from book_files import DESKTOP, PHONE, contents

from conftest import Log

# Each page twice at each width and in each scheme, over http and from a file. `make test` opens
# each page once, in another view than the page before it; `make test-all` in every view.
VIEWS = {
    "http-desktop-light": {"origin": "http", "size": DESKTOP, "scheme": "light"},
    "http-phone-dark": {"origin": "http", "size": PHONE, "scheme": "dark"},
    "file-desktop-dark": {"origin": "file", "size": DESKTOP, "scheme": "dark"},
    "file-phone-light": {"origin": "file", "size": PHONE, "scheme": "light"},
}
GENERATED = ("genindex.html", "py-modindex.html", "search.html")
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const known = new Map(), behind = new Map();  // few colours, many elements
  const rgb = colour => { if (!known.has(colour)) {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    known.set(colour, [...canvas.getImageData(0, 0, 1, 1).data]); } return known.get(colour); };
  const background = e => { if (!e) return [255, 255, 255, 255];
    if (!behind.has(e)) { const colour = rgb(getComputedStyle(e).backgroundColor);
      behind.set(e, colour[3] === 255 ? colour : background(e.parentElement)); }
    return behind.get(e); };
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const results = [];
  for (const element of document.querySelectorAll('article *')) {
    const words = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!words || !element.offsetParent || element.matches('.headerlink, script, style, svg *'))
      continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(background(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const start = element.textContent.trim().slice(0, 60);
    if (ratio < 4.5) results.push([ratio, element.className, start]);
  }
  return results;
}"""
PAGES = [*(page.removeprefix("book/") for page in contents()), *GENERATED]
SWEEP = [
    pytest.param(name, view, marks=() if i % len(VIEWS) == j else pytest.mark.slow)
    for i, name in enumerate(PAGES)
    for j, view in enumerate(VIEWS)
]
UNSET_FORMULAE = """() => [...document.querySelectorAll('article .math')]
  .filter(e => !e.querySelector('mjx-container')).map(e => e.innerText)"""


@pytest.mark.parametrize(("name", "view"), SWEEP)
def test_page(built_page, name, view):
    chosen = VIEWS[view]
    width, height = chosen["size"]
    page = built_page(
        name, width=width, height=height, scheme=chosen["scheme"], origin=chosen["origin"]
    )
    assert page.title()
    assert page.evaluate("document.documentElement.dataset.theme") == chosen["scheme"]
    assert page.evaluate(CONTRAST) == []
    assert page.locator("mjx-merror").count() == 0
    assert page.evaluate(UNSET_FORMULAE) == []
    assert "\\(" not in page.locator("main").first.inner_text()


@pytest.mark.parametrize("origin", ["http", "file"])
@pytest.mark.parametrize("page_behind", ["loss", "use_it", "results"])
def test_the_front_door_has_three_ways_on(built_page, origin, page_behind):
    page = built_page("index.html", origin=origin)
    assert page.locator("h1").first.inner_text().startswith("Sobolev Training")
    page.locator(f".sd-card:has(a[href$='{page_behind}.html'])").click()
    page.wait_for_url(f"**/{page_behind}.html")


@pytest.mark.parametrize("origin", ["http", "file"])
def test_search_works_without_a_server(built_page, origin):
    page = built_page("search.html?q=derivatives", origin=origin)
    page.wait_for_selector("#search-results li")


@pytest.mark.parametrize("width", [DESKTOP[0], PHONE[0]])
def test_every_page_is_reached_by_links(built_page, width):
    page = built_page("index", width=width)
    links = page.evaluate("() => [...document.querySelectorAll('nav a.internal')].map(a => a.href)")
    reached = {"book/" + link.split("#")[0].rpartition("/book/")[2] for link in links}
    assert reached >= {f"{chapter}.html" for chapter in contents()[1:]}


def test_a_request_to_elsewhere_is_noted_and_refused(browser):
    context = browser.new_context()
    page, log = context.new_page(), Log()
    log.attach(page)
    page.set_content("<img src='https://example.org/picture.png'>", wait_until="load")
    assert list(log.problems(page)) == [
        "requests outside the book",
        "failed requests",
        "errors",
        "broken images",
    ]
    context.close()
