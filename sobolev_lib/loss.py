"""The Sobolev loss, Eq. 1, and its stochastic version, Eq. 2.

Source: sections 2 and 4.2 of Czarnecki et al. (2017), *Sobolev Training for Neural Networks*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import checks, kinks
from .derivatives import Backend, BatchCoupled, Model, refuse_flat, tower

ElementLoss = Callable[[Tensor, Tensor], Tensor]
Weight = float | Tensor
Target = Tensor | Callable[..., Tensor]
Reduction = Literal["mean", "sum", "none"]

__all__ = ["ELEMENT_LOSSES", "SobolevLoss", "unit_vectors"]


#: Element losses known by name; "huber" has delta = 1 in the units of the target.
ELEMENT_LOSSES: dict[str, ElementLoss] = {
    "l2": partial(F.mse_loss, reduction="none"),
    "l1": partial(F.l1_loss, reduction="none"),
    "huber": partial(F.huber_loss, reduction="none"),
}


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
        partial derivative; with `projections`, to (B, *in). A weight of 0 skips the term: its
        derivative is not computed and its target may be None. For a schedule assign to the
        attribute `weights`, or change a tensor in place.
    projections : int, optional
        None compares whole derivatives. k replaces each by its products with k directions drawn
        for each sample anew: v uniform on the unit sphere of the output space and, for orders
        above 1, further unit vectors of the input space, as in section 4.2 and Fig. 1b. Terms are
        averaged over the k draws, each of which evaluates the model.
    reduction : {"mean", "sum", "none"}
        "mean": mean over samples of the sum over components. "sum": sum over both. "none": one
        number for each sample. Missing targets do not change the divisor B of "mean".
    loss : str, callable, or sequence of K + 1 of them
        "l2" (squared difference), "l1", "huber" (delta 1), or a callable of (prediction, target)
        that returns one number for each component (the shape of the prediction) or for each
        sample, (B,). With `sobolev_lib.kinks` use "l2" for the derivatives: the kernel averages
        the residual on both sides of a kink, which is exact for squares only.
    rescale : bool
        For a unit vector of R^d, :math:`E\langle g, v\rangle^2 = |g|^2 / d`: a projected L2 term
        of order j is, in the mean, the whole one divided by out * prod(in)**(j - 1). True
        multiplies by that number: an unbiased estimate of Eq. 1. L2 only.
    generator : torch.Generator, optional
        Source of the directions.
    batch_coupled, backend
        As in `sobolev_lib.derivatives.value_and_derivatives`.

    Raises
    ------
    TypeError, ValueError
        For an option out of range; the message names it.

    Notes
    -----
    A NaN in a target means *not measured*: the component leaves value and gradient. A sample of
    which no derivative was measured is not differentiated at all (another one stands in for it), so
    it may lie where the model has no derivative. With `projections` an entry of the projected
    derivative is a sum; where some of its summands were measured, it runs over these on both sides,
    and such a batch costs what ``projections=None`` costs.

    float16 and bfloat16 are compared and summed in float32, and so is the result. Inside
    `torch.compile` and the transforms of `torch.func` the checks that look at data are not made.

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
        batch_coupled: BatchCoupled = "refuse",
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        checks.check_options(batch_coupled, backend)
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')
        if projections is not None:
            projections = checks.check_count("projections", projections, 1)
        self.order = checks.check_count("order", order, 0)
        self.projections, self.reduction, self.rescale = projections, reduction, rescale
        self.losses = _element_losses(loss, self.order)
        self.generator = generator
        self.batch_coupled: BatchCoupled = batch_coupled
        self.backend: Backend | None = backend
        if rescale and any(loss is not ELEMENT_LOSSES["l2"] for loss in self.losses[1:]):
            raise ValueError('rescale=True needs loss="l2" for the derivatives')
        self.weights = weights if weights is not None else (1.0,) * (self.order + 1)

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
            two models on the same directions, or in a compiled function.

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
            A wrong shape, an empty batch, infinity, NaN in x, a missing target, batch statistics,
            a layer without the derivatives that are needed, order 2 of a piecewise-linear model.
        """
        checks.check_input(x)
        targets = self._targets(x, y, dy)
        watched = _Watched(model)
        errors: dict[int, list[Tensor]] = {j: [] for j in targets}
        chains: Any = self._chains(directions) if self.projections and max(targets) else [None]
        for chain in chains:  # one draw of Eq. 2, or None: Eq. 1
            levels = self._levels(watched, x, targets, chain)
            for j, (mine, goal) in self._pairs(watched, x, targets, chain, levels).items():
                if j or not errors[0]:  # the values are the same in each draw
                    errors[j].append(self._error(j, mine, goal))
        scale = self._scales(levels[0].shape[1], x)
        terms = {
            f"order_{j}": self._reduce(torch.stack(found).mean(0) * scale[j])
            for j, found in errors.items()
        }
        total = torch.stack(list(terms.values())).sum(0)
        checks.check_trained(model, total, max(targets) > 0)
        return total, {name: term.detach() for name, term in terms.items()}

    def _levels(
        self, model: _Watched, x: Tensor, targets: dict[int, Any], chain: list[Tensor] | None
    ) -> list[Tensor]:
        """m, D m, ..., or m, <D m, v>, ... along a chain, up to the highest order wanted."""
        top = max(targets)
        if top >= 2:
            _refuse_kinks(model.model)

        def along(m: Tensor) -> list[Tensor]:
            assert chain is not None
            if not chain:
                chain.extend(self._chain(x, m.shape[1], top))
            checks.check_chain(chain, m, x, top)
            return chain

        given = [target for j, target in targets.items() if j] or [targets[0]]
        points = self._stand_in(x, given)
        directed = None if chain is None else along
        levels = list(tower(model, points, top, directed, self.batch_coupled, self.backend))
        if points is not x and top and 0 in targets:
            (levels[0],) = tower(model, self._stand_in(x, [targets[0]]), 0)
        for j in range(2, top + 1):
            if j in targets and checks.readable(levels[j]) and not bool(levels[j].any()):
                refuse_flat(model.model, x, j)
        return levels

    def _pairs(
        self,
        model: _Watched,
        x: Tensor,
        targets: dict[int, Any],
        chain: list[Tensor] | None,
        levels: list[Tensor],
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """What is compared: D^j m with D^j f, or both along the chain."""
        pairs, out, inputs = {}, levels[0].shape[1], x.shape[1:]
        for j, target in targets.items():
            mine, name, along = levels[j], self._name(j), (chain or [])[:j]
            if not isinstance(target, Tensor):
                name = f"the tensor that {name} returned"
                goal = model.fit(name, self._constant(name, target(*along), x), x.shape)
            else:
                goal = model.fit(name, target, (len(x), out, *inputs * j))
                if along and _mixed(goal, x):
                    model.whole = model.whole or self._levels(model, x, targets, None)
                    mine = _contract(model.whole[j].masked_fill(goal.isnan(), 0.0), along)
                goal = _projected_target(goal, along, x) if along else goal
            pairs[j] = mine, goal
        return pairs

    def _scales(self, out: int, x: Tensor) -> list[int]:
        """What makes the projected loss of each order an estimate of the whole one."""
        if not (self.rescale and self.projections):
            return [1] * (self.order + 1)
        return [1, *(out * math.prod(x.shape[1:]) ** (j - 1) for j in range(1, self.order + 1))]

    def _stand_in(self, x: Tensor, targets: Sequence[Any]) -> Tensor:
        """`x` with another sample in place of each of which nothing was measured.

        Masked errors have the gradient 0, and 0 times the infinite slope of a root at 0 is NaN.
        """
        known = all(isinstance(t, Tensor) and t.is_floating_point() for t in targets)
        if not known or any(len(t) != len(x) for t in targets) or not checks.readable(x, *targets):
            return x
        measured = torch.stack([(~t.isnan()).reshape(len(x), -1).any(1) for t in targets]).any(0)
        if self.batch_coupled == "allow" or bool(measured.all()) or not bool(measured.any()):
            return x
        return torch.where(measured.view(-1, *[1] * (x.ndim - 1)), x, x[measured][:1])

    def _error(self, j: int, prediction: Tensor, target: Tensor) -> Tensor:
        """w_j l_j, summed over the components of each sample: (B,)."""
        element, weight, name = self.losses[j], self._weights[j], self._name(j)
        prediction, target = checks.wide(prediction), checks.wide(target)
        if self._labels(j, target):
            missing = torch.zeros((), dtype=torch.bool, device=target.device)
            errors = element(prediction, target)
        else:
            missing = target.isnan()
            checks.refuse_singular(j, name, prediction, missing)
            # Both sides are cleaned before the loss: a NaN would survive a multiplication by 0.
            errors = element(
                torch.where(missing, 0.0, prediction), torch.where(missing, 0.0, target)
            )
        checks.check_errors(j, errors, prediction)
        if isinstance(weight, Tensor):
            weight = weight.to(errors)
        if errors.shape != prediction.shape:
            checks.check_per_sample(j, name, missing, weight)
            return errors * weight
        if isinstance(weight, Tensor):
            checks.check_broadcast(j, weight, errors)
        return (torch.where(missing, 0.0, errors) * weight).reshape(len(errors), -1).sum(1)

    def _reduce(self, error: Tensor) -> Tensor:
        if self.reduction == "mean":
            return error.mean()
        return error.sum() if self.reduction == "sum" else error

    # --- directions, weights, targets ------------------------------------------------------------

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
        top = max((j for j in range(self.order + 1) if self._wanted(j)), default=0)
        return [self._chain(x, out, top) for _ in range(self.projections or 0)]

    def _chains(self, given: Any) -> list[list[Tensor]]:
        """The given chains, or empty ones: they are drawn when the number of outputs is known."""
        chains = [list(chain) for chain in given or []]
        if given is not None and not all(chains or [[]]):
            raise ValueError("directions is empty; give at least one chain")
        return chains or [[] for _ in range(self.projections or 0)]

    def _chain(self, x: Tensor, out: int, top: int) -> list[Tensor]:
        shapes = [(out,), *[x.shape[1:]] * (top - 1)]
        return [unit_vectors(len(x), shape, x, self.generator) for shape in shapes]

    @property
    def weights(self) -> tuple[Weight, ...]:
        """One weight for each order, 0 first."""
        return tuple(self._weights)

    @weights.setter
    def weights(self, weights: Sequence[Weight]) -> None:
        if isinstance(weights, Tensor) or len(weights) != self.order + 1:
            got = "a tensor" if isinstance(weights, Tensor) else len(weights)
            needed = f"a sequence of order + 1 = {self.order + 1} entries, order 0 first"
            raise ValueError(f"weights must be {needed}, got {got}")
        self._weights = [checks.check_weight(j, weight) for j, weight in enumerate(weights)]

    def extra_repr(self) -> str:
        """The options, for printing."""
        return (
            f"order={self.order}, weights={self.weights}, projections={self.projections}, "
            f"reduction={self.reduction!r}, rescale={self.rescale}"
        )

    def _wanted(self, j: int) -> bool:
        weight = checks.check_weight(j, self._weights[j])  # a tensor may have changed in place
        if isinstance(weight, Tensor):
            return not checks.readable(weight) or bool(weight.any())
        return weight != 0

    def _name(self, j: int) -> str:
        return "y" if j == 0 else "dy" if self.order == 1 else f"dy[{j - 1}]"

    def _labels(self, j: int, target: Tensor) -> bool:
        named = self.losses[0] in ELEMENT_LOSSES.values()
        return j == 0 and not named and not target.dtype.is_floating_point

    def _targets(self, x: Tensor, y: Any, dy: Any) -> dict[int, Any]:
        """The targets of the orders whose weight is not 0, checked except for their shapes."""
        dy = [dy] if isinstance(dy, Tensor) or callable(dy) else dy
        dy = [None] * self.order if dy is None else dy
        if not isinstance(dy, (tuple, list)):
            kind = type(dy).__name__
            raise TypeError(f"dy must be a tensor or a sequence of tensors, got {kind}")
        if len(dy) != self.order:
            needed = f"one entry for each order from 1 to {self.order}"
            raise ValueError(f"dy must have {needed}, got {len(dy)}")
        wanted = {j: target for j, target in enumerate((y, *dy)) if self._wanted(j)}
        if not wanted:
            raise ValueError(f"weights are all zero: {self.weights}; nothing is left to minimise")
        return {j: self._target(j, target, x) for j, target in wanted.items()}

    def _target(self, j: int, target: Any, x: Tensor) -> Any:
        name = self._name(j)
        if target is None:
            raise ValueError(
                f"{name} is missing but the weight of order {j} is not 0; give the target (NaN "
                "where it was not measured) or set the weight to 0"
            )
        if isinstance(target, Tensor) and self._labels(j, target):
            return target
        if j and callable(target) and not isinstance(target, Tensor):
            if self.projections is None:
                raise ValueError(f"{name} is a callable of directions: set projections")
            return target
        return self._constant(name, target, x)

    def _constant(self, name: str, target: Any, x: Tensor) -> Tensor:
        checks.check_like(name, target, x)
        if checks.readable(target) and bool(target.isinf().any()):
            raise ValueError(f"{name} holds infinity; set what was not measured to NaN")
        return target.detach()


class _Watched:
    """The model in one call of the loss.

    If it returns (B,) targets may lack the axis `out` as well.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.flat = model, False
        self.whole: list[Tensor] = []  # its derivatives, once they have been needed

    def __call__(self, x: Tensor) -> Tensor:
        m = self.model(x)
        if not torch.compiler.is_compiling():
            self.flat = isinstance(m, Tensor) and m.ndim == 1
        return m

    def fit(self, name: str, target: Tensor, shape: Sequence[int]) -> Tensor:
        """`target` in the shape of the prediction, without broadcasting."""
        if not target.is_floating_point():  # class labels
            shape = (shape[0], *target.shape[1:])
        elif self.flat and target.ndim == len(shape) - 1:
            target = target.unsqueeze(1)
        if tuple(target.shape) != tuple(shape):
            raise checks.shape_error(name, target.shape, shape)
        return target


def _element_losses(loss: Any, order: int) -> list[ElementLoss]:
    """One element loss for each order."""
    given = list(loss) if isinstance(loss, (tuple, list)) else [loss] * (order + 1)
    if len(given) != order + 1:
        raise ValueError(f"loss must have order + 1 = {order + 1} entries, got {len(given)}")
    for entry in given:
        if entry not in ELEMENT_LOSSES and not callable(entry):
            names = sorted(ELEMENT_LOSSES)
            raise ValueError(f"loss must be one of {names} or callable, got {entry!r}")
    return [ELEMENT_LOSSES.get(entry, entry) for entry in given]


# --- projections ----------------------------------------------------------------------------------


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
    dtype = checks.wide(like[:0]).dtype
    vectors = torch.randn(batch, *shape, generator=generator, dtype=dtype, device=device)
    flat = vectors.to(like.device).reshape(batch, -1)
    unit = flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return unit.reshape(batch, *shape).to(like.dtype)


def _contract(tensor: Tensor, chain: Sequence[Tensor]) -> Tensor:
    """<T, v (x) u_2 (x) ...>: every block of axes but the last, one direction each."""
    tensor = checks.wide(tensor)
    for direction in chain:
        batch, block = len(direction), direction[0].numel()
        rest = tensor.shape[direction.ndim :]
        flat = tensor.reshape(batch, block, -1)
        tensor = (direction.reshape(batch, block, 1) * flat).sum(1).reshape(batch, *rest)
    return tensor


def _mixed(target: Tensor, x: Tensor) -> bool:
    """Whether some but not all summands of an entry of the projection were not measured."""
    if not checks.readable(target):
        return False
    summands = target.isnan().reshape(len(x), -1, *x.shape[1:])  # the last block is not summed over
    return bool((summands.any(1) != summands.all(1)).any())


def _projected_target(target: Tensor, chain: Sequence[Tensor], x: Tensor) -> Tensor:
    """The projected target (B, *in), NaN where no summand was measured (compiled: where any)."""
    missing = target.isnan()
    nothing = missing.reshape(len(x), -1, *x.shape[1:]).all(1)
    if checks.readable(target):
        target = torch.where(missing, 0.0, target)
    return torch.where(nothing, math.nan, _contract(target, chain))


def _refuse_kinks(model: Any) -> None:
    """Refuse the kernels of `sobolev_lib.kinks` where second derivatives are compared."""
    for module in checks.modules_of(model):
        if isinstance(module, (kinks.ReLU, kinks.LeakyReLU)):
            raise ValueError(
                f"order 2 or more: the kernel of kinks.{type(module).__name__} stands for the "
                "movement of kinks in the gradient of an order-1 loss; it is no second "
                "derivative. Use a smooth activation (SiLU, softplus, tanh) or order=1"
            )
