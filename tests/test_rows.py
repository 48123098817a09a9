"""Every row of the tables trains what its name says: objective, modules, schedule, optimisers."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from test_synthetic_training import fake_images, picture, tiny
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from sobolev_lib import kinks
from sobolev_lib.records.ledger import Ledger
from sobolev_lib.synthetic_gradients import Decoupled, throughput, training
from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients import modules as sg
from sobolev_lib.synthetic_gradients.training import ROWS, Setting, Training, settings


class Row(NamedTuple):
    """What a row stands for, typed here once more: `training.ROWS` is what is tested."""

    kind: str
    element: str = "l1"
    reduction: str = "sum"
    gradient_weight: float = 1.0
    label_weight: float = 0.0
    targets: str = "true"
    bandwidth: float | None = None


WANTED = {
    "backprop": Row("backprop"),
    "noprop": Row("noprop"),
    "direct": Row("direct"),
    "vfbn": Row("vfbn"),
    "critic": Row("critic"),
    "sobolev": Row("sobolev"),
    "local_ce": Row("local_ce"),
    "sobolev_mean": Row("sobolev", reduction="mean"),
    "sobolev_tenth": Row("sobolev", gradient_weight=0.1),
    "sobolev_tenfold": Row("sobolev", gradient_weight=10.0),
    "sobolev_kernel": Row("sobolev", bandwidth=0.1),
    "sobolev_label": Row("sobolev", label_weight=1.0),
    "sobolev_l2": Row("sobolev", element="l2"),
    "sobolev_bootstrapped": Row("sobolev", targets="bootstrapped"),
    "direct_bootstrapped": Row("direct", targets="bootstrapped"),
    "vfbn_kernel": Row("vfbn", bandwidth=0.1),
}
VARIANTS = [row for row in WANTED if row.startswith("sobolev_")]


# The network and the modules that a setting builds.


def described(layer: nn.Module) -> tuple:
    """Exact type of a layer and its sizes."""
    if isinstance(layer, nn.Conv2d):
        sizes = layer.in_channels, layer.out_channels
        return type(layer), *sizes, layer.kernel_size, layer.stride, layer.padding
    if isinstance(layer, nn.Linear):
        return type(layer), layer.in_features, layer.out_features
    return (type(layer),)


def conv(channels: int, out: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> tuple:
    return nn.Conv2d, channels, out, (kernel,) * 2, (stride,) * 2, (padding,) * 2


def linear(a: int, b: int) -> tuple:
    return nn.Linear, a, b


def chain(layer, sizes: Sequence[int]) -> list[tuple]:
    return [layer(a, b) for a, b in itertools.pairwise(sizes)]


# Of each arm: the first layer, and by split channels and height at the cut.
FIRST = {
    "digits": linear(64, 16),
    "cifar10_reduced": conv(3, 16),
    "imagenette_reduced_3": conv(3, 16, 7, 2, 3),
}
CUTS = {
    "digits": [(16, 0)] * 3,
    "cifar10_reduced": [(16, 16), (32, 8), (64, 4)],
    "imagenette_reduced_3": [(64, 16), (128, 8), (256, 4)],
}


def wanted_layers(arm: str, split: int, kind: str, relu: type) -> list[tuple]:
    """SM 4.2 and 4.3 at the widths of the reduced arms (32 and 16); 64 units for vectors."""
    channels, height = CUTS[arm][split]
    if arm == "digits":
        if kind == "direct":
            return chain(linear, (channels, 64, 64, channels))
        return [linear(channels, 64), (relu,), linear(64, 10)]
    units = 32 if arm == "cifar10_reduced" else 16
    if kind == "direct":
        return chain(conv, (channels, units, units, channels))
    if arm == "cifar10_reduced":
        last = linear(units * height * height, 10)
        return [conv(channels, units), (relu,), (sg.FlattenMaps,), last]
    return [
        conv(channels, units), (relu,), conv(units, units, stride=2), (relu,),
        (nn.AdaptiveAvgPool2d,), (nn.Flatten,), linear(units, 10),
    ]  # fmt: skip


def build(setting: Setting, seed: int = 0) -> Decoupled:
    return training.build(setting, throughput.stand_in(setting, 10, 4), seed)


def test_all_rows_are_known_here():
    assert set(WANTED) == set(ROWS)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("arm", FIRST)
def test_a_row_builds_what_it_says(arm, row):
    said, net = WANTED[row], build(settings(arm, [row])[0])
    assert (net.mode, net.targets) == (said.kind, said.targets)
    first = next(m for m in net.segments.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert described(first) == FIRST[arm]
    assert len(net.segments) == 4
    assert len(net.synthesizers) == (0 if row == "backprop" else 3)
    for split, module in enumerate(net.synthesizers):
        own = module.objective
        assert module.kind == said.kind
        assert (own.element, own.reduction) == (said.element, said.reduction)
        assert (own.gradient_weight, own.label_weight) == (said.gradient_weight, said.label_weight)
        if row == "noprop":
            assert module.network is None
            continue
        relu = nn.ReLU if said.bandwidth is None else kinks.ReLU
        layers = module.network.layers if said.kind == "direct" else module.network.network
        wanted = wanted_layers(arm, split, said.kind, relu)
        assert [described(layer) for layer in layers] == wanted
        bent = [m for m in module.modules() if isinstance(m, kinks.ReLU)]
        assert len(bent) == (0 if said.bandwidth is None else wanted.count((relu,)))
        assert all(m.bandwidth == said.bandwidth and m.scaled for m in bent)


@pytest.mark.parametrize(
    ("arm", "first", "pool"),
    [
        ("imagenet200_3", conv(3, 4), False),
        ("imagenet200_reduced_3", conv(3, 4, 7, 2, 3), True),
        ("imagenette_1", conv(3, 4, 7, 2, 3), True),
        ("imagenet_3", conv(3, 4, 7, 2, 3), True),
    ],
)
def test_stem_of_an_arm(arm, first, pool):
    net = build(settings(arm, ["noprop"], width=4, image_size=32)[0])
    layers = list(net.segments.modules())
    assert described(next(m for m in layers if isinstance(m, nn.Conv2d))) == first
    assert any(isinstance(m, nn.MaxPool2d) for m in layers) is pool


@pytest.mark.parametrize("hidden", [5, 7])
def test_hidden_units_reach_every_kind_of_module(hidden):
    for setting in (tiny(hidden=hidden), picture(hidden=hidden), picture("direct", hidden=hidden)):
        for module in build(setting).synthesizers:
            first = next(m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear))
            assert first.weight.shape[0] == hidden


# What the modules learn from, against a computation by hand.


def one_batch(setting: Setting) -> tuple[Tensor, Tensor]:
    data = throughput.stand_in(setting, 10, 6)
    return images.normalize(data.train_x, data).double(), data.train_y


def gradients(net: Decoupled, x: Tensor, y: Tensor) -> list[list[Tensor]]:
    """Of each module's parameters after one `accumulate`."""
    net.zero_grad()
    net.accumulate(x, y)
    return [[p.grad.clone() for p in module.parameters()] for module in net.synthesizers]


