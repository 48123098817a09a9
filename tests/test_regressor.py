"""The regressor: units, masks, derivatives, held-out data, scikit-learn's checks, its file."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from book_files import ROOT
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from sobolev_lib import SobolevRegressor, derivatives
from sobolev_lib.fitting import fit_stack
from sobolev_lib.stack import MLPStack

QUICK = {"hidden": (16, 16), "n_estimators": 2, "random_state": 0}


def table(n=40, seed=0):
    """Points and two outputs with their Jacobians, in units far from 1."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n, 3)) * [1.0, 50.0, 1e-3] + [0.0, 300.0, 0.0]
    a, b, c = X[:, 0], X[:, 1] / 50, X[:, 2] * 1e3
    y = np.stack([1e4 * np.sin(2 * a) * b, 1e-2 * (b + c**2)], axis=1)
    zero = np.zeros(n)
    dy = np.stack(
        [
            np.stack([2e4 * np.cos(2 * a) * b, 1e4 * np.sin(2 * a) / 50, zero], axis=1),
            np.stack([zero, zero + 1e-2 / 50, 1e-2 * 2 * c * 1e3], axis=1),
        ],
        axis=1,
    )
    return X, y, dy


@parametrize_with_checks([SobolevRegressor(hidden=(16,), n_estimators=2, steps=150)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_learns_values_and_derivatives_in_raw_units():
    X, y, dy = table(60)
    new, y_new, dy_new = table(200, seed=1)
    model = SobolevRegressor(**QUICK, steps=800).fit(X, y, dy)
    off, tilt = model.predict(new) - y_new, model.predict_derivatives(new) - dy_new
    assert model.predict(new).dtype == model.predict_derivatives(new).dtype == np.float64
    assert (np.abs(off).mean(0) < 0.05 * y_new.std(0)).all()
    size = np.abs(dy_new).max(0)
    assert (np.abs(tilt).mean(0)[size > 0] < 0.1 * size[size > 0]).all()
    assert model.score(new, y_new) > 0.98


@pytest.mark.parametrize("activation", ["silu", "tanh", "relu"])
def test_derivatives_are_those_of_the_prediction(activation):
    X, y, dy = table()
    model = SobolevRegressor(**QUICK, activation=activation, steps=50).fit(X, y, dy)
    new = table(7, seed=3)[0]
    found = model.predict_derivatives(new)
    assert found.shape == (7, 2, 3)
    for j, step in enumerate(np.diag([1e-5, 1e-3, 1e-8])):
        slope = (model.predict(new + step) - model.predict(new - step)) / (2 * step[j])
        np.testing.assert_allclose(found[:, :, j], slope, rtol=1e-5, atol=1e-7 * abs(slope).max())
    # and by autograd, network by network, through the library's own derivatives
    stack, units = model.model_.model, model.model_
    x = torch.tensor(new)
    each = []
    for i in range(stack.members):

        def raw(x, i=i):
            k = i % 2
            scaled = stack.member(i)((x - units.x_mean) / units.x_std)
            return units.y_mean[k] + units.y_std[k] * scaled

        each.append(derivatives.jacobian(raw, x)[:, 0])
    mean = torch.stack(each).unflatten(0, (2, 2)).mean(0).transpose(0, 1)
    np.testing.assert_allclose(found, mean.detach().numpy(), rtol=1e-9, atol=1e-9)


def test_other_units_give_the_same_fit():
    X, y, dy = table()
    s, t = np.array([1e3, 1e-2, 7.0]), np.array([1e-6, 40.0])
    one = SobolevRegressor(**QUICK, steps=30).fit(X, y, dy)
    two = SobolevRegressor(**QUICK, steps=30).fit(X * s - 5, y * t + 3, dy * t[:, None] / s)
    new = table(9, seed=2)[0]
    np.testing.assert_allclose(two.predict(new * s - 5), one.predict(new) * t + 3, rtol=1e-6)
    np.testing.assert_allclose(
        two.predict_derivatives(new * s - 5), one.predict_derivatives(new) * t[:, None] / s,
        rtol=1e-5, atol=1e-12,
    )  # fmt: skip


def test_the_weight_is_that_of_equal_terms():
    X, y, dy = table()
    model = SobolevRegressor(**QUICK, steps=1).fit(X, y, dy)
    scaled = dy * X.std(0) / y.std(0)[:, None]
    np.testing.assert_allclose(model.derivative_weight_, 1 / (scaled**2).sum(2).mean(0))
    # half of one column is missing: what was measured of it stands for the rest
    dy[::2, 0, 1] = np.nan
    model.fit(X, y, dy)
    size = np.mean(scaled[:, 0] ** 2, axis=0)
    size[1] = np.mean(scaled[1::2, 0, 1] ** 2)
    assert model.derivative_weight_[0] == pytest.approx(1 / size.sum())
    given = SobolevRegressor(**QUICK, steps=1, derivative_weight=0.1).fit(X, y, dy)
    assert given.derivative_weight_.tolist() == [0.1] * y.shape[1]  # not 0.1 in single precision


def test_what_is_missing_changes_nothing_and_what_is_there_does():
    X, y, dy = table()
    options = {**QUICK, "steps": 20, "derivative_weight": 0.5}
    gone = np.full_like(dy, np.nan)
    without = SobolevRegressor(**options).fit(X, y).predict(X)
    np.testing.assert_array_equal(SobolevRegressor(**options).fit(X, y, gone).predict(X), without)
    gone[3, 1, 2] = dy[3, 1, 2]
    one = SobolevRegressor(**options).fit(X, y, gone).predict(X)
    np.testing.assert_array_equal(one[:, 0], without[:, 0])  # outputs share nothing but the points
    assert (one[:, 1] != without[:, 1]).any()
    y[4:, 0] = np.nan
    assert np.isfinite(SobolevRegressor(**options).fit(X, y, dy).predict(X)).all()


def test_slopes_alone_fix_the_function_up_to_its_one_value():
    X = np.linspace(-2, 2, 15)[:, None]
    y = np.full(15, np.nan)
    y[7] = 5.0
    model = SobolevRegressor(**QUICK, steps=1500).fit(X, y, np.cos(X))
    new = np.linspace(-1.9, 1.9, 50)
    np.testing.assert_allclose(model.predict(new[:, None]), 5 + np.sin(new), atol=0.02)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("which", ["one", "close", "roots"])
def test_slopes_set_the_unit_where_values_hardly_differ(scale, which):
    X = np.pi * np.linspace(-2, 2, 25)[:, None]
    y = np.full(25, np.nan)
    if which == "roots":  # sin at multiples of pi is 0 but for rounding
        y[::6] = np.sin(X[::6, 0])
    else:
        y[0] = 5.0
    if which == "close":  # and equal to the last digits a period further on
        y[12] = 5.0 + 1e-9
    model = SobolevRegressor(**QUICK, steps=600).fit(X, scale * y, scale * np.cos(X))
    np.testing.assert_allclose(model.predict_derivatives(X), scale * np.cos(X), atol=0.3 * scale)


def test_masked_entries_are_not_measured():
    X, y, dy = table(30)
    hidden, gone = np.random.default_rng(1).random(dy.shape) < 0.3, np.zeros(y.shape, dtype=bool)
    gone[:5, 0] = True
    model = SobolevRegressor(**QUICK, steps=20)
    masked = [np.ma.masked_array(np.where(m, -99.0, a), m) for a, m in ((y, gone), (dy, hidden))]
    nan = [np.where(m, np.nan, a) for a, m in ((y, gone), (dy, hidden))]
    wanted = model.fit(X, *nan).predict(X)
    np.testing.assert_array_equal(model.fit(X, *masked).predict(X), wanted)
    with pytest.raises(ValueError, match="X has masked entries"):
        model.fit(np.ma.masked_array(X, X > 0), y, dy)


def test_the_score_leaves_out_what_was_not_measured():
    X, y, dy = table(30)
    model = SobolevRegressor(**QUICK, steps=20).fit(X, y, dy)
    some, weight = y.copy(), np.arange(1.0, 31.0)
    some[:10, 0] = np.nan
    wanted = [
        r2_score(y[rows, k], model.predict(X)[rows, k], sample_weight=weight[rows])
        for k, rows in ((0, slice(10, None)), (1, slice(None)))
    ]
    assert model.score(X, some, weight) == pytest.approx(np.mean(wanted))
    assert model.score(X, y) == pytest.approx(r2_score(y, model.predict(X)))
    with pytest.raises(ValueError, match="no value of output 1"):
        model.score(X, y * [1, np.nan])
    with pytest.raises(ValueError, match=r"y has shape \(30, 1\); needed is \(30, 2\)"):
        model.score(X, y[:, :1])


def test_the_callers_modes_change_nothing():
    X, y, dy = table(20)
    model = SobolevRegressor(**QUICK, steps=5)
    wanted = model.fit(X, y, dy).predict_derivatives(X)
    with torch.inference_mode(), torch.device("meta"):
        np.testing.assert_array_equal(model.fit(X, y, dy).predict_derivatives(X), wanted)


@pytest.mark.parametrize("outputs", [1, 2])
def test_shapes_are_those_of_the_targets(outputs):
    X, y, dy = table(10)
    y, dy = y[:, :outputs], dy[:, :outputs]
    model = SobolevRegressor(**QUICK, steps=2)
    values, spread = model.fit(X, y, dy).predict(X[:4], return_std=True)
    slopes, tilts = model.predict_derivatives(X[:4], return_std=True)
    assert values.shape == spread.shape == (4, outputs)
    assert slopes.shape == tilts.shape == (4, outputs, 3)
    if outputs == 1:
        flat = model.fit(X, y[:, 0], dy[:, 0])
        assert flat.predict(X).shape == (10,)
        assert flat.predict_derivatives(X).shape == (10, 3)
        np.testing.assert_array_equal(flat.predict(X[:4]), values[:, 0])


def test_the_spread_is_that_of_the_networks():
    X, y, dy = table()
    model = SobolevRegressor(**{**QUICK, "n_estimators": 3}, steps=5).fit(X, y, dy)
    centre, spread = model.predict(X, return_std=True)
    stack, units = model.model_.model, model.model_
    with torch.no_grad():
        raw = stack(units.normalise(torch.tensor(X))[0]).view(3, 2, len(X))
    raw = units.y_mean[:, None] + units.y_std[:, None] * raw
    np.testing.assert_allclose(centre, raw.mean(0).T, rtol=1e-12)
    np.testing.assert_allclose(spread, raw.std(0).T, rtol=1e-9)
    far = np.array([[30.0, 3000.0, 0.03]])
    assert (model.predict(far, return_std=True)[1] > 3 * spread.mean(0)).all()


def test_arrays_that_are_read_backwards_are_taken_as_they_are():
    X, y, dy = table(12)
    quick = SobolevRegressor(**QUICK, steps=3)
    goal = quick.fit(X, y, dy).predict(X)
    backwards = [np.flip(np.flip(array).copy()) for array in (X, y, dy)]
    assert all(min(array.strides) < 0 for array in backwards)
    np.testing.assert_array_equal(quick.fit(*backwards).predict(X), goal)


def test_a_seed_decides_everything():
    X, y, dy = table()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = SobolevRegressor(**QUICK, steps=20, batch_size=7).fit(X, y, dy).predict(X)
    assert torch.equal(state, torch.get_rng_state()), "the global generator is left alone"
    two = clone(SobolevRegressor(**QUICK, steps=20, batch_size=7)).fit(X, y, dy).predict(X)
    np.testing.assert_array_equal(one, two)
    other = SobolevRegressor(**{**QUICK, "random_state": 1}, steps=20).fit(X, y, dy).predict(X)
    assert (other != one).all()


def test_each_network_holds_out_points_of_its_own_and_ends_at_its_best():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (30, 1))
    y = rng.normal(size=30)  # nothing to learn: held-out losses rise in the end
    model = SobolevRegressor(**{**QUICK, "n_estimators": 3}, steps=400, validation_fraction=0.2)
    history = model.fit(X, y).history_
    held = np.array(history.held_out)
    assert held.shape == (len(history.steps), 3)
    assert (held[-1] > 1.1 * held.min(0)).all(), "this test needs overfitting"
    # Six of thirty points were held out by each: their mean error is what was kept, so no other
    # six have all the smaller ones, and the three networks do not name the same number.
    units, stack = model.model_, model.model_.model
    x, t = units.normalise(torch.tensor(X), torch.tensor(y)[:, None])
    with torch.no_grad():
        errors = (stack(x)[..., 0] - t.T).square().sort().values
    for own, least in zip(errors, held.min(0), strict=True):
        assert own[:6].mean() <= least <= own[-6:].mean()
    assert len(set(held[0])) == 3


def test_patience_stops_early_and_only_then():
    rng = np.random.default_rng(0)
    X, y = rng.uniform(-1, 1, (30, 1)), rng.normal(size=30)
    model = SobolevRegressor(**QUICK, steps=400, patience=50).fit(X, y)
    assert model.history_.steps[-1] < 400
    assert SobolevRegressor(**QUICK, steps=400).fit(X, y).history_.steps[-1] == 400


def test_held_out_weights_are_the_ones_that_were_seen():
    source = torch.Generator().manual_seed(0)
    stack = MLPStack(2, 1, (8,), "tanh", generator=source, dtype=torch.float64)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    y = torch.randn(2, 12, 1, dtype=torch.float64, generator=source)
    held = (x[::3], y[:, ::3], None)
    history = fit_stack(stack, (x[1::3], y[:, 1::3], None), 0.0, steps=200, held_out=held)
    with torch.no_grad():
        now = stack.losses(*held, 0.0)
    np.testing.assert_allclose(now, np.array(history.held_out).min(0), rtol=1e-12)
    assert history.steps[-1] == 200


def test_batches_see_every_point_once_an_epoch():
    seen = []
    stack = MLPStack(1, 1, (4,), "tanh", dtype=torch.float64)
    losses = stack.losses
    stack.losses = lambda x, *rest: seen.append(x[..., 0].flatten()) or losses(x, *rest)
    x = torch.arange(12, dtype=torch.float64)[:, None]
    source = torch.Generator().manual_seed(0)
    fit_stack(stack, (x, x, None), 0.0, steps=6, batch_size=4, generator=source)
    for epoch in (seen[:3], seen[3:]):
        assert torch.cat(epoch).sort().values.tolist() == list(range(12))


X5, NAN5 = torch.linspace(-1, 1, 5)[:, None], torch.full((5, 1), torch.nan)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((X5, X5), ValueError, r"must be \(x, y, dy\), dy may be None; got 2 entries"),
        ((X5 * torch.nan, X5, None), ValueError, "x of .* holds NaN or infinity in 5 of 5"),
        (
            (X5, X5.expand(3, -1, -1)[:, :4], X5),
            ValueError,
            r"y of .* has shape \(3, 4, 1\)",
        ),
        (
            (X5, X5, X5.repeat(2, 1)),
            ValueError,
            r"dy of .* has shape \(10, 1\)",
        ),
        ((X5, X5[:, 0], None), ValueError, r"y of .* has shape \(5,\), needed is \(5, 1\)"),
        ((X5[:, 0], X5, None), ValueError, r"x of .* has shape \(5,\), needed is \(B, d\)"),
        ((X5, X5 / 0, None), ValueError, "y of .* holds infinity"),
        ((X5, X5, X5.double()), TypeError, "dy of .* is torch.float64"),
        ((X5, None, X5), TypeError, "y of .* must be a torch.Tensor, got NoneType"),
        ((X5, NAN5, NAN5), ValueError, "nothing was measured in .*: every target is NaN"),
    ],
)
def test_data_that_a_training_cannot_use_are_named(data, error, message):
    good, source = (X5, X5, None), torch.Generator().manual_seed(0)
    for name, parts in (("data", (data, good)), ("held_out", (good, data))):
        stack = MLPStack(3, 1, (4,), "tanh")
        before = [p.clone() for p in stack.parameters()]
        with pytest.raises(error, match=message.replace(".*", name, 1)):
            fit_stack(stack, parts[0], batch_size=2, generator=source, held_out=parts[1])
        assert all(map(torch.equal, before, stack.parameters()))


