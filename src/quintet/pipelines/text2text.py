"""Text to text: the model's own task, and summarization and translation as instances of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

RESULT_KEYS = {
    "text2text-generation": "generated_text",
    "summarization": "summary_text",
    "translation": "translation_text",
}
TASKS = tuple(RESULT_KEYS)
DEFAULT_MAX_NEW_TOKENS = 256  # the reference's; a generation configuration's 20 cuts most answers


def is_translation(task: str) -> bool:
    """Whether a task names a pair of languages, as "translation_en_to_fr" does."""
    return re.fullmatch(r"translation_[a-zA-Z]+_to_[a-zA-Z]+", task) is not None


class Text2TextGenerationPipeline:
    """Tokenizes, generates greedily, and decodes."""

    def __init__(self, task: str, model: Any, tokenizer: Any, batch_size: int = 1) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        self.task = task
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        specific = (model.config.task_specific_params or {}).get(task, {})
        self.prefix: str = specific.get("prefix") or ""
        self._result_key = RESULT_KEYS["translation" if is_translation(task) else task]

    def __call__(self, inputs: str | Sequence[str], **generate_kwargs: Any) -> list[dict[str, str]]:
        """One result per text, in order: a list of {"generated_text": ...} (for summaries and translations, their key).

        Keywords are those of `generate`. Raises ValueError for something that is no text.
        """
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"the input must be a text or a list of texts, got {type(text).__name__}")
        return [{self._result_key: result} for result in self.stream(texts, **generate_kwargs)]

    def stream(self, texts: Sequence[str], **generate_kwargs: Any) -> Iterator[str]:
        """The results one after the other, each batch as soon as it is done."""
        if not {"max_new_tokens", "max_length"} & generate_kwargs.keys():
            generate_kwargs["max_new_tokens"] = DEFAULT_MAX_NEW_TOKENS
        for start in range(0, len(texts), self.batch_size):
            chunk = [self.prefix + text for text in texts[start : start + self.batch_size]]
            batch = self.tokenizer(chunk, padding=len(chunk) > 1, return_tensors="pt").to(self.model.device)
            ids = self.model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **generate_kwargs)
            yield from self.tokenizer.batch_decode(ids, skip_special_tokens=True)
