"""Sphinx directives of the status page: what this copy of the book was built from and on.

``build-status`` tells code and machine, ``stored-records`` counts the ledger. Both are read at
build time, so the page cannot be out of step with the pages beside it.
"""

import datetime
import os
import platform
import subprocess
from importlib import metadata
from typing import Any

import nbcache
import torch
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from sobolev_lib.records.ledger import Ledger, default_folder

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "matplotlib",
    "safetensors",
    "anywidget",
    "ipywidgets",
    "jupyter-book",
    "Sphinx",
    "myst-nb",
    "smt",
)


def commit() -> str:
    """Return the checkout's commit, with a word where files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=nbcache.ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        name = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
    return f"{name} with uncommitted changes" if changed else name


def device() -> str:
    """Return the processor, and the accelerator if torch sees one."""
    processor = platform.processor() or platform.machine()
    text = f"{processor}, {os.cpu_count()} cores"
    if torch.cuda.is_available():
        text += f"; {torch.cuda.get_device_name()}"
    return text


def rows() -> list[tuple[str, str]]:
    """Return the names and values of the table."""
    facts = [
        ("Commit", commit()),
        ("Built", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("Library and data", nbcache.digest()),
        ("Device", device()),
        ("System", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
    ]
    for name in PACKAGES:
        try:
            facts.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            facts.append((name, "not installed"))
    return facts


def records() -> list[tuple[str, str]]:
    """Return how many records an experiment has, and how many no commit can make again."""
    found = []
    for path in sorted(default_folder().glob("*.jsonl")):
        own = Ledger(path.stem).read()
        dirty = sum(record.modified for record in own)
        note = f", {dirty} of them by a library with uncommitted changes" if dirty else ""
        found.append((path.stem, f"{len(own)} records{note}"))
    return found


def table(entries: list[tuple[str, str]]) -> nodes.table:
    """Return a table of two columns."""
    group = nodes.tgroup(cols=2)
    group += [nodes.colspec(colwidth=30), nodes.colspec(colwidth=70)]
    body = nodes.tbody()
    for name, value in entries:
        row = nodes.row()
        for text in (name, value):
            row += nodes.entry("", nodes.paragraph(text=text))
        body += row
    group += body
    return nodes.table("", group)


class BuildStatus(SphinxDirective):
    """The table of versions, commit and device."""

    def run(self) -> list[nodes.Node]:
        """Make the table; the page is read again at every build."""
        self.env.note_reread()
        return [table(rows())]


class StoredRecords(SphinxDirective):
    """The table of the records in the ledger."""

    def run(self) -> list[nodes.Node]:
        """Make the table; the page is read again at every build."""
        self.env.note_reread()
        return [table(records())]


def setup(app: Any) -> dict[str, Any]:
    """Sphinx entry point."""
    app.add_directive("build-status", BuildStatus)
    app.add_directive("stored-records", StoredRecords)
    return {"parallel_read_safe": True, "version": "1"}
