"""`quintet score`: how probable given answers are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from quintet.cli import options
from quintet.cli.failures import Failure, in_one_line
from quintet.cli.inputs import JSON_LINES, read_inputs
from quintet.cli.loading import dtype_and_rounding, load_text_to_text
from quintet.hub import SHIPPED


@dataclass
class Question:
    """A source, and the answers to it that are compared."""

    source: str
    targets: list[str]


def score(
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help="What the model reads.")] = None,
    targets: Annotated[list[str] | None, typer.Argument(metavar="TARGET", help="The answers to compare.")] = None,
    *,
    model: options.Model = SHIPPED,
    input: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read sources and targets from a file, a JSON object a line.")
    ] = None,
    source_key: Annotated[str, typer.Option(metavar="KEY", help="The key of an object's source.")] = "source",
    target_key: Annotated[str, typer.Option(metavar="KEY", help="The key of its target, or list of them.")] = "target",
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="How many sources are computed together.")] = 8,
    device: options.Device = "cpu",
    precision: options.Precision = None,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Rank answers by their log-probability, the best first.

    Of a file, the answers to one source after those to another. --json adds each token's own log-probability.

    Examples:

      quintet score "What color is the sky?" red green blue -m google/flan-t5-small

      quintet score --input pairs.jsonl --json -m google/flan-t5-small
    """
    with in_one_line(debug, "shorten the texts, or lower --batch-size" if batch_size > 1 else "shorten the texts"):
        dtype, quantize = dtype_and_rounding(precision, dtype, quantize)
        questions = _questions(source, targets, input, source_key, target_key)
        from quintet.auto import AutoTokenizer

        network = load_text_to_text(model, device, dtype, quantize)
        tokenizer = AutoTokenizer.from_pretrained(model)
        for start in range(0, len(questions), batch_size):
            for record in _score(network, tokenizer, questions[start : start + batch_size]):
                line = f"{record['log_prob']:.4f}\t{record['target']}"
                typer.echo(json.dumps(record, ensure_ascii=False) if as_json else line)


def _questions(
    source: str | None, targets: list[str] | None, path: Path | None, source_key: str, target_key: str
) -> list[Question]:
    if path is None:
        if source is None or not targets:
            raise Failure("give a source and its targets, or --input with a file of them")
        return [Question(source, targets)]
    if source is not None:
        raise Failure("give a source and targets or --input, not both")
    if path.suffix not in JSON_LINES:
        raise Failure(f"--input must end in {' or '.join(JSON_LINES)}, got {path}")
    values = read_inputs(None, path, None)
    return [
        _question(value, f"{path}, line {number}", source_key, target_key) for number, value in enumerate(values, 1)
    ]


def _question(value: Any, where: str, source_key: str, target_key: str) -> Question:
    for key in (source_key, target_key):
        if not isinstance(value, dict) or key not in value:
            raise Failure(f"{where} has no {key!r}")
    source, targets = value[source_key], value[target_key]
    targets = [targets] if isinstance(targets, str) else targets
    if not isinstance(source, str):
        raise Failure(f"{where}: {source_key!r} must be a text, got {source!r:.80}")
    if not isinstance(targets, list) or not targets or not all(isinstance(target, str) for target in targets):
        raise Failure(f"{where}: {target_key!r} must be a text or a list of texts, got {targets!r:.80}")
    return Question(source, targets)


def _score(network: Any, tokenizer: Any, questions: list[Question]) -> Iterator[dict[str, Any]]:
    """A record for each answer, the best of each question first."""
    ids = [tokenizer(question.targets)["input_ids"] for question in questions]
    found = network.score([question.source for question in questions], ids, tokenizer=tokenizer)
    for row, question in enumerate(questions):
        for index in found.sequence_log_probs[row, : len(question.targets)].argsort(descending=True).tolist():
            pieces = tokenizer.convert_ids_to_tokens(ids[row][index])
            log_probs = found.token_log_probs[row, index, : len(pieces)].tolist()
            yield {
                "source": question.source,
                "target": question.targets[index],
                "log_prob": found.sequence_log_probs[row, index].item(),
                "tokens": [{"piece": piece, "log_prob": own} for piece, own in zip(pieces, log_probs, strict=True)],
            }
