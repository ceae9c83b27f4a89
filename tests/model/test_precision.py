"""bfloat16 and float16: as far from the exact answer as the reference is, and no further."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import quintet

from .reference import HEADS, VARIANTS, Pair, all_outputs, build, make_batch, make_pair

HALF = (torch.bfloat16, torch.float16)


def half_pair(head: str, variant: str, backend: str, dtype: torch.dtype) -> tuple[Pair, Any]:
    """A pair in half precision, and the reference in fp32 with the same rounded weights: the exact answer."""
    pair = make_pair(head, variant, backend)
    pair.ours.to(dtype)
    pair.theirs.to(dtype)
    exact = build(transformers, head, variant).eval()
    exact.load_state_dict(pair.theirs.state_dict())
    return pair, exact


def half_batch(head: str, padding: str) -> dict[str, Tensor]:
    """A batch without a mask for the decoder: in fp16 the reference answers NaN to a query that sees nothing."""
    return {name: value for name, value in make_batch(head, padding).items() if name != "decoder_attention_mask"}


def errors(outputs: Sequence[Any], exact: Sequence[Any]) -> dict[str, float]:
    """The root mean square error of each kind of output: one number over all layers and batches."""
    result = {}
    for key in exact[0]:
        if key != "past_key_values":
            result[key] = _rms(_tensors(outputs, key), _tensors(exact, key))
    return result


def _tensors(outputs: Sequence[Any], key: str) -> list[Tensor]:
    return [
        tensor for output in outputs for tensor in (output[key] if isinstance(output[key], tuple) else [output[key]])
    ]


def _rms(values: list[Tensor], truths: list[Tensor]) -> float:
    differences = [(value.double() - truth.double()).flatten() for value, truth in zip(values, truths, strict=True)]
    return torch.cat(differences).square().mean().sqrt().item()


def assert_no_worse(ours: Sequence[Any], theirs: Sequence[Any], exact: Sequence[Any]) -> None:
    """At most one bit less accurate than the reference is."""
    assert [list(output) for output in ours] == [list(output) for output in theirs]
    bounds = errors(theirs, exact)
    for key, error in errors(ours, exact).items():
        assert error <= 2 * bounds[key] + 1e-7, f"{key}: error {error}, the reference's {bounds[key]}"


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_half_precision_stays_within_its_rounding(head: str, variant: str, backend: str, dtype: torch.dtype) -> None:
    pair, exact = half_pair(head, variant, backend, dtype)
    arguments = all_outputs(head, output_attentions=backend == "eager")
    results = []
    for model in (pair.ours, pair.theirs, exact):
        with torch.no_grad():
            results.append([model(**half_batch(head, padding), **arguments) for padding in ("right", "left")])
    ours, theirs, _ = results
    assert_no_worse(*results)
    for one, other in zip(ours, theirs, strict=True):
        assert all(one[key].dtype == other[key].dtype for key in one if isinstance(other[key], Tensor))


@pytest.mark.parametrize("variant", ["t5", "mt5", "umt5"])
@pytest.mark.parametrize("head", HEADS)
def test_loading_in_fp16_keeps_wo_in_fp32(head: str, variant: str, tmp_path: Path) -> None:
    make_pair(head, variant).theirs.save_pretrained(tmp_path)
    name = f"{VARIANTS[variant].family}{head}"
    ours = getattr(quintet, name).from_pretrained(tmp_path, dtype=torch.float16)
    theirs = getattr(transformers, name).from_pretrained(tmp_path, dtype=torch.float16)
    dtypes = {key: tensor.dtype for key, tensor in ours.state_dict().items()}
    assert dtypes == {key: tensor.dtype for key, tensor in theirs.state_dict().items()}
    assert {dtype for key, dtype in dtypes.items() if key.endswith("wo.weight")} == {torch.float32}
    assert ours.dtype == theirs.dtype == torch.float16


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", ["t5", "mt5", "umt5"])
def test_fp16_with_wo_in_fp32_agrees(variant: str, backend: str, tmp_path: Path) -> None:
    """The residual stream becomes fp32 after the first feed-forward layer, in both."""
    exact = make_pair("ForConditionalGeneration", variant).theirs.half()
    exact.save_pretrained(tmp_path)
    name = f"{VARIANTS[variant].family}ForConditionalGeneration"
    ours = getattr(quintet, name).from_pretrained(tmp_path, dtype=torch.float16, attn_implementation=backend)
    theirs = getattr(transformers, name).from_pretrained(tmp_path, dtype=torch.float16)
    batch = half_batch("ForConditionalGeneration", "right")
    arguments = {"output_hidden_states": True, "use_cache": False}
    with torch.no_grad():
        mine, other, truth = (model(**batch, **arguments) for model in (ours.eval(), theirs, exact.float()))
    assert_no_worse([mine], [other], [truth])
    assert [states.dtype for states in mine.decoder_hidden_states] == [s.dtype for s in other.decoder_hidden_states]
    assert mine.logits.dtype == other.logits.dtype


OVERFLOWS = {
    "encoder self-attention": "encoder.block.0.layer.0.SelfAttention.o.weight",
    "encoder feed-forward": "encoder.block.0.layer.1.DenseReluDense.wo.weight",
    "decoder self-attention": "decoder.block.0.layer.0.SelfAttention.o.weight",
    "decoder cross-attention": "decoder.block.0.layer.1.EncDecAttention.o.weight",
    "decoder feed-forward": "decoder.block.0.layer.2.DenseReluDense.wo.weight",
}


def overflowing_pair(parameter: str, variant: str = "t5", backend: str = "eager") -> Pair:
    """A pair in which one sublayer answers far more than fp16 can hold."""
    pair = make_pair("ForConditionalGeneration", variant, backend)
    for model in pair:
        with torch.no_grad():
            model.get_parameter(parameter).mul_(60000)
    return pair


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, in units of the largest number."""
    return ((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max()).item()


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", ["t5", "umt5"])
@pytest.mark.parametrize("parameter", OVERFLOWS.values(), ids=OVERFLOWS.keys())
def test_fp16_is_clamped_where_it_overflows(parameter: str, variant: str, backend: str) -> None:
    pair = overflowing_pair(parameter, variant, backend)
    batch = half_batch("ForConditionalGeneration", "right")
    arguments = {"output_hidden_states": True, "use_cache": False}
    with torch.no_grad():
        ours, theirs = (model.half()(**batch, **arguments) for model in pair)
    key = "encoder_hidden_states" if parameter.startswith("encoder") else "decoder_hidden_states"
    assert theirs[key][1].abs().max() > 60000, "the construction must overflow"
    assert torch.isfinite(ours.logits).all()
    assert [states.dtype for states in ours[key]] == [states.dtype for states in theirs[key]]
    assert relative_difference(ours[key][1], theirs[key][1]) < 1e-2
    assert relative_difference(ours.logits, theirs.logits) < 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("parameter", OVERFLOWS.values(), ids=OVERFLOWS.keys())
def test_other_types_are_not_clamped(parameter: str, dtype: torch.dtype) -> None:
    pair = overflowing_pair(parameter)
    batch = half_batch("ForConditionalGeneration", "right")
    with torch.no_grad():
        ours, theirs = (model.to(dtype)(**batch, output_hidden_states=True, use_cache=False) for model in pair)
    key = "encoder_hidden_states" if parameter.startswith("encoder") else "decoder_hidden_states"
    assert ours[key][1].abs().max() > 66000
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    assert relative_difference(ours[key][1], theirs[key][1]) < tolerance


@pytest.mark.parametrize("variant", ["t5", "mt5", "umt5"])
def test_autocast_stays_within_its_rounding(variant: str) -> None:
    pair = make_pair("ForConditionalGeneration", variant)
    batch = half_batch("ForConditionalGeneration", "right")
    with torch.no_grad():
        truth = pair.theirs(**batch, use_cache=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours, theirs = (model(**batch, use_cache=False) for model in pair)
    assert_no_worse([ours], [theirs], [truth])
