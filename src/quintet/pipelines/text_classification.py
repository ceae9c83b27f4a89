"""Classification of texts, and of pairs of texts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from quintet.model.task_heads import T5ForSequenceClassification
from quintet.pipelines.base import Piece, Pipeline, check_choice, check_count, check_text

FUNCTIONS = ("sigmoid", "softmax", "none")
PARTS = ("text", "text_pair")
NOT_GIVEN: Any = object()  # top_k=None has a meaning: all labels


@dataclass
class Options:
    """The options of a call: which labels to give and how, and those of the tokenizer."""

    top_k: int | None
    as_list: bool  # whether the labels of a text come as a list, and sorted
    all_scores: bool  # the older way: a list, in the order of the configuration
    function: str
    tokenizer: dict[str, Any]


class TextClassificationPipeline(Pipeline):
    """Labels texts.

    A text gives [{"label": ..., "score": ...}], a list a list of such dictionaries. With top_k, each result is a list
    of the best top_k labels, the best first; None means all.

    An input is a text, or a pair {"text": ..., "text_pair": ...}. Options: top_k; function_to_apply ("softmax",
    "sigmoid", "none") from the model's logits to scores, by default softmax over several labels, sigmoid for one or
    for several that can be true together, none for a regression (config.problem_type); return_all_scores, deprecated
    like in the reference; and those of the tokenizer (truncation=True, max_length=...). Texts with different numbers
    of end-of-sequence tokens (pairs and single texts) can be mixed: they go in different batches.
    """

    default_task = "text-classification"
    head = T5ForSequenceClassification

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """The results; options are the class's, and those of `Pipeline.__call__`."""
        result = super().__call__(inputs, **options)
        # As in the reference: the result of one text is a list, unless top_k in the call makes it one anyway.
        return [result] if isinstance(inputs, str) and "top_k" not in options else result

    def parse(
        self,
        *,
        top_k: Any = NOT_GIVEN,
        function_to_apply: Any = None,
        return_all_scores: bool | None = None,
        **tokenizer: Any,
    ) -> Options:
        """See the class."""
        if return_all_scores is None:
            return_all_scores = getattr(self.model.config, "return_all_scores", None)
        if top_k is not NOT_GIVEN:
            return_all_scores = None
        if return_all_scores is not None:
            warnings.warn(
                "return_all_scores is deprecated: use top_k=None for all scores, top_k=1 for one", stacklevel=4
            )
        function = self._usual_function()
        if function_to_apply not in (None, "default"):
            function = check_choice("function_to_apply", function_to_apply, FUNCTIONS)
        count = None if top_k is NOT_GIVEN or top_k is None else check_count("top_k", top_k)
        return Options(count, top_k is not NOT_GIVEN, bool(return_all_scores), function, tokenizer)

    def prepare(self, item: Any, options: Options) -> list[Piece]:
        """One piece; its group is the number of end-of-sequence tokens, which the head wants equal in a batch."""
        text, pair = _parts(item)
        encoded = self.tokenizer(text, pair, **options.tokenizer)
        ids = encoded["input_ids"]
        return [Piece(ids, encoded["attention_mask"], group=ids.count(self.tokenizer.eos_token_id))]

    def compute(self, batch: list[Piece], options: Options) -> list[torch.Tensor]:
        """For each piece, its logits (labels,)."""
        return list(self.model(**self.tensors(batch), use_cache=False).logits.float().cpu())

    def finish(self, item: Any, pieces: list[Piece], found: list[torch.Tensor], options: Options) -> Any:
        """The best label, or a list of labels."""
        scores = _apply(options.function, found[0]).tolist()
        labels = [{"label": self.model.config.id2label[index], "score": score} for index, score in enumerate(scores)]
        if options.all_scores:
            return labels
        labels.sort(key=lambda label: label["score"], reverse=True)
        return labels[: options.top_k] if options.as_list else labels[0]

    def _usual_function(self) -> str:
        config = self.model.config
        if config.problem_type == "regression":
            return "none"
        if config.problem_type == "multi_label_classification" or config.num_labels == 1:
            return "sigmoid"
        return "softmax"


def _apply(function: str, logits: torch.Tensor) -> torch.Tensor:
    if function == "softmax":
        return logits.softmax(dim=-1)
    return logits.sigmoid() if function == "sigmoid" else logits


def _parts(item: Any) -> tuple[str, str | None]:
    """Text and pair of an input; the reference's older way to give a pair was [[text, pair]]."""
    if isinstance(item, Mapping):
        unknown = sorted(set(item) - set(PARTS))
        if unknown or "text" not in item:
            raise ValueError(f"a pair has the keys {' and '.join(PARTS)}, got {', '.join(map(str, item)) or 'none'}")
        pair = item.get("text_pair")
        return check_text(item["text"]), None if pair is None else check_text(pair)
    if isinstance(item, list):
        if len(item) == 1 and isinstance(item[0], list) and len(item[0]) == 2:
            return check_text(item[0][0]), check_text(item[0][1])
        raise ValueError('a pair is given as {"text": ..., "text_pair": ...}, got a list')
    return check_text(item), None
