"""NaN in a target means "not measured": it leaves the value and the gradient of the loss."""

from __future__ import annotations

import pytest
import torch
from numerics import ELEMENT, NAN, batch, by_hand, close, mlp, same_gradients
from torch import nn

from sobolev_lib import SobolevLoss, kinks


@pytest.mark.parametrize("name", ["l2", "l1", "huber", lambda p, t: (p - t).abs() + 1])
def test_nan_targets_leave_value_and_gradient(name: object) -> None:
    net, (x, y, dy, d2y) = mlp(), batch()
    targets = [t.clone() for t in (y, dy, d2y)]
    targets[0][0, 1] = targets[1][1] = targets[1][2, 0, 1] = targets[2][3, :, 0] = NAN
    total, _ = SobolevLoss(2, loss=name)(net, x, targets[0], targets[1:])
    element = ELEMENT.get(name) or (lambda r: r.abs() + 1)
    reference = 0
    for prediction, target in zip(by_hand(net, x, 2), targets, strict=True):
        measured = ~torch.isnan(target)
        reference = reference + element(prediction[measured] - target[measured]).sum() / 5
    close(total, reference)
    same_gradients(net, total, reference)


def test_a_batch_without_any_measurement_has_zero_loss_and_gradient() -> None:
    net, (x, y, dy, _) = mlp(), batch()
    total, _ = SobolevLoss()(net, x, y * NAN, dy * NAN)
    assert total.item() == 0
    total.backward()
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


class Counted(nn.Module):
    """A network with a module that is another function each time, and how often it was asked."""

    def __init__(self, changing: nn.Module) -> None:
        super().__init__()
        self.inner, self.asked = nn.Sequential(nn.Linear(3, 4), changing, nn.Linear(4, 2)), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return self.inner(x)


@pytest.mark.parametrize("changing", [nn.Dropout(0.5), kinks.ReLU(scaled=True)])
def test_what_changes_between_two_evaluations_is_evaluated_once(changing: nn.Module) -> None:
    net, (x, y, dy, _) = Counted(changing).double(), batch()
    dy[:2] = NAN
    torch.manual_seed(0)
    total, _ = SobolevLoss(weights=(0.7, 1.3))(net, x, y, dy)
    assert net.asked == 1
    if isinstance(changing, nn.Dropout):
        torch.manual_seed(0)
        point = x.clone().requires_grad_()
        out = net(point)
        rows = [torch.autograd.grad(out[:, k].sum(), point, retain_graph=True)[0] for k in (0, 1)]
        off = (torch.stack(rows, 1) - dy)[2:].square().sum() / len(x)
        close(total, 0.7 * (out - y).square().sum() / len(x) + 1.3 * off)
    net.eval()
    SobolevLoss()(net, x, y, dy)
    assert net.asked == (4 if isinstance(changing, nn.Dropout) else 3)


def test_nan_does_not_leak_through_a_loss_with_an_infinite_slope() -> None:
    net, (x, y, dy, _) = mlp(), batch()
    dy[0, 0, 0] = NAN
    root = lambda p, t: (p - t).abs().sqrt()  # its slope at 0, where the mask puts it, is infinite  # noqa: E731
    total, _ = SobolevLoss(loss=("l2", root))(net, x, y, dy)
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


SINGULAR = {
    "sqrt": lambda x: x.square().sum(1, keepdim=True).sqrt(),
    "norm": lambda x: x.norm(dim=1, keepdim=True),
    "log": lambda x: x.square().sum(1, keepdim=True).log(),
    "power": lambda x: x[:, :1].abs() ** 1.5,
    "angle": lambda x: torch.atan2(x[:, :1], x[:, 1:2]),
}


@pytest.mark.parametrize("projections", [None, 2])
@pytest.mark.parametrize("name", SINGULAR)
def test_a_sample_without_measurement_may_be_singular(name: str, projections: int | None) -> None:
    net, (x, y, dy, d2y) = mlp(1), batch()
    x[1] = 0
    model = nn.Sequential(nn.Identity(), net)
    model.forward = lambda z: net(SINGULAR[name](z))  # type: ignore[method-assign]
    y[1] = dy[1] = d2y[1] = NAN
    loss = SobolevLoss(2, (0.3, 2.0, 0.7), projections, generator=torch.Generator().manual_seed(0))
    drawn = loss.draw(x, 2) if projections else None
    total, _ = loss(model, x, y, (dy, d2y), directions=drawn)
    total.backward()
    measured = [t[[0, 2, 3, 4]] for t in (x, y, dy, d2y)]
    fewer = [[v[[0, 2, 3, 4]] for v in chain] for chain in drawn] if drawn else None
    reference, _ = loss(model, *measured[:2], measured[2:], directions=fewer)
    close(total, reference * 4 / 5)
    expected = torch.autograd.grad(reference * 4 / 5, list(net.parameters()))
    for parameter, g in zip(net.parameters(), expected, strict=True):
        close(parameter.grad, g)


def test_a_masked_component_at_a_singular_point_is_refused_with_the_number_of_samples() -> None:
    net, (x, y, dy, _) = mlp(3), batch()
    x[1:3, 0], dy[1:3, :, 0] = 0, NAN  # the other two partial derivatives were measured there
    model = lambda z: net(z.abs().sqrt())  # noqa: E731
    with pytest.raises(ValueError, match="order 1 of model is NaN or infinite in 2 of 5 samples"):
        SobolevLoss()(model, x, y, dy)
    with torch.no_grad():
        assert SobolevLoss()(model, x, y, dy)[0].isfinite()


def test_values_are_still_compared_where_no_derivative_was_measured() -> None:
    net, (x, y, dy, _) = mlp(1), batch()
    x[1], dy[1] = 0, NAN
    model = lambda z: net(SINGULAR["sqrt"](z))  # noqa: E731
    total, terms = SobolevLoss()(model, x, y, dy)
    close(terms["order_0"], (model(x) - y).square().sum(1).mean().detach())
    total.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("order", [1, 2])
def test_nan_targets_of_a_projection_mask_both_sides(order: int, mixed: bool) -> None:
    net, (x, _, dy, d2y) = mlp(), batch()
    targets = [dy.clone(), d2y.clone()][:order]
    targets[-1][0] = NAN  # a sample that was not measured
    targets[-1][1, ..., 2] = NAN  # one partial of it, for every output
    if mixed:
        targets[-1][2, 0] = targets[-1][3, 1, ..., 0] = NAN  # one output of a sample
    loss = SobolevLoss(order, (0,) * order + (1,), 2, generator=torch.Generator().manual_seed(3))
    directions = loss.draw(x, 2)
    total, _ = loss(net, x, None, [*[None] * (order - 1), targets[-1]], directions=directions)
    residual = torch.nan_to_num(by_hand(net, x, order)[-1] - targets[-1], nan=0.0)
    reference = 0
    for v, *u in directions:
        projected = torch.einsum("bk...,bk->b...", residual, v)
        if order == 2:
            projected = torch.einsum("bij,bi->bj", projected, u[0])
        reference = reference + projected.square().sum(1).mean() / 2
    close(total, reference)
    same_gradients(net, total, reference)
