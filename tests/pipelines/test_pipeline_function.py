"""`pipeline(...)`: which class, which model, on which device; and what it refuses."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

import quintet
from quintet.pipelines import ALIASES, TASKS, devices

GREEDY = {"num_beams": 1}
PREFIX = "translate English to German: "
CLASSES = {
    "text2text-generation": ("Text2TextGenerationPipeline", "ForConditionalGeneration"),
    "summarization": ("SummarizationPipeline", "ForConditionalGeneration"),
    "translation": ("TranslationPipeline", "ForConditionalGeneration"),
    "translation_en_to_fr": ("TranslationPipeline", "ForConditionalGeneration"),
    "text-classification": ("TextClassificationPipeline", "ForSequenceClassification"),
    "sentiment-analysis": ("TextClassificationPipeline", "ForSequenceClassification"),
    "token-classification": ("TokenClassificationPipeline", "ForTokenClassification"),
    "ner": ("TokenClassificationPipeline", "ForTokenClassification"),
    "question-answering": ("QuestionAnsweringPipeline", "ForQuestionAnswering"),
    "feature-extraction": ("FeatureExtractionPipeline", "EncoderModel"),
    "zero-shot-classification": ("ZeroShotClassificationPipeline", "ForConditionalGeneration"),
}
Folders = Callable[[str], Path]


@pytest.mark.parametrize("task", CLASSES)
def test_classes(task: str, folders: Folders) -> None:
    """Those of the reference, by name; the model is loaded with the task's head."""
    class_name, head = CLASSES[task]
    pipe = quintet.pipeline(task, model=str(folders(head)))
    assert type(pipe) is getattr(quintet, class_name)
    assert type(pipe.model) is getattr(quintet, f"T5{head}")
    assert isinstance(pipe, quintet.Pipeline)
    assert not pipe.model.training
    assert type(pipe.tokenizer) is quintet.T5TokenizerFast
    reference = SimpleNamespace(**{name: impl["impl"] for name, impl in transformers.pipelines.SUPPORTED_TASKS.items()})
    theirs = getattr(reference, ALIASES.get(task, task.split("_")[0]))
    assert theirs.__name__ == class_name
    assert pipe.task == ALIASES.get(task, task)


def test_every_task_is_tested() -> None:
    assert CLASSES.keys() - {"translation_en_to_fr"} == {*TASKS, *ALIASES}


def test_classes_made_by_themselves(folders: Folders, make_pipes: Any) -> None:
    ours, theirs = make_pipes("text-classification")
    own = quintet.TextClassificationPipeline(model=ours.model, tokenizer=ours.tokenizer, top_k=2, device=-1)
    reference = transformers.TextClassificationPipeline(model=theirs.model, tokenizer=theirs.tokenizer, top_k=2)
    assert [label["label"] for label in own(["a"])[0]] == [label["label"] for label in reference(["a"])[0]]
    assert own.task == "text-classification"

    class Louder(quintet.TextClassificationPipeline):
        def __call__(self, inputs: Any, **options: Any) -> Any:
            return [{**label, "label": label["label"].upper()} for label in super().__call__(inputs, **options)]

    folder = folders("ForSequenceClassification")
    assert type(quintet.pipeline("text-classification", folder, pipeline_class=Louder)) is Louder


def test_models_and_tokenizers_by_name_or_object(checkpoint: Path, tmp_path: Path) -> None:
    text, expected = PREFIX + "The house is wonderful.", [{"generated_text": "Das Haus ist wunderbar."}]
    model = quintet.T5ForConditionalGeneration.from_pretrained(checkpoint)
    assert quintet.pipeline(model=model, tokenizer=str(checkpoint), **GREEDY)(text) == expected
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(checkpoint / name)
    tokenizer = quintet.T5Tokenizer.from_pretrained(checkpoint)
    assert quintet.pipeline(None, str(tmp_path), tokenizer=tokenizer, **GREEDY)(text) == expected
    slow = quintet.pipeline(model=checkpoint, use_fast=False, framework="pt", trust_remote_code=False)
    assert type(slow.tokenizer) is quintet.T5Tokenizer


