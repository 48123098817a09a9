"""The widgets' JavaScript computes what torch computes, and their traits refuse nonsense."""

import base64
import json

import numpy as np
import pytest
import torch
import traitlets
from widget_helpers import needs_node, run_js

from sobolev_lib import kinks
from sobolev_lib.figures.style import COLOURS, LABELS
from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.widgets import (
    KinkDemo,
    Playground,
    SurfaceExplorer,
)


def small_explorer(rng, side=5, arrows=3, **traits):
    """Two functions, two sizes, two methods, three seeds, one combination missing."""
    shape = ((side, side), (arrows, arrows, 2))

    def grid():
        return tuple(rng.normal(size=s) * 10.0 ** rng.uniform(-3, 5) for s in shape)

    truth = {name: grid() for name in ("booth", "ackley")}
    keys = [
        (f, n, m, s)
        for f in truth
        for n in (20, 100)
        for m in ("sobolev", "values")
        for s in (0, 1, 4)
    ]
    grids = {key: grid() for key in keys if key != ("ackley", 100, "values", 1)}
    errors = {key: (rng.uniform(), rng.uniform()) for key in keys}
    return truth, grids, errors, SurfaceExplorer.from_grids(truth, grids, errors, **traits)


@needs_node
@pytest.mark.parametrize(("side", "arrows"), [(5, 3), (4, 2), (2, 1)])
def test_packed_grids_come_back_within_half_a_step(side, arrows, tmp_path):
    rng = np.random.default_rng(side)
    truth, grids, errors, widget = small_explorer(rng, side, arrows)
    keys = ["functions", "sizes", "methods", "seeds", "side", "arrows", "index", "errors"]
    payload = {
        "traits": {k: getattr(widget, k) for k in keys},
        "data": list(widget.data),
        "keys": list(grids),
    }
    # the data lie in the middle of a larger buffer, as they do when they come out of a message
    out = run_js(
        SurfaceExplorer,
        "const room = new Uint8Array(input.data.length + 7); room.set(input.data, 5);"
        "const data = new DataView(room.buffer, 5, input.data.length);"
        "const shelf = w.library({ get: (k) => (k === 'data' ? data : input.traits[k]) });"
        "const names = input.traits.functions.map((f) => f.name);"
        "out = { truth: Object.fromEntries(names.map((f) => [f, shelf.truth(f)])),"
        " grids: input.keys.map((k) => shelf.find(...k)),"
        " none: shelf.find('ackley', 100, 'values', 1),"
        " median: shelf.median('ackley', 100, 'values') };",
        payload,
        tmp_path,
    )
    assert out["none"] is None
    pairs = [(out["truth"][name], truth[name]) for name in truth]
    pairs += list(zip(out["grids"], grids.values(), strict=True))
    for got, (values, slopes) in pairs:
        for numbers, array in ((got["values"], values), (got["slopes"], slopes)):
            bound = 0.51 * np.ptp(array) / 65535 + 2e-7 * np.abs(array).max()
            np.testing.assert_allclose(numbers, array.reshape(-1), rtol=0, atol=bound)
    for got, key in zip(out["grids"], grids, strict=True):
        assert got["error"] == pytest.approx(errors[key])
    middle = np.median([errors["ackley", 100, "values", s][0] for s in (0, 4)])
    assert out["median"] == pytest.approx(middle)


def test_explorer_orders_its_choices_and_describes_the_functions():
    rng = np.random.default_rng(0)
    truth, _, _, widget = small_explorer(rng, n=100, view="map")
    assert (widget.sizes, widget.methods, widget.seeds) == (
        [20, 100],
        ["values", "sobolev"],
        [0, 1, 4],
    )
    assert (widget.function, widget.n, widget.seed, widget.view) == ("booth", 100, 0, "map")
    assert widget.functions[1]["title"] == FUNCTIONS["ackley"].title
    assert widget.functions[1]["domain"] == [[-5.0, 5.0], [-5.0, 5.0]]
    assert widget.functions[1]["range"] == [truth["ackley"][0].min(), truth["ackley"][0].max()]
    assert widget.index.count(-1) == 1
    assert sorted(i for i in widget.index if i >= 0) == list(range(2, 2 + 23))


def test_whole_figure_fits_its_budget():
    """7 functions, 3 sizes, 2 methods, 10 seeds: at most 2 MB as the base64 text of the page."""
    grid = (np.arange(33.0 * 33).reshape(33, 33), np.ones((13, 13, 2)))
    keys = [
        (f, n, m, s)
        for f in FUNCTIONS
        for n in (20, 100, 10_000)
        for m in ("values", "sobolev")
        for s in range(10)
    ]
    widget = SurfaceExplorer.from_grids(
        dict.fromkeys(FUNCTIONS, grid), dict.fromkeys(keys, grid), dict.fromkeys(keys, (1.0, 1.0))
    )
    assert len(base64.b64encode(widget.data)) < 2_000_000


