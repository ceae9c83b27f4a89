"""Quantized models beside the reference with the same rounded weights; saving, loading, moving, refusing."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import quintet
from quintet import TorchAoConfig
from quintet.quantize import QuantizationConfig, QuantizedLinear

from ..model.reference import EOS, HEADS, PAD, SIZES, assert_same, make_batch, make_pair
from .models import WIDE_ENOUGH, assert_equal_models, edit_config, load, quantized_layers, rounded_pair, saved

PRESETS = ("int8", "int4")
ROUNDINGS = [*PRESETS, pytest.param(QuantizationConfig(4, 32, vocabulary_bits=8), id="int4, vocabulary int8")]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# -- what it computes


@pytest.mark.parametrize("quantization", ROUNDINGS)
@pytest.mark.parametrize("variant", ["t5", "v1.1", "umt5"])
def test_outputs_are_the_reference_s_with_rounded_weights(variant, quantization, tmp_path):
    head = "ForConditionalGeneration"
    ours, theirs = rounded_pair(transformers, saved(tmp_path, head, variant), head, quantization, variant)
    batch = make_batch(head)
    with torch.no_grad():
        assert_same(ours(**batch).logits, theirs(**batch).logits)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("quantization", ROUNDINGS)
@pytest.mark.parametrize("variant", ["t5", "v1.1"])
def test_in_every_dtype_outputs_are_exactly_those_of_rounded_weights(variant, quantization, dtype, tmp_path):
    head = "ForConditionalGeneration"
    ours, theirs = rounded_pair(quintet, saved(tmp_path, head, variant), head, quantization, variant, dtype=dtype)
    batch = make_batch(head)
    logits = ours(**batch).logits  # with gradients of its input: else bfloat16 has another way, see the next test
    assert torch.equal(logits, theirs(**batch).logits)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("variant", ["t5", "v1.1", "umt5"])
def test_products_of_integers_are_as_exact_as_those_of_floats(variant, tmp_path):
    """In bfloat16 and without gradients; floats are integers times scales, rounded once more."""
    head = "ForConditionalGeneration"
    ours, theirs = rounded_pair(quintet, saved(tmp_path, head, variant), head, "int8", variant, dtype=torch.bfloat16)
    batch = make_batch(head)
    with torch.no_grad():
        found, by_floats = (model(**batch).logits.float() for model in (ours, theirs))
        exact = ours.float()(**batch).logits
    assert not torch.equal(found, by_floats)
    assert (found - exact).norm() < 1.1 * (by_floats - exact).norm() < 0.2 * exact.norm()


@pytest.mark.parametrize("rows", [1, 2, 7, 64, 65])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (64, 96), (96, 416), (32, 33), (40, 32), (7, 5)])
def test_products_of_integers_of_all_sizes(inputs, outputs, rows):
    generator = torch.Generator().manual_seed(rows)
    layer = QuantizedLinear(inputs, outputs, QuantizationConfig(8)).eval()
    layer.round_from(torch.randn(outputs, inputs, generator=generator), torch.bfloat16, torch.device("cpu"))
    states = torch.randn(3, rows, inputs, generator=generator).bfloat16()
    with torch.no_grad():
        found = layer(states)
    exact = states.double() @ (layer.weight.double() * layer.weight_scale.double()).t()
    assert found.shape == exact.shape
    assert (found - exact).abs().max() < 0.01 * exact.abs().max()


@pytest.mark.parametrize("quantization", ROUNDINGS[::2])
@pytest.mark.parametrize("head", HEADS)
def test_every_head(head, quantization, tmp_path):
    ours, theirs = rounded_pair(transformers, saved(tmp_path, head), head, quantization)
    batch = make_batch(head)
    with torch.no_grad():
        assert_same(ours(**batch)[0], theirs(**batch)[0])


@pytest.mark.parametrize("quantization", ROUNDINGS)
def test_generation(quantization, tmp_path):
    ours, theirs = rounded_pair(transformers, saved(tmp_path), "ForConditionalGeneration", quantization)
    batch = {name: make_batch("EncoderModel")[name] for name in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 12, "pad_token_id": PAD, "eos_token_id": EOS}
    assert torch.equal(ours.generate(**batch, **options), theirs.generate(**batch, **options, num_beams=1))


def test_a_real_checkpoint(shared: Path):
    folder = shared / "models" / "flan-t5-small-title"
    tokenizer = quintet.AutoTokenizer.from_pretrained(folder)
    model = load(folder, quantization_config="int8")
    inputs = tokenizer("translate English to German: The house is wonderful.", return_tensors="pt")
    assert tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True) == "Das Haus ist wunderbar."


# -- what is rounded


def test_the_policy(tmp_path):
    """All linear layers without a bias but lm_head; embeddings, norms and position biases are no linear layers."""
    model = load(saved(tmp_path, variant="v1.1"), quantization_config="int8")
    kinds = {name.split(".")[-1] for name in quantized_layers(model)}
    assert kinds == {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}
    assert not any(isinstance(module, torch.nn.Linear) for name, module in model.named_modules() if name != "lm_head")
    floats = {name for name, tensor in model.state_dict().items() if tensor.dtype == torch.float32}
    assert {"shared.weight", "lm_head.weight", "encoder.final_layer_norm.weight"} <= floats


def test_task_heads_stay(tmp_path):
    model = load(saved(tmp_path, "ForSequenceClassification"), "ForSequenceClassification", quantization_config="int4")
    assert isinstance(model.classification_head.dense, torch.nn.Linear)
    assert quantized_layers(model)


def test_a_policy_of_ones_own_is_saved_too(tmp_path):
    config = QuantizationConfig(4, 16, modules_to_not_convert=("wo", "decoder"))
    model = load(saved(tmp_path, variant="v1.1"), quantization_config=config)
    names = set(quantized_layers(model))
    assert "lm_head" in names
    assert not any("wo" in name.split(".") or name.startswith("decoder") for name in names)
    model.save_pretrained(tmp_path / "out")
    assert_equal_models(load(tmp_path / "out"), model)


def test_a_tied_output_layer_cannot_be_rounded(tmp_path):
    config = QuantizationConfig(8, modules_to_not_convert=())
    with pytest.raises(ValueError, match="lm_head is tied with the embeddings"):
        load(saved(tmp_path), quantization_config=config)


@pytest.mark.parametrize("variant", ["t5", "v1.1"])
@pytest.mark.parametrize("quantization", ROUNDINGS)
def test_parameters_are_counted_as_the_floats_they_stand_for(quantization, variant, tmp_path):
    folder = saved(tmp_path, variant=variant)
    plain, model = load(folder), load(folder, quantization_config=quantization)
    for options in ({}, {"exclude_embeddings": True}):
        assert model.num_parameters(**options) == plain.num_parameters(**options)
    rounded = sum(plain.get_submodule(name).weight.numel() for name in quantized_layers(model))
    assert model.num_parameters(only_trainable=True) == plain.num_parameters() - rounded


# -- files


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("quantization", ROUNDINGS)
def test_a_saved_model_is_loaded_as_it_was(quantization, dtype, tmp_path):
    model = load(saved(tmp_path), quantization_config=quantization, dtype=dtype)
    model.save_pretrained(tmp_path / "out")
    again = load(tmp_path / "out", dtype=dtype)
    assert_equal_models(again, model)
    assert again.config.quantization_config == model.config.quantization_config
    batch = make_batch("ForConditionalGeneration")
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
    again.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_what_the_files_hold(tmp_path):
    load(saved(tmp_path), quantization_config="int4").save_pretrained(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "quintet",
        "bits": 4,
        "group_size": 32,
        "modules_to_not_convert": ["lm_head"],
    }
    weights = load_file(tmp_path / "out" / "model.safetensors")
    name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    assert (weights[name].dtype, weights[name].shape) == (torch.uint8, (32, 32))
    assert (weights[f"{name}_scale"].dtype, weights[f"{name}_scale"].shape) == (torch.float32, (32, 2))


@pytest.mark.parametrize("options", [{"max_shard_size": 4000}, {"safe_serialization": False}], ids=str)
def test_other_layouts(options, tmp_path):
    model = load(saved(tmp_path), quantization_config="int8")
    model.save_pretrained(tmp_path / "out", **options)
    assert_equal_models(load(tmp_path / "out"), model)


@pytest.mark.parametrize("quantization", PRESETS)
def test_the_reference_cannot_load_it(quantization, tmp_path):
    """As docs/differences.md says. Better a failure than integers taken for weights."""
    load(saved(tmp_path), quantization_config=quantization).save_pretrained(tmp_path / "out")
    with pytest.raises(RuntimeError, match=r"state_dict for Linear"):
        transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "out")


def test_other_heads_load_it(tmp_path):
    model = load(saved(tmp_path), quantization_config="int8")
    model.save_pretrained(tmp_path / "out")
    encoder = load(tmp_path / "out", "EncoderModel")
    assert_equal_models(encoder.encoder, model.encoder)
    auto = quintet.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    assert_equal_models(auto, model)


def test_quantized_floats_of_another_dtype_and_format(tmp_path):
    """What is rounded are the checkpoint's own floats, whatever dtype the model gets."""
    model = make_pair("ForConditionalGeneration", **WIDE_ENOUGH).ours
    model.save_pretrained(tmp_path, safe_serialization=False)
    half = load(tmp_path, quantization_config="int8", dtype=torch.bfloat16)
    full = load(tmp_path, quantization_config="int8")
    name = "decoder.block.1.layer.1.EncDecAttention.k"
    torch.testing.assert_close(
        quantized_layers(half)[name].dequantized().float(),
        quantized_layers(full)[name].dequantized(),
        atol=0.01,
        rtol=0.02,
    )


