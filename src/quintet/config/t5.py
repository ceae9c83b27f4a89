"""The configuration of a T5 model: its sizes, its variant, and what checkpoints store beside them.

The variants of the family (T5, v1.1, FLAN, mT5, UMT5, ByT5, UL2) are values of one configuration. Three classes exist
because published checkpoints name three model types with different defaults.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from quintet.config import checks
from quintet.config.defaults import COMMON, DEFAULT_LABELS, GENERATION, LEGACY
from quintet.config.gguf import gguf_config
from quintet.files import read_json, staged
from quintet.files.gguf import is_gguf
from quintet.hub import Source

if TYPE_CHECKING:
    import torch

CONFIG_NAME = "config.json"


def _alias(name: str) -> property:
    """A second name for an attribute: reading and writing go to `name`."""
    return property(lambda self: getattr(self, name), lambda self, value: setattr(self, name, value))


class T5Config:
    """Sizes and options of a T5 model; the defaults are those of t5-small.

    Parameters follow `transformers.T5Config`. `feed_forward_proj` is an activation ("relu") or "gated-" and an
    activation ("gated-gelu", which means the tanh approximation of GELU). `num_decoder_layers` defaults to
    `num_layers`. Any further keyword is kept as an attribute and written back by `to_dict`.

    Raises ValueError for a value that no model can be built from, naming the field and what is allowed.
    """

    model_type: ClassVar[str] = "t5"
    position_bias_per_layer: ClassVar[bool] = False
    """Whether every self-attention layer has its own relative position bias (UMT5), or all share the first one's."""

    name_or_path = _alias("_name_or_path")
    hidden_size = _alias("d_model")
    num_attention_heads = _alias("num_heads")
    num_hidden_layers = _alias("num_layers")
    head_dim = _alias("d_kv")
    torch_dtype = _alias("dtype")
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }
    # Set from the keywords, with the defaults of `defaults.COMMON`; those that the package itself reads.
    return_dict: bool
    output_hidden_states: bool
    output_attentions: bool
    torchscript: bool
    pruned_heads: dict[int, list[int]]
    tie_word_embeddings: bool
    is_encoder_decoder: bool
    is_decoder: bool
    architectures: list[str] | None
    problem_type: str | None
    task_specific_params: dict[str, Any] | None
    pad_token_id: int | None
    eos_token_id: int | list[int] | None
    decoder_start_token_id: int | None
    id2label: dict[int, str]
    label2id: dict[str, int]
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    def __init__(
        self,
        vocab_size: int = 32128,
        d_model: int = 512,
        d_kv: int = 64,
        d_ff: int = 2048,
        num_layers: int = 6,
        num_decoder_layers: int | None = None,
        num_heads: int = 8,
        relative_attention_num_buckets: int = 32,
        relative_attention_max_distance: int = 128,
        dropout_rate: float = 0.1,
        layer_norm_epsilon: float = 1e-6,
        initializer_factor: float = 1.0,
        feed_forward_proj: str = "relu",
        is_encoder_decoder: bool = True,
        use_cache: bool = True,
        pad_token_id: int | None = 0,
        eos_token_id: int | list[int] | None = 1,
        classifier_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.d_model = d_model
        self.d_kv = d_kv
        self.d_ff = d_ff
        self.num_layers = num_layers
        self.num_decoder_layers = num_layers if num_decoder_layers is None else num_decoder_layers
        self.num_heads = num_heads
        self.relative_attention_num_buckets = relative_attention_num_buckets
        self.relative_attention_max_distance = relative_attention_max_distance
        self.dropout_rate = dropout_rate
        self.classifier_dropout = classifier_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_factor = initializer_factor
        self.feed_forward_proj = feed_forward_proj
        self.use_cache = use_cache
        self._set_common(
            is_encoder_decoder=is_encoder_decoder, pad_token_id=pad_token_id, eos_token_id=eos_token_id, **kwargs
        )
        self.validate()

    def _set_common(self, **kwargs: Any) -> None:
        """Set what every checkpoint's config.json may carry, and keep what is unknown."""
        for derived in ("model_type", "transformers_version", "dense_act_fn", "is_gated_act"):
            kwargs.pop(derived, None)
        torch_dtype = kwargs.pop("torch_dtype", None)
        if torch_dtype is not None:
            kwargs.setdefault("dtype", torch_dtype)
        labels = {name: kwargs.pop(name, None) for name in ("id2label", "label2id", "num_labels")}
        self._attn_implementation: str | None = kwargs.pop("attn_implementation", None)
        self._name_or_path = str(kwargs.pop("name_or_path", kwargs.pop("_name_or_path", "")))
        for name, default in (COMMON | GENERATION | LEGACY).items():
            setattr(self, name, kwargs.pop(name, copy.copy(default)))
        self._set_labels(**labels)
        for name, value in kwargs.items():
            setattr(self, name, value)

    def _set_labels(self, id2label: Any, label2id: Any, num_labels: Any) -> None:
        checks.check_labels(id2label, label2id, num_labels)
        if id2label is None:
            self.num_labels = 2 if num_labels is None else num_labels
            return
        self.id2label = {int(index): label for index, label in id2label.items()}  # JSON keys are strings
        self.label2id = {label: index for index, label in self.id2label.items()} if label2id is None else label2id

    # -- derived values ------------------------------------------------------------------------------------------

    @property
    def is_gated_act(self) -> bool:
        """Whether the feed-forward layer multiplies an activated and a linear projection."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def dense_act_fn(self) -> str:
        """The activation's name; "gated-gelu" means "gelu_new", every other name is taken as it stands."""
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.split("-")[-1]

    @property
    def num_labels(self) -> int:
        """How many classes a classification head has: the size of `id2label`."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        checks.check_labels(None, None, count)
        if count != len(getattr(self, "id2label", ())):
            self.id2label = {index: f"LABEL_{index}" for index in range(count)}
            self.label2id = {label: index for index, label in self.id2label.items()}

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype that the weights are stored in, if the checkpoint says so."""
        if self._dtype is None:
            return None
        import torch

        return getattr(torch, self._dtype)

    @dtype.setter
    def dtype(self, value: torch.dtype | str | None) -> None:
        self._dtype = None if value is None else checks.dtype_name(value)

    @property
    def use_return_dict(self) -> bool:
        """Whether forward returns named outputs when not told otherwise."""
        return self.return_dict and not self.torchscript

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> T5Config:
        """The configuration itself: libraries ask for the part that describes text, and T5 has no other."""
        return self

    def validate(self) -> None:
        """Raise ValueError if no model can be built from the values, naming the first wrong field."""
        checks.check(self)

    # -- dictionaries and files ----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All values, JSON-ready, with the names published checkpoints use."""
        values = {name: copy.deepcopy(value) for name, value in vars(self).items() if not name.startswith("_")}
        values.update(
            _name_or_path=self._name_or_path,
            dtype=self._dtype,
            dense_act_fn=self.dense_act_fn,
            is_gated_act=self.is_gated_act,
            model_type=self.model_type,
        )
        return values

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json holds: the T5 fields, and of the common ones those that differ from a default."""
        common = COMMON | GENERATION | LEGACY | DEFAULT_LABELS
        own = type(self)().to_dict()
        return {
            name: value
            for name, value in self.to_dict().items()
            if name != "_name_or_path"
            and (name not in common or value != common[name] or value != own.get(name, value))
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """The text of config.json; all values instead of the telling ones with `use_diff=False`."""
        return json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write `to_json_string` to a file."""
        Path(json_file_path).write_text(self.to_json_string(use_diff), encoding="utf-8")

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write config.json into a folder, which is made if it is not there."""
        with staged(save_directory) as folder:
            self.to_json_file(folder / CONFIG_NAME)

    def update(self, config_dict: dict[str, Any]) -> None:
        """Set several attributes; ValueError if the result is no valid configuration."""
        for name, value in config_dict.items():
            setattr(self, name, value)
        self.validate()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build from the contents of a config.json; keywords override its values.

        The class follows the dictionary's `model_type`: a UMT5 checkpoint gives a UMT5Config whichever class of the
        family is asked, because its network differs. Keywords that are no configuration values are returned as a
        second result with `return_unused_kwargs=True`.
        """
        config_class = _config_class(config_dict.get("model_type"), default=cls)
        if kwargs.get("torch_dtype") is not None:
            kwargs.setdefault("dtype", kwargs["torch_dtype"])
        kwargs.pop("torch_dtype", None)
        checks.check_labels(kwargs.get("id2label"), kwargs.get("label2id"), kwargs.get("num_labels"))
        values = {**config_dict, "attn_implementation": kwargs.pop("attn_implementation", None)}
        config = config_class(**values)
        known = {name: kwargs.pop(name) for name in list(kwargs) if hasattr(config, name)}
        config.update(known)
        return (config, kwargs) if return_unused_kwargs else config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> T5Config:
        """Build from a JSON file of values."""
        return cls.from_dict(read_json(Path(json_file)))

    @classmethod
    def get_config_dict(cls, source: Source, gguf_file: str | None = None) -> dict[str, Any]:
        """The contents of a checkpoint's config.json, or of the JSON file that `source` names.

        The values come from a GGUF file's header if `source` is one, or if it holds `gguf_file` and no config.json.
        """
        path = Path(source.name_or_path)
        if is_gguf(path):
            return gguf_config(path)
        if gguf_file is not None and source.find(CONFIG_NAME) is None:
            return gguf_config(source.file(gguf_file))
        return read_json(path if path.is_file() else source.file(CONFIG_NAME))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], gguf_file: str | None = None, **kwargs: Any
    ) -> Any:
        """Read the config.json of a folder or hub repository, a JSON file, or a GGUF file (`gguf_file` in a folder).

        Further keywords override its values. Raises OSError if there is no such file, ValueError if it is no valid
        configuration of the T5 family, ImportError for GGUF without its library.
        """
        source = Source(pretrained_model_name_or_path, **Source.take_options(kwargs))
        return cls.from_dict(cls.get_config_dict(source, gguf_file), **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, T5Config) and type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


