"""The surface that every tokenizer of the family shares: calling, padding, decoding, the format of model inputs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

from tokenizers import AddedToken

from quintet.tokenizers import options as door
from quintet.tokenizers.batch import BatchEncoding
from quintet.tokenizers.options import EncodeOptions, PaddingStrategy, Side, TruncationStrategy
from quintet.tokenizers.padding import Padder, gather
from quintet.tokenizers.sentinels import sentinels_among
from quintet.tokenizers.special_tokens import SpecialTokens
from quintet.tokenizers.tensors import is_tensor, tensor_type_of, to_python
from quintet.tokenizers.truncation import check_room, truncate

logger = logging.getLogger(__name__)

Text: TypeAlias = "str | Sequence[str]"
Texts: TypeAlias = "Text | Sequence[Text]"
Ids: TypeAlias = "list[int]"

_NOT_TEXT = (
    "{name} must be a str, a list of str, or a list of lists of str (words, with is_split_into_words=True), got {got}."
)


class TokenizerBase(SpecialTokens):
    """A tokenizer of the T5 family: a text becomes `ids </s>`, a pair `ids </s> pair_ids </s>`.

    Subclasses say how one text or a batch is encoded and how rows of ids are decoded. Keyword arguments that a class
    does not know are kept in `init_kwargs` and saved with the tokenizer, as the reference does.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {}
    model_input_names: list[str] = ["input_ids", "attention_mask"]  # noqa: RUF012 (a default, replaced by instances)
    pad_token_type_id = 0
    is_fast = False

    def __init__(self, **kwargs: Any) -> None:
        for name in kwargs:
            if callable(getattr(type(self), name, None)):
                raise AttributeError(f"{name!r} is a method of {type(self).__name__}.")
        self.init_inputs: tuple[Any, ...] = ()
        self.init_kwargs: dict[str, Any] = copy.deepcopy(kwargs)
        self.name_or_path = kwargs.get("name_or_path", "")
        limit = kwargs.get("model_max_length", kwargs.get("max_len"))
        self.model_max_length: int = door.NO_MAX_LENGTH if limit is None else limit
        self.padding_side = Side.parse(kwargs.get("padding_side", "right"), "padding_side").value
        self.truncation_side = Side.parse(kwargs.get("truncation_side", "right"), "truncation_side").value
        self.model_input_names = list(kwargs.get("model_input_names", type(self).model_input_names))
        self.clean_up_tokenization_spaces: bool = kwargs.get("clean_up_tokenization_spaces", False)
        self.split_special_tokens: bool = kwargs.get("split_special_tokens", False)
        super().__init__(kwargs, kwargs.get("extra_special_tokens") or {})

    # What subclasses provide -------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of tokens without the added ones."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens matched whole in texts, by id."""
        raise NotImplementedError

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id."""
        raise NotImplementedError

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """The tokens of a text."""
        raise NotImplementedError

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that tokens stand for."""
        raise NotImplementedError

    def _encode_one(self, text: Any, text_pair: Any, how: EncodeOptions) -> BatchEncoding:
        raise NotImplementedError

    def _encode_batch(self, batch: Sequence[Any], how: EncodeOptions) -> BatchEncoding:
        raise NotImplementedError

    def _decode_rows(self, rows: list[Ids], skip_special_tokens: bool, **kwargs: Any) -> list[str]:
        raise NotImplementedError

    def _refuse_unknown(self, kwargs: dict[str, Any]) -> None:
        raise NotImplementedError

    # Encoding ----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: Texts | None = None,
        text_pair: Texts | None = None,
        text_target: Texts | None = None,
        text_pair_target: Texts | None = None,
        add_special_tokens: bool = True,
        padding: bool | str | PaddingStrategy = False,
        truncation: bool | str | TruncationStrategy | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        **options: Any,
    ) -> BatchEncoding:
        """Model inputs for a text, a pair, or a batch of either; for targets too, whose ids become "labels".

        `options` are pad_to_multiple_of, padding_side, return_tensors ("pt" or "np"), return_token_type_ids,
        return_attention_mask, return_overflowing_tokens, return_special_tokens_mask, return_offsets_mapping (fast
        tokenizers), return_length and split_special_tokens, with the reference's meaning. Raises ValueError for
        anything that is not text and for unknown strategies, NotImplementedError for offsets from a tokenizer without.
        """
        options.update(
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            is_split_into_words=is_split_into_words,
        )
        how = self._options(**options)
        if text is None and text_target is None:
            raise ValueError("Either text or text_target must be given.")
        if text is None:
            return self._encode_any("text_target", text_target, text_pair_target, how)
        encoded = self._encode_any("text", text, text_pair, how)
        if text_target is not None:
            encoded["labels"] = self._encode_any("text_target", text_target, text_pair_target, how)["input_ids"]
        return encoded

    def encode(
        self,
        text: Text | Ids,
        text_pair: Text | Ids | None = None,
        add_special_tokens: bool = True,
        padding: bool | str | PaddingStrategy = False,
        truncation: bool | str | TruncationStrategy | None = None,
        max_length: int | None = None,
        **options: Any,
    ) -> Any:
        """The ids alone of one text or pair; further options as in `__call__`."""
        options.update(
            add_special_tokens=add_special_tokens, padding=padding, truncation=truncation, max_length=max_length
        )
        return self._encode_one(text, text_pair, self._options(**options))["input_ids"]

    def encode_plus(self, text: Text | Ids, text_pair: Text | Ids | None = None, **options: Any) -> BatchEncoding:
        """Model inputs for one text or pair; options as in `__call__`, which does the same for text."""
        return self._encode_one(text, text_pair, self._options(**options))

    def batch_encode_plus(self, batch_text_or_text_pairs: Sequence[Any], **options: Any) -> BatchEncoding:
        """Model inputs for a list of texts, or of pairs as tuples; options as in `__call__`."""
        return self._encode_batch(batch_text_or_text_pairs, self._options(**options))

    def prepare_for_model(
        self, ids: Ids, pair_ids: Ids | None = None, prepend_batch_axis: bool = False, **options: Any
    ) -> BatchEncoding:
        """Model inputs from ids: truncated, closed by special tokens, padded; options as in `__call__`."""
        how = self._options(**options)
        prepared = self._prepare(ids, pair_ids, how)
        if how.pads or how.return_attention_mask:
            prepared = self._padder(how).pad_one(prepared)
        if how.return_length:
            prepared["length"] = len(prepared[self.model_input_names[0]])
        return BatchEncoding(prepared, tensor_type=how.return_tensors, prepend_batch_axis=prepend_batch_axis)

    def _encode_any(self, name: str, text: Any, text_pair: Any, how: EncodeOptions) -> BatchEncoding:
        for argument, value in ((name, text), (f"{name}'s pair", text_pair)):
            if value is not None and not _looks_like_text(value):
                raise ValueError(_NOT_TEXT.format(name=argument, got=_describe(value)))
        is_list = isinstance(text, (list, tuple))
        is_batch = bool(text) and isinstance(text[0], (list, tuple)) if is_list and how.is_split_into_words else is_list
        if not is_batch:
            return self._encode_one(text, text_pair, how)
        if not text:
            raise ValueError(f"{name} is an empty batch: there is nothing to encode.")
        if text_pair is None:
            return self._encode_batch(text, how)
        if isinstance(text_pair, str) or len(text_pair) != len(text):
            given = "one str" if isinstance(text_pair, str) else f"{len(text_pair)}"
            raise ValueError(f"a batch of {len(text)} texts needs as many pairs, got {given}.")
        return self._encode_batch(list(zip(text, text_pair, strict=True)), how)

    def _options(
        self,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        padding_side: Any = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        split_special_tokens: bool | None = None,
        **others: Any,
    ) -> EncodeOptions:
        fields = EncodeOptions.__dataclass_fields__
        unknown = {name: others.pop(name) for name in others.keys() - fields.keys()}
        if unknown:
            self._refuse_unknown(unknown)
        pad, cut, max_length = door.resolve_strategies(
            padding, truncation, max_length, others.get("pad_to_multiple_of"), self.model_max_length
        )
        if pad is not PaddingStrategy.DO_NOT_PAD:
            self._check_pad_token()
        names = self.model_input_names
        return EncodeOptions(
            padding=pad,
            truncation=cut,
            max_length=max_length,
            padding_side=Side.parse(padding_side or self.padding_side, "padding_side"),
            return_tensors=door.parse_tensor_type(return_tensors),
            return_token_type_ids=_default(return_token_type_ids, "token_type_ids" in names),
            return_attention_mask=_default(return_attention_mask, "attention_mask" in names),
            split_special_tokens=_default(split_special_tokens, self.split_special_tokens),
            **others,
        )

    def _prepare(self, ids: Ids, pair_ids: Ids | None, how: EncodeOptions) -> dict[str, Any]:
        """Truncate and close one example, without padding."""
        if how.return_token_type_ids and not how.add_special_tokens:
            raise ValueError("return_token_type_ids=True needs add_special_tokens=True.")
        longest_first = how.truncation is TruncationStrategy.LONGEST_FIRST
        if how.return_overflowing_tokens and longest_first and pair_ids is not None:
            raise ValueError(
                "Overflowing tokens of a pair need truncation='only_first' or 'only_second': 'longest_first' has none."
            )
        prepared: dict[str, Any] = {}
        special = self.num_special_tokens_to_add(pair_ids is not None) if how.add_special_tokens else 0
        length = len(ids) + len(pair_ids or ()) + special
        overflow: Ids = []
        if how.truncates and how.max_length is not None:
            check_room(how.max_length, special)
            side = Side.parse(self.truncation_side, "truncation_side")
            excess = length - how.max_length
            ids, pair_ids, overflow = truncate(ids, pair_ids, excess, how.truncation, how.stride, side)
        if how.return_overflowing_tokens:
            prepared["overflowing_tokens"] = overflow
            prepared["num_truncated_tokens"] = 0 if how.max_length is None else length - how.max_length
        if how.add_special_tokens:
            closed = self.build_inputs_with_special_tokens(ids, pair_ids)
        else:
            closed = [*ids, *(pair_ids or ())]
        prepared[self.model_input_names[0]] = closed
        if how.return_token_type_ids:
            prepared["token_type_ids"] = self.create_token_type_ids_from_sequences(ids, pair_ids)
        if how.return_special_tokens_mask:
            mask = self.get_special_tokens_mask(ids, pair_ids) if how.add_special_tokens else [0] * len(closed)
            prepared["special_tokens_mask"] = mask
        return prepared

    # Special tokens in model inputs -------------------------------------------------------------------------------

    def build_inputs_with_special_tokens(self, token_ids_0: Ids, token_ids_1: Ids | None = None) -> Ids:
        """`ids </s>`, or `ids </s> pair_ids </s>`."""
        return self._close(token_ids_0) + ([] if token_ids_1 is None else self._close(token_ids_1))

    def create_token_type_ids_from_sequences(self, token_ids_0: Ids, token_ids_1: Ids | None = None) -> Ids:
        """Zeros: T5 has no token types. As many as `build_inputs_with_special_tokens` gives ids."""
        return [0] * len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1))

    def get_special_tokens_mask(
        self, token_ids_0: Ids, token_ids_1: Ids | None = None, already_has_special_tokens: bool = False
    ) -> Ids:
        """1 for special tokens, else 0.

        For ids as they come from a text, the mask fits what `build_inputs_with_special_tokens` makes of them and
        marks the closing tokens; with `already_has_special_tokens`, every special token among the ids.
        """
        if not already_has_special_tokens:
            parts = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
            return [bit for ids in parts for bit in [0] * (len(self._close(ids)) - 1) + [1]]
        if token_ids_1 is not None:
            raise ValueError("ids that already have special tokens are one sequence: give no second one.")
        special = set(self.all_special_ids)
        return [int(token_id in special) for token_id in token_ids_0]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens encoding a text, or a pair, adds."""
        return len(self.build_inputs_with_special_tokens([], [] if pair else None))

    def get_sentinel_tokens(self) -> list[str]:
        """The sentinels `<extra_id_0>`, `<extra_id_1>`, ... in this order.

        The reference returns every additional special token, in an order that changes from run to run.
        """
        return sentinels_among(self.additional_special_tokens)

    def get_sentinel_token_ids(self) -> Ids:
        """Ids of `get_sentinel_tokens`."""
        return self.convert_tokens_to_ids(self.get_sentinel_tokens())

    @property
    def max_len_single_sentence(self) -> int:
        """Tokens of a text that fit into the model."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """Tokens of a pair that fit into the model."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def _close(self, ids: Ids) -> Ids:
        return [*ids, self.eos_token_id]

    # Padding -----------------------------------------------------------------------------------------------------

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad what was encoded before: a dictionary of one example or of a batch, or a list of dictionaries.

        Values may be lists, arrays or tensors; the result is of the same kind unless `return_tensors` says otherwise.
        The input is left as it is. input_ids, attention_mask, token_type_ids and special_tokens_mask are padded;
        other keys pass through. Raises ValueError without input_ids, or without a padding token.
        """
        main_key = self.model_input_names[0]
        features = gather(encoded_inputs, main_key)
        how = self._options(
            padding=padding,
            truncation=False,
            max_length=None if padding is True else max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )
        if features[main_key] is None or len(features[main_key]) == 0:
            if return_attention_mask:
                features["attention_mask"] = []
            return BatchEncoding(features, tensor_type=how.return_tensors)
        tensor_type = how.return_tensors
        given = tensor_type_of(features[main_key])
        if given is not None or any(is_tensor(value) for value in features.values()):
            features = to_python(features)
            tensor_type = tensor_type or given
        padder = self._padder(how)
        is_batch = isinstance(features[main_key][0], (list, tuple))
        padded = padder.pad_batch(features) if is_batch else padder.pad_one(features)
        return BatchEncoding(padded, tensor_type=tensor_type)

    def _padder(self, how: EncodeOptions) -> Padder:
        main_key = self.model_input_names[0]
        fill = {main_key: self.pad_token_id, "attention_mask": 0, "token_type_ids": self.pad_token_type_id}
        return Padder(
            strategy=how.padding,
            max_length=how.max_length,
            multiple_of=how.pad_to_multiple_of,
            side=how.padding_side,
            main_key=main_key,
            fill={**fill, "special_tokens_mask": 1},
            adds_mask=how.return_attention_mask,
        )

    def _check_pad_token(self) -> None:
        if self.pad_token is None:
            raise ValueError(
                "Padding needs a padding token and this tokenizer has none: set tokenizer.pad_token, for example to "
                "tokenizer.eos_token, or add one by tokenizer.add_special_tokens({'pad_token': '<pad>'})."
            )

    # Decoding ----------------------------------------------------------------------------------------------------

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        """The text of ids given as an int, a list, an array or a tensor."""
        return self.batch_decode([token_ids], skip_special_tokens, clean_up_tokenization_spaces, **kwargs)[0]

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """The texts of several rows of ids; of a flat list, the text of each id.

        `clean_up_tokenization_spaces` removes the spaces before English punctuation; None means as the tokenizer's
        attribute of that name says.
        """
        rows = [row if isinstance(row, list) else [row] for row in to_python(sequences)]
        texts = self._decode_rows(rows, skip_special_tokens, **kwargs)
        if _default(clean_up_tokenization_spaces, self.clean_up_tokenization_spaces):
            return [self.clean_up_tokenization(text) for text in texts]
        return texts

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """`out_string` without the spaces that some English tokenizations put before punctuation and contractions."""
        for ending in (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"):
            out_string = out_string.replace(ending, ending.strip())
        return out_string

    # The vocabulary ----------------------------------------------------------------------------------------------

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The ids of the tokens matched whole in texts, in the order of ids."""
        return {token.content: token_id for token_id, token in sorted(self.added_tokens_decoder.items())}

    def get_added_vocab(self) -> dict[str, int]:
        """Same as `added_tokens_encoder`."""
        return self.added_tokens_encoder

    def __repr__(self) -> str:
        added = "".join(f"\t{token_id}: {token!r},\n" for token_id, token in self.added_tokens_decoder.items())
        return (
            f"{type(self).__name__}(name_or_path={str(self.name_or_path)!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, is_fast={self.is_fast}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map}, "
            f"clean_up_tokenization_spaces={self.clean_up_tokenization_spaces}, "
            f"added_tokens_decoder={{\n{added}}})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be derived again, so that equal tokenizers pickle alike: caches of datasets rely on it."""
        self._forget()
        return self.__dict__.copy()


def _default(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def _looks_like_text(value: Any) -> bool:
    """A str, or a list or tuple that starts like one of str or of lists of str: later items are seen when encoded."""
    if isinstance(value, str):
        return True
    if not isinstance(value, (list, tuple)):
        return False
    if not value or isinstance(value[0], str):
        return True
    return isinstance(value[0], (list, tuple)) and (not value[0] or isinstance(value[0][0], str))


def _describe(value: Any) -> str:
    if isinstance(value, (list, tuple)) and value:
        return f"a {type(value).__name__} of {type(value[0]).__name__}: {value!r:.60}"
    return f"{type(value).__name__}: {value!r:.60}"
