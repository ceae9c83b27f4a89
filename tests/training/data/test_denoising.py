"""Span corruption, prefix language modelling and UL2's mixture, against published numbers and closed forms."""

from __future__ import annotations

import itertools
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import quintet
from quintet.training.data.denoising import (
    UL2,
    DenoisingExamples,
    PrefixLM,
    SpanCorruption,
    chunk_length,
    corrupt,
    mixed_examples,
    noise_counts,
    noise_mask,
    random_split,
)
from quintet.training.data.records import Source
from quintet.training.data.sentinels import sentinel_ids
from quintet.training.data.stream import Stream
from quintet.training.data.token_cache import TokenCache
from quintet.training.data.tokenizing import tokenize_corpus

EOS = 1
SENTINELS = np.arange(32099, 31999, -1)


def restored(source: list[int], target: list[int], sentinels: list[int]) -> list[int]:
    """The text: each sentinel of the source replaced by what stands behind it in the target."""
    assert source.pop() == target.pop() == EOS
    spans: dict[int, list[int]] = {}
    for token in target:
        if token in sentinels:
            assert token == sentinels[len(spans)]
            span = spans[token] = []
        else:
            span.append(token)
    return list(itertools.chain.from_iterable(spans.get(token, [token]) for token in source))


# -- lengths


@pytest.mark.parametrize(
    ("source", "density", "mean_span", "expected"),
    [
        (512, 0.15, 3, (568, 114)),  # T5
        (1024, 0.15, 3, (1137, 229)),  # mT5
        (256, 0.15, 3, (284, 58)),
        (512, 0.15, 8, (588, 100)),
        (1024, 0.15, 20, (1193, 189)),  # ByT5, whose README gives 189
    ],
)
def test_published_lengths(source: int, density: float, mean_span: float, expected: tuple[int, int]) -> None:
    assert chunk_length(source, density, mean_span) == expected


densities, means = st.floats(0.05, 0.7), st.floats(1, 12)


def lengths(tokens: int, density: float, mean_span: float) -> tuple[int, int]:
    noise = int(np.clip(np.round(np.float64(tokens) * density), 1, tokens - 1))
    spans = max(1, int(np.round(noise / mean_span)))
    assume(spans <= tokens - noise)
    return tokens - noise + spans + 1, noise + spans + 1


@given(source=st.integers(4, 300), target=st.integers(4, 300) | st.none(), density=densities, mean_span=means)
def test_a_chunk_is_the_longest_that_fits(source: int, target: int | None, density: float, mean_span: float) -> None:
    limit = np.inf if target is None else target
    for tokens in range(2, 40):
        lengths(tokens, density, mean_span)
    chunk, longest = chunk_length(source, density, mean_span, target)
    one, other = lengths(chunk, density, mean_span)
    assert one <= source
    assert other == longest <= limit
    more, longer = lengths(chunk + 1, density, mean_span)
    assert more > source or longer > limit


def test_no_room() -> None:
    with pytest.raises(ValueError, match="no text fits into 2 tokens of source"):
        chunk_length(2, 0.15, 3)
    with pytest.raises(ValueError, match="no text fits into 9 tokens of source and 2 of target"):
        chunk_length(9, 0.15, 3, 2)
    with pytest.raises(ValueError, match="no text fits into 9 tokens of source and 1 of target"):
        PrefixLM().chunk(9, 1)


def test_halves_are_rounded_to_even() -> None:
    assert noise_counts(10, 0.25, 1)[0] == 2
    assert noise_counts(14, 0.25, 1)[0] == 4
    assert noise_counts(100, 0.15, 6)[1] == 2
    assert noise_counts(100, 0.21, 6)[1] == 4


def test_one_token_is_never_noise() -> None:
    assert noise_counts(2, 0.9, 1) == (1, 1)


def test_noise_without_room_between_the_spans() -> None:
    with pytest.raises(ValueError, match="90 spans of noise need a token before each, but 90 of 100"):
        noise_counts(100, 0.9, 1)


# -- masks


def test_every_split_is_equally_likely() -> None:
    rng = np.random.default_rng(0)
    draws, total, parts = 6000, 6, 3
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(draws):
        split = tuple(random_split(total, parts, rng).tolist())
        assert sum(split) == total
        counts[split] = counts.get(split, 0) + 1
    assert len(counts) == comb(total - 1, parts - 1)
    expected = draws / len(counts)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 27.9  # chi-square, 9 d.o.f., 0.1 %
    assert random_split(1, 1, rng).tolist() == [1]