def test_byt5(tmp_path: Path) -> None:
    """The tokenizer is named in config.json only, as in older checkpoints."""
    sizes = {"vocab_size": 384, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    config = quintet.T5Config(**sizes, num_labels=2, decoder_start_token_id=0, tokenizer_class="ByT5Tokenizer")
    quintet.T5ForSequenceClassification(config).save_pretrained(tmp_path)
    pipe = quintet.pipeline("text-classification", model=tmp_path)
    assert type(pipe.tokenizer) is quintet.ByT5Tokenizer
    assert pipe("hé")[0]["label"] in ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, torch.bfloat16),
        ({"dtype": None}, torch.float32),
        ({"dtype": "float32"}, torch.float32),
        ({"dtype": torch.float16, "device": "cpu"}, torch.float16),
        ({"torch_dtype": torch.float16, "device": -1}, torch.float16),
        ({"dtype": torch.float32, "torch_dtype": torch.float16}, torch.float32),
        ({"model_kwargs": {"dtype": torch.float16}}, torch.float16),
        ({"model_kwargs": {"attn_implementation": "eager"}, "device": torch.device("cpu")}, torch.bfloat16),
        ({"device_map": "cpu"}, torch.bfloat16),
        ({"model_kwargs": {"device_map": "cpu"}}, torch.bfloat16),
    ],
    ids=str,
)
def test_how_the_model_is_loaded(options: dict[str, Any], dtype: torch.dtype, checkpoint: Path) -> None:
    """In the checkpoint's precision, as the reference does it."""
    pipe = quintet.pipeline("text2text-generation", model=checkpoint, **options)
    assert (pipe.dtype, pipe.device) == (dtype, torch.device("cpu"))
    reference = transformers.pipeline("text2text-generation", model=str(checkpoint), **options)
    assert reference.model.dtype == dtype
    expected = options.get("model_kwargs", {}).get("attn_implementation", "sdpa")
    assert pipe.model.config._attn_implementation == expected


def test_another_configuration(folders: Folders, tmp_path: Path) -> None:
    folder = folders("ForSequenceClassification")
    config = quintet.AutoConfig.from_pretrained(folder)
    config.id2label = {0: "good", 1: "bad", 2: "ugly"}
    pipe = quintet.pipeline("text-classification", model=folder, config=config)
    assert pipe("a")[0]["label"] in config.id2label.values()


def test_saving(folders: Folders, tmp_path: Path) -> None:
    pipe = quintet.pipeline("text-classification", model=folders("ForSequenceClassification"))
    pipe.save_pretrained(tmp_path)
    assert quintet.pipeline("text-classification", model=tmp_path)("a dog") == pipe("a dog")


# -- devices


@pytest.mark.parametrize(
    ("device", "expected"), [(None, "cpu"), (-1, "cpu"), ("-1", "cpu"), ("cpu", "cpu"), (torch.device("cpu"), "cpu")]
)
@pytest.mark.skipif(torch.accelerator.is_available(), reason="for machines without an accelerator")
def test_devices(device: Any, expected: str) -> None:
    assert devices.device_of(device) == torch.device(expected)


def test_numbers_are_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "checked_device", lambda value, *_: torch.device(value))
    assert devices.device_of(0) == devices.device_of("0") == torch.device("cuda:0")
    assert devices.device_of(1) == torch.device("cuda:1")


def test_the_accelerator_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    moved: list[torch.device] = []
    model = SimpleNamespace(device=torch.device("cpu"), to=moved.append)
    devices.place(model, None)
    assert moved == [torch.device("cuda")]
    model.device = torch.device("cuda:1")
    assert devices.place(model, None) is model