GRID = (np.zeros((5, 5)), np.ones((3, 3, 2)))
KEY = ("booth", 20, "values", 0)
ERRORS = (1.0, 1.0)


@pytest.mark.parametrize(
    ("truth", "grids", "errors", "words"),
    [
        ({}, {}, {}, "at least one entry"),
        ({"booth": (np.zeros((5, 4)), GRID[1])}, {KEY: GRID}, {KEY: ERRORS}, r"shape \(5, 4\)"),
        ({"booth": (GRID[0], np.ones((3, 3)))}, {KEY: GRID}, {KEY: ERRORS}, r"shape \(3, 3\)"),
        ({"booth": GRID}, {KEY: (np.zeros((4, 4)), GRID[1])}, {KEY: ERRORS}, r"\(4, 4\).*\(5, 5\)"),
        ({"booth": GRID}, {KEY: (GRID[0] + np.nan, GRID[1])}, {KEY: ERRORS}, "not finite"),
        ({"booth": GRID}, {KEY: (GRID[0] + 1e60, GRID[1])}, {KEY: ERRORS}, "too large"),
        ({"booth": GRID}, {KEY: GRID}, {}, "errors has no entry"),
        ({"booth": GRID}, {KEY: GRID}, {KEY: (1.0, np.inf)}, "finite number"),
        ({"booth": GRID}, {KEY: GRID}, {KEY: (1.0, 2.0, 3.0)}, "pair"),
        ({"booth": GRID}, {("beale", *KEY[1:]): GRID}, {}, "function 'beale'"),
        ({"booth": GRID}, {("booth", 20, "value", 0): GRID}, {}, "method is 'value'"),
        (
            {"mine": GRID},
            {("mine", *KEY[1:]): GRID},
            {("mine", *KEY[1:]): ERRORS},
            "function is 'mine'",
        ),
    ],
)
def test_explorer_refuses_what_it_cannot_show(truth, grids, errors, words):
    with pytest.raises(ValueError, match=words):
        SurfaceExplorer.from_grids(truth, grids, errors)


def test_explorer_refuses_a_first_choice_it_does_not_have():
    with pytest.raises(ValueError, match="seed is 3"):
        SurfaceExplorer.from_grids({"booth": GRID}, {KEY: GRID}, {KEY: ERRORS}, seed=3)


@needs_node
def test_contours_lie_on_the_level_of_a_plane(tmp_path):
    """On a plane, marching squares with straight interpolation is exact."""
    rows, columns = np.mgrid[0:6, 0:6]
    plane = 2.0 * columns - 3.0 * rows + 0.3
    payload = plane.reshape(-1).tolist()
    out = np.array(run_js(SurfaceExplorer, "out = w.contour(input, 6, 1.1);", payload, tmp_path))
    assert len(out) >= 5
    assert np.allclose(2.0 * out[..., 0] - 3.0 * out[..., 1] + 0.3, 1.1)
    # each end inside the grid continues in another piece
    ends = np.round(out.reshape(-1, 2), 9)
    inside = ends[((ends > 0) & (ends < 5)).all(axis=1)]
    assert all((ends == end).all(axis=1).sum() == 2 for end in inside)


@needs_node
def test_arrows_point_uphill_and_grow_with_the_gradient(tmp_path):
    out = run_js(
        SurfaceExplorer,
        "out = w.arrowsOf([0, 0, 3, 4, -1, 0, 0, 100], 2, [[0, 10], [0, 2]], 20);",
        [],
        tmp_path,
    )
    assert [(a["x"], a["y"]) for a in out] == [
        (0.5, -0.5),
        (-0.5, 0.5),
        (0.5, 0.5),
    ]  # none for a zero
    lengths = [np.hypot(a["dx"], a["dy"]) for a in out]
    np.testing.assert_allclose(lengths, [0.45, 0.9 * np.sqrt(1 / 20), 0.9])  # cut at one
    assert out[0]["dy"] / out[0]["dx"] == pytest.approx((4 / 2) / (3 / 10))


