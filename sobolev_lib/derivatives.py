"""Derivatives of a model with respect to its input.

Inputs are ``x (B, *in)``, a model returns ``(B, out)`` (or ``(B,)``, read as ``out = 1``), and the
derivative of order K is ``(B, out, *in, ..., *in)`` with one block ``*in`` for each order, the
derivative taken last in the last block.

Every derivative is per sample: the output of sample b by the input of sample b. It is computed for
the whole batch as the derivative of the sum, which is right only if samples do not see each other;
so batch normalisation in training mode is refused. Results are differentiable with respect to the
parameters, except under `torch.no_grad`.

Source: section 2 of Czarnecki et al. (2017), *Sobolev Training for Neural Networks*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from . import checks

Model = Callable[[Tensor], Tensor]
Backend = Literal["autograd", "func"]
BatchCoupled = Literal["refuse", "allow"]

__all__ = ["finite_differences", "jacobian", "project", "value_and_derivatives"]


# --- from (model, x, order) to (m, D m, ..., D^K m) -----------------------------------------------


def tower(
    model: Model,
    x: Tensor,
    order: int,
    directions: Callable[[Tensor], Sequence[Tensor]] | None = None,
    batch_coupled: BatchCoupled = "refuse",
    backend: Backend | None = None,
) -> tuple[Tensor, ...]:
    """m, D m, D^2 m, ... or, with directions, m, <D m, v>, <D^2 m, v (x) u_2>, ...; unchecked.

    Arguments are those of `value_and_derivatives`, `order` may be 0.  The directions are, given
    m (B, out), v (B, out) and `order` - 1 of u (B, *in).
    """
    functional = backend == "func" or (backend is None and checks.transformed())
    vjp: Any = torch.func.vjp if functional else _vjp
    chain: list[Tensor] = []

    def level(j: int, point: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """D^j at `point`, and everything below it."""
        if j == 0:
            m = _output(model, point)
            if order and not torch.compiler.is_compiling():
                checks.check_graph(m, None if functional else point, batch_coupled)
            return m, ()
        lower, pull, below = vjp(lambda z: level(j - 1, z), point, has_aux=True)
        if directions is None:
            rows = [pull(unit)[0] for unit in _units(lower)]
            derivative = torch.stack(rows, 1).reshape(*lower.shape, *x.shape[1:])
        else:
            if j == 1:
                chain.extend(directions(lower))
            (derivative,) = pull(chain[j - 1].to(lower.dtype))
        return derivative, (*below, lower)

    try:
        top, below = level(order, _live(x) if order and not functional else x)
    except RuntimeError as error:
        if checks.ONCE.search(str(error)):
            raise checks.only_once(error) from error
        if "a leaf Variable that requires grad is being used in an in-place" in str(error):
            raise ValueError(
                "model changes its input x in place, or a parameter: write x = x - c for x -= c, "
                "inplace=False in its first layer, and change parameters under torch.no_grad()"
            ) from error
        raise
    if functional and order and checks.readable(x) and not (below[1] if order > 1 else top).any():
        tower(model, x, 1, None, batch_coupled, "autograd")  # raises if m does not depend on x
    found = (*below, top)
    return found if order == 0 or torch.is_grad_enabled() else tuple(d.detach() for d in found)


def _vjp(function: Any, z: Tensor, has_aux: bool = True) -> tuple[Tensor, Any, Any]:
    """`torch.func.vjp` by `torch.autograd.grad`, which works for every layer."""
    keep = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        y, aux = function(z)

    def pull(cotangent: Tensor) -> tuple[Tensor]:
        with torch.inference_mode(False):
            found = None
            if y.requires_grad:
                how: Any = {"create_graph": keep, "retain_graph": True, "allow_unused": True}
                (found,) = torch.autograd.grad(y, z, _ordinary(cotangent), **how)
            return (torch.zeros_like(z) if found is None else found,)

    return y, pull, aux


def _live(x: Tensor) -> Tensor:
    """A stand-in for `x` to differentiate with respect to."""
    with torch.inference_mode(False):
        # The alias makes this the partial derivative by the model's argument, still tied to x.
        tied = torch.is_grad_enabled() and x.requires_grad
        return x.view_as(x) if tied else _ordinary(x).detach().requires_grad_()


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor that autograd may save: one made in inference mode has to be copied."""
    return tensor.clone() if tensor.is_inference() else tensor


def _units(lower: Tensor) -> list[Tensor]:
    """One cotangent for each component of a sample of `lower`."""
    flat = lower.flatten(1)
    eye = torch.eye(flat.shape[1], dtype=lower.dtype, device=lower.device)
    return [row.expand_as(flat).reshape(lower.shape) for row in eye]


