"""Distillation on a GPU does what it does on the CPU; skipped where there is none."""

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from sobolev_lib.distillation import data, networks, ppo, students, targets, teachers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def frames():
    rng = numpy.random.default_rng(3)
    starts = numpy.zeros(60, bool)
    starts[[0, 25]] = True
    return data.Frames(rng.integers(0, 256, (60, 84, 84), dtype=numpy.uint8), starts)


def answers(frames, device):
    torch.manual_seed(5)
    teacher = networks.Teacher(4)
    torch.nn.init.normal_(teacher.policy.weight, std=0.3)
    return targets.Targets(teacher, frames, numpy.arange(60), device=device)


def test_targets(frames):
    here, there = answers(frames, "cpu"), answers(frames, "cuda")
    chosen = torch.tensor([0, 3, 26, 59, 3])
    v = torch.randn(5, 4)
    torch.testing.assert_close(there.logs.cpu(), here.logs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(there.frames(chosen).cpu(), here.frames(chosen))
    mine, goal = there.gradient(chosen, v.cuda()).cpu(), here.gradient(chosen, v)
    assert (mine - goal).norm() < 2e-3 * goal.norm()  # kept in half precision on the CPU


@pytest.mark.parametrize(
    "changes",
    [{}, {"method": "values"}, {"projections": 0}, {"norm": "squared"}, {"activation": "silu"},
     {"activation": "kinks"}, {"derivatives": "another"}],
)  # fmt: skip
def test_students(frames, changes):
    settings = students.Settings("breakout", updates=3, batch=20, points=1, alpha=0.7, games=0)
    settings = replace(settings, **changes)
    curves = []
    for device in ("cpu", "cuda"):
        told = answers(frames, device)
        training = students.Training(settings, 1, told, told, told)
        assert training.run(lambda steps: False)
        curves.append(training.curve["kl"] + training.curve["train_kl"])
    assert curves[0] == pytest.approx(curves[1], rel=2e-2)


def test_teacher_learns_and_resumes(tmp_path: Path):
    settings = teachers.PixelSettings(
        "pong", games=4, horizon=8, epochs=1, minibatch=16, imitation=0.0, lead=0, planned=64
    )
    path = tmp_path / "state.safetensors"
    first = teachers.PixelTrainer(settings, device="cuda", threads=2)
    before = first.net.teacher.policy.weight.clone()
    ppo.train(first, path, 1.0, until=64, quiet=True)
    assert first.steps == 64
    assert not torch.equal(before, first.net.teacher.policy.weight)
    second = teachers.PixelTrainer(settings, device="cuda", threads=2)
    second.resume(path)
    assert second.steps == 64
    torch.testing.assert_close(second.net.teacher.policy.weight, first.net.teacher.policy.weight)
