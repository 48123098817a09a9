"""The kernel estimate of the boundary term: what must not change, and whether the new is true."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jvp, vmap

from sobolev_lib import kinks

DOUBLE = torch.float64
SPECIAL = [0.0, -0.0, 1.5, -1.5, math.nan, math.inf, -math.inf, 1e-40, -1e-40, 3e4, -3e4]
ABSOLUTE_MOMENT = {  # the integral of |u| k(u) du
    "logistic": 2 * math.log(2),
    "gaussian": math.sqrt(2 / math.pi),
    "triangular": 1 / 3,
    "box": 1 / 2,
    "extrapolated": 0.0,
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def same(a, b):
    """Bit for bit, with NaN equal to NaN."""
    return (
        a.dtype == b.dtype
        and torch.equal(torch.isnan(a), torch.isnan(b))
        and torch.equal(torch.nan_to_num(a, nan=7.0), torch.nan_to_num(b, nan=7.0))
    )


def mlp(activation, widths=(2, 8, 8, 1), seed=1, dtype=DOUBLE):
    torch.manual_seed(seed)
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def derivative_loss(model, x, dy, weight=None):
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    per_sample = (slope - dy).square().sum(1)
    return per_sample.mean() if weight is None else (weight * per_sample).sum()


def parameter_gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)


# --- the kernels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(kinks.KERNELS))
@pytest.mark.parametrize("h", [0.1, 0.7])
def test_kernel_has_unit_integral_is_symmetric_and_has_its_moment(name, h):
    n, reach = 400_000, 80 * h
    z = (torch.arange(n, dtype=DOUBLE) + 0.5) / n * 2 * reach - reach  # midpoints
    k = kinks.kernel(z, h, name)
    dz = 2 * reach / n
    assert k.sum() * dz == pytest.approx(1.0, abs=1e-4)
    assert (k * z.abs()).sum() * dz == pytest.approx(h * ABSOLUTE_MOMENT[name], abs=2e-4 * h)
    assert same(k, kinks.kernel(-z, h, name))
    if name != "extrapolated":
        assert k.min() >= 0


def test_logistic_kernel_is_the_derivative_of_the_sigmoid_in_the_far_tail_too():
    z = torch.tensor([-30.0, -3.0, 0.0, 0.4, 3.0, 30.0], dtype=DOUBLE)
    h = 0.5
    s = torch.exp(-z.abs() / h)
    torch.testing.assert_close(kinks.kernel(z, h), s / (1 + s) ** 2 / h, rtol=1e-13, atol=0.0)


def test_extrapolated_kernel_is_twice_one_width_less_the_double_width():
    z = randn(100)
    expected = 2 * kinks.kernel(z, 0.3) - kinks.kernel(z, 0.6)
    torch.testing.assert_close(kinks.kernel(z, 0.3, "extrapolated"), expected)


# --- what must not change -------------------------------------------------------------------------


def pairs(inplace=False):
    return [
        (nn.ReLU(inplace), kinks.ReLU(0.2, inplace=inplace)),
        (nn.LeakyReLU(0.1, inplace), kinks.LeakyReLU(0.1, 0.2, inplace=inplace)),
        (nn.LeakyReLU(0.0, inplace), kinks.LeakyReLU(0.0, 0.2, inplace=inplace)),
        (nn.ReLU(inplace), kinks.ReLU(0.2, scaled=True, inplace=inplace)),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("inplace", [False, True])
def test_values_and_first_derivatives_bit_for_bit(dtype, case, inplace):
    ordinary, ours = pairs(inplace)[case]
    z = torch.cat([torch.tensor(SPECIAL, dtype=dtype), randn(500, dtype=dtype)])
    g = torch.cat([torch.tensor(SPECIAL[::-1], dtype=dtype), randn(500, seed=3, dtype=dtype)])
    results = []
    for module in (ordinary, ours):
        leaf = z.clone().requires_grad_()
        middle = leaf * 1  # an in-place activation cannot work on a leaf
        y = module(middle)
        if inplace:
            assert y is middle
        (dz,) = torch.autograd.grad(y, leaf, g)
        results.append((y.detach(), dz, middle.detach()))
    for a, b in zip(*results, strict=True):
        assert same(a, b)
        if not inplace:  # in place, autograd adds a zero on the way: -0.0 becomes 0.0
            assert torch.equal(a.signbit() & (a == 0), b.signbit() & (b == 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameter_gradients_of_a_value_loss_bit_for_bit(dtype):
    model = mlp(nn.ReLU, dtype=dtype)
    x, y = randn(64, 2, dtype=dtype), randn(64, 1, seed=5, dtype=dtype)
    expected = parameter_gradients(model, (model(x) - y).square().mean())
    kinks.replace(model, 0.3)
    found = parameter_gradients(model, (model(x) - y).square().mean())
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_input_gradients_of_a_network_bit_for_bit():
    model = mlp(nn.ReLU, dtype=torch.float32)
    x = randn(64, 2, dtype=torch.float32).requires_grad_()
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    (found,) = torch.autograd.grad(kinks.replace(model)(x).sum(), x)
    assert torch.equal(expected, found)


def test_inplace_error_on_a_leaf_is_pytorchs():
    with pytest.raises(RuntimeError, match="leaf Variable"):
        kinks.ReLU(inplace=True)(torch.ones(3, requires_grad=True))


# --- the new term, against closed forms -----------------------------------------------------------


@pytest.mark.parametrize("name", sorted(kinks.KERNELS))
@pytest.mark.parametrize("slope", [None, 0.2])
def test_parameter_gradient_of_a_two_layer_net_by_hand(name, slope):
    """m = w . act(Wx + b): grad m = W'(D w); the kernel enters as k(z_j) w_j (r . W_j) (x, 1)."""
    n, d, width, h = 40, 3, 7, 0.4
    x, g = randn(n, d), randn(n, d, seed=2)
    W, b, w = randn(width, d, seed=3), randn(width, seed=4), randn(width, seed=5)
    act = kinks.ReLU(h, name) if slope is None else kinks.LeakyReLU(slope, h, name)
    low = slope or 0.0
    z = x @ W.T + b
    step = low + (1 - low) * (z > 0).to(DOUBLE)
    r = 2 * ((step * w) @ W - g) / n
    bend = (1 - low) * kinks.kernel(z, h, name) * w * (r @ W.T)
    expected = ((step * w).T @ r + bend.T @ x, bend.sum(0), (step * (r @ W.T)).sum(0))
    leaves = [t.clone().requires_grad_() for t in (W, b, w)]

    def model(x):
        return act(x @ leaves[0].T + leaves[1]) @ leaves[2]

    found = torch.autograd.grad(derivative_loss(model, x, g), leaves)
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)
    assert bend.abs().max() > 1e-2  # the new term is not small here


