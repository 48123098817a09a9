"""The Sobolev loss, Eq. 1, and its stochastic version, Eq. 2.

`SobolevLoss` compares a model with measured values and measured derivatives. Targets that were not
measured are NaN and cost nothing; a weight of 0 removes a term together with its work.

Source: sections 2 and 4.2 of Czarnecki et al. (2017), *Sobolev Training for Neural Networks*.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .derivatives import (
    Backend,
    BatchCoupled,
    Model,
    check_batch_coupling,
    check_input,
    modules_of,
    towers,
)

ElementLoss = Callable[[Tensor, Tensor], Tensor]
Weight = float | Tensor
Target = Tensor | Callable[..., Tensor]
Reduction = Literal["mean", "sum", "none"]

__all__ = ["ELEMENT_LOSSES", "SobolevLoss", "unit_vectors"]


def _l2(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square()


def _l1(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs()


def _huber(prediction: Tensor, target: Tensor) -> Tensor:
    return F.huber_loss(prediction, target, reduction="none", delta=1.0)


#: Element losses known by name; "huber" has delta = 1 in the units of the target.
ELEMENT_LOSSES: dict[str, ElementLoss] = {"l2": _l2, "l1": _l1, "huber": _huber}

#: Activations and poolings whose second derivative is zero wherever it exists.
_PIECEWISE_LINEAR = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.Hardsigmoid),
    *(nn.Hardshrink, nn.Softshrink, nn.Threshold, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
)


def unit_vectors(
    batch: int, shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Vectors drawn uniformly from the unit sphere of R^d, d = prod(shape), one for each sample.

    Parameters
    ----------
    batch : int
        Number of vectors B.
    shape : sequence of int
        Shape of one vector; () and (1,) give +1 or -1.
    like : Tensor
        Gives dtype and device.
    generator : torch.Generator, optional
        Source of randomness; it may live on another device.

    Returns
    -------
    Tensor
        (B, *shape), each of Euclidean norm 1.
    """
    # A Gaussian vector has no preferred direction, so its direction is uniform on the sphere.
    device = like.device if generator is None else generator.device
    vectors = torch.randn(batch, *shape, generator=generator, dtype=like.dtype, device=device)
    flat = vectors.to(like.device).reshape(batch, -1)
    return (flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True)).reshape(batch, *shape)


def _contract(tensor: Tensor, chain: Sequence[Tensor]) -> Tensor:
    """<T, v (x) u_2 (x) ...>: every block of axes but the last, one direction each."""
    for direction in chain:
        batch, block = len(direction), direction[0].numel()
        rest = tensor.shape[direction.ndim :]
        flat = tensor.reshape(batch, block, -1)
        tensor = (direction.reshape(batch, block, 1) * flat).sum(1).reshape(batch, *rest)
    return tensor


