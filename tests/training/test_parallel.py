"""Two processes beside one: the same losses, and runs that change between them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

import quintet
from quintet.training.config import TrainingConfig
from quintet.training.logs import read_log
from quintet.training.loop import to_tensors
from quintet.training.parallel import World, joined, own_share
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
    check_shards(tmp_path)
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


def check_shards(folder: Path) -> None:
    """Of two processes each has written half of a checkpoint, as other libraries read it."""
    for part in ("", "optimizer"):
        shards = sorted((folder / "two" / "checkpoint-3" / part).glob("*.safetensors"))
        assert [path.name for path in shards] == [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        sizes = [path.stat().st_size for path in shards]
        assert max(sizes) < 1.5 * min(sizes)
    weights = {
        name: transformers.T5ForConditionalGeneration.from_pretrained(folder / name / "checkpoint-3").state_dict()
        for name in ("one", "two")
    }
    for name, tensor in weights["one"].items():
        torch.testing.assert_close(weights["two"][name], tensor, atol=2e-4, rtol=1e-3)


FAILING = """
import os, sys, yaml
from quintet.training import checkpoints
from quintet.training.config import TrainingConfig
from quintet.training.running import run_training
from quintet.training.settings import build

def fail(*_):
    raise OSError(28, "No space left on device")

if os.environ["RANK"] == sys.argv[2]:
    setattr(checkpoints, sys.argv[3], fail)
try:
    run_training(build(TrainingConfig, yaml.safe_load(open(sys.argv[1]))))
except OSError as error:
    print(os.environ["RANK"], error, file=sys.stderr)
"""


@pytest.mark.parametrize(("rank", "what"), [("1", "save_tensors"), ("0", "join_checkpoints")])
def test_a_process_that_cannot_write_ends_all(tmp_path: Path, rank: str, what: str) -> None:
    """With what went wrong, without a checkpoint, and without waiting for each other."""
    config, program = tmp_path / "config.yaml", tmp_path / "program.py"
    config.write_text(yaml.safe_dump(settings(tmp_path, save_steps=1, max_steps=2)), encoding="utf-8")
    program.write_text(FAILING, encoding="utf-8")
    done = subprocess.run([*TORCHRUN, program, config, rank, what], capture_output=True, text=True, timeout=120)
    assert f"{rank} [Errno 28] No space left on device" in done.stderr, done.stderr[-3000:]
    assert f"{1 - int(rank)} another process failed" in done.stderr
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.is_dir() and path.name != "tokens"]


def test_cuda_without_a_number_is_the_one_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for given, rank, expected in (("cuda", None, 0), ("cuda", "2", 2), ("cuda:1", "2", 1), (None, "3", 3)):
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        if rank is not None:
            monkeypatch.setenv("LOCAL_RANK", rank)
        with joined(given) as world:
            assert world.device == chosen[-1] == torch.device("cuda", expected)


def test_a_share_is_every_nth_row() -> None:
    rows = list(range(5))
    shares = [World(rank, 2).share(rows) for rank in range(2)]
    assert shares == [[0, 2, 4], [1, 3]]
    assert World(1, 2).share([7]) == []


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_each_tensor_has_one_owner(size: int) -> None:
    tensors = {str(number): torch.zeros(number) for number in (9, 3, 7, 1, 5)}
    shares = [
        own_share(dict(reversed(tensors.items())) if rank else tensors, World(rank, size)) for rank in range(size)
    ]
    assert sorted(name for share in shares for name in share) == sorted(tensors)
    if size == 2:
        loads = [sum(map(len, share.values())) for share in shares]
        assert max(loads) < 2 * min(loads)


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
