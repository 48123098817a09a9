"""Distillation: what a page brings back, trains and shows, and the player that a reader drives."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess

import numpy
import pytest
import torch
import traitlets
from PIL import Image

pytest.importorskip("ale_py", reason="the Atari emulator is an optional extra")

from matplotlib import pyplot as plt

from sobolev_lib.distillation import data, figures, scenes, students, weights
from sobolev_lib.distillation.games import GAMES
from sobolev_lib.distillation.networks import Teacher
from sobolev_lib.widgets.player import Player

NODE = shutil.which("node")
VIEWS = [
    pytest.param({}, id="desktop-http"),
    pytest.param(
        {"width": 360, "height": 800, "scheme": "dark", "origin": "file"}, id="phone-file"
    ),
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Data of a reader's own, with a teacher that has learnt nothing, and short beginnings."""
    monkeypatch.setenv("SOBOLEV_DATA", str(tmp_path))
    monkeypatch.setattr(data, "BEGINNING", 20)
    torch.manual_seed(0)
    teacher = Teacher(3)
    teacher.policy.weight.data *= 100
    notes = {"route": "ppo", "steps": 1, "return_mean": 0.0}
    weights.save(weights.path("teacher", "pong"), teacher, notes)
    return tmp_path


def opened(uri):
    head, packed = uri.split(",")
    assert head == "data:image/png;base64"
    return numpy.asarray(Image.open(io.BytesIO(base64.b64decode(packed))))


def test_a_beginning_is_played_where_nothing_was_recorded_and_replayed_where_it_was(home):
    assert scenes.has_teacher("pong") and not scenes.has_teacher("breakout")
    played = scenes.beginning("pong")
    assert not played.recorded
    assert len(played.frames) == len(played.actions) == 20 * data.STREAMS
    teacher, notes = scenes.arms.load_teacher("pong")
    made = data.record(
        "pong", scenes.chooser(teacher, 0), 0, {"weights": notes["weights"]}, 240, quiet=True
    )
    made.save(data.path("pong"))
    again = scenes.beginning("pong")
    assert again.recorded
    numpy.testing.assert_array_equal(again.frames.frames, played.frames.frames)
    numpy.testing.assert_array_equal(again.actions, played.actions)
    said = scenes.policy(again)
    numpy.testing.assert_allclose(numpy.exp(said).sum(1), 1, rtol=1e-5)
    data.Recording(made.actions, made.notes | {"weights": "of another"}).save(data.path("pong"))
    assert not scenes.beginning("pong").recorded


def test_a_clip_shows_the_frames_and_what_the_teacher_says(home, monkeypatch):
    start = scenes.beginning("pong")
    monkeypatch.setattr(scenes, "FIRST", 3)
    monkeypatch.setattr(scenes, "COUNT", 14)
    clip = scenes.clip("pong", start)
    assert clip["names"] == list(GAMES["pong"].names)
    numpy.testing.assert_allclose(
        clip["probabilities"], numpy.exp(scenes.policy(start)[3:17]), atol=6e-4
    )
    assert clip["played"] == start.actions[3:17].tolist()
    sheet = opened(clip["frames"])
    assert sheet.shape == (2 * 84, 12 * 84)
    numpy.testing.assert_array_equal(sheet[84:, 84:168], start.frames.frames[3 + 13])
    looks = opened(clip["looks"])
    assert looks.shape == sheet.shape
    assert looks[:84, :84].max() == 255, "the largest gradient is at full level"
    json.dumps(clip)
    Player(clips=[clip])


def test_a_page_trains_a_student_in_seconds(home):
    settings = students.Settings("pong", method="values", **scenes.SMALL | {"updates": 4})
    training = scenes.teach(scenes.small_sets(scenes.beginning("pong")), settings)
    assert training.update == 4
    plt.close(figures.live({"values": training.curve}))


