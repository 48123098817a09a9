"""Where policies look: input gradients of a teacher and of its students, compared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .networks import Student, images
from .students import SEEN
from .targets import Targets

SHARE = 0.05  # of the pixels that count as where the teacher looks
Logs = Callable[[Tensor], Tensor]


def saliency(logs: Logs, x: Tensor, actions: Tensor) -> Tensor:
    """Gradient (B, 4, 84, 84) of actions' log-probabilities with respect to the frames.

    ``logs`` goes from frames to log-probabilities, x (B, 64, 21, 21) are frames in blocks.
    """
    x = x.detach().clone().requires_grad_()
    chosen = logs(x).gather(1, actions[:, None]).sum()
    return images(torch.autograd.grad(chosen, x)[0])


def agreement(student: Student, targets: Targets, count: int = SEEN) -> dict[str, float]:
    """Compare a student's input gradients with the teacher's, on evenly spaced states.

    Both are of the log-probability of the teacher's most probable action.

    Returns
    -------
    dict
        ``gradient_cosine``, mean over states; ``gradient_cosine_other``, the same with the
        gradients of the next of these states, which are far apart; ``gradient_overlap``, the part
        of the student's squared gradient in the :data:`SHARE` of pixels where the teacher's is
        largest; ``gradient_size``, mean norm, in units of the teacher's.
    """
    index = torch.linspace(0, len(targets) - 1, min(count, len(targets))).long()
    actions = targets.logs[index].argmax(1)
    mine, goal = [], []
    for part, chosen in zip(index.split(100), actions.split(100), strict=True):
        x = targets.frames(part)
        mine.append(saliency(student, x, chosen).flatten(1))
        goal.append(saliency(targets.policy, x, chosen).flatten(1))
    student_, teacher = torch.cat(mine), torch.cat(goal)
    first = teacher.abs().topk(round(SHARE * teacher.shape[1]), 1).indices
    squares = student_.square()
    inside = squares.gather(1, first).sum(1) / squares.sum(1).clamp(min=1e-30)
    other = torch.cosine_similarity(student_, teacher.roll(1, 0))
    return {
        "gradient_cosine": float(torch.cosine_similarity(student_, teacher).mean()),
        "gradient_cosine_other": float(other.mean()),
        "gradient_overlap": float(inside.mean()),
        "gradient_size": float(student_.norm(dim=1).mean() / teacher.norm(dim=1).mean()),
    }
