"""The book as a PDF: what is printed, and what is said where it cannot be."""

import os
import subprocess
import sys

import pdf
import pytest
from book_files import ROOT, contents

PAGE = """<!doctype html><html lang="en"><title>Two</title>
<link rel="stylesheet" href="{css}"><article class="bd-article">
<section><h1>One</h1>
<details><summary>more</summary>folded</details></section>
<span id="document-book/api/loss"></span><section><h1>Library</h1></section>
<span id="document-book/two"></span><section><h1>Two</h1></section></article></html>"""


@pytest.mark.parametrize("given", ["", "/no/browser"])
def test_where_no_browser_is_the_message_says_what_to_do(tmp_path, given):
    environment = {**os.environ, "PATH": str(tmp_path)} | ({"CHROMIUM": given} if given else {})
    if not given:
        environment.pop("CHROMIUM", None)
    done = subprocess.run(
        [sys.executable, "tools/pdf.py"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert not done.stderr, "no traceback"
    assert "set CHROMIUM" in done.stdout and given in done.stdout
    assert "Writing" not in done.stdout, "it is said before minutes have passed"


def test_the_pdf_has_every_page_of_the_contents_or_those_named():
    def files(toc):
        return [toc["root"], *(e["file"] for part in toc["parts"] for e in part["chapters"])]

    assert files(pdf.contents([])) == [page for page in contents() if "/api/" not in page]
    some = ["book/index", "book/loss", "book/kinks", "book/bibliography"]
    assert files(pdf.contents(["kinks", "loss"])) == some
    with pytest.raises(SystemExit, match="no chapter book/lost"):
        pdf.contents(["loss", "lost"])


def test_chapters_are_printed_on_sheets_of_their_own_without_the_library(tmp_path, browser):
    source, target = tmp_path / "a page.html", tmp_path / "out.pdf"
    css = (ROOT / "book" / "assets" / "book.css").as_uri()
    source.write_text(PAGE.format(css=css), encoding="utf-8")
    page = browser.new_page()
    page.goto(source.as_uri())
    page.evaluate(pdf.READY)
    assert page.locator("details").evaluate("e => e.open")
    assert page.locator("h1").all_inner_texts() == ["One", "Two"]
    page.close()

    pdf.write(source, target, browser)
    content = target.read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.count(b"/Type /Page\n") == 2, "a sheet for each chapter"
