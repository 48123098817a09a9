"""The tools that build the book."""

import pytest
from book_files import ROOT


@pytest.fixture
def rooms(monkeypatch):
    """The module ``tools/rooms.py``."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import rooms

    return rooms


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("(B, *in) to (*in,), blocks *in.", r"(B, \*in) to (\*in,), blocks \*in."),
        ("the mean of |m - f| and |x|", r"the mean of \|m - f| and \|x|"),
        ("``(B, *in)`` and :math:`|x|`", "``(B, *in)`` and :math:`|x|`"),
        ("over two lines :math:`a +\n|x|` |x|", "over two lines :math:`a +\n|x|` \\|x|"),
        ("*Sobolev Training* and d**2", "*Sobolev Training* and d**2"),
        ("| a | b |\n| c | d |", "| a | b |\n| c | d |"),
        (">>> f(*a, |b|)", ">>> f(*a, |b|)"),
        (">>> f()  # doctest: +SKIP\n1", ">>> f()\n1"),
        (".. math::\n\n    |t|\n    |x|\n\nor |x|", ".. math::\n\n    |t|\n    |x|\n\nor \\|x|"),
        ("So::\n\n    f(*in)\n\n(*in)", "So::\n\n    f(*in)\n\n(\\*in)"),
    ],
)  # fmt: skip
def test_docstrings_may_write_shapes_and_absolute_values(rooms, written, read):
    assert rooms.escaped(written) == read


def test_every_module_has_a_section_in_the_order_of_imports(rooms):
    names = [name for name, _ in rooms.modules(ROOT / "sobolev_lib", "sobolev_lib")]
    assert {"sobolev_lib.loss", "sobolev_lib.figures.style"} <= set(names)
    assert not [name for name in names if "__" in name or "._" in name]
    body = rooms.body()
    places = [
        body.index(f"automodule:: sobolev_lib.{room}\n") for room in ("kinks", "loss", "stack")
    ]
    assert places == sorted(places)
    for name in names:
        assert f"automodule:: {name}\n" in body


def test_the_status_table_tells_commit_and_versions(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import status
    import torch

    rows = dict(status.rows())
    assert rows["torch"] == torch.__version__
    assert rows["Commit"]
    assert status.table(list(rows.items())).astext().count("torch") >= 1


def test_the_commit_is_unknown_outside_a_checkout(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import nbcache
    import status

    monkeypatch.setattr(nbcache, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert status.commit().startswith("unknown")
