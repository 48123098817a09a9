"""Is it the boundary term: verdicts and sentences for every state of the records."""

import re

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from sobolev_lib import __main__ as command
from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.records.ledger import Ledger, Record
from sobolev_lib.regression import arms, boundary, figures
from sobolev_lib.regression.boundary import CONTROLS, KERNEL, NEEDED, PLAIN, SMOOTH, VARIANTS
from sobolev_lib.regression.results import Results, variance

mpl.use("Agg")
WRONG = {label: -0.2 for label in NEEDED}


def made(gains, n=100, seeds=3, base=1e-3, spread=0.01, early=None):
    """Records whose errors are 10^-gain times those of plain ReLU; ``early`` at a quarter."""
    found = []
    for line, gain in {PLAIN: 0.0, **gains}.items():
        for setting in arms.settings(line[0], [n], methods=["sobolev"]):
            for seed in range(seeds):
                noise = spread * (seed - 1) * (1 + list(FUNCTIONS).index(setting.function))
                last = base * variance(setting.function) * 10 ** (noise * bool(gain) - gain)
                first = last if early is None else last * 10 ** (gain - early * bool(gain))
                curve = {"steps": [0, 1_000, 6_000], "test_mse": [last * 1e3, first, last]}
                metrics = {"test_mse": last, "curve": curve}
                config = arms.config(setting)
                found.append(Record("regression", config, seed, metrics, "paper"))
    return Results(found)


def runs(kernel, controls, **options):
    lines = {**CONTROLS, **VARIANTS}
    return made({KERNEL: kernel, **{lines[k]: v for k, v in controls.items()}}, **options)


@pytest.mark.parametrize(
    ("kernel", "controls", "words"),
    [
        (0.4, WRONG, "the records speak for the boundary term"),
        (0.4, WRONG, r"by the least \(\+0\.\d\d \[.*\] decades\) of “[^”]*”\.$"),
        (0.4, {**WRONG, "Half as large": 0.5}, "; “Half as large” is ahead of the kernel itself"),
        (0.4, {**WRONG, "Noise of equal size": 0.9}, "behind “Noise of equal size”"),
        (
            0.4,
            {**WRONG, "Noise of equal size": 0.4},
            "its cause is not settled: .*; against “Noise of equal size” nothing is settled",
        ),
        (
            0.4,
            {**WRONG, "Noise of equal size": 0.4, "8 widths away": -0.2},
            r"nothing is settled; it is also ahead of “8 widths away”\.",
        ),
        (
            0.4,
            {"Sign turned": -0.1},
            "it is ahead of “Sign turned”; there are no records of “2 widths away” and “Noise",
        ),
        (0.4, {}, "its cause is not settled: there are no records of “Sign turned”, "),
        (-0.4, WRONG, "worse than plain ReLU: there is no gain"),
        (1e-9, WRONG, "not settled whether the kernel gains .*, so that a control cannot say why"),
        (
            1e-9,
            {**WRONG, "2 widths away": 0.3, "8 widths away": 0.3},
            "it is behind “2 widths away” and “8 widths away”, which speaks against",
        ),
    ],
)
def test_the_conclusion_is_what_the_records_say(kernel, controls, words):
    assert re.search(words, boundary.conclusion(runs(kernel, controls), 100))


def test_what_holds_at_the_last_step_only_is_not_settled():
    found = runs(0.4, WRONG, early=-0.1)
    assert boundary.gain(found, 100, PLAIN, KERNEL).sign == 1
    assert boundary.gain(found, 100, PLAIN, KERNEL, at="quarter").sign == -1
    assert "not settled whether the kernel gains" in boundary.conclusion(found, 100)


