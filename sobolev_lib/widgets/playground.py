"""Two networks that learn side by side in the reader's browser, from points the reader places."""

from __future__ import annotations

import math
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from torch import Tensor

from sobolev_lib.stack import MLPStack
from sobolev_lib.widgets import _assets

#: Inputs of each target.
TARGETS = dict.fromkeys(("wave", "kinked", "bumpy", "own", "free"), 1)
TARGETS |= dict.fromkeys(("valleys", "hills", "step"), 2)
ACTIVATIONS = ("silu", "tanh", "relu", "kernel")
#: Width of the kernel at the kinks, in units of a pre-activation.
KINK_BANDWIDTH = 0.1
#: Points that fit, with one input and with two.
MOST_POINTS = {1: 16, 2: 50}
_FILES = ("maps", "playground_net", "playground_task", "playground_draw", "playground_hand")


class Playground(anywidget.AnyWidget):
    """Train two networks in the browser: on values, and on values and slopes.

    Both networks are d-H-H-1, start from the same weights, and are trained by full-batch Adam whose
    rate falls to zero along a cosine; one on the mean of ``(m - y)**2``, the other on that of
    ``(m - y)**2 + weight * |grad m - grad y|**2``, the paper's Eq. 1 to first order.  The gradient
    is the closed form of :class:`sobolev_lib.stack.MLPStack`, in float64.  The reader moves the
    points, tilts their slopes, draws the target, and sees functions, derivatives, losses, kinks and
    linear regions while the networks learn.

    Without a kernel all of it works on the page.  With one, the traits follow what the reader does,
    and what Python sets is shown.

    Parameters
    ----------
    target : str
        A key of ``TARGETS`` in this module: functions on [-1, 1] or its square.  "own" is the
        natural cubic spline through `knots`, "free" has no function, only points.
    activation : {"silu", "tanh", "relu", "kernel"}
        "kernel" is ReLU whose step has a logistic kernel of width 0.1 as its derivative
        (:mod:`sobolev_lib.kinks`).
    width : int
        H, 1 to 128.
    learning_rate : float
        First rate of Adam, 1e-5 to 1.
    weight : float
        Weight of the derivative term, 0 to 1000.
    n, seed : int
        Number of points, 1 to 50 (16 with one input), and the seed of points and weights, to 999.
    steps : int
        Length of the training, 1 to 20,000.
    points : list of list of float
        The points: x, value, slope, or x, y, value and the two slopes.  Empty: `n` points of the
        seed, on the target, written here once the page has drawn them.
    knots : list of float
        Heights of the curve "own" at nine even places, -2 to 2.
    running : bool
        Whether the networks are trained.  They start when the widget comes into sight, unless the
        reader asks for reduced motion; set it False to wait for the reader.
    share : bool
        Keep settings and points in the address of the page (``#play&t=wave&...``).  For one widget
        of a page.

    Attributes
    ----------
    weights : bytes
        Parameters of both networks, values only first, as float64 in PyTorch's order: read them
        with :meth:`stack`, set them with :meth:`load`.
    step : int
        Steps trained since the start or the last change.

    Raises
    ------
    traitlets.TraitError
        For a value outside these choices; for points of another length, that are not finite, or
        whose place is not in [-1, 1].
    """

    _esm = _assets.script(*_FILES, "playground")
    _css = _assets.styles()

    target = traitlets.Enum(list(TARGETS), "wave").tag(sync=True)
    activation = traitlets.Enum(list(ACTIVATIONS), "silu").tag(sync=True)
    width = traitlets.Int(32, min=1, max=128).tag(sync=True)
    learning_rate = traitlets.Float(0.01, min=1e-5, max=1.0).tag(sync=True)
    weight = traitlets.Float(1.0, min=0.0, max=1000.0).tag(sync=True)
    n = traitlets.Int(5, min=1, max=50).tag(sync=True)
    seed = traitlets.Int(13, min=0, max=999).tag(sync=True)
    steps = traitlets.Int(2000, min=1, max=20_000).tag(sync=True)
    points = traitlets.List(traitlets.List(traitlets.Float())).tag(sync=True)
    knots = traitlets.List(
        traitlets.Float(min=-2.0, max=2.0),
        [-0.5, 0.6, 0.9, 0.1, -0.4, 0.2, 1.1, 0.6, -0.9],
        minlen=9,
        maxlen=9,
    ).tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    step = traitlets.Int(0, min=0).tag(sync=True)
    running = traitlets.Bool(True).tag(sync=True)
    share = traitlets.Bool(False).tag(sync=True)

    @property
    def in_features(self) -> int:
        """Inputs of the target, 1 or 2."""
        return TARGETS[self.target]

    @traitlets.validate("points")
    def _check_points(self, proposal: dict[str, Any]) -> list[list[float]]:
        points = proposal["value"]
        d = self.in_features
        most = MOST_POINTS[d]
        if len(points) > most:
            raise traitlets.TraitError(f"points holds {len(points)}; at most {most} fit")
        for i, point in enumerate(points):
            if len(point) != 2 * d + 1 or not all(map(math.isfinite, point)):
                raise traitlets.TraitError(
                    f"points[{i}] is {point}; {2 * d + 1} finite numbers are needed for the target "
                    f"{self.target!r}: place, value, slopes"
                )
            if any(abs(x) > 1 for x in point[:d]):
                raise traitlets.TraitError(f"points[{i}] is {point}; its place is not in [-1, 1]")
        return points

    @traitlets.observe("target")
    def _drop_points_of_another_dimension(self, change: dict[str, Any]) -> None:
        if any(len(point) != 2 * self.in_features + 1 for point in self.points):
            self.points = []

    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """The points as float64 tensors x (n, d), y (n, 1) and dy (n, d), for `SobolevLoss`.

        Raises
        ------
        ValueError
            If there are no points yet: the page draws them when the widget is shown.
        """
        if not self.points:
            raise ValueError("points is empty: show the widget first, or set points")
        d = self.in_features
        return torch.tensor(self.points, dtype=torch.float64).split((d, 1, d), dim=1)  # type: ignore[return-value]

    def stack(self) -> MLPStack:
        """Both networks with their present weights: member 0 on values only, member 1 Sobolev.

        Raises
        ------
        ValueError
            If there are no weights of this shape yet: the page makes them when the widget is shown.
        """
        made = self._empty()
        flat = np.frombuffer(self.weights, dtype="<f8")
        count = sum(p.numel() for p in made.parameters())
        if len(flat) != count:
            raise ValueError(
                f"weights holds {len(flat)} numbers, two networks {self.in_features}-{self.width}-"
                f"{self.width}-1 need {count}: show the widget first, or call load"
            )
        rest = torch.from_numpy(flat.copy()).view(2, -1)
        with torch.no_grad():
            for p in made.layered():
                own, rest = rest.split((p[0].numel(), rest.shape[1] - p[0].numel()), dim=1)
                p.copy_(own.view_as(p))
        return made

    def load(self, stack: MLPStack) -> None:
        """Show the two members of a stack, values only first, as :meth:`stack` returns them.

        Raises
        ------
        ValueError
            If the stack is not of two members d-H-H-1 with this widget's target and width.
        """
        want = (2, self.in_features, (self.width, self.width))
        got = (stack.members, stack.in_features, stack.hidden)
        if got != want:
            raise ValueError(f"stack has (members, in_features, hidden) = {got}; needed is {want}")
        flat = [p.detach().double().cpu().reshape(2, -1) for p in stack.layered()]
        self.weights = torch.cat(flat, dim=1).numpy().astype("<f8").tobytes()

    def _empty(self) -> MLPStack:
        kernel = self.activation == "kernel"
        return MLPStack(
            2, self.in_features, (self.width, self.width),
            activation="relu" if kernel else self.activation,
            kink_bandwidth=KINK_BANDWIDTH if kernel else None, dtype=torch.float64,
        )  # fmt: skip
