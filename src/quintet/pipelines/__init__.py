"""Pipelines: from text to results in one call."""

from __future__ import annotations

import os
import warnings
from typing import Any

from quintet import auto
from quintet.pipelines.base import InputError, Pipeline
from quintet.pipelines.devices import device_of
from quintet.pipelines.feature_extraction import FeatureExtractionPipeline
from quintet.pipelines.question_answering import QuestionAnsweringPipeline
from quintet.pipelines.text2text import (
    SummarizationPipeline,
    Text2TextGenerationPipeline,
    TranslationPipeline,
    is_translation,
)
from quintet.pipelines.text_classification import TextClassificationPipeline
from quintet.pipelines.token_classification import TokenClassificationPipeline
from quintet.pipelines.zero_shot import ZeroShotClassificationPipeline

__all__ = [
    "ALIASES",
    "TASKS",
    "FeatureExtractionPipeline",
    "InputError",
    "Pipeline",
    "QuestionAnsweringPipeline",
    "SummarizationPipeline",
    "Text2TextGenerationPipeline",
    "TextClassificationPipeline",
    "TokenClassificationPipeline",
    "TranslationPipeline",
    "ZeroShotClassificationPipeline",
    "class_of_task",
    "pipeline",
]

TASKS: dict[str, tuple[type[Pipeline], type[auto._AutoModel]]] = {
    "text2text-generation": (Text2TextGenerationPipeline, auto.AutoModelForSeq2SeqLM),
    "summarization": (SummarizationPipeline, auto.AutoModelForSeq2SeqLM),
    "translation": (TranslationPipeline, auto.AutoModelForSeq2SeqLM),
    "text-classification": (TextClassificationPipeline, auto.AutoModelForSequenceClassification),
    "token-classification": (TokenClassificationPipeline, auto.AutoModelForTokenClassification),
    "question-answering": (QuestionAnsweringPipeline, auto.AutoModelForQuestionAnswering),
    "feature-extraction": (FeatureExtractionPipeline, auto.AutoModelForTextEncoding),
    "zero-shot-classification": (ZeroShotClassificationPipeline, auto.AutoModelForSeq2SeqLM),
}
"""Tasks, their pipelines, and what loads their models."""

ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def pipeline(
    task: str | None = "text2text-generation",
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    *,
    framework: str | None = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    device: Any = None,
    device_map: Any = None,
    dtype: Any = "auto",
    torch_dtype: Any = None,
    trust_remote_code: bool | None = None,
    model_kwargs: dict[str, Any] | None = None,
    pipeline_class: type[Pipeline] | None = None,
    **options: Any,
) -> Any:
    """A pipeline for a task: one of `TASKS`, "translation_xx_to_yy", "sentiment-analysis" or "ner".

    `model` is a model, or the folder or hub name of one, of which the rest tells how to load it: config, revision,
    token, dtype ("auto" is the checkpoint's), device_map, model_kwargs (all that `from_pretrained` takes). The
    tokenizer is found beside it unless it is given. `device` is a torch device or the number of a CUDA device, -1 being
    the CPU; by default the accelerator where there is one. Further options are the pipeline's: batch_size and those of
    its task. framework ("pt") and trust_remote_code are taken for the reference's sake: code is never loaded.

    Raises ValueError for an unknown task, a missing model, one without the task's head, or a device that is not there;
    OSError for files that are missing; TypeError for an unknown option.
    """
    task = "text2text-generation" if task is None else ALIASES.get(task, task)
    own_class, loader = _found(task)
    if model is None:
        raise ValueError("pipeline needs a model: an object, a folder, or a name on the hub")
    if framework not in (None, "pt"):
        raise ValueError(f'framework must be "pt": quintet runs on PyTorch, got {framework!r}')
    if device is not None and device_map is not None:
        raise ValueError("give pipeline a device or a device_map, not both")
    hub = {name: value for name, value in (("revision", revision), ("token", token)) if value is not None}
    if _is_name(model):
        tokenizer = model if tokenizer is None else tokenizer
        dtypes = _dtypes(dtype, torch_dtype, model_kwargs or {})
        place = device_of(device) if device_map is None and "device_map" not in (model_kwargs or {}) else device_map
        places = {} if place is None else {"device_map": place}
        model = _loaded(task, model, loader, {"config": config, **hub, **dtypes, **places, **(model_kwargs or {})})
    if tokenizer is None:
        raise ValueError("pipeline needs a tokenizer when the model is given as an object")
    if _is_name(tokenizer):
        tokenizer = auto.AutoTokenizer.from_pretrained(tokenizer, use_fast=use_fast, **hub)
    return (pipeline_class or own_class)(model, tokenizer, task=_with_languages(task, model), device=device, **options)


def class_of_task(task: str) -> type[Pipeline]:
    """The class that `pipeline` makes of a task. Raises ValueError for an unknown one."""
    return _found(ALIASES.get(task, task))[0]


def _found(task: str) -> tuple[type[Pipeline], Any]:
    if is_translation(task):
        return TASKS["translation"]
    if task not in TASKS:
        allowed = ", ".join([*TASKS, "translation_xx_to_yy", *ALIASES])
        raise ValueError(f"task {task!r} is not known; it must be one of {allowed}")
    return TASKS[task]


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _dtypes(dtype: Any, torch_dtype: Any, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The dtype to load with; one in `model_kwargs` is left there. Raises ValueError if there are two."""
    chosen = torch_dtype if dtype == "auto" and torch_dtype is not None else dtype
    if "dtype" not in model_kwargs and "torch_dtype" not in model_kwargs:
        return {"dtype": chosen}
    if chosen != "auto":
        raise ValueError("dtype is given to pipeline and in model_kwargs: give it once")
    return {}


def _loaded(task: str, name: Any, loader: Any, options: dict[str, Any]) -> Any:
    """The model of a checkpoint that has all of the task's weights: results of random ones would be random."""
    model, report = loader.from_pretrained(name, output_loading_info=True, **options)
    missing = report["missing_keys"]
    if missing:
        said = f" (its config.json names {', '.join(model.config.architectures)})" if model.config.architectures else ""
        raise ValueError(
            f"{task} needs a {type(model).__name__}; the checkpoint {os.fspath(name)} has no weights for "
            f"{', '.join(missing[:3])}{', ...' if missing[3:] else ''}{said}"
        )
    return model


def _with_languages(task: str, model: Any) -> str:
    """For a translation without languages, the first task of that kind that the checkpoint describes."""
    described = getattr(model, "config", None) and model.config.task_specific_params
    known = [name for name in described or {} if name.startswith("translation")]
    if task != "translation" or not known:
        return task
    warnings.warn(f'"translation" is done as "{known[0]}": name the languages, "translation_xx_to_yy"', stacklevel=3)
    return known[0]
