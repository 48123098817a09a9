"""The marks of the figures: what they draw is what they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sobolev_lib.figures import marks, style
from sobolev_lib.records.summary import Interval

FOUND = Interval(2.0, 1.0, 4.0, 5)


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def corners(ax):
    """All data that lines of the axes hold, one row a line."""
    return [np.array(line.get_xydata()).tolist() for line in ax.lines]


@pytest.mark.parametrize("horizontal", [False, True])
def test_an_interval_has_its_ends_and_its_centre(ax, horizontal):
    marks.interval(ax, 7, FOUND, "sobolev", horizontal=horizontal)
    marks.interval(ax, 8, None, "sobolev")
    ends, centre = [[7, 1], [7, 4]], [[7, 2]]
    if horizontal:
        ends, centre = ([[y, x] for x, y in part] for part in (ends, centre))
    assert corners(ax) == [ends, centre]
    assert {line.get_color() for line in ax.lines} == {style.COLOURS["sobolev"]}


def test_a_band_is_as_wide_as_its_intervals(ax):
    marks.band(ax, [1, 2], [FOUND, Interval(3.0, 2.5, 3.5, 5)], "#123456", label="mine")
    marks.band(ax, [], [], "values")
    assert corners(ax) == [[[1, 2], [2, 3]]] and ax.lines[0].get_label() == "mine"
    [band] = ax.collections
    assert {tuple(point) for point in band.get_paths()[0].vertices} >= {
        *((1, 1), (1, 4), (2, 2.5), (2, 3.5)),
    }


def test_every_seed_is_a_dot(ax):
    marks.dots(ax, 3, [1.0, 5.0], "values", horizontal=True)
    assert corners(ax) == [[[1, 3], [5, 3]]]


def test_the_key_names_what_is_drawn(ax):
    marks.key(ax, ["values", "sobolev"], "Bar: 95 % interval.")
    assert [t.get_text() for t in ax.texts] == ["Values only", "Sobolev", "Bar: 95 % interval."]
    marks.key(ax, {"#123456": "N = 20"})
    assert ax.texts[-2].get_text() == "N = 20"


def test_panels_leave_one_for_the_key_and_name_the_outer_axes():
    titles = [f"f{i}" for i in range(7)]
    fig, axes, last = marks.panels(titles, "Steps", "Error", 4.0)
    assert [ax.get_title(loc="left") or ax.get_title() for ax in axes] == titles
    assert last not in axes and len(fig.axes) == 8
    assert [bool(ax.get_xlabel()) for ax in axes] == [False] * 3 + [True] * 4
    assert [bool(ax.get_ylabel()) for ax in axes] == [True, False, False, False, True, False, False]
    plt.close(fig)
