"""spiece.model becomes the same backend as the reference's conversion, to the last byte of its serialization."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2
from transformers import T5Tokenizer as TheirT5Tokenizer
from transformers.convert_slow_tokenizer import convert_slow_tokenizer

from quintet.tokenizers import T5Tokenizer, T5TokenizerFast
from quintet.tokenizers.convert import backend_from_model_file
from quintet.tokenizers.spm_model import SentencePieceModel, read_model_file

from .oracle import load_pair, quietly


@pytest.mark.parametrize("vocabulary", ["t5", "mt5", "umt5"])
def test_model_file_is_read_as_protobuf_reads_it(vocabulary: str, vocabularies: Path) -> None:
    data = (vocabularies / vocabulary / "spiece.model").read_bytes()
    theirs = sentencepiece_model_pb2.ModelProto.FromString(data)
    ours = SentencePieceModel.parse(data)
    assert ours.pieces == [(piece.piece, piece.score) for piece in theirs.pieces]
    assert ours.control_ids == [i for i, piece in enumerate(theirs.pieces) if piece.type == 3]
    assert ours.user_defined_ids == [i for i, piece in enumerate(theirs.pieces) if piece.type == 4]
    trainer = theirs.trainer_spec
    assert (ours.unk_id, ours.model_type) == (trainer.unk_id, trainer.model_type)
    assert ours.byte_fallback == trainer.byte_fallback
    assert ours.charsmap == theirs.normalizer_spec.precompiled_charsmap


@pytest.mark.parametrize(
    ("vocabulary", "legacy", "add_prefix_space"),
    [("t5", True, True), ("t5", False, True), ("t5", False, False), ("mt5", False, True)],
)
def test_backend(vocabulary: str, legacy: bool, add_prefix_space: bool, vocabularies: Path) -> None:
    file = str(vocabularies / vocabulary / "spiece.model")
    extra_ids = {"t5": 100, "mt5": 0, "umt5": 300}[vocabulary]
    arguments: dict[str, Any] = {"legacy": legacy, "add_prefix_space": add_prefix_space, "extra_ids": extra_ids}
    theirs = quietly(convert_slow_tokenizer, TheirT5Tokenizer(file, **arguments))
    ours = backend_from_model_file(file, eos_token="</s>", **arguments)
    assert json.loads(ours.to_str()) == json.loads(theirs.to_str())


@pytest.mark.parametrize("vocabulary", ["t5", "mt5", "umt5"])
def test_loaded_backend(vocabulary: str, vocabularies: Path) -> None:
    """With the added tokens of the saved configuration on top."""
    pair = load_pair("T5TokenizerFast", vocabularies / vocabulary)
    theirs, ours = (json.loads(tokenizer.backend_tokenizer.to_str()) for tokenizer in pair)
    for setting in ("padding", "truncation"):  # of their last call
        theirs.pop(setting)
        assert ours.pop(setting) is None
    assert ours == theirs


def test_byte_fallback_is_mentioned(vocabularies: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = str(vocabularies / "mt5" / "spiece.model")
    fast = T5TokenizerFast(file, extra_ids=0)
    assert "as bytes" in caplog.text
    slow = T5Tokenizer(file, extra_ids=0)
    rare = "\U00013000"
    assert slow.tokenize(rare)[1:] == ["<0xF0>", "<0x93>", "<0x80>", "<0x80>"]
    assert fast.encode(rare) == [259, 2, 1]


def test_a_model_of_another_kind_is_refused(t5_folder: Path, tmp_path: Path) -> None:
    model = sentencepiece_model_pb2.ModelProto.FromString((t5_folder / "spiece.model").read_bytes())
    model.trainer_spec.model_type = 2
    file = tmp_path / "spiece.model"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"not a unigram model.*T5Tokenizer reads it"):
        T5TokenizerFast(str(file))


def test_every_cut_of_a_model_file_is_noticed(t5_folder: Path, tmp_path: Path) -> None:
    """The sentencepiece library itself takes a file cut within its pieces for a small vocabulary."""
    data = (t5_folder / "spiece.model").read_bytes()
    file = tmp_path / "spiece.model"
    for size in (0, 1, 20, 1000, 76 * 13, len(data) // 2, len(data) - 300_000, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(OSError, match=r"spiece\.model is not a SentencePiece model"):
            read_model_file(file)
