"""Table 1: the paper's numbers, ours beside them, verdicts, and probes of modules."""

import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from sobolev_lib.records import ledger
from sobolev_lib.records.claims import FAILS, HOLDS, OPEN
from sobolev_lib.records.ledger import Record
from sobolev_lib.synthetic_gradients import costs, decouple, probing, table1, throughput, training
from sobolev_lib.synthetic_gradients import data as images

TOP1 = {
    "backprop": 94.0, "noprop": 50.0, "direct": 79.0, "vfbn": 88.0, "critic": 92.0,
    "sobolev": 93.5, "local_ce": 92.5,
}  # fmt: skip
COSINE = {"direct": 0.4, "vfbn": 0.3, "critic": 0.1, "sobolev": 0.2, "local_ce": 0.05}


def made(arm="cifar10_reduced", top1=TOP1, seeds=4, spread=0.1, cosine=COSINE, **changes):
    """Return records of an arm with given accuracies, cosines by split, a little spread."""
    records = []
    for setting in training.settings(arm, list(top1), **changes):
        row = training.row_of(training.config(setting))
        splits = len(setting.splits)
        for seed in range(seeds):
            wave = spread * np.sin(seed + 10 * len(row))
            c = (
                [cosine[row] + 0.01 * seed + 0.1 * k for k in range(splits)]
                if row in cosine
                else []
            )
            metrics = {
                "top1": top1[row] + wave, "top5": 99.0 + 0.1 * wave, "cosine": c,
                "gradient_scale": [0.5] * len(c),
                "curve": {"steps": [0, 10], "cosine": [c, c], "scale": [c, c], "loss": [1, 1]},
                "tests": {"steps": [10, 20], "top1": [1.0, 2.0], "top5": [1, 2], "loss": [1, 1]},
            }  # fmt: skip
            records.append(
                Record(
                    "synthetic_gradients", training.config(setting), seed, metrics, "small",
                    setting.deviations("folder of images"),
                )
            )  # fmt: skip
    return records


def verdicts(records, block="cifar10"):
    """Return verdicts by the last part of their key, None where not run."""
    found = {}
    for claim in table1.claims_on(records):
        if claim.key.startswith(f"table1-{block}-"):
            finding = claim.measure(records)
            found[claim.key.removeprefix(f"table1-{block}-")] = finding and finding.verdict
    return found


def test_the_papers_numbers_as_printed():
    """Two rows of each part, retyped from the paper."""
    cells = {
        (key, metric, row): str(cell)
        for key, block in table1.BLOCKS.items()
        for metric, by_row in block.cells.items()
        for row, cell in by_row.items()
    }
    assert len(cells) == 6 + 4 * 5  # Direct was not run on ImageNet
    assert cells["cifar10", "top1", "direct"] == "79.2 ± 0.01"
    assert cells["cifar10", "top1", "backprop"] == "94.3"
    assert cells["imagenet_1", "top5", "vfbn"] == "81.5 ± 1.20"
    assert cells["imagenet_3", "top1", "sobolev"] == "66.5 ± 0.22"
    assert cells["imagenet_3", "top5", "noprop"] == "38.0 ± 0.34"


def test_every_part_names_arms_with_its_number_of_modules():
    for block in table1.BLOCKS.values():
        for arm in block.arms:
            assert len(training.settings(arm, ["sobolev"])[0].splits) == block.modules
    assert set(table1.NAMES) == set(training.ROWS)


def test_records_of_one_experiment_are_grouped_and_different_scales_are_not():
    records = [*made(seeds=3), *made(seeds=1, width=8), *made("digits", {"critic": 90.0})]
    found = table1.groups(records)
    assert [(g.arm, g.count) for g in found] == [
        ("digits", 4), ("cifar10_reduced", 21), ("cifar10_reduced", 7),
    ]  # fmt: skip
    assert found[1].config["width"] == 16
    assert list(found[1].rows) == list(training.MAIN_ROWS)
    best = table1.group(records, "cifar10_reduced")
    assert best is not None and best.config["width"] == 16
    assert table1.group(records, "cifar10") is None


def test_variants_of_a_row_are_rows_of_the_same_experiment():
    rows = ["sobolev", "sobolev_mean", "sobolev_kernel"]
    (found,) = table1.groups(made(top1=dict.fromkeys(rows, 90.0), cosine={}))
    assert list(found.rows) == rows


