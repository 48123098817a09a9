"""The regression experiment: data, arms, determinism, resuming, and kill -9."""

import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from sobolev_lib import __main__ as command
from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.records.ledger import Ledger
from sobolev_lib.records.sweep import sweep
from sobolev_lib.regression import arms
from sobolev_lib.regression import training as regression
from sobolev_lib.regression.training import Setting, Training, checkpoints, jobs, settings


def pair(n=20, steps=40, **changes):
    return [Setting("booth", n, method, steps=steps, **changes) for method in regression.METHODS]


def numbers(results):
    return [result.metrics for result in results]


def entered(book):
    return {r.key: r.metrics for r in book.read()}


def test_paper_arm_is_the_papers_setting():
    chosen = settings("paper")
    assert len(chosen) == 7 * 3 * 2
    assert {s.learning_rate for s in chosen} == {3e-5} and {s.activation for s in chosen} == {
        "relu"
    }
    assert not any(s.normalized or s.bandwidth for s in chosen)
    assert Training(pair(), 0).stack.hidden == (256, 256)


def test_points_are_nested_shared_by_methods_and_differ_between_seeds():
    small, large = (regression.training_points(Setting("beale", n, "values"), 4) for n in (20, 100))
    assert torch.equal(small, large[:20])
    assert torch.equal(
        small, regression.training_points(Setting("beale", 20, "sobolev", arm="schedule"), 4)
    )
    assert not torch.equal(small, regression.training_points(Setting("beale", 20, "values"), 5))
    tripled = regression.training_points(Setting("beale", 20, "values", points_factor=3), 4)
    assert torch.equal(tripled, large[:60])
    test = regression.test_points("beale")
    assert test.shape == (10_000, 2)
    assert not torch.isin(large, test).all(dim=1).any()


@pytest.mark.parametrize("normalized", [False, True])
def test_errors_are_in_raw_units(normalized):
    training = Training(pair(normalized=normalized), 1)
    found = training.problem.errors(training.stack)
    x = regression.training_points(training.setting, 1)
    f = FUNCTIONS["booth"]
    mean, std = (x.mean(0), x.std(0)) if normalized else (torch.zeros(2), torch.ones(2))
    middle, spread = (f(x).mean(), f(x).std()) if normalized else (0.0, 1.0)
    network = training.stack.member(0).double()
    raw = regression.test_points("booth").requires_grad_()
    predicted = network((raw - mean) / std) * spread + middle
    (slope,) = torch.autograd.grad(predicted.sum(), raw)
    assert found["test_mse"][0] == pytest.approx(
        ((predicted - f(raw)) ** 2).mean().item(), rel=1e-4
    )
    assert found["test_gradient_mse"][0] == pytest.approx(
        ((slope - f.gradient(raw)) ** 2).sum(1).mean().item(), rel=1e-4
    )


def test_both_methods_start_from_the_same_network():
    training = Training(pair(), 3)
    assert [s.method for s in training.members] == ["values", "sobolev"]
    assert torch.equal(training.stack.weights[1][0], training.stack.weights[1][1])


def test_one_step_is_adam_on_the_papers_loss():
    training = Training([Setting("booth", 20, "sobolev", steps=1)], 2)
    network = training.stack.member(0)
    x = training.problem.x[0].clone().requires_grad_()
    m = network(x)
    (slope,) = torch.autograd.grad(m.sum(), x, create_graph=True)
    loss = ((m - training.problem.y[0]) ** 2).mean() + ((slope - training.problem.dy[0]) ** 2).sum(
        1
    ).mean()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-5)
    loss.backward()
    optimizer.step()
    training.run()
    for ours, theirs in zip(training.stack.weights, network[::2], strict=True):
        assert torch.allclose(ours[0], theirs.weight, atol=1e-6)


def test_same_seed_same_record_and_other_seed_other_record():
    first, again, other = (numbers(regression.train(pair(steps=25), seed)) for seed in (0, 0, 1))
    assert first == again
    assert [m["test_mse"] for m in first] != [m["test_mse"] for m in other]


@pytest.mark.parametrize("n", [20, 250])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, n):
    chosen = pair(
        n,
        steps=60,
        activation="relu",
        bandwidth=0.2,
        scaled_bandwidth=True,
        schedule="cosine",
        normalized=True,
    )
    whole = regression.train(chosen, 5)
    Training(chosen, 5, folder=tmp_path).run(until=23)
    resumed = Training(chosen, 5, folder=tmp_path)
    assert resumed.step == 23
    resumed.run()
    assert numbers(resumed.results()) == numbers(whole)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("cosine", [1.0, 0.5, math.sin(math.pi / 20) ** 2, 0.0]),
        ("tail", [1.0, 1.0, 0.5, 0.0]),
    ],
)
def test_the_rate_falls_when_its_schedule_says(schedule, rates):
    training = Training(pair(steps=40, schedule=schedule, learning_rate=1.0), 0)
    found = [training._rate(step) for step in (0, 20, 36, 40)]
    assert found == pytest.approx(rates, abs=1e-12)


