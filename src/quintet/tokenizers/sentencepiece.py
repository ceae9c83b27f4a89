"""T5's tokenizer on the SentencePiece library."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import sentencepiece
from tokenizers import AddedToken

from quintet.tokenizers.python import PythonTokenizer
from quintet.tokenizers.sentinels import with_sentinels
from quintet.tokenizers.spm_model import NO_DUMMY_PREFIX, read_model_file

WORD_START = "▁"


class T5Tokenizer(PythonTokenizer):
    """Tokenizer of T5, mT5 and UMT5 on the SentencePiece library, with the reference's parameters.

    `extra_ids` sentinels come after the vocabulary, `<extra_id_0>` last. `sp_model_kwargs` go to
    SentencePieceProcessor, for example enable_sampling, nbest_size and alpha. `legacy` (None means True) puts a word
    start after a special token even where the text has no space; False does not. `add_prefix_space` reads the first
    word like any other.

    Raises OSError if `vocab_file` is missing or is not a SentencePiece model.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "spiece.model"}

    def __init__(
        self,
        vocab_file: str | os.PathLike[str],
        eos_token: str | AddedToken = "</s>",
        unk_token: str | AddedToken = "<unk>",
        pad_token: str | AddedToken = "<pad>",
        extra_ids: int = 100,
        additional_special_tokens: list[str | AddedToken] | None = None,
        sp_model_kwargs: dict[str, Any] | None = None,
        legacy: bool | None = None,
        add_prefix_space: bool | None = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_file = os.fspath(vocab_file)
        self.sp_model_kwargs = sp_model_kwargs or {}
        self.legacy = True if legacy is None else legacy
        self.add_prefix_space = add_prefix_space
        self._model_bytes = read_model_file(self.vocab_file)
        self.sp_model = self._load()
        self._extra_ids = extra_ids
        kwargs.pop("from_slow", None)  # a matter of fast tokenizers, which arrives here with shared arguments
        additional_special_tokens, sentinels = with_sentinels(additional_special_tokens, extra_ids)
        last = self.vocab_size - 1 + extra_ids
        super().__init__(
            added={
                last - i: AddedToken(f"<extra_id_{i}>", lstrip=True, rstrip=True, special=True, normalized=False)
                for i in range(sentinels)
            },
            eos_token=special_token(eos_token),
            unk_token=special_token(unk_token),
            pad_token=special_token(pad_token),
            extra_ids=extra_ids,
            additional_special_tokens=additional_special_tokens,
            sp_model_kwargs=self.sp_model_kwargs,
            legacy=self.legacy,
            add_prefix_space=add_prefix_space,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        """Number of pieces of the SentencePiece model."""
        return self.sp_model.get_piece_size()

    def tokenize(self, text: str, split_special_tokens: bool | None = None, **kwargs: Any) -> list[str]:
        """The tokens of a text; with `split_special_tokens`, added tokens in it are read as plain text."""
        if self.legacy or not text:
            return super().tokenize(text, split_special_tokens, **kwargs)
        text = text.replace(WORD_START, " ")
        if self.add_prefix_space:
            text = WORD_START + text
        tokens = super().tokenize(text, split_special_tokens, **kwargs)
        if len(tokens) > 1 and tokens[0] == WORD_START and tokens[1] in self._special_token_set:
            return tokens[1:]
        return tokens

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that tokens stand for; special tokens are written out."""
        if tokens and tokens[0].startswith(WORD_START) and self.add_prefix_space:
            tokens = [tokens[0][1:], *tokens[1:]]
        text = ""
        pending: list[str] = []
        after_special = False
        for token in tokens:
            if token in self._special_token_set:
                text += ("" if after_special else " ") + self.sp_model.decode(pending) + token
                pending = []
                after_special = True
            else:
                pending.append(token)
                after_special = False
        return (text + self.sp_model.decode(pending)).strip()

    def save_vocabulary(self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None) -> tuple[str]:
        """Write the SentencePiece model into a folder; returns its path. The loaded model is written: the file that it
        came from may be gone."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory, prefix + self.vocab_files_names["vocab_file"])
        path.write_bytes(self._model_bytes)
        return (str(path),)

    def _tokenize(self, text: str) -> list[str]:
        if self.legacy or not text.startswith((WORD_START, " ")):
            return self.sp_model.encode(text, out_type=str)
        # Without a dummy prefix the library drops leading spaces. Text before them keeps them, and is then taken away.
        pieces = self.sp_model.encode(self.unk_token + text, out_type=str)
        covered = 0
        while pieces and covered < self._unk_length:
            covered += len(pieces.pop(0))
        return pieces

    def _piece_ids(self, tokens: list[str]) -> list[int]:
        return self.sp_model.piece_to_id(tokens)

    def _piece(self, token_id: int) -> str:
        if not 0 <= token_id < len(self._pieces):
            raise IndexError(f"token id {token_id} is outside the vocabulary: ids go from 0 to {len(self) - 1}.")
        return self._pieces[token_id]

    def _base_vocab(self) -> list[str]:
        return self._pieces

    @cached_property
    def _pieces(self) -> list[str]:
        return self.sp_model.id_to_piece(list(range(self.vocab_size)))

    @cached_property
    def _unk_length(self) -> int:
        """Characters of the unknown token once normalized; not its number of pieces, which sampling changes."""
        return sum(map(len, self.sp_model.encode(self.unk_token, out_type=str, enable_sampling=False)))

    def _load(self) -> sentencepiece.SentencePieceProcessor:
        model = self._model_bytes if self.legacy else self._model_bytes + NO_DUMMY_PREFIX
        processor = sentencepiece.SentencePieceProcessor(**self.sp_model_kwargs)
        try:
            processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise OSError(f"{self.vocab_file} is not a SentencePiece model: {error}") from error
        return processor

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "sp_model"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.sp_model = self._load()


def special_token(token: str | AddedToken) -> AddedToken:
    """A named special token as one of this library, where it was given as a str."""
    return AddedToken(token, special=True) if isinstance(token, str) else token
