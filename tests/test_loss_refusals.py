"""What the loss refuses, one case of each kind, and what it must not refuse."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings

import pytest
import torch
from numerics import F64, NAN, batch, mlp
from torch import nn
from torch.func import functional_call

from sobolev_lib import SobolevLoss, checks, kinks

X, Y, DY, D2Y = batch()
NET = mlp()
FUNC = {"backend": "func"}

# --- order 2 of a piecewise-linear model --------------------------------------------------------

pool = functools.partial(nn.functional.max_pool1d, kernel_size=2)
FLAT = {
    "relu": torch.relu,
    "leaky": nn.LeakyReLU(),
    "prelu": nn.PReLU(dtype=F64),
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(),
    "softshrink": nn.Softshrink(),
    "abs": torch.abs,
    "clamp": lambda z: z.clamp(min=0),
    "sign": lambda z: z * z.sign(),
    "maximum": lambda z: torch.maximum(z, 0.2 * z),
    "pool": lambda z: pool(z[:, None]).flatten(1).repeat(1, 2),
    "affine": lambda z: 2 * z,
}


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in FLAT), ("relu", {"projections": 2}), ("relu", FUNC)],
)
def test_order_two_of_a_piecewise_linear_model_is_refused(name: str, options: dict) -> None:
    model = lambda z: NET[2](FLAT[name](NET[0](z)))  # noqa: E731
    loss = SobolevLoss(2, **options)
    with pytest.raises(ValueError, match=r"order 2.*exactly 0.*piecewise-linear.*smooth activat"):
        loss(model, X, Y, (DY, D2Y))
    loss.weights = (1, 1, 0)
    loss(model, X, Y, (DY, None))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Softplus, nn.ELU, nn.SiLU, nn.Hardswish])
def test_a_smooth_model_far_out_is_not_flat(activation: type[nn.Module]) -> None:
    # The curvature is exactly 0 in float32 here; tomorrow's batch may lie elsewhere.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), activation(), nn.Linear(16, 1))
    curvature = 0
    for x in ((torch.rand(20, 2) - 0.5) * 2e4).split(1):
        zeros = torch.zeros(1, 1), (torch.zeros(1, 1, 2), torch.zeros(1, 1, 2, 2))
        curvature += int(SobolevLoss(2, (0, 0, 1))(net, x, *zeros)[0] == 0)
    assert curvature > 0


def test_zero_curvature_that_training_can_change_is_not_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    net = net.double()
    nn.init.zeros_(net[4].weight)  # the Hessian is 0 now, and its gradient is not
    total, _ = SobolevLoss(2)(net, X, Y, (DY, D2Y))
    total.backward()
    assert net[4].weight.grad.any()


def test_kink_kernels_are_no_second_derivative() -> None:
    net = kinks.replace(mlp(activation=nn.ReLU), 0.1)
    with pytest.raises(ValueError, match=r"kinks.ReLU.*no second derivative"):
        SobolevLoss(2)(net, X, Y, (DY, D2Y))


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"order": -1}, ValueError, "order must be .*, got -1"),
        ({"projections": True}, ValueError, "projections must be an integer of at least 1"),
        ({"weights": (1.0,)}, ValueError, "weights must .* each order from 0 to 1, got 1"),
        ({"weights": torch.ones(2)}, TypeError, "weights must .* each order.* got Tensor"),
        ({"weights": (NAN, 1.0)}, ValueError, r"weights\[0\] must be finite"),
        ({"weights": (1.0, "1")}, TypeError, r"weights\[1\] must be a number or a tensor, got str"),
        ({"reduction": "avg"}, ValueError, "reduction.*'avg'"),
        ({"loss": "l3"}, ValueError, "loss must be one of .*'huber'.* got 'l3'"),
        (
            {"loss": ("l2",)},
            ValueError,
            "loss must be .* for each order from 0 to 1, got 1",
        ),
        ({"backend": "jax"}, ValueError, "backend.*'jax'"),
        ({"batch_coupled": "yes"}, ValueError, "batch_coupled.*'yes'"),
        ({"rescale": True, "loss": "l1"}, ValueError, "rescale=True needs"),
        ({"generator": 0}, TypeError, "generator must be a torch.Generator, got int"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SobolevLoss(**options)


@pytest.mark.parametrize(
    ("x", "y", "dy", "error", "words"),
    [
        (X * NAN, Y, DY, ValueError, "x holds NaN or infinity"),
        (X, Y, DY.mT, ValueError, r"dy has shape \(5, 3, 2\), needed is \(5, 2, 3\)"),
        (X, Y.float(), DY, TypeError, r"y is torch.float32 .* x is torch.float64.*use .to\(x\)"),
        (X, Y / 0, DY, ValueError, "y holds infinity; set what was not measured to NaN"),
        (X, None, DY, ValueError, "y is missing but the weight of order 0 is not 0"),
        (X, Y, (DY, D2Y), ValueError, "dy must be .* for each order from 1 to 1, got 2"),
        (X, Y, "dy", TypeError, "dy must be a torch.Tensor, got str"),
        (X, Y, lambda v: DY, ValueError, "dy is a callable.*set projections"),
    ],
)
def test_bad_batches(
    x: torch.Tensor, y: object, dy: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        SobolevLoss()(NET, x, y, dy)


def test_scalar_output_does_not_broadcast() -> None:
    # (B, 1) against (B,) would silently become (B, B)
    x, y, dy, _ = batch(out=1)
    with pytest.raises(ValueError, match=r"y has shape \(5,\), needed is \(5, 1\)"):
        SobolevLoss()(mlp(out=1), x, y[:, 0], dy)
    with pytest.raises(ValueError, match=r"dy has shape \(5, 3\), needed is \(5, 1, 3\)"):
        SobolevLoss()(mlp(out=1), x, y, dy[:, 0])


@pytest.mark.parametrize(
    ("options", "dy", "words"),
    [
        ({"order": 2}, (DY, DY), r"dy\[1\] has shape \(5, 2, 3\), needed is \(5, 2, 3, 3\)"),
        (
            {"projections": 1},
            lambda v: DY,
            r"dy returned has shape \(5, 2, 3\), needed is \(5, 3\)",
        ),
        ({"weights": (1, torch.ones(2))}, DY, r"weights\[1\] has shape \(2,\).*\(5, 2, 3\)"),
        ({"weights": (1, torch.ones(1, 1, 1, 1))}, DY, r"weights\[1\] has shape \(1, 1, 1, 1\)"),
        ({"weights": (0, 0)}, DY, "weights are all zero"),
        ({"order": 0}, DY, "dy is given but order is 0: leave it out"),
    ],
)
def test_bad_combinations(options: dict, dy: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SobolevLoss(**options)(NET, X, Y, dy)


def test_bad_directions() -> None:
    loss = SobolevLoss(projections=1)
    with pytest.raises(
        ValueError, match=r"directions has shape \[\(5, 3\)\], needed is \[\(5, 2\)\]"
    ):
        loss(NET, X, Y, DY, directions=[[X]])
    with pytest.raises(ValueError, match="directions is empty"):
        loss(NET, X, Y, DY, directions=[])
    with pytest.raises(ValueError, match="directions are given but projections is None"):
        SobolevLoss()(NET, X, Y, DY, directions=[[Y]])
    for bad, words in (("ab", "got str"), ([[Y.float()]], "directions is torch.float32")):
        with pytest.raises(TypeError, match=words):
            loss(NET, X, Y, DY, directions=bad)
    with pytest.raises(ValueError, match="directions hold NaN"):
        loss(NET, X, Y, DY, directions=[[Y], [Y * NAN]])


@pytest.mark.parametrize("weights", [{0: 5.0, 1: 2.0}, {5.0, 2.0}])
def test_weights_without_an_order_are_refused(weights: object) -> None:
    with pytest.raises(TypeError, match=r"weights must be a sequence.*got (dict|set)"):
        SobolevLoss(weights=weights)  # type: ignore[arg-type]


def test_a_copy_refuses_what_the_loss_refuses() -> None:
    labels = torch.zeros(len(X), 2, dtype=torch.int64)
    for loss in (
        SobolevLoss(),
        copy.deepcopy(SobolevLoss()),
        pickle.loads(pickle.dumps(SobolevLoss())),
    ):
        with pytest.raises(TypeError, match=r"y is torch.int64"):
            loss(NET, X, labels, DY)


def test_per_sample_losses_cannot_be_masked_or_weighted_by_component() -> None:
    norm = lambda p, t: (p - t).flatten(1).norm(dim=1)  # noqa: E731
    with pytest.raises(ValueError, match=r"dy holds NaN .* one number for each sample"):
        SobolevLoss(loss=("l2", norm))(NET, X, Y, torch.full_like(DY, NAN))
    with pytest.raises(ValueError, match=r"weights\[1\] has shape \(3,\) but the loss of order 1"):
        SobolevLoss(weights=(1, torch.ones(3)), loss=("l2", norm))(NET, X, Y, DY)


class Detached(nn.Module):
    def __init__(self, inner: nn.Module, where: str) -> None:
        super().__init__()
        self.inner, self.where = inner, where

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.where == "parameters":
            own = {name: p.detach() for name, p in self.inner.named_parameters()}
            return functional_call(self.inner, own, (x,))
        return self.inner(x).detach() if self.where == "output" else self.inner(x.detach())


def test_a_model_without_gradient() -> None:
    for where in ("output", "input"):
        with pytest.raises(ValueError, match=r"model has no gradient.*detach\(\)"):
            SobolevLoss()(Detached(mlp(), where), X, Y, DY)
    for loss, where in ((SobolevLoss(0), "output"), (SobolevLoss(1), "parameters")):
        with pytest.raises(ValueError, match="model has parameters to train but"):
            loss(Detached(mlp(), where), X, Y, DY if loss.order else None)
    frozen = mlp().requires_grad_(False)  # to evaluate a frozen model is no mistake
    SobolevLoss(0)(frozen, X, Y)
    SobolevLoss()(frozen, X, Y, DY)


def test_parameters_may_be_results_of_a_step() -> None:
    class Lossy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return SobolevLoss()(self.inner, x, Y, DY)[0]

    lossy = Lossy()
    own = dict(lossy.named_parameters())
    stepped = {name: 0.9 * p for name, p in own.items()}
    functional_call(lossy, stepped, (X,)).backward()
    assert all(p.grad.any() for name, p in own.items() if name.endswith("weight"))


def test_a_model_that_changes_its_input() -> None:
    model = nn.Sequential(nn.SiLU(inplace=True), nn.Linear(3, 2)).double()
    with pytest.raises(ValueError, match="model changes its input x in place"):
        SobolevLoss()(model, X.clone(), Y, DY)


def coupled() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 2)
    ).double()


def by_function(z: torch.Tensor) -> torch.Tensor:
    return NET(nn.functional.batch_norm(z, None, None, training=True))


HIDDEN = {
    "module": lambda net: net,
    "method": lambda net: net.forward,
    "partial": functools.partial,
    "closure": lambda net: lambda z: net(z),
    "functional_call": lambda net: lambda z: functional_call(net, dict(net.named_parameters()), z),
    "function": lambda net: by_function,
}


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in HIDDEN), *(("module", o) for o in ({"projections": 1}, FUNC))],
)
def test_batch_statistics_are_refused_wherever_they_hide(name: str, options: dict) -> None:
    model = HIDDEN[name](coupled())
    for guard in (torch.enable_grad, torch.no_grad):
        with guard(), pytest.raises(ValueError, match=r"statistics of the batch.*model\.eval"):
            SobolevLoss(**options)(model, X, Y, DY)
    SobolevLoss(batch_coupled="allow", **options)(model, X, Y, DY)[0].backward()
    SobolevLoss(0)(model, X, Y)[0].backward()  # values may be coupled


def test_batch_normalisation_in_eval_mode_is_welcome() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    SobolevLoss()(net.eval(), X, Y, DY)[0].backward()
    encoder = coupled()  # what x comes from is not differentiated
    SobolevLoss()(mlp(2), encoder(X), Y, DY[..., :2])[0].backward()
    assert encoder[0].weight.grad.any()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True, dtype=F64)
        self.lift, self.out = nn.Linear(1, 6, dtype=F64), nn.Linear(6, 2, dtype=F64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.lift(x.unsqueeze(-1))
        return self.out(self.attend(h, h, h, need_weights=False)[0].mean(1))


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, g: torch.Tensor) -> torch.Tensor:
        return g.clone()


ONCE = {
    "attention": Attention,
    "cdist": lambda: (
        lambda x: torch.cdist(x * THETA, X[:2], compute_mode="donot_use_mm_for_euclid_dist")
    ),
    "hardsigmoid": lambda: lambda x: NET(nn.functional.hardsigmoid(x * THETA)),
    "function": lambda: lambda x: NET(Once.apply(x * THETA)),
    "compiled": lambda: torch.compile(mlp(), backend="aot_eager"),
}
THETA = torch.full((3,), 0.7, dtype=F64, requires_grad=True)


@pytest.mark.parametrize("name", ONCE)
def test_a_layer_without_second_derivative_is_refused_with_a_way_out(name: str) -> None:
    torch.compiler.reset()  # what other tests compiled counts towards the compiler's limit
    model = ONCE[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        with pytest.raises(ValueError, match=r"without the second derivative.*SDPBackend\.MATH"):
            SobolevLoss()(model, X, Y, DY)
        with torch.no_grad():
            assert SobolevLoss()(model, X, Y, DY)[0] > 0
    SobolevLoss(0)(model, X, Y)[0].backward()


class FullBackwardBackward:
    """A node of the graph whose backward pass finds no memory."""

    next_functions = ()
    _input_metadata = (X,)

    def __call__(self, *gradients: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("no memory left")


def test_memory_that_runs_out_while_a_layer_is_tried_is_said() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        checks.check_twice([FullBackwardBackward()])


def test_attention_trains_with_the_backend_that_the_message_names() -> None:
    model = Attention()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        SobolevLoss()(model, X, Y, DY)[0].backward()
    assert model.lift.weight.grad.any()


def test_complex_numbers_are_refused() -> None:
    for options in ({}, {"backend": "func"}, {"projections": 1}):
        with pytest.raises(TypeError, match=r"model must return real numbers, got torch.complex"):
            SobolevLoss(**options)(lambda z: NET(z) * (1 + 2j), X, Y, DY)
    with pytest.raises(TypeError, match=r"dy is torch.complex128"):
        SobolevLoss()(NET, X, Y, DY.to(torch.complex128))
    with pytest.raises(TypeError, match=r"weights\[1\] must be a number or a tensor"):
        SobolevLoss(weights=(1.0, torch.ones(3) * 1j))
