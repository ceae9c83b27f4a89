"""Embeddings and output layer as int8: by the definition, as one table or two, in files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from quintet.model import placement
from quintet.quantize import QuantizationConfig, QuantizedEmbedding
from quintet.training.loss import text_to_text_loss
from quintet.training.rounding import Rounding

from ..model.reference import SIZES, make_batch, make_labels
from .models import assert_equal_models, edit_config, load, quantized_layers, saved

INT8 = QuantizationConfig(8, vocabulary_bits=8)
INT4 = QuantizationConfig(4, 32, vocabulary_bits=8)
TABLES = {"t5": ["shared"], "v1.1": ["shared", "lm_head"]}
"""By variant: tied, and untied."""


def rounded(tmp_path: Path, variant: str = "t5", config: QuantizationConfig = INT4, **options: Any) -> Any:
    return load(saved(tmp_path, variant=variant), quantization_config=config, engine="eager", **options)


@pytest.mark.parametrize("variant", TABLES)
def test_each_row_has_one_scale(variant, tmp_path):
    """The value farthest from zero becomes -128, the others the nearest multiples of a 128th of it, up to 127."""
    model = rounded(tmp_path, variant)
    weights = load_file(tmp_path / "float" / "model.safetensors")
    for name in TABLES[variant]:
        layer = model.get_submodule(name)
        table = weights[f"{name}.weight"].double()
        extreme = table.gather(1, table.abs().argmax(dim=1, keepdim=True))
        scale = extreme / -128
        assert torch.equal(layer.weight.double(), (table / scale).round().clamp(-128, 127))
        torch.testing.assert_close(layer.weight_scale.double(), scale, rtol=1e-6, atol=0)
    ids = torch.tensor([[0, 98, 7], [7, 7, 1]])
    expected = model.shared.weight.double()[ids] * model.shared.weight_scale.double()[ids]
    torch.testing.assert_close(model.shared(ids).double(), expected, rtol=1e-6, atol=0)
    states = torch.randn(3, SIZES["d_model"], generator=torch.Generator().manual_seed(0))
    head = model.lm_head.weight.double() * model.lm_head.weight_scale.double()
    factor = SIZES["d_model"] ** -0.5 if variant == "t5" else 1.0
    torch.testing.assert_close(model.project(states).double(), states.double() @ head.T * factor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", TABLES)
def test_other_layers_are_rounded_as_without(variant, tmp_path):
    folder = saved(tmp_path, variant=variant)
    plain, model = (load(folder, quantization_config=QuantizationConfig(4, 32, vocabulary_bits=b)) for b in (None, 8))
    added = quantized_layers(model).keys() - quantized_layers(plain).keys()
    assert added == set(TABLES[variant])
    for name, layer in quantized_layers(plain).items():
        assert_equal_models(model.get_submodule(name), layer)


def test_what_is_kept_does_not_count_for_the_vocabulary(tmp_path):
    config = QuantizationConfig(4, 32, modules_to_not_convert=(), vocabulary_bits=8)
    model = rounded(tmp_path, "v1.1", config)
    assert model.lm_head.bits == model.shared.bits == 8


# -- one table or two


def assert_tied(model: Any, tied: bool) -> None:
    assert type(model.shared) is QuantizedEmbedding
    assert model.encoder.embed_tokens is model.decoder.embed_tokens is model.shared
    for part in ("weight", "weight_scale"):
        assert (getattr(model.lm_head, part) is getattr(model.shared, part)) == tied, part


@pytest.mark.parametrize("variant", TABLES)
def test_files(variant, tmp_path):
    model = rounded(tmp_path, variant)
    assert_tied(model, variant == "t5")
    model.to(torch.bfloat16)
    assert_tied(model, variant == "t5")
    assert model.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["vocabulary_bits"] == 8
    assert config["dtype"] == "bfloat16"
    found = load_file(tmp_path / "out" / "model.safetensors")
    in_vocabulary = {name: tensor for name, tensor in found.items() if "block" not in name and "norm" not in name}
    names = [f"{name}.{part}" for name in TABLES[variant] for part in ("weight", "weight_scale")]
    assert in_vocabulary.keys() == set(names)
    for name, tensor in in_vocabulary.items():
        wanted = (torch.bfloat16, (99, 1)) if name.endswith("scale") else (torch.int8, (99, SIZES["d_model"]))
        assert (tensor.dtype, tensor.shape) == wanted
    again = load(tmp_path / "out", dtype="auto")
    assert_tied(again, variant == "t5")
    assert again.dtype == torch.bfloat16
    assert_equal_models(again, model)


@pytest.mark.parametrize("head", ["EncoderModel", "ForSequenceClassification", "ForTokenClassification"])
def test_other_heads_load_it(head, tmp_path):
    model = rounded(tmp_path)
    model.save_pretrained(tmp_path / "out")
    other = load(tmp_path / "out", head)
    assert other.dtype == torch.float32
    assert_equal_models(other.get_input_embeddings(), model.shared)
    assert_equal_models(other.get_encoder(), model.encoder)
    other.save_pretrained(tmp_path / "other")
    assert_equal_models(load(tmp_path / "other", head), other)


def test_weights_on_disk_compute_the_same(tmp_path, caplog):
    pytest.importorskip("accelerate")
    caplog.set_level("ERROR", logger="accelerate")  # it reports what it offloads
    model = rounded(tmp_path)
    model.save_pretrained(tmp_path / "out")
    spread = load(tmp_path / "out", device_map={"": "disk"}, offload_folder=tmp_path / "disk", engine="eager")
    assert spread.shared.weight.is_meta
    assert placement._place("shared", {"": "disk"}) == "disk"
    batch = make_batch("ForConditionalGeneration")
    with torch.no_grad():
        assert torch.equal(spread(**batch).logits, model(**batch).logits)


# -- in use


@pytest.mark.parametrize("variant", TABLES)
def test_the_loss_is_that_of_the_scores(variant, tmp_path):
    model = rounded(tmp_path, variant)
    batch = make_batch("ForConditionalGeneration")
    batch |= make_labels("ForConditionalGeneration", batch)
    with torch.no_grad():
        torch.testing.assert_close(text_to_text_loss(model, batch).value, model(**batch).loss)


@pytest.mark.parametrize("config", [INT8, INT4], ids=["int8", "int4"])
@pytest.mark.parametrize("variant", TABLES)
def test_training_for_it_sees_what_it_will_compute(variant, config, tmp_path):
    """In float64: the order of sums, which depends on the processor, moves scores in float32 by more than the bound."""
    model = rounded(tmp_path, variant, config).double()
    precise = load(tmp_path / "float").double()
    before = {name: tensor.clone() for name, tensor in precise.state_dict().items()}
    batch = make_batch("ForConditionalGeneration")
    with torch.no_grad(), Rounding(precise, config)():
        torch.testing.assert_close(precise(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in precise.state_dict().items())


def test_training_is_refused(tmp_path):
    model = rounded(tmp_path)
    model.train()
    with pytest.raises(RuntimeError, match=r"8-bit weights cannot be trained.*model\.eval\(\)"):
        model.shared(torch.tensor([3]))


@pytest.mark.parametrize("variant", TABLES)
def test_another_vocabulary_is_refused(variant, tmp_path):
    model = rounded(tmp_path, variant)
    shared, lm_head = model.shared, model.lm_head
    for change in (
        lambda: model.resize_token_embeddings(120),
        lambda: model.set_input_embeddings(torch.nn.Embedding(99, SIZES["d_model"])),
        lambda: model.set_output_embeddings(torch.nn.Linear(SIZES["d_model"], 99, bias=False)),
    ):
        with pytest.raises(TypeError, match="cannot be resized or replaced: do it before quantizing"):
            change()
    assert (model.shared, model.lm_head, model.config.vocab_size) == (shared, lm_head, 99)
    assert model.resize_token_embeddings(99) is shared
    model.tie_weights()
    assert_tied(model, variant == "t5")


def test_integers_do_not_take_the_place_of_floats(tmp_path):
    model, plain = rounded(tmp_path), load(tmp_path / "float")
    for change, layer in ((plain.set_input_embeddings, model.shared), (plain.set_output_embeddings, model.lm_head)):
        with pytest.raises(TypeError, match="do it before quantizing"):
            change(layer)


def test_a_rounded_output_layer_alone_cannot_be_resized(tmp_path):
    model = rounded(tmp_path, "v1.1", QuantizationConfig(4, 32, modules_to_not_convert=()))
    with pytest.raises(TypeError, match="do it before quantizing"):
        model.resize_token_embeddings(120)
    assert model.shared.num_embeddings == 99


# -- wrong values and files


@pytest.mark.parametrize("bits", [4, 16, "8", True])
def test_other_numbers_of_bits(bits):
    with pytest.raises(ValueError, match=f"vocabulary_bits must be 8 or None, got {bits!r}"):
        QuantizationConfig(4, vocabulary_bits=bits)


def test_a_file_says_what_it_holds(tmp_path):
    rounded(tmp_path, config=INT8).save_pretrained(tmp_path / "out")
    assert load(tmp_path / "out", quantization_config=INT8).shared.bits == 8
    with pytest.raises(ValueError, match="already quantized"):
        load(tmp_path / "out", quantization_config="int8")
    edit_config(tmp_path / "out", quantization_config=QuantizationConfig(8).to_dict())
    with pytest.raises(RuntimeError, match=r"shared\.weight as torch\.int8.*config\.json"):
        load(tmp_path / "out")


def test_an_absent_table_is_refused(tmp_path):
    folder = saved(tmp_path)
    weights = load_file(folder / "model.safetensors")
    rest = {name: tensor for name, tensor in weights.items() if name.startswith(("encoder.block", "decoder.block"))}
    save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"no fitting weights for shared\.weight, and quantized ones cannot"):
        load(folder, quantization_config=INT8)
