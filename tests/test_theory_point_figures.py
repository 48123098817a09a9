"""Figures of the chapters on finitely many points: they fit a phone and show what they should."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

from sobolev_lib.figures import style
from sobolev_lib.theory import point_figures as figures

mpl.use("Agg")
PHONE = 358  # pixels of text on a phone of 390


@pytest.fixture(autouse=True)
def _style():
    with mpl.rc_context():
        style.use_style()
        yield
    plt.close("all")


X = np.array([-1.0, 0.0, 1.5])
DRAWINGS = {
    "interpolants": lambda: figures.draw_interpolants(X, np.sin(X), 2 * X),
    "gate": figures.draw_gate,
    "steepness": lambda: figures.draw_steepness(
        [10, 100, 1000], {"paper": [1e-2, 1e-4, 1e-6], "pair": [0.1, 1e-3, 1e-5]}, [2.0, 1.0, 0.5]
    ),
    "bump": figures.draw_bump,
    "pair": lambda: figures.draw_density_pair((2.0, 1.0), (2.8, 1.6), np.array([0.0, 3.0])),
    "pieces": figures.draw_pieces,
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_figures_fit_a_phone_and_nothing_is_cut(name):
    fig = DRAWINGS[name]()
    fig.canvas.draw()
    assert (fig.get_size_inches()[0] + 0.2) * 96 <= PHONE  # as notebooks save it
    drawn = fig.get_tightbbox(fig.canvas.get_renderer())  # inches
    width, height = fig.get_size_inches()
    assert drawn.x0 >= -0.01 and drawn.y0 >= -0.01
    assert drawn.x1 <= width + 0.01 and drawn.y1 <= height + 0.01


def line(ax, k=0):
    return ax.lines[k].get_xydata().T


def test_interpolants_pass_through_the_points():
    for ax in figures.draw_interpolants(X, np.sin(X), 2 * X).axes:
        at, value = line(ax)
        np.testing.assert_allclose(np.interp(X, at, value), np.sin(X), atol=1e-6)
        right = np.interp(X + 1e-3, at, value) - np.interp(X, at, value)
        np.testing.assert_allclose(right / 1e-3, 2 * X, atol=1e-4)


def test_the_difference_of_the_gates_is_the_plane_near_the_point():
    top, low = figures.draw_gate(value=-1.0, slope=2.0).axes
    x, first = line(top, 0)
    _, second = line(top, 1)
    _, difference = line(low, 1)
    np.testing.assert_allclose(first - second, difference)
    inside, outside = np.abs(x) < 0.2, np.abs(x) >= 1.0
    np.testing.assert_allclose(difference[inside], (-1.0 + 2.0 * x)[inside])
    np.testing.assert_allclose(difference[outside], 0.0, atol=1e-12)


def test_only_the_mended_bump_is_continuous_and_has_the_value():
    printed, mended = figures.draw_bump(value=1.0, slope=2.0, width=0.1).axes
    for ax, continuous in ((printed, False), (mended, True)):
        left, middle, right = (line(ax, k) for k in range(3))
        gaps = [abs(left[1][-1] - middle[1][0]), abs(middle[1][-1] - right[1][0])]
        assert (max(gaps) < 0.02) == continuous
        assert (abs(np.interp(0.0, *middle) - 1.0) < 1e-9) == continuous


def test_the_pair_of_densities_meets_at_the_dots():
    (ax,) = figures.draw_density_pair((2.0, 1.0), (2.0, 2.0), np.array([0.0])).axes
    dots = line(ax, 2)
    assert dots[1] == pytest.approx(np.exp(-0.5) / np.sqrt(2 * np.pi) / 2)  # that of the second
