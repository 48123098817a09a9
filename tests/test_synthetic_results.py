"""Table 1 from records: experiments, differences, verdicts, pages; only as strong as the seeds."""

import re

import numpy as np
import pytest
from scipy import stats
from sg_helpers import COSINE, TOP1, made

from sobolev_lib import __main__ as command
from sobolev_lib.records.claims import FAILS, HOLDS, NOT_HERE, NOT_RUN, OPEN, PARTLY
from sobolev_lib.records.ledger import Ledger
from sobolev_lib.records.summary import Interval, interval
from sobolev_lib.synthetic_gradients import claims, jobs, pages, paper, results, settings


def verdicts(records, block="cifar10"):
    """Return verdicts by the last part of their key, None where not run."""
    found = {}
    for claim in claims.claims_on(records):
        if claim.key.startswith(f"table1-{block}-"):
            finding = claim.measure(records)
            found[claim.key.removeprefix(f"table1-{block}-")] = finding and finding.verdict
    return found


# The paper's numbers.


def test_the_papers_numbers_as_printed():
    """The only copy outside the library: one row of each part, from the paper."""
    cells = {
        (key, metric, row): str(cell)
        for key, block in paper.BLOCKS.items()
        for metric, by_row in block.cells.items()
        for row, cell in by_row.items()
    }
    assert len(cells) == 6 + 4 * 5  # Direct was not run on ImageNet
    assert cells["cifar10", "top1", "direct"] == "79.2 ± 0.01"
    assert cells["cifar10", "top1", "backprop"] == "94.3"
    assert cells["imagenet_1", "top1", "critic"] == "71.7 ± 0.23"
    assert cells["imagenet_1", "top5", "vfbn"] == "81.5 ± 1.20"
    assert cells["imagenet_3", "top1", "sobolev"] == "66.5 ± 0.22"
    assert cells["imagenet_3", "top5", "noprop"] == "38.0 ± 0.34"


@pytest.mark.parametrize("block", paper.BLOCKS.values(), ids=paper.BLOCKS)
def test_every_part_names_arms_with_its_number_of_modules(block):
    for arm in block.arms:
        splits = settings.settings(arm, ["sobolev"])[0].splits
        assert f"with {len(splits)} synthetic gradient module" in block.title
    assert set(block.cells) <= set(paper.METRICS)


def test_every_row_has_a_name_of_its_own():
    assert set(paper.NAMES) == set(settings.ROWS)
    assert len(set(paper.NAMES.values())) == len(settings.ROWS)


# Experiments.


def test_records_of_one_experiment_are_grouped_and_changed_ones_are_not():
    records = [*made(seeds=3), *made(seeds=9, width=8), *made("digits", {"critic": 90.0})]
    found = results.groups(records)
    assert [(g.arm, g.count) for g in found] == [
        ("digits", 4), ("cifar10_reduced", 63), ("cifar10_reduced", 21),
    ]  # fmt: skip
    assert found[1].changes == {"width": 8} and not found[2].changes
    assert list(found[2].rows) == list(settings.MAIN_ROWS)
    # more runs with another width do not make them the arm
    assert results.group(records, "cifar10_reduced").config["width"] == 16
    assert results.answering("cifar10", records).config["width"] == 16
    assert results.group(records, "cifar10") is None
    page = pages.table("cifar10", records)
    assert "changed: width 8" in page and page.count("changed:") == 1


def test_of_an_arm_that_was_run_with_changes_only_they_must_be_the_same_ones():
    (only,) = results.groups(made(width=8))
    assert results.group(made(width=8), "cifar10_reduced") == only
    with pytest.raises(ValueError, match=r"are 2 experiments: .*'width': 8"):
        results.group(made(width=8) + made(width=4), "cifar10_reduced")


def test_variants_of_a_row_are_rows_of_the_same_experiment():
    rows = ["sobolev", "sobolev_mean", "sobolev_kernel", "sobolev_slow", "sobolev_leaky"]
    (found,) = results.groups(made(top1=dict.fromkeys(rows, 90.0)))
    assert list(found.rows) == rows and not found.changes


