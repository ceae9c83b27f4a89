"""A new model's weights are drawn from the reference's distributions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import quintet

from .reference import HEADS, VARIANTS, build, make_batch

LARGER = {"vocab_size": 400, "d_model": 64, "d_kv": 24, "d_ff": 160, "relative_attention_num_buckets": 32}


def new_model(library: Any, head: str, variant: str, **changes: Any) -> Any:
    torch.manual_seed(0 if library is quintet else 1)
    return build(library, head, variant, relative_attention_max_distance=128, **LARGER, **changes)


def assert_same_distribution(ours: Tensor, theirs: Tensor, name: str) -> None:
    """Means and standard deviations closer than six standard errors; constants exactly."""
    assert ours.shape == theirs.shape, name
    spread = theirs.std().item() if theirs.numel() > 1 else 0.0
    if spread == 0.0:
        assert torch.equal(ours, theirs), name
        return
    count = ours.numel()
    assert abs(ours.mean() - theirs.mean()) < 6 * spread * (2 / count) ** 0.5, name
    assert abs(ours.std() - spread) < 6 * spread * count**-0.5, name


@pytest.mark.parametrize("variant", ["t5", "v1.1", "mt5", "umt5", "umt5-tied", "deep-encoder"])
@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_is_drawn_as_in_the_reference(head: str, variant: str) -> None:
    ours, theirs = (new_model(library, head, variant).state_dict() for library in (quintet, transformers))
    for name, tensor in theirs.items():
        assert_same_distribution(ours[name], tensor, name)


@pytest.mark.parametrize("factor", [0.05, 3.0])
@pytest.mark.parametrize("head", HEADS)
def test_the_factor_scales_them(head: str, factor: float) -> None:
    ours, theirs = (
        new_model(library, head, "v1.1", initializer_factor=factor).state_dict() for library in (quintet, transformers)
    )
    for name, tensor in theirs.items():
        assert_same_distribution(ours[name], tensor, name)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_no_two_parameters_are_alike(head: str, variant: str) -> None:
    """Each is drawn on its own, none is left empty, and a new model runs."""
    model = build(quintet, head, variant).eval()
    seen: dict[bytes, str] = {}
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        if parameter.std() > 0:
            assert seen.setdefault(parameter.detach().numpy().tobytes(), name) == name
    with torch.no_grad():
        assert torch.isfinite(model(**make_batch(head))[0]).all()


def test_the_seed_decides_the_weights() -> None:
    first, second = (new_model(quintet, "ForConditionalGeneration", "v1.1").state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_new_model_trains_in_fp32_on_the_cpu() -> None:
    model = build(quintet, "ForConditionalGeneration", "t5")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
