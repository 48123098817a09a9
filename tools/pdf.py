"""Print the whole book, or some chapters, as one PDF with the browser that the tests use.

``make pdf`` runs this. Sphinx writes one long page, Chromium sets its formulae and prints it: no
TeX is needed, and the figures stay vectors. The pages of the library and the playground are left
out. As a Sphinx extension this file corrects what the builder of the long page lacks.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import access
import nbcache
import yaml
from myst_nb.sphinx_ import NbMetadataCollector

BUILD = nbcache.ROOT / "_build" / "pdf"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
READY = """async () => {
  document.documentElement.dataset.theme = 'light';
  // for looking things up, and for playing: nothing to read from paper
  document.querySelectorAll('[id="document-book/playground"], [id^="document-book/api"]')
    .forEach(e => { e.nextElementSibling?.remove(); });
  // how a claim was measured stays folded: thirty sheets
  document.querySelectorAll('details').forEach(e => { e.open = !e.closest('.claims'); });
  document.querySelectorAll('button.toggle-button[aria-expanded="false"]').forEach(e => e.click());
  document.querySelectorAll('img').forEach(e => { e.loading = 'eager'; });
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  await Promise.all([...document.images].filter(e => e.getClientRects().length)
    .map(e => e.decode().catch(() => { throw new Error('cannot show ' + e.src); })));
}"""
#: Pixels between the margins of A4 in book.css.
COLUMN = 672
DRAWN = """() => [...document.querySelectorAll(
    'script[type="application/vnd.jupyter.widget-view+json"]')]
  .every(script => script.previousElementSibling?.childElementCount)"""
FOOT = (
    "<div style='font-size:8px;width:100%;text-align:center'><span class='pageNumber'></span></div>"
)


def chromium() -> str | None:
    """Return the path of a browser: ``$CHROMIUM``, or one that is installed."""
    given = os.environ.get("CHROMIUM")
    return given or next(filter(None, map(shutil.which, NAMES)), None)


def flags() -> list[str]:
    """Return the options with which Chromium starts for this user."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return ["--disable-gpu", *(["--no-sandbox"] if is_root else [])]


def contents(chapters: list[str]) -> dict[str, Any]:
    """Return the table of contents of the PDF.

    Raises
    ------
    SystemExit
        If a chapter that was named is none.
    """
    toc: dict[str, Any] = yaml.safe_load((nbcache.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    known = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    unknown = {f"book/{name}" for name in chapters} - set(known)
    if unknown:
        raise SystemExit(f"There is no chapter {', '.join(sorted(unknown))}.")
    # what chapters cite is never left out
    wanted = {"book/bibliography", *(f"book/{name}" for name in chapters)} if chapters else known
    for part in toc["parts"]:
        part["chapters"] = [entry for entry in part["chapters"] if entry["file"] in wanted]
    toc["parts"] = [part for part in toc["parts"] if part["chapters"]]
    return toc


def one_page(chapters: list[str]) -> Path:
    """Let Sphinx write the chapters as one page; return it.

    Raises
    ------
    subprocess.CalledProcessError
        If the build fails.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    toc = BUILD / "_toc.yml"
    toc.write_text(yaml.safe_dump(contents(chapters), sort_keys=False), encoding="utf-8")
    words = ["build", ".", "--builder", "singlehtml", "--toc", str(toc), "--path-output"]
    program = Path(sys.executable).with_name("jupyter-book")
    command = [sys.executable, str(program), *words, str(BUILD), "--all", "--quiet"]
    subprocess.run(command, cwd=nbcache.ROOT, check=True)
    out = BUILD / "_build" / "singlehtml"
    # its links are relative to the folder above
    return Path(shutil.copy(out / "book" / "index.html", out / "print.html"))


def write(page: Path, target: Path, browser: Any) -> None:
    """Print a page.

    Parameters
    ----------
    page : Path
        HTML file; ``book.css`` has the rules for its print.
    target : Path
        PDF file.
    browser : playwright.sync_api.Browser
        A Chromium without a window.
    """
    # formulae are broken into lines for the width that they find
    sheet = browser.new_page(color_scheme="light", viewport={"width": COLUMN, "height": 1000})
    sheet.set_default_timeout(1000 * nbcache.time_limit())
    sheet.emulate_media(media="print", color_scheme="light")
    sheet.goto(page.as_uri(), wait_until="load")
    sheet.wait_for_function(DRAWN)
    sheet.evaluate(READY)
    sheet.pdf(
        path=target, prefer_css_page_size=True, print_background=True, outline=True, tagged=True,
        display_header_footer=True, header_template="<i></i>", footer_template=FOOT,
    )  # fmt: skip
    sheet.close()


def main() -> int:
    """Make the PDF; say what is missing where it cannot be made."""
    parser = argparse.ArgumentParser(description="Print the book, or some chapters, as a PDF.")
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="these only")
    chosen = parser.parse_args().chapters
    browser = chromium()
    if browser is None or shutil.which(browser) is None:
        print(
            "make pdf prints the pages with Chromium or Chrome, and "
            + ("found none" if browser is None else f"$CHROMIUM is {browser!r}, which is none")
            + ".\nInstall one (Debian: apt-get install chromium), or set CHROMIUM to its path."
            "\nTeX is not needed, and would not help: the figures and widgets are made for pages."
        )
        return 1
    target = nbcache.ROOT / "_build" / f"{'-'.join(chosen)}.pdf" if chosen else access.PDF
    print("Writing the book as one page.", flush=True)
    page = one_page(chosen)
    print("Printing it: minutes for the whole book.", flush=True)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=flags())
        write(page, target, opened)
        opened.close()
    print(f"The PDF: {target}")
    return 0


def fill(app: Any) -> None:
    """Let the builder of the long page write what only the builder of pages knows.

    Extensions register their nodes for ``html``; Sphinx looks there only while nobody has
    registered any for ``singlehtml``, which sphinx-exercise does.
    """
    if app.builder.name == "singlehtml":
        known = app.registry.translation_handlers
        known["singlehtml"] = {**known.get("html", {}), **known.get("singlehtml", {})}
        app.set_html_assets_policy("always")  # the first page has no formula of its own


def add_widgets(app: Any, pagename: str, _template: str, _context: Any, _doctree: Any) -> None:
    """Put the states of all chapters' widgets on the long page; MyST-NB knows the first one's."""
    if app.builder.name == "singlehtml":
        for docname in sorted(app.env.found_docs - {pagename}):
            for path, options in NbMetadataCollector.get_js_files(app.env, docname).values():
                if path is None:
                    app.add_js_file(path, **options)


def setup(app: Any) -> dict[str, Any]:
    """Sphinx entry point."""
    app.connect("builder-inited", fill)
    app.connect("html-page-context", add_widgets)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}


if __name__ == "__main__":
    sys.exit(main())
