"""Keep what nbmake executes: ``jupyter-book build`` need not run it again (tools/nbcache.py)."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "tools"))
import nbcache


def pytest_configure(config):
    """Wrap nbmake's runner."""
    nbcache.prepare()
    if not config.getoption("nbmake", False) or config.getoption(
        "nbmake_find_import_errors", False
    ):
        return
    from nbmake.nb_run import NotebookError, NotebookRun

    config.option.nbmake_timeout = nbcache.time_limit()
    execute = NotebookRun.execute

    def execute_and_store(self):
        start = time.time()
        result = execute(self)
        if result.error is None:
            for index, fault in nbcache.faults(result.nb).items():
                result.error = NotebookError(f"cell {index + 1} wrote to stderr", fault, index)
        if result.error is None:
            nbcache.store(result.nb, self.filename, time.time() - start)
        return result

    NotebookRun.execute = execute_and_store


def pytest_collection_modifyitems(items):
    """For a chapter the limit is one for each cell, not one for all of them."""
    for item in items:
        if getattr(item, "nbmake", False):
            item.add_marker(pytest.mark.timeout(0))
