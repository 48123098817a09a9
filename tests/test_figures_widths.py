"""The second drawing of a figure, for a phone, and its colours on a dark page."""

import base64
import itertools
import re
import sys
import warnings
import zlib
from io import BytesIO
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from book_files import ROOT
from matplotlib import pyplot as plt
from matplotlib.text import Text

from sobolev_lib.figures import ends, marks, style, widths

sys.path.insert(0, str(ROOT / "tools"))
import pictures

NAMES = ["Sobolev, autograd, loop, several optimisers", "Sobolev, stack", "Values only, loop"]


@pytest.fixture(autouse=True)
def book_style():
    with mpl.rc_context():
        style.use_style()
        yield


def panels():
    """Three panels that share an ordinate, with a legend and a long title."""
    fig, axes = style.figure(1, 3, width="wide", height=3, sharey=True)
    for k, ax in enumerate(axes):
        ax.plot([0, 1], [0, k], label="something with quite a long name")
        ax.set(title=f"Panel {k}: a title that is longer than a phone is wide", xlabel="step")
    axes[0].set_ylabel("error")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def many():
    """Eight panels, the last of them a key."""
    fig, axes = style.figure(2, 4, width="wide", height=4)
    for ax in axes.flat[:-1]:
        ax.plot([1, 2], [1, 2])
    axes[1, 3].axis("off")
    axes[1, 3].text(0.02, 0.5, "What the line means, in a sentence that is long", fontsize=8)
    return fig


def key():
    """Seven panels and a key, whose names need two lines each on a phone."""
    fig, axes, last = marks.panels([f"panel {k}" for k in range(7)], "step", "error", 4.6)
    for ax in axes:
        ax.plot([0, 1], [0, 1])
    names = ["sobolev", "kernel", "equal_information", "smooth"]
    marks.key(last, names, "N = 100. Median, 95 % interval of the seeds.")
    return fig


def listing():
    """A list of long names."""
    fig, ax = style.figure(width="text", height=2)
    ax.plot([1, 2, 3], range(3))
    ax.set_yticks(range(3), NAMES)
    ax.set_xlabel("Peak memory of one gradient, in signals of one hidden layer of the network")
    return fig


def line_ends():
    """Eight lines that end at one point, with their names there."""
    fig, ax = style.figure(width="text")
    lines = [ax.plot([0, 1], [k, 0], label=f"the method number {k} of the eight") for k in range(8)]
    style.label_ends(ax, [line for (line,) in lines])
    return fig


def solid():
    """A figure of another making: axes at a place of their own."""
    fig, _ = style.figure(width="wide")
    fig.clear()
    fig.set_layout_engine("none")
    fig.add_axes((0.2, 0.2, 0.7, 0.7)).plot([0, 1])
    return fig


MADE = [panels, many, key, listing, line_ends, solid]


def picture(fig):
    """Pixels of a figure, which say whether anything is not as it was."""
    buffer = BytesIO()
    fig.savefig(buffer, format="rgba", dpi=50)
    return np.frombuffer(buffer.getvalue(), np.uint8).astype(float)


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_a_narrow_figure_holds_all_its_text_and_is_put_back(make):
    fig = make()
    before = picture(fig)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where a layout has no room
        with widths.narrow(fig):
            assert fig.get_figwidth() == pytest.approx(widths.NARROW)
            fig.draw_without_rendering()
            for text in fig.findobj(Text):
                if text.get_visible() and text.get_text().strip() and text.axes is not None:
                    box = text.get_window_extent()
                    assert box.x1 <= 1.1 * widths.NARROW * fig.dpi, text.get_text()
            for ax in fig.axes:
                assert ax.get_window_extent().width > 0.2 * widths.NARROW * fig.dpi
    after = picture(fig)
    assert after.shape == before.shape
    assert np.abs(after - before).mean() < 1  # a layout is found again up to fractions of a pixel
    plt.close(fig)


def test_panels_stand_below_one_another_with_the_names_that_they_shared():
    fig = panels()
    with widths.narrow(fig):
        fig.draw_without_rendering()
        left = {round(ax.get_window_extent().x0) for ax in fig.axes}
        assert len(left) == 1
        for ax in fig.axes:
            assert ax.get_ylabel() == "error"
            assert any(t.get_visible() and t.get_text() for t in ax.get_yticklabels())
        assert [ax.get_xlabel() for ax in fig.axes] == ["", "", "step"]
        assert all("\n" in ax.get_title(loc="left") for ax in fig.axes)
    assert [ax.get_ylabel() for ax in fig.axes] == ["error", "", ""]
    plt.close(fig)


