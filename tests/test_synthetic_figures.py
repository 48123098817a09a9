"""Figures of synthetic gradients: they draw what the records say, and stand while some are missing.

What is drawn is looked for by its numbers, wherever in the figure it stands.
"""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from sg_helpers import COSINE, TOP1, made

from sobolev_lib.figures import style
from sobolev_lib.records import ledger
from sobolev_lib.records.claims import NOT_RUN
from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import interval
from sobolev_lib.records.sweep import sweep
from sobolev_lib.synthetic_gradients import (
    fidelity,
    figures,
    paper,
    probing,
    results,
    settings,
    throughput,
    training,
)
from sobolev_lib.synthetic_gradients import instrument_figures as instruments

mpl.use("Agg")
ARM = "cifar10_reduced"


@pytest.fixture(autouse=True)
def _style():
    with mpl.rc_context():
        style.use_style()
        yield
    plt.close("all")


def texts(fig):
    return [t.get_text() for ax in fig.axes for t in ax.texts]


def titles(fig):
    return [ax.get_title(loc="left") for ax in fig.axes if ax.get_visible()]


def names(fig):
    return [t.get_text() for legend in fig.legends for t in legend.get_texts()]


def drawn(ax, *points):
    """Whether a panel shows all these points (x, y), whatever artists they belong to."""
    have = np.concatenate([np.asarray(line.get_xydata(), dtype=float) for line in ax.lines])
    return all(np.isclose(have, np.array(p, dtype=float)).all(axis=1).any() for p in points)


def abscissae(ax):
    return {round(float(x), 9) for line in ax.lines for x in np.ravel(line.get_xdata())}


def labelled(ax, name):
    (line,) = [line for line in ax.lines if line.get_label() == name]
    return line


def values(records, row, metric="top1"):
    return list(results.group(records, records[0].config["arm"]).values(row, metric).values())


def test_rows_of_one_figure_differ_without_colour():
    looks = set()
    for row in settings.ROWS:
        assert figures.method(row) in style.COLOURS
    for row in ("backprop", *figures.ALIGNED, "noprop"):
        look = figures.look(row)
        looks.add((look["marker"], look["markerfacecolor"] == "white", str(look["linestyle"])))
    assert len(looks) == len(figures.ALIGNED) + 2
    assert figures.method("vfbn_kernel") == "kernel"
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
        NOT_RUN,
        "python -m sobolev_lib synthetic_gradients --arm cifar10 --seeds 3 --device cuda",
    ]


def test_accuracy_shows_seeds_interval_and_the_paper_apart():
    records = [r for r in made(seeds=4) if r.config["module"] != "vfbn"]
    ours, papers = figures.accuracy(ARM, "cifar10", records=records).axes
    assert ours.get_facecolor() != papers.get_facecolor()
    assert not ours.get_shared_x_axes().joined(ours, papers)
    labels = [t.get_text() for t in ours.get_yticklabels()]
    assert labels == [paper.NAMES[row] for row in TOP1]
    assert texts(ours.figure) == [NOT_RUN]
    critic = values(records, "critic")
    found, place = interval(critic), labels.index("Critic")
    assert drawn(ours, *((x, place) for x in (found.low, found.centre, found.high)))
    assert {round(v, 9) for v in critic} < abscissae(ours)
    for row, cell in paper.BLOCKS["cifar10"].cells["top1"].items():
        assert drawn(papers, (cell.value, labels.index(paper.NAMES[row])))


@pytest.mark.parametrize("records", [[], made("digits", TOP1, seeds=1), made("digits", seeds=5)])
def test_the_digits_are_drawn_whatever_is_there(records):
    rows = {settings.row_of(r.config) for r in records}
    fig = figures.accuracy_enlarged(records)
    assert texts(fig).count(NOT_RUN) == 2 * (len(settings.MAIN_ROWS) - len(rows))
    for row in rows:
        place = settings.MAIN_ROWS.index(row)
        assert drawn(fig.axes[0], (results.summarise(records, row).centre, place))
    deep = made("digits_deep", {"critic": 90.0, "sobolev_mean": 91.0})
    reduced = figures.sum_or_mean([*records, *deep])
    have = [sum(t.get_text() == NOT_RUN for t in ax.texts) for ax in reduced.axes]
    assert have == [len(set(results.REDUCTION_ROWS) - rows), len(results.REDUCTION_ROWS) - 2]
    labels = [t.get_text() for t in reduced.axes[0].get_yticklabels()]
    assert len(set(labels)) == len(results.REDUCTION_ROWS)
    for made_one in (
        fig, reduced, figures.accuracy_against_cosine_by_split(records), figures.curves(records),
    ):  # fmt: skip
        made_one.canvas.draw()