def test_a_model_that_is_spread_stays_where_it_is(make_pipes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = make_pipes("text-classification")
    monkeypatch.setattr(ours.model, "hf_device_map", {"": "cpu"}, raising=False)
    arguments = {"model": ours.model, "tokenizer": ours.tokenizer}
    assert quintet.pipeline("text-classification", **arguments).model is ours.model
    with pytest.raises(ValueError, match="spread over devices by its device_map: give the pipeline no device"):
        quintet.pipeline("text-classification", **arguments, device="cpu")


@pytest.mark.parametrize("device", ["nowhere", 1.5, object()])
def test_wrong_devices(device: Any, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="device must be a device"):
        quintet.pipeline(model=checkpoint, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
@pytest.mark.parametrize("device", [0, "0", "cuda", "cuda:1"])
def test_cuda_that_is_not_there(device: Any, make_pipes: Any) -> None:
    pipe, _ = make_pipes("text-classification")
    with pytest.raises(ValueError, match="device asks for cuda"):
        quintet.pipeline("text-classification", model=pipe.model, tokenizer=pipe.tokenizer, device=device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_used_by_default(folders: Folders) -> None:
    folder = folders("ForSequenceClassification")
    pipe = quintet.pipeline("text-classification", model=folder)
    assert pipe.device.type == "cuda"
    on_cpu = quintet.pipeline("text-classification", model=folder, device=-1)
    assert pipe("a dog")[0]["score"] == pytest.approx(on_cpu("a dog")[0]["score"], abs=1e-4)


# -- wrapped models


def test_a_model_inside_something_else(make_pipes: Any) -> None:
    """torch.compile keeps the model as _orig_mod; peft's adapters give it by get_base_model()."""
    ours, _ = make_pipes("text-classification")
    compiled = torch.compile(ours.model, backend="eager")
    [found] = quintet.pipeline("text-classification", model=compiled, tokenizer=ours.tokenizer)("a")
    [expected] = ours("a")
    assert found == {"label": expected["label"], "score": pytest.approx(expected["score"], rel=1e-5)}

    class Adapter(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model
            self.config, self.device = model.config, model.device
            self.eval()

        def get_base_model(self) -> Any:
            return self.model

        def forward(self, **inputs: Any) -> Any:
            return self.model(**inputs)

    adapted = Adapter(ours.model)
    assert quintet.pipeline("text-classification", model=adapted, tokenizer=ours.tokenizer)("a") == ours("a")


# -- what it refuses


@pytest.mark.parametrize("task", ["text-generation", "translation_en_de", "translation_en_to_", "Summarization", ""])
def test_unknown_tasks(task: str) -> None:
    with pytest.raises(ValueError, match=r"is not known; it must be one of text2text-generation, summarization, .*ner"):
        quintet.pipeline(task, model="any")


def test_no_model() -> None:
    with pytest.raises(ValueError, match="pipeline needs a model"):
        quintet.pipeline("summarization")


def test_a_model_object_without_tokenizer(make_pipes: Any) -> None:
    model = make_pipes("text-classification")[0].model
    with pytest.raises(ValueError, match="pipeline needs a tokenizer when the model is given as an object"):
        quintet.pipeline("text-classification", model=model)
    with pytest.raises(ValueError, match="text-classification needs a tokenizer beside the model"):
        quintet.TextClassificationPipeline(model)


def test_arguments_that_exclude_each_other(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="a device or a device_map, not both"):
        quintet.pipeline(model=checkpoint, device="cpu", device_map="auto")
    with pytest.raises(ValueError, match="dtype is given to pipeline and in model_kwargs"):
        quintet.pipeline(model=checkpoint, dtype=torch.float16, model_kwargs={"dtype": torch.float32})
    with pytest.raises(ValueError, match=r'framework must be "pt"'):
        quintet.pipeline(model=checkpoint, framework="tf")


@pytest.mark.parametrize("task", [task for task in TASKS if task != "feature-extraction"])
def test_a_model_with_another_head(task: str, make_pipes: Any) -> None:
    other = "token-classification" if task != "token-classification" else "text-classification"
    pipe, _ = make_pipes(other)
    needed = f"T5{CLASSES[task][1]}, MT5{CLASSES[task][1]}, UMT5{CLASSES[task][1]}"
    with pytest.raises(ValueError, match=rf"{task} needs a model with its head \({needed}\), got quintet\.T5For"):
        quintet.pipeline(task, model=pipe.model, tokenizer=pipe.tokenizer)


@pytest.mark.parametrize("task", TASKS)
def test_a_model_of_another_library(task: str, make_pipes: Any) -> None:
    _, theirs = make_pipes("text-classification")
    with pytest.raises(ValueError, match=r"got transformers\.T5ForSequenceClassification"):
        quintet.pipeline(task, model=theirs.model, tokenizer=theirs.tokenizer)


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering"])
def test_a_checkpoint_without_the_head(task: str, folders: Folders) -> None:
    """(The reference draws the weights and answers at random.)"""
    with pytest.raises(ValueError, match=rf"{task} needs a T5{CLASSES[task][1]}; .* no weights for .*T5ForConditional"):
        quintet.pipeline(task, model=folders("ForConditionalGeneration"), model_kwargs={"num_labels": 2})


def test_an_encoder_cannot_generate(folders: Folders) -> None:
    with pytest.raises(
        ValueError, match=r"summarization needs a T5ForConditionalGeneration; .* no weights for decoder"
    ):
        quintet.pipeline("summarization", model=folders("EncoderModel"))


def test_a_model_of_another_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"model type 'bert' is not of the T5 family; .* t5, mt5, umt5"):
        quintet.pipeline("text-classification", model=tmp_path)


def test_a_folder_without_a_tokenizer(folders: Folders, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folders("ForSequenceClassification") / name, tmp_path / name)
    with pytest.raises(OSError, match=r"does not hold any of .*tokenizer\.json"):
        quintet.pipeline("text-classification", model=tmp_path)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "2"])
def test_wrong_batch_sizes(size: Any, make_pipes: Any) -> None:
    pipe, _ = make_pipes("text-classification")
    make = functools.partial(quintet.pipeline, "text-classification", model=pipe.model, tokenizer=pipe.tokenizer)
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got"):
        make(batch_size=size)
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got"):
        pipe(["a"], batch_size=size)


def test_wrong_options_are_refused_when_the_pipeline_is_made(make_pipes: Any) -> None:
    pipe, _ = make_pipes("token-classification")
    for options, error in (({"aggregation_strategy": "best"}, ValueError), ({"nonsense": 1}, TypeError)):
        with pytest.raises(error, match=next(iter(options))):
            quintet.pipeline("ner", model=pipe.model, tokenizer=pipe.tokenizer, **options)
