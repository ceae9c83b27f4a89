"""`quintet info`: facts beside the reference's modules, the files' own headers, and what loading really gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from rich.console import Console
from safetensors.torch import save_file

import quintet
from quintet.cli.facts import describe
from quintet.cli.info import _page
from quintet.config.variants import variant_of
from quintet.quantize import QuantizationConfig

from .checkpoint.test_fp8 import saved_encoder, to_fp8
from .checkpoint.test_gguf import pair as wide_pair
from .checkpoint.test_gguf import written
from .model.reference import HEADS, build, make_pair
from .test_cli import PROGRAM, run

MATRICES = {"d_ff": 64}  # wide enough for int4's groups of 32


def as_class(folder: Path, name: str) -> None:
    """Let config.json name another class."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [name]}))


def printed(facts: dict[str, Any], width: int = 80) -> str:
    console = Console(width=width, record=True)
    console.print(_page(facts))
    return console.export_text()


# -- the program


@pytest.mark.skipif(not PROGRAM.is_file(), reason="the package is not installed: no program `quintet`")
def test_the_program(shared: Path) -> None:
    model = shared / "models" / "flan-t5-small-title"
    result = run("info", model, "--json")
    assert (result.returncode, result.stderr) == (0, b"")
    facts = json.loads(result.stdout)
    assert (
        facts["parameters"]["total"] == transformers.T5ForConditionalGeneration.from_pretrained(model).num_parameters()
    )
    assert facts["class"] == "T5ForConditionalGeneration"
    assert facts["variant"]["name"] == "T5 v1.1"
    assert facts["stored"]["dtypes"].keys() == {"bfloat16"}
    assert facts["stored"]["files"] == ["model.safetensors"]
    assert facts["tokenizer"] == {"class": "T5TokenizerFast", "files": ["spiece.model", "tokenizer.json"]}
    assert (facts["missing"], facts["unexpected"], facts["mismatched"]) == ([], [], {})
    assert facts["generation"] == json.loads((model / "generation_config.json").read_text()) | facts["generation"]
    assert json.loads(json.dumps(describe(str(model)))) == facts


# -- variants


PUBLISHED = {
    "t5-small": (transformers.T5Config(), "T5"),
    "flan-t5-small": (transformers.T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False), "T5 v1.1"),
    "mt5-small": (transformers.MT5Config(), "mT5"),
    "umt5-small": (transformers.UMT5Config(vocab_size=256384), "UMT5"),
    "byt5-small": (transformers.T5Config(vocab_size=384, feed_forward_proj="gated-gelu"), "ByT5"),
    "ul2": (
        transformers.T5Config(
            d_model=4096, d_kv=256, d_ff=16384, num_layers=32, num_heads=16, feed_forward_proj="gated-silu"
        ),
        "UL2",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_told_apart(name: str) -> None:
    reference, expected = PUBLISHED[name]
    variant = variant_of(quintet.T5Config.from_dict(reference.to_dict()))
    assert variant.name == expected
    assert variant.vocab_size == reference.vocab_size


def test_mt5_is_told_without_its_model_type() -> None:
    """As from a GGUF file, whose header has no place for it."""
    assert variant_of(quintet.T5Config(vocab_size=250112, feed_forward_proj="gated-gelu")).name == "mT5"


# -- parts and memory


@pytest.mark.parametrize("variant", ["t5", "v1.1", "umt5"])
@pytest.mark.parametrize("head", HEADS)
def test_parameters_by_part_are_the_reference_s(head: str, variant: str, tmp_path: Path) -> None:
    ours, theirs = make_pair(head, variant)
    ours.save_pretrained(tmp_path)
    parts = describe(str(tmp_path))["parameters"]
    network = getattr(theirs, "transformer", theirs)
    embeddings = network.shared.weight.numel()
    expected = {"total": theirs.num_parameters(), "embeddings": embeddings}
    for part in ("encoder", "decoder"):
        stack = getattr(network, part, None)
        expected[part] = 0 if stack is None else sum(parameter.numel() for parameter in stack.parameters()) - embeddings
    assert parts == expected | {"head": expected["total"] - sum(list(expected.values())[1:])}


@pytest.mark.parametrize("head", ["ForConditionalGeneration", "ForSequenceClassification"])
def test_memory_is_what_loading_takes(head: str, tmp_path: Path) -> None:
    make_pair(head, "v1.1", **MATRICES).ours.save_pretrained(tmp_path / "float")
    table = describe(str(tmp_path / "float"))["memory"]
    assert table.keys() == {"floats", "int8", "int4"}
    for rounding, sizes in table.items():
        options = {} if rounding == "floats" else {"quantization_config": rounding}
        for dtype, size in sizes.items():
            model = getattr(quintet, f"T5{head}").from_pretrained(tmp_path / "float", dtype=dtype, **options)
            assert size == sum(parameter.nbytes for parameter in model.parameters()), (rounding, dtype)
    model.save_pretrained(tmp_path / "int4")
    facts = describe(str(tmp_path / "int4"))
    assert facts["memory"] == {"as saved": table["int4"]}
    assert facts["quantization"]["bits"] == 4
    assert facts["missing"] == facts["unexpected"] == []
    assert "to 4 bits, a scale for each 32 inputs" in printed(facts)


@pytest.mark.parametrize("variant", ["t5", "v1.1"])
def test_a_rounded_vocabulary(variant: str, tmp_path: Path) -> None:
    plain = make_pair("ForConditionalGeneration", variant, **MATRICES).ours
    plain.save_pretrained(tmp_path / "float")
    rounding = QuantizationConfig(4, 32, vocabulary_bits=8)
    model = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path / "float", quantization_config=rounding)
    model.save_pretrained(tmp_path / "int4")
    facts = describe(str(tmp_path / "int4"))
    assert facts["memory"]["as saved"]["float32"] == sum(parameter.nbytes for parameter in model.parameters())
    assert facts["parameters"]["total"] == plain.num_parameters()
    assert facts["missing"] == facts["unexpected"] == []
    assert "to 4 bits, a scale for each 32 inputs; the vocabulary to 8 bits" in printed(facts)


