"""Small sets of examples, and the parts that tests of the data share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quintet.training.data.examples import Example


class ToyExamples:
    """Examples that say which they are: source [number, seed's epoch, ...], of given lengths (examples, 2)."""

    def __init__(self, name: str, lengths: Sequence[tuple[int, int]], fingerprint: str = "toy") -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.sizes = list(lengths)
        self.longest = (max(source for source, _ in lengths), max(target for _, target in lengths))

    def __len__(self) -> int:
        return len(self.sizes)

    def example(self, place: int, seed: Sequence[int]) -> Example:
        source, target = self.sizes[place]
        first = np.full(source, place)
        return {"input_ids": first, "labels": np.random.default_rng(seed).integers(1, 1000, target)}


def toy_set(examples: int, seed: int = 0, longest: int = 20, **options: Any) -> ToyExamples:
    lengths = np.random.default_rng(seed).integers(1, longest + 1, (examples, 2))
    return ToyExamples(f"toy{seed}", [(int(source), int(target)) for source, target in lengths], **options)


def plain(value: Any) -> Any:
    """Arrays as lists, so that == compares them."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def through_json(state: Any) -> Any:
    return json.loads(json.dumps(state))


def write_lines(path: Path, *rows: Any) -> Path:
    """A file of the rows: texts as they are, anything else as JSON."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
