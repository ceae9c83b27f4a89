"""Features of texts beside the reference's pipeline; pooling against its definition."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import quintet

from .conftest import close

Pipes = Callable[..., tuple[Any, Any]]
TASK = "feature-extraction"
TEXTS = ["The house is wonderful.", "", "A longer text, about a dog that the neighbours like a lot.", "Yes."]


@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS, TEXTS[:1]], ids=str)
def test_states_of_tokens(inputs: Any, make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK)
    assert close(ours(inputs), theirs(inputs))
    result, expected = (pipe(inputs, return_tensors=True) for pipe in (ours, theirs))
    for one, other in zip(*((x if isinstance(x, list) else [x]) for x in (result, expected)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {"truncation": True, "tokenize_kwargs": {"max_length": 5}},
        {"tokenize_kwargs": {"padding": "max_length", "max_length": 9, "truncation": True}},
        {"tokenize_kwargs": {"add_special_tokens": False}},
    ],
)
def test_options_of_the_tokenizer(options: dict[str, Any], make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK)
    assert close(ours(TEXTS[0], **options), theirs(TEXTS[0], **copy.deepcopy(options)))  # it changes what it is given
    ours, theirs = make_pipes(TASK, **options)
    assert close(ours(TEXTS[0]), theirs(TEXTS[0]))


def test_a_batch_changes_nothing(make_pipes: Pipes) -> None:
    """(The reference leaves the padding of a batch in its features.)"""
    ours, theirs = make_pipes(TASK)
    assert close(ours(TEXTS, batch_size=3), theirs(TEXTS))
    for pooling in ("mean", "first"):
        assert close(ours(TEXTS, batch_size=3, pooling=pooling), ours(TEXTS, pooling=pooling))


def pooled(states: torch.Tensor, pooling: str, normalize: bool) -> torch.Tensor:
    """By the definition, from the reference's states (1, tokens, d_model)."""
    vector = states[0].mean(dim=0) if pooling == "mean" else states[0, 0]
    return vector / vector.pow(2).sum().sqrt() if normalize else vector


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("normalize", [False, True])
def test_one_vector_a_text(pooling: str, normalize: bool, make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK)
    options = {"pooling": pooling, "normalize": normalize}
    expected = [pooled(states, pooling, normalize) for states in theirs(TEXTS, return_tensors=True)]
    assert close(ours(TEXTS, **options), [vector.tolist() for vector in expected])
    assert close(ours(TEXTS, batch_size=4, **options), [vector.tolist() for vector in expected])
    torch.testing.assert_close(ours(TEXTS[0], return_tensors=True, **options), expected[0])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_pooling_does_not_see_padding(side: str, pooling: str, make_pipes: Pipes) -> None:
    ours, _ = make_pipes(TASK, tokenizer={"padding_side": side})
    padded = ours(TEXTS, pooling=pooling, tokenize_kwargs={"padding": "max_length", "max_length": 40})
    assert close(padded, ours(TEXTS, pooling=pooling))


def test_normalised_states_of_tokens(make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK)
    expected = torch.nn.functional.normalize(theirs(TEXTS[0], return_tensors=True), dim=-1)
    torch.testing.assert_close(ours(TEXTS[0], normalize=True, return_tensors=True), expected)


def test_vectors_of_half_precision(folders: Callable[[str], Path]) -> None:
    """Pooled in float32, whatever the model's precision."""
    ours = quintet.pipeline(TASK, model=folders("ForConditionalGeneration"), dtype=torch.bfloat16)
    assert ours(TEXTS[0], return_tensors=True).dtype == torch.bfloat16
    vector = ours(TEXTS[0], return_tensors=True, pooling="mean", normalize=True)
    assert (vector.dtype, vector.shape) == (torch.float32, (32,))
    assert vector.norm().item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("head", ["EncoderModel", "Model", "ForConditionalGeneration", "ForTokenClassification"])
def test_any_model_will_do(head: str, folders: Callable[[str], Path]) -> None:
    """The encoder reads the texts. (The reference wants decoder input of all but the encoder.)"""
    folder = folders(head)
    encoder = transformers.T5EncoderModel.from_pretrained(folder)
    if head == "ForTokenClassification":  # its encoder has a prefix that the reference's loader does not look behind
        encoder = transformers.T5ForTokenClassification.from_pretrained(folder).transformer
    tokenizer = transformers.T5TokenizerFast.from_pretrained(folder)
    expected = transformers.pipeline(TASK, model=encoder, tokenizer=tokenizer)(TEXTS)
    by_name = quintet.pipeline(TASK, model=folder)
    assert type(by_name.model) is quintet.T5EncoderModel
    assert close(by_name(TEXTS), expected)
    model = getattr(quintet, f"T5{head}").from_pretrained(folder)
    assert close(quintet.pipeline(TASK, model=model, tokenizer=str(folder))(TEXTS), expected)


# -- what it refuses


def test_truncation_in_two_places(make_pipes: Pipes) -> None:
    ours, theirs = make_pipes(TASK)
    for pipe, message in ((ours, "truncation is given twice"), (theirs, "truncation parameter defined twice")):
        with pytest.raises(ValueError, match=message):
            pipe(TEXTS, truncation=True, tokenize_kwargs={"truncation": True})


@pytest.mark.parametrize("pooling", ["max", None, 1])
def test_unknown_pooling(pooling: Any, make_pipes: Pipes) -> None:
    with pytest.raises(ValueError, match="pooling must be one of none, mean, first, got"):
        make_pipes(TASK)[0](TEXTS, pooling=pooling)


@pytest.mark.parametrize("inputs", [None, 3, ["a", None], [["a"]]])
def test_what_is_no_text(inputs: Any, make_pipes: Pipes) -> None:
    with pytest.raises(ValueError, match="the input must be a text or a list of texts"):
        make_pipes(TASK)[0](inputs)


def test_a_text_without_tokens(make_pipes: Pipes) -> None:
    with pytest.raises(ValueError, match="input 1: the text has no tokens"):
        make_pipes(TASK)[0](["a", ""], tokenize_kwargs={"add_special_tokens": False})


def test_unknown_options(make_pipes: Pipes) -> None:
    """The reference ignores them."""
    with pytest.raises(TypeError, match="nonsense"):
        make_pipes(TASK)[0](TEXTS, nonsense=1)