def spans_of(mask: np.ndarray) -> list[int]:
    return [len(list(group)) for noise, group in itertools.groupby(mask.tolist()) if noise]


@pytest.mark.parametrize(("length", "density", "mean_span"), [(568, 0.15, 3.0), (588, 0.15, 8.0), (447, 0.5, 8.0)])
def test_masks_have_the_density_the_spans_and_their_distribution(length: int, density: float, mean_span: float) -> None:
    rng = np.random.default_rng(1)
    noise, count = noise_counts(length, density, mean_span)
    masks = [noise_mask(length, density, mean_span, rng) for _ in range(400)]
    for mask in masks:
        assert len(mask) == length
        assert mask.sum() == noise
        assert len(spans_of(mask)) == count
        assert not mask[0]
        assert mask[-1]
    assert abs(noise / length - density) < 1 / length
    assert abs(noise / count - mean_span) < mean_span / count
    spans = np.concatenate([spans_of(mask) for mask in masks])
    for size in (1, 2, 5):
        share = comb(noise - size - 1, count - 2) / comb(noise - 1, count - 1)
        assert abs((spans == size).mean() - share) < 4 * (share / len(spans)) ** 0.5, size


def noise_probability(place: int, text: int, noise: int, spans: int) -> float:
    """That the token at a place is noise, all masks being equally likely: by counting those where it is.

    Before it lie `clean` tokens of the text in `span` segments, and a part of `span` spans of noise.
    """
    masks = 0
    for before in range(max(0, place - text), min(place, noise)):
        clean = place - before
        for span in range(1, spans + 1):
            others = int(clean == text and span == spans)
            if clean < text and span < spans:
                others = comb(text - clean - 1, spans - span - 1)
            segments = comb(clean - 1, span - 1) * others
            masks += segments * comb(before, span - 1) * comb(noise - 1 - before, spans - span)
    return masks / (comb(text - 1, spans - 1) * comb(noise - 1, spans - 1))


def test_noise_lies_where_the_closed_form_says() -> None:
    rng = np.random.default_rng(2)
    length, draws = 40, 5000
    noise, spans = noise_counts(length, 0.3, 2)
    found = np.mean([noise_mask(length, 0.3, 2, rng) for _ in range(draws)], axis=0)
    expected = np.array([noise_probability(place, length - noise, noise, spans) for place in range(length)])
    assert expected.sum() == pytest.approx(noise)
    assert (np.abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / draws)).all()


# -- sources and targets


def test_an_example_by_hand() -> None:
    """The sentence of the T5 paper's figure 2."""
    words = dict(enumerate(["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week"], 10))
    mask = np.zeros(10, dtype=bool)
    mask[[2, 3, 8]] = True
    example = corrupt(np.array(list(words)), mask, SENTINELS, EOS)
    names = {**words, 32099: "<X>", 32098: "<Y>", EOS: "</s>"}
    read = {key: " ".join(names[int(token)] for token in ids) for key, ids in example.items()}
    assert read["input_ids"] == "Thank you <X> me to your party <Y> week </s>"
    assert read["labels"] == "<X> for inviting <Y> last </s>"


@given(length=st.integers(2, 300), density=densities, mean_span=means, seed=st.integers(0, 2**32))
def test_source_and_target_restore_the_text(length: int, density: float, mean_span: float, seed: int) -> None:
    source_length, target_length = lengths(length, density, mean_span)
    sentinels = np.arange(2000, 1700, -1)
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, 1000, length).astype(np.uint16)
    example = SpanCorruption(density, mean_span).apply(tokens, sentinels, EOS, rng)
    assert len(example["input_ids"]) == source_length
    assert len(example["labels"]) == target_length
    text = restored(example["input_ids"].tolist(), example["labels"].tolist(), sentinels.tolist())
    assert text == tokens.tolist()


@given(mask=st.lists(st.booleans(), min_size=1, max_size=40))
def test_any_mask_can_be_restored(mask: list[bool]) -> None:
    tokens = np.arange(100, 100 + len(mask))
    example = corrupt(tokens, np.array(mask), SENTINELS, EOS)
    assert restored(*(ids.tolist() for ids in example.values()), SENTINELS.tolist()) == tokens.tolist()


