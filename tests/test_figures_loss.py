"""Fig. 1 from the recorded graph, and the closed forms of the chapter on projections."""

from __future__ import annotations

import math

import pytest
import torch
from matplotlib import pyplot as plt

from sobolev_lib.figures import graphs, projections
from sobolev_lib.loss import unit_vectors

F64 = torch.float64


def sphere(n: int, d: int) -> torch.Tensor:
    return unit_vectors(n, (d,), torch.zeros(1, dtype=F64), torch.Generator().manual_seed(d))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("drawn", [None, 1])
def test_the_recorded_graph_has_the_arrows_of_figure_1(order: int, drawn: int | None) -> None:
    graph = graphs.loss_graph(order, drawn)
    expected = {("x", "value"), ("parameters", "value"), ("value", "loss 0"), ("loss 0", "total")}
    below = "value"
    for j in range(1, order + 1):
        expected |= {(below, f"derivative {j}"), (f"derivative {j}", f"loss {j}")}
        expected |= {(f"loss {j}", "total"), ("value", f"derivative {j}")}
        below = f"derivative {j}"
    assert graphs.summary(graph) == expected
    assert graph.count("parameters") == 4
    assert graph.count("x") == 1


def test_a_loss_without_derivatives_has_no_derivative_nodes() -> None:
    graph = graphs.loss_graph(0)
    assert not [role for role in graph.roles if role.startswith("derivative")]


def test_operations_are_counted() -> None:
    a = torch.ones(2, requires_grad=True)
    assert graphs.operations((a * 2).exp()) == 3  # the leaf, the product, the exponential
    assert graphs.operations(torch.ones(2)) == 0


def test_recording_leaves_the_loss_as_it_was() -> None:
    loss = graphs.SobolevLoss(1)
    before = list(loss.losses)
    net = torch.nn.Linear(2, 1)
    graphs.record(loss, net, torch.ones(3, 2), torch.ones(3, 1), [torch.ones(3, 1, 2)])
    assert loss.losses == before


@pytest.mark.parametrize("d", [1, 2, 5, 17])
def test_variance_of_the_square_of_a_projection(d: int) -> None:
    values = torch.arange(d, dtype=F64)
    if d == 1:
        values += 2
    draws = (values * sphere(60_000, d)).square().sum(1)
    variance = projections.square_variance(values)
    spread = ((draws - draws.mean()).square()).std() / len(draws) ** 0.5
    assert abs(draws.var() - variance) <= 5 * spread + 1e-12
    one = torch.zeros(d, dtype=F64)
    one[0] = 3.0
    expected = torch.tensor(2 * 81 * (d - 1) / (d**2 * (d + 2)), dtype=F64)
    torch.testing.assert_close(projections.square_variance(one), expected)


@pytest.mark.parametrize("d", [1, 2, 3, 40])
def test_mean_of_the_absolute_projection(d: int) -> None:
    draws = sphere(60_000, d)[:, 0].abs()
    error = draws.std() / len(draws) ** 0.5
    assert abs(draws.mean() - projections.absolute_mean(d)) <= 5 * error + 1e-12
    assert projections.absolute_mean(2) == pytest.approx(2 / math.pi, rel=1e-14)


def test_dimension_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="d must be at least 1, got 0"):
        projections.absolute_mean(0)


def test_figures_can_be_drawn() -> None:
    drawn = [graphs.figure_1(2, k, ops)[0] for k, ops in ((None, False), (1, False), (None, True))]
    drawn.append(projections.draw_spread({d: d * sphere(500, d)[:, 0] ** 2 for d in (2, 9)}))
    drawn.append(
        projections.draw_variance([2, 4], torch.tensor([0.5, 1]), torch.tensor([0.1, 0.1]))
    )
    times = torch.rand(2, 5).numpy() + 1
    panels = {"outputs": ([1, 4], {"values": times, "whole": times})}
    drawn.append(projections.draw_costs(panels))
    drawn.append(projections.draw_training(range(5), {"values": times, "projected": 2 * times}))
    norms = {name: torch.tensor([[0.9, 0.01], [0.8, 0.01]]) for name in ("one", "equal")}
    drawn.append(projections.draw_norms([2, 4], norms))
    drawn.append(projections.draw_inputs([2, 4], {3: norms["one"]}))
    for fig in drawn:
        fig.canvas.draw()
        assert fig.axes
        plt.close(fig)
