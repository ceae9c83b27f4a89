"""From settings to data: the stream to train on, and what is held out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from quintet.tokenizers.base import TokenizerBase
from quintet.training.config import AnyConfig, CorpusConfig, DataConfig, RunConfig, TaskConfig, TrainingConfig
from quintet.training.data.denoising import (
    UL2,
    Denoiser,
    DenoisingExamples,
    MixedDenoiser,
    PrefixLM,
    SpanCorruption,
    mixed_examples,
)
from quintet.training.data.examples import Example, Examples, TaskExamples
from quintet.training.data.records import Source
from quintet.training.data.stream import Stream
from quintet.training.data.tasks import Task, fill, mixing_rates
from quintet.training.data.token_cache import TokenCache
from quintet.training.data.tokenizing import tokenize_corpus, tokenize_task


@dataclass(frozen=True)
class HeldOut:
    """What a model is measured on: pairs for the loss; texts to answer, each source once with all its references."""

    name: str
    examples: Examples
    sources: list[str] = field(default_factory=list)
    references: list[list[str]] = field(default_factory=list)
    metrics: tuple[str, ...] = ()


def training_stream(config: AnyConfig, tokenizer: TokenizerBase, cache: Path) -> Stream:
    """The examples to train on, tokenised if they are not yet. Raises as `tokenize_task` does."""
    if isinstance(config.data, CorpusConfig):
        sets, rates = _denoising(config.data, _source(config.data, "train"), tokenizer, cache)
        return Stream(sets, rates, config.run.seed)
    tasks = [task_of(one, "train") for one in config.data.tasks]
    examples = [_examples(task, config.data, tokenizer, cache) for task in tasks]
    given = [one.rate for one in config.data.tasks if one.rate is not None]
    sizes = [len(one) for one in examples]
    rates = given or list(mixing_rates(sizes, config.data.mixing_maximum, config.data.mixing_temperature))
    return Stream(examples, rates, config.run.seed)


def task_caches(config: TrainingConfig, tokenizer: TokenizerBase) -> list[TokenCache]:
    """The tokens of all tasks' training data, in the folder where a run finds them again."""
    cache = cache_folder(config.run)
    return [tokenize_task(task_of(one, "train"), tokenizer, cache) for one in config.data.tasks]


def cache_folder(config: RunConfig) -> Path:
    """Where tokens lie."""
    return Path(config.cache_dir or os.path.join(config.output_dir, "tokens"))


def held_out_sets(config: AnyConfig, tokenizer: TokenizerBase, cache: Path) -> list[HeldOut]:
    """What is held out, of each task (of the corpus) that has something; at most max_eval_samples of each."""
    limit = config.evaluation.max_eval_samples
    if isinstance(config.data, CorpusConfig):
        if not has_split(config.data, "validation"):
            return []
        source = _source(config.data, "validation")
        sets, _ = _denoising(config.data, source, tokenizer, cache)
        return [HeldOut(one.name, Part(one, limit)) for one in sets]
    found = []
    for one in config.data.tasks:
        if has_split(one, "validation"):
            task = task_of(one, "validation")
            found.append(held_out(task, _examples(task, config.data, tokenizer, cache), limit))
    return found


def held_out(task: Task, examples: Examples, limit: int | None = None) -> HeldOut:
    """A task's held-out data: at most `limit` pairs, and as many sources, if the task has metrics."""
    texts = references_by_source(task) if task.metrics else {}
    sources = list(texts)
    chosen = [sources[place] for place in _spread(len(sources), limit)]
    return HeldOut(task.name, Part(examples, limit), chosen, [texts[source] for source in chosen], task.metrics)


def references_by_source(task: Task) -> dict[str, list[str]]:
    """Each source text of a task once, with all its targets, in the order of the records."""
    texts: dict[str, list[str]] = {}
    templates = task.templates()
    for record in task.data.records():
        source, target = fill(templates, record)
        texts.setdefault(source, []).append(target)
    return texts


class Part:
    """At most `limit` examples of a set, spread over it evenly: files are often sorted."""

    def __init__(self, examples: Examples, limit: int | None) -> None:
        self.name = examples.name
        self.fingerprint = f"{examples.fingerprint}-{limit}"
        self.longest = examples.longest
        self._examples = examples
        self._places = _spread(len(examples), limit)

    def __len__(self) -> int:
        return len(self._places)

    def example(self, place: int, seed: Sequence[int]) -> Example:
        """The example at a place."""
        return self._examples.example(int(self._places[place]), seed)


def _spread(count: int, limit: int | None) -> np.ndarray:
    chosen = count if limit is None else min(limit, count)
    return np.arange(chosen) * count // max(chosen, 1)


def task_of(config: TaskConfig, split: str) -> Task:
    """The task on its "train", "validation" or "test" data. Raises ValueError if it has none of that."""
    if not has_split(config, split):
        raise ValueError(f"task {config.name} has no {split}_file")
    return Task(config.name, _source(config, split), config.prefix, config.source, config.target, tuple(config.metrics))


def has_split(config: TaskConfig | CorpusConfig, split: str) -> bool:
    """Whether there is data of that name."""
    return bool(getattr(config, f"{split}_file") or (config.dataset_name and getattr(config, f"{split}_split_name")))


def _source(config: TaskConfig | CorpusConfig, split: str) -> Source:
    if config.dataset_name is None:
        return Source(list(getattr(config, f"{split}_file")), tuple(config.columns))
    return Source(config.dataset_name, config=config.dataset_config_name, split=getattr(config, f"{split}_split_name"))


def _examples(task: Task, limits: DataConfig, tokenizer: TokenizerBase, cache: Path) -> TaskExamples:
    tokens = tokenize_task(task, tokenizer, cache)
    return TaskExamples(task.name, tokens, limits.max_source_length, limits.max_target_length)


def _denoising(
    config: CorpusConfig, source: Source, tokenizer: TokenizerBase, cache: Path
) -> tuple[list[DenoisingExamples], list[float]]:
    corpus = tokenize_corpus(source, tokenizer, cache, config.text)
    if config.objective == "ul2":
        mixture: Sequence[MixedDenoiser] = UL2
    else:
        spans = SpanCorruption(config.noise_density, config.mean_noise_span_length)
        denoiser: Denoiser = spans if config.objective == "span_corruption" else PrefixLM()
        mixture = [MixedDenoiser(denoiser, 1.0, "")]
    return mixed_examples(corpus, tokenizer, config.max_source_length, config.max_target_length, mixture)
