"""Every example of the reference's T5 page, read out of the page and run with the import changed."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

MODEL_NAMES = ["google-t5/t5-base", "google-t5/t5-small", "google/t5-v1_1-xl"]
LIBRARIES = ["quintet", "transformers"]

# What is changed beside the import and the model's name: (example, library) -> old, new, why.
WITHOUT_CUDA = [] if torch.cuda.is_available() else [("device=0", 'device="cpu"', "the example wants a GPU")]
SUBSTITUTIONS: dict[tuple[str, str], list[tuple[str, str, str]]] = {
    ("pipeline", "quintet"): WITHOUT_CUDA,
    ("pipeline", "transformers"): WITHOUT_CUDA,
}

EXAMPLES = [  # in the order of the page, after the two that stand in its head
    "pipeline",
    "torchao",
    "T5Model",
    "T5ForConditionalGeneration",
    "T5EncoderModel",
    "T5ForSequenceClassification",
    "T5ForSequenceClassification, several labels",
    "T5ForTokenClassification",
    "T5ForQuestionAnswering",
]


@pytest.fixture(scope="module")
def page(shared: Path) -> list[str]:
    return (shared / "reference" / "t5-page.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def checkpoint(shared: Path) -> str:
    return str(shared / "models" / "flan-t5-small-title")


def python_at(lines: list[str]) -> str:
    """The longest run of lines that is a program. The first may be indented, as every paragraph of the page is."""
    lines = [lines[0].lstrip(), *lines[1:40]]
    for end in range(len(lines), 0, -1):
        text = "\n".join(lines[:end])
        try:
            ast.parse(text)
        except SyntaxError:
            continue
        return text
    raise AssertionError(f"no Python at {lines[0]!r}")


def prompted_at(lines: list[str]) -> str:
    """The statements of an interactive session, up to the first line without a prompt.

    The page has lost the indentation: a line that continues a colon gets it back. A prompt alone stands for a result.
    """
    code: list[str] = []
    for line in lines:
        match = re.match(r" ?(>>>|\.\.\.)(?: (.*))?$", line)
        if match is None:
            break
        continues_block = match[1] == "..." and code and code[-1].endswith(":")
        code.append(("    " if continues_block else "") + (match[2] or ""))
    return "\n".join(code)


def examples_of(page: list[str]) -> dict[str, str]:
    after = [index + 1 for index, line in enumerate(page) if line.strip() == "Copied"]
    blocks = [page[start:] for start in after]
    found = [prompted_at(block) if ">>>" in block[0] else python_at(block) for block in blocks]
    assert len(found) == len(EXAMPLES)
    return {"AutoModel": python_at(page[page.index("AutoModel:") + 1 :]), **dict(zip(EXAMPLES, found, strict=True))}


def test_every_example_is_found(page: list[str]) -> None:
    examples = examples_of(page)
    imports = [line for line in page if "from transformers import" in line]
    assert len(imports) == len(examples) == 10
    for name, source in examples.items():
        assert source.count("from transformers import") == 1, name
        assert name.split(",")[0] in source, name


class Session:
    """The result of running an example: its variables, what it printed, and the values that `>>>` would show."""

    def __init__(self, source: str, name: str) -> None:
        self.variables: dict[str, Any] = {}
        self.shown: list[Any] = []
        hook, sys.displayhook = sys.displayhook, self.shown.append
        try:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(ast.Interactive(ast.parse(source).body), name, "single"), self.variables)
        finally:
            sys.displayhook = hook
        self.printed = printed.getvalue()

    def __getattr__(self, name: str) -> Any:
        return self.variables[name]


def run(page: list[str], name: str, library: str, checkpoint: str) -> Session:
    source = examples_of(page)[name].replace("from transformers import", f"from {library} import")
    for old, new, _why in SUBSTITUTIONS.get((name, library), []):
        assert old in source
        source = source.replace(old, new)
    for model_name in MODEL_NAMES:
        source = source.replace(f'"{model_name}"', repr(checkpoint))
    return Session(source, f"<{name} with {library}>")


@pytest.fixture
def sessions(page: list[str], checkpoint: str, request: pytest.FixtureRequest) -> Iterator[tuple[Session, Session]]:
    """One example with both libraries: quintet's session and the reference's."""
    ours, theirs = (run(page, request.param, library, checkpoint) for library in LIBRARIES)
    return ours, theirs


def example(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sessions", [name], indirect=True)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@example("pipeline")
def test_pipeline(sessions: tuple[Session, Session]) -> None:
    ours, theirs = sessions
    assert ours.shown == theirs.shown
    assert ours.shown[0][0]["generated_text"]
    assert next(ours.pipeline.model.parameters()).dtype == torch.float16


@example("AutoModel")
def test_auto_model(sessions: tuple[Session, Session]) -> None:
    ours, theirs = sessions
    assert torch.equal(ours.output, theirs.output)
    assert ours.printed == theirs.printed != ""


@example("T5Model")
def test_t5_model(sessions: tuple[Session, Session]) -> None:
    ours, theirs = sessions
    assert torch.equal(ours.decoder_input_ids, theirs.decoder_input_ids)
    assert close(ours.last_hidden_states, theirs.last_hidden_states)


@example("T5ForConditionalGeneration")
def test_t5_for_conditional_generation(sessions: tuple[Session, Session]) -> None:
    ours, theirs = sessions
    assert close(ours.loss, theirs.loss)
    assert close(ours.logits, theirs.logits)
    assert torch.equal(ours.outputs, theirs.outputs)
    assert ours.printed == theirs.printed != ""


@example("T5EncoderModel")
def test_t5_encoder_model(sessions: tuple[Session, Session]) -> None:
    ours, theirs = sessions
    assert close(ours.last_hidden_states, theirs.last_hidden_states)


def with_our_weights(ours: Session, theirs: Session, **labels: torch.Tensor) -> tuple[Any, Any]:
    """Outputs of both models: the head was drawn anew in each, so the reference's takes over all weights of ours."""
    theirs.model.load_state_dict(ours.model.state_dict())
    assert {name: ids.tolist() for name, ids in ours.inputs.items()} == {
        name: ids.tolist() for name, ids in theirs.inputs.items()
    }
    with torch.no_grad():
        return ours.model(**ours.inputs, **labels), theirs.model(**theirs.inputs, **labels)


