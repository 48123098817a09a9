"""How far a synthetic gradient can be trusted, measured on a network that is being trained.

The ledger's cosine is a mean over examples.  Once batch normalisation mixes the examples of a
batch, that is not the only way to compare a synthetic with a true gradient: :func:`fidelity` does
it in four.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sobolev_lib.records.sweep import Job, Result, Tick
from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients.decoupling import Decoupled, apart, cosine, cross_entropy
from sobolev_lib.synthetic_gradients.jobs import results_of, watching
from sobolev_lib.synthetic_gradients.modules import PREDICTING
from sobolev_lib.synthetic_gradients.settings import Setting
from sobolev_lib.synthetic_gradients.training import Training

EXPERIMENT = "fidelity"
STEPS = (18, 90, 180, 360)
"""When a run on the digits is measured: after the first of its twenty epochs, and up to its end."""
COUNT = 512
"""Training images that are looked at."""


@dataclass(frozen=True)
class Fidelity:
    """Synthetic beside true gradients of one network; n examples, K splits from the input upwards.

    Parameters
    ----------
    loss : ndarray, shape (n,)
        Cross entropy of each example, batch statistics.
    cosine, frozen : ndarray, shape (K, n)
        Cosine to the true gradient of each example: with the statistics of the batch, as in
        training and in the records, and with those of ``eval()``, where examples do not meet.
    norm, frozen_norm : ndarray, shape (K, n)
        Length of the true gradient of each example, in both cases.
    batch : ndarray, shape (K,)
        Cosine between all synthetic and all true gradients of a batch, each taken as one vector
        (so long gradients count for more); mean over batches.
    weights : ndarray, shape (K,)
        Cosine between the gradients that the weights of the segment below each split receive,
        with the synthetic and with the true signal; mean over batches.
    """

    loss: np.ndarray
    cosine: np.ndarray
    frozen: np.ndarray
    norm: np.ndarray
    frozen_norm: np.ndarray
    batch: np.ndarray
    weights: np.ndarray

    def means(self) -> dict[str, float]:
        """What a record keeps: means over the splits, and over the examples where there are any.

        Cosines: "cosine", "frozen", "batch", "weights", and "cosine" over the half with the smaller
        losses ("easy") and the tenth with the largest ("hard") alone; "length" is that of an
        example's own gradient.
        """
        middle, high = (np.quantile(self.loss, q) for q in (0.5, 0.9))
        values = {
            "cosine": self.cosine,
            "frozen": self.frozen,
            "batch": self.batch,
            "weights": self.weights,
            "easy": self.cosine[:, self.loss <= middle],
            "hard": self.cosine[:, self.loss > high],
            "length": self.frozen_norm,
        }
        return {name: float(value.mean()) for name, value in values.items()}


def fidelity(net: Decoupled, x: Tensor, y: Tensor, batch: int = 64) -> Fidelity:
    """Compare synthetic with true gradients on inputs x (n, *in) and labels y (n,).

    A copy of the network is used: batch statistics and ``.grad`` of ``net`` stay as they are.

    Raises
    ------
    ValueError
        If the network has no modules that predict, or there are fewer examples than a batch.
    """
    if net.mode not in PREDICTING:
        raise ValueError(
            f"net has the mode {net.mode!r}; it must be one of {', '.join(PREDICTING)}"
        )
    if not 0 < batch <= len(x):
        raise ValueError(f"batch is {batch}, x has {len(x)} examples; 1 to {len(x)} are needed")
    net, frozen = copy.deepcopy(net).train(), copy.deepcopy(net).eval()  # two: statistics move
    parts: dict[str, list[Tensor]] = {}
    for first in range(0, len(x) - batch + 1, batch):
        one = _compare(net, frozen, x[first : first + batch], y[first : first + batch])
        for name, value in one.items():
            parts.setdefault(name, []).append(value)
    each = ("loss", "cosine", "frozen", "norm", "frozen_norm")
    joined = {name: torch.cat(parts[name], dim=-1).numpy() for name in each}
    means = {name: torch.stack(parts[name]).mean(dim=0).numpy() for name in ("batch", "weights")}
    return Fidelity(**joined, **means)


def _compare(net: Decoupled, frozen: Decoupled, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Compare on one batch; per-example entries have the examples in the last dimension."""
    with torch.no_grad():
        out = {"loss": cross_entropy(net(x), y)}
    pairs = _gradients(net, x, y)
    out["weights"] = torch.stack([_weight_cosine(*three) for three in pairs])
    flat = [(s.flatten(1), g.flatten(1)) for _, s, g in pairs]
    out["batch"] = torch.stack([cosine(s.reshape(1, -1), g.reshape(1, -1))[0] for s, g in flat])
    out["cosine"] = torch.stack([cosine(s, g) for s, g in flat])
    out["norm"] = torch.stack([g.norm(dim=1) for _, g in flat])
    alone = [(s.flatten(1), g.flatten(1)) for _, s, g in _gradients(frozen, x, y)]
    out["frozen"] = torch.stack([cosine(s, g) for s, g in alone])
    out["frozen_norm"] = torch.stack([g.norm(dim=1) for _, g in alone])
    return out


