"""Distillation: PPO, teachers, their answers, students."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy
import pytest
import torch

pytest.importorskip("ale_py", reason="the Atari emulator is an optional extra")

from sobolev_lib import SobolevLoss, derivatives
from sobolev_lib.distillation import (
    arms,
    commands,
    data,
    experts,
    looking,
    milestones,
    ppo,
    results,
    students,
    teachers,
    weights,
)
from sobolev_lib.distillation.closed_form import differentiate
from sobolev_lib.distillation.networks import Student, Teacher, blocks, images, scaled
from sobolev_lib.distillation.screens import Screens
from sobolev_lib.distillation.targets import Targets
from sobolev_lib.records import ledger, sweep

SMALL = {"games": 2, "horizon": 8, "minibatch": 8, "epochs": 1, "milestone": 32}


def test_networks_are_those_of_sm_3():
    """Parameters counted by hand from the supplement's list."""
    count = sum(p.numel() for p in Student(4).parameters())
    assert count == 16 * 257 + 32 * 257 + 256 * 2593 + 4 * 257
    teacher = Teacher(6)
    policy = [*teacher.body.parameters(), *teacher.policy.parameters()]
    by_hand = 32 * 257 + 64 * 513 + 64 * 577 + 512 * 3137 + 6 * 513
    assert sum(p.numel() for p in policy) == by_hand
    seen = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    torch.testing.assert_close(Student(3)(seen).exp().sum(1), torch.ones(5))
    torch.testing.assert_close(teacher(seen)[0], teacher(seen / 255.0)[0])
    torch.testing.assert_close(teacher(seen)[0], teacher(scaled(seen))[0])
    plain = torch.nn.functional.conv2d(
        seen / 255.0, teacher.body[0].weight, teacher.body[0].bias, stride=4
    )
    torch.testing.assert_close(teacher.body[0](scaled(seen)), plain)
    assert torch.equal(images(blocks(seen)), seen)
    with pytest.raises(ValueError, match="84, 84"):
        scaled(seen[:, :3])
    with pytest.raises(ValueError, match="relu, kinks, silu"):
        Student(3, "tanh")


def test_advantages_by_hand():
    """Sums of discounted errors, written out; nothing passes over an end."""
    random = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 6, 3, generator=random, dtype=torch.float64)
    last = torch.randn(3, generator=random, dtype=torch.float64)
    ends = torch.zeros(6, 3, dtype=torch.float64)
    ends[2, 0] = ends[5, 1] = ends[0, 2] = ends[1, 2] = 1
    found = ppo.advantages(rewards, values, ends, last, 0.9, 0.7)
    after = torch.cat([values[1:], last[None]])
    for k in range(3):
        for t in range(6):
            total, factor = 0.0, 1.0
            for s in range(t, 6):
                follows = 0.0 if ends[s, k] else float(after[s, k])
                total += factor * float(rewards[s, k] + 0.9 * follows - values[s, k])
                if ends[s, k]:
                    break
                factor *= 0.9 * 0.7
            assert float(found[t, k]) == pytest.approx(total, abs=1e-12)


def test_ppo_learns_a_bandit():
    """A trainer whose games pay for action 2 alone comes to prefer it."""
    trainer = experts.trainer(ppo.Settings("pong", games=4, horizon=16, minibatch=64, epochs=4))
    step = trainer.consoles.step

    def paid(actions):
        _, lost, over = step(actions)
        return (actions == 2).astype(float), numpy.ones_like(lost), over

    trainer.consoles.step = paid
    for _ in range(40):
        trainer.iterate()
    seen = experts.memory(trainer.consoles)
    assert trainer.net(seen)[0].softmax(-1)[:, 2].min() > 0.8


def training(kind, **changes):
    if kind == "expert":
        return experts.trainer(ppo.Settings("breakout", **SMALL | changes))
    settings = teachers.PixelSettings("breakout", **SMALL | {"policy": 0.5, "lead": 40} | changes)
    torch.manual_seed(1)
    return teachers.PixelTrainer(settings, experts.Expert(4))


@pytest.mark.parametrize("kind", ["expert", "teacher"])
@pytest.mark.parametrize("half", [False, True])
def test_a_training_goes_on_from_its_state_to_the_last_bit(kind, half, tmp_path):
    whole, first, second = (training(kind) for _ in range(3))
    # a teacher chooses its precision by the clock: the one that goes on has chosen otherwise
    whole.half, first.half, second.half = half, half, not half
    for _ in range(4):
        whole.iterate()
    ppo.train(first, tmp_path / "state.safetensors", 1, until=32, quiet=True)
    ppo.train(second, tmp_path / "state.safetensors", 1, until=64, quiet=True)
    assert second.steps == whole.steps == 64
    for mine, other in zip(whole.net.parameters(), second.net.parameters(), strict=True):
        assert torch.equal(mine, other)
    numpy.testing.assert_array_equal(whole.consoles.memory, second.consoles.memory)
    with pytest.raises(ValueError, match=r"clip 0\.\d+ \(now 0\.3\)"):
        training(kind, clip=0.3).resume(tmp_path / "state.safetensors")
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="delete it"):
        training(kind).resume(path)