def test_many_panels_stand_two_in_a_row():
    fig = many()
    with widths.narrow(fig):
        fig.draw_without_rendering()
        assert len({round(ax.get_window_extent().x0) for ax in fig.axes[:-1]}) == 2
    plt.close(fig)


def test_names_in_a_key_stay_apart_and_beside_their_marks():
    fig = key()
    last = fig.axes[-1]
    with widths.narrow(fig):
        fig.draw_without_rendering()
        boxes = [text.get_window_extent() for text in last.texts]
        assert sum("\n" in text.get_text() for text in last.texts) > 2
        assert all(upper.y0 > lower.y1 - 1 for upper, lower in itertools.pairwise(boxes))
        spots = last.transAxes.transform([line.get_xydata()[0] for line in last.lines])[:, 1]
        names = np.repeat([(box.y0 + box.y1) / 2 for box in boxes[:-1]], 2)
        assert spots == pytest.approx(names, abs=2)
        assert "95\N{NO-BREAK SPACE}%" in last.texts[-1].get_text()
    plt.close(fig)


def test_a_figure_may_say_in_which_rows():
    fig = many()
    top, *others = fig.axes
    ends.NARROW_ROWS[fig] = [[top], others[:3], others[3:6], others[6:]]
    with widths.narrow(fig):
        fig.draw_without_rendering()
        assert len({round(ax.get_window_extent().y0) for ax in fig.axes[:-1]}) == 3
    plt.close(fig)


def test_one_svg_holds_both_drawings():
    fig = panels()
    svg = widths.drawing(fig)
    assert svg == widths.drawing(fig)  # no date, no chance
    points, packed = pictures.PACKED.search(svg).groups()
    narrow = zlib.decompress(base64.b64decode(packed)).decode()
    ElementTree.fromstring(svg), ElementTree.fromstring(narrow)
    assert float(points) == widths.smallest_text(fig) == 9
    wide = float(re.search(r'width="([\d.]+)pt"', svg)[1])
    assert float(re.search(r'width="([\d.]+)pt"', narrow)[1]) <= 72 * 3.75 < wide
    plt.close(fig)


@pytest.mark.parametrize("colour", sorted({*style.TEXT_COLOURS.values(), "#000000", "#444444"}))
def test_text_is_readable_on_the_dark_page(colour):
    assert pictures.contrast(pictures.on_dark(colour.lower()), pictures.DARK) >= 4.5


@pytest.mark.parametrize("colour", sorted(set(style.COLOURS.values())))
def test_marks_stand_out_on_the_dark_page(colour):
    assert pictures.contrast(pictures.on_dark(colour.lower()), pictures.DARK) >= 3


def test_colours_stay_apart_on_the_dark_page():
    for group in (style.COLOURS, style.TEXT_COLOURS):
        dark = {pictures.on_dark(colour.lower()) for colour in group.values()}
        assert len(dark) == len(set(group.values()))


def test_white_is_the_dark_page_and_ink_is_light():
    assert pictures.on_dark("#ffffff") == pictures.DARK
    assert pictures.contrast(pictures.on_dark("#d9d9d9"), pictures.DARK) < 2  # the grid stays faint
    assert pictures.contrast("#ffffff", "#000000") == pytest.approx(21)
    assert pictures.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert pictures.contrast("#ffffff", "#ffffff") == pytest.approx(1)
    grey = pictures.contrast("#767676", "#ffffff")  # the textbook's AA grey
    assert grey == pytest.approx(4.54, abs=0.005)


def test_both_schemes_are_in_one_file():
    svg = pictures.two_schemes(
        '<svg width="1pt"><path style="fill: #ffffff; stroke: #222222"/></svg>'
    )
    assert "fill: var(--c1, #ffffff); stroke: var(--c0, #222222)" in svg
    assert f"--c1:{pictures.DARK}" in svg and '<svg id="dark"' in svg
    ElementTree.fromstring(svg)


def test_the_wide_drawing_is_the_one_that_matplotlib_saves():
    fig, buffer = panels(), BytesIO()
    canvas, engine = fig.canvas, fig.get_layout_engine()
    wide = widths.drawing(fig).split("<!--narrow")[0]
    assert fig.canvas is canvas and fig.get_layout_engine() is engine
    options = {"bbox_inches": "tight", "pad_inches": 0.03, "metadata": {"Date": None}}
    fig.savefig(buffer, format="svg", **options)
    assert wide == buffer.getvalue().decode()
    plt.close(fig)
