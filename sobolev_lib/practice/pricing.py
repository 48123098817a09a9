r"""Option payoffs along simulated paths, with four kinds of labels for the slope.

The market is that of Black and Scholes without interest: from the spot s the price at maturity T is
:math:`S_T = s \exp(-\sigma^2 T/2 + \sigma \sqrt T Z)` with a standard normal Z.  One path for each
spot gives a noisy payoff, whose expectation is the price of the option; so a regression on payoffs
learns the price.  A label for the slope is *unbiased* if its expectation is the slope of the price
(Huge and Savine 2020; Glasserman and Karmarkar 2025).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import ndtr

from sobolev_lib import kinks
from sobolev_lib.checks import check_choice

__all__ = ["LABELS", "PAYOFFS", "Market", "Paths", "blurred", "step"]

PAYOFFS = ("call", "digital")
LABELS = ("pathwise", "kernel", "likelihood_ratio")


@dataclass(frozen=True)
class Market:
    r"""A market and the options on it.

    Parameters
    ----------
    strike : float
        K: the call pays max(S_T - K, 0), the digital option 1 if S_T > K.
    volatility : float
        :math:`\sigma`, for the square root of a year.
    maturity : float
        T, in years.
    low, high : float
        Spots are uniform between these.

    Raises
    ------
    ValueError
        If a number is not positive and finite, or ``high`` is not above ``low``.
    """

    strike: float = 100.0
    volatility: float = 0.2
    maturity: float = 1.0
    low: float = 60.0
    high: float = 140.0

    def __post_init__(self) -> None:
        for name in ("strike", "volatility", "maturity", "low"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive and finite")
        if not self.low < self.high < math.inf:
            raise ValueError(f"high is {self.high}; it must be finite and above low, {self.low}")

    @property
    def spread(self) -> float:
        """Standard deviation of the logarithm of S_T."""
        return self.volatility * math.sqrt(self.maturity)

    def price(self, payoff: str, spot: Tensor) -> Tensor:
        """Price in closed form (Black and Scholes), same shape as ``spot``."""
        check_choice("payoff", payoff, PAYOFFS)
        upper, lower = self._quantiles(spot)
        if payoff == "digital":
            return ndtr(lower)
        return spot * ndtr(upper) - self.strike * ndtr(lower)

    def delta(self, payoff: str, spot: Tensor) -> Tensor:
        """Slope of the price with respect to the spot, in closed form."""
        check_choice("payoff", payoff, PAYOFFS)
        upper, lower = self._quantiles(spot)
        if payoff == "call":
            return ndtr(upper)
        return torch.exp(-(lower**2) / 2) / (math.sqrt(2 * math.pi) * spot * self.spread)

    def _quantiles(self, spot: Tensor) -> tuple[Tensor, Tensor]:
        lower = (torch.log(spot / self.strike) - self.spread**2 / 2) / self.spread
        return lower + self.spread, lower

    def bundle(self, spot: float) -> Paths:
        """Paths from one spot, their Z a quadrature: means over them are expectations."""
        count = 20_000
        u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return Paths(self, torch.full_like(u, spot), torch.special.ndtri(u))

    def sample(self, count: int, generator: torch.Generator) -> Paths:
        """Draw ``count`` spots and one path from each."""
        if count < 1:
            raise ValueError(f"count is {count}; at least 1 path is needed")
        u = torch.rand(count, dtype=torch.float64, generator=generator)
        z = torch.randn(count, dtype=torch.float64, generator=generator)
        return Paths(self, self.low + (self.high - self.low) * u, z)


@dataclass(frozen=True)
class Paths:
    """Spots s (n,) with the normal number Z (n,) of the path that starts there."""

    market: Market
    spot: Tensor
    z: Tensor

    def final(self, spot: Tensor | None = None) -> Tensor:
        """S_T (n,) of the paths, from their own spots or from others with the same Z."""
        s = self.spot if spot is None else spot
        spread = self.market.spread
        return s * torch.exp(spread * self.z - spread**2 / 2)

    def payoff(self, payoff: str) -> Tensor:
        """What the option pays on each path (n,)."""
        check_choice("payoff", payoff, PAYOFFS)
        over = self.final() - self.market.strike
        return over.relu() if payoff == "call" else (over > 0).to(over.dtype)

    def slope(self, payoff: str, label: str, bandwidth: float | None = None) -> Tensor:
        r"""Label for the slope on each path (n,).

        Parameters
        ----------
        payoff : str
            One of :data:`PAYOFFS`.
        label : str
            ``"pathwise"``: the derivative of the payoff on the path, by automatic differentiation;
            ``"kernel"``: the same, with a kernel in place of the derivative of a jump
            (:func:`step`); ``"likelihood_ratio"``: the payoff times
            :math:`\partial_s \log p(S_T \mid s) = Z / (s \sigma \sqrt T)`.
        bandwidth : float, optional
            Width h of the kernel, in units of the price.

        Raises
        ------
        ValueError
            If a name is unknown, or ``bandwidth`` is given without the kernel or lacks with it.
        """
        check_choice("payoff", payoff, PAYOFFS)
        check_choice("label", label, LABELS)
        if (bandwidth is None) == (label == "kernel"):
            raise ValueError(f"bandwidth is {bandwidth} with label {label!r}; only 'kernel' has it")
        if label == "likelihood_ratio":
            return self.payoff(payoff) * self.z / (self.spot * self.market.spread)
        with torch.enable_grad():
            s = self.spot.clone().requires_grad_()
            over = self.final(s) - self.market.strike
            if payoff == "call":
                paid = over.relu()
            elif bandwidth is None:
                paid = (over > 0).to(over.dtype)  # a constant for autograd
            else:
                paid = step(over, bandwidth)
            (found,) = torch.autograd.grad(paid.sum() + 0 * s.sum(), s)
        return found


def step(z: Tensor, bandwidth: float) -> Tensor:
    """1 where z > 0, else 0; its derivative is the kernel of :mod:`sobolev_lib.kinks`.

    It is the derivative of ``kinks.relu``, as the payoff of a digital option is that of a call.
    The width of the kernel is in units of z.
    """
    (gate,) = torch.autograd.grad(kinks.relu(z, bandwidth).sum(), z, create_graph=True)
    return gate


def blurred(values: Tensor, length: float, spacing: float) -> Tensor:
    r"""What a network learns whose slope labels are all zero: the values, blurred.

    The minimiser of :math:`\int (m - p)^2 + \ell^2 m'^2` solves :math:`m - \ell^2 m'' = p` with
    :math:`m' = 0` at both ends.  The values are p at the midpoints of n cells of that spacing, the
    length is :math:`\ell`, the square root of the weight in raw units.
    """
    n = len(values)
    links = torch.ones(n - 1, dtype=values.dtype)
    laplacian = torch.diag(links, 1) + torch.diag(links, -1)
    laplacian -= torch.diag(laplacian.sum(1))
    system = torch.eye(n, dtype=values.dtype) - (length / spacing) ** 2 * laplacian
    return torch.linalg.solve(system, values)