def test_curves_are_centres_over_seeds():
    records = made("digits", {"critic": 90.0}, seeds=5)
    for r in records:
        r.metrics["curve"]["loss"] = [2.0, 1.0 + 0.1 * r.seed]
        r.metrics["curve"]["scale"] = [[0.0, 0.0, 0.0], [1.0, 10.0, 100.0]]
    accuracy, loss, cosine, scale = (labelled(ax, "Critic") for ax in figures.curves(records).axes)
    assert list(accuracy.get_ydata()) == [1.0, 2.0]
    expected = 10 ** np.mean(np.log10([1.0 + 0.1 * s for s in range(5)]))
    assert list(loss.get_ydata()) == pytest.approx([2.0, expected])
    late = np.mean(values(records, "critic", "cosine"))
    assert list(cosine.get_ydata()) == pytest.approx([late] * 2)
    # 0 has no logarithm
    assert np.isnan(scale.get_ydata()[0]) and scale.get_ydata()[1] == pytest.approx(37.0)


def test_accuracy_over_epochs_has_a_line_for_each_row_that_was_run():
    records = made(top1={"backprop": 90.0, "noprop": 40.0, "sobolev": 89.0})
    fig = figures.accuracy_over_epochs(ARM, records=records)
    assert texts(fig) == ["Backpropagation", "Sobolev", "Noprop"]
    for name in texts(fig):
        assert labelled(fig.axes[0], name).get_xydata().tolist() == [[1.0, 1.0], [2.0, 2.0]]


def test_cosine_has_a_panel_for_each_split_and_epochs_on_its_axis():
    records = made(top1={"critic": 90.0, "sobolev": 91.0}, seeds=5)
    fig = figures.cosine_over_training(ARM, records=records)
    assert titles(fig) == ["after conv2", "after conv5", "after conv8"]
    for k, ax in enumerate(fig.axes):
        assert list(labelled(ax, "Critic").get_xdata()) == [0.0, 1.0]  # 10 steps an epoch
        late = interval([COSINE["sobolev"] + 0.01 * seed + 0.1 * k for seed in range(5)])
        assert labelled(ax, "Sobolev").get_ydata() == pytest.approx([late.centre] * 2)


def test_gaps_where_a_run_diverged():
    records = made(top1={"critic": 90.0}, seeds=1)
    records[0].metrics["curve"]["cosine"] = [[0.1, 0.2, 0.3], [None, 0.2, 0.3]]
    axes = figures.cosine_over_training(ARM, records=records).axes
    y = [labelled(ax, "Critic").get_ydata() for ax in axes]
    assert np.isnan(y[0]).tolist() == [False, True] and np.isfinite(y[1]).all()


def test_scale_is_logarithmic():
    axes = figures.scale_over_training(ARM, records=made()).axes
    assert all(ax.get_yscale() == "log" for ax in axes)
    records = made(top1={"critic": 90.0}, seeds=3)
    for r, first in zip(records, (0.0, 0.01, 1.0), strict=True):  # 0: no logarithm, left out
        r.metrics["curve"]["scale"] = [[first] * 3] * 2
    ax = figures.scale_over_training(ARM, records=records).axes[0]
    assert labelled(ax, "Critic").get_ydata()[0] == pytest.approx(0.1)


def test_cosine_by_split_has_a_panel_for_each_arm_with_runs():
    records = made() + made("digits", {"vfbn": 90.0, "backprop": 91.0})
    fig = figures.cosine_by_split(["digits", "digits_deep", ARM], records=records)
    assert titles(fig) == ["Digits", "CIFAR-10 (reduced)"]
    assert names(fig) == ["Direct SG", "VFBN", "Critic", "Sobolev", "Local CE"]
    ours = results.group(records, ARM).cosine("critic")
    heights = {round(float(y), 9) for line in fig.axes[1].lines for y in np.ravel(line.get_ydata())}
    assert {round(v, 9) for v in ours.ravel()} < heights


def test_panels_wrap_and_say_what_they_show():
    arms = ["digits", "digits_deep", ARM, "imagenette_reduced_1", "imagenette_reduced_3",
            "imagenet200_reduced_1"]  # fmt: skip
    records = [r for arm in arms for r in made(arm, seeds=3)]
    fig = figures.cosine_by_split(arms, records=records)
    assert titles(fig) == ["Digits", "Digits (deep)", "CIFAR-10 (reduced)", "Imagenette (1 split)",
                           "Imagenette (3 splits)", "200 classes (1 split)"]  # fmt: skip
    assert len({ax.get_subplotspec().rowspan.start for ax in fig.axes}) == 2


def test_accuracy_against_cosine_places_rows_at_their_centres():
    records = made(seeds=3)
    fig = figures.accuracy_against_cosine([ARM], records=records)
    for row in COSINE:
        centre = np.mean(values(records, row, "cosine")), np.mean(values(records, row))
        seeds = zip(values(records, row, "cosine"), values(records, row), strict=True)
        assert drawn(fig.axes[0], centre, *seeds)
    assert names(fig)[-1] == "Backpropagation" and len(names(fig)) == len(COSINE) + 1
    digits = made("digits", seeds=3)
    panels = figures.accuracy_against_cosine_by_split(digits).axes
    late = results.group(digits, "digits").cosine("critic")
    for k, ax in enumerate(panels):
        assert drawn(ax, (late[:, k].mean(), np.mean(values(digits, "critic"))))


