"""What README and CONTRIBUTING say must be so."""

import re
import subprocess
import sys

import pytest
import yaml
from book_files import ROOT

TEXTS = ("README.md", "CONTRIBUTING.md")


def text(name):
    """Return a file of the checkout."""
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TEXTS)
def test_the_commands_are_targets_of_the_makefile(name):
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    commands = re.findall(r"(?:^|`|make )make ([a-z]+)", text(name), re.MULTILINE)
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
    [example] = re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL)
    first = example.replace("range(500)", "range(1)")
    results = {}
    for name, code in {"first": first, "last": example}.items():
        scope = {}
        torch = pytest.importorskip("torch")
        torch.manual_seed(0)
        exec(compile(code, "README.md", "exec"), scope)
        results[name] = scope["total"].item()
        assert set(scope["terms"]) == {"order_0", "order_1"}
    assert results["last"] < 0.05 * results["first"]


def test_the_experiment_of_the_readme_is_a_command():
    [words] = re.findall(
        r"^\.venv/bin/python (-m sobolev_lib .*)$", text("README.md"), re.MULTILINE
    )
    # argparse checks the words before it meets --help, and then runs nothing
    command = [sys.executable, *words.split(), "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--scale" in done.stdout


def test_the_citation_file_agrees_with_the_package():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["license"] == "MIT"
    assert f'version = "{citation["version"]}"' in text("pyproject.toml")
    assert "The Sobolev book authors" in text("LICENSE")


@pytest.mark.parametrize("name", ["book.yml", "newest.yml"])
def test_the_workflows_run_what_the_checkout_runs(name):
    workflow = yaml.safe_load(text(f".github/workflows/{name}"))
    steps = workflow["jobs"]["test"]["steps"]
    assert [step for step in steps if step.get("run") == ".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
