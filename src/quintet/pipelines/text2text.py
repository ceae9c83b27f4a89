"""Text to text: the model's own task, and summarization and translation as instances of it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from quintet.generation.config import DEFAULT_MAX_LENGTH, GenerationConfig
from quintet.model.heads import T5ForConditionalGeneration
from quintet.pipelines.base import Piece, Pipeline, check_text, is_several

MAX_NEW_TOKENS = 256  # the reference's; a generation configuration's 20 cuts most answers
NUM_BEAMS = 4  # the reference's


def is_translation(task: str) -> bool:
    """Whether a task names a pair of languages, as "translation_en_to_fr" does."""
    return re.fullmatch(r"translation_[^_]+_to_[^_]+", task) is not None


@dataclass
class Options:
    """The options of a call: for the tokenizer, for decoding, for `generate`."""

    truncation: Any
    return_tensors: bool
    clean_up_tokenization_spaces: bool
    generate: dict[str, Any]


class Text2TextGenerationPipeline(Pipeline):
    """Generates a text from a text.

    A list gives a list of {"generated_text": ...}, a text a list of one. Several answers a text
    (num_return_sequences) make each result a list; so are those of a generator.

    Options of a call: truncation (the tokenizer's; none by default), return_tensors (ids instead of the text, under
    "generated_token_ids"), clean_up_tokenization_spaces, stop_sequence (its first token ends the answer), and all
    those of `generate`. What is not given comes from, in this order: the checkpoint's task_specific_params for the
    task, its generation configuration, and the reference's defaults: 4 beams, and at most 256 new tokens. A
    `generation_config` in the call replaces them all. Of task_specific_params, or else of the configuration, the
    prefix is put before each text.
    """

    default_task = "text2text-generation"
    head = T5ForConditionalGeneration
    result_name: ClassVar[str] = "generated"

    def __init__(self, model: Any, tokenizer: Any = None, **options: Any) -> None:
        super().__init__(model, tokenizer, **options)
        self.prefix = self._of_task().get("prefix", self.model.config.prefix) or ""
        if not isinstance(self.prefix, str):
            raise ValueError(f"the checkpoint's prefix for {self.task} must be a text, got {self.prefix!r}")

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """One result per text, in order; options are the class's, and those of `Pipeline.__call__`.

        Raises ValueError for something that is no text.
        """
        results = super().__call__(inputs, **options)
        if is_several(inputs) and all(result is None or len(result) == 1 for result in results):
            return [result if result is None else result[0] for result in results]
        return results

    def stream(self, texts: Iterable[str], **options: Any) -> Iterator[str]:
        """The best answer to each text, in order, each batch as soon as it is done."""
        for records in self(iter(texts), **options):
            yield records[0][f"{self.result_name}_text"]

    def parse(
        self,
        *,
        truncation: Any = False,
        return_tensors: bool = False,
        return_text: bool = True,
        clean_up_tokenization_spaces: bool = False,
        stop_sequence: str | None = None,
        **generate: Any,
    ) -> Options:
        """See the class. `return_text` is taken for the reference's sake: there, too, return_tensors decides."""
        if stop_sequence is not None:
            generate["eos_token_id"] = self._first_token(stop_sequence)
        return Options(truncation, bool(return_tensors), bool(clean_up_tokenization_spaces), self._filled(generate))

    def prepare(self, item: Any, options: Options) -> list[Piece]:
        """One piece: the text behind its prefix."""
        encoded = self.tokenizer(self.prefix + check_text(item), truncation=options.truncation)
        return [Piece(encoded["input_ids"], encoded["attention_mask"])]

    def compute(self, batch: list[Piece], options: Options) -> list[torch.Tensor]:
        """For each piece, the ids (answers, length) of its answers."""
        generated = self.model.generate(**self.tensors(batch), **options.generate)
        ids = getattr(generated, "sequences", generated).cpu()
        return list(ids.reshape(len(batch), -1, ids.shape[-1]))

    def finish(self, item: Any, pieces: list[Piece], found: list[torch.Tensor], options: Options) -> list[Any]:
        """A dictionary for each answer."""
        rows = self._without_padding(found[0])
        if options.return_tensors:
            return [{f"{self.result_name}_token_ids": row} for row in rows]
        spaces = options.clean_up_tokenization_spaces
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=spaces)
        return [{f"{self.result_name}_text": text} for text in texts]

    def _of_task(self) -> dict[str, Any]:
        return (self.model.config.task_specific_params or {}).get(self.task, {})

    def _filled(self, given: dict[str, Any]) -> dict[str, Any]:
        """The options of `generate`, with what the task, the checkpoint and the reference say where none is given."""
        if given.get("generation_config") is not None:
            return given
        own, known = self.model.generation_config, GenerationConfig.option_names()
        defaults: dict[str, Any] = {}
        if own.max_new_tokens is None and own.max_length == DEFAULT_MAX_LENGTH:
            defaults["max_new_tokens"] = MAX_NEW_TOKENS
        if own.num_beams == 1:
            defaults["num_beams"] = NUM_BEAMS
        if own.pad_token_id is None:
            defaults["pad_token_id"] = self.tokenizer.pad_token_id
        defaults |= self._of_task()
        if given.get("max_length") is not None:
            defaults["max_new_tokens"] = None  # who gives a length means that one
        return {**{name: value for name, value in defaults.items() if name in known}, **given}

    def _first_token(self, stop_sequence: str) -> int:
        ids = self.tokenizer.encode(stop_sequence, add_special_tokens=False)
        if not ids:
            raise ValueError(f"stop_sequence must be a text of at least one token, got {stop_sequence!r}")
        if len(ids) > 1:
            warnings.warn(
                f"stop_sequence={stop_sequence!r} has {len(ids)} tokens: answers end at the first of them. "
                "stop_strings (with tokenizer=...) ends them at the whole.",
                stacklevel=4,
            )
        return ids[0]

    def _without_padding(self, rows: torch.Tensor) -> torch.Tensor:
        """Answers (answers, length) cut to the longest of them, whatever the batch needed."""
        pad = self.model.generation_config.pad_token_id
        written = (rows != (self.tokenizer.pad_token_id if pad is None else pad)).any(dim=0).nonzero()
        return rows[:, : int(written[-1]) + 1] if len(written) else rows[:, :1]


class SummarizationPipeline(Text2TextGenerationPipeline):
    """`Text2TextGenerationPipeline` for summaries; the result's key is "summary_text"."""

    default_task = "summarization"
    result_name = "summary"


class TranslationPipeline(Text2TextGenerationPipeline):
    """`Text2TextGenerationPipeline` for translations; the result's key is "translation_text".

    A task "translation_en_to_fr" takes what the checkpoint's task_specific_params say of it. src_lang and tgt_lang are
    taken for the reference's sake: tokenizers of the family have no use for them.
    """

    default_task = "translation"
    result_name = "translation"

    def parse(self, *, src_lang: str | None = None, tgt_lang: str | None = None, **options: Any) -> Options:
        """See the class."""
        return super().parse(**options)
