"""From inputs through a pipeline to lines."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

from quintet.cli.failures import Failure, message_of
from quintet.cli.inputs import Inputs
from quintet.cli.labels import classified
from quintet.cli.outputs import Output


def write(pipe: Any, inputs: Inputs, wanted: dict[str, Any], lines: Output, as_json: bool, relief: str) -> None:
    """A line for each input, as soon as its answer is there; with a bar on stderr where no person sees them come.

    Raises Failure for what goes wrong after the first line; it says how many there are.
    """
    from quintet.pipelines.progress import on_terminal, progress_of

    shows_bar = inputs.source is not None and on_terminal(sys.stderr) and not lines.is_terminal
    done = 0
    try:
        with progress_of(pipe.task, inputs.count, shows_bar) as advance:
            for item, result in _answered(pipe, inputs, wanted):
                record = {"input": item, "result": result}
                lines.write_line(json.dumps(record, ensure_ascii=False) if as_json else as_text(result))
                done += 1
                advance()
    except BrokenPipeError:
        raise  # see `in_one_line`
    except Exception as error:
        if not done:
            raise
        raise Failure(f"{message_of(error, relief)} (answers before it, which are written: {done})") from error


def stream(pipe: Any, inputs: Inputs, wanted: dict[str, Any]) -> None:
    """To a terminal, words appear as they are decided."""
    from quintet.generation.streamers import TextStreamer

    class Streamer(TextStreamer):
        def fail(self, error: BaseException) -> None:
            """What comes next is not to stand behind half an answer."""
            print()

    streamer = Streamer(pipe.tokenizer, skip_special_tokens=True)
    for _ in _answered(pipe, inputs, {**wanted, "streamer": streamer, "batch_size": 1}):
        pass


def _answered(pipe: Any, inputs: Inputs, wanted: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Inputs and their results. Raises Failure for a wrong input, naming its place, after those before it."""
    from quintet.pipelines import InputError

    items, asked = itertools.tee(inputs)
    by_labels = pipe.task == "zero-shot-classification"
    results = classified(pipe, asked, **wanted) if by_labels else pipe(asked, **wanted)
    done = 0
    try:
        for result, item in zip(results, items, strict=True):
            yield item, result
            done += 1
    except InputError as error:
        raise Failure(f"{inputs.place(done)}: {error.reason}") from error


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
