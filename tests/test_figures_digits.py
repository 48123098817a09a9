"""Figures of the digits experiment: what they compute, and that they draw what the records hold."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

from sobolev_lib.records import ledger
from sobolev_lib.records.claims import FAILS, HOLDS, OPEN
from sobolev_lib.records.summary import Interval
from sobolev_lib.synthetic_gradients import digits as draw
from sobolev_lib.synthetic_gradients import fidelity, training

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def record(row, seed, top1, arm="digits", cosine=0.1):
    """One run with curves of three moments; Noprop and backpropagation predict nothing."""
    setting = training.settings(arm, [row])[0]
    predicts = setting.module not in ("backprop", "noprop")
    one = [cosine, cosine + 0.1, cosine + 0.2] if predicts else []
    metrics = {
        "top1": top1, "top5": 100.0, "test_loss": 0.1, "cosine": one, "gradient_scale": one,
        "images_per_second": 1.0,
        "curve": {
            "steps": [0, 10, 20], "loss": [2.0, 1.0 + 0.1 * seed, 0.0],
            "cosine": [one] * 3, "scale": [[0.5] * len(one)] * 3,
        },
        "tests": {"steps": [10, 20], "top1": [50.0, top1], "top5": [9.0, 9.0], "loss": [1.0, 0.5]},
    }  # fmt: skip
    return ledger.Record(
        training.EXPERIMENT, training.config(setting), seed, metrics, setting.scale
    )


OFFSETS = {
    "backprop": 0.0, "noprop": -50.0, "direct": -8.0, "vfbn": -4.0, "critic": 0.0,
    "sobolev": -1.0, "local_ce": 0.0, "sobolev_mean": 0.5, "sobolev_tenth": 0.2,
}  # fmt: skip
NOISE = (0.0, 3.0, -2.0, 1.0, 5.0)


def runs(arm="digits", seeds=5, rows=tuple(OFFSETS)):
    """All rows move together from seed to seed: unpaired spread, no paired spread."""
    return [
        record(row, seed, 90.0 + OFFSETS[row] + NOISE[seed], arm)
        for row in rows
        for seed in range(seeds)
    ]


def test_differences_are_paired_over_common_seeds():
    found = draw.difference(runs(), "critic", "vfbn")
    assert (found.centre, found.low, found.high, found.count) == (4.0, 4.0, 4.0, 5)
    half = [r for r in runs() if not (training.row_of(r.config) == "vfbn" and r.seed < 3)]
    assert draw.difference(half, "critic", "vfbn").count == 2
    assert draw.difference(half, "critic", "sobolev_l2") is None
    assert draw.difference(runs(), "critic", "vfbn", arm="digits_deep") is None
    assert draw.difference(runs(), "critic", "noprop", metric="cosine") is None
    assert draw.summarise(runs(), "critic", "cosine").centre == pytest.approx(0.2)
    expected = np.mean([90.0 + noise for noise in NOISE])
    assert draw.summarise(runs(), "critic").centre == pytest.approx(expected)


def test_verdicts_need_the_whole_interval_on_one_side():
    assert draw.verdict(Interval(1.0, 0.1, 2.0, 5)) == HOLDS
    assert draw.verdict(Interval(-1.0, -2.0, -0.1, 5)) == FAILS
    assert draw.verdict(Interval(1.0, -0.1, 2.0, 5)) == OPEN
    assert draw.verdict(None) == draw.NOT_RUN
    assert draw.said(None) == draw.NOT_RUN
    assert draw.said(Interval(0.254, 0.1, 0.5, 5), "+.2f") == "+0.25 [+0.10,\u00a0+0.50]"
    assert draw.said(Interval(97.04, 96.0, 98.0, 5)) == "97.0 [96.0,\u00a098.0]"


def test_the_order_is_judged_for_every_source():
    table = draw.order_table({"All": runs(), "Some": runs(rows=("critic", "vfbn"))})
    row = table.rows["Critic above VFBN"]
    assert (row["Table 1"], row["All: verdict"], row["Some: verdict"]) == ("+4.7", HOLDS, HOLDS)
    row = table.rows["Sobolev above Critic"]
    assert (row["Table 1"], row["All: verdict"], row["Some"]) == ("+0.3", FAILS, draw.NOT_RUN)
    assert table.rows["Sobolev above Local CE"]["Table 1"] == "—"
    table = draw.accuracy_table({"Some": runs(rows=("critic",))})
    assert table.rows["Critic"]["Some"].endswith("n\u00a0=\u00a05")
    assert table.rows["VFBN"]["Some"] == draw.NOT_RUN


def test_failures_are_counted_from_the_critic():
    base = [record("critic", seed, 90.0) for seed in range(4)]
    others = [record("vfbn", seed, top1) for seed, top1 in enumerate((85.5, 85.0, 70.0))]
    assert draw.failures([*base, *others], "vfbn") == (2, 3)
    assert draw.failures([*base, *others], "vfbn", points=20.0) == (1, 3)
    assert draw.failures(others, "vfbn") == (0, 0)
    assert draw.failures(base, "vfbn") == (0, 0)


def test_agreement_counts_equal_runs():
    other = [record("critic", 0, 90.0), record("critic", 1, 92.0), record("critic", 9, 50.0)]
    count, equal, apart = draw.agreement(runs(rows=("critic", "vfbn")), other)
    assert (count, equal) == (2, 1)
    middle = np.mean([90.0, 92.0, 50.0]) - np.mean([90 + n for n in NOISE])
    assert apart == pytest.approx(abs(middle))
    assert draw.agreement(other, []) == (0, 0, 0.0)


def test_a_ledger_serves_as_well(tmp_path):
    book = ledger.Ledger(training.EXPERIMENT, tmp_path)
    book.append(runs(rows=("critic", "vfbn")))
    assert list(draw.by_row(book)) == ["vfbn", "critic"]
    assert draw.difference(book, "critic", "vfbn").centre == 4.0


@pytest.mark.parametrize("records", [[], runs(seeds=1, rows=("critic", "noprop")), runs()])
def test_figures_draw_whatever_is_there(records):
    fig = draw.accuracy(records)
    missing = sum(t.get_text() == draw.NOT_RUN for t in fig.axes[0].texts)
    assert missing == len(training.MAIN_ROWS) - len(
        draw.by_row(records).keys() & set(training.MAIN_ROWS)
    )
    drawn = draw.sum_or_mean([*records, *runs("digits_deep", rows=("critic", "sobolev_mean"))])
    texts = [[t.get_text() for t in ax.texts].count(draw.NOT_RUN) for ax in drawn.axes]
    assert texts[1] == len(draw.REDUCTION_ROWS) - 2
    labels = [t.get_text() for t in drawn.axes[0].get_yticklabels()]
    assert len(set(labels)) == len(draw.REDUCTION_ROWS)
    for made in (fig, drawn, draw.accuracy_against_cosine(records), draw.curves(records)):
        made.canvas.draw()


def test_dots_stand_at_the_accuracies_and_the_mark_at_their_centre():
    ax = draw.accuracy(runs(rows=("vfbn",))).axes[0]
    place = training.MAIN_ROWS.index("vfbn")
    dots = next(line for line in ax.lines if len(line.get_xdata()) == 5)
    assert sorted(dots.get_xdata()) == sorted(86.0 + n for n in NOISE)
    assert set(dots.get_ydata()) == {place}
    marks = [line for line in ax.lines if len(line.get_xdata()) == 1]
    centre = np.mean([86.0 + n for n in NOISE])
    assert any(line.get_xdata()[0] == pytest.approx(centre) for line in marks)


def test_curves_are_centres_over_seeds():
    fig = draw.curves(runs(rows=("critic",)))
    accuracy, loss, cosine, _ = fig.axes
    assert accuracy.lines[0].get_ydata()[0] == 50.0
    expected = 10 ** np.mean(np.log10([1.0 + 0.1 * s for s in range(5)]))
    # the last loss is 0, which a logarithmic axis cannot show
    assert list(loss.lines[0].get_ydata()) == pytest.approx([2.0, expected])
    assert list(cosine.lines[0].get_ydata()) == pytest.approx([0.2, 0.2, 0.2])


def test_fidelity_is_drawn():
    pytest.importorskip("sklearn")
    setting = training.settings("digits", ["critic"], epochs=2)[0]
    followed = {"critic": [fidelity.follow(setting, seed, (3, 20, 36), 200) for seed in range(2)]}
    last = followed["critic"][0][36]
    found = draw.measured(followed, "critic", "weights", 36)
    assert found.low <= found.centre <= found.high
    table = draw.fidelity_table(followed, 36)
    assert table.rows["Critic"]["Weights"] == draw.said(found)
    same = draw.measured_difference(followed, "critic", "critic", "batch", 36)
    assert (same.low, same.high) == (0.0, 0.0)
    fig = draw.fidelity_over_training(followed)
    assert list(fig.axes[0].lines[1].get_xdata()) == [3, 20, 36]
    assert fig.axes[3].lines[1].get_ydata()[2] == pytest.approx(found.centre)
    draw.examples(last, split=3).canvas.draw()
    with pytest.raises(ValueError, match="split is 4"):
        draw.examples(last, split=4)
