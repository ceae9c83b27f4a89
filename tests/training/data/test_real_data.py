"""From real files to batches."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

import pytest

import quintet
from quintet.training.data.batching import BucketedBatches, PackedBatches
from quintet.training.data.buckets import Limits
from quintet.training.data.collators import PackingCollator, PaddingCollator
from quintet.training.data.examples import TaskExamples
from quintet.training.data.records import Source
from quintet.training.data.stream import Stream
from quintet.training.data.tasks import Task, mixing_rates
from quintet.training.data.tokenizing import tokenize_task

LANGUAGES = {"fr": "French", "de": "German"}


@pytest.fixture(scope="module")
def stream(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Stream:
    tokenizer = quintet.T5TokenizerFast.from_pretrained(shared / "tokenizers" / "t5")
    folder = tmp_path_factory.mktemp("caches")
    sets = []
    for code, language in LANGUAGES.items():
        data = Source(shared / "data" / "tatoeba" / f"en-{code}.dev.tsv", columns=("en", "other"))
        task = Task(code, data, f"translate English to {language}: ", "{en}", "{other}", ("sacrebleu",))
        sets.append(TaskExamples(code, tokenize_task(task, tokenizer, folder), 128, 128))
    return Stream(sets, list(mixing_rates([len(one) for one in sets], temperature=2)))


def test_translations_arrive_as_written(shared: Path, stream: Stream) -> None:
    tokenizer = quintet.T5TokenizerFast.from_pretrained(shared / "tokenizers" / "t5")
    for index, (code, language) in enumerate(LANGUAGES.items()):
        with open(shared / "data" / "tatoeba" / f"en-{code}.dev.tsv", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert len(stream.sets[index]) == len(rows)
        for place in (0, 100, len(rows) - 1):
            example = stream.sets[index].example(place, ())
            texts = tokenizer([f"translate English to {language}: {rows[place][0]}", rows[place][1]])["input_ids"]
            assert [example["input_ids"].tolist(), example["labels"].tolist()] == texts


def test_real_sentences_leave_little_padding(stream: Stream) -> None:
    config = quintet.T5Config(decoder_start_token_id=0)
    padded = map(PaddingCollator(config), BucketedBatches(stream, Limits(2048), window=4000))
    packed = map(PackingCollator(config, 128, 128), PackedBatches(stream, 8, 128, 128, window=1000))
    for batches in (padded, packed):
        real = total = 0
        for batch in islice(batches, 12):
            real += int((batch["input_ids"] > 0).sum() + (batch["labels"] >= 0).sum())
            total += batch["input_ids"].numel() + batch["labels"].numel()
        assert total <= 12 * 2048
        assert real / total > 0.85


def test_lists_of_texts_in_records(shared: Path, tmp_path: Path) -> None:
    """SciTLDR: a source is a list of sentences, a target a list of summaries, of which the first is taken."""
    tokenizer = quintet.ByT5Tokenizer()
    task = Task("scitldr", Source(shared / "data" / "scitldr" / "dev.jsonl"), "summarize: ", target="{target[0]}")
    examples = TaskExamples("scitldr", tokenize_task(task, tokenizer, tmp_path), 4096, 1024)
    first = next(task.data.records()).fields
    example = examples.example(0, ())
    assert tokenizer.decode(example["input_ids"], skip_special_tokens=True) == "summarize: " + " ".join(first["source"])
    assert tokenizer.decode(example["labels"], skip_special_tokens=True) == first["target"][0]
    assert len(examples) == 619