class MT5Config(T5Config):
    """Configuration of mT5; the defaults are those of mt5-small, with an output layer of its own (untied)."""

    model_type = "mt5"

    def __init__(
        self,
        vocab_size: int = 250112,
        d_model: int = 512,
        d_kv: int = 64,
        d_ff: int = 1024,
        num_layers: int = 8,
        num_decoder_layers: int | None = None,
        num_heads: int = 6,
        **kwargs: Any,
    ) -> None:
        for name, default in self._defaults.items():
            kwargs.setdefault(name, default)
        super().__init__(vocab_size, d_model, d_kv, d_ff, num_layers, num_decoder_layers, num_heads, **kwargs)

    _defaults: ClassVar[dict[str, Any]] = {
        "feed_forward_proj": "gated-gelu",
        "tokenizer_class": "T5Tokenizer",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
    }


class UMT5Config(MT5Config):
    """Configuration of UMT5: as mT5, tied by default, with a relative position bias in every layer."""

    model_type = "umt5"
    position_bias_per_layer = True
    _defaults: ClassVar[dict[str, Any]] = {**MT5Config._defaults, "tie_word_embeddings": True}


CONFIG_CLASSES: dict[str, type[T5Config]] = {"t5": T5Config, "mt5": MT5Config, "umt5": UMT5Config}
"""The model types that checkpoints name; ByT5, FLAN-T5, v1.1 and UL2 checkpoints name "t5"."""


def _config_class(model_type: str | None, default: type[T5Config]) -> type[T5Config]:
    if model_type is None:
        return default
    if not isinstance(model_type, str) or model_type not in CONFIG_CLASSES:
        raise ValueError(
            f"a checkpoint of model type {model_type!r} is not of the T5 family; "
            f"supported model types: {', '.join(CONFIG_CLASSES)}"
        )
    return CONFIG_CLASSES[model_type]
