"""Stack of networks: outputs, closed-form gradients against autograd in float64, errors."""

import copy

import pytest
import torch
from torch import nn

from sobolev_lib import SobolevLoss, kinks
from sobolev_lib.stack import ACTIVATIONS, MLPStack

PIECEWISE = [name for name, rule in ACTIVATIONS.items() if rule.all is None]
SMOOTH = [name for name in ACTIVATIONS if name not in PIECEWISE]


def make(activation="relu", members=3, d=2, hidden=(7, 6), **options):
    generator = torch.Generator().manual_seed(5)
    stack = MLPStack(
        members, d, hidden, activation, generator=generator, dtype=torch.float64, **options
    )
    with torch.no_grad():  # larger weights: more kinks near the data
        for p in stack.parameters():
            p.mul_(1.7)
    return stack


def batch(members, n, d, seed=0, shared=False):
    generator = torch.Generator().manual_seed(seed)
    lead = (n,) if shared else (members, n)
    draw = lambda k: torch.randn(*lead, k, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(d), draw(1), draw(d)


def reference(network, x, y, dy, weight):
    """Loss and parameter gradients of one network by double backward."""
    x = x.clone().requires_grad_()
    m = network(x)
    (slope,) = torch.autograd.grad(m.sum(), x, create_graph=True)
    loss = ((m - y) ** 2).mean() + weight * ((slope - dy) ** 2).sum(dim=1).mean()
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return loss, [
        torch.zeros_like(p) if g is None else g
        for g, p in zip(gradients, network.parameters(), strict=True)
    ]


def assert_agrees(stack, x, y, dy, weights):
    """Every member's loss and gradient equal those of its own network under autograd."""
    # An outer gradient other than 1.
    factors = torch.linspace(0.5, 2.0, stack.members, dtype=torch.float64)
    losses = stack.losses(x, y, dy, weights)
    (losses * factors).sum().backward()
    everyone = lambda t: t if t.ndim == 3 else t.expand(stack.members, -1, -1)  # noqa: E731
    for i, weight in enumerate(torch.as_tensor(weights, dtype=torch.float64).expand(stack.members)):
        loss, gradients = reference(
            stack.member(i), everyone(x)[i], everyone(y)[i], everyone(dy)[i], weight
        )
        assert torch.allclose(losses[i], loss, rtol=1e-10)
        mine = [
            p.grad[i] / factors[i]
            for pair in zip(stack.weights, stack.biases, strict=True)
            for p in pair
        ]
        for ours, theirs in zip(mine, gradients, strict=True):
            assert torch.allclose(
                ours, theirs, rtol=1e-10, atol=1e-10 * max(1, theirs.abs().max().item())
            )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(5,), (7, 6), (4, 5, 6)])
def test_closed_form_agrees_with_autograd(activation, hidden):
    stack = make(activation, hidden=hidden, d=3)
    x, y, dy = batch(3, 11, 3)
    assert_agrees(stack, x, y, dy, torch.tensor([0.7, 2.5, 1.3], dtype=torch.float64))


@pytest.mark.parametrize("options", [{"activation": "silu"}, {"kink_bandwidth": 0.3}])
def test_a_large_batch_that_is_taken_in_parts(options):
    stack = make(hidden=(160, 7), **options)
    x, y, dy = batch(3, 600, 2)  # 288,000 entries a signal
    assert_agrees(stack, x, y, dy, torch.tensor([0.7, 2.5, 1.3], dtype=torch.float64))


def test_a_scaled_kernel_sees_a_large_batch_whole():
    stack = make(hidden=(160, 7), kink_bandwidth=0.3, scale_bandwidth=True)
    x, y, dy = batch(3, 600, 2)
    stack.losses(x, y, dy)
    spread = (x @ stack.weights[0].mT + stack.biases[0][:, None]).std(dim=(1, 2), correction=0)
    assert (stack.batches_0 == 1).all()  # the first batch gives the spread
    torch.testing.assert_close(stack.spread_0.double().flatten(), spread, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "weights", [[0.0, 2.0, 0.0, 0.3], [0.0, 0.0, 1.4, 2.0], [0.0] * 4, [3.0] * 4]
)
@pytest.mark.parametrize("shared", [False, True])
def test_mixed_members_and_shared_batches(weights, shared):
    stack = make(members=4)
    x, y, dy = batch(4, 9, 2, shared=shared)
    assert_agrees(stack, x, y, dy, torch.tensor(weights, dtype=torch.float64))


