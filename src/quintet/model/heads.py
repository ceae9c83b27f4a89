"""T5Model, T5ForConditionalGeneration, T5EncoderModel: the network under the names and arguments of `transformers`.

The arguments of all `forward` methods mean the same. input_ids (batch, source) or inputs_embeds (batch, source,
d_model) go to the encoder, unless its result comes ready as encoder_outputs; attention_mask (batch, source) is 1 for
tokens and 0 for padding, on either side. decoder_input_ids or decoder_inputs_embeds (batch, target) go to the decoder,
with decoder_attention_mask (batch, cached + target). The three head masks, (heads,) or (layers, heads), scale the
weights of each attention head. With use_cache the decoder's keys and values come back as past_key_values; the next call
then takes new tokens only, at cache_position.
output_attentions and output_hidden_states add those to the output; return_dict=False makes it a tuple.

Wrong shapes, ids or labels raise ValueError or IndexError, naming the argument (see `checks`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from quintet.config import T5Config
from quintet.generation.config import GenerationConfig
from quintet.generation.options import Call
from quintet.generation.scoring import transition_scores
from quintet.model import checks, decoding, scoring
from quintet.model.cache import EncoderDecoderCache
from quintet.model.engines import encode_natively
from quintet.model.init import Embedding, Linear
from quintet.model.inputs import as_encoder_output
from quintet.model.pretrained import T5PreTrainedModel
from quintet.model.stack import T5Stack
from quintet.outputs import (
    BaseModelOutput,
    ModelOutput,
    ScoreOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)

EncoderOutputs = BaseModelOutput | tuple[torch.Tensor, ...] | None


class EncoderDecoder(T5PreTrainedModel):
    """What T5Model, conditional generation and question answering have in common: both stacks, run after each other."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, self.shared, is_decoder=False)
        self.decoder = T5Stack(config, self.shared, is_decoder=True)

    def run_stacks(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        head_mask: torch.Tensor | None = None,
        decoder_head_mask: torch.Tensor | None = None,
        cross_attn_head_mask: torch.Tensor | None = None,
        encoder_outputs: EncoderOutputs = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        cache_position: torch.Tensor | None = None,
        cross_attention_mask: torch.Tensor | None = None,
    ) -> Seq2SeqModelOutput:
        """Encoder, if its result is not there yet, and decoder.

        Rows that hold several examples have masks (batch, queries, keys) that keep these apart; the decoder then needs
        one of its own over the source: cross_attention_mask (batch, target, source), else attention_mask serves both.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                head_mask=head_mask,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
        encoded = as_encoder_output(encoder_outputs)
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=attention_mask if cross_attention_mask is None else cross_attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            head_mask=decoder_head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            past_key_values=past_key_values,
            use_cache=self.config.use_cache if use_cache is None else use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            cache_position=cache_position,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )

    def own_input(
        self, input_ids: torch.Tensor | None, ids: torch.Tensor | None, embeds: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The decoder's ids for heads that read a text with both stacks: its own tokens, shifted right."""
        if ids is not None or embeds is not None:
            return ids
        if input_ids is None:
            raise ValueError("without input_ids, give decoder_input_ids or decoder_inputs_embeds")
        checks.check_token_ids(input_ids, self.shared.num_embeddings, "input_ids")
        return self._shift_right(input_ids)


class T5Model(EncoderDecoder):
    """Encoder and decoder without a head."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
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
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: torch.Tensor | None = None,
    ) -> Seq2SeqModelOutput | tuple[Any, ...]:
        """Source and target ids to the decoder's states (batch, target, d_model)."""
        output = self.run_stacks(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            head_mask=head_mask,
            decoder_head_mask=decoder_head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            cache_position=cache_position,
        )
        return as_asked(output, self.config, return_dict)


