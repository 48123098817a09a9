"""The three games: their actions, and errors that say what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from sobolev_lib.checks import check_choice

FRAME = 84  # rows and columns of a frame (SM 3)
STACK = 4  # frames that a policy sees (SM 3)
REPEAT = 4  # frames that an action is held for (SM 3)


@dataclass(frozen=True)
class Game:
    """A game and the actions that a policy chooses from.

    Parameters
    ----------
    name, title : str
        Of its file, as the emulator calls it; for pages.
    actions : tuple of int
        Indices into the minimal action set of the emulator.
    names : tuple of str
        What they do.
    """

    name: str
    title: str
    actions: tuple[int, ...]
    names: tuple[str, ...]


# SM 3 has 3 outputs for Pong: RIGHT moves the paddle up, LEFT down; the ball serves itself
GAMES = {
    game.name: game
    for game in (
        Game("pong", "Pong", (0, 2, 3), ("stay", "up", "down")),
        Game("breakout", "Breakout", (0, 1, 2, 3), ("stay", "fire", "right", "left")),
        Game(
            "space_invaders",
            "Space Invaders",
            (0, 1, 2, 3, 4, 5),
            ("stay", "fire", "right", "left", "right and fire", "left and fire"),
        ),
    )
}


class AtariError(RuntimeError):
    """The emulator, or a game's file, is missing; the message says what to do."""


def game_named(name: str) -> Game:
    """Return the game of that name, or refuse it by a ``ValueError``."""
    check_choice("game", name, GAMES)
    return GAMES[name]


def rom(game: str) -> str:
    """Path of the game's file.

    Raises
    ------
    AtariError
        If the emulator is not installed or does not bring that file.
    """
    game_named(game)
    try:
        from ale_py import roms
    except ImportError as error:
        raise AtariError(
            f"the Atari emulator cannot be imported ({error}); "
            "install it with: pip install 'sobolev-lib[atari]'"
        ) from error
    path = roms.get_rom_path(game)
    if path is None or not path.exists():
        raise AtariError(
            f"the emulator has no file for {game!r} (looked for {path}); "
            "install ale-py again: its package brings the games"
        )
    return str(path)


def emulator(game: str, repeat: int, seed: int) -> Any:
    """Return one console with the game, without sticky actions, ``repeat`` frames an action."""
    path = rom(game)
    from ale_py import ALEInterface, LoggerMode

    ALEInterface.setLoggerMode(LoggerMode.Error)
    console = ALEInterface()
    console.setInt("random_seed", seed)
    console.setInt("frame_skip", repeat)
    console.setFloat("repeat_action_probability", 0.0)
    console.loadROM(path)
    return console


def check_actions(actions: NDArray[Any], games: int, count: int, name: str) -> None:
    """Refuse what is not a whole number from 0 to ``count - 1`` for each game.

    The emulator would wait on it for ever.
    """
    if actions.shape != (games,) or not numpy.issubdtype(actions.dtype, numpy.integer):
        raise ValueError(
            f"actions have shape {actions.shape} and type {actions.dtype}; "
            f"they must be whole numbers of shape ({games},), one for each game"
        )
    if len(actions) and not (0 <= int(actions.min()) and int(actions.max()) < count):
        raise ValueError(
            f"actions go from {actions.min()} to {actions.max()}; {name} has 0 to {count - 1}"
        )