@pytest.mark.parametrize("activation", PIECEWISE)
def test_kernel_agrees_with_the_kinks_module(activation):
    stack = make(activation, kink_bandwidth=0.4)
    x, y, dy = batch(3, 13, 2)
    assert any(isinstance(layer, (kinks.ReLU, kinks.LeakyReLU)) for layer in stack.member(0))
    assert_agrees(stack, x, y, dy, torch.tensor([0.7, 0.0, 1.9], dtype=torch.float64))


def test_kernel_changes_the_sobolev_gradient_only():
    x, y, dy = batch(3, 40, 2)
    found = {}
    for name, bandwidth in (("plain", None), ("kernel", 0.3)):
        for weight in (0.0, 1.5):
            stack = make(kink_bandwidth=bandwidth)
            stack.losses(x, y, dy, weight).sum().backward()
            found[name, weight] = stack.weights[0].grad
            assert torch.equal(stack(x), make()(x))
    assert torch.equal(found["plain", 0.0], found["kernel", 0.0])
    assert not torch.allclose(found["plain", 1.5], found["kernel", 1.5], rtol=1e-3)


def test_scaled_bandwidth_follows_the_spread_of_each_layer():
    x, y, dy = batch(3, 50, 2)
    scaled = make(kink_bandwidth=0.2, scale_bandwidth=True)
    scaled.losses(x, y, dy, 1.0).sum().backward()
    z = torch.baddbmm(scaled.biases[0].unsqueeze(1), x, scaled.weights[0].mT)
    spread = z.std(dim=(1, 2), correction=0)
    assert torch.allclose(scaled.spread_0.flatten(), spread)
    for i in range(3):  # one hidden layer's spread is enough to see each member use its own width
        one = make(hidden=(7,), kink_bandwidth=0.2, scale_bandwidth=True)
        one.losses(x, y, dy, 1.0).sum().backward()
        fixed = make(hidden=(7,), kink_bandwidth=0.2 * one.spread_0[i].item())
        fixed.losses(x, y, dy, 1.0).sum().backward()
        assert torch.allclose(one.weights[0].grad[i], fixed.weights[0].grad[i])
    again = make(kink_bandwidth=0.2, scale_bandwidth=True)
    again.load_state_dict(scaled.state_dict())
    assert torch.equal(again.spread_1, scaled.spread_1)
    before = scaled.spread_0.clone()
    scaled.eval().losses(3 * x, y, dy, 1.0).sum().backward()
    assert torch.equal(scaled.spread_0, before)


