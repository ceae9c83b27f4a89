"""Ctrl-C: the program ends with one exit status and without a word, whatever it was doing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def leave(*_: Any) -> None:
    """End at once. For while libraries are imported: nothing can be lost then, and some swallow a KeyboardInterrupt."""
    os._exit(INTERRUPTED)


@contextmanager
def on_ctrl_c(action: Callable[..., Any]) -> Iterator[None]:
    """What Ctrl-C does inside. Where it is ignored, as by what a script runs in the background, it stays ignored."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, action)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