@pytest.mark.parametrize("n", [20, 250])  # one batch, and batches of an epoch
def test_seeds_in_one_stack_are_the_seeds_one_by_one(tmp_path, n):
    chosen = [*pair(n, steps=30), Setting("beale", n, "sobolev", steps=30)]
    Training(chosen, (4, 7), folder=tmp_path).run(until=13)
    together = regression.train(chosen, (4, 7), folder=tmp_path)
    alone = [regression.train(chosen, seed) for seed in (4, 7)]
    expected = [result.metrics for results in zip(*alone, strict=True) for result in results]
    for ours, theirs in zip(numbers(together), expected, strict=True):
        assert ours["test_mse"] == pytest.approx(theirs["test_mse"], rel=1e-4)
        assert ours["curve"]["steps"] == theirs["curve"]["steps"]
    both = Training(chosen, (4, 7))
    for step in (0, 2, 3):  # two batches are an epoch of 250 points
        for j, seed in enumerate((4, 7)):
            one = Training(chosen, seed)
            for ours, theirs in zip(both._batch(step), one._batch(step), strict=True):
                assert torch.equal(ours[j::2], theirs)


def test_a_gpu_trains_all_seeds_at_once_where_the_kernel_lets_it():
    [job] = regression.jobs(pair(), (4, 7), device="cuda")
    found = [(run.config["method"], run.seed) for run in job.runs]
    assert found == [("values", 4), ("values", 7), ("sobolev", 4), ("sobolev", 7)]
    noisy = settings("kernel_control/noise", [20], ["booth"])
    apart = regression.jobs([*pair(), *noisy], (4, 7), device="cuda")
    assert [len(job.runs) for job in apart] == [4, 1, 1]
    far = settings("kernel_control/far", [20], ["booth"])
    assert [len(job.runs) for job in regression.jobs(far, (4, 7), device="cuda")] == [2]
    alone = regression.jobs(pair(), (4, 7))
    assert [[run.seed for run in job.runs] for job in alone] == [[4, 4], [7, 7]]
    with pytest.raises(ValueError, match="kernel is 'noise'"):
        Training(noisy, (4, 7))


def test_minibatches_cover_each_epoch_once():
    training = Training(pair(250, steps=10), 0)
    seen = torch.cat([training._batch(step)[0][0] for step in (0, 1)])
    assert len(torch.unique(seen, dim=0)) == 200
    assert torch.isin(seen[:, 0], training.problem.x[0][:, 0]).all()


def test_checkpoints():
    assert checkpoints(60_000)[0] == 0 and checkpoints(60_000)[-1] == 60_000
    assert checkpoints(5) == [0, 5]
    assert checkpoints(1_000) == sorted(set(checkpoints(1_000)))


def test_sweep_enters_each_run_once_and_takes_an_executor(tmp_path):
    book = Ledger("regression", tmp_path)
    with ThreadPoolExecutor(2) as pool:
        assert sweep("regression", jobs(pair(steps=5), [0, 1]), book, pool, quiet=True) == 4
    assert sweep("regression", jobs(pair(steps=5), [0, 1, 2]), book, quiet=True) == 2
    assert {(r.seed, r.config["method"]) for r in book.read()} == {
        (s, m) for s in range(3) for m in regression.METHODS
    }
    entry = book.read()[0]
    assert (
        entry.scale == "small"
        and entry.deviations
        and entry.seconds >= 0
        and entry.peak_memory > 1e6
    )
    assert entry.metrics["curve"]["steps"] == [0, 5]


def test_diverged_run_is_null():
    training = Training(pair(steps=3), 0)
    with torch.no_grad():
        training.stack.weights[0].fill_(float("inf"))
    training.run()
    assert training.results()[0].metrics["test_mse"] is None


