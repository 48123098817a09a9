"""Cut a network at splits; let synthetic gradients train what lies below each (section 4.3).

One step of a batch, for segments f_1, ..., f_K with activations h_k = f_k(h_{k-1}):

1. The forward pass, cut at every split: h_k is handed on as a constant.
2. Module k predicts the gradient at h_k (:mod:`.modules`).
3. Segment k < K gets its parameter gradients from module k's prediction, the last from the loss.
4. Where a module is trained on true gradients (or they are measured), the true signal runs down
   the chain beside that, to activations only: no parameter ever meets it.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib.checks import check_choice, wide
from sobolev_lib.synthetic_gradients import modules as sg
from sobolev_lib.synthetic_gradients.loss_model import LossModel, may_write
from sobolev_lib.synthetic_gradients.modules import Objective, Prediction, SGModule

MODES = ("backprop", *sg.SG_MODES)
"""What :func:`decouple` knows: full backpropagation and the modes of an SG module."""

TARGETS = ("true", "bootstrapped")

Architecture = Callable[[tuple[int, ...], int], nn.Module]


@dataclass(frozen=True)
class Step:
    """What happened in one step.

    Parameters
    ----------
    loss : Tensor
        Cross entropy of each example (B,).
    logits : Tensor
        Outputs of the main network (B, classes).
    module_losses : list of Tensor
        Loss of each module, from the input upwards.
    cosines : list of Tensor
        Mean over examples of the cosine between synthetic and true gradient, by split; empty
        unless measured, and for modes without a prediction.
    batch_cosines : list of Tensor
        Cosine between the synthetic and true gradients of the whole batch, taken as one vector
        each: examples count by the length of their gradients, learnt ones hardly at all.
    scales : list of Tensor
        Norm of the synthetic gradient over that of the true one (whole batch), by split; as above.
    dead, zeros : list of float
        Share of the module's hidden units that are 0 on the whole batch, and share of examples
        whose synthetic gradient is exactly 0, by split; as above.
    """

    loss: Tensor
    logits: Tensor
    module_losses: list[Tensor] = field(default_factory=list)
    cosines: list[Tensor] = field(default_factory=list)
    batch_cosines: list[Tensor] = field(default_factory=list)
    scales: list[Tensor] = field(default_factory=list)
    dead: list[float] = field(default_factory=list)
    zeros: list[float] = field(default_factory=list)


class Decoupled(nn.Module):
    """A network in segments with a synthetic gradient module at every split.

    Made by :func:`decouple`.  Called, it is the network itself.

    Parameters
    ----------
    segments, sg_modules : sequence of nn.Module
        K segments, and one module for each of the K - 1 splits; none for full backpropagation.
    mode : str
        One of :data:`MODES`.
    targets : {"true", "bootstrapped"}
        What modules are trained on: the gradient of the loss (section 4.3), or, as in Jaderberg et
        al. (2016), the next module's prediction sent back through the segment between them.
    """

    def __init__(
        self,
        segments: Sequence[nn.Module],
        sg_modules: Sequence[SGModule],
        mode: str,
        targets: str = "true",
    ) -> None:
        super().__init__()
        check_choice("targets", targets, TARGETS)
        self.segments = nn.ModuleList(segments)
        self.sg_modules = nn.ModuleList(sg_modules)
        self.mode, self.targets = mode, targets
        self._compiled: list[Callable[[Tensor], Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of x (B, *in)."""
        for segment in self._compiled or self.segments:
            x = segment(x)
        return x

    def compile_segments(self, **options: Any) -> None:
        """Run the segments through :func:`torch.compile`; ``options`` are its.

        Not where modules need true gradients: a compiled backward pass is one piece, and would make
        the gradients of the weights once more on the way of the true signal.
        """
        if not self.needs_true_gradients:
            # Compiled in place, nn.Sequential would stay as it is: only wrappers are traced.
            self._compiled = [torch.compile(segment, **options) for segment in self.segments]

    def main_parameters(self) -> list[nn.Parameter]:
        """Parameters of the main network."""
        return list(self.segments.parameters())

    def module_parameters(self) -> list[nn.Parameter]:
        """Parameters of the modules."""
        return list(self.sg_modules.parameters())

    @property
    def needs_true_gradients(self) -> bool:
        """Whether a module is trained on them."""
        return self.targets == "true" and any(m.needs_gradient for m in self.sg_modules)

    def accumulate(self, x: Tensor, y: Tensor, measure: bool = False) -> Step:
        """Add a batch's gradients to ``.grad`` of all parameters, as ``loss.backward()`` does.

        The main network's are those of the mean cross entropy, with synthetic gradients in the
        place of true ones below a split; each module's are those of its own loss.

        Parameters
        ----------
        x, y : Tensor
            Inputs (B, *in) and labels (B,), of dtype int64.
        measure : bool
            Compare synthetic with true gradients, even where no module needs the latter.

        Raises
        ------
        ValueError
            Empty batch, wrong shape of y, or labels outside the classes.
        """
        _check_batch(x, y)
        if self.mode == "backprop":
            logits = self(x)
            loss = cross_entropy(logits, y)
            loss.mean().backward()
            return Step(loss.detach(), logits.detach())
        inputs, outputs = self.activations(x)
        loss = cross_entropy(outputs[-1], y)
        pairs = zip(self.sg_modules, outputs, strict=False)
        predictions = [module(h, y) for module, h in pairs]
        true: list[Tensor | None] = [None] * len(predictions)
        if self.needs_true_gradients or measure:
            true = list(self._true_gradients(inputs, outputs, loss))
        arrived = self._send(inputs, outputs, loss, predictions)
        targets = true if self.targets == "true" else arrived
        logp = functional.log_softmax(outputs[-1].detach(), dim=1)
        losses = [
            own
            for module, said, g in zip(self.sg_modules, predictions, targets, strict=True)
            if (own := cast(SGModule, module).loss(said, loss.detach(), g, logp)) is not None
        ]
        if losses:
            torch.stack(losses).sum().backward()
        measured = self._measured(outputs, y, predictions, true) if measure else {}
        return Step(loss.detach(), outputs[-1].detach(), [e.detach() for e in losses], **measured)

    def _measured(
        self,
        outputs: list[Tensor],
        y: Tensor,
        predictions: list[Prediction],
        true: list[Tensor | None],
    ) -> dict[str, list[Any]]:
        """What :class:`Step` says of each split with a synthetic gradient."""
        found: dict[str, list[Any]] = {}
        for module, h, said, g in zip(self.sg_modules, outputs, predictions, true, strict=False):
            if said.gradient is None or g is None:
                continue
            a, b = wide(said.gradient.detach()).flatten(1), wide(g.detach()).flatten(1)
            for name, value in (
                ("cosines", cosine(a, b).mean()),
                ("batch_cosines", cosine(a.reshape(1, -1), b.reshape(1, -1)).squeeze(0)),
                ("scales", ratio_of_norms(a, b)),
                ("dead", cast(SGModule, module).dead_units(h, y)),
                ("zeros", float((a == 0).all(dim=1).double().mean())),
            ):
                found.setdefault(name, []).append(value)
        return found

    def true_gradients(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """dL_b/dh_b at each split, (B, *shape) each, for a batch as :meth:`accumulate` takes it."""
        _check_batch(x, y)
        inputs, outputs = self.activations(x)
        return self._true_gradients(inputs, outputs, cross_entropy(outputs[-1], y))

    def activations(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs of the segments (leaves from the second on) and their outputs."""
        inputs, outputs = [x], []
        runs: Sequence[Any] = self._compiled or list(self.segments)
        for segment, known in zip(runs, self.segments, strict=True):
            outputs.append(apart(segment, inputs[-1], may_write(known)))
            inputs.append(outputs[-1].detach().requires_grad_())
        return inputs[:-1], outputs

    def _true_gradients(
        self, inputs: list[Tensor], outputs: list[Tensor], loss: Tensor
    ) -> list[Tensor]:
        # Of the sum of losses, so that row b is the gradient of example b's own loss (but for what
        # batch normalisation mixes between examples). Keeps the graphs for `_send`.
        (g,) = torch.autograd.grad(loss.sum(), inputs[-1], retain_graph=True)
        found = [g]
        for leaf, h in zip(inputs[-2:0:-1], outputs[-2:0:-1], strict=True):
            (g,) = torch.autograd.grad(h, leaf, g, retain_graph=True)
            found.append(g)
        return found[::-1]

    def _send(
        self,
        inputs: list[Tensor],
        outputs: list[Tensor],
        loss: Tensor,
        predictions: list[Prediction],
    ) -> list[Tensor | None]:
        """Send gradients into the segments; return what arrives at the splits, per example."""
        count = len(loss)
        self._backward(len(outputs) - 1, loss.mean(), None, inputs[-1])
        for k, said in enumerate(predictions):
            if said.gradient is not None:
                signal = said.gradient.detach().to(outputs[k].dtype) / count
                self._backward(k, outputs[k], signal, inputs[k])
        return [None if leaf.grad is None else leaf.grad * count for leaf in inputs[1:]]

    def _backward(self, k: int, h: Tensor, signal: Tensor | None, leaf: Tensor) -> None:
        """Backward pass of segment k alone; its input is reached only where that is a target."""
        wanted = [p for p in self.segments[k].parameters() if p.requires_grad]
        if k > 0 and self.targets == "bootstrapped":
            wanted.append(cast(nn.Parameter, leaf))
        if wanted and h.requires_grad:  # nothing to move in a frozen segment
            h.backward(signal, inputs=wanted)


def apart(segment: Callable[[Tensor], Tensor], value: Tensor, writes: bool | None = None) -> Tensor:
    """Run a segment on a value that stays as it is, even if the segment begins in place.

    ``writes`` is what :func:`may_write` says, where that is known.
    """
    if writes is None:
        writes = isinstance(segment, nn.Module) and may_write(segment)
    return segment(value.clone() if writes else value)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of each example (B,), in float32 at least; the log loss of section 4.3.

    Raises
    ------
    ValueError
        Labels outside 0 ... classes - 1.
    """
    classes = logits.shape[1]
    if y.device.type == "cpu" and ((y < 0) | (y >= classes)).any():  # on a GPU the check would wait
        bad = y[(y < 0) | (y >= classes)][0].item()
        raise ValueError(f"y holds the label {bad}; the network has classes 0 to {classes - 1}")
    return functional.cross_entropy(wide(logits), y, reduction="none")


def _check_batch(x: Tensor, y: Tensor) -> None:
    if y.dim() != 1 or len(x) != len(y):
        raise ValueError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; one label for each example is "
            "needed, y of shape (B,)"
        )
    if y.dtype != torch.int64:
        raise TypeError(f"y has dtype {y.dtype}; labels must be torch.int64")
    if not len(x):
        raise ValueError("the batch is empty")


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine between rows of a and b (B, d); 0 where one of them is 0, however small the rest.

    True gradients get very short once an example is learnt, so each row is first divided by its
    largest entry: squares of it would be 0 in float32, and ``cosine_similarity`` of torch takes
    lengths below 1e-8 for 1e-8.
    """
    unit = [functional.normalize(_by_largest(v, 1)[0], dim=1) for v in (a, b)]
    return (unit[0] * unit[1]).sum(dim=1)


def _by_largest(v: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """V over its largest entry, and that entry (at least the smallest normal number)."""
    largest = v.abs().amax(dim=dim, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
    return v / largest, largest


def ratio_of_norms(a: Tensor, b: Tensor) -> Tensor:
    """Norm of all of a over that of b, both (B, d), however short they are."""
    (x, p), (y, q) = _by_largest(a, (0, 1)), _by_largest(b, (0, 1))
    return (x.norm() / y.norm().clamp_min(torch.finfo(y.dtype).tiny) * (p / q)).squeeze()


def cut(network: nn.Module, splits: Sequence[str]) -> list[nn.Sequential]:
    """Cut a network after the named children into segments, in the order of its children.

    Its forward pass calls them one after the other, as that of ``nn.Sequential`` does.

    Raises
    ------
    ValueError
        If a name is unknown, repeated, out of order, or that of the last child.
    """
    # Not `named_children`, which leaves out the second use of a module.
    children = [(name, child) for name, child in network._modules.items() if child is not None]
    names = [name for name, _ in children]
    unknown = [name for name in splits if name not in names]
    if unknown:
        raise ValueError(f"splits names {unknown}; the network has the children {names}")
    places = [names.index(name) for name in splits]
    if not places or places != sorted(set(places)):
        raise ValueError(
            f"splits is {list(splits)}; at least one name is needed, each once, from input to "
            "output"
        )
    if places[-1] == len(names) - 1:
        raise ValueError(f"splits names {splits[-1]!r}, the last child: nothing is left above it")
    ends = [0, *(p + 1 for p in places), len(names)]
    return [nn.Sequential(OrderedDict(children[a:b])) for a, b in itertools.pairwise(ends)]


def decouple(
    network: nn.Module,
    splits: Sequence[str],
    module: str = "sobolev",
    *,
    example: Tensor,
    objective: Objective | None = None,
    targets: str = "true",
    architecture: Architecture | None = None,
    hidden: int | None = None,
    pooled: bool = False,
    bandwidth: float | None = None,
    leak: float = 0.0,
) -> Decoupled:
    """Decouple a network at splits with synthetic gradient modules (section 4.3, Table 1).

    Parameters
    ----------
    network : nn.Module
        An ``nn.Sequential``, or a module whose forward pass calls its children one after the
        other.  Its children are used, not copied.
    splits : sequence of str
        Names of the children after which to cut, from input to output.
    module : str
        One of :data:`MODES`: "backprop", "noprop", "direct", "vfbn", "critic", "sobolev",
        "local_ce".
    example : Tensor
        A batch of inputs (B, *in), for the shapes at the splits.  Values do not matter: random
        numbers of its shape and dtype are used (zeros for integers).
    objective : Objective, optional
        Losses of the modules.
    targets : {"true", "bootstrapped"}
        See :class:`Decoupled`.
    architecture : callable, optional
        ``architecture(shape, classes)`` returns the network of a module: an ``nn.Sequential``
        from h to logits, or for "direct" a module of (h, y) that returns a gradient of the shape
        of h.
    hidden, pooled, bandwidth, leak
        Of the default architectures, see :func:`.modules.build`.

    Raises
    ------
    ValueError
        Unknown mode, wrong names of splits, a shape without a default architecture, or a network
        that is not the sequence of its children, or has no values (meta device).

    Notes
    -----
    Modules that are used twice and layers that work in place are fine: a segment that may begin in
    place gets a copy of what lies below its split.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sobolev_lib.synthetic_gradients import decouple
    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> net = decouple(network, ["1"], module="sobolev", example=torch.zeros(2, 4))
    >>> step = net.accumulate(torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0]))
    >>> step.loss.shape, len(step.module_losses)
    (torch.Size([5]), 1)
    """
    check_choice("module", module, MODES)
    segments = cut(network, splits)
    shapes, classes = _shapes(network, segments, example)
    made = []
    for shape in shapes if module != "backprop" else []:
        if architecture is None:
            options = (hidden, pooled, bandwidth, leak)
            made.append(sg.build(module, shape, classes, objective, *options))
        else:
            made.append(_wrap(module, architecture(shape, classes), objective))
    net = Decoupled(segments, made, module, targets)
    first = next(network.parameters(), None)
    if first is not None:
        net.sg_modules.to(device=first.device, dtype=first.dtype)
    return net


def _wrap(mode: str, network: nn.Module, objective: Objective | None) -> SGModule:
    if mode == "noprop":
        return SGModule(mode, None, objective)
    if mode == "direct":
        return SGModule(mode, network, objective)
    if not isinstance(network, nn.Sequential):
        network = nn.Sequential(network)
    return SGModule(mode, LossModel(network), objective)


def _shapes(
    network: nn.Module, segments: Sequence[nn.Module], example: Tensor
) -> tuple[list[tuple[int, ...]], int]:
    """Shapes at the splits, and number of outputs; batch statistics are left alone."""
    x = _like(network, example)
    before = {part: part.training for part in network.modules()}  # some may be frozen
    network.eval()
    try:
        with torch.no_grad():
            whole = network(x.clone())
            value, shapes = x.clone(), []  # layers in place write into what they are given
            for segment in segments:
                value = segment(value)
                shapes.append(tuple(value.shape[1:]))
            same = whole.shape == value.shape and torch.allclose(whole, value, equal_nan=True)
    except RuntimeError as error:
        raise ValueError(f"network cannot be run, child by child, on example: {error}") from error
    finally:
        for part, training in before.items():
            part.training = training
    if not same:
        raise ValueError(
            "network does not call its children one after the other, each once (its output differs "
            "from theirs): write it as nn.Sequential; it may hold a module twice"
        )
    if value.dim() != 2:
        raise ValueError(f"network's output has shape {tuple(value.shape)}; (B, classes) is needed")
    return shapes[:-1], value.shape[1]


def _like(network: nn.Module, example: Tensor) -> Tensor:
    """Values of the shape and dtype of an example, where the network is."""
    place = next((p.device for p in network.parameters()), example.device)
    if place.type == "meta":
        raise ValueError(
            "network is on the meta device, without values that could be checked: give it some "
            "first (to_empty, then load or initialise)"
        )
    if not example.is_floating_point():
        return torch.zeros(example.shape, dtype=example.dtype, device=place)
    source = torch.Generator().manual_seed(0)
    return torch.randn(example.shape, generator=source).to(place, example.dtype)
