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
from ._finite_differences import finite_differences

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
    """The value and the derivatives up to `order`, whole or projected; the arguments unchecked.

    Parameters
    ----------
    model, x, order, batch_coupled, backend
        As in `value_and_derivatives`; `order` may be 0.
    directions : callable, optional
        Given m (B, out), returns v (B, out) and `order` - 1 directions u (B, *in).

    Returns
    -------
    tuple of Tensor
        m, D m, D^2 m, ... or, with directions, m, <D m, v>, <D^2 m, v (x) u_2>, ...
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
                "model changes its input x in place, so there is nothing left to differentiate "
                "by: write x = x - c for x -= c, and inplace=False in its first layer"
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
