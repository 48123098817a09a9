"""The Sobolev loss, Eq. 1, and its stochastic version, Eq. 2.

Source: sections 2 and 4.2 of Czarnecki et al. (2017), *Sobolev Training for Neural Networks*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
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
DROPOUT = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout
)  # fmt: skip

__all__ = ["ELEMENT_LOSSES", "SobolevLoss", "unit_vectors"]


def _l2(prediction: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(prediction, target, reduction="none")


def _l1(prediction: Tensor, target: Tensor) -> Tensor:
    return F.l1_loss(prediction, target, reduction="none")


def _huber(prediction: Tensor, target: Tensor) -> Tensor:
    return F.huber_loss(prediction, target, reduction="none")


#: Element losses known by name; "huber" has delta = 1 in the units of the target.
ELEMENT_LOSSES: dict[str, ElementLoss] = {"l2": _l2, "l1": _l1, "huber": _huber}


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
        that broadcasts to the derivative, (B, out, *in, ...), with `projections` to (B, *in): one
        weight for each partial derivative. They are constants. With weight 0 the derivative is not
        computed and its target may be None. For a schedule assign to `weights`, or change a tensor
        in place.
    projections : int, optional
        None compares whole derivatives. k compares the mean over k draws, each of which evaluates
        the model, of products with directions uniform on unit spheres, new for each sample: v of
        the output space and, above order 1, others of the input space (section 4.2, Fig. 1b).
    reduction : {"mean", "sum", "none"}
        "mean": mean over samples of the sum over components. "sum": sum over both. "none": one
        number for each sample. Missing targets do not change the divisor B of "mean".
    loss : str, callable, or sequence of K + 1 of them
        "l2" (squared difference), "l1", "huber" (delta 1), or a callable of (prediction, target)
        with one number for each component (the shape of the prediction) or sample, (B,). With
        `sobolev_lib.kinks` use "l2" for the derivatives: its kernel averages the residual on both
        sides of a kink, which is exact for squares only.
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
    it may lie where the model has none. The values are then another evaluation of the model, so one
    with `nn.Dropout` or a scaled kink has no stand-in while it trains. Where some summands of a
    projected derivative were measured, both sides sum over these; such a batch costs what
    ``projections=None`` costs.

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
        checks.check_choice("reduction", reduction, ("mean", "sum", "none"))
        if generator is not None and not isinstance(generator, torch.Generator):
            kind = type(generator).__name__
            raise TypeError(f"generator must be a torch.Generator, got {kind}")
        if projections is not None:
            projections = checks.check_count("projections", projections, 1)
        self.order = checks.check_count("order", order, 0)
        self.projections, self.reduction, self.rescale = projections, reduction, rescale
        self.generator, self.batch_coupled, self.backend = generator, batch_coupled, backend
        self.weights = weights if weights is not None else (1.0,) * (self.order + 1)
        each = loss if isinstance(loss, (tuple, list)) else [loss] * (self.order + 1)
        self.losses: list[Any] = [ELEMENT_LOSSES.get(one, one) for one in self._each("loss", each)]
        if own := [one for one in self.losses if isinstance(one, nn.Module)]:
            self.loss_modules = nn.ModuleList(own)  # so that their weights follow .to()
        for one in self.losses:
            if not callable(one):
                raise ValueError(
                    f"loss must be one of {(*ELEMENT_LOSSES,)} or callable, got {one!r}"
                )
        if rescale and any(one is not ELEMENT_LOSSES["l2"] for one in self.losses[1:]):
            raise ValueError('rescale=True needs loss="l2" for the derivatives')

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
            `projections` an entry may be a callable of the directions, (B, out) and then (B, *in),
            that returns the projected target (B, *in): a teacher network need not compute its whole
            Jacobian, ``dy=lambda v: derivatives.project(teacher, x, v)``. For a model that returns
            (B,) the axis `out` may be left out, except under `torch.compile`. Targets are
            constants: no gradient flows into them.
        directions : sequence of sequences of Tensor, optional
            The directions to project on, as `draw` returns them, instead of new ones: to compare
            two models on the same directions, or in a compiled function. Only with `projections`.

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
        if directions is not None and self.projections is None:
            raise ValueError("directions are given but projections is None; set projections")
        if directions is not None:
            checks.check_directions(directions, x)
        batch = _Batch(model, x, self._targets(x, y, dy), directions)
        errors: dict[int, list[Tensor]] = {j: [] for j in batch.targets}
        projecting = self.projections if batch.top else None
        draws = range(len(batch.chains) or projecting) if projecting else [None]
        for draw in draws:  # of Eq. 2; None: Eq. 1
            levels = self._levels(batch, draw)
            for j, found in errors.items():
                if j or not found:  # the values are the same in each draw
                    found.append(self._error(j, *self._pair(j, batch, levels, draw)))
        reduce: Any = {"mean": torch.mean, "sum": torch.sum}.get(self.reduction, torch.clone)
        terms = {}
        for j, found in errors.items():
            error = torch.stack(found).mean(0)
            if j and projecting and self.rescale:  # to estimate the whole term
                error = error * (levels[0].shape[1] * math.prod(x.shape[1:]) ** (j - 1))
            terms[f"order_{j}"] = reduce(error)
        total = torch.stack(list(terms.values())).sum(0)
        checks.check_trained(model, total, batch.top > 0)
        return total, {name: term.detach() for name, term in terms.items()}

    def _levels(self, batch: _Batch, draw: Any) -> list[Tensor]:
        """m, D m, ..., or m, <D m, v>, ... along a chain, up to the highest order wanted."""
        x, targets, top = batch.x, batch.targets, batch.top

        def along(m: Tensor) -> Sequence[Tensor]:
            if not batch.chains:
                batch.chains += self.draw(x, m.shape[1])
            checks.check_chain(batch.chains[draw], m, x, top)
            return batch.chains[draw]

        points = self._stand_in(batch, [t for j, t in targets.items() if j or not top])
        directed = None if draw is None else along
        levels = list(tower(batch, points, top, directed, self.batch_coupled, self.backend))
        if points is not x and top and 0 in targets:
            (levels[0],) = tower(batch, self._stand_in(batch, [targets[0]]), 0)
        for j in targets:
            if j > 1 and checks.readable(levels[j]) and not bool(levels[j].any()):
                refuse_flat(batch.model, x, j)
        return levels

    def _pair(self, j: int, batch: _Batch, levels: list[Tensor], draw: Any) -> Sequence[Tensor]:
        """What is compared: D^j m with D^j f, or both along the chain."""
        x, target, name = batch.x, batch.targets[j], self._name(j)
        along = [] if draw is None else batch.chains[draw][:j]
        if not isinstance(target, Tensor):
            name = f"the tensor that {name} returned"
            return levels[j], batch.fit(name, _constant(name, target(*along), x), x.shape)
        goal = batch.fit(name, target, (len(x), levels[0].shape[1], *x.shape[1:] * j))
        projected, mixed = _project(goal, along, x) if along else (goal, False)
        if not mixed:
            return levels[j], projected
        batch.whole = batch.whole or self._levels(batch, None)
        return _contract(batch.whole[j].masked_fill(goal.isnan(), 0), along), projected

    def _error(self, j: int, prediction: Tensor, target: Tensor) -> Tensor:
        """w_j l_j, summed over the components of each sample: (B,)."""
        element, weight, name = self.losses[j], self._weights[j], self._name(j)
        prediction, target = checks.wide(prediction), checks.wide(target)
        measurable = target.is_floating_point()  # or else class labels
        missing = target.isnan() if measurable else target.new_zeros((), dtype=torch.bool)
        checks.refuse_singular(j, name, prediction, missing)
        # Both sides are cleaned before the loss: a NaN would survive a multiplication by 0.
        errors = element(prediction.masked_fill(missing, 0), target.masked_fill(missing, 0))
        checks.check_errors(j, errors, prediction)
        weight = weight.to(errors) if isinstance(weight, Tensor) else weight
        if errors.shape != prediction.shape:
            checks.check_per_sample(j, name, missing, weight)
            return errors * weight
        checks.check_broadcast(j, weight, errors)
        return (errors.masked_fill(missing, 0) * weight).reshape(len(errors), -1).sum(1)

    def _stand_in(self, batch: _Batch, targets: Sequence[Any]) -> Tensor:
        """`x` with another sample in place of each of which nothing was measured.

        Masked errors have the gradient 0, and 0 times the infinite slope of a root at 0 is NaN.
        """
        x = batch.x
        if self.batch_coupled == "allow" or batch.changing:
            return x
        known = all(isinstance(t, Tensor) and t.is_floating_point() for t in targets)
        if not known or any(len(t) != len(x) for t in targets) or not checks.readable(x, *targets):
            return x
        measured = torch.stack([(~t.isnan()).reshape(len(x), -1).any(1) for t in targets]).any(0)
        if bool(measured.all()) or not bool(measured.any()):
            return x
        return torch.where(measured.view(-1, *[1] * (x.ndim - 1)), x, x[measured][:1])

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
        shapes, draws = [(out,), *[x.shape[1:]] * (top - 1)], range(self.projections or 0)
        return [[unit_vectors(len(x), s, x, self.generator) for s in shapes] for _ in draws]

    @property
    def weights(self) -> tuple[Weight, ...]:
        """One weight for each order, 0 first."""
        return tuple(self._weights)

    @weights.setter
    def weights(self, weights: Sequence[Weight]) -> None:
        given = enumerate(self._each("weights", weights))
        self._weights = [checks.check_weight(j, weight) for j, weight in given]

    def _each(self, name: str, given: Any, first: int = 0) -> Sequence[Any]:
        """`given`, which has to have one entry for each order from `first` on."""
        needed = f"{name} must be a sequence, one entry for each order from {first} to {self.order}"
        other = (Tensor, str, Mapping, Set)
        if isinstance(given, other) or not hasattr(given, "__len__"):
            raise TypeError(f"{needed}, got {type(given).__name__}")
        if len(given) != self.order + 1 - first:
            raise ValueError(f"{needed}, got {len(given)}")
        return given

    def extra_repr(self) -> str:
        """The options, for printing."""
        names = ("order", "weights", "projections", "reduction", "rescale")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _wanted(self, j: int) -> bool:
        weight = checks.check_weight(j, self._weights[j])  # a tensor may have changed in place
        if isinstance(weight, Tensor):
            return not checks.readable(weight) or bool(weight.any())
        return weight != 0

    def _name(self, j: int) -> str:
        return "y" if j == 0 else "dy" if self.order == 1 else f"dy[{j - 1}]"

    def _targets(self, x: Tensor, y: Any, dy: Any) -> dict[int, Any]:
        """The targets of the orders whose weight is not 0, checked except for their shapes."""
        dy = [None] * self.order if dy is None else dy if isinstance(dy, (tuple, list)) else [dy]
        if len(dy) and self.order == 0:
            raise ValueError("dy is given but order is 0: leave it out, or set order=1")
        wanted = {j: t for j, t in enumerate((y, *self._each("dy", dy, 1))) if self._wanted(j)}
        if not wanted:
            raise ValueError(f"weights are all zero: {self.weights}; nothing is left to minimise")
        return {j: self._target(j, target, x) for j, target in wanted.items()}

    def _target(self, j: int, target: Any, x: Tensor) -> Any:
        name = self._name(j)
        if target is None:
            raise ValueError(f"{name} is missing but the weight of order {j} is not 0; give it")
        if j and callable(target):
            if self.projections is None:
                raise ValueError(f"{name} is a callable of directions: set projections")
            return target
        own = j == 0 and self.losses[0] not in ELEMENT_LOSSES.values()
        if own and isinstance(target, Tensor) and not target.is_floating_point():
            return target  # class labels
        return _constant(name, target, x)


class _Batch:
    """What one call of the loss is about: the model at x and its targets by order.

    If the model returns (B,) the targets may lack the axis `out` as well.
    """

    def __init__(self, model: Model, x: Tensor, targets: dict[int, Any], chains: Any) -> None:
        self.model, self.x, self.targets, self.top = model, x, targets, max(targets)
        if chains is not None and not len(chains):
            raise ValueError("directions is empty; give at least one chain")
        self.chains = list(chains or [])  # if empty, drawn when the number of outputs is known
        self.flat = False
        self.whole: list[Tensor] = []  # the derivatives of Eq. 1, where a draw needs them, too
        self.changing = False  # whether two evaluations may differ
        for module in checks.modules_of(model):
            kinked = isinstance(module, (kinks.ReLU, kinks.LeakyReLU))
            changes = isinstance(module, DROPOUT) or (kinked and bool(module.scaled))
            self.changing = self.changing or (changes and module.training)
            if kinked and self.top > 1:
                raise ValueError(
                    f"order {self.top}: kinks.{module} has no second derivative; use a smooth unit"
                )

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


def _constant(name: str, target: Any, x: Tensor) -> Tensor:
    checks.check_like(name, target, x)
    if checks.readable(target) and bool(target.isinf().any()):
        raise ValueError(f"{name} holds infinity; set what was not measured to NaN")
    return target.detach()


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
        batch, rest = len(direction), tensor.shape[direction.ndim :]
        flat = tensor.reshape(batch, direction[0].numel(), -1)
        tensor = (direction.reshape(batch, -1, 1) * flat).sum(1).reshape(batch, *rest)
    return tensor


def _project(target: Tensor, chain: Sequence[Tensor], x: Tensor) -> tuple[Tensor, bool]:
    """The projected target, NaN where no summand was measured, and whether some, not all, were."""
    if not checks.readable(target):
        return _contract(target, chain), False  # NaN where any summand is
    missing = target.isnan()
    summands = missing.reshape(len(x), -1, *x.shape[1:])  # the last block is not summed over
    nothing = summands.all(1)
    found = _contract(target.masked_fill(missing, 0), chain)
    return torch.where(nothing, math.nan, found), bool((summands.any(1) != nothing).any())
