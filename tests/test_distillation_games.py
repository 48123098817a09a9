"""Distillation: the games, their traps, recordings and splits."""

from __future__ import annotations

import builtins
import hashlib
import json
import shutil

import numpy
import pytest
import torch

pytest.importorskip("ale_py", reason="the Atari emulator is an optional extra")

from sobolev_lib.distillation import commands, data, games, weights
from sobolev_lib.distillation.consoles import Consoles, shrink
from sobolev_lib.distillation.games import GAMES
from sobolev_lib.distillation.networks import Teacher
from sobolev_lib.distillation.screens import OPTIONS, Screens
from sobolev_lib.records import ledger

# The same on two processors (with and without AVX-512), ale-py 0.12.1: a recording is portable.
PORTABLE = {
    "pong": "faef28d3e4bd",
    "breakout": "8f48abdfe610",
    "space_invaders": "30f48fd53c5b",
}


def random_actions(game, shape, seed=0):
    return numpy.random.default_rng(seed).integers(0, len(GAMES[game].actions), shape)


@pytest.mark.parametrize("game", GAMES)
def test_frames_are_those_of_another_processor(game):
    """500 steps of 8 games in the full action set of the emulator, hashed as frames and rewards."""
    options = OPTIONS | {"autoreset_mode": "NextStep"}
    screens = Screens(game, 8, 123, options=options)
    environment = screens.environment
    count = int(environment.single_action_space.n)
    actions = numpy.random.Generator(numpy.random.PCG64(7)).integers(0, count, (500, 8))
    found = hashlib.sha256(numpy.ascontiguousarray(screens.stack[:, -1]).tobytes())
    for chosen in actions:
        stack, rewards, *_ = environment.step(chosen)
        found.update(numpy.ascontiguousarray(stack[:, -1]).tobytes())
        found.update(numpy.asarray(rewards, numpy.float32).tobytes())
    assert found.hexdigest().startswith(PORTABLE[game])


@pytest.mark.parametrize("make", [Consoles, Screens])
@pytest.mark.parametrize(
    ("actions", "said"),
    [
        (numpy.array([0, 3]), "0 to 2"),
        (numpy.array([-1, 0]), "0 to 2"),
        (numpy.array([0]), r"shape \(2,\)"),
        (numpy.array([0.0, 1.0]), "whole numbers"),
    ],
)
def test_an_action_that_the_game_does_not_have_is_refused(make, actions, said):
    """The vector environment itself would wait for ever."""
    with pytest.raises(ValueError, match=said):
        make("pong", 2, 0).step(actions)


def test_pong_has_three_actions_and_they_move_the_paddle():
    rows = {}
    for action, name in enumerate(GAMES["pong"].names):
        screens = Screens("pong", 1, 0)
        for _ in range(4):  # further down a wall hides it
            screens.step(numpy.array([action]))
        paddle = screens.stack[0, -1, 15:76, 74:76].astype(int)  # right side, between the walls
        light = numpy.abs(paddle - numpy.median(paddle)).max(1) > 30
        rows[name] = numpy.flatnonzero(light).mean()
    assert rows["up"] < rows["stay"] < rows["down"]


@pytest.mark.parametrize("make", [Consoles, Screens])
def test_a_lost_life_does_not_end_the_game(make):
    """Breakout: five lives; the score runs on over the lost ones, and only the fifth ends it."""
    screens = make("breakout", 4, 1)
    lost, over = numpy.zeros(4, int), numpy.zeros(4, int)
    first = {}
    for chosen in random_actions("breakout", (500, 4)):
        _, life, end = screens.step(chosen)
        lost += life
        over += end
        for k in numpy.flatnonzero(end):
            first.setdefault(int(k), int(lost[k]))
    assert over.min() >= 1
    assert set(first.values()) == {5}
    assert len(screens.finished) == over.sum()


def test_scores_add_the_rewards_as_the_game_gives_them():
    screens = Screens("space_invaders", 2, 3)
    total, scores = numpy.zeros(2), []
    for chosen in random_actions("space_invaders", (1_200, 2)):
        rewards, _, over = screens.step(chosen)
        total += rewards
        scores += total[over].tolist()
        total[over] = 0
    assert max(scores) >= 20  # a reward cut to 1 would stay far below
    assert scores == [score for score, _ in screens.finished]


