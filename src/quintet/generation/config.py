"""How to decode: the options of `generate`, their defaults, and where they are stored."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from quintet.config import T5Config
from quintet.files import read_json, staged
from quintet.generation import validation
from quintet.hub import Source

GENERATION_CONFIG_NAME = "generation_config.json"
DEFAULT_MAX_LENGTH = 20
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
BOOKKEEPING = ("extra", "transformers_version", "derived_from")


@dataclass
class GenerationConfig:
    """The options of `generate`, under the reference's names; `validate` says which values make sense.

    Length: max_length and min_length count the start token, max_new_tokens and min_new_tokens do not, and win; a
    max_length left at its default counts new tokens only. Options that a file holds and nobody knows are kept in
    `extra` and written back. Those that only quintet has: vocab_limit (ids from there on are never produced:
    `len(tokenizer)`, because T5's checkpoints have more rows than their vocabulary), and constraint (see `generate`).
    """

    max_length: int = DEFAULT_MAX_LENGTH
    max_new_tokens: int | None = None
    min_length: int | None = 0
    min_new_tokens: int | None = None
    early_stopping: bool | str = False
    max_time: float | None = None
    stop_strings: str | list[str] | None = None

    do_sample: bool = False
    num_beams: int = 1
    num_beam_groups: int = 1
    penalty_alpha: float | None = None

    use_cache: bool = True
    cache_implementation: str | None = None
    return_legacy_cache: bool | None = None

    temperature: float | None = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    min_p: float | None = None
    typical_p: float | None = 1.0
    epsilon_cutoff: float | None = 0.0
    eta_cutoff: float | None = 0.0

    diversity_penalty: float | None = 0.0
    repetition_penalty: float | None = 1.0
    encoder_repetition_penalty: float | None = 1.0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int | None = 0
    encoder_no_repeat_ngram_size: int | None = 0
    bad_words_ids: list[list[int]] | None = None
    force_words_ids: list[list[int]] | list[list[list[int]]] | None = None
    constraints: Sequence[Any] | None = None
    constraint: Any = None
    renormalize_logits: bool = False
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = None
    remove_invalid_values: bool = False
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    sequence_bias: Any = None
    vocab_limit: int | None = None

    num_return_sequences: int = 1
    output_attentions: bool = False
    output_hidden_states: bool = False
    output_scores: bool = False
    output_logits: bool | None = None
    return_dict_in_generate: bool = False

    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | list[int] | None = None

    num_assistant_tokens: int = 20
    num_assistant_tokens_schedule: str = "constant"
    assistant_confidence_threshold: float = 0.4
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int | None = None

    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    transformers_version: str | None = field(default=None, repr=False, compare=False)
    derived_from: dict[str, Any] | None = field(default=None, repr=False, compare=False)
    """The values read from a model's configuration, if they came from there; see `followed`."""

    _from_model_config: ClassVar[bool] = False  # `Seq2SeqTrainer` asks whether it has to stop us from following it

    def __post_init__(self) -> None:
        self.validate()

    # -- dictionaries and files ----------------------------------------------------------------------------------

    @classmethod
    def option_names(cls) -> set[str]:
        """The names of all options."""
        return {option.name for option in fields(cls)} - set(BOOKKEEPING)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """From the contents of generation_config.json; keywords override them.

        With `return_unused_kwargs`, returns (configuration, keywords that are no options).
        """
        known = cls.option_names() | {"transformers_version"}
        values = {name: value for name, value in config_dict.items() if name in known}
        extra = {name: value for name, value in config_dict.items() if name not in known and not name.startswith("_")}
        config = cls(**values, extra=extra)
        unused = config.update(**kwargs)
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name: str | os.PathLike[str], config_file_name: str | None = None, **kwargs: Any
    ) -> Any:
        """Read a folder's or a hub repository's generation_config.json, or another file of it.

        Keywords are hub options (revision, token, ...), `return_unused_kwargs`, or override the file's values. Raises
        OSError if there is no such file, ValueError if its values make no sense.
        """
        source = Source(pretrained_model_name, **Source.take_options(kwargs))
        return cls.from_dict(read_json(source.file(config_file_name or GENERATION_CONFIG_NAME)), **kwargs)

    @classmethod
    def from_model_config(cls, model_config: T5Config) -> GenerationConfig:
        """From what a model's configuration says of generation, as older checkpoints do.

        Such a configuration goes on following the model's, as long as nobody changes it (see `followed`).
        """
        held = model_config.to_dict()
        config = cls.from_dict({name: held[name] for name in cls.option_names() if name in held})
        if config.output_attentions or config.output_hidden_states or config.output_scores:
            config.return_dict_in_generate = True  # what a model was told to return comes in a result
        config.derived_from = config.to_dict()
        return config

    @classmethod
    def for_model(cls, model_config: T5Config, source: Source) -> GenerationConfig:
        """From a checkpoint's generation_config.json, or else from what its config.json says of generation."""
        path = source.find(GENERATION_CONFIG_NAME)
        return cls.from_model_config(model_config) if path is None else cls.from_dict(read_json(path))

    def to_dict(self) -> dict[str, Any]:
        """All options and their values."""
        return {**self.extra, **{name: getattr(self, name) for name in self._own_names()}}

    def to_diff_dict(self) -> dict[str, Any]:
        """The options that are set to something else than their default: what generation_config.json holds."""
        values = {name: value for name, value in self.to_dict().items() if value != getattr(_DEFAULT, name, None)}
        return copy.deepcopy(values)

    def to_json_string(self, use_diff: bool = True) -> str:
        """The text of generation_config.json; all options instead of the changed ones with `use_diff=False`."""
        values = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], config_file_name: str = GENERATION_CONFIG_NAME
    ) -> None:
        """Write generation_config.json into a folder.

        Raises ValueError for options that contradict each other, and for those that JSON cannot hold.
        """
        self.validate()
        unsaved = [name for name in ("constraint", "constraints") if getattr(self, name) is not None]
        if unsaved:
            raise ValueError(
                f"{unsaved[0]} belongs to a call of generate and cannot be saved in a file; set it to None"
            )
        text = self.to_json_string()
        with staged(save_directory) as folder:
            Path(folder, config_file_name).write_text(text, encoding="utf-8")

    # -- changing and checking -----------------------------------------------------------------------------------

    def update(self, **kwargs: Any) -> dict[str, Any]:
        """Set options in place; returns the keywords that are no options. Raises ValueError for senseless values."""
        known = self.option_names()
        changed = replace(self, **{name: value for name, value in kwargs.items() if name in known})
        for name in known & kwargs.keys():
            setattr(self, name, getattr(changed, name))
        return {name: value for name, value in kwargs.items() if name not in known}

    def filled_from(self, model_config: GenerationConfig, every_option: bool) -> GenerationConfig:
        """A copy in which options left at their default take the model's value: all of them, or special tokens only."""
        names = self._own_names() if every_option else SPECIAL_TOKENS
        theirs = {name: getattr(model_config, name) for name in names}
        left = {name: value for name, value in theirs.items() if getattr(self, name) == getattr(_DEFAULT, name)}
        if self.temperature == 0.0:  # who asks for that means greedy, whatever the model samples by default
            left["do_sample"] = False
        return replace(self, **left)

    def followed(self, model_config: T5Config) -> GenerationConfig:
        """This configuration, or what the model's configuration says now, if this one came from there unchanged."""
        if self.derived_from is None or self.derived_from != self.to_dict():
            return self
        return GenerationConfig.from_model_config(model_config)

    def validate(self, strict: bool = False) -> None:
        """Raise ValueError for a value that makes no sense or options that contradict each other, naming them.

        With `strict`, also for options that have no effect together; otherwise those are logged as one warning.
        """
        validation.check(self)
        useless = validation.without_effect(self)
        if useless and strict:
            raise ValueError(f"these options have no effect: {'; '.join(useless.values())}")
        if useless:
            validation.warn_once(tuple(useless.values()))

    @property
    def eos_token_ids(self) -> list[int]:
        """The tokens that end a sequence, as a list."""
        if self.eos_token_id is None:
            return []
        return (
            [self.eos_token_id] if isinstance(self.eos_token_id, int) else [int(token) for token in self.eos_token_id]
        )

    def _own_names(self) -> list[str]:
        return [option.name for option in fields(self) if option.name not in BOOKKEEPING]


_DEFAULT = GenerationConfig()
