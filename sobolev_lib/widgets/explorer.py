"""What the networks learned: truth and models side by side, for a function, a size and a seed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray

from sobolev_lib import functions
from sobolev_lib.figures.style import LABELS
from sobolev_lib.widgets import _assets

Grid = tuple[NDArray[np.floating], NDArray[np.floating]]
Key = tuple[str, int, str, int]
_TOP = 65535  # the largest 16-bit number


class SurfaceExplorer(anywidget.AnyWidget):
    """Surfaces and gradient fields of a function and of the networks trained on it.

    The reader chooses the function, the number of training points N, the seed and the view (a
    surface with the field beneath, as in the paper's Fig. 3 and 5-11, or a map with contours).
    Heights and colours have one scale in all panels, that of the truth.  Make one by `from_grids`.

    Parameters
    ----------
    function, n, seed
        What is shown first; keys of the records.
    view : {"surface", "map"}
    share : bool
        Keep the choice in the address of the page (``#explore=FUNCTION,N,SEED``), so that it can be
        sent to someone.  Meant for the book's pages; off by default.

    Notes
    -----
    The trait ``data`` holds the truth of each function and then one record after another, all of
    the same length: four little-endian float32 (offset and step of the values, offset and step of
    the gradients), then the values and then the gradients as little-endian uint16, row by row,
    padded with zeros to a multiple of four bytes.  A number is ``offset + step * integer``, so it
    is off by at most half a step, that is 1/131070 of the record's own range.  ``index`` gives the
    record of each (function, n, method, seed), last key fastest, -1 where there is none; ``errors``
    the test errors of each record.
    """

    _esm = _assets.script("maps", "explorer")
    _css = _assets.styles()

    functions = traitlets.List(traitlets.Dict()).tag(sync=True)
    sizes = traitlets.List(traitlets.Int()).tag(sync=True)
    methods = traitlets.List(traitlets.Unicode()).tag(sync=True)
    seeds = traitlets.List(traitlets.Int()).tag(sync=True)
    side = traitlets.Int().tag(sync=True)
    arrows = traitlets.Int().tag(sync=True)
    index = traitlets.List(traitlets.Int()).tag(sync=True)
    errors = traitlets.List(traitlets.List(traitlets.Float())).tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)

    function = traitlets.Unicode().tag(sync=True)
    n = traitlets.Int().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    view = traitlets.Enum(["surface", "map"], "surface").tag(sync=True)
    share = traitlets.Bool(False).tag(sync=True)

    @classmethod
    def from_grids(
        cls,
        truth: Mapping[str, Grid],
        grids: Mapping[Key, Grid],
        errors: Mapping[Key, tuple[float, float]],
        **traits: Any,
    ) -> SurfaceExplorer:
        """Pack sampled surfaces and gradient fields into one widget.

        Parameters
        ----------
        truth : mapping
            For names of `sobolev_lib.functions.FUNCTIONS`: ``truth[function] = (values,
            gradients)`` of shapes (g, g) and (a, a, 2), in raw units, the function at
            ``f.grid(g)`` and its gradient at ``f.grid(a, centres=True)``
            (`sobolev_lib.functions.BenchmarkFunction.grid`), so row by row from the lowest y.
        grids : mapping
            ``grids[function, n, method, seed]``, the same of each network; `method` is a key of
            `sobolev_lib.figures.LABELS`.  Combinations may be missing.
        errors : mapping
            Test errors of each key of `grids`: the mean squared errors of values and gradients.
        **traits
            First choice: ``function``, ``n``, ``seed``, ``view``, ``share``.

        Raises
        ------
        ValueError
            For an empty mapping, a shape that differs from the first truth's, a number that is not
            finite, an unknown function or method, a function without truth, or a grid without its
            error.
        """
        if not truth or not grids:
            raise ValueError("truth and grids must each hold at least one entry")
        shapes = _shapes(truth)
        for name in dict.fromkeys(key[0] for key in grids):
            if name not in truth:
                raise ValueError(f"grids has the function {name!r}, truth has {sorted(truth)}")
        axes = _axes(truth, grids)
        keys = [key for key in itertools.product(*axes) if key in grids]
        missing = [key for key in keys if key not in errors]
        if missing:
            raise ValueError(
                f"errors has no entry for {missing[0]!r} (and {len(missing) - 1} more)"
            )
        records = [_pack(truth[name], shapes, f"truth[{name!r}]") for name in axes[0]]
        records += [_pack(grids[key], shapes, f"grids[{key!r}]") for key in keys]
        place = {key: len(axes[0]) + i for i, key in enumerate(keys)}
        first = {"function": axes[0][0], "n": axes[1][0], "seed": axes[3][0]}
        widget = cls(
            functions=[_describe(name, truth[name]) for name in axes[0]],
            sizes=axes[1],
            methods=axes[2],
            seeds=axes[3],
            side=shapes[0][0],
            arrows=shapes[1][0],
            index=[place.get(key, -1) for key in itertools.product(*axes)],
            errors=[_pair(errors[key]) for key in keys],
            data=b"".join(records),
            **(first | traits),
        )
        for trait, known in (("function", axes[0]), ("n", axes[1]), ("seed", axes[3])):
            if getattr(widget, trait) not in known:
                raise ValueError(f"{trait} is {getattr(widget, trait)!r}; use one of {known}")
        return widget


def _shapes(truth: Mapping[str, Grid]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the first truth, checked."""
    name, (values, gradients) = next(iter(truth.items()))
    v, g = np.shape(values), np.shape(gradients)
    if len(v) != 2 or v[0] != v[1] or v[0] < 2:
        raise ValueError(f"truth[{name!r}]: values have shape {v}; (g, g) with g >= 2 is needed")
    if len(g) != 3 or g[0] != g[1] or g[2] != 2 or g[0] < 1:
        raise ValueError(f"truth[{name!r}]: gradients have shape {g}; (a, a, 2) is needed")
    return v, g


def _axes(
    truth: Mapping[str, Grid], grids: Mapping[Key, Grid]
) -> tuple[list[str], list[int], list[str], list[int]]:
    """Values of each part of the keys, in the order shown."""
    present = {key[2] for key in grids}
    if not present <= set(LABELS):
        raise ValueError(
            f"method is {sorted(present - set(LABELS))[0]!r}; use one of {sorted(LABELS)}"
        )
    used = {key[0] for key in grids}
    return (
        [name for name in truth if name in used],
        sorted({int(key[1]) for key in grids}),
        [method for method in LABELS if method in present],
        sorted({int(key[3]) for key in grids}),
    )


def _pack(grid: Grid, shapes: tuple[tuple[int, ...], tuple[int, ...]], where: str) -> bytes:
    """One record, as the class describes it."""
    parts, header = [], []
    for array, shape, what in zip(grid, shapes, ("values", "gradients"), strict=True):
        numbers = np.asarray(array, dtype=np.float64)
        if numbers.shape != shape:
            raise ValueError(f"{where}: {what} have shape {numbers.shape}; {shape} is needed")
        if not np.isfinite(numbers).all():
            raise ValueError(f"{where}: {what} have entries that are not finite")
        with np.errstate(over="ignore"):  # told below, in the reader's terms
            low = np.float32(numbers.min())
            step = np.float32((numbers.max() - float(low)) / _TOP)
        if not (np.isfinite(low) and np.isfinite(step)):
            raise ValueError(f"{where}: {what} are too large for 32-bit floating point")
        scaled = (numbers - float(low)) / float(step) if step > 0 else np.zeros(shape)
        parts.append(np.rint(scaled).clip(0, _TOP).astype("<u2").tobytes())
        header += [low, step]
    record = np.array(header, dtype="<f4").tobytes() + b"".join(parts)
    return record + bytes(-len(record) % 4)


def _describe(name: str, truth: Grid) -> dict[str, Any]:
    """Title, domain and range of a function."""
    known = functions.get(name)
    values = np.asarray(truth[0], dtype=np.float64)
    return {
        "name": name,
        "title": known.title,
        "domain": [list(axis) for axis in known.domain],
        "range": [float(values.min()), float(values.max())],
    }


def _pair(error: tuple[float, float]) -> list[float]:
    """Test errors of values and gradients, checked."""
    both = [float(e) for e in error]
    if len(both) != 2 or not np.isfinite(both).all():
        raise ValueError(f"errors has {error!r}; a pair of finite numbers is needed")
    return both
