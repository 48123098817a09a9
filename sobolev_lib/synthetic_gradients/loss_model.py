"""A model of the loss with its slope: what four of the six modes of an SG module have in common.

m(h, y) is the cross entropy of a small classifier p(h) (section 4.3); its slope dm/dh is the
synthetic gradient.  The slope is needed in a form that can be differentiated once more, by the
parameters: written out layer by layer where every option of every layer is understood, by autograd
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sobolev_lib.checks import wide


class LossModel(nn.Module):
    """m(h, y) = cross entropy of a small classifier p(h) (section 4.3), with its slope in h.

    Parameters
    ----------
    network : nn.Sequential
        Maps h (B, *shape) to logits (B, classes).
        Where :func:`understood` knows all layers as they are set, the backward pass is written out
        as forward operations, which ``torch.compile`` can trace; elsewhere autograd differentiates
        twice.
    """

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network

    @property
    def explicit(self) -> bool:
        """Whether the slope is written out, as the layers are set now."""
        return all(map(understood, self.network))

    def forward(
        self, h: Tensor, y: Tensor, differentiable: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return m (B,), dm/dh (B, *shape) and log p(h) (B, classes), from h (B, *shape), y (B,).

        Where dm/dh is only used, not trained (critic), it need not be differentiable: it is then a
        constant, and half as dear.
        """
        way = self._explicit if self.explicit else self._autograd
        return way(h, y, differentiable)

    def _autograd(
        self, h: Tensor, y: Tensor, differentiable: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            h = h.detach().requires_grad_()
            own = h.clone() if may_write(self.network) else h
            logp = self._log_softmax(self.network(own))
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


class FlattenMaps(nn.Module):
    """Maps (B, C, H, W) to vectors (B, H W C), position by position.

    ``nn.Flatten`` goes channel by channel: a copy where maps are stored with channels last, and a
    gradient in another order of memory than the maps it meets, which costs more than the
    convolution.  For a linear layer on top the order is only a name.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Flatten; no copy if channels are last in memory."""
        return x.permute(0, 2, 3, 1).flatten(1)


def understood(layer: nn.Module) -> bool:
    """Whether the backward pass of a layer, exactly as it is set, is written out here.

    Everything else is left to autograd: other types (subclasses and parametrizations among them),
    convolutions padded with other things than zeros or by name, pools to more than one place,
    activations in place, layers with hooks.
    """
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_hooks)
    if type(layer) not in _TRANSPOSED or any(hooks) or layer._backward_pre_hooks:
        return False
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return layer.output_size in (1, (1, 1))
    return not getattr(layer, "inplace", False)


def _linear_transposed(layer: nn.Linear, x: Tensor, signal: Tensor) -> Tensor:
    return functional.linear(signal, layer.weight.t())


def _conv_transposed(layer: nn.Conv2d, x: Tensor, signal: Tensor) -> Tensor:
    kernel, stride, dilation, padding = (
        layer.kernel_size, layer.stride, layer.dilation, layer.padding,
    )  # fmt: skip
    assert not isinstance(padding, str)
    # A strided convolution forgets up to stride - 1 rows: the transpose has to give them back.
    extra = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) % stride[i]
        for i in range(2)
    ]
    return functional.conv_transpose2d(
        signal, layer.weight, stride=stride, padding=padding, output_padding=extra,
        groups=layer.groups, dilation=dilation,
    )  # fmt: skip


def _relu_transposed(layer: nn.ReLU, x: Tensor, signal: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(signal, x, 0)


def _leaky_transposed(layer: nn.LeakyReLU, x: Tensor, signal: Tensor) -> Tensor:
    return torch.ops.aten.leaky_relu_backward(signal, x, layer.negative_slope, False)


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
    nn.LeakyReLU: _leaky_transposed,
    nn.Flatten: _flatten_transposed,
    FlattenMaps: _maps_transposed,
    nn.AdaptiveAvgPool2d: _pool_transposed,
}


def one_hot(y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Labels (B,) as rows of the unit matrix (B, classes)."""
    return functional.one_hot(y, classes).to(dtype)


def may_write(part: nn.Module) -> bool:
    """Whether a module may change its input in place.

    Layers of PyTorch and of this library say so by ``inplace``.  Others cannot be known, so they
    count as if they did: whoever calls them hands on a copy.
    """
    known = ("torch.nn.", "sobolev_lib.")
    return any(
        getattr(m, "inplace", False) or not type(m).__module__.startswith(known)
        for m in part.modules()
    )
