"""The gradient of section 4.2's objective for a ReLU student, without a graph.

For one direction v, with p the student's probabilities and a_4 = v - p sum(v):

- back through the network: a_3, a_2, a_1, each masked by its ReLUs, and s = W_1' a_1, which is
  the gradient of <log p, v> with respect to the frames;
- its error r = s - s*, and forward again, by the same weights and masks: t_1 = W_1 (c r), t_2, t_3,
  q = W_4 t_3, with c the derivative of the term with respect to s, divided by r;
- the weights of layer l get the product of what came in (r, t_1, ...) and what went back
  (a_1, a_2, ...), the logits what q says about p.

That is four passes and a set of weight products beside those of the values.  Double backward by
PyTorch makes the same passes, the products of convolutions by a slow road, and copies: 265 against
146 ms for 200 states on an old core, where values only take 60.  A test compares this with
``SobolevLoss``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .networks import Student, blocks, images

Goal = Callable[[Tensor], Tensor]


@torch.no_grad()
def differentiate(
    net: Student,
    x: Tensor,
    goals: Tensor,
    goal: Goal | None,
    directions: Sequence[Tensor] = (),
    weight: float = 0.0,
    squared: bool = False,
) -> tuple[Tensor, Tensor]:
    """Write the gradient of the objective into the ``.grad`` of a student's parameters.

    Parameters
    ----------
    net : Student
        With ``nn.ReLU``.
    x : (B, 64, 21, 21)
        Frames in blocks.
    goals : (B, actions)
        The teacher's log-probabilities.
    goal : callable, optional
        From v to the gradient of <log pi*, v>, in blocks; not asked where ``weight`` is 0.
    directions : sequence of (B, actions)
        The v; their terms are added.
    weight : float
        Of each direction's term: alpha, divided by their number where they are draws.
    squared : bool
        Squared norms.

    Returns
    -------
    values, derivatives : Tensor
        Means over the batch of KL(student, teacher) and of the weighted derivative terms.
    """
    layers: list[Any] = [m for m in net.body if isinstance(m, nn.Conv2d | nn.Linear)]
    first, second, third, last = layers
    kernel = blocks(first.weight)
    count = len(x)
    h1 = functional.conv2d(x, kernel, first.bias).relu_()
    h2 = functional.conv2d(h1, second.weight, second.bias, second.stride).relu_()
    flat = h2.flatten(1)
    h3 = functional.linear(flat, third.weight, third.bias).relu_()
    logs = functional.linear(h3, last.weight, last.bias).log_softmax(-1)
    p = logs.exp()
    gap = logs - goals
    values = (p * gap).sum(-1, keepdim=True)
    error = p * (gap - values) / count  # at the logits

    w1, w2 = torch.zeros_like(kernel), torch.zeros_like(second.weight)
    w3, w4 = torch.zeros_like(third.weight), torch.zeros_like(last.weight)
    total = x.new_zeros(())
    for v in directions if weight else ():
        assert goal is not None
        sum_ = v.sum(1, keepdim=True)
        a4 = v - p * sum_
        a3 = _on(a4 @ last.weight, h3)
        a2 = _on((a3 @ third.weight).view_as(h2), h2)
        a1 = _on(_input(a2, h1, second.weight, second.stride), h1)
        r = _input(a1, x, kernel, (1, 1)).sub_(goal(v))
        length = torch.linalg.vector_norm(r, dim=(1, 2, 3), keepdim=True)
        if squared:
            total += weight * length.square().mean()
            c = torch.full_like(length, 2 * weight / count)
        else:
            total += weight * length.mean()
            c = torch.where(length > 0, weight / (count * length), 0.0)
        t1 = _on(functional.conv2d(r, kernel), h1).mul_(c)
        t2 = _on(functional.conv2d(t1, second.weight, stride=second.stride), h2)
        t3 = _on(functional.linear(t2.flatten(1), third.weight), h3)
        q = t3 @ last.weight.T
        error += p * sum_ * ((p * q).sum(1, keepdim=True) - q)
        w1 += _weight(a1.mul_(c), r, kernel, (1, 1))
        w2 += _weight(a2, t1, second.weight, second.stride)
        w3.addmm_(a3.T, t2.flatten(1))
        w4.addmm_(a4.T, t3)

    b3 = _on(error @ last.weight, h3)
    b2 = _on((b3 @ third.weight).view_as(h2), h2)
    b1 = _on(_input(b2, h1, second.weight, second.stride), h1)
    w1 += _weight(b1, x, kernel, (1, 1))
    w2 += _weight(b2, h1, second.weight, second.stride)
    w3.addmm_(b3.T, flat)
    w4.addmm_(error.T, h3)
    first.weight.grad = images(w1).contiguous(memory_format=torch.channels_last)
    first.bias.grad, second.bias.grad = b1.sum((0, 2, 3)), b2.sum((0, 2, 3))
    second.weight.grad, third.weight.grad, last.weight.grad = w2, w3, w4
    third.bias.grad, last.bias.grad = b3.sum(0), error.sum(0)
    return values.mean(), total


def _on(back: Tensor, hidden: Tensor) -> Tensor:
    """What passes a ReLU."""
    return torch.ops.aten.threshold_backward(back, hidden, 0)  # type: ignore[no-any-return]


def _convolved(
    back: Tensor, seen: Tensor, kernel: Tensor, stride: Sequence[int], mask: list[bool]
) -> list[Tensor]:
    return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
        back, seen, kernel, None, stride, [0, 0], [1, 1], False, [0, 0], 1, mask
    )


def _input(back: Tensor, seen: Tensor, kernel: Tensor, stride: Sequence[int]) -> Tensor:
    return _convolved(back, seen, kernel, stride, [True, False, False])[0]


def _weight(back: Tensor, seen: Tensor, kernel: Tensor, stride: Sequence[int]) -> Tensor:
    return _convolved(back, seen, kernel, stride, [False, True, False])[1]
