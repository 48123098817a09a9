"""The playground: its arithmetic against MLPStack, and a reader with mouse, keys and fingers."""

from __future__ import annotations

import html
import json
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
import traitlets
import widget_page
from book_files import ROOT
from scipy.interpolate import CubicSpline
from widget_helpers import LISTEN, stop_clock

from sobolev_lib.stack import MLPStack
from sobolev_lib.widgets import Playground
from sobolev_lib.widgets.playground import KINK_BANDWIDTH, MOST_POINTS, TARGETS

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
ACTIVATIONS = Playground.class_traits()["activation"].values
PATIENCE = 600_000  # ms: only a hang takes that long
TRUE = "Mean squared error against the truth"
FIRST = {
    "target": "wave", "activation": "silu", "width": 32, "rate": 0.01, "weight": 1, "n": 5,
    "seed": 13, "steps": 2000, "knots": [0] * 9,
}  # fmt: skip
FIVE = dict(activation="silu", width=32, learning_rate=0.01, weight=1.0, n=5, seed=13)


@pytest.fixture
def opened(browser, tmp_path):
    """Open a playground on a page of its own; fails the test if the page raised an error."""
    contexts, errors = [], []

    def open_page(widget=None, size=DESK, scheme="light", motion="no-preference", touch=False):
        context = browser.new_context(
            viewport=size, color_scheme=scheme, reduced_motion=motion, has_touch=touch
        )
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(widget_page.write(widget or Playground(**FIVE, running=False), tmp_path))
        page.wait_for_function("() => window.end !== undefined && model.saved > 0")
        return page, page.locator("section.sob-play")

    yield open_page
    for context in contexts:
        context.close()
    assert not errors, errors


@pytest.fixture(scope="module")
def js(browser, tmp_path_factory):
    """Run a function of JavaScript on an input; `w` is the widget's module, on one page for all."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    widget = Playground(**FIVE, running=False)
    page.goto(widget_page.write(widget, tmp_path_factory.mktemp("arithmetic")))
    page.wait_for_function("() => window.end !== undefined && model.saved > 0")

    def run(script, payload=None):
        text = f"(input) => JSON.stringify(({script})(input))"
        return json.loads(page.evaluate(text, payload))

    yield run
    page.close()


# --- arithmetic -----------------------------------------------------------------------------------

TRAIN = """(c) => {
  const [x, y, dy] = [c.x, c.y, c.dy].map((list) => Float64Array.from(list));
  const data = { x, y, dy };
  const race = new w.Race({ ...c, seed: 0 }, data, Float64Array.from(c.theta));
  const gradients = Object.entries(race.nets).map(([name, net]) => {
    net.gradient(data, name === 'values' ? 0 : c.weight, net.adam.grad);
    return Array.from(net.adam.grad);
  });
  const terms = Object.values(race.nets).map((net) => net.terms(data));
  for (let k = 0; k < 60; k++) race.advance(c);
  return { gradients, terms, end: Array.from(race.weights()) };
}"""


def stack_of(activation, d, width, seed=3):
    kernel = activation == "kernel"
    return MLPStack(
        2,
        d,
        (width, width),
        activation="relu" if kernel else activation,
        kink_bandwidth=KINK_BANDWIDTH if kernel else None,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )


def flat(tensors):
    """Members' tensors as one list, network by network, layer by layer, weights before biases."""
    count = len(tensors) // 2
    pairs = [t for pair in zip(tensors[:count], tensors[count:], strict=True) for t in pair]
    return torch.cat([t.detach().reshape(2, -1) for t in pairs], dim=1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_and_training_are_those_of_the_stack(activation, js):
    for d, width, n, weight in ((1, 6, 7, 0.7), (2, 8, 5, 0.7), (1, 9, 1, 3.0), (2, 4, 9, 0.01)):
        stack = stack_of(activation, d, width)
        generator = torch.Generator().manual_seed(d + width)
        x, dy = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
        y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
        parameters = [*stack.weights, *stack.biases]
        out = js(
            TRAIN,
            {
                "d": d, "width": width, "activation": activation, "weight": weight,
                "rate": 0.02, "steps": 100, "theta": flat(parameters).reshape(-1).tolist(),
                "x": x.T.reshape(-1).tolist(), "y": y[:, 0].tolist(),
                "dy": dy.T.reshape(-1).tolist(),
            },
        )  # fmt: skip
        weights = torch.tensor([0.0, weight], dtype=torch.float64)

        def close(got, want):
            got = torch.tensor(got, dtype=torch.float64).reshape(want.shape)
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)

        stack.losses(x, y, dy, weights).sum().backward()
        close(out["gradients"], flat([p.grad for p in parameters]))
        values, slopes = stack.terms(x, y, dy, torch.full((2,), weight, dtype=torch.float64))
        close([[t["values"], t["slopes"]] for t in out["terms"]], torch.stack([values, slopes]).T)

        adam = torch.optim.Adam(parameters, lr=0.02)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 100)
        for _ in range(60):
            adam.zero_grad()
            stack.losses(x, y, dy, weights).sum().backward()
            adam.step()
            cosine.step()
        end = torch.tensor(out["end"], dtype=torch.float64).reshape(2, -1)
        torch.testing.assert_close(end, flat(parameters), rtol=0, atol=1e-5)


