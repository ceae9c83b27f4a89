"""How a command ends when something is wrong: one line on stderr and an exit status, or a traceback for --debug."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from quintet.cli.interrupts import INTERRUPTED, on_ctrl_c

errors = Console(stderr=True, highlight=False)


class Failure(Exception):
    """Something the user can mend: shown as one line, exit status 1."""


@contextmanager
def in_one_line(debug: bool, relief: str = "") -> Iterator[None]:
    """Errors of what runs inside as one line; raised as they are with `debug`.

    `relief` says what the user of this command can do where memory is short.
    """
    try:
        with on_ctrl_c(signal.default_int_handler):
            yield
    except BrokenPipeError:
        raise  # the reader, such as `head`, has seen enough: typer ends the program without a word
    except KeyboardInterrupt as error:
        if debug:
            raise
        raise typer.Exit(INTERRUPTED) from error
    except Exception as error:
        if debug:
            raise
        errors.print("[red]quintet:[/red] ", end="")
        errors.print(" ".join(message_of(error, relief).split()), markup=False, soft_wrap=True)
        raise typer.Exit(1) from error


def message_of(error: Exception, relief: str = "") -> str:
    """What to say of an error; of one that nobody foresaw, how to find out more."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        return f"not enough memory: {relief}" if relief else "not enough memory"
    if isinstance(error, (Failure, OSError, ValueError, RuntimeError, ImportError)):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}; run again with --debug for the traceback"
