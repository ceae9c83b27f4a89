"""A model without the pieces of its vocabulary that a task does not use: most of a small T5 is its vocabulary."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from quintet.files import staged
from quintet.model.heads import T5ForConditionalGeneration
from quintet.tokenizers import T5TokenizerFast
from quintet.tokenizers.spm_model import SentencePieceModel, add_characters, keep_pieces, read_model_file
from quintet.training.data.token_cache import TokenCache


def pieces_used(caches: Iterable[TokenCache], most: int | None = None) -> set[int]:
    """The ids that occur in tokenised data; at most `most` of them, the most frequent ones."""
    found: Counter[int] = Counter()
    for cache in caches:
        for column in cache.columns.values():
            ids, counts = np.unique(column.ids, return_counts=True)
            found.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
    return {piece for piece, _ in found.most_common(most)}


def trim_vocabulary(
    model: T5ForConditionalGeneration,
    tokenizer: T5TokenizerFast,
    ids: Iterable[int],
    folder: str | os.PathLike[str],
    characters: str = "",
) -> T5TokenizerFast:
    """Save the model and its tokenizer with these pieces, those of a single character, and special ones only.

    Texts that are made of these pieces get the same ones, under new ids, and the model the same scores of them; in
    others smaller pieces take the place of those left out. `characters` are new pieces, of which the model knows as
    much as of <unk>, which they were before. The model is changed in place; the new tokenizer is returned.

    Raises ValueError for a tokenizer without a SentencePiece model file or with one of the new characters in it
    already, OSError if the folder cannot be written.
    """
    if tokenizer.vocab_file is None:
        raise ValueError("the tokenizer has no spiece.model beside it, whose pieces could be left out")
    data = read_model_file(tokenizer.vocab_file)
    whole = SentencePieceModel.parse(data).pieces
    single = {number for number, (text, _) in enumerate(whole) if len(text) == 1}
    smaller = add_characters(keep_pieces(data, single.union(ids)), characters)
    with staged(folder) as staging:
        trimmed = _save_tokenizer(smaller, tokenizer, staging)
        _keep_rows(model, torch.tensor([_id_in(tokenizer, token) for token in trimmed]))
        model.save_pretrained(staging)
    return T5TokenizerFast.from_pretrained(folder)


def _save_tokenizer(model_file: bytes, like: T5TokenizerFast, folder: Path) -> list[str]:
    """Returns the tokens in the order of their ids."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, T5TokenizerFast.vocab_files_names["vocab_file"])
        path.write_bytes(model_file)
        trimmed = T5TokenizerFast(
            vocab_file=path, legacy=like.init_kwargs.get("legacy"), model_max_length=like.model_max_length
        )
        trimmed.save_pretrained(folder)
    return list(trimmed.convert_ids_to_tokens(range(len(trimmed))))


def _id_in(tokenizer: T5TokenizerFast, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


def _keep_rows(model: T5ForConditionalGeneration, rows: torch.Tensor) -> None:
    weight = model.get_input_embeddings().weight.detach()[rows].clone()
    model.set_input_embeddings(nn.Embedding.from_pretrained(weight, freeze=False))
    if not model.config.tie_word_embeddings:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach()[rows].clone())
    model.lm_head.out_features = len(rows)
    model.config.vocab_size = len(rows)
    model.tie_weights()
