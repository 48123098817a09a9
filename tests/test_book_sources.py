"""The sources of the book: what the table of contents names, and the form of its notebooks."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from book_files import ROOT, contents, notebooks, source

LONGEST_CELL = 25  # lines


def test_every_page_of_the_contents_has_one_source():
    for page in contents():
        assert source(page).is_file()


def test_every_chapter_is_in_the_contents():
    files = [*(ROOT / "book").glob("*.*"), *(ROOT / "book" / "api").glob("*.*")]
    written = {
        path.relative_to(ROOT).with_suffix("").as_posix() for path in files if path.is_file()
    }
    written -= {"book/references", "book/ruff"}
    assert written == set(contents()), "list new chapters in _toc.yml"


@pytest.mark.parametrize("page", notebooks())
def test_notebook_has_no_outputs_and_no_traces_of_tools(page):
    notebook = notebooks()[page]
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert set(notebook.metadata) <= {"kernelspec", "language_info", "execution", "mystnb"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


@pytest.mark.parametrize("page", notebooks())
def test_code_cells_are_short(page):
    """Logic belongs in the library, where it is typed and tested."""
    lengths = [len(c.source.splitlines()) for c in notebooks()[page].cells if c.cell_type == "code"]
    assert max(lengths) <= LONGEST_CELL


def _is_plumbing(statement):
    """Whether a statement only hands numbers to the prose."""
    if isinstance(statement, ast.For):
        return all(map(_is_plumbing, statement.body))
    call = statement.value if isinstance(statement, ast.Expr) else None
    name = call.func if isinstance(call, ast.Call) else None
    return isinstance(name, ast.Name) and name.id in ("glue", "show", "tell")


@pytest.mark.parametrize("page", notebooks())
def test_plumbing_is_in_hidden_cells(page):
    for cell in notebooks()[page].cells:
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type == "code" and not tags & {"remove-cell", "remove-input", "hide-cell"}:
            assert not any(map(_is_plumbing, ast.parse(cell.source).body)), cell.source


@pytest.mark.parametrize("page", notebooks())
def test_exercises_are_open_and_solutions_are_folded_and_end_in_a_sentence(page):
    words = "\n".join(c.source for c in notebooks()[page].cells if c.cell_type == "markdown")
    assert words.count("{solution-start}") == words.count("{solution-end}")
    after_code = ""
    for cell in notebooks()[page].cells:
        if cell.cell_type == "code":
            after_code = ""
            continue
        directives = r"\{(exercise|solution|solution-start)\}[^\n]*\n((?::[^\n]*\n)*)"
        for kind, options in re.findall(directives, cell.source):
            assert ("dropdown" in options) == (kind != "exercise"), (kind, options)
        after_code += f"\n\n{cell.source}"
        for part in after_code.split("{solution-end}")[:-1]:
            last = part.strip("`: \n").rsplit("\n\n", 1)[-1]
            assert re.search(r"\w.*[.!?)$]\W*$", last, re.DOTALL), f"{cell.id}: {last!r}"


@pytest.mark.parametrize("page", notebooks())
def test_chapter_starts_with_its_title(page):
    cell = notebooks()[page].cells[0]
    assert cell.cell_type == "markdown"
    assert re.match(r"(\(\S+\)=\n)?# \S", cell.source)


@pytest.mark.parametrize("page", notebooks())
def test_nothing_is_swallowed(page):
    """Errors that a chapter expects carry the tag ``raises-exception``: the reader sees them."""
    for cell in notebooks()[page].cells:
        if cell.cell_type == "code":
            assert not re.search(r"except[^:\n]*:\s*pass", cell.source)
            assert "allow_pickle=True" not in cell.source
            assert "torch.load(" not in cell.source


def test_a_changed_record_makes_stored_executions_stale(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import nbcache

    (tmp_path / "sobolev_lib").mkdir()
    (tmp_path / "data" / "ledger").mkdir(parents=True)
    (tmp_path / nbcache.PINS).write_text("torch==1\n")
    monkeypatch.setattr(nbcache, "ROOT", tmp_path)
    seen = {nbcache.digest()}
    for name in ("sobolev_lib/a.py", "sobolev_lib/w.js", "data/ledger/r.jsonl", nbcache.PINS):
        (tmp_path / name).write_text(json.dumps(name))
        seen.add(nbcache.digest())
    assert len(seen) == 5
    (tmp_path / "sobolev_lib" / "a.pyc").write_text("not watched")
    assert nbcache.digest() in seen


def test_a_stored_execution_is_found_again_until_its_code_changes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import nbcache
    import nbformat

    monkeypatch.setattr(nbcache, "cache_path", lambda: tmp_path / "cache")
    cell = nbformat.v4.new_code_cell("1 + 1")
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    path = tmp_path / "chapter.ipynb"
    nbformat.write(notebook, path)
    assert not nbcache.is_stored(notebook)
    executed = nbformat.read(path, 4)
    executed.cells[0].metadata["execution"] = {"iopub.status.busy": "a time"}
    executed.cells[0].execution_count = 1
    nbcache.store(executed, path, 0.5)
    assert nbcache.is_stored(notebook)
    notebook.cells[0].source = "1 + 2"
    assert not nbcache.is_stored(notebook)


@pytest.mark.parametrize("place", ["book/assets/vendor", "tests/vendor"])
def test_vendored_files_are_those_that_were_fetched(place):
    """What a page serves must be what its makers published: the sums are written by the fetch."""
    import hashlib

    folder = ROOT / place
    listed = {}
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split()
        listed[name.removeprefix("./")] = digest
    ours = {"SHA256SUMS", "LICENSES.txt", "widgets/setup.js"}
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - ours
    assert present == set(listed)
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_widget_front_ends_agree_with_the_installed_packages():
    import anywidget

    installed = Path(anywidget.__file__).parent / "nbextension" / "index.js"
    vendored = ROOT / "book" / "assets" / "vendor" / "widgets" / "anywidget.js"
    patient = installed.read_text().replace("AbortSignal.timeout(2e3)", "AbortSignal.timeout(6e4)")
    assert "AbortSignal.timeout(6e4)" in patient
    assert vendored.read_text() == patient, "run tools/vendor.sh"


def test_no_absolute_path_or_private_host_in_the_sources():
    done = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    suspicious = re.compile(r"(?<![\w.])/(?:root|home|work)/\w|file:///(?!\W)")
    text = {".py", ".md", ".ipynb", ".toml", ".yml", ".yaml", ".cff", ".bib", ".lock", ".jsonl"}
    found = []
    for name in done.stdout.splitlines():
        path = ROOT / name
        if path.suffix in text and path.is_file() and path.name != "test_book_sources.py":
            found += [name for line in path.open(encoding="utf-8") if suspicious.search(line)]
    assert not found


def test_the_tools_run_with_the_python_of_the_environment():
    """``make`` calls the bootstrap with a bare Python: it may import the standard library alone."""
    program = (
        "import sys; sys.path.insert(0, 'tools'); import environment; print(environment.STAMP)"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == ROOT / ".venv" / "pins.sha256"
