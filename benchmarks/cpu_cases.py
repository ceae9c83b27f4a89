"""What benchmarks/cpu.py measures: shapes of models, cases, and who takes part."""

from __future__ import annotations

from dataclasses import dataclass

VOCABULARY = 32128
SHAPES = {
    "tiny": {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4},  # to try the program itself
    "small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}
SOURCES = (64, 512, 2048)
MOST_TOKENS = 4096
"""Of the sources of a batch: beyond them the peers' attention scores take gigabytes, and a round minutes."""


@dataclass(frozen=True)
class Case:
    """Sources of one length, and how many new tokens each gets; `new` is 0 where the encoder runs alone."""

    kind: str
    batch: int
    source: int
    new: int
    beams: int = 1

    @property
    def label(self) -> str:
        """Such as 8x512."""
        return f"{self.batch}x{self.source}"


def cases(new: int) -> list[Case]:
    """All of them; answers have `new` tokens."""
    first = [Case("first", 1, source, 1) for source in SOURCES]
    greedy = [
        Case("greedy", batch, source, new)
        for source in SOURCES
        for batch in (1, 8, 32)
        if batch * source <= MOST_TOKENS
    ]
    beams = [Case("beams", 1, source, new, beams=4) for source in SOURCES]
    encoder = [Case("encoder", batch, length, 0) for batch, length in ((8, 128), (4, 512), (1, 4096))]
    return first + greedy + beams + encoder


def quick_cases(new: int) -> list[Case]:
    """Greedy search from short sources, and the first token, which the share of the bandwidth needs."""
    return [case for case in cases(new) if case.kind in ("first", "greedy") and case.source == SOURCES[0]]


@dataclass(frozen=True)
class Contestant:
    """A library, and the numbers it computes with; `int8_all` and `int4_all` have the vocabulary in int8, too."""

    library: str
    precision: str

    @property
    def name(self) -> str:
        """Such as quintet-int8."""
        return f"{self.library}-{self.precision}"


CONTESTANTS = [
    Contestant("quintet", "float32"),
    Contestant("quintet", "bfloat16"),
    Contestant("quintet", "int8"),
    Contestant("quintet", "int8_all"),
    Contestant("quintet", "int4"),
    Contestant("quintet", "int4_all"),
    Contestant("transformers", "float32"),
    Contestant("transformers", "bfloat16"),
    Contestant("ctranslate2", "float32"),
    Contestant("ctranslate2", "int8"),
    Contestant("onnxruntime", "float32"),
    Contestant("onnxruntime", "int8"),
]
