"""Proximal policy optimisation (Schulman et al., 2017), in one file, with states that resume."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from sobolev_lib.records import states
from sobolev_lib.records.summary import interval
from sobolev_lib.records.sweep import interruptible

from .consoles import Consoles
from .screens import Screens

Games = Consoles | Screens
NOTES = ("settings", "consoles", "generator", "steps", "seconds", "curve")


@dataclass(frozen=True)
class Settings:
    """What a training depends on.

    Parameters
    ----------
    game : str
    seed : int
        Of weights, games and actions.
    games : int
        Games played together.
    horizon : int
        Decisions in each of them between two updates.
    epochs : int
        How often each decision is used.
    minibatch : int
        Decisions in a step of the optimiser.
    learning_rate : float
        Adam's step at the start.
    last_rate : float
        Adam's step once ``planned`` decisions are made; it falls on a line.
    planned : int
        Decisions of the whole training.
    clip : float
        Clipping of the ratio of policies.
    entropy : float
        Weight of the policy's entropy.
    value : float
        Weight of the value's squared error.
    discount : float
        Of a reward, by decision.
    trace : float
        Lambda of the advantages.
    norm : float
        Largest norm of a gradient.
    milestone : int
        Decisions between two points of the learning curve.
    """

    game: str
    seed: int = 0
    games: int = 16
    horizon: int = 128
    epochs: int = 6
    minibatch: int = 512
    learning_rate: float = 5e-4
    last_rate: float = 1e-4
    planned: int = 2_000_000
    clip: float = 0.15
    entropy: float = 0.01
    value: float = 0.5
    discount: float = 0.99
    trace: float = 0.95
    norm: float = 0.5
    milestone: int = 100_000

    @property
    def batch(self) -> int:
        """Decisions between two updates."""
        return self.games * self.horizon


def advantages(
    rewards: Tensor, values: Tensor, ends: Tensor, last: Tensor, discount: float, trace: float
) -> Tensor:
    """Generalised advantage estimates (T, N) of Schulman et al. (2016).

    ``rewards``, ``values`` and ``ends`` are (T, N); ``ends`` is 1 where nothing of what follows
    counts for that decision.  ``last`` (N,) is the value of what is seen after the last decision.
    """
    result = torch.zeros_like(rewards)
    sum_ = torch.zeros_like(last)
    following = last
    for t in range(len(rewards) - 1, -1, -1):
        on = 1 - ends[t]
        error = rewards[t] + discount * on * following - values[t]
        sum_ = error + discount * trace * on * sum_
        result[t] = sum_
        following = values[t]
    return result


class Trainer:
    """One training: games, network, optimiser, random numbers, learning curve.

    Parameters
    ----------
    net : Module
        From observations (uint8) to logits (N, actions) and values (N,).
    observe : callable
        From the games to the observations (N, ...) that the network takes.
    device : str
        Of the network; the games are played on the CPU.
    """

    def __init__(
        self,
        settings: Settings,
        net: nn.Module,
        consoles: Games,
        observe: Callable[[Any], Tensor],
        device: str = "cpu",
    ) -> None:
        self.settings, self.consoles, self.observe = settings, consoles, observe
        self.net = net.to(device)
        self.device = torch.device(device)
        self.half = False  # bfloat16 in the network
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.optimizer = torch.optim.Adam(
            net.parameters(), settings.learning_rate, eps=1e-5, fused=self.device.type == "cuda"
        )
        self.steps = 0
        self.seconds = 0.0
        self.curve: dict[str, list[float]] = {}

    def iterate(self) -> None:
        """Play ``batch`` decisions and learn from them."""
        began = time.perf_counter()
        self.learn(*self.play())
        self.steps += self.settings.batch
        self.seconds += time.perf_counter() - began
        if self.at_milestone:
            self._note()

    @property
    def at_milestone(self) -> bool:
        """Whether the last iteration passed a multiple of ``milestone`` decisions."""
        every = self.settings.milestone
        return self.steps // every > (self.steps - self.settings.batch) // every

    @torch.no_grad()
    def play(self) -> tuple[Tensor, ...]:
        """Return observations, actions, log-probabilities, advantages, returns; flat in time."""
        s = self.settings
        rows: list[tuple[Tensor, ...]] = []
        rewards, ends = torch.zeros(s.horizon, s.games), torch.zeros(s.horizon, s.games)
        for t in range(s.horizon):
            seen = self.observe(self.consoles).to(self.device)
            actions, logs, values, more = self.choose(seen)
            rows.append((seen, actions, logs, values, *more))
            reward, lost, _ = self.consoles.step(actions.numpy())
            rewards[t] = torch.from_numpy(numpy.sign(reward))
            ends[t] = torch.from_numpy(lost)
        seen, actions, logs, values, *rest = map(torch.stack, zip(*rows, strict=True))
        last = self.answer(self.observe(self.consoles).to(self.device))[1].cpu()
        gains = advantages(rewards, values, ends, last, s.discount, s.trace)
        batch = (seen, actions, logs, gains, gains + values, *rest)
        return tuple(x.flatten(0, 1).to(self.device) for x in batch)

    def answer(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and values, in single precision whatever the network computes in."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            logits, values = self.net(seen)
        return logits.float(), values.float()

    def choose(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Return actions, their log-probabilities, values, and what else :meth:`loss` needs."""
        logits, values = (x.cpu() for x in self.answer(seen))
        logs = logits.log_softmax(-1)
        actions = self.draw(logs)
        return actions, logs.gather(1, actions[:, None])[:, 0], values, ()

    def draw(self, logs: Tensor) -> Tensor:
        """Draw one action for each row of log-probabilities."""
        return torch.multinomial(logs.exp(), 1, generator=self.generator)[:, 0]

    def learn(self, *batch: Tensor) -> None:
        """Take ``epochs`` passes over a batch."""
        s = self.settings
        left = max(0.0, 1 - self.steps / s.planned)
        for group in self.optimizer.param_groups:
            group["lr"] = s.last_rate + (s.learning_rate - s.last_rate) * left
        for _ in range(s.epochs):
            order = torch.randperm(s.batch, generator=self.generator).to(self.device)
            for chosen in order.split(s.minibatch):
                self.optimizer.zero_grad(set_to_none=True)
                self.loss(*(x[chosen] for x in batch)).backward()
                nn.utils.clip_grad_norm_(self.net.parameters(), s.norm)
                self.optimizer.step()

    def loss(self, *batch: Tensor) -> Tensor:
        """What one minibatch of what :meth:`play` returns adds to the gradient."""
        seen, actions, old, gains, returns = batch
        logits, values = self.answer(seen)
        everywhere = torch.ones_like(gains, dtype=torch.bool)
        total = self.surrogate(logits, actions, old, gains, everywhere)
        return total + self.settings.value * functional.mse_loss(values, returns)

    def surrogate(
        self, logits: Tensor, actions: Tensor, old: Tensor, gains: Tensor, mine: Tensor
    ) -> Tensor:
        """The clipped objective and the entropy, over the decisions that are the network's own."""
        s = self.settings
        logs = logits.log_softmax(-1)
        ratio = (logs.gather(1, actions[:, None])[:, 0] - old).exp()
        gains = (gains - gains.mean()) / (gains.std() + 1e-8)
        clipped = torch.minimum(ratio * gains, ratio.clamp(1 - s.clip, 1 + s.clip) * gains)
        entropy = -(logs.exp() * logs).sum(-1)
        each = -clipped - s.entropy * entropy
        return (each * mine).sum() / mine.sum().clamp(min=1)

    def _note(self) -> None:
        scores = [score for score, _ in self.consoles.finished]
        if len(scores) > 1:  # else they wait for the next milestone
            self.consoles.finished = []
            found = interval(scores)
            point = {
                "steps": self.steps,
                "seconds": round(self.seconds, 1),
                "return_mean": found.centre,
                "return_interval": found.high - found.centre,
                "episodes": found.count,
            }
            for name, value in point.items():
                self.curve.setdefault(name, []).append(value)

    def save(self, path: Path) -> None:
        """Write all that the rest of the training depends on."""
        notes = {
            # the precision as well: it was chosen by the clock, which may choose another next time
            "settings": asdict(self.settings) | {"half": self.half},
            "consoles": self.consoles.state(),
            "generator": base64.b85encode(bytes(self.generator.get_state().tolist())).decode(),
            "steps": self.steps,
            "seconds": self.seconds,
            "curve": self.curve,
        }
        states.save(path, self.net, {"adam": self.optimizer}, notes)

    def resume(self, path: Path) -> None:
        """Go on from a state of the same settings.

        Raises
        ------
        ValueError
            If the state is damaged, or of other settings; the message names them.
        """
        notes = states.load(path, self.net, {"adam": self.optimizer}, NOTES)
        mine = asdict(self.settings)
        theirs = asdict(type(self.settings)(self.settings.game)) | notes["settings"]
        other = {k for k in mine if theirs[k] != mine[k]}
        if other:
            said = ", ".join(f"{k} {theirs[k]} (now {mine[k]})" for k in sorted(other))
            raise ValueError(
                f"state {path} is of another training: {said}; move it away to start anew"
            )
        self.half = notes["settings"].get("half", self.half)
        self.consoles.restore(notes["consoles"])
        state = numpy.frombuffer(base64.b85decode(notes["generator"]), numpy.uint8)
        self.generator.set_state(torch.from_numpy(state.copy()))
        self.steps, self.seconds, self.curve = notes["steps"], notes["seconds"], notes["curve"]


