"""Pre-training examples from running text: span corruption, prefix language modelling, UL2's mixture of both.

Documents are put one after another and cut into chunks of equal length. A chunk loses spans of tokens; the source has a
sentinel in place of each span, the target each sentinel with its span behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from quintet.tokenizers.base import TokenizerBase
from quintet.training.data.examples import Example
from quintet.training.data.sentinels import sentinel_ids
from quintet.training.data.token_cache import TokenCache


def noise_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """How many of `length` tokens are noise, and in how many spans. Halves are rounded to even.

    Raises ValueError if so much noise leaves no token between two spans.
    """
    noise = min(max(round(length * density), 1), length - 1)
    spans = max(1, round(noise / mean_span))
    if spans > length - noise:
        raise ValueError(
            f"{spans} spans of noise need a token before each, but {noise} of {length} tokens are noise: lower the "
            "density or raise the mean span"
        )
    return noise, spans


def chunk_length(
    source_length: int, density: float, mean_span: float, target_length: int | None = None
) -> tuple[int, int]:
    """The most tokens whose corrupted source fits, and the length of their target; both with </s>.

    Raises ValueError if not even two tokens fit.
    """
    length, target = 1, 0
    while True:
        noise, spans = noise_counts(length + 1, density, mean_span)
        source, longer = length + 1 - noise + spans + 1, noise + spans + 1
        if source > source_length or (target_length is not None and longer > target_length):
            break
        length, target = length + 1, longer
    if length < 2:
        raise ValueError(f"no text fits into {source_length} tokens of source and {target_length} of target")
    return length, target


def random_split(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """`total` as a sum of `parts` positive integers (parts,), each such sum equally likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate(([0], cuts, [total])))


def noise_mask(length: int, density: float, mean_span: float, rng: np.random.Generator) -> np.ndarray:
    """Which tokens (length,) are noise: spans of random lengths and places. Starts unmasked and ends masked."""
    noise, spans = noise_counts(length, density, mean_span)
    lengths = np.empty(2 * spans, dtype=np.int64)
    lengths[0::2] = random_split(length - noise, spans, rng)
    lengths[1::2] = random_split(noise, spans, rng)
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def corrupt(tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, eos: int) -> Example:
    """Source and target of tokens (length,) whose noise is marked by mask (length,).

    The target has no closing sentinel. Raises ValueError if there are more spans than sentinels.
    """
    begins = mask & ~np.concatenate(([False], mask[:-1]))
    spans = int(begins.sum())
    if spans > len(sentinels):
        raise ValueError(f"{spans} spans of noise need as many sentinels; the tokenizer has {len(sentinels)}")
    marked = tokens.astype(np.int64)
    marked[begins] = sentinels[:spans]
    source = marked[begins | ~mask]
    places = np.flatnonzero(begins[mask])
    target = np.insert(tokens[mask].astype(np.int64), places, sentinels[:spans])
    return {"input_ids": np.append(source, eos), "labels": np.append(target, eos)}


class Denoiser(Protocol):
    """A way to make a source and a target of a chunk of text."""

    def chunk(self, source_length: int, target_length: int | None) -> tuple[int, int]:
        """How many tokens a chunk has, and the longest target."""

    def spans(self, length: int) -> int:
        """How many sentinels a chunk takes."""

    def apply(self, tokens: np.ndarray, sentinels: np.ndarray, eos: int, rng: np.random.Generator) -> Example:
        """The example of a chunk."""


@dataclass(frozen=True)
class SpanCorruption:
    """T5's objective: a share `density` of the tokens is noise, in spans of `mean_span` tokens on average."""

    density: float = 0.15
    mean_span: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.density < 1:
            raise ValueError(f"the density of noise must lie between 0 and 1, got {self.density}")
        if self.mean_span < 1:
            raise ValueError(f"the mean span of noise must be at least 1 token, got {self.mean_span}")

    def chunk(self, source_length: int, target_length: int | None) -> tuple[int, int]:
        """How many tokens a chunk has, and the length of its target."""
        return chunk_length(source_length, self.density, self.mean_span, target_length)

    def spans(self, length: int) -> int:
        """How many sentinels a chunk takes."""
        return noise_counts(length, self.density, self.mean_span)[1]

    def apply(self, tokens: np.ndarray, sentinels: np.ndarray, eos: int, rng: np.random.Generator) -> Example:
        """The example of a chunk."""
        return corrupt(tokens, noise_mask(len(tokens), self.density, self.mean_span, rng), sentinels, eos)


