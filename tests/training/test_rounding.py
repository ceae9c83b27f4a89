"""Training for quantization: losses and gradients are those of the rounded network; what moves is the precise one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import quintet
from quintet import QuantizationConfig
from quintet.training.loop import make_step

from .runs import new_run, same, weights
from .test_loop import STILL, gradients_of_a_step

FOUR_BITS = {"bits": 4, "group_size": 16}
ALL = {**FOUR_BITS, "vocabulary_bits": 8}
BYTES = {"bits": 8}


@pytest.mark.parametrize("values", [FOUR_BITS, ALL, BYTES])
def test_a_step_is_that_of_the_quantized_model(tmp_path: Path, values: dict[str, Any]) -> None:
    """Its loss is that of the model as it will be loaded; its gradient that of a network with those weights."""
    run = new_run(tmp_path, **STILL, max_grad_norm=0, quantization_config=values)
    rows = next(run.batches)
    batch = run.collate(rows)
    run.model.save_pretrained(tmp_path / "precise")
    load = quintet.T5ForConditionalGeneration.from_pretrained
    quantized = load(tmp_path / "precise", quantization_config=QuantizationConfig(**values), engine="eager")
    with torch.no_grad():
        expected = quantized(**batch).loss

    with run.rounding(), torch.no_grad():
        assert torch.allclose(run.model(**batch).loss, expected, atol=1e-5)

    restored = quantized.dequantize().train()
    restored.requires_grad_().zero_grad()
    restored(**batch).loss.backward()
    found = gradients_of_a_step(run, [rows])
    for name, parameter in restored.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-5), name


@pytest.mark.parametrize("numbers", [1, 20_000, 2**24])
def test_each_weight_becomes_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    """However many are rounded together, and whatever their heights."""
    monkeypatch.setattr("quintet.training.rounding.NUMBERS_TOGETHER", numbers)
    run = new_run(tmp_path, quantization_config=ALL)
    run.model.save_pretrained(tmp_path / "precise")
    load = quintet.T5ForConditionalGeneration.from_pretrained
    loaded = load(tmp_path / "precise", quantization_config=QuantizationConfig(**ALL), engine="eager").dequantize()
    with run.rounding():
        assert same(weights(run), dict(loaded.named_parameters()))


def test_the_precise_weights_come_back(tmp_path: Path) -> None:
    run = new_run(tmp_path, quantization_config=ALL)
    before = weights(run)
    with run.rounding():
        assert not same(before, weights(run))
    assert same(before, weights(run))


def test_trained_for_it_rounding_costs_less(tmp_path: Path) -> None:
    """Of two runs from one model, the one that is rounded while it learns is better when it is rounded."""
    losses = []
    for name, values in (("without", {}), ("with", {"quantization_config": ALL})):
        folder = tmp_path / name
        folder.mkdir()
        run = new_run(folder, **STILL, optim="adamw_scaled", learning_rate=2e-2, max_steps=120, **values)
        for _ in range(120):
            make_step(run, [next(run.batches)])
        batch = run.collate(next(run.batches))
        other = new_run(folder, **STILL, quantization_config=ALL)
        other.model.load_state_dict(run.model.state_dict())
        with other.rounding(), torch.no_grad():
            losses.append(other.model.eval()(**batch).loss.item())
    assert losses[1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quantization_config": {"bits": 3}}, "bits must be one of 8, 4"),
        ({"quantization_config": {"bits": 4, "group": 32}}, "group"),
        ({"quantization_config": {"bits": 4, "group_size": 128}}, "does not divide 64"),
        ({"quantization_config": FOUR_BITS, "lora_rank": 4}, "excludes fsdp and lora_rank"),
    ],
)
def test_what_cannot_be(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_run(tmp_path, **values)
