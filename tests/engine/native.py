"""The compiled library for tests, and which instruction sets it can be tested with on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quintet.engine import load_library

ALL_SETS = ("portable", "avx2", "avx512", "amx")


library: Any = load_library()
"""None where quintet was installed without a compiler: then conftest.py skips what needs it."""


@contextmanager
def using(instruction_set: str) -> Iterator[None]:
    """Another instruction set for a while."""
    before = library.instruction_set
    library.instruction_set = instruction_set
    try:
        yield
    finally:
        library.instruction_set = before


def _is_there(name: str) -> bool:
    try:
        with using(name):
            return True
    except RuntimeError:
        return False


INSTRUCTION_SETS = [name for name in ALL_SETS if library is not None and _is_there(name)]
"""Those that this processor has."""
