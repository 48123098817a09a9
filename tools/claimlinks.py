"""Give every claim on the page of results its links: chapter, records, and an address of its own.

The library makes the table of claims; which page discusses them is the book's affair. The chapter
is the last page that the section names above its table. The ledger is that of the command that
makes the records, and travels with the pages, so that the link works offline as well.
``book/assets/claims.js`` puts a filter above the tables; without it every claim is there to read.
"""

import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

import nbcache
from docutils import nodes

PAGE = "book/results"
SCRIPT = "claims.js"
FOLDER = "_static/ledger"
ROW = re.compile(r"<tr>(<td>(.*?)</td>.*?<code>python -m sobolev_lib[ .](\w+).*?)</tr>", re.DOTALL)
# a fold is opened by who knows what is in it
SUMMARY = re.compile(r"(?<=<summary>)(.*?)(?=</summary>)")
TAG = re.compile(r"<[^>]+>")


def linked(table: str, chapter: nodes.reference, taken: set[str]) -> str:
    """Return the HTML of a table whose rows link to a chapter and to their records.

    Parameters
    ----------
    table : str
        As the library writes it: claim, our number with the command in its fold, verdict.
    chapter : docutils.nodes.reference
        Link to the page that discusses the claims.
    taken : set of str
        Addresses that other rows of the page have; those of this table are added.
    """

    def row(found: re.Match[str]) -> str:
        cells, claim, experiment = found.groups()
        start = address = nodes.make_id(f"claim {TAG.sub('', claim)}")[:60].rstrip("-")
        number = 1
        while address in taken:
            number += 1
            address = f"{start}-{number}"
        taken.add(address)
        links = {
            f"chapter: {chapter.astext()}": chapter["refuri"],
            f"records: {experiment}.jsonl": f"../{FOLDER}/{experiment}.jsonl",
            "link to this claim": f"#{address}",
        }
        listed = " · ".join(
            f'<a href="{escape(to)}">{escape(name)}</a>' for name, to in links.items()
        )
        # the last fold of a row is that of the command
        above, fold, below = cells.rpartition("<details>")
        fold += SUMMARY.sub(r"\1: command and deviations", below)
        links_below = f'</details><small class="claim-links">{listed}</small>'
        cells = above + fold.replace("</details>", links_below)
        return f'<tr id="{address}">{cells}</tr>'

    return ROW.sub(row, table)


def link(app: Any, doctree: nodes.document, docname: str) -> None:
    """Rewrite the tables of the page of results."""
    if docname != PAGE or app.builder.format != "html":
        return
    taken: set[str] = set()
    chapter = None
    # in the order of the text
    for node in doctree.findall(lambda n: isinstance(n, nodes.reference | nodes.raw)):
        if isinstance(node, nodes.reference):
            chapter = node if node.get("internal") and "refuri" in node else chapter
        elif "claims verdicts" in node.astext() and chapter is not None:
            text = linked(node.astext(), chapter, taken)
            node.replace_self(nodes.raw("", text, format="html"))


def add_script(app: Any, pagename: str, _template: str, _context: Any, _doctree: Any) -> None:
    """Load the filter on this page only."""
    if pagename == PAGE:
        app.add_js_file(SCRIPT, loading_method="defer")


def copy_ledgers(app: Any, error: Exception | None) -> None:
    """Put the records beside the pages."""
    if error is None and app.builder.format == "html" and PAGE in app.env.found_docs:
        folder = Path(app.outdir, FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        for path in (nbcache.ROOT / "data" / "ledger").glob("*.jsonl"):
            shutil.copy(path, folder)


def setup(app: Any) -> dict[str, Any]:
    """Sphinx entry point."""
    app.connect("doctree-resolved", link)
    app.connect("html-page-context", add_script)
    app.connect("build-finished", copy_ledgers)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