@pytest.fixture
def one_thread():
    """As the commands have it: sums over several threads differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_training_that_is_told_to_end_writes_its_state(tmp_path):
    words = ["expert", "--game", "pong", "--states", str(tmp_path), "--hours", "1"]
    words += ["--games", "2", "--horizon", "8", "--minibatch", "16"]
    command = [sys.executable, "-m", "sobolev_lib.distillation", *words]
    said = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        while "steps/s" not in said and running.poll() is None:
            said += running.stderr.read(1)
        running.send_signal(signal.SIGTERM)
        said += running.communicate()[1]
    assert running.returncode == 130, said
    assert "goes on from here" in said
    trainer = experts.trainer(ppo.Settings("pong", games=2, horizon=8, minibatch=16))
    trainer.resume(tmp_path / "expert-pong-0.safetensors")
    steps = trainer.steps
    other = experts.trainer(trainer.settings)  # the same, never stopped
    while other.steps < steps:
        other.iterate()
    for mine, never in zip(trainer.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(mine, never)


def test_the_expert_fades_out():
    trainer = training("teacher", fade=100, hint=0.0, entropy=0.0, value=0.0, policy=0.0)
    batch = trainer.play()
    assert trainer.loss(*batch).item() > 0
    trainer.steps = 50
    half = trainer.loss(*batch).item()
    trainer.steps = 0
    assert half == pytest.approx(trainer.loss(*batch).item() / 2, rel=1e-5)
    trainer.steps = 100
    assert trainer.loss(*batch).item() == 0


def test_the_expert_leads_all_games_at_first_and_none_after():
    trainer = training("teacher", lead=32)
    assert trainer.play()[-1].all()
    trainer.steps = 16
    assert trainer.play()[-1].float().mean() == 0.5
    trainer.steps = 32
    assert not trainer.play()[-1].any()


def test_imitation_learns_the_expert():
    trainer = training("teacher", lead=0, policy=0.0, learning_rate=1e-3, epochs=8)
    trainer.expert.policy.weight.data *= 100  # a policy with opinions
    batch = trainer.play()
    before = trainer.loss(*batch).item()
    for _ in range(15):
        trainer.learn(*batch)
    assert trainer.loss(*batch).item() < 0.5 * before


def test_without_memory_there_is_no_expert():
    with pytest.raises(ValueError, match="imitation"):
        teachers.PixelTrainer(teachers.PixelSettings("pong"))
    with pytest.raises(TypeError, match="memory"):
        experts.memory(Screens("pong", 1, 0))


def test_ppo_on_pixels_alone_plays_in_the_vector_environment():
    settings = teachers.PixelSettings("pong", **teachers.FROM_SCRATCH | SMALL)
    trainer = teachers.PixelTrainer(settings)
    trainer.consoles = Screens("pong", 2, 0)  # as on a GPU
    before = [p.clone() for p in trainer.net.teacher.parameters()]
    trainer.iterate()
    after = trainer.net.teacher.parameters()
    assert any((p != q).any() for p, q in zip(before, after, strict=True))
    assert teachers.route(settings) == "ppo"


def test_a_teacher_may_begin_from_weights_and_its_record_says_so(home, monkeypatch):
    path, state = weights.path("teacher", "breakout"), home / "state.safetensors"
    first = weights.load(path, Teacher(4))[0]
    kept = home / "start.safetensors"
    notes = {"route": "kickstart", "steps": 70, "return_mean": 2.5}
    weights.save(kept, first, notes, torch.float32)
    settings = teachers.PixelSettings(
        "breakout", **teachers.FROM_SCRATCH | SMALL | {"start": str(kept)}
    )
    trainer = teachers.PixelTrainer(settings)
    for mine, given in zip(trainer.net.teacher.parameters(), first.parameters(), strict=True):
        assert torch.equal(mine, given)
    ppo.train(trainer, state, 1, until=32, quiet=True)
    met = {"return_mean": 3.0, "return_interval": 1.0, "episodes": 10}
    monkeypatch.setattr(milestones, "returns", lambda *_, **__: met)
    book = ledger.Ledger("teacher")
    milestones.reach(teachers.PixelTrainer(settings), state, "teacher", book, 10, quiet=True)
    (record,) = book.read()
    assert record.config["steps"] == 102 and record.config["route"] == "kickstart"
    assert record.metrics["begun"] == notes
    assert record.config["start"] == hashlib.sha256(kept.read_bytes()).hexdigest()[:12]
    assert "70 decisions of another training (kickstart)" in str(record.deviations)
    assert weights.load(path, Teacher(4))[1]["steps"] == 102


def test_returns_counts_whole_games_of_each_console():
    class Still(torch.nn.Module):
        def forward(self, seen):
            logits = torch.full((len(seen), 3), -1e9)
            logits[:, 0] = 0
            return logits, torch.zeros(len(seen))

    met = milestones.returns(Still(), "pong", experts.memory, 0, 2, 2, quiet=True)
    assert met["returns"] == [-21.0, -21.0]
    there = milestones.returns(Still(), "pong", teachers.frames, 0, 2, 2, quiet=True, threads=1)
    assert there["returns"] == [-21.0, -21.0]
    with pytest.raises(ValueError, match="multiple of 2"):
        milestones.returns(Still(), "pong", experts.memory, 0, 3, 2, quiet=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(capsys):
    assert commands.main(["teacher", "--game", "pong", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_a_wrong_game_is_refused_by_the_command_line(capsys):
    with pytest.raises(SystemExit):
        commands.main(["expert", "--game", "SpaceInvaders"])
    assert "space_invaders" in capsys.readouterr().err


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Folder of data with a teacher, a short recording of it, and that recording's frames."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOBOLEV_DATA", str(folder))
        torch.manual_seed(0)
        teacher = Teacher(4)
        teacher.policy.weight.data *= 100
        notes = {"route": "ppo", "steps": 1, "return_mean": 0.0}
        weights.save(weights.path("teacher", "breakout"), teacher, notes)
        _, notes = arms.load_teacher("breakout")
        actions = iter(numpy.random.default_rng(0).integers(0, 4, (300, 2)))
        made = data.record(
            "breakout", lambda s: next(actions), 1, {"weights": notes["weights"]}, 600, 2,
            quiet=True, cache=ledger.beside("cache"),
        )  # fmt: skip
        made.save(data.path("breakout"))
    return folder


@pytest.fixture
def home(recorded, tmp_path, monkeypatch):
    """Data of a reader's own: a copy that a test may change."""
    monkeypatch.setenv("SOBOLEV_DATA", str(tmp_path))
    arms.sets.cache_clear()
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_weights_come_back_and_others_are_refused(home):
    _, notes = arms.load_teacher("breakout")
    assert notes["route"] == "ppo"
    path = weights.path("teacher", "breakout")
    assert path.stat().st_size < 3.5e6
    with pytest.raises(ValueError, match=r"(?s)weights .*policy\.bias: .*\[4\].*\[6\].*restore"):
        weights.load(path, Teacher(6))
    with pytest.raises(ValueError, match="train them first"):
        arms.load_teacher("pong")
    path.write_bytes(path.read_bytes()[:999])
    with pytest.raises(ValueError, match="restore the file"):
        weights.load(path, Teacher(4))


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_gradients_are_those_of_autograd(home, memory):
    """From masks, and from Jacobians kept in half precision."""
    teacher, _ = arms.load_teacher("breakout")
    frames = data.replay(data.Recording.load(data.path("breakout")), quiet=True)
    index = numpy.arange(3, 400, 7)
    targets = Targets(teacher, frames, index, memory=memory)
    assert bool(targets.kept) == bool(memory)
    chosen = torch.tensor([0, 5, 21, 5])
    x = blocks(torch.from_numpy(frames.stacks(index[chosen.numpy()])) / 255.0)
    assert torch.equal(targets.frames(chosen), x)
    v = torch.randn(4, 4)
    logs = targets.policy
    torch.testing.assert_close(targets.logs[chosen], logs(x))
    exact = derivatives.project(logs, x, v)
    size = exact.abs().max().item()
    near = 2e-3 if memory else 1e-5
    torch.testing.assert_close(targets.gradient(chosen, v), exact, atol=near * size, rtol=0)
    whole = derivatives.jacobian(logs, x)
    units = torch.eye(4).expand(4, -1, -1).unbind(1)
    rows = torch.stack([targets.gradient(chosen, unit) for unit in units], 1)
    torch.testing.assert_close(rows, whole, atol=near * size, rtol=0)


