"""Embeddings and output layer as int8: rows are read exactly, scores are products of states rounded twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from quintet.engine import NativeSession
from quintet.model.engines import EagerEngine, NativeEngine, Wanted, choose_engine, encode_natively
from quintet.model.inputs import Inputs
from quintet.quantize import QuantizationConfig
from tests.engine.models import HEAD, make_model, random_ids, relative_error

ALONE = QuantizationConfig(8, modules_to_not_convert=("encoder", "decoder"), vocabulary_bits=8)
"""All other layers compute in float32, and do not blur what is looked at."""


def rounded(folder: Path, variant: str = "t5", head: str = HEAD) -> Any:
    model = make_model(variant, head, vocab_size=331)  # three bands of rows and a part of one
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, quantization_config=ALONE)


def with_floats(model: Any) -> Any:
    """The model that the integers stand for, in float64, with its own layers."""
    plain = type(model)(model.config)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("_scale")}
    for name, module in model.named_modules(remove_duplicate=False):
        if hasattr(module, "dequantized"):
            state[f"{name}.weight"] = module.weight.double() * module.weight_scale.double()
    plain.load_state_dict(state, strict=True)
    plain.engine = "eager"
    return plain.eval().double()


@torch.no_grad()
def test_the_encoder_alone(isa: str, tmp_path: Path) -> None:
    model = rounded(tmp_path, head="EncoderModel")
    ids = random_ids(3, 20)
    states = encode_natively(model, ids, None, None)
    assert states is not None
    assert relative_error(states, with_floats(model)(ids)[0]) < 1e-5


@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("variant", ["t5", "v1.1"])
@torch.no_grad()
def test_a_step(isa: str, variant: str, rows: int, tmp_path: Path) -> None:
    """As of a float model: rounded once, to 127ths of a token's largest number, states would give scores 6e-3 off."""
    model = rounded(tmp_path, variant)
    plain = with_floats(model)
    inputs = Inputs(input_ids=random_ids(rows, 9))
    chosen, own = choose_engine(model, inputs), EagerEngine(plain, Wanted())
    assert type(chosen) is NativeEngine
    session = chosen.session(inputs, chosen.encode(inputs), 9)
    assert type(session) is NativeSession
    expected = own.session(inputs, own.encode(inputs), 9)
    for n in (1, 4, 1):
        tokens = random_ids(rows, n, seed=n)
        scores, states = session.step_states(tokens)
        assert relative_error(states, expected.step_states(tokens)[1]) < 1e-5
        assert relative_error(scores, plain.project(states[:, -1].double())) < 5e-5
    tokens = random_ids(rows, 60)  # of 20 rows: more than a feed-forward layer takes at once
    assert relative_error(session.step_all(tokens), expected.step_all(tokens)) < 5e-5