class T5ForConditionalGeneration(EncoderDecoder):
    """T5 as it is trained: text to text."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self.generation_config = GenerationConfig.from_model_config(config)
        self.post_init()

    def scale_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """Decoder states (..., d_model) as lm_head takes them: the embeddings' scale is not the output layer's."""
        return hidden * self.config.d_model**-0.5 if self.config.tie_word_embeddings else hidden

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """Decoder states (..., d_model) to scores of tokens (..., vocab_size)."""
        return self.lm_head(self.scale_states(hidden))

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
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: torch.Tensor | None = None,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Scores (batch, target, vocab_size) of the next token at each target position.

        labels (batch, target), with -100 where no loss is wanted, give the mean cross-entropy and, if no decoder input
        is given, the decoder input (shifted right).
        """
        if labels is not None:
            checks.check_labels(labels, self.lm_head.out_features)
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self._shift_right(labels)
        output = self.run_stacks(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            head_mask=head_mask,
            decoder_head_mask=decoder_head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            cache_position=cache_position,
        )
        logits = self.project(output[0])
        loss = None
        if labels is not None:
            checks.check_shape(labels, logits.shape[:2], "labels")
            loss = F.cross_entropy(logits.flatten(0, 1), labels.to(logits.device).flatten(), ignore_index=-100)
        return as_asked(replace_states(Seq2SeqLMOutput, output, loss=loss, logits=logits), self.config, return_dict)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels (batch, target) shifted right, as data collators want it."""
        return self._shift_right(labels)

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, past_key_values: EncoderDecoderCache | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The keywords of the forward pass that continues targets (batch, target): for decoding loops of others.

        Tokens whose keys and values are cached are left out; further keywords of `forward` are passed on, but for
        labels and for inputs_embeds, which such a loop has encoded before.
        """
        cached = 0 if past_key_values is None else past_key_values.get_seq_length()
        kept = {name: value for name, value in kwargs.items() if name not in ("labels", "inputs_embeds")}
        return {"decoder_input_ids": input_ids[:, cached:], "past_key_values": past_key_values, **kept}

    def generate(
        self,
        inputs: torch.Tensor | Sequence[Any] | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Sequence[Any] | None = None,
        stopping_criteria: Sequence[Any] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, torch.Tensor], Sequence[int]] | None = None,
        assistant_model: T5ForConditionalGeneration | None = None,
        streamer: Any = None,
        use_model_defaults: bool | None = None,
        *,
        tokenizer: Any = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Decode a batch of sources: token ids (batch * num_return_sequences, length), the start token in front.

        The source is `inputs`/`input_ids` (batch, source) with attention_mask, or inputs_embeds, or encoder_outputs;
        decoder_input_ids (with decoder_attention_mask) forces the beginnings of the targets. Further keywords are the
        options of `GenerationConfig` and win over those of generation_config, which win over the model's own. Without
        any: greedy search. return_dict_in_generate returns a GenerateEncoderDecoderOutput, or under beams a
        GenerateBeamEncoderDecoderOutput, with what the output_... options ask for.

        logits_processor and stopping_criteria are lists of objects like those in `quintet`; rows that have ended leave
        the batch only if all of them have a method `select(rows)`. prefix_allowed_tokens_fn(source, ids) returns the
        tokens that may follow. assistant_model drafts tokens that this model checks, as prompt_lookup_num_tokens does
        with tokens of the source. streamer gets tokens as they become certain. constraint (an option) is a list of
        allowed answers, a regular expression, or a JSON schema. That, and stop_strings, need the tokenizer. seed or
        generator make sampling repeatable.

        A list of rows of any lengths, or any input with a batch_size, is decoded sorted by length in batches, with a
        progress bar on a terminal (or `progress`); Ctrl-C then returns what is finished.

        Raises ValueError for unknown options, values that make no sense or contradict each other, and a row where
        nothing can follow.
        """
        if seed is not None:
            if generator is not None:
                raise ValueError("give seed or generator, not both")
            generator = torch.Generator(self.device).manual_seed(seed)
        call = Call(
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            assistant_model=assistant_model,
            streamer=streamer,
            tokenizer=tokenizer,
            generator=generator,
            batch_size=batch_size,
            progress=progress,
        )
        return decoding.generate(self, inputs, generation_config, call, use_model_defaults, kwargs)

    def compute_transition_scores(
        self,
        sequences: torch.Tensor,
        scores: Sequence[torch.Tensor],
        beam_indices: torch.Tensor | None = None,
        normalize_logits: bool = False,
    ) -> torch.Tensor:
        """The score (rows, new tokens) of each generated token, from what `generate` returned with output_scores.

        sequences (rows, length), a tensor (rows or beams, vocabulary) of scores per step, and under beams beam_indices.
        With normalize_logits, log-probabilities of scores that are none yet. 0 behind the end of a beam's sequence.
        """
        return transition_scores(sequences, scores, beam_indices, normalize_logits)

    def score(
        self, inputs: Any = None, targets: Any = None, *, tokenizer: Any = None, batch_size: int = 32, **kwargs: Any
    ) -> ScoreOutput:
        """The log-probability of given targets, in all and per token: for ranking answers.

        The source is as in `generate` (ids with attention_mask, inputs_embeds, encoder_outputs, or a list of rows), or
        a text or a list of them with the tokenizer. targets has one entry per source: a list of targets, each a list
        of token ids (with the end token, if it counts) or a text; or it is a tensor (sources, length) of labels, with
        -100 behind the end. A single text takes its targets directly. A source is encoded once for all its targets;
        `batch_size` sources are computed together. Raises ValueError for targets that are empty or do not fit.
        """
        return scoring.score(self, inputs, targets, tokenizer, batch_size, kwargs)

    def perplexity(self, data: Iterable[Any], *, tokenizer: Any = None, batch_size: int = 32) -> float:
        """exp of the mean negative log-probability of a target token, over all targets of a data set.

        data holds pairs (source, target), of ids or, with the tokenizer, of texts; or dicts with input_ids and labels.
        Raises ValueError for an empty data set, and for an example that is something else.
        """
        return scoring.perplexity(self, data, tokenizer, batch_size)


class T5EncoderModel(T5PreTrainedModel):
    """The encoder alone: for embeddings, and as the text encoder of other models."""

    unused_in_checkpoint = (*T5PreTrainedModel.unused_in_checkpoint, "decoder")

    def __init__(self, config: T5Config) -> None:
        super().__init__(without_decoder(config))
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, self.shared, is_decoder=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        head_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Ids (batch, source) or embeddings to states (batch, source, d_model)."""
        config = self.config
        attentions = config.output_attentions if output_attentions is None else output_attentions
        hidden = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if head_mask is None and not attentions and not hidden:
            states = encode_natively(self, input_ids, inputs_embeds, attention_mask)
            if states is not None:
                return as_asked(BaseModelOutput(states), config, return_dict)
        return self.encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=self.config.use_return_dict if return_dict is None else return_dict,
        )


def without_decoder(config: T5Config) -> T5Config:
    """The configuration of the encoder alone."""
    config = copy.copy(config)
    config.use_cache = config.is_encoder_decoder = False
    return config


def as_asked(output: ModelOutput, config: T5Config, return_dict: bool | None) -> Any:
    """The output itself, or as a tuple if `return_dict` or the configuration wants that."""
    return output if (config.use_return_dict if return_dict is None else return_dict) else output.to_tuple()


def replace_states(output_class: type[ModelOutput], output: Seq2SeqModelOutput, **results: Any) -> Any:
    """An output of another class: what a head computed, in place of the decoder's last states."""
    rest = {name: value for name, value in output.items() if name != "last_hidden_state"}
    return output_class(**results, **rest)
