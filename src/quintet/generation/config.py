"""How to decode: the options of `generate`, their defaults, and where they are stored."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from quintet.config import T5Config
from quintet.files import read_json, staged
from quintet.hub import Source

GENERATION_CONFIG_NAME = "generation_config.json"
DEFAULT_MAX_LENGTH = 20
CACHES = ("dynamic", "static")
FROM_MODEL_CONFIG = ("pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id", "max_length")
NOT_HERE_YET = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1, "num_beam_groups": 1}
"""Strategies other than greedy: their arguments are taken with the value that means greedy, and refused otherwise."""


@dataclass
class GenerationConfig:
    """Options of greedy decoding.

    max_length counts the start token, unless it is left at its default; max_new_tokens does not, and wins. Unknown
    options found in a file are kept in `extra` and written back.
    """

    max_length: int = DEFAULT_MAX_LENGTH
    max_new_tokens: int | None = None
    use_cache: bool = True
    cache_implementation: str | None = None
    pad_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GenerationConfig:
        """From the contents of generation_config.json."""
        known = {option.name for option in fields(cls)} - {"extra"}
        extra = {name: value for name, value in values.items() if name not in known and name != "transformers_version"}
        return cls(**{name: value for name, value in values.items() if name in known}, extra=extra)

    @classmethod
    def for_model(cls, config: T5Config, source: Source) -> GenerationConfig:
        """From a checkpoint's generation_config.json, or what its config.json says of generation."""
        path = source.find(GENERATION_CONFIG_NAME)
        if path is None:
            return cls.from_model_config(config)
        return cls.from_dict(read_json(path))

    @classmethod
    def from_model_config(cls, config: T5Config) -> GenerationConfig:
        """From what a model's configuration says of generation."""
        return cls.from_dict({name: getattr(config, name) for name in FROM_MODEL_CONFIG})

    def to_dict(self) -> dict[str, Any]:
        """The options that are set to something else than their default."""
        values = asdict(self)
        extra = values.pop("extra")
        default = GenerationConfig()
        return {**extra, **{name: value for name, value in values.items() if value != getattr(default, name)}}

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write generation_config.json into a folder."""
        with staged(save_directory) as folder:
            text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
            Path(folder, GENERATION_CONFIG_NAME).write_text(text, encoding="utf-8")

    def updated(self, **options: Any) -> GenerationConfig:
        """A copy with other options, checked. Raises ValueError for an unknown option or a senseless value."""
        for name, greedy in NOT_HERE_YET.items():
            if options.pop(name, greedy) != greedy:
                raise ValueError(f"{name} is not supported yet: quintet decodes greedily ({name}={greedy})")
        known = {option.name for option in fields(self)} - {"extra"}
        unknown = sorted(set(options) - known)
        if unknown:
            raise ValueError(f"generate got unknown options: {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
        config = replace(self, **options)
        if "max_length" in options and "max_new_tokens" not in options:
            config.max_new_tokens = None
        config.validate()
        return config

    def validate(self) -> None:
        """Raise ValueError for a value that makes no sense, naming it."""
        for name in ("max_length", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.cache_implementation not in (None, *CACHES):
            raise ValueError(
                f"cache_implementation must be one of {', '.join(CACHES)}, got {self.cache_implementation!r}"
            )

    @property
    def eos_token_ids(self) -> list[int]:
        """The tokens that end a sequence, as a list."""
        if self.eos_token_id is None:
            return []
        return [self.eos_token_id] if isinstance(self.eos_token_id, int) else list(self.eos_token_id)
