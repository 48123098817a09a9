"""What a student learns from: the teacher's log-probabilities and their input gradients.

The gradient of <log pi*(s), v> needs the teacher's backward pass only: which ReLUs were on is
cached, one bit a unit (2.7 KB a state), and so are the probabilities.  Where the whole Jacobians
fit into :data:`MEMORY` bytes (half precision, scaled; 56 KB a state and action) they are kept
instead, and a step costs no pass through the teacher at all.
"""

from __future__ import annotations

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from .data import Frames
from .games import FRAME, STACK
from .networks import Teacher, scaled

CHUNK = 500
MEMORY = 1 << 30


class Targets:
    """The teacher's answers on some states of a recording.

    Parameters
    ----------
    teacher : Teacher
        Not trained.
    frames : Frames
    index : (n,) int
        The states.
    gradients : bool
        Keep what :meth:`gradient` needs.
    memory : int
        Bytes that Jacobians may take.
    quiet : bool
        No progress bar.

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
        quiet: bool = True,
    ) -> None:
        self.teacher = teacher.requires_grad_(False)
        self.layers = [m for m in teacher.body if isinstance(m, nn.Conv2d | nn.Linear)]
        self.source, self.index = frames, numpy.asarray(index)
        self.shapes: list[torch.Size] = []
        self.masks: list[NDArray[numpy.uint8]] = []
        self.kept: tuple[Tensor, Tensor] | None = None  # Jacobians from -1 to 1, and their scales
        logs, masks = [], []
        for chunk in tqdm(torch.arange(len(index)).split(CHUNK), "teacher", disable=quiet):
            answer, bits = self._ask(self.frames(chunk))
            logs.append(answer)
            if gradients:
                masks.append(bits)
        self.logs = torch.cat(logs)
        if gradients:
            self.masks = [numpy.concatenate(each) for each in zip(*masks, strict=True)]
            states, actions = self.logs.shape
            if 2 * states * actions * STACK * FRAME * FRAME <= memory:
                self._keep()

    def __len__(self) -> int:
        return len(self.logs)

    @torch.no_grad()
    def _ask(self, x: Tensor) -> tuple[Tensor, list[NDArray[numpy.uint8]]]:
        bits, self.shapes = [], []
        for layer in self.teacher.body:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                self.shapes.append(x.shape[1:])
                bits.append(numpy.packbits((x > 0).flatten(1).numpy(), axis=1))
        logits: Tensor = self.teacher.policy(x)
        return logits.log_softmax(-1), bits

    def _keep(self) -> None:
        shape = (*self.logs.shape, STACK, FRAME, FRAME)
        rows, scales = torch.empty(shape, dtype=torch.float16), torch.empty(self.logs.shape)
        for chosen in torch.arange(len(self)).split(CHUNK):
            whole = self.jacobian(chosen)
            scales[chosen] = whole.abs().amax((2, 3, 4)).clamp(min=1e-30)
            rows[chosen] = (whole / scales[chosen][..., None, None, None]).half()
        self.kept = rows, scales

    def frames(self, chosen: Tensor) -> Tensor:
        """Frames (B, 4, 84, 84) of the chosen states, from 0 to 1."""
        return scaled(torch.from_numpy(self.source.stacks(self.index[chosen.numpy()])))

    @torch.no_grad()
    def gradient(self, chosen: Tensor, v: Tensor) -> Tensor:
        """Gradient of <log pi*(s), v> with respect to the frames from 0 to 1.

        Parameters
        ----------
        chosen : (B,) int
            Positions in ``index``.
        v : (B, actions)

        Returns
        -------
        (B, 4, 84, 84)
        """
        if self.kept:
            rows, scales = self.kept
            weights = (v * scales[chosen])[:, None]
            flat = rows[chosen].float().flatten(2)
            return (weights @ flat).reshape(len(chosen), STACK, FRAME, FRAME)
        probabilities = self.logs[chosen].exp()
        # log pi = z - logsumexp(z), so that <log pi, v> has the gradient v - pi sum(v) in z
        back = (v - probabilities * v.sum(1, keepdim=True)) @ self.teacher.policy.weight
        for depth in range(len(self.layers) - 1, -1, -1):
            shape = self.shapes[depth]
            on = numpy.unpackbits(self.masks[depth][chosen.numpy()], axis=1, count=shape.numel())
            back = back.reshape(-1, *shape) * torch.from_numpy(on).reshape(-1, *shape)
            layer = self.layers[depth]
            if isinstance(layer, nn.Linear):
                back = back @ layer.weight
            else:
                stride = layer.stride
                back = functional.conv_transpose2d(back, layer.weight, stride=stride)  # type: ignore[arg-type]
        return back

    def jacobian(self, chosen: Tensor) -> Tensor:
        """Gradients of all log-probabilities, (B, actions, 4, 84, 84)."""
        actions = self.logs.shape[1]
        rows = [
            self.gradient(chosen, torch.eye(actions)[k].expand(len(chosen), -1))
            for k in range(actions)
        ]
        return torch.stack(rows, 1)
