"""Zero-shot classification: labels that the model was never trained on, scored as answers to the text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from quintet.model.heads import T5ForConditionalGeneration
from quintet.pipelines.base import Piece, Pipeline, check_text

TEMPLATE = "This example is {}."


@dataclass
class Options:
    """The options of a call; `targets` are the ids of the answer for each label."""

    labels: list[str]
    targets: list[list[int]]
    multi_label: bool
    without_text: torch.Tensor | None = None  # log-probabilities (labels,) of the answers to an empty text


class ZeroShotClassificationPipeline(Pipeline):
    """Classifies texts by labels given in the call.

    The arguments and results are the reference's: candidate_labels (a list, or a text with commas), also as second
    positional argument; hypothesis_template, in which {} stands for a label; multi_label. A result is {"sequence": the
    text, "labels": from the most to the least likely, "scores": theirs}.

    The reference asks a classifier whether a text entails "This example is sports."; T5 has no head for that, but it
    answers: the score of a label is how likely the model finds the sentence as its answer to the text, and the words
    that all sentences begin with make no difference. Scores are these probabilities, normalised over the labels. With
    multi_label, or one label only, each label is scored on its own: p / (p + q), where p is the probability of its
    sentence after the text and q that after an empty text; above 0.5, the text speaks for the label (Holtzman et al.,
    2021, https://arxiv.org/abs/2104.08315). For a model trained on instructions, make the text a question ("... Is
    this about sports or politics?") and hypothesis_template "{}".
    """

    default_task = "zero-shot-classification"
    head = T5ForConditionalGeneration

    def __call__(  # type: ignore[override]
        self, sequences: Any, candidate_labels: Any = None, **options: Any
    ) -> Any:
        """The results; options are the class's, and those of `Pipeline.__call__`."""
        if candidate_labels is not None:
            options["candidate_labels"] = candidate_labels
        if isinstance(sequences, list) and not sequences:
            raise ValueError("give at least one text to classify")
        if not label_list(options.get("candidate_labels", self._defaults.get("candidate_labels", ()))):
            raise ValueError("give candidate_labels: a list of at least one label, or a text with commas between them")
        return super().__call__(sequences, **options)

    def parse(
        self, *, candidate_labels: Any = (), hypothesis_template: str = TEMPLATE, multi_label: bool = False
    ) -> Options:
        """See the class. Raises ValueError for what are no labels, or a template without a place for them."""
        labels = label_list(candidate_labels)
        if not isinstance(hypothesis_template, str) or hypothesis_template.format("a label") == hypothesis_template:
            raise ValueError(f"hypothesis_template must be a text with {{}} for the label, got {hypothesis_template!r}")
        if not labels:
            return Options([], [], multi_label)
        answers = [hypothesis_template.format(label) for label in labels]
        options = Options(labels, self.tokenizer(text_target=answers)["input_ids"], bool(multi_label))
        if not multi_label and len(labels) > 1:
            return options
        empty = self._compute([self._piece("")], options)
        return replace(options, without_text=empty[0])

    def prepare(self, item: Any, options: Options) -> list[Piece]:
        """One piece. Raises ValueError for an empty text."""
        if not check_text(item):
            raise ValueError("the text to classify is empty")
        return [self._piece(item)]

    def compute(self, batch: list[Piece], options: Options) -> list[torch.Tensor]:
        """For each piece, the log-probabilities (labels,) of the answers."""
        inputs = self.tensors(batch)
        targets = [options.targets] * len(batch)
        scored = self.model.score(inputs["input_ids"], targets, attention_mask=inputs["attention_mask"])
        return list(scored.sequence_log_probs.float().cpu())

    def finish(self, item: str, pieces: list[Piece], found: list[torch.Tensor], options: Options) -> dict[str, Any]:
        """Labels and scores, the best first."""
        if options.without_text is None:
            scores = found[0].softmax(dim=-1)
        else:
            scores = (found[0] - options.without_text).sigmoid()
        order = scores.argsort(descending=True, stable=True)
        return {
            "sequence": item,
            "labels": [options.labels[index] for index in order.tolist()],
            "scores": scores[order].tolist(),
        }

    def _piece(self, text: str) -> Piece:
        encoded = self.tokenizer(text)
        return Piece(encoded["input_ids"], encoded["attention_mask"])


def label_list(labels: Any) -> list[str]:
    """Labels as a list. Raises ValueError for what is neither a list of texts nor a text with commas between them."""
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",") if label.strip()]
    if not isinstance(labels, (list, tuple)) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"candidate_labels must be a list of texts, or a text with commas, got {labels!r:.60}")
    return list(labels)
