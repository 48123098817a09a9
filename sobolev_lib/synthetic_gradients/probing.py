"""What modules do while they train: alignment, its ceiling, and whether they are classifiers.

Instruments for the question behind Table 1: does a module predict the gradient, or is it a
classifier that trains what lies below it by the labels?
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sobolev_lib.records import ledger
from sobolev_lib.records.sweep import Job, Result, Tick
from sobolev_lib.synthetic_gradients import data as images
from sobolev_lib.synthetic_gradients.decoupling import Decoupled, apart, cosine, cross_entropy
from sobolev_lib.synthetic_gradients.jobs import results_of, watching
from sobolev_lib.synthetic_gradients.modules import Prediction, SGModule
from sobolev_lib.synthetic_gradients.settings import Setting, row_of
from sobolev_lib.synthetic_gradients.training import Training

EXPERIMENT = "probes"
PROBED = ("vfbn", "critic", "sobolev", "local_ce")
"""Modes whose modules model the loss."""
TIMES, BATCH = 12, 64
"""How often a recorded run is looked at, and on how many images."""


@dataclass(frozen=True)
class Probe:
    """What the modules of a network do on one batch, by split from the input upwards.

    Parameters
    ----------
    above : list of float
        Share of examples whose loss the module puts above the true one, m > L; there the critic's
        L1 loss pulls like the labels.
    right : list of float
        Share of examples whose class the module's own p(h) names.
    cosine : list of float
        Mean cosine of synthetic and true gradient.
    own : list of float
        Mean cosine of the true gradient with the part of it that an example owes to its own loss:
        batch normalisation adds a part that other examples' losses send.
    pull : list of float
        Cosine of the gradient of the module's loss in its parameters with the gradient of
        the cross entropy of p(h) on the labels: 1 where it is trained as a local classifier.
    size : list of float
        Mean norm of the true gradient of an example.
    """

    above: list[float]
    right: list[float]
    cosine: list[float]
    own: list[float]
    pull: list[float]
    size: list[float]


def own_gradients(net: Decoupled, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """True gradients at the splits, and the part of each that belongs to the example's own loss.

    The first is d(sum over c of L_c)/dh_b, what backpropagation sends to example b; the second
    dL_b/dh_b; both (B, *shape), by split.  Without batch normalisation they are equal.  Takes
    memory for B x B gradients.  The network's mode is its present one, its statistics are left
    alone.
    """
    segments = copy.deepcopy(net.segments)
    h: list[Tensor] = []
    value = x
    for segment in list(segments)[:-1]:
        value = apart(segment, value)
        if not h:
            value = value.detach().requires_grad_()
        h.append(value)
    losses = cross_entropy(apart(segments[-1], value), y)
    ones = torch.eye(len(y), dtype=losses.dtype, device=losses.device)
    each = torch.autograd.grad(losses, h, ones, is_grads_batched=True)  # [c, b]: dL_c/dh_b
    b = torch.arange(len(y), device=losses.device)
    return [g.sum(dim=0) for g in each], [g[b, b] for g in each]


def probe(net: Decoupled, x: Tensor, y: Tensor) -> Probe:
    """Look at the modules of a network (see :data:`PROBED`) on one batch; nothing is trained.

    Raises
    ------
    ValueError
        If a module predicts no loss.
    """
    every, own = own_gradients(net, x, y)
    with torch.no_grad():
        _, h = copy.deepcopy(net).activations(x)
    true_loss = cross_entropy(h[-1], y)
    found: list[tuple[float, ...]] = []
    for module, values, g, part in zip(net.sg_modules, h, every, own, strict=False):
        said = module(values, y)
        if said.loss is None or said.log_probabilities is None:
            raise ValueError(f"modules of mode {net.mode!r} predict no loss; use 'critic' or such")
        pairs = [(v.detach().flatten(1), g.flatten(1)) for v in (said.gradient, part)]
        shares = (said.loss > true_loss, said.log_probabilities.argmax(dim=1) == y)
        logp = functional.log_softmax(h[-1], dim=1)
        found.append(
            (
                *(share.double().mean().item() for share in shares),
                *(cosine(*pair).mean().item() for pair in pairs),
                pull(cast(SGModule, module), said, true_loss, g, logp),
                g.flatten(1).norm(dim=1).mean().item(),
            )
        )
    names = ("above", "right", "cosine", "own", "pull", "size")
    columns = (list(column) for column in zip(*found, strict=True))
    return Probe(**dict(zip(names, columns, strict=True)))


def pull(
    module: SGModule, said: Prediction, true_loss: Tensor, g: Tensor | None, logp: Tensor | None
) -> float:
    """Cosine of the gradients of a module's own loss and of the labels' cross entropy of p(h)."""
    assert said.loss is not None
    own = module.loss(said, true_loss, g, logp)
    assert own is not None
    sides = [
        torch.autograd.grad(
            value, list(module.parameters()), retain_graph=True, materialize_grads=True
        )
        for value in (own, said.loss.mean())
    ]
    a, b = (torch.cat([part.flatten() for part in side])[None] for side in sides)
    return cosine(a, b).item()


def probes(run: Training, times: int, batch: int) -> list[tuple[int, Probe]]:
    """Train a run to its end; steps and what is found there, always on the same training images."""
    # a random choice: folders hold their images class by class
    source = torch.Generator().manual_seed(batch)
    chosen = run.chosen[torch.randperm(len(run.chosen), generator=source)[:batch]]
    x = images.normalize(run.data.train_x[chosen], run.data)
    y = run.data.train_y[chosen]
    found = []
    for stop in np.linspace(0, run.steps, times + 1).round().astype(int):
        run.run(until=int(stop))
        run.net.train()
        found.append((int(stop), probe(run.net, x, y)))
    return found


def _work(setting: Setting, seed: int, times: int, batch: int, _tick: Tick) -> list[Result]:
    run = Training(setting, seed)
    found = probes(run, times, batch)
    curves = {f.name: [getattr(p, f.name) for _, p in found] for f in fields(Probe)}
    first = {"steps": [step for step, _ in found], "top1": run.tests["top1"][-1]}
    return results_of(run, first | curves)


def jobs(chosen: Sequence[Setting], seeds: Sequence[int]) -> list[Job]:
    """Runs to probe, for a sweep.

    A record of the experiment "probes" has ``steps``, and every field of :class:`Probe` as a curve.
    """
    asked = {"times": TIMES, "probed": BATCH}
    return watching(_work, chosen, seeds, asked)


def probed_runs(arm: str, records: Sequence[ledger.Record] | None = None) -> list[ledger.Record]:
    """Records of the ledger "probes" of an arm's critics."""
    every = ledger.Ledger(EXPERIMENT).read() if records is None else records
    return [r for r in every if r.config["arm"] == arm and row_of(r.config) == "critic"]