def test_a_rounding_that_does_not_divide_the_sizes_is_left_out(tmp_path: Path) -> None:
    make_pair("EncoderModel").ours.save_pretrained(tmp_path)  # d_ff is 48
    assert describe(str(tmp_path))["memory"].keys() == {"floats", "int8"}


# -- headers


def test_a_gguf_file_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = wide_pair().ours
    path = written(model, tmp_path / "model.gguf", gguf.GGMLQuantizationType.Q8_0)
    monkeypatch.setattr(gguf.quants, "dequantize", None)
    facts = describe(str(path))
    held = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for kind, name in ((gguf.GGMLQuantizationType.Q8_0, "Q8_0"), (gguf.GGMLQuantizationType.F32, "float32")):
        sums = facts["stored"]["dtypes"][name]
        chosen = [tensor for tensor in held.values() if tensor.tensor_type == kind]
        assert sums == {
            "tensors": len(chosen),
            "numbers": sum(int(tensor.n_elements) for tensor in chosen),
            "bytes": sum(int(tensor.n_bytes) for tensor in chosen),
        }
    assert facts["parameters"]["total"] == model.num_parameters()
    assert (facts["missing"], facts["unexpected"], facts["tokenizer"]) == ([], [], None)


def test_eight_bit_floats_are_told_as_they_are_stored(tmp_path: Path) -> None:
    saved_encoder(tmp_path)
    to_fp8(tmp_path, "scale_weight")
    facts = describe(str(tmp_path))
    assert facts["stored"]["dtypes"].keys() == {"float8_e4m3fn", "float32"}
    assert (facts["missing"], facts["unexpected"]) == ([], [])
    assert facts["memory"]["floats"]["float32"] == 4 * facts["parameters"]["total"]


def test_every_shard_is_told(tmp_path: Path) -> None:
    model = make_pair("EncoderModel").ours
    model.save_pretrained(tmp_path, max_shard_size="10KB", safe_serialization=False)
    stored = describe(str(tmp_path))["stored"]
    assert stored["files"] == sorted(path.name for path in tmp_path.glob("*.bin"))
    assert stored["bytes"] == sum(parameter.nbytes for parameter in model.parameters())


# -- what is missing, and what is there


