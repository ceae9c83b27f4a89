"""`quintet convert`: what it writes, as the reference reads it, and that it writes everything or nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

import quintet
from quintet.cli.app import app
from quintet.quantize import QuantizationConfig, QuantizedLayer

from .checkpoint.tiny import snapshot
from .model.reference import make_pair
from .test_cli import HOUSE, PROGRAM, SKY, answers, run

COMPANIONS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")


def converted(*arguments: str | Path) -> Any:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    return result


def refusal(*arguments: str | Path) -> str:
    """The one line of a conversion that fails."""
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("quintet: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A tiny random model with a tokenizer on bytes."""
    folder = tmp_path / "tiny"
    make_pair("ForConditionalGeneration", d_ff=64).ours.save_pretrained(folder)
    quintet.ByT5Tokenizer().save_pretrained(folder)
    return folder


def loaded(folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    return quintet.T5ForConditionalGeneration.from_pretrained(folder, **options).state_dict()


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in other.items():
        assert one[name].dtype == tensor.dtype, name
        assert torch.equal(one[name], tensor), name


# -- what it writes


@pytest.mark.skipif(not PROGRAM.is_file(), reason="the package is not installed: no program `quintet`")
def test_the_program_writes_what_the_reference_loads(shared: Path, tmp_path: Path) -> None:
    model, output = shared / "models" / "flan-t5-small-title", tmp_path / "bin"
    options = ("--dtype", "float32", "--format", "bin", "--max-shard-size", "100MB")
    result = run("convert", model, output, *options)
    assert (result.returncode, result.stdout.decode(), result.stderr) == (0, f"{output}\n", b"")
    assert len(list(output.glob("pytorch_model-*.bin"))) > 1
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(output, torch_dtype="auto")
    assert_equal(dict(theirs.state_dict()), loaded(model, dtype="float32"))
    ours = quintet.AutoTokenizer.from_pretrained(model)
    assert transformers.AutoTokenizer.from_pretrained(output)(SKY) == dict(ours(SKY))


@pytest.mark.skipif(not PROGRAM.is_file(), reason="the package is not installed: no program `quintet`")
def test_rounded_it_still_answers(shared: Path, tmp_path: Path) -> None:
    converted(shared / "models" / "flan-t5-small-title", tmp_path / "int8", "--quantize", "int8")
    assert answers(HOUSE, "-m", tmp_path / "int8") == ["Das Haus ist wunderbar."]


@pytest.mark.parametrize(("bits", "group_size"), [(4, 16), (4, None), (8, 32), (8, None)])
def test_group_sizes_are_the_library_s(bits: int, group_size: int | None, tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "rounded"
    chosen = () if group_size is None else ("--group-size", str(group_size))
    converted(tiny, output, "--quantize", f"int{bits}", *chosen)
    wanted = QuantizationConfig(bits, group_size or (32 if bits == 4 else None))
    assert json.loads((output / "config.json").read_text())["quantization_config"] == wanted.to_dict()
    assert_equal(loaded(output), loaded(tiny, quantization_config=wanted))


def test_the_vocabulary_too(tiny: Path, tmp_path: Path) -> None:
    converted(tiny, tmp_path / "out", "--precision", "int4", "--vocabulary-bits", "8")
    wanted = QuantizationConfig(4, 32, vocabulary_bits=8)
    again = loaded(tmp_path / "out", dtype="auto")
    assert_equal(again, loaded(tiny, dtype=torch.bfloat16, quantization_config=wanted))
    assert again["shared.weight"].dtype == torch.int8


@pytest.mark.parametrize(
    ("precision", "dtype", "rounding"),
    [
        ("fp32", torch.float32, None),
        ("bf16", torch.bfloat16, None),
        ("int8", torch.bfloat16, "int8"),
        ("int4", torch.bfloat16, "int4"),
    ],
)
def test_a_precision_is_a_dtype_and_a_rounding(
    precision: str, dtype: torch.dtype, rounding: str | None, tiny: Path, tmp_path: Path
) -> None:
    converted(tiny, tmp_path / "out", "--precision", precision)
    assert_equal(loaded(tmp_path / "out", dtype="auto"), loaded(tiny, dtype=dtype, quantization_config=rounding))
    assert quintet.AutoConfig.from_pretrained(tmp_path / "out").dtype == dtype


@pytest.mark.parametrize(("options", "dtype"), [((), torch.float32), (("--dtype", "bfloat16"), torch.bfloat16)])
def test_floats_for_other_libraries(options: tuple[str, ...], dtype: torch.dtype, tiny: Path, tmp_path: Path) -> None:
    """In float32 unless told otherwise, whatever the scales are: there the products are exact."""
    converted(tiny, tmp_path / "int4", "--precision", "int4", "--vocabulary-bits", "8")
    converted(tmp_path / "int4", tmp_path / "out", "--dequantize", *options)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "out", torch_dtype="auto")
    model = quintet.T5ForConditionalGeneration.from_pretrained(tmp_path / "int4", dtype=dtype)
    every = model.named_modules(remove_duplicate=False)
    rounded = {name: module for name, module in every if isinstance(module, QuantizedLayer)}
    assert {"shared", "decoder.block.1.layer.2.DenseReluDense.wo"} <= rounded.keys()
    for name, tensor in theirs.state_dict().items():
        layer = rounded.get(name.removesuffix(".weight"))
        expected = model.get_parameter(name) if layer is None else layer.dequantized()
        assert tensor.dtype == dtype
        assert torch.equal(tensor, expected), name
    tokenizers = [library.AutoTokenizer.from_pretrained(tmp_path / "out") for library in (transformers, quintet)]
    assert tokenizers[0](SKY)["input_ids"] == tokenizers[1](SKY)["input_ids"]


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    make_pair("EncoderModel").ours.save_pretrained(tmp_path / "model")
    result = converted(tmp_path / "model", tmp_path / "out")
    assert "only the model is written" in result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}


