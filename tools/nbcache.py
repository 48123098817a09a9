"""One execution of a notebook for the tests and for the book.

Used three times: as a Sphinx extension (``local_extensions`` in ``_config.yml``) it tells MyST-NB
where the cache of executed notebooks is; the checkout's ``conftest.py`` stores there what nbmake
has executed; ``tools/execute.py`` stores there what ``make book`` finds missing. An execution that
failed or wrote to stderr is never kept.

jupyter-cache itself compares only the code cells. The folder's name therefore carries a digest of
all else that a notebook's output depends on: the library (Python, JavaScript, styles), the records
in ``data/`` and the pinned versions. A change in any of them makes every stored output stale.
"""

import copy
import hashlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbformat.reader import NotJSONError

ROOT = Path(__file__).resolve().parent.parent
WATCHED = {
    "sobolev_lib": {".py", ".js", ".mjs", ".css"},
    "data": {".csv", ".gz", ".json", ".jsonl", ".npz", ".safetensors"},
}
# What a reader's own runs leave below data/; .gitignore names the same folders.
UNWATCHED = ("data/states", "data/images", "data/cache")
PINS = "requirements.lock"


def time_limit() -> int:
    """Return the seconds after which a cell, or a test, counts as hanging."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return int(options["tool"]["pytest"]["ini_options"]["timeout"])


def digest() -> str:
    """Return the digest of everything a notebook's output depends on, but its own cells."""
    result = hashlib.sha256()
    paths = [ROOT / PINS]
    for folder, suffixes in WATCHED.items():
        paths += sorted(
            path
            for path in (ROOT / folder).rglob("*")
            if path.suffix in suffixes
            and not path.relative_to(ROOT).as_posix().startswith(tuple(f"{u}/" for u in UNWATCHED))
        )
    for path in paths:
        content = path.read_bytes()
        name = path.relative_to(ROOT).as_posix()
        result.update(f"{name}\0{len(content)}\0".encode() + content)
    return result.hexdigest()[:16]


def cache_path() -> Path:
    """Return the folder of the cache for the library as it is now."""
    return ROOT / "_build" / ".jupyter_cache" / digest()


def prepare() -> None:
    """Make this process, and the kernels it starts, independent of the reader's own set-up.

    The library is imported from this checkout, installed or not. What matplotlib and IPython keep
    goes below ``_build``, so that the home may be read-only, and the reader's own settings change
    no figure. matplotlib's list of fonts is made here: the program that makes it says so on stderr.
    So does PyTorch's compiler of Python 3.13.0, which is mended in 3.13.1.
    """
    os.environ["PYTHONWARNINGS"] = "ignore:Guards may run slower on Python:RuntimeWarning"
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if str(ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *paths])
    home = ROOT / "_build" / ".home"
    folders = {
        "MPLCONFIGDIR": home / f"matplotlib-{metadata.version('matplotlib')}",
        "IPYTHONDIR": home / "ipython",
    }
    for variable, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(folder)
    with FileLock(home / "fonts.lock"):
        if not list(folders["MPLCONFIGDIR"].glob("fontlist-*.json")):
            command = [sys.executable, "-c", "import matplotlib.font_manager"]
            subprocess.run(command, check=True, capture_output=True)


def faults(notebook: Any) -> dict[int, str]:
    """Return what an execution must not leave, by index of the cell: errors, words on stderr."""
    found = {}
    for index, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        for output in cell.get("outputs", []):
            if output.output_type == "error" and "raises-exception" not in tags:
                found[index] = "\n".join(output.traceback)
            elif output.get("name") == "stderr" and "remove-stderr" not in tags:
                found.setdefault(index, f"The cell wrote to stderr:\n{output.text}")
    return found


@contextmanager
def _opened() -> Iterator[Any]:
    """Open the cache, for one process at a time: a new cache breaks when two create its tables."""
    folder = cache_path()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        yield get_cache(folder)


def store(notebook: Any, path: Path, seconds: float | None = None) -> None:
    """Put an executed notebook into the cache, as MyST-NB would; refuse one with faults."""
    for index, fault in faults(notebook).items():
        raise ValueError(f"{path.name}, cell {index + 1}: not stored. {fault}")
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the runner's timings would change the hash
    bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": seconds})
    with _opened() as cache:
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def is_stored(notebook: Any) -> bool:
    """Tell whether the cache holds a faultless execution of this notebook."""
    if not cache_path().is_dir():
        return False
    with _opened() as cache:
        try:
            record = cache.match_cache_notebook(notebook)
        except KeyError:
            return False
        try:
            return not faults(cache.get_cache_bundle(record.pk).nb)
        except (KeyError, NotJSONError):  # killed while it was written
            return False


def executed(notebook: Any) -> Any | None:
    """Return the notebook with its stored outputs; None where no execution is stored."""
    if not is_stored(notebook):
        return None
    with _opened() as cache:
        return cache.merge_match_into_notebook(notebook)[1]


def setup(app: Any) -> dict[str, Any]:
    """Sphinx entry point."""
    prepare()

    def configure(_app: Any, config: Any) -> None:
        config.nb_execution_cache_path = str(cache_path())
        config.nb_execution_timeout = time_limit()

    app.connect("config-inited", configure)
    return {"parallel_read_safe": True, "version": "1"}
