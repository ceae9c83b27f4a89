"""Long lists of sources: sorted by length, decoded batch by batch, put back in order."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)


def in_batches(
    lengths: Sequence[int],
    batch_size: int,
    decode: Callable[[list[int]], torch.Tensor],
    pad: int,
    sequences_per_source: int = 1,
    progress: bool | None = None,
) -> torch.Tensor:
    """All sources' sequences (sources * sequences_per_source, longest), padded behind, in the sources' order.

    `decode` gets the numbers of the sources of a batch, which have similar `lengths`, and returns their sequences. The
    longest come first: what needs most memory fails at once, and the time left is not underestimated. A bar is shown
    on standard error if `progress` says so, or if that is a terminal and there are several batches. An interrupt
    (Ctrl-C) ends the work, not what is done: the sequences of sources not reached are all padding.
    """
    order = sorted(range(len(lengths)), key=lambda source: -lengths[source])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    found: dict[int, torch.Tensor] = {}
    try:
        for batch in _shown(batches, len(order), progress):
            sequences = decode(batch)
            found.update(zip(batch, sequences.split(sequences_per_source), strict=True))
    except KeyboardInterrupt:
        if not found:
            raise
        logger.warning("interrupted: %d of %d sources are decoded, the others all padding", len(found), len(order))
    return _in_order(found, len(lengths), pad, sequences_per_source)


def _in_order(found: dict[int, torch.Tensor], sources: int, pad: int, per_source: int) -> torch.Tensor:
    longest = max((sequences.shape[1] for sequences in found.values()), default=0)
    device = next((sequences.device for sequences in found.values()), torch.device("cpu"))
    together = torch.full((sources, per_source, longest), pad, device=device)
    for source, sequences in found.items():
        together[source, :, : sequences.shape[1]] = sequences
    return together.flatten(0, 1)


def _shown(batches: list[list[int]], sources: int, progress: bool | None) -> Iterator[list[int]]:
    """The batches, with a bar that counts their sources."""
    hidden = not progress if progress is not None else len(batches) < 2 or not sys.stderr.isatty()
    columns = (TextColumn("generating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as bar:
        task = bar.add_task("", total=sources)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch))
