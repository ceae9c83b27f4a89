"""Pairs of models, one of quintet and one of `transformers`, that hold the same weights; batches to run through both.

`transformers` is the oracle: each test states what quintet must do by doing it with the reference beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import quintet

PAD, EOS, START = 0, 1, 0
HEADS = (
    "Model",
    "ForConditionalGeneration",
    "EncoderModel",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
ENCODER_ONLY = ("EncoderModel", "ForTokenClassification")
WITH_DECODER = tuple(head for head in HEADS if head not in ENCODER_ONLY)
# These two pass a cache in; the classification and question answering heads only hand one out.
TAKES_CACHE = ("Model", "ForConditionalGeneration")

SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": START,
}


@dataclass(frozen=True)
class Variant:
    """One member of the family: the prefix of its class names, and what its configuration changes."""

    family: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def decoder_layers(self) -> int:
        return self.changes.get("num_decoder_layers", SIZES["num_layers"])


VARIANTS = {
    "t5": Variant("T5"),
    "v1.1": Variant("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": Variant("MT5"),
    "umt5": Variant("UMT5", {"tie_word_embeddings": False}),
    "umt5-tied": Variant("UMT5", {"num_layers": 3, "num_decoder_layers": 2}),
    "deep-encoder": Variant("T5", {"num_layers": 3, "num_decoder_layers": 1}),
    "deep-decoder": Variant("T5", {"num_layers": 1, "num_decoder_layers": 3}),
    "wide": Variant("T5", {"num_heads": 3, "d_kv": 16}),
    "silu": Variant("T5", {"feed_forward_proj": "gated-silu"}),
}


@dataclass(frozen=True)
class Pair:
    """The same network twice: quintet's and the reference's, with the same weights, both in evaluation mode."""

    ours: Any
    theirs: Any

    def __iter__(self) -> Iterator[Any]:
        return iter((self.ours, self.theirs))


def config_values(head: str, variant: str, **changes: Any) -> dict[str, Any]:
    """The keyword arguments that make the tiny configuration of a variant, for either library."""
    labels = {} if head == "ForQuestionAnswering" else {"num_labels": 3}
    return {**SIZES, **labels, **VARIANTS[variant].changes, **changes}


def build(library: Any, head: str, variant: str, backend: str = "eager", **changes: Any) -> Any:
    """A randomly initialised tiny model of `library`, which computes with its own layers."""
    family = VARIANTS[variant].family
    if library is quintet:
        changes["attn_implementation"] = backend
    config = getattr(library, f"{family}Config")(**config_values(head, variant, **changes))
    model = getattr(library, f"{family}{head}")(config)
    if library is quintet:
        model.engine = "eager"
    return model


def make_pair(head: str, variant: str = "t5", backend: str = "eager", **changes: Any) -> Pair:
    """A fresh pair that the test may change; the weights are drawn so that position, padding and order matter."""
    theirs = build(transformers, head, variant, **changes)
    randomize(theirs)
    ours = build(quintet, head, variant, backend, **changes)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return Pair(ours.eval(), theirs.eval())


@cache
def shared_pair(head: str, variant: str = "t5", backend: str = "eager") -> Pair:
    """A pair that many tests read and none may change."""
    return make_pair(head, variant, backend)


@torch.no_grad()
def randomize(model: nn.Module, seed: int = 0) -> None:
    """Draws weights under which attention is neither uniform nor one-hot, and the residual branches outweigh the input.

    As published, a random T5 echoes its last token whatever it reads, which would hide most mistakes.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise * _scale(name, parameter, model.config) + ("layer_norm" in name))


def _scale(name: str, parameter: Tensor, config: Any) -> float:
    if "layer_norm" in name or parameter.dim() == 1:
        return 0.2
    if "relative_attention_bias" in name:
        return 1.0
    if "shared" in name:
        return 0.25
    gain = {"q": 2 * config.d_kv**-0.5, "o": 1.5, "wo": 1.5, "lm_head": 3.0}.get(name.split(".")[-2], 1.0)
    return gain * parameter.shape[1] ** -0.5


