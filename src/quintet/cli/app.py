"""The program's commands, and how it says what the library has to say."""

from __future__ import annotations

import logging
import warnings
from typing import Annotated

import typer

from quintet._version import __version__
from quintet.cli.attention import attention
from quintet.cli.bench import bench
from quintet.cli.convert import convert
from quintet.cli.info import info
from quintet.cli.run import run
from quintet.cli.score import score

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for command in (run, score, info, convert, bench, attention):
    app.command()(command)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """T5 models on the command line. Examples of each command: quintet COMMAND --help.

    Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    if version:
        typer.echo(f"quintet {__version__}")
        raise typer.Exit


def show_messages() -> None:
    """What the library logs, and warns of, goes to stderr, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("quintet: %(message)s"))
    logger = logging.getLogger("quintet")
    logger.addHandler(handler)
    warnings.showwarning = lambda message, *where: logger.warning("%s", message)
    # What it says of each attempt to reach the Hub, the error in the end says in one line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
