"""How a command ends when something is wrong: one line on stderr and an exit status, or a traceback for --debug."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""

errors = Console(stderr=True, highlight=False)


class Failure(Exception):
    """Something the user can mend: shown as one line, exit status 1."""


@contextmanager
def in_one_line(debug: bool) -> Iterator[None]:
    """Errors of what runs inside as one line; raised as they are with `debug`."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader, such as `head`, has seen enough: typer ends the program without a word
    except KeyboardInterrupt as error:
        if debug:
            raise
        raise typer.Exit(INTERRUPTED) from error
    except (Failure, OSError, ValueError, RuntimeError, ImportError) as error:
        if debug:
            raise
        errors.print("[red]quintet:[/red] ", end="")
        errors.print(" ".join(_message(error).split()), markup=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _message(error: Exception) -> str:
    if "allocate memory" in str(error) or "out of memory" in str(error):
        return "not enough memory: shorten the text, or lower --batch-size"
    return str(error)