@needs_node
def test_quantile_and_address(tmp_path):
    numbers = np.random.default_rng(1).normal(size=9)
    traits = {"functions": [{"name": "booth"}], "sizes": [20], "seeds": [3]}
    out = run_js(
        SurfaceExplorer,
        "const model = { get: (k) => input.traits[k] };"
        "out = { q: [0, 0.3, 0.5, 0.95, 1].map((p) => w.quantile(input.numbers, p)),"
        " a: ['#explore=booth,20,3', '#explore=booth,20,4', '#explore=beale,20,3', '#x'].map("
        "(hash) => w.readAddress(hash, model)) };",
        {"numbers": numbers.tolist(), "traits": traits},
        tmp_path,
    )
    np.testing.assert_allclose(out["q"], np.quantile(numbers, [0, 0.3, 0.5, 0.95, 1]))
    assert out["a"] == [{"function": "booth", "n": 20, "seed": 3}, None, None, None]


@needs_node
def test_colours_are_those_of_the_books_colour_map(tmp_path):
    from matplotlib import colormaps

    places = np.linspace(0, 1, 41)
    out = run_js(SurfaceExplorer, "out = input.map(w.viridis);", places.tolist(), tmp_path)
    np.testing.assert_allclose(out, 255 * colormaps["viridis"](places)[:, :3], atol=5)


@needs_node
@pytest.mark.parametrize(("t", "s", "h"), [(0.7, 0.4, 0.05), (0.2, 0.6, 0.2), (0.45, 0.4, 0.01)])
def test_kink_estimates_are_those_of_torch(t, s, h, tmp_path):
    out = run_js(
        KinkDemo,
        "const xs = w.points(37, 2); out = { xs, loss: w.sampledLoss(xs, ...input.slice(0, 2)),"
        " slope: w.kernelSlope(xs, ...input) };",
        [t, s, h],
        tmp_path,
    )
    x = torch.tensor(out["xs"], dtype=torch.float64, requires_grad=True)
    for unit, expected in ((torch.relu, 0.0), (kinks.ReLU(h), out["slope"])):
        place = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        (model,) = torch.autograd.grad(unit(x - place).sum(), x, create_graph=True)
        loss = ((model - (x > s).double()) ** 2).mean()
        assert out["loss"] == pytest.approx(loss.item(), abs=1e-14)
        (slope,) = torch.autograd.grad(loss, place, allow_unused=True, materialize_grads=True)
        assert slope.item() == pytest.approx(expected, abs=1e-12)
    assert out["slope"] != 0.0


@needs_node
def test_kernel_slope_has_the_mean_the_page_states(tmp_path):
    """Many samples against tanh((t - s) / 2h), within five standard errors; points are nested."""
    out = run_js(
        KinkDemo,
        "out = { means: input.map((a) => [Array.from({ length: 400 },"
        " (_, k) => w.kernelSlope(w.points(50, k), ...a)), w.meanSlope(...a)]),"
        " nested: [w.points(5, 3), w.points(9, 3).slice(0, 5)] };",
        [[0.7, 0.4, 0.05], [0.3, 0.4, 0.1], [0.4, 0.4, 0.1]],
        tmp_path,
    )
    assert out["nested"][0] == out["nested"][1]
    for sample, mean in out["means"]:
        error = np.std(sample) / np.sqrt(len(sample))
        assert abs(np.mean(sample) - mean) <= 5 * error
    assert out["means"][0][1] == pytest.approx(np.tanh(3.0))
    assert out["means"][2][1] == 0.0


@needs_node
def test_kernel_is_the_logistic_density_far_out_too(tmp_path):
    z = np.array([-1000.0, -0.3, 0.0, 0.1, 1000.0])
    out = run_js(KinkDemo, "out = input.map((z) => w.kernel(z, 0.2));", z.tolist(), tmp_path)
    np.testing.assert_allclose(out, kinks.kernel(torch.tensor(z), 0.2).numpy(), atol=1e-15)


@pytest.mark.parametrize(
    ("key", "bad"), [("t", 1.2), ("s", -0.1), ("bandwidth", 0.0), ("n", 0), ("seed", 21)]
)
def test_kink_refuses_values_outside_its_controls(key, bad):
    with pytest.raises(traitlets.TraitError, match=f"'{key}'"):
        KinkDemo(**{key: bad})


def test_modules_are_self_contained_and_speak_the_books_colours():
    for widget, most in ((Playground, 80_000), (SurfaceExplorer, 40_000), (KinkDemo, 40_000)):
        text = widget._esm
        assert "__COLOURS__" not in text
        assert json.dumps(COLOURS) in text
        assert json.dumps(LABELS) in text
        for forbidden in ("import ", "import(", "fetch(", "http://", "https://", "XMLHttpRequest"):
            assert forbidden not in text, forbidden
        assert len(text) < most  # each instance carries it into its page
