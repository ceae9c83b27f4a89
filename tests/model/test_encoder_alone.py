"""The encoder by itself: what it reads of a full checkpoint, and texts padded to a fixed length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import quintet
from quintet.checkpoint.safetensors_file import SafetensorsFile

from .reference import PAD, assert_same, make_batch, make_pair, shared_pair


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tensors that are asked for."""
    names: list[str] = []
    original = SafetensorsFile.tensor

    def tensor(file: SafetensorsFile, name: str) -> torch.Tensor:
        names.append(name)
        return original(file, name)

    monkeypatch.setattr(SafetensorsFile, "tensor", tensor)
    return names


@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16}, {"quantization_config": "int8"}], ids=str)
@pytest.mark.parametrize("variant", ["t5", "v1.1", "umt5"])
def test_only_the_encoder_is_read_of_a_full_checkpoint(variant: str, options: Any, tmp_path: Path, read: Any) -> None:
    make_pair("ForConditionalGeneration", variant).theirs.save_pretrained(tmp_path)
    quintet.AutoModelForTextEncoding.from_pretrained(tmp_path, **options)
    assert "encoder.final_layer_norm.weight" in read
    assert all(name.startswith(("shared.", "encoder.")) for name in read)


def test_shards_of_the_decoder_need_not_be_there(tmp_path: Path) -> None:
    pair = make_pair("ForConditionalGeneration", "v1.1")
    pair.ours.save_pretrained(tmp_path, max_shard_size=3000)
    location = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for name, file in location.items() if name.startswith(("shared.", "encoder."))}
    absent = set(location.values()) - needed
    assert absent
    for file in absent:
        (tmp_path / file).unlink()
    model = quintet.T5EncoderModel.from_pretrained(tmp_path)
    assert_same(dict(model.encoder.state_dict()), dict(pair.theirs.encoder.state_dict()), 0.0)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("variant", ["t5", "v1.1", "umt5"])
def test_a_fixed_length_with_and_without_a_mask(variant: str, masked: bool, backend: str) -> None:
    """Image generators pad every prompt to one length. Some pass no mask, and were trained so."""
    ours, theirs = shared_pair("EncoderModel", variant, backend)
    batch = make_batch("EncoderModel")
    short = batch["input_ids"].shape[1]
    fixed = {name: F.pad(tensor, (0, 40 - short), value=PAD) for name, tensor in batch.items()}
    inputs = fixed if masked else {"input_ids": fixed["input_ids"]}
    with torch.no_grad():
        states, expected = ours(**inputs)[0], theirs(**inputs)[0]
        unpadded = ours(**batch)[0]
    assert_same(states, expected)
    seen = batch["attention_mask"].bool()
    same = torch.allclose(states[:, :short][seen], unpadded[seen], atol=1e-5)
    assert same == masked, "padding that is not masked is read"
