"""A trained checkpoint with rounded weights on the native engine: near the float model, nearer to its own layers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import quintet
from quintet.model.engines import EagerEngine, NativeEngine, Wanted, choose_engine
from quintet.model.inputs import Inputs
from tests.engine.models import eager, relative_error

TEXTS = [
    "translate English to German: The house is wonderful.",
    "summarize: The tower is 324 metres tall, about the same height as an 81-storey building.",
    "Why is the sky blue?",
]
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"quantization_config": "int8"},
    "int8 and bfloat16": {"quantization_config": "int8", "dtype": torch.bfloat16},
    "int4": {"quantization_config": "int4"},
    "int4 and bfloat16": {"quantization_config": "int4", "dtype": torch.bfloat16},
}
ROUNDED = [name for name in PRECISIONS if name != "float32"]


@pytest.fixture(scope="module")
def checkpoint(shared: Path) -> Path:
    return shared / "models" / "flan-t5-small-title"


@cache
def load(folder: Path, precision: str) -> Any:
    options = {"dtype": torch.float32, **PRECISIONS[precision]}
    return quintet.T5ForConditionalGeneration.from_pretrained(folder, **options)


@cache
def batch(folder: Path) -> Any:
    return quintet.T5TokenizerFast.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")


@cache
def targets(folder: Path) -> torch.Tensor:
    """What the float model answers, with the start token."""
    return load(folder, "float32").generate(**batch(folder), max_new_tokens=16, min_new_tokens=16)


@torch.no_grad()
def logits(folder: Path, precision: str, engine: type) -> torch.Tensor:
    """The scores (places, vocabulary) of every token of the targets."""
    model, inputs = load(folder, precision), Inputs(**batch(folder))
    chosen = EagerEngine(model, Wanted()) if engine is EagerEngine else choose_engine(model, inputs)
    assert type(chosen) is engine
    session = chosen.session(inputs, chosen.encode(inputs), 20)
    return session.step_all(targets(folder)).flatten(0, 1).float()


def agreement(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The cosine of all scores about their mean: what they have in common says nothing, and is most of their size."""
    ours, theirs = (values.double() - values.double().mean(dim=1, keepdim=True) for values in (ours, theirs))
    return float(F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0))


def test_float32_is_exact(checkpoint: Path) -> None:
    native, own = (logits(checkpoint, "float32", engine) for engine in (NativeEngine, EagerEngine))
    assert relative_error(native, own) < 1e-5
    model = load(checkpoint, "float32")
    with eager(model):
        own = model.generate(**batch(checkpoint), max_new_tokens=16, min_new_tokens=16)
    assert torch.equal(own, targets(checkpoint))


@pytest.mark.parametrize("precision", ROUNDED)
def test_near_the_float_model(checkpoint: Path, precision: str) -> None:
    found = agreement(logits(checkpoint, precision, NativeEngine), logits(checkpoint, "float32", EagerEngine))
    assert (0.99 if "int4" in precision else 0.999) < found < 1 - 1e-8


@pytest.mark.parametrize("precision", ROUNDED)
def test_nearer_to_its_own_layers(checkpoint: Path, precision: str) -> None:
    """These round activations differently: to bfloat16 after each operation, or not to integers."""
    assert agreement(*(logits(checkpoint, precision, engine) for engine in (NativeEngine, EagerEngine))) > 0.999
