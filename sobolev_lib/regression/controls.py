"""Kernels that are not the one of :mod:`sobolev_lib.kinks`, to see what about it helps.

A control changes the kernel's term and nothing else: its sign and size, its place, or what it
knows.  If the repair helped by estimating the term that sampling misses, then the wrong sign should
hurt, a wrong place should help less, and noise of equal size should not help.  Other kinds try to
estimate the same term better: a width that falls during training, and the term at other points than
those of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sobolev_lib import kinks
from sobolev_lib.stack import MLPStack

SHIFTS = {"shifted": 2.0, "far": 8.0}
"""Where the kernel stands instead of at the kink, in widths, on the side where the unit is on."""
ANNEALING = 5.0
"""An annealed width falls from this many widths to one part of as many."""
JITTER = 0.1
"""Standard deviation of jittered inputs, in units of the (normalised) inputs."""
COPIES = 5
"""Jittered copies of each point."""

KINDS: dict[str, str] = {
    "plain": "at the kink, as large as the theory says",
    **{
        name: f"{by:g} widths away from the kink, where the unit is on"
        for name, by in SHIFTS.items()
    },
    "permuted": "each unit's values of the kernel are dealt out anew to the samples of the batch, "
    "in each step; a unit keeps the sum of its weights, and loses which samples are at its kink",
    "noise": "each value of the kernel has a random sign, drawn anew for each unit, sample and "
    "step: the term of one sample keeps its size, and the mean over draws is 0",
    "annealed": f"the width falls geometrically, from {ANNEALING:g} times the bandwidth at the "
    f"first step to 1/{ANNEALING:g} of it at the last",
    "jittered": f"the kernel's term is averaged over {COPIES} copies of each point, moved by "
    f"normal noise of deviation {JITTER:g} in normalised inputs, with the targets of the point",
    "fresh": "the kernel's term is taken at points of the domain drawn anew in each step, as many "
    "as `batch`, with the function's own values and gradients there",
    "slopes": "no kernel: the derivative term once more, at points drawn as for “fresh”",
}
"""What each kind of kernel is; :data:`ELSEWHERE` are those whose term has points of its own."""
ELSEWHERE = ("jittered", "fresh", "slopes")
RANDOM = ("permuted", "noise")
DRAWING = (*ELSEWHERE, *RANDOM)
"""Those that draw in each step, from a stream of their seed."""


@dataclass
class Kernel:
    """A kernel for :class:`~sobolev_lib.stack.MLPStack`, ``amplitude`` times one of :data:`KINDS`.

    Parameters
    ----------
    kind : str
        Key of :data:`KINDS`; what is neither in :data:`SHIFTS` nor in :data:`RANDOM` is the plain
        kernel here, and the training does the rest.
    amplitude : float
        Factor of the term; -1 turns its sign.
    source : torch.Generator, optional
        Of the random kinds; its draws are shared by all members, so that none depends on its
        neighbours.
    """

    kind: str = "plain"
    amplitude: float = 1.0
    source: torch.Generator | None = None

    def __call__(self, z: Tensor, width: float | Tensor, jump: float) -> Tensor:
        """Kernel at the pre-activations ``z`` (members, points, units), which it overwrites."""
        if self.kind in SHIFTS:
            z = z.sub_(SHIFTS[self.kind] * width)
        found = kinks.logistic_(z, width, self.amplitude * jump)
        drawn = torch.rand(found.shape[1:], generator=self.source) if self.kind in RANDOM else None
        if drawn is None:
            return found
        drawn = drawn.to(found.device)
        if self.kind == "permuted":
            return found.gather(1, drawn.argsort(dim=0).expand_as(found))
        return torch.where(drawn < 0.5, found, -found)


def width(bandwidth: float, kind: str, step: int, steps: int) -> float:
    """Width of the kernel at a step, counted from 0."""
    if kind != "annealed":
        return bandwidth
    return float(bandwidth * ANNEALING ** (1 - 2 * step / max(steps - 1, 1)))


def jittered(
    x: Tensor, y: Tensor, dy: Tensor, source: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Copies of points (members, B, d), each moved by its own noise, with unmoved targets."""
    x, y, dy = (t.repeat_interleave(COPIES, dim=1) for t in (x, y, dy))
    noise = torch.randn(x.shape[1:], generator=source, dtype=x.dtype)
    return x + JITTER * noise.to(x.device), y, dy


def without_kernel(stack: MLPStack, x: Tensor, y: Tensor, dy: Tensor, weight: Tensor) -> Tensor:
    """Losses of a stack, with the gradient that sampling alone gives."""
    bandwidth, stack.kink_bandwidth = stack.kink_bandwidth, None
    try:
        return stack.losses(x, y, dy, weight)
    finally:
        stack.kink_bandwidth = bandwidth


def boundary_term(stack: MLPStack, x: Tensor, y: Tensor, dy: Tensor, weight: Tensor) -> Tensor:
    """Zeros (members,) whose gradient is that of the kernel's term at these points, alone."""
    there = (x, y, dy, weight)
    return stack.losses(*there) - without_kernel(stack, *there)


def slopes_term(stack: MLPStack, x: Tensor, y: Tensor, dy: Tensor, weight: Tensor) -> Tensor:
    """Derivative term (members,) at these points, weighted, with the gradient of sampling alone."""
    return without_kernel(stack, x, torch.full_like(y, torch.nan), dy, weight)
