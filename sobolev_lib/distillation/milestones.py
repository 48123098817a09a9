"""From a training's state to committed weights: play, judge, write weights and a record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sobolev_lib.records import ledger
from sobolev_lib.records.summary import interval

from . import experts, teachers, weights
from .consoles import LONGEST, Consoles
from .games import game_named
from .ppo import Games, Trainer
from .screens import Screens

EPISODES = 30
THREADS = 8  # of the games that are played beside a GPU
DEVIATIONS = [
    "Trained with PPO, not A3C, and for fewer steps than the paper's 80e6.",
    "The emulator's sticky actions are off; rewards are reduced to their sign, a lost life ends "
    "an episode for the advantages, but not the game.",
]
EXPERT_NOTES = [
    "The policy learnt beside an expert, trained with PPO on the 128 bytes of the console's "
    "memory, because PPO on pixels alone is too slow without a GPU. The expert went on training "
    "meanwhile: each stretch of the teacher's training had the expert's weights of its time.",
    "Of the two ways to learn beside an expert, imitation alone (DAgger) and PPO with a fading "
    "divergence (kickstarting), a trial on Breakout saw no difference after 61,000 decisions "
    "(returns of 4.5 and 4.9); kickstarting was chosen because it can pass its expert.",
]


@torch.no_grad()
def returns(
    policy: Callable[[Tensor], Any],
    game: str,
    observe: Callable[[Any], Tensor],
    seed: int,
    episodes: int = EPISODES,
    together: int = 10,
    quiet: bool = False,
    longest: int = LONGEST,
    threads: int = 0,
) -> dict[str, Any]:
    """Play whole games with the stochastic policy.

    Parameters
    ----------
    policy : callable
        From what ``observe`` returns to logits, or to logits and values.
    seed : int
        Of the games' starts and of the actions.
    episodes : int
        Each of the games played together plays as many, so that short ones count no more.
    longest : int
        Decisions after which a game is cut; its score counts.
    threads : int
        0: the games are played in :class:`.consoles.Consoles`, one after the other; otherwise in
        :class:`.screens.Screens`, on so many cores, and are never cut.

    Returns
    -------
    dict
        ``return_mean``, ``return_interval`` (half of 95 %), ``episodes``, ``returns``.
    """
    if episodes % together:
        raise ValueError(f"episodes is {episodes}; it must be a multiple of {together}")
    consoles: Games
    if threads:
        consoles = Screens(game, together, seed, threads)
    else:
        consoles = Consoles(game, together, seed, observe is teachers.frames, longest)
    generator = torch.Generator().manual_seed(seed)
    scores: list[list[float]] = [[] for _ in range(together)]
    with tqdm(total=episodes, unit="game", disable=quiet) as bar:
        while any(len(mine) < episodes // together for mine in scores):
            said = policy(observe(consoles))
            logs = (said if isinstance(said, Tensor) else said[0]).log_softmax(-1)
            playing = [len(mine) < episodes // together for mine in scores]
            actions = torch.multinomial(logs.exp(), 1, generator=generator)[:, 0]
            before = consoles.score.copy()
            reward, _, over = consoles.step(actions.numpy())
            for index in numpy.flatnonzero(over):
                if playing[index]:
                    scores[index].append(float(before[index] + reward[index]))
                    bar.update()
    flat = [score for mine in scores for score in mine]
    found = interval(flat)
    return {
        "return_mean": found.centre,
        "return_interval": found.high - found.centre,
        "episodes": found.count,
        "returns": flat,
    }


def reach(
    training: Trainer,
    path: Path,
    kind: str,
    book: ledger.Ledger,
    episodes: int = EPISODES,
    quiet: bool = False,
) -> dict[str, Any]:
    """Judge the policy of a state, write its weights and enter a record; return the metrics.

    Parameters
    ----------
    training : Trainer
        Of the state's settings.
    path : Path
        The state.
    kind : {"expert", "teacher"}
    episodes : int
        To play; 0: the games of the training's last milestone are taken instead, and the record
        says so.
    """
    if not path.exists():
        raise ValueError(f"there is no state at {path}; train first")
    training.resume(path)
    settings = training.settings
    net = training.net.teacher if isinstance(training, teachers.PixelTrainer) else training.net
    net.eval()
    seed = 10_000 + settings.seed  # starts that training has not seen
    begun = getattr(training, "begun", {})
    steps = training.steps + begun.get("steps", 0)
    if episodes:
        fast = isinstance(training.consoles, Screens)

        def policy(seen: Tensor) -> Tensor:
            return net(seen.to(training.device))[0].cpu()  # type: ignore[no-any-return]

        played = returns(
            policy, settings.game, training.observe, seed, episodes,
            together=episodes if fast else 10, quiet=quiet, threads=THREADS if fast else 0,
        )  # fmt: skip
    else:
        if not training.curve:
            raise ValueError(f"state {path} has no milestone yet; train on, or play some episodes")
        played = {name: values[-1] for name, values in training.curve.items()}
    judged = {"judged_on": "games of its own" if episodes else "the training's last games"}
    metrics = played | judged | {"steps": steps, "curve": training.curve}
    if begun:
        metrics["begun"] = begun
    route = "memory" if kind == "expert" else begun.get("route", teachers.route(settings))
    notes = {
        "game": settings.game,
        "actions": list(game_named(settings.game).names),
        "route": route,
        "steps": steps,
        "seconds": round(training.seconds),
        "return_mean": played["return_mean"],
        "return_interval": played["return_interval"],
    }
    precision = torch.float32 if kind == "expert" else torch.float16
    weights.save(weights.path(kind, settings.game), net, notes, precision)
    config = asdict(settings) | {"route": route, "steps": steps}
    seed = config.pop("seed")
    said = list(DEVIATIONS)
    if begun:
        config["start"] = hashlib.sha256(Path(config["start"]).read_bytes()).hexdigest()[:12]
        said.append(
            f"It went on from a policy that {begun['steps']} decisions of another training "
            f"({begun['route']}) had left, with a return of {begun['return_mean']:.1f}."
        )
    if route not in ("memory", "ppo"):
        said += EXPERT_NOTES
    record = ledger.Record(
        experts.EXPERIMENT, config, seed, metrics, "paper", said,
        device=ledger.device_name(training.device), seconds=training.seconds,
        peak_memory=ledger.peak_memory(training.device), **ledger.provenance(),
    )  # fmt: skip
    book.append([record])
    return metrics
