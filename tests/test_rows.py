"""Every row trains what it says: modules, batches, schedule, optimisers, precision."""

from __future__ import annotations

import copy
import itertools
from typing import NamedTuple

import pytest
import torch
from sg_helpers import fake_images, picture, tiny
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib import kinks
from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients import throughput, training
from sobolev_lib.synthetic_gradients.settings import ROWS, Setting, settings
from sobolev_lib.synthetic_gradients.training import Training


def build(setting: Setting, seed: int = 0):
    return training.build(setting, throughput.stand_in(setting, 10, 4), seed)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("make", [tiny, picture])
def test_the_options_of_a_row_reach_the_network(make, row):
    setting = make(row)
    net = build(setting)
    assert (net.mode, net.targets) == (setting.module, setting.targets)
    assert len(net.segments) == 4
    assert len(net.sg_modules) == (0 if row == "backprop" else 3)
    for module in net.sg_modules:
        assert module.mode == setting.module and module.objective == setting.objective()
        units = [m for m in module.modules() if isinstance(m, nn.ReLU | nn.LeakyReLU | kinks.ReLU)]
        assert bool(units) == (setting.module != "noprop")
        for unit in units:
            assert getattr(unit, "negative_slope", 0.0) == setting.leak
            assert getattr(unit, "bandwidth", None) == setting.bandwidth
    run = Training(setting, 0, images.digits() if make is tiny else fake_images())
    rate = run.adam.param_groups[0]["lr"] if run.adam else None
    has_parameters = row not in ("backprop", "noprop")
    assert rate == (ROWS[row].get("module_rate", 1e-3) if has_parameters else None)


@pytest.mark.parametrize(
    ("arm", "kernel", "pool"),
    [
        ("imagenet200_3", 3, False), ("imagenet200_reduced_3", 7, True), ("imagenette_1", 7, True),
        ("imagenet_3", 7, True),
    ],
)  # fmt: skip
def test_stem_of_an_arm(arm, kernel, pool):
    layers = list(build(settings(arm, ["noprop"], width=4, image_size=32)[0]).segments.modules())
    first = next(m for m in layers if isinstance(m, nn.Conv2d))
    assert first.kernel_size == (kernel, kernel)
    assert any(isinstance(m, nn.MaxPool2d) for m in layers) is pool


@pytest.mark.parametrize("hidden", [5, 7])
def test_hidden_units_reach_every_kind_of_module(hidden):
    for setting in (tiny(hidden=hidden), picture(hidden=hidden), picture("direct", hidden=hidden)):
        for module in build(setting).sg_modules:
            first = next(m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear))
            assert first.weight.shape[0] == hidden


@pytest.fixture(scope="module")
def two_steps():
    """Gradients of the modules after two steps of training, by setting and row; made once."""
    made: dict[tuple[str, str], list[Tensor]] = {}

    def find(name: str, row: str) -> list[Tensor]:
        if (name, row) not in made:
            made[name, row] = _gradients_after_two_steps(name, row)
        return made[name, row]

    return find


def _gradients_after_two_steps(name: str, row: str) -> list[Tensor]:
    if name == "digits":
        run = Training(tiny(row), 0)
    elif name == "cifar":
        run = Training(picture(row), 0, fake_images())
    else:
        small = {"width": 2, "hidden": 3, "image_size": 32, "batch": 8, "epochs": 2}
        setting = settings("imagenette_reduced_3", [row], **small)[0]
        run = Training(setting, 0, throughput.stand_in(setting, 10, 16))
    for _ in range(2):
        run.make_step()
    parameters = [list(module.parameters()) for module in run.net.sg_modules]
    return [torch.cat([p.grad.flatten() for p in own]) for own in parameters]


# the paper's rate decides the step, not the gradient
VARIANTS = [row for row in ROWS if row.startswith("sobolev_") and not row.endswith("slow")]


