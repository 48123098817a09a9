"""The package as others get it: a wheel with the core dependencies and nothing else."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from book_files import ROOT

EXTRAS = (
    *("matplotlib", "scipy", "IPython", "ipywidgets", "anywidget", "traitlets", "cycler"),
    *("PIL", "pooch", "requests", "sklearn", "smt", "jenn", "ase", "ale_py", "gymnasium"),
    *("flint", "distributed"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel's files, built from a copy of the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "sobolev_lib", source / "sobolev_lib")
    build = "from setuptools.build_meta import build_wheel as b; import sys; b(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=source, check=True, capture_output=True
    )
    [wheel] = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(out / "site")
    return out / "site"


def test_the_wheel_holds_types_and_front_ends(installed):
    package = installed / "sobolev_lib"
    assert (package / "py.typed").exists()
    for path in (ROOT / "sobolev_lib").rglob("*"):
        if path.suffix in (".py", ".js", ".css"):
            assert (package / path.relative_to(ROOT / "sobolev_lib")).exists(), path


def test_the_core_asks_for_no_more_than_it_uses():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {re.split(r"[<>=]", text)[0] for text in project["dependencies"]}
    assert not core & {name.lower() for name in EXTRAS}


@pytest.mark.parametrize("package", ["sobolev_lib", "sobolev_lib.distillation"])
def test_the_commands_start_on_the_core_alone(package):
    code = "; ".join(
        [
            "import sys, runpy",
            *(f"sys.modules[{name!r}] = None" for name in EXTRAS),
            "sys.argv = ['x', '--help']",
            f"runpy.run_module({package!r}, run_name='__main__')",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, text=True, capture_output=True
    )
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_examples_of_the_readme_run_on_the_core_alone(installed, tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = "\n".join(
        [
            "import sys",
            *(f"sys.modules[{name!r}] = None" for name in EXTRAS),
            *examples,
            "import sobolev_lib",
            "assert sobolev_lib.__file__.startswith(sys.argv[1]), sobolev_lib.__file__",
            # an experiment runs and leaves a record, too
            "from sobolev_lib.__main__ import main",
            "words = 'regression --functions booth --sizes 20 --steps 2 --quiet'",
            "assert main(words.split()) == 0",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(installed)], cwd=tmp_path, check=False, text=True,
        capture_output=True, env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "ledger" / "regression.jsonl").exists()
