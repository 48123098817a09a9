"""How to get and run a page: launch buttons, the executed notebook, install lines, the PDF.

What depends on a public address depends on one setting, ``repository: url`` in ``_config.yml``.
While it is empty no page shows a button or a line that would lead nowhere.
"""

import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

import nbcache
import nbformat
from sphinx.errors import ConfigError
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
NOTEBOOKS = "_static/notebooks"
#: ``tools/pdf.py`` writes it; pages that are written afterwards offer it.
PDF = nbcache.ROOT / "_build" / "sobolev-training.pdf"
ADDRESS = re.compile(r"https://(github|gitlab)\.com/[\w.-]+/[\w.-]+")
#: Extras of the package that chapters use and Colab lacks; myst-nb brings ``glue``.
EXTRAS = "figures,widgets,kriging,molecules,theory,regressor"
COLAB = """\
!git clone -q --depth 1 {url} sobolev-book
%pip install -q "./sobolev-book[{extras}]" myst-nb
%env SOBOLEV_DATA=/content/sobolev-book/data"""


def address(options: dict[str, Any]) -> str:
    """Return the repository's address from the theme's options; empty where there is none yet.

    Raises
    ------
    ConfigError
        If it is none that Binder can open.
    """
    url = str(options.get("repository_url") or "").rstrip("/").removesuffix(".git")
    if url and not ADDRESS.fullmatch(url):
        raise ConfigError(
            f"repository: url in _config.yml is {url!r}; it must be empty or like "
            "https://github.com/OWNER/REPO"
        )
    return url


def configure(_app: Any, config: Any) -> None:
    """Let the theme show what depends on the address only where there is one."""
    options = config.html_theme_options
    options["repository_url"] = address(options)
    options["use_repository_button"] = bool(options["repository_url"])
    if not options["repository_url"]:
        options.pop("launch_buttons", None)


def _link(to: str, name: str, *attributes: str) -> str:
    return f'<a href="{escape(to)}" {" ".join(attributes)}>{escape(name)}</a>'


def _code(text: str) -> str:
    return f'<div class="highlight"><pre>{escape(text)}</pre></div>'


def fold(
    url: str, notebook: tuple[str, str] | None, launch: dict[str, str], pdf: str | None
) -> str:
    """Return the words at the end of a page, as HTML.

    Parameters
    ----------
    url : str
        Address of the repository; empty where there is none.
    notebook : tuple of str or None
        Name and link of the executed notebook; None for a page that is not one.
    launch : dict
        Links that run the notebook elsewhere, by the name of the place.
    pdf : str or None
        Link to the book as one file; None where nobody has made it.
    """
    ways = []
    if notebook:
        name, to = notebook
        ways.append(f"Download {_link(to, name, 'download')}: this page, as an executed notebook.")
    if launch:
        places = " or ".join(_link(to, place) for place, to in launch.items())
        way = f"Run it in your browser: {places}."
        if "Colab" in launch:
            way += " Colab opens the notebook alone: run this cell first."
            way += _code(COLAB.format(url=url, extras=EXTRAS))
        ways.append(way)
    where = f"from {_link(url, 'its repository')}" if url else "in a copy of its repository"
    clone = f"git clone {url} sobolev-book && cd sobolev-book\n" if url else ""
    ways.append(f"Run the whole book, {where}:" + _code(f"{clone}make book"))
    source = f'"sobolev-lib @ git+{url}"' if url else ".  # in the same folder"
    ways.append("Install the library alone:" + _code(f"pip install {source}"))
    if pdf:
        ways.append(f"Print or keep {_link(pdf, 'the whole book as a PDF', 'download')}.")
    else:
        ways.append("Make the whole book a PDF: <code>make pdf</code>.")
    listed = "".join(f"<li>{way}</li>" for way in ways)
    return (
        '<details class="get-and-run"><summary>Get and run this page</summary>'
        f"<ul>{listed}</ul></details>"
    )


def _buttons(context: dict[str, Any], label: str) -> list[dict[str, Any]]:
    """Buttons of one of the theme's groups in the head of a page."""
    groups = context.get("header_buttons", [])
    return next((g["buttons"] for g in groups if g.get("label") == label), [])


def extend(app: Any, pagename: str, _template: str, context: Any, doctree: Any) -> None:
    """Add the fold to a page, and the executed notebook to its download button."""
    if doctree is None or app.builder.name == "singlehtml":
        return
    pathto = context["pathto"]
    notebook = None
    if app.env.doc2path(pagename).endswith(".ipynb"):
        name = f"{pagename.rpartition('/')[2]}.ipynb"
        notebook = (name, pathto(f"{NOTEBOOKS}/{name}", 1))
        button = {"type": "link", "url": notebook[1], "text": ".ipynb with outputs"}
        more = {"icon": "fas fa-code", "tooltip": "Download the executed notebook"}
        _buttons(context, "download-buttons").insert(0, button | more)
    context["body"] += fold(
        app.config.html_theme_options["repository_url"],
        notebook,
        {b["text"]: b["url"] for b in _buttons(context, "launch-buttons")},
        pathto(PDF.name, 1) if PDF.exists() else None,
    )


def copy(app: Any, error: Exception | None) -> None:
    """Put the executed notebooks, and the PDF if there is one, beside the pages."""
    if error is not None or app.builder.name != "html":
        return
    folder = Path(app.outdir, NOTEBOOKS)
    folder.mkdir(parents=True, exist_ok=True)
    for docname in sorted(app.env.found_docs):
        path = Path(app.env.doc2path(docname))
        if path.suffix == ".ipynb":
            executed = nbcache.executed(nbformat.read(path, 4))
            if executed is None:
                LOGGER.warning("no stored execution: no notebook to download", location=docname)
            else:
                nbformat.write(executed, folder / path.name)
    if PDF.exists():
        shutil.copy(PDF, app.outdir)


def setup(app: Any) -> dict[str, Any]:
    """Sphinx entry point."""
    app.connect("config-inited", configure)
    app.connect("html-page-context", extend, priority=900)  # after the theme's own buttons
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
