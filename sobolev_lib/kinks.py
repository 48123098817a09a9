"""ReLU whose derivative has a derivative: a kernel in place of the delta that sampling misses.

The input gradient of a ReLU network jumps at its kinks, the surfaces where a pre-activation is
zero. A loss on input gradients therefore changes when a kink moves, and automatic differentiation
on samples does not see it: the derivative of a step is taken to be zero. The modules here keep
the value and the first derivative of ``torch.nn.ReLU`` bit for bit and give the step a derivative
of its own, a kernel of width h around zero. What that estimates, with bias and variance, is the
subject of the chapter *What the derivative term cannot see*.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from .checks import check_choice, readable

__all__ = ["KERNELS", "LeakyReLU", "ReLU", "kernel", "relu", "replace"]


def _logistic(u: Tensor) -> Tensor:
    s = u.abs().neg_().sigmoid_()  # of -|u|: exactly symmetric, no digits lost in the tails
    return torch.addcmul(s, s, s, value=-1)


def _gaussian(u: Tensor) -> Tensor:
    return torch.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)


def _triangular(u: Tensor) -> Tensor:
    return (1 - u.abs()).clamp_min(0)


def _box(u: Tensor) -> Tensor:
    return 0.5 * (u.abs() <= 1).to(u.dtype)


def _extrapolated(u: Tensor) -> Tensor:
    return 2 * _logistic(u) - 0.5 * _logistic(0.5 * u)


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": _logistic,
    "gaussian": _gaussian,
    "triangular": _triangular,
    "box": _box,
    "extrapolated": _extrapolated,
}


def kernel(z: Tensor, bandwidth: float | Tensor, name: str = "logistic") -> Tensor:
    """Kernel k_h(z) = k(z / h) / h: symmetric, of unit integral, concentrated at 0 as h falls.

    Parameters
    ----------
    z : Tensor
        Pre-activations, any shape, floating point.
    bandwidth : float or Tensor
        Width h > 0 in the units of z; a tensor must broadcast against z.
    name : str
        "logistic" s(1 - s) with s the sigmoid (default), "gaussian", "triangular" and "box" (both
        zero for ``|z| > h``), or "extrapolated": 2 k_h - k_2h of the logistic kernel, whose first
        absolute moment is zero (it is the only one with negative values).

    Returns
    -------
    Tensor
        k_h(z), shape and dtype of z, in units of 1 / z.

    Raises
    ------
    ValueError
        Unknown name, or a bandwidth that is not positive and finite (on a GPU it is not looked at).
    TypeError
        A bandwidth that is neither a number nor a tensor.
    """
    check_choice("name", name, KERNELS)
    _check_bandwidth(bandwidth)
    return _kernel(z, bandwidth, name)


def _kernel(z: Tensor, bandwidth: float | Tensor, name: str) -> Tensor:
    return KERNELS[name](z / bandwidth) / bandwidth


def logistic_(z: Tensor, bandwidth: float | Tensor, height: float = 1.0) -> Tensor:
    """`height` times the logistic `kernel`, written over `z`; the arguments unchecked."""
    s = z.abs_().div_(-bandwidth).sigmoid_()
    return torch.addcmul(s, s, s, value=-1, out=s).mul_(height / bandwidth)


def _check_bandwidth(bandwidth: float | Tensor) -> None:
    if isinstance(bandwidth, Tensor):
        looked_at = readable(bandwidth) and bandwidth.device.type == "cpu"  # a GPU would wait
        if looked_at and not bool(((bandwidth > 0) & bandwidth.isfinite()).all()):
            raise ValueError(f"bandwidth must be positive and finite, got {bandwidth}")
        return
    if isinstance(bandwidth, bool) or not isinstance(bandwidth, numbers.Real):
        raise TypeError(f"bandwidth must be a number, got {type(bandwidth).__name__}")
    if not 0 < bandwidth < math.inf:
        raise ValueError(f"bandwidth must be positive and finite, got {bandwidth!r}")


def relu(z: Tensor, bandwidth: float | Tensor = 0.1, kernel: str = "logistic") -> Tensor:
    """ReLU of z with a kernel for the derivative of its step; the function behind `ReLU`.

    Parameters
    ----------
    z : Tensor
        Any shape, floating point.
    bandwidth : float or Tensor
        Width of the kernel in units of z; a tensor must have no dimensions.
    kernel : str
        A name of `KERNELS`.

    Returns
    -------
    Tensor
        ``torch.relu(z)``, bit for bit, and so is its first derivative.
    """
    if not isinstance(z, Tensor):
        raise TypeError(f"z must be a tensor, got {type(z).__name__}")
    check_choice("kernel", kernel, KERNELS)
    if isinstance(bandwidth, Tensor) and bandwidth.ndim:
        shape = tuple(bandwidth.shape)
        raise ValueError(f"bandwidth must have no dimensions, got shape {shape}")
    _check_bandwidth(bandwidth)
    return _apply(z, bandwidth, None, kernel)


def _check_slope(slope: float) -> None:
    if isinstance(slope, bool) or not isinstance(slope, numbers.Real) or not math.isfinite(slope):
        raise ValueError(f"negative_slope must be a finite number, got {slope!r}")


@torch.no_grad()
def spread_step(
    spread: Tensor, batches: Tensor, z: Tensor, momentum: float, dim: tuple[int, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """Return what a batch z adds to a running standard deviation and to its number of batches.

    The estimate is 1 before the first batch, and covers the axes `dim` of z, all by default; the
    newest batch has the weight `momentum`. One that is empty, constant or not finite says nothing.
    """
    if z.numel() == 0:
        return torch.zeros_like(spread), torch.zeros_like(batches)
    exact = z.to(torch.promote_types(z.dtype, spread.dtype))
    std = exact.std(dim, correction=0, keepdim=dim is not None).to(spread.dtype)
    usable = std.isfinite() & (std > 0)
    step = torch.where(batches == 0, 1.0, momentum)
    return torch.where(usable, step * (std - spread), 0.0), usable


class _Kinked(nn.Module):
    """What `ReLU` and `LeakyReLU` share: the width of the kernel, fixed or scaled."""

    bandwidth: float
    kernel: str
    scaled: bool
    inplace: bool
    momentum: float
    spread: Tensor
    batches: Tensor

    def _set_up(self, bandwidth: float, kernel: str, scaled: bool, momentum: float) -> None:
        _check_bandwidth(bandwidth)
        check_choice("kernel", kernel, KERNELS)
        if isinstance(momentum, bool) or not isinstance(momentum, numbers.Real):
            raise TypeError(f"momentum must be a number, got {type(momentum).__name__}")
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must lie in (0, 1], got {momentum!r}")
        self.bandwidth, self.kernel = float(bandwidth), kernel
        self.scaled, self.momentum = bool(scaled), float(momentum)
        if scaled:
            self.register_buffer("spread", torch.ones(()))
            self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def _forward(self, z: Tensor, slope: float | None, inplace: bool) -> Tensor:
        h = self._scaled_width(z) if self.scaled else self.bandwidth
        if not inplace:
            return _apply(z, h, slope, self.kernel)
        # the kernel needs the negative side too, so z itself is kept and overwritten afterwards
        return z.copy_(_apply(z.clone(), h, slope, self.kernel))

    def _scaled_width(self, z: Tensor) -> Tensor:
        # measuring, under no_grad, moves nothing: no kernel is asked for there
        if self.training and torch.is_grad_enabled() and z.is_floating_point():
            try:
                change, usable = spread_step(self.spread, self.batches, z, self.momentum)
                # "+=", not add_: torch.compile loses in-place calls on float64 buffers of no axes
                self.spread += change
                self.batches += usable
            except RuntimeError as error:
                raise RuntimeError(
                    f"{type(self).__name__}(scaled=True) could not update its running spread "
                    "(torch.func transforms cannot write to a module's buffers): call "
                    "model.eval() first, or pass the buffers through torch.func.functional_call"
                ) from error
        return self.bandwidth * self.spread  # a new tensor: later updates must not reach this graph

    def _describe(self) -> str:
        text = f"bandwidth={self.bandwidth:g}, kernel={self.kernel!r}"
        text += f", scaled=True, momentum={self.momentum:g}" if self.scaled else ""
        return text + (", inplace=True" if self.inplace else "")


class ReLU(_Kinked, nn.ReLU):
    """``torch.nn.ReLU`` whose derivative has a derivative: a kernel of the given width at the kink.

    The values, the input gradients, and the parameter gradients of any loss on values, are those
    of ``torch.nn.ReLU`` bit for bit. A loss on input gradients gets one more term, the kernel
    estimate of the integral over the kinks that sampling misses (chapter *What the derivative term
    cannot see*). A step costs what one with a smooth activation costs. Where torch differentiates
    twice with respect to the input, it finds the kernel as the second derivative; a third
    derivative raises ``NotImplementedError``.

    Parameters
    ----------
    bandwidth : float
        Width h of the kernel, in units of the pre-activations, or of their spread if ``scaled``.
    kernel : str
        "logistic" (default), "gaussian", "triangular", "box" or "extrapolated"; see `kernel`.
    scaled : bool
        Multiply the bandwidth by a running estimate of the standard deviation of all
        pre-activations the module sees. It is updated in train mode, frozen in eval mode and under
        `torch.no_grad`, and saved with the weights, in the buffers ``spread`` and ``batches``.
        Before the first update it is 1.
    momentum : float
        Weight of the newest batch in the running estimate, in (0, 1].
    inplace : bool
        Overwrite the input as ``nn.ReLU(inplace=True)`` does. A copy is kept: no memory is saved.

    Raises
    ------
    TypeError, ValueError
        A bandwidth or momentum outside its range, or an unknown kernel.

    Notes
    -----
    torch.func (grad, vmap, jacrev, jacfwd) and forward mode work. Under ``torch.compile`` a whole
    loss written with ``torch.func`` works and has the kernel; a model that was compiled by itself
    has the values and first derivatives, and its double backward is refused by torch, as for any
    compiled model. In compiled code a third derivative is not refused: there the kernel counts as
    a constant.
    """

    def __init__(
        self,
        bandwidth: float = 0.1,
        kernel: str = "logistic",
        scaled: bool = False,
        momentum: float = 0.1,
        inplace: bool = False,
    ) -> None:
        nn.ReLU.__init__(self, inplace)
        self._set_up(bandwidth, kernel, scaled, momentum)

    def forward(self, input: Tensor) -> Tensor:
        """``torch.relu(input)``; shape and dtype of the input."""
        return self._forward(input, None, self.inplace)

    def extra_repr(self) -> str:
        """Settings for ``print(module)``."""
        return self._describe()


class LeakyReLU(_Kinked, nn.LeakyReLU):
    """``torch.nn.LeakyReLU`` whose derivative has a derivative; see `ReLU`.

    Parameters
    ----------
    negative_slope : float
        Slope for negative input. The derivative jumps by ``1 - negative_slope`` at the kink.
    bandwidth, kernel, scaled, momentum, inplace
        As for `ReLU`.
    """

    def __init__(
        self,
        negative_slope: float = 0.01,
        bandwidth: float = 0.1,
        kernel: str = "logistic",
        scaled: bool = False,
        momentum: float = 0.1,
        inplace: bool = False,
    ) -> None:
        _check_slope(negative_slope)
        nn.LeakyReLU.__init__(self, float(negative_slope), inplace)
        self._set_up(bandwidth, kernel, scaled, momentum)

    def forward(self, input: Tensor) -> Tensor:
        """``leaky_relu(input, negative_slope)``; shape and dtype of the input."""
        return self._forward(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        """Settings for ``print(module)``."""
        return f"negative_slope={self.negative_slope:g}, {self._describe()}"


_REPLACED = (nn.ReLU, nn.LeakyReLU, ReLU, LeakyReLU)


def replace(
    model: nn.Module,
    bandwidth: float = 0.1,
    kernel: str = "logistic",
    scaled: bool = False,
    momentum: float = 0.1,
) -> nn.Module:
    """Swap every ``nn.ReLU`` and ``nn.LeakyReLU`` of a model for the one of this module, in place.

    Parameters and buffers stay the same objects, so an optimiser made before keeps working; train
    mode, ``inplace``, negative slopes and hooks carry over. A module used in several places is
    replaced by one module in the same places. Modules of `kinks` are replaced too, so that a
    second call changes the bandwidth; it sets all options anew, and a running spread begins again
    from its first batch. Functional calls (``F.relu``) and other piecewise linear
    modules (``PReLU``, ``ReLU6``, max pooling) are not touched.

    Parameters
    ----------
    model : nn.Module
        Changed in place. If it is itself a ReLU, only the returned module is new.
    bandwidth, kernel, scaled, momentum
        As for `ReLU`.

    Returns
    -------
    nn.Module
        The same model.

    Raises
    ------
    TypeError
        ``model`` is not a module.
    ValueError
        The model holds no ReLU or LeakyReLU module, or an argument is out of range.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    options = {"bandwidth": bandwidth, "kernel": kernel, "scaled": scaled, "momentum": momentum}
    tensor = next(model.parameters(), None)
    found = {m: _twin(m, tensor, options) for m in model.modules() if type(m) in _REPLACED}
    if not found:
        raise ValueError(
            f"model ({type(model).__name__}) holds no nn.ReLU or nn.LeakyReLU module to replace; "
            "if its forward calls torch.relu, use kinks.relu there"
        )
    for module in list(model.modules()):
        for name, child in module._modules.items():  # not named_children: that skips repeats
            if child in found:
                module._modules[name] = found[child]
    return found.get(model, model)