def train(
    trainer: Trainer, path: Path, hours: float, until: int | None = None, quiet: bool = False
) -> None:
    """Train for a time, or to a number of decisions; go on from the state if there is one.

    Parameters
    ----------
    path : Path
        The state: read at the start if it is there, written at every milestone and at the end.
        Ctrl-C (and SIGTERM, through the command line) ends after the iteration in hand, so that
        the state is one that an uninterrupted training goes through.
    hours : float
        Wall time of this call.
    until : int, optional
        Decisions in all after which to stop.
    """
    if path.exists():
        trainer.resume(path)
    began = time.monotonic()
    first = trainer.steps
    goal = until if until is not None else trainer.settings.planned
    with (
        interruptible() as asked,
        tqdm(
            total=goal, initial=first, unit="step", unit_scale=True, disable=quiet, mininterval=1
        ) as bar,
    ):
        while until is None or trainer.steps < until:
            passed = time.monotonic() - began
            if asked.is_set() or passed > 3600 * hours:
                break
            trainer.iterate()
            bar.update(trainer.settings.batch)
            bar.set_postfix_str(_progress(trainer, first, began, hours))
            if trainer.at_milestone:
                trainer.save(path)
        trainer.save(path)
        if asked.is_set():
            raise KeyboardInterrupt


def _progress(trainer: Trainer, first: int, began: float, hours: float) -> str:
    passed = time.monotonic() - began
    recent = [score for score, _ in trainer.consoles.finished[-30:]]
    shown = f"{numpy.mean(recent):.1f}" if recent else "-"
    rate = (trainer.steps - first) / passed
    return f"return {shown}, {rate:.0f} steps/s, {max(0.0, 60 * hours - passed / 60):.0f} min left"
