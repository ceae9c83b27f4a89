"""One process or several: who this one is, its share of a batch, and sums over all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from quintet.model.placement import checked_device


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

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(device: str | None) -> Iterator[World]:
    """The world that `torchrun` describes in the environment, or one process alone.

    Without a device, a GPU if there is one: that of the process's local rank. Raises ValueError for a device that is
    not here.
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
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    device = checked_device(name, "device", "cpu, cuda or cuda:1")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