@example("T5ForSequenceClassification")
def test_t5_for_sequence_classification(sessions: tuple[Session, Session]) -> None:
    ours, theirs = sessions
    assert ours.shown[0] in theirs.model.config.id2label.values()
    assert ours.shown[1] == round(ours.loss.item(), 2)
    result, expected = with_our_weights(ours, theirs, labels=ours.labels)
    assert close(result.logits, expected.logits)
    assert close(result.loss, expected.loss)
    assert close(ours.loss, expected.loss)


@example("T5ForSequenceClassification, several labels")
def test_t5_for_sequence_classification_with_several_labels(sessions: tuple[Session, Session]) -> None:
    ours, theirs = sessions
    assert ours.labels.shape == theirs.labels.shape == (1, 2)
    result, expected = with_our_weights(ours, theirs, labels=ours.labels)
    assert close(result.logits, expected.logits)
    assert close(ours.loss, expected.loss)


@example("T5ForTokenClassification")
def test_t5_for_token_classification(sessions: tuple[Session, Session]) -> None:
    ours, theirs = sessions
    classes, rounded_loss = ours.shown
    assert len(classes) == len(theirs.shown[0]) == ours.inputs.input_ids.shape[1]
    assert set(classes) <= set(theirs.model.config.id2label.values())
    assert rounded_loss == round(ours.loss.item(), 2)
    result, expected = with_our_weights(ours, theirs, labels=ours.labels)
    assert close(result.logits, expected.logits)
    assert close(ours.loss, expected.loss)


@example("T5ForQuestionAnswering")
def test_t5_for_question_answering(sessions: tuple[Session, Session]) -> None:
    ours, theirs = sessions
    answer, rounded_loss = ours.shown
    assert isinstance(answer, str)
    assert rounded_loss == round(ours.loss.item(), 2)
    target = {"start_positions": ours.target_start_index, "end_positions": ours.target_end_index}
    result, expected = with_our_weights(ours, theirs, **target)
    assert close(result.start_logits, expected.start_logits)
    assert close(result.end_logits, expected.end_logits)
    assert close(ours.loss, expected.loss)


def linear_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return {f"{name}.weight": layer.weight.detach() for name, layer in layers}


def test_torchao(page: list[str], checkpoint: str) -> None:
    """The reference's own TorchAoConfig fails on newer torchao, so its model is given the rounded weights instead."""
    pytest.importorskip("torchao")
    ours = run(page, "torchao", "quintet", checkpoint)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16)
    plain, quantized = linear_weights(theirs), linear_weights(ours.model)
    assert plain.keys() == quantized.keys()
    assert torch.equal(plain.pop("lm_head.weight"), quantized["lm_head.weight"])
    for name, weight in plain.items():
        rounded = quantized[name].dequantize()
        assert not torch.equal(rounded, weight), name
        # 16 steps cover twice the largest weight of a group of 128, and rounding is off by half a step at most. Steps
        # are kept in bfloat16, which adds a little.
        groups, rounded_groups = weight.float().view(-1, 128), rounded.float().view(-1, 128)
        step = groups.abs().amax(dim=1, keepdim=True) / 7.5
        assert ((groups - rounded_groups).abs() <= 0.55 * step).all(), name
        assert max(len(group.unique()) for group in rounded_groups[:100]) <= 16, name
        theirs.get_parameter(name).data = rounded
    expected = theirs.generate(**ours.input_ids, num_beams=1)
    assert torch.equal(ours.output, expected)
    assert ours.printed.strip() == ours.tokenizer.decode(expected[0], skip_special_tokens=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="the example is a line for bash")
def test_command_line(page: list[str], checkpoint: str) -> None:
    line = page[page.index("transformers CLI:") + 1]
    text = re.search('"(.*)"', line)
    assert text is not None
    changes = {"transformers run": "quintet run", "google-t5/t5-base": checkpoint}
    if not torch.cuda.is_available():
        changes["--device 0"] = "--device cpu"
    for old, new in changes.items():
        assert line.count(old) == 1
        line = line.replace(old, new)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env={**os.environ, "PATH": path})
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
    ids = model.generate(**tokenizer(text[1], return_tensors="pt"), num_beams=4, max_new_tokens=256)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == tokenizer.decode(ids[0], skip_special_tokens=True) + "\n"
