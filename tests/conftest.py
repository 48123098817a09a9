"""Fixtures of the tests that read the built book or open its pages in a browser.

A widget's test needs only ``built_page``::

    def test_the_slider_moves_the_curve(built_page):
        page = built_page("loss")                  # desktop, light, http://
        slider = page.get_by_label("Weight of the slopes")
        slider.press("ArrowRight")
        ...

    def test_on_a_phone_from_a_file(built_page):
        page = built_page("loss", width=360, height=800, scheme="dark", origin="file")

The page has finished loading (formulae set, widgets shown) when the fixture returns it. After the
test the fixture fails it if the page logged an error, raised one, showed a broken image, asked for
anything outside the book, or scrolled sideways. Tests that use one of these fixtures carry the mark
``page``, and ``make test`` runs them after the book is built; for a run by hand: ``make book``.
"""

import functools
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbcache
import pdf
import pytest
from book_files import DESKTOP, ROOT

SITE = ROOT / "_build" / "html"
# ms: only a hang takes that long, even on a machine with much else to do
PATIENCE = 1000 * nbcache.time_limit() // 3
PAGE_FIXTURES = {"site", "server", "built_page"}
FLAGS = [
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves this machine
]
# Every widget has been drawn. What waits for this must not be `async`: any promise counts as true.
WIDGETS_SHOWN = """() => [...document.querySelectorAll(
  'script[type="application/vnd.jupyter.widget-view+json"]')]
  .every(script => script.previousElementSibling?.matches('.widget-subarea:has(section)'))"""
FORMULAE_SET = "async () => { await window.MathJax?.startup?.promise; }"
# A figure's drawing for the other colour scheme is not shown, hence not loaded.
IMAGES_LOADED = """() => [...document.images]
  .every(image => image.complete || !image.getClientRects().length)"""
LOAD_IMAGES = """() => [...document.images].filter(image => image.getClientRects().length)
  .forEach(image => { image.loading = 'eager'; })"""
BROKEN_IMAGES = """() => [...document.images]
  .filter(image => image.complete && image.naturalWidth === 0).map(image => image.src)"""
OVERFLOW = """() => {
  const root = document.scrollingElement;
  if (root.scrollWidth <= window.innerWidth + 1) return [];
  const wide = [...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)
    .slice(0, 5).map(e => e.tagName + '.' + e.className);
  return ['page is ' + root.scrollWidth + ' px wide', ...wide];
}"""


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Mark the tests that need the built book."""
    for item in items:
        if PAGE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.page)


@pytest.fixture(scope="session")
def site() -> Path:
    """Folder of the built book."""
    if not (SITE / "index.html").exists():
        pytest.fail(f"there is no built book in {SITE}: run `make book` first", pytrace=False)
    return SITE


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        """Send a file. A browser asks for an icon of its own accord; the page did not name one."""
        if self.path == "/favicon.ico":
            self.send_response(http.HTTPStatus.NO_CONTENT)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_arguments):
        """Keep the tests' output free of one line per request."""


class _Server(http.server.ThreadingHTTPServer):
    # A browser opens several connections at once; the default of 5 drops some when the machine is
    # busy, and a dropped one is tried again only after seconds, then minutes.
    request_queue_size = 128


@pytest.fixture(scope="session")
def server(site) -> Iterator[str]:
    """Address of a web server on this machine that serves the built book."""
    handler = functools.partial(_QuietHandler, directory=str(site))
    with _Server(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser():
    """Chromium, headless; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = pdf.chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine: install one, or set CHROMIUM to its path")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=executable, headless=True, args=[*FLAGS, *pdf.flags()], timeout=PATIENCE
        )
        yield chromium
        chromium.close()


@dataclass
class Log:
    """What went wrong while a page was open."""

    outside: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def attach(self, page) -> None:
        """Listen to a page, and note every request that would leave this machine."""

        def request(one):
            if not one.url.startswith(("http://127.0.0.1:", "file:", "data:", "blob:")):
                self.outside.append(one.url)

        def console(message):
            if message.type == "error":
                self.errors.append(f"console: {message.text}")

        def response(answer):
            if answer.status >= 400:
                self.failed.append(f"{answer.status} {answer.url}")

        def failed(request):
            # what the browser itself drops when a test opens the next page is not missing
            if request.failure != "net::ERR_ABORTED":
                self.failed.append(request.url)

        page.on("request", request)
        page.on("console", console)
        page.on("pageerror", lambda error: self.errors.append(f"error: {error}"))
        page.on("response", response)
        page.on("requestfailed", failed)

    def problems(self, page) -> dict[str, list[str]]:
        """Return everything that must not be, by kind."""
        found = {
            "requests outside the book": self.outside,
            "failed requests": self.failed,
            "errors": self.errors,
            "broken images": page.evaluate(BROKEN_IMAGES),
            "horizontal scrolling": page.evaluate(OVERFLOW),
        }
        return {kind: entries for kind, entries in found.items() if entries}


@pytest.fixture
def built_page(site, server, browser):
    """Open pages of the built book; see the module's docstring for its use.

    The fixture is a function ``built_page(name, width=1280, height=900, scheme="light",
    origin="http")``. ``name`` is a chapter ("loss") or a path below ``_build/html``
    ("search.html?q=kink"); ``scheme`` is "light" or "dark"; ``origin`` is "http" or "file". It
    returns Playwright's ``Page``.
    """
    opened = []

    def open_page(name, width=DESKTOP[0], height=DESKTOP[1], scheme="light", origin="http"):
        path = name if ".html" in name else f"book/{name}.html"
        base = {"http": server, "file": site.as_uri()}[origin]
        # a phone has several dots for a pixel, and there formulae come out wider by a few pixels
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            device_scale_factor=2 if width < 600 else 1,
        )
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        log = Log()
        log.attach(page)
        opened.append((name, context, page, log))
        page.goto(f"{base}/{path}", wait_until="load")
        if path == "index.html":  # a redirect
            page.wait_for_url("**/book/index.html")
        page.wait_for_function(WIDGETS_SHOWN)
        page.evaluate(FORMULAE_SET)
        # Lazy images load when they are scrolled to: those in the middle of a long page never.
        page.evaluate(LOAD_IMAGES)
        page.wait_for_function(IMAGES_LOADED)
        return page

    yield open_page
    problems = {name: log.problems(page) for name, _, page, log in opened}
    for _, context, _, _ in opened:
        context.close()
    problems = {name: found for name, found in problems.items() if found}
    assert not problems, problems
