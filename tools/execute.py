"""Execute the chapters whose outputs are not stored yet, two at a time, and store them.

``make book`` runs this before Sphinx, which would execute them one after another. ``make test``
does not need it: there pytest executes every chapter (``conftest.py`` in the checkout).
"""

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbcache
import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError


def chapters() -> list[Path]:
    """Return the notebooks of the table of contents, in its order."""
    contents = yaml.safe_load((nbcache.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [contents["root"]]
    names += [entry["file"] for part in contents["parts"] for entry in part["chapters"]]
    paths = [nbcache.ROOT / f"{name}.ipynb" for name in names]
    return [path for path in paths if path.exists()]


def execute(path: Path) -> float:
    """Execute one notebook in its own folder, as nbmake does; store it; return the seconds."""
    config = yaml.safe_load((nbcache.ROOT / "_config.yml").read_text(encoding="utf-8"))
    notebook = nbformat.read(path, 4)
    timeout = notebook.metadata.get("execution", {}).get("timeout", config["execute"]["timeout"])
    start = time.perf_counter()
    resources = {"metadata": {"path": str(path.parent)}}
    quiet = ["--log-level=ERROR"]  # else every kernel warns that it speaks TCP on this machine
    client = NotebookClient(notebook, timeout=timeout, resources=resources, extra_arguments=quiet)
    client.execute()
    seconds = time.perf_counter() - start
    nbcache.store(notebook, path, seconds)
    return seconds


def main() -> int:
    """Execute what is missing; return the number of chapters that failed."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    nbcache.use_source_tree()
    missing = [path for path in chapters() if not nbcache.is_stored(nbformat.read(path, 4), path)]
    failed = 0
    with ProcessPoolExecutor(max_workers=2) as pool:
        runs = {path: pool.submit(execute, path) for path in missing}
        for path, run in runs.items():
            try:
                print(f"{path.name}: executed in {run.result():.1f} s", flush=True)
            except (CellExecutionError, CellTimeoutError) as error:
                failed += 1
                print(f"{path.name}: failed\n{error}", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