def _output(model: Model, x: Tensor) -> Tensor:
    """The output of the model as (B, out)."""
    y = model(x)
    if not isinstance(y, Tensor):
        raise TypeError(f"model must return a torch.Tensor, got {type(y).__name__}")
    if y.is_complex():
        raise TypeError(f"model must return real numbers, got {y.dtype}: take .real and .imag")
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(
            f"model must return shape (B,) or (B, out) with B = {len(x)} for x of shape "
            f"{tuple(x.shape)}, got {tuple(y.shape)}; flatten the output axes to one"
        )
    return y.unsqueeze(1) if y.ndim == 1 else y


def refuse_flat(model: Model, x: Tensor, order: int) -> None:
    """Refuse a derivative that is zero by structure, whatever the parameters and `x`.

    That is so if no path of the graph leads from the derivative below it back to `x`, except
    through steps, the derivatives of piecewise-linear activations. No number is looked at: a smooth
    activation far out in its tail is not flat.
    """
    z = x.detach().requires_grad_()
    with torch.enable_grad():
        lower = tower(model, z, order - 1, None, "allow", "autograd")[-1]
    if not checks.reaches(checks.nodes_behind(lower, curved=True), z):
        raise ValueError(
            f"order {order}: that derivative of model is exactly 0 whatever its parameters, as of "
            "every piecewise-linear network (ReLU and the like). Use a smooth activation (SiLU, "
            f"softplus, tanh), or order={order - 1}, or weight 0 for order {order}"
        )


# --- public functions -----------------------------------------------------------------------------


def value_and_derivatives(
    model: Model,
    x: Tensor,
    order: int = 1,
    *,
    batch_coupled: BatchCoupled = "refuse",
    backend: Backend | None = None,
) -> tuple[Tensor, ...]:
    """The value and all derivatives up to an order: the tuple of Eq. 1.

    Parameters
    ----------
    model : callable
        Any module or function from (B, *in) to (B,) or (B, out).
    x : Tensor
        (B, *in), floating point and finite.
    order : int
        The highest order K, at least 1. Order j costs out * prod(in)**(j-1) reverse passes.
    batch_coupled : {"refuse", "allow"}
        "allow" accepts batch statistics and gives the derivative of the sum over the batch.
    backend : {"autograd", "func"}, optional
        By default `torch.autograd.grad`, and `torch.func.vjp` inside a transform of `torch.func`
        (`vmap` over an ensemble) and under `torch.compile`. The numbers agree.

    Returns
    -------
    tuple of Tensor
        (B, out), (B, out, *in), (B, out, *in, *in), ...

    Raises
    ------
    TypeError
        `x` is no floating-point tensor, or the model returns no tensor of real numbers.
    ValueError
        An empty or non-finite `x`, an output of another shape or independent of `x`, batch
        statistics, or a layer without the derivative that `order` needs.
    """
    checks.check_input(x)
    order = checks.check_count("order", order, 1)
    checks.check_options(batch_coupled, backend)
    return tower(model, x, order, None, batch_coupled, backend)


def jacobian(
    model: Model,
    x: Tensor,
    *,
    batch_coupled: BatchCoupled = "refuse",
    backend: Backend | None = None,
) -> Tensor:
    """The Jacobian of each sample, D m(x), differentiable with respect to the parameters.

    Parameters
    ----------
    model, x, batch_coupled, backend
        As in `value_and_derivatives`.

    Returns
    -------
    Tensor
        (B, out, *in). One reverse pass for each output.

    Examples
    --------
    >>> import torch
    >>> jacobian(lambda x: (x**2).sum(1), torch.tensor([[1.0, 2.0]])).detach()
    tensor([[[2., 4.]]])
    """
    return value_and_derivatives(model, x, 1, batch_coupled=batch_coupled, backend=backend)[1]


def project(
    model: Model,
    x: Tensor,
    v: Tensor,
    *directions: Tensor,
    batch_coupled: BatchCoupled = "refuse",
    backend: Backend | None = None,
) -> Tensor:
    """The projected derivative <D^j m(x), v (x) u_2 (x) ... (x) u_j> of Eq. 2 and Fig. 1b.

    One reverse pass for each direction, however many outputs and inputs there are.

    Parameters
    ----------
    model, x, batch_coupled, backend
        As in `value_and_derivatives`.
    v : Tensor
        The direction in output space, (B, out) or (out,).
    *directions : Tensor
        For order j the j - 1 directions in input space, (B, *in) or (*in,).

    Returns
    -------
    Tensor
        (B, *in): with one direction the gradient of <m, v>; with two its Hessian times u.
    """
    checks.check_input(x)
    checks.check_options(batch_coupled, backend)

    def chain(m: Tensor) -> list[Tensor]:
        us = [_direction(f"direction {j}", u, x.shape[1:], x) for j, u in enumerate(directions, 2)]
        return [_direction("v", v, m.shape[1:], x), *us]

    return tower(model, x, 1 + len(directions), chain, batch_coupled, backend)[-1]


