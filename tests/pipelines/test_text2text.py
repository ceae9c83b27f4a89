"""The pipeline beside the reference's, which is told to decode greedily, on a trained checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import quintet

GREEDY = {"num_beams": 1, "do_sample": False}
PARAMETERS = {
    "summarization": {"prefix": "summarize: ", "max_length": 200},
    "translation_en_to_de": {"prefix": "translate English to German: ", "max_length": 300},
}
TEXTS = [
    "The house is wonderful.",
    "Studies have shown that owning a dog is good for you, and that the dog is of the same opinion.",
    "",
    "What color is the sky?",
]
RESULT_KEYS = {
    "text2text-generation": "generated_text",
    "summarization": "summary_text",
    "translation_en_to_de": "translation_text",
}


@pytest.fixture(scope="module")
def checkpoint(shared: Path) -> Path:
    return shared / "models" / "flan-t5-small-title"


def copy_with(folder: Path, checkpoint: Path, file: str = "config.json", **values: Any) -> Path:
    """The checkpoint with other values in a JSON file."""
    for path in checkpoint.iterdir():
        if path.name != file:
            (folder / path.name).symlink_to(path)
    changed = json.loads((checkpoint / file).read_text(encoding="utf-8")) | values
    (folder / file).write_text(json.dumps(changed), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def with_tasks(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with the configuration's tasks, as T5's own checkpoints have them."""
    return copy_with(tmp_path_factory.mktemp("tasks"), checkpoint, task_specific_params=PARAMETERS)


@pytest.fixture(scope="module")
def pipes(with_tasks: Path) -> Callable[[str], tuple[Any, Any]]:
    """For a task, quintet's pipeline and the reference's, over models that are loaded once."""
    ours = quintet.T5ForConditionalGeneration.from_pretrained(with_tasks)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(with_tasks)
    tokenizer = quintet.T5TokenizerFast.from_pretrained(with_tasks)
    their_tokenizer = transformers.T5TokenizerFast.from_pretrained(with_tasks)

    def make(task: str) -> tuple[Any, Any]:
        theirs.config.task_specific_params = json.loads(json.dumps(PARAMETERS))  # its pipeline takes the prefix out
        return (
            quintet.pipeline(task, model=ours, tokenizer=tokenizer),
            transformers.pipeline(task, model=theirs, tokenizer=their_tokenizer),
        )

    return make


# -- the reference's results


@pytest.mark.parametrize("task", RESULT_KEYS)
def test_results(task: str, pipes: Callable[[str], tuple[Any, Any]]) -> None:
    ours, theirs = pipes(task)
    results = ours(TEXTS)
    assert results == theirs(TEXTS, **GREEDY)
    assert [list(result) for result in results] == [[RESULT_KEYS[task]]] * len(TEXTS)
    assert ours(TEXTS[0]) == theirs(TEXTS[0], **GREEDY) == results[:1]
    assert ours(TEXTS, batch_size=3) == results


def test_the_prefix_of_a_task_is_used(pipes: Callable[[str], tuple[Any, Any]]) -> None:
    assert pipes("translation_en_to_de")[0](TEXTS[0]) == [{"translation_text": "Das Haus ist wunderbar."}]
    plain = pipes("text2text-generation")[0]
    assert plain("translate English to German: " + TEXTS[0]) == [{"generated_text": "Das Haus ist wunderbar."}]


