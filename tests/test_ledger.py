"""The ledger: sorted, complete, and untouched by whatever goes wrong."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from sobolev_lib.records.ledger import Ledger, LedgerError, Record, provenance, select


def record(seed=0, n=20, **changes):
    entries = {
        "experiment": "trial",
        "config": {"n": n, "method": "values"},
        "seed": seed,
        "metrics": {"test_mse": 1.5 + seed},
        "scale": "small",
    }
    return Record(**{**entries, **changes})


def test_records_come_back_sorted_and_once(tmp_path):
    book = Ledger("trial", tmp_path)
    assert book.read() == []
    assert book.append([record(11), record(2)]) == 2
    assert book.append([record(2, metrics={"test_mse": 99.0}), record(0, n=5)]) == 1
    assert [(r.config["n"], r.seed) for r in book.read()] == [(20, 2), (20, 11), (5, 0)]
    first = {r.key: r.metrics for r in book.read()}[record(2).key]
    assert first == {"test_mse": 3.5}, "the record that was there first stays"
    lines = book.path.read_text().splitlines()
    assert all(json.loads(line)["experiment"] == "trial" for line in lines)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["trial.jsonl", "trial.lock"]


def test_writers_do_not_lose_each_others_records(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda s: Ledger("trial", tmp_path).append([record(s)]), range(24)))
    assert [r.seed for r in Ledger("trial", tmp_path).read()] == list(range(24))


@pytest.mark.parametrize(
    "line",
    [
        '{"experiment": "trial"',
        '{"experiment": "trial", "colour": 1}',
        "[]",
        '{"experiment": "trial"}',
    ],
)
def test_damaged_line_is_named_and_the_file_left_alone(tmp_path, line):
    book = Ledger("trial", tmp_path)
    book.append([record()])
    damaged = book.path.read_text() + line + "\n"
    book.path.write_text(damaged)
    with pytest.raises(LedgerError, match=r"trial.jsonl, line 2 .*git checkout"):
        book.append([record(1)])
    assert book.path.read_text() == damaged


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    book = Ledger("trial", tmp_path)
    book.append([record()])
    before = book.path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LedgerError, match=r"cannot write .*SOBOLEV_DATA"):
        book.append([record(1)])
    assert book.path.read_bytes() == before


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="Make the folder writable"):
        Ledger("trial", tmp_path / "file" / "below").append([record()])


def test_records_must_be_valid(tmp_path):
    book = Ledger("trial", tmp_path)
    with pytest.raises(ValueError, match="store null"):
        book.append([record(metrics={"test_mse": float("nan")})])
    with pytest.raises(ValueError, match="experiment 'other'"):
        book.append([record(experiment="other")])
    with pytest.raises(ValueError, match="scale is 'huge'"):
        record(scale="huge")
    assert not book.path.exists()


def test_default_folder_is_settable(tmp_path, monkeypatch):
    monkeypatch.setenv("SOBOLEV_DATA", str(tmp_path))
    assert Ledger("trial").path == tmp_path / "ledger" / "trial.jsonl"
    monkeypatch.delenv("SOBOLEV_DATA")
    assert Ledger("trial").path.parent.parts[-2:] == ("data", "ledger")


def test_provenance():
    entries = provenance()
    assert (
        entries["commit"]
        and set(entries["versions"]) == {"python", "torch", "numpy"}
        and len(entries["date"]) == 10
    )
    assert "scipy" in provenance(("scipy",))["versions"]


def test_a_run_that_is_there_twice_is_named(tmp_path):
    book = Ledger("trial", tmp_path)
    book.append([record()])
    book.path.write_text(2 * book.path.read_text())
    with pytest.raises(LedgerError, match=r"line 2 is a second record of seed 0"):
        book.read()


def test_a_selection_is_by_the_whole_configuration():
    entries = [record(1), record(0), record(0, n=5), record(0, scale="paper")]
    found = select(entries, {"method": "values", "n": 20})
    assert [(r.seed, r.scale) for r in found] == [(0, "small"), (0, "paper"), (1, "small")]
    assert select(entries, {"method": "values", "n": 20}, "paper") == [entries[3]]
    assert select(entries, {"n": 20}) == []


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    provenance.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        assert provenance()["commit"] == "unknown"
    finally:
        provenance.cache_clear()


def test_a_record_can_be_made_where_python_lacks_the_modules_of_unix():
    """Windows: a command can be called, and says that it cannot tell the peak of memory."""
    code = (
        "import sys, torch; sys.modules.update(resource=None, fcntl=None, pwd=None)\n"
        "import sobolev_lib.__main__\n"
        "from sobolev_lib.records.ledger import peak_memory\n"
        "assert peak_memory() == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
