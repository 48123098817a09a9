"""Games in the vector environment: what recordings and a GPU play, with its traps closed."""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import NDArray

from .games import FRAME, REPEAT, STACK, check_actions, game_named, rom

OPTIONS: dict[str, Any] = {
    "repeat_action_probability": 0.0,  # gymnasium.make_vec would set 0.25
    "full_action_space": False,
    "max_num_frames_per_episode": 108_000,
    "autoreset_mode": "SameStep",  # no step whose action is ignored
    "img_height": FRAME,
    "img_width": FRAME,
    "grayscale": True,
    "stack_num": STACK,
    "frameskip": REPEAT,
    "maxpool": True,
    "noop_max": 30,
    "episodic_life": False,  # True would start a whole new game at each lost life
    "life_loss_info": True,  # a lost life is reported, the game goes on
    "reward_clipping": False,
    "use_fire_reset": True,
}


class Screens:
    """The vector environment, with its traps closed; games that are over start anew at once.

    It is used as :class:`.consoles.Consoles` with frames, but shows no memory.  Game k has the seed
    ``seed + k``; 0 threads are as many as there are cores.
    """

    def __init__(
        self,
        game: str,
        count: int,
        seed: int,
        threads: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.game = game_named(game)
        rom(game)  # its errors say what is missing
        from ale_py.vector_env import AtariVectorEnv

        chosen = OPTIONS if options is None else options
        self.environment = AtariVectorEnv(game, count, num_threads=threads, **chosen)
        self.actions = numpy.array(self.game.actions)
        self.count, self.seed, self.games_begun = count, seed, 0
        self.finished: list[tuple[float, int]] = []
        self.begin(seed)

    def __len__(self) -> int:
        return self.count

    def begin(self, seed: int) -> None:
        """Begin new games, all with zero frames before their first."""
        self.stack, info = self.environment.reset(seed=seed)
        self._frames = info["episode_frame_number"]
        self.score = numpy.zeros(self.count)
        self.length = numpy.zeros(self.count, numpy.int64)

    def step(
        self, actions: NDArray[numpy.int64]
    ) -> tuple[NDArray[numpy.float64], NDArray[numpy.bool_], NDArray[numpy.bool_]]:
        """Play one decision in each game, as :meth:`.consoles.Consoles.step`."""
        # the environment waits for ever on an action that it does not have
        check_actions(actions, self.count, len(self.actions), self.game.name)
        self.stack, rewards, ended, cut, info = self.environment.step(self.actions[actions])
        over = cut | (info["episode_frame_number"] <= self._frames)
        self._frames = info["episode_frame_number"]
        self.score += rewards
        self.length += 1
        for index in numpy.flatnonzero(over):
            self.finished.append((float(self.score[index]), int(self.length[index])))
            self.score[index] = self.length[index] = 0
        return numpy.asarray(rewards, numpy.float64), ended | over, over

    def state(self) -> dict[str, Any]:
        """Begin new games whose seed follows from what was played; return that seed.

        The environment cannot be saved.  So a training that writes its state begins new games, and
        one that goes on from the state begins the same.
        """
        self.games_begun += 1
        seed = self.seed + 1_000_003 * self.games_begun
        self.begin(seed)
        return {"seed": seed, "games_begun": self.games_begun, "finished": self.finished}

    def restore(self, state: dict[str, Any]) -> None:
        """Begin the games of a state."""
        self.games_begun = state["games_begun"]
        self.finished = [(float(score), int(length)) for score, length in state["finished"]]
        self.begin(state["seed"])
