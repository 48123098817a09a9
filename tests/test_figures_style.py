"""The visual language: colours that can be told apart and read, labels that do not overlap."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import rgb_to_hsv, to_rgb
from matplotlib.ticker import LogFormatterSciNotation
from pictures import contrast

from sobolev_lib.figures import COLOURS, LABELS, TEXT_COLOURS, ends, style

mpl.use("Agg")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


TABLE_1 = ["backprop", "noprop", "direct", "vfbn", "critic", "sobolev", "local_ce", "kernel"]
REGRESSION = ["values", "sobolev", "kernel", "equal_information", "smooth", "kriging", "truth"]


def test_each_method_has_every_attribute():
    for table in (LABELS, TEXT_COLOURS, style.MARKERS, style.DASHES):
        assert set(table) == set(COLOURS)
    assert set(TABLE_1) | set(REGRESSION) == set(COLOURS)
    assert len(set(LABELS.values())) == len(LABELS)


@pytest.mark.parametrize("together", [TABLE_1, REGRESSION])
def test_methods_that_share_figures_differ_in_colour_and_mark(together):
    assert len({COLOURS[method] for method in together}) == len(together)
    assert len({style.MARKERS[method] for method in together}) == len(together)


@pytest.mark.parametrize("limits", [(1e-7, 1e5), (0.3, 4.0), (2e-3, 3e-3), (1.0, 200.0)])
def test_labels_of_a_logarithmic_axis_are_matplotlibs_without_mathtext(limits):
    _, ax = plt.subplots()
    ax.set(xscale="log", xlim=limits)
    ticks = [factor * 10.0**k for k in range(-8, 7) for factor in range(1, 10)]
    for options in ({}, {"labelOnlyBase": False}):
        labels = []
        for formatter in (style.PowersOfTen(**options), LogFormatterSciNotation(**options)):
            formatter.set_axis(ax.xaxis)
            formatter.set_locs(ticks)
            labels.append([formatter(tick) for tick in ticks])
        found, expected = labels
        assert any(found) and "$" not in "".join(found)
        lowered = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", "×\u2009")
        plain = [re.sub(r"\$|\\mathdefault|\\times|[{}^]", "", text) for text in expected]
        assert [text.translate(lowered) for text in found] == plain


def test_ticks_between_powers_can_be_left_out():
    fig, ax = style.figure()
    style.log_scale(ax, "xy", minor=False)
    fig.canvas.draw()
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert not ax.xaxis.get_minor_ticks() and not ax.yaxis.get_minor_ticks()


def test_methods_of_one_colour_have_one_text_colour():
    """`label_ends` knows a line by its colour alone."""
    assert len(set(zip(COLOURS.values(), TEXT_COLOURS.values(), strict=True))) == len(
        set(COLOURS.values())
    )


def _seen(colour, weakness):
    """Lightness and colour as a dichromat sees them: Machado et al. 2009, severity 1, CIE Lab."""
    matrices = {
        "protan": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deutan": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        "none": np.eye(3),
    }
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(matrices[weakness]) @ linear, 0, 1)
    to_xyz = [
        [0.4124, 0.3576, 0.1805],
        [0.2126, 0.7152, 0.0722],
        [0.0193, 0.1192, 0.9505],
    ]
    x, y, z = np.cbrt(np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089] + 1e-9)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("weakness", ["none", "protan", "deutan"])
@pytest.mark.parametrize("together", [TABLE_1, REGRESSION])
def test_colours_of_one_figure_can_be_told_apart(together, weakness):
    seen = [_seen(COLOURS[method], weakness) for method in together]
    for i, a in enumerate(seen):
        for j in range(i):
            assert np.linalg.norm(a - seen[j]) > 8, (together[i], together[j])


def test_text_colours_are_readable_and_close_to_their_methods():
    for method, colour in TEXT_COLOURS.items():
        assert contrast(colour, "#ffffff") >= 4.5, method
        hue = [rgb_to_hsv(to_rgb(c[method]))[0] for c in (COLOURS, TEXT_COLOURS)]
        assert abs((hue[0] - hue[1] + 0.5) % 1 - 0.5) < 0.03, method


def test_style_is_undone_by_a_context_and_stays_on_without():
    before = mpl.rcParams["svg.fonttype"], mpl.rcParams["axes.spines.top"]
    with mpl.rc_context({"svg.fonttype": "none", "axes.spines.top": True}):
        with mpl.rc_context():
            style.use_style()
            assert mpl.rcParams["svg.fonttype"] == "path"
        assert mpl.rcParams["svg.fonttype"] == "none"
        assert mpl.rcParams["axes.spines.top"] is True
        style.use_style()
        assert mpl.rcParams["axes.spines.top"] is False
    assert before == (mpl.rcParams["svg.fonttype"], mpl.rcParams["axes.spines.top"])


def test_notebook_figures_become_svg_without_a_date():
    script = (
        "from IPython.terminal.interactiveshell import TerminalInteractiveShell as S\n"
        "shell = S.instance()\n"
        "every = shell.display_formatter\n"
        "every.active_types = list(every.formatters)\n"
        "from sobolev_lib.figures import style; style.use_style()\n"
        "from matplotlib import pyplot as plt\n"
        "fig, ax = style.figure(); ax.plot([0, 1])\n"
        "formats = every.formatters\n"
        "assert '<svg' in formats['image/svg+xml'](fig)\n"
        "assert '<dc:date>' not in formats['image/svg+xml'](fig)\n"
        "assert formats['image/png'](fig) is None\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_curve_draws_the_interval_it_was_given():
    with mpl.rc_context():
        style.use_style()
        _, ax = style.figure()
        line = style.curve(ax, [1, 2, 3], [2.0, 3, 4], "kernel", low=[1.0, 2, 2], high=[3.0, 5, 7])
    assert (line.get_color(), line.get_label()) == (COLOURS["kernel"], LABELS["kernel"])
    corners = {tuple(v) for v in ax.collections[0].get_paths()[0].vertices}
    assert {(1, 1), (3, 2), (1, 3), (3, 7)} <= corners


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda ax: style.curve(ax, [0], [0], "value"), "method is 'value'"),
        (lambda ax: style.curve(ax, [0], [0], "values", low=[0]), "both ends"),
        (lambda ax: style.figure(width="huge"), "width is 'huge'"),
    ],
)
def test_bad_input_names_the_argument(call, words):
    _, ax = style.figure()
    with pytest.raises(ValueError, match=words):
        call(ax)


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, 85.0)])
@pytest.mark.parametrize("seed", range(5))
def test_spread_labels_are_apart_in_order_and_closest(seed, bounds):
    """No random feasible placement nearby has a smaller squared shift."""
    rng = np.random.default_rng(seed)
    want = rng.uniform(0, 60, size=7)
    got = np.array(ends.apart(want, 13.0, *bounds))
    rank = np.argsort(want)
    assert np.all(np.diff(got[rank]) >= 13.0 - 1e-9)
    assert bounds[0] <= got.min() and got.max() <= bounds[1]
    assert np.isfinite(bounds[0]) == (got.tolist() != ends.apart(want, 13.0))  # they matter
    cost = np.sum((got - want) ** 2)
    for _ in range(300):
        other = np.sort(got + rng.normal(0, 2.0, size=7))
        other = np.maximum.accumulate(other - 13.0 * np.arange(7))
        other = other.clip(bounds[0], bounds[1] - 13.0 * 6) + 13.0 * np.arange(7)
        assert np.sum((other - want[rank]) ** 2) >= cost - 1e-9
    assert ends.apart([5.0, 100.0], 13.0) == [5.0, 100.0]
    assert ends.apart([], 13.0, 0.0, 1.0) == []
    assert ends.apart([4.0, 4.0], 13.0, 0.0, 10.0) == [-2.5, 10.5]  # no room: as without bounds


def test_end_labels_do_not_overlap():
    with mpl.rc_context():
        style.use_style()
        fig, ax = style.figure()
        lines = [
            style.curve(ax, [0, 1], [0, 1 + i / 100], m)
            for i, m in enumerate(["values", "sobolev", "smooth"])
        ]
        lines.append(style.curve(ax, [0, 1], [0, np.nan], "kernel"))
        style.label_ends(ax, lines)
        fig.canvas.draw()
        boxes = [t.get_window_extent() for t in ax.texts]
    assert [t.get_text() for t in ax.texts] == [LABELS[m] for m in ("values", "sobolev", "smooth")]
    assert [t.get_color() for t in ax.texts] == [
        TEXT_COLOURS[m] for m in ("values", "sobolev", "smooth")
    ]
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])


def test_panel_letters_follow_reading_order():
    fig, axes = style.figure(2, 2)
    style.panel_letters(axes)
    assert [ax.texts[0].get_text() for ax in axes.ravel()] == ["a", "b", "c", "d"]
    plt.close(fig)
    assert not plt.fignum_exists(fig.number)


def test_style_module_needs_no_torch():
    script = (
        "import importlib.util, sys, types\n"
        "package = types.ModuleType('sobolev_lib'); package.__path__ = ['sobolev_lib']\n"
        "sys.modules['sobolev_lib'] = package\n"
        "import sobolev_lib.figures\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_table_formats_escapes_and_marks_its_headings():
    rows = {"a < b, 5 %": {"error": 0.00123, "n": 20}, "c": {"error": 1.0, "n": 3}}
    table = style.Table(rows, {"error": ".1e"}, corner="case")
    html = table._repr_html_()
    plain = re.sub(' style="[^"]*"', "", html)
    assert '<th scope="row">a &lt; b, 5&nbsp;%</th><td>1.2e-03</td><td>20</td>' in plain
    assert '<th scope="col">error</th>' in plain
    assert repr(table).splitlines()[2].split() == ["c", "1.0e+00", "3"]


@pytest.mark.parametrize("rows", [{}, {"a": {"x": 1}, "b": {"y": 1}}])
def test_table_refuses_ragged_rows(rows):
    with pytest.raises(ValueError, match="same columns"):
        style.Table(rows)
