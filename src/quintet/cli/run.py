"""`quintet run`: a pipeline's answers, one a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from quintet.cli import options
from quintet.cli.failures import Failure, in_one_line
from quintet.cli.inputs import read_inputs
from quintet.cli.outputs import Output


def run(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="What to run it on; without any, the lines of stdin.")
    ] = None,
    *,
    model: options.Model,
    task: Annotated[str, typer.Option(metavar="TASK", help="Or summarization, translation_en_to_fr, ...")] = (
        "text2text-generation"
    ),
    input: Annotated[Path | None, typer.Option(metavar="FILE", help="Its lines; .jsonl: an object a line.")] = None,
    column: Annotated[str | None, typer.Option(metavar="NAME", help="What of each object to take.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of standard output.")] = None,
    overwrite: options.Overwrite = False,
    labels: Annotated[str | None, typer.Option(metavar="A,B", help="Of zero-shot-classification.")] = None,
    tokenizer: Annotated[str | None, typer.Option(metavar="NAME", help="If it is not beside the model.")] = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    quantize: options.Quantize = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="How many texts are computed together.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="The longest answer, in tokens.")] = 256,
    num_beams: Annotated[int | None, typer.Option(min=1, metavar="N", help="1 is greedy; 4 if not given.")] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Run a model on texts and print one answer a line.

    Examples:

      quintet run "translate English to German: Hello." -m google/flan-t5-small

      quintet run -m google/flan-t5-small --batch-size 8 < sentences.txt

      quintet run -m my-model --task question-answering --input questions.jsonl --json
    """
    with in_one_line(debug):
        items = read_inputs(texts, input, column)
        with Output(output, overwrite) as lines:
            from quintet.pipelines import pipeline

            loading = {"quantization_config": quantize} if quantize else {}
            pipe = pipeline(
                task,
                model=model,
                tokenizer=tokenizer,
                device=device,
                dtype=dtype,
                batch_size=batch_size,
                model_kwargs=loading,
            )
            wanted = _call_options(pipe, labels, max_new_tokens, num_beams)
            if not as_json and pipe.task == "feature-extraction":
                raise Failure("feature-extraction gives no text to print: add --json")
            if _generates(pipe) and lines.is_terminal and not as_json:
                _stream(pipe, items, wanted)
            else:
                _write(pipe, items, wanted, lines, as_json)


def _call_options(pipe: Any, labels: str | None, max_new_tokens: int, num_beams: int | None) -> dict[str, Any]:
    if pipe.task == "zero-shot-classification":
        if labels is None:
            raise Failure("zero-shot-classification needs --labels, such as --labels sports,politics")
        return {"candidate_labels": labels}
    if not _generates(pipe):
        return {}
    beams = {} if num_beams is None else {"num_beams": num_beams}
    return {"max_new_tokens": max_new_tokens, **beams}


def _generates(pipe: Any) -> bool:
    from quintet.pipelines import Text2TextGenerationPipeline

    return isinstance(pipe, Text2TextGenerationPipeline)


def _stream(pipe: Any, items: list[Any], wanted: dict[str, Any]) -> None:
    """To a terminal, words appear as they are decided."""
    from quintet.generation.streamers import TextStreamer

    for item in items:
        pipe(item, streamer=TextStreamer(pipe.tokenizer, skip_special_tokens=True), **wanted)


def _write(pipe: Any, items: list[Any], wanted: dict[str, Any], lines: Output, as_json: bool) -> None:
    done = 0
    try:
        for item, result in zip(items, pipe(iter(items), **wanted), strict=True):
            line = json.dumps({"input": item, "result": result}, ensure_ascii=False) if as_json else as_text(result)
            lines.write_line(line)
            done += 1
    except (ValueError, RuntimeError) as error:
        if not done:
            raise
        raise Failure(f"after {done} answers, which are written: {error}") from error


def as_text(result: Any) -> str:
    """A pipeline's result on one line: answer n stays on line n."""
    records = [result] if isinstance(result, dict) else result
    return "\t".join(_record(record) for record in records).replace("\n", " ")


def _record(record: dict[str, Any]) -> str:
    if "answer" in record:
        return str(record["answer"])
    if "label" in record:
        return f"{record['label']}\t{record['score']:.4f}"
    if "labels" in record:
        return f"{record['labels'][0]}\t{record['scores'][0]:.4f}"
    if "word" in record:
        return f"{record['word']}/{record.get('entity_group', record.get('entity'))}"
    return next(value for name, value in record.items() if name.endswith("_text"))