def test_maps_are_drawn_from_the_largest_gradient_down():
    gradient = numpy.zeros((4, 84, 84), numpy.float32)
    gradient[1, 5, 6], gradient[2, 5, 6] = 3, -4
    shown = figures.heat(gradient)
    assert shown[5, 6] == 1 and shown.sum() == 1
    assert figures.heat(0 * gradient).max() == 0
    fig = figures.looks(
        numpy.zeros((2, 84, 84), numpy.uint8), {"Teacher": numpy.stack([gradient] * 2)}
    )
    assert [ax.get_title() for ax in fig.axes[:2]] == ["What is seen", "Teacher"]
    plt.close(fig)


def test_a_player_without_clips_or_with_half_a_clip_is_refused():
    with pytest.raises(traitlets.TraitError):
        Player(clips=[])
    with pytest.raises(traitlets.TraitError, match="lacks names"):
        Player(clips=[{"title": "Pong", **dict.fromkeys(Player.ENTRIES[2:])}])


@pytest.mark.skipif(NODE is None, reason="Node.js is not installed: it runs the JavaScript here")
def test_the_player_reads_sheets_and_speaks(tmp_path):
    (tmp_path / "widget.mjs").write_text(Player._esm, encoding="utf-8")
    clip = {
        "columns": 12, "side": 84, "names": ["stay", "up"], "played": [1, 0],
        "probabilities": [[0.3, 0.7], [0.9, 0.1]],
    }  # fmt: skip
    (tmp_path / "main.mjs").write_text(
        "import * as w from './widget.mjs';\n"
        f"const clip = {json.dumps(clip)};\n"
        "console.log(JSON.stringify([w.cell(clip, 13), w.sentence(clip, 0), w.stack([0.3, 0.7])]))",
        encoding="utf-8",
    )
    done = subprocess.run([NODE, "main.mjs"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    place, said, stacked = json.loads(done.stdout)
    assert place == [84, 84]
    assert said == "Frame 1 of 2. Most probable: up, 70 %. Played: up."
    assert stacked == [[0, 0.3], [0.3, 1.0]]


# --- in the browser -------------------------------------------------------------------------------


@pytest.fixture
def player(built_page):
    """Open the chapter; gives (page, the widget's section)."""

    def find(**view):
        page = built_page("teachers", **view)
        section = page.locator("section.sob-player").first
        section.wait_for()
        section.scroll_into_view_if_needed()
        return page, section

    return find


@pytest.mark.parametrize("view", VIEWS)
def test_a_reader_steps_through_a_clip(player, view):
    page, section = player(**view)
    status = section.get_by_role("status")
    status.filter(has_text="Frame 1 of").wait_for()
    section.get_by_role("button", name="Next").click()
    status.filter(has_text="Frame 2 of").wait_for()
    seek = section.get_by_role("slider", name="Frame")
    seek.focus()
    page.keyboard.press("ArrowRight")
    status.filter(has_text="Frame 3 of").wait_for()
    assert status.inner_text() in section.locator("canvas").first.get_attribute("aria-label")
    section.get_by_role("button", name="Back").click()
    status.filter(has_text="Frame 2 of").wait_for()
    cells = section.locator("td").all_inner_texts()
    shares = [int(cell.split()[0]) for cell in cells[::2]]
    assert sum(shares) == pytest.approx(100, abs=len(shares))
    assert cells[1::2].count("yes") == 1


def test_play_moves_and_pause_stops(player):
    page, section = player()
    play = section.get_by_role("button", name="Play")
    play.focus()
    page.keyboard.press("Enter")
    pause = section.get_by_role("button", name="Pause")
    page.wait_for_function("node => Number(node.value) > 3", arg=section.get_by_role(
        "slider", name="Frame").element_handle())  # fmt: skip
    pause.click()
    at = section.get_by_role("slider", name="Frame").input_value()
    section.get_by_role("status").filter(has_text=f"Frame {at} of").wait_for()
    page.wait_for_timeout(400)
    assert section.get_by_role("slider", name="Frame").input_value() == at


def test_the_page_of_the_clips_is_light(player, site):
    player()
    assert (site / "book" / "teachers.html").stat().st_size < 1.5e6