def test_the_loss_is_that_of_section_4_2(home):
    """Written out for one batch: KL(student, teacher) + alpha |difference of gradients|."""
    train, validation, test = arms.sets("breakout", 0.2)
    settings = students.Settings("breakout", 0.2, alpha=2.5, batch=6)
    student = students.Training(settings, 3, train, validation, test)
    chosen = torch.arange(6)
    x = train.frames(chosen)
    v = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    found = differentiate(
        student.net, x, train.logs[chosen], lambda v: train.gradient(chosen, v), [v], settings.alpha
    )
    x = x.clone().requires_grad_()
    mine = student.net(x)
    (slope,) = torch.autograd.grad((mine * v).sum(), x)
    kl = (mine.exp() * (mine - train.logs[chosen])).sum(1)
    far = (slope - train.gradient(chosen, v)).flatten(1).square().sum(1).sqrt()
    assert sum(found).item() == pytest.approx((kl + 2.5 * far).mean().item(), rel=1e-5)


def squared(mine, goal):
    return (mine - goal).flatten(1).square().sum(1)


@pytest.mark.parametrize("activation", ["relu", "kinks", "silu"])
@pytest.mark.parametrize("element", ["norm", "squared"])
@pytest.mark.parametrize("draws", [0, 1, 3])
def test_the_closed_form_is_sobolev_loss(element, draws, activation):
    """Value and every parameter's gradient, in double precision; 0 draws: the whole Jacobian."""
    random = torch.Generator().manual_seed(draws)

    def uniform(*shape):
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    torch.manual_seed(1)
    net = Student(4, activation).double()
    x, goals = blocks(uniform(5, 4, 84, 84)), uniform(5, 4).log_softmax(-1)
    goal = uniform(5, 4, 64, 21, 21) - 0.5
    loss = SobolevLoss(
        weights=(1.0, 0.3),
        projections=draws or None,
        loss=(students.divergence, students.norm if element == "norm" else squared),
        generator=random,
    )
    chains = loss.draw(x, 4) if draws else [[unit.expand_as(goals)] for unit in torch.eye(4)]
    total, terms = loss(net, x, goals, goal, directions=chains if draws else None)
    total.backward()
    exact = [p.grad.clone() for p in net.parameters()]
    found = differentiate(
        net, x, goals, lambda v: torch.einsum("bk,bkchw->bchw", v.double(), goal),
        [v.double() for [v] in chains], 0.3 / (draws or 1), element == "squared",
    )  # fmt: skip
    assert sum(found).item() == pytest.approx(total.item(), rel=1e-12)
    assert found[0].item() == pytest.approx(terms["order_0"].item(), rel=1e-12)
    for mine, p in zip(exact, net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, mine, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "values"},
        {"projections": 0},
        {"norm": "squared"},
        {"derivatives": "another"},
        {"activation": "kinks"},
        {"activation": "silu", "temperature": 0.5},
    ],
)
def test_every_student_trains_and_is_entered(home, changes):
    settings = students.Settings("breakout", 0.2, updates=4, points=2, batch=8, games=0, **changes)
    book = ledger.Ledger(arms.EXPERIMENT)
    jobs = arms.jobs([settings], [0])
    assert sweep.sweep(arms.EXPERIMENT, jobs, book, quiet=True) == 1
    assert sweep.sweep(arms.EXPERIMENT, jobs, book, quiet=True) == 0
    (record,) = book.read()
    assert record.metrics["curve"]["update"] == [1, 4]
    assert 0 <= record.metrics["action_error"] <= 1
    assert record.metrics["kl"] > 0
    assert record.config["teacher"] == arms.load_teacher("breakout")[1]["weights"][:12]
    assert "PPO on pixels for 1 decisions" in record.deviations[0]
    assert ("activation" in str(record.deviations)) == ("activation" in changes)


