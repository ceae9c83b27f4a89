"""A small task that a tiny model learns in seconds, and runs on it."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import quintet
from quintet.training.building import build_run
from quintet.training.config import TrainingConfig
from quintet.training.loop import Run
from quintet.training.parallel import World
from quintet.training.settings import build

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TINY = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"}


def write_task(folder: Path) -> dict[str, Any]:
    """Numbers of three digits, spelled out; a tenth of them is never seen in training. Returns the task's settings."""
    pairs = [
        ("".join(digits), " ".join(WORDS[int(digit)] for digit in digits))
        for digits in itertools.product("0123456789", repeat=3)
    ]
    random.Random(0).shuffle(pairs)
    files = {"train_file": pairs[100:], "validation_file": pairs[:100]}
    for name, rows in files.items():
        text = "".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    paths = {name: str(folder / f"{name}.jsonl") for name in files}
    return {"name": "digits", "prefix": "spell: ", "metrics": ["exact_match"], **paths}


def write_model(folder: Path, **values: Any) -> Path:
    """A configuration and a tokenizer to train from scratch with."""
    quintet.T5Config(decoder_start_token_id=0, **{**TINY, **values}).save_pretrained(folder)
    quintet.ByT5Tokenizer().save_pretrained(folder)
    return folder


def settings(folder: Path, **values: Any) -> dict[str, Any]:
    """Those of a short run in a folder; `values` win."""
    (folder / "tiny").mkdir(exist_ok=True)
    return {
        "config_name": str(write_model(folder / "tiny")),
        "output_dir": str(folder / "run"),
        "tasks": [write_task(folder)],
        "max_source_length": 32,
        "max_target_length": 32,
        "per_device_train_batch_size": 8,
        "max_steps": 6,
        "logging_steps": 2,
        "device": "cpu",
        **values,
    }


def config_of(folder: Path, **values: Any) -> TrainingConfig:
    return build(TrainingConfig, settings(folder, **values))


def new_run(folder: Path, **values: Any) -> Run:
    return build_run(config_of(folder, **values), World())


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors are equal, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses(log: Sequence[dict[str, Any]]) -> list[float]:
    return [record["loss"] for record in log if "loss" in record]
