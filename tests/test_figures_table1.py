"""Figures of Table 1: they draw what the records say, and stand while records are missing."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from test_table1 import COSINE, TOP1, made

from sobolev_lib.figures import style
from sobolev_lib.records import ledger
from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import interval
from sobolev_lib.synthetic_gradients import figures, probing, table1, training

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    with style.use_style():
        yield
    plt.close("all")


def texts(fig):
    return [t.get_text() for ax in fig.axes for t in ax.texts]


def test_every_row_has_a_colour_and_rows_of_one_figure_differ():
    looks = set()
    for row in training.ROWS:
        assert figures.method(row) in style.COLOURS
    for row in ("backprop", *figures.ALIGNED, "noprop"):
        look = figures._options(row)
        looks.add((look["color"], look["marker"], look["markerfacecolor"]))
    assert len(looks) == len(figures.ALIGNED) + 2
    assert figures.method("sobolev_kernel") == "kernel"
    assert figures.method("direct_bootstrapped") == "direct"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.accuracy("cifar10", "cifar10", records=[]),
        lambda: figures.accuracy_over_epochs("cifar10", records=[]),
        lambda: figures.cosine_over_training("cifar10", records=[]),
        lambda: figures.scale_over_training("cifar10", records=made("cifar10", {"noprop": 5.0})),
        lambda: figures.cosine_by_split(["cifar10"], records=made("cifar10", {"backprop": 5.0})),
        lambda: figures.accuracy_against_cosine(["cifar10"], records=[]),
    ],
)
def test_without_records_a_figure_says_so_and_how(draw):
    assert texts(draw()) == [
        "not run yet",
        "python -m sobolev_lib synthetic_gradients --arm cifar10 --seeds 3 --device cuda",
    ]


def test_without_speeds_the_figure_says_how_to_measure_them():
    fig = figures.throughput("cifar10", records=[speed("sobolev", 1.0, 1.0)])
    assert texts(fig) == ["not run yet", "python -m sobolev_lib throughput --arm cifar10"]


def test_accuracy_shows_seeds_interval_and_the_paper_apart():
    records = [r for r in made(seeds=4) if r.config["module"] != "vfbn"]
    ours, paper = figures.accuracy("cifar10_reduced", "cifar10", records=records).axes
    assert ours.get_facecolor() != paper.get_facecolor()
    assert not ours.get_shared_x_axes().joined(ours, paper)
    names = [t.get_text() for t in ours.get_yticklabels()]
    assert names == [table1.NAMES[row] for row in TOP1]
    assert texts(ours.figure) == ["not run yet"]
    values = [r.metrics["top1"] for r in records if r.config["module"] == "critic"]
    place = -list(TOP1).index("critic")
    bars, marks, seeds = (line for line in ours.lines if abs(line.get_ydata()[0] - place) < 0.4)
    expected = interval(values)
    assert list(bars.get_xdata()) == [expected.low, expected.high]
    assert marks.get_xdata()[0] == expected.centre
    assert sorted(seeds.get_xdata()) == sorted(values)
    shown = {float(line.get_xdata()[0]) for line in paper.lines if len(line.get_xdata()) == 1}
    assert shown == {c.value for c in table1.BLOCKS["cifar10"].cells["top1"].values()}


def test_accuracy_over_epochs_has_a_line_for_each_row_that_was_run():
    records = made(top1={"backprop": 90.0, "noprop": 40.0, "sobolev": 89.0})
    (ax,) = figures.accuracy_over_epochs("cifar10_reduced", records=records).axes
    assert [t.get_text() for t in ax.texts] == ["Backpropagation", "Sobolev", "Noprop"]
    for line in ax.lines:
        assert list(line.get_xdata()) == [1, 2] and list(line.get_ydata()) == [1.0, 2.0]


def test_cosine_has_a_panel_for_each_split_and_epochs_on_its_axis():
    records = made(top1={"critic": 90.0, "sobolev": 91.0}, seeds=5)
    axes = figures.cosine_over_training("cifar10_reduced", records=records).axes
    assert [ax.get_title(loc="left") for ax in axes] == [
        "after conv2",
        "after conv5",
        "after conv8",
    ]
    for k, ax in enumerate(axes):
        critic, sobolev = (
            line
            for line in ax.lines
            if len(line.get_xdata()) == 2 and line.get_label() in table1.NAMES.values()
        )
        assert list(critic.get_xdata()) == [0.0, 1.0]  # 10 steps an epoch
        late = interval([COSINE["sobolev"] + 0.01 * seed + 0.1 * k for seed in range(5)])
        assert sobolev.get_ydata() == pytest.approx([late.centre] * 2)


def test_gaps_where_a_run_diverged():
    records = made(top1={"critic": 90.0}, seeds=1)
    records[0].metrics["curve"]["cosine"] = [[0.1, 0.2, 0.3], [None, 0.2, 0.3]]
    axes = figures.cosine_over_training("cifar10_reduced", records=records).axes
    y = [next(ln for ln in ax.lines if ln.get_label() == "Critic").get_ydata() for ax in axes]
    assert np.isnan(y[0]).tolist() == [False, True] and np.isfinite(y[1]).all()


def test_scale_is_logarithmic():
    axes = figures.scale_over_training("cifar10_reduced", records=made()).axes
    assert all(ax.get_yscale() == "log" for ax in axes)
    records = made(top1={"critic": 90.0}, seeds=3)
    for r, first in zip(records, (0.0, 0.01, 1.0), strict=True):  # 0: no logarithm, left out
        r.metrics["curve"]["scale"][0] = [first] * 3
    ax = figures.scale_over_training("cifar10_reduced", records=records).axes[0]
    critic = next(line for line in ax.lines if line.get_label() == "Critic")
    assert critic.get_ydata()[0] == pytest.approx(0.1)


def test_cosine_by_split_has_a_panel_for_each_arm_with_runs():
    records = made() + made("digits", {"vfbn": 90.0, "backprop": 91.0})
    arms = ["digits", "digits_deep", "cifar10_reduced"]
    fig = figures.cosine_by_split(arms, records=records)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["Digits", "CIFAR-10"]
    names = [t.get_text() for t in fig.legends[0].texts]
    assert names == ["Direct SG", "VFBN", "Critic", "Sobolev", "Local CE"]


def test_accuracy_against_cosine_places_rows_at_their_means():
    (ax,) = figures.accuracy_against_cosine(["cifar10_reduced"], records=made(seeds=3)).axes
    big = {
        (round(float(line.get_xdata()[0]), 6), round(float(line.get_ydata()[0]), 6))
        for line in ax.lines
        if line.get_markersize() == 8
    }
    records = [r for r in made(seeds=3) if r.config["module"] == "direct"]
    mean = np.mean([np.mean(r.metrics["cosine"]) for r in records])
    assert (round(mean, 6), round(np.mean([r.metrics["top1"] for r in records]), 6)) in big
    assert len(big) == len(COSINE)
    labels = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert labels[-1] == "Backpropagation" and len(labels) == len(COSINE) + 1


def speed(row, images, flops, arm="cifar10", device="a GPU"):
    config = {
        "arm": arm,
        "row": row,
        "batch": 512,
        "precision": "bf16",
        "compiled": True,
        "device": device,
    }
    metrics = {"images_per_second": images, "flops_per_image": flops}
    return Record("throughput", config, 0, metrics, "paper", device=device)


def test_throughput_is_relative_to_backpropagation_of_the_same_run():
    records = [
        speed("backprop", 1000.0, 2e9), speed("sobolev", 400.0, 4e9),
        speed("backprop", 10.0, 2e9, device="cpu"), speed("sobolev", 5.0, 4e9, device="cpu"),
        speed("backprop", 7.0, 2e9, arm="cifar10_reduced"),
    ]  # fmt: skip
    fig = figures.throughput("cifar10", records=records)
    assert [t.get_text() for t in fig.axes[0].texts] == ["1.00", "0.40"]
    assert [t.get_text() for t in fig.axes[1].texts] == ["1.00", "0.50"]
    predicted = [line.get_xdata()[0] for line in fig.axes[0].lines]
    assert predicted == [1.0, 0.5]
    assert figures.timed("imagenet_1", "cifar10", "digits", records=records) == "cifar10"
    assert figures.timed("imagenet_1", "digits", records=records) == "digits"


def test_probed_draws_the_chosen_split():
    setting = training.settings("digits", ["critic"], epochs=1)[0]
    found = {"critic": probing.probes(training.Training(setting, 0), times=1, batch=16)}
    axes = figures.probed(found, split=2).axes
    line = next(ln for ln in axes[1].lines if ln.get_label() == "Critic")
    assert list(line.get_ydata()) == [p.right[2] for _, p in found["critic"]]


def test_panels_wrap_and_say_what_they_show():
    arms = ["digits", "digits_deep", "cifar10_reduced", "imagenette_reduced_1",
            "imagenette_reduced_3", "imagenet200_reduced_1"]  # fmt: skip
    records = [r for arm in arms for r in made(arm, seeds=3)]
    fig = figures.cosine_by_split(arms, records=records)
    titles = [ax.get_title(loc="left") for ax in fig.axes if ax.get_visible()]
    assert titles == ["Digits", "Digits, deep", "CIFAR-10", "Imagenette, 1 split",
                      "Imagenette, 3 splits", "200 classes, 1 split"]  # fmt: skip
    assert len({ax.get_subplotspec().rowspan.start for ax in fig.axes}) == 2


def test_pulls_draw_the_records_of_a_row(tmp_path):
    book = ledger.Ledger(probing.EXPERIMENT, tmp_path)
    chosen = training.settings("digits", ["critic", "local_ce"], epochs=1)
    probing.sweep(chosen, [0, 1], book, times=2, batch=16, quiet=True)
    records = book.read()
    assert len(figures.probed_runs("digits", "critic", records)) == 2
    above, pull = figures.pulls(["digits", "cifar10_reduced"], records=records).axes
    runs = [r for r in records if r.config["module"] == "critic"]
    for ax, name in ((above, "above"), (pull, "pull")):
        expected = np.mean([[p[1] for p in r.metrics[name]] for r in runs], axis=0)
        second = next(line for line in ax.lines if line.get_label() == "split 2")
        assert second.get_ydata() == pytest.approx(expected)
        assert second.get_xdata() == pytest.approx([0, 0.5, 1])
    lines = figures.pulls(["digits"], "local_ce", records).axes[1].lines
    local = [line for line in lines if line.get_label().startswith("split")]
    assert all(line.get_ydata() == pytest.approx([1.0] * 3) for line in local)
    said = [t.get_text() for t in figures.pulls(["cifar10_reduced"], records=records).axes[0].texts]
    assert said[1] == "python -m sobolev_lib probes --arm cifar10_reduced --rows critic"


def test_slower_rows_are_those_below_what_operations_predict():
    records = [
        speed("backprop", 100.0, 2e9), speed("critic", 95.0, 2e9), speed("sobolev", 40.0, 4e9),
    ]  # fmt: skip
    assert figures.slower("cifar10", records=records) == "Sobolev 0.80"
    assert figures.slower("cifar10", 0.96, records) == "Critic 0.95, Sobolev 0.80"
    assert figures.slower("cifar10", 0.5, records) == "none"
    assert figures.slower("digits", records=records) == "not run yet"
