"""Experts: policies on the 128 bytes of the console's memory, from which pixel teachers learn.

The paper has none.  An emulator's step costs a quarter of a pixel network's, and a network of two
layers of 256 units finds in memory what convolutions have to see, so that an expert takes minutes
where a teacher on pixels takes hours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import weights
from .consoles import MEMORY, Consoles
from .games import game_named
from .networks import orthogonal
from .ppo import Games, Settings, Trainer

EXPERIMENT = "teacher"


class Expert(nn.Module):
    """From memory now and one decision ago to logits and a value; two layers of 256 units."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        width = 256
        self.body = nn.Sequential(
            nn.Linear(2 * MEMORY, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.policy = nn.Linear(width, actions)
        self.value = nn.Linear(width, 1)
        orthogonal(self)

    def hidden(self, seen: Tensor) -> Tensor:
        """Return the last hidden layer (N, width) for memories (N, 256), uint8."""
        now, before = seen.float().split(MEMORY, -1)
        # velocities are a few units a decision; a byte that wraps around must not drown them
        speed = ((now - before) / 8).clamp(-1, 1)
        units: Tensor = self.body(torch.cat([now / 127.5 - 1, speed], -1))
        return units

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, actions) and values (N,) for memories (N, 256), uint8."""
        hidden = self.hidden(seen)
        return self.policy(hidden), self.value(hidden)[:, 0]


def memory(consoles: Games) -> Tensor:
    """What an expert sees: memory now and one decision ago, (N, 256) uint8."""
    if not isinstance(consoles, Consoles):
        raise TypeError("an expert needs the console's memory, which the vector environment hides")
    return torch.cat([torch.from_numpy(consoles.memory), torch.from_numpy(consoles.before)], -1)


def trainer(settings: Settings) -> Trainer:
    """Return the training of an expert, at its start."""
    torch.manual_seed(settings.seed)
    net = Expert(len(game_named(settings.game).actions))
    return Trainer(settings, net, Consoles(settings.game, settings.games, settings.seed), memory)


def load(game: str) -> Expert:
    """Return the committed expert of a game."""
    net = Expert(len(game_named(game).actions))
    return weights.load(weights.path("expert", game), net)[0]
