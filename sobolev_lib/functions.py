"""The seven benchmark functions of section 4.1, with exact gradients.

Formulae and domains are those of the paper's supplement, section 2.  All are written in closed
form, gradients too, so that the derivative targets of the regression experiment carry no error of
their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_choice

Domain = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class BenchmarkFunction:
    """A function of the plane with its exact gradient and its domain.

    Parameters
    ----------
    name : str
        Key in :data:`FUNCTIONS`.
    title : str
        Name for figures and tables.
    domain : tuple
        ``((x_lo, x_hi), (y_lo, y_hi))``.
    formula : str
        LaTeX, in the letters of the supplement.
    value, slope : callable
        ``value(x, y)`` and ``slope(x, y)`` on tensors of equal shape; ``slope`` returns both
        partial derivatives.
    """

    name: str
    title: str
    domain: Domain
    formula: str
    value: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def __call__(self, x: Tensor) -> Tensor:
        """Values at ``x`` (..., 2), shape (..., 1)."""
        self._check(x)
        return self.value(x[..., 0], x[..., 1]).unsqueeze(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """Gradients at ``x`` (..., 2), same shape as ``x``."""
        self._check(x)
        return torch.stack(self.slope(x[..., 0], x[..., 1]), dim=-1)

    def sample(
        self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw ``n`` points uniformly from the domain, shape (n, 2).

        They are drawn in float64 and rounded, so that every dtype sees the same points.
        """
        if n < 1:
            raise ValueError(f"n is {n}; at least 1 point is needed")
        low, high = torch.tensor(self.domain, dtype=torch.float64).T
        u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        return (low + (high - low) * u).to(dtype)

    def grid(self, points: int, centres: bool = False) -> Tensor:
        """Points on a regular grid of the domain (points, points, 2) in float64.

        The first index is y, the second x. It includes the edges of the domain, or holds the
        centres of equal cells.
        """
        if points < 1 + (not centres):
            raise ValueError(f"points is {points}; at least {1 + (not centres)} are needed")
        places = (
            (torch.arange(points, dtype=torch.float64) + 0.5) / points
            if centres
            else torch.linspace(0, 1, points, dtype=torch.float64)
        )
        x, y = (low + (high - low) * places for low, high in self.domain)
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)

    def _check(self, x: Tensor) -> None:
        if x.ndim < 1 or x.shape[-1] != 2:
            raise ValueError(f"x has shape {tuple(x.shape)}; {self.name} needs (B, 2)")
        if not x.is_floating_point():
            raise TypeError(f"x has dtype {x.dtype}; {self.name} needs a floating-point tensor")


def _ackley(x: Tensor, y: Tensor) -> Tensor:
    radius = torch.sqrt(0.5 * (x**2 + y**2))
    waves = 0.5 * (torch.cos(2 * math.pi * x) + torch.cos(2 * math.pi * y))
    return -20 * torch.exp(-0.2 * radius) - torch.exp(waves) + math.e + 20


