"""Weights of 8-bit floats, with and without scales, laid out as ComfyUI's T5 encoders are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import quintet

from ..model.reference import make_batch, make_pair

LARGEST = 448.0  # of float8_e4m3fn


def is_matrix(name: str) -> bool:
    return name.endswith(".weight") and "layer_norm" not in name and "relative" not in name and "shared" not in name


def to_fp8(folder: Path, suffix: str | None, scale_shape: tuple[int, ...] = (), marker: bool = True) -> None:
    """Store the matrices of a checkpoint in 8 bits; scaled to their largest value unless `suffix` is None."""
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if is_matrix(name)]:
        weight = weights[name]
        if suffix is None:
            weights[name] = weight.to(torch.float8_e4m3fn)
            continue
        per_output = len(scale_shape) > 0 and scale_shape[0] != 1
        scale = weight.abs().amax(1) / LARGEST if per_output else weight.abs().max() / LARGEST
        column = scale[:, None] if per_output else scale
        weights[name] = (weight / column).to(torch.float8_e4m3fn)
        shape = (weight.shape[0], *scale_shape[1:]) if per_output else scale_shape
        weights[name.removesuffix("weight") + suffix] = scale.reshape(shape).clone()
        if suffix == "scale_weight":
            weights[name.removesuffix("weight") + "scale_input"] = torch.tensor(1.0)
    if marker and suffix is not None:
        weights["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def saved_encoder(folder: Path) -> Any:
    model = make_pair("EncoderModel", "v1.1").ours
    model.save_pretrained(folder)
    return model


def multiplied_out(folder: Path, suffix: str | None) -> dict[str, torch.Tensor]:
    """What the stored numbers mean, worked out in float64."""
    weights = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    values = {}
    for name in filter(is_matrix, weights):
        scale = weights[name.removesuffix("weight") + suffix] if suffix else torch.tensor(1.0)
        values[name] = weights[name] * (scale.reshape(-1, 1) if scale.numel() > 1 else scale.reshape(()))
    return values


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [
        ("scale_weight", ()),
        ("scale_weight", (1,)),
        ("weight_scale", ()),
        ("weight_scale", (-1,)),
        ("weight_scale", (-1, 1)),
        (None, ()),
    ],
)
def test_weights_are_multiplied_by_their_scales(suffix, shape, tmp_path, caplog):
    model = saved_encoder(tmp_path)
    to_fp8(tmp_path, suffix, shape)
    loaded, report = quintet.T5EncoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert report["unexpected_keys"] == []
    assert report["missing_keys"] == []
    assert not [record for record in caplog.records if record.name.startswith("quintet")]
    for name, expected in multiplied_out(tmp_path, suffix).items():
        torch.testing.assert_close(loaded.state_dict()[name], expected.float(), rtol=1e-6, atol=0)
        original = model.state_dict()[name]
        assert not torch.equal(loaded.state_dict()[name], original)
        if suffix:
            assert (loaded.state_dict()[name] - original).abs().max() <= original.abs().max() * 2**-4
    assert torch.equal(loaded.shared.weight, model.shared.weight)


@pytest.mark.parametrize("suffix", ["scale_weight", None])
def test_every_dtype(suffix, tmp_path):
    model = saved_encoder(tmp_path)
    to_fp8(tmp_path, suffix)
    model.config.dtype = None
    model.config.save_pretrained(tmp_path)
    assert quintet.T5EncoderModel.from_pretrained(tmp_path, dtype="auto").dtype == torch.float32
    half = quintet.T5EncoderModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    full = quintet.T5EncoderModel.from_pretrained(tmp_path)
    assert half.dtype == torch.bfloat16
    for name, tensor in full.state_dict().items():
        assert torch.equal(half.state_dict()[name], tensor.bfloat16()), name
    batch = make_batch("EncoderModel")
    with torch.no_grad():
        assert torch.isfinite(half(**batch)[0]).all()


def test_rounding_anew_and_saving(tmp_path):
    saved_encoder(tmp_path)
    to_fp8(tmp_path, "scale_weight")
    options = {"quantization_config": quintet.QuantizationConfig(8)}
    model = quintet.T5EncoderModel.from_pretrained(tmp_path, **options)
    for name, expected in multiplied_out(tmp_path, "scale_weight").items():
        weight = model.get_submodule(name.removesuffix(".weight")).dequantized()
        assert (weight - expected).abs().max() <= expected.abs().max() / 127
    model.save_pretrained(tmp_path / "out")
    assert quintet.T5EncoderModel.from_pretrained(tmp_path / "out").num_parameters() == model.num_parameters()


def test_shards(tmp_path):
    """A scale may lie in another file than its weight."""
    saved_encoder(tmp_path)
    to_fp8(tmp_path, "scale_weight")
    expected = quintet.T5EncoderModel.from_pretrained(tmp_path).state_dict()
    quintet.checkpoint.save_tensors(load_file(tmp_path / "model.safetensors"), tmp_path, max_shard_size=500)
    assert not (tmp_path / "model.safetensors").exists()
    loaded = quintet.T5EncoderModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_a_scale_that_does_not_fit_is_refused(tmp_path):
    saved_encoder(tmp_path)
    to_fp8(tmp_path, "weight_scale", (-1,))
    weights = load_file(tmp_path / "model.safetensors")
    weights["encoder.block.0.layer.0.SelfAttention.q.weight_scale"] = torch.ones(5)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(quintet.checkpoint.CheckpointError, match=r"weight_scale' has the shape \(5,\).*32 outputs"):
        quintet.T5EncoderModel.from_pretrained(tmp_path)