def test_what_is_missing_unexpected_and_mismatched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What loading would report, without a model being drawn or a word being logged."""
    make_pair("ForTokenClassification").ours.save_pretrained(tmp_path)
    as_class(tmp_path, "T5ForConditionalGeneration")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "d_ff": 64}))
    facts = describe(str(tmp_path))
    assert not caplog.records
    _, report = quintet.T5ForConditionalGeneration.from_pretrained(
        tmp_path, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert "decoder.final_layer_norm.weight" in report["missing_keys"]
    assert facts["missing"] == report["missing_keys"]
    assert facts["unexpected"] == report["unexpected_keys"] == ["classifier.bias", "classifier.weight"]
    assert list(facts["mismatched"]) == report["mismatched_keys"]
    wide = facts["mismatched"]["encoder.block.0.layer.1.DenseReluDense.wi.weight"]
    assert wide == {"stored": [48, 32], "needed": [64, 32]}
    text = printed(facts, width=120)
    assert "decoder.block.0.layer.0.SelfAttention.q.weight" in text
    assert "classifier.weight" in text
    assert "[48, 32], not [64, 32]" in text


def test_second_names_of_tied_weights_are_expected(tmp_path: Path) -> None:
    """Old checkpoints hold the embeddings up to four times, and a bias that nobody reads."""
    model = make_pair("ForConditionalGeneration").ours
    model.save_pretrained(tmp_path)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.zeros(8, 4)
    save_file(tensors, tmp_path / "model.safetensors")
    assert describe(str(tmp_path))["unexpected"] == []
    del tensors["shared.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert describe(str(tmp_path))["missing"] == []


def test_an_old_name_of_the_class_is_text_to_text(tmp_path: Path) -> None:
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path)
    for name in ("T5WithLMHeadModel", "pipeline", "AutoConfig"):
        as_class(tmp_path, name)
        assert describe(str(tmp_path))["class"] == "T5ForConditionalGeneration"


def test_generation_and_tasks(tmp_path: Path) -> None:
    theirs = build(transformers, "ForConditionalGeneration", "t5")
    tasks = {"summarization": {"prefix": "summarize: ", "num_beams": 4}}
    theirs.config.task_specific_params = tasks
    theirs.generation_config.num_beams = 3
    theirs.save_pretrained(tmp_path)
    facts = describe(str(tmp_path))
    assert facts["tasks"] == tasks
    assert facts["generation"]["num_beams"] == 3
    assert "summarization 'summarize: '" in printed(facts)
    make_pair("EncoderModel").ours.save_pretrained(tmp_path / "encoder")
    assert describe(str(tmp_path / "encoder"))["generation"] is None


def test_tokenizers(tmp_path: Path) -> None:
    make_pair("EncoderModel").ours.save_pretrained(tmp_path)
    assert describe(str(tmp_path))["tokenizer"] is None
    quintet.ByT5Tokenizer().save_pretrained(tmp_path)
    assert describe(str(tmp_path))["tokenizer"] == {"class": "ByT5Tokenizer", "files": []}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    assert "'RobertaTokenizer' is not of the T5 family" in describe(str(tmp_path))["tokenizer"]["problem"]


# -- what people see


def test_the_page_fits_its_terminal(tmp_path: Path) -> None:
    """Side by side where there is room; never wider than the terminal, and no number cut off."""
    make_pair("ForConditionalGeneration").ours.save_pretrained(tmp_path)
    facts = describe(str(tmp_path))
    total = f"{facts['parameters']['total']:,}"
    for width in (50, 80, 200):
        text = printed(facts, width)
        assert max(map(len, text.splitlines())) <= width
        heading = next(line for line in text.splitlines() if line.startswith("parameters"))
        assert total in heading
        assert ("memory" in heading) == (width >= 80)
        assert "…" not in text


def test_names_are_not_markup(tmp_path: Path) -> None:
    tensors = dict(make_pair("EncoderModel").ours.state_dict())
    tensors["[/b]odd"] = torch.zeros(1)
    make_pair("EncoderModel").ours.save_pretrained(tmp_path, state_dict=tensors)
    assert "[/b]odd" in printed(describe(str(tmp_path)))