def _direction(name: str, direction: Any, shape: Sequence[int], x: Tensor) -> Tensor:
    """A direction of one sample, or one for each sample, as (B, *shape)."""
    checks.check_like(name, direction, x)
    full = (len(x), *shape)
    if tuple(direction.shape) not in (full, tuple(shape)):
        raise checks.shape_error(name, direction.shape, full, f" or {tuple(shape)} (shared)")
    return direction.expand(full)


# --- a black box, where no gradient exists --------------------------------------------------------


@torch.no_grad()
def finite_differences(
    function: Callable[[Tensor], Any],
    x: Tensor,
    order: Literal[1, 2] = 1,
    step: float | Tensor | None = None,
) -> Tensor:
    """Derivatives of a black box by central differences: targets where no gradient exists.

    Section 1 of the paper names this way. The error is of order step**2 from truncation plus
    eps / step**order from rounding, eps being the relative error of `function`. The default step
    eps**(1 / (order + 2)) * max(1, abs(x)) balances them for a function that is accurate to its
    dtype; use float64, and a larger `step` for a noisy function.

    Parameters
    ----------
    function : callable
        Maps a tensor (B, *in) to something `torch.as_tensor` reads, (B,) or (B, out). It is called
        2 d times for order 1 and 2 d**2 + 1 times for order 2, d = prod(in), at points up to one
        step outside the batch's range.
    x : Tensor
        (B, *in), floating point and finite.
    order : {1, 2}
        1 for the Jacobian, 2 for the Hessian.
    step : float or Tensor, optional
        In the units of x, positive: one number, or one for each component, shape (*in,).

    Returns
    -------
    Tensor
        (B, out, *in), or (B, out, *in, *in) for order 2. NaN where `function` gave NaN (outside its
        domain, say), which `SobolevLoss` reads as not measured.

    Raises
    ------
    TypeError, ValueError
        For a bad `x`, `order`, `step`, or an output of another shape.
    """
    checks.check_input(x)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    flat, h = x.reshape(len(x), -1), _steps(x, step, order)
    d, shape = flat.shape[1], tuple(x.shape[1:])

    def shifted(*moves: tuple[int, int]) -> Tensor:
        moved = flat.clone()
        for component, sign in moves:
            moved[:, component] += sign * h[:, component]
        return _black_box(function, moved.reshape(x.shape))

    if order == 1:
        rows = [(shifted((i, 1)) - shifted((i, -1))) / (2 * h[:, i, None]) for i in range(d)]
        return torch.stack(rows, 2).reshape(len(x), -1, *shape)
    centre = shifted()
    hessian = centre.new_empty(*centre.shape, d, d)
    for i in range(d):
        hi = h[:, i, None]
        hessian[..., i, i] = (shifted((i, 1)) - 2 * centre + shifted((i, -1))) / hi**2
        for j in range(i):
            same = shifted((i, 1), (j, 1)) + shifted((i, -1), (j, -1))
            opposite = shifted((i, 1), (j, -1)) + shifted((i, -1), (j, 1))
            hessian[..., i, j] = (same - opposite) / (4 * hi * h[:, j, None])
            hessian[..., j, i] = hessian[..., i, j]
    return hessian.reshape(len(x), -1, *shape, *shape)


def _black_box(function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    found = function(x)
    try:
        raw = torch.as_tensor(found)
    except (RuntimeError, TypeError, ValueError) as error:
        got = type(found).__name__
        raise TypeError(f"function must return numbers for each point, got {got}") from error
    if torch.is_complex(raw):
        raise TypeError("function must return real numbers, got complex ones")
    y = torch.as_tensor(found, dtype=x.dtype, device=x.device)
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(
            f"function must return shape (B,) or (B, out) with B = {len(x)}, got {tuple(y.shape)}"
        )
    return y.unsqueeze(1) if y.ndim == 1 else y


def _steps(x: Tensor, step: float | Tensor | None, order: int) -> Tensor:
    """One step for each input component, (B, d), that x + step represents exactly."""
    flat, shape = x.reshape(len(x), -1), tuple(x.shape[1:])
    if step is None:
        # Balances the truncation error h^2 against the rounding error eps / h^order.
        h = torch.finfo(x.dtype).eps ** (1 / (order + 2)) * flat.abs().clamp(min=1.0)
    else:
        each = torch.as_tensor(step).to(x)
        if tuple(each.shape) not in ((), shape):
            raise checks.shape_error("step", each.shape, f"() or {shape}, that of one input")
        h = each.expand(shape).reshape(1, -1).expand_as(flat)
    h = (flat + h) - flat
    if not bool((h.isfinite() & (h > 0)).all()):
        raise ValueError(
            "step must be finite, positive and large enough to change x in its dtype, got "
            f"{step} for x of {x.dtype}"
        )
    return h