# -- as a module


@pytest.mark.parametrize("quantization", ROUNDINGS)
def test_copies_casts_and_state_dicts(quantization, tmp_path):
    folder = saved(tmp_path)
    model = load(folder, quantization_config=quantization)
    copied = copy.deepcopy(model)
    assert_equal_models(copied, model)
    integers = {name: layer.weight.clone() for name, layer in quantized_layers(model).items()}
    cast = copied.to(torch.bfloat16)
    assert all(torch.equal(layer.weight, integers[name]) for name, layer in quantized_layers(cast).items())
    batch = make_batch("ForConditionalGeneration")
    with torch.no_grad():
        assert cast(**batch).logits.dtype == torch.bfloat16
    other = load(folder, quantization_config=quantization)
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(model.state_dict(), strict=True)
    assert_equal_models(other, model)


def test_training_is_refused(tmp_path):
    model = load(saved(tmp_path), quantization_config="int8")
    batch = make_batch("ForConditionalGeneration")
    model.train()
    with pytest.raises(RuntimeError, match=r"8-bit weights cannot be trained.*model\.eval\(\)"):
        model(**batch)
    with torch.no_grad():
        model(**batch)
    states = torch.randn(1, 5, SIZES["d_model"], requires_grad=True)
    model.eval().encoder(inputs_embeds=states)[0].sum().backward()
    assert states.grad is not None
    assert torch.isfinite(states.grad).all()


