"""`generate`: from what a user passes to a session and a search, through a loop, to the result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from quintet.generation.assisted import Assistant, Drafter, SourceLookup, assisted_search
from quintet.generation.batching import in_batches
from quintet.generation.config import GenerationConfig
from quintet.generation.constraints import Constraint, build_constraint
from quintet.generation.options import Call, combine, fix_lengths
from quintet.generation.processors import build_processors
from quintet.generation.search import Found, Search, Trace
from quintet.generation.stopping import MaxTimeCriteria, StoppingCriteriaList, StopStringCriteria
from quintet.generation.strategies import decode, rows_per_source
from quintet.model import checks
from quintet.model.engines import EagerEngine, NativeEngine, Wanted, choose_engine
from quintet.model.inputs import Inputs
from quintet.model.session import Recording
from quintet.outputs import BaseModelOutput, GenerateBeamEncoderDecoderOutput, GenerateEncoderDecoderOutput

if TYPE_CHECKING:
    from quintet.model.heads import T5ForConditionalGeneration

DEFAULT_BATCH_SIZE = 32


@torch.no_grad()
def generate(
    model: T5ForConditionalGeneration,
    inputs: Any,
    generation_config: GenerationConfig | None,
    call: Call,
    use_model_defaults: bool | None,
    keywords: dict[str, Any],
) -> Any:
    """See `T5ForConditionalGeneration.generate`; `keywords` are the model's inputs and options of the configuration."""
    own = (model.generation_config or GenerationConfig.from_model_config(model.config)).followed(model.config)
    options = {name: value for name, value in keywords.items() if name not in Inputs.names()}
    config = combine(own, generation_config, use_model_defaults, options)
    pad = None if config.pad_token_id in config.eos_token_ids else config.pad_token_id
    read = Inputs.of(keywords, inputs, pad, model.device)
    batch_size = DEFAULT_BATCH_SIZE if read.was_list and call.batch_size is None else call.batch_size
    generation = Generation(model, config, call, is_default_length=options.get("max_length") is None)
    if is_assisted(config, call):
        return generation.assisted(read)
    return generation.run(read) if batch_size is None else generation.run_all(read, batch_size)