def test_differences_are_paired_by_seed():
    records = made(top1={"critic": 90.0, "sobolev": 91.0}, spread=0)
    lost = [r for r in records if (r.seed, r.config["module"]) != (1, "critic")]
    found = table1.group(lost, "cifar10_reduced")
    assert found.difference("sobolev", "critic") == {0: 1.0, 2: 1.0, 3: 1.0}


def test_diverged_runs_are_left_out_and_counted():
    records = made(top1={"critic": 90.0}, seeds=3)
    records[1].metrics["top1"] = None
    found = table1.group(records, "cifar10_reduced")
    assert set(found.values("critic")) == {0, 2}
    page = table1.table("cifar10", records)
    assert "1 diverged" in page and "(2 seeds)" in page


def test_the_papers_own_story_holds():
    found = verdicts(made(spread=0.02))
    assert found.pop("reliable") == OPEN  # all rows spread alike
    assert set(found.values()) == {HOLDS} and len(found) == 6


def test_the_opposite_story_fails():
    top1 = {row: 100 - value for row, value in TOP1.items()} | {"backprop": 99.0}
    cosine = {row: -value for row, value in COSINE.items()}
    found = verdicts(made(top1=top1, cosine=cosine))
    assert found.pop("reliable") == OPEN
    assert set(found.values()) == {FAILS}


def test_two_seeds_settle_nothing():
    found = verdicts(made(seeds=2))
    assert found.pop("reliable") is None
    assert set(found.values()) == {OPEN}


def test_one_seed_and_none():
    assert set(verdicts(made(seeds=1)).values()) == {OPEN, None}
    for block in table1.BLOCKS:
        assert set(verdicts([], block).values()) == {None}


def test_reliable_needs_clearly_smaller_deviations():
    records = made(seeds=10, spread=2.0)
    for r in records:
        if r.config["module"] == "sobolev":
            r.metrics["top1"] = 93 + 0.01 * (r.seed % 3)
    assert verdicts(records)["reliable"] == HOLDS
    for r in records:
        if r.config["module"] == "critic":
            r.metrics["top1"] = 92 + 0.0001 * (r.seed % 3)
    assert verdicts(records)["reliable"] == FAILS


def test_more_splits_need_more_loss_supervision():
    one = made("imagenette_reduced_1", {"critic": 80.0, "vfbn": 70.0, "sobolev": 81.0})
    three = made("imagenette_reduced_3", {"critic": 75.0, "vfbn": 40.0, "sobolev": 76.0})
    assert verdicts(one + three, "imagenet_3")["splits"] == HOLDS
    assert verdicts(three, "imagenet_3")["splits"] is None


def test_the_answer_comes_from_the_best_runs_nearest_to_the_paper():
    reduced = made(seeds=3)
    one_at_full_size = made("cifar10", seeds=1)
    assert table1.answering("cifar10", reduced + one_at_full_size).arm == "cifar10_reduced"
    three = made("cifar10", seeds=3)
    assert table1.answering("cifar10", made(seeds=9) + three).arm == "cifar10"
    assert table1.answering("cifar10", []) is None


def test_deviation_ratio_covers_the_truth_as_often_as_it_says():
    source = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        a, b = source.normal(size=6), 3 * source.normal(size=9)
        found = table1.deviation_ratio(a, b)
        inside += found.low <= 3 <= found.high
    assert abs(inside / 2000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)
    with pytest.raises(ValueError, match="two different numbers"):
        table1.deviation_ratio([1.0, 1.0], [1.0, 2.0])


def test_rank_correlation_is_spearmans_seed_by_seed():
    rows = ["direct", "vfbn", "critic", "sobolev"]
    found = table1.group(made(spread=0), "cifar10_reduced")
    expected = stats.spearmanr([COSINE[r] for r in rows], [TOP1[r] for r in rows]).statistic
    assert table1.rank_correlation(found, rows) == pytest.approx([expected] * 4)
    assert expected < -0.5


@pytest.mark.parametrize("block", table1.BLOCKS)
def test_table_has_every_row_with_its_command_and_stands_without_records(block):
    for records in ([], made(seeds=2), made("imagenette_reduced_3", seeds=3)):
        page = table1.table(block, records)
        cells = next(iter(table1.BLOCKS[block].cells.values()))
        for row, cell in cells.items():
            assert (
                f"<th scope='row'>{table1.NAMES[row]}</th>" in page.replace("&shy;", "")
                and str(cell) in page
            )
        assert page.count("<details>") == page.count("--rows ") >= len(cells)
        assert page.count("<td>") == 2 * page.count("scope='row'>")
        assert page.count("<tr>") == page.count("</tr>")
    with pytest.raises(ValueError, match="block is 'mnist'"):
        table1.table("mnist", [])


