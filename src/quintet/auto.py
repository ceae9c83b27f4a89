"""Auto classes: from a checkpoint's files to the class that fits them."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from quintet.config import T5Config
from quintet.config.t5 import CONFIG_NAME
from quintet.files import read_json
from quintet.hub import Source
from quintet.model import heads, task_heads, variants
from quintet.tokenizers import ByT5Tokenizer, T5Tokenizer, T5TokenizerFast, TokenizerBase
from quintet.tokenizers.files import read_config
from quintet.tokenizers.pretrained import PretrainedTokenizer

NameOrPath = str | os.PathLike[str]

# The names under which checkpoints keep a tokenizer with a vocabulary; old ones name none.
VOCABULARY_CLASSES = (
    *(f"{variant}Tokenizer{suffix}" for variant in ("T5", "MT5", "UMT5") for suffix in ("", "Fast")),
    "PreTrainedTokenizerFast",
    None,
)


class _Auto:
    """A class that is never made itself, only asked for instances of others."""

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} has no instances; use {type(self).__name__}.from_pretrained(...)")


class AutoConfig(_Auto):
    """The configuration of a checkpoint, in the class of its model type."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: NameOrPath, **kwargs: Any) -> T5Config:
        """See `T5Config.from_pretrained`; ValueError for a model type outside the T5 family."""
        return T5Config.from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def for_model(cls, model_type: str, **kwargs: Any) -> T5Config:
        """A new configuration of a model type: "t5", "mt5" or "umt5"."""
        return T5Config.from_dict({"model_type": model_type}, **kwargs)


class AutoTokenizer(_Auto):
    """The tokenizer of a checkpoint: on bytes for ByT5, else the fast one unless `use_fast=False`."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: NameOrPath, use_fast: bool = True, **kwargs: Any
    ) -> TokenizerBase:
        """See `T5TokenizerFast.from_pretrained`. Raises OSError for missing files, ValueError for another family's."""
        source = Source(pretrained_model_name_or_path, **Source.take_options(dict(kwargs)))
        return cls.class_for(source, use_fast).from_pretrained(pretrained_model_name_or_path, **kwargs)

    @staticmethod
    def class_for(source: Source, use_fast: bool = True) -> type[PretrainedTokenizer]:
        """The class that loads a checkpoint's tokenizer; ValueError if it is another family's."""
        saved_class = read_config(source).get("tokenizer_class")
        if saved_class is None and (model_config := source.find(CONFIG_NAME)) is not None:
            saved_class = read_json(model_config).get("tokenizer_class")  # older checkpoints name it there
        if saved_class == "ByT5Tokenizer":
            return ByT5Tokenizer
        if saved_class not in VOCABULARY_CLASSES:
            raise ValueError(
                f"a tokenizer of class {saved_class!r} is not of the T5 family; supported classes: "
                f"{', '.join(filter(None, VOCABULARY_CLASSES))}, ByT5Tokenizer"
            )
        return T5TokenizerFast if use_fast else T5Tokenizer


class _AutoModel(_Auto):
    head: ClassVar[str]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: NameOrPath, **kwargs: Any) -> Any:
        """See `T5PreTrainedModel.from_pretrained`; ValueError for a model type outside the T5 family."""
        config = kwargs.get("config")
        if config is None:
            options = {"gguf_file": kwargs.get("gguf_file"), **Source.take_options(dict(kwargs))}
            config = T5Config.from_pretrained(pretrained_model_name_or_path, **options)
        elif not isinstance(config, T5Config):
            config = kwargs["config"] = T5Config.from_pretrained(config)
        return cls.class_for(config).from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_config(cls, config: T5Config) -> Any:
        """A new model with weights as before training."""
        return cls.class_for(config)(config)

    @classmethod
    def class_for(cls, config: T5Config) -> Any:
        if not isinstance(config, T5Config):
            raise ValueError(f"{cls.__name__} needs a configuration of the T5 family, got {type(config).__name__}")
        name = config.model_type.upper() + cls.head
        return next(getattr(module, name) for module in (heads, task_heads, variants) if hasattr(module, name))


class AutoModel(_AutoModel):
    """Encoder and decoder without a head."""

    head = "Model"


class AutoModelForSeq2SeqLM(_AutoModel):
    """Text to text."""

    head = "ForConditionalGeneration"


class AutoModelForTextEncoding(_AutoModel):
    """The encoder alone."""

    head = "EncoderModel"


class AutoModelForSequenceClassification(_AutoModel):
    """Classification of texts."""

    head = "ForSequenceClassification"


class AutoModelForTokenClassification(_AutoModel):
    """Classification of tokens."""

    head = "ForTokenClassification"


class AutoModelForQuestionAnswering(_AutoModel):
    """Extractive question answering."""

    head = "ForQuestionAnswering"
