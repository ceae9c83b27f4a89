"""Settings: typed, of one name in files and flags, wrong ones refused by name."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

import pytest

from quintet.cli.settings import merged
from quintet.training.config import PretrainingConfig, TrainingConfig
from quintet.training.settings import build, describe, read_yaml

NEEDED = {"output_dir": "run", "max_steps": 10}


def read(folder: Path, text: str) -> TrainingConfig:
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return build(TrainingConfig, {**NEEDED, **read_yaml(folder / "config.yaml")})


def test_values_reach_their_parts(tmp_path: Path) -> None:
    text = """
        learning_rate: 1e-3
        weight_decay: 0
        bf16: true
        lr_scheduler_type: cosine
        freeze: encoder
        config_overrides: {dropout_rate: 0.0}
        tasks:
          - name: a
            train_file: [x.tsv, y.tsv]
            columns: [en, de]
    """
    config = read(tmp_path, text)
    assert config.optimizer.learning_rate == 1e-3  # which YAML takes for a text
    assert isinstance(config.optimizer.weight_decay, float)
    assert config.run.bf16 is True
    assert config.optimizer.lr_scheduler_type == "cosine"
    assert config.model.freeze == ["encoder"]
    assert config.model.config_overrides == {"dropout_rate": 0.0}
    assert config.data.tasks[0].train_file == ["x.tsv", "y.tsv"]
    assert config.optimizer.max_steps == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "there is no setting learning_rat; did you mean learning_rate?"),
        ("zzz: 1", "there is no setting zzz; the settings are model_name_or_path, config_name"),
        ("learning_rate: fast", "learning_rate must be a number, got 'fast'"),
        ("learning_rate: .inf", "learning_rate must be a number, got inf"),
        ("learning_rate: true", "learning_rate must be a number, got True"),
        ("learning_rate: -1", "learning_rate must be at least 0, got -1.0"),
        ("adam_beta1: 1", "adam_beta1 must be below 1, got 1.0"),
        ("max_steps: 1.5", "max_steps must be an integer, got 1.5"),
        ("max_steps: true", "max_steps must be an integer, got True"),
        ("max_steps: 0", "max_steps must be at least 1, got 0"),
        ("bf16: 1", "bf16 must be true or false, got 1"),
        ("optim: sgd", "optim must be one of adafactor, adamw_torch, adamw_scaled; got 'sgd'"),
        ("report_to: wandb", "report_to[0] must be one of tensorboard; got 'wandb'"),
        ("output_dir: 3", "output_dir must be a text, got 3"),
        ("config_overrides: 3", "config_overrides must be a mapping of names to values, got 3"),
        ("tasks: [3]", "tasks[0] must have settings of its own, such as name: ..., got 3"),
        ("tasks: [{train_file: x}]", "tasks[0].name is missing: what the task is called in logs"),
        ("tasks: [{name: x, prefx: y}]", "there is no setting tasks[0].prefx; did you mean prefix?"),
        ("tasks: [{name: x, rate: -1}]", "tasks[0].rate must be at least 0, got -1.0"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ["a: [", "just text", "1: 2", "- a", ""])
def test_files_without_settings(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"config\.yaml (is not YAML|must hold settings)"):
        read(tmp_path, text)


def test_what_must_be_given() -> None:
    with pytest.raises(ValueError, match="max_steps is missing: steps in all"):
        build(TrainingConfig, {"output_dir": "run"})


@pytest.mark.parametrize("cls", [TrainingConfig, PretrainingConfig])
def test_every_setting_has_one_name_and_a_line_of_help(cls: type) -> None:
    found = describe(cls)
    assert len({one.name for one in found}) == len(found)
    assert all(one.help and not one.help.endswith(".") for one in found)


def test_names_are_the_references() -> None:
    """Those that `transformers.Seq2SeqTrainingArguments` has too, with the same kind of value where it is simple."""
    import transformers

    theirs = typing.get_type_hints(transformers.Seq2SeqTrainingArguments)
    ours = {one.name: one.hint for one in describe(TrainingConfig)}
    for name in (
        *("output_dir", "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps"),
        *("warmup_steps", "eval_steps", "save_steps", "save_total_limit", "logging_steps", "seed", "bf16", "optim"),
        *("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor"),
        *("lr_scheduler_type", "gradient_checkpointing", "torch_compile", "metric_for_best_model", "report_to"),
        *("per_device_eval_batch_size", "generation_num_beams", "generation_max_length", "fsdp"),
    ):
        assert name in theirs
        assert name in ours


def test_defaults_are_those_of_t5() -> None:
    """Section 3.1.2 and 3.1.1 of the paper: Adafactor, constant 1e-3; 1e-2 falling with the root of the step."""
    from torch import nn

    from quintet.training.building import build_optimizer

    tuning, pretraining = build(TrainingConfig, NEEDED), build(PretrainingConfig, NEEDED)
    for config, peak, shape in ((tuning, 1e-3, "constant"), (pretraining, 1e-2, "inverse_sqrt")):
        optimizer, rate = build_optimizer(config.optimizer, nn.Linear(2, 2))
        assert type(optimizer).__name__ == "Adafactor"
        assert rate == peak
        assert config.optimizer.lr_scheduler_type == shape
        assert optimizer.param_groups[0]["scale_parameter"]


def test_flags_win_over_the_file() -> None:
    written = {"learning_rate": 1.0, "seed": 3, "config_overrides": {"d_model": 8, "d_ff": 4}}
    flags: dict[str, Any] = {"learning_rate": 2.0, "config_overrides": ["d_ff=16", "dropout_rate=0.5"]}
    assert merged(TrainingConfig, written, flags) == {
        "learning_rate": 2.0,
        "seed": 3,
        "config_overrides": {"d_model": 8, "d_ff": 16, "dropout_rate": 0.5},
    }