def gradients_by_hand(net: Decoupled, x: Tensor, y: Tensor, row: Row) -> list[list[Tensor]]:
    """The losses of section 4.3 and SM 4.1, differentiated by autograd alone."""
    value, cuts = x, []
    for segment in net.segments:
        value = segment(value)
        cuts.append(value)
    loss = functional.cross_entropy(value, y, reduction="none")
    logp = value - value.logsumexp(dim=1, keepdim=True)
    true = torch.autograd.grad(loss.sum(), cuts[:-1], retain_graph=True)
    said = [_said(module, h.detach(), y) for module, h in zip(net.synthesizers, cuts, strict=False)]
    power = 1 if row.element == "l1" else 2

    def distance(a: Tensor, b: Tensor) -> Tensor:
        each = ((a - b).abs() ** power).reshape(len(a), -1)
        return (each.sum(dim=1) if row.reduction == "sum" else each.mean(dim=1)).mean()

    found = []
    for k, (module, (slope, m, own)) in enumerate(zip(net.synthesizers, said, strict=True)):
        target = true[k]
        if row.targets == "bootstrapped" and k + 1 < len(said):
            above = said[k + 1][0].detach()
            (target,) = torch.autograd.grad(cuts[k + 1], cuts[k], above, retain_graph=True)
        gap = distance(slope, target)
        if row.kind in ("direct", "vfbn"):
            total = gap
        elif row.kind == "local_ce":
            total = m.mean()
        else:
            total = distance(m, loss.detach())
            total = total + row.label_weight * distance(own, logp.detach())
            total = total + row.gradient_weight * gap if row.kind == "sobolev" else total
        # a bias that only shifts a class has no part in a slope
        parameters = list(module.parameters())
        found.append(torch.autograd.grad(total, parameters, allow_unused=True))
    return found


