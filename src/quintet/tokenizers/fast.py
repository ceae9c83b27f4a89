"""T5's tokenizer on the `tokenizers` library."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken, Encoding, Tokenizer

from quintet.tokenizers import files
from quintet.tokenizers.batch import BatchEncoding
from quintet.tokenizers.convert import backend_from_model_file
from quintet.tokenizers.options import EncodeOptions, PaddingStrategy
from quintet.tokenizers.pretrained import PretrainedTokenizer
from quintet.tokenizers.sentencepiece import T5Tokenizer, special_token
from quintet.tokenizers.sentinels import with_sentinels
from quintet.tokenizers.special_tokens import with_special
from quintet.tokenizers.truncation import check_room


class T5TokenizerFast(PretrainedTokenizer):
    """Tokenizer of T5, mT5 and UMT5 on the `tokenizers` library, with the reference's parameters.

    Built from `tokenizer_object`, else from `tokenizer_file` (tokenizer.json), else from `vocab_file` (spiece.model).
    `add_prefix_space` and `from_slow` ask for `vocab_file` where there is one; `legacy` and `extra_ids` matter only
    then. One instance may be used by several threads.

    Raises OSError for a missing or damaged `vocab_file`, ValueError for a damaged `tokenizer_file` or if nothing is
    given.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "spiece.model", "tokenizer_file": "tokenizer.json"}
    slow_tokenizer_class = T5Tokenizer
    is_fast = True

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        eos_token: str | AddedToken = "</s>",
        unk_token: str | AddedToken = "<unk>",
        pad_token: str | AddedToken = "<pad>",
        extra_ids: int = 100,
        additional_special_tokens: list[str | AddedToken] | None = None,
        add_prefix_space: bool | None = None,
        tokenizer_object: Tokenizer | None = None,
        from_slow: bool = False,
        added_tokens_decoder: dict[int, AddedToken] | None = None,
        **kwargs: Any,
    ) -> None:
        additional_special_tokens, _ = with_sentinels(additional_special_tokens, extra_ids)
        self.vocab_file = None if vocab_file is None else os.fspath(vocab_file)
        self._extra_ids = extra_ids
        from_model_file = self.vocab_file is not None and (from_slow or add_prefix_space is not None)
        if tokenizer_object is not None:
            self._tokenizer = copy.deepcopy(tokenizer_object)
        elif tokenizer_file is not None and not from_model_file:
            self._tokenizer = _read_tokenizer_file(tokenizer_file)
        elif self.vocab_file is not None:
            # The reference takes "not given" as False here, and gives other ids than its T5Tokenizer does.
            add_prefix_space = True if add_prefix_space is None else add_prefix_space
            kwargs["legacy"] = kwargs.get("legacy") is not False
            kwargs.setdefault("sp_model_kwargs", {})
            eos_token, unk_token, pad_token = map(special_token, (eos_token, unk_token, pad_token))
            self._tokenizer = backend_from_model_file(
                self.vocab_file,
                eos_token=str(eos_token),
                extra_ids=extra_ids,
                add_prefix_space=add_prefix_space,
                legacy=kwargs["legacy"],
            )
        else:
            raise ValueError("T5TokenizerFast needs a vocab_file (spiece.model) or a tokenizer_file (tokenizer.json).")
        self.add_prefix_space = add_prefix_space
        self._lock = threading.RLock()
        super().__init__(
            vocab_file=self.vocab_file,
            eos_token=eos_token,
            unk_token=unk_token,
            pad_token=pad_token,
            extra_ids=extra_ids,
            additional_special_tokens=additional_special_tokens,
            add_prefix_space=add_prefix_space,
            **{**self._taken_from_backend(), **kwargs},
        )
        self._add_known_tokens(added_tokens_decoder or {})

    def _taken_from_backend(self) -> dict[str, Any]:
        """Settings that a tokenizer.json may carry; padding and truncation themselves are set for each call."""
        truncation, padding = self._tokenizer.truncation, self._tokenizer.padding
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        settings = {}
        if truncation is not None:
            settings["truncation_side"] = truncation["direction"]
        if padding is not None:
            settings["padding_side"] = padding["direction"]
        return settings

    def _add_known_tokens(self, added_tokens_decoder: dict[int, AddedToken]) -> None:
        """Add tokens of a saved tokenizer, in the order of their ids, then special tokens that are still missing."""
        present = {repr(token) for token in self.added_tokens_decoder.values()}
        saved = [token for _, token in sorted(added_tokens_decoder.items()) if repr(token) not in present]
        known = {*self.added_tokens_encoder, *map(str, saved)}
        special = [
            token for token in self.all_special_tokens_extended if isinstance(token, AddedToken) or token not in known
        ]
        names = self._special_token_set
        for token in [*saved, *special]:
            is_special = str(token) in names or getattr(token, "special", False)
            new = AddedToken(token, special=is_special) if isinstance(token, str) else with_special(token, is_special)
            self._tokenizer.add_tokens([new])
        self._forget()

    # Text to ids -------------------------------------------------------------------------------------------------

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """The tokens of a text or a pair; further options as in `__call__`."""
        return self.encode_plus(text, pair, add_special_tokens=add_special_tokens, **kwargs).tokens()

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token, or the ids of several; the unknown token's where there is none. None stays None."""
        if tokens is None:
            return None
        if isinstance(tokens, str):
            token_id = self._tokenizer.token_to_id(tokens)
            if token_id is None and tokens != self.unk_token:
                return self.unk_token_id
            return token_id
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def _encode_one(self, text: Any, text_pair: Any, how: EncodeOptions) -> BatchEncoding:
        # An empty second text counts as none, as in the reference.
        encoded = self._encode_batch([(text, text_pair)] if text_pair else [text], how)
        if how.return_tensors is not None or how.return_overflowing_tokens:
            return encoded
        first = {key: value[0] if isinstance(value[0], list) else value for key, value in encoded.items()}
        return BatchEncoding(first, encoded.encodings)

    def _encode_batch(self, batch: Sequence[Any], how: EncodeOptions) -> BatchEncoding:
        if not isinstance(batch, (list, tuple)):
            raise TypeError(f"a batch must be a list or a tuple, got {type(batch).__name__}.")
        with self._configured(batch, how) as backend:
            try:
                encodings = backend.encode_batch(
                    batch, add_special_tokens=how.add_special_tokens, is_pretokenized=how.is_split_into_words
                )
            except BaseException as error:
                if not _is_refusal(error):
                    raise
                raise ValueError(_cannot_encode(batch, how, error)) from error
        if not how.return_overflowing_tokens:
            return BatchEncoding(_columns(encodings, how), encodings, tensor_type=how.return_tensors)
        rows = [(i, part) for i, encoding in enumerate(encodings) for part in (encoding, *encoding.overflowing)]
        parts = [part for _, part in rows]
        columns = {**_columns(parts, how), "overflow_to_sample_mapping": [i for i, _ in rows]}
        return BatchEncoding(columns, parts, tensor_type=how.return_tensors)

    @contextmanager
    def _configured(self, batch: Sequence[Any], how: EncodeOptions) -> Iterator[Tokenizer]:
        """The backend set to pad and truncate for this call, then reset, so that nothing leaks into saved files.

        The lock is held meanwhile: the backend's settings belong to all threads.
        """
        with self._lock:
            self._tokenizer.encode_special_tokens = how.split_special_tokens
            try:
                if how.truncates and how.max_length is not None:
                    self._enable_truncation(batch, how)
                if how.pads:
                    self._enable_padding(how)
                yield self._tokenizer
            finally:
                self._tokenizer.no_truncation()
                self._tokenizer.no_padding()

    def _enable_truncation(self, batch: Sequence[Any], how: EncodeOptions) -> None:
        assert how.max_length is not None
        if how.add_special_tokens:
            pairs = any(isinstance(item, tuple) for item in batch[:1])
            check_room(how.max_length, self.num_special_tokens_to_add(pair=pairs))
        self._tokenizer.enable_truncation(
            how.max_length, stride=how.stride, strategy=how.truncation.value, direction=self.truncation_side
        )

    def _enable_padding(self, how: EncodeOptions) -> None:
        self._tokenizer.enable_padding(
            direction=how.padding_side.value,
            pad_id=self.pad_token_id,
            pad_type_id=self.pad_token_type_id,
            pad_token=self.pad_token,
            length=how.max_length if how.padding is PaddingStrategy.MAX_LENGTH else None,
            pad_to_multiple_of=how.pad_to_multiple_of,
        )

    def _refuse_unknown(self, kwargs: dict[str, Any]) -> None:
        raise TypeError(f"{type(self).__name__} does not know these arguments: {', '.join(sorted(kwargs))}.")

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens encoding a text, or a pair, adds."""
        return self._tokenizer.num_special_tokens_to_add(pair)

    # Ids to text -------------------------------------------------------------------------------------------------

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of several; None for an id outside the vocabulary."""
        if isinstance(ids, int):
            return self._tokenizer.id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._tokenizer.id_to_token(int(i)) for i in ids if int(i) not in skipped]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that tokens stand for."""
        return self._tokenizer.decoder.decode(tokens)

    def _decode_rows(self, rows: list[list[int]], skip_special_tokens: bool, **_: Any) -> list[str]:
        with self._lock:
            try:
                return self._tokenizer.decode_batch(rows, skip_special_tokens=skip_special_tokens)
            except OverflowError as error:
                raise OverflowError(
                    "a token id is negative or too large: put the padding id in place of -100 before decoding labels."
                ) from error

    # The vocabulary ----------------------------------------------------------------------------------------------

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The `tokenizers` object that does the work."""
        return self._tokenizer

    @property
    def decoder(self) -> Any:
        """The backend's decoder."""
        return self._tokenizer.decoder

    @property
    def vocab_size(self) -> int:
        """Number of tokens of the backend's vocabulary, without those added after it."""
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens matched whole in texts, by id."""
        return self._tokenizer.get_added_tokens_decoder()

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id, added ones included."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @property
    def vocab(self) -> dict[str, int]:
        """Same as `get_vocab()`."""
        return self.get_vocab()

    def _as_special(self, token: str | AddedToken) -> AddedToken:
        """An AddedToken is left to the backend, which stops normalizing one that did not ask for it."""
        return super()._as_special(token) if isinstance(token, str) else token

    def _add_tokens(self, tokens: list[Any], special_tokens: bool) -> int:
        add = self._tokenizer.add_special_tokens if special_tokens else self._tokenizer.add_tokens
        return add(tokens)

    # Files -------------------------------------------------------------------------------------------------------

    @property
    def can_save_slow_tokenizer(self) -> bool:
        """Whether the spiece.model that T5Tokenizer needs is at hand."""
        return self.vocab_file is not None and os.path.isfile(self.vocab_file)

    def save_vocabulary(self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None) -> tuple[str]:
        """Copy spiece.model into a folder; returns its path. Raises ValueError if it is not at hand."""
        if self.vocab_file is None or not self.can_save_slow_tokenizer:
            raise ValueError("This tokenizer was loaded without spiece.model, so it cannot be saved.")
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory, prefix + self.vocab_files_names["vocab_file"])
        path.write_bytes(Path(self.vocab_file).read_bytes())
        return (str(path),)

    def _write_vocabulary(self, folder: Path, prefix: str, legacy_format: bool | None) -> list[str]:
        names: list[str] = []
        if legacy_format is not False and self.can_save_slow_tokenizer:
            names += super()._write_vocabulary(folder, prefix, legacy_format)
        if not legacy_format:
            self._tokenizer.save(str(folder / (prefix + files.TOKENIZER_FILE)))
            names.append(prefix + files.TOKENIZER_FILE)
        return names

    def _saved_class_name(self) -> str:
        name = type(self).__name__
        return name.removesuffix("Fast") if self.can_save_slow_tokenizer else name

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()


def _columns(encodings: Sequence[Encoding], how: EncodeOptions) -> dict[str, list[Any]]:
    """What was asked for of each encoding, one list for each key."""
    columns = {"input_ids": [encoding.ids for encoding in encodings]}
    if how.return_token_type_ids:
        columns["token_type_ids"] = [encoding.type_ids for encoding in encodings]
    if how.return_attention_mask:
        columns["attention_mask"] = [encoding.attention_mask for encoding in encodings]
    if how.return_special_tokens_mask:
        columns["special_tokens_mask"] = [encoding.special_tokens_mask for encoding in encodings]
    if how.return_offsets_mapping:
        columns["offset_mapping"] = [encoding.offsets for encoding in encodings]
    if how.return_length:
        columns["length"] = [len(encoding) for encoding in encodings]
    return columns


def _read_tokenizer_file(path: str | os.PathLike[str]) -> Tokenizer:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no tokenizer file {os.fspath(path)}.")
    try:
        return Tokenizer.from_file(os.fspath(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{os.fspath(path)} is not a valid tokenizer.json: {error}") from error


def _is_refusal(error: BaseException) -> bool:
    """Whether the library refused an input.

    It raises TypeError for what is not text, plain Exception where it cannot truncate, and a panic, which is no
    Exception, for a text that truncation leaves shorter than the stride.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _cannot_encode(batch: Sequence[Any], how: EncodeOptions, error: BaseException) -> str:
    for index, item in enumerate(batch):
        parts = item if isinstance(item, (list, tuple)) else [item]
        wrong = next((part for part in parts if not isinstance(part, (str, list, tuple))), None)
        if wrong is not None or item is None:
            return f"item {index} is not text: {item!r:.60} of type {type(item).__name__}. A text must be a str."
    settings = f"truncation={how.truncation.value!r}, max_length={how.max_length}, stride={how.stride}"
    return f"cannot encode with {settings}: {error}"
