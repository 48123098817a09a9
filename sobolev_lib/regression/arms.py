"""Settings of the regression experiment: the paper's, and the arms that change it.

A *setting* is one configuration without its seed, an *arm* a named one.  What decides is the whole
configuration: a setting that differs from the arm it was made from carries another name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sobolev_lib import functions
from sobolev_lib.checks import check_choice
from sobolev_lib.regression import controls

EXPERIMENT = "regression"
CHANGED = ", changed: "
IDENTITY = ("function", "n", "method", "arm")
"""Entries that tell the members of an arm apart, and its name."""
METHODS = ("values", "sobolev")
SCHEDULES = {"constant": None, "cosine": 0.0, "tail": 0.8}
"""Part of the steps after which the learning rate falls, as half a cosine, to zero."""
LATER = ("kernel", "amplitude")
"""Entries that a configuration has only where they are not the default: older records lack them."""

DEVIATIONS = {
    "steps": "The paper gives no number of steps: {steps} here, "
    "the same for every function, size and method.",
    "batch": "The paper gives no batch size: {batch} here (all points where there are no more).",
    "initialization": "The paper gives no initialisation: "
    "{initialization} (default of the paper's library) here.",
    "seeds": "The paper does not say how many runs a bar shows: each record here is one seed.",
    "test": "Test points are drawn once per function, and shared by all seeds, sizes and methods.",
}


@dataclass(frozen=True)
class Setting:
    """One configuration of the experiment; the defaults are the paper's, where it says.

    Parameters
    ----------
    function : str
        Key of :data:`sobolev_lib.functions.FUNCTIONS`.
    n : int
        Number of training points; the paper uses 20, 100 and 10,000.
    method : {"values", "sobolev"}
        What is matched.
    arm : str
        Name of the variant; "paper" is the paper's own.  A setting that is not the arm of its name
        says so: "paper, changed: steps 1000".
    steps : int
        Number of Adam steps.
    batch : int
        Points per step (drawn without replacement within an epoch; at most the training set).
    learning_rate : float
        Adam's; 3e-5 in the paper.
    schedule : {"constant", "cosine", "tail"}
        Learning rate over the steps: as given, falling to zero all the way, or only over the last
        fifth.
    activation : str
        Key of :data:`sobolev_lib.closed_form.ACTIVATIONS`.
    bandwidth : float or None
        Kernel width at the kinks (:mod:`sobolev_lib.kinks`), ``None`` for plain ReLU.
    scaled_bandwidth : bool
        Bandwidth in units of the spread of each layer's pre-activations.
    normalized : bool
        Train on z-scored inputs and targets (statistics of the training points); errors are always
        reported in raw units.
    initialization : {"sonnet", "torch"}
        See :class:`~sobolev_lib.stack.MLPStack`.
    weight : float
        Of the derivative term; the paper names none, so that it is 1.
    points_factor : int
        Training points per n: 3 in the arms "equal_information" (a value and a gradient are three
        numbers in the plane).
    kernel : str
        Key of :data:`sobolev_lib.regression.controls.KINDS`; needs a bandwidth unless "plain".
    amplitude : float
        Factor of the kernel's term: 1 is the estimate, 0 would be plain ReLU.
    """

    function: str
    n: int
    method: str
    arm: str = "paper"
    steps: int = 60_000
    batch: int = 100
    learning_rate: float = 3e-5
    schedule: str = "constant"
    activation: str = "relu"
    bandwidth: float | None = None
    scaled_bandwidth: bool = False
    normalized: bool = False
    initialization: str = "sonnet"
    points_factor: int = 1
    weight: float = 1.0
    kernel: str = "plain"
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        functions.get(self.function)
        check_choice("method", self.method, METHODS)
        check_choice("schedule", self.schedule, SCHEDULES)
        for name in ("n", "steps", "batch", "points_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive")
        check_choice("kernel", self.kernel, controls.KINDS)
        if not math.isfinite(self.amplitude):
            raise ValueError(f"amplitude is {self.amplitude}; it must be finite")
        if self.bandwidth is None and (self.kernel, self.amplitude) != ("plain", 1.0):
            raise ValueError("kernel and amplitude change a kernel; bandwidth is None: give one")
        object.__setattr__(self, "arm", self._arm())

    def _arm(self) -> str:
        """Name of the arm, with what differs from the nearest one of that name."""
        name = family(self.arm)
        entries = {k: v for k, v in asdict(self).items() if k not in IDENTITY}
        standard = {f.name: f.default for f in fields(self)}
        differences = [
            {k: v for k, v in entries.items() if v != {**standard, **changes}[k]}
            for arm, changes in ARMS.items()
            if family(arm) == name
        ]
        nearest = min(differences, key=len, default={})
        return (
            name + (CHANGED if nearest else "") + ", ".join(f"{k} {v}" for k, v in nearest.items())
        )

    @property
    def points(self) -> int:
        """Number of training points."""
        return self.n * self.points_factor

    @property
    def program(self) -> tuple[Any, ...]:
        """What members of one stack must share: everything but function and method."""
        shared = _without_later(asdict(self))
        del shared["function"], shared["method"], shared["arm"]
        return (self.arm, *shared.items())

    def deviations(self) -> list[str]:
        """Where this setting decides what the paper leaves open, or departs from it."""
        notes = [text.format(**asdict(self)) for text in DEVIATIONS.values()]
        paper = Setting(self.function, self.n, self.method)
        for name in (
            "learning_rate",
            "schedule",
            "activation",
            "bandwidth",
            "normalized",
            "points_factor",
            "weight",
        ):
            if getattr(self, name) != getattr(paper, name):
                notes.append(
                    f"{name} is {getattr(self, name)}; the paper has {getattr(paper, name)}."
                )
        if self.kernel != "plain":
            notes.append(f"kernel is {self.kernel}: {controls.KINDS[self.kernel]}.")
        if self.amplitude != 1:
            notes.append(f"The kernel's term is multiplied by {self.amplitude:g}.")
        return notes


FAST: dict[str, Any] = {"normalized": True, "learning_rate": 1e-3, "steps": 6_000}
"""What the arms beside the paper's share: z-scored data and a higher rate.

