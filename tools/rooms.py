"""Write the body of the library's page: one section for every public module of ``sobolev_lib``.

The page ``book/api.md`` holds the words ``% ROOMS`` where the sections go, so a new module is
documented without anybody having to remember it. The order is that of the imports: of rooms (a
folder or a single file), and of the modules in a room.
"""

import ast
import graphlib
import pkgutil
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbcache

# What stays as it is: directives and literal blocks with all that is indented below them, tables,
# examples, literals and roles.
KEPT = r"""
    (?P<kept>
      ^(?P<pad>[ ]*) (?: \.\.[ ][^\n]* | [^\n]*:: ) $ (?: \n (?: (?P=pad)[ ]+\S[^\n]* | [ ]*$ ) )*
    | ^\s*\|[^\n]* | >>>[^\n]* | ``.*?`` | `[^`]*`
    )"""
# What docutils would misread: the star of a shape such as (B, *in), the bar of an absolute value.
MISREAD = r"(?<=[( ])\*(?=in\b|\w+[,)]) | (?<!\w)\|(?=\S)"
SIGN = re.compile(f"{KEPT} | {MISREAD}", re.VERBOSE | re.MULTILINE | re.DOTALL)
DOCTEST_FLAG = re.compile(r"[ ]*# doctest:.*$", re.MULTILINE)
PACKAGE = "sobolev_lib"
PLACE = "% ROOMS"
SECTION = """\
({label})=
{level} {title}

```{{eval-rst}}
.. automodule:: {name}
   :members:
   :exclude-members: set_fit_request, set_predict_request, set_score_request
{options}```
"""


def modules(folder: Path, prefix: str) -> list[tuple[str, bool]]:
    """Return name and package-ness of the public modules below a folder, parents first."""
    found = []
    for module in pkgutil.iter_modules([str(folder)]):
        if module.name.startswith("_"):
            continue
        name = f"{prefix}.{module.name}"
        found.append((name, module.ispkg))
        if module.ispkg:
            found += modules(folder / module.name, name)
    return found


def imported(name: str, package: bool, known: Iterable[str]) -> set[str]:
    """Return the modules among ``known`` that a module imports."""
    path = nbcache.ROOT.joinpath(*name.split("."))
    source = (path / "__init__.py" if package else path.with_suffix(".py")).read_text("utf-8")
    home = name if package else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(home.split(".")[: len(home.split(".")) - node.level + 1])
            origin = ".".join(filter(None, (base if node.level else "", node.module)))
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return found & set(known) - {name}


def room(name: str) -> str:
    """Return the folder or single file of the package that a module is in."""
    return name.split(".")[1]


def ordered(entries: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Sort modules so that each imports only those above it; a folder comes before what it holds.

    Rooms are kept together. A circle of rooms, or of modules in a room, is an error.
    """
    packages = dict(entries)
    uses = {name: imported(name, package, packages) for name, package in entries}
    rooms: dict[str, set[str]] = {room(name): set() for name in packages}
    for name, used in uses.items():
        rooms[room(name)] |= {room(other) for other in used} - {room(name)}
    result = []
    for place in graphlib.TopologicalSorter(rooms).static_order():
        inside = [name for name in packages if room(name) == place]
        heads = [name for name in inside if packages[name]]
        # what a folder passes on is imported from below it
        graph = {n: uses[n] & set(inside) - set(heads) for n in inside if n not in heads}
        result += heads + list(graphlib.TopologicalSorter(graph).static_order())
    return [(name, packages[name]) for name in result]


def section(name: str, package: bool) -> str:
    """Return the section of one module."""
    # What a package only passes on is documented where it is defined.
    options = "   :ignore-module-all:\n" if package else ""
    return SECTION.format(
        label="api-" + name.removeprefix(f"{PACKAGE}.").replace(".", "-").replace("_", "-"),
        level="#" * name.count(".") + "#",
        title=name.removeprefix(f"{PACKAGE}."),
        name=name,
        options=options,
    )


def body() -> str:
    """Return the sections of all modules."""
    entries = ordered(modules(nbcache.ROOT / PACKAGE, PACKAGE))
    return "\n".join(section(*entry) for entry in entries)


def escaped(text: str) -> str:
    """Return a docstring with a backslash before every sign that docutils would misread."""
    text = DOCTEST_FLAG.sub("", text)  # for the machine; codeautolink cannot match such a line
    return SIGN.sub(lambda found: found["kept"] or "\\" + found[0], text)


def escape_signs(
    _app: Any, _what: str, _name: str, _obj: Any, _opts: Any, lines: list[str]
) -> None:
    """Let docstrings write (B, *in) and |x|: docutils sees the start of other things there."""
    lines[:] = escaped("\n".join(lines)).split("\n")


def setup(app: Any) -> dict[str, Any]:
    """Sphinx entry point."""

    def fill(_app: Any, docname: str, source: list[str]) -> None:
        if docname == "book/api":
            source[0] = source[0].replace(PLACE, body())

    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", escape_signs, priority=900)  # after numpydoc
    return {"parallel_read_safe": True, "version": "1"}
