"""Five ways to predict a gradient, and a control: the modules of Table 1 (section 4.3, SM 4.2).

A module sees the activations h (B, *shape) at a split and the labels y (B,), and predicts the
gradient that backpropagation would send down there, one for each example: d L_b / d h_b, where L_b
is the main network's cross entropy on example b.  :func:`prediction` is what it says,
:func:`module_loss` what it is trained on.  Four of the kinds share one architecture: a small
classifier p(h), whose own cross entropy m(h, y) = L(p(h), y) is a model of the main network's loss
and whose slope dm/dh is the synthetic gradient.

==========  ====================  =============================================
kind        synthetic gradient    trained on (l: L1 or L2)
==========  ====================  =============================================
noprop      none: 0               nothing
direct      SG(h, y), a network   l(SG, dL/dh)
vfbn        dm/dh                 l(dm/dh, dL/dh)
critic      dm/dh                 l(m, L)
sobolev     dm/dh                 l(m, L) + w l(dm/dh, dL/dh)
local_ce    dm/dh                 m: the labels alone (the control, not the paper's)
==========  ====================  =============================================
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib import kinks

KINDS = ("noprop", "direct", "vfbn", "critic", "sobolev", "local_ce")
"""Kinds of module; full backpropagation is the seventh mode of :func:`decouple`."""

PREDICTING = KINDS[1:]
"""Kinds that send a synthetic gradient down; Noprop sends nothing."""

USES_GRADIENT = frozenset({"direct", "vfbn", "sobolev"})
"""Kinds that are trained on the true gradient."""

USES_LOSS = frozenset({"critic", "sobolev"})
"""Kinds that are trained on the true loss."""

ELEMENTS = ("l1", "l2")
REDUCTIONS = ("sum", "mean")


@dataclass(frozen=True)
class Objective:
    """What the paper leaves open about the losses of a module.

    Parameters
    ----------
    element : {"l1", "l2"}
        Distance of each element: its absolute value (SM 4.2, the default) or its square.
    reduction : {"sum", "mean"}
        Over the elements of h; always the mean over the batch.  The paper does not say.  A mean
        over 65,536 elements leaves next to nothing of the gradient term beside the loss term.
    gradient_weight : float
        w, weight of the gradient term (the paper: 1).
    label_weight : float
        Weight of the label derivative of SM 4.1, 0 in the paper's large runs: the distance of
        log p(h) from the log-probabilities of the main network, summed over classes.
    """

    element: str = "l1"
    reduction: str = "sum"
    gradient_weight: float = 1.0
    label_weight: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("element", ELEMENTS), ("reduction", REDUCTIONS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}"
                )
        for name in ("gradient_weight", "label_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be finite and >= 0")

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of two (B, ...) tensors: over elements as ``reduction`` says, batch mean."""
        if a.shape != b.shape:
            raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
        # torch's own losses: one pass over memory each way, and maps are large
        loss = functional.l1_loss if self.element == "l1" else functional.mse_loss
        if self.reduction == "mean" or a.dim() == 1:
            return loss(wide(a), wide(b))
        return loss(wide(a), wide(b), reduction="sum") / len(a)


@dataclass(frozen=True)
class Prediction:
    """What a module says of a batch; differentiable in its parameters.

    Parameters
    ----------
    gradient : Tensor or None
        Synthetic gradient (B, *shape) of each example's loss; ``None``: no signal.
    loss : Tensor or None
        m(h, y), (B,); ``None`` for kinds without a model of the loss.
    log_probabilities : Tensor or None
        log p(h), (B, classes).
    """

    gradient: Tensor | None
    loss: Tensor | None = None
    log_probabilities: Tensor | None = None


def wide(x: Tensor) -> Tensor:
    """In float32 at least: sums over many elements, logarithms."""
    return x if x.dtype == torch.float64 else x.float()


