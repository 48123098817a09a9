"""SG modules: five ways to predict a gradient, and a control (Table 1; section 4.3, SM 4.2).

A synthetic gradient (SG) module sees the activations h (B, *shape) at a split and the labels y
(B,), and predicts the gradient that backpropagation would send down there, one for each example:
d L_b / d h_b, where L_b is the main network's cross entropy on example b.  Four of its modes share
one architecture, a model of the main network's loss (:mod:`.loss_model`).  Three of them are Eq. 1
for that model, and differ in the weights of value and slope only (:data:`WEIGHTS`):

==========  ====================  =============================================
mode        synthetic gradient    trained on (l: L1 or L2)
==========  ====================  =============================================
noprop      none: 0               nothing
direct      SG(h, y), a network   l(SG, dL/dh)
vfbn        dm/dh                 l(dm/dh, dL/dh)
critic      dm/dh                 l(m, L)
sobolev     dm/dh                 l(m, L) + w l(dm/dh, dL/dh)
local_ce    dm/dh                 m: the labels alone (the control, not the paper's)
==========  ====================  =============================================

The losses are written here in closed form: m and dm/dh are there already when the loss is asked
for, and :class:`sobolev_lib.SobolevLoss` would make them again.  A test says that they are equal.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib import kinks
from sobolev_lib.checks import check_choice, wide
from sobolev_lib.synthetic_gradients.loss_model import FlattenMaps, LossModel, may_write, one_hot

SG_MODES = ("noprop", "direct", "vfbn", "critic", "sobolev", "local_ce")
"""Modes of an SG module; full backpropagation is the seventh mode of :func:`decouple`."""

PREDICTING = SG_MODES[1:]
"""Modes that send a synthetic gradient down; Noprop sends nothing."""

WEIGHTS: dict[str, tuple[float, float]] = {
    "direct": (0.0, 1.0),
    "vfbn": (0.0, 1.0),
    "critic": (1.0, 0.0),
    "sobolev": (1.0, 1.0),
}
"""Weights of the two terms of Eq. 1, value and slope; Sobolev's second is multiplied by w."""

UNITS = (nn.ReLU, nn.LeakyReLU, kinks.ReLU)
"""Layers whose outputs are looked at for dead units."""

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
            check_choice(name, getattr(self, name), known)
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


class DirectGradient(nn.Module):
    """SG(h, y): a network that outputs the gradient itself (Jaderberg et al. 2016).

    The label enters as a learnt bias of each channel after the first layer.  The last layer
    starts at zero, so that an untrained module moves nothing.

    Parameters
    ----------
    layers : sequence of nn.Module
        The trainable layers (``Conv2d`` or ``Linear``), ReLU between them; the output must have
        the shape of h.
    leak : float
        Slope of the units below 0.
    """

    def __init__(
        self, layers: list[nn.Conv2d] | list[nn.Linear], classes: int, leak: float = 0.0
    ) -> None:
        super().__init__()
        self.activation = _unit(leak)
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
            value = layer(self.activation(value))
        return value


def classifier(
    shape: tuple[int, ...],
    classes: int,
    hidden: int | None = None,
    pooled: bool = False,
    leak: float = 0.0,
) -> nn.Sequential:
    """The class predictor p(h) of a module.

    Parameters
    ----------
    shape : tuple of int
        Shape of h without the batch: (features,) or (channels, height, width).
    hidden : int, optional
        Units of a hidden layer: for maps 128 (SM 4.2) or, pooled, 64 (SM 4.3), for vectors 64.
    pooled : bool
        For maps.  ``False``: 3 x 3 convolution, ReLU, linear layer on all its outputs (SM 4.2).
        ``True``: two 3 x 3 convolutions, the second with stride 2, global average, linear layer
        (SM 4.3).
    leak : float
        Slope of the units below 0; the paper has ReLU.

    Raises
    ------
    ValueError
        If the shape is neither a vector's nor a map's, or ``hidden`` below 1.
    """
    _check_hidden(hidden)
    if len(shape) == 1:
        units = hidden or 64
        return nn.Sequential(nn.Linear(shape[0], units), _unit(leak), nn.Linear(units, classes))
    _check_map(shape)
    if not pooled:
        units = hidden or 128
        return nn.Sequential(
            nn.Conv2d(shape[0], units, 3, padding=1), _unit(leak), FlattenMaps(),
            nn.Linear(units * shape[1] * shape[2], classes),
        )  # fmt: skip
    units = hidden or 64
    return nn.Sequential(
        nn.Conv2d(shape[0], units, 3, padding=1), _unit(leak),
        nn.Conv2d(units, units, 3, stride=2, padding=1), _unit(leak),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(units, classes),
    )  # fmt: skip


def direct(
    shape: tuple[int, ...], classes: int, hidden: int | None = None, leak: float = 0.0
) -> DirectGradient:
    """Three layers to the gradient itself: 3 x 3 convolutions for maps (SM 4.2), linear else.

    The arguments are those of :func:`classifier`; ``hidden`` is 128 (SM 4.2) unless given, for
    vectors 64.  The last of the three layers has as many channels as h, which the paper's "3 layers
    of 128 kernels" leaves out.
    """
    _check_hidden(hidden)
    if len(shape) != 1:
        _check_map(shape)
    units = hidden or (64 if len(shape) == 1 else 128)
    sizes = itertools.pairwise((shape[0], units, units, shape[0]))
    if len(shape) == 1:
        return DirectGradient([nn.Linear(a, b) for a, b in sizes], classes, leak)
    return DirectGradient([nn.Conv2d(a, b, 3, padding=1) for a, b in sizes], classes, leak)