@dataclass(frozen=True)
class PrefixLM:
    """The source is the beginning of a chunk, the target its rest; every split is equally likely. No sentinels."""

    def chunk(self, source_length: int, target_length: int | None) -> tuple[int, int]:
        """How many tokens a chunk has, and the longest target: all but one token, and </s>."""
        length = source_length if target_length is None else min(source_length, target_length)
        if length < 2:
            raise ValueError(f"no text fits into {source_length} tokens of source and {target_length} of target")
        return length, length

    def spans(self, length: int) -> int:
        """None."""
        return 0

    def apply(self, tokens: np.ndarray, sentinels: np.ndarray, eos: int, rng: np.random.Generator) -> Example:
        """The example of a chunk."""
        split = int(rng.integers(1, len(tokens)))
        return {"input_ids": np.append(tokens[:split], eos), "labels": np.append(tokens[split:], eos)}


class DenoisingExamples:
    """The chunks of a corpus under a denoiser; other noise in every epoch.

    `prefix` is put in front of each source and takes room in it. What is left of the text behind the last chunk is not
    used. Without target_length, targets are as long as the sources' length makes them. Raises ValueError if the corpus
    is shorter than a chunk, or if a chunk takes more sentinels than the tokenizer has.
    """

    def __init__(
        self,
        name: str,
        corpus: TokenCache,
        tokenizer: TokenizerBase,
        denoiser: Denoiser,
        source_length: int,
        target_length: int | None = None,
        prefix: str = "",
    ) -> None:
        self.name = name
        self._tokens = corpus.columns["text"].ids
        self._denoiser = denoiser
        self._eos = int(tokenizer.eos_token_id)
        self._prefix = np.array(tokenizer(prefix, add_special_tokens=False)["input_ids"], dtype=np.int64)
        self._length, target = denoiser.chunk(source_length - len(self._prefix), target_length)
        self.longest = (source_length, target)
        self.fingerprint = f"{corpus.fingerprint}-{denoiser}-{source_length}-{target_length}-{prefix}"
        self._sentinels = sentinel_ids(tokenizer) if denoiser.spans(self._length) else np.empty(0, dtype=np.int64)
        if denoiser.spans(self._length) > len(self._sentinels):
            raise ValueError(
                f"{name}: {denoiser} makes {denoiser.spans(self._length)} spans of {self._length} tokens, but the "
                f"tokenizer has {len(self._sentinels)} sentinels: shorten the source or raise the mean span"
            )
        if len(self) == 0:
            raise ValueError(f"{name}: the corpus has {len(self._tokens)} tokens, fewer than one row of {self._length}")

    def __len__(self) -> int:
        return len(self._tokens) // self._length

    def example(self, place: int, seed: Sequence[int]) -> Example:
        """A chunk, with the noise that follows from `seed`."""
        tokens = self._tokens[place * self._length : (place + 1) * self._length]
        example = self._denoiser.apply(tokens, self._sentinels, self._eos, np.random.default_rng(seed))
        return {**example, "input_ids": np.concatenate((self._prefix, example["input_ids"]))}


@dataclass(frozen=True)
class MixedDenoiser:
    """A denoiser of a mixture: its share of the examples, and the mode token in front of its sources."""

    denoiser: Denoiser
    rate: float
    prefix: str


UL2 = (
    MixedDenoiser(SpanCorruption(0.15, 3.0), 0.2, "[NLU]"),
    MixedDenoiser(SpanCorruption(0.15, 8.0), 0.2, "[NLU]"),
    MixedDenoiser(SpanCorruption(0.5, 3.0), 0.1, "[NLG]"),
    MixedDenoiser(SpanCorruption(0.5, 8.0), 0.1, "[NLG]"),
    MixedDenoiser(SpanCorruption(0.15, 64.0), 0.1, "[NLG]"),
    MixedDenoiser(SpanCorruption(0.5, 64.0), 0.1, "[NLG]"),
    MixedDenoiser(PrefixLM(), 0.2, "[S2S]"),
)
"""The R, X and S denoisers of the UL2 paper (table 1), S at the rate of 20 % that it found best, R and X equal."""


def mixed_examples(
    corpus: TokenCache,
    tokenizer: TokenizerBase,
    source_length: int,
    target_length: int | None = None,
    mixture: Sequence[MixedDenoiser] = UL2,
) -> tuple[list[DenoisingExamples], list[float]]:
    """A corpus under each denoiser of a mixture, and their rates: what a `Stream` takes.

    Raises as DenoisingExamples does: with 100 sentinels, UL2's densest denoiser allows sources of about 400 tokens.
    """

    def under(one: MixedDenoiser) -> DenoisingExamples:
        name = f"{one.prefix} {one.denoiser}"
        return DenoisingExamples(name, corpus, tokenizer, one.denoiser, source_length, target_length, one.prefix)

    return [under(one) for one in mixture], [one.rate for one in mixture]
