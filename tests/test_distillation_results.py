"""Distillation: from records to what Fig. 4, its tables and its sentences show."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

pytest.importorskip("ale_py", reason="the Atari emulator is an optional extra")

from matplotlib import pyplot as plt

from sobolev_lib.distillation import arms, claims, controls, data, figures, pages, results
from sobolev_lib.distillation.students import Settings
from sobolev_lib.records.claims import HOLDS, NOT_HERE, OPEN
from sobolev_lib.records.ledger import Record
from sobolev_lib.records.summary import listed

MADE_FROM = {"teacher": "abc", "recording": "def"}
RATES = {"values": 3e-4, "sobolev": 1e-3, "squared": 1e-3}


@pytest.fixture(autouse=True)
def committed(monkeypatch, tmp_path):
    """Recordings of two games, of one teacher each."""
    monkeypatch.setattr(arms, "sources", lambda game: MADE_FROM)
    monkeypatch.setattr(data, "path", lambda game: tmp_path / game)
    for game in GAMES:
        data.path(game).touch()


GAMES = ("pong", "breakout")


def record(settings, seed, kl, **metrics):
    curve = {
        "update": [250, 500, 1000],
        "kl": [4 * kl, 0.9 * kl, kl],
        "kl_reverse": [kl, kl, kl],
        "action_error": [4 * kl, kl, kl],
        "validation_kl": [3.0, 1.0, 1.1],
    }
    more = {
        "kl": kl, "kl_reverse": kl, "action_error": kl, "validation_kl": kl, "best_kl": 0.9 * kl,
        "best_kl_reverse": kl, "best_action_error": kl, "step_seconds": 0.1, "teacher_seconds": 0.0,
        "curve": curve, "return_mean": 10 * kl, "teacher_uniform": 0.7, "gradient_cosine": 0.5,
        "gradient_cosine_other": 0.1, "gradient_overlap": 0.3, "gradient_size": 0.8,
    }  # fmt: skip
    config = arms.config(settings, MADE_FROM)
    return Record(arms.EXPERIMENT, config, seed, more | metrics, "paper", device="cpu (any)")


def piloted(game):
    """Pilots of a game: for each row one rate is best, and alpha 10 where there is one."""
    made = []
    for row in ("values", "sobolev"):
        while (found := arms.pilots(game, row, made, MADE_FROM))[0]:
            for settings in found[0]:
                far = abs(numpy.log(settings.learning_rate / RATES[row]))
                made.append(record(settings, arms.PILOT_SEED, 2 + far - 0.01 * settings.alpha))
    return made


def trained(game, fraction, plain, sobolev, seeds=3, arm="paper"):
    """Records whose divergences are these, a little more for each seed."""
    chosen = results.chosen(piloted(game), game)
    levels = {"values": plain, "sobolev": sobolev}
    return [
        record(
            settings, seed, levels[settings.method] * (1 + 0.01 * seed**2),
            step_seconds=0.1 if settings.method == "values" else 0.21, teacher_seconds=0.01,
        )
        for settings in arms.students(arm, game, fraction, chosen)
        for seed in range(seeds)
    ]  # fmt: skip


def test_pilots_choose_the_rate_first_and_alpha_at_that_rate():
    made = piloted("pong")
    assert len(made) == len(arms.RATES) * 2 + len(arms.ALPHAS) - 1  # one is the best rate's
    chosen = results.chosen(made, "pong")
    assert {row: s.learning_rate for row, s in chosen.items()} == {
        "values": 3e-4,
        "sobolev": 1e-3,
    }
    assert (chosen["values"].alpha, chosen["sobolev"].alpha) == (0.0, 10.0)
    assert "sobolev" not in results.chosen(made[:-1], "pong"), "one is missing"
    [values, sobolev] = arms.students("paper", "pong", 0.01, chosen)
    assert (values.method, values.learning_rate) == ("values", 3e-4)
    assert (sobolev.alpha, sobolev.learning_rate, sobolev.fraction) == (10.0, 1e-3, 0.01)


def test_what_was_chosen_is_shown_with_the_edges_of_what_was_tried():
    rows = pages.choices(piloted("pong")).rows
    assert rows["Pong, values only"] == {"learning rate": "0.0003", "alpha": "\u2014"}
    assert rows["Pong, Sobolev"]["learning rate"] == "0.001"
    assert rows["Pong, Sobolev"]["alpha"] == "10, the edge of what was tried"
    assert pages.choices([]) is None


def test_controls_change_one_thing_each():
    chosen = results.chosen(piloted("breakout"), "breakout")
    _, paper = arms.students("paper", "breakout", 0.05, chosen)

    def only(name):
        return arms.students(name, "breakout", 0.05, chosen)

    assert only("null") == [replace(paper, derivatives="another")]
    assert [s.alpha for s in only("alpha")] == [1.0, 100.0]
    assert only("jacobian") == [replace(paper, projections=0, alpha=2.5)]  # a sum over four rows
    [longer] = only("equal_cost")
    assert longer.updates == round(arms.EQUAL_COST * paper.updates)
    assert [s.method for s in only("silu")] == ["values", "sobolev"]
    assert arms.rows(["squared", "null"]) == ["squared", "sobolev"]
    with pytest.raises(ValueError, match="paper, equal_cost"):
        only("papers")


def test_without_records_every_page_says_so():
    cells = results.cells([])
    assert cells == []
    assert pages.fig4(cells, "kl") is pages.play(cells) is pages.agreement(cells) is None
    assert pages.gains(cells) == pages.NOTHING
    assert pages.settled(cells) == ""
    assert "will stand here" in pages.cost([])
    assert set(claims.findings([]).values()) == {None}
    assert "not run yet" in claims.table([])
    assert pages.teachers([]) is None
    assert "No teacher" in pages.uniform({})
    with pytest.raises(ValueError, match="nothing can be drawn"):
        figures.fig4(cells, "kl")


def test_of_one_seed_there_is_a_number_and_no_interval():
    made = piloted("pong") + trained("pong", 0.01, 0.4, 0.2, seeds=1)
    [cell] = results.cells(made)
    assert cell.title == "Pong, 1 %"
    table = pages.fig4([cell], "kl").rows["Pong, 1 %"]
    assert table["values only"] == "0.400 (1 seed)"
    assert table["less by"] == "\u2014"
    assert "no two seeds in common" in pages.gains([cell])
    assert claims.findings(made)["fig4-closer"] is None
    plt.close(figures.fig4([cell], "kl"))


def test_half_of_a_comparison_is_shown_as_it_is():
    values = [r for r in trained("pong", 0.01, 0.4, 0.2) if r.config["method"] == "values"]
    [cell] = results.cells(piloted("pong") + values)
    assert not cell.sobolev
    row = pages.fig4([cell], "kl").rows["Pong, 1 %"]
    assert (row["seeds"], row["Sobolev"]) == (0, "\u2014")
    assert results.cost(values, "pong") is None
    plt.close(figures.fig4([cell], "action_error"))


def test_what_is_closer_everywhere_holds():
    made = [*piloted("pong"), *piloted("breakout")]
    for game, fraction, plain, sobolev in (
        ("pong", 0.01, 0.2, 0.15), ("pong", 0.05, 0.15, 0.14),
        ("breakout", 0.01, 0.4, 0.1), ("breakout", 0.05, 0.3, 0.2),
    ):  # fmt: skip
        made += trained(game, fraction, plain, sobolev)
    cells = results.cells(made)
    assert [c.title for c in cells] == [
        "Pong, 1 %", "Pong, 5 %", "Breakout, 1 %", "Breakout, 5 %",
    ]  # fmt: skip
    found = claims.findings(made)
    assert {key: f.verdict for key, f in found.items()} == {
        "fig4-closer": HOLDS,
        "fig4-less-data": HOLDS,
        "fig4-pong": HOLDS,
        "fig4-overfitting": HOLDS,
        "fig4-uniform": HOLDS,
    }
    assert found["fig4-closer"].seeds == 3
    assert "closer in 12 of 12" in found["fig4-closer"].ours
    said = pages.gains(cells)
    assert "smaller with derivatives in Pong at 1 %, Pong at 5 %" in said
    assert "larger" not in said and "Not settled" not in said
    assert pages.settled(cells).startswith("In 24 of 24 runs")  # validation turns in `record`
    students = [r for r in made if r.seed != arms.PILOT_SEED]
    assert "2.10 times" in pages.cost(students) and "0.10" in pages.cost(students)
    assert "2.10 steps" in results.costs(students)[0]
    on_gpu = [replace(r, device="some GPU") for r in students]
    assert "will stand here" in pages.cost(on_gpu)
    assert pages.play(cells).rows["Pong, 1 %"].keys() == {"values only", "Sobolev"}
    assert len(pages.agreement(cells).rows) == 8
    over = "means over seeds; the ranges are over games and parts of the states"
    assert f"0.50 ({over}), against 0.50" in pages.looking(cells)
    assert "0.50 (means over seeds), against 0.50" in pages.looking(cells[:1])
    assert pages.looking([]) == pages.NOTHING
    for fig in (figures.fig4(cells, "kl"), figures.agreement(cells)):
        plt.close(fig)


def test_how_far_derivatives_help_is_said_for_each_game():
    made = [*piloted("pong"), *piloted("breakout")]
    for game, fraction, plain, sobolev in (
        ("pong", 0.01, 0.2, 0.3), ("pong", 0.05, 0.2, 0.2),
        ("breakout", 0.01, 0.4, 0.1), ("breakout", 0.25, 0.4, 0.3), ("breakout", 0.9, 0.1, 0.3),
    ):  # fmt: skip
        made += trained(game, fraction, plain, sobolev)
    assert pages.reach(results.cells(made)) == (
        "Derivatives bring the student closer by KL(teacher, student) at 1 and 25 % of the states "
        "in Breakout, at no size tried in Pong; by KL(student, teacher), which training minimises, "
        "at 1 and 25 % of the states in Breakout, at no size tried in Pong."
    )
    assert pages.reach([]) == ""


def test_steps_that_go_back_through_the_teacher_are_counted_apart():
    students = trained("pong", 0.01, 0.4, 0.2)
    paid = {"step_seconds": 0.37, "teacher_seconds": 0.15}
    back = [
        replace(r, metrics=r.metrics | paid) for r in students if r.config["method"] == "sobolev"
    ]
    assert "went back" not in pages.cost(students)
    said = pages.cost([*students, *back])
    assert "2.10 times" in said and "went back through the teacher it took 3.70 times" in said


def test_what_is_further_away_somewhere_does_not_hold_at_this_scale():
    made = [*piloted("breakout"), *trained("breakout", 0.01, 0.4, 0.1)]
    made += trained("breakout", 0.05, 0.2, 0.3)
    found = claims.findings(made)
    assert found["fig4-closer"].verdict == NOT_HERE
    assert "Breakout, 5 %, KL(teacher, student)" in found["fig4-closer"].one_by_one
    assert "<summary>One by one</summary>" in claims.table(made)
    assert found["fig4-less-data"].verdict == HOLDS
    assert found["fig4-pong"] is None
    assert "larger in Breakout at 5 %" in pages.gains(results.cells(made))
    two = [r for r in made if r.seed in (0, 1, arms.PILOT_SEED)]
    assert claims.findings(two)["fig4-closer"].verdict == OPEN, "two seeds settle nothing"


def test_overfitting_is_the_rise_of_the_test_divergence():
    made = [*piloted("breakout"), *trained("breakout", 0.01, 0.4, 0.1)]
    [cell] = results.cells(made)
    rise = claims.overfitting(cell)
    assert rise["sobolev"].centre == pytest.approx(numpy.log10(1 / 0.9))
    assert rise["apart"].centre == pytest.approx(0)


def test_records_of_another_recording_are_not_shown(monkeypatch):
    made = [*piloted("breakout"), *trained("breakout", 0.01, 0.4, 0.1)]
    monkeypatch.setattr(arms, "sources", lambda game: MADE_FROM | {"recording": "new"})
    assert results.cells(made) == []


def test_a_flat_or_turned_validation_is_settled_and_a_falling_one_is_not():
    made = trained("pong", 0.01, 0.4, 0.2, seeds=1)
    settings = Settings("pong")
    for curve, expected in (([3.0, 1.0, 1.1], True), ([3, 1, 0.99], True), ([3, 1, 0.9], False)):
        metrics = made[0].metrics | {"curve": made[0].metrics["curve"] | {"validation_kl": curve}}
        one = Record(arms.EXPERIMENT, arms.config(settings, MADE_FROM), 0, metrics, "paper")
        assert results.settled({0: one}) == {0: expected}


def test_controls_are_drawn_once_there_are_some():
    made = [*piloted("breakout"), *trained("breakout", 0.01, 0.4, 0.1)]
    assert figures.controls(controls.collect(made, 0.01)) is None
    made += trained("breakout", 0.01, 0.4, 0.3, arm="null")
    made += trained("breakout", 0.01, 0.4, 0.3, arm="alpha")
    fig = figures.controls(controls.collect(made, 0.01))
    labels = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert labels == [
        "Sobolev, α × 10", "Sobolev, α × 0.1", "Sobolev, another state's gradients",
        "Sobolev", "Values only",
    ]  # fmt: skip
    plt.close(fig)


def test_without_controls_nothing_is_answered():
    made = [*piloted("breakout"), *trained("breakout", 0.01, 0.4, 0.1)]
    assert controls.collect(made, 0.01) == []
    assert controls.answers([]) == controls.NOTHING
    assert controls.table([], "kl") is None
    assert controls.shares([]) == ""


@pytest.mark.parametrize(
    ("null", "share", "said"),
    [
        (0.25, 0.5, "beside derivatives larger in Breakout; beside values only smaller in"),
        (0.1, 1.0, "beside derivatives not settled in Breakout; beside values only smaller in"),
        (0.4, 0.0, "beside values only not settled in Breakout"),
        (0.7, -1.0, "beside derivatives larger in Breakout; beside values only larger in Breakout"),
    ],
)
def test_a_control_is_held_against_both_methods(null, share, said):
    made = [*piloted("breakout"), *trained("breakout", 0.01, 0.4, 0.1)]
    made += trained("breakout", 0.01, 0.4, null, arm="null")
    found = controls.collect(made, 0.01)
    part, sign = controls.share(found, "breakout", "kl")
    assert part == pytest.approx(share) and sign == numpy.sign(share)
    bring = {1: f"{100 * share:.0f} %", 0: "nothing", -1: "less than nothing"}[sign]
    assert f"bring {bring} in Breakout" in controls.shares(found)
    assert said in controls.answers(found)
    row = controls.table(found, "kl").rows["Sobolev, another state's gradients"]["Breakout"]
    spread = 1 + 0.01 * (0 + 1 + 4) / 3  # of the seeds
    assert float(row.split()[0]) == pytest.approx((null - 0.1) * spread, abs=0.006)


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (0.1, "falls from 20 to 10 % in Breakout."),
        (0.2, "goes (not settled) from 20 to 20 % in Breakout."),
        (0.3, "rises from 20 to 30 % in Breakout."),
    ],
)
def test_what_the_kernel_does_is_said(kernel, said):
    made = [*piloted("breakout"), *trained("breakout", 0.01, 0.4, 0.2)]
    made += trained("breakout", 0.01, 0.4, kernel, arm="kinks")
    assert controls.kernel(controls.collect(made, 0.01)).endswith(said)
    assert controls.kernel([]) == ""


def test_what_gains_nothing_has_no_share():
    made = [*piloted("breakout"), *trained("breakout", 0.01, 0.1, 0.4)]
    made += trained("breakout", 0.01, 0.4, 0.3, arm="null")
    assert controls.share(controls.collect(made, 0.01), "breakout", "kl") is None


def test_a_share_is_of_a_gain_that_its_own_seeds_settle():
    made = [*piloted("breakout"), *trained("breakout", 0.01, 0.4, 0.1)]
    two = [r for r in trained("breakout", 0.01, 0.4, 0.3, arm="null") if r.seed < 2]
    found = controls.collect([*made, *two], 0.01)
    assert controls.share(found, "breakout", "kl")[0] == pytest.approx(1 / 3)
    loose = [  # seeds 0 and 1 of the values disagree; all of them settle the gain
        replace(r, metrics=r.metrics | {"kl": r.metrics["kl"] * (0.3 if r.seed == 0 else 1.0)})
        if r.config["method"] == "values" else r
        for r in made
    ]  # fmt: skip
    assert controls.share(controls.collect([*loose, *two], 0.01), "breakout", "kl") is None
    assert controls.shares(controls.collect([*loose, *two], 0.01)) == ""


def test_how_students_play_is_said_where_it_is_settled():
    made = [*piloted("pong"), *trained("pong", 0.01, 0.4, 0.1)]
    for fraction, method, points in ((0.01, "values", 40.0), (0.01, "sobolev", 4.0)):
        made = [
            replace(r, metrics=r.metrics | {"return_mean": points + r.seed**2 * (method > "t")})
            if (r.config["method"], r.config["fraction"]) == (method, fraction) else r
            for r in made
        ]  # fmt: skip
    cells = results.cells(made)
    said = pages.played(cells)
    assert said.startswith(
        "Students that were trained on derivatives get fewer points in Pong, 1 %"
    )
    assert "(4.0 beside 41.7, a difference of 37.7 [" in said and "Not settled" not in said
    assert pages.played([]) == ""
    even = [replace(r, metrics=r.metrics | {"return_mean": float(r.seed)}) for r in made]
    assert pages.played(results.cells(even)) == "Not settled: 1 of 1 comparisons."


@pytest.mark.parametrize(
    ("parts", "said"),
    [([], ""), (["A"], "A"), (["A", "B"], "A and B"), (["A", "B", "C"], "A, B and C")],
)
def test_names_are_listed(parts, said):
    assert listed(parts) == said


def test_curves_have_a_row_for_each_seed():
    made = trained("pong", 0.01, 0.4, 0.2)
    mine = {r.seed: r for r in made if r.config["method"] == "values"}
    updates, kl = results.curves(mine, "kl")
    assert updates.tolist() == [250, 500, 1000]
    assert kl.shape == (3, 3)


def test_teachers_and_experts_are_shown_by_their_last_milestone():
    def milestone(route, steps, episodes=20):
        curve = {
            "steps": [1, steps], "return_mean": [0.0, 5.0], "return_interval": [1.0, 2.0],
            "episodes": [3, episodes],
        }  # fmt: skip
        metrics = {"curve": curve, "return_mean": 5.0, "return_interval": 2.0}
        config = {"game": "breakout", "route": route, "steps": steps}
        return Record("teacher", config, 0, metrics | {"episodes": episodes}, "paper")

    made = [milestone("memory", 10), milestone("kickstart", 7), milestone("kickstart", 9, 1)]
    assert figures.latest(made, "breakout")["pixels"].config["steps"] == 9
    assert pages.ways(made) == "In Breakout ours began beside an expert."
    rows = pages.teachers(made).rows
    assert rows["Breakout, expert"]["return"] == "5.0\u00a0\u00b1\u00a02.0"
    assert rows["Breakout, teacher"]["return"] == "5.0"
    assert "expert" in rows["Breakout, teacher"]["way"]
    went_on = milestone("kickstart", 30)
    went_on.metrics["begun"] = {"steps": 9}
    assert "on a GPU in Breakout" in pages.ways([*made, went_on])
    assert "nothing but pixels" in pages.ways([milestone("ppo", 9)])
    assert pages.ways([]) == pages.reached([]) == pages.deviations([]) == ""
    assert pages.reached(made) == "Their mean returns are 5 in Breakout (we aimed at 150)."
    pong = replace(made[0], config=made[0].config | {"game": "pong"}, deviations=("Both.",))
    own = ("Both.", "One of 12345.")
    lines = pages.deviations([*(replace(r, deviations=own) for r in made), pong])
    assert lines == "- Both.\n- One of 12,345. (Breakout)"
    fig = figures.learning([*made, went_on])
    longest = max(fig.axes[1].lines, key=lambda line: len(line.get_xdata()))
    numpy.testing.assert_allclose(longest.get_xdata(), numpy.array([1, 9, 10, 39]) / 1e6)
    plt.close(fig)


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ({}, "No teacher has been trained yet."),
        ({"pong": True}, "Replayed from the committed recording: Pong."),
        (
            {"pong": True, "breakout": True, "space_invaders": False},
            "Replayed from the committed recording: Pong and Breakout. "
            "Played by the teacher while this page was built: Space Invaders.",
        ),
    ],
)
def test_where_clips_come_from(recorded, said):
    assert pages.origin(recorded) == said
