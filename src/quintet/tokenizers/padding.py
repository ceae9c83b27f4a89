"""Bringing encoded inputs to one length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quintet.tokenizers.options import PaddingStrategy, Side


@dataclass(frozen=True)
class Padder:
    """Fills rows up: `fill` says which value each key is padded with; other keys pass through."""

    strategy: PaddingStrategy
    max_length: int | None
    multiple_of: int | None
    side: Side
    main_key: str
    fill: Mapping[str, int]
    adds_mask: bool

    def pad_one(self, example: Mapping[str, Any]) -> dict[str, Any]:
        """Pad a single example."""
        return self._pad(example, self._target([len(example[self.main_key])]))

    def pad_batch(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Pad a batch given as one list for each key. Raises ValueError if those lists differ in length."""
        size = len(columns[self.main_key])
        for key, column in columns.items():
            if len(column) != size:
                raise ValueError(f"{key!r} has {len(column)} rows, but {self.main_key!r} has {size}.")
        target = self._target([len(row) for row in columns[self.main_key]])
        rows = [self._pad({key: column[i] for key, column in columns.items()}, target) for i in range(size)]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _target(self, lengths: list[int]) -> int | None:
        if self.strategy is PaddingStrategy.DO_NOT_PAD:
            return None
        target = max(lengths) if self.strategy is PaddingStrategy.LONGEST else self.max_length
        if target is not None and self.multiple_of:
            target = -(-target // self.multiple_of) * self.multiple_of
        return target

    def _pad(self, example: Mapping[str, Any], target: int | None) -> dict[str, Any]:
        row = dict(example)
        length = len(row[self.main_key])
        if self.adds_mask and "attention_mask" not in row:
            row["attention_mask"] = [1] * length
        missing = 0 if target is None else target - length
        if missing > 0:
            for key, value in self.fill.items():
                if key in row:
                    padding = [value] * missing
                    row[key] = padding + row[key] if self.side is Side.LEFT else row[key] + padding
        return row


def gather(features: Any, main_key: str) -> dict[str, Any]:
    """One dictionary from what `pad` accepts: a dictionary, or a list of dictionaries as a data collator has it.

    Raises ValueError if there is nothing to pad, or an example lacks a key that the first one has.
    """
    if isinstance(features, (list, tuple)):
        if not features or not all(isinstance(example, Mapping) for example in features):
            raise ValueError("pad() takes a dictionary of inputs, or a list of at least one such dictionary.")
        for number, example in enumerate(features):
            missing = features[0].keys() - example.keys()
            if missing:
                raise ValueError(f"example {number} lacks {sorted(missing)}, which example 0 has.")
        features = {key: [example[key] for example in features] for key in features[0]}
    if main_key not in features:
        raise ValueError(f"pad() needs {main_key!r} among the inputs, got only {list(features)}.")
    return dict(features)