At that rate six thousand steps are enough to compare.
"""

ANNEALED: dict[str, Any] = {**FAST, "schedule": "cosine"}
KERNEL: dict[str, Any] = {**ANNEALED, "bandwidth": 0.1}
SILU: dict[str, Any] = {**ANNEALED, "activation": "silu"}

ARMS: dict[str, dict[str, Any]] = {
    "paper": {},
    "raw_fast": {**ANNEALED, "normalized": False},
    "normalized": FAST,
    "schedule": ANNEALED,
    "activation/kernel": KERNEL,
    "activation/silu": SILU,
    "activation/tanh": {**ANNEALED, "activation": "tanh"},
    "activation/softplus": {**ANNEALED, "activation": "softplus"},
    "bandwidth/narrow": {**ANNEALED, "bandwidth": 0.03},
    "bandwidth/wide": {**ANNEALED, "bandwidth": 0.3},
    "bandwidth/scaled": {**ANNEALED, "bandwidth": 0.1, "scaled_bandwidth": True},
    "bandwidth/scaled_wide": {**ANNEALED, "bandwidth": 0.3, "scaled_bandwidth": True},
    "equal_information": {**ANNEALED, "points_factor": 3},
    "equal_information/silu": {**SILU, "points_factor": 3},
    "equal_information/silu_long": {**SILU, "points_factor": 3, "steps": 24_000},
    "paper_kernel": {"bandwidth": 0.1, "scaled_bandwidth": True},
    "small_batch": {"batch": 20},
    "paper_normalized": {"normalized": True},
    "weight/0.1": {**ANNEALED, "weight": 0.1},
    "weight/0.01": {**ANNEALED, "weight": 0.01},
    "torch_initialization": {**ANNEALED, "initialization": "torch"},
    "long": {**ANNEALED, "steps": 24_000},
    "long/silu": {**SILU, "steps": 24_000},
    # for N = 10,000, where 60,000 steps at a constant rate end in free fall
    "annealed_tail": {"batch": 32, "steps": 240_000, "schedule": "tail"},
    # amplitude 0 is "schedule", 1 is "activation/kernel": they are not run twice
    "kernel_control/flipped": {**KERNEL, "amplitude": -1.0},
    "kernel_control/half": {**KERNEL, "amplitude": 0.5},
    "kernel_control/double": {**KERNEL, "amplitude": 2.0},
    **{
        f"kernel_control/{kind}": {**KERNEL, "kernel": kind}
        for kind in controls.KINDS
        if kind != "plain"
    },
}
"""Variants of the experiment: what each changes in a :class:`Setting`.

Arms of one family share the name before the stroke, which is what their records carry.
"""


def family(arm: str) -> str:
    """Name that the records of an arm carry: what is before the stroke, and before changes."""
    return arm.split("/")[0].split(CHANGED)[0]


def members(arm: str) -> list[str]:
    """The arm itself, or the arms of a family.

    Raises
    ------
    ValueError
        If there is no such arm.
    """
    found = [arm] if arm in ARMS else [name for name in ARMS if family(name) == arm]
    if not found:
        raise ValueError(f"arm is {arm!r}; it must be one of {', '.join(ARMS)}")
    return found


def settings(
    arm: str = "paper",
    sizes: Sequence[int] = (20, 100, 10_000),
    names: Sequence[str] = tuple(functions.FUNCTIONS),
    methods: Sequence[str] = METHODS,
    **changes: Any,
) -> list[Setting]:
    """Every setting of an arm or of a family of arms, ``changes`` on top.

    Raises
    ------
    ValueError
        If the arm, a function or a method is unknown.
    """
    if unknown := set(methods) - set(METHODS):
        raise ValueError(f"methods are {', '.join(METHODS)}; got {', '.join(sorted(unknown))}")
    return [
        Setting(name, n, method, arm=family(member), **{**ARMS[member], **changes})
        for member, n, method, name in itertools.product(members(arm), sizes, methods, names)
        if method in methods_of(member)
    ]


def methods_of(arm: str) -> tuple[str, ...]:
    """Methods that an arm has: the others would be runs that another arm has already."""
    if family(arm) == "equal_information":
        return ("values",)
    # neither the kernel nor the weight does anything to values alone
    return METHODS if ARMS[arm].keys().isdisjoint(("bandwidth", "weight")) else ("sobolev",)


def config(setting: Setting) -> dict[str, Any]:
    """Entries of a setting as the ledger holds them; a weight of 1 is that of all older records."""
    entries = _without_later(asdict(setting))
    if setting.weight == 1:
        del entries["weight"]
    return entries


def _without_later(entries: dict[str, Any]) -> dict[str, Any]:
    """Leave out the :data:`LATER` entries at their defaults, so that older keys and names stay."""
    defaults = {f.name: f.default for f in fields(Setting) if f.name in LATER}
    return {k: v for k, v in entries.items() if k not in defaults or v != defaults[k]}
