"""Make sphinx-codeautolink 0.19 work beside sphinx-proof and sphinx-exercise.

It keeps a stack of section titles and assumes that every section has one; theorems and exercises
are sections without a title, so its ``pop`` meets an empty stack. This extension corrects that.
"""

from typing import Any

from sphinx_codeautolink.extension import block


def depart_section(self: Any, _node: Any) -> None:
    """Leave a section, with a title or without."""
    if self.title_stack:
        self.title_stack.pop()


def setup(_app: Any) -> dict[str, Any]:
    """Sphinx entry point."""
    visitors = [c for c in vars(block).values() if isinstance(c, type)]
    [visitor] = [c for c in visitors if "depart_section" in vars(c)]
    visitor.depart_section = depart_section  # type: ignore[attr-defined]
    return {"parallel_read_safe": True, "version": "1"}