Segment = tuple[torch.nn.Module, Tensor]


def _gradients(net: Decoupled, x: Tensor, y: Tensor) -> list[tuple[Segment, Tensor, Tensor]]:
    """For each split: the segment below with its input, synthetic and true gradient."""
    found, value = [], x
    true = net.true_gradients(x, y)
    for segment, module, g in zip(net.segments, net.sg_modules, true, strict=False):
        with torch.no_grad():
            h = apart(segment, value)
        found.append(((segment, value), module(h, y).gradient.detach(), g))
        value = h
    return found


def _weight_cosine(segment: Segment, synthetic: Tensor, true: Tensor) -> Tensor:
    module, value = segment
    weights, h = list(module.parameters()), apart(module, value)
    both = [
        torch.cat([part.flatten() for part in torch.autograd.grad(h, weights, g, True)])
        for g in (synthetic, true)
    ]
    return cosine(both[0][None], both[1][None])[0]


def follow(run: Training, at: Sequence[int] = STEPS, count: int = COUNT) -> dict[int, Fidelity]:
    """Train a run up to the last of some steps; its :func:`fidelity` on training images, by step.

    Those are the first ``count``, in batches of the setting's size.

    Raises
    ------
    ValueError
        If a step lies beyond the last one, or ``count`` is below the batch.
    """
    if max(at) > run.steps:
        raise ValueError(f"at holds step {max(at)}; the run has {run.steps}")
    chosen = run.chosen[:count]
    x, y = images.normalize(run.data.train_x[chosen], run.data), run.data.train_y[chosen]
    found = {}
    for step in sorted(at):
        run.run(until=step)
        found[step] = fidelity(run.net, x, y, run.setting.batch)
    return found


@torch.no_grad()
def recall(run: Training) -> list[float]:
    """Share of the test images of each class that a network names right."""
    network = copy.deepcopy(run.net).eval()
    data = run.data
    named = network(images.normalize(data.test_x, data)).argmax(dim=1)
    return [float((named[data.test_y == c] == c).float().mean()) for c in range(data.classes)]


def _work(setting: Setting, seed: int, at: Sequence[int], count: int, _tick: Tick) -> list[Result]:
    run = Training(setting, seed)
    means = {step: found.means() for step, found in follow(run, at, count).items()}
    run.run()
    curves = {name: [means[step][name] for step in means] for name in next(iter(means.values()))}
    last = {"steps": list(means), "top1": run.tests["top1"][-1], "recall": recall(run)}
    return results_of(run, last | curves)


def jobs(chosen: Sequence[Setting], seeds: Sequence[int]) -> list[Job]:
    """Runs to follow, for a sweep.

    A record of the experiment "fidelity" has ``steps``, each of :meth:`Fidelity.means` as a curve,
    and the :func:`recall` of the trained network.
    """
    asked = {"at": list(STEPS), "count": COUNT}
    return watching(_work, chosen, seeds, asked)
