"""Controls of the kernel at the kinks, in float64 against a direct sum over samples and units."""

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from sobolev_lib import kinks
from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.regression import controls
from sobolev_lib.regression.training import Training, _generator, settings
from sobolev_lib.stack import MLPStack

H, WEIGHT = 0.3, 1.5


def stack_with(kernel, bandwidth=H):
    generator = torch.Generator().manual_seed(5)
    return MLPStack(
        2, 2, (5, 4), "leaky_relu", bandwidth, generator=generator, dtype=torch.float64,
        kernel=kernel,
    )  # fmt: skip


def batch(n=9):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(2, n, k, generator=g, dtype=torch.float64) for k in (2, 1, 2)]


def gradients(stack, *data):
    stack.losses(*data, WEIGHT).sum().backward()
    return parameters_to_vector([p.grad for p in stack.parameters()])


def reference(bends, x, y, dy):
    """Gradient by autograd, sample by sample: a network whose units have phi'' as given.

    ``bends(layer, z)`` are the values of phi'', (members, points, units), at the pre-activations.
    """
    stack = stack_with(kinks.logistic_)
    z, gates = x, []
    for layer, (w, b) in enumerate(zip(stack.weights[:-1], stack.biases[:-1], strict=True)):
        z = torch.einsum("ebi,eoi->ebo", z, w) + b[:, None]
        still = z.detach()
        # a slope that has the given derivative with respect to z
        step = torch.where(still > 0, 1.0, 0.01) + bends(layer, still.clone()) * (z - still)
        gates.append(step)
        z = torch.where(still > 0, z, 0.01 * z)
    value = torch.einsum("ebi,eoi->ebo", z, stack.weights[-1]) + stack.biases[-1][:, None]
    slope = stack.weights[-1].expand(-1, x.shape[1], -1)
    for gate, w in zip(reversed(gates), reversed(stack.weights[:-1]), strict=True):
        slope = torch.einsum("ebo,eoi->ebi", slope * gate, w)
    error = (value - y).square().sum(2) + WEIGHT * (slope - dy).square().sum(2)
    error.mean(1).sum().backward()
    return parameters_to_vector([p.grad for p in stack.parameters()])


def bell(z, shift=0.0):
    """The logistic kernel, written out, times the height of the step."""
    u = (z - shift * H) / H
    return 0.99 / (H * (2 + u.exp() + (-u).exp()))


@pytest.mark.parametrize("amplitude", [-1.0, 0.0, 0.5, 2.0])
def test_the_amplitude_multiplies_the_term(amplitude):
    data = batch()
    found = gradients(stack_with(controls.Kernel("plain", amplitude)), *data)
    torch.testing.assert_close(found, reference(lambda _, z: amplitude * bell(z), *data))
    plain, whole = (gradients(stack_with(kinks.logistic_, h), *data) for h in (None, H))
    torch.testing.assert_close(found - plain, amplitude * (whole - plain))


@pytest.mark.parametrize(("kind", "shift"), controls.SHIFTS.items())
def test_a_shifted_kernel_stands_where_it_is_said_to(kind, shift):
    data = batch()
    found = gradients(stack_with(controls.Kernel(kind)), *data)
    torch.testing.assert_close(found, reference(lambda _, z: bell(z, shift), *data))


@pytest.mark.parametrize("kind", controls.RANDOM)
def test_what_is_random_keeps_sizes_and_repeats(kind):
    data, drawn = batch(), []

    def seen(z, width, jump):
        expected = bell(z)
        found = controls.Kernel(kind, source=source)(z, width, jump)
        torch.testing.assert_close(found.abs().sort(dim=1)[0], expected.sort(dim=1)[0])
        if kind == "noise":
            torch.testing.assert_close(found.abs(), expected)
            assert (found < 0).any() and (found > 0).any()
        assert not torch.allclose(found, expected)
        drawn.append(found.clone())
        return found

    source = torch.Generator().manual_seed(3)
    found = gradients(stack_with(seen), *data)
    torch.testing.assert_close(found, reference(lambda layer, _: drawn[layer], *data))
    source = torch.Generator().manual_seed(3)
    assert torch.equal(gradients(stack_with(seen), *data), found)


def test_a_permutation_moves_each_unit_by_itself_and_all_members_alike():
    z = torch.randn(1, 40, 6, generator=torch.Generator().manual_seed(2)).expand(3, -1, -1)
    kernel = controls.Kernel("permuted", source=torch.Generator().manual_seed(0))
    found = kernel(z.clone(), H, 1.0)
    assert torch.equal(found[0], found[1])
    places = (found[0][:, None] == kinks.logistic_(z[0].clone(), H)[None]).float().argmax(1)
    assert len({tuple(column) for column in places.T.tolist()}) == 6


def test_noise_has_the_mean_zero():
    kernel = controls.Kernel("noise", source=torch.Generator().manual_seed(0))
    found = kernel(torch.zeros(1, 4_000, 5), H, 1.0)
    assert found.mean().abs() < 5 * found.abs().mean() / 20_000**0.5


def test_an_annealed_width_ends_as_far_below_as_it_began_above():
    ends = [controls.width(0.1, "annealed", step, 6_000) for step in (0, 5_999)]
    assert ends == pytest.approx([0.5, 0.02])
    assert controls.width(0.1, "annealed", 1, 3) == pytest.approx(0.1)
    assert controls.width(0.1, "plain", 5, 10) == 0.1
    [setting] = settings("kernel_control/annealed", [20], ["booth"], steps=3)
    training = Training([setting], 0)
    widths = []
    for last in (1, 2, 3):
        training._steps(last)
        widths.append(training.stack.kink_bandwidth)
    assert widths == pytest.approx([0.5, 0.1, 0.02])