def test_second_derivative_in_the_input_is_the_kernel():
    z = randn(20).requires_grad_()
    (first,) = torch.autograd.grad(kinks.relu(z, 0.3).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    torch.testing.assert_close(second, kinks.kernel(z.detach(), 0.3), rtol=1e-14, atol=0.0)


def one_dimensional(activation, t, s, x):
    """The gradient in t of the derivative loss of m = act(x - t) against f = relu(x - s)."""
    t = torch.tensor(t, dtype=DOUBLE, requires_grad=True)
    target = (x > s).to(DOUBLE)
    loss = derivative_loss(lambda x: activation(x - t), x, target)
    return torch.autograd.grad(loss, t, allow_unused=True)[0]


@pytest.mark.parametrize(("t", "s", "sign"), [(0.7, 0.4, 1.0), (0.3, 0.6, -1.0)])
def test_one_dimensional_example(t, s, sign):
    n, h = 40_000, 0.02
    x = torch.rand(n, 1, generator=generator(7), dtype=DOUBLE)
    assert not one_dimensional(nn.ReLU(), t, s, x)  # autograd: no dependence at all, or zero
    estimate = one_dimensional(kinks.ReLU(h), t, s, x)
    # a sample gives +-2 k_h(x - t); int k_h^2 = 1 / (6 h), so 5 sigma are:
    assert abs(estimate - sign) < 5 * math.sqrt(4 / (6 * h * n))
    assert 5 * math.sqrt(4 / (6 * h * n)) < 0.2


def quadrature(n=400_000):
    return ((torch.arange(n, dtype=DOUBLE) + 0.5) / n)[:, None]


def test_expectation_is_the_derivative_of_the_smoothed_population_loss():
    """Uniform x: E of the estimate = d/dt of the integral of k_h(u) L(t + u) du, L(t) = |t - s|."""
    t, s, h = 0.55, 0.5, 0.04
    # with the density 1, d/dt E = integral k_h(u) sign(t + u - s) du = 2 S((t - s) / h) - 1
    u = (torch.arange(200_000, dtype=DOUBLE) + 0.5) / 1e5 - 1.0

    def smoothed(t):
        return (kinks.kernel(u, h) * (t + u - s).abs()).sum() / 1e5

    numerical = (smoothed(t + 1e-4) - smoothed(t - 1e-4)) / 2e-4
    found = one_dimensional(kinks.ReLU(h), t, s, quadrature())
    assert found == pytest.approx(numerical.item(), abs=2e-4)
    assert found == pytest.approx(2 / (1 + math.exp(-(t - s) / h)) - 1, abs=2e-4)
    assert abs(found - 1.0) > 0.3  # the smoothing shows at this distance: the test can fail


def test_deep_network_against_a_numerical_derivative_of_the_population_loss():
    """Two hidden layers, one input, x uniform: central differences of the exact integral."""
    model = kinks.replace(mlp(nn.ReLU, (1, 6, 6, 1), seed=2), 0.004)
    x = 4 * quadrature(200_000) - 2
    g = torch.sin(3 * x)
    found = torch.cat(
        [p.flatten() for p in parameter_gradients(model, derivative_loss(model, x, g))]
    )
    plain = copy.deepcopy(model)
    plain[1], plain[3] = nn.ReLU(), nn.ReLU()
    missed = torch.cat(
        [p.flatten() for p in parameter_gradients(plain, derivative_loss(plain, x, g))]
    )
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    numerical = torch.empty_like(vector)
    for i in range(len(vector)):
        step = torch.zeros_like(vector)
        step[i] = 1e-3
        losses = []
        for v in (vector + step, vector - step):
            nn.utils.vector_to_parameters(v, plain.parameters())
            losses.append(derivative_loss(plain, x, g).detach())
        numerical[i] = (losses[0] - losses[1]) / 2e-3
    error = (found - numerical).norm() / numerical.norm()
    assert error < 0.02
    assert (missed - numerical).norm() / numerical.norm() > 0.2


def tilted_bias(h, name, tilt):
    """Bias of the estimate where x has the density 1 + tilt (x - 1/2) on [0, 1]; g = sin(5x)."""
    t = torch.tensor(0.45, dtype=DOUBLE, requires_grad=True)
    x = quadrature()
    density = 1 + tilt * (x[:, 0] - 0.5)
    act = kinks.ReLU(h, name)
    g = torch.sin(5 * x)
    loss = derivative_loss(lambda x: act(x - t), x, g, density / len(x))
    estimate = torch.autograd.grad(loss, t)[0]
    true = -(1 + tilt * (t - 0.5)) * (1 - 2 * torch.sin(5 * t))
    return (estimate - true).item()


@pytest.mark.parametrize(
    ("tilt", "name", "order"),
    [
        (0.0, "logistic", 2),
        (0.0, "gaussian", 2),
        (0.0, "box", 2),
        (1.5, "logistic", 1),
        (1.5, "triangular", 1),
        (1.5, "extrapolated", 2),
    ],
)
def test_order_of_the_bias(tilt, name, order):
    """O(h^2) where the density is flat across the kink, O(h) where it is not; repaired by name."""
    h = 0.004 if order == 1 else 0.016  # at first order the next term must have died out
    wide, narrow = tilted_bias(h, name, tilt), tilted_bias(h / 2, name, tilt)
    assert math.log2(abs(wide / narrow)) == pytest.approx(order, abs=0.12)
    if order == 1:  # the constant of the theorem: -h p'(t) times the absolute moment
        assert narrow == pytest.approx(-h / 2 * tilt * ABSOLUTE_MOMENT[name], rel=0.1)


def test_relu_student_and_teacher_with_gaussian_inputs():
    """Closed form of the population gradient; plain autograd misses the derivative of the angle."""
    w, v = torch.tensor([1.0, 0.3], dtype=DOUBLE), torch.tensor([0.9, 1.5], dtype=DOUBLE)

    def population(w):
        angle = torch.arccos(w @ v / (w.norm() * v.norm()))
        return w @ w / 2 + v @ v / 2 - (w @ v) * (math.pi - angle) / math.pi

    true = grad(population)(w)
    angle = torch.arccos(w @ v / (w.norm() * v.norm()))
    sampled = w - v * (math.pi - angle) / math.pi
    n = 400_000
    x = randn(n, 2, seed=11)
    target = (x @ v > 0)[:, None] * v
    results = {}
    for name, act in {"plain": nn.ReLU(), "kernel": kinks.ReLU(0.05, "extrapolated")}.items():
        leaf = w.clone().requires_grad_()
        loss = derivative_loss(lambda x, act=act, leaf=leaf: act(x @ leaf), x, target)
        results[name] = torch.autograd.grad(loss, leaf)[0]
    torch.testing.assert_close(results["plain"], sampled, rtol=0.0, atol=0.01)
    torch.testing.assert_close(results["kernel"], true, rtol=0.0, atol=0.03)
    assert (true - sampled).norm() > 0.3


# --- the scaled width -----------------------------------------------------------------------------


def test_scaled_width_follows_the_spread_and_is_frozen_in_eval():
    act = kinks.ReLU(0.1, scaled=True, momentum=0.25).double()
    first, second = 3 * randn(1000) + 5, 0.5 * randn(1000, seed=2)
    act(first)
    a = first.std(correction=0)
    torch.testing.assert_close(act.spread, a)
    act(second)
    torch.testing.assert_close(act.spread, 0.75 * a + 0.25 * second.std(correction=0))
    before = act.spread.clone()
    z = randn(30, seed=4).requires_grad_()
    act.eval()
    (dz,) = torch.autograd.grad(act(z).sum(), z, create_graph=True)
    (ddz,) = torch.autograd.grad(dz.sum(), z)
    torch.testing.assert_close(ddz, kinks.kernel(z.detach(), 0.1 * before))
    assert torch.equal(act.spread, before)
    assert act.batches == 2


def test_scaled_width_is_saved_with_the_weights_and_ignores_useless_batches():
    act = kinks.ReLU(0.1, scaled=True)
    act(7 * randn(100, dtype=torch.float32))
    fresh = kinks.ReLU(0.1, scaled=True)
    fresh.load_state_dict(act.state_dict())
    assert torch.equal(fresh.spread, act.spread)
    before = act.spread.clone()
    for useless in (torch.ones(5), torch.empty(0, 3), torch.tensor([1.0, math.nan])):
        act(useless)
    assert torch.equal(act.spread, before)
    assert act.batches == 1
    assert not kinks.ReLU(0.1).state_dict()


def test_measuring_under_no_grad_moves_nothing():
    act = kinks.ReLU(0.1, scaled=True)
    with torch.no_grad():
        act(randn(50))
    assert (act.spread, act.batches) == (1, 0)


def test_on_a_default_device_of_another_kind():
    with torch.device("meta"):
        z = torch.ones(5, device="cpu").requires_grad_()
        kinks.ReLU(0.1)(z).sum().backward()
    assert z.grad.sum() == 5


def test_a_second_forward_does_not_change_the_width_of_the_first():
    act = kinks.ReLU(0.1, scaled=True).double()
    z = randn(50).requires_grad_()
    (dz,) = torch.autograd.grad(act(z).sum(), z, create_graph=True)
    width = 0.1 * act.spread.clone()
    act(100 * z.detach())
    (ddz,) = torch.autograd.grad(dz.sum(), z)
    torch.testing.assert_close(ddz, kinks.kernel(z.detach(), width))


def test_scaled_in_train_mode_under_torch_func_says_what_to_do():
    act = kinks.ReLU(0.1, scaled=True).double()
    z = randn(5, 3)
    with pytest.raises(RuntimeError, match=r"model\.eval\(\)"):
        vmap(act)(z)
    with pytest.raises(RuntimeError, match="functional_call"):
        grad(lambda z: act(z).sum())(z)
    act.eval()
    assert torch.equal(vmap(act)(z), z.relu())


# --- replace --------------------------------------------------------------------------------------


class Shared(nn.Module):
    """One activation under two names, another inside a container, one functional call."""

    def __init__(self):
        super().__init__()
        self.act = self.again = nn.ReLU()
        self.block = nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(0.3, inplace=True), nn.ReLU6())
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.again(self.norm(self.block(self.act(x))))