def test_heads_cannot_be_pruned_afterwards(tmp_path):
    folder = saved(tmp_path)
    with pytest.raises(TypeError, match="prune before quantizing"):
        load(folder, quantization_config="int8").prune_heads({0: [1]})
    pruned = quintet.T5ForConditionalGeneration.from_pretrained(folder)
    pruned.prune_heads({0: [1]})
    pruned.save_pretrained(tmp_path / "pruned")
    model = load(tmp_path / "pruned", quantization_config=QuantizationConfig(8))
    assert quantized_layers(model)["encoder.block.0.layer.0.SelfAttention.q"].out_features == 24


# -- refusals


@pytest.mark.parametrize("value", ["int2", "8", "", 8, ["int8"], True])
def test_an_unknown_name_is_refused(value, tmp_path):
    with pytest.raises(ValueError, match=r"quantization_config must be 'int8' or 'int4', a QuantizationConfig"):
        load(tmp_path, quantization_config=value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bits": 3}, "bits must be one of 8, 4"),
        ({"bits": 4, "group_size": 48}, "group_size must be None or a power of two from 16 on, got 48"),
        ({"bits": 4, "group_size": 8}, "group_size must be"),
        ({"bits": 8, "modules_to_not_convert": "lm_head"}, "modules_to_not_convert must be names"),
    ],
)
def test_a_wrong_configuration_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        QuantizationConfig(**values)


