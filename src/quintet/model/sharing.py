"""Rows that read the same source: beams, samples and candidates, whose cross-attention shares keys and values.

Instead of copying a source's keys and values for each of its rows, the queries of those rows are put behind each other,
as if they were one longer target: attention over a source treats every query by itself.
"""

from __future__ import annotations

import torch


class SourceSharing:
    """Which source each row of a batch reads, and how queries are grouped by it."""

    def __init__(self, source_of_row: torch.Tensor, sources: int) -> None:
        """`source_of_row` (rows,) holds numbers from 0 to sources - 1; every source has at least one row."""
        self.sources = sources
        self.source_of_row = source_of_row
        counts = torch.bincount(source_of_row, minlength=sources)
        self._width = int(counts.max())
        in_order = torch.arange(sources, device=source_of_row.device).repeat_interleave(self._width)
        self._is_regular = torch.equal(source_of_row, in_order)
        self._places = None if self._is_regular else self._free_places(counts)

    def fold(self, query: torch.Tensor) -> torch.Tensor:
        """Queries of rows (rows, heads, n, d) as queries of sources (sources, heads, width * n, d)."""
        heads, n, d = query.shape[1:]
        if self._places is not None:
            padded = query.new_zeros(self.sources * self._width, heads, n, d)
            query = padded.index_copy_(0, self._places, query)
        grouped = query.reshape(self.sources, self._width, heads, n, d)
        return grouped.transpose(1, 2).reshape(self.sources, heads, self._width * n, d)

    def unfold(self, result: torch.Tensor) -> torch.Tensor:
        """The opposite of `fold`, for a result of any last dimension."""
        sources, heads, folded, d = result.shape
        n = folded // self._width
        grouped = result.reshape(sources, heads, self._width, n, d).transpose(1, 2)
        rows = grouped.reshape(sources * self._width, heads, n, d)
        return rows if self._places is None else rows.index_select(0, self._places)

    def _free_places(self, counts: torch.Tensor) -> torch.Tensor:
        """For each row, its place among sources * width: sources with fewer rows leave places empty."""
        order = self.source_of_row.argsort(stable=True)
        first = counts.cumsum(0) - counts
        rank = torch.arange(len(order), device=order.device) - first[self.source_of_row[order]]
        places = torch.empty_like(order)
        places[order] = self.source_of_row[order] * self._width + rank
        return places
