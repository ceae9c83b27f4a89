"""`quintet run`: a pipeline's answers, one a line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from quintet.cli import options
from quintet.cli.answers import stream, write
from quintet.cli.failures import in_one_line
from quintet.cli.inputs import read_inputs
from quintet.cli.loading import dtype_and_rounding
from quintet.cli.outputs import Output
from quintet.cli.tasks import call_options, generates
from quintet.hub import SHIPPED

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


def run(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="The texts; without any, the lines of standard input.")
    ] = None,
    *,
    model: options.Model = SHIPPED,
    task: Annotated[
        str, typer.Option(metavar="TASK", help="The task, such as summarization or translation_en_to_fr.")
    ] = "text2text-generation",
    input: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Read inputs from a file, one a line; .jsonl or .ndjson: a JSON value a line."
        ),
    ] = None,
    column: Annotated[str | None, typer.Option(metavar="KEY", help="The key of each JSON object to use.")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the answers to a file, not to standard output.")
    ] = None,
    overwrite: options.Overwrite = False,
    labels: Annotated[
        str | None, typer.Option(metavar="A,B", help="Labels to choose from (zero-shot-classification).")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="The tokenizer, if it is not beside the model.")
    ] = None,
    device: options.Device = "cpu",
    precision: options.Precision = None,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="How many inputs are computed together.")] = 1,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Longest answer in tokens; else the checkpoint's, or 256."),
    ] = None,
    num_beams: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Beams, 1 is greedy; else the checkpoint's, or 4.")
    ] = None,
    as_json: AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Run a model on texts and print one answer a line.

    JSON lines can bring their own labels for zero-shot-classification, under "candidate_labels".

    Examples:

      quintet run "translate English to German: The house is wonderful."

      quintet run -m google/flan-t5-small --batch-size 8 < sentences.txt

      quintet run -m my-model --task question-answering --input questions.jsonl --json
    """
    relief = "shorten the texts, or lower --batch-size" if batch_size > 1 else "shorten the text"
    with in_one_line(debug, relief):
        dtype, quantize = dtype_and_rounding(precision, dtype, quantize)
        inputs = read_inputs(texts, input, column)
        with Output(output, overwrite) as lines:
            wanted = call_options(task, inputs, as_json, labels, max_new_tokens, num_beams)
            place = {"device": device, "dtype": dtype}
            pipe = _pipeline(task, model, tokenizer, quantize, batch_size=batch_size, **place)
            if lines.is_terminal and not as_json and generates(type(pipe)):
                stream(pipe, inputs, wanted)
            else:
                write(pipe, inputs, wanted, lines, as_json, relief)


def _pipeline(task: str, model: str, tokenizer: str | None, quantize: str | None, **options: Any) -> Any:
    from quintet.pipelines import pipeline

    # That weights are missing is an error here, which says so itself.
    logging.getLogger("quintet.model.loading").setLevel(logging.ERROR)
    loading = {"quantization_config": quantize} if quantize else {}
    return pipeline(task, model=model, tokenizer=tokenizer, model_kwargs=loading, **options)