def test_before_a_game_there_are_zero_frames():
    for screens in (Screens("breakout", 3, 0), Consoles("breakout", 3, 0, frames=True)):
        assert not screens.stack[:, :3].any()
        assert screens.stack[:, 3].any((1, 2)).all()
        for chosen in random_actions("breakout", (250, 3)):
            *_, over = screens.step(chosen)
            if over.any():
                break
        assert not screens.stack[over, :3].any()
        assert screens.stack[over, 3].any()
        assert screens.stack[~over, :3].any((1, 2, 3)).all()


def test_consoles_show_the_frames_of_the_vector_environment():
    """From the same start, with the same actions; a level of 1 where rounding differs."""
    environment = Screens("pong", 1, 3, options=OPTIONS | {"noop_max": 1})
    console = games.emulator("pong", 1, 3)
    console.reset_game()
    console.act(console.getMinimalActionSet()[0])
    actions = console.getMinimalActionSet()
    screens = numpy.zeros((2, 210, 160), numpy.uint8)
    for chosen in random_actions("pong", (200, 1)):
        environment.step(chosen)
        for frame in range(4):
            console.act(actions[GAMES["pong"].actions[chosen[0]]])
            if frame >= 2:
                console.getScreenGrayscale(screens[frame - 2])
        mine = shrink(screens.max(0)[None])[0].astype(int)
        assert numpy.abs(mine - environment.stack[0, -1]).max() <= 1


def test_shrinking_averages_areas():
    screens = numpy.random.default_rng(0).integers(0, 256, (2, 210, 160)).astype(numpy.uint8)
    fine = screens.repeat(2, 1).repeat(21, 2).astype(float)  # 420 x 3360 = 84 * (5 x 40)
    exact = fine.reshape(2, 84, 5, 84, 40).mean((2, 4))
    assert numpy.abs(shrink(screens) - exact).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("frames", [False, True])
def test_consoles_go_on_from_a_state_as_if_never_stopped(frames):
    one, two = (Consoles("breakout", 3, seed, frames) for seed in (0, 9))
    actions = random_actions("breakout", (300, 3))
    for chosen in actions[:150]:
        one.step(chosen)
    two.restore(json.loads(json.dumps(one.state())))
    for chosen in actions[150:]:
        for mine, other in zip(one.step(chosen), two.step(chosen), strict=True):
            numpy.testing.assert_array_equal(mine, other)
        numpy.testing.assert_array_equal(one.memory, two.memory)
        numpy.testing.assert_array_equal(one.stack, two.stack)
    assert one.finished == two.finished
    with pytest.raises(ValueError, match="3 games, not 2"):
        Consoles("breakout", 2, 0, frames).restore(one.state())


def test_screens_begin_the_same_games_after_a_state():
    one, two = Screens("breakout", 2, 0), Screens("breakout", 2, 5)
    for chosen in random_actions("breakout", (20, 2)):
        one.step(chosen)
    two.restore(json.loads(json.dumps(one.state())))
    numpy.testing.assert_array_equal(one.stack, two.stack)
    before = one.stack.copy()
    one.state()
    assert (one.stack != before).any(), "the next games are other ones"


def test_a_wrong_name_names_the_games():
    with pytest.raises(ValueError, match="pong, breakout, space_invaders"):
        Consoles("SpaceInvaders", 1, 0)


