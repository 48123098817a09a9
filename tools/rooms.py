"""Write the pages of the library: one for every room, which is a module or a folder of modules.

``book/api.md`` lists the rooms in the order of their imports where it has the words ``% ROOMS``.
``book/api/NAME.md`` opens with an example, and has a section for every module of its room where it
has the words ``% ROOM``, so a new module is documented without anybody having to remember it.
"""

import ast
import functools
import graphlib
import pkgutil
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbcache
from sphinx.ext.autodoc import DataDocumenter

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
OVERVIEW, PLACE = "% ROOMS", "% ROOM\n"
HEADING = """\
({label})=
{level} {title}

"""
SECTION = """\
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
    graph = {place: sorted(used) for place, used in rooms.items()}  # the same order each time
    for place in graphlib.TopologicalSorter(graph).static_order():
        inside = [name for name in packages if room(name) == place]
        heads = [name for name in inside if packages[name]]
        # what a folder passes on is imported from below it
        own = {n: sorted(uses[n] & set(inside) - set(heads)) for n in inside if n not in heads}
        result += heads + list(graphlib.TopologicalSorter(own).static_order())
    return [(name, packages[name]) for name in result]


def section(name: str, package: bool) -> str:
    """Return the section of one module; that of the room itself has the page's heading."""
    # What a package only passes on is documented where it is defined.
    options = "   :ignore-module-all:\n" if package else ""
    title = name.removeprefix(f"{PACKAGE}.")
    label = "api-" + title.replace(".", "-").replace("_", "-")
    heading = HEADING.format(label=label, level="#" * name.count("."), title=title)
    body = SECTION.format(name=name, options=options)
    return body if name.count(".") == 1 else heading + body


@functools.cache
def _every() -> list[tuple[str, bool]]:
    return ordered(modules(nbcache.ROOT / PACKAGE, PACKAGE))


def body(place: str) -> str:
    """Return the sections of a room."""
    return "\n".join(section(*entry) for entry in _every() if room(entry[0]) == place)


def overview() -> str:
    """Return the list of the rooms, each with the sentence that opens its page."""
    lines = []
    for place in dict.fromkeys(room(name) for name, _ in _every()):
        page = (nbcache.ROOT / "book" / "api" / f"{place}.md").read_text(encoding="utf-8")
        says = re.split(r"(?<=\.) (?=[A-Z`])", page.split("\n\n")[1])[0]
        lines.append(f"- [`{place}`](api/{place}.md): {says}")
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Return a docstring with a backslash before every sign that docutils would misread."""
    text = DOCTEST_FLAG.sub("", text)  # for the machine; codeautolink cannot match such a line
    return SIGN.sub(lambda found: found["kept"] or "\\" + found[0], text)


def escape_signs(
    _app: Any, _what: str, _name: str, _obj: Any, _opts: Any, lines: list[str]
) -> None:
    """Let docstrings write (B, *in) and |x|: docutils sees the start of other things there."""
    lines[:] = escaped("\n".join(lines)).split("\n")


class Constant(DataDocumenter):
    """A constant with its value, unless that is longer than a line and more than a glance."""

    LONGEST = 60

    def should_suppress_value_header(self) -> bool:
        """Say whether the value is left to the source."""
        return super().should_suppress_value_header() or len(repr(self.object)) > self.LONGEST


def setup(app: Any) -> dict[str, Any]:
    """Sphinx entry point."""

    def fill(_app: Any, docname: str, source: list[str]) -> None:
        if docname == "book/api":
            source[0] = source[0].replace(OVERVIEW, overview())
        elif docname.startswith("book/api/"):
            source[0] = source[0].replace(PLACE, body(docname.rpartition("/")[2]))

    app.add_autodocumenter(Constant, override=True)
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", escape_signs, priority=900)  # after numpydoc
    return {"parallel_read_safe": True, "version": "1"}