def _twin(old: nn.Module, like: Tensor | None, options: dict[str, Any]) -> nn.Module:
    new: nn.Module
    if isinstance(old, nn.LeakyReLU):
        new = LeakyReLU(old.negative_slope, inplace=old.inplace, **options)
    else:
        new = ReLU(inplace=bool(old.inplace), **options)
    if like is not None and like.is_floating_point():
        new.to(device=like.device, dtype=like.dtype)
    for name, value in vars(old).items():
        if "hook" in name:
            new.__dict__[name] = value
    return new.train(old.training)


# The activation, its derivative (a step) and the derivative of the step: each one's backward is the
# next, so autograd, torch.func and forward mode all find the kernel. The step is PyTorch's own
# backward operator, so that first derivatives cannot differ from those of nn.ReLU.
# `slope` is None for ReLU: leaky_relu of slope 0 differs from it at infinity.


def _gated(g: Tensor, z: Tensor, slope: float | None) -> Tensor:
    if slope is None:
        return torch.ops.aten.threshold_backward(g, z, 0)
    return torch.ops.aten.leaky_relu_backward(g, z, slope, False)


def _activated(z: Tensor, slope: float | None) -> Tensor:
    return torch.relu(z) if slope is None else nn.functional.leaky_relu(z, slope)