def _said(module: sg.Module, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if module.kind == "direct":
        return module.network(h, y), None, None
    h = h.requires_grad_()
    logits = module.network.network(h)
    logp = logits - logits.logsumexp(dim=1, keepdim=True)
    m = -logp[torch.arange(len(y)), y]
    (slope,) = torch.autograd.grad(m.sum(), h, create_graph=True)
    return slope, m, logp


def perturbed(net: Decoupled) -> Decoupled:
    """Modules of "direct" start at zero; move all a little, the same for all rows."""
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.module_parameters():
            p += 0.1 * torch.randn(p.shape, generator=source).to(p.dtype)
    return net.double()


LEARNING = [row for row, said in WANTED.items() if said.kind in sg.PREDICTING]


@pytest.mark.parametrize("row", [row for row in LEARNING if WANTED[row].bandwidth is None])
@pytest.mark.parametrize("make", [tiny, picture])
def test_modules_of_a_row_learn_by_its_objective(row, make):
    setting = make(row)
    net = perturbed(build(setting))
    x, y = one_batch(setting)
    wanted = gradients_by_hand(copy.deepcopy(net), x, y, WANTED[row])
    for found, by_hand in zip(gradients(net, x, y), wanted, strict=True):
        for a, b in zip(found, by_hand, strict=True):
            b = torch.zeros_like(a) if b is None else b
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)
        assert any(a.abs().max() > 1e-6 for a in found)


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
        run.one()
    parameters = [list(module.parameters()) for module in run.net.synthesizers]
    return [torch.cat([p.grad.flatten() for p in own]) for own in parameters]


@pytest.mark.parametrize("row", VARIANTS)
@pytest.mark.parametrize("name", ["digits", "cifar", "resnet"])
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


def test_processes_share_a_batch():
    whole = Training(picture(augmented=False), 0, numbered())
    parts = []
    for rank in range(2):
        run = Training(picture(augmented=False), 0, numbered())
        run.rank, run.workers = rank, 2
        parts.append(run)
    for step in range(6):
        shares = [numbers(run, step) for run in parts]
        assert [*itertools.chain(*shares)] == numbers(whole, step)


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
        run.one(measure=step == 1)
        assert run.step == step + 1
        for (name, a), b in zip(
            run.net.state_dict().items(), net.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=f"{name}, step {step}")


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("row", ["sobolev", "direct", "noprop"])
def test_three_steps_are_those_of_torchs_optimisers(row, nesterov):
    setting = picture(row, **ODD, nesterov=nesterov)
    run = Training(setting, 0, fake_images())
    net = copy.deepcopy(run.net)
    sgd = torch.optim.SGD(
        net.main_parameters(), lr=1.0, momentum=0.7, nesterov=nesterov, weight_decay=0.03
    )
    own = net.module_parameters()
    adam = torch.optim.Adam(own, lr=7e-3) if own else None
    for step in range(3):
        net.train()
        net.zero_grad()
        net.accumulate(*run.batch(step))
        sgd.param_groups[0]["lr"] = (0.11 / 3, 0.22 / 3, 0.11)[step]  # warm-up over 3 of 6
        sgd.step()
        if adam:
            adam.step()
    run.run(until=3)
    for (name, a), b in zip(run.net.state_dict().items(), net.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=name)


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

    for part in (*run.net.segments, *run.net.synthesizers):
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


# Progress.


def test_progress_bar_shows_accuracy_and_cosine(tmp_path, capsys):
    book = Ledger("synthetic_gradients", tmp_path)
    assert training.sweep([tiny()], [0], book) == 1
    said = capsys.readouterr().err
    (record,) = book.read()
    assert "digits sobolev seed 0" in said
    assert f"top1={tqdm.format_num(record.metrics['top1'])}" in said
    assert f"cosine={record.metrics['curve']['cosine'][-1]}" in said
    training.sweep([tiny("critic")], [0], book, quiet=True)
    assert capsys.readouterr().err == ""