def test_the_boundary_term_is_what_the_kernel_adds():
    data = batch()
    stack = stack_with(kinks.logistic_)
    term = controls.boundary_term(stack, *data, torch.tensor(WEIGHT))
    assert torch.equal(term, torch.zeros(2, dtype=torch.float64))
    assert stack.kink_bandwidth == H
    term.sum().backward()
    found = parameters_to_vector([p.grad for p in stack.parameters()])
    direct = reference(lambda _, z: bell(z), *data) - reference(lambda _, z: 0 * z, *data)
    torch.testing.assert_close(found, direct)


def test_jittered_points_keep_their_targets():
    x, y, dy = batch(4_000)
    moved, values, slopes = controls.jittered(x, y, dy, torch.Generator().manual_seed(0))
    assert torch.equal(values[:, :: controls.COPIES], y)
    assert torch.equal(slopes[:, controls.COPIES - 1 :: controls.COPIES], dy)
    noise = moved - x.repeat_interleave(controls.COPIES, dim=1)
    torch.testing.assert_close(noise[0], noise[1])
    assert noise.std() == pytest.approx(controls.JITTER, rel=0.05)


def test_fresh_points_have_the_targets_of_the_function():
    chosen = settings("kernel_control/fresh", [20], ["booth", "beale"])
    problem = Training(chosen, 0).problem
    x, y, dy = problem.fresh(chosen, 50, torch.Generator().manual_seed(0))
    for i, setting in enumerate(chosen):
        f = FUNCTIONS[setting.function]
        raw = x[i].double() * problem.scale_x[i] + problem.shift_x[i]
        lo, hi = torch.tensor(f.domain).T
        assert ((raw >= lo - 1e-4) & (raw <= hi + 1e-4)).all()
        value = y[i].double() * problem.scale_y[i] + problem.shift_y[i]
        torch.testing.assert_close(value, f(raw), rtol=1e-4, atol=1e-3)
        slope = dy[i].double() * problem.scale_y[i] / problem.scale_x[i]
        torch.testing.assert_close(slope, f.gradient(raw), rtol=1e-3, atol=1e-2)


def test_the_slopes_term_is_the_derivative_part_without_the_kernel():
    x, y, dy = batch()
    stack = stack_with(kinks.logistic_)
    term = controls.slopes_term(stack, x, y, dy, torch.tensor(WEIGHT))
    torch.testing.assert_close(term, WEIGHT * stack.terms(x, y, dy)[1])
    assert stack.kink_bandwidth == H
    term.sum().backward()
    source, parameters = torch.Generator().manual_seed(0), list(stack.parameters())
    way = [torch.randn(p.shape, generator=source, dtype=p.dtype) for p in parameters]
    rise = sum((p.grad * v).sum() for p, v in zip(parameters, way, strict=True))
    ends = []
    for step in (1e-7, -2e-7):  # no kink is crossed so near
        with torch.no_grad():
            for p, v in zip(parameters, way, strict=True):
                p += step * v
        ends.append(stack.terms(x, y, dy)[1].sum())
    torch.testing.assert_close(rise, WEIGHT * (ends[0] - ends[1]) / 2e-7, rtol=1e-5, atol=1e-6)


def test_slopes_at_fresh_points_are_added_to_the_plain_loss():
    chosen = settings("kernel_control/slopes", [20], ["booth", "beale"])
    training = Training(chosen, 3)
    there = training.problem.fresh(training.members, 100, _generator("slopes", 3, 7))
    stack, weight = training.stack, training.weight
    plain = controls.without_kernel(stack, *training._batch(7), weight)
    more = controls.slopes_term(stack, *there, weight)
    assert torch.equal(training._losses(7), plain + more) and (more > 0).all()


@pytest.mark.parametrize("kind", ["jittered", "fresh"])
def test_a_term_at_other_points_is_added_to_the_plain_gradient(kind):
    chosen = settings(f"kernel_control/{kind}", [20], ["booth", "beale"])
    training = Training(chosen, 3)
    batch, source = training._batch(7), _generator(kind, 3, 7)
    there = (
        controls.jittered(*batch, source)
        if kind == "jittered"
        else training.problem.fresh(training.members, 100, source)
    )
    stack, weight = training.stack, training.weight
    losses = training._losses(7)
    found = torch.autograd.grad(losses.sum(), list(stack.parameters()))
    assert torch.equal(losses, controls.without_kernel(stack, *batch, weight))
    parts = [
        torch.autograd.grad(f(stack, *data, weight).sum(), list(stack.parameters()))
        for f, data in (
            (controls.without_kernel, batch),
            (lambda s, *data: s.losses(*data), there),
            (controls.without_kernel, there),
        )
    ]
    for own, plain, kernel, other in zip(found, *parts, strict=True):
        torch.testing.assert_close(own, plain + kernel - other)


@pytest.mark.parametrize("kind", [k for k in controls.KINDS if k != "plain"])
def test_a_resumed_control_equals_an_uninterrupted_one(tmp_path, kind):
    chosen = settings(f"kernel_control/{kind}", [20], ["booth"], steps=12)
    whole = Training(chosen, 5)
    whole.run()
    Training(chosen, 5, folder=tmp_path).run(until=5)
    resumed = Training(chosen, 5, folder=tmp_path)
    assert resumed.step == 5
    resumed.run()
    for ours, theirs in zip(resumed.stack.parameters(), whole.stack.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert resumed.results()[0].metrics == whole.results()[0].metrics