class Generation:
    """One call of `generate`."""

    def __init__(
        self, model: T5ForConditionalGeneration, config: GenerationConfig, call: Call, is_default_length: bool
    ) -> None:
        self.model, self.config, self.call = model, config, call
        self.is_default_length = is_default_length
        self.pad = config.pad_token_id if config.pad_token_id is not None else (config.eos_token_ids or [0])[0]

    def run(self, inputs: Inputs) -> Any:
        """All sources at once."""
        engine = choose_engine(self.model, inputs, self._wanted())
        encoded = engine.encode(inputs)
        prefix = self._prefix(inputs, encoded)
        search = self._search(inputs, prefix)
        session = engine.session(inputs, encoded, search.max_length)
        rows = torch.arange(inputs.rows, device=prefix.device).repeat_interleave(search.rows_per_source)
        if search.rows_per_source > 1:
            session.select(rows)
        start = prefix if self.config.num_beams > 1 else prefix.index_select(0, rows)
        found = self._streamed(search, lambda: decode(session, start, search), start)
        search.check_complete(found, prefix.shape[1])
        return self._result(found, search, encoded, engine)

    def run_all(self, inputs: Inputs, batch_size: int) -> torch.Tensor:
        """Batch by batch, sources of similar length together; the sequences are in the order of the sources."""
        checks.check_batch_size(batch_size)
        for name, wanted in (
            ("streamer", self.call.streamer),
            ("return_dict_in_generate", self.config.return_dict_in_generate),
        ):
            if wanted:
                raise ValueError(f"{name} is for one batch at a time: give the sources as a tensor, without batch_size")

        def decode_batch(rows: list[int]) -> torch.Tensor:
            part = Generation(self.model, replace(self.config), self.call.for_rows(rows), self.is_default_length)
            return part.run(inputs.take(rows))

        count = self.config.num_return_sequences
        return in_batches(inputs.lengths, batch_size, decode_batch, self.pad, count, self.call.progress)

    def assisted(self, inputs: Inputs) -> Any:
        """With drafts, one source after the other: they accept different numbers of tokens."""
        if inputs.rows == 1:
            return self._assisted_one(inputs)
        if self.config.return_dict_in_generate or self.call.streamer is not None:
            raise ValueError("assisted decoding of several sources returns sequences only, and streams nothing")

        def decode_one(rows: list[int]) -> torch.Tensor:
            part = Generation(self.model, replace(self.config), self.call.for_rows(rows), self.is_default_length)
            return part._assisted_one(inputs.take(rows, trim=False))

        return in_batches(inputs.lengths, 1, decode_one, self.pad, progress=self.call.progress or False)

    def _assisted_one(self, inputs: Inputs) -> Any:
        engine = choose_engine(self.model, inputs)
        encoded = engine.encode(inputs)
        prefix = self._prefix(inputs, encoded)
        search = self._search(inputs, prefix)
        session = engine.session(inputs, encoded, search.max_length)
        drafter = self._drafter(inputs, search)
        found = self._streamed(search, lambda: assisted_search(session, prefix, search, drafter), prefix)
        search.check_complete(found, prefix.shape[1])
        return self._result(found, search, encoded, engine)

    def _drafter(self, inputs: Inputs, search: Search) -> Drafter:
        assistant = self.call.assistant_model
        if assistant is None:
            source = inputs.input_ids
            if source is None:
                raise ValueError("prompt_lookup_num_tokens looks in input_ids, which are not there")
            kept = source if inputs.attention_mask is None else source[:, inputs.attention_mask[0].bool()]
            count = self.config.prompt_lookup_num_tokens or 1
            return SourceLookup(kept, count, self.config.max_matching_ngram_size)
        if inputs.input_ids is None:
            raise ValueError("assistant_model reads the source by itself: give input_ids")
        if assistant.config.vocab_size != self.model.config.vocab_size:
            sizes = f"{assistant.config.vocab_size} and {self.model.config.vocab_size}"
            raise ValueError(f"assistant_model and the model must have the same vocabulary, but have {sizes} tokens")
        read = Inputs(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            decoder_attention_mask=inputs.decoder_attention_mask,
        )
        engine = choose_engine(assistant, read)
        return Assistant(engine.session(read, engine.encode(read), search.max_length), search)

    # -- before the loop -----------------------------------------------------------------------------------------

    def _wanted(self) -> Wanted:
        """What the call asks for that not every engine gives."""
        config = self.config
        return Wanted(
            attentions=bool(config.output_attentions),
            states=bool(config.output_hidden_states),
            use_cache=bool(config.use_cache),
            is_static=config.cache_implementation == "static",
        )

    def _prefix(self, inputs: Inputs, encoded: BaseModelOutput) -> torch.Tensor:
        """What the targets begin with (sources, n): a start token, and decoder_input_ids if they are given."""
        device = encoded[0].device
        start = torch.tensor(self._start_tokens(), device=device).expand(inputs.rows)[:, None]
        checks.check_token_ids(start, self.model.config.vocab_size, "decoder_start_token_id")
        given = inputs.decoder_input_ids
        if given is None:
            return start.clone()
        if given.shape[0] != inputs.rows:
            raise ValueError(f"decoder_input_ids have {given.shape[0]} rows, the sources {inputs.rows}")
        checks.check_token_ids(given, self.model.config.vocab_size, "decoder_input_ids")
        if not (given[:, :1] != start).all():
            return given
        if inputs.decoder_attention_mask is not None:
            mask = inputs.decoder_attention_mask
            inputs.decoder_attention_mask = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
        return torch.cat([start, given], dim=1)

    def _start_tokens(self) -> int | list[int]:
        """The token, or one for each source, that targets start with."""
        for start in (self.config.decoder_start_token_id, self.config.bos_token_id):
            if start is not None:
                return start
        raise ValueError(
            "decoder_start_token_id must be set, in the generation configuration or as an argument; T5 uses 0"
        )

    def _search(self, inputs: Inputs, prefix: torch.Tensor) -> Search:
        config, call = self.config, self.call
        fix_lengths(config, prefix.shape[1], self.is_default_length)
        rows = rows_per_source(config)
        constraint = self._constraint(prefix.shape[1], rows)
        processors = build_processors(
            config,
            prefix_length=prefix.shape[1],
            source_ids=inputs.input_ids,
            prefix_allowed_tokens_fn=call.prefix_allowed_tokens_fn,
            custom=[*(call.logits_processor or ()), *([] if constraint is None else [constraint])],
            rows_per_source=rows // config.num_beam_groups,
        )
        criteria = self._criteria()
        follow = processors.can_select and criteria.can_select
        wanted = config.return_dict_in_generate
        trace = Trace([] if wanted and config.output_scores else None, [] if wanted and config.output_logits else None)
        return Search(
            config=config,
            max_length=config.max_length,
            eos=torch.tensor(config.eos_token_ids, dtype=torch.long, device=prefix.device),
            pad=self.pad,
            processors=processors,
            criteria=criteria,
            keep_rows=wanted or not follow,
            generator=call.generator,
            streamer=call.streamer,
            trace=trace,
            rows_per_source=rows,
            constraint=constraint,
            numbers=call.numbers,
        )

    def _constraint(self, prefix: int, rows: int) -> Constraint | None:
        """What holds results to the option `constraint`, if that is set."""
        if self.config.constraint is None:
            return None
        rows_per_source = rows // self.config.num_beam_groups
        constraint = build_constraint(
            self.config.constraint,
            tokenizer=self.call.tokenizer,
            eos_token_ids=self.config.eos_token_ids,
            vocab_size=self.model.config.vocab_size,
            prefix_length=prefix,
            max_length=self.config.max_length,
            rows_per_source=rows_per_source,
        )
        if self.call.numbers is not None:
            numbers = torch.tensor(self.call.numbers)[:, None] * rows_per_source + torch.arange(rows_per_source)
            constraint.select(numbers.flatten())
        return constraint

    def _criteria(self) -> StoppingCriteriaList:
        criteria = StoppingCriteriaList()
        if self.config.max_time is not None:
            criteria.append(MaxTimeCriteria(self.config.max_time))
        if self.config.stop_strings is not None:
            if self.call.tokenizer is None:
                raise ValueError("stop_strings needs the model's tokenizer: generate(..., tokenizer=tokenizer)")
            criteria.append(StopStringCriteria(self.call.tokenizer, self.config.stop_strings))
        return StoppingCriteriaList([*criteria, *(self.call.stopping_criteria or ())])

    # -- the loop and after --------------------------------------------------------------------------------------

    def _streamed(self, search: Search, loop: Any, prefix: torch.Tensor) -> Found:
        """The loop's result; a streamer hears of the prefix, of the end, and of an error, if it can."""
        streamer = search.streamer
        if streamer is None:
            return loop()
        if self.config.num_beams > 1 and prefix.shape[0] * self.config.num_return_sequences > 1:
            raise ValueError("a streamer under beams follows one sequence: one source, and num_return_sequences=1")
        try:
            streamer.put(prefix.cpu())
            found = loop()
            streamer.end()
        except BaseException as error:
            if hasattr(streamer, "fail"):
                streamer.fail(error)
            raise
        return found

    def _result(
        self,
        found: Found,
        search: Search,
        encoded: BaseModelOutput,
        engine: EagerEngine | NativeEngine,
    ) -> Any:
        config, trace = self.config, search.trace
        if not config.return_dict_in_generate:
            return found.sequences
        recording = engine.recording if isinstance(engine, EagerEngine) else Recording()
        cache = engine.cache if isinstance(engine, EagerEngine) else None
        kept: Any = cache.to_legacy_cache() if cache is not None and config.return_legacy_cache else cache
        common = {
            "sequences": found.sequences,
            "scores": None if trace.scores is None else tuple(trace.scores),
            "logits": None if trace.logits is None else tuple(trace.logits),
            "encoder_attentions": encoded.attentions if config.output_attentions else None,
            "encoder_hidden_states": encoded.hidden_states if config.output_hidden_states else None,
            "decoder_attentions": tuple(recording.attentions) if recording.want_attentions else None,
            "cross_attentions": tuple(recording.cross_attentions) if recording.want_attentions else None,
            "decoder_hidden_states": tuple(recording.states) if recording.want_states else None,
            "past_key_values": kept,
        }
        if config.num_beams == 1:
            return GenerateEncoderDecoderOutput(**common)
        scores = found.scores if config.output_scores else None
        return GenerateBeamEncoderDecoderOutput(sequences_scores=scores, beam_indices=found.beam_indices, **common)


def is_assisted(config: GenerationConfig, call: Call) -> bool:
    """Whether drafts are asked for. Raises ValueError for what does not go with them."""
    drafts = {"assistant_model": call.assistant_model, "prompt_lookup_num_tokens": config.prompt_lookup_num_tokens}
    named = [name for name, value in drafts.items() if value is not None]
    if not named:
        return False
    if len(named) == 2:
        raise ValueError("give assistant_model or prompt_lookup_num_tokens, not both")
    conflicts = {
        "num_beams > 1": config.num_beams > 1,
        "num_return_sequences > 1": config.num_return_sequences > 1,
        "penalty_alpha": bool(config.penalty_alpha),
        "use_cache=False": not config.use_cache,
        'cache_implementation="static"': config.cache_implementation == "static",
        "output_attentions": config.output_attentions,
        "output_hidden_states": config.output_hidden_states,
    }
    for conflict, holds in conflicts.items():
        if holds:
            raise ValueError(f"{named[0]} does not go with {conflict}")
    return True