def test_bad_settings():
    with pytest.raises(ValueError, match="function is 'both'"):
        Setting("both", 20, "values")
    for bad in (
        {"method": "gradients"},
        {"n": 0},
        {"schedule": "linear"},
        {"learning_rate": 0.0},
        {"steps": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Setting(**{"function": "booth", "n": 20, "method": "values", **bad})
    with pytest.raises(ValueError, match="arm is 'papers'"):
        settings("papers")
    with pytest.raises(ValueError, match="methods are values, sobolev; got value"):
        settings("paper", methods=["values", "value"])
    with pytest.raises(ValueError, match="share everything"):
        Training([*pair(20), *pair(30)], 0)


def test_damaged_state_is_named(tmp_path):
    training = Training(pair(steps=2), 0, folder=tmp_path)
    training.run()
    training.path.write_bytes(training.path.read_bytes()[:100])
    with pytest.raises(ValueError, match="delete it to train that run anew"):
        Training(pair(steps=2), 0, folder=tmp_path)


SWEEP = [
    "regression",
    "--functions",
    "booth",
    "mccormick",
    "--sizes",
    "20",
    "--seeds",
    "2",
    "--steps",
    "30",
    "--quiet",
]


# Killed (SIGKILL) at the moment when the n-th file that it wrote takes the place of the old one.
KILLED = """\
import os, sys
from sobolev_lib import __main__ as command
left, replace = int(sys.argv[1]), os.replace
def dying(*places):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)
    replace(*places)
os.replace = dying
sys.exit(command.main(sys.argv[2:]))
"""


def places(folder):
    """Return the words that say where the sweep writes, and that it does so at every chance."""
    ledger, states = str(folder / "ledger"), str(folder / "states")
    return ["--ledger", ledger, "--states", states, "--save-every", "0"]


def run_until_killed(folder, writes):
    """Start the sweep and kill it at the given write, 0 for never; return how it ended."""
    words = [sys.executable, "-c", KILLED, str(writes), *SWEEP, *places(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(words, stdout=subprocess.DEVNULL, env=environment).returncode


def test_kill_minus_nine_loses_and_repeats_nothing(tmp_path):
    assert command.main([*SWEEP, *places(tmp_path / "whole")]) == 0
    ends = [run_until_killed(tmp_path / "cut", writes) for writes in (4, 1, 0)]
    assert ends == [-signal.SIGKILL, -signal.SIGKILL, 0]
    whole, cut = (Ledger("regression", tmp_path / name / "ledger") for name in ("whole", "cut"))
    assert len(cut.read()) == len(cut.keys()) == 8
    assert entered(cut) == entered(whole)


def test_command_line_errors(tmp_path, capsys):
    assert command.main(["regression", "--functions", "boot", "--ledger", str(tmp_path)]) == 2
    assert "function is 'boot'" in capsys.readouterr().err
    for words, said in (
        (["--methods", "value"], "invalid choice"),
        (["--seconds", "-1"], "at least 0"),
    ):
        with pytest.raises(SystemExit):
            command.main(["regression", *words, "--ledger", str(tmp_path)])
        assert said in capsys.readouterr().err
    (tmp_path / "regression.jsonl").write_text("not json\n")
    assert command.main(["regression", "--ledger", str(tmp_path), "--quiet"]) == 2
    assert "line 1 is not a record" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert command.main(["regression", "--device", "cuda"]) == 2
        assert "no CUDA device" in capsys.readouterr().err


def test_arms_leave_out_what_would_be_the_same_run_again():
    kernel = [s for s in settings("activation", [20]) if s.bandwidth]
    assert {s.method for s in kernel} == {"sobolev"}, "the kernel does nothing to values alone"
    assert {s.method for s in settings("equal_information")} == {"values"}
    weighted = settings("weight", [20], ["booth"])
    assert [(s.method, s.weight) for s in weighted] == [("sobolev", 0.1), ("sobolev", 0.01)]
    assert "weight is 0.1; the paper has 1.0." in weighted[0].deviations()
    [kept] = Training(weighted[:1], seed=0).weight.tolist()
    assert kept == pytest.approx(0.1)
    assert arms.config(weighted[0])["weight"] == 0.1
    assert "weight" not in arms.config(settings("schedule", [20], ["booth"])[0])
    assert {s.points for s in settings("equal_information", [20])} == {60}


def test_a_default_kernel_leaves_older_records_and_states_their_names():
    plain = settings("activation/kernel", [20], ["booth"])[0]
    assert "kernel" not in arms.config(plain) and "amplitude" not in arms.config(plain)
    assert "kernel" not in dict(plain.program[1:])
    [turned] = settings("kernel_control/flipped", [20], ["booth"])
    assert arms.config(turned) == {
        **arms.config(plain), "arm": "kernel_control", "amplitude": -1.0
    }  # fmt: skip
    assert "The kernel's term is multiplied by -1." in turned.deviations()
    [far] = settings("kernel_control/far", [20], ["booth"])
    assert any("8 widths away" in note for note in far.deviations())
    assert len({s.program for s in settings("kernel_control", [20], ["booth"])}) == len(
        arms.members("kernel_control")
    )
    for bad in ({"kernel": "odd"}, {"amplitude": math.nan}, {"bandwidth": None}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            replace(turned, **bad)
