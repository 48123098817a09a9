"""The networks of SM 3, teacher and student."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sobolev_lib import kinks

from .games import FRAME, STACK

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "kinks": kinks.ReLU,
    "silu": nn.SiLU,
}


class Teacher(nn.Module):
    """Three convolutions and two linear layers, as SM 3 lists them, with a value beside the policy.

    Parameters
    ----------
    actions : int
        Outputs of the policy.
    """

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(STACK, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 512),
            nn.ReLU(),
        )
        self.policy = nn.Linear(512, actions)
        self.value = nn.Linear(512, 1)
        for layer in self.body:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                _orthogonal(layer, 2**0.5)
        _orthogonal(self.policy, 0.01)
        _orthogonal(self.value, 1.0)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, actions) and values (N,) for frames (N, 4, 84, 84).

        Frames of uint8 are divided by 255; those of a floating type are taken as they are.
        """
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
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}"
            )
        unit = ACTIVATIONS[activation]
        self.body = nn.Sequential(
            nn.Conv2d(STACK, 16, 8, 4),
            unit(),
            nn.Conv2d(16, 32, 4, 2),
            unit(),
            nn.Flatten(),
            nn.Linear(32 * 9 * 9, 256),
            unit(),
            nn.Linear(256, actions),
        )

    def forward(self, seen: Tensor) -> Tensor:
        """Return log-probabilities (N, actions) for frames (N, 4, 84, 84)."""
        logits: Tensor = self.body(scaled(seen))
        return logits.log_softmax(-1)


def scaled(seen: Tensor) -> Tensor:
    """Frames from 0 to 1: uint8 divided by 255, floating types as they are.

    Raises
    ------
    ValueError
        If the shape is not (N, 4, 84, 84).
    """
    if seen.shape[1:] != (STACK, FRAME, FRAME):
        raise ValueError(
            f"frames have shape {tuple(seen.shape)}; they must be (N, {STACK}, {FRAME}, {FRAME})"
        )
    if not seen.is_floating_point():
        seen = seen.to(torch.get_default_dtype()) / 255
    return seen.contiguous(memory_format=torch.channels_last)


def _orthogonal(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