def test_differences_are_paired_over_common_seeds():
    records = made(top1={"critic": 90.0, "sobolev": 91.0}, spread=0)
    lost = [r for r in records if (r.seed, r.config["module"]) != (1, "critic")]
    found = results.group(lost, "cifar10_reduced")
    assert found.difference("sobolev", "critic") == {0: 1.0, 2: 1.0, 3: 1.0}
    got = results.difference(lost, "sobolev", "critic", arm="cifar10_reduced")
    assert got == Interval(1.0, 1.0, 1.0, 3)
    assert results.difference(lost, "sobolev", "vfbn", arm="cifar10_reduced") is None
    assert results.difference(lost, "sobolev", "critic", arm="digits") is None


def test_differences_do_not_depend_on_what_all_seeds_share():
    one, other = made("digits", spread=0), made("digits", spread=0)
    for r in one:
        r.metrics["top1"] += 3.0 * np.cos(r.seed)
    pair = ("critic", "vfbn")
    assert results.difference(one, *pair).low == pytest.approx(results.difference(other, *pair).low)
    assert results.summarise(one, "critic").low < results.summarise(other, "critic").low


def test_a_ledger_serves_as_well(tmp_path):
    book = Ledger(settings.EXPERIMENT, tmp_path)
    book.append(made("digits"))
    assert list(results.by_row(book)) == list(settings.MAIN_ROWS)
    critic = [r.metrics["top1"] for r in made("digits") if r.config["module"] == "critic"]
    assert results.summarise(book, "critic") == interval(critic)


def test_curves_at_a_step_are_summarised_like_other_metrics():
    records = made("digits", {"critic": 90.0}, seeds=3)
    for r in records:
        r.metrics.update(steps=[10, 20], batch=[0.0, float(r.seed)])
    assert results.summarise(records, "critic", "batch", step=20).centre == pytest.approx(1.0)
    assert results.summarise(records, "critic", "batch", step=10).high == 0.0


def test_diverged_runs_are_left_out_and_counted():
    records = made(top1={"critic": 90.0}, seeds=3)
    records[1].metrics["top1"] = None
    found = results.group(records, "cifar10_reduced")
    assert set(found.values("critic")) == {0, 2}
    page = pages.table("cifar10", records)
    assert "1 diverged" in page and "(2 seeds)" in page


def test_failures_are_counted_from_the_critic():
    records = made("digits", {"critic": 90.0}, spread=0)
    others = made("digits", {"vfbn": 90.0}, seeds=3, spread=0)
    for r, top1 in zip(others, (85.5, 85.0, 70.0), strict=True):
        r.metrics["top1"] = top1
    assert results.failures(records + others, "vfbn") == (2, 3)
    assert results.failures(others, "vfbn") == (0, 0)  # no critic
    assert results.failures(records, "vfbn") == (0, 0)


def test_the_answer_comes_from_the_best_runs_nearest_to_the_paper():
    reduced, one_at_full_size = made(seeds=3), made("cifar10", seeds=1)
    assert results.answering("cifar10", reduced + one_at_full_size).arm == "cifar10_reduced"
    three = made("cifar10", seeds=3)
    assert results.answering("cifar10", made(seeds=9) + three).arm == "cifar10"
    assert results.answering("cifar10", []) is None


def test_intervals_as_text():
    assert results.said(None) == NOT_RUN
    assert results.said(Interval(0.254, 0.1, 0.5, 5), "+.2f") == "+0.25 [+0.10,\u00a0+0.50]"
    assert results.said(Interval(97.04, 96.0, 98.0, 5)) == "97.0 [96.0,\u00a098.0]"
    assert results.shown([]) == NOT_RUN
    assert results.shown([71.25]) == "71.2 (1 seed)"
    assert results.shown([2.0, 1.0], "+.1f", " points") == "+1.0 and +2.0 points (2 seeds)"
    assert results.shown([1.0, 1.0, 1.0]) == "1.0 [1.0,\u00a01.0] (3 seeds)"


