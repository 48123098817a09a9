"""Numbers are read from whole configurations, so that nothing else can move a page."""

import math
import shutil
from dataclasses import replace

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt
from test_regression_claims import records

from sobolev_lib import __main__ as command
from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.records import ledger
from sobolev_lib.records.ledger import Ledger, LedgerError, Record
from sobolev_lib.records.summary import Interval
from sobolev_lib.regression import claims, figures, kriging, results
from sobolev_lib.regression.arms import ARMS, Setting, config, methods_of, settings
from sobolev_lib.regression.results import SOBOLEV, VALUES, Results, load

mpl.use("Agg")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The book's ledger, in a folder of its own."""
    (tmp_path / "ledger").mkdir()
    shutil.copy(Ledger("regression").path, tmp_path / "ledger")
    monkeypatch.setenv("SOBOLEV_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return Ledger("regression")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An empty ledger in the place of the book's."""
    monkeypatch.setenv("SOBOLEV_DATA", str(tmp_path))
    return Ledger("regression")


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_a_changed_run_in_the_books_ledger_moves_no_page(copy, scale):
    before = load().gains(20), claims.table()
    # what `regression --steps 1000 --batch 20 --sizes 20 --functions booth --seeds 3` enters
    changed = settings("paper", [20], ["booth"], steps=1_000, batch=20)
    assert {s.arm for s in changed} == {"paper, changed: steps 1000, batch 20"}
    metrics = {"test_mse": 1e9, "curve": {"steps": [0, 1_000], "test_mse": [1e9, 1e9]}}
    entries = [
        Record("regression", config(s), k, metrics, scale) for s in changed for k in range(3)
    ]
    assert copy.append(entries) == 6
    assert (load().gains(20), claims.table()) == before
    assert len(figures.learning_curves(20).axes) == len(figures.gain_over_steps().axes) == 8
    plt.close("all")


def test_the_command_writes_to_a_ledger_of_the_readers_own(copy, tmp_path, capsys):
    before = copy.path.read_bytes()
    words = "regression --scale small --steps 2 --batch 20 --sizes 20 --functions booth --quiet"
    assert command.main(words.split()) == 0
    assert "2 records entered in out/ledger/regression.jsonl" in capsys.readouterr().out
    assert copy.path.read_bytes() == before
    own = Ledger("regression", tmp_path / "out" / "ledger").read()
    assert {(r.scale, r.config["arm"]) for r in own} == {
        ("small", "paper, changed: steps 2, batch 20")
    }
    assert command.main([*words.split(), "--book", "--scale", "paper"]) == 0
    made = [r for r in copy.read() if r.config.get("steps") == 2]
    assert {r.scale for r in made} == {"paper"}, "whoever asks for a scale writes it"
    capsys.readouterr()


def test_an_arm_is_the_whole_configuration():
    for arm in ARMS:
        for setting in settings(arm, [20], ["booth"]):
            assert setting.arm == arm.split("/")[0]
    assert Setting("booth", 20, "values", steps=7).arm == "paper, changed: steps 7"
    changed = Setting(
        "booth", 20, "sobolev", **{**ARMS["activation/silu"], "steps": 7}, arm="activation"
    )
    assert changed.arm == "activation, changed: steps 7", "from the nearest of the family"
    assert replace(changed, steps=6_000).arm == "activation"


def test_older_records_are_read_with_todays_defaults():
    old = config(Setting("booth", 20, "values"))
    del old["points_factor"]
    found = Results([Record("regression", old, 0, {"test_mse": 10.0}, "paper")])
    assert found.errors("booth", 20, VALUES) == {0: 1.0}


def test_a_run_is_read_at_three_budgets():
    curve = {"steps": [0, 10, 20, 90], "test_mse": [9.0, 1e-3, 1e-2, 1e-1]}
    metrics = {"test_mse": 1e-1, "curve": curve}
    entry = Record("regression", config(Setting("booth", 20, "values")), 0, metrics, "paper")
    found = Results([entry])
    read = {at: found.errors("booth", 20, VALUES, at=at)[0] for at in results.READINGS}
    assert read == pytest.approx({"last": -1, "quarter": -2, "best": -3})


def test_a_mislabelled_record_stops_the_build(copy):
    metrics = {"test_mse": 1.0}
    wrong = {**config(Setting("booth", 20, "values")), "steps": 7}
    copy.append([Record("regression", wrong, 0, metrics, "paper")])
    with pytest.raises(LedgerError, match=r"labelled 'paper', but .* 'paper, changed: steps 7'"):
        load()


def test_a_row_with_uneven_seeds_stops_the_build(copy):
    extra = config(Setting("booth", 20, "values"))
    copy.append([Record("regression", extra, 10, {"test_mse": 1.0}, "paper")])
    with pytest.raises(LedgerError, match=r"different seeds .*'booth': 11"):
        load()


def test_a_run_that_is_there_twice_stops_the_build(copy):
    lines = copy.path.read_text().splitlines(keepends=True)
    copy.path.write_text("".join([*lines, lines[0]]))
    with pytest.raises(LedgerError, match="second record"):
        load()


def test_kriging_is_a_line_like_the_others():
    entry = kriging.config(Setting("booth", 20, "values", arm="kriging"))
    found = Results([Record("regression", entry, 0, {"test_mse": 100.0}, "paper")])
    assert found.errors("booth", 20, ("kriging", "values")) == {0: 2.0}
    assert found.errors("booth", 20, VALUES) == {}


def test_an_error_can_grow_with_the_data():
    found = Results(records({20: [0.5] * 7, 100: [0.2] * 7}))
    grown = found.grown("booth", 20, 100, SOBOLEV)
    assert (grown.centre, grown.sign) == (pytest.approx(0.3), 1)
    assert found.grown("booth", 20, 100, VALUES).centre == 0
    assert found.grown("booth", 20, 10_000, VALUES) is None


def test_gains_at_two_sizes_are_compared_where_each_was_read():
    entries = records({20: [0.5] * 7, 10_000: [0.2] * 7}, early=0.4)
    found = Results(entries + records({10_000: [1.0] * 7}, arm="annealed_tail"))
    for large, apart in ((("paper", "last"), 0.3), (("annealed_tail", "last"), -0.5)):
        gained = found.gains_apart("booth", {20: ("paper", "last"), 10_000: large})
        assert gained.centre == pytest.approx(apart)
    early = {n: ("paper", "quarter") for n in (20, 10_000)}
    assert found.gains_apart("booth", early).centre == pytest.approx(0.0)
    missing = {n: ("paper", "last") for n in (20, 100)}
    assert found.gains_apart("booth", missing) is None


def power_laws(exponent):
    """Values: error 1/steps; Sobolev: steps to the power -exponent, at 1 to 10,000 steps."""
    steps = [0, 1, 10, 100, 1000, 10_000]
    for seed in range(3):
        for method, power in (("values", 1.0), ("sobolev", exponent)):
            errors = [5.0] + [float(s) ** -power for s in steps[1:]]
            metrics = {"test_mse": errors[-1], "curve": {"steps": steps, "test_mse": errors}}
            where = config(Setting("booth", 100, method))
            yield Record("regression", where, seed, metrics, "paper")


def test_a_price_takes_steps_away(tmp_path):
    found = Results(power_laws(1.5))
    for price in (1.0, 2.0, 7.0):  # power laws: straight lines between checkpoints are exact
        gained = found.gain_at_price("booth", 100, price)
        assert gained.centre == pytest.approx(1.5 * (4 - math.log10(price)) - 4)
    assert found.gain_at_price("ackley", 100, 1.0) is None
    with pytest.raises(ValueError, match=r"price is 0\.5"):
        found.gain_at_price("booth", 100, 0.5)
    steps, gains = found.gain_curve("booth", 100)
    assert [g.centre for g in gains] == pytest.approx([0.5 * math.log10(s) for s in steps])


def test_comparisons_are_counted_with_those_that_their_number_undoes():
    sure, shaky, none = Interval(1, 0.9, 1.1, 10), Interval(1, 0.01, 1.99, 5), Interval(0, -1, 1, 5)
    many = {f"none {i}": none for i in range(20)}
    found = results.compared({"sure": sure, "shaky": shaky, **many})
    assert (found.count, found.decided, found.lost, found.survive) == (22, 2, ["shaky"], 1)


@pytest.mark.parametrize("made", [[], records({20: [0.5] * 7, 100: [-0.5] * 7})])
def test_every_figure_draws_what_there_is(own, made):
    own.append(made)
    for fig in (
        figures.error_against_data(),
        figures.gains({"one": (VALUES, SOBOLEV)}, 20),
        figures.stopping(),
        figures.learning_curves(20),
        figures.arms(20),
        figures.knobs(),
        figures.gain_over_steps(),
        figures.equal_time(20, {"free": 1.0, "dear": 3.0}),
    ):
        fig.canvas.draw()
        shown = [ax for ax in fig.axes if ax.lines]
        assert shown, "at least a key, a label or a line at 0"
        plt.close(fig)
    with pytest.raises(ValueError, match="prices has 5 entries; at most 4"):
        figures.equal_time(20, dict.fromkeys("abcde", 1.0))
    plt.close("all")


def test_an_effect_is_the_median_over_functions(tmp_path):
    book = Ledger("regression", tmp_path)
    book.append(records({20: [0.1, 0.5, -0.2, 0.3, 0.9, 0.0, -0.4]}))
    effects = load(book).effects(20)
    assert list(effects) == [next(iter(results.KNOBS))], "only what has records"
    [(middle, each)] = effects.values()
    assert middle == pytest.approx(0.1) and sorted(each) == pytest.approx(
        [-0.4, -0.2, 0.0, 0.1, 0.3, 0.5, 0.9]
    )
    for before, after in results.KNOBS.values():
        for arm, method in (before, after):
            assert method in methods_of(arm), "a row that could never have records"


def test_the_gain_that_is_drawn_is_the_one_that_is_said(own):
    own.append(records({20: [0.5] * 7}))
    fig = figures.gains({"one": (VALUES, SOBOLEV)}, 20)
    said = load().gains(20)
    drawn = {tuple(line.get_xdata()) for line in fig.axes[0].lines}
    assert {(said[name].low, said[name].high) for name in FUNCTIONS} <= drawn
    plt.close(fig)


def test_the_books_ledger_is_in_order():
    load().check()
    for path in sorted(ledger.default_folder().glob("*.jsonl")):
        assert Ledger(path.stem).read()