@pytest.mark.parametrize("row", VARIANTS)
@pytest.mark.parametrize(
    "name", ["digits", "cifar", pytest.param("resnet", marks=pytest.mark.slow)]
)
def test_a_variant_trains_otherwise_than_plain_sobolev(name, row, two_steps):
    plain, other = two_steps(name, "sobolev"), two_steps(name, row)
    gaps = [((a - b).norm() / a.norm()).item() for a, b in zip(plain, other, strict=True)]
    if row == "sobolev_bootstrapped":  # nothing is above the last split but the loss
        assert gaps.pop() < 1e-6
    assert min(gaps) > 1e-3, gaps


def test_a_row_trains_the_same_twice():
    """The control of the test above: gaps are none of the machine's."""
    first, second = (_gradients_after_two_steps("cifar", "sobolev_l2") for _ in range(2))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


# Batches.


def numbered(count: int = 48) -> images.ImageData:
    """Each image is of one colour, its number; each label that number modulo ten."""
    data = fake_images(count)
    data.train_x[:] = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1)
    data.train_y[:] = torch.arange(count) % 10
    return data


def numbers(run: Training, step: int) -> list[int]:
    x, y = run.batch(step)
    found = (x[:, 0, 0, 0] * 74 + 127.5).round().int().tolist()
    assert y.tolist() == [i % 10 for i in found]
    return found


def test_batches_differ_by_seed_epoch_and_step():
    runs = [Training(picture(augmented=False), seed, numbered()) for seed in range(3)]
    orders = []
    for run in runs:
        assert run.per_epoch == 3
        batches = [numbers(run, step) for step in range(6)]
        assert [numbers(run, step) for step in range(6)] == batches  # from seed and step only
        orders += [[*itertools.chain(*batches[:3])], [*itertools.chain(*batches[3:])]]
    assert all(sorted(order) == list(range(48)) for order in orders)
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert all(order != sorted(order) for order in orders)


def alike() -> images.ImageData:
    """All images are one: what differs between batches is the augmentation."""
    data = fake_images()
    data.train_x[:] = data.train_x[:1].clone()
    return data


def test_augmentation_differs_by_seed_step_and_process():
    data, found = alike(), {}
    for seed, rank in itertools.product(range(2), range(2)):
        run = Training(picture(), seed, data)
        run.rank, run.workers = rank, 2
        for step in range(4):
            found[seed, rank, step] = run.batch(step)[0]
            torch.testing.assert_close(run.batch(step)[0], found[seed, rank, step], rtol=0, atol=0)
    for a, b in itertools.combinations(found, 2):
        assert not torch.equal(found[a], found[b]), (a, b)


