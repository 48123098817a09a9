"""What a student learns from: the teacher's log-probabilities and their input gradients.

The gradient of <log pi*(s), v> needs no forward pass of the teacher.  With z its logits it is
sum_k a_k (dz_k - dz_n)/ds over k < n, a = v - pi sum(v) (the a_k add up to 0).  Where the n - 1
differences of rows fit into a quarter of the memory (half precision, 56 KB a state and row) they
are kept, and a step adds them up, weighted.  Else which ReLUs were on is kept, one bit a unit
(2.7 KB a state), and a step goes back through the teacher.  On a GPU, where passes are cheap,
nothing is kept: a step asks the teacher again, forward and back.
"""

from __future__ import annotations

import math
import os

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .data import Frames
from .games import STACK
from .networks import BLOCK, BLOCKED, First, Teacher, blocks

CHUNK = 250

try:
    MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
except (AttributeError, ValueError):  # Windows has no such call
    MEMORY = 1 << 30
SIZE = math.prod(BLOCKED)


class Targets:
    """The teacher's answers on some states of a recording, and what it saw, in blocks.

    Parameters
    ----------
    teacher : Teacher
        Not trained.
    frames : Frames
    index : (n,) int
        The states; only their frames are read.
    gradients : bool
        Keep what :meth:`gradient` needs.
    memory : int
        Bytes that Jacobians may take.
    device : str
        Of the teacher, which moves there, and of all that is kept.

    Attributes
    ----------
    logs : (n, actions) float32
        Log-probabilities.
    """

    def __init__(
        self,
        teacher: Teacher,
        frames: Frames,
        index: NDArray[numpy.int64],
        gradients: bool = True,
        memory: int = MEMORY,
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.teacher = teacher.to(self.device).requires_grad_(False)
        self.layers = [m for m in teacher.body if isinstance(m, nn.Conv2d | nn.Linear)]
        self._copy(frames, index)
        self.shapes: list[torch.Size] = []
        self.masks: list[NDArray[numpy.uint8]] = []
        self.kept: tuple[Tensor, Tensor] | None = None  # rows from -1 to 1, and their scales
        logs, masks = [], []
        for chunk in torch.arange(len(index)).split(CHUNK):
            answer, bits = self._ask(self.frames(chunk))
            logs.append(answer)
            if gradients:
                masks.append(bits)
        self.logs = torch.cat(logs)
        if gradients and self.device.type == "cpu":
            self.masks = [numpy.concatenate(each) for each in zip(*masks, strict=True)]
            states, actions = self.logs.shape
            if 2 * states * (actions - 1) * SIZE <= memory:
                self._keep()

    def __len__(self) -> int:
        return len(self.logs)

    def _copy(self, frames: Frames, index: NDArray[numpy.int64]) -> None:
        numbers, places = numpy.unique(frames.behind(index), return_inverse=True)
        pixels = torch.from_numpy(frames.frames[numbers])
        pixels[torch.from_numpy(numbers < 0)] = 0
        pixels = pixels.to(self.device)
        side = BLOCKED[1]
        squares = pixels.reshape(-1, side, BLOCK, side, BLOCK).transpose(2, 3)
        self.pixels = squares.reshape(len(numbers), side**2, BLOCK**2)
        self.places = torch.from_numpy(places.reshape(-1, STACK)).to(self.device)

    @torch.no_grad()
    def _ask(self, x: Tensor) -> tuple[Tensor, list[NDArray[numpy.uint8]]]:
        bits, self.shapes = [], []
        for layer in self.teacher.body:
            x = layer(x)
            if isinstance(layer, nn.ReLU) and self.device.type == "cpu":
                self.shapes.append(x.shape[1:])
                bits.append(numpy.packbits((x > 0).flatten(1).numpy(), axis=1))
        logits: Tensor = self.teacher.policy(x)
        return logits.log_softmax(-1), bits

    @torch.no_grad()
    def _keep(self) -> None:
        states, actions = self.logs.shape
        rows = torch.empty(states, actions - 1, SIZE, dtype=torch.float16)
        scales = torch.empty(states)
        against = torch.eye(actions)[:-1] - torch.eye(actions)[-1]
        for chosen in torch.arange(states).split(CHUNK):
            whole = torch.stack(
                [_flat(self._back(chosen, each.expand(len(chosen), -1))) for each in against], 1
            )
            scales[chosen] = whole.abs().amax((1, 2)).clamp(min=1e-30)
            rows[chosen] = whole.div_(scales[chosen, None, None]).half()
        self.kept = rows.flatten(0, 1), scales
        self.masks = []

    def frames(self, chosen: Tensor) -> Tensor:
        """Frames of the chosen states, from 0 to 1 and in blocks: (B, 64, 21, 21)."""
        squares = self.pixels.index_select(0, self.places[chosen.to(self.device)].flatten())
        squares = squares.reshape(len(chosen), STACK, -1, BLOCK**2).transpose(1, 2)
        return _unflat(squares.contiguous().flatten(1).to(torch.get_default_dtype()).div_(255))

    @torch.no_grad()
    def gradient(self, chosen: Tensor, v: Tensor) -> Tensor:
        """Gradient of <log pi*(s), v> with respect to the frames from 0 to 1, in blocks.

        ``chosen`` (B,) are positions in ``index``, v is (B, actions).
        """
        # log pi = z - logsumexp(z), so that <log pi, v> has the gradient v - pi sum(v) in z
        weights = v - self.logs[chosen].exp() * v.sum(1, keepdim=True)
        if not self.kept:
            return self._back(chosen, weights)
        rows, scales = self.kept
        count = weights.shape[1] - 1
        which = chosen[:, None] * count + torch.arange(count)
        added = functional.embedding_bag(
            which, rows, per_sample_weights=weights[:, :-1].half(), mode="sum"
        )
        return _unflat(added.float().mul_(scales[chosen, None]))

    def _back(self, chosen: Tensor, back: Tensor) -> Tensor:
        """Through the teacher's policy and body, from logits to blocks."""
        if self.device.type != "cpu":
            return self._again(chosen, back)
        back = back @ self.teacher.policy.weight
        for depth in range(len(self.layers) - 1, -1, -1):
            shape = self.shapes[depth]
            on = numpy.unpackbits(self.masks[depth][chosen.numpy()], axis=1, count=shape.numel())
            back = back.reshape(-1, *shape) * torch.from_numpy(on).reshape(-1, *shape)
            layer = self.layers[depth]
            if isinstance(layer, nn.Linear):
                back = back @ layer.weight
                continue
            back = back.contiguous(memory_format=torch.channels_last)
            if isinstance(layer, First):
                back = functional.conv_transpose2d(back, blocks(layer.weight))
            else:
                stride = layer.stride
                back = functional.conv_transpose2d(back, layer.weight, stride=stride)  # type: ignore[arg-type]
        return back

    @torch.enable_grad()
    def _again(self, chosen: Tensor, back: Tensor) -> Tensor:
        x = self.frames(chosen).requires_grad_()
        return torch.autograd.grad(self.teacher(x)[0], x, back)[0]

    def policy(self, x: Tensor) -> Tensor:
        """Return the teacher's log-probabilities for frames in blocks."""
        logits: Tensor = self.teacher(x)[0]
        return logits.log_softmax(-1)


def _unflat(pixels: Tensor) -> Tensor:
    """(B, SIZE), channels last, to (B, 64, 21, 21) without a copy."""
    channels, side, _ = BLOCKED
    return pixels.view(-1, side, side, channels).permute(0, 3, 1, 2)


def _flat(blocked: Tensor) -> Tensor:
    """Undo :func:`_unflat`."""
    return blocked.permute(0, 2, 3, 1).flatten(1)