def test_the_prefix_of_the_configuration_is_used_where_the_task_has_none(
    pipes: Callable[[str], tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pipes("text2text-generation")
    for pipe in (ours, theirs):
        monkeypatch.setattr(pipe.model.config, "prefix", "translate English to German: ", raising=False)
    ours = quintet.pipeline(model=ours.model, tokenizer=ours.tokenizer)
    theirs = transformers.pipeline("text2text-generation", model=theirs.model, tokenizer=theirs.tokenizer)
    assert ours(TEXTS[0]) == theirs(TEXTS[0], **GREEDY) == [{"generated_text": "Das Haus ist wunderbar."}]


@pytest.mark.parametrize("options", [{"max_new_tokens": 3}, {"max_new_tokens": 3, "cache_implementation": "static"}])
def test_options_of_generate(options: dict[str, Any], pipes: Callable[[str], tuple[Any, Any]]) -> None:
    ours, theirs = pipes("translation_en_to_de")
    assert ours(TEXTS, **options) == theirs(TEXTS, **options, **GREEDY)


@pytest.mark.parametrize("limit", [{"max_new_tokens": 3}, {"max_length": 4}])
def test_the_checkpoint_s_own_limit_holds(limit: dict[str, int], checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_with(tmp_path, checkpoint, "generation_config.json", **limit)
    text = "translate English to German: " + TEXTS[0]
    ours = quintet.pipeline(model=folder)
    assert ours(text) == [{"generated_text": "Das Haus ist"}]
    assert ours(text, max_new_tokens=2) == [{"generated_text": "Das Haus"}]
    if "max_length" in limit:  # max_new_tokens the reference means to obey, by its documentation, but does not
        theirs = transformers.pipeline("text2text-generation", model=str(folder))
        assert ours(text) == theirs(text, **GREEDY)


def test_a_generation_configuration_for_one_call(pipes: Callable[[str], tuple[Any, Any]]) -> None:
    ours, _ = pipes("translation_en_to_de")
    config = quintet.GenerationConfig(max_new_tokens=2, eos_token_id=1, pad_token_id=0, decoder_start_token_id=0)
    assert ours(TEXTS[0], generation_config=config) == [{"translation_text": "Das Haus"}]


def test_long_answers_are_not_cut_at_generate_s_default(pipes: Callable[[str], tuple[Any, Any]]) -> None:
    ours, theirs = pipes("text2text-generation")
    text = "translate English to German: The house is wonderful, the garden is large, the children play with the dog, "
    text += "and every Sunday the neighbours bring bread, butter, cheese and wine."
    answer = ours(text)[0]["generated_text"]
    assert answer == theirs(text, **GREEDY)[0]["generated_text"]
    assert len(ours.tokenizer(answer).input_ids) > 21


def test_truncation(pipes: Callable[[str], tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pipes("translation_en_to_de")
    for pipe in (ours, theirs):
        monkeypatch.setattr(pipe.tokenizer, "model_max_length", 9)
    results = ours(TEXTS, truncation=True)
    assert results == theirs(TEXTS, truncation=True, **GREEDY)
    assert results != ours(TEXTS)


# -- what it takes


def test_inputs_of_other_kinds(pipes: Callable[[str], tuple[Any, Any]]) -> None:
    ours, _ = pipes("translation_en_to_de")
    expected = ours(TEXTS[:2])
    assert ours(tuple(TEXTS[:2])) == ours(text for text in TEXTS[:2]) == expected
    assert ours([]) == []


def test_models_and_tokenizers_by_name_or_object(checkpoint: Path, tmp_path: Path) -> None:
    text = "translate English to German: " + TEXTS[0]
    expected = [{"generated_text": "Das Haus ist wunderbar."}]
    model = quintet.T5ForConditionalGeneration.from_pretrained(checkpoint)
    assert quintet.pipeline(model=model, tokenizer=str(checkpoint))(text) == expected
    without_tokenizer = tmp_path / "model"
    without_tokenizer.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (without_tokenizer / name).symlink_to(checkpoint / name)
    tokenizer = quintet.T5Tokenizer.from_pretrained(checkpoint)
    assert quintet.pipeline(model=str(without_tokenizer), tokenizer=tokenizer)(text) == expected


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, torch.float32),
        ({"dtype": torch.bfloat16, "device": "cpu"}, torch.bfloat16),
        ({"torch_dtype": "auto", "device": -1}, torch.bfloat16),
        ({"model_kwargs": {"attn_implementation": "eager"}, "device": torch.device("cpu")}, torch.float32),
        ({"device_map": "cpu"}, torch.float32),
    ],
)
def test_how_the_model_is_loaded(options: dict[str, Any], dtype: torch.dtype, checkpoint: Path) -> None:
    pipe = quintet.pipeline("text2text-generation", model=checkpoint, **options)
    assert (pipe.model.dtype, pipe.model.device) == (dtype, torch.device("cpu"))
    expected = options.get("model_kwargs", {}).get("attn_implementation", "sdpa")
    assert pipe.model.config._attn_implementation == expected


# -- what it refuses


@pytest.mark.parametrize("task", ["text-generation", "translation_en_de", "translation_en_to_", "Summarization", ""])
def test_unknown_tasks(task: str) -> None:
    with pytest.raises(ValueError, match=r"is not known; it must be one of text2text-generation, summarization, "):
        quintet.pipeline(task, model="any")


def test_no_model() -> None:
    with pytest.raises(ValueError, match="pipeline needs a model"):
        quintet.pipeline("summarization")


def test_a_model_object_without_tokenizer(pipes: Callable[[str], tuple[Any, Any]]) -> None:
    with pytest.raises(ValueError, match="pipeline needs a tokenizer when the model is given as an object"):
        quintet.pipeline(model=pipes("summarization")[0].model)


@pytest.mark.parametrize("inputs", [None, 3, b"text", {"text": "a"}, ["a", None], [["a"]], ["a", b"b"]])
def test_what_is_no_text(inputs: Any, pipes: Callable[[str], tuple[Any, Any]]) -> None:
    with pytest.raises(ValueError, match="the input must be a text or a list of texts, got"):
        pipes("summarization")[0](inputs)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "2"])
def test_wrong_batch_sizes(size: Any, pipes: Callable[[str], tuple[Any, Any]]) -> None:
    pipe, _ = pipes("summarization")
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got"):
        quintet.pipeline(model=pipe.model, tokenizer=pipe.tokenizer, batch_size=size)
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got"):
        pipe(TEXTS, batch_size=size)


@pytest.mark.parametrize("device", ["nowhere", 1.5, object()])
def test_wrong_devices(device: Any, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="device must be a device"):
        quintet.pipeline(model=checkpoint, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
@pytest.mark.parametrize("device", [0, "0", "cuda", "cuda:1"])
def test_cuda_that_is_not_there(device: Any, pipes: Callable[[str], tuple[Any, Any]]) -> None:
    pipe, _ = pipes("summarization")
    with pytest.raises(ValueError, match="device asks for cuda"):
        quintet.pipeline(model=pipe.model, tokenizer=pipe.tokenizer, device=device)


def test_device_and_device_map_exclude_each_other(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="a device or a device_map, not both"):
        quintet.pipeline(model=checkpoint, device="cpu", device_map="auto")
