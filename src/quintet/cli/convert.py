"""`quintet convert`: a checkpoint in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from quintet.cli import options
from quintet.cli.failures import in_one_line
from quintet.cli.loading import load_as_saved, refuse_missing
from quintet.cli.outputs import refuse_existing


def convert(
    model: options.ModelArgument,
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where it is written.")],
    *,
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    format: Annotated[Literal["safetensors", "bin"], typer.Option(help="Of the weights.")] = "safetensors",
    max_shard_size: Annotated[str, typer.Option(metavar="SIZE", help="The largest file, such as 200MB.")] = "5GB",
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> None:
    """Write a checkpoint in another dtype, format or size of shards, or with rounded weights; its tokenizer goes along.

    Examples:

      quintet convert google/flan-t5-small small-bf16 --dtype bfloat16

      quintet convert google/flan-t5-small small-int8 --quantize int8
    """
    with in_one_line(debug):
        from quintet.auto import AutoTokenizer

        refuse_existing(output, overwrite)
        network, report = load_as_saved(model, dtype=dtype, quantization_config=quantize)
        refuse_missing(model, network, report)
        tokenizer = None
        try:
            tokenizer = AutoTokenizer.from_pretrained(model)
        except OSError:
            typer.echo("quintet: no tokenizer beside the model: only the model is written", err=True)
        network.save_pretrained(output, max_shard_size=max_shard_size, safe_serialization=format == "safetensors")
        if tokenizer is not None:
            tokenizer.save_pretrained(output)
        typer.echo(str(output))