@pytest.mark.parametrize("arm", settings.ARMS)
def test_commands_are_understood_and_make_the_same_runs(arm, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(jobs, "sweep", lambda chosen, seeds, *_, **__: asked.append(chosen) or 0)
    changed = results.group(made(arm, {"critic": 50.0}, epochs=7, width=8), arm)
    for found in (None, changed):
        words = results.command(arm, "critic", found).split()[3:]
        words = [w for w in words if w not in ("--device", "cuda")]
        assert command.main([*words, "--ledger", str(tmp_path), "--quiet"]) == 0
    assert asked[0] == settings.settings(arm, ["critic"])
    assert asked[1] == settings.settings(arm, ["critic"], epochs=7, width=8)
    assert results.command(arm, "critic", changed).count("--seeds 4") == 1


def test_runs_on_images_kept_from_training_are_no_table_1_and_can_be_made_again(
    tmp_path, monkeypatch
):
    pilots = made(top1={"vfbn": 60.0, "critic_slow": 61.0}, seeds=2, held_out=1000)
    for r in pilots:
        object.__setattr__(r, "seed", r.seed + 5)
    records = made(seeds=3) + pilots
    assert pages.table("cifar10", records) == pages.table("cifar10", made(seeds=3))
    found = results.pilots(records, "cifar10_reduced")
    asked = []
    monkeypatch.setattr(jobs, "sweep", lambda *given, **_: asked.append(given[:2]) or 0)
    words = results.command("cifar10_reduced", None, found)
    assert command.main([*words.split()[3:], "--ledger", str(tmp_path), "--quiet"]) == 0
    [(chosen, seeds)] = asked
    assert [settings.config(s) for s in chosen] == [r.config for r in pilots if r.seed == 5]
    assert list(seeds) == [5, 6]
    one = results.command("cifar10_reduced", "vfbn", found)
    assert "--rows vfbn --seeds 2 --first-seed 5" in one


# Claims.


def test_the_papers_own_story_holds():
    found = verdicts(made(spread=0.02))
    assert found.pop("reliable") == OPEN  # all rows spread alike
    assert set(found.values()) == {HOLDS} and {"vfbn-sobolev", "critic-sobolev"} < set(found)


@pytest.mark.parametrize(("scale", "word"), [("small", NOT_HERE), ("paper", FAILS)])
def test_the_opposite_story_fails_at_the_scale_at_which_it_was_run(scale, word):
    top1 = {row: 100 - value for row, value in TOP1.items()} | {"backprop": 99.0}
    records = made(top1=top1, cosine={row: -value for row, value in COSINE.items()})
    for r in records:
        object.__setattr__(r, "scale", scale)
    found = verdicts(records)
    assert found.pop("reliable") == OPEN
    assert found.pop("backprop") == NOT_HERE  # points of accuracy, which take the paper's length
    assert set(found.values()) == {word}


def test_few_seeds_settle_nothing():
    found = verdicts(made(seeds=2))
    assert found.pop("reliable") is None
    assert set(found.values()) == {OPEN}
    assert set(verdicts(made(seeds=1)).values()) == {OPEN, None}
    for block in paper.BLOCKS:
        assert set(verdicts([], block).values()) == {None}


def test_claims_on_imagenet_are_measured_on_every_subset():
    good = made("imagenette_reduced_3", spread=0.01)
    assert verdicts(good, "imagenet_3")["vfbn-sobolev"] == HOLDS
    bad = made("imagenet200_reduced_3", {**TOP1, "sobolev": 10.0}, spread=0.01)
    assert verdicts(bad, "imagenet_3")["vfbn-sobolev"] == NOT_HERE
    both = verdicts(good + bad, "imagenet_3")
    assert both["vfbn-sobolev"] == PARTLY and both["noprop-vfbn"] == HOLDS
    open_one = made("imagenet200_reduced_3", seeds=2)
    assert verdicts(good + open_one, "imagenet_3")["vfbn-sobolev"] == OPEN
    claim = next(c for c in claims.claims_on(good + bad) if c.key.endswith("3-vfbn-sobolev"))
    ours = claim.measure(good + bad).ours
    assert "Imagenette" in ours and "200-class" in ours and claim.command.count("--arm") == 2


def test_top_5_is_judged_where_the_paper_has_it():
    records = made("imagenet200_reduced_1", spread=0.01)
    for r in records:
        r.metrics["top5"] = 90.0 - (r.config["module"] == "sobolev") - 0.01 * r.seed
    found = verdicts(records, "imagenet_1")
    assert found["critic-sobolev"] == HOLDS and found["critic-sobolev-top5"] == NOT_HERE
    assert not any(name.endswith("top5") for name in verdicts(made()))


def test_reliable_needs_clearly_smaller_deviations():
    records = made(seeds=10, spread=2.0)
    for r in records:
        if r.config["module"] == "sobolev":
            r.metrics["top1"] = 93 + 0.01 * (r.seed % 3)
    assert verdicts(records)["reliable"] == HOLDS
    for r in records:
        if r.config["module"] == "critic":
            r.metrics["top1"] = 92 + 0.0001 * (r.seed % 3)
    assert verdicts(records)["reliable"] == NOT_HERE


def test_more_splits_need_more_loss_supervision():
    one = made("imagenette_reduced_1", {"critic": 80.0, "vfbn": 70.0, "sobolev": 81.0})
    three = made("imagenette_reduced_3", {"critic": 75.0, "vfbn": 40.0, "sobolev": 76.0})
    assert verdicts(one + three, "imagenet_3")["splits"] == HOLDS
    assert verdicts(three, "imagenet_3")["splits"] is None


@pytest.mark.slow
def test_deviation_ratio_covers_the_truth_as_often_as_it_says():
    source = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        a, b = source.normal(size=6), 3 * source.normal(size=9)
        found = claims.deviation_ratio(a, b)
        inside += found.low <= 3 <= found.high
    assert abs(inside / 2000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)


def test_deviation_ratio_by_hand():
    found = claims.deviation_ratio([0.0, 1.0, 2.0], [0.0, 3.0, 6.0])
    assert found.centre == pytest.approx(3.0)
    assert found.high / found.low == pytest.approx(39.0)  # three runs each: F(0.975; 2, 2) = 39


def test_tally_counts():
    records = made(spread=0.02)
    findings = [c.measure(records) for c in claims.claims_on(records)]
    hold = len(verdicts(records)) - 1
    rest = len(findings) - hold - 1
    assert claims.tally(findings) == f"{hold} hold, 1 not settled, {rest} not run yet"
    assert claims.tally([]) == ""
    one = next(f for f in findings if f and f.verdict == HOLDS)
    assert claims.tally([one]) == "1 holds"


def test_rank_correlation_is_spearmans_seed_by_seed():
    rows = ["direct", "vfbn", "critic", "sobolev"]
    found = results.group(made(spread=0), "cifar10_reduced")
    expected = stats.spearmanr([COSINE[r] for r in rows], [TOP1[r] for r in rows]).statistic
    assert claims.rank_correlation(found, rows) == pytest.approx([expected] * 4)
    assert expected < -0.5


@pytest.mark.parametrize("seeds", [0, 1, 2, 5])
def test_words_are_only_as_strong_as_the_seeds(seeds):
    records = made(seeds=seeds, spread=0.01) if seeds else []
    found = results.group(records, "cifar10_reduced")
    text = results.compare(found, "sobolev", "critic")
    expected = {0: NOT_RUN, 1: "too few seeds", 2: "too few seeds", 5: "is ahead of"}[seeds]
    assert expected in text
    arms = ["digits", "cifar10_reduced"]
    for text in (claims.findings_on_alignment(records, arms), claims.conclusions(records, arms)):
        assert ("ahead" in text) == (seeds == 5)
        assert "nan" not in text
    assert claims.findings_on_alignment(records, arms).count("\n") == 1
    where = {0: "", 1: OPEN, 2: OPEN, 5: HOLDS}[seeds]
    names = claims.settled(records, arms, "sobolev", "critic")
    assert names == {k: ["CIFAR-10 (reduced)"] if k == where else [] for k in (HOLDS, FAILS, OPEN)}
    if seeds == 5:
        assert claims.settled(records, arms, "critic", "sobolev")[FAILS] == ["CIFAR-10 (reduced)"]


def test_an_experiment_says_where_modules_have_died():
    records = made(seeds=3, spread=0.01)
    for record in records:
        record.metrics["dead"] = [0.6 if record.config["module"] == "critic" else 0.4] * 3
    text = claims.conclusions(records, ["cifar10_reduced"])
    said = "\n".join(line for line in text.splitlines() if "test accuracy" in line)
    assert said.count("*CIFAR-10 (reduced; most units dead)*") == 2  # Critic's pairs
    assert said.count("*CIFAR-10 (reduced)*") == 1


# Pages.


@pytest.mark.parametrize("block", paper.BLOCKS)
def test_table_has_every_row_with_its_command_and_stands_without_records(block):
    for records in ([], made(seeds=2), made("imagenette_reduced_3", seeds=3)):
        page = pages.table(block, records)
        cells = next(iter(paper.BLOCKS[block].cells.values()))
        for row, cell in cells.items():
            name = f"<th scope='row'>{paper.NAMES[row]}</th>"
            assert name in page.replace("&shy;", "") and str(cell) in page
        assert page.count("<details>") == page.count("--rows ") >= len(cells)
        assert page.count("<td>") == 2 * page.count("scope='row'>")
        assert page.count("<tr>") == page.count("</tr>")


def test_a_subset_says_so_in_each_row():
    page = pages.table("imagenet_3", made("imagenette_reduced_3", seeds=3))
    rows = [r for r in re.findall("<tr>.*?</tr>", page) if "[" in r]
    assert len(rows) == len(TOP1)
    assert all("on Imagenette<" in row for row in rows)
    assert "width 16 (paper: 64)" in page and "64 px (paper: 224)" in page


def test_numbers_of_the_table_are_those_of_the_records():
    page = pages.table("cifar10", made(top1={"critic": 71.25}, seeds=3, spread=0))
    assert "71.2 [71.2,\u00a071.2] (3 seeds)" in page
    assert page.count(NOT_RUN) == 6 + 6  # other rows here, all of the full size


def test_claims_table_has_a_row_for_each_claim():
    records = made()
    for blocks in (["cifar10"], list(paper.BLOCKS)):
        page = pages.claims_table(blocks, records)
        wanted = [c for c in claims.claims_on(records) if any(f"-{b}-" in c.key for b in blocks)]
        assert page.count("<tr>") == len(wanted) + len(blocks)  # each has a head
        # what was run is said above the rows, not in each
        for title in {g.title for b in blocks for g in claims.answers(b, records)}:
            assert f"; {title}" not in page.replace("Our runs: ", "")
    keys = [c.key for c in claims.claims_on([])]
    assert len(keys) == len(set(keys))


def test_the_order_is_judged_for_every_source():
    every, some = made("digits"), made("digits", {"critic": 92.0, "vfbn": 93.0})
    rows = pages.order_table({"All": every, "Some": some}).rows
    row = rows["Critic above VFBN"]
    assert (row["Table 1"], row["All: verdict"], row["Some: verdict"]) == ("+4.7", HOLDS, FAILS)
    row = rows["Sobolev above Critic"]
    assert (row["Table 1"], row["All: verdict"], row["Some"]) == ("+0.3", HOLDS, NOT_RUN)
    assert rows["Sobolev above Local CE"]["Table 1"] == "—"
    rows = pages.accuracy_table({"Some": some}).rows
    assert rows["Critic"]["Some"].endswith("n\u00a0=\u00a04")
    assert rows["Direct SG"]["Some"] == NOT_RUN


def test_fidelity_and_recall_are_tabled_from_records():
    records = made("digits", {"critic": 90.0}, seeds=3)
    for r in records:
        curves = {name: [0.1, 0.1 * r.seed] for name in ("cosine", "frozen", "batch", "weights")}
        r.metrics.update(steps=[10, 20], recall=[0.01 * r.seed] * 10, **curves)
    row = pages.fidelity_table(records, 20).rows["Critic"]
    assert row["Weights"] == results.said(results.summarise(records, "critic", "batch", step=20))
    assert pages.recall_table(records, 2, ["critic"], "digits").rows["Critic"]["7"] == 0.02