def test_a_missing_emulator_or_file_says_what_to_install(monkeypatch):
    from ale_py import roms

    monkeypatch.setattr(roms, "get_rom_path", lambda name: None)
    with pytest.raises(games.AtariError, match="install ale-py again"):
        Screens("pong", 1, 0)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "ale_py":
            raise ImportError("No module named 'ale_py'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(games.AtariError, match=r"sobolev-lib\[atari\]"):
        Consoles("pong", 1, 0)


@pytest.fixture(scope="module")
def recording():
    """Made by a random policy; with everything that the policy saw."""
    seen = []
    actions = iter(random_actions("breakout", (300, 3)))

    def choose(stack):
        seen.append(stack.copy())
        return next(actions)

    made = data.record("breakout", choose, 11, {"weights": "none"}, 900, 3, quiet=True)
    return made, numpy.stack(seen, 1).reshape(-1, 4, 84, 84)


def test_replay_brings_back_what_the_policy_saw(recording, tmp_path):
    made, seen = recording
    made.save(tmp_path / "breakout.npz")
    assert (tmp_path / "breakout.npz").stat().st_size < 3_000
    frames = data.replay(data.Recording.load(tmp_path / "breakout.npz"), tmp_path, quiet=True)
    assert frames.starts.sum() > 3, "games end within the streams"
    numpy.testing.assert_array_equal(frames.stacks(numpy.arange(len(frames))), seen)
    shuffled = numpy.random.default_rng(0).permutation(len(frames))[:50]
    numpy.testing.assert_array_equal(frames.stacks(shuffled), seen[shuffled])


def test_the_beginning_is_played_again_without_a_cache(recording):
    made, seen = recording
    numpy.testing.assert_array_equal(
        data.beginning(made).frames, seen[numpy.arange(900) % 300 < 250, -1]
    )
    changed = data.Recording(made.actions[::-1], made.notes)
    with pytest.raises(data.RecordingError, match="other frames"):
        data.beginning(changed)


@pytest.mark.parametrize("game", GAMES)
def test_a_teacher_is_recorded_and_replayed_by_commands(game, tmp_path, monkeypatch, capsys):
    """What the recording kept beside the cache brings the same cache back."""
    monkeypatch.setenv("SOBOLEV_DATA", str(tmp_path))
    torch.manual_seed(0)
    notes = {"route": "ppo", "steps": 1, "return_mean": 0.0}
    teacher = Teacher(len(GAMES[game].actions))
    weights.save(weights.path("teacher", game), teacher, notes)
    words = ["record", "--game", game, "--states", "88", "--streams", "3", "--seed", "5", "--quiet"]
    assert commands.main(words) == 0
    assert "90 states" in capsys.readouterr().out
    path = data.path(game)
    played = data.Recording.load(path)
    (kept,) = ledger.beside("cache").iterdir()
    before = [numpy.load(kept / name) for name in ("frames.npy", "starts.npy")]
    shutil.rmtree(kept)
    assert commands.main(["replay", "--game", game, "--quiet"]) == 0
    assert "90 states" in capsys.readouterr().out
    for name, array in zip(("frames.npy", "starts.npy"), before, strict=True):
        numpy.testing.assert_array_equal(numpy.load(kept / name), array)
    data.Recording(played.actions, played.notes | {"frames": "0" * 64}).save(path)
    assert commands.main(["replay", "--game", game, "--quiet"]) == 2
    assert "other frames than were recorded" in capsys.readouterr().err


def test_a_replay_that_differs_says_so_and_leaves_nothing(recording, tmp_path):
    made, _ = recording
    other = data.Recording(made.actions, made.notes | {"seed": 12, "ale_py": "0.11.0"})
    with pytest.raises(data.RecordingError, match=r"0\.11\.0.*record --game breakout"):
        data.replay(other, tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "actions"])
def test_a_damaged_recording_is_refused(recording, tmp_path, damage):
    path = tmp_path / "breakout.npz"
    made, _ = recording
    if damage == "actions":
        other = made.actions.copy()
        other[7, 1] = 1 - min(other[7, 1], 1)
        made = data.Recording(other, made.notes)
    made.save(path)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        path.write_bytes(whole[:150] + bytes([whole[150] ^ 255]) + whole[151:])
    elif damage == "missing":
        path.unlink()
    with pytest.raises(data.RecordingError, match=r"restore it|make it first"):
        data.Recording.load(path)


@pytest.mark.parametrize("cut", [KeyboardInterrupt, data.RecordingError])
def test_a_recording_that_is_cut_leaves_no_frames(monkeypatch, tmp_path, cut):
    def choose(stacks):
        raise cut("cut")

    with pytest.raises(cut, match="cut"):
        data.record("breakout", choose, 0, {}, 600, 1, True, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_never_serves_is_noticed(monkeypatch):
    monkeypatch.setattr(data, "STUCK", 60)
    with pytest.raises(data.RecordingError, match="FIRE"):
        data.record("breakout", lambda s: numpy.zeros(len(s), int), 0, {}, 600, 1, True)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.25, 0.9])
def test_no_game_is_in_training_and_test(fraction):
    random = numpy.random.default_rng(1)
    starts = numpy.zeros(20_000, bool)
    starts[0] = True
    starts[random.choice(20_000, 60, replace=False)] = True
    parts = data.split(starts, fraction)
    game = starts.cumsum()
    used = numpy.concatenate([parts.train, parts.validation])
    assert not set(game[used]) & set(game[parts.test])
    assert not set(parts.train) & set(parts.validation)
    assert parts.train.max() < parts.validation.min() <= used.max() < parts.test.min()
    assert used.max() < round(fraction * 20_000)
    assert starts[parts.test[0]]
    assert len(parts.train) + len(parts.validation) > 0.85 * fraction * 20_000


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5, 0.999])
def test_a_fraction_that_leaves_nothing_is_refused(fraction):
    starts = numpy.arange(1_000) % 400 == 0
    with pytest.raises(ValueError, match="fraction"):
        data.split(starts, fraction)
