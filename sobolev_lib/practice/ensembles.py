"""Arms and seeds of a worked example, trained side by side and compared seed by seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sobolev_lib.fitting import fit_stack
from sobolev_lib.records.summary import Interval, difference
from sobolev_lib.stack import MLPStack

__all__ = ["Ensemble", "gains"]


class Ensemble:
    """SiLU networks d-32-32-1 of A arms and S seeds on data of one size.

    Of a seed all arms start alike.

    Each network is trained in its own units: inputs and values with mean 0 and variance 1 over its
    points, slopes by the chain rule.

    Parameters
    ----------
    x : Tensor
        Points (A, S, N, d), finite.
    y : Tensor
        Values (A, S, N); NaN where not measured.
    dy : Tensor
        Slopes (A, S, N, d); NaN where not measured.  An arm without any is trained on values only.
    weight : float
        Weight of the derivative term, in units of the training.
    **options
        For :func:`~sobolev_lib.fitting.fit_stack`: ``steps``, ``learning_rate``, ``batch_size``.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """

    def __init__(
        self, x: Tensor, y: Tensor, dy: Tensor, weight: float = 1.0, **options: Any
    ) -> None:
        if x.ndim != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}; needed is (arms, seeds, N, d)")
        for name, t, shape in (("y", y, x.shape[:3]), ("dy", dy, x.shape)):
            if t.shape != shape:
                raise ValueError(f"{name} has shape {tuple(t.shape)}; needed is {tuple(shape)}")
        self.shape = arms, seeds = tuple(x.shape[:2])
        x, y, dy = (t.double().flatten(0, 1) for t in (x, y, dy))
        self.x_mean, self.x_std = x.mean(1, keepdim=True), x.std(1, correction=0, keepdim=True)
        self.y_mean = y.nanmean(1, keepdim=True)
        self.y_std = (y - self.y_mean).square().nanmean(1, keepdim=True).sqrt()
        source = torch.Generator().manual_seed(0)
        draws = torch.randint(2**62, (seeds,), generator=source).tolist()
        self.stack = MLPStack(
            arms * seeds, x.shape[-1], (32, 32), "silu",
            generator=[torch.Generator().manual_seed(s) for _ in range(arms) for s in draws],
        )  # fmt: skip
        slopes = dy * self.x_std / self.y_std.unsqueeze(-1)
        known = slopes.isfinite().flatten(1).any(1)
        data = ((x - self.x_mean) / self.x_std, ((y - self.y_mean) / self.y_std).unsqueeze(-1))
        self.history = fit_stack(
            self.stack,
            (data[0].float(), data[1].float(), slopes.float()),
            torch.where(known, weight, 0.0),
            generator=source,
            **options,
        )

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Values (A, S, M) at x (M, d), in raw units."""
        found = self.stack(self._inner(x))[..., 0].double()
        return (self.y_mean + self.y_std * found).unflatten(0, self.shape)

    @torch.no_grad()
    def gradient(self, x: Tensor) -> Tensor:
        """Gradients (A, S, M, d) at x (M, d), in raw units."""
        found = self.stack.gradient(self._inner(x)).double()
        return (found * self.y_std.unsqueeze(-1) / self.x_std).unflatten(0, self.shape)

    def _inner(self, x: Tensor) -> Tensor:
        return ((x.double() - self.x_mean) / self.x_std).float()


def gains(errors: Mapping[str, Tensor], baseline: str) -> dict[str, Interval]:
    """Decades by which each arm's errors (S,) are below a baseline's, which is one of the arms."""
    logs = {name: dict(enumerate(e.log10().tolist())) for name, e in errors.items()}
    pairs = {name: difference(logs[baseline], own) for name, own in logs.items()}
    return {name: found for name, found in pairs.items() if found and name != baseline}