def test_the_kernel_changes_the_gradient_only_with_slopes_in_the_loss(js):
    """Guards the test above: were both activations equal, it could not see the kernel."""
    plain, sobolev = js(
        """() => [0, 1].map((weight) => ['relu', 'kernel'].map((kind) => {
          const net = new w.Network(1, 6, kind, w.initialise(1, 6, 'relu', 1));
          const grad = new Float64Array(w.countOf(1, 6));
          net.gradient(w.dataOf(w.sample(w.TARGETS.wave, 9, 2), 1), weight, grad);
          return Array.from(grad);
        }))"""
    )
    assert plain[0] == plain[1]
    assert np.abs(np.subtract(*sobolev)).max() > 1e-3


def test_both_networks_start_alike_and_weight_0_keeps_them_alike(js):
    first, last, other = js(
        """() => {
          const s = { d: 2, width: 5, activation: 'silu', seed: 4,
            rate: 0.02, steps: 30, weight: 0 };
          const data = w.dataOf(w.sample(w.TARGETS.hills, 6, 1), 2);
          const race = new w.Race(s, data);
          const first = Array.from(race.weights());
          for (let k = 0; k < 20; k++) race.advance(s);
          const other = Array.from(new w.Race({ ...s, seed: 5 }, data).weights());
          return [first, Array.from(race.weights()), other];
        }"""
    )
    for both in (first, last):
        assert both[: len(both) // 2] == both[len(both) // 2 :]
    assert first != last
    assert first != other


def test_targets_have_the_slopes_they_claim(js):
    knots = np.random.default_rng(0).uniform(-2, 2, 9).tolist()
    places = np.random.default_rng(1).uniform(-0.98, 0.98, (30, 2)).tolist()
    out = js(
        """({ places, knots }) => Object.fromEntries(Object.keys(w.TARGETS).map((name) => {
          const target = w.targetOf({ target: name, knots });
          const along = (p, i, h) => target.at(...p.map((v, k) => (k === i ? v + h : v)))[0];
          return [name, [target.d, places.map((place) => {
            const p = place.slice(0, target.d);
            const slope = (_, i) => (along(p, i, 1e-6) - along(p, i, -1e-6)) / 2e-6;
            return [target.at(...p), p.map(slope)];
          })]];
        }))""",
        {"places": places, "knots": knots},
    )
    assert {name: d for name, (d, _) in out.items()} == TARGETS
    for _, rows in out.values():
        for exact, differences in rows:
            np.testing.assert_allclose(exact[1:], differences, atol=1e-6)
    spline = CubicSpline(np.linspace(-1, 1, 9), knots, bc_type="natural")
    for (x, _), (exact, _) in zip(places, out["own"][1], strict=True):
        np.testing.assert_allclose(exact, [spline(x), spline(x, 1)], atol=1e-12)


def test_points_depend_on_the_seed_and_cover_the_domain(js):
    line, again, square = js(
        "() => [['wave', 7, 3], ['wave', 7, 4], ['hills', 50, 3]]"
        ".map(([name, n, seed]) => w.sample(w.TARGETS[name], n, seed))"
    )
    assert line != again
    parts = np.floor((np.array(line)[:, 0] + 1) / 2 * 7)
    np.testing.assert_array_equal(parts, range(7))  # one in each part
    places = np.array(square)[:, :2]
    assert len(square) == 50
    assert np.abs(places).max() <= 1
    assert np.abs(places.mean(axis=0)).max() < 4 / np.sqrt(3 * 50)  # four standard errors


def test_kinks_are_where_the_slope_changes(js):
    stack = stack_of("relu", 1, 7, seed=8)
    kinks, slopes = js(
        """(theta) => {
          const net = new w.Network(1, 7, 'relu', Float64Array.from(theta));
          const kinks = w.kinksOf(net);
          const ends = [-1, ...kinks, 1];
          const two = (b, i) => [0.01, 0.99].map((t) => ends[i] + t * (b - ends[i]));
          const inside = Float64Array.from(ends.slice(1).flatMap(two));
          return [kinks, Array.from(net.evaluate(inside, inside.length).slope)];
        }""",
        flat([*stack.weights, *stack.biases])[0].tolist(),
    )
    assert len(kinks) >= 5
    assert all(-1 < a <= b < 1 for a, b in pairwise(kinks))
    left, right = np.array(slopes).reshape(-1, 2).T
    np.testing.assert_allclose(left, right, atol=1e-12)  # one slope in each piece
    assert np.all(np.abs(np.diff(left)) > 1e-9)  # another in the next


def test_regions_of_a_map_are_the_patterns_of_the_units(js):
    stack = stack_of("relu", 2, 5, seed=2)
    x = 2 * torch.rand(200, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1
    regions = js(
        """({ theta, x, n }) => {
          const net = new w.Network(2, 5, 'relu', Float64Array.from(theta));
          return Array.from(w.regionsOf(net, net.ahead(Float64Array.from(x), n), n));
        }""",
        {
            "theta": flat([*stack.weights, *stack.biases])[0].tolist(),
            "x": x.T.reshape(-1).tolist(),
            "n": 200,
        },
    )
    network = stack.member(0)
    with torch.no_grad():
        units = torch.cat([network[:k](x) > 0 for k in (1, 3)], dim=1)
    _, patterns = units.unique(dim=0, return_inverse=True)
    pairs = set(zip(patterns.tolist(), regions, strict=True))
    assert 3 < len(set(regions)) == len(pairs) == len(set(patterns.tolist()))


def test_addresses_are_written_and_read(js):
    own = {
        **FIRST, "target": "own", "knots": [0, 1, 0.5, -1, 0, 0.25, 2, -2, 0], "n": 3, "seed": 7,
        "rate": 0.05, "weight": 0.3, "width": 8, "steps": 10, "activation": "kernel",
    }  # fmt: skip
    out = js(
        """({ own, first }) => {
          const sampled = w.sample(w.targetOf(own), 3, 7);
          const short = (p) => p.map((v) => Number(v.toFixed(3)));
          const turned = sampled.map((p, i) => (i === 1 ? [0.5, 1.25, -3] : short(p)));
          const read = (hash) => w.readHash(hash, first);
          const plain = w.writeHash(own, sampled);
          return { turned, plain, back: read(plain), touched: read(w.writeHash(own, turned)),
            none: ['', '#loss', '#played', '#explore=booth,20,3'].map(read),
            wild: read('#play&t=constructor&a=__proto__&h=9999&r=nan&w=-4&n=0&s=1e99&l=x'
              + '&k=1,2&p=1,2;3&evil=1'),
            far: read('#play&t=valleys&n=400&p=5,5,5,500,0'), empty: read('#play') };
        }""",
        {"own": own, "first": FIRST},
    )
    assert out["back"] == own  # points of the seed are not written
    assert "&p=" not in out["plain"]
    assert out["touched"] == {**own, "points": out["turned"]}
    assert out["none"] == [None] * 4
    assert out["empty"] == FIRST
    assert out["wild"] == {**FIRST, "width": 128, "weight": 0, "n": 1, "seed": 999}
    assert out["far"]["points"] == [[1, 1, 5, 99, 0]]
    assert out["far"]["n"] == 1


def test_a_moved_point_keeps_its_distance_from_the_target(js):
    away, kept, edge = js(
        """() => {
          const target = w.TARGETS.wave;
          const away = w.moved(target, w.sample(target, 3, 0)[1], { y: 1.5, slopes: [-2] });
          const kept = w.moved(target, away, { place: [0.3] });
          const at = (p) => [...p, ...target.at(p[0])];
          return [at(away), at(kept), w.moved(target, away, { place: [4], y: 1e9 })];
        }"""
    )
    assert away[1:3] == [1.5, -2]
    for k in (1, 2):
        assert kept[k] - kept[k + 2] == pytest.approx(away[k] - away[k + 2], abs=2e-3)
    assert edge[:2] == [1, 9]


def test_a_drawn_line_sets_the_knots_it_passes(js):
    out = js(
        "() => [[[-0.6, 1], [0.1, -0.4]], [[0.1, -0.4], [-0.6, 1]], [[0.5, 7], [0.5, 7]]]"
        ".map(([a, b]) => w.sketched(Array(9).fill(0), a, b))"
    )
    assert out[0] == [0, 0, 0.8, 0.3, -0.2, 0, 0, 0, 0]
    assert out[1] == out[0]
    assert out[2] == [0, 0, 0, 0, 0, 0, 2, 0, 0]


# --- the page's experiments are true --------------------------------------------------------------

RUN = """({ hash, first }) => {
  const s = w.readHash(hash, first);
  const target = w.targetOf(s);
  const points = s.points || w.sample(target, s.n, s.seed);
  const race = new w.Race({ ...s, d: target.d }, w.dataOf(points, target.d));
  while (race.step < s.steps) race.advance(s);
  const grid = w.gridOf(target);
  const report = (net) => ({ ...w.compare(net, grid), slopes: net.terms(race.data).slopes });
  return { values: report(race.nets.values), sobolev: report(race.nets.sobolev) };
}"""


def links():
    """Addresses of the playground that its page links to, in order."""
    notebook = json.loads((ROOT / "book" / "playground.ipynb").read_text("utf-8"))
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    return [html.unescape(link) for link in re.findall(r'href="(#play[^"]*)"', text)]


def test_the_experiments_of_the_page_show_what_it_says(js):
    five, twelve, lie, bumpy, valleys = links()

    def gain(hash_, part=0):
        out = js(RUN, {"hash": hash_, "first": FIRST})
        return out["values"]["error"][part] / out["sobolev"]["error"][part], out

    factor, plain = gain(five)
    assert factor > 10
    assert five.endswith("&l=2000")
    seeds = [gain(five.replace("s=13", f"s={seed}"))[0] for seed in range(14, 20)]
    assert sum(g > 1 for g in seeds) >= 5
    assert max(seeds) > 5 * min(seeds)

    factor, out = gain(twelve)
    assert 0.5 < factor < 2
    assert out["sobolev"]["error"][1] < 0.5 * out["values"]["error"][1]

    for weight in ("1", "0.03"):
        _, out = gain(lie.replace("w=1", f"w={weight}"))
        assert out["sobolev"]["error"][0] > 10 * plain["sobolev"]["error"][0]

    assert gain(bumpy)[0] < 1 < gain(bumpy.replace("w=1", "w=0.1"))[0]

    stuck, kernel, smooth = (
        gain(valleys.replace("relu", kind)) for kind in ("relu", "kernel", "silu")
    )
    assert stuck[0] < 1 < kernel[0]
    slopes = [out["sobolev"]["slopes"] for _, out in (stuck, kernel, smooth)]
    assert slopes[0] > 10 * slopes[1] > 20 * slopes[2]


# --- Python's side --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "bad", "words"),
    [
        ("target", "sine", "'target'"),
        ("activation", "gelu", "'activation'"),
        ("width", 0, "'width'"),
        ("learning_rate", 0.0, "'learning_rate'"),
        ("weight", -1.0, "'weight'"),
        ("n", 51, "'n'"),
        ("seed", -1, "'seed'"),
        ("steps", 0, "'steps'"),
        ("knots", [0.0] * 8, "'knots'"),
        ("points", [[0.0, 1.0]], r"points\[0\].*3 finite numbers"),
        ("points", [[0.0, 1.0, 2.0], [0.0, float("nan"), 2.0]], r"points\[1\]"),
        ("points", [[1.5, 1.0, 2.0]], r"not in \[-1, 1\]"),
        ("points", [[0.0, 1.0, 2.0]] * 17, "17; at most 16"),
    ],
)
def test_nonsense_is_refused(key, bad, words):
    with pytest.raises(traitlets.TraitError, match=words):
        Playground(**{key: bad})


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("target", ["wave", "hills"])
def test_a_stack_comes_back_as_it_was_loaded(activation, target):
    widget = Playground(target=target, activation=activation, width=5)
    with pytest.raises(ValueError, match="weights holds 0 numbers"):
        widget.stack()
    own = stack_of(activation, TARGETS[target], 5)
    widget.load(own)
    back = widget.stack()
    x = torch.randn(9, TARGETS[target], dtype=torch.float64)
    assert torch.equal(back(x), own(x))
    assert torch.equal(back.gradient(x), own.gradient(x))
    assert (back.activation, back.kink_bandwidth) == (own.activation, own.kink_bandwidth)
    widget.width = 6
    with pytest.raises(ValueError, match="weights holds"):
        widget.stack()
    with pytest.raises(ValueError, match="needed is"):
        widget.load(own)


def test_data_are_the_points():
    widget = Playground(target="hills")
    with pytest.raises(ValueError, match="points is empty"):
        widget.data()
    widget.points = [[0.1, 0.2, 3.0, 4.0, 5.0], [0.6, -0.7, 8.0, 9.0, 10.0]]
    x, y, dy = widget.data()
    assert x.tolist() == [[0.1, 0.2], [0.6, -0.7]]
    assert y.tolist() == [[3.0], [8.0]]
    assert dy.tolist() == [[4.0, 5.0], [9.0, 10.0]]
    widget.target = "wave"  # its points have three numbers
    assert widget.points == []


def test_points_fit_the_page(js):
    assert dict(enumerate(js("() => w.POINTS.map((p) => p.most)"), 1)) == MOST_POINTS


# --- a reader -------------------------------------------------------------------------------------


def cells(section):
    """Numbers of the table: value, slope, pieces of both networks."""
    return section.locator("td").all_inner_texts()


def number(text):
    """A number as the page writes it."""
    found = re.fullmatch(r"([0-9.]+)(?:·10(.*))?", text)
    power = (found[2] or "0").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return float(found[1]) * 10 ** int(power)


def trait(page, name):
    return page.evaluate("(name) => model.get(name)", name)


def editor(section):
    return section.get_by_role("slider", name="Training point")


def finished(section):
    section.get_by_role("status").filter(has_text="Finished").wait_for()


def settled(page):
    """Wait until the state has been handed to Python and to the address."""
    page.evaluate(
        "async () => { let before; do { before = model.saved;"
        " await new Promise((done) => setTimeout(done, 400)); } while (model.saved !== before); }"
    )


PIXEL = """([x, y, panel]) => {
  const canvas = document.querySelector('.sob-play canvas');
  const target = w.targetOf({ target: model.get('target'), knots: model.get('knots') });
  const box = w.arrange(canvas.clientWidth, target.d).boxes[panel];
  const axis = () => w.spanOf(panel, target, w.gridOf(target), model.get('points'));
  const [low, high] = target.d === 2 ? [-1, 1] : axis();
  const at = canvas.getBoundingClientRect();
  const down = (high - y) / (high - low);
  return [at.left + box.x + (x + 1) / 2 * box.w, at.top + box.y + down * box.h];
}"""


def pixel(page, x, y, panel="value"):
    """Where a place of a panel is on the screen."""
    return page.evaluate(PIXEL, [x, y, panel])


def drag(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up()
    settled(page)


def test_the_effect_is_plain_without_a_hand(opened):
    page, section = opened(Playground())
    finished(section)
    assert section.locator("caption").inner_text() == TRUE
    value, slope, pieces, sobolev_value, sobolev_slope, _ = cells(section)
    assert number(value) > 10 * number(sobolev_value)
    assert number(slope) > 10 * number(sobolev_slope)
    assert pieces == "smooth"
    assert value in section.locator("canvas").get_attribute("aria-label")
    assert trait(page, "step") == trait(page, "steps")
    assert not trait(page, "running")


def test_what_the_page_trains_is_what_python_gets(opened):
    settings = dict(target="hills", activation="tanh", n=7, width=8, steps=60, seed=3)
    page, section = opened(Playground(**settings))
    finished(section)
    raw = page.evaluate("() => Array.from(new Uint8Array(model.get('weights').buffer))")
    widget = Playground(**settings, points=trait(page, "points"), weights=bytes(raw))
    stack, (x, y, dy) = widget.stack(), widget.data()
    values, slopes = stack.terms(x, y, dy, torch.ones(2, dtype=torch.float64))
    axis = torch.linspace(-1, 1, 33, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    truth = torch.sin(3 * grid[:, :1]) * torch.cos(2 * grid[:, 1:])
    errors = (stack(grid) - truth).square().mean(dim=(1, 2))
    shown = cells(section)
    assert [number(shown[0]), number(shown[3])] == pytest.approx(errors.tolist(), rel=0.01)

    own = stack_of("tanh", 2, 8, seed=9)
    widget.load(own)
    page.evaluate(
        "(bytes) => model.set('weights', new DataView(Uint8Array.from(bytes).buffer))",
        list(widget.weights),
    )
    section.get_by_role("status").filter(has_text="Set from Python").wait_for()
    errors = (own(grid) - truth).square().mean(dim=(1, 2))
    shown = cells(section)
    assert [number(shown[0]), number(shown[3])] == pytest.approx(errors.tolist(), rel=0.01)
    assert (values > 0).all()
    assert (slopes > 0).all()


def test_python_changes_what_is_shown(opened):
    page, section = opened()
    page.evaluate("() => model.set('points', [[-0.5, 1, 2], [0.5, -1, 0]])")
    section.get_by_role("status").filter(has_text="Set from Python").wait_for()
    assert editor(section).inner_text() == "Point 1/2: x −0.50, value 1.00, slope 2.00"
    page.evaluate("() => { model.set('target', 'valleys'); model.set('n', 9); }")
    page.wait_for_function("() => model.get('points').length === 9")
    assert len(trait(page, "points")[0]) == 5
    assert section.get_by_label("Target").input_value() == "valleys"
    page.evaluate("() => { model.set('steps', 50); model.set('running', true); }")
    finished(section)
    assert trait(page, "step") == 50


def test_a_mouse_moves_tilts_and_adds_points(opened):
    page, section = opened()
    start = trait(page, "points")
    x, y, slope = start[2]
    drag(page, pixel(page, x, y), pixel(page, x + 0.3, y - 0.5))
    moved = trait(page, "points")
    assert moved[2][:2] == pytest.approx([x + 0.3, y - 0.5], abs=0.02)
    assert [p for i, p in enumerate(moved) if i != 2] == [p for i, p in enumerate(start) if i != 2]
    assert section.get_by_role("status").inner_text().startswith("The points have changed.")
    words = editor(section).get_attribute("aria-valuetext")
    assert words.startswith(f"Point 3/5: x {moved[2][0]:.2f}".replace("-", "−"))

    x, y, _ = moved[2]
    wave = np.sin(np.pi * x) + 0.3 * np.cos(2.5 * np.pi * x)
    drag(page, pixel(page, x, y), pixel(page, x, wave + 0.03))  # so close, it snaps
    assert trait(page, "points")[2][1] == pytest.approx(wave, abs=2e-3)

    slope = trait(page, "points")[2][2]
    drag(page, pixel(page, x, slope, "slope"), pixel(page, x + 0.2, slope + 3, "slope"))
    tilted = trait(page, "points")[2]
    assert tilted == pytest.approx([x, wave, slope + 3], abs=0.2)  # no way sideways there
    assert tilted[0] == x

    page.mouse.click(*pixel(page, -0.55, 0.9))
    settled(page)
    added = trait(page, "points")[5]
    assert added[0] == pytest.approx(-0.55, abs=0.01)
    assert added[1] == pytest.approx(
        np.sin(np.pi * added[0]) + 0.3 * np.cos(2.5 * np.pi * added[0]), abs=1e-3
    )  # the new point lies on the curve
    assert trait(page, "n") == 6
    page.mouse.click(*pixel(page, 0.3, 0.5, "slope"))  # nothing to add there
    settled(page)
    assert trait(page, "n") == 6


def test_a_map_takes_points_in_the_plane(opened):
    page, section = opened(Playground(target="hills", n=2, points=[[0, 0, 0, 3, 0]], running=False))
    drag(page, pixel(page, 0, 0, "sobolev"), pixel(page, 0.5, -0.4, "sobolev"))
    page.mouse.click(*pixel(page, -0.6, 0.7, "truth"))
    settled(page)
    for point, place in zip(trait(page, "points"), [(0.5, -0.4), (-0.6, 0.7)], strict=True):
        assert point[:2] == pytest.approx(place, abs=0.02)
        x, y = point[:2]
        assert point[2:] == pytest.approx(
            [np.sin(3 * x) * np.cos(2 * y), 3 * np.cos(3 * x) * np.cos(2 * y),
             -2 * np.sin(3 * x) * np.sin(2 * y)], abs=2e-3
        )  # fmt: skip
    editor(section).press("ArrowUp")
    editor(section).press("Shift+ArrowLeft")
    settled(page)
    assert trait(page, "points")[1][:2] == pytest.approx([x - 0.1, y + 0.02])


def test_the_keyboard_does_all_that_a_mouse_does(opened):
    page, section = opened()
    point = editor(section)
    x, y, _ = trait(page, "points")[0]
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowUp", "ArrowLeft", "Shift+ArrowRight"):
        point.press(key)
    settled(page)
    wave = lambda x: np.sin(np.pi * x) + 0.3 * np.cos(2.5 * np.pi * x)  # noqa: E731
    now = trait(page, "points")[0]
    assert now[0] == pytest.approx(x + 0.1)
    assert now[1] - wave(now[0]) == pytest.approx(y - wave(x) + 0.05, abs=5e-3)
    point.press("PageDown")
    assert point.inner_text().startswith("Point 2/5")
    point.press("PageUp")
    point.press("PageUp")
    assert point.inner_text().startswith("Point 5/5")
    point.press("Delete")
    assert point.inner_text().startswith("Point 4/4")
    point.press("Insert")
    assert point.inner_text().startswith("Point 5/5")
    for _ in range(6):
        point.press("Delete")
    assert point.inner_text().startswith("Point 1/1")  # the last one stays
    assert section.get_by_role("button", name="Remove the point").is_disabled()

    start = section.get_by_role("button", name="Train")
    start.focus()
    stop_clock(page)  # no step is taken between two keys
    page.keyboard.press("Enter")
    section.get_by_role("button", name="Pause").wait_for()
    page.clock.run_for(1000)
    page.keyboard.press("Space")
    section.get_by_role("button", name="Continue").wait_for()
    page.clock.resume()
    section.get_by_role("button", name="Again").press("Enter")
    finished(section)
    section.get_by_role("button", name="Seed 13").press("Enter")
    finished(section)
    assert trait(page, "seed") == 14


def test_a_finger_drags_and_still_scrolls(opened):
    page, _ = opened(size=PHONE, touch=True)
    touch = page.context.new_cdp_session(page)

    def swipe(start, end):
        def send(kind, points):
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        send("touchStart", [{"x": start[0], "y": start[1]}])
        for k in range(1, 7):
            there = [s + (e - s) * k / 6 for s, e in zip(start, end, strict=True)]
            send("touchMove", [{"x": there[0], "y": there[1]}])
        send("touchEnd", [])
        settled(page)

    x, y, _ = trait(page, "points")[2]
    swipe(pixel(page, x, y), pixel(page, x + 0.2, y - 0.6))
    assert trait(page, "points")[2][:2] == pytest.approx([x + 0.2, y - 0.6], abs=0.05)
    assert page.evaluate("scrollY") == 0
    there = pixel(page, -0.6, 1.0)
    page.touchscreen.tap(*there)
    settled(page)
    assert len(trait(page, "points")) == 6
    swipe(pixel(page, -0.6, 1.2), [there[0], there[1] - 90])
    assert page.evaluate("scrollY") > 0
    assert len(trait(page, "points")) == 6


def test_a_curve_is_drawn_and_learnt(opened):
    page, section = opened()
    section.get_by_label("Target").select_option("own")
    settled(page)
    pen = section.get_by_role("button", name="Draw the curve")
    assert pen.get_attribute("aria-pressed") == "true"
    drag(page, pixel(page, -0.98, 0.5), pixel(page, 0.98, -0.5))
    knots = trait(page, "knots")
    assert knots[0] == pytest.approx(0.5, abs=0.05)
    assert knots[-1] == pytest.approx(-0.5, abs=0.05)
    assert np.diff(knots).max() < 0
    for x, y, slope in trait(page, "points"):  # they stay on the curve
        assert y == pytest.approx(-0.5 * x, abs=0.06)
        assert slope == pytest.approx(-0.5, abs=0.3)
    knot = section.get_by_role("slider", name="Knot of the curve")
    knot.press("ArrowRight")
    knot.press("ArrowUp")
    settled(page)
    assert trait(page, "knots")[1] == pytest.approx(knots[1] + 0.05, abs=2e-3)
    pen.click()
    assert editor(section).inner_text().startswith("Point 1/5")
    settled(page)
    points = trait(page, "points")
    section.get_by_label("Target").select_option("free")  # the curve goes, its points stay
    settled(page)
    assert trait(page, "points") == points
    assert not pen.is_visible()
    assert section.locator("caption").inner_text() == "Mean squared error at the points"
    page.mouse.click(*pixel(page, 0.05, 1.5))  # and a new one lies where it is put
    settled(page)
    assert trait(page, "points")[5] == pytest.approx([0.05, 1.5, 0], abs=0.03)


def test_the_address_restores_the_settings(opened):
    page, section = opened(Playground(**FIVE, steps=100, running=False, share=True))
    # nothing is written before the reader has changed something
    assert not page.evaluate("location.hash")
    section.get_by_label("Activation").select_option("kernel")
    section.get_by_role("slider", name="Sobolev weight").press("ArrowLeft")
    section.get_by_role("slider", name="Width").press("Home")
    editor(section).press("ArrowUp")
    settled(page)
    section.get_by_role("button", name="Again").click()
    finished(section)
    before, points = cells(section), trait(page, "points")
    assert "&a=kernel&h=4&" in page.evaluate("location.hash")
    page.reload()
    page.wait_for_function("window.end !== undefined")
    settled(page)
    assert section.get_by_label("Activation").input_value() == "kernel"
    assert trait(page, "width") == 4
    np.testing.assert_allclose(trait(page, "points"), points, atol=1e-3)
    section.get_by_role("button", name="Train").click()
    finished(section)
    assert [number(cell) for cell in cells(section)] == pytest.approx(
        [number(cell) for cell in before], rel=0.05
    )

    page.evaluate("() => { location.hash = '#play&t=valleys&n=8&l=30&h=8'; }")
    page.wait_for_function("() => model.get('target') === 'valleys'")
    finished(section)
    assert (trait(page, "target"), trait(page, "n"), trait(page, "steps")) == ("valleys", 8, 30)
    assert trait(page, "activation") == "silu"  # what an address does not name is as it was first
    page.evaluate("() => { location.hash = '#elsewhere'; }")
    settled(page)
    assert trait(page, "target") == "valleys"


def test_reduced_motion_shows_the_end_only(opened):
    page, section = opened(Playground(**FIVE), motion="reduce")
    untrained = cells(section)
    page.wait_for_timeout(500)
    assert cells(section) == untrained
    assert not trait(page, "running")
    page.evaluate(
        "() => { window.drawn = 0; const clear = CanvasRenderingContext2D.prototype.clearRect;"
        " CanvasRenderingContext2D.prototype.clearRect = function (...a) {"
        " window.drawn++; return clear.apply(this, a); }; }"
    )
    start = page.evaluate("performance.now()")
    section.get_by_role("button", name="Train").click()
    finished(section)
    seconds = (page.evaluate("performance.now()") - start) / 1000
    assert page.evaluate("window.drawn") <= seconds + 3  # about once a second
    assert cells(section) != untrained


def test_numbers_that_explode_stop_the_training(opened):
    points = [[0.0, 1e200, 0.0], [0.5, -1e200, 0.0]]
    _, section = opened(Playground(target="free", points=points))
    section.get_by_role("status").filter(has_text="not finite any more").wait_for()
    section.get_by_label("Target").select_option("wave")
    finished(section)
    assert "finite" not in " ".join(cells(section))


def test_a_screen_reader_is_not_flooded(opened):
    page, section = opened()
    section.get_by_role("status").evaluate(LISTEN)
    start = page.evaluate("performance.now()")
    section.get_by_role("button", name="Train").click()
    finished(section)
    seconds = (page.evaluate("performance.now()") - start) / 1000
    # at the start, at the end, and at most every eight seconds between
    assert 2 <= page.evaluate("window.said") <= 3 + seconds / 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("target", ["wave", "valleys"])
def test_a_phone_shows_controls_and_result_on_one_screen(opened, target, scheme):
    page, section = opened(
        Playground(target=target, running=False), size=PHONE, scheme=scheme, touch=True
    )
    assert section.bounding_box()["height"] <= 780  # the theme's bar takes the rest of 844
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    for control in section.locator("select, input, button, [tabindex='0']").all():
        if control.is_visible():
            box = control.bounding_box()
            assert min(box["width"], box["height"]) >= 24
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
            assert re.search(r'"[^"]+"', control.aria_snapshot()), control.aria_snapshot()
    page.set_viewport_size({"width": 360, "height": 800})
    page.wait_for_function("() => document.scrollingElement.scrollWidth <= 360")
