"""One execution of a notebook for the tests and for the book.

Used three times: as a Sphinx extension (``local_extensions`` in ``_config.yml``) it tells MyST-NB
where the cache of executed notebooks is; the checkout's ``conftest.py`` stores there what nbmake
has executed; ``tools/execute.py`` stores there what ``make book`` finds missing.

jupyter-cache itself compares only the code cells. The folder's name therefore carries a digest of
all else that a notebook's output depends on: the library (Python, JavaScript, styles), the records
in ``data/`` and the pinned versions. A change in any of them makes every stored output stale.
"""

import copy
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WATCHED = {
    "sobolev_lib": {".py", ".js", ".mjs", ".css"},
    "data": {".csv", ".gz", ".json", ".jsonl", ".npz", ".safetensors"},
}
PINS = "requirements.lock"


def digest() -> str:
    """Return the digest of everything a notebook's output depends on, but its own cells."""
    result = hashlib.sha256()
    paths = [ROOT / PINS]
    for folder, suffixes in WATCHED.items():
        paths += sorted(
            path
            for path in (ROOT / folder).rglob("*")
            if path.suffix in suffixes and "states" not in path.relative_to(ROOT).parts
        )
    for path in paths:
        content = path.read_bytes()
        name = path.relative_to(ROOT).as_posix()
        result.update(f"{name}\0{len(content)}\0".encode() + content)
    return result.hexdigest()[:16]


def cache_path() -> Path:
    """Return the folder of the cache for the library as it is now."""
    return ROOT / "_build" / ".jupyter_cache" / digest()


def use_source_tree() -> None:
    """Let autodoc and the kernels import the library from this checkout, installed or not."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if str(ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *paths])


def store(notebook: Any, path: Path, seconds: float | None = None) -> None:
    """Put an executed notebook into the cache, as MyST-NB would."""
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # nbmake's timings would change the hash
    folder = cache_path()
    folder.mkdir(parents=True, exist_ok=True)
    bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": seconds})
    get_cache(folder).cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def is_stored(notebook: Any, path: Path) -> bool:
    """Tell whether the cache holds an execution of this notebook."""
    from jupyter_cache import get_cache

    if not cache_path().is_dir():
        return False
    try:
        get_cache(cache_path()).match_cache_notebook(notebook)
    except KeyError:
        return False
    return True


def setup(app: Any) -> dict[str, Any]:
    """Sphinx entry point."""
    use_source_tree()

    def set_path(_app: Any, config: Any) -> None:
        config.nb_execution_cache_path = str(cache_path())

    app.connect("config-inited", set_path)
    return {"parallel_read_safe": True, "version": "1"}
