"""Figures of the chapter on cost: what they compute, and that they draw what the ledger holds."""

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from sobolev_lib.cost import benchmark as cost
from sobolev_lib.cost import figures as draw
from sobolev_lib.cost import results
from sobolev_lib.cost.ways import WAYS
from sobolev_lib.records import ledger

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def benchmark(tmp_path):
    book = ledger.Ledger(cost.EXPERIMENT, tmp_path)
    for size in cost.SIZES:
        members, n = size.members, size.n
        for variant, ratio in (("values", 1.0), ("sobolev", 1.25), ("autograd_loop", 2.5)):
            config = {
                **{"members": members, "n": n, "width": 10, "variant": variant},
                **{"threads": 1, "device": "cpu"},
            }
            metrics = {"step_ratio": ratio, "step_ratio_min": 0.9 * ratio}
            metrics |= {"step_ratio_max": 1.1 * ratio, "peak_bytes": 4 * members * n * 10 * 3}
            book.append([ledger.Record(cost.EXPERIMENT, config, 0, metrics, "paper")])
    return book


def test_numbers_come_from_the_ledger(benchmark):
    assert results.metric("sobolev", 1, 4096, book=benchmark) == 1.25
    assert results.layers(results.records(benchmark, variant="values", n=4096)[0]) == 3.0
    with pytest.raises(LookupError, match=r"threads = 7.*sobolev_lib cost"):
        results.metric("sobolev", 1, 4096, book=benchmark, threads=7)


def test_a_number_has_one_record(benchmark):
    [record] = results.records(benchmark, variant="sobolev", n=4096)
    other = ledger.Record(
        cost.EXPERIMENT, {**record.config, "clock": "cpu"}, 0, record.metrics, "paper"
    )
    benchmark.append([other])
    with pytest.raises(LookupError, match="2 records of sobolev"):
        results.metric("sobolev", 1, 4096, book=benchmark)
    assert results.metric("sobolev", 1, 4096, book=benchmark, clock="cpu") == 1.25


def test_steps_and_memory_show_every_way_that_was_measured(benchmark):
    fig = draw.steps(book=benchmark)
    assert len(fig.axes) == len(cost.SIZES)
    labels = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert labels == [draw.WAYS[k][0] for k in ("values", "sobolev", "autograd_loop")]
    numbers = {t.get_text() for t in fig.axes[1].texts}
    assert numbers == {"1.00", "1.25", "2.50"}
    assert len(draw.memory(book=benchmark).axes[0].patches) == 3


def test_every_way_has_a_label():
    assert set(draw.WAYS) == set(WAYS)


def test_depths_are_drawn_as_ratios():
    counts = {
        "values": [3, 6],
        "sobolev": [3, 7],
        "sobolev_kernel": [6, 12],
        "autograd_loop": [6, 12],
    }
    lines = draw.products_by_depth(counts, (2, 3)).axes[0].lines
    assert list(lines[1].get_ydata()) == [1.0, 7 / 6]
