"""`quintet evaluate`: how good a model's answers are."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from quintet.cli import options
from quintet.cli.failures import Failure, in_one_line
from quintet.cli.loading import dtype_and_rounding, load_text_to_text
from quintet.cli.outputs import Output

LONGEST_TARGET = 1024
"""Tokens; the loss leaves out records with a longer target, and says so."""


def evaluate(
    model: options.ModelArgument,
    *,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings of `quintet train`: its tasks.")] = None,
    split: Annotated[Literal["test", "validation"], typer.Option(help="Which of the tasks' files.")] = "test",
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of --config: records of one task.")] = None,
    columns: Annotated[str | None, typer.Option(metavar="A,B", help="Their columns, if not in the first line.")] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="What every source begins with.")] = "",
    source: Annotated[str, typer.Option(metavar="TEXT", help="The source's template.")] = "{source}",
    target: Annotated[str, typer.Option(metavar="TEXT", help="The target's template.")] = "{target}",
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="sacrebleu (default), chrf, rouge, squad, exact_match or accuracy; several."),
    ] = None,
    num_beams: Annotated[int, typer.Option(min=1, metavar="N", help="1 is greedy.")] = 4,
    max_source_length: Annotated[int, typer.Option(min=1, metavar="N", help="Longer sources are cut (tokens).")] = 512,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Longest answer in tokens.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="How many sources at once.")] = 32,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="So many sources of each task.")] = None,
    device: options.Device = "cpu",
    precision: options.Precision = None,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the answers, a JSON object a line.")
    ] = None,
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> None:
    """Print the loss of held-out targets and the metrics of the model's own answers, as JSON.

    Each source is answered once and measured by all its targets. Tasks without data of that split are left
    out, which is said.

    Examples:

      quintet evaluate my-model --config config.yaml --num-beams 4

      quintet evaluate google/flan-t5-small --data test.tsv --columns en,de --source "{en}" --target "{de}"
      --prefix "translate English to German: "
    """
    from quintet.pipelines.progress import progress_of

    with in_one_line(debug, "lower --batch-size"):
        dtype, quantize = dtype_and_rounding(precision, dtype, quantize)
        lines = Output(output, overwrite) if output is not None else None
        tasks = _tasks(config, split, data, columns, prefix, source, target, metric or ["sacrebleu"])
        choices = {"num_beams": num_beams, "batch_size": batch_size, "max_new_tokens": max_new_tokens}
        with tempfile.TemporaryDirectory() as folder:
            measure = _evaluator(model, tasks, limit, folder, max_source_length=max_source_length, **choices)
            network = load_text_to_text(model, device, dtype, quantize)
            with progress_of("evaluate", measure.size, None) as advance:
                found = replace(measure, advance=advance)(network)
        if lines is not None:
            with lines:
                for sample in found.samples:
                    lines.write_line(json.dumps(sample._asdict(), ensure_ascii=False))
        typer.echo(json.dumps({name: round(value, 4) for name, value in found.numbers.items()}, indent=1))


def _tasks(
    config: Path | None,
    split: str,
    data: Path | None,
    columns: str | None,
    prefix: str,
    source: str,
    target: str,
    metrics: list[str],
) -> list[Any]:
    from quintet.training.config import TrainingConfig
    from quintet.training.data.records import Source
    from quintet.training.data.tasks import Task
    from quintet.training.sets import has_split, task_of
    from quintet.training.settings import build, read_yaml

    if (config is None) == (data is None):
        raise Failure("give --config or --data: what to evaluate on")
    if config is not None:
        tasks = build(TrainingConfig, read_yaml(config)).data.tasks
        chosen = [one for one in tasks if has_split(one, split)] or tasks
        for one in tasks:
            if one not in chosen:
                typer.echo(f"quintet: task {one.name} has no {split}_file and is left out", err=True)
        return [task_of(one, split) for one in chosen]
    records = Source([str(data)], tuple(columns.split(",")) if columns else ())
    return [Task(str(data), records, prefix, source, target, tuple(metrics))]


def _evaluator(
    name: str,
    tasks: list[Any],
    limit: int | None,
    folder: str,
    *,
    max_source_length: int,
    **choices: Any,
) -> Any:
    """What measures; data and metrics that do not fit are said here, before a model is loaded."""
    from contextlib import nullcontext

    from quintet.auto import AutoTokenizer
    from quintet.training.data.examples import TaskExamples
    from quintet.training.data.tokenizing import tokenize_task
    from quintet.training.evaluation import Evaluator
    from quintet.training.sets import held_out

    tokenizer = AutoTokenizer.from_pretrained(name)
    sets = []
    for task in tasks:
        tokens = tokenize_task(task, tokenizer, folder)
        sets.append(held_out(task, TaskExamples(task.name, tokens, max_source_length, LONGEST_TARGET), limit))
    evaluator = Evaluator(sets, tokenizer, max_source_length=max_source_length, precision=nullcontext(), **choices)
    evaluator.names()
    return evaluator
