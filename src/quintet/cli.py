"""The command line: `quintet run "translate English to German: ..." --model ...`."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

from quintet._version import __version__

app = typer.Typer(
    help="T5 models on the command line.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
errors = Console(stderr=True, highlight=False)


class Failure(Exception):
    """Something the user can mend: shown as one line, exit status 1."""


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """T5 models on the command line."""
    if version:
        typer.echo(f"quintet {__version__}")
        raise typer.Exit


@app.command()
def run(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="What to run it on; without any, the lines of stdin.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="A folder, or a name on the Hub.")] = ...,  # type: ignore[assignment]
    task: Annotated[str, typer.Option(metavar="TASK", help="Or summarization, translation_en_to_fr, ...")] = (
        "text2text-generation"
    ),
    device: Annotated[
        str, typer.Option(metavar="DEV", help="Or cuda, cuda:1; a number is CUDA's, -1 the CPU.")
    ] = "cpu",
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="Or bfloat16, float16, auto (the checkpoint's).")] = (
        "float32"
    ),
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="How many texts are computed together.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="The longest answer, in tokens.")] = 256,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Run a model on texts and print one answer a line.

    Examples:

      quintet run "translate English to German: Hello." -m google/flan-t5-small

      quintet run -m google/flan-t5-small --batch-size 8 < sentences.txt
    """
    try:
        for answer in _answers(texts, model, task, device, dtype, batch_size, max_new_tokens):
            typer.echo(answer.replace("\n", " "))  # answer n stays on line n
    except BrokenPipeError:
        raise  # the reader, such as `head`, has seen enough: typer ends the program without a word
    except (Failure, OSError, ValueError, RuntimeError, ImportError) as error:
        if debug:
            raise
        errors.print("[red]quintet:[/red] ", end="")
        errors.print(" ".join(str(error).split()), markup=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _answers(
    texts: list[str] | None, model: str, task: str, device: str, dtype: str, batch_size: int, max_new_tokens: int
) -> Iterator[str]:
    if not texts and sys.stdin.isatty():
        raise Failure('no input: give a text (quintet run "translate English to German: Hello." ...), or pipe lines in')
    from quintet.pipelines import pipeline

    runner = pipeline(task, model=model, device=device, dtype=dtype, batch_size=batch_size)
    lines = texts if texts else _lines()
    if not hasattr(runner, "stream"):
        raise Failure(f"{task} gives no text to print: use quintet.pipeline({task!r}, ...) in Python")
    yield from runner.stream(lines, max_new_tokens=max_new_tokens)


def _lines() -> list[str]:
    """Standard input, a text a line; empty lines are texts too, so that answers stay beside their questions."""
    # Python may let bytes that are no characters pass, and str.splitlines splits within a line, at form feeds say.
    text = io.TextIOWrapper(sys.stdin.buffer, sys.stdin.encoding, errors="strict")
    try:
        return [line.removesuffix("\n") for line in text]
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise Failure(f"standard input is not valid {text.encoding}: {where}") from error


def main() -> None:
    """The program `quintet`."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("quintet: %(message)s"))
    logging.getLogger("quintet").addHandler(handler)
    # What it says of each attempt to reach the Hub, the error in the end says in one line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    app()
