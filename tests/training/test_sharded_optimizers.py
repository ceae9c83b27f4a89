"""Optimisers on parameters sharded over two processes (FSDP2) beside the same on one: their norms are the wholes'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import nn
from torch.distributed.fsdp import fully_shard

from quintet.training.optimizers import Adafactor, ScaledAdamW, adafactor

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adafactor": Adafactor,
    "adafactor with momentum": lambda chosen: Adafactor(
        chosen, lr=1e-2, relative_step=False, beta1=0.9, weight_decay=0.1
    ),
    "scaled adamw": lambda chosen: ScaledAdamW(chosen, weight_decay=0.1),
    "torch's adamw": lambda chosen: torch.optim.AdamW(chosen, fused=True),
}


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 6), nn.LayerNorm(6), nn.Linear(6, 5))


def compare(rank: int, folder: Path) -> None:
    """In each of the processes: every optimiser on the whole and on shards; fails where the parameters differ."""
    torch.set_num_threads(1)
    adafactor.IN_CACHE = 12  # the whole ones are worked on in parts
    dist.init_process_group("gloo", rank=rank, world_size=2, init_method=f"file://{folder}/meeting")
    for name, make in OPTIMIZERS.items():
        whole, sharded = build(), fully_shard(build())
        optimizers = [make(model.parameters()) for model in (whole, sharded)]
        for step in range(5):
            for model, optimizer in zip((whole, sharded), optimizers, strict=True):
                optimizer.zero_grad()
                model(torch.arange(step, step + 6)).square().sum().backward()
                optimizer.grad_scale = torch.tensor(7.0) if step % 2 else None  # type: ignore[attr-defined]
                optimizer.step()
            optimizers[1].load_state_dict(optimizers[1].state_dict())
        for one, other in zip(whole.parameters(), sharded.parameters(), strict=True):
            assert torch.allclose(other.full_tensor(), one, atol=1e-6, rtol=1e-5), name
    dist.destroy_process_group()
    (folder / f"done-{rank}").touch()


def test_sharded_parameters_move_as_whole_ones(tmp_path: Path) -> None:
    processes.spawn(compare, (tmp_path,), nprocs=2)
    assert sorted(path.name for path in tmp_path.glob("done-*")) == ["done-0", "done-1"]