def make_batch(head: str, padding: str = "right", seed: int = 1) -> dict[str, Tensor]:
    """Three rows of unequal lengths with one end-of-sequence token each, as keyword arguments of the head's forward.

    `padding` is "right", "left" or "none"; with "none" every row has the full length and there is no mask.
    """
    generator = torch.Generator().manual_seed(seed)
    ids, mask = _rows((11, 6, 3), padding, generator)
    batch = {"input_ids": ids, "attention_mask": mask}
    if head in TAKES_CACHE:
        ids, mask = _rows((8, 5, 2), padding, generator)
        batch |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    return {name: value for name, value in batch.items() if padding != "none" or not name.endswith("mask")}


def make_labels(head: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the head is trained on, as keyword arguments; some labels are -100 where the head ignores those."""
    if head == "ForConditionalGeneration":
        targets = batch["decoder_input_ids"]
        return {"labels": targets.masked_fill(targets == PAD, -100)}
    if head == "ForSequenceClassification":
        return {"labels": torch.tensor([2, 0, 1])}
    if head == "ForTokenClassification":
        ids = batch["input_ids"]
        return {"labels": (ids % 3).masked_fill(ids == PAD, -100)}
    if head == "ForQuestionAnswering":
        return {"start_positions": torch.tensor([1, 8, 9]), "end_positions": torch.tensor([3, 9, 10])}
    return {}


def _rows(lengths: tuple[int, ...], padding: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    longest = max(lengths)
    ids = torch.full((len(lengths), longest), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        length = longest if padding == "none" else length
        tokens = torch.randint(3, SIZES["vocab_size"], (length,), generator=generator)
        tokens[-1] = EOS
        place = slice(longest - length, longest) if padding == "left" else slice(0, length)
        ids[row, place] = tokens
        mask[row, place] = 1
    return ids, mask


def all_outputs(head: str, **changes: Any) -> dict[str, bool]:
    """The arguments that make a forward pass return everything it computes."""
    cache = {"use_cache": True} if head in WITH_DECODER else {}
    return {"output_hidden_states": True, "output_attentions": True, **cache, **changes}


def assert_same(ours: Any, theirs: Any, tolerance: float = 1e-5, where: str = "output") -> None:
    """Compares outputs, caches, tuples and tensors: the same structure, the same shapes, values within `tolerance`."""
    if isinstance(theirs, Tensor):
        assert isinstance(ours, Tensor), f"{where}: {type(ours)}"
        assert ours.dtype == theirs.dtype, f"{where}: {ours.dtype}, not {theirs.dtype}"
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance, msg=lambda text: f"{where}: {text}")
    elif isinstance(theirs, Mapping):
        assert list(ours) == list(theirs), where
        for key in theirs:
            assert_same(ours[key], theirs[key], tolerance, f"{where}.{key}")
    elif hasattr(theirs, "self_attention_cache"):
        assert_same(cache_layers(ours), cache_layers(theirs), tolerance, where)
    elif isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs), f"{where}: {len(ours)} entries, not {len(theirs)}"
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, tolerance, f"{where}[{index}]")
    else:
        assert ours == theirs, where


def cache_layers(cache: Any) -> tuple[tuple[Tensor, ...], ...]:
    """What a cache holds, layer by layer; an encoder-decoder cache: self keys and values, cross keys and values."""
    return tuple(tuple(cache[index]) for index in range(len(cache)))


def without_padding(outputs: Mapping[str, Any], decoder_mask: Tensor) -> dict[str, Any]:
    """Outputs with zeros where the decoder read padding.

    A left-padded decoder has queries that may see nothing; what attention answers there is a backend's own business as
    long as it is finite. Everything else is compared.
    """
    rows = decoder_mask[:, :, None]
    kept = dict(outputs)
    for key in ("logits", "last_hidden_state"):
        if key in kept:
            kept[key] = kept[key] * rows
    if "decoder_hidden_states" in kept:
        kept["decoder_hidden_states"] = tuple(states * rows for states in kept["decoder_hidden_states"])
    if "past_key_values" in kept:
        seen = rows[:, None]
        layers = cache_layers(kept["past_key_values"])
        kept["past_key_values"] = tuple((keys * seen, values * seen, *cross) for keys, values, *cross in layers)
    return kept
