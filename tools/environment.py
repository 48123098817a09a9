"""Make the checkout's ``.venv`` from ``requirements.lock``, and again only when the pins change.

Needs nothing but a Python of version 3.11 or newer; ``make`` calls it before everything else.
"""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv"
STAMP = FOLDER / "pins.sha256"
MINIMUM = (3, 11)


def digest() -> str:
    """Return the digest of what decides the content of the environment."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}\n"
    return hashlib.sha256(version.encode() + (ROOT / "requirements.lock").read_bytes()).hexdigest()


def python() -> Path:
    """Return the environment's Python."""
    folder = "Scripts" if sys.platform == "win32" else "bin"
    return FOLDER / folder / "python"


def install(*arguments: str) -> None:
    """Call the environment's pip; an error ends the program."""
    command = [str(python()), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*command, *arguments], check=True, cwd=ROOT)


def main() -> int:
    """Bring the environment in step with the pins."""
    if sys.version_info < MINIMUM:
        given = ".".join(map(str, sys.version_info[:3]))
        wanted = ".".join(map(str, MINIMUM))
        print(f"Python {given} was given, {wanted} or newer is needed: make PYTHON=python3.11 ...")
        return 1
    if STAMP.exists() and STAMP.read_text(encoding="utf-8") == digest():
        return 0
    if FOLDER.is_symlink():
        print(f".venv is a link to {FOLDER.resolve()}, which is out of step with the pins.")
        print("Others may use it, so it is left alone: remove the link, and call make again.")
        return 1
    print("Making .venv from requirements.lock: it takes some minutes the first time.", flush=True)
    venv.create(FOLDER, clear=True, with_pip=True)
    install("-r", "requirements.lock")
    install("--no-deps", "--no-build-isolation", "--editable", ".")
    STAMP.write_text(digest(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        print(f"make: this command failed: {' '.join(error.cmd)}", file=sys.stderr)
        sys.exit(error.returncode)