def test_more_spans_than_sentinels() -> None:
    mask = np.arange(202) % 2 == 1
    with pytest.raises(ValueError, match="101 spans of noise need as many sentinels; the tokenizer has 100"):
        corrupt(np.arange(202), mask, SENTINELS, EOS)


def test_prefix_language_modelling() -> None:
    """Each split is drawn; source and target put together are the text."""
    rng = np.random.default_rng(0)
    tokens = np.arange(10, 15, dtype=np.uint16)
    splits = []
    for _ in range(400):
        example = PrefixLM().apply(tokens, np.empty(0), EOS, rng)
        source, target = example["input_ids"].tolist(), example["labels"].tolist()
        assert source[-1] == target[-1] == EOS
        assert source[:-1] + target[:-1] == tokens.tolist()
        splits.append(len(source) - 1)
    counts = np.bincount(splits)[1:]
    assert len(counts) == 4
    assert ((counts - 100) ** 2 / 100).sum() < 16.3  # chi-square, 3 d.o.f., 0.1 %


# -- sentinels


@pytest.mark.parametrize(("name", "first", "count"), [("t5", 32099, 100), ("mt5", 250099, 100), ("umt5", 256299, 300)])
def test_sentinels_of_the_published_vocabularies(shared: Path, name: str, first: int, count: int) -> None:
    loader = quintet.MT5Tokenizer if name == "mt5" else quintet.T5Tokenizer
    ids = sentinel_ids(loader.from_pretrained(shared / "tokenizers" / name))
    assert ids.tolist() == list(range(first, first - count, -1))


def test_the_sentinels_of_byt5_are_its_last_bytes() -> None:
    """The paper: "we reuse the final 100 byte IDs"; T5X counts down from 258."""
    ids = sentinel_ids(quintet.ByT5Tokenizer()).tolist()
    assert ids == list(range(258, 158, -1))
    every_character = "".join(map(chr, itertools.chain(range(0xD800), range(0xE000, 0x110000))))
    assert not {byte + 3 for byte in every_character.encode()} & set(ids[:11])


def test_a_tokenizer_without_sentinels(shared: Path) -> None:
    tokenizer = quintet.T5Tokenizer(shared / "tokenizers" / "t5" / "spiece.model", extra_ids=0)
    with pytest.raises(ValueError, match="no sentinels"):
        sentinel_ids(tokenizer)


# -- the examples of a corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    text = np.random.default_rng(0).integers(3, 130, 2000)
    return TokenCache.write(tmp_path_factory.mktemp("cache") / "x", "print", ["text"], 384, [[[text, text[:500]]]])


def ids(example: Any) -> tuple[list[int], list[int]]:
    return example["input_ids"].tolist(), example["labels"].tolist()


def test_chunks_are_the_text_cut_up(corpus: TokenCache) -> None:
    tokenizer = quintet.ByT5Tokenizer()
    examples = DenoisingExamples("bytes", corpus, tokenizer, SpanCorruption(0.15, 20), 64)
    text: list[int] = []
    for place in range(len(examples)):
        source, target = ids(examples.example(place, (place,)))
        assert (len(source), len(target)) == (64, examples.longest[1])
        text += restored(source, target, sentinel_ids(tokenizer).tolist())
    tokens = corpus.columns["text"].ids
    assert text == tokens[: len(text)].tolist()
    assert 0 <= len(tokens) - len(text) < len(text) // len(examples)


def test_the_seed_decides_on_the_noise(corpus: TokenCache) -> None:
    examples = DenoisingExamples("bytes", corpus, quintet.ByT5Tokenizer(), SpanCorruption(), 64)
    assert ids(examples.example(3, (7, 1))) == ids(examples.example(3, (7, 1))) != ids(examples.example(3, (7, 2)))


@pytest.mark.parametrize("mixed", UL2, ids=lambda mixed: f"{mixed.prefix} {mixed.denoiser}")
def test_the_denoisers_of_ul2_within_limits(corpus: TokenCache, mixed: Any) -> None:
    tokenizer = quintet.ByT5Tokenizer()
    examples = DenoisingExamples("x", corpus, tokenizer, mixed.denoiser, 100, 80, mixed.prefix)
    prefix = tokenizer(mixed.prefix, add_special_tokens=False)["input_ids"]
    for place in range(len(examples)):
        source, target = ids(examples.example(place, (place,)))
        assert source[: len(prefix)] == prefix
        assert len(source) <= 100 == examples.longest[0]
        assert len(target) <= examples.longest[1] <= 80


