"""Keep what nbmake executes: ``jupyter-book build`` need not run it again (tools/nbcache.py)."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "tools"))
import nbcache


def pytest_configure(config):
    """Wrap nbmake's runner."""
    nbcache.use_source_tree()
    if not config.getoption("nbmake", False) or config.getoption(
        "nbmake_find_import_errors", False
    ):
        return
    from nbmake.nb_run import NotebookRun

    execute = NotebookRun.execute

    def execute_and_store(self):
        start = time.time()
        result = execute(self)
        if result.error is None:
            nbcache.store(result.nb, self.filename, time.time() - start)
        return result

    NotebookRun.execute = execute_and_store
