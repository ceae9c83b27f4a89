"""GGUF files, written with the format's own library from our own weights."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Kind

import quintet
from quintet.checkpoint.gguf_names import from_gguf, to_gguf

from ..model.reference import make_batch, make_pair

SIZES = {"d_model": 256, "d_ff": 512, "num_heads": 4, "d_kv": 64}  # blocks of some types hold 256 values
HEAD = "ForConditionalGeneration"
ARCHITECTURES = {HEAD: "t5", "EncoderModel": "t5encoder"}
# The types that the library can write, and how far a value may be off, in parts of its block's largest.
WRITTEN = {Kind.F32: 0.0, Kind.F16: 2**-11, Kind.BF16: 2**-8, Kind.Q8_0: 0.57 / 127, Kind.Q4_0: 1.01 / 8}
# Where the 16-bit scales stand in a block; every other byte may be anything.
BLOCKS = {Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2), Kind.Q6_K: (208,)}


def own_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, tied ones once."""
    aliases = model.tied_names()
    return {name: tensor.float() for name, tensor in model.state_dict().items() if name not in aliases}


def write(path: Path, tensors: dict[str, Any], config: Any, architecture: str = "t5", names: Any = None) -> None:
    """Write tensors, given as arrays of floats or as (array of blocks, type), with what llama.cpp notes of a T5."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_key_length(config.d_kv)
    writer.add_value_length(config.d_kv)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
    writer.add_decoder_start_token_id(config.decoder_start_token_id)
    writer.add_token_list([f"piece {i}" for i in range(config.vocab_size)])
    writer.add_token_scores([0.0] * config.vocab_size)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    for name, (blocks, kind) in tensors.items():
        writer.add_tensor((names or to_gguf(tensors))[name], blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def written(model: Any, path: Path, kind: Kind = Kind.F32, architecture: str = "t5") -> Path:
    """A GGUF file of a model: matrices in `kind`, norms and position biases in float32, as llama.cpp keeps them."""
    tensors = {}
    for name, tensor in own_tensors(model).items():
        plain = tensor.dim() == 1 or "relative_attention_bias" in name
        chosen = Kind.F32 if plain else kind
        tensors[name] = (gguf.quants.quantize(tensor.numpy(), chosen), chosen)
    write(path, tensors, model.config, architecture)
    return path


def pair(head: str = HEAD, variant: str = "v1.1", **changes: Any) -> Any:
    return make_pair(head, variant, **SIZES, **changes)


def assert_equal_state(ours: Any, theirs: Any) -> None:
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.name)
@pytest.mark.parametrize("head", ARCHITECTURES)
def test_a_model_comes_back_within_the_type_s_rounding(head, kind, tmp_path):
    model = pair(head).ours
    path = written(model, tmp_path / "model.gguf", kind, ARCHITECTURES[head])
    loaded = getattr(quintet, f"T5{head}").from_pretrained(path)
    for name, tensor in own_tensors(loaded).items():
        expected = model.state_dict()[name]
        plain = tensor.dim() == 1 or "relative_attention_bias" in name
        blocks = expected.unflatten(-1, (-1, 32)) if not plain else expected[..., None]
        largest = blocks.abs().amax(-1, keepdim=True) if kind in (Kind.Q8_0, Kind.Q4_0) else blocks.abs()
        off = (tensor.view_as(blocks) - blocks).abs()
        smallest = 0 if kind == Kind.F32 or plain else 2**-24  # of float16
        assert (off <= (0 if plain else WRITTEN[kind]) * largest + smallest).all(), name


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.name)
def test_blocks_of_blocks(kind, tmp_path):
    """The library cannot write these types, so blocks are made up; it can read them, and says what they mean."""
    model = pair("EncoderModel").ours
    values, size = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(0)
    tensors, expected = {}, {}
    for name, tensor in own_tensors(model).items():
        if tensor.dim() == 1 or "relative_attention_bias" in name:
            tensors[name] = (tensor.numpy(), Kind.F32)
            continue
        blocks = random.integers(0, 256, (tensor.shape[0], tensor.shape[1] // values, size), dtype=np.uint8)
        for place in BLOCKS[kind]:
            scale = random.uniform(-1e-3, 1e-3, blocks.shape[:2]).astype(np.float16)
            blocks[..., place : place + 2] = scale[..., None].view(np.uint8)
        rows = blocks.reshape(tensor.shape[0], -1)
        tensors[name] = (rows, kind)
        expected[name] = torch.from_numpy(gguf.quants.dequantize(rows, kind))
    write(tmp_path / "model.gguf", tensors, model.config, "t5encoder")
    loaded = quintet.T5EncoderModel.from_pretrained(tmp_path, gguf_file="model.gguf")
    for name, tensor in expected.items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_the_reference_reads_the_same(tmp_path):
    written(pair().ours, tmp_path / "model.gguf", Kind.Q8_0)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path, gguf_file="model.gguf").eval()
    ours = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert_equal_state(ours, theirs)
    for name in ("d_model", "d_ff", "d_kv", "num_layers", "num_heads", "vocab_size", "tie_word_embeddings"):
        assert getattr(ours.config, name) == getattr(theirs.config, name), name
    assert ours.config.layer_norm_epsilon == pytest.approx(theirs.config.layer_norm_epsilon)


@pytest.mark.parametrize("variant", ["t5", "v1.1", "umt5", "umt5-tied", "deep-decoder", "wide"])
def test_the_configuration_is_found_in_the_file(variant, tmp_path):
    sizes = {"relative_attention_max_distance": 128}  # the format has no place for it
    model = make_pair(HEAD, variant, **sizes).ours
    path = written(model, tmp_path / "model.gguf")
    auto = quintet.AutoModelForSeq2SeqLM.from_pretrained(path, attn_implementation="eager")
    assert type(auto) is type(model)
    assert_equal_state(auto, model)
    config = quintet.AutoConfig.from_pretrained(path)
    skipped = {"_name_or_path", "architectures", "dtype", "n_positions", "id2label", "label2id", "tokenizer_class"}
    theirs = model.config.to_dict()
    assert {k: v for k, v in config.to_dict().items() if k not in skipped} == {
        k: v for k, v in theirs.items() if k not in skipped
    }
    batch = make_batch(HEAD)
    with torch.no_grad():
        assert torch.equal(auto(**batch).logits, model(**batch).logits)


def test_a_config_json_beside_it_wins(tmp_path):
    model = pair(feed_forward_proj="gated-silu").ours
    model.config.save_pretrained(tmp_path)
    path = written(model, tmp_path / "model.gguf")
    load = quintet.T5ForConditionalGeneration.from_pretrained
    assert load(tmp_path, gguf_file="model.gguf").config.feed_forward_proj == "gated-silu"
    assert load(path).config.feed_forward_proj == "gated-gelu", "a path to a file means that file alone"
    assert load(path, config=model.config).config.feed_forward_proj == "gated-silu"


def test_an_encoder_of_a_full_model(tmp_path):
    model = pair().ours
    encoder = quintet.T5EncoderModel.from_pretrained(written(model, tmp_path / "model.gguf"))
    assert_equal_state(encoder.encoder, model.encoder)


def test_other_dtypes_and_rounding(tmp_path):
    path = written(pair().ours, tmp_path / "model.gguf", Kind.F16)
    assert quintet.T5ForConditionalGeneration.from_pretrained(path, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert quintet.T5ForConditionalGeneration.from_pretrained(path, dtype="auto").dtype == torch.float16
    model = quintet.T5ForConditionalGeneration.from_pretrained(path, quantization_config="int4")
    assert model.encoder.block[0].layer[0].SelfAttention.q.bits == 4
    model.save_pretrained(tmp_path / "out")
    assert_equal_state(quintet.T5ForConditionalGeneration.from_pretrained(tmp_path / "out"), model)


def test_writing_to_a_tensor_leaves_the_file(tmp_path):
    path = written(pair().ours, tmp_path / "model.gguf")
    before = path.read_bytes()
    model = quintet.T5ForConditionalGeneration.from_pretrained(path)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert path.read_bytes() == before


# -- names


@pytest.mark.parametrize("variant", ["t5", "v1.1"])
def test_names_are_the_library_s(variant):
    model = make_pair(HEAD, variant).ours
    ours = list(own_tensors(model))
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5, model.config.num_layers)
    theirs = {name: table.get_name(name, try_suffixes=(".weight",)) for name in ours}
    assert to_gguf(ours) == theirs
    assert from_gguf(theirs.values()) == {theirs[name]: name for name in ours}
    assert from_gguf(["rope_freqs.weight"]) == {"rope_freqs.weight": "rope_freqs.weight"}


# -- refusals


def test_another_architecture_is_refused(tmp_path):
    write(tmp_path / "model.gguf", {}, pair().ours.config, "llama", names={})
    with pytest.raises(ValueError, match=r"architecture 'llama'; supported: t5, t5encoder"):
        quintet.T5EncoderModel.from_pretrained(tmp_path / "model.gguf")


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = written(make_pair("EncoderModel", num_layers=1).ours, tmp_path / "model.gguf", architecture="t5encoder")
    whole = path.read_bytes()
    config = quintet.T5Config.from_pretrained(path)
    for length in (*range(0, 2500, 97), len(whole) - 40_000, len(whole) - 4000, len(whole) - 40):
        path.write_bytes(whole[:length])
        with pytest.raises(OSError, match=r"is not a whole GGUF file|is cut off|is empty"):
            quintet.T5EncoderModel.from_pretrained(path, config=config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGML" + bytes(64), "does not start with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "its version is 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0), "not a whole GGUF file"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63), "not a whole GGUF file"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 99), "no metadata type 99"),
    ],
)
def test_a_file_that_is_something_else_is_refused(content, message, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(OSError, match=message):
        quintet.T5Config.from_pretrained(path)


def test_an_absent_file_is_named(tmp_path):
    pair().ours.config.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"does not hold model\.gguf"):
        quintet.T5EncoderModel.from_pretrained(tmp_path, gguf_file="model.gguf")


WITHOUT_LIBRARY = """
import sys
sys.modules["gguf"] = None
import quintet
plain, blocks = sys.argv[1:]
quintet.T5EncoderModel.from_pretrained(plain)
try:
    quintet.T5EncoderModel.from_pretrained(blocks)
except ImportError as error:
    print(error)
"""


def test_without_the_library_plain_floats_are_read_and_blocks_say_what_to_install(tmp_path):
    model = pair("EncoderModel").ours
    plain = written(model, tmp_path / "plain.gguf", Kind.F16, "t5encoder")
    blocks = written(model, tmp_path / "blocks.gguf", Kind.Q8_0, "t5encoder")
    arguments = [sys.executable, "-c", WITHOUT_LIBRARY, str(plain), str(blocks)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert result.stdout == "blocks.gguf holds quantized weights; to read them: pip install 'quintet[gguf]'\n"
