"""Training in normalised units while values and derivatives stay in raw units for the user.

With x' = (x - a) / s and y' = (y - c) / t the chain rule gives for the derivative of order j

    D^j y' = D^j y * s (x) ... (x) s / t,

one factor s for each input axis. The wrapper applies the first two maps around a model, so that
autograd applies the third by itself: derivatives of the wrapper are in raw units. The paper uses
raw units throughout, so nothing in this library normalises unless it is asked to.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .checks import check_input, check_like, shape_error, wide

__all__ = ["Normalized"]

_STATISTICS = ("x_mean", "x_std", "y_mean", "y_std")


class Normalized(nn.Module):
    """A model that sees normalised inputs and returns raw outputs.

    Train ``wrapper.model`` on data that `normalise` returned, then use the wrapper itself: it maps
    raw inputs to raw outputs, and `sobolev_lib.derivatives` of it are raw derivatives. The four
    statistics are buffers: they follow ``.to()`` and are saved in the state_dict. Before `fit` the
    wrapper is the model.

    Parameters
    ----------
    model : nn.Module
        Maps (B, *in) to (B, out) or (B,).

    Attributes
    ----------
    x_mean, x_std : Tensor
        Mean and standard deviation of each input component, shape (*in,).
    y_mean, y_std : Tensor
        The same of each output, shape (out,).

    Examples
    --------
    >>> import torch
    >>> wrapper = Normalized(torch.nn.Linear(1, 1))
    >>> x = torch.tensor([[0.0], [2.0]])
    >>> wrapper.fit(x, 3 * x).normalise(x, 3 * x, torch.full((2, 1, 1), 3.0))[2].flatten()
    tensor([1., 1.])
    """

    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.model = model
        own = _floating(model)
        like = torch.empty(0) if own is None else own
        for name in _STATISTICS:
            self.register_buffer(name, like.new_full((), float(name.endswith("std"))))

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor) -> Normalized:
        """Set the statistics from training data; return the wrapper itself.

        Parameters
        ----------
        x : Tensor
            (B, *in), finite, of the dtype of the model's parameters.
        y : Tensor
            (B, out) or (B,); NaN (not measured) is left out.

        Raises
        ------
        TypeError, ValueError
            Inputs that are not as above, or an output that was never measured.

        Notes
        -----
        The standard deviation divides by B. A component that varies by no more than rounding
        keeps its scale, with standard deviation 1: only its mean is removed.
        """
        check_input(x)
        if (own := _floating(self.model)) is not None:
            check_like("x", x, own, "the model")
        check_like("y", y, x)
        if y.ndim not in (1, 2) or len(y) != len(x):
            raise shape_error("y", y.shape, f"(B, out) or (B,) with B = {len(x)}")
        if bool(torch.isinf(y).any()):
            raise ValueError("y holds infinity; set what was not measured to NaN")
        columns = y.unsqueeze(1) if y.ndim == 1 else y
        if bool(torch.isnan(columns).all(0).any()):
            raise ValueError("y has an output that is NaN (not measured) in every sample")
        wide_x, wide_y = wide(x), wide(columns)
        y_mean = wide_y.nanmean(0)
        y_std = (wide_y - y_mean).square().nanmean(0).sqrt()
        statistics = {
            "x": (wide_x, wide_x.mean(0), wide_x.std(0, correction=0)),
            "y": (wide_y, y_mean, y_std),
        }
        for name, (data, mean, std) in statistics.items():
            setattr(self, f"{name}_mean", mean.to(x.dtype))
            setattr(self, f"{name}_std", _scale(data, mean, std, x.dtype))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs, (B, out) or (B,) as the model returns them, for raw inputs (B, *in).

        Raises
        ------
        ValueError
            An input or output whose shape is not that of `fit`.
        """
        self._check("x", x, self.x_mean)
        y = self.model((x - self.x_mean) / self.x_std)
        return self.y_mean + self.y_std * self._check("the output of the model", y, self.y_mean)

    def _check(self, name: str, tensor: Tensor, mean: Tensor) -> Tensor:
        """`tensor`, if one sample of it has the shape that was fitted: nothing is broadcast."""
        if self.y_mean.ndim == 0:  # not fitted
            return tensor
        one, needed = tuple(tensor.shape[1:]), tuple(mean.shape)
        if one != needed and not (mean is self.y_mean and (one, needed) == ((), (1,))):
            raise shape_error(name, tensor.shape, f"(B, *{needed}) as in fit")
        return tensor

    def normalise(
        self, x: Tensor, y: Tensor | None = None, *derivatives: Tensor
    ) -> tuple[Tensor, ...]:
        """Data in the units that ``wrapper.model`` is trained in; NaN stays NaN.

        Parameters
        ----------
        x, y : Tensor
            (B, *in) and (B, out).
        *derivatives : Tensor
            Order 1, 2, ...: (B, out, *in), (B, out, *in, *in), ...

        Raises
        ------
        ValueError
            A shape that is not the one above, or not that of `fit`.
        """
        result = [(self._check("x", x, self.x_mean) - self.x_mean) / self.x_std]
        if y is not None:
            if y.shape[:1] != x.shape[:1]:
                raise shape_error("y", y.shape, f"one row for each of the {len(x)} of x")
            result.append((self._check("y", y, self.y_mean) - self.y_mean) / self.y_std)
        result += [dy * self._factor(dy, x, order) for order, dy in enumerate(derivatives, 1)]
        return tuple(result)

    def _factor(self, derivative: Tensor, x: Tensor, order: int) -> Tensor:
        """The factor s (x) ... (x) s / t: it turns a raw derivative into a normalised one."""
        inputs = tuple(x.shape[1:])
        fitted = len(self.y_std) if self.y_std.ndim else None
        out = fitted or (derivative.shape[1] if derivative.ndim > 1 else 1)
        shape = (len(x), out, *inputs * order)
        if tuple(derivative.shape) != shape:
            raise shape_error(f"the derivative of order {order}", derivative.shape, shape)
        factor = (1 / self.y_std).expand(out)
        for _ in range(order):
            factor = factor.unsqueeze(-1) * self.x_std.expand(inputs).reshape(-1)
        return factor.reshape(out, *inputs * order)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # The shapes of the statistics are known only once they have been fitted.
        for name in _STATISTICS:
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor):
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _floating(model: nn.Module) -> Tensor | None:
    """The first floating-point parameter, if there is one."""
    return next((p for p in model.parameters() if p.dtype.is_floating_point), None)


def _scale(data: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """The deviation of each component; 1 for one that varies by no more than rounding."""
    limits = torch.finfo(dtype)
    same = data.nan_to_num(nan=-math.inf).amax(0) == data.nan_to_num(nan=math.inf).amin(0)
    constant = same | (std <= 2 * limits.eps * mean.abs()) | (std < limits.tiny)
    return torch.where(constant, 1.0, std).to(dtype)