def test_replace_keeps_parameters_buffers_mode_hooks_and_sharing():
    model = Shared().double()
    model.block.eval()
    calls = []
    handle = model.act.register_forward_hook(lambda *_: calls.append(1))
    parameters = [id(p) for p in model.parameters()]
    buffers = [id(b) for b in model.buffers()]
    x = randn(10, 2)
    model.norm.eval()
    before = model(x)
    calls.clear()
    assert kinks.replace(model, 0.2, "gaussian") is model
    assert [id(p) for p in model.parameters()] == parameters
    assert [id(b) for b in model.buffers()] == buffers
    assert model.act is model.again
    assert type(model.act) is kinks.ReLU
    leaky = model.block[1]
    assert (leaky.negative_slope, leaky.inplace, leaky.bandwidth) == (0.3, True, 0.2)
    assert (leaky.kernel, leaky.training, model.act.training) == ("gaussian", False, True)
    assert type(model.block[2]) is nn.ReLU6
    assert torch.equal(model(x), before)
    assert len(calls) == 2
    handle.remove()
    model(x)
    assert len(calls) == 2
    kinks.replace(model, 0.5)
    assert (model.act.bandwidth, model.act.kernel) == (0.5, "logistic")


def test_replace_of_a_bare_activation_and_dtype_of_the_spread():
    assert type(kinks.replace(nn.ReLU())) is kinks.ReLU
    model = kinks.replace(mlp(nn.ReLU), 0.1, scaled=True)
    assert model[1].spread.dtype == DOUBLE
    assert copy.deepcopy(model)[1].spread is not model[1].spread


