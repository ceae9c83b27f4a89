"""Which variant of the family a configuration is: what its values tell, and no more.

Checkpoints that were only trained otherwise have equal configurations: FLAN-T5 cannot be told from T5 v1.1, nor mT0
from mT5. No name of a file or folder is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quintet.config.t5 import T5Config


@dataclass(frozen=True)
class Variant:
    """A variant's name, the values that its configurations share, and other checkpoints that have the same ones."""

    name: str
    values: Mapping[str, Any]
    vocab_size: int
    also: str = ""


T5_ROWS, MT5_ROWS, UMT5_ROWS, BYT5_ROWS = 32128, 250112, 256384, 384
"""Sizes of the published vocabularies; mT5's and ByT5's are no other variant's."""

GATED = {"is_gated_act": True}
VARIANTS = (
    Variant(
        "UL2", {"d_model": 4096, "d_ff": 16384, "d_kv": 256, "num_heads": 16, "num_layers": 32}, T5_ROWS, "FLAN-UL2"
    ),
    Variant("UMT5", {"model_type": "umt5"}, UMT5_ROWS),
    Variant("mT5", {"model_type": "mt5"}, MT5_ROWS, "mT0"),
    Variant("mT5", {**GATED, "vocab_size": MT5_ROWS}, MT5_ROWS, "mT0"),
    Variant("ByT5", {**GATED, "vocab_size": BYT5_ROWS}, BYT5_ROWS),
    Variant("T5 v1.1", GATED, T5_ROWS, "FLAN-T5"),
    Variant("T5", {"is_gated_act": False}, T5_ROWS),
)
"""The first whose values a configuration has is its variant."""


def variant_of(config: T5Config) -> Variant:
    """The variant whose network a configuration describes; its vocabulary may be another (see `vocab_size`)."""
    return next(
        variant for variant in VARIANTS if all(getattr(config, name) == value for name, value in variant.values.items())
    )
