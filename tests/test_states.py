"""States of half-finished trainings."""

import pytest
import torch
from safetensors import safe_open

from sobolev_lib.records import states


class Run:
    """A network with buffers, and an optimiser of either kind for each half of it."""

    def __init__(self, width=5, seed=0):
        torch.manual_seed(seed)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 2)
        )
        self.optimizers = {
            "main": torch.optim.SGD(self.net[:2].parameters(), lr=0.1, momentum=0.9),
            "adam": torch.optim.Adam(self.net[2].parameters(), lr=0.01),
        }

    def train(self, first, last):
        for step in range(first, last):
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
            self.net.zero_grad()
            self.net(x).square().sum().backward()
            for optimizer in self.optimizers.values():
                optimizer.step()

    def save(self, path, **notes):
        states.save(path, self.net, self.optimizers, notes)

    def load(self, path, *names):
        return states.load(path, self.net, self.optimizers, names)


def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(tmp_path):
    whole, first, second = Run(), Run(), Run(seed=1)
    whole.train(0, 9)
    first.train(0, 4)
    first.save(tmp_path / "new" / "s.safetensors", step=4, seconds=0.1 + 0.2, curve={"a": [1.5]})
    notes = second.load(tmp_path / "new" / "s.safetensors", "step", "seconds", "curve")
    assert notes == {"step": 4, "seconds": 0.1 + 0.2, "curve": {"a": [1.5]}}
    second.train(4, 9)
    assert not torch.equal(whole.net[0].weight, first.net[0].weight)
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[name]), name


def test_a_state_before_the_first_step(tmp_path):
    one, two = Run(), Run(seed=1)
    one.save(tmp_path / "s", step=0)
    assert two.load(tmp_path / "s", "step") == {"step": 0}
    one.train(0, 3)
    two.train(0, 3)
    assert torch.equal(one.net[2].weight, two.net[2].weight)


def test_a_cut_while_writing_leaves_the_old_state(tmp_path, monkeypatch):
    run, path = Run(), tmp_path / "s"
    run.save(path, step=1)
    before = path.read_bytes()

    def cut(tensors, part, meta):
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(states, "save_file", cut)
    with pytest.raises(KeyboardInterrupt):
        run.save(path, step=2)
    assert path.read_bytes() == before
    assert Run(seed=1).load(path, "step") == {"step": 1}


def test_what_cannot_be_read_is_named(tmp_path):
    run, path = Run(), tmp_path / "s"
    run.train(0, 1)
    run.save(path, step=1)
    with pytest.raises(ValueError, match=r"state .*/s cannot .*'curve'.*; delete it to train"):
        run.load(path, "step", "curve")
    with pytest.raises(ValueError, match=r"size mismatch .*; delete it"):
        Run(width=6).load(path, "step")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="delete it to train that run anew"):
        run.load(path, "step")


def test_tensors_that_share_memory_are_kept(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    net[1].weight = net[0].weight
    states.save(tmp_path / "s", net, {}, {})
    with safe_open(tmp_path / "s", framework="pt") as file:
        assert torch.equal(file.get_tensor("net.1.weight"), net[0].weight)
