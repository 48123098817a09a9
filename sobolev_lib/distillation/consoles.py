"""Games on the emulator itself: memory and frames of the same moment, and states that resume.

The vector environment of ``distillation.screens`` is what recordings use. It shows no memory and
cannot be saved, so that teachers train here: :class:`Consoles` drives one emulator a game, with
the same frames to the last bit (a test compares them).
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from .games import FRAME, REPEAT, STACK, check_actions, emulator, game_named

MEMORY = 128
LONGEST = 27_000  # decisions a game: 108,000 frames, as everywhere in the literature
NOOPS = 30
ARRAYS = ("memory", "before", "stack", "score", "length", "lives")  # of a state
Bytes = NDArray[numpy.uint8]


class Consoles:
    """Several games of one kind, stepped together; a game that is over starts anew at once.

    Parameters
    ----------
    game : str
        A name of :data:`.games.GAMES`.
    count : int
        Number of games.
    seed : int
        Of the random number of idle frames that each game starts with.
    frames : bool
        Also keep the last four frames, 84 x 84 and grey.
    longest : int
        Decisions after which a game is cut.

    Attributes
    ----------
    memory, before : (count, 128) uint8
        The console's memory now and one decision ago.
    stack : (count, 4, 84, 84) uint8
        The last four frames, if ``frames``; zero before the start of a game.
    finished : list of (float, int)
        Score and decisions of the games that are over, since the caller emptied the list.
    """

    def __init__(
        self, game: str, count: int, seed: int, frames: bool = False, longest: int = LONGEST
    ) -> None:
        self.game = game_named(game)
        self.frames, self.longest = frames, longest
        self.rng = numpy.random.default_rng(seed)
        self.emulators = [
            emulator(game, 1 if frames else REPEAT, seed + index) for index in range(count)
        ]
        self.actions = [self.emulators[0].getMinimalActionSet()[i] for i in self.game.actions]
        self.fires = any(a.name == "FIRE" for a in self.emulators[0].getMinimalActionSet())
        shown = count if frames else 0
        self.memory: Bytes = numpy.zeros((count, MEMORY), numpy.uint8)
        self.before = numpy.zeros_like(self.memory)
        self.stack: Bytes = numpy.zeros((shown, STACK, FRAME, FRAME), numpy.uint8)
        self._screens: Bytes = numpy.zeros((shown, 2, 210, 160), numpy.uint8)
        self.score = numpy.zeros(count)
        self.length = numpy.zeros(count, numpy.int64)
        self.lives = numpy.zeros(count, numpy.int64)
        self.finished: list[tuple[float, int]] = []
        for index in range(count):
            self._start(index)
        self._look(list(range(count)))

    def __len__(self) -> int:
        return len(self.emulators)

    def step(
        self, actions: NDArray[numpy.int64]
    ) -> tuple[NDArray[numpy.float64], NDArray[numpy.bool_], NDArray[numpy.bool_]]:
        """Play one decision (four frames) in each game.

        Parameters
        ----------
        actions : (count,) int
            Indices into the game's actions.

        Returns
        -------
        rewards : (count,) float64
            As the game gives them, neither cut nor reduced to their sign.
        lost : (count,) bool
            A life was lost or the game is over.
        over : (count,) bool
            The game is over; what is seen now is the start of the next.
        """
        check_actions(actions, len(self), len(self.actions), self.game.name)
        rewards = numpy.zeros(len(self))
        lost = numpy.zeros(len(self), bool)
        over = numpy.zeros(len(self), bool)
        self.before[:] = self.memory
        for index, console in enumerate(self.emulators):
            rewards[index] = self._act(index, self.actions[actions[index]])
            self.score[index] += rewards[index]
            self.length[index] += 1
            lives = console.lives()
            over[index] = console.game_over() or self.length[index] >= self.longest
            lost[index] = over[index] or lives < self.lives[index]
            self.lives[index] = lives
            if over[index]:
                self.finished.append((float(self.score[index]), int(self.length[index])))
                self._start(index)
        self._look(numpy.flatnonzero(over).tolist())
        return rewards, lost, over

    def _act(self, index: int, action: Any) -> float:
        console = self.emulators[index]
        if not self.frames:
            return float(console.act(action))
        reward = 0.0
        for frame in range(REPEAT):
            reward += console.act(action)
            if frame >= REPEAT - 2:
                console.getScreenGrayscale(self._screens[index, frame - REPEAT + 2])
            if console.game_over():
                break
        return reward

    def _start(self, index: int) -> None:
        console = self.emulators[index]
        console.reset_game()
        noop, fire = (console.getLegalActionSet()[i] for i in (0, 1))
        for _ in range(int(self.rng.integers(1, NOOPS + 1))):
            console.act(noop)
        if self.fires:
            console.act(fire)
        if self.frames:
            console.getScreenGrayscale(self._screens[index, 1])
            self._screens[index, 0] = self._screens[index, 1]
        self.score[index] = self.length[index] = 0
        self.lives[index] = console.lives()

    def _look(self, started: list[int]) -> None:
        for index, console in enumerate(self.emulators):
            console.getRAM(self.memory[index])
        self.before[started] = self.memory[started]
        if self.frames:
            self.stack[:, :-1] = self.stack[:, 1:]
            self.stack[started] = 0
            self.stack[:, -1] = shrink(self._screens.max(1))

    def state(self) -> dict[str, Any]:
        """All that the games to come depend on, as JSON."""
        emulators = [e.cloneState(include_rng=True).serialize() for e in self.emulators]
        return {
            "emulators": [_packed(one) for one in emulators],
            "rng": self.rng.bit_generator.state,
            "finished": self.finished,
        } | {name: _packed(getattr(self, name).tobytes()) for name in ARRAYS}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state` was called, in an object made with the same arguments.

        Raises
        ------
        ValueError
            If the state is of another number of games.
        """
        from ale_py import ALEState

        if len(state["emulators"]) != len(self):
            raise ValueError(f"the state has {len(state['emulators'])} games, not {len(self)}")
        for console, packed in zip(self.emulators, state["emulators"], strict=True):
            console.restoreState(ALEState(_unpacked(packed)))
        self.rng.bit_generator.state = state["rng"]
        self.finished = [(float(score), int(length)) for score, length in state["finished"]]
        for name in ARRAYS:
            array = getattr(self, name)
            saved = numpy.frombuffer(_unpacked(state[name]), array.dtype)
            array[:] = saved.reshape(array.shape)


def _packed(data: bytes) -> str:
    return base64.b85encode(zlib.compress(data, 1)).decode()


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b85decode(text))


def shrink(screens: Bytes) -> Bytes:
    """Reduce grey screens (n, 210, 160) to (n, 84, 84) by averaging over areas, all uint8."""
    rows, columns = _areas(screens.shape[1]), _areas(screens.shape[2])
    small = rows @ (torch.from_numpy(screens).float() @ columns.T)  # columns first, as OpenCV
    return small.round_().to(torch.uint8).numpy()


def _areas(size: int) -> torch.Tensor:
    # row i averages the pixels under the interval [i, i + 1) of the small picture
    edges = torch.arange(FRAME + 1, dtype=torch.float64) * size / FRAME
    pixels = torch.arange(size, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (overlap.clamp(min=0) * FRAME / size).float()
