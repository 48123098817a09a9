"""Several processes, one network: synchronous gradients, and Hogwild modules (SM 4).

"All models were trained using multi-GPU optimisation, with Sync main network updates and Hogwild SG
module updates."  Under ``torchrun`` each process takes its share of a batch.
:func:`average` makes the main network's step that of the whole batch; :func:`share` puts module
parameters into memory that all processes of one machine map, where each steps when it likes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist


def world() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) without ``torchrun``."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_device(device: torch.device | str) -> torch.device:
    """Device of this process: of several GPUs the one that ``torchrun`` means it to have."""
    found = torch.device(device)
    if found.type == "cuda" and found.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return found


def start(device: torch.device | str) -> bool:
    """Join the processes of ``torchrun`` if it started this one; return whether it did."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return False
    if own_device(device).type == "cuda":
        torch.cuda.set_device(own_device(device))
    dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
    return True


def agree(flag: bool) -> bool:
    """Whether any process says so; all get the same answer."""
    if world()[1] == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    said = torch.tensor(float(flag), device=device)
    dist.all_reduce(said, op=dist.ReduceOp.MAX)
    return bool(said.item())


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in one message."""
    _, count = world()
    chosen = [t for t in tensors if t.is_floating_point()]
    if count == 1 or not chosen:
        return
    flat = torch.cat([t.detach().reshape(-1).float() for t in chosen])
    dist.all_reduce(flat)
    flat /= count
    place = 0
    for t in chosen:
        with torch.no_grad():
            t.copy_(flat[place : place + t.numel()].view_as(t))
        place += t.numel()


def share(parameters: Iterable[nn.Parameter], path: str | os.PathLike[str]) -> None:
    """Put parameters into a file mapped by all processes: an update of one is seen by all.

    Nothing is locked (Recht et al. 2011: *Hogwild!*): two updates at once may lose one.  The values
    are those of the process of rank 0.  All processes see the file, e.g. under ``/dev/shm``, which
    is made here.

    Raises
    ------
    ValueError
        Parameters on another device or of another dtype.
    """
    chosen = list(parameters)
    for p in chosen:
        if p.device.type != "cpu" or p.dtype != torch.float32:
            raise ValueError(
                f"Hogwild needs float32 parameters on the CPU; got {p.dtype} on {p.device}"
            )
    total = sum(p.numel() for p in chosen)
    rank, count = world()
    if rank == 0:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        first = torch.from_file(str(path), shared=True, size=total, dtype=torch.float32)
        first.copy_(torch.cat([p.detach().reshape(-1) for p in chosen]))
    if count > 1:
        dist.barrier()
    memory = torch.from_file(str(path), shared=True, size=total, dtype=torch.float32)
    if count > 1:
        dist.barrier()
    if rank == 0:
        Path(path).unlink()  # the mappings keep the memory; nothing is left behind
    nn.utils.vector_to_parameters(memory, chosen)
