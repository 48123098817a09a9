"""What README and CONTRIBUTING say must be so."""

import re

import pytest
import torch
import yaml
from book_files import ROOT

from sobolev_lib import __main__ as command

TEXTS = ("README.md", "CONTRIBUTING.md")


def text(name):
    """Return a file of the checkout."""
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TEXTS)
def test_the_commands_are_targets_of_the_makefile(name):
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    commands = re.findall(r"(?:^|`|make )make ([a-z-]+)", text(name), re.MULTILINE)
    assert commands
    assert set(commands) <= targets


@pytest.mark.parametrize("name", TEXTS)
def test_the_files_that_are_named_exist(name):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text(name)) if "://" not in link]
    folders = r"(?:tools|tests|book|data|sobolev_lib)/[\w./-]*"
    named = re.findall(rf"`({folders}|\w+\.(?:yml|lock|toml|py))`", text(name))
    for path in [*links, *named]:
        made_by_a_run = path.startswith("_build") or path.startswith("data/")
        if not made_by_a_run and not re.search("NAME|EXPERIMENT", path):
            assert (ROOT / path).exists(), path


def test_the_example_of_the_readme_learns():
    example, decoupled = re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL)
    first = example.replace("range(500)", "range(1)")
    results = {}
    for name, code in {"first": first, "last": example}.items():
        scope = {}
        torch.manual_seed(0)
        exec(compile(code, "README.md", "exec"), scope)
        results[name] = scope["total"].item()
        assert set(scope["terms"]) == {"order_0", "order_1"}
    assert results["last"] < 0.05 * results["first"]
    scope = {"torch": torch}
    exec(compile(decoupled, "README.md", "exec"), scope)
    assert all(p.grad is not None for p in scope["net"].parameters())
    assert scope["step"].loss.shape == (32,)


COMMANDS = re.findall(
    r"^(?:\.venv/bin/)?python (-m sobolev_lib [^#\n]*)",
    text("README.md") + text("data/README.md"),
    re.MULTILINE,
)


def test_there_are_commands():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("words", COMMANDS)
def test_the_experiments_that_are_named_are_commands(words, capsys):
    # argparse checks the words before it meets --help, and then runs nothing
    with pytest.raises(SystemExit) as left:
        command.main([*words.split()[2:], "--help"])
    assert left.value.code == 0, capsys.readouterr().err


def test_the_citation_file_agrees_with_the_package():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["license"] == "MIT"
    assert f'version = "{citation["version"]}"' in text("pyproject.toml")
    assert "The Sobolev book authors" in text("LICENSE")


@pytest.mark.parametrize(
    ("name", "runs"), [("book.yml", ".ci/run"), ("newest.yml", ".ci/run test-all")]
)
def test_the_workflows_run_what_the_checkout_runs(name, runs):
    workflow = yaml.safe_load(text(f".github/workflows/{name}"))
    steps = workflow["jobs"]["test"]["steps"]
    assert [step for step in steps if step.get("run") == runs]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_pages_are_published_from_main_only_and_where_the_repository_allows_it():
    workflow = yaml.safe_load(text(".github/workflows/pages.yml"))
    [started] = workflow[True].values()  # YAML reads "on" as true
    book = yaml.safe_load(text(".github/workflows/book.yml"))
    assert started["workflows"] == [book["name"]] and started["branches"] == ["main"]
    allowed, publish = workflow["jobs"]["allowed"], workflow["jobs"]["publish"]
    assert "conclusion == 'success'" in allowed["if"] and "event == 'push'" in allowed["if"]
    assert publish["needs"] == "allowed" and "needs.allowed.outputs" in publish["if"]
    assert "write" not in [*workflow["permissions"].values(), *allowed["permissions"].values()]
    [upload] = [s for s in book["jobs"]["test"]["steps"] if "upload-artifact" in s.get("uses", "")]
    [download] = [s for s in publish["steps"] if "download-artifact" in s.get("uses", "")]
    assert download["with"]["name"] == upload["with"]["name"]


@pytest.mark.parametrize(
    ("name", "target"), [("book.yml", "make pdf html"), ("newest.yml", "make pdf")]
)
def test_the_pdf_is_made_where_the_tests_have_a_browser(name, target):
    steps = yaml.safe_load(text(f".github/workflows/{name}"))["jobs"]["test"]["steps"]
    runs = [step.get("run", "") for step in steps]
    assert runs.index(target) > next(i for i, run in enumerate(runs) if run.startswith(".ci/run"))