def test_replace_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"Linear.*kinks\.relu"):
        kinks.replace(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        kinks.replace("relu")


# --- other ways to differentiate ------------------------------------------------------------------


def functional_losses(model):
    """The derivative loss as a function of the parameters, by reverse and by forward mode."""
    x, g = randn(30, 2), randn(30, 2, seed=9)

    def output(p, x):
        return functional_call(model, p, (x,)).squeeze(-1)

    def loss(p, how):
        slopes = vmap(how(output, argnums=1), (None, 0))(p, x)
        return (slopes - g).square().sum(1).mean()

    parameters = {k: p.detach() for k, p in model.named_parameters()}
    expected = parameter_gradients(model, derivative_loss(model, x, g))
    return loss, parameters, dict(zip(parameters, expected, strict=True))


@pytest.mark.parametrize("slope", [None, 0.2])
@pytest.mark.parametrize("how", [grad, jacfwd])
def test_torch_func_agrees_with_double_backward(slope, how):
    model = mlp(lambda: kinks.ReLU(0.3) if slope is None else kinks.LeakyReLU(slope, 0.3))
    loss, parameters, expected = functional_losses(model)
    found = grad(loss)(parameters, how)
    for name, e in expected.items():
        torch.testing.assert_close(found[name], e, rtol=1e-12, atol=1e-12)
    _, tangent = jvp(lambda p: loss(p, how), (parameters,), (expected,))
    torch.testing.assert_close(tangent, sum(e.square().sum() for e in expected.values()))


@pytest.mark.parametrize("slope", [None, 0.2])
def test_compiled_loss_has_the_kernel_term(slope):
    model = mlp(lambda: kinks.ReLU(0.3) if slope is None else kinks.LeakyReLU(slope, 0.3))
    loss, parameters, expected = functional_losses(model)
    compiled = torch.compile(lambda p: grad(loss)(p, grad), backend="aot_eager", fullgraph=True)
    for name, found in compiled(parameters).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-12, atol=1e-12)