def test_grid_search_passes_gradients_on():
    X, y, dy = table(30)
    grid = {"derivative_weight": [0.0, 1.0]}
    search = GridSearchCV(SobolevRegressor(**QUICK, steps=150), grid, cv=3)
    search.fit(X, y[:, 0], dy=dy[:, 0])
    assert search.best_params_ == {"derivative_weight": 1.0}


def test_what_was_saved_predicts_the_same(tmp_path):
    X, y, dy = table()
    model = SobolevRegressor(
        **{**QUICK, "random_state": np.random.RandomState(3)}, steps=10, activation="relu",
        kink_bandwidth=0.1,
    ).fit(X, y, dy)  # fmt: skip
    model.save(tmp_path / "model.safetensors")
    state = torch.get_rng_state()
    again = SobolevRegressor.load(tmp_path / "model.safetensors")
    assert torch.equal(state, torch.get_rng_state())
    for name in ("predict", "predict_derivatives"):
        for a, b in zip(getattr(model, name)(X, True), getattr(again, name)(X, True), strict=True):
            np.testing.assert_array_equal(a, b)
    left_out = {"random_state": None}
    assert again.get_params() == {**model.get_params(), **left_out}
    assert again.n_features_in_ == 3
    with pytest.raises(ValueError, match="X has 2 features, but SobolevRegressor is expecting 3"):
        again.predict(X[:, :2])


