"""The steps from a game to Fig. 4, one command each."""

from __future__ import annotations

import argparse
import functools
import itertools
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from sobolev_lib.records import ledger, sweep
from sobolev_lib.records import options as given

from . import arms, data, experts, milestones, ppo, results, scenes, students, teachers
from .games import GAMES

LENGTHS = ("updates", "points", "games")
OTHERS = [entry.name for entry in fields(students.Settings) if entry.name not in LENGTHS]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; return the exit status."""
    torch.set_num_threads(1)  # one core a training; several run side by side
    parser = argparse.ArgumentParser("python -m sobolev_lib.distillation", description=__doc__)
    steps = parser.add_subparsers(required=True, metavar="STEP")
    add(steps)
    return given.run(parser.parse_args(arguments))


def add(steps: Any) -> None:
    """Add the steps to a command line's subparsers."""
    expert = steps.add_parser("expert", help="train a policy on the console's memory")
    teacher = steps.add_parser("teacher", help="train the network of SM 3 on pixels")
    recorder = steps.add_parser("record", help="let a teacher play 100K states, keep its actions")
    player = steps.add_parser("replay", help="bring the recorded frames back into the cache")
    student = steps.add_parser("distill", help="train students with and without derivatives")
    for parser in (expert, teacher, recorder, player, student):
        several = parser in (teacher, player, student)
        parser.add_argument(
            "--game", choices=list(GAMES), required=True, **({"nargs": "+"} if several else {})
        )
        if parser is not student:
            parser.add_argument("--quiet", action="store_true", help="no progress bar")
    for parser, kind in ((expert, ppo.Settings), (teacher, teachers.PixelSettings)):
        parser.add_argument("--hours", type=float, default=0.5, help="time limit of this call")
        parser.add_argument("--until", type=int, help="decisions in all after which to stop")
        parser.add_argument(
            "--milestone",
            action="store_true",
            help="do not train: play, write weights and a record",
        )
        parser.add_argument(
            "--episodes",
            type=int,
            default=30,
            help="for --milestone; 0: judge by the training's last games",
        )
        given.add_fields(parser, kind, ("game", "milestone"), "instead of the defaults")
    teacher.add_argument(
        "--device", default="cpu", help="cuda: PPO on pixels alone, a process for each game"
    )
    for parser in (recorder, student):
        parser.add_argument("--device", default="cpu", help="of the networks: cpu or cuda")
    teacher.add_argument("--threads", type=int, default=5, help="of the games, beside a GPU")
    for parser in (expert, teacher, student):
        parser.add_argument("--states", type=Path, default=ledger.beside("states"))
    recorder.add_argument("--seed", type=int, default=0)
    recorder.add_argument(
        "--states", type=given.positive, default=data.STATES, help="of all streams together"
    )
    recorder.add_argument(
        "--streams", type=given.positive, default=data.STREAMS, help="games side by side"
    )
    _add_students(student)
    expert.set_defaults(act=_expert)
    teacher.set_defaults(act=_teacher)
    recorder.set_defaults(act=_record)
    player.set_defaults(act=_replay)
    student.set_defaults(act=_distill)


def _add_students(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.01, 0.05])
    parser.add_argument(
        "--arms", nargs="+", default=["paper"], choices=list(arms.ARMS), metavar="ARM",
        help=f"what is compared: {', '.join(arms.ARMS)}",
    )  # fmt: skip
    parser.add_argument(
        "--keep", action="store_true",
        help=f"write the weights of seed 0 at fraction {arms.KEPT:g} of the paper's arm",
    )  # fmt: skip
    given.add_runs(parser)
    given.add_fields(parser, students.Settings, OTHERS)


def _expert(options: argparse.Namespace) -> str:
    settings = ppo.Settings(**given.changes(options, ppo.Settings, ("milestone",)))
    return _train(options, experts.trainer(settings), "expert")


def _teacher(options: argparse.Namespace) -> str:
    if len(options.game) == 1:
        return _one_teacher(options, options.game[0])
    with ProcessPoolExecutor(len(options.game), mp_context=get_context("spawn")) as pool:
        act = functools.partial(_one_teacher, options)
        return "\n".join(pool.map(act, options.game))


