"""ONNX: encoder and decoder step under onnxruntime are the model's."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from ..model.reference import SIZES, make_pair

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from export_onnx import export, names

NEW = 10


@pytest.fixture(scope="module", params=["v1.1", "umt5"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, and the two graphs of it."""
    model, folder = make_pair("ForConditionalGeneration", request.param, "sdpa").ours, tmp_path_factory.mktemp("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its libraries
        export(model, folder)
    return model, *(onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("encoder", "decoder"))


@pytest.mark.parametrize("rows", [3, 1])
def test_a_greedy_loop_gives_the_tokens_of_generate(exported: Any, rows: int) -> None:
    model, encoder, decoder = exported
    ids, mask = torch.randint(3, SIZES["vocab_size"], (rows, 30)), torch.ones(rows, 30, dtype=torch.long)
    mask[0, 9:] = 0
    states, *source = encoder.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    np.testing.assert_allclose(states, model.encoder(ids, mask)[0].detach().numpy(), atol=1e-4)

    config, layers = model.config, model.config.num_decoder_layers
    fixed = {"attention_mask": mask.numpy(), **dict(zip(names("source", layers), source, strict=True))}
    past = [np.zeros((rows, config.num_heads, 0, config.d_kv), np.float32)] * (2 * layers)
    tokens = [np.zeros((rows, 1), np.int64)]
    for _ in range(NEW):
        own = dict(zip(names("past", layers), past, strict=True))
        logits, *past = decoder.run(None, {"decoder_input_ids": tokens[-1], **fixed, **own})
        tokens.append(logits[:, -1].argmax(-1)[:, None])
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, eos_token_id=None, decoder_start_token_id=0)
    assert np.concatenate(tokens, axis=1).tolist() == expected.tolist()
