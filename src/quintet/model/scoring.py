"""`score` and `perplexity`: how probable given targets are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from quintet.generation.scoring import log_probabilities
from quintet.model import checks
from quintet.model.engines import Engine, choose_engine
from quintet.model.inputs import Inputs
from quintet.outputs import BaseModelOutput, ScoreOutput

if TYPE_CHECKING:
    from quintet.model.heads import T5ForConditionalGeneration

LOGITS_AT_ONCE = 2**26  # numbers; 256 MB in float32
IGNORED = -100


@dataclass
class Scorer:
    """Scores targets of sources with a model, `batch_size` sources at a time."""

    model: T5ForConditionalGeneration
    batch_size: int

    def run(self, inputs: Inputs, targets: Sequence[Sequence[list[int]]]) -> ScoreOutput:
        """targets: for each source, a list of targets, each a list of token ids."""
        several = max((len(own) for own in targets), default=0)
        longest = max((len(target) for own in targets for target in own), default=0)
        tokens = torch.zeros(inputs.rows, several, longest, device=inputs.device)
        lengths = torch.zeros(inputs.rows, several, dtype=torch.long, device=inputs.device)
        for batch in self._batches(inputs.lengths):
            part = inputs.take(batch)
            engine = choose_engine(self.model, part)
            encoded = engine.encode(part)
            places = [(place, index) for place, source in enumerate(batch) for index in range(len(targets[source]))]
            places.sort(key=lambda where: len(targets[batch[where[0]]][where[1]]))
            for chunk in self._chunks(places, longest):
                wanted = [targets[batch[place]][index] for place, index in chunk]
                scores = self._score(engine, part, encoded, [place for place, _ in chunk], wanted)
                for (place, index), row, target in zip(chunk, scores, wanted, strict=True):
                    tokens[batch[place], index, : len(target)] = row[: len(target)]
                    lengths[batch[place], index] = len(target)
        sums = tokens.sum(dim=-1).masked_fill(lengths == 0, -torch.inf)
        return ScoreOutput(sequence_log_probs=sums, token_log_probs=tokens, lengths=lengths)

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        order = sorted(range(len(lengths)), key=lambda source: -lengths[source])
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _chunks(self, rows: list[Any], longest: int) -> Iterator[list[Any]]:
        """As many rows at a time as their logits may be held at once."""
        size = max(1, LOGITS_AT_ONCE // (self.model.config.vocab_size * max(longest, 1)))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _score(
        self, engine: Engine, inputs: Inputs, encoded: BaseModelOutput, sources: list[int], targets: list[list[int]]
    ) -> torch.Tensor:
        labels = torch.full((len(targets), max(map(len, targets))), IGNORED, device=encoded[0].device)
        for row, target in enumerate(targets):
            labels[row, : len(target)] = torch.tensor(target, device=labels.device)
        checks.check_labels(labels, self.model.config.vocab_size, "targets")
        session = engine.session(inputs, encoded, labels.shape[1])
        session.select(torch.tensor(sources, device=labels.device))
        return log_probabilities(session, self.model.prepare_decoder_input_ids_from_labels(labels), labels, IGNORED)


@torch.no_grad()
def score(
    model: T5ForConditionalGeneration,
    inputs: Any,
    targets: Any,
    tokenizer: Any,
    batch_size: int,
    keywords: dict[str, Any],
) -> ScoreOutput:
    """See `T5ForConditionalGeneration.score`."""
    checks.check_batch_size(batch_size)
    unknown = sorted(keywords.keys() - {"input_ids", "inputs_embeds", "attention_mask", "encoder_outputs"})
    if unknown:
        raise ValueError(f"score got unknown arguments: {', '.join(unknown)}")
    if isinstance(inputs, str):
        inputs, targets = [inputs], [targets]
    inputs = _as_ids(inputs, tokenizer)
    read = Inputs.of(keywords, inputs, model.config.pad_token_id, model.device)
    return Scorer(model, batch_size).run(read, _targets(targets, read.rows, tokenizer))


@torch.no_grad()
def perplexity(model: T5ForConditionalGeneration, data: Iterable[Any], tokenizer: Any, batch_size: int) -> float:
    """See `T5ForConditionalGeneration.perplexity`."""
    pairs = [_pair(example, index) for index, example in enumerate(data)]
    if not pairs:
        raise ValueError("perplexity needs at least one example")
    scores = score(model, [source for source, _ in pairs], [[target] for _, target in pairs], tokenizer, batch_size, {})
    assert scores.sequence_log_probs is not None
    assert scores.lengths is not None
    return math.exp(-float(scores.sequence_log_probs.double().sum()) / int(scores.lengths.sum()))


def _pair(example: Any, index: int) -> tuple[Any, Any]:
    if isinstance(example, Mapping) and {"input_ids", "labels"} <= example.keys():
        return example["input_ids"], example["labels"]
    if isinstance(example, (tuple, list)) and len(example) == 2:
        return example[0], example[1]
    raise ValueError(f"example {index} must be a pair (source, target), or a dict with input_ids and labels")


def _as_ids(texts: Any, tokenizer: Any) -> Any:
    """Rows of ids in place of texts; whatever is no list of texts stays as it is."""
    if not isinstance(texts, (list, tuple)) or not any(isinstance(text, str) for text in texts):
        return texts
    if tokenizer is None:
        raise ValueError("texts need the model's tokenizer: tokenizer=tokenizer")
    return tokenizer(list(texts))["input_ids"]


def _targets(targets: Any, sources: int, tokenizer: Any) -> list[list[list[int]]]:
    """For each source a list of targets, each a list of ids; ValueError for anything else, naming the row."""
    if isinstance(targets, torch.Tensor):
        checks.check_shape(targets, (sources, targets.shape[-1]), "targets")
        targets = [[row] for row in targets.reshape(sources, -1)]
    if not isinstance(targets, (list, tuple)) or len(targets) != sources:
        count = len(targets) if isinstance(targets, (list, tuple)) else type(targets).__name__
        raise ValueError(f"targets must be a list with one entry for each of the {sources} sources, got {count}")
    return [_own_targets(own, row, tokenizer) for row, own in enumerate(targets)]


def _own_targets(own: Any, row: int, tokenizer: Any) -> list[list[int]]:
    if not isinstance(own, (list, tuple)) or not own:
        raise ValueError(f"row {row}: the targets of a source must be a non-empty list (of texts, or of lists of ids)")
    read = [target.tolist() if isinstance(target, torch.Tensor) else target for target in _as_ids(own, tokenizer)]
    for target in read:
        if not isinstance(target, (list, tuple)) or not all(isinstance(token, int) for token in target):
            raise ValueError(f"row {row}: a target must be a text or a list of token ids, got {target!r:.80}")
    kept = [[token for token in target if token != IGNORED] for target in read]
    if not all(kept):
        raise ValueError(f"row {row}: a target is empty")
    return kept