# -- replacing


def test_nothing_of_another_model_stays(tiny: Path, tmp_path: Path) -> None:
    """Its tokenizer, generation configuration and shards would be taken for the new model's. Other files stay."""
    output = tmp_path / "out"
    converted(tiny, output, "--format", "bin", "--max-shard-size", "20KB")
    for name in ("spiece.model", "tokenizer.json", "added_tokens.json", "model.fp16.safetensors"):
        (output / name).write_bytes(b"another model's")
    (output / "README.md").write_text("mine")
    (output / "tokenizer").mkdir()
    assert {*COMPANIONS, "pytorch_model.bin.index.json"} <= {path.name for path in output.iterdir()}
    make_pair("EncoderModel").ours.save_pretrained(tmp_path / "encoder")
    assert "--overwrite" in refusal(tmp_path / "encoder", output)
    converted(tmp_path / "encoder", output, "--overwrite")
    assert {path.name for path in output.iterdir()} == {"config.json", "model.safetensors", "README.md", "tokenizer"}
    assert quintet.AutoConfig.from_pretrained(output).architectures == ["T5EncoderModel"]


def test_in_place(tiny: Path) -> None:
    before = {name: tensor.clone() for name, tensor in loaded(tiny).items()}
    for form in ("bin", "safetensors"):
        converted(tiny, tiny, "--format", form, "--overwrite")
        weights = {path.name for path in tiny.iterdir()} - {*COMPANIONS}
        assert weights - {"added_tokens.json"} == {"pytorch_model.bin" if form == "bin" else "model.safetensors"}
        assert_equal(loaded(tiny), before)
    assert type(quintet.AutoTokenizer.from_pretrained(tiny)) is quintet.ByT5Tokenizer


@pytest.mark.parametrize("there", [False, True])
def test_a_tokenizer_that_cannot_be_written_leaves_nothing(
    there: bool, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    if there:
        converted(tiny, output, "--format", "bin")
    before = snapshot(output)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(quintet.ByT5Tokenizer, "save_pretrained", fail)
    assert "the disk is full" in refusal(tiny, output, "--overwrite")
    assert snapshot(output) == before
    assert output.exists() == there


# -- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dtype", "float8"), "dtype must be one of float32, float16, bfloat16, float64, got 'float8'"),
        (("--quantize", "int3"), "must be 'int8' or 'int4'"),
        (("--quantize", "int4", "--group-size", "48"), "group_size must be None or a power of two from 16 on, got 48"),
        (("--quantize", "int4", "--group-size", "64"), "a group size of 64 does not divide 32 inputs"),
    ],
)
def test_bad_options(options: tuple[str, ...], message: str, tiny: Path, tmp_path: Path) -> None:
    assert message in refusal(tiny, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--group-size", "32"), "add --quantize int4"),
        (("--dequantize", "--quantize", "int8"), "--dequantize writes floats"),
        (("--dequantize", "--precision", "int4"), "--dequantize writes floats"),
        (("--precision", "bf16", "--group-size", "32"), "add --quantize int4"),
        (("--vocabulary-bits", "8"), "--vocabulary-bits is for rounded weights: add --quantize int4"),
        (("--quantize", "int8", "--vocabulary-bits", "4"), "vocabulary_bits must be 8 or None, got 4"),
        (("--precision", "fp8"), "--precision must be one of fp32, bf16, int8, int4, got 'fp8'"),
        (("--precision", "int8", "--dtype", "auto"), "give --precision or --dtype, not both"),
        (("--precision", "int8", "--quantize", "int8"), "give --precision or --quantize, not both"),
        (("--max-shard-size", "many"), "max_shard_size 'many' is no size"),
    ],
)
def test_options_that_no_model_makes_right(
    options: tuple[str, ...], message: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything of the model is read."""
    monkeypatch.setattr(sys.modules["quintet.cli.convert"], "inspect_as_saved", None)
    assert message in refusal(tiny, tmp_path / "out", *options)


def test_a_rounded_checkpoint_is_not_rounded_again(tiny: Path, tmp_path: Path) -> None:
    converted(tiny, tmp_path / "int8", "--quantize", "int8")
    message = refusal(tmp_path / "int8", tmp_path / "out", "--quantize", "int4")
    assert "is already quantized" in message
    assert not (tmp_path / "out").exists()


def test_floats_are_not_turned_into_floats(tiny: Path, tmp_path: Path) -> None:
    assert "the model is not quantized" in refusal(tiny, tmp_path / "out", "--dequantize")
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_one_line(tmp_path: Path) -> None:
    make_pair("EncoderModel").ours.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "architectures": ["T5Model"]}))
    assert "lacks weights of T5Model: decoder." in refusal(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_tokenizer_is_not_left_out(tiny: Path, tmp_path: Path) -> None:
    for name in ("tokenizer_config.json", "added_tokens.json"):
        (tiny / name).unlink(missing_ok=True)
    (tiny / "tokenizer.json").write_text("{")
    assert "tokenizer.json" in refusal(tiny, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything of the model is read."""
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)
    monkeypatch.setattr(sys.modules["quintet.cli.convert"], "inspect_as_saved", None)
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "file is a file" in refusal(tiny, output, "--overwrite")
    monkeypatch.setattr("os.access", lambda *_: False)
    assert f"{tmp_path} is not yours to write to" in refusal(tiny, tmp_path / "new")
    assert snapshot(tmp_path) == before
