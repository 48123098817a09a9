"""Families of functions on the line, as formulas that can be evaluated on floats and on balls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy
from numpy.typing import ArrayLike, NDArray
from sympy.printing.lambdarepr import LambdaPrinter

from .balls import flint

__all__ = ["FAMILIES", "Balls", "Family"]

Balls = list[Any]  #: of flint.arb

_X = sympy.Symbol("x")


@dataclass(frozen=True)
class Family:
    """A family of functions on the line.

    Parameters
    ----------
    formula : str
        In x and the parameters, as sympy reads it: ``"a * exp(b * x)"``.
    box : dict of str to (float, float)
        The parameters, in order, and the ranges in which members are looked for.
    window : (float, float)
        Where points are drawn.
    """

    formula: str
    box: dict[str, tuple[float, float]]
    window: tuple[float, float] = (-2.0, 2.0)

    @cached_property
    def _rows(self) -> list[list[Any]]:
        """For order 0 and 1 in x: the function, then its derivatives by the parameters."""
        symbols = {name: sympy.Symbol(name) for name in self.box}
        f = sympy.sympify(self.formula, locals=symbols | {"x": _X})
        if unknown := f.free_symbols - {_X, *symbols.values()}:
            raise ValueError(f"formula {self.formula!r} holds {unknown}, which is no parameter")
        return [[g, *(sympy.diff(g, s) for s in symbols.values())] for g in (f, f.diff(_X))]

    @cached_property
    def on_balls(self) -> list[Callable[..., Balls]]:
        """For order 0 and 1, functions of (x, *theta): f and its derivatives by the parameters."""
        arguments = [_X, *map(sympy.Symbol, self.box)]
        names = _ball_functions()
        printer = _Exact({"fully_qualified_modules": False, "inline": True})
        return [
            sympy.lambdify(arguments, row, modules=[names], cse=True, printer=printer)
            for row in self._rows
        ]

    def __call__(self, x: ArrayLike, theta: Sequence[float], order: int = 0) -> NDArray[np.float64]:
        """Return a member's values (order 0) or slopes (order 1) at x, in float64."""
        arguments = [_X, *map(sympy.Symbol, self.box)]
        f = sympy.lambdify(arguments, self._rows[order][0], modules="numpy")
        x = np.asarray(x, dtype=np.float64)
        return np.array(np.broadcast_to(f(x, *theta), x.shape), dtype=np.float64)


#: Families whose members a few values or slopes tell apart; a box of parameters for each.
FAMILIES: dict[str, Family] = {
    "gaussian density": Family(
        "exp(-(x - mu)**2 / (2 * sigma**2)) / (sqrt(2 * pi) * sigma)",
        {"mu": (-3.0, 3.0), "sigma": (0.4, 3.0)},
    ),
    "exponential": Family("a * exp(b * x)", {"a": (0.2, 3.0), "b": (-2.0, 2.0)}),
    "wave of known frequency": Family(
        "a * sin(2 * x) + b * cos(2 * x)", {"a": (-2.0, 2.0), "b": (-2.0, 2.0)}
    ),
    "exponential and constant": Family(
        "a * exp(b * x) + c", {"a": (0.3, 2.0), "b": (0.3, 2.0), "c": (-2.0, 2.0)}
    ),
    "gaussian bump": Family(
        "a * exp(-(x - mu)**2 / (2 * sigma**2))",
        {"a": (0.3, 3.0), "mu": (-1.5, 1.5), "sigma": (0.5, 2.0)},
    ),
    "quotient of two lines": Family(
        "(a + b * x) / (1 + c * x)", {"a": (-2.0, 2.0), "b": (-2.0, 2.0), "c": (-0.4, 0.4)}
    ),
}


class _Exact(LambdaPrinter):  # type: ignore[misc]
    """A third becomes a ball: as a float it would be another number, which halves are not."""

    def _print_Rational(self, fraction: sympy.Rational) -> str:
        plain: str = super()._print_Rational(fraction)
        return plain if fraction.q.bit_count() == 1 else f"ratio({fraction.p}, {fraction.q})"


def _ball_functions() -> dict[str, Any]:
    library = flint()
    with library.ctx.workprec(1024):
        names: dict[str, Any] = {"pi": library.arb.pi()}
    for name in ("exp", "log", "sin", "cos", "sqrt"):
        names[name] = lambda v, name=name: getattr(library.arb(v), name)()
    names["ratio"] = lambda p, q: library.arb(p) / q
    return names