def test_the_mean_leaves_out_what_was_not_learnt_and_where_the_width_was_chosen():
    found = runs(0.4, WRONG)
    assert set(boundary.counted(found, 100)) == set(FUNCTIONS) - {"styblinski_tang"}
    assert boundary.counted(runs(0.4, WRONG, base=0.9), 100) == []
    assert boundary.gain(runs(0.1, {}, base=0.9), 100, PLAIN, KERNEL) is None
    gain = boundary.gain(found, 100, PLAIN, KERNEL)
    assert gain.centre == pytest.approx(0.4) and gain.count == 3
    # the seeds' own means, over six functions: 1 + 2 + 3 + 4 + 5 + 6 hundredths apart
    assert gain.high - gain.low == pytest.approx(2 * 4.302653 * 0.035 / 3**0.5, rel=1e-3)


def test_widths_are_judged_where_none_was_chosen():
    wide = boundary.WIDTHS["0.3"]
    found = made({KERNEL: 0.4, wide: 0.2})
    rows = boundary.widths(found, 100).rows
    assert rows["0.1"]["mean of the others"].startswith("+0.40 [")
    assert rows["0.3"]["mean of the others"].startswith("+0.20 [")
    assert rows["0.3"]["Styblinski-Tang"].startswith("+0.20 [") and rows["0.3"]["seeds"] == 3
    assert rows["0.03"] == {
        "Styblinski-Tang": "not run",
        "mean of the others": "not run",
        "seeds": 0,
    }
    tried = {arm for arm, _ in boundary.WIDTHS.values()}
    assert tried == {*arms.members("bandwidth"), KERNEL[0]}


def test_every_row_is_said_or_named_with_its_command():
    found = runs(0.4, {**WRONG, "Width annealed": 0.5})
    said = boundary.sentences(found, 100)
    assert "+0.40 [" in said[0] and "3 seeds" in said[0]
    assert any(s.startswith("*Sign turned*: -0.20") and "worse" in s for s in said)
    [annealed] = [s for s in said if s.startswith("*Width annealed*")]
    assert "over plain ReLU, better" in annealed and "over the kernel, better" in annealed
    assert "SiLU" not in annealed, "SiLU has no records here"
    for label in ("Half as large", "At fresh points"):
        assert label in said[-1]
    assert len(boundary.leads(found, [100])) == 1 + 2 * 4


def test_a_variant_is_compared_with_a_smooth_unit():
    found = made({KERNEL: 0.4, SMOOTH: 1.5, VARIANTS["Width annealed"]: 0.5})
    [said] = [s for s in boundary.sentences(found, 100) if s.startswith("*Width annealed*")]
    assert "-1.00 [" in said and "over SiLU, worse" in said


def test_without_records_the_page_says_what_makes_them(tmp_path):
    nothing = Results([])
    text = boundary.text(nothing, (20, 100))
    assert "nothing to compare yet" in text and "--arms kernel_control --sizes 20 " in text
    assert boundary.leads(nothing, (20, 100)) == {}
    words = boundary.command(["Half as large"], 20).split()
    assert words[:3] == ["python", "-m", "sobolev_lib"]
    own = [*words[3:-1], "--scale", "small", "--steps", "2", "--functions", "booth", "--quiet"]
    own += ["--seeds", "1", "--ledger", str(tmp_path), "--states", str(tmp_path)]
    assert command.main(own) == 0, "the command that is printed can be run"
    [record] = Ledger("regression", tmp_path).read()
    assert record.config["amplitude"] == 0.5 and record.config["steps"] == 2


@pytest.mark.parametrize("kept", [None, {}, WRONG])
def test_the_figure_draws_what_there_is(tmp_path, monkeypatch, kept):
    monkeypatch.setenv("SOBOLEV_DATA", str(tmp_path))
    Ledger("regression").append(runs(0.4, kept).records if kept is not None else [])
    fig = figures.kernel_controls()
    fig.canvas.draw()
    left, right = fig.axes
    rows = [label.get_text() for label in left.get_yticklabels()]
    assert rows == ([] if kept is None else ["The kernel", *kept])
    centres = [line for line in right.lines if line.get_marker() in ("D", "o")]
    assert bool(centres) == (kept is not None)
    plt.close(fig)


def test_each_row_is_an_arm_and_each_arm_a_row():
    rows = {**CONTROLS, **VARIANTS}.values()
    assert {arm for arm, _ in rows} == set(arms.members("kernel_control"))
