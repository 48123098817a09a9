"""The tools that build the book."""

import multiprocessing
import os
import shutil
import subprocess
import sys

import claimlinks
import nbcache
import nbformat
import provenance
import pytest
import rooms
import status
from book_files import ROOT
from docutils import nodes
from nbformat.v4 import new_code_cell, new_notebook, new_output

from sobolev_lib.records import claims
from sobolev_lib.records.ledger import Ledger


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
def test_docstrings_may_write_shapes_and_absolute_values(written, read):
    assert rooms.escaped(written) == read


def test_each_module_uses_only_those_above_it():
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


def test_experiments_import_the_method_and_the_records_never_each_other():
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


def test_the_status_table_tells_commit_and_versions():
    import torch

    rows = dict(status.rows())
    # the label of the build, +cpu or +cu130, is not always in both
    assert rows["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert rows["Commit"]
    assert status.table(list(rows.items())).astext().count("torch") >= 1


def test_the_status_page_counts_the_records_that_no_commit_can_make_again():
    rows = dict(status.records())
    own = Ledger("regression").read()
    assert rows["regression"].startswith(f"{len(own)} records")
    assert ("uncommitted" in rows["regression"]) == any(r.commit.endswith("+") for r in own)


@pytest.mark.parametrize("path", [None, "nowhere"], ids=["no checkout", "no git"])
def test_the_commit_is_unknown_without_git(monkeypatch, tmp_path, path):
    monkeypatch.setattr(nbcache, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if path:
        monkeypatch.setenv("PATH", path)
    assert status.commit().startswith("unknown")


def test_the_readme_of_the_data_has_the_command_behind_every_record():
    """In step with the ledgers: .venv/bin/python tools/provenance.py writes it anew."""
    text = provenance.README.read_text(encoding="utf-8")
    assert provenance.filled(text) == text
    assert text.count("# 420 records") >= 1


# One execution for tests and book.


FONTS_ARE_LISTED = """\
import matplotlib, pathlib
assert list(pathlib.Path(matplotlib.get_cachedir()).glob("fontlist-*.json"))
"""
#: PyTorch's compiler says this on Python 3.13.0 only.
WARNS = """\
import warnings
warnings.warn("Guards may run slower on Python 3.13.0. Consider 3.13.1+.", RuntimeWarning)
"""


@pytest.fixture
def checkout(tmp_path):
    """A book of three chapters, in a folder whose name has a space."""
    root = tmp_path / "a book"
    for name in ("tools/nbcache.py", "tools/execute.py", "pyproject.toml", "requirements.lock"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "_toc.yml").write_text("root: one\nparts: [{chapters: [{file: two}, {file: three}]}]")
    write(root, "one", FONTS_ARE_LISTED, WARNS)
    write(root, "two", "import sys", "# speaks\nprint('careful', file=sys.stderr)")
    write(root, "three", "1", "# divides\n1 / 0", "2")
    return root


def write(root, name, *cells):
    """Write a notebook."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    nbformat.write(notebook, root / f"{name}.ipynb")


def build(root, *names, home=os.devnull):
    """Execute chapters as ``make book`` does, with a home that nothing can be written to."""
    command = [sys.executable, "tools/execute.py", *names]
    dropped = ("MPLCONFIGDIR", "IPYTHONDIR", "PYTHONPATH")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment |= {"HOME": home}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def test_the_build_says_what_it_does_and_repeats_only_what_failed(checkout):
    first = build(checkout)
    assert first.returncode == 2, first.stderr
    assert "chapter 2 of 3" in first.stdout
    assert "one: done in" in first.stdout
    assert "two: FAILED in cell 2, which starts with '# speaks':" in first.stdout
    assert "careful" in first.stdout
    assert "three: FAILED in cell 2, which starts with '# divides':" in first.stdout
    assert "ZeroDivisionError" in first.stdout
    assert "three failed, see above. Alone: .venv/bin/python tools/execute.py three" in first.stdout

    write(checkout, "three", "1 / 1")
    second = build(checkout)
    assert second.returncode == 1
    assert "to execute: 2" in second.stdout
    assert "three: done" in second.stdout
    assert "two: FAILED" in second.stdout

    assert build(checkout, "one").stdout.count("one: done") == 1, "a named chapter runs again"
    assert "There is no chapter four; there are one, two, three" in build(checkout, "four").stderr


def executed(text="", **output):
    """Return a notebook with one executed cell."""
    cell = new_code_cell("pass", execution_count=1)
    if output:
        cell.outputs = [new_output(**output)]
    return new_notebook(cells=[cell])


FAULTS = {
    "stderr": {"output_type": "stream", "name": "stderr", "text": "Building the font cache"},
    "error": {"output_type": "error", "ename": "E", "evalue": "e", "traceback": ["Traceback: E"]},
}


@pytest.mark.parametrize("kind", FAULTS)
def test_an_execution_with_a_fault_is_not_kept(monkeypatch, tmp_path, kind):
    monkeypatch.setattr(nbcache, "cache_path", lambda: tmp_path / "cache")
    bad = executed(**FAULTS[kind])
    assert not nbcache.is_stored(bad)
    with pytest.raises(ValueError, match=r"one\.ipynb, cell 1: not stored\."):
        nbcache.store(bad, tmp_path / "one.ipynb")
    assert not nbcache.is_stored(bad)
    nbcache.store(executed(), tmp_path / "one.ipynb")
    assert nbcache.is_stored(bad), "only code cells decide which execution belongs to a notebook"


def test_a_stored_fault_of_another_program_is_not_used(monkeypatch, tmp_path):
    """jupyter-book, called by hand, stores without asking."""
    monkeypatch.setattr(nbcache, "cache_path", lambda: tmp_path / "cache")
    with monkeypatch.context() as careless:
        careless.setattr(nbcache, "faults", lambda notebook: {})
        nbcache.store(executed(**FAULTS["stderr"]), tmp_path / "one.ipynb")
    assert not nbcache.is_stored(executed())
    nbcache.store(executed(), tmp_path / "one.ipynb")
    assert nbcache.is_stored(executed())


@pytest.mark.parametrize("left", ["", None], ids=["half", "nothing"])
def test_a_store_that_was_killed_is_done_again(monkeypatch, tmp_path, left):
    monkeypatch.setattr(nbcache, "cache_path", lambda: tmp_path / "cache")
    nbcache.store(executed(), tmp_path / "one.ipynb")
    [written] = (tmp_path / "cache").rglob("*.ipynb")
    written.write_text(left) if left is not None else shutil.rmtree(written.parent)
    assert not nbcache.is_stored(executed())
    nbcache.store(executed(), tmp_path / "one.ipynb")
    assert nbcache.is_stored(executed())


def _store_at_once(folder, number, barrier):
    nbcache.cache_path = lambda: folder
    notebook = new_notebook(cells=[new_code_cell(f"{number}", execution_count=1)])
    barrier.wait()
    nbcache.store(notebook, folder / f"{number}.ipynb")


def test_executions_are_stored_at_once_in_a_new_cache(tmp_path):
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    for turn in range(5):
        barrier = context.Barrier(3)
        folder = tmp_path / str(turn)
        several = [
            context.Process(target=_store_at_once, args=(folder, number, barrier))
            for number in range(3)
        ]
        for process in several:
            process.start()
        for process in several:
            process.join()
        assert [process.exitcode for process in several] == [0, 0, 0]


@pytest.mark.parametrize(
    ("path", "stale"),
    [
        ("sobolev_lib/a/b.py", True),
        ("sobolev_lib/widgets/b.js", True),
        ("data/ledger/regression.jsonl", True),
        ("data/states/a.safetensors", False),
        ("data/images/a.npz", False),
        ("out/ledger/regression.jsonl", False),
        ("tests/test_a.py", False),
        ("data/README.md", False),
    ],
)
def test_what_makes_stored_executions_stale(monkeypatch, tmp_path, path, stale):
    """A reader's own runs do not; the book's records do."""
    monkeypatch.setattr(nbcache, "ROOT", tmp_path)
    (tmp_path / "requirements.lock").write_text("torch==1")
    before = nbcache.digest()
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("new")
    assert (nbcache.digest() != before) == stale


def test_what_git_ignores_below_data_makes_nothing_stale():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    folders = {name for name in ignored if name.startswith("data/") and name.endswith("/")}
    assert folders == {f"{name}/" for name in nbcache.UNWATCHED}


def test_one_time_limit_for_everything(pytestconfig):
    """Nothing else may state one: a slow machine would fail there."""
    assert nbcache.time_limit() == float(pytestconfig.getini("timeout")) >= 1800
    for name in ("Makefile", "_config.yml", ".ci/run"):
        assert "timeout" not in (ROOT / name).read_text(encoding="utf-8")
    for path in (ROOT / "book").glob("*.ipynb"):
        assert "timeout" not in nbformat.read(path, 4).metadata.get("execution", {}), path


def test_a_claim_has_its_links_once_below_the_fold_of_its_command():
    command = "python -m sobolev_lib.distillation distill"
    finding = claims.Finding("closer in 1 of 2", claims.OPEN, 3, one_by_one="first; second")
    claim = claims.Claim("a", "Fig. 4", "closer", lambda _: finding, command, "none")
    table = claims.table([claim], {"a": finding})
    chapter = nodes.reference("", "Chapter", refuri="chapter.html")
    linked = claimlinks.linked(table, chapter, set())
    assert linked.count("claim-links") == 1
    assert linked.index(command) < linked.index("claim-links")
    assert "<summary>One by one</summary>first<br>second" in linked
    assert ": command and deviations</summary>" in linked
