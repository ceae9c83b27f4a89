"""Vocabularies of `shared`, and pairs of tokenizers: the reference's and ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from .oracle import Pair, load_pair


@pytest.fixture(scope="session")
def vocabularies(shared: Path) -> Path:
    return shared / "tokenizers"


@pytest.fixture(scope="session")
def t5_folder(vocabularies: Path) -> Path:
    return vocabularies / "t5"


@pytest.fixture(params=["T5Tokenizer", "T5TokenizerFast"])
def t5(request: pytest.FixtureRequest, t5_folder: Path) -> Pair:
    """Both tokenizers of the T5 vocabulary, as it is published. They are shared: a test leaves them as they were."""
    return load_pair(request.param, t5_folder)


@pytest.fixture
def slow(t5_folder: Path) -> Pair:
    return load_pair("T5Tokenizer", t5_folder)


@pytest.fixture
def fast(t5_folder: Path) -> Pair:
    return load_pair("T5TokenizerFast", t5_folder)