def test_ul2_is_the_mixture_of_the_paper() -> None:
    """Table 1 and section 4.5 of arXiv 2205.05131; the mode tokens of the published checkpoint."""
    spans = {(one.denoiser.density, one.denoiser.mean_span, one.prefix) for one in UL2[:-1]}
    regular = {(0.15, 3, "[NLU]"), (0.15, 8, "[NLU]")}
    extreme = {(0.5, 3, "[NLG]"), (0.5, 8, "[NLG]"), (0.15, 64, "[NLG]"), (0.5, 64, "[NLG]")}
    assert spans == regular | extreme
    assert (UL2[-1].denoiser, UL2[-1].prefix) == (PrefixLM(), "[S2S]")
    shares = {prefix: sum(one.rate for one in UL2 if one.prefix == prefix) for prefix in ("[NLU]", "[NLG]", "[S2S]")}
    assert shares == pytest.approx({"[NLU]": 0.4, "[NLG]": 0.4, "[S2S]": 0.2})


def test_a_corpus_under_ul2_is_streamed(corpus: TokenCache) -> None:
    tokenizer = quintet.ByT5Tokenizer()
    stream = Stream(*mixed_examples(corpus, tokenizer, 100, 80))
    assert stream.rates == pytest.approx([one.rate for one in UL2])
    sources = [tokenizer.decode(stream.example(stream.draw())["input_ids"]) for _ in range(200)]
    shares = [sum(source.startswith(prefix) for source in sources) / 200 for prefix in ("[NLU]", "[NLG]", "[S2S]")]
    assert shares == pytest.approx([0.4, 0.4, 0.2], abs=0.1)
    assert stream.longest[0] == 100


def test_the_options_are_part_of_the_fingerprint(corpus: TokenCache) -> None:
    def fingerprint(denoiser: Any = SpanCorruption(), *options: Any) -> str:  # noqa: B008 (frozen)
        return DenoisingExamples("x", corpus, quintet.ByT5Tokenizer(), denoiser, *(options or (64,))).fingerprint

    others = [(SpanCorruption(0.2),), (PrefixLM(),), (SpanCorruption(), 65), (SpanCorruption(), 64, 30)]
    others += [(SpanCorruption(), 64, None, "x")]
    assert len({fingerprint(), *(fingerprint(*options) for options in others)}) == len(others) + 1


@pytest.mark.parametrize("values", [(0, 3), (1, 3), (0.15, 0.5), (-1, 3)])
def test_noise_that_makes_no_sense(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="noise must"):
        SpanCorruption(*values)


def test_a_corpus_shorter_than_a_row(corpus: TokenCache) -> None:
    with pytest.raises(ValueError, match="x: the corpus has 2500 tokens, fewer than one row of"):
        DenoisingExamples("x", corpus, quintet.ByT5Tokenizer(), SpanCorruption(0.15, 300), 9999)


def test_too_many_sentinels_are_refused_at_the_start(corpus: TokenCache) -> None:
    with pytest.raises(ValueError, match=r"makes 128 spans of 767 tokens, but the tokenizer has 100 sentinels"):
        DenoisingExamples("x", corpus, quintet.ByT5Tokenizer(), SpanCorruption(0.5, 3), 512)


def test_real_text(tmp_path: Path, shared: Path) -> None:
    tokenizer = quintet.T5TokenizerFast.from_pretrained(shared / "tokenizers" / "t5")
    corpus = tokenize_corpus(Source(shared / "data" / "text" / "tinyshakespeare.txt"), tokenizer, tmp_path)
    examples = DenoisingExamples("shakespeare", corpus, tokenizer, SpanCorruption(), 512)
    source, target = ids(examples.example(5, (0,)))
    assert (len(source), len(target)) == (512, 114)
    text = restored(source, target, list(range(32099, 31999, -1)))
    assert text == corpus.columns["text"].ids[5 * 568 : 6 * 568].tolist()
    assert "<extra_id_0>" not in tokenizer.decode(text)
