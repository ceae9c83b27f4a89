"""`quintet convert`: a checkpoint in another form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from quintet.cli import options
from quintet.cli.failures import Failure, in_one_line
from quintet.cli.loading import dtype_and_rounding, inspect_as_saved, refuse_missing, tokenizer_files
from quintet.cli.outputs import refuse_existing, refuse_unwritable_folder


def convert(
    model: options.ModelArgument,
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where it is written.")],
    *,
    precision: options.Precision = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="float32, bfloat16 or float16; else as saved.")
    ] = None,
    quantize: options.Quantize = None,
    group_size: Annotated[int | None, typer.Option(metavar="N", help="Weights that share a scale (int4: 32).")] = None,
    vocabulary_bits: Annotated[
        int | None, typer.Option(metavar="N", help="8 rounds embeddings and output layer, too; a scale for each row.")
    ] = None,
    dequantize: Annotated[
        bool,
        typer.Option("--dequantize", help="Write rounded weights as floats that any library reads (float32)."),
    ] = False,
    format: Annotated[Literal["safetensors", "bin"], typer.Option(help="Format of the weights.")] = "safetensors",
    max_shard_size: Annotated[str, typer.Option(metavar="SIZE", help="The largest file, such as 200MB.")] = "5GB",
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> None:
    """Write a checkpoint in another dtype, format or size of shards, or with rounded weights; its tokenizer goes along.

    Examples:

      quintet convert google/flan-t5-small small-bf16 --dtype bfloat16

      quintet convert google/flan-t5-small int4 --quantize int4 --group-size 64

      quintet convert google/flan-t5-small smallest --precision int4 --vocabulary-bits 8

      quintet convert quintet-mini mini-float --dequantize
    """
    with in_one_line(debug):
        from quintet.checkpoint.writing import check_shard_size
        from quintet.files import staged

        # Products of integers and scales are exact in float32 only.
        unless_told = "float32" if dequantize else "auto"
        dtype, quantize = dtype_and_rounding(precision, dtype, quantize, default=unless_told)
        if dequantize and quantize is not None:
            raise Failure("--dequantize writes floats, and rounded ones were asked for, too: choose one")
        refuse_unwritable_folder(output)
        refuse_existing(output, overwrite)
        check_shard_size(max_shard_size)
        quantization = _quantization(quantize, group_size, vocabulary_bits)
        found = inspect_as_saved(model)
        refuse_missing(model, found)
        tokenizer = _tokenizer(model)
        network = type(found.model).from_pretrained(model, dtype=dtype, quantization_config=quantization)
        if dequantize:
            network.dequantize()
        with staged(output, former=_saved_files(output)) as folder:
            network.save_pretrained(folder, max_shard_size=max_shard_size, safe_serialization=format == "safetensors")
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        if tokenizer is None:
            typer.echo("quintet: no tokenizer beside the model: only the model is written", err=True)
        typer.echo(str(output))


def _quantization(quantize: str | None, group_size: int | None, vocabulary_bits: int | None) -> Any:
    from quintet.quantize import QuantizationConfig, as_quantization

    options = {"group_size": group_size, "vocabulary_bits": vocabulary_bits}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if quantize is None and given:
        option = f"--{next(iter(given)).replace('_', '-')}"
        raise Failure(f"{option} is for rounded weights: add --quantize int4 or --precision int4")
    quantization = as_quantization(quantize)
    if not given:
        return quantization
    assert isinstance(quantization, QuantizationConfig)
    return replace(quantization, **given)


def _tokenizer(model: str) -> Any:
    """The checkpoint's tokenizer, None if it has none; one that is damaged or another family's is an error."""
    from quintet.auto import AutoTokenizer

    return None if tokenizer_files(model) is None else AutoTokenizer.from_pretrained(model)


def _saved_files(folder: Path) -> list[str]:
    """The files in a folder that are a saved model's: weights of any layout, configurations, and a tokenizer's."""
    from quintet.config.t5 import CONFIG_NAME
    from quintet.files.names import layout_of
    from quintet.generation.config import GENERATION_CONFIG_NAME
    from quintet.tokenizers import T5TokenizerFast
    from quintet.tokenizers.files import ADDED_TOKENS_FILE, CONFIG_FILE, SPECIAL_TOKENS_FILE

    if not folder.exists():
        return []
    named = {CONFIG_NAME, GENERATION_CONFIG_NAME, CONFIG_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE}
    named |= set(T5TokenizerFast.vocab_files_names.values())
    return [path.name for path in folder.iterdir() if path.is_file() and (path.name in named or layout_of(path.name))]