def _ackley_slope(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    radius = torch.sqrt(0.5 * (x**2 + y**2))
    # The cone's tip has no gradient: 0 is the mean of its directional slopes (autograd gives NaN).
    cone = torch.where(radius > 0, 2 * torch.exp(-0.2 * radius) / radius.clamp_min(1e-300), 0.0)
    waves = math.pi * torch.exp(0.5 * (torch.cos(2 * math.pi * x) + torch.cos(2 * math.pi * y)))
    return (
        cone * x + waves * torch.sin(2 * math.pi * x),
        cone * y + waves * torch.sin(2 * math.pi * y),
    )


def _beale(x: Tensor, y: Tensor) -> Tensor:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _beale_slope(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    return (
        2 * (a * (y - 1) + b * (y**2 - 1) + c * (y**3 - 1)),
        2 * x * (a + 2 * b * y + 3 * c * y**2),
    )


def _booth(x: Tensor, y: Tensor) -> Tensor:
    return (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2


def _booth_slope(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    a, b = x + 2 * y - 7, 2 * x + y - 5
    return 2 * a + 4 * b, 4 * a + 2 * b


def _bukin(x: Tensor, y: Tensor) -> Tensor:
    return 100 * torch.sqrt(torch.abs(y - 0.01 * x**2)) + 0.01 * torch.abs(x + 10)


def _bukin_slope(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    u = y - 0.01 * x**2
    # On the valley u = 0 the slope is infinite; 0 keeps a sample that hits it (improbable) finite.
    root = torch.where(u != 0, 50 * torch.sign(u) / torch.sqrt(torch.abs(u)).clamp_min(1e-300), 0.0)
    return -0.02 * x * root + 0.01 * torch.sign(x + 10), root


def _mccormick(x: Tensor, y: Tensor) -> Tensor:
    return torch.sin(x + y) + (x - y) ** 2 - 1.5 * x + 2.5 * y + 1


def _mccormick_slope(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    wave, bowl = torch.cos(x + y), 2 * (x - y)
    return wave + bowl - 1.5, wave - bowl + 2.5


def _rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    return 100 * (y - x**2) ** 2 + (x - 1) ** 2


def _rosenbrock_slope(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    valley = y - x**2
    return -400 * x * valley + 2 * (x - 1), 200 * valley


def _styblinski_tang(x: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (x**4 - 16 * x**2 + 5 * x + y**4 - 16 * y**2 + 5 * y)


def _styblinski_tang_slope(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * x**3 - 16 * x + 2.5, 2 * y**3 - 16 * y + 2.5


FUNCTIONS: dict[str, BenchmarkFunction] = {
    f.name: f
    for f in (
        BenchmarkFunction(
            "ackley", "Ackley", ((-5.0, 5.0), (-5.0, 5.0)),
            r"-20\exp\left(-0.2\sqrt{0.5(x^2+y^2)}\right)"
            r"-\exp\left(0.5(\cos 2\pi x+\cos 2\pi y)\right)+e+20",
            _ackley, _ackley_slope,
        ),
        BenchmarkFunction(
            "beale", "Beale", ((-4.5, 4.5), (-4.5, 4.5)),
            r"(1.5-x+xy)^2+(2.25-x+xy^2)^2+(2.625-x+xy^3)^2", _beale, _beale_slope,
        ),
        BenchmarkFunction(
            "booth", "Booth", ((-10.0, 10.0), (-10.0, 10.0)),
            r"(x+2y-7)^2+(2x+y-5)^2", _booth, _booth_slope,
        ),
        BenchmarkFunction(
            "bukin", "Bukin", ((-15.0, -5.0), (-3.0, 3.0)),
            r"100\sqrt{|y-0.01x^2|}+0.01|x+10|", _bukin, _bukin_slope,
        ),
        BenchmarkFunction(
            "mccormick", "McCormick", ((-1.5, 4.0), (-3.0, 4.0)),
            r"\sin(x+y)+(x-y)^2-1.5x+2.5y+1", _mccormick, _mccormick_slope,
        ),
        BenchmarkFunction(
            "rosenbrock", "Rosenbrock", ((-2.0, 2.0), (-2.0, 2.0)),
            r"100(y-x^2)^2+(x-1)^2", _rosenbrock, _rosenbrock_slope,
        ),
        BenchmarkFunction(
            "styblinski_tang", "Styblinski-Tang", ((-5.0, 5.0), (-5.0, 5.0)),
            r"0.5(x^4-16x^2+5x+y^4-16y^2+5y)", _styblinski_tang, _styblinski_tang_slope,
        ),
    )
}  # fmt: skip
"""The seven functions of section 4.1, by name."""


def get(name: str) -> BenchmarkFunction:
    """Return the function called ``name``; raise ``ValueError`` that lists the names otherwise."""
    check_choice("function", name, FUNCTIONS)
    return FUNCTIONS[name]