def _one_teacher(options: argparse.Namespace, game: str) -> str:
    torch.set_num_threads(1)
    gpu = options.device != "cpu"
    named = given.changes(options, teachers.PixelSettings, ("game", "milestone"))
    settings = teachers.PixelSettings(game, **((teachers.FROM_SCRATCH if gpu else {}) | named))
    expert = experts.load(game) if settings.imitation else None
    training = teachers.PixelTrainer(settings, expert, options.device, options.threads)
    return _train(options, training, "teacher")


def _train(options: argparse.Namespace, training: ppo.Trainer, kind: str) -> str:
    settings = training.settings
    path = options.states / f"{kind}-{settings.game}-{settings.seed}.safetensors"
    if options.milestone:
        book = ledger.Ledger(experts.EXPERIMENT)
        met = milestones.reach(training, path, kind, book, options.episodes, options.quiet)
        return (
            f"{settings.game}: return {met['return_mean']:.1f} +- {met['return_interval']:.1f} "
            f"over {met['episodes']} games after {met['steps']} decisions"
        )
    # told to end, it writes its state first, as after Ctrl-C
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        ppo.train(training, path, options.hours, options.until, quiet=options.quiet)
    finally:
        signal.signal(signal.SIGTERM, before)
    precision = "bfloat16" if training.half else "float32"
    return f"{settings.game}: {training.steps} decisions in {precision}, state in {path}"


def _record(options: argparse.Namespace) -> str:
    teacher, notes = arms.load_teacher(options.game)
    kept = {"teacher": notes, "weights": notes["weights"]}
    path = data.path(options.game)
    made = data.record(
        options.game, scenes.chooser(teacher, options.seed, options.device), options.seed, kept,
        options.states, options.streams, options.quiet, ledger.beside("cache"),
    )  # fmt: skip
    made.save(path)
    return f"{options.game}: {made.actions.size} states in {path}"


def _replay(options: argparse.Namespace) -> str:
    said = []
    for game in options.game:
        frames = data.replay(data.Recording.load(data.path(game)), None, options.quiet)
        said.append(f"{game}: {len(frames)} states of {int(frames.starts.sum())} games")
    return "\n".join(said)


def _distill(options: argparse.Namespace) -> str:
    changed = given.changes(options, students.Settings, OTHERS)
    places = given.Places.of(options, arms.EXPERIMENT)
    deadline = None if options.seconds is None else time.monotonic() + options.seconds

    def run(todo: list[sweep.Job]) -> int:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        return sweep.sweep(arms.EXPERIMENT, todo, places.book, executor, options.quiet, left)

    entered = 0
    chosen: dict[str, dict[str, students.Settings]] = {game: {} for game in options.game}
    with sweep.workers(options.workers, options.scheduler) as executor:
        for game, row in itertools.product(options.game, arms.rows(options.arms)):
            while row not in chosen[game]:
                todo, best = arms.pilots(game, row, places.book.read(), arms.sources(game))
                if best:
                    chosen[game][row] = best
                elif new := run(
                    arms.jobs(todo, [arms.PILOT_SEED], options.states, device=options.device)
                ):
                    entered += new
                else:
                    return f"{entered} records entered; out of time, go on with the same command"
        jobs = []
        for game, fraction in itertools.product(options.game, options.fractions):
            for arm in options.arms:
                some = arms.students(arm, game, fraction, chosen[game], **changed)
                keep = options.keep and arm == "paper" and fraction == arms.KEPT
                jobs += arms.jobs(some, places.seeds, options.states, keep, options.device)
        entered += run(jobs)
    said = [f"{entered} records entered in {places.book.path}"]
    for game, rows in chosen.items():
        said += [
            f"{game}, {row}: learning rate {best.learning_rate:g}, alpha {best.alpha:g}"
            for row, best in rows.items()
        ]
    return "\n".join([*said, *results.costs(places.book.read())])