def test_compiled_model_has_the_same_values_and_refuses_double_backward():
    model = mlp(lambda: kinks.ReLU(0.3))
    x = torch.cat([randn(10, 2), torch.tensor([[math.inf, 0.0], [math.nan, 1.0]], dtype=DOUBLE)])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert same(compiled(x).detach(), model(x).detach())
    with pytest.raises(RuntimeError, match=r"double backward|create_graph"):
        derivative_loss(compiled, x[:10], randn(10, 2, seed=9)).backward()


def test_compiled_activation_keeps_special_values_and_first_derivatives():
    z = torch.cat([torch.tensor(SPECIAL, dtype=DOUBLE), randn(50)])
    for ordinary, ours in pairs():
        compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
        results = []
        for module in (ordinary, compiled):
            leaf = z.clone().requires_grad_()
            y = module(leaf)
            results.append((y.detach(), torch.autograd.grad(y.sum(), leaf)[0]))
        for a, b in zip(*results, strict=True):
            assert same(a, b)


def test_compiled_scaled_activation_updates_its_spread():
    act = kinks.ReLU(0.1, scaled=True).double()
    z = 3 * randn(100)
    compiled = torch.compile(act, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(z), z.relu())
    torch.testing.assert_close(act.spread, z.std(correction=0))
    assert act.batches == 1


