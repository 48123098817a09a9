"""Derivatives against closed forms, and every refusal."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from numerics import F64, close, mlp, normal
from torch import nn

from sobolev_lib import derivatives

BACKENDS = ["autograd", "func"]


class Quadratic(nn.Module):
    """m_k(x) = x^T A_k x / 2 + b_k^T x, whose derivatives are known, for inputs of any shape."""

    def __init__(self, out: int, inputs: tuple[int, ...], seed: int = 1) -> None:
        super().__init__()
        d = math.prod(inputs)
        self.inputs = inputs
        self.a = nn.Parameter(normal(out, d, d, seed=seed))
        self.b = nn.Parameter(normal(out, d, seed=seed + 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.reshape(len(x), -1)
        return torch.einsum("bi,kij,bj->bk", z, self.a, z) / 2 + z @ self.b.T

    def symmetric(self) -> torch.Tensor:
        return (self.a + self.a.mT) / 2

    def jacobian(self, x: torch.Tensor) -> torch.Tensor:
        z = x.reshape(len(x), -1)
        flat = torch.einsum("kij,bj->bki", self.symmetric(), z) + self.b
        return flat.reshape(len(x), -1, *self.inputs)


# --- closed forms -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("inputs", [(3,), (2, 2), ()])
def test_quadratic_has_its_closed_form(backend: str, inputs: tuple[int, ...]) -> None:
    model, x = Quadratic(2, inputs), normal(5, *inputs, seed=9)
    y, first, second, third = derivatives.value_and_derivatives(model, x, 3, backend=backend)
    close(y, model(x))
    close(first, model.jacobian(x))
    close(second, model.symmetric().reshape(2, *inputs, *inputs).expand_as(second))
    assert third.shape == (5, 2, *inputs * 3)
    assert not third.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_sine_to_order_four(backend: str) -> None:
    frequencies = torch.tensor([0.5, 2.0], dtype=F64)
    x = normal(6)
    tower = derivatives.value_and_derivatives(
        lambda x: torch.sin(x[:, None] * frequencies), x, 4, backend=backend
    )
    for order, level in enumerate(tower):
        close(level, frequencies**order * torch.sin(x[:, None] * frequencies + order * math.pi / 2))


def test_cubic_mixed_partials_are_in_place() -> None:
    x = normal(4, 2)
    a, b = x.T
    third = derivatives.value_and_derivatives(lambda x: x[:, 0] ** 2 * x[:, 1], x, 3)[-1]
    assert third.shape == (4, 1, 2, 2, 2)
    expected = torch.zeros_like(third)
    for index in [(0, 0, 1), (0, 1, 0), (1, 0, 0)]:
        expected[(slice(None), 0, *index)] = 2
    close(third, expected)
    second = derivatives.value_and_derivatives(lambda x: x[:, 0] ** 2 * x[:, 1], x, 2)[-1]
    close(second[:, 0], torch.stack([2 * b, 2 * a, 2 * a, 0 * a], 1).reshape(4, 2, 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_layer(backend: str) -> None:
    layer = nn.Linear(3, 2, dtype=F64)
    first, second = derivatives.value_and_derivatives(layer, normal(4, 3), 2, backend=backend)[1:]
    close(first, layer.weight.expand(4, 2, 3))
    assert second.shape == (4, 2, 3, 3)
    assert not second.any()


def test_model_without_output_axis() -> None:
    x = normal(4, 3)
    y, dy = derivatives.value_and_derivatives(lambda x: (x**3).sum(1), x)
    close(y, (x**3).sum(1, keepdim=True))
    close(dy, 3 * x.square().unsqueeze(1))


def test_an_output_that_ignores_x_has_zero_derivative() -> None:
    x = normal(4, 3)
    dy = derivatives.jacobian(lambda x: torch.stack([x.sum(1), torch.ones(4, dtype=F64)], 1), x)
    close(dy, torch.tensor([1.0, 0.0], dtype=F64)[:, None].expand(4, 2, 3))


def test_convolution_with_pooling_matches_torch_func() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)
    ).double()
    x = normal(3, 1, 4, 4)
    reference = torch.func.vmap(torch.func.jacfwd(lambda x: net(x[None])[0]))(x)
    for backend in BACKENDS:
        close(derivatives.jacobian(net, x, backend=backend), reference)


# --- gradients by the parameters ----------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_jacobian_is_differentiable_by_the_parameters(backend: str) -> None:
    model, x, weight = Quadratic(2, (3,)), normal(5, 3), normal(5, 2, 3, seed=4)
    got = torch.autograd.grad(
        (derivatives.jacobian(model, x, backend=backend) * weight).sum(), [model.a, model.b]
    )
    expected = torch.autograd.grad((model.jacobian(x) * weight).sum(), [model.a, model.b])
    for a, b in zip(got, expected, strict=True):
        close(a, b)


def test_gradcheck_of_the_second_derivative_by_parameters() -> None:
    net, x = mlp(), normal(3, 3)

    def hessian(weight: torch.Tensor) -> torch.Tensor:
        def model(x: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(net, {"0.weight": weight}, (x,))

        return derivatives.value_and_derivatives(model, x, 2)[-1]

    assert torch.autograd.gradcheck(hessian, net[0].weight.detach().clone().requires_grad_())


def test_the_graph_of_x_is_kept() -> None:
    z = normal(4, 3).requires_grad_()
    dy = derivatives.jacobian(lambda x: (x**3).sum(1), 2 * z)  # 3 (2 z)^2
    (grad,) = torch.autograd.grad(dy.sum(), z)
    close(grad, 24 * z.detach())


def test_only_the_models_argument_is_differentiated() -> None:
    x = normal(4, 3).requires_grad_()
    shift = x**2  # depends on x, but not through the argument
    close(derivatives.jacobian(lambda z: (z + shift).sum(1), x), torch.ones(4, 1, 3, dtype=F64))


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_without_gradients(guard: type, backend: str) -> None:
    net = mlp()
    expected = derivatives.value_and_derivatives(net, normal(4, 3), 2)
    with guard():
        x = normal(4, 3)
        got = derivatives.value_and_derivatives(net, x, 2, backend=backend)
        product = derivatives.project(net, x, torch.ones(2, dtype=F64), x, backend=backend)
    assert not any(t.requires_grad for t in [*got, product])
    for a, b in zip(got, expected, strict=True):
        close(a.clone(), b.detach())


# --- products -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("inputs", [(3,), (1, 3)])
def test_projection_contracts_all_axes_but_the_last(backend: str, inputs: tuple) -> None:
    net = nn.Sequential(nn.Flatten(), *mlp())
    x, v = normal(4, *inputs), normal(4, 2, seed=2)
    u, w = normal(4, *inputs, seed=3), normal(4, *inputs, seed=4)
    tower = derivatives.value_and_derivatives(net, x, 3)
    flat = [level.reshape(4, 2, *[3] * order) for order, level in enumerate(tower)]
    contracted = [
        torch.einsum("bki,bk->bi", flat[1], v),
        torch.einsum("bkij,bk,bi->bj", flat[2], v, u.reshape(4, 3)),
        torch.einsum("bkijl,bk,bi,bj->bl", flat[3], v, u.reshape(4, 3), w.reshape(4, 3)),
    ]
    for order, expected in enumerate(contracted, 1):
        got = derivatives.project(net, x, v, *[u, w][: order - 1], backend=backend)
        close(got, expected.reshape(4, *inputs))


# --- black boxes --------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [(3,), (2, 2), ()])
def test_finite_differences_of_a_black_box(inputs: tuple[int, ...]) -> None:
    x = normal(5, *inputs)

    def box(x: torch.Tensor) -> object:
        z = x.reshape(len(x), -1).numpy()
        return [[float(row.sum() ** 3), float((row**2).sum())] for row in z]  # no tensor at all

    def model(x: torch.Tensor) -> torch.Tensor:
        z = x.reshape(len(x), -1)
        return torch.stack([z.sum(1) ** 3, z.square().sum(1)], 1)

    first, second = derivatives.value_and_derivatives(model, x, 2)[1:]
    # Errors of order eps^(2/3) and eps^(1/2) are what the default steps promise.
    close(derivatives.finite_differences(box, x), first, 1e-8)
    close(derivatives.finite_differences(box, x, 2), second, 1e-5)


def test_finite_difference_error_falls_with_the_square_of_the_step() -> None:
    x = normal(20, 2)
    errors = [
        (derivatives.finite_differences(lambda x: torch.sin(x).sum(1), x, step=h)[:, 0] - x.cos())
        .abs()
        .max()
        for h in (0.1, 0.01)
    ]
    assert 80 < errors[0] / errors[1] < 120


def test_finite_differences_take_a_step_for_each_component() -> None:
    x, step = normal(4, 2), torch.tensor([0.5, 1e-3], dtype=F64)
    got = derivatives.finite_differences(lambda x: (x**3).sum(1), x, step=step)[:, 0]
    close(got, 3 * x**2 + step**2, 1e-9)  # central differences of a cube are off by h^2


def test_finite_differences_pass_nan_on_as_not_measured() -> None:
    x = torch.tensor([[0.0], [4.0]], dtype=F64)
    got = derivatives.finite_differences(lambda x: x.sqrt().sum(1), x).flatten()
    assert torch.isnan(got[0])
    close(got[1], torch.tensor(0.25, dtype=F64), 1e-8)


def test_finite_differences_in_float32() -> None:
    x = normal(5, 2).float()
    got = derivatives.finite_differences(lambda x: torch.sin(x).sum(1), x)
    assert got.dtype == torch.float32
    close(got[:, 0], x.cos(), 1e-3)


# --- refusals -----------------------------------------------------------------------------------

X = normal(4, 3)
CALLS = {
    "jacobian": lambda model: derivatives.jacobian(model, X),
    "func": lambda model: derivatives.jacobian(model, X, backend="func"),
    "project": lambda model: derivatives.project(model, X, torch.ones(1, dtype=F64)),
}
THETA = torch.ones(3, dtype=F64, requires_grad=True)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        ([[1.0]], TypeError, "x must be a torch.Tensor, got list"),
        (torch.ones(2, 3, dtype=torch.long), TypeError, "floating-point.*int64.*use .to"),
        (torch.tensor(1.0), ValueError, "batch axis"),
        (torch.ones(0, 3), ValueError, r"x is an empty batch: shape \(0, 3\)"),
        (torch.tensor([[1.0, math.nan]]), ValueError, "x holds NaN or infinity in 1 of 1 samples"),
    ],
)
def test_bad_x(x: object, error: type[Exception], words: str) -> None:
    for function in (
        lambda x: derivatives.jacobian(nn.Identity(), x),
        lambda x: derivatives.project(nn.Identity(), x, x),
        lambda x: derivatives.finite_differences(nn.Identity(), x),
    ):
        with pytest.raises(error, match=words):
            function(x)


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (lambda x: x.sum(), ValueError, r"\(B,\) or \(B, out\) with B = 4.*\(4, 3\).*got \(\)"),
        (lambda x: x[:, None], ValueError, r"got \(4, 1, 3\); flatten"),
        (lambda x: (x, x), TypeError, "model must return a torch.Tensor, got tuple"),
        (lambda x: x.detach(), ValueError, "does not depend on x.*finite_differences"),
        (lambda x: x.detach() * THETA, ValueError, "model has no gradient"),
        (lambda x: x * 1j, TypeError, "model must return real numbers, got torch.complex128"),
    ],
)
@pytest.mark.parametrize("mode", CALLS)
def test_bad_model(model: object, error: type[Exception], words: str, mode: str) -> None:
    with pytest.raises(error, match=words):
        CALLS[mode](model)


def test_an_error_inside_the_model_is_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        derivatives.jacobian(nn.Linear(5, 1, dtype=F64), X)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: derivatives.value_and_derivatives(nn.Identity(), X, 0),
            "order must be .* at least 1, got 0",
        ),
        (lambda: derivatives.jacobian(nn.Identity(), X, backend="jax"), "backend.*'jax'"),
        (lambda: derivatives.jacobian(nn.Identity(), X, batch_coupled="ok"), "batch_coupled.*'ok'"),
        (lambda: derivatives.project(nn.Identity(), X, X[:2]), r"v has .*\(2, 3\).*\(4, 3\)"),
        (
            lambda: derivatives.finite_differences(nn.Identity(), X, 3),
            "order must be 1 or 2, got 3",
        ),
        (lambda: derivatives.finite_differences(nn.Identity(), X, step=0.0), "step must be"),
        (lambda: derivatives.finite_differences(nn.Identity(), X, step=1e-30), "large enough"),
        (
            lambda: derivatives.finite_differences(nn.Identity(), X, step=X),
            r"step has shape \(4, 3\).*\(3,\)",
        ),
        (lambda: derivatives.finite_differences(lambda x: x[:1], X), r"function.*B = 4.*\(1, 3\)"),
    ],
)
def test_bad_options(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_bad_directions() -> None:
    with pytest.raises(TypeError, match=r"v is torch.float32 .* x is torch.float64.*use .to\(x\)"):
        derivatives.project(nn.Identity(), X, X.float())
    with pytest.raises(TypeError, match=r"v must be a torch.Tensor, got list"):
        derivatives.project(nn.Identity(), X, [1.0])


def test_complex_numbers_of_a_black_box_are_refused() -> None:
    for box in (lambda x: x * 1j, lambda x: (x.numpy() + 1j).tolist()):
        with pytest.raises(TypeError, match="function must return real numbers"):
            derivatives.finite_differences(box, X)


@pytest.mark.parametrize("nothing", [None, "no number", [None] * 4])
def test_what_is_no_number_of_a_black_box_is_named(nothing: object) -> None:
    got = type(nothing).__name__
    with pytest.raises(TypeError, match=f"function must return numbers .* got {got}"):
        derivatives.finite_differences(lambda _: nothing, X)


def test_instance_normalisation_couples_no_samples() -> None:
    torch.manual_seed(0)
    layers = nn.Conv1d(2, 3, 3, padding=1), nn.InstanceNorm1d(3), nn.SiLU(), nn.Flatten()
    net = nn.Sequential(*layers, nn.Linear(12, 2)).double()
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    one_by_one = torch.cat([derivatives.jacobian(net, point[None]) for point in x])
    close(derivatives.jacobian(net, x), one_by_one)


def test_batch_normalisation_is_refused_while_it_couples_samples() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
    with pytest.raises(ValueError, match=r"statistics of the batch.*model.eval"):
        derivatives.jacobian(net, X)
    for hidden in (net.forward, functools.partial(net), lambda x: net(x)):
        with pytest.raises(ValueError, match="statistics of the batch"):
            derivatives.jacobian(hidden, X)
    allowed = derivatives.jacobian(net, X, batch_coupled="allow")
    point = X.clone().requires_grad_()
    close(allowed[:, 0], torch.autograd.grad(net(point).sum(), point)[0])
    net.eval()
    per_sample = torch.func.vmap(torch.func.jacrev(lambda x: net(x[None])[0]))(X)
    close(derivatives.jacobian(net, X), per_sample)


def test_batch_normalisation_without_running_statistics_is_refused_in_eval_too() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)).double()
    with pytest.raises(ValueError, match="statistics of the batch"):
        derivatives.jacobian(net.eval(), X)
