"""A bar that shows how far a long list is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

LONG = 100
"""Inputs from which on a list is long."""


@contextmanager
def progress_of(title: str, total: int | None, wanted: bool | None) -> Iterator[Callable[[], object]]:
    """A function to call after each input; it moves a bar on stderr, or does nothing where none is wanted.

    `total` is None where nobody knows how many there will be. `wanted` None wants a bar for a long list on a terminal.
    There it goes away in the end; a file gets its last state.
    """
    if wanted is None:
        wanted = total is not None and total >= LONG and on_terminal(sys.stderr)
    if not wanted:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=console.is_terminal) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda: progress.advance(bar)


def on_terminal(stream: IO[str] | None) -> bool:
    """Whether a person reads what is written there. Python has None for a standard stream that is closed."""
    return stream is not None and stream.isatty()
