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
    for name in names:
        assert f"automodule:: {name}\n" in body


def test_each_module_uses_only_those_above_it(rooms):
    entries = rooms.ordered(rooms.modules(ROOT / "sobolev_lib", "sobolev_lib"))
    place = {name: i for i, (name, _) in enumerate(entries)}
    pairs = [
        (name, used)
        for name, package in entries
        if not package
        for used in rooms.imported(name, package, place)
    ]
    assert len(pairs) > 100 and ("sobolev_lib.loss", "sobolev_lib.derivatives") in pairs
    # a folder's own file passes on what stands below it
    assert not [pair for pair in pairs if place[pair[1]] > place[pair[0]]]


def test_experiments_import_the_method_and_the_records_never_each_other(rooms):
    entries = rooms.modules(ROOT / "sobolev_lib", "sobolev_lib")
    experiments = {"regression", "synthetic_gradients", "cost", "distillation"}
    for name, package in entries:
        own = rooms.room(name)
        others = {rooms.room(used) for used in rooms.imported(name, package, dict(entries))} - {own}
        if own in experiments:
            assert not others & (experiments | {"widgets"}), name
        elif own == "records":
            assert not others, name
        elif own == "figures":
            assert not others & experiments, name


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


def test_the_readme_of_the_data_has_the_command_behind_every_record(monkeypatch):
    """In step with the ledgers: .venv/bin/python tools/provenance.py writes it anew."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import provenance

    text = provenance.README.read_text(encoding="utf-8")
    assert provenance.filled(text) == text
    assert text.count("# 420 records") >= 1
