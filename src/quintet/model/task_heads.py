"""The heads that classify: texts, tokens, and the places where an answer starts and ends.

Arguments as in `heads`. Labels give the loss of the task.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from quintet.config import T5Config
from quintet.model import checks
from quintet.model.heads import (
    EncoderDecoder,
    EncoderOutputs,
    T5EncoderModel,
    T5Model,
    as_asked,
    replace_states,
    without_decoder,
)
from quintet.model.init import Linear
from quintet.model.pretrained import T5PreTrainedModel
from quintet.outputs import Seq2SeqQuestionAnsweringModelOutput, Seq2SeqSequenceClassifierOutput, TokenClassifierOutput


class ClassificationHead(nn.Module):
    """A two-layer perceptron on one state per text."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.dense = Linear(config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = Linear(config.d_model, config.num_labels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, d_model) to (batch, num_labels)."""
        hidden = torch.tanh(self.dense(self.dropout(hidden)))
        return self.out_proj(self.dropout(hidden))


class T5ForSequenceClassification(T5PreTrainedModel):
    """Classifies texts by the decoder's state at the last end-of-sequence token; the decoder reads the text too."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.transformer = T5Model(config)
        self.classification_head = ClassificationHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        head_mask: torch.Tensor | None = None,
        decoder_head_mask: torch.Tensor | None = None,
        cross_attn_head_mask: torch.Tensor | None = None,
        encoder_outputs: EncoderOutputs = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Seq2SeqSequenceClassifierOutput | tuple[Any, ...]:
        """Scores (batch, num_labels).

        labels: class numbers (batch,); or floats (batch, num_labels), for regression (num_labels 1) or for several
        labels a text. config.problem_type says which and is set by the first labels seen. All texts must have equally
        many end-of-sequence tokens.
        """
        if input_ids is None:
            raise ValueError("sequence classification needs input_ids: it looks for the end-of-sequence token")
        output = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=self.transformer.own_input(input_ids, decoder_input_ids, decoder_inputs_embeds),
            decoder_attention_mask=decoder_attention_mask,
            head_mask=head_mask,
            decoder_head_mask=decoder_head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            encoder_outputs=encoder_outputs,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=False if labels is not None else use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classification_head(self._state_at_end(input_ids, output.last_hidden_state))
        loss = None if labels is None else self._loss(logits, labels.to(logits.device))
        output = replace_states(Seq2SeqSequenceClassifierOutput, output, loss=loss, logits=logits)
        return as_asked(output, self.config, return_dict)

    def _state_at_end(self, input_ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, target, d_model) to (batch, d_model)."""
        ends = torch.as_tensor(self.config.eos_token_id, device=input_ids.device)
        is_end = torch.isin(input_ids, ends)
        checks.check_equal_counts(is_end.sum(1), "end-of-sequence tokens in input_ids")
        positions = torch.arange(is_end.shape[1], device=hidden.device)
        last = (is_end.to(hidden.device) * positions).argmax(dim=1)
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        config = self.config
        checks.check_tensor(labels, "labels")
        if config.problem_type is None:
            config.problem_type = _problem_type(config.num_labels, labels)
        if config.problem_type == "regression":
            single = config.num_labels == 1
            return F.mse_loss(logits.squeeze(), labels.squeeze()) if single else F.mse_loss(logits, labels)
        if config.problem_type == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels)
        checks.check_labels(labels, config.num_labels)
        checks.check_shape(labels, logits.shape[:1], "labels")
        return F.cross_entropy(logits, labels.flatten())


class T5ForTokenClassification(T5PreTrainedModel):
    """Classifies every token by the encoder's state."""

    unused_in_checkpoint = T5EncoderModel.unused_in_checkpoint

    def __init__(self, config: T5Config) -> None:
        super().__init__(without_decoder(config))
        self.num_labels = config.num_labels
        self.transformer = T5EncoderModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = Linear(config.d_model, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        head_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """Scores (batch, source, num_labels); labels (batch, source) are class numbers, -100 for tokens without one."""
        encoded = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        loss = None
        if labels is not None:
            checks.check_labels(labels, self.config.num_labels)
            checks.check_shape(labels, logits.shape[:2], "labels")
            loss = F.cross_entropy(logits.flatten(0, 1), labels.to(logits.device).flatten())
        output = TokenClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return as_asked(output, self.config, return_dict)


class T5ForQuestionAnswering(EncoderDecoder):
    """Finds where an answer starts and ends, by the decoder's states; the decoder reads the text too."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        if config.num_labels != 2:
            raise ValueError(
                f"question answering scores starts and ends: num_labels must be 2, got {config.num_labels}"
            )
        self.qa_outputs = Linear(config.d_model, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        head_mask: torch.Tensor | None = None,
        decoder_head_mask: torch.Tensor | None = None,
        cross_attn_head_mask: torch.Tensor | None = None,
        encoder_outputs: EncoderOutputs = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Seq2SeqQuestionAnsweringModelOutput | tuple[Any, ...]:
        """start_logits and end_logits (batch, target), and the mean of their losses if both positions are given.

        start_positions and end_positions are (batch,); those beyond the text are ignored.
        """
        output = self.run_stacks(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=self.own_input(input_ids, decoder_input_ids, decoder_inputs_embeds),
            decoder_attention_mask=decoder_attention_mask,
            head_mask=head_mask,
            decoder_head_mask=decoder_head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            encoder_outputs=encoder_outputs,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=False if start_positions is not None and end_positions is not None else use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        start_logits, end_logits = self.qa_outputs(output.last_hidden_state).unbind(dim=-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            start_loss = _position_loss(start_logits, start_positions, "start_positions")
            loss = (start_loss + _position_loss(end_logits, end_positions, "end_positions")) / 2
        output = replace_states(
            Seq2SeqQuestionAnsweringModelOutput, output, loss=loss, start_logits=start_logits, end_logits=end_logits
        )
        return as_asked(output, self.config, return_dict)


def _problem_type(num_labels: int, labels: torch.Tensor) -> str:
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def _position_loss(logits: torch.Tensor, positions: torch.Tensor, name: str) -> torch.Tensor:
    """Cross-entropy of positions (batch,) or (batch, 1); those beyond the text count as absent."""
    length = logits.shape[1]
    checks.check_shape(positions, logits.shape[:1], name)
    if positions.is_floating_point():
        raise ValueError(f"{name} must be integers, got {positions.dtype}")
    positions = positions.to(logits.device).reshape(-1).clamp(0, length)
    return F.cross_entropy(logits, positions, ignore_index=length)
