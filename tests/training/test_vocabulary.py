"""Vocabularies trained on text, read back by quintet's tokenizers and by the reference's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import quintet
from quintet.training.vocabulary import train_vocabulary

SIZE = 60
SENTENCES = [
    "The house is wonderful, the garden is green.",
    "La maison est merveilleuse, le jardin est vert.",
    "Das Haus ist wunderbar, der Garten ist grün.",
]


def varied() -> list[str]:
    """Sentences whose words meet in many ways: the trainer finds few pieces in text that repeats itself."""
    nouns = ["house", "garden", "maison", "jardin", "Haus", "Garten", "window", "fenêtre", "Fenster", "street"]
    qualities = ["wonderful", "merveilleuse", "wunderbar", "green", "vert", "grün", "open", "ouverte", "offen", "long"]
    return 5 * SENTENCES + [f"The {noun} ist {quality}, la." for noun in nouns for quality in qualities]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(varied()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary") / "new"
    tokenizer = train_vocabulary([text], folder, SIZE)
    assert isinstance(tokenizer, quintet.T5TokenizerFast)
    return folder


def read_by_all(folder: Path) -> list[Any]:
    kinds = ["T5Tokenizer", "T5TokenizerFast"]
    return [getattr(library, kind).from_pretrained(folder) for library in (quintet, transformers) for kind in kinds]


def test_ids_are_numbered_as_t5s(trained: Path) -> None:
    for tokenizer in read_by_all(trained):
        assert len(tokenizer) == SIZE + 100
        assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
        assert tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_99>"]) == [SIZE + 99, SIZE]
        assert "<s>" not in tokenizer.get_vocab()
        assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)


@pytest.mark.parametrize("sentence", [*SENTENCES, "The <extra_id_0> is <extra_id_1> grün", "ﬁne　text", "你", ""])
def test_quintet_and_the_reference_read_it_alike(sentence: str, trained: Path) -> None:
    first, *others = [tokenizer(sentence)["input_ids"] for tokenizer in read_by_all(trained)]
    assert all(ids == first for ids in others)
    assert first[-1] == 1
    if sentence in SENTENCES:
        assert len(first) < 0.75 * len(sentence)  # pieces, not characters
        assert {tokenizer.decode(first, skip_special_tokens=True) for tokenizer in read_by_all(trained)} == {sentence}


def test_the_same_text_gives_the_same_vocabulary(text: Path, trained: Path, tmp_path: Path) -> None:
    train_vocabulary([text], tmp_path, SIZE)
    assert (tmp_path / "spiece.model").read_bytes() == (trained / "spiece.model").read_bytes()


def test_long_lines_count(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(" ".join(varied() * 10), encoding="utf-8")
    tokenizer = train_vocabulary([tmp_path / "text.txt"], tmp_path / "new", SIZE)
    assert len(tokenizer) == SIZE + 100


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        (b"", SIZE, "there is no text in the files"),
        (b" \n\n", SIZE, "there is no text in the files"),
        ("\n".join(SENTENCES).encode(), 5000, "too small for a vocabulary of 5000 pieces: it gives at most [0-9]+$"),
        ("\n".join(SENTENCES).encode(), 9, "does not hold the text's characters: that takes at least [0-9]+$"),
        (b"good\n\xff bad\n", SIZE, r"^[^:]*text\.txt, line 2 is no UTF-8"),
    ],
)
def test_text_that_gives_no_such_vocabulary_leaves_nothing(
    content: bytes, size: int, message: str, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        train_vocabulary([tmp_path / "text.txt"], tmp_path / "new", size)
    assert not (tmp_path / "new").exists()


def test_missing_files_are_named(text: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*no\.txt"):
        train_vocabulary([text, tmp_path / "no.txt"], tmp_path / "new")
    for files in ([], str(text)):
        with pytest.raises(ValueError, match="files must be a list"):
            train_vocabulary(files, tmp_path / "new")
