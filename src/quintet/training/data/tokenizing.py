"""From records to a token cache: found again by a fingerprint of the data, the tokenizer and the templates."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from quintet.tokenizers.base import TokenizerBase
from quintet.training.data.records import Source
from quintet.training.data.tasks import Task, Template, fill
from quintet.training.data.token_cache import TokenCache

_VERSION = 1  # of what is done here; another one makes other caches
_BATCH = 1000


def tokenize_task(task: Task, tokenizer: TokenizerBase, folder: str | os.PathLike[str]) -> TokenCache:
    """The cache of a task's pairs, columns input_ids and labels, each row closed by </s>; made if it is not there.

    Raises ValueError for a task without records, and for a record that lacks a field (file and line are named).
    """
    return _tokenize(task.data, task.templates(), tokenizer, Path(folder), add_special_tokens=True)


def tokenize_corpus(
    data: Source, tokenizer: TokenizerBase, folder: str | os.PathLike[str], text: str = "{text}"
) -> TokenCache:
    """The cache of documents for `denoising`, one column "text", without </s>; made if it is not there.

    `text` is the template of a document. Raises as `tokenize_task` does.
    """
    return _tokenize(data, {"text": Template(text)}, tokenizer, Path(folder), add_special_tokens=False)


def tokenizer_fingerprint(tokenizer: TokenizerBase) -> str:
    """A hash of what decides on ids: the class, and the files that the tokenizer saves."""
    digest = blake2b(type(tokenizer).__name__.encode(), digest_size=16)
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(map(Path, tokenizer.save_pretrained(folder))):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _tokenize(
    data: Source, templates: Mapping[str, Template], tokenizer: TokenizerBase, folder: Path, add_special_tokens: bool
) -> TokenCache:
    key = [_VERSION, data.fingerprint(), tokenizer_fingerprint(tokenizer), add_special_tokens]
    key += [[name, template.prefix, template.text] for name, template in templates.items()]
    fingerprint = blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()
    place = folder / fingerprint
    if place.is_dir():
        return TokenCache.open(place)

    def batches() -> Iterator[list[list[list[int]]]]:
        texts = (fill(templates, record) for record in data.records())
        while batch := list(islice(texts, _BATCH)):
            columns = map(list, zip(*batch, strict=True))
            yield [tokenizer(column, add_special_tokens=add_special_tokens)["input_ids"] for column in columns]

    return TokenCache.write(place, fingerprint, list(templates), len(tokenizer), _not_empty(batches(), data))


def _not_empty(batches: Iterator[list[list[list[int]]]], data: Source) -> Iterator[list[list[list[int]]]]:
    tokens = 0
    for batch in batches:
        tokens += sum(len(row) for row in batch[0])
        yield batch
    if tokens == 0:
        raise ValueError(f"the data set {data.data} is empty: it has no records with text")
