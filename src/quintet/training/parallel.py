"""One process or several: who this one is, its share of a batch, sums over all, and weights that lie in shards.

DDP keeps everything in every process; FSDP2 cuts parameters, gradients and optimiser states into shards, a block of the
network at a time. Both write whole tensors, each process some of them, so that another number of processes can go on.
torch.distributed.checkpoint is not used: its own format is pickled and is no model folder, and the safetensors that it
writes lack scalars and what other readers look for in a header (PyTorch 2.13).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from quintet.model.placement import checked_device
from quintet.model.stack import T5Stack


@dataclass(frozen=True)
class World:
    """The processes of a run; `rank` is this one's number."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, rows: Sequence[Any]) -> list[Any]:
        """This process's rows of a batch; may be none."""
        return list(rows[self.rank :: self.size])

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """What is done inside has been done by all processes when it ends, or else each of them raises.

        Raises OSError where it was another process that failed.
        """
        done = torch.zeros((), device=self.device)
        try:
            yield
            done += 1
        finally:
            everywhere = self.total(done).item() == self.size
        if not everywhere:
            raise OSError("another process failed, and says why")


@contextmanager
def joined(device: str | None) -> Iterator[World]:
    """The world that `torchrun` describes in the environment, or one process alone.

    Without a device, a GPU if there is one; without a number, that of the process's local rank. Raises ValueError for a
    device that is not here.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    place = _device(device)
    if size == 1:
        yield World(device=place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, place)
    finally:
        dist.destroy_process_group()


def _device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = checked_device(name, "device", "cpu, cuda or cuda:1")
    if device.type != "cuda":
        return device
    if device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def spread(network: nn.Module, stacks: Sequence[T5Stack], world: World, in_shards: bool) -> nn.Module:
    """The network for several processes: in shards, each block a unit, or whole in each of them.

    `network` is changed in place. Position biases are units of their own: they are used outside their blocks. Raises
    ValueError for shards in a single process.
    """
    if not in_shards:
        return network if world.size == 1 else nn.parallel.DistributedDataParallel(network)
    if world.size == 1:
        raise ValueError("fsdp needs several processes: torchrun --nproc-per-node 2 -m quintet train ...")
    mesh = dist.init_device_mesh(world.device.type, (world.size,))
    for block in (block for stack in stacks for block in stack.blocks):
        if hasattr(block.self_attention, "relative_attention_bias"):
            fully_shard(block.self_attention.relative_attention_bias, mesh=mesh)
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


@contextmanager
def usable(network: nn.Module) -> Iterator[None]:
    """Inside, parts of a network in shards can be used without the whole."""
    if not isinstance(network, FSDPModule):
        yield
        return
    network.unshard()
    yield
    network.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of a network or an optimiser in one piece; all processes must ask for it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def own_share(tensors: Mapping[str, torch.Tensor], world: World) -> dict[str, torch.Tensor]:
    """This process's share of tensors, each in one piece, in its memory. All processes must ask, for the same tensors.

    One after another: no device ever holds more of them than its shards and one in one piece.
    """
    held = [0] * world.size
    found = {}
    for name in sorted(tensors):  # everywhere in the same order
        tensor = tensors[name]
        owner = held.index(min(held))
        held[owner] += tensor.numel() * tensor.itemsize
        piece = whole(tensor)
        if owner == world.rank:
            found[name] = piece.cpu()
    return found


@torch.no_grad()
def fill(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor into one of a network or an optimiser, which may lie in shards."""
    if isinstance(target, DTensor):
        value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    target.copy_(value)