def one_hot(y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Labels (B,) as rows of the unit matrix (B, classes)."""
    return functional.one_hot(y, classes).to(dtype)


class FlattenMaps(nn.Module):
    """Maps (B, C, H, W) to vectors (B, H W C), position by position.

    ``nn.Flatten`` goes channel by channel: a copy where maps are stored with channels last, and a
    gradient in another order of memory than the maps it meets, which costs more than the
    convolution.  For a linear layer on top the order is only a name.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Flatten; no copy if channels are last in memory."""
        return x.permute(0, 2, 3, 1).flatten(1)


class LossModel(nn.Module):
    """m(h, y) = cross entropy of a small classifier p(h) (section 4.3), with its slope in h.

    Parameters
    ----------
    network : nn.Sequential
        Maps h (B, *shape) to logits (B, classes).
    differentiation : {"auto", "explicit", "autograd"}
        How dm/dh is made so that it can be differentiated once more, by the parameters.
        "explicit" writes the backward pass out as forward operations (only for ``Linear``,
        ``Conv2d``, ``ReLU``, ``Flatten`` and global average pooling), which ``torch.compile`` can
        trace; "autograd" differentiates twice, and serves every network; "auto": the first where
        it can.
    """

    def __init__(self, network: nn.Sequential, differentiation: str = "auto") -> None:
        super().__init__()
        if differentiation not in ("auto", "explicit", "autograd"):
            raise ValueError(
                f"differentiation is {differentiation!r}; it must be 'auto', 'explicit' or "
                "'autograd'"
            )
        known = all(type(layer) in _TRANSPOSED for layer in network)
        if differentiation == "explicit" and not known:
            names = sorted({type(m).__name__ for m in network if type(m) not in _TRANSPOSED})
            raise ValueError(f"no explicit backward pass for {', '.join(names)}; use 'autograd'")
        self.network = network
        self.explicit = known and differentiation != "autograd"

    def forward(
        self, h: Tensor, y: Tensor, differentiable: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return m (B,), dm/dh (B, *shape) and log p(h) (B, classes).

        Parameters
        ----------
        h, y : Tensor
            Activations (B, *shape) and labels (B,).
        differentiable : bool
            ``False`` where dm/dh is only used, not trained (critic): it is then a constant, and
            half as dear.
        """
        way = self._explicit if self.explicit else self._autograd
        return way(h, y, differentiable)

    def _autograd(
        self, h: Tensor, y: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            h = h.detach().requires_grad_()
            logp = self._log_softmax(self.network(h))
            m = -logp.gather(1, y[:, None]).squeeze(1)
            (slope,) = torch.autograd.grad(
                m.sum(), h, create_graph=differentiable, retain_graph=True
            )
        return m, slope, logp

    def _explicit(
        self, h: Tensor, y: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs = []
        value = h
        for layer in self.network:
            inputs.append(value)
            value = layer(value)
        logp = self._log_softmax(value)
        with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
            # d CE / d logits = softmax - onehot; then down through each layer's transpose.
            signal = (logp.exp() - one_hot(y, logp.shape[1], logp.dtype)).to(value.dtype)
            for layer, x in zip(reversed(self.network), reversed(inputs), strict=True):
                signal = _TRANSPOSED[type(layer)](layer, x, signal)
        return -logp.gather(1, y[:, None]).squeeze(1), signal, logp

    @staticmethod
    def _log_softmax(logits: Tensor) -> Tensor:
        return functional.log_softmax(wide(logits), dim=1)


def _linear_transposed(layer: nn.Linear, x: Tensor, signal: Tensor) -> Tensor:
    return functional.linear(signal, layer.weight.t())


def _conv_transposed(layer: nn.Conv2d, x: Tensor, signal: Tensor) -> Tensor:
    kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
    assert not isinstance(padding, str)
    # A strided convolution forgets up to stride - 1 rows: the transpose has to give them back.
    extra = [
        (x.shape[2 + i] + 2 * padding[i] - kernel[i]) % stride[i] for i in range(2)
    ]  # fmt: skip
    return functional.conv_transpose2d(
        signal, layer.weight, stride=stride, padding=padding, output_padding=extra
    )


def _relu_transposed(layer: nn.ReLU, x: Tensor, signal: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(signal, x, 0)


def _flatten_transposed(layer: nn.Flatten, x: Tensor, signal: Tensor) -> Tensor:
    return signal.reshape(x.shape)


def _maps_transposed(layer: FlattenMaps, x: Tensor, signal: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    return signal.reshape(count, height, width, channels).permute(0, 3, 1, 2)


def _pool_transposed(layer: nn.AdaptiveAvgPool2d, x: Tensor, signal: Tensor) -> Tensor:
    height, width = x.shape[2:]
    return signal.expand(-1, -1, height, width) / (height * width)


_TRANSPOSED: dict[type, Callable[..., Tensor]] = {
    nn.Linear: _linear_transposed,
    nn.Conv2d: _conv_transposed,
    nn.ReLU: _relu_transposed,
    nn.Flatten: _flatten_transposed,
    FlattenMaps: _maps_transposed,
    nn.AdaptiveAvgPool2d: _pool_transposed,
}


class DirectGradient(nn.Module):
    """SG(h, y): a network that outputs the gradient itself (Jaderberg et al. 2016).

    The label enters as a learnt bias of each channel after the first layer.  The last layer
    starts at zero, so that an untrained module moves nothing.

    Parameters
    ----------
    layers : sequence of nn.Module
        The trainable layers (``Conv2d`` or ``Linear``), ReLU between them; the output must have
        the shape of h.
    classes : int
        Number of classes.
    """

    def __init__(self, layers: list[nn.Conv2d] | list[nn.Linear], classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.label = nn.Linear(classes, layers[0].weight.shape[0], bias=False)
        self.classes = classes
        last = layers[-1]
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        """Predicted gradient of each example's loss, shape of h."""
        value = self.layers[0](h)
        bias = self.label(one_hot(y, self.classes, h.dtype)).to(value.dtype)
        value = value + bias.reshape(*bias.shape, *([1] * (value.dim() - 2)))
        for layer in list(self.layers)[1:]:
            value = layer(torch.relu(value))
        return value


def classifier(
    shape: tuple[int, ...], classes: int, hidden: int | None = None, pooled: bool = False
) -> nn.Sequential:
    """The class predictor p(h) of a module.

    Parameters
    ----------
    shape : tuple of int
        Shape of h without the batch: (features,) or (channels, height, width).
    classes : int
        Number of classes.
    hidden : int, optional
        Units of a hidden layer: for maps 128 (SM 4.2) or, pooled, 64 (SM 4.3), for vectors 64.
    pooled : bool
        For maps.  ``False``: 3 x 3 convolution, ReLU, linear layer on all its outputs (SM 4.2).
        ``True``: two 3 x 3 convolutions, the second with stride 2, global average, linear layer
        (SM 4.3).

    Raises
    ------
    ValueError
        If the shape is neither a vector's nor a map's, or ``hidden`` below 1.
    """
    _check_hidden(hidden)
    if len(shape) == 1:
        units = hidden or 64
        return nn.Sequential(nn.Linear(shape[0], units), nn.ReLU(), nn.Linear(units, classes))
    _check_map(shape)
    if not pooled:
        units = hidden or 128
        return nn.Sequential(
            nn.Conv2d(shape[0], units, 3, padding=1), nn.ReLU(), FlattenMaps(),
            nn.Linear(units * shape[1] * shape[2], classes),
        )  # fmt: skip
    units = hidden or 64
    return nn.Sequential(
        nn.Conv2d(shape[0], units, 3, padding=1), nn.ReLU(),
        nn.Conv2d(units, units, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(units, classes),
    )  # fmt: skip


def direct(shape: tuple[int, ...], classes: int, hidden: int | None = None) -> DirectGradient:
    """Three layers to the gradient itself: 3 x 3 convolutions for maps (SM 4.2), linear else.

    Parameters
    ----------
    shape, classes
        As for :func:`classifier`.
    hidden : int, optional
        Units of the two hidden layers: 128 (SM 4.2), for vectors 64.  The last of the three has
        as many channels as h, which the paper's "3 layers of 128 kernels" leaves out.
    """
    _check_hidden(hidden)
    if len(shape) == 1:
        units = hidden or 64
        sizes = (shape[0], units, units, shape[0])
        return DirectGradient([nn.Linear(a, b) for a, b in itertools.pairwise(sizes)], classes)
    _check_map(shape)
    units = hidden or 128
    sizes = (shape[0], units, units, shape[0])
    return DirectGradient(
        [nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(sizes)], classes
    )


def _check_hidden(hidden: int | None) -> None:
    if hidden is not None and hidden < 1:
        raise ValueError(f"hidden is {hidden}; it must be at least 1, or None for the default")


def _check_map(shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise ValueError(
            f"activations at the split have shape {shape}; modules are known for (features,) and "
            "(channels, height, width): pass `architecture`"
        )


class Module(nn.Module):
    """One synthetic gradient module: its kind, its network, its objective.

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`.
    network : nn.Module or None
        A :class:`LossModel`, a :class:`DirectGradient`, or ``None`` for "noprop".
    objective : Objective, optional
        The losses.
    """

    def __init__(
        self, kind: str, network: nn.Module | None, objective: Objective | None = None
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
        if (network is None) != (kind == "noprop"):
            raise ValueError(f"a module of kind {kind!r} needs {'no' if network else 'a'} network")
        self.kind, self.network, self.objective = kind, network, objective or Objective()

    @property
    def needs_gradient(self) -> bool:
        """Whether it is trained on the true gradient; a weight of 0 skips its cost."""
        weighted = self.kind != "sobolev" or self.objective.gradient_weight > 0
        return self.kind in USES_GRADIENT and weighted

    def forward(self, h: Tensor, y: Tensor) -> Prediction:
        """Predict from activations h (B, *shape), taken as constants, and labels y (B,)."""
        h = h.detach()
        if self.network is None:
            return Prediction(None)
        if self.kind == "direct":
            return Prediction(self.network(h, y))
        m, slope, logp = self.network(h, y, self.needs_gradient)
        return Prediction(slope, m, logp)

    def loss(
        self,
        said: Prediction,
        true_loss: Tensor,
        true_gradient: Tensor | None,
        true_log_probabilities: Tensor | None = None,
    ) -> Tensor | None:
        """Loss of the module's own parameters on a batch (section 4.3); ``None`` for "noprop".

        Parameters
        ----------
        said : Prediction
            Its prediction.
        true_loss : Tensor
            L (B,) of the main network.
        true_gradient : Tensor or None
            dL/dh (B, *shape); needed where :attr:`needs_gradient`.
        true_log_probabilities : Tensor, optional
            log p_h (B, classes) of the main network, for the label derivative of SM 4.1.

        Raises
        ------
        ValueError
            If a target is missing that the kind is trained on.
        """
        if self.kind == "noprop":
            return None
        if self.kind == "local_ce":
            assert said.loss is not None
            return said.loss.mean()
        total = wide(true_loss).new_zeros(())
        if self.needs_gradient:
            if true_gradient is None:
                raise ValueError(f"true_gradient is needed by a module of kind {self.kind!r}")
            assert said.gradient is not None
            distance = self.objective.distance(said.gradient, true_gradient.detach())
            weight = self.objective.gradient_weight if self.kind == "sobolev" else 1.0
            total = total + weight * distance
        if self.kind in USES_LOSS:
            assert said.loss is not None
            total = total + self.objective.distance(said.loss, true_loss.detach())
            if self.objective.label_weight:
                total = total + self.objective.label_weight * self._label_term(
                    said, true_log_probabilities
                )
        return total

    def _label_term(self, said: Prediction, true: Tensor | None) -> Tensor:
        if true is None or said.log_probabilities is None:
            raise ValueError("true_log_probabilities are needed for label_weight > 0")
        return label_derivative_distance(said.log_probabilities, true.detach(), self.objective)


def label_derivative_distance(logp: Tensor, true_logp: Tensor, objective: Objective) -> Tensor:
    """Distance of dm/dy from dL/dy (SM 4.1), with y as free as any other vector.

    As L = -<y, log p>, dL/dy = -log p: matching the label derivative is matching all
    log-probabilities, of which the loss term sees only that of the true class.

    Parameters
    ----------
    logp, true_logp : Tensor
        (B, classes), of the module and of the main network.
    objective : Objective
        Element distance and reduction.
    """
    return objective.distance(-logp, -true_logp)


def build(
    kind: str,
    shape: tuple[int, ...],
    classes: int,
    objective: Objective | None = None,
    hidden: int | None = None,
    pooled: bool = False,
    bandwidth: float | None = None,
    differentiation: str = "auto",
) -> Module:
    """Make a module for activations of a shape, with the architectures of SM 4.2 and 4.3.

    Parameters
    ----------
    kind, objective
        See :class:`Module`.
    shape, classes, hidden, pooled
        See :func:`classifier` and :func:`direct`.
    bandwidth : float, optional
        Put :class:`sobolev_lib.kinks.ReLU` of this width, in units of the spread of the
        pre-activations, in place of the ReLU of p(h): the gradient term then sees its kinks.
    differentiation : str
        See :class:`LossModel`.

    Raises
    ------
    ValueError
        Unknown kind, or a shape without a default architecture.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if kind == "noprop":
        return Module(kind, None, objective)
    if kind == "direct":
        return Module(kind, direct(shape, classes, hidden), objective)
    network = classifier(shape, classes, hidden, pooled)
    if bandwidth is not None:
        kinks.replace(network, bandwidth, scaled=True)
    return Module(kind, LossModel(network, differentiation), objective)
