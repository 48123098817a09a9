"""What the table of contents says: shared by the tests of the book."""

import functools
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
DESKTOP = (1280, 900)
PHONE = (360, 800)


def contents() -> list[str]:
    """Return the pages of the book, such as ``book/loss``, in reading order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = [toc["root"]]
    for part in toc["parts"]:
        for entry in part["chapters"]:
            pages += [entry["file"], *(below["file"] for below in entry.get("sections", ()))]
    return pages


def source(page: str) -> Path:
    """Return the one file that a page is made from."""
    found = [ROOT / f"{page}{suffix}" for suffix in (".ipynb", ".md")]
    [path] = [path for path in found if path.exists()]
    return path


@functools.cache
def notebooks() -> dict[str, nbformat.NotebookNode]:
    """Return the chapters that are notebooks; read once, so change none."""
    paths = {page: source(page) for page in contents()}
    return {p: nbformat.read(path, 4) for p, path in paths.items() if path.suffix == ".ipynb"}
