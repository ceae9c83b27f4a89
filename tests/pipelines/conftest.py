"""Pipelines of both libraries over the same small random models, with T5's real vocabulary."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers

import quintet

from ..model.reference import make_pair

HEADS = {
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "feature-extraction": "EncoderModel",
    "zero-shot-classification": "ForConditionalGeneration",
    "text2text-generation": "ForConditionalGeneration",
}
VOCAB_SIZE = 32128

Pipes = Callable[..., tuple[Any, Any]]


@cache
def tokenizers(folder: Path, fast: bool = True, **options: Any) -> tuple[Any, Any]:
    """quintet's tokenizer and the reference's."""
    name = "T5TokenizerFast" if fast else "T5Tokenizer"
    return tuple(getattr(library, name).from_pretrained(folder, **options) for library in (quintet, transformers))


@cache
def models(head: str, variant: str, changes: tuple[tuple[str, Any], ...]) -> tuple[Any, Any]:
    return tuple(make_pair(head, variant, vocab_size=VOCAB_SIZE, **dict(changes)))


@pytest.fixture(scope="session")
def vocabulary(shared: Path) -> Path:
    return shared / "tokenizers" / "t5"


@pytest.fixture(scope="session")
def checkpoint(shared: Path) -> Path:
    return shared / "models" / "flan-t5-small-title"


@pytest.fixture(scope="session")
def make_pipes(vocabulary: Path) -> Pipes:
    """For a task, quintet's pipeline and the reference's; keywords are of the pipeline, `changes` of the model."""

    def make(
        task: str,
        fast: bool = True,
        changes: dict[str, Any] | None = None,
        tokenizer: dict[str, Any] | None = None,
        variant: str = "t5",
        **options: Any,
    ) -> tuple[Any, Any]:
        ours, theirs = models(HEADS[task], variant, tuple((changes or {}).items()))
        own_tokenizer, their_tokenizer = tokenizers(vocabulary, fast, **(tokenizer or {}))
        return (
            quintet.pipeline(task, model=ours, tokenizer=own_tokenizer, **options),
            transformers.pipeline(task, model=theirs, tokenizer=their_tokenizer, **copy.deepcopy(options)),
        )

    return make


@pytest.fixture(scope="session")
def folders(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """For a head, a folder with a small model that the reference saved, and the tokenizer."""

    @cache
    def save(head: str) -> Path:
        folder = tmp_path_factory.mktemp(head)
        models(head, "t5", ())[1].save_pretrained(folder)
        for name in ("tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(vocabulary / name, folder / name)
        return folder

    return save


def close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> bool:
    """Whether results are equal: the same structure, texts and places, numbers within a tolerance."""
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(close(ours[key], theirs[key], tolerance) for key in theirs)
    if isinstance(theirs, list):
        together = zip(ours, theirs, strict=True) if isinstance(ours, list) and len(ours) == len(theirs) else None
        return together is not None and all(close(one, other, tolerance) for one, other in together)
    if isinstance(theirs, (str, int, type(None))):
        return type(ours) is type(theirs) and ours == theirs
    return isinstance(ours, float) and ours == pytest.approx(float(theirs), abs=tolerance, rel=tolerance)
