"""The gradient of section 4.2's objective for a student, without a graph.

For one direction v, with p the student's probabilities and a_4 = v - p sum(v):

- back through the network: a_3, a_2, a_1, each times the slopes of its units, and s = W_1' a_1,
  which is the gradient of <log p, v> with respect to the frames;
- its error r = s - s*, and forward again, by the same weights and slopes: t_1 = W_1 (c r), t_2,
  t_3, q = W_4 t_3, with c the derivative of the term with respect to s, divided by r;
- the weights of layer l get the product of what came in (r, t_1, ...) and what went back
  (a_1, a_2, ...), the logits what q says about p;
- where the units bend (SiLU, or the kernel at the kinks of a ReLU), the slopes depend on the
  weights: a layer's second derivatives, times what reaches it from both sides, are added to what
  the values send back.  That takes no pass of its own.

That is four passes and a set of weight products beside those of the values.  Double backward by
PyTorch makes the same passes, the products of convolutions by a slow road, and copies: 265 against
146 ms for 200 states of ReLU units on an old core, where values only take 60.  A test compares this
with ``SobolevLoss``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib import kinks
from sobolev_lib.closed_form import ACTIVATIONS

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
        With any activation that it can have.
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
    unit = net.body[1]
    kernel = blocks(first.weight)
    count = len(x)
    one = _Hidden(unit, functional.conv2d(x, kernel, first.bias))
    h1 = one.value
    two = _Hidden(unit, functional.conv2d(h1, second.weight, second.bias, second.stride))
    h2, flat = two.value, two.value.flatten(1)
    three = _Hidden(unit, functional.linear(flat, third.weight, third.bias))
    h3 = three.value
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
        a3 = three.back(a4 @ last.weight)
        a2 = two.back((a3 @ third.weight).view_as(h2))
        a1 = one.back(_input(a2, h1, second.weight, second.stride))
        r = _input(a1, x, kernel, (1, 1)).sub_(goal(v))
        length = torch.linalg.vector_norm(r, dim=(1, 2, 3), keepdim=True)
        if squared:
            total += weight * length.square().mean()
            c = torch.full_like(length, 2 * weight / count)
        else:
            total += weight * length.mean()
            c = torch.where(length > 0, weight / (count * length), 0.0)
        t1 = one.along(functional.conv2d(r, kernel).mul_(c))
        t2 = two.along(functional.conv2d(t1, second.weight, stride=second.stride))
        t3 = three.along(functional.linear(t2.flatten(1), third.weight))
        q = t3 @ last.weight.T
        error += p * sum_ * ((p * q).sum(1, keepdim=True) - q)
        w1 += _weight(a1.mul_(c), r, kernel, (1, 1))
        w2 += _weight(a2, t1, second.weight, second.stride)
        w3.addmm_(a3.T, t2.flatten(1))
        w4.addmm_(a4.T, t3)

    b3 = three.close(error @ last.weight)
    b2 = two.close((b3 @ third.weight).view_as(h2))
    b1 = one.close(_input(b2, h1, second.weight, second.stride))
    w1 += _weight(b1, x, kernel, (1, 1))
    w2 += _weight(b2, h1, second.weight, second.stride)
    w3.addmm_(b3.T, flat)
    w4.addmm_(error.T, h3)
    first.weight.grad = images(w1).contiguous(memory_format=torch.channels_last)
    first.bias.grad, second.bias.grad = b1.sum((0, 2, 3)), b2.sum((0, 2, 3))
    second.weight.grad, third.weight.grad, last.weight.grad = w2, w3, w4
    third.bias.grad, last.bias.grad = b3.sum(0), error.sum(0)
    return values.mean(), total


class _Hidden:
    """Values of a hidden layer, and what passes it.

    ``slope`` is None for a ReLU, whose values tell it; ``bend`` the second derivative, None where
    it is 0.
    """

    def __init__(self, unit: nn.Module, z: Tensor) -> None:
        self.slope: Tensor | None = None
        self.bend: Tensor | None = None
        self.bent: Tensor | float = 0.0  # what the bend adds to the way back of the values
        if isinstance(unit, nn.SiLU):
            signals = ACTIVATIONS["silu"].all
            assert signals is not None
            self.value, self.slope, self.bend = signals(0, z)
        elif isinstance(unit, kinks.ReLU):
            self.bend = kinks.kernel(z, unit.bandwidth, unit.kernel)
            self.value = z.relu_()
        elif type(unit) is nn.ReLU:
            self.value = z.relu_()
        else:
            raise TypeError(f"there is no closed form for {type(unit).__name__}")

    def _through(self, signal: Tensor) -> Tensor:
        if self.slope is not None:
            return signal * self.slope
        found: Tensor = torch.ops.aten.threshold_backward(signal, self.value, 0)
        return found

    def back(self, signal: Tensor) -> Tensor:
        """Pass a direction's way back, and keep what the bend needs of it."""
        self.arrived = signal
        return self._through(signal)

    def along(self, signal: Tensor) -> Tensor:
        """Pass the way forward again, and bend by what comes from both sides."""
        if self.bend is not None:
            self.bent = self.bent + self.bend * self.arrived * signal
        return self._through(signal)

    def close(self, signal: Tensor) -> Tensor:
        """Pass the way back of the values."""
        return self._through(signal) + self.bent if self.bend is not None else self._through(signal)


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
