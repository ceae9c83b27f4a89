"""Two processes beside one: the same losses, and runs that change between them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import quintet
from quintet.training.config import TrainingConfig
from quintet.training.logs import read_log
from quintet.training.loop import to_tensors
from quintet.training.parallel import World
from quintet.training.running import run_training
from quintet.training.settings import build

from .runs import losses, new_run, settings

STILL = {"dropout_rate": 0.0}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def two_processes(folder: Path, *flags: str, **values: Any) -> None:
    """A run of two processes, as users start it."""
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings(folder, **values)), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*TORCHRUN, "-m", "quintet", "train", config, *flags], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()[-3000:]


@pytest.mark.parametrize(
    ("fsdp", "optim"),
    [(False, "adamw_torch"), (True, "adafactor"), pytest.param(True, "adamw_torch", marks=pytest.mark.sweep)],
)
def test_two_processes_are_one(tmp_path: Path, fsdp: bool, optim: str) -> None:
    """The losses of all six steps, of evaluations, and what was learned; then each goes on with the other's."""
    common = {"optim": optim, "learning_rate": 1e-3, "config_overrides": STILL, "logging_steps": 1, "eval_steps": 3}
    common |= {"max_eval_samples": 4, "generation_max_length": 4, "save_steps": 3}
    one = {**common, "output_dir": str(tmp_path / "one"), "per_device_train_batch_size": 8}
    two = {**common, "output_dir": str(tmp_path / "two"), "per_device_train_batch_size": 4, "fsdp": fsdp}
    two_processes(tmp_path, **{**two, "max_steps": 3})
    run_training(build(TrainingConfig, settings(tmp_path, **{**one, "max_steps": 3})))
    compare(tmp_path)
    for name, other in (("one", "two"), ("two", "one")):
        os.rename(tmp_path / name, tmp_path / f"{other}-next")
    for name in ("one", "two"):
        os.rename(tmp_path / f"{name}-next", tmp_path / name)
    two_processes(tmp_path, "--resume", **two)
    run_training(build(TrainingConfig, settings(tmp_path, **one)), resume=True)
    compare(tmp_path)
    assert len(losses(read_log(tmp_path / "one"))) == 6


def compare(folder: Path) -> None:
    logs = [read_log(folder / name) for name in ("one", "two")]
    assert losses(logs[1]) == pytest.approx(losses(logs[0]), rel=1e-4)
    held_out = [[record["eval_loss"] for record in log if "eval_loss" in record] for log in logs]
    assert held_out[1] == pytest.approx(held_out[0], rel=1e-4)
    models = [quintet.AutoModelForSeq2SeqLM.from_pretrained(folder / name).state_dict() for name in ("one", "two")]
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, atol=2e-4, rtol=1e-3)


def test_a_share_is_every_nth_row() -> None:
    rows = list(range(5))
    shares = [World(rank, 2).share(rows) for rank in range(2)]
    assert shares == [[0, 2, 4], [1, 3]]
    assert World(1, 2).share([7]) == []


def test_a_process_without_a_row_adds_nothing(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    rows = next(run.batches)[:1]
    run.world = World(1, 2)
    batch = to_tensors(run, rows)
    assert batch["labels"].unique().tolist() == [-100]
    loss = run.network(batch, normalizer=7.0)
    loss.value.backward()
    assert (loss.value.item(), loss.tokens) == (0.0, 0)
    assert all(not parameter.grad.any() for parameter in run.model.parameters())


def test_shards_need_several_processes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fsdp needs several processes: torchrun"):
        run_training(build(TrainingConfig, settings(tmp_path, fsdp=True)))