def test_the_sweep_chooses_rates_then_trains(home, monkeypatch, capsys):
    """By validation alone; asked again it trains nothing; every control is one more arm."""
    monkeypatch.setattr(arms, "PILOT", {"fraction": 0.3, "updates": 2, "points": 1, "games": 0})
    monkeypatch.setattr(arms, "KEPT", 0.2)
    monkeypatch.setattr(milestones, "returns", lambda *_, **__: {"returns": [1.0, 3.0]})
    monkeypatch.setattr(arms, "agreement", functools.partial(looking.agreement, count=20))
    words = ["distill", "--game", "breakout", "--fractions", "0.2", "--seeds", "2", "--book"]
    words += ["--updates", "2", "--points", "1", "--states", str(home), "--quiet", "--keep"]
    assert commands.main([*words, "--seconds", "0"]) == 0
    assert "out of time" in capsys.readouterr().out
    assert commands.main(words) == 0
    said = capsys.readouterr().out
    assert "12 records entered" in said  # 3 + 5 pilots, 2 methods x 2 seeds
    records = ledger.Ledger(arms.EXPERIMENT).read()
    best = results.chosen(records, "breakout")
    tried = [r for r in records if r.seed == arms.PILOT_SEED and r.config["method"] == "sobolev"]
    lowest = min(r.metrics["validation_kl"] for r in tried)
    [mine] = results.runs(tried, best["sobolev"]).values()
    assert mine.metrics["validation_kl"] == lowest
    assert f"sobolev: learning rate {best['sobolev'].learning_rate:g}" in said
    cell_ = results.arm(records, "paper", "breakout", 0.2, updates=2, points=1)
    assert [sorted(found) for _, found in cell_] == [[0, 1], [0, 1]]
    assert mine.metrics["teacher_seconds"] <= mine.metrics["step_seconds"]
    for _, found in cell_:
        assert found[0].metrics["return_mean"] == 2
        assert -1 <= found[0].metrics["gradient_cosine"] <= 1
    arms.load_student("breakout", "sobolev", 0.2)
    with pytest.raises(ValueError, match="no weights at"):
        weights.load(arms.kept(students.Settings("breakout", 0.3)), Student(4))
    assert commands.main(words) == 0
    assert "0 records entered" in capsys.readouterr().out
    assert commands.main([*words, "--seeds", "1", "--arms", "null", "alpha", "jacobian"]) == 0
    assert "4 records entered" in capsys.readouterr().out


