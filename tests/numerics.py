"""Random numbers, small networks and comparisons that several tests share; all in float64."""

from __future__ import annotations

import torch
from torch import nn

F64 = torch.float64


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
