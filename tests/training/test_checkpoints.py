"""Checkpoints: a run that goes on is the run that was never interrupted."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import quintet
from quintet.training.config import TrainingConfig
from quintet.training.logs import read_log
from quintet.training.running import run_training
from quintet.training.settings import build, flatten

from .runs import config_of, losses, same, settings, weights, write_model

OPTIMS = {"adafactor": 1e-2, "adamw_torch": 1e-3, "adamw_scaled": 2e-2}
# A process that kills itself where it hurts: `save` is called at steps 3 and 6, the second time after all steps.
KILLED = """
import json, os, signal, sys
from quintet.training import checkpoints, loop, running
from quintet.training.config import TrainingConfig
from quintet.training.settings import build

def die(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)

where, values = sys.argv[1], json.loads(sys.argv[2])
make_step, save_tensors, join = loop.make_step, checkpoints.save_tensors, checkpoints.join_checkpoints
if where == "between":
    loop.make_step = lambda run, drawn: die() if run.progress.step == 5 else make_step(run, drawn)
elif where == "while writing":
    checkpoints.save_tensors = lambda given, to: die() if ".parts-6/optimizer" in str(to) else save_tensors(given, to)
else:
    checkpoints.join_checkpoints = lambda *given: die() if "checkpoint-6/optimizer" in str(given[1]) else join(*given)
running.run_training(build(TrainingConfig, values))
"""


def values_of(folder: Path, optim: str = "adafactor", **values: Any) -> dict[str, Any]:
    rate = {"optim": optim, "learning_rate": OPTIMS[optim], "save_steps": 3, "logging_steps": 1}
    return settings(folder, **{**rate, **values})


def test_going_on_after_sigkill_is_exact(tmp_path: Path) -> None:
    whole = run_training(build(TrainingConfig, values_of(tmp_path)))
    for where in ("between", "while writing", "while joining"):
        values = values_of(tmp_path, output_dir=str(tmp_path / where))
        command = [sys.executable, "-c", KILLED, where, json.dumps(values)]
        assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
        assert [path.name for path in (tmp_path / where).glob("checkpoint-*")] == ["checkpoint-3"]
        shutil.copytree(
            tmp_path / where / "checkpoint-3" / "optimizer", tmp_path / where / ".parts-4" / "optimizer" / "7"
        )
        resumed = run_training(build(TrainingConfig, values), resume=True)
        assert resumed.progress == whole.progress
        assert not list((tmp_path / where).glob(".parts-*"))
        assert same(weights(resumed), weights(whole))
        assert losses(read_log(tmp_path / where)) == losses(read_log(tmp_path / "run"))
        assert [record["step"] for record in read_log(tmp_path / where)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("optim", OPTIMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_optimiser_goes_on_exactly(tmp_path: Path, optim: str, dtype: str) -> None:
    whole = run_training(build(TrainingConfig, values_of(tmp_path, optim, dtype=dtype)))
    part = values_of(tmp_path, optim, dtype=dtype, output_dir=str(tmp_path / "part"))
    run_training(build(TrainingConfig, {**part, "max_steps": 3}))
    resumed = run_training(build(TrainingConfig, part), resume=True)
    assert same(weights(resumed), weights(whole))
    saved, expected = resumed.optimizer.state_dict()["state"], whole.optimizer.state_dict()["state"]
    for number, state in expected.items():
        assert same(saved[number], state)


def test_under_autocast_a_run_goes_on_exactly(tmp_path: Path, multiplier: str) -> None:
    whole = run_training(build(TrainingConfig, values_of(tmp_path, bf16=True)))
    part = values_of(tmp_path, bf16=True, output_dir=str(tmp_path / "part"))
    run_training(build(TrainingConfig, {**part, "max_steps": 3}))
    assert same(weights(run_training(build(TrainingConfig, part), resume=True)), weights(whole))


def test_a_checkpoint_is_a_model_to_load(tmp_path: Path) -> None:
    run = run_training(config_of(tmp_path, save_steps=6))
    for folder in (tmp_path / "run" / "checkpoint-6", tmp_path / "run"):
        model = quintet.AutoModelForSeq2SeqLM.from_pretrained(folder)
        assert same({name: parameter.detach() for name, parameter in model.named_parameters()}, weights(run))
        assert quintet.AutoTokenizer.from_pretrained(folder)("a")["input_ids"] == [100, 1]


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    """The first evaluation is the best: at a learning rate of 0 no later one is better."""
    options = {"learning_rate": 0.0, "eval_steps": 2, "save_steps": 1, "save_total_limit": 2, "max_steps": 6}
    run_training(config_of(tmp_path, **options))
    names = [path.name for path in (tmp_path / "run").glob("checkpoint-*")]
    assert sorted(names) == ["checkpoint-2", "checkpoint-5", "checkpoint-6"]


def test_settings_come_back_as_they_were(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert build(TrainingConfig, flatten(config)) == config


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder with a run of three steps."""
    run_training(build(TrainingConfig, values_of(tmp_path, max_steps=3)))
    return tmp_path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 1e-4}, "was made with learning_rate 0.01, now it is 0.0001"),
        ({"optim": "adamw_torch"}, "was made with optim adafactor, now it is adamw_torch"),
        ({"seed": 1}, "was made with seed 42, now it is 1"),
        ({"per_device_train_batch_size": 4}, "batches of the checkpoint were made with other options"),
        ({"max_source_length": 9}, "the data of training is not that of the checkpoint"),
    ],
)
def test_other_settings_are_refused(begun: Path, values: dict[str, Any], message: str) -> None:
    changed = {**values_of(begun), **values}
    with pytest.raises(ValueError, match=message):
        run_training(build(TrainingConfig, changed), resume=True)