def test_values_only_needs_no_targets_for_slopes():
    x, y, dy = batch(3, 10, 2)
    without, zero = make(), make()
    without.losses(x, y, None, 0.0).sum().backward()
    zero.losses(x, y, dy, 0.0).sum().backward()
    for a, b in zip(without.parameters(), zero.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_outputs_and_gradients_are_those_of_the_members(activation):
    stack = make(activation)
    x = batch(3, 8, 2)[0]
    for points in (x, x[0]):
        slopes = stack.gradient(points)
        for i in range(3):
            p = (points if points.ndim == 2 else points[i]).clone().requires_grad_()
            m = stack.member(i)(p)
            assert torch.allclose(stack(points)[i], m, rtol=1e-12)
            assert torch.allclose(slopes[i], torch.autograd.grad(m.sum(), p)[0], rtol=1e-12)


def test_gradient_is_differentiable_with_respect_to_parameters():
    stack = make("tanh")
    x, _, dy = batch(3, 8, 2)
    (stack.gradient(x) - dy).square().sum().backward()
    expected = make("tanh")
    point = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(expected(point).sum(), point, create_graph=True)
    (slope - dy).square().sum().backward()
    assert torch.allclose(stack.weights[0].grad, expected.weights[0].grad, rtol=1e-9)


def test_terms_are_detached_parts_of_the_loss():
    stack = make()
    x, y, dy = batch(3, 8, 2)
    value, derivative = stack.terms(x, y, dy, 0.3)
    assert not value.requires_grad
    assert torch.allclose(stack.losses(x, y, dy, 0.3), value + 0.3 * derivative)


def test_training_lowers_the_loss_with_any_optimiser():
    for optimiser in (torch.optim.Adam, torch.optim.SGD):
        stack = make(hidden=(32, 32))
        x, y, dy = batch(3, 20, 2)
        opt = optimiser(stack.parameters(), lr=1e-3)
        first = stack.losses(x, y, dy, 0.1).sum()
        for _ in range(50):
            opt.zero_grad()
            loss = stack.losses(x, y, dy, 0.1).sum()
            loss.backward()
            opt.step()
        assert loss < 0.9 * first


@pytest.mark.parametrize("options", [{}, {"kink_bandwidth": 0.4}, {"activation": "silu"}])
def test_losses_are_those_of_sobolev_loss_on_each_member(options):
    """Missing targets, an outer gradient and weights other than 1 included."""
    stack = make(**options)
    x, y, dy = batch(3, 11, 2)
    y[:, 1], dy[:, 2], dy[:, 4, 0] = torch.nan, torch.nan, torch.nan
    weight = torch.tensor([0.7, 0.0, 1.9], dtype=torch.float64, requires_grad=True)
    total = stack.losses(x, y, dy, weight)
    (total * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    for i in range(3):
        network = stack.member(i)
        loss = SobolevLoss(weights=(1.0, weight[i].item()))
        expected, terms = loss(network, x[i], y[i], dy[i].unsqueeze(1))
        torch.testing.assert_close(total[i], expected, rtol=1e-12, atol=0)
        expected.backward()
        for layer in range(3):
            torch.testing.assert_close(
                stack.weights[layer].grad[i] / (i + 1), network[2 * layer].weight.grad
            )
        part = terms["order_1"] / weight[i].item() if weight[i] else torch.zeros((), dtype=y.dtype)
        torch.testing.assert_close(weight.grad[i] / (i + 1), part.detach())


@pytest.mark.parametrize("activation", PIECEWISE)
def test_a_member_keeps_its_scaled_kernel(activation):
    stack = make(activation, kink_bandwidth=0.2, scale_bandwidth=True)
    x, y, dy = batch(3, 30, 2)
    for step in range(3):
        stack.losses((step + 1) * x, y, dy, 1.0).sum().backward()
    stack.zero_grad()
    stack.eval()
    assert_agrees(stack, x, y, dy, [1.5, 0.0, 0.3])
    assert (stack.member(2)[1].scaled, stack.member(2)[1].batches) == (True, 3)


@pytest.mark.parametrize("guard", ["terms", "no_grad", "frozen"])
def test_measuring_changes_nothing(guard):
    stack = make(kink_bandwidth=0.1, scale_bandwidth=True)
    x, y, dy = batch(3, 9, 2)
    stack.losses(x, y, dy).sum().backward()
    before = copy.deepcopy(stack.state_dict())
    if guard == "terms":
        stack.terms(100 * x, y, dy)
    elif guard == "no_grad":
        with torch.no_grad():
            assert stack.losses(100 * x, y, dy).isfinite().all()
    else:
        stack.requires_grad_(False).losses(100 * x, y, dy)
    stack.gradient(100 * x)
    stack(100 * x)
    assert all(torch.equal(stack.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(("points", "training"), [("random", False), ("equal", True)])
def test_a_scaled_kernel_before_there_is_a_spread(points, training):
    stack = make(kink_bandwidth=0.1, scale_bandwidth=True, initialization="sonnet").train(training)
    x, y, dy = batch(3, 9, 2)
    x = x if points == "random" else torch.zeros_like(x)
    stack.losses(x, y, dy).sum().backward()
    assert all(p.grad.isfinite().all() for p in stack.parameters())
    assert (stack.spread_0 == 1).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_autocast_does_not_change_a_stack(activation):
    stack = make(activation).float()
    x, y, dy = (t.float() for t in batch(3, 9, 2))
    expected = [stack.losses(x, y, dy), stack.gradient(x), stack(x), *stack.terms(x, y, dy)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [stack.losses(x, y, dy), stack.gradient(x), stack(x), *stack.terms(x, y, dy)]
    found[0].sum().backward()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision_does_not_overflow():
    stack = make().half()
    x, y, dy = batch(3, 9, 2)
    losses = stack.losses(x.half(), (300 + y).half(), (300 + dy).half())
    losses.sum().backward()
    expected = make().losses(x, 300 + y, 300 + dy)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-2, atol=0)
    assert stack.weights[0].grad.isfinite().all()


def test_a_used_stack_can_be_copied():
    stack = make(kink_bandwidth=0.1, scale_bandwidth=True)
    x, y, dy = batch(3, 9, 2)
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True) * 2
    total = stack.losses(x, y, dy, weight)
    other = copy.deepcopy(stack.eval())
    weight = weight.detach()
    weight[0] = 0  # a weight that changes in place is looked at again
    torch.testing.assert_close(other.losses(x, y, dy, weight)[1:], total[1:])
    assert other.losses(x, y, dy, weight)[0] < total[0]


def test_member_does_not_depend_on_its_neighbours():
    generators = lambda seeds: [torch.Generator().manual_seed(s) for s in seeds]  # noqa: E731
    big = MLPStack(3, 2, (5, 5), generator=generators([1, 2, 3]))
    small = MLPStack(1, 2, (5, 5), generator=generators([2]))
    assert torch.equal(big.weights[1][1], small.weights[1][0])


@pytest.mark.parametrize(("scheme", "biased"), [("torch", True), ("sonnet", False)])
def test_initialization(scheme, biased):
    stack = MLPStack(
        8, 50, (100, 100), initialization=scheme, generator=torch.Generator().manual_seed(0)
    )
    w = stack.weights[1]
    # Variance 1/(3 n) of the uniform; 0.774/n of the normal truncated at two deviations.
    assert w.var().item() * 100 == pytest.approx(1 / 3 if biased else 0.7737, rel=0.02)
    assert bool((stack.biases[1] != 0).any()) == biased


X, Y, DY = batch(3, 8, 2)
STACK = make()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: STACK(torch.zeros(3, 8, 5).to(X)),
            ValueError,
            r"x has shape \(3, 8, 5\).*\(B, 2\)",
        ),
        (lambda: STACK.losses(X[:, :0], Y, DY), ValueError, "batch is empty"),
        (lambda: STACK.losses(X, Y[0, :, 0], DY), ValueError, r"y has shape \(8,\).*\(8, 1\)"),
        (lambda: STACK.losses(X, Y, Y), ValueError, r"dy has shape \(3, 8, 1\).*\(8, 2\)"),
        (lambda: STACK.losses(X, Y), ValueError, "dy is None"),
        (lambda: STACK(X.float()), TypeError, r"x is torch\.float32.*\('cpu', torch\.float64\)"),
        (lambda: STACK.losses(X, Y, DY, -1.0), ValueError, "derivative_weight"),
        (lambda: STACK.losses(X, Y, DY, torch.ones(2)), ValueError, r"has shape \(2,\)"),
        (lambda: STACK.losses(1 * X.clone().requires_grad_(), Y, DY), ValueError, "x requires a"),
        (lambda: STACK.member(3), IndexError, "3 members"),
        (lambda: STACK.losses(X, Y.numpy(), DY), TypeError, "y must be a torch.Tensor"),
        (lambda: STACK(X.numpy()), TypeError, "x must be a torch.Tensor, got ndarray"),
        (lambda: MLPStack(0, 2), ValueError, "members"),
        (lambda: MLPStack(1, 2.0), ValueError, "in_features must be an integer"),
        (lambda: MLPStack(1, 2, ()), ValueError, "hidden"),
        (lambda: MLPStack(1, 2, 64), ValueError, "hidden is 64; give a sequence"),
        (lambda: MLPStack(1, 2, (6.5,)), ValueError, "hidden must be an integer .* got 6.5"),
        (lambda: MLPStack(1, 2, generator=0), TypeError, "generator must be .* got int"),
        (lambda: MLPStack(1, 2, kink_bandwidth="a"), ValueError, "kink_bandwidth is 'a'"),
        (lambda: MLPStack(1, 2, activation="gelu"), ValueError, "activation"),
        (lambda: MLPStack(1, 2, initialization="zeros"), ValueError, "initialization"),
        (lambda: MLPStack(1, 2, activation="tanh", kink_bandwidth=0.1), ValueError, "no kinks"),
        (lambda: MLPStack(1, 2, kink_bandwidth=-1), ValueError, "kink_bandwidth is -1"),
        (lambda: MLPStack(2, 2, generator=[torch.Generator()]), ValueError, "generator has 1"),
    ],
)
def test_errors_name_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_gradient_on_a_gpu():
    x, y, dy = batch(3, 8, 2)
    here, there = make(), make().cuda()
    here.losses(x, y, dy, 0.5).sum().backward()
    there.losses(x.cuda(), y.cuda(), dy.cuda(), 0.5).sum().backward()
    assert torch.allclose(here.weights[0].grad, there.weights[0].grad.cpu(), rtol=1e-9)


def test_member_is_a_plain_network():
    network = make().member(1)
    assert isinstance(network, nn.Sequential)
    assert [type(layer) for layer in network] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