class SobolevLoss(nn.Module):
    r"""Error of values and derivatives: Eq. 1, or with `projections` Eq. 2.

    .. math::
        \frac1B \sum_{b} \Big[ w_0\, \ell(m(x_b), y_b)
        + \sum_{j=1}^{K} w_j\, \ell_j(D^j_x m(x_b), D^j_x f(x_b)) \Big]

    Each :math:`\ell_j` is a sum over the components of its tensor, so section 4.1 of the paper is
    ``order=1`` with both weights 1.

    Parameters
    ----------
    order : int
        The highest order K of derivative, at least 0.
    weights : sequence, optional
        K + 1 weights :math:`w_j`, order 0 first; all 1 by default. Each is a number, or a tensor
        that broadcasts to the derivative it weights, (B, out, *in, ...): one weight for each
        partial derivative. With `projections` a tensor has to broadcast to (B, *in) for orders
        above 0. A weight of 0 skips the term: its derivative is not computed and its target may
        be None. Assign to the attribute `weights` to follow a schedule.
    projections : int, optional
        None compares whole derivatives. k replaces each by its products with k directions drawn
        for each sample anew: v uniform on the unit sphere of the output space and, for orders
        above 1, further unit vectors of the input space, as in section 4.2 and Fig. 1b. Terms are
        averaged over the k draws.
    reduction : {"mean", "sum", "none"}
        "mean": mean over samples of the sum over components. "sum": sum over both. "none": one
        number for each sample. Missing targets do not change the divisor B of "mean".
    loss : str, callable, or sequence of K + 1 of them
        "l2" (squared difference), "l1", "huber" (delta 1), or a callable of (prediction, target)
        that returns either one number for each component (the shape of the prediction) or one for
        each sample, (B,).
        With `sobolev_lib.kinks` use "l2" for the derivatives: the kernel averages the residual on
        both sides of a kink, which is exact for squares only.
    rescale : bool
        For a unit vector of R^d, :math:`E\langle g, v\rangle^2 = |g|^2 / d`. So a projected L2
        term of order j is, in the mean, the whole one divided by out * prod(in)**(j - 1). True
        multiplies by that number, which makes the projected loss an unbiased estimate of Eq. 1.
        L2 only.
    generator : torch.Generator, optional
        Source of the directions.
    backend : {"autograd", "func"}
        "func" is written with `torch.func`, so that the function that calls this loss can be
        compiled with `torch.compile(..., fullgraph=True)`.
    batch_coupled : {"refuse", "allow"}
        See `sobolev_lib.derivatives`.

    Raises
    ------
    TypeError, ValueError
        For an option out of range; the message names it.

    Notes
    -----
    A NaN in a target means *not measured*: the component leaves value and gradient. With
    `projections` an entry of the projected derivative sums over outputs (and over input directions
    for orders above 1). Where none of these summands was measured the entry is masked. Where
    some were, the sum runs over the measured ones on both sides; this needs the whole derivative
    of the model, so such a batch costs what `projections=None` costs. (In a compiled function,
    which cannot look at the data, such a batch gives NaN.)

    In a compiled function the checks that look at data are not made.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 2.0]])
    >>> model = torch.nn.Linear(2, 1)
    >>> total, terms = SobolevLoss()(model, x, torch.zeros(1, 1), torch.zeros(1, 1, 2))
    >>> sorted(terms)
    ['order_0', 'order_1']
    """

    def __init__(
        self,
        order: int = 1,
        weights: Sequence[Weight] | None = None,
        projections: int | None = None,
        reduction: Reduction = "mean",
        loss: str | ElementLoss | Sequence[str | ElementLoss] = "l2",
        *,
        rescale: bool = False,
        generator: torch.Generator | None = None,
        backend: Backend = "autograd",
        batch_coupled: BatchCoupled = "refuse",
    ) -> None:
        super().__init__()
        _check_options(order, projections, reduction, backend, batch_coupled)
        self.order = order
        self.projections = projections
        self.reduction = reduction
        self.losses = _element_losses(loss, order)
        self.rescale = rescale
        self.generator = generator
        self.backend: Backend = backend
        self.batch_coupled: BatchCoupled = batch_coupled
        if rescale and any(element is not _l2 for element in self.losses[1:]):
            raise ValueError(
                'rescale=True needs loss="l2" for the derivatives: only the square of a projection '
                "has a mean that is a fixed multiple of the whole loss"
            )
        self.weights = weights if weights is not None else (1.0,) * (order + 1)

    @property
    def weights(self) -> tuple[Weight, ...]:
        """One weight for each order, 0 first."""
        return tuple(getattr(self, f"weight_{j}") for j in range(self.order + 1))

    @weights.setter
    def weights(self, weights: Sequence[Weight]) -> None:
        if isinstance(weights, Tensor) or len(weights) != self.order + 1:
            given = tuple(weights.shape) if isinstance(weights, Tensor) else len(weights)
            raise ValueError(
                f"weights must be a sequence of order + 1 = {self.order + 1} entries, order 0 "
                f"first, got {given}"
            )
        checked = [_check_weight(weight, j) for j, weight in enumerate(weights)]
        for j, weight in enumerate(checked):
            name = f"weight_{j}"
            if hasattr(self, name):
                delattr(self, name)
            if isinstance(weight, Tensor):
                self.register_buffer(name, weight, persistent=False)
            else:
                setattr(self, name, weight)
        self._active = [bool(torch.as_tensor(weight).any()) for weight in checked]
        self._top = max((j for j, active in enumerate(self._active) if active), default=0)

    def extra_repr(self) -> str:
        """The options, for printing."""
        return (
            f"order={self.order}, weights={self.weights}, projections={self.projections}, "
            f"reduction={self.reduction!r}, rescale={self.rescale}"
        )

    def forward(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None,
        dy: Target | Sequence[Target | None] | None = None,
        *,
        directions: Sequence[Sequence[Tensor]] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `model` on one batch.

        Parameters
        ----------
        model : callable
            Any module or function from (B, *in) to (B, out) or (B,).
        x : Tensor
            (B, *in), floating point and finite.
        y : Tensor or None
            (B, out); NaN where not measured. None only if its weight is 0. For a callable order-0
            loss it may instead be a tensor of integers with B rows (class labels).
        dy : Tensor, callable, sequence or None
            (B, out, *in) for order 1; for order K a sequence of K tensors, the j-th of shape
            (B, out, *in, ..., *in). NaN where not measured, None where the weight is 0. With
            `projections` an entry may be a callable that is given the directions, (B, out) and
            then (B, *in), and returns the projected target (B, *in): a teacher network need not
            compute its whole Jacobian, ``dy=lambda v: derivatives.project(teacher, x, v)``.
            For a model that returns (B,) the axis `out` of y and dy may be left out.
            Targets are constants: no gradient flows into them.
        directions : sequence of sequences of Tensor, optional
            The directions to project on, as `draw` returns them, instead of new ones: to compare
            two models on the same directions, or in a compiled function (which cannot use a
            `torch.Generator`).

        Returns
        -------
        total : Tensor
            A scalar, or (B,) for ``reduction="none"``.
        terms : dict of str to Tensor
            ``{"order_0": ..., "order_1": ...}``: what each order adds to the total, weight
            included, detached. Orders of weight 0 are absent.

        Raises
        ------
        TypeError
            An argument that is no tensor or has the wrong dtype or device.
        ValueError
            A wrong shape, an empty batch, infinity, NaN in x, a missing target, a model without
            gradient or with batch coupling, or order 2 of a piecewise-linear model.
        """
        check_input(x)
        check_batch_coupling(model, self.batch_coupled)
        targets = [t.detach() if isinstance(t, Tensor) else t for t in (y, *self._split(dy))]
        self._check_presence(targets)
        if isinstance(targets[0], Tensor) and not self._labels(targets[0]):
            _check_tensor(targets[0], "y", x)
        for j, target in enumerate(targets[1:], 1):
            if isinstance(target, Tensor):
                _check_tensor(target, self._name(j), x)
        per_order = self._terms(model, x, targets, directions)
        reduced = {f"order_{j}": self._reduce(term) for j, term in per_order.items()}
        if not reduced:
            raise ValueError(f"weights are all zero: {self.weights}; nothing is left to minimise")
        total = torch.stack(list(reduced.values())).sum(0)
        _check_trainable(model, total)
        return total, {name: term.detach() for name, term in reduced.items()}

    def draw(self, x: Tensor, out: int) -> list[list[Tensor]]:
        """New directions for one batch, from `generator`.

        Parameters
        ----------
        x : Tensor
            (B, *in).
        out : int
            The number of outputs of the model.

        Returns
        -------
        list of list of Tensor
            `projections` chains, each with v (B, out) and, for orders above 1, u (B, *in).
        """
        shapes = [(out,), *[tuple(x.shape[1:])] * (self._top - 1)]
        return [
            [unit_vectors(len(x), shape, x, self.generator) for shape in shapes]
            for _ in range(self.projections or 0)
        ]

    def _given(self, given: Any, x: Tensor, out: int) -> list[list[Tensor]]:
        needed = [(len(x), out), *[tuple(x.shape)] * (self._top - 1)]
        chains = [list(chain) for chain in given]
        for chain in chains:
            got = [tuple(direction.shape) for direction in chain]
            if got[: self._top] != needed:
                raise _shape_error("a chain of directions", got, needed)
        if not chains:
            raise ValueError("directions is empty; give at least one chain")
        return chains

    # --- targets -------------------------------------------------------------------------------

    def _name(self, j: int) -> str:
        if j == 0:
            return "y"
        return "dy" if self.order == 1 else f"dy[{j - 1}]"

    def _split(self, dy: Any) -> list[Any]:
        """`dy` as a list with one entry for each order."""
        if dy is None:
            return [None] * self.order
        if isinstance(dy, Tensor) or callable(dy):
            dy = (dy,)
        if not isinstance(dy, (tuple, list)):
            raise TypeError(
                f"dy must be a tensor or a sequence of tensors, got {type(dy).__name__}"
            )
        if len(dy) != self.order:
            raise ValueError(
                f"dy must have one entry for each order from 1 to {self.order}, got {len(dy)}"
            )
        return list(dy)

    def _labels(self, y: Tensor) -> bool:
        named = self.losses[0] in ELEMENT_LOSSES.values()
        return not named and not y.dtype.is_floating_point

    def _check_presence(self, targets: Sequence[Any]) -> None:
        for j, target in enumerate(targets):
            if target is None:
                if self._active[j]:
                    raise ValueError(
                        f"{self._name(j)} is missing but the weight of order {j} is not 0; give "
                        "the target (NaN where it was not measured) or set the weight to 0"
                    )
            elif not isinstance(target, Tensor):
                if j == 0 or not callable(target):
                    raise TypeError(
                        f"{self._name(j)} must be a torch.Tensor, got {type(target).__name__}"
                    )
                if self.projections is None:
                    raise ValueError(
                        f"{self._name(j)} is a callable, which is given directions: set projections"
                    )

    # --- terms -----------------------------------------------------------------------------------

    def _terms(self, model: Model, x: Tensor, targets: list[Any], given: Any) -> dict[int, Tensor]:
        """One tensor (B,) for each order whose weight is not 0."""
        recorder = _Recorder(model)
        top = self._top
        if top >= 2:
            _refuse_kink_kernels(model)
        if top == 0 or self.projections is None:
            value, (levels,) = towers(recorder, x, top, backend=self.backend)
            per_order = self._whole(recorder, model, x, levels, targets)
        else:
            value, per_order = self._projected(recorder, model, x, targets, given)
        if self._active[0]:
            target = targets[0]
            if self._labels(target):
                if len(target) != len(x):
                    raise _shape_error("y", tuple(target.shape), (len(x),))
            else:
                target = recorder.restore(target, value.ndim)
                _check_shape(target, value, "y")
            per_order = {0: self._term(0, value, target), **per_order}
        return per_order

    def _whole(
        self, recorder: _Recorder, model: Model, x: Tensor, levels: list[Tensor], targets: list[Any]
    ) -> dict[int, Tensor]:
        per_order = {}
        for j, prediction in enumerate(levels, 1):
            if not self._active[j]:
                continue
            target = recorder.restore(targets[j], prediction.ndim)
            _check_shape(target, prediction, self._name(j))
            if j >= 2:
                _refuse_flat(model, prediction, j)
            per_order[j] = self._term(j, prediction, target)
        return per_order

    def _projected(
        self, recorder: _Recorder, model: Model, x: Tensor, targets: list[Any], given: Any
    ) -> tuple[Tensor, dict[int, Tensor]]:
        top = self._top
        drawn: list[list[Tensor]] = []

        def chains(out: int) -> list[list[Tensor]]:
            drawn.extend(self.draw(x, out) if given is None else self._given(given, x, out))
            return drawn

        value, climbs = towers(recorder, x, top, chains, backend=self.backend)
        out, inputs = value.shape[1], tuple(x.shape[1:])
        per_order = {}
        for j in range(1, top + 1):
            if not self._active[j]:
                continue
            target, name = targets[j], self._name(j)
            mixed = None
            if isinstance(target, Tensor):
                whole_shape = (len(x), out, *inputs * j)
                target = recorder.restore(target, len(whole_shape))
                if tuple(target.shape) != whole_shape:
                    raise _shape_error(name, tuple(target.shape), whole_shape)
                mixed = _mixed(target, j, x)
            # All entries of a mixed pattern come from the whole derivative (see the class's notes).
            whole = self._measured(recorder, x, j, mixed) if mixed is not None else None
            total = value.new_zeros(len(x))
            for chain, climb in zip(drawn, climbs, strict=True):
                directions = chain[:j]
                if whole is not None and mixed is not None:
                    prediction = _contract(whole, directions)
                else:
                    prediction = climb[j - 1]
                if j >= 2:
                    _refuse_flat(model, prediction, j)
                goal = _project_target(target, directions, j, x, name)
                total = total + self._term(j, prediction, goal)
            factor = out * math.prod(inputs) ** (j - 1) if self.rescale else 1
            per_order[j] = total * (factor / len(drawn))
        return value, per_order

    def _measured(self, recorder: _Recorder, x: Tensor, j: int, missing: Tensor) -> Tensor:
        """The whole derivative with the entries that were not measured set to 0."""
        _, (levels,) = towers(recorder, x, j, backend=self.backend)
        return levels[-1].masked_fill(missing, 0.0)

    def _term(self, j: int, prediction: Tensor, target: Tensor) -> Tensor:
        """Weighted error of order j, summed over the components of each sample: (B,)."""
        element, weight, name = self.losses[j], self.weights[j], self._name(j)
        if j == 0 and self._labels(target):
            missing = None
            errors = element(prediction, target)
        else:
            missing = torch.isnan(target)
            # Both sides are cleaned before the loss: a NaN would survive a multiplication by 0.
            errors = element(
                torch.where(missing, 0.0, prediction), torch.where(missing, 0.0, target)
            )
        if not isinstance(errors, Tensor) or errors.shape not in (
            prediction.shape,
            prediction.shape[:1],
        ):
            got = tuple(errors.shape) if isinstance(errors, Tensor) else type(errors).__name__
            raise _shape_error(
                f"the value of loss for order {j}",
                got,
                tuple(prediction.shape),
                f" or {(len(prediction),)}; use reduction='none' inside it",
            )
        if errors.shape != prediction.shape:
            _check_per_sample(missing, weight, name, j)
            return errors * weight
        if missing is not None:
            errors = torch.where(missing, 0.0, errors)
        if isinstance(weight, Tensor):
            _check_weight_shape(weight, errors, j)
            weight = weight.to(errors)
        return (errors * weight).reshape(len(errors), -1).sum(1)

    def _reduce(self, term: Tensor) -> Tensor:
        if self.reduction == "mean":
            return term.mean()
        return term.sum() if self.reduction == "sum" else term


class _Recorder:
    """Calls the model and remembers whether it returns (B,) rather than (B, out)."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.flat = False
        # `modules_of` looks here to find the modules of a bound method's owner.
        self.__self__ = modules_of(model)[0] if modules_of(model) else None

    def __call__(self, x: Tensor) -> Tensor:
        y = self.model(x)
        if not torch.compiler.is_compiling():
            self.flat = isinstance(y, Tensor) and y.ndim == 1
        return y

    def restore(self, target: Tensor, ndim: int) -> Tensor:
        """`target` with its axis `out`, which may be left out for a model that returns (B,)."""
        return target.unsqueeze(1) if self.flat and target.ndim == ndim - 1 else target


# --- checks of the options ----------------------------------------------------------------------


def _check_options(
    order: Any, projections: Any, reduction: str, backend: str, batch_coupled: str
) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or order < 0:
        raise ValueError(f"order must be an integer of at least 0, got {order!r}")
    if projections is not None and (
        isinstance(projections, bool) or not isinstance(projections, int) or projections < 1
    ):
        raise ValueError(f"projections must be None or a positive integer, got {projections!r}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')
    if backend not in ("autograd", "func"):
        raise ValueError(f'backend must be "autograd" or "func", got {backend!r}')
    if batch_coupled not in ("refuse", "allow"):
        raise ValueError(f'batch_coupled must be "refuse" or "allow", got {batch_coupled!r}')


def _element_losses(loss: Any, order: int) -> list[ElementLoss]:
    given = list(loss) if isinstance(loss, (tuple, list)) else [loss] * (order + 1)
    if len(given) != order + 1:
        raise ValueError(f"loss must have order + 1 = {order + 1} entries, got {len(given)}")
    losses = []
    for entry in given:
        if isinstance(entry, str) and entry in ELEMENT_LOSSES:
            losses.append(ELEMENT_LOSSES[entry])
        elif callable(entry):
            losses.append(entry)
        else:
            raise ValueError(
                f"loss must be one of {sorted(ELEMENT_LOSSES)} or callable, got {entry!r}"
            )
    return losses


def _check_weight(weight: Any, j: int) -> Weight:
    if isinstance(weight, bool) or not isinstance(weight, (int, float, Tensor)):
        raise TypeError(f"weights[{j}] must be a number or a tensor, got {type(weight).__name__}")
    number = weight.detach() if isinstance(weight, Tensor) else torch.tensor(float(weight))
    if number.numel() == 0 or not bool((torch.isfinite(number) & (number >= 0)).all()):
        raise ValueError(f"weights[{j}] must be finite and not negative, got {weight}")
    return number if isinstance(weight, Tensor) else float(weight)


# --- checks of the batch ------------------------------------------------------------------------


def _shape_error(name: str, got: Any, needed: Any, more: str = "") -> ValueError:
    return ValueError(f"{name} has shape {got}, needed is {needed}{more}")


def _check_shape(target: Tensor, prediction: Tensor, name: str) -> None:
    if target.shape != prediction.shape:
        raise _shape_error(name, tuple(target.shape), tuple(prediction.shape))


def _check_tensor(target: Tensor, name: str, x: Tensor) -> None:
    if target.dtype != x.dtype or target.device != x.device:
        raise TypeError(
            f"{name} is {target.dtype} on {target.device} but x is {x.dtype} on {x.device}; use "
            f"{name}.to(x)"
        )
    if not torch.compiler.is_compiling() and bool(torch.isinf(target).any()):
        raise ValueError(f"{name} holds infinity; set what was not measured to NaN")


def _check_weight_shape(weight: Tensor, errors: Tensor, j: int) -> None:
    try:
        fits = torch.broadcast_shapes(weight.shape, errors.shape) == errors.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise _shape_error(
            f"weights[{j}]", tuple(weight.shape), f"one that broadcasts to {tuple(errors.shape)}"
        )


def _check_per_sample(missing: Tensor | None, weight: Weight, name: str, j: int) -> None:
    if isinstance(weight, Tensor) and weight.ndim:
        raise ValueError(
            f"weights[{j}] has shape {tuple(weight.shape)} but the loss of order {j} returns one "
            "number for each sample: give a plain number, or a loss that returns one for each "
            "component"
        )
    if missing is None or torch.compiler.is_compiling():
        return
    if bool(missing.any()):
        raise ValueError(
            f"{name} holds NaN (not measured) but the loss of order {j} returns one number for "
            "each sample, so components cannot be masked: give a loss that returns one for each "
            "component"
        )


def _mixed(target: Tensor, j: int, x: Tensor) -> Tensor | None:
    """The mask of missing entries if some but not all summands of a projection are missing."""
    if torch.compiler.is_compiling():
        return None
    missing = torch.isnan(target)
    if not bool(missing.any()):
        return None
    summands = missing.reshape(len(x), -1, *x.shape[1:])  # the last block is not summed over
    return missing if bool((summands.any(1) != summands.all(1)).any()) else None


def _project_target(
    target: Target, directions: list[Tensor], j: int, x: Tensor, name: str
) -> Tensor:
    """The projected target (B, *in), NaN where no summand was measured."""
    if not isinstance(target, Tensor):
        goal = target(*directions)
        if not isinstance(goal, Tensor):
            raise TypeError(f"{name} must return a torch.Tensor, got {type(goal).__name__}")
        if goal.shape != x.shape:
            raise _shape_error(
                f"the tensor that {name} returned", tuple(goal.shape), tuple(x.shape)
            )
        _check_tensor(goal, f"the tensor that {name} returned", x)
        return goal.detach()
    missing = torch.isnan(target)
    nothing = missing.reshape(len(x), -1, *x.shape[1:]).all(1)
    if not torch.compiler.is_compiling() and bool(missing.any()):
        target = torch.where(missing, 0.0, target)
    return torch.where(nothing, math.nan, _contract(target, directions))


def _check_trainable(model: Model, total: Tensor) -> None:
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or total.requires_grad:
        return
    if any(p.requires_grad for module in modules_of(model)[:1] for p in module.parameters()):
        raise ValueError(
            "model has parameters to train but its output does not depend on them through "
            "autograd; look for detach(), torch.no_grad() or NumPy inside its forward"
        )


# --- order 2 of a piecewise-linear model ----------------------------------------------------------


def _leaves(tensor: Tensor) -> list[Tensor]:
    """The leaf tensors (parameters) in the graph of `tensor`."""
    found, seen, stack = [], set(), [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        stack.extend(parent for parent, _ in node.next_functions)
    return found


def _refuse_flat(model: Model, derivative: Tensor, j: int) -> None:
    """Refuse a derivative that is zero whatever the parameters, as far as autograd can see."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or bool(derivative.any()):
        return
    # Zero now may be an accident (a last layer that starts at 0): ask whether training moves it.
    leaves = _leaves(derivative) if derivative.requires_grad else []
    if leaves:
        grads = torch.autograd.grad(derivative.sum(), leaves, retain_graph=True, allow_unused=True)
        if any(grad is not None and bool(grad.any()) for grad in grads):
            return
    names = Counter(type(m).__name__ for m in modules_of(model) if isinstance(m, _PIECEWISE_LINEAR))
    found = ", ".join(f"{count} x {name}" for name, count in names.items()) or "see its forward"
    raise ValueError(
        f"order {j}: the derivative of order {j} of model is exactly 0 on the whole batch, and so "
        "is its gradient by the parameters, so the term cannot train anything. That is how a "
        f"piecewise-linear network (ReLU and the like; found: {found}) or an affine one behaves: "
        "its curvature is 0 wherever it exists. Use a smooth activation (SiLU, softplus, tanh), or "
        f"order={j - 1}, or weight 0 for order {j}"
    )


def _refuse_kink_kernels(model: Model) -> None:
    for module in modules_of(model):
        if type(module).__module__.rpartition(".")[2] == "kinks":
            raise ValueError(
                f"order 2 or more: model holds kinks.{type(module).__name__}, a piecewise-linear "
                "activation. Its kernel stands in for the movement of kinks in the gradient of an "
                "order-1 loss; it is no second derivative to be compared with a target. Use a "
                "smooth activation (SiLU, softplus, tanh) or order=1"
            )
