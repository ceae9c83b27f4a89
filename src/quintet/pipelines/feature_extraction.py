"""Features of texts: the encoder's states, of each token or as one vector a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from quintet.model.pretrained import T5PreTrainedModel
from quintet.pipelines.base import Piece, Pipeline, check_choice, check_text

POOLINGS = ("none", "mean", "first")


@dataclass
class Options:
    """The options of a call: what to make of the states, and the tokenizer's options."""

    pooling: str
    normalize: bool
    return_tensors: bool
    tokenizer: dict[str, Any]


class FeatureExtractionPipeline(Pipeline):
    """The encoder's states of texts, (1, tokens, d_model) for each, as nested lists.

    Any model of the family will do: its encoder reads the texts. (The reference's pipeline runs encoder and decoder,
    and fails for want of decoder input unless it is given a T5EncoderModel.) The features of a text do not depend on
    the texts computed with it: padding is cut off.

    Options: pooling="mean" (over the tokens that the mask leaves) or "first" gives one vector (d_model,) a text
    instead, in float32, as in "Sentence-T5" (Ni et al., 2021, https://arxiv.org/abs/2108.08877); normalize=True gives
    vectors of length 1; return_tensors=True gives tensors; truncation, and tokenize_kwargs, go to the tokenizer.
    """

    default_task = "feature-extraction"
    head = T5PreTrainedModel

    def parse(
        self,
        *,
        pooling: str = "none",
        normalize: bool = False,
        return_tensors: bool = False,
        truncation: Any = None,
        tokenize_kwargs: dict[str, Any] | None = None,
    ) -> Options:
        """See the class. Raises ValueError for an unknown pooling, or truncation given in two places."""
        tokenizer = dict(tokenize_kwargs or {})
        if truncation is not None:
            if "truncation" in tokenizer:
                raise ValueError("truncation is given twice: as an option and in tokenize_kwargs")
            tokenizer["truncation"] = truncation
        pooling = check_choice("pooling", pooling, POOLINGS)
        return Options(pooling, bool(normalize), bool(return_tensors), tokenizer)

    def prepare(self, item: Any, options: Options) -> list[Piece]:
        """One piece. Raises ValueError for a text that leaves no token."""
        encoded = self.tokenizer(check_text(item), **options.tokenizer)
        if not any(encoded["attention_mask"]):
            raise ValueError("the text has no tokens, so it has no features")
        return [Piece(encoded["input_ids"], encoded["attention_mask"])]

    def compute(self, batch: list[Piece], options: Options) -> list[torch.Tensor]:
        """For each piece, its states (tokens, d_model) or its vector (d_model,)."""
        inputs = self.tensors(batch)
        states = self.model.get_encoder()(**inputs, return_dict=True).last_hidden_state
        if options.pooling != "none":
            features = list(_pooled(states.float(), inputs["attention_mask"], options.pooling))
        else:
            features = [row[: len(piece)] for row, piece in zip(states, batch, strict=True)]
        if options.normalize:
            features = [F.normalize(row.float(), dim=-1) for row in features]
        return [row.cpu() for row in features]

    def finish(self, item: Any, pieces: list[Piece], found: list[torch.Tensor], options: Options) -> Any:
        """The features, with the reference's batch dimension where they are states of tokens."""
        features = found[0][None] if options.pooling == "none" else found[0]
        return features if options.return_tensors else features.tolist()


def _pooled(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """States (batch, tokens, d_model) and their mask (batch, tokens) to vectors (batch, d_model)."""
    if pooling == "first":
        return states[torch.arange(len(states), device=states.device), mask.argmax(dim=1)]
    weights = mask[:, :, None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)
