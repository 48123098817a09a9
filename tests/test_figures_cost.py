"""Figures of the chapter on cost: what they compute, and that they draw what the ledger holds."""

import math

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from sobolev_lib.cost import figures as draw
from sobolev_lib.cost import ways as cost
from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.records import ledger

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def benchmark(tmp_path):
    book = ledger.Ledger(cost.EXPERIMENT, tmp_path)
    for members, n in cost.SIZES:
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
    assert draw.metric("sobolev", 1, 4096, book=benchmark) == 1.25
    assert draw.layers(draw.records(benchmark, variant="values", n=4096)[0]) == 3.0
    with pytest.raises(LookupError, match=r"threads = 7.*step_cost.py --ledger"):
        draw.metric("sobolev", 1, 4096, book=benchmark, threads=7)


def test_steps_and_memory_show_every_way_that_was_measured(benchmark):
    fig = draw.steps(book=benchmark)
    assert len(fig.axes) == len(cost.SIZES)
    labels = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert labels == [draw.WAYS[k][0] for k in ("values", "sobolev", "autograd_loop")]
    numbers = {t.get_text() for t in fig.axes[1].texts}
    assert numbers == {"1.00", "1.25", "2.50"}
    assert len(draw.memory(book=benchmark).axes[0].patches) == 3


def test_every_way_has_a_label():
    assert set(draw.WAYS) == set(cost.WAYS)


def regression_ledger(folder, exponent):
    """Values: error 1/steps; Sobolev: steps to the power -exponent, at 1 to 10,000 steps."""
    book = ledger.Ledger("regression", folder)
    steps = [0, 1, 10, 100, 1000, 10_000]
    for seed in range(3):
        for method, power in (("values", 1.0), ("sobolev", exponent)):
            errors = [5.0] + [float(s) ** -power for s in steps[1:]]
            config = {"function": "booth", "n": 100, "method": method, "arm": "paper"}
            metrics = {"test_mse": errors[-1], "curve": {"steps": steps, "test_mse": errors}}
            book.append([ledger.Record("regression", config, seed, metrics, "paper")])
    return book


def test_a_price_takes_steps_away(tmp_path):
    book = regression_ledger(tmp_path, exponent=1.5)
    for price in (1.0, 2.0, 7.0):  # power laws: straight lines between checkpoints are exact
        found = draw.gain_at_price("booth", 100, price, book=book)
        assert found.centre == pytest.approx(1.5 * (4 - math.log10(price)) - 4)
    assert draw.gain_at_price("ackley", 100, 1.0, book=book) is None
    with pytest.raises(ValueError, match=r"price is 0\.5"):
        draw.gain_at_price("booth", 100, 0.5, book=book)
    fig = draw.equal_time(100, {"free": 1.0, "dear": 3.0}, book=book)
    assert len(fig.axes[0].get_xticklabels()) == len(FUNCTIONS)


def test_depths_are_drawn_as_ratios():
    counts = {
        "values": [3, 6],
        "sobolev": [3, 7],
        "sobolev_kernel": [6, 12],
        "autograd_loop": [6, 12],
    }
    lines = draw.products_by_depth(counts, (2, 3)).axes[0].lines
    assert list(lines[1].get_ydata()) == [1.0, 7 / 6]
