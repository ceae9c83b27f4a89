"""`quintet score`: how probable given answers are."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from quintet.cli import options
from quintet.cli.failures import in_one_line
from quintet.cli.loading import load_text_to_text


def score(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What the model reads.")],
    targets: Annotated[list[str], typer.Argument(metavar="TARGET", help="The answers to compare.")],
    *,
    model: options.Model,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    quantize: options.Quantize = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Rank answers by their log-probability, the best first.

    Example:

      quintet score "What color is the sky?" red green blue -m google/flan-t5-small
    """
    with in_one_line(debug):
        from quintet.auto import AutoTokenizer

        network = load_text_to_text(model, device, dtype, quantize)
        found = network.score(source, targets, tokenizer=AutoTokenizer.from_pretrained(model))
        records = [
            {
                "target": target,
                "log_prob": found.sequence_log_probs[0, index].item(),
                "token_log_probs": found.token_log_probs[0, index, : found.lengths[0, index]].tolist(),
            }
            for index, target in enumerate(targets)
        ]
        for record in sorted(records, key=lambda record: -record["log_prob"]):
            line = f"{record['log_prob']:.4f}\t{record['target']}"
            typer.echo(json.dumps(record, ensure_ascii=False) if as_json else line)
