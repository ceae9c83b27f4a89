"""Loading and saving tokenizers."""

from __future__ import annotations

import copy
import logging
import os
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import AddedToken

from quintet.files import staged
from quintet.hub import Source
from quintet.tokenizers import files
from quintet.tokenizers.base import TokenizerBase

logger = logging.getLogger(__name__)

# Names of one and the same tokenizer in checkpoints of the family.
_SENTENCEPIECE_NAMES = {"T5Tokenizer", "MT5Tokenizer", "UMT5Tokenizer"}

_Self = TypeVar("_Self", bound="PretrainedTokenizer")


class PretrainedTokenizer(TokenizerBase):
    """A tokenizer that can be loaded and saved, in files that the reference reads and writes too."""

    @classmethod
    def from_pretrained(
        cls: type[_Self],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *init_inputs: Any,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        trust_remote_code: bool = False,
        **overrides: Any,
    ) -> _Self:
        """Load from a folder, a repository of the Hugging Face Hub, the package, or a single vocabulary file.

        `overrides` are arguments of the class and take precedence over those saved. `trust_remote_code` is accepted
        for the reference's sake: code is never loaded. Raises OSError for a missing or damaged file, ValueError for
        invalid JSON.
        """
        name = os.fspath(pretrained_model_name_or_path)
        if os.path.isfile(name):
            argument = "tokenizer_file" if name.endswith(".json") else "vocab_file"
            return cls(*init_inputs, **{"name_or_path": name, argument: name, **overrides})
        source = Source(
            name,
            revision=revision,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            token=token,
            subfolder=subfolder or "",
            local_files_only=local_files_only,
            force_download=force_download,
        )
        config = files.read_config(source)
        cls._check_class(config.get("tokenizer_class"), name)
        arguments = files.read_arguments(source, config, overrides, cls.SPECIAL_TOKENS_ATTRIBUTES)
        saved_inputs = arguments.pop("init_inputs", ())
        if not init_inputs:
            init_inputs = tuple(saved_inputs)
        found = {argument: source.find(filename) for argument, filename in cls.vocab_files_names.items()}
        if found and not any(found.values()) and not found.keys() & overrides.keys() and not init_inputs:
            raise source.missing(*cls.vocab_files_names.values())
        vocabulary = {argument: str(path) for argument, path in found.items() if path is not None}
        return cls(*init_inputs, **{"name_or_path": name, **vocabulary, **arguments})

    @classmethod
    def _check_class(cls, saved_class: str | None, name: str) -> None:
        own = cls.__name__.removesuffix("Fast")
        known = _SENTENCEPIECE_NAMES if own in _SENTENCEPIECE_NAMES else {own}
        if saved_class is not None and saved_class.removesuffix("Fast") not in known:
            logger.warning("%s was saved by %s and is loaded as %s.", name, saved_class, cls.__name__)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
    ) -> tuple[str, ...]:
        """Write every file into a folder, all or nothing; returns their paths.

        For a fast tokenizer, `legacy_format` False leaves out what only T5Tokenizer reads, True leaves out
        tokenizer.json.
        """
        if push_to_hub:
            raise ValueError("push_to_hub is not supported: save to a folder, then upload that.")
        if os.path.isfile(save_directory):
            raise NotADirectoryError(f"{os.fspath(save_directory)} is a file: a tokenizer is saved into a folder.")
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        with staged(save_directory) as folder:
            files.write_json(folder / (prefix + files.CONFIG_FILE), self._config_to_save())
            special = {name: _saved(value) for name, value in self.special_tokens_map_extended.items()}
            files.write_json(folder / (prefix + files.SPECIAL_TOKENS_FILE), special)
            names = [prefix + files.CONFIG_FILE, prefix + files.SPECIAL_TOKENS_FILE]
            names += self._write_vocabulary(folder, prefix, legacy_format)
        return tuple(os.path.join(save_directory, name) for name in names)

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary file alone into a folder; returns its path."""
        raise NotImplementedError

    def _write_vocabulary(self, folder: Path, prefix: str, legacy_format: bool | None) -> list[str]:
        """Write the files of a tokenizer that works in Python; returns their names."""
        if legacy_format is False:
            raise ValueError("legacy_format=False saves tokenizer.json, which only a fast tokenizer has.")
        names = [Path(path).name for path in self.save_vocabulary(folder, prefix.removesuffix("-") or None)]
        beyond = {
            token: token_id for token, token_id in self.added_tokens_encoder.items() if token_id >= self.vocab_size
        }
        if beyond:
            files.write_json(folder / (prefix + files.ADDED_TOKENS_FILE), beyond)
            names.append(prefix + files.ADDED_TOKENS_FILE)
        return names

    def _config_to_save(self) -> dict[str, Any]:
        """The arguments that make this tokenizer again, as they are now."""
        config = copy.deepcopy(self.init_kwargs)
        for name in {*self.init_kwargs, "model_max_length", "clean_up_tokenization_spaces"}:
            if hasattr(self, name):
                config[name] = getattr(self, name)
        config |= self.special_tokens_map
        config.setdefault("extra_special_tokens", self.extra_special_tokens)
        if self.init_inputs:
            config["init_inputs"] = list(self.init_inputs)
        for name in files.NOT_ARGUMENTS:
            config.pop(name, None)
        config = {name: _saved(value, mark_type=True) for name, value in config.items()}
        config["added_tokens_decoder"] = {i: token.__getstate__() for i, token in self.added_tokens_decoder.items()}
        config["tokenizer_class"] = self._saved_class_name()
        return config

    def _saved_class_name(self) -> str:
        return type(self).__name__


def _saved(value: Any, mark_type: bool = False) -> Any:
    """`value` with dictionaries for the AddedToken objects in it; each of the two files has its own form."""
    if isinstance(value, AddedToken):
        state = value.__getstate__()
        if mark_type:
            return {**state, "__type": "AddedToken"}
        return {name: flag for name, flag in state.items() if name != "special"}
    if isinstance(value, (list, tuple)):
        return [_saved(item, mark_type) for item in value]
    if isinstance(value, dict):
        return {key: _saved(item, mark_type) for key, item in value.items()}
    return value