def test_third_derivatives_are_refused_with_the_reason():
    z = randn(5).requires_grad_()
    (first,) = torch.autograd.grad(kinks.relu(z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z, create_graph=True)
    with pytest.raises(NotImplementedError, match="delta"):
        torch.autograd.grad(second.sum(), z)
    with pytest.raises(NotImplementedError, match="smooth activation"):
        hessian(lambda z: grad(lambda z: kinks.relu(z).sum())(z).sum())(randn(5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_cpu():
    model = mlp(lambda: kinks.ReLU(0.3))
    x, g = randn(30, 2), randn(30, 2, seed=9)
    expected = parameter_gradients(model, derivative_loss(model, x, g))
    model.cuda()
    found = parameter_gradients(model, derivative_loss(model, x.cuda(), g.cuda()))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-9, atol=1e-12)


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bandwidth", "error", "words"),
    [(0.0, ValueError, "positive and finite, got"), (True, TypeError, "a number, got bool")],
)
@pytest.mark.parametrize(
    "call",
    [
        kinks.ReLU,
        lambda h: kinks.LeakyReLU(0.1, h),
        lambda h: kinks.kernel(torch.ones(1), h),
        lambda h: kinks.relu(torch.ones(1), h),
    ],
)
def test_a_bandwidth_that_is_no_width_is_refused(call, bandwidth, error, words):
    with pytest.raises(error, match=f"bandwidth must be {words}"):
        call(bandwidth)


def test_other_arguments_are_checked():
    with pytest.raises(ValueError, match=r"kernel is 'cosine'; it must be one of logistic, "):
        kinks.ReLU(kernel="cosine")
    with pytest.raises(ValueError, match=r"momentum must lie in \(0, 1\], got 0"):
        kinks.ReLU(momentum=0)
    with pytest.raises(TypeError, match="momentum must be a number, got str"):
        kinks.ReLU(momentum="0.1")
    with pytest.raises(ValueError, match="negative_slope must be a finite number, got nan"):
        kinks.LeakyReLU(math.nan)
    with pytest.raises(TypeError, match="z must be a tensor, got float"):
        kinks.relu(1.0)
    with pytest.raises(ValueError, match=r"bandwidth must have no dimensions, got shape \(2,\)"):
        kinks.relu(torch.ones(2), torch.ones(2))
    for bad in (-0.1, 0.0, math.inf):
        for call in (kinks.relu, kinks.kernel):
            with pytest.raises(ValueError, match="bandwidth must be positive and finite"):
                call(torch.ones(2), torch.tensor(bad))


def test_description_shows_the_settings():
    assert repr(kinks.ReLU(0.1)) == "ReLU(bandwidth=0.1, kernel='logistic')"
    text = repr(kinks.LeakyReLU(0.2, 0.5, "box", scaled=True, inplace=True))
    for part in ("negative_slope=0.2", "bandwidth=0.5", "'box'", "scaled=True", "inplace=True"):
        assert part in text