def test_a_subset_says_so_in_each_row():
    page = table1.table("imagenet_3", made("imagenette_reduced_3", seeds=3))
    rows = [r for r in re.findall("<tr>.*?</tr>", page) if "[" in r]
    assert len(rows) == len(TOP1)
    assert all("on Imagenette, a 10-class subset of ImageNet" in row for row in rows)
    assert "width 16 (paper: 64)" in page and "64 px (paper: 224)" in page


def test_numbers_of_the_table_are_those_of_the_records():
    page = table1.table("cifar10", made(top1={"critic": 71.25}, seeds=3, spread=0))
    assert "71.2 [71.2, 71.2] (3 seeds)" in page
    assert page.count("not run yet") == 6 + 6  # other rows here, all of the full size
    page = table1.table("cifar10", made(top1={"critic": 71.25}, seeds=1, spread=0))
    assert "71.2 (1 seed)" in page


@pytest.mark.parametrize("arm", training.ARMS)
def test_commands_are_understood_and_make_the_same_setting(arm):
    from sobolev_lib.__main__ import _parser

    changed = table1.group(made(arm, {"critic": 50.0}, epochs=7, width=8), arm)
    for found in (None, changed):
        words = table1.command(arm, "critic", found).split()
        options = _parser().parse_args(words[3:])
        assert (options.arm, options.rows) == (arm, ["critic"]) and options.seeds >= 3
    assert (options.epochs, options.width, options.seeds) == (7, 8, 4)


def test_claims_table_has_a_row_for_each_claim():
    records = made()
    for blocks in (["cifar10"], list(table1.BLOCKS)):
        page = table1.claims_table(blocks, records)
        wanted = [c for c in table1.claims_on(records) if any(f"-{b}-" in c.key for b in blocks)]
        assert page.count("<tr>") == len(wanted) + 1
    keys = [c.key for c in table1.claims_on([])]
    assert len(keys) == len(set(keys))


def test_tally_counts():
    records = made(spread=0.02)
    findings = [c.measure(records) for c in table1.claims_on(records)]
    assert table1.tally(findings) == "6 hold, 1 not settled, 11 not run yet"


@pytest.mark.parametrize("seeds", [0, 1, 2, 5])
def test_words_are_only_as_strong_as_the_seeds(seeds):
    records = made(seeds=seeds, spread=0.01) if seeds else []
    found = table1.group(records, "cifar10_reduced")
    said = table1.compare(found, "sobolev", "critic")
    expected = {0: "not run yet", 1: "too few seeds", 2: "too few seeds", 5: "is ahead of"}[seeds]
    assert expected in said
    arms = ["digits", "cifar10_reduced"]
    for text in (table1.findings_on_alignment(records, arms), table1.conclusions(records, arms)):
        assert ("ahead" in text) == (seeds == 5)
        assert "nan" not in text
    assert table1.findings_on_alignment(records, arms).count("\n") == 1


# ---------------------------------------------------------------- probes and costs


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def small_network(norm=True, kind="critic", **options):
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Tanh()]
    top = [nn.Linear(8, 7), nn.BatchNorm1d(7) if norm else nn.Identity(), nn.Tanh()]
    network = nn.Sequential(nn.Sequential(*layers), nn.Sequential(*top), nn.Linear(7, 3))
    network.double()
    example = torch.zeros(2, 6, dtype=torch.float64)
    return decouple(network, ["0", "1"], kind, example=example, **options)


def batch(count=9):
    return torch.randn(count, 6, dtype=torch.float64), torch.randint(3, (count,))