def _bent(z: Tensor, h: float | Tensor, slope: float | None, name: str) -> Tensor:
    """Kernel times the jump of the derivative, 1 - slope."""
    k = _kernel(z, h, name)
    return k if slope is None else (1.0 - slope) * k


class _Activation(Function):
    """y = relu(z) or leaky_relu(z); dy/dz is `_Gate`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, h: Tensor, slope: float | None, name: str) -> Tensor:
        return _activated(z, slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        z, h, ctx.slope, ctx.name = inputs
        ctx.save_for_backward(z, h)
        ctx.save_for_forward(z, h)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        z, h = ctx.saved_tensors
        return _Gate.apply(grad, z, h, ctx.slope, ctx.name), None, None, None

    @staticmethod
    def jvp(ctx: Any, dz: Tensor, *_: None) -> Tensor:
        z, h = ctx.saved_tensors
        return _Gate.apply(dz, z, h, ctx.slope, ctx.name)


class _Gate(Function):
    """g times the derivative of the activation at z: linear in g; its d/dz is `_Bend`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, z: Tensor, h: Tensor, slope: float | None, name: str) -> Tensor:
        return _gated(g, z, slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        g, z, h, ctx.slope, ctx.name = inputs
        ctx.save_for_backward(g, z, h)
        ctx.save_for_forward(g, z, h)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple:
        g, z, h = ctx.saved_tensors
        along_g = _Gate.apply(v, z, h, ctx.slope, ctx.name) if ctx.needs_input_grad[0] else None
        along_z = _Bend.apply(g, v, z, h, ctx.slope, ctx.name) if ctx.needs_input_grad[1] else None
        return along_g, along_z, None, None, None

    @staticmethod
    def jvp(ctx: Any, dg: Tensor | None, dz: Tensor | None, *_: None) -> Tensor:
        g, z, h = ctx.saved_tensors
        if dz is None:
            return _Gate.apply(dg, z, h, ctx.slope, ctx.name)
        along_z = _Bend.apply(g, dz, z, h, ctx.slope, ctx.name)
        return along_z if dg is None else along_z + _Gate.apply(dg, z, h, ctx.slope, ctx.name)


class _Bend(Function):
    """g v times the derivative of the step at z, that is the kernel; the last one defined."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        g: Tensor, v: Tensor, z: Tensor, h: Tensor, slope: float | None, name: str
    ) -> Tensor:
        return _bent(z, h, slope, name) * g * v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass  # nothing to keep: it has no derivative

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple:
        raise NotImplementedError(_THIRD)

    @staticmethod
    def jvp(ctx: Any, *_: Tensor) -> Tensor:
        raise NotImplementedError(_THIRD)


_THIRD = (
    "a third derivative through kinks.ReLU or kinks.LeakyReLU was asked for (an order-2 loss, or "
    "second derivatives of an order-1 loss): the kernel stands for a delta function, whose own "
    "derivative is not estimated. Use a smooth activation such as SiLU or softplus for it."
)


def _composite(z: Tensor, h: float | Tensor, slope: float | None, name: str) -> Tensor:
    """The same three orders from plain operations, which torch.compile can trace.

    With s a copy of z cut from the graph, (z - s)^2 k_h(s) / 2 is zero, has derivative zero and
    second derivative k_h(z). Infinite z would give inf - inf and have kernel zero: left out.
    """
    s = z.detach()
    t = torch.where(s.isfinite(), z - s, 0.0)
    return _activated(z, slope) + 0.5 * _bent(s, h, slope, name) * t * t


def _apply(z: Tensor, h: float | Tensor, slope: float | None, name: str) -> Tensor:
    if torch.compiler.is_compiling():
        return _composite(z, h, slope, name)
    if not isinstance(h, Tensor):
        # zero-dimensional: dtype and device follow z
        h = torch.tensor(h, dtype=torch.float64, device="cpu")
    return _Activation.apply(z, h, slope, name)
