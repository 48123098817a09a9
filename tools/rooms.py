"""Write the body of the library's page: one section for every public module of ``sobolev_lib``.

The page ``book/api.md`` holds the words ``% ROOMS`` where the sections go, so a new module is
documented without anybody having to remember it. The order is that in which modules may import each
other; modules that the list below does not know come last.
"""

import pkgutil
import re
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
ORDER = (
    "checks",
    "derivatives",
    "kinks",
    "loss",
    "normalization",
    "closed_form",
    "stack",
    "functions",
    "ledger",
    "states",
    "cost",
    "theory",
    "regression",
    "kriging",
    "distillation",
    "synthetic_gradients",
    "table1",
    "figures",
    "widgets",
)
SECTION = """\
({label})=
{level} {title}

```{{eval-rst}}
.. automodule:: {name}
   :members:
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


def rank(entry: tuple[str, bool]) -> int:
    """Return the place of a module's room in the order of imports."""
    room = entry[0].split(".")[1]
    return ORDER.index(room) if room in ORDER else len(ORDER)


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
    entries = sorted(modules(nbcache.ROOT / PACKAGE, PACKAGE), key=rank)
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
