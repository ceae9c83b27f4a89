"""A trimmed vocabulary: the same pieces, the same scores, fewer rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
import torch

import quintet
from quintet.training.data.token_cache import TokenCache
from quintet.training.trimming import pieces_used, trim_vocabulary

TEXTS = ["translate English to German: The house is wonderful.", "Das Haus ist wunderbar.", "Où est-il allé ?"]
OTHER = "An unforeseen xylophone, façade; (42)"


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def trimmed(shared: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple:
    """The tokenizer and a model before and after."""
    whole = quintet.T5TokenizerFast.from_pretrained(shared / "models" / "flan-t5-small-title")
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    before = quintet.T5ForConditionalGeneration(quintet.T5Config(**sizes, tie_word_embeddings=request.param)).eval()
    after = quintet.T5ForConditionalGeneration(before.config).eval()
    after.load_state_dict(before.state_dict())
    folder = tmp_path_factory.mktemp("trimmed")
    used = {number for ids in whole(TEXTS)["input_ids"] for number in ids}
    smaller = trim_vocabulary(after, whole, used, folder)
    return whole, before, smaller, quintet.AutoModelForSeq2SeqLM.from_pretrained(folder), folder


def test_texts_have_the_same_pieces(trimmed: tuple) -> None:
    whole, _, smaller, model, folder = trimmed
    for text in TEXTS:
        pieces = whole.convert_ids_to_tokens(whole(text)["input_ids"])
        assert smaller.convert_ids_to_tokens(smaller(text)["input_ids"]) == pieces
    assert model.config.vocab_size == len(smaller) < len(whole) / 10
    slow = quintet.T5Tokenizer.from_pretrained(folder)
    for text in (*TEXTS, OTHER, "<extra_id_0> and <extra_id_99>"):
        assert slow(text)["input_ids"] == smaller(text)["input_ids"]


def test_other_texts_are_still_text(trimmed: tuple) -> None:
    """Characters with a piece of their own are kept."""
    _, _, smaller, _, _ = trimmed
    assert smaller.unk_token_id not in smaller(OTHER)["input_ids"]
    assert smaller.decode(smaller(OTHER)["input_ids"], skip_special_tokens=True) == OTHER


def test_special_tokens_stay(trimmed: tuple) -> None:
    _, _, smaller, _, folder = trimmed
    assert smaller.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "</s>", "<unk>"]
    assert smaller.convert_tokens_to_ids("<extra_id_0>") == len(smaller) - 1
    library = sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))
    assert (library.pad_id(), library.eos_id(), library.unk_id()) == (0, 1, 2)
    assert smaller.model_max_length == 512
    assert library.get_piece_size() == len(smaller) - 100


def test_scores_do_not_change(trimmed: tuple) -> None:
    whole, before, smaller, after, _ = trimmed
    rows = torch.tensor(whole.convert_tokens_to_ids(smaller.convert_ids_to_tokens(list(range(len(smaller))))))
    with torch.no_grad():
        expected, found = (
            model(
                **tokenizer(TEXTS[0], return_tensors="pt"), labels=tokenizer(TEXTS[1], return_tensors="pt")["input_ids"]
            )
            for model, tokenizer in ((before, whole), (after, smaller))
        )
    torch.testing.assert_close(found.logits, expected.logits[..., rows])
    assert (after.lm_head.weight is after.shared.weight) == before.config.tie_word_embeddings


def test_a_tokenizer_without_a_model_file(trimmed: tuple, tmp_path: Path) -> None:
    _, before, _, _, folder = trimmed
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    alone = quintet.T5TokenizerFast(tokenizer_file=tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").rename(folder / "tokenizer.json")
    with pytest.raises(ValueError, match=r"no spiece\.model"):
        trim_vocabulary(before, alone, {5}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_new_characters(trimmed: tuple, tmp_path: Path) -> None:
    """They are written as themselves, and score as the unknown token does until a training run tells them apart."""
    whole, before, _, _, _ = trimmed
    config = {**before.config.to_dict(), "vocab_size": len(before.shared.weight)}
    model = quintet.T5ForConditionalGeneration(quintet.T5Config(**config)).eval()
    model.load_state_dict(before.state_dict())
    text = "À l'œuvre, Ça va"
    assert whole.unk_token_id in whole(text)["input_ids"]
    larger = trim_vocabulary(model, whole, range(len(whole) - 100), tmp_path / "larger", "œÀÇ")
    new = larger.convert_tokens_to_ids(list("œÀÇ"))
    assert new == [len(whole) - 100, len(whole) - 99, len(whole) - 98]
    for tokenizer in (larger, quintet.T5Tokenizer.from_pretrained(tmp_path / "larger")):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    library = sentencepiece.SentencePieceProcessor(str(tmp_path / "larger" / "spiece.model"))
    assert [library.id_to_piece(one) for one in new] == list("œÀÇ")
    assert library.encode(text) == larger(text)["input_ids"][:-1]
    with torch.no_grad():
        scores = model(**larger("À", return_tensors="pt"), labels=torch.tensor([new])).logits
    assert torch.equal(scores[..., new], scores[..., [larger.unk_token_id]].expand(-1, -1, 3))
    with pytest.raises(ValueError, match="the vocabulary has e already"):
        trim_vocabulary(before, whole, {5}, tmp_path / "out", "œe")
    assert not (tmp_path / "out").exists()


def test_the_most_frequent_pieces(tmp_path: Path) -> None:
    columns = ["input_ids", "labels"]
    first = TokenCache.write(tmp_path / "a", "a", columns, 10, [[[[5, 5, 7], [5]], [[1], [1]]]])
    second = TokenCache.write(tmp_path / "b", "b", columns, 10, [[[[7, 9]], [[1]]]])
    assert pieces_used([first, second]) == {1, 5, 7, 9}
    assert pieces_used([first, second], 2) == {1, 5}
    assert pieces_used([first, second], 3) == {1, 5, 7}