# Speed, probes, fidelity.


def speed(row, images, flops, arm="cifar10", device="a GPU"):
    config = {
        "arm": arm, "row": row, "batch": 512, "precision": "bf16", "compiled": True,
        "device": device,
    }  # fmt: skip
    metrics = {"images_per_second": images, "flops_per_image": flops}
    return Record("throughput", config, 0, metrics, "paper", device=device)


def test_speeds_are_relative_to_backpropagation_of_the_same_run():
    records = [
        speed("backprop", 1000.0, 2e9), speed("sobolev", 400.0, 4e9),
        speed("backprop", 10.0, 2e9, device="cpu"), speed("sobolev", 5.0, 4e9, device="cpu"),
        speed("backprop", 7.0, 2e9, arm="cifar10_reduced"),
    ]  # fmt: skip
    fig = instruments.speeds("cifar10", records)
    assert [[t.get_text() for t in ax.texts] for ax in fig.axes] == [
        ["1.00", "0.40"], ["1.00", "0.50"],
    ]  # fmt: skip
    assert {1.0, 0.5} <= abscissae(fig.axes[0])
    assert throughput.timed("imagenet_1", "cifar10", "digits", records=records) == "cifar10"
    assert throughput.timed("imagenet_1", "digits", records=records) == "digits"
    fig = instruments.speeds("cifar10", [speed("sobolev", 1.0, 1.0)])
    assert texts(fig) == [NOT_RUN, "python -m sobolev_lib throughput --arm cifar10"]


def test_slower_rows_are_those_below_what_operations_predict():
    records = [
        speed("backprop", 100.0, 2e9), speed("critic", 95.0, 2e9), speed("sobolev", 40.0, 4e9),
        speed("vfbn", 89.0, 2e9),
    ]  # fmt: skip
    assert throughput.slower("cifar10", records) == "VFBN 0.89, Sobolev 0.80"
    assert throughput.slower("cifar10", records[:2]) == "none"
    assert throughput.slower("digits", records) == NOT_RUN


def test_probed_draws_the_first_split():
    setting = settings.settings("digits", ["critic"], epochs=1)[0]
    found = {"critic": probing.probes(training.Training(setting, 0), times=1, batch=16)}
    fig = instruments.probed(found)
    panel = next(ax for ax in fig.axes if ax.get_title(loc="left") == "Module's own accuracy")
    expected = [p.right[0] for _, p in found["critic"]]
    assert list(labelled(panel, "Critic").get_ydata()) == expected


def test_pulls_draw_the_records_of_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "TIMES", 2)
    monkeypatch.setattr(probing, "BATCH", 16)
    book = ledger.Ledger(probing.EXPERIMENT, tmp_path)
    chosen = settings.settings("digits", ["critic", "local_ce"], epochs=1)
    sweep(probing.EXPERIMENT, probing.jobs(chosen, [0, 1]), book, quiet=True)
    records = book.read()
    assert len(probing.probed_runs("digits", records)) == 2
    panels = instruments.pulls(["digits", ARM], records).axes
    runs = [r for r in records if r.config["module"] == "critic"]
    for ax, name in zip(panels, ("above", "pull"), strict=True):
        expected = np.mean([[p[1] for p in r.metrics[name]] for r in runs], axis=0)
        second = labelled(ax, "split 2")
        assert second.get_ydata() == pytest.approx(expected)
        assert second.get_xdata() == pytest.approx([0, 0.5, 1])
    words = "python -m sobolev_lib probes --arm cifar10_reduced --rows critic"
    assert texts(instruments.pulls([ARM], records))[1] == words


def test_fidelity_is_drawn_from_its_records(tmp_path, monkeypatch):
    monkeypatch.setattr(fidelity, "STEPS", (3, 20, 36))
    monkeypatch.setattr(fidelity, "COUNT", 200)
    book = ledger.Ledger(fidelity.EXPERIMENT, tmp_path)
    chosen = settings.settings("digits", ["critic"], epochs=2)
    assert sweep(fidelity.EXPERIMENT, fidelity.jobs(chosen, [0, 1]), book, quiet=True) == 2
    records = book.read()
    fig = instruments.fidelity_over_training(records)
    for ax, name in zip(fig.axes, instruments.MEASURES, strict=True):
        for step in (3, 20, 36):
            found = results.summarise(records, "critic", name, step=step)
            assert drawn(ax, (step, found.centre))
    last = fidelity.follow(training.Training(chosen[0], 0), (36,), 200)[36]
    assert last.means()["batch"] == records[0].metrics["batch"][2]
    instruments.examples(last).canvas.draw()
