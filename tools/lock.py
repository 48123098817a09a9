"""Write ``requirements.lock``: exact versions of everything the book, its tests and checks install.

``make lock`` resolves the extras of ``pyproject.toml`` anew, without installing. torch keeps its
pin unless ``--torch VERSION`` names another; its CUDA packages are left out, since they differ
between platforms and pip adds them by itself where the chosen torch asks for them.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ",".join(PROJECT["optional-dependencies"])
PLATFORM = re.compile(r"^(nvidia[-_].*|cuda[-_].*|triton|appnope|colorama|pywin32.*)$", re.I)
HEADER = f"""\
# Exact versions of the extras {EXTRAS} for Python {{python}}; written by `make lock`, do not edit.
# pyproject.toml has the open ranges that a user of the library needs.
"""


def resolve(torch: str | None) -> dict[str, str]:
    """Return name and version of every package of the closure."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report)]
        command += [f"torch=={torch}" if torch else "torch", "setuptools", f"{ROOT}[{EXTRAS}]"]
        subprocess.run(command, check=True)
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    packages = {item["metadata"]["name"]: item["metadata"]["version"] for item in items}
    packages.pop("sobolev-lib")
    # "+cpu" names one build of a version, and a reader may have or want another.
    return {name: version.split("+")[0] for name, version in packages.items()}


def pinned_torch() -> str | None:
    """Return the version of torch in the present lock."""
    text = LOCK.read_text(encoding="utf-8") if LOCK.exists() else ""
    found = re.search(r"^torch==(\S+)$", text, re.MULTILINE)
    return found.group(1) if found else None


def main() -> None:
    """Write the lock."""
    parser = argparse.ArgumentParser(description="Write requirements.lock anew.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--torch", default=pinned_torch(), help="version of torch to pin")
    choice.add_argument("--newest", action="store_true", help="the newest torch too")
    options = parser.parse_args()
    torch = None if options.newest else options.torch
    if torch is None and not options.newest:
        parser.error("there is no pin of torch to keep: give --torch VERSION or --newest")
    packages = {n: v for n, v in resolve(torch).items() if not PLATFORM.match(n)}
    lines = [f"{name}=={packages[name]}\n" for name in sorted(packages, key=str.lower)]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    LOCK.write_text(HEADER.format(python=python) + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
