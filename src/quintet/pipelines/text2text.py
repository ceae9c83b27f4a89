"""Text to text: the model's own task, and summarization and translation as instances of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from quintet.generation.config import DEFAULT_MAX_LENGTH

RESULT_KEYS = {
    "text2text-generation": "generated_text",
    "summarization": "summary_text",
    "translation": "translation_text",
}
TASKS = tuple(RESULT_KEYS)
DEFAULT_MAX_NEW_TOKENS = 256  # the reference's; a generation configuration's 20 cuts most answers
LENGTH_OPTIONS = {"max_new_tokens", "max_length", "generation_config"}


def is_translation(task: str) -> bool:
    """Whether a task names a pair of languages, as "translation_en_to_fr" does."""
    return re.fullmatch(r"translation_[^_]+_to_[^_]+", task) is not None


class Text2TextGenerationPipeline:
    """Tokenizes, generates greedily, and decodes.

    Of the checkpoint's task_specific_params, the task's prefix is put before each text. Without a length in the call
    or in the model's generation configuration, an answer ends after 256 tokens, as in the reference.
    """

    def __init__(self, task: str, model: Any, tokenizer: Any, batch_size: int = 1) -> None:
        self.task = task
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = _checked_size(batch_size)
        specific = (model.config.task_specific_params or {}).get(task, {})
        self.prefix: str = specific.get("prefix", model.config.prefix) or ""
        self._result_key = RESULT_KEYS["translation" if is_translation(task) else task]

    def __call__(self, inputs: str | Iterable[str], **options: Any) -> list[dict[str, str]]:
        """One result per text, in order: a list of {"generated_text": ...} (for summaries and translations, their key).

        Options are those of `stream`. Raises ValueError for something that is no text.
        """
        return [{self._result_key: result} for result in self.stream(_texts(inputs), **options)]

    def stream(
        self, texts: Sequence[str], *, batch_size: int | None = None, truncation: Any = False, **generate_kwargs: Any
    ) -> Iterator[str]:
        """The results one after the other, each batch as soon as it is done.

        batch_size replaces the pipeline's, truncation goes to the tokenizer, and all else to `generate`.
        """
        size = self.batch_size if batch_size is None else _checked_size(batch_size)
        if not LENGTH_OPTIONS & generate_kwargs.keys() and not self._model_limits_length():
            generate_kwargs["max_new_tokens"] = DEFAULT_MAX_NEW_TOKENS
        for start in range(0, len(texts), size):
            chunk = [self.prefix + text for text in texts[start : start + size]]
            batch = self.tokenizer(chunk, padding=len(chunk) > 1, truncation=truncation, return_tensors="pt")
            batch = batch.to(self.model.device)
            ids = self.model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **generate_kwargs)
            yield from self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _model_limits_length(self) -> bool:
        config = self.model.generation_config
        return config.max_new_tokens is not None or config.max_length != DEFAULT_MAX_LENGTH


def _texts(inputs: Any) -> list[str]:
    texts = list(inputs) if isinstance(inputs, Iterable) and not isinstance(inputs, (str, Mapping)) else [inputs]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"the input must be a text or a list of texts, got {type(text).__name__}")
    return texts


def _checked_size(batch_size: Any) -> int:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    return batch_size
