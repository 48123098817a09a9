"""The paper's Table 1 as data: every number, and the arms of ours that answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sobolev_lib.synthetic_gradients.modules import PREDICTING
from sobolev_lib.synthetic_gradients.settings import AT_PAPERS_RATE, CHANGES, PAPERS_RATE

_OF_TABLE_1 = {
    "backprop": "Backpropagation",
    "noprop": "Noprop",
    "direct": "Direct SG",
    "vfbn": "VFBN",
    "critic": "Critic",
    "sobolev": "Sobolev",
    "local_ce": "Local CE",
}

_RATE = f"Adam at {PAPERS_RATE:.0e}".replace("e-0", "e\N{NON-BREAKING HYPHEN}")
CARES = dict(zip(CHANGES, (_RATE, "leaky units", f"leaky units, {_RATE}"), strict=True))
"""What is done against units that die, in words, by the end of a row's name."""

NAMES: dict[str, str] = {
    **_OF_TABLE_1,
    "sobolev_mean": "Sobolev, mean over elements",
    "sobolev_tenth": "Sobolev, gradient term × 0.1",
    "sobolev_tenfold": "Sobolev, gradient term × 10",
    "sobolev_kernel": "Sobolev, kink kernel",
    "sobolev_label": "Sobolev, label derivative too",
    "sobolev_l2": "Sobolev, L2",
    "sobolev_bootstrapped": "Sobolev, bootstrapped targets",
    "direct_bootstrapped": "Direct SG, bootstrapped targets",
    "vfbn_kernel": "VFBN, kink kernel",
} | {
    f"{mode}_{option}": f"{_OF_TABLE_1[mode]}, {said}"
    for mode in PREDICTING
    for option, said in CARES.items()
}
"""Names of the rows, keys as in :data:`.settings.ROWS`."""

BRIEF: dict[str, str] = NAMES | {
    "sobolev_mean": "Sobolev, mean",
    "sobolev_tenth": "Sobolev, sum × 0.1",
    "sobolev_tenfold": "Sobolev, sum × 10",
}
"""Names of the rows for axes that compare weights of the gradient term."""

METRICS = {"top1": "top 1", "top5": "top 5"}


class Cell(NamedTuple):
    """Test accuracy in per cent, with its standard deviation where Table 1 prints one."""

    value: float
    deviation: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.1f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")


def printed(cells: Mapping[str, Cell], row: str) -> Cell | None:
    """Return what Table 1 prints for a row of ours: one with the paper's rate is that scheme."""
    return cells.get(AT_PAPERS_RATE.get(row, row))


@dataclass(frozen=True)
class Block:
    """A part of Table 1: one data set and one number of splits.

    Parameters
    ----------
    key, title : str
        Short name, and its heading in the paper.
    arms : tuple of str
        Our arms that answer it (:data:`.settings.ARMS`), the nearest to the paper first.
    cells : dict
        From metric ("top1", "top5") and row to the paper's number.
    """

    key: str
    title: str
    arms: tuple[str, ...]
    cells: dict[str, dict[str, Cell]]


def plural(count: int, word: str) -> str:
    """Return a number of things, "1 split" or "3 splits"."""
    return f"{count} {word}" + ("" if count == 1 else "s")


_Printed = tuple[float | tuple[float, float] | None, ...]


def _block(key: str, data: str, modules: int, arms: tuple[str, ...], **printed: _Printed) -> Block:
    """Numbers by row: backpropagation alone, then the five modules with their deviations."""
    cells = {
        metric: {
            row: Cell(*number) if isinstance(number, tuple) else Cell(number)
            for row, number in zip(_OF_TABLE_1, numbers, strict=False)
            if number is not None
        }
        for metric, numbers in printed.items()
    }
    title = f"{data} with {plural(modules, 'synthetic gradient module')}"
    return Block(key, title, arms, cells)


_RESNET = ("imagenet", "imagenette", "imagenet200", "imagenette_reduced", "imagenet200_reduced")

BLOCKS: dict[str, Block] = {
    block.key: block
    for block in (
        _block(
            "cifar10", "CIFAR-10", 3, ("cifar10", "cifar10_small_batch", "cifar10_reduced"),
            top1=(94.3, (54.5, 1.15), (79.2, 0.01), (88.5, 2.70), (93.2, 0.02), (93.5, 0.01)),
        ),
        _block(
            "imagenet_1", "ImageNet", 1, tuple(f"{name}_1" for name in _RESNET),
            top1=(75.0, (54.0, 0.29), None, (57.9, 2.03), (71.7, 0.23), (72.0, 0.05)),
            top5=(92.3, (77.3, 0.06), None, (81.5, 1.20), (90.5, 0.15), (90.8, 0.01)),
        ),
        _block(
            "imagenet_3", "ImageNet", 3, tuple(f"{name}_3" for name in _RESNET),
            top1=(75.0, (18.7, 0.18), None, (28.3, 5.24), (65.7, 0.56), (66.5, 0.22)),
            top5=(92.3, (38.0, 0.34), None, (52.9, 6.62), (86.9, 0.33), (87.4, 0.11)),
        ),
    )
}  # fmt: skip
"""The paper's Table 1; the numbers in parentheses there are the row "backprop" here."""