def test_what_is_saved_is_what_was_fitted(tmp_path):
    X, y, dy = table()
    options = {**QUICK, "hidden": np.array([8, 8])}
    model = SobolevRegressor(**options, steps=10).fit(X, y, dy)
    wanted = model.predict(X, return_std=True)
    model.set_params(activation="tanh", n_estimators=1, hidden=(3,))
    model.save(tmp_path / "model.safetensors")
    again = SobolevRegressor.load(tmp_path / "model.safetensors")
    assert (again.activation, again.n_estimators, again.hidden) == ("silu", 2, (8, 8))
    for found in (model.predict(X, return_std=True), again.predict(X, return_std=True)):
        np.testing.assert_array_equal(found, wanted)


def test_a_file_of_another_kind_is_named(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x_mean": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"other.safetensors is not a regressor that save\(\)"):
        SobolevRegressor.load(path)
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match=r"is not a regressor that save\(\)"):
        SobolevRegressor.load(path)
    with pytest.raises(FileNotFoundError):
        SobolevRegressor.load(tmp_path / "missing.safetensors")
    with pytest.raises(NotFittedError):
        SobolevRegressor().save(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"derivative_weight": "even"}, "derivative_weight is 'even'.*'balanced'"),
        ({"derivative_weight": -1.0}, "derivative_weight is -1.0.*not negative"),
        ({"derivative_weight": np.ones(2)}, "derivative_weight is array.*give a number or"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; give a number"),
        ({"validation_fraction": None}, "validation_fraction is None; give a number"),
        ({"hidden": 16}, "hidden is 16; give a sequence of widths"),
        ({"hidden": (8.0,)}, "hidden must be an integer of at least 1, got 8.0"),
        ({"n_estimators": 0}, "n_estimators must be an integer of at least 1, got 0"),
        ({"steps": 2.5}, "steps must be an integer of at least 1, got 2.5"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"patience": 0}, "patience must be an integer of at least 1, got 0"),
        ({"patience": "a", "validation_fraction": 0.0}, "patience must be an integer"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0.*below 1"),
        ({"hidden": ()}, "hidden is .*at least one layer"),
        ({"activation": "step"}, "activation is 'step'"),
        ({"kink_bandwidth": 0.1}, "silu has no kinks"),
    ],
)  # fmt: skip
def test_bad_options_are_named(change, message):
    X, y, dy = table(12)
    with pytest.raises(ValueError, match=message):
        SobolevRegressor(**{**QUICK, "steps": 2, **change}).fit(X, y, dy)


