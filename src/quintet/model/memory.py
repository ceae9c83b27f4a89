"""Whether self-attention fits into memory, asked before it begins; and whether memory that was freed goes back.

Self-attention takes memory by the square of the length. Linux lends more memory than there is and later kills the
process that uses it, so waiting for an allocation to fail would be too late.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LITTLE = 10**9
"""Bytes that are not worth asking the system about."""

BUCKETS = 8  # bytes per pair of query and key: the pair's bucket,
MAKING_BUCKETS = 52  # and the distances and logarithms it is made from
CACHED_FILES = ("inactive_file", "active_file")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
GLIBC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def attention_bytes(pairs: int, heads: int, itemsize: int, arrays: int) -> int:
    """The bytes that self-attention takes at its peak, or less, so that nothing is refused that would fit.

    pairs are queries times keys; arrays of shape (heads, queries, keys), of numbers of `itemsize` bytes, are the biases
    and weights that are there at once.
    """
    return pairs * max(MAKING_BUCKETS, BUCKETS + heads * itemsize * arrays)


def refuse_what_does_not_fit(needed: int, what: str) -> None:
    """RuntimeError if `what` needs more bytes than are available; nothing where the system does not say."""
    if needed < LITTLE:
        return
    room = available_bytes()
    if room is not None and needed > room:
        raise RuntimeError(
            f"not enough memory: {what} needs about {needed / 1e9:,.1f} GB, {room / 1e9:,.1f} GB are available; "
            "shorten or truncate the text, or use a smaller batch"
        )


def available_bytes(root: Path = Path("/")) -> int | None:
    """What the process can still take without swapping, as Linux says: of the machine and of its control groups.

    `root` is where the files of the system are. None on other systems.
    """
    rooms = [_of_machine(root / "proc/meminfo"), *map(_of_group, _groups(root))]
    return min((room for room in rooms if room is not None), default=None)


def _of_machine(path: Path) -> int | None:
    kilobytes = _numbers(path).get("MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the process's group and of all around it, in version 1 or 2 of control groups.

    In a container they may lie deeper than it sees; its own limit is then in the outermost.
    """
    path = root / "proc/self/cgroup"
    for line in path.read_text().splitlines() if path.is_file() else []:
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        names = [name for name in group.split("/") if name not in ("", "..")]
        for depth in range(len(names) + 1):
            yield (root / "sys/fs/cgroup" / controllers).joinpath(*names[:depth])


def _of_group(folder: Path) -> int | None:
    """The group's limit less what it uses, where files that are cached do not count: the system drops them first."""
    for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        if (folder / limit).is_file() and (most := (folder / limit).read_text().strip()) != "max":
            facts = _numbers(folder / "memory.stat")
            cached = sum(facts.get(f"total_{name}", facts.get(name, 0)) for name in CACHED_FILES)
            return int(most) - int((folder / usage).read_text()) + cached
    return None


def _numbers(path: Path) -> dict[str, int]:
    """The file's lines `name number`; none if there is no such file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {name: int(number) for name, number, *_ in map(str.split, lines)}


def give_back_freed_memory() -> None:
    """Ask the C library for it, where it is glibc: it keeps what was freed between pieces that are still in use.

    Weights rounded as they are read leave a large hole beside each small result: T5-base in int8 takes 250 MB after
    this, and before 300 to 930, as chance has it.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def keep_freed_memory() -> None:
    """Ask the C library, where it is glibc, to keep for the process what it frees from now on, up to 128 MB in a piece.

    Otherwise the gradient of a vocabulary goes back to the system after each step of training and comes again page by
    page, each filled with zeros first: 4 to 5% of a small model's step. Pieces whose sizes change a lot from step to
    step can take more memory in this way. What was set outside, in glibc's variables, is left.
    """
    set_option = _of_glibc("mallopt")
    if set_option is None or any(name in os.environ for name in GLIBC_VARIABLES):
        return
    # Before glibc 2.35 there was a limit of 32 MB. Setting one option alone would freeze the other where it is.
    if set_option(M_MMAP_THRESHOLD, 2**27) or set_option(M_MMAP_THRESHOLD, 2**25):
        set_option(M_TRIM_THRESHOLD, 2**31 - 1)


def _of_glibc(name: str) -> Any:
    """The C library's function of this name; None where it has none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
