"""The pins: the lock, the conda file and the package's ranges must tell the same story."""

import ast
import os
import re
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from book_files import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


def lock():
    """Return name and version of every pin."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pins}


def project():
    """Return the table ``project`` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements():
    """Return the requirements of the package and of its extras."""
    lists = [project()["dependencies"], *project()["optional-dependencies"].values()]
    return [Requirement(text) for one in lists for text in one]


def test_the_lock_has_only_exact_public_pins():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)
    assert not re.search(r"(?i)^(nvidia|cuda|triton)", text, re.MULTILINE)


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_the_lock_satisfies_the_ranges(requirement):
    assert lock()[canonicalize_name(requirement.name)] in requirement.specifier


def test_every_extra_is_locked():
    said = re.search(r"extras ([\w,]+) ", (ROOT / "requirements.lock").read_text("utf-8"))
    assert set(project()["optional-dependencies"]) == set(said[1].split(","))


def test_the_package_declares_what_it_imports():
    """An installed library may not lean on what the book happens to bring."""
    roots = set()
    for path in (ROOT / "sobolev_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                roots.add(node.module.split(".")[0])
    roots -= {*sys.stdlib_module_names, "sobolev_lib", "mpl_toolkits"}
    extras = [text for texts in project()["optional-dependencies"].values() for text in texts]
    declared = {
        canonicalize_name(Requirement(text).name) for text in project()["dependencies"] + extras
    }
    renamed = {
        "dask": "distributed",
        "PIL": "pillow",
        "flint": "python-flint",
        "sklearn": "scikit-learn",
    }
    assert {canonicalize_name(renamed.get(root, root)) for root in roots} <= declared


def test_torch_stays_an_open_range():
    """A pin in the package would replace the torch that a user's machine needs."""
    [torch] = [r for r in requirements() if r.name == "torch"]
    assert {clause.operator for clause in torch.specifier} == {">="}


@pytest.mark.skipif("SOBOLEV_NEWEST" in os.environ, reason="tries other versions than the lock's")
def test_conda_installs_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert "-r requirements.lock" in pip["pip"]
    python = next(entry for entry in conda if entry.startswith("python="))
    header = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()[0]
    assert f"Python {python.removeprefix('python=')};" in header
    minimum = Requirement(f"python{project()['requires-python']}").specifier
    assert Version(python.removeprefix("python=")) in minimum
    # Everything else would be a second place for a version.
    assert [entry for entry in conda if not entry.startswith("python=")] == ["pip"]


def test_this_environment_is_the_locked_one():
    """Holds in ``.venv``; elsewhere a developer may try other versions."""
    if ".venv" not in sys.prefix:
        pytest.skip("these tests run outside the checkout's .venv")
    for name, version in lock().items():
        assert Version(Version(metadata.version(name)).public) == version, name


def test_the_bootstrap_changes_with_the_pins_only(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import environment

    monkeypatch.setattr(environment, "ROOT", tmp_path)
    (tmp_path / "requirements.lock").write_text("torch==1\n")
    first = environment.digest()
    (tmp_path / "README.md").write_text("other")
    assert environment.digest() == first
    (tmp_path / "requirements.lock").write_text("torch==2\n")
    assert environment.digest() != first


def test_an_environment_that_is_only_linked_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import environment

    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "pyvenv.cfg").write_text("theirs")
    (tmp_path / ".venv").symlink_to(theirs)
    monkeypatch.setattr(environment, "FOLDER", tmp_path / ".venv")
    monkeypatch.setattr(environment, "STAMP", tmp_path / ".venv" / "pins.sha256")
    assert environment.main() == 1
    assert f"is a link to {theirs}" in capsys.readouterr().out
    assert (theirs / "pyvenv.cfg").read_text() == "theirs"
