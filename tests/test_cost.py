"""Cost: all ways compute the same gradient, counts are those the theory says, memory is seen."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sobolev_lib.cost import benchmark, ways
from sobolev_lib.cost import ways as cost
from sobolev_lib.records.ledger import Ledger

SMALL = cost.Size(3, 9, width=6)
RELU = ("sobolev", "autograd_loop", "autograd_stack", "func_reverse", "func_forward")


def flat_gradient(chosen: cost.Way) -> torch.Tensor:
    """Gradient in one vector: member by member, layer by layer, weights before biases."""
    chosen.zero()
    chosen.gradient()
    grads = [p.grad for p in chosen.parameters if p.grad is not None]
    if len(grads) == 2 * (chosen.size.depth + 1) and grads[0].dim() == 3:  # stacked
        grads = [g.reshape(chosen.size.members, -1) for g in grads]
        return torch.cat(grads, dim=1).flatten()
    return torch.cat([g.flatten() for g in grads])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_ways_compute_the_same_gradient(depth):
    size = cost.Size(3, 9, width=6, depth=depth)
    found = {name: flat_gradient(cost.way(name, size, dtype=torch.float64)) for name in RELU}
    expected = found["autograd_stack"]
    assert expected.abs().max() > 1e-3
    for name in ("sobolev", "func_reverse", "func_forward"):
        assert torch.allclose(found[name], expected, rtol=1e-10, atol=1e-12), name
    # The loop's vector is ordered network by network as well.
    assert torch.allclose(found["autograd_loop"], expected, rtol=1e-10, atol=1e-12)


def test_smooth_and_values_agree_with_autograd():
    for ours, theirs in (
        ("sobolev_silu", "autograd_silu_loop"),
        ("values", "autograd_values_loop"),
    ):
        mine, other = (
            flat_gradient(cost.way(name, SMALL, dtype=torch.float64)) for name in (ours, theirs)
        )
        assert torch.allclose(mine, other, rtol=1e-10, atol=1e-12)


def test_no_output_weight_is_divided_by():
    """An output weight's gradient comes from the layer below; it is right where the weight is 0."""
    mine, other = (
        cost.way(name, SMALL, dtype=torch.float64) for name in ("sobolev", "autograd_stack")
    )
    for chosen in (mine, other):
        with torch.no_grad():
            chosen.parameters[-2][:, :, ::2] = 0
    assert torch.allclose(flat_gradient(mine), flat_gradient(other), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "two", "three"),
    [
        ("values", 3, 6),
        ("sobolev", 3, 7),
        ("sobolev_kernel", 6, 12),
        ("sobolev_silu", 6, 12),
        ("autograd_values_loop", 3, 6),
        ("autograd_loop", 6, 12),
        ("autograd_silu_loop", 6, 12),
        ("autograd_stack", 6, 12),
    ],
)
def test_number_of_large_products(name, two, three):
    for depth, expected in ((2, two), (3, three)):
        size = cost.Size(2, 64, width=32, depth=depth)
        assert cost.products(cost.way(name, size)) == expected


@pytest.mark.parametrize("name", ["values", "sobolev", "autograd_stack"])
def test_count_agrees_with_the_counter_of_pytorch(name, monkeypatch):
    size = cost.Size(2, 128, width=64, inputs=1)
    # PyTorch's counter follows modules by hooks, which autograd.grad refuses: call the function.
    made = ways.MLPStack
    monkeypatch.setattr(ways, "MLPStack", lambda *a, **k: Plain(made(*a, **k)))
    chosen = cost.way(name, size)
    with FlopCounterMode(display=False) as counter:
        chosen.gradient()
    flops = counter.get_total_flops() / (2 * size.members * size.n * size.width**2)
    assert (
        cost.products(chosen) <= flops < cost.products(chosen) + 0.5
    )  # more: input, output, biases


class Plain:
    """A stack that is no module."""

    layered = ways.MLPStack.layered

    def __init__(self, stack):
        self.losses, self.forward = stack.losses, stack.forward
        self.weights, self.biases = stack.weights, stack.biases

    def __call__(self, x):
        return self.forward(x)


def test_memory_of_a_step_is_seen():
    size = cost.Size(1, 2000, width=64)
    one = size.n * size.width * 4  # a layer of signals
    closed, auto = (cost.peak_bytes(cost.way(name, size)) for name in ("sobolev", "autograd_loop"))
    assert 3 * one < closed < auto < 30 * one


def test_measurement_interleaves_and_compares_rounds():
    ways = {name: cost.way(name, SMALL) for name in ("values", "sobolev")}
    times = benchmark.measure(ways, seconds=0.0)
    assert [len(own) for own in times.values()] == [5, 5]
    assert all(t > 0 for own in times.values() for t in own)
    found = benchmark.ratios(times)
    assert found["values"] == [1.0] * 5
    assert found["sobolev"][2] == times["sobolev"][2] / times["values"][2]


def test_the_benchmark_enters_what_it_measured(tmp_path):
    book = Ledger(benchmark.EXPERIMENT, tmp_path)
    options = {"names": ["sobolev"], "threads": [1], "seconds": 0.0, "book": book, "quiet": True}
    assert benchmark.sweep([SMALL], **options) == 2
    assert benchmark.sweep([SMALL], **options) == 0, "what is there is not measured again"
    entries = {r.config["variant"]: r for r in book.read()}
    assert entries["values"].metrics["products"] == 3
    metrics = entries["sobolev"].metrics
    assert metrics["step_ratio_min"] <= metrics["step_ratio"] <= metrics["step_ratio_max"]
    assert metrics["step_milliseconds"] > 0 and entries["sobolev"].seconds >= 0
    assert "sobolev" in benchmark.table(book)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"way is 'fast'.*autograd_loop"):
        cost.way("fast", SMALL)
    with pytest.raises(ValueError, match=r"n is 9.*width, 16"):
        cost.products(cost.way("values", cost.Size(1, 9, width=16)))
    with pytest.raises(ValueError, match="clock is 'sun'"):
        benchmark.measure({"values": cost.way("values", SMALL)}, 0.0, clock="sun")


def test_cpu_clock_refuses_what_it_cannot_see(monkeypatch):
    ways = {"values": cost.way("values", SMALL)}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ValueError, match="sees one thread"):
        benchmark.measure(ways, 0.0, clock="cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    times = benchmark.measure(ways, 0.0, clock="cpu")
    assert all(t > 0 for t in times["values"])
