"""The networks of SM 3, teacher and student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib import kinks
from sobolev_lib.checks import check_choice

from .games import FRAME, STACK

BLOCK = 4  # stride of the first convolution
BLOCKED = (STACK * BLOCK**2, FRAME // BLOCK, FRAME // BLOCK)

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "kinks": kinks.ReLU,
    "silu": nn.SiLU,
}


def blocks(images: Tensor) -> Tensor:
    """Put each square of 4 x 4 pixels into channels: (n, c, h, w) to (n, 16 c, h / 4, w / 4).

    A convolution of 8 x 8 with stride 4 is then one of 2 x 2 with stride 1: the same sums, in less
    than half of the time, and in a fifth of it backwards (old processor, PyTorch 2.13).
    """
    small = functional.pixel_unshuffle(images, BLOCK)
    return small.contiguous(memory_format=torch.channels_last)


def images(blocked: Tensor) -> Tensor:
    """Undo :func:`blocks`."""
    return functional.pixel_shuffle(blocked, BLOCK)


class First(nn.Conv2d):
    """The first convolution, 8 x 8 with stride 4, of frames that went through :func:`blocks`."""

    def __init__(self, units: int) -> None:
        super().__init__(STACK, units, 2 * BLOCK, BLOCK)

    def forward(self, blocked: Tensor) -> Tensor:
        """Return (N, units, 20, 20) for (N, 64, 21, 21)."""
        return functional.conv2d(blocked, blocks(self.weight), self.bias)


class Teacher(nn.Module):
    """Three convolutions and two linear layers, as SM 3 lists them, and a value."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            First(32), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1),
            nn.ReLU(), nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU(),
        )  # fmt: skip
        self.policy = nn.Linear(512, actions)
        self.value = nn.Linear(512, 1)
        orthogonal(self)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, actions) and values (N,) for frames as :func:`scaled` takes them."""
        hidden = self.body(scaled(seen))
        return self.policy(hidden), self.value(hidden)[:, 0]


class Student(nn.Module):
    """Two convolutions and two linear layers, as SM 3 lists them; returns log-probabilities.

    Parameters
    ----------
    actions : int
    activation : {"relu", "kinks", "silu"}
        The paper has "relu".
    """

    def __init__(self, actions: int, activation: str = "relu") -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        unit = ACTIVATIONS[activation]
        self.body = nn.Sequential(
            First(16), unit(), nn.Conv2d(16, 32, 4, 2), unit(), nn.Flatten(),
            nn.Linear(32 * 9 * 9, 256), unit(), nn.Linear(256, actions),
        )  # fmt: skip

    def forward(self, seen: Tensor) -> Tensor:
        """Return log-probabilities (N, actions) for frames as :func:`scaled` takes them."""
        logits: Tensor = self.body(scaled(seen))
        return logits.log_softmax(-1)


def scaled(seen: Tensor) -> Tensor:
    """Frames from 0 to 1, in blocks: (N, 64, 21, 21).

    Frames are (N, 4, 84, 84), or in blocks already, which stays so; another shape is refused.
    uint8 is divided by 255, floating types are taken as they are.
    """
    if seen.shape[1:] not in ((STACK, FRAME, FRAME), BLOCKED):
        raise ValueError(
            f"frames have shape {tuple(seen.shape)}; they must be (N, {STACK}, {FRAME}, {FRAME}), "
            f"or (N, {', '.join(map(str, BLOCKED))}) in blocks"
        )
    if seen.shape[1:] != BLOCKED:
        seen = blocks(seen)
    if not seen.is_floating_point():
        seen = seen.to(torch.get_default_dtype()) / 255
    return seen


def orthogonal(net: Any) -> None:
    """Draw orthogonal weights of body, policy (times 0.01) and value; biases are 0."""
    for part, gain in ((net.body, 2**0.5), (net.policy, 0.01), (net.value, 1.0)):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(layer.weight, gain)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
