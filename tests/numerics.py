"""Random numbers, small networks and comparisons that several tests share; all in float64."""

from __future__ import annotations

import math

import torch
from torch import nn

F64 = torch.float64
NAN = math.nan


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def close(a: torch.Tensor, b: torch.Tensor, tol: float = 1e-12) -> None:
    """Equal up to `tol`, relative and absolute; dtype and shape too."""
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


def mlp(inputs: int = 3, out: int = 2, activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """One hidden layer, with weights of order 1."""
    net = nn.Sequential(nn.Linear(inputs, 6), activation(), nn.Linear(6, out)).double()
    for seed, parameter in enumerate(net.parameters()):
        parameter.data = normal(*parameter.shape, seed=50 + seed)
    return net


def batch(out: int = 2, size: int = 5) -> tuple[torch.Tensor, ...]:
    """x with three inputs, y, dy and d2y."""
    shapes = [(size, 3), (size, out), (size, out, 3), (size, out, 3, 3)]
    return tuple(normal(*shape, seed=seed) for seed, shape in enumerate(shapes))


def by_hand(net: nn.Module, x: torch.Tensor, order: int) -> list[torch.Tensor]:
    """Value and derivatives one component at a time, one sample at a time."""
    levels: list[list] = [[], [], []]
    for point in x:
        z = point.clone().requires_grad_()
        y = net(z[None])[0]
        first = [torch.autograd.grad(y_k, z, create_graph=True)[0] for y_k in y]
        levels[0].append(y)
        levels[1].append(torch.stack(first))
        if order == 2:
            second = [
                torch.stack([torch.autograd.grad(g_i, z, create_graph=True)[0] for g_i in g])
                for g in first
            ]
            levels[2].append(torch.stack(second))
    return [torch.stack(level) for level in levels[: order + 1]]


def same_gradients(net: nn.Module, a: torch.Tensor, b: torch.Tensor) -> None:
    parameters = list(net.parameters())
    grads = [
        torch.autograd.grad(t, parameters, retain_graph=True, allow_unused=True) for t in (a, b)
    ]
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            close(one, other)


ELEMENT = {
    "l2": lambda r: r**2,
    "l1": lambda r: r.abs(),
    "huber": lambda r: torch.where(r.abs() < 1, r**2 / 2, r.abs() - 0.5),
}
