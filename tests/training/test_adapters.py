"""Adapters: what is trained, what is saved, and that a run goes on with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import quintet
from quintet.training.checkpoints import checkpoints_in
from quintet.training.config import TrainingConfig
from quintet.training.running import run_training
from quintet.training.settings import build

from .runs import new_run, same, settings, weights

LORA = {"lora_rank": 4, "lora_alpha": 3.0, "lora_target_modules": ["q", "wo"], "optim": "adamw_torch"}
LORA |= {"learning_rate": 1e-2, "save_steps": 3}


def values_of(folder: Path, **values: Any) -> TrainingConfig:
    """Adapters on a model that was saved: weights drawn anew would be others after another seed."""
    base = folder / "base"
    if not base.is_dir():
        torch.manual_seed(0)
        tiny = settings(folder)["config_name"]
        quintet.T5ForConditionalGeneration(quintet.T5Config.from_pretrained(tiny)).save_pretrained(base)
        quintet.ByT5Tokenizer().save_pretrained(base)
    own = {"config_name": None, "model_name_or_path": str(base), "tokenizer_name": str(base)}
    return build(TrainingConfig, settings(folder, **{**own, **LORA, **values}))


def test_only_adapters_are_trained(tmp_path: Path) -> None:
    run = run_training(values_of(tmp_path))
    trained = {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    assert all(".lora_" in name for name in trained)
    assert {name.split(".")[-4] for name in trained} == {"q", "wo"}
    base = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path / "base").state_dict()
    for name, tensor in weights(run).items():
        if ".lora_" not in name:
            assert torch.equal(tensor, base[name.replace(".base_layer", "")])


def test_the_saved_model_is_base_and_adapters_together(tmp_path: Path) -> None:
    """As peft puts them together."""
    run = run_training(values_of(tmp_path))
    saved = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path / "run")
    base = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    joined = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "checkpoint-6" / "adapters").eval()
    batch = run.collate(next(run.batches))
    run.model.eval()
    with torch.no_grad():
        expected = joined(**batch).logits
        torch.testing.assert_close(saved(**batch).logits, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(run.model(**batch).logits, expected, atol=1e-4, rtol=1e-4)
        plain = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path / "base")(**batch).logits
    assert (plain - expected).abs().max() > 1e-2


def test_a_run_with_adapters_goes_on_exactly(tmp_path: Path) -> None:
    whole = run_training(values_of(tmp_path))
    part = str(tmp_path / "part")
    run_training(values_of(tmp_path, output_dir=part, max_steps=3))
    resumed = run_training(values_of(tmp_path, output_dir=part), resume=True)
    assert same(weights(resumed), weights(whole))


def test_other_adapters_are_refused(tmp_path: Path) -> None:
    run_training(values_of(tmp_path, max_steps=3))
    with pytest.raises(ValueError, match="was made with lora_rank 4, now it is 8"):
        run_training(values_of(tmp_path, lora_rank=8), resume=True)
    base = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        base.encoder.final_layer_norm.weight[0] += 1
    base.save_pretrained(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"has adapters for another model than .*moved"):
        run_training(values_of(tmp_path, model_name_or_path=str(tmp_path / "moved")), resume=True)
    [checkpoint] = checkpoints_in(tmp_path / "run")
    other = new_run(tmp_path, **LORA, config_overrides={"d_model": 32}, output_dir=str(tmp_path / "x"))
    other.adapters.save_pretrained(checkpoint / "adapters")
    with pytest.raises(ValueError, match="holds the adapters of another model"):
        run_training(values_of(tmp_path), resume=True)