def _unit(leak: float) -> nn.Module:
    return nn.LeakyReLU(leak) if leak else nn.ReLU()


def _check_hidden(hidden: int | None) -> None:
    if hidden is not None and hidden < 1:
        raise ValueError(f"hidden is {hidden}; it must be at least 1, or None for the default")


def _check_map(shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise ValueError(
            f"activations at the split have shape {shape}; modules are known for (features,) and "
            "(channels, height, width): pass `architecture`"
        )


class SGModule(nn.Module):
    """One synthetic gradient module: its mode, its network, its objective.

    Parameters
    ----------
    mode : str
        One of :data:`SG_MODES`.
    network : nn.Module or None
        A :class:`LossModel`, a :class:`DirectGradient`, or ``None`` for "noprop".
    """

    def __init__(
        self, mode: str, network: nn.Module | None, objective: Objective | None = None
    ) -> None:
        super().__init__()
        check_choice("mode", mode, SG_MODES)
        if (network is None) != (mode == "noprop"):
            raise ValueError(f"a module of mode {mode!r} needs {'no' if network else 'a'} network")
        self.mode, self.network, self.objective = mode, network, objective or Objective()

    @property
    def weights(self) -> tuple[float, float]:
        """Weights of value and slope in Eq. 1; (0, 0) for modes that the main network leaves alone.

        With ``reduction="sum"`` the loss is that of ``SobolevLoss(weights=weights, loss=element)``
        for the model h -> m(h, y).
        """
        value, slope = WEIGHTS.get(self.mode, (0.0, 0.0))
        return value, slope * (self.objective.gradient_weight if self.mode == "sobolev" else 1.0)

    @property
    def needs_gradient(self) -> bool:
        """Whether it is trained on the true gradient; a weight of 0 skips its cost."""
        return self.weights[1] > 0

    def forward(self, h: Tensor, y: Tensor) -> Prediction:
        """Predict from activations h (B, *shape), taken as constants, and labels y (B,)."""
        h = h.detach()
        if self.network is None:
            return Prediction(None)
        if self.mode == "direct":
            return Prediction(self.network(h.clone() if may_write(self.network) else h, y))
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
            log p_h (B, classes) of the main network, for the label derivative of SM 4.1, with y as
            free as any other vector.

        Raises
        ------
        ValueError
            If a target is missing that the mode is trained on.
        """
        if self.mode == "noprop":
            return None
        if self.mode == "local_ce":
            assert said.loss is not None
            return said.loss.mean()
        distance, (value, slope) = self.objective.distance, self.weights
        total = wide(true_loss).new_zeros(())
        if slope:
            if true_gradient is None:
                raise ValueError(f"true_gradient is needed by a module of mode {self.mode!r}")
            assert said.gradient is not None
            total = total + slope * distance(said.gradient, true_gradient.detach())
        if value:
            assert said.loss is not None
            total = total + value * distance(said.loss, true_loss.detach())
        if value and self.objective.label_weight:
            if true_log_probabilities is None or said.log_probabilities is None:
                raise ValueError("true_log_probabilities are needed for label_weight > 0")
            # As L = -<y, log p>, dL/dy = -log p: matching the label derivative is matching all
            # log-probabilities, of which the loss term sees only that of the true class.
            label = distance(-said.log_probabilities, -true_log_probabilities.detach())
            total = total + self.objective.label_weight * label
        return total

    @torch.no_grad()
    def dead_units(self, h: Tensor, y: Tensor) -> float:
        """Share of the module's hidden units (channels, for maps) that are 0 on a whole batch.

        Measured in ``eval()``, so that running statistics stay as they are; 0 without such units.
        """
        alive: list[Tensor] = []

        def look(_layer: nn.Module, _given: tuple[Tensor, ...], out: Tensor) -> None:
            alive.append((out != 0).transpose(0, 1).flatten(1).any(dim=1))

        before = {part: part.training for part in self.modules()}  # some may be frozen
        hooks = [m.register_forward_hook(look) for m in self.modules() if isinstance(m, UNITS)]
        try:
            self.eval()
            if isinstance(self.network, LossModel):
                self.network.network(h.clone())
            elif self.network is not None:
                self.network.forward(h.clone(), y)
        finally:
            for hook in hooks:
                hook.remove()
            for part, training in before.items():
                part.training = training
        return 1 - float(torch.cat(alive).double().mean()) if alive else 0.0


def build(
    mode: str,
    shape: tuple[int, ...],
    classes: int,
    objective: Objective | None = None,
    hidden: int | None = None,
    pooled: bool = False,
    bandwidth: float | None = None,
    leak: float = 0.0,
) -> SGModule:
    """Make a module for activations of a shape, with the architectures of SM 4.2 and 4.3.

    Parameters
    ----------
    mode, objective, shape, classes, hidden, pooled, leak
        See :class:`SGModule`, :func:`classifier` and :func:`direct`.
    bandwidth : float, optional
        Put :class:`sobolev_lib.kinks.ReLU` of this width, in units of the spread of the
        pre-activations, in place of the ReLU of p(h): the gradient term then sees its kinks.

    Raises
    ------
    ValueError
        Unknown mode, a shape without a default architecture, or a kernel for leaky units.
    """
    if bandwidth is not None and leak:
        raise ValueError(f"bandwidth is {bandwidth} and leak {leak}: the kernel is one of ReLU")
    if mode == "noprop":
        return SGModule(mode, None, objective)
    if mode == "direct":
        return SGModule(mode, direct(shape, classes, hidden, leak), objective)
    network = classifier(shape, classes, hidden, pooled, leak)
    if bandwidth is not None:
        kinks.replace(network, bandwidth, scaled=True)
    return SGModule(mode, LossModel(network), objective)
