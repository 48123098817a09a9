"""Train a stack of networks: Adam, a falling learning rate, batches, early stopping.

:class:`~sobolev_lib.stack.MLPStack` gives losses and gradients; this is the loop around them for
whoever has data and no wish to write one.  Each member may have data of its own, and part of it may
be held out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .checks import check_count, check_input, check_like, shape_error
from .stack import MLPStack

__all__ = ["Data", "History", "fit_stack"]

Data = tuple[Tensor, Tensor, Tensor | None]
"""Points (B, d) or (E, B, d), values (B, 1) or (E, B, 1), gradients like the points or None."""

CHECKS = 40
"""How often a training looks at its losses, held-out ones included."""


@dataclass
class History:
    """What a training leaves beside the weights.

    Attributes
    ----------
    steps : list of int
        Steps done when the losses were looked at.
    training, held_out : list of list of float
        Losses of each member: that of the last step's batch, before the step, and that of all the
        held-out rows, after it; nothing in ``held_out`` if nothing was held out.
    """

    steps: list[int] = field(default_factory=list)
    training: list[list[float]] = field(default_factory=list)
    held_out: list[list[float]] = field(default_factory=list)


def fit_stack(
    stack: MLPStack,
    data: Data,
    derivative_weight: float | Tensor = 1.0,
    *,
    steps: int = 2_000,
    learning_rate: float = 0.01,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    held_out: Data | None = None,
    patience: int | None = None,
    progress: bool = False,
) -> History:
    """Train all members of a stack at once; with held-out data each keeps its best weights.

    Parameters
    ----------
    stack : MLPStack
        Changed in place.
    data : tuple
        Points, values and gradients, see :data:`Data`, in the units of the stack.
    derivative_weight : float or Tensor
        As for :meth:`~sobolev_lib.stack.MLPStack.losses`.
    steps : int
        Steps of Adam.
    learning_rate : float
        Of the first step; it falls to 0 along half a cosine.
    batch_size : int, optional
        Points in a step, drawn without replacement from one shuffle an epoch, the same places for
        all members; all points unless given.
    generator : torch.Generator, optional
        Source of the shuffles; needed if batches are smaller than the data.
    held_out : tuple, optional
        Data that are not trained on, of the same form.  Each member ends with the weights that had
        the smallest loss there, among those that were looked at.
    patience : int, optional
        Stop when no member has got better on its held-out data for so many steps, rounded up to a
        multiple of ``steps / 40``: losses are looked at 40 times in a training.

    Raises
    ------
    ValueError
        If an option is not one of those above, the rows of the data do not belong together, points
        are not finite, targets are infinite (whatever their weight), or nothing was measured (all
        NaN).
    TypeError
        If data are no tensors, or not of one dtype.
    FloatingPointError
        If a loss is not finite any more.
    """
    check_count("steps", steps, 1)
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate is {learning_rate}; it must be positive and finite")
    if patience is not None:
        check_count("patience", patience, 1)
        if held_out is None:
            raise ValueError("patience needs held_out: data to see whether a member gets better")
    _check_data("data", data)
    if held_out is not None:
        _check_data("held_out", held_out)
    n = data[0].shape[-2]
    size = n if batch_size is None else min(check_count("batch_size", batch_size, 1), n)
    if size < n and generator is None:
        raise ValueError(f"batch_size is {size} of {n} points: a generator is needed to shuffle")
    optimiser = torch.optim.Adam(stack.parameters(), lr=learning_rate, fused=True)
    history, best = History(), _Best(stack)
    marks = {round(steps * (k + 1) / CHECKS) for k in range(CHECKS)}
    order = torch.empty(0, dtype=torch.long)
    for step in tqdm(range(steps), disable=not progress, unit="step"):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        batch = data
        if size < n:
            if len(order) < size:
                order = torch.randperm(n, generator=generator)
            batch, order = _rows(data, order[:size]), order[size:]
        optimiser.zero_grad()
        losses = stack.losses(*batch, derivative_weight)
        losses.sum().backward()
        optimiser.step()
        if step + 1 not in marks:
            continue
        if not bool(losses.isfinite().all()):
            raise FloatingPointError(
                f"training diverged before step {step + 1} of {steps}: try a learning_rate below "
                f"{learning_rate}"
            )
        history.steps.append(step + 1)
        history.training.append(losses.tolist())
        if held_out is not None:
            with torch.no_grad():
                found = stack.losses(*held_out, derivative_weight)
            history.held_out.append(found.tolist())
            best.see(found, step)
            if patience is not None and step - best.step >= patience:
                break
    if held_out is not None:
        best.restore()
    return history


class _Best:
    """The best weights so far of each member."""

    def __init__(self, stack: MLPStack) -> None:
        self.parameters = list(stack.parameters())
        self.kept = [p.detach().clone() for p in self.parameters]
        self.losses = self.parameters[0].new_full((stack.members,), math.inf)
        self.step = 0

    @torch.no_grad()
    def see(self, losses: Tensor, step: int) -> None:
        """Keep the members that are better than before."""
        better = losses < self.losses
        if bool(better.any()):
            self.step = step
        self.losses = torch.where(better, losses, self.losses)
        for kept, now in zip(self.kept, self.parameters, strict=True):
            kept[better] = now[better]

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back."""
        for kept, now in zip(self.kept, self.parameters, strict=True):
            now.copy_(kept)


def _check_data(name: str, data: Data) -> None:
    """Refuse data from which a training would learn nothing, or the wrong thing."""
    if len(data) != 3:
        raise ValueError(f"{name} must be (x, y, dy), dy may be None; got {len(data)} entries")
    x, y, dy = data
    targets = {"y": y} if dy is None else {"y": y, "dy": dy}
    check_input(x, f"x of {name}")
    if x.ndim < 2:
        raise shape_error(f"x of {name}", x.shape, "(B, d) or (E, B, d)")
    for part, target in targets.items():
        check_like(f"{part} of {name}", target, x)
        if target.ndim < 2 or target.shape[-2] != x.shape[-2]:
            last = 1 if part == "y" else x.shape[-1]
            needed = (*target.shape[:-2], x.shape[-2], last)
            raise shape_error(f"{part} of {name}", target.shape, needed)
        if bool(target.isinf().any()):
            raise ValueError(f"{part} of {name} holds infinity; set what was not measured to NaN")
    if all(bool(target.isnan().all()) for target in targets.values()):
        raise ValueError(f"nothing was measured in {name}: every target is NaN")


def _rows(data: Data, chosen: Tensor) -> Data:
    x, y, dy = data
    return (
        x.index_select(-2, chosen),
        y.index_select(-2, chosen),
        None if dy is None else dy.index_select(-2, chosen),
    )
