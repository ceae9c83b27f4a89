"""Classification of tokens: named entities, parts of speech."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from quintet.model.task_heads import T5ForTokenClassification
from quintet.pipelines.base import Piece, Pipeline, check_choice, is_stream
from quintet.pipelines.entities import STRATEGIES, WHOLE_WORDS, Token, entities_of, without_overlap
from quintet.tokenizers.options import NO_MAX_LENGTH


@dataclass
class Options:
    """The options of a call."""

    strategy: str
    ignore_labels: list[str]
    stride: int | None
    is_split_into_words: bool
    delimiter: str


@dataclass
class Chunk:
    """What is known of the tokens of a piece: where they are in the sentence, and which of them are special."""

    sentence: str
    offsets: list[tuple[int, int]] | None
    special: list[int]


class TokenClassificationPipeline(Pipeline):
    """Labels the tokens of texts, and groups them into entities.

    The result of a text is a list of entities: of each token, {"entity", "score", "index", "word", "start", "end"}, or,
    with an aggregation_strategy, of neighbours with one label, {"entity_group", "score", "word", "start", "end"}. start
    and end are characters of the text, None from tokenizers that know no offsets.

    aggregation_strategy is "none"; "simple" (tokens of one label, where "B-" begins a new entity); or, so that words
    are not torn, "first", "average" or "max": the label of a word's first token, of its mean scores, or of its surest
    token. These need a fast tokenizer. ignore_labels are left out, ["O"] by default. Texts are cut at the tokenizer's
    model_max_length; with stride they are read in chunks that share so many tokens. is_split_into_words takes lists of
    words, joined by delimiter (a space) for the offsets. grouped_entities and ignore_subwords are deprecated, like in
    the reference.
    """

    default_task = "token-classification"
    head = T5ForTokenClassification

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """The results; options are the class's, and those of `Pipeline.__call__`. Raises ValueError for no input."""
        if not is_stream(inputs) and not (isinstance(inputs, str) or inputs):
            raise ValueError("at least one text is needed")
        in_words = {**self._defaults, **options}.get("is_split_into_words", False)
        if in_words and not is_stream(inputs) and not all(isinstance(item, list) for item in inputs):
            inputs = [inputs]
        return super().__call__(inputs, **options)

    def parse(
        self,
        *,
        aggregation_strategy: Any = "none",
        ignore_labels: list[str] | None = None,
        stride: int | None = None,
        is_split_into_words: bool = False,
        delimiter: str | None = None,
        grouped_entities: bool | None = None,
        ignore_subwords: bool | None = None,
    ) -> Options:
        """See the class. Raises ValueError for an unknown strategy, or what the tokenizer cannot do."""
        if grouped_entities is not None or ignore_subwords is not None:
            aggregation_strategy = "none" if not grouped_entities else "first" if ignore_subwords else "simple"
            warnings.warn(
                "grouped_entities and ignore_subwords are deprecated: use "
                f"aggregation_strategy={aggregation_strategy!r}",
                stacklevel=4,
            )
        strategy = check_choice("aggregation_strategy", aggregation_strategy, STRATEGIES)
        fast = self.tokenizer.is_fast
        if strategy in WHOLE_WORDS and not fast:
            raise ValueError(f"aggregation_strategy={strategy!r} needs a fast tokenizer: others know no words")
        if is_split_into_words and not fast:
            raise ValueError("is_split_into_words=True needs a fast tokenizer")
        if stride is not None:
            self._check_stride(stride, strategy)
        ignored = ["O"] if ignore_labels is None else ignore_labels
        return Options(strategy, ignored, stride, bool(is_split_into_words), " " if delimiter is None else delimiter)

    def prepare(self, item: Any, options: Options) -> list[Piece]:
        """One piece, or with a stride as many as the text needs."""
        if options.is_split_into_words:
            if not isinstance(item, list) or not all(isinstance(word, str) for word in item):
                raise ValueError("with is_split_into_words=True, a text is a list of words")
        elif not isinstance(item, str):
            raise ValueError(f"the input must be a text or a list of texts, got {type(item).__name__}")
        chunks = {} if options.stride is None else {"return_overflowing_tokens": True, "stride": options.stride}
        encoded = self.tokenizer(
            [item],
            truncation=self.tokenizer.model_max_length < NO_MAX_LENGTH,
            is_split_into_words=options.is_split_into_words,
            return_special_tokens_mask=True,
            return_offsets_mapping=self.tokenizer.is_fast,
            **chunks,
        )
        sentence = options.delimiter.join(item) if options.is_split_into_words else item
        pieces = []
        for row, ids in enumerate(encoded["input_ids"]):
            offsets = encoded["offset_mapping"][row] if self.tokenizer.is_fast else None
            if offsets is not None and options.is_split_into_words:
                offsets = _in_sentence(offsets, encoded.word_ids(row), item, len(options.delimiter))
            chunk = Chunk(sentence, offsets, encoded["special_tokens_mask"][row])
            pieces.append(Piece(ids, encoded["attention_mask"][row], chunk))
        return pieces

    def compute(self, batch: list[Piece], options: Options) -> list[torch.Tensor]:
        """For each piece, the probabilities (tokens, labels)."""
        scores = self.model(**self.tensors(batch)).logits.float().softmax(dim=-1).cpu()
        return [row[: len(piece)] for row, piece in zip(scores, batch, strict=True)]

    def finish(self, item: Any, pieces: list[Piece], found: list[torch.Tensor], options: Options) -> list[Any]:
        """The entities of all chunks; where chunks overlap, the longer or surer one."""
        labels = self.model.config.id2label
        result: list[dict[str, Any]] = []
        for piece, scores in zip(pieces, found, strict=True):
            entities = entities_of(self._tokens(piece, scores), options.strategy, labels, self.tokenizer)
            result += [entity for entity in entities if _label(entity) not in options.ignore_labels]
        return without_overlap(result) if len(pieces) > 1 else result

    def _tokens(self, piece: Piece, scores: torch.Tensor) -> list[Token]:
        """The tokens that stand for text."""
        chunk: Chunk = piece.extra
        words = self.tokenizer.convert_ids_to_tokens(piece.input_ids)
        tokens = []
        for index, word in enumerate(words):
            if chunk.special[index]:
                continue
            start, end = chunk.offsets[index] if chunk.offsets is not None else (None, None)
            continues = start is not None and start > 0 and " " not in chunk.sentence[start - 1 : start + 1]
            if start is not None and piece.input_ids[index] == self.tokenizer.unk_token_id:
                word, continues = chunk.sentence[start:end], False
            tokens.append(Token(word, scores[index].numpy(), start, end, index, continues))
        return tokens

    def _check_stride(self, stride: int, strategy: str) -> None:
        if isinstance(stride, bool) or not isinstance(stride, int) or not 0 <= stride < self.tokenizer.model_max_length:
            limit = self.tokenizer.model_max_length
            raise ValueError(
                f"stride must be from 0 to less than the tokenizer's model_max_length, {limit}; got {stride!r}"
            )
        if strategy == "none":
            raise ValueError("stride needs an aggregation_strategy other than 'none'")
        if not self.tokenizer.is_fast:
            raise ValueError("stride needs a fast tokenizer")


def _label(entity: dict[str, Any]) -> str:
    return entity["entity"] if "entity" in entity else entity["entity_group"]


def _in_sentence(
    offsets: list[tuple[int, int]], word_ids: list[int | None], words: list[str], gap: int
) -> list[tuple[int, int]]:
    """Offsets within words, as offsets in the sentence that the words make."""
    starts, position = [], 0
    for word in words:
        starts.append(position)
        position += len(word) + gap
    shifts = [0 if word is None else starts[word] for word in word_ids]
    return [(start + shift, end + shift) for (start, end), shift in zip(offsets, shifts, strict=True)]
