"""Structured output: which tokens a constraint uses, and what each of them writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quintet.generation.constraints.vocabulary import vocabulary_of
from quintet.tokenizers import T5Tokenizer

from .test_constraints import EOS, PAD, SIZES, allowed_after, build, tokenizer_of


@pytest.mark.parametrize("name", SIZES)
def test_tokens_write_what_decoding_says(name: str, shared: Path) -> None:
    tokenizer = tokenizer_of(name)
    vocabulary = vocabulary_of(tokenizer, SIZES[name], [EOS])
    usable = [token for token, text in enumerate(vocabulary.texts) if text]
    assert not {*tokenizer.all_special_ids, *range(len(tokenizer), SIZES[name])} & {*usable}
    assert not any("extra_id" in piece for piece in tokenizer.convert_ids_to_tokens(usable))
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        places = torch.randint(len(usable), (int(torch.randint(1, 6, (), generator=generator)),), generator=generator)
        tokens = [usable[place] for place in places.tolist()]
        written = b"".join(vocabulary.texts[token] for token in tokens).decode(errors="ignore")
        decoded = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if vocabulary.trimmed:
            written, decoded = written.strip(), decoded.strip()
        if "\ufffd" not in decoded:  # bytes that are no character, which a constraint never leaves
            assert decoded == written


def test_no_text_has_sentinels_padding_or_unknown_tokens(shared: Path) -> None:
    constraint = build(".*", "t5")
    allowed = allowed_after(constraint, [8774], SIZES["t5"])
    assert len(allowed) > 31_000
    assert not allowed & {PAD, 2, *range(32_000, SIZES["t5"])}


def test_both_tokenizers_of_t5_agree(shared: Path) -> None:
    slow, fast = (build(r"[A-Z]\w+( \w+)*[.!]", name) for name in ("t5", "t5-fast"))
    ids = torch.full((3, 1), PAD)
    generator = torch.Generator().manual_seed(3)
    for _ in range(10):
        scores = torch.randn(3, SIZES["t5"], generator=generator)
        processed = slow(ids, scores)
        assert torch.equal(processed, fast(ids, scores))
        ids = torch.cat([ids, processed.argmax(dim=1, keepdim=True)], dim=1)


def test_tokens_that_decoding_sets_apart_or_leaves_out_are_not_used(shared: Path) -> None:
    tokenizer = T5Tokenizer.from_pretrained(shared / "tokenizers" / "t5")
    er, en = tokenizer.convert_tokens_to_ids(["er", "en"])
    assert allowed_after(build("e[rn]?x?", "t5", tokenizer=tokenizer), [], SIZES["t5"]) >= {er, en}
    tokenizer.add_tokens(["er"])
    tokenizer.sep_token = "en"
    assert tokenizer.decode(tokenizer("xerx").input_ids, skip_special_tokens=True) == "x er x"
    assert tokenizer.decode([en], skip_special_tokens=True) == ""
    assert not allowed_after(build("e[rn]?x?", "t5", tokenizer=tokenizer), [], SIZES["t5"]) & {er, en}