def test_other_data_are_refused(begun: Path) -> None:
    values = values_of(begun)
    with (begun / "train_file.jsonl").open("a") as file:
        file.write('{"source": "1", "target": "one"}\n')
    with pytest.raises(ValueError, match=r"the data of training is not that of the checkpoint: a data set"):
        run_training(build(TrainingConfig, values), resume=True)


def test_other_held_out_data_are_refused(tmp_path: Path) -> None:
    """What was the best on some data is not so on others. Without evaluations there is nothing to compare."""
    values = values_of(tmp_path, eval_steps=1)
    run_training(build(TrainingConfig, {**values, "max_steps": 2}))
    with (tmp_path / "validation_file.jsonl").open("a") as file:
        file.write('{"source": "1", "target": "one"}\n')
    with pytest.raises(ValueError, match="was measured on other held-out data"):
        run_training(build(TrainingConfig, {**values, "max_steps": 3}), resume=True)
    run_training(build(TrainingConfig, {**values, "max_steps": 3, "eval_steps": None}), resume=True)


def test_another_model_is_refused(begun: Path) -> None:
    values = values_of(begun)
    write_model(begun / "tiny", d_ff=64)
    with pytest.raises(ValueError, match=r"checkpoint of another model: encoder.block.0.layer.1.* has the shape"):
        run_training(build(TrainingConfig, values), resume=True)


def test_a_folder_is_not_mixed_up(begun: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a run already: go on with --resume"):
        run_training(build(TrainingConfig, values_of(begun)))
    with pytest.raises(ValueError, match=r"there is no checkpoint in .*elsewhere to resume from"):
        run_training(build(TrainingConfig, values_of(begun, output_dir=str(tmp_path / "elsewhere"))), resume=True)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file grows beyond `limit` bytes."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_leaves_the_former_checkpoint(begun: Path) -> None:
    with full_disk(100_000), pytest.raises(OSError, match=r"Cannot write model.safetensors"):
        run_training(build(TrainingConfig, values_of(begun)), resume=True)
    left = sorted(path.name for path in (begun / "run").iterdir() if path.name.startswith(("checkpoint", ".")))
    assert left == ["checkpoint-3"]
    assert run_training(build(TrainingConfig, values_of(begun)), resume=True).progress.step == 6


def test_a_falling_schedule_cannot_be_made_longer(tmp_path: Path) -> None:
    values = values_of(tmp_path, lr_scheduler_type="linear")
    run_training(build(TrainingConfig, {**values, "max_steps": 3}))
    with pytest.raises(ValueError, match="was made with max_steps 3, now it is 6"):
        run_training(build(TrainingConfig, values), resume=True)


def test_weights_are_drawn_from_the_seed(tmp_path: Path) -> None:
    runs = [
        run_training(config_of(tmp_path, seed=seed, output_dir=str(tmp_path / name), max_steps=1))
        for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    ]
    first, again, other = map(weights, runs)
    assert same(first, again)
    assert not torch.equal(first["shared.weight"], other["shared.weight"])