def test_bad_data_are_named():
    X, y, dy = table(12)
    model = SobolevRegressor(**QUICK, steps=2)
    for bad, needed in ((dy[:, 0], r"\(12, 2, 3\)"), (dy[:5], r"\(12, 2, 3\)")):
        with pytest.raises(ValueError, match=rf"dy has shape .*needed is {needed}"):
            model.fit(X, y, bad)
    with pytest.raises(ValueError, match=r"dy has shape \(12, 2\).*\(12, 3\) or \(12, 1, 3\)"):
        model.fit(X, y[:, 0], dy[:, 0, :2])
    with pytest.raises(ValueError, match=r"y has shape \(12, 2, 3\)"):
        model.fit(X, dy)
    dy[2, 1, 0] = np.inf
    with pytest.raises(ValueError, match=r"dy contains infinity"):
        model.fit(X, y, dy)
    dy[2, 1, 0] = np.nan
    with pytest.raises(ValueError, match="output that is NaN"):
        model.fit(X, y * [1, np.nan], dy)
    one = SobolevRegressor(**{**QUICK, "n_estimators": 1}, steps=2).fit(X, y, dy)
    with pytest.raises(ValueError, match="n_estimators is 1, give 2 or more"):
        one.predict(X, return_std=True)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        one.score(X, y, sample_weight=[1.0])
    with pytest.raises(FloatingPointError, match="try a learning_rate below 1e"):
        SobolevRegressor(**QUICK, steps=40, learning_rate=1e200).fit(X, y, dy)


def test_the_library_imports_without_scikit_learn():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import sobolev_lib\n"
        "from sobolev_lib import *\n"
        "from sobolev_lib.fitting import fit_stack\n"
        "try:\n    sobolev_lib.SobolevRegressor\n"
        "except ImportError as error:\n    print(error)\n"
        "print(hasattr(sobolev_lib, 'other'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "sobolev-lib[regressor]" in done.stdout
    assert done.stdout.endswith("False\n")