@pytest.mark.parametrize("norm", [True, False])
def test_own_gradients_against_autograd_example_by_example(norm):
    net, (x, y) = small_network(norm), batch()
    every, own = probing.own_gradients(net, x, y)
    for a, b in zip(every, net.true_gradients(x, y), strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    h = net.segments[0](x).detach().requires_grad_()
    losses = nn.functional.cross_entropy(net.segments[2](net.segments[1](h)), y, reduction="none")
    for b, loss in enumerate(losses):
        (g,) = torch.autograd.grad(loss, h, retain_graph=True)
        assert torch.allclose(own[0][b], g[b], atol=1e-12)
    assert torch.allclose(every[0], own[0]) != norm


def test_probe_leaves_the_network_alone_and_knows_local_ce():
    net, (x, y) = small_network(kind="local_ce"), batch(40)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = probing.probe(net, x, y)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert found.pull == pytest.approx([1.0, 1.0])
    assert len(found.size) == 2 and all(0 <= v <= 1 for v in (*found.above, *found.right))
    step = net.accumulate(x, y, measure=True)
    assert found.cosine == pytest.approx([c.item() for c in step.cosines])
    assert found.model == pytest.approx([v.item() for v in step.module_losses])  # Local CE: m
    assert found.loss == pytest.approx(step.loss.mean().item())


def test_a_critic_is_pulled_by_signs():
    """Where m > L for all examples its pull is the labels', where m < L for all the opposite."""
    net, (x, y) = small_network(), batch()
    module = net.synthesizers[0]
    said = module(net.segments[0](x), y)
    for shift, expected in ((-1.0, 1.0), (1.0, -1.0)):
        target = (said.loss + shift).detach()
        pull = probing._pull(module, said, target, None, None)
        assert pull == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["direct", "noprop"])
def test_probe_refuses_modules_without_a_loss(kind):
    with pytest.raises(ValueError, match="predict no loss"):
        probing.probe(small_network(kind=kind), *batch())


def test_probes_do_not_change_the_training():
    setting = training.settings("digits", ["sobolev"], epochs=1)[0]
    watched, plain = training.Training(setting, 0), training.Training(setting, 0)
    found = probing.probes(watched, times=2, batch=16)
    plain.run()
    assert [step for step, _ in found] == [0, watched.steps // 2, watched.steps]
    for a, b in zip(
        watched.net.state_dict().values(), plain.net.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def test_probes_are_entered_once(tmp_path):
    book = ledger.Ledger(probing.EXPERIMENT, tmp_path)
    chosen = training.settings("digits", ["critic", "local_ce"], epochs=1)
    for expected in (2, 0):
        assert probing.sweep(chosen, [3], book, times=2, batch=16, quiet=True) == expected
    critic, local = sorted(book.read(), key=lambda r: r.config["module"])
    assert critic.metrics["steps"] == [0, 9, 18] and critic.config["probed"] == 16
    assert all(pull == pytest.approx([1.0] * 3) for pull in local.metrics["pull"])
    again = probing.probes(training.Training(chosen[0], 3), times=2, batch=16)
    assert critic.metrics["above"] == [p.above for _, p in again]
    assert critic.metrics["loss"] == [p.loss for _, p in again]
    assert probing.sweep(chosen[:1], [3], book, times=2, batch=8, quiet=True) == 1


def test_cost_of_a_run():
    setting = training.settings("cifar10", ["noprop"], epochs=2, train_images=100)[0]
    data = throughput.stand_in(setting, 10, 2)
    assert costs.training_flops(setting) == 200 * throughput.flops(setting, data, 2)
    assert costs.gpu_hours(3.6e15, teraflops=1.0) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="teraflops is 0"):
        costs.gpu_hours(1.0, 0)


def test_sizes_of_the_modules_of_the_supplement():
    """SM 4.2: a 3 x 3 convolution to 128 channels, a linear layer to 10, at the first split."""
    first, second, third = costs.module_sizes(training.settings("cifar10", ["critic"])[0])
    assert first["shape"] == (64, 32, 32)
    assert first["module"] == (9 * 64 + 1) * 128 + (128 * 32 * 32 + 1) * 10
    assert first["segment"] == 9 * 3 * 64 + 9 * 64 * 64 + 4 * 64
    assert (second["shape"], third["shape"]) == ((128, 16, 16), (256, 8, 8))


def test_toy_images_can_be_learnt_and_are_reproducible():
    a, b = images.toy_images(300, seed=3), images.toy_images(300, seed=3)
    assert torch.equal(a.train_x, b.train_x) and a.train_x.dtype == torch.uint8
    assert (len(a.train_x), len(a.test_x)) == (300, 150)
    means = torch.stack([a.train_x[a.train_y == k].float().mean(dim=0) for k in range(10)])
    gaps = (a.test_x.float()[:, None] - means).flatten(2).norm(dim=2)
    assert (gaps.argmin(dim=1) == a.test_y).double().mean() > 0.9
