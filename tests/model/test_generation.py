"""Greedy decoding gives the reference's tokens, token for token."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import quintet

from .reference import PAD, VARIANTS, Pair, make_batch, make_pair, shared_pair

HEAD = "ForConditionalGeneration"


@cache
def ending_pair(variant: str, backend: str = "eager") -> Pair:
    """A pair whose end-of-sequence token is one that it does produce, so that its rows end at different times."""
    free = make_pair(HEAD, variant)
    tokens = free.theirs.generate(**source("right"), max_new_tokens=8, use_cache=False)
    end = next(token for token in tokens[0, 3:].tolist() if token != PAD)
    return make_pair(HEAD, variant, backend, eos_token_id=end)


def source(padding: str, rows: int = 6) -> dict[str, Tensor]:
    """Six different rows to read."""
    batches = [make_batch("EncoderModel", padding, seed=seed) for seed in (1, 2)]
    names = batches[0]
    return {name: torch.cat([batch[name] for batch in batches])[:rows] for name in names}


def generate(pair: Pair, variant: str, **arguments: Any) -> tuple[Tensor, Tensor]:
    """Both answers; the reference decodes without a cache where it has none for a deeper decoder."""
    uncached = {"use_cache": False} if variant == "deep-decoder" else {}
    theirs = {key: value for key, value in arguments.items() if not uncached or key != "cache_implementation"}
    return pair.ours.generate(**arguments), pair.theirs.generate(**{**theirs, **uncached})


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_are_identical(variant: str, backend: str, padding: str) -> None:
    ours, theirs = generate(shared_pair(HEAD, variant, backend), variant, **source(padding), max_new_tokens=20)
    assert torch.equal(ours, theirs)
    assert ours.dtype == torch.long
    assert len(theirs.unique()) > 3, "the test needs models that say something"


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_finished_rows_are_padded(variant: str, padding: str) -> None:
    pair = ending_pair(variant)
    ours, theirs = generate(pair, variant, **source(padding), max_new_tokens=20)
    assert torch.equal(ours, theirs)
    end = pair.ours.config.eos_token_id
    assert (ours == end).any(), "the test needs a row that ends"


@pytest.mark.parametrize(
    "options", [{"use_cache": False}, {"cache_implementation": "static"}, {"use_cache": True}], ids=str
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_cache_gives_the_same_tokens(variant: str, options: dict[str, Any]) -> None:
    pair = ending_pair(variant)
    arguments = {**source("left"), "max_new_tokens": 15}
    expected = pair.theirs.generate(**arguments, use_cache=False)
    assert torch.equal(pair.ours.generate(**arguments, **options), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_follows_its_own_logits(dtype: torch.dtype) -> None:
    """The cached choice at every step is a best one of an uncached pass over what came before."""
    model = make_pair(HEAD, "v1.1", "sdpa").ours.to(dtype)
    arguments = source("left")
    tokens = model.generate(**arguments, max_new_tokens=12)
    with torch.no_grad():
        logits = model(**arguments, decoder_input_ids=tokens[:, :-1], use_cache=False).logits.float()
    chosen = logits.gather(2, tokens[:, 1:, None])[..., 0]
    unfinished = (tokens[:, :-1] == model.config.eos_token_id).cumsum(1) == 0
    assert ((logits.max(-1).values - chosen)[unfinished] < 0.1).all()


def test_the_arguments_of_the_call() -> None:
    pair = shared_pair(HEAD, "v1.1")
    batch = source("right")
    for arguments in (
        {"max_new_tokens": 1},
        {"max_length": 7},
        {"max_new_tokens": 9, "do_sample": False, "num_beams": 1},
        {"max_new_tokens": 9, "eos_token_id": 5},
        {"max_new_tokens": 9, "decoder_start_token_id": 4},
        {},
    ):
        ours, theirs = (model.generate(**batch, **arguments) for model in pair)
        assert torch.equal(ours, theirs), arguments


def test_the_first_argument_is_the_ids() -> None:
    ids = source("none")["input_ids"]
    for variant in ("t5", "umt5"):
        ours, theirs = (model.generate(ids, max_new_tokens=6) for model in shared_pair(HEAD, variant))
        assert torch.equal(ours, theirs)


def test_padding_is_recognised_without_a_mask() -> None:
    """Given no mask, the reference masks pad tokens that it finds in the ids."""
    ids = source("right")["input_ids"]
    ours, theirs = (model.generate(ids, max_new_tokens=10) for model in shared_pair(HEAD, "v1.1"))
    assert torch.equal(ours, theirs)


def test_what_was_encoded_before_is_not_encoded_again() -> None:
    pair = shared_pair(HEAD, "v1.1")
    batch = source("left")
    results = []
    for model in pair:
        with torch.no_grad():
            states = model.get_encoder()(**batch)
        results.append(
            model.generate(encoder_outputs=states, attention_mask=batch["attention_mask"], max_new_tokens=10)
        )
    assert torch.equal(*results)
    assert torch.equal(results[0], pair.ours.generate(**batch, max_new_tokens=10))


@pytest.mark.parametrize("variant", ["v1.1", "umt5"])
@pytest.mark.parametrize("limit", [{"max_new_tokens": 4}, {"max_length": 9}])
def test_a_prefix_of_the_target_is_continued(variant: str, limit: dict[str, int]) -> None:
    prefix = torch.randint(3, 99, (6, 3), generator=torch.Generator().manual_seed(9))
    prefix = torch.cat([torch.zeros_like(prefix[:, :1]), prefix], dim=1)
    ours, theirs = (
        model.generate(**source("left"), decoder_input_ids=prefix, **limit) for model in shared_pair(HEAD, variant)
    )
    assert torch.equal(ours, theirs)
    assert torch.equal(ours[:, :4], prefix)


@pytest.mark.parametrize("max_length", [3, 4])
def test_a_prefix_that_leaves_no_room_is_refused(max_length: int) -> None:
    prefix = torch.tensor([[0, 5, 6, 7]] * 6)
    for model in shared_pair(HEAD):
        with pytest.raises(ValueError, match="max_length"):
            model.generate(**source("right"), decoder_input_ids=prefix, max_length=max_length)


def test_generation_leaves_the_model_as_it_was() -> None:
    model = make_pair(HEAD).ours.train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens = model.eval().generate(**source("left"), max_new_tokens=5)
    assert not tokens.requires_grad
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_settings_stored_beside_the_weights_are_used(tmp_path: Path) -> None:
    pair = make_pair(HEAD, "v1.1")
    pair.theirs.generation_config.max_new_tokens = 3
    pair.theirs.generation_config.decoder_start_token_id = 4
    pair.theirs.save_pretrained(tmp_path)
    results = [
        library.T5ForConditionalGeneration.from_pretrained(tmp_path).generate(**source("right"))
        for library in (quintet, transformers)
    ]
    assert torch.equal(*results)
    assert results[0].shape == (6, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"cache_implementation": "nonsense"}, "cache_implementation"),
        ({"nonsense": 1}, "nonsense"),
        ({"attention_mask": torch.ones(6, 3)}, "attention_mask"),
        ({"input_ids": torch.full((6, 11), 99)}, "input_ids"),
        ({"input_ids": None}, "input"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    model = shared_pair(HEAD).ours
    with pytest.raises((ValueError, TypeError, IndexError), match=message):
        model.generate(**{**source("right"), **arguments})


def english(shared: Path, count: int = 40) -> list[str]:
    """Different English sentences, in the order of the file."""
    lines = sorted((shared / "data" / "tatoeba").glob("*dev*"))[0].read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(line.split("\t")[0] for line in lines))[:count]


@pytest.fixture(scope="module")
def real_pair(shared: Path) -> Pair:
    folder = shared / "models" / "flan-t5-small-title"
    ours, theirs = (
        library.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        for library in (quintet, transformers)
    )
    return Pair(ours, theirs)


@pytest.mark.parametrize("side", ["right", "left"])
def test_forty_sentences_with_a_real_model(shared: Path, real_pair: Pair, side: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(shared / "models" / "flan-t5-small-title", padding_side=side)
    texts = [f"translate English to German: {text}" for text in english(shared)]
    for start in range(0, len(texts), 20):
        batch = tokenizer(texts[start : start + 20], return_tensors="pt", padding=True)
        ours, theirs = (
            model.generate(input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=24)
            for model in real_pair
        )
        assert torch.equal(ours, theirs)


def test_the_house_is_wonderful(shared: Path, real_pair: Pair) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(shared / "models" / "flan-t5-small-title")
    ids = tokenizer("translate English to German: The house is wonderful.", return_tensors="pt").input_ids
    tokens = real_pair.ours.generate(ids, max_new_tokens=20)
    assert tokenizer.decode(tokens[0], skip_special_tokens=True) == "Das Haus ist wunderbar."
