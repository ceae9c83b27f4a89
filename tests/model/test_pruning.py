"""Pruned heads are gone: their weights, their share of the output, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import quintet

from .reference import ENCODER_ONLY, HEADS, WITH_DECODER, assert_same, make_batch, make_pair

PRUNED = {0: [1], 1: [0, 3]}


def encoder_mask() -> torch.Tensor:
    mask = torch.ones(2, 4)
    for layer, heads in PRUNED.items():
        mask[layer, heads] = 0
    return mask


def run(model: Any, head: str, **arguments: Any) -> Any:
    with torch.no_grad():
        return model(**make_batch(head, "left"), **arguments)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", ["t5", "mt5", "wide"])
@pytest.mark.parametrize("head", ENCODER_ONLY)
def test_pruning_is_the_reference_s(head: str, variant: str, backend: str) -> None:
    """Only encoder-only models of T5 and mT5 can be pruned there: all others crash."""
    pair = make_pair(head, variant, backend)
    pruned = {0: [1], 1: [0, 2]} if variant == "wide" else PRUNED
    for model in pair:
        model.prune_heads(pruned)
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in pair]
    assert shapes[0] == shapes[1]
    everything = {"output_hidden_states": True, "output_attentions": backend == "eager"}
    ours, theirs = (run(model, head, **everything) for model in pair)
    assert_same(ours, theirs, 1e-5 if backend == "eager" else 1e-4)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", ["t5", "umt5"])
@pytest.mark.parametrize("head", HEADS)
def test_a_pruned_head_is_a_masked_head(head: str, variant: str, backend: str) -> None:
    """Independent of the reference, and for every head; as there, it is the encoder's self-attention that is pruned."""
    model = make_pair(head, variant, backend).ours
    whole = {"decoder_head_mask": torch.ones(2, 4)} if head in WITH_DECODER else {}
    masked = run(model, head, head_mask=encoder_mask(), **whole)
    before = sum(parameter.numel() for parameter in model.parameters())
    model.prune_heads(PRUNED)
    assert sum(parameter.numel() for parameter in model.parameters()) == before - 3 * 4 * 8 * 32
    pruned = run(model, head)
    assert_same(dict(pruned), dict(masked), 1e-5 if backend == "eager" else 1e-4)


def test_pruning_again_prunes_only_what_is_left() -> None:
    pair = make_pair("EncoderModel")
    for model in pair:
        model.prune_heads({0: [1]})
        model.prune_heads({0: [1, 2]})
        model.prune_heads({})
    assert_same(*(run(model, "EncoderModel") for model in pair))
    assert pair.ours.encoder.block[0].layer[0].SelfAttention.q.weight.shape == (16, 32)


def test_gradients_flow_through_what_is_left() -> None:
    pair = make_pair("EncoderModel", dropout_rate=0.0)
    found = []
    for model in pair:
        model.prune_heads(PRUNED)
        model.train()(**make_batch("EncoderModel")).last_hidden_state.square().mean().backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert_same(*found, tolerance=1e-4)


def test_a_pruned_model_survives_saving(tmp_path: Path) -> None:
    model = make_pair("EncoderModel").ours
    model.prune_heads(PRUNED)
    model.save_pretrained(tmp_path)
    again = quintet.T5EncoderModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert_same(run(again, "EncoderModel"), run(model, "EncoderModel"), tolerance=0)


@pytest.mark.parametrize("wrong", [{0: [4]}, {0: [-1]}, {2: [0]}, {0: [0, 1, 2, 3]}])
def test_heads_that_cannot_be_pruned(wrong: dict[int, list[int]]) -> None:
    model = make_pair("EncoderModel").ours
    before = run(model, "EncoderModel")
    with pytest.raises(ValueError, match="prune"):
        model.prune_heads(wrong)
    assert_same(run(model, "EncoderModel"), before, tolerance=0)
