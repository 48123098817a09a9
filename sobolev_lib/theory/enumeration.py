"""All members of a family that agree with given data, found and certified by interval arithmetic.

The data of one member f(x; theta) at some points (values, or values and slopes) leave a set of
members that agree with them: the zeros of a system F(theta) = 0, an equation for each number.
`consistent` finds all of them in a box.  It halves the box again and again, drops a part when an
enclosure of F there excludes 0, and keeps a part when Krawczyk's test proves that it holds exactly
one zero.  So "one" and "none" are theorems about real numbers, not observations about floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

import numpy as np
from numpy.typing import ArrayLike

from .balls import flint
from .families import Balls, Family

__all__ = ["Members", "consistent", "enclose", "most_members"]

MOST = 20_000  # parts of a box that are looked at
_SPLIT = 0.4871  # not the middle: numbers such as 0 and 1 should not lie on a border


@dataclass(frozen=True)
class Members:
    """What `consistent` found.

    Parameters
    ----------
    certified : tuple of tuple of float
        Members that agree with the data, each proved to be the only one in a part of the box; the
        one that the data come from is the first.
    undecided : int
        Parts of the box that were neither dropped nor proved; 0 makes `certified` complete.
    parts : int
        Parts of the box that were looked at.
    """

    certified: tuple[tuple[float, ...], ...]
    undecided: int
    parts: int


def consistent(
    family: Family, theta: Sequence[float], x: ArrayLike, *, slopes: bool = False
) -> Members:
    """Find all members in the family's box that agree with the data of one member.

    Parameters
    ----------
    theta : sequence of float
        The member that the data come from, inside the box.
    x : array_like, shape (K,)
        Points.
    slopes : bool
        Whether the data are values and slopes; otherwise values only.

    Raises
    ------
    ValueError
        If there are fewer numbers than parameters (a continuum of members agrees then), if `theta`
        is not inside the box, or a point occurs twice.
    """
    system = _System(family, theta, x, slopes)
    box = list(family.box.values())
    smallest = [1e-7 * (high - low) for low, high in box]
    stack, parts, undecided = [box], 0, 0
    found: list[tuple[Balls, Balls]] = []  # where a member is the only one; a tight enclosure
    while stack and parts < MOST:
        part, parts = stack.pop(), parts + 1
        inner, where = system.test(part)
        if inner == []:
            continue
        if inner is not None:
            if not any(_contains(known, inner) for known, _ in found):
                agrees = system.agrees(inner, where)
                if agrees is None:
                    undecided += 1
                elif agrees:
                    found.append((where, inner))
            continue
        shares = [(high - low) / s for (low, high), s in zip(part, smallest, strict=True)]
        k = int(np.argmax(shares))
        if shares[k] < 1.0:
            undecided += 1
            continue
        low, high = part[k]
        middle = low + _SPLIT * (high - low)
        stack += [[*part[:k], half, *part[k + 1 :]] for half in ((low, middle), (middle, high))]
    members = [tuple(float(ball.mid()) for ball in inner) for _, inner in found]
    members.sort(key=lambda m: float(np.abs(np.subtract(m, theta)).max()))
    return Members(tuple(members), undecided + len(stack), parts)


def enclose(
    family: Family,
    theta: Sequence[float],
    x: ArrayLike,
    start: Sequence[float],
    *,
    digits: int = 40,
) -> Balls:
    """Improve a member found by `consistent` to many certified digits, by Newton's method.

    Parameters
    ----------
    family, theta, x
        As in `consistent`; as many values as parameters.
    start : sequence of float
        Near the member.
    digits : int
        Decimal places.

    The balls are of radius 10**-digits at most, and hold the parameters of exactly one member that
    agrees with the data.

    Raises
    ------
    ValueError
        As in `consistent`, or if no member is proved near `start`.
    """
    library = flint()
    with library.ctx.workprec(int(3.4 * digits) + 64):
        system = _System(family, theta, x, slopes=False)
        if len(system.data) != len(start):
            raise ValueError(
                f"x gives {len(system.data)} equations for the {len(start)} parameters in start"
            )
        point = [library.arb(p) for p in start]
        missing = f"start {tuple(start)}: no member of the family is proved near it"
        for _ in range(int(np.log2(digits)) + 8):
            f, jacobian = system(point)
            if library.arb_mat(jacobian).det().contains(0):
                raise ValueError(missing)
            step = library.arb_mat(jacobian).solve(library.arb_mat([[v] for v in f]))
            point = [(p - step[k, 0]).mid() for k, p in enumerate(point)]
        small = library.arb(10) ** -digits
        box = [p + library.arb(0, small.mid()) for p in point]
        image = system.krawczyk(box)
        if image is None or not _contains(box, image):
            raise ValueError(missing)
        return image


def most_members(family: Family, points: int, *, slopes: bool = False, draws: int = 5) -> Members:
    """Of several random members and sets of K points, the result with the most that agree.

    Members are drawn in the middle of the box, points in the window.  A result with undecided parts
    is returned before all others.
    """
    rng = np.random.default_rng(0)
    low, high = np.array(list(family.box.values())).T
    results = []
    for _ in range(draws):
        theta = rng.uniform(low + 0.2 * (high - low), high - 0.2 * (high - low))
        x = rng.uniform(*family.window, size=points)
        results.append(consistent(family, [float(t) for t in theta], x, slopes=slopes))
    return max(results, key=lambda r: (r.undecided > 0, len(r.certified)))


# --- interval arithmetic --------------------------------------------------------------------------


class _System:
    """F(theta) = (f(x_i; theta) - data, and the same for slopes), on balls."""

    def __init__(self, family: Family, theta: Sequence[float], x: ArrayLike, slopes: bool) -> None:
        arb = flint().arb
        points = np.asarray(x, dtype=np.float64)
        if points.ndim != 1 or len(np.unique(points)) < len(points):
            raise ValueError(f"x must hold different points, shape (K,), got {points.tolist()}")
        if len(theta) != len(family.box) or not all(
            low < t < high for t, (low, high) in zip(theta, family.box.values(), strict=False)
        ):
            raise ValueError(f"theta must lie in the box {family.box}, got {tuple(theta)}")
        if len(points) * (1 + slopes) < len(theta):
            raise ValueError(
                f"x: {len(points) * (1 + slopes)} numbers leave a continuum of members of a family "
                f"with {len(theta)} parameters"
            )
        self.truth = [arb(float(t)) for t in theta]
        rows = family.on_balls[: 1 + slopes]
        self.equations = [(row, arb(float(p))) for row in rows for p in points]
        self.data = [row(p, *self.truth)[0] for row, p in self.equations]

    def __call__(self, theta: Balls) -> tuple[Balls, list[Balls]]:
        """Enclosures of F and its Jacobian matrix."""
        arb = flint().arb
        f, jacobian = [], []
        for (row, point), target in zip(self.equations, self.data, strict=True):
            value, *derivatives = row(point, *theta)
            f.append(value - target)
            jacobian.append([arb(entry) for entry in derivatives])  # a constant is an int
        return f, jacobian

    def test(self, part: list[tuple[float, float]]) -> tuple[Balls | None, Balls]:
        """A tight enclosure of the only zero; [] if there is none; None if it cannot be told.

        Also the ball, a little larger than the part, in which the zero is the only one.
        """
        box, wide = _balls(part, 1.0), _balls(part, 1.2)
        f, _ = self(box)
        if _excludes(f):
            return [], wide
        image = self.krawczyk(wide, within=box)
        if image == []:
            return [], wide
        if image is None or not _contains(wide, image):
            return None, wide
        for _ in range(8):
            tighter = self.krawczyk(image)
            if not tighter or not _contains(image, tighter):
                break
            image = tighter
        return image, wide

    def krawczyk(self, box: Balls, within: Balls | None = None) -> Balls | None:
        """K(box) = m - Y F(m) + (1 - Y J(box)) (box - m), which holds all zeros in the box.

        If it lies inside the box, there is exactly one zero of Y F.  Y is near the inverse of J(m).
        [] if F has no zero `within` a part of the box, None if J(m) is near to singular.
        """
        arb = flint().arb
        middle = [arb(ball.mid()) for ball in box]
        at, slope = self(middle)
        _, jacobian = self(box)
        moves = [ball - m for ball, m in zip(box, middle, strict=True)]
        if within is not None:
            inside = [ball - m for ball, m in zip(within, middle, strict=True)]
            linear = [f + sum(map(mul, row, inside)) for f, row in zip(at, jacobian, strict=True)]
            if _excludes(linear):
                return []
        matrix = np.array([[float(entry.mid()) for entry in row] for row in slope])
        if not np.isfinite(matrix).all() or np.linalg.cond(matrix) > 1e12:
            return None
        inverse = np.linalg.pinv(matrix)
        image = []
        for k, row in enumerate(inverse.tolist()):
            total = middle[k] - sum(map(mul, row, at))
            for j, move in enumerate(moves):
                entry = sum(y * line[j] for y, line in zip(row, jacobian, strict=True))
                total += ((1 if j == k else 0) - entry) * move
            image.append(total)
        return image

    def agrees(self, inner: Balls, where: Balls) -> bool | None:
        """Whether the zero of Y F that `inner` encloses is one of F; None if it cannot be told."""
        if len(self.equations) == len(self.truth) or _contains(where, self.truth):
            return True  # Y is invertible; or the zero is the member that the data come from
        return False if _excludes(self(inner)[0]) else None


def _balls(part: list[tuple[float, float]], factor: float) -> Balls:
    """Balls that hold a box, or one larger by a factor."""
    arb = flint().arb
    half = 0.5 * factor * (1 + 1e-12)
    return [arb((low + high) / 2, half * (high - low)) for low, high in part]


def _excludes(balls: Balls) -> bool:
    return any(not ball.contains(0) for ball in balls)


def _contains(outer: Balls, inner: Balls) -> bool:
    """Whether each ball lies in the interior of its outer one."""
    return all(o.contains_interior(i) for o, i in zip(outer, inner, strict=True))
