"""The steps from a game to Fig. 4, one command each."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from sobolev_lib.records import ledger

from . import experts, milestones, ppo, teachers
from .games import GAMES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; return the exit status."""
    torch.set_num_threads(1)  # one core a training; several run side by side
    parser = argparse.ArgumentParser("python -m sobolev_lib.distillation", description=__doc__)
    steps = parser.add_subparsers(required=True, metavar="STEP")
    add(steps)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)  # a training writes its state and ends
    try:
        print(options.act(options))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the state", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def add(steps: Any) -> None:
    """Add the steps to a command line's subparsers."""
    expert = steps.add_parser("expert", help="train a policy on the console's memory")
    teacher = steps.add_parser("teacher", help="train the network of SM 3 on pixels")
    for parser in (expert, teacher):
        parser.add_argument("--game", choices=list(GAMES), required=True)
        parser.add_argument("--hours", type=float, default=0.5, help="time limit of this call")
        parser.add_argument("--until", type=int, help="decisions in all after which to stop")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument(
            "--states", type=Path, default=ledger.default_folder().parent / "states"
        )
        parser.add_argument("--name", help="of the state; KIND-GAME-SEED unless given")
        parser.add_argument(
            "--milestone",
            action="store_true",
            help="do not train: play, write weights and a record",
        )
        parser.add_argument(
            "--episodes", type=int, default=30, help="for --milestone; 0: no record"
        )
        parser.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_fields(expert, ppo.Settings)
    _add_fields(teacher, teachers.PixelSettings)
    expert.set_defaults(act=_train, kind="expert")
    teacher.set_defaults(act=_train, kind="teacher")


def _add_fields(parser: argparse.ArgumentParser, settings: Any) -> None:
    for entry in fields(settings):
        if entry.name not in ("game", "seed", "milestone"):
            parser.add_argument(f"--{entry.name.replace('_', '-')}", type=type(entry.default))


def _train(options: argparse.Namespace) -> str:
    kind = ppo.Settings if options.kind == "expert" else teachers.PixelSettings
    names = {entry.name for entry in fields(kind)} - {"milestone"}
    given = {name: getattr(options, name) for name in names}
    settings = kind(**{name: value for name, value in given.items() if value is not None})
    training: ppo.Trainer
    if isinstance(settings, teachers.PixelSettings):
        training = teachers.PixelTrainer(settings, experts.load(settings.game))
    else:
        training = experts.trainer(settings)
    name = options.name or f"{options.kind}-{settings.game}-{settings.seed}"
    path = options.states / f"{name}.safetensors"
    if options.milestone:
        book = ledger.Ledger(experts.EXPERIMENT)
        met = milestones.reach(training, path, options.kind, book, options.episodes, options.quiet)
        return (
            f"{settings.game}: return {met['return_mean']:.1f} +- {met['return_interval']:.1f} "
            f"over {met['episodes']} games after {met['steps']} decisions"
        )
    ppo.train(training, path, options.hours, options.until, quiet=options.quiet)
    return f"{settings.game}: {training.steps} decisions, state in {path}"