def test_sizes_that_groups_do_not_divide_are_refused(tmp_path):
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path)  # d_ff 48
    with pytest.raises(ValueError, match=r"encoder\.block\.0.*wo cannot be quantized: a group size of 32.*48"):
        load(tmp_path, quantization_config="int4")


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantized by 'gptq', which quintet does not read"),
        ({"quant_method": "quintet"}, "lacks bits, or has unknown entries"),
        ({"quant_method": "quintet", "bits": 8, "new": 1}, "lacks bits, or has unknown entries"),
    ],
)
def test_what_another_program_quantized_is_refused(stored, message, tmp_path):
    folder = saved(tmp_path)
    edit_config(folder, quantization_config=stored)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_a_quantized_checkpoint_stays_what_it_is(tmp_path):
    load(saved(tmp_path), quantization_config="int8").save_pretrained(tmp_path / "out")
    load(tmp_path / "out", quantization_config="int8")
    with pytest.raises(ValueError, match="already quantized"):
        load(tmp_path / "out", quantization_config="int4")
    edit_config(tmp_path / "out", quantization_config=None)
    with pytest.raises(RuntimeError, match=r"q\.weight as torch\.int8.*config\.json"):
        load(tmp_path / "out")


def change_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_absent_and_unfit_weights_are_refused(tmp_path):
    name = "encoder.block.0.layer.1.DenseReluDense.wi.weight"
    folder = saved(tmp_path)
    change_weights(folder, lambda weights: weights.update({name: torch.zeros(4, 4)}))
    with pytest.raises(RuntimeError, match=r"wi\.weight \(\(4, 4\) there, \(64, 32\) here\)"):
        load(folder, quantization_config="int8")
    with pytest.raises(RuntimeError, match=f"no fitting weights for {name}, and quantized ones cannot be drawn"):
        load(folder, quantization_config="int8", ignore_mismatched_sizes=True)
    change_weights(folder, lambda weights: weights.pop(name))
    with pytest.raises(RuntimeError, match=f"no fitting weights for {name}"):
        load(folder, quantization_config="int8")
    change_weights(folder, lambda weights: weights.update({name: torch.full((64, 32), torch.nan)}))
    with pytest.raises(ValueError, match=f"{name} cannot be quantized: the weight is not finite"):
        load(folder, quantization_config="int8")


def test_a_missing_torchao_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    model = make_pair("ForConditionalGeneration").ours
    with pytest.raises(ImportError, match=r"pip install 'quintet\[torchao\]'"):
        TorchAoConfig("int8_weight_only").apply(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_weights_of_torchao_are_not_saved(tmp_path: Path) -> None:
    """Their memory is not their own: the message must not speak of tied weights."""
    pytest.importorskip("torchao")
    model = load(saved(tmp_path), quantization_config=TorchAoConfig("int8_weight_only"))
    with pytest.raises(ValueError, match="of another library"):
        model.save_pretrained(tmp_path / "rounded")
    assert not (tmp_path / "rounded" / "config.json").exists()
