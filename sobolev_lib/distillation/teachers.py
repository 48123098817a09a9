"""Teachers on pixels (SM 3): PPO alone, or beside an expert on memory whose weight fades.

The loss is ``policy`` times that of PPO, plus a weight that falls from ``imitation`` to 0 times
KL(expert, teacher) and the error of a *hint* (Romero et al., 2015): a linear map of the teacher's
512 units that predicts the expert's last hidden layer.  With ``policy = 0`` that is DAgger (Ross et
al., 2011) without a store of old data; with both it is kickstarting (Schmitt et al., 2018).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import weights
from .consoles import Consoles
from .experts import Expert, memory
from .games import FRAME, STACK, game_named
from .networks import Teacher, scaled
from .ppo import Games, Settings, Trainer
from .screens import Screens


@dataclass(frozen=True)
class PixelSettings(Settings):
    """What a training on pixels depends on, beside the expert's weights.

    Parameters
    ----------
    policy : float
        Weight of PPO's loss.
    imitation : float
        Weight of the expert at the start; 0: no expert.
    fade : int
        Decisions over which that weight falls to 0; 0: it stays.
    lead : int
        Decisions over which the expert plays in fewer and fewer of the games, from all to none.
    hint : float
        Weight of the hint's error beside the divergence.
    start : str
        File with a teacher's weights, from which the training begins; empty: from random ones.
    """

    epochs: int = 3
    minibatch: int = 128
    clip: float = 0.1
    policy: float = 1.0
    imitation: float = 1.0
    fade: int = 2_000_000
    lead: int = 30_000
    hint: float = 1.0
    start: str = ""
    milestone: int = 20_000


FROM_SCRATCH: dict[str, Any] = {
    "policy": 1.0, "imitation": 0.0, "hint": 0.0, "lead": 0, "games": 128, "horizon": 64,
    "epochs": 4, "minibatch": 512, "learning_rate": 4e-4, "last_rate": 1e-5,
    "planned": 15_000_000, "milestone": 500_000,
}  # fmt: skip
"""PPO on pixels alone, for a GPU: what the settings have there instead."""


def frames(consoles: Games) -> Tensor:
    """What a teacher sees: the last four frames, (N, 4, 84, 84) uint8."""
    return torch.from_numpy(consoles.stack.copy())


def faster_in_half(net: nn.Module, device: torch.device, batch: int) -> bool:
    """Measure whether a training step is faster with bfloat16, where the processor has it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    seen = torch.zeros(batch, STACK, FRAME, FRAME, dtype=torch.uint8)
    times = {}
    for half in (False, True, False, True):  # the first round warms up
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits, values = net(seen)
        (logits.float().sum() + values.float().sum()).backward()
        times[half] = time.perf_counter() - began
        net.zero_grad(set_to_none=True)
    return times[True] < times[False]


class Hinted(nn.Module):
    """A teacher with the linear map to the expert's hidden layer, which only training has."""

    def __init__(self, actions: int, width: int) -> None:
        super().__init__()
        self.teacher = Teacher(actions)
        self.hint = nn.Linear(512, width)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and values, as the teacher does."""
        logits, values = self.teacher(seen)
        return logits, values


class PixelTrainer(Trainer):
    """Training of a teacher; see :class:`.ppo.Trainer`.

    Parameters
    ----------
    expert : Expert, optional
        Not trained; needed unless ``settings.imitation`` is 0.
    device : str
        On a GPU games are played in :class:`.screens.Screens`, on as many cores as ``threads``,
        which show no memory, so that there is no expert; otherwise in :class:`.consoles.Consoles`.
    """

    settings: PixelSettings
    net: Hinted

    def __init__(
        self,
        settings: PixelSettings,
        expert: Expert | None = None,
        device: str = "cpu",
        threads: int = 0,
    ) -> None:
        if settings.imitation and (expert is None or device != "cpu"):
            raise ValueError(
                f"imitation is {settings.imitation}; it needs an expert, and the device cpu "
                "(the GPU's games do not show the console's memory)"
            )
        torch.manual_seed(settings.seed)
        width = expert.policy.in_features if expert else 1
        net = Hinted(len(game_named(settings.game).actions), width)
        self.begun: dict[str, Any] = {}  # what is said of the weights that it starts from
        if settings.start:
            self.begun = weights.load(Path(settings.start), net.teacher)[1]
            net.train()
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        games: Games
        if device == "cpu":
            games = Consoles(settings.game, settings.games, settings.seed, frames=True)
        else:
            games = Screens(settings.game, settings.games, settings.seed, threads)
        super().__init__(settings, net, games, frames, device)
        self.half = faster_in_half(self.net, self.device, settings.minibatch)
        self.expert = expert.requires_grad_(False) if expert else None

    def choose(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Let the expert act in the games that it leads."""
        if self.expert is None or not isinstance(self.consoles, Consoles):
            return super().choose(seen)
        logits, values = self.answer(seen)
        own = logits.log_softmax(-1)
        hidden = self.expert.hidden(memory(self.consoles))
        guide = self.expert.policy(hidden).log_softmax(-1)
        share = 1 - self.steps / self.settings.lead if self.settings.lead else 0.0
        led = torch.arange(self.settings.games) < round(max(0.0, share) * self.settings.games)
        actions = self.draw(torch.where(led[:, None], guide, own))
        logs = own.gather(1, actions[:, None])[:, 0]
        return actions, logs, values, (guide, hidden, led)

    def loss(self, *batch: Tensor) -> Tensor:
        """Add the expert's part to PPO's."""
        if len(batch) == 5:
            return super().loss(*batch)
        s = self.settings
        seen, actions, old, gains, returns, guide, hidden, led = batch
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            units = self.net.teacher.body(scaled(seen))
            logits = self.net.teacher.policy(units).float()
            values = self.net.teacher.value(units)[:, 0].float()
        units = units.float()
        total = s.value * functional.mse_loss(values, returns)
        if s.policy:
            total = total + s.policy * self.surrogate(logits, actions, old, gains, ~led)
        weight = s.imitation * (max(0.0, 1 - self.steps / s.fade) if s.fade else 1.0)
        if weight:
            divergence = functional.kl_div(
                logits.log_softmax(-1), guide, reduction="batchmean", log_target=True
            )
            spread = hidden.std(0).mean() + 1e-6
            error = functional.mse_loss(self.net.hint(units), (hidden - hidden.mean(0)) / spread)
            total = total + weight * (divergence + s.hint * error)
        return total


def route(settings: Settings) -> str:
    """How a teacher is trained, in one word: "ppo", "dagger" or "kickstart"."""
    imitation = getattr(settings, "imitation", 0.0)
    policy = getattr(settings, "policy", 1.0)
    return "kickstart" if imitation and policy else "dagger" if imitation else "ppo"