def test_a_teacher_agrees_with_itself(home):
    _, _, test = arms.sets("breakout", 0.2)
    found = looking.agreement(test.policy, test, 20)
    assert found["gradient_cosine"] == pytest.approx(1, abs=1e-5)
    assert found["gradient_size"] == pytest.approx(1, abs=1e-5)
    assert found["gradient_cosine_other"] < 0.9
    other = looking.agreement(Student(4), test, 20)
    assert found["gradient_overlap"] > other["gradient_overlap"] > looking.SHARE / 5


def test_a_student_learns_its_training_states(home):
    train, validation, test = arms.sets("breakout", 0.2)
    for method in ("values", "sobolev"):
        settings = students.Settings("breakout", 0.2, method, alpha=0.1, learning_rate=1e-3)
        student = students.Training(replace(settings, batch=50), 0, train, validation, test)
        before = students.compare(student.net, train, 100)
        for _ in range(40):
            student.step()
        assert students.compare(student.net, train, 100)["kl"] < 0.7 * before["kl"]


def test_a_stopped_student_goes_on_to_the_last_bit(home, tmp_path):
    sets = arms.sets("breakout", 0.2)
    settings = students.Settings("breakout", 0.2, updates=6, points=3, batch=8)
    whole, first, second = (students.Training(settings, 1, *sets) for _ in range(3))
    path = tmp_path / "student.safetensors"
    assert whole.run(lambda step: False)
    assert not first.run(lambda step: step >= 3, path)
    assert second.run(lambda step: False, path)
    for mine, other in zip(whole.net.parameters(), second.net.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert whole.curve["kl"] == second.curve["kl"]


def test_measures_by_hand():
    teacher = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]).log()

    class Two:
        logs = teacher

        def __len__(self):
            return 2

        def frames(self, chosen):
            return chosen

    mine = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]]).log()
    met = students.compare(lambda chosen: mine[chosen], Two(), 10)
    assert met["action_error"] == 0.5
    assert met["kl"] == pytest.approx(0.25 * numpy.log(2) / 2, rel=1e-5)
    assert met["kl_reverse"] == pytest.approx(0.25 * numpy.log(2) / 2, rel=1e-5)


def test_another_teachers_recording_is_refused(home):
    path = data.path("breakout")
    made = data.Recording.load(path)
    data.Recording(made.actions, made.notes | {"weights": "of another"}).save(path)
    with pytest.raises(data.RecordingError, match="record again"):
        arms.sets("breakout", 0.2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"game": "tennis"}, "pong, breakout"),
        ({"method": "kl"}, "values, sobolev"),
        ({"norm": "l1"}, "norm, squared"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"games": 1}, "at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        students.Settings(**{"game": "pong"} | changes)


def test_a_values_student_is_one_whatever_the_derivatives_are_set_to():
    one, two = (students.Settings("pong", method="values", alpha=a) for a in (0.1, 10.0))
    assert one == two


def test_notes_of_weights_are_json(home):
    _, notes = arms.load_teacher("breakout")
    assert json.loads(json.dumps(notes)) == notes
