"""The wrapper against the chain rule by autograd, and its state_dict."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from numerics import F64, close, normal
from safetensors.torch import load_file, save_file
from torch import nn

from sobolev_lib import SobolevLoss, derivatives
from sobolev_lib.normalization import Normalized


def net(inputs: int = 3, out: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, out)).to(F64)


def data(*inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    scale = torch.linspace(0.1, 50, math.prod(inputs), dtype=F64).reshape(inputs)
    x = 7 + scale * normal(40, *inputs)
    z = x.reshape(len(x), -1)
    return x, torch.stack([1e3 * z.sin().sum(1), 1e-3 * z.sum(1) - 5], 1)


@pytest.mark.parametrize("inputs", [(3,), (2, 2)])
def test_statistics_are_those_of_the_data(inputs: tuple[int, ...]) -> None:
    x, y = data(*inputs)
    wrapper = Normalized(net(math.prod(inputs)))
    assert wrapper.fit(x, y) is wrapper
    x_n, y_n = wrapper.normalise(x, y)
    for z in (x_n, y_n):
        close(z.mean(0), torch.zeros_like(z[0]))
        close(z.square().mean(0), torch.ones_like(z[0]))


@pytest.mark.parametrize("inputs", [(3,), (2, 2)])
def test_derivatives_are_raw_by_the_chain_rule(inputs: tuple[int, ...]) -> None:
    x, y = data(*inputs)
    wrapper = Normalized(net(math.prod(inputs))).fit(x, y)
    raw = derivatives.value_and_derivatives(wrapper, x, 2)
    x_n, *normalised = wrapper.normalise(x, *raw)
    # The inner model's own derivatives, taken in normalised units, are the normalised ones.
    inner = derivatives.value_and_derivatives(wrapper.model, x_n, 2)
    for a, b in zip(normalised, inner, strict=True):
        close(a, b)


def test_the_loss_in_normalised_units_is_scaled_component_by_component() -> None:
    x, y = data(3)
    dy = normal(40, 2, 3, seed=5)
    wrapper = Normalized(net()).fit(x, y)
    inner, _ = SobolevLoss()(wrapper.model, *wrapper.normalise(x, y, dy))
    weights = (wrapper.y_std**-2, wrapper.x_std**2 / wrapper.y_std[:, None] ** 2)
    raw, _ = SobolevLoss(weights=weights)(wrapper, x, y, dy)
    close(inner, raw, 1e-10)


def test_unmeasured_targets_stay_unmeasured() -> None:
    x, y = data(3)
    y[0, 1] = math.nan
    wrapper = Normalized(net()).fit(x, y)
    kept = y[1:, 1]
    close(wrapper.y_mean[1], kept.mean())
    close(wrapper.y_std[1], kept.std(correction=0))
    dy = torch.full((40, 2, 3), math.nan, dtype=F64)
    dy[3] = 1
    _, y_n, dy_n = wrapper.normalise(x, y, dy)
    assert torch.equal(torch.isnan(y_n), torch.isnan(y))
    assert torch.equal(torch.isnan(dy_n), torch.isnan(dy))


def test_a_component_that_never_varies_keeps_its_scale() -> None:
    x, y = data(3)
    x[:, 1], y[:, 0] = 4.0, 2.0
    wrapper = Normalized(net()).fit(x, y)
    assert wrapper.x_std[1] == wrapper.y_std[0] == 1
    assert torch.isfinite(derivatives.jacobian(wrapper, x)).all()
    one = Normalized(net()).fit(x[:1], y[:1])
    assert (one.x_std == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
@pytest.mark.parametrize("value", [0.1, 14.62, -1000.1, 0.0])
def test_rounding_is_no_variation(dtype: torch.dtype, value: float) -> None:
    constant = torch.full((1000, 1), value, dtype=dtype)
    jitter = constant.clone()
    jitter[::3] = torch.nextafter(constant[::3], torch.tensor(math.inf, dtype=dtype))
    masked = constant.clone()
    masked[::2] = math.nan
    varied = normal(1000, 1).to(dtype)
    for column in (constant, jitter, masked):
        wrapper = Normalized(net(1, 1).to(dtype)).fit(varied, column)
        assert wrapper.y_std.item() == 1
        if not column.isnan().any():
            assert Normalized(net(1, 1).to(dtype)).fit(column, varied).x_std.item() == 1


def test_small_variation_beside_a_large_mean_is_variation() -> None:
    y = 300 + 0.01 * normal(100_000, 1).float()
    assert Normalized(net(1, 1).float()).fit(y, y).y_std.item() == pytest.approx(0.01, rel=0.02)


def test_statistics_of_half_precision_do_not_overflow() -> None:
    y = 3000 * normal(500, 2)
    wrapper = Normalized(net(2, 2).half()).fit(y.half(), y.half())
    for std in (wrapper.x_std, wrapper.y_std):
        torch.testing.assert_close(std.double(), y.std(0, correction=0), rtol=2e-3, atol=0)


def test_off_until_it_is_fitted() -> None:
    model, (x, _) = net(), data(3)
    close(Normalized(model)(x), model(x))


def test_models_without_an_output_axis() -> None:
    x, y = data(3)
    model = nn.Sequential(net(3, 1), nn.Flatten(0))
    wrapper = Normalized(model).fit(x, y[:, 0])
    assert wrapper(x).shape == (40,)
    close(wrapper(x), y[:, 0].mean() + y[:, 0].std(correction=0) * model(wrapper.normalise(x)[0]))
    assert derivatives.jacobian(wrapper, x).shape == (40, 1, 3)


def test_state_dict_round_trip_through_a_file(tmp_path: Path) -> None:
    x, y = data(3)
    wrapper = Normalized(net()).fit(x, y)
    path = tmp_path / "state.safetensors"
    save_file(wrapper.state_dict(), path)
    state = load_file(path)
    assert {"x_mean", "x_std", "y_mean", "y_std"} < set(state)
    fresh = nn.ModuleDict({"inner": Normalized(net())})  # never fitted, and nested
    fresh.load_state_dict({f"inner.{key}": value for key, value in state.items()})
    close(fresh["inner"](x), wrapper(x), 0)
    close(derivatives.jacobian(fresh["inner"], x), derivatives.jacobian(wrapper, x), 0)


def test_statistics_follow_dtype() -> None:
    x, y = data(3)
    wrapper = Normalized(net()).fit(x, y).float()
    assert wrapper.x_mean.dtype == torch.float32
    assert wrapper(x.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        (torch.ones(0, 3), torch.ones(0, 1), ValueError, "x is an empty batch"),
        (torch.full((2, 3), math.nan), torch.ones(2, 1), ValueError, "x holds NaN"),
        (
            torch.ones(2, 3),
            torch.ones(2, 1, dtype=F64),
            TypeError,
            r"y is torch.float64 .* x is torch.float32 .*\.to\(x\)",
        ),
        (torch.ones(2, 3), [1.0], TypeError, "y must be .* got list"),
        (torch.ones(2, 3), torch.ones(3, 1), ValueError, r"y has shape \(3, 1\).* B = 2"),
        (torch.ones(2, 3), torch.full((2, 1), math.inf), ValueError, "y holds infinity"),
        (torch.ones(2, 3), torch.full((2, 1), math.nan), ValueError, "every sample"),
    ],
)
def test_bad_data(x: object, y: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Normalized(net().float()).fit(x, y)


def test_data_of_another_dtype_than_the_model_are_refused() -> None:
    wrapper = Normalized(torch.nn.Linear(2, 1))
    x = torch.rand(4, 2, dtype=torch.float64)
    with pytest.raises(
        TypeError, match=r"x is torch.float64 on cpu but the model is torch.float32"
    ):
        wrapper.fit(x, x[:, :1])


def test_nothing_is_broadcast() -> None:
    x, y = data(3)
    wrapper = Normalized(net()).fit(x, y)
    for call in (
        lambda: wrapper(x[:, :1]),
        lambda: wrapper.normalise(x[:, :1]),
        lambda: wrapper.normalise(x, y[:, :1]),
        lambda: wrapper.normalise(x, y[:, 0]),
        lambda: Normalized(net(3, 1)).fit(x, y)(x),  # the model has one output, y had two
    ):
        with pytest.raises(ValueError, match=r"has shape \(40,( 1)?\), needed is"):
            call()
    with pytest.raises(ValueError, match=r"y has shape \(4, 2\), needed is one row for each"):
        wrapper.normalise(x, y[:4])


def test_bad_derivatives_and_models() -> None:
    x, y = data(3)
    with pytest.raises(ValueError, match=r"order 1 has shape \(40, 3\), needed is \(40, 2, 3\)"):
        Normalized(net()).fit(x, y).normalise(x, y, torch.ones(40, 3, dtype=F64))
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        Normalized(lambda x: x)