@pytest.mark.parametrize("size", [8, 32])
def test_augmentation_is_on_where_the_setting_says(size):
    """Crops of images padded by an eighth of their size."""
    setting = picture(image_size=size)
    data = throughput.stand_in(setting, count=48)
    data.train_x[:] = data.train_x[:1].clone()
    plain = images.normalize(data.train_x, data)[:16]
    off = Training(picture(image_size=size, augmented=False), 0, data).batch(0)[0]
    torch.testing.assert_close(off, plain, rtol=0, atol=0)
    run = Training(setting, 0, data)
    on = torch.cat([run.batch(step)[0] for step in range(run.per_epoch)])
    padding = size // 8
    count = 2 * padding + 1
    crops = functional.pad(plain[0], [padding] * 4).unfold(1, size, 1).unfold(2, size, 1)
    crops = crops.permute(1, 2, 0, 3, 4).reshape(-1, 3, size, size)
    crops = torch.cat([crops, crops.flip(3)])
    places = [(crops == image).flatten(1).all(dim=1).nonzero().flatten().tolist() for image in on]
    assert all(len(found) == 1 for found in places)
    where = torch.tensor(places).flatten() % count**2
    for shift in (where // count, where % count):  # the whole range of crops
        assert shift.unique().tolist() == list(range(count))
    assert (torch.tensor(places) >= count**2).unique().numel() == 2  # and flips


# Schedule and optimisers.


def rate(setting: Setting, step: int, steps: int) -> float:
    """Linear warm-up over that part of the run, then linearly to 0."""
    rising = (step + 1) / (setting.warmup * steps)
    falling = (1 - step / steps) / (1 - setting.warmup)
    return setting.learning_rate * min(rising, falling, 1.0)


# Each unlike the default, so that an optimiser that falls back on one is seen.
ODD = {
    "learning_rate": 0.11, "warmup": 0.5, "momentum": 0.7, "weight_decay": 0.03,
    "module_rate": 7e-3,
}  # fmt: skip


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("row", ["sobolev", "critic", "backprop"])
@pytest.mark.parametrize("make", [tiny, picture])
def test_training_is_the_loop_written_out(make, row, nesterov):
    setting = make(row, **ODD, nesterov=nesterov)
    data = images.digits() if make is tiny else fake_images()
    run = Training(setting, 0, data)
    net = copy.deepcopy(run.net)
    velocity = [torch.zeros_like(p) for p in net.main_parameters()]
    own = net.module_parameters()
    adam = torch.optim.Adam(own, lr=7e-3) if own else None
    assert run.steps == 6
    for step in range(run.steps):
        net.load_state_dict(run.net.state_dict())  # else rounding grows from step to step
        net.train()
        net.zero_grad()
        net.accumulate(*run.batch(step))
        with torch.no_grad():
            for p, v in zip(net.main_parameters(), velocity, strict=True):
                g = p.grad + 0.03 * p
                v.mul_(0.7).add_(g)
                p -= rate(setting, step, 6) * (g + 0.7 * v if nesterov else v)
        if adam:
            adam.step()
        run.make_step(measure=step == 1)
        assert run.step == step + 1
        for (name, a), b in zip(
            run.net.state_dict().items(), net.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=f"{name}, step {step}")


@pytest.mark.parametrize("epochs", [1, 2, 7])
@pytest.mark.parametrize("warmup", [0.2, 0.5])
def test_rate_of_every_step(epochs, warmup, monkeypatch):
    """As the optimiser has it when it steps."""
    run = Training(tiny(epochs=epochs, warmup=warmup), 0)
    used, real = [], run.main.step
    monkeypatch.setattr(
        run.main, "step", lambda: (used.append(run.main.param_groups[0]["lr"]), real())
    )
    run.run()
    wanted = [rate(run.setting, step, 3 * epochs) for step in range(3 * epochs)]
    assert used == pytest.approx(wanted, rel=1e-12)
    assert run.adam is not None and run.adam.param_groups[0]["lr"] == 1e-3  # constant


# Precision and layout, seen inside the network.


class Seen(NamedTuple):
    training: bool
    dtype: torch.dtype
    input_last: bool
    output_last: bool


def watch(run: Training) -> list[Seen]:
    """What goes into and comes out of the first convolution of each segment."""
    found: list[Seen] = []

    def last(value: Tensor) -> bool:
        return value.is_contiguous(memory_format=torch.channels_last)

    def hook(layer: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        found.append(Seen(run.net.training, out.dtype, last(given[0]), last(out)))

    for part in (*run.net.segments, *run.net.sg_modules):
        first = next((m for m in part.modules() if isinstance(m, nn.Conv2d)), None)
        assert first is not None
        first.register_forward_hook(hook)
    return found


@pytest.mark.parametrize("augmented", [True, False])
@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_precision_and_layout_inside_the_network(precision, dtype, augmented):
    run = Training(picture(precision=precision, augmented=augmented), 0, fake_images())
    found = watch(run)
    run.run(until=run.per_epoch)  # with the test after the epoch
    training_steps = [seen for seen in found if seen.training]
    assert len(training_steps) >= 3 * 7 and len(training_steps) < len(found)
    for seen in found:
        assert seen.dtype == dtype
        assert seen.input_last and seen.output_last
    assert all(p.dtype == torch.float32 for p in run.net.parameters())
    for p in run.net.parameters():
        if p.dim() == 4:
            assert p.is_contiguous(memory_format=torch.channels_last)
