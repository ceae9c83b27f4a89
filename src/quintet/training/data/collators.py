"""From rows of examples to the tensors of a training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from quintet.config import T5Config
from quintet.training.data.examples import Example

IGNORED = -100
"""The label of positions without a loss."""


class PaddingCollator:
    """Pads examples to the longest one, on the right, as the reference's DataCollatorForSeq2Seq does for a T5 model.

    Called with examples (mappings with input_ids and labels), it returns int64 tensors: input_ids and attention_mask
    (batch, source), labels (batch, target) with -100 for padding, and decoder_input_ids, the labels shifted right.
    Lengths are rounded up to multiples of `pad_to_multiple_of`.
    """

    def __init__(self, config: T5Config, pad_to_multiple_of: int = 1) -> None:
        self._pad, self._start = _special_ids(config)
        if pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of must be at least 1, got {pad_to_multiple_of}")
        self._multiple = pad_to_multiple_of

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of these examples, at least one."""
        sources = [example["input_ids"] for example in examples]
        targets = [example["labels"] for example in examples]
        labels = self._padded(targets, IGNORED)
        shifted = np.full_like(labels, self._start)
        shifted[:, 1:] = np.where(labels == IGNORED, self._pad, labels)[:, :-1]
        batch = {
            "input_ids": self._padded(sources, self._pad),
            "attention_mask": self._padded([np.ones(len(source), dtype=np.int64) for source in sources], 0),
            "labels": labels,
            "decoder_input_ids": shifted,
        }
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _padded(self, rows: Sequence[Any], value: int) -> np.ndarray:
        longest = max(len(row) for row in rows)
        padded = np.full((len(rows), -(-longest // self._multiple) * self._multiple), value, dtype=np.int64)
        for place, row in zip(padded, rows, strict=True):
            place[: len(row)] = row
        return padded


class PackingCollator:
    """Puts the examples of each row one behind the other, and makes the masks that keep them apart.

    Called with rows (lists of examples), it returns, always of the same shape, int64 tensors input_ids (batch, source),
    labels and decoder_input_ids (batch, target), and three masks of bools: attention_mask (batch, source, source),
    decoder_attention_mask (batch, target, target) and cross_attention_mask (batch, target, source), the arguments of
    the models' `run_stacks`. Positions need nothing: T5 knows only distances, and those within an example are the same.
    Raises ValueError for a row that is too long.
    """

    def __init__(self, config: T5Config, source_length: int, target_length: int) -> None:
        self._pad, self._start = _special_ids(config)
        self._lengths = (source_length, target_length)

    def __call__(self, rows: Sequence[Sequence[Example]]) -> dict[str, torch.Tensor]:
        """The batch of these rows."""
        source_length, target_length = self._lengths
        shifted = [[np.append(self._start, example["labels"][:-1]) for example in row] for row in rows]
        targets = [[example["labels"] for example in row] for row in rows]
        sources = [[example["input_ids"] for example in row] for row in rows]
        source_of, target_of = _segments(sources, source_length), _segments(targets, target_length)
        return {
            "input_ids": _joined(sources, source_length, self._pad),
            "attention_mask": source_of[:, :, None] == source_of[:, None, :],
            "labels": _joined(targets, target_length, IGNORED),
            "decoder_input_ids": _joined(shifted, target_length, self._pad),
            "decoder_attention_mask": target_of[:, :, None] == target_of[:, None, :],
            "cross_attention_mask": target_of[:, :, None] == source_of[:, None, :],
        }


def _joined(rows: Sequence[Sequence[np.ndarray]], length: int, padding: int) -> torch.Tensor:
    """Each row's arrays one behind the other, (batch, length)."""
    joined = np.full((len(rows), length), padding, dtype=np.int64)
    for place, row in zip(joined, rows, strict=True):
        tokens = np.concatenate(row)
        if len(tokens) > length:
            raise ValueError(f"a row of {len(tokens)} tokens does not fit into {length}")
        place[: len(tokens)] = tokens
    return torch.from_numpy(joined)


def _segments(rows: Sequence[Sequence[np.ndarray]], length: int) -> torch.Tensor:
    """Which example each position belongs to, from 1; 0 for padding, which thereby sees only itself."""
    numbered = [[np.full(len(tokens), number) for number, tokens in enumerate(row, 1)] for row in rows]
    return _joined(numbered, length, 0)


def _special_ids(config: T5Config) -> tuple[int, int]:
    """The padding token, and the one that targets start from."""
    if config.pad_token_id is None or config.decoder_start_token_id is None:
        raise ValueError("training needs pad_token_id and decoder_start_token_id in the model's configuration")
    return config.pad_token_id, config.decoder_start_token_id
