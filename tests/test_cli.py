"""The installed program, run as its users run it: what it prints where, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import quintet
from quintet.cli.answers import as_text

PROGRAM = Path(sys.executable).with_name("quintet")
HOUSE = "translate English to German: The house is wonderful."
SKY = "What color is the sky?"
COLOURS = {"FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"}  # with these, typer writes colours into pipes too
PLAIN = {name: value for name, value in os.environ.items() if name not in COLOURS}
ENVIRONMENT = {**PLAIN, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}

pytestmark = pytest.mark.skipif(not PROGRAM.is_file(), reason="the package is not installed: no program `quintet`")


def run(*arguments: str | Path, stdin: bytes | int = b"", program: tuple[str | Path, ...] = (PROGRAM,)) -> Any:
    source = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    return subprocess.run([*program, *arguments], capture_output=True, env=ENVIRONMENT, **source)


def answers(*arguments: str | Path, **options: Any) -> list[str]:
    """The lines of a run that succeeds and says nothing beside them."""
    result = run("run", *arguments, **options)
    assert (result.returncode, result.stderr) == (0, b"")
    output = result.stdout.decode("utf-8")
    assert output == "" or output.endswith("\n")
    return output.split("\n")[:-1]


def complaint(*arguments: str | Path, **options: Any) -> str:
    """The one line of a run that fails."""
    result = run("run", *arguments, **options)
    assert (result.returncode, result.stdout) == (1, b"")
    message = result.stderr.decode("utf-8")
    assert message.startswith("quintet: ")
    assert message.endswith("\n")
    assert message.count("\n") == 1, message
    return message.removeprefix("quintet: ").rstrip("\n")


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "flan-t5-small-title"


@pytest.fixture(scope="module")
def expected(model: Path) -> dict[str, str]:
    """What the pipeline answers in this process."""
    texts = [HOUSE, "", SKY]
    results = quintet.pipeline("text2text-generation", model=model, dtype="float32")(texts)
    return {text: result["generated_text"] for text, result in zip(texts, results, strict=True)}


# -- answers


def test_the_main_job(model: Path) -> None:
    result = run("run", HOUSE, "--model", model)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"Das Haus ist wunderbar.\n", b"")


def test_as_a_module(model: Path) -> None:
    result = run("run", HOUSE, "-m", model, program=(sys.executable, "-m", "quintet"))
    assert (result.returncode, result.stdout, result.stderr) == (0, b"Das Haus ist wunderbar.\n", b"")


def test_texts_computed_together_are_answered_in_order(model: Path, expected: dict[str, str]) -> None:
    texts = [SKY, "", HOUSE, SKY]
    assert answers(*texts, "-m", model, "--batch-size", "3") == [expected[text] for text in texts]


def test_standard_input_is_one_text_a_line(model: Path, expected: dict[str, str]) -> None:
    """Whatever ends the lines; empty ones count, the end of the file ends a line, a form feed does not."""
    stdin = f"{HOUSE}\r\n\n{SKY}\f\n\r\n{SKY}".encode()
    asked = [HOUSE, "", SKY, "", SKY]
    assert answers("-m", model, "--device", "-1", stdin=stdin) == [expected[text] for text in asked]


def test_no_lines_no_answers(model: Path) -> None:
    assert answers("-m", model, stdin=b"") == []


def test_characters_beyond_ascii(model: Path) -> None:
    text = "translate English to French: The weather is nice today."
    answer = quintet.pipeline(model=model, dtype="float32")(text)[0]["generated_text"]
    assert not answer.isascii()
    assert answers("-m", model, stdin=f"{text}\n".encode()) == [answer]


@pytest.mark.parametrize("dtype", ["float16", "auto"])
def test_dtype(dtype: str, model: Path) -> None:
    expected = quintet.pipeline(model=model, dtype=dtype)(HOUSE)[0]["generated_text"]
    assert answers(HOUSE, "-m", model, "--dtype", dtype, "--device", "cpu") == [expected]


def test_a_task_brings_its_prefix(model: Path, tmp_path: Path) -> None:
    """And without its languages it is the first that the checkpoint knows, which a line says."""
    for file in model.iterdir():
        if file.name != "config.json":
            (tmp_path / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["task_specific_params"] = {"translation_en_to_de": {"prefix": "translate English to German: "}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    task = ("--task", "translation_en_to_de")
    assert answers("The house is wonderful.", "-m", tmp_path, *task) == ["Das Haus ist wunderbar."]
    result = run("run", "The house is wonderful.", "-m", tmp_path, "--task", "translation")
    assert (result.returncode, result.stdout) == (0, b"Das Haus ist wunderbar.\n")
    assert result.stderr.startswith(b'quintet: "translation" is done as "translation_en_to_de"')
    assert result.stderr.count(b"\n") == 1


def test_max_new_tokens(model: Path) -> None:
    assert answers(HOUSE, "-m", model, "--max-new-tokens", "2") == ["Das Haus"]


def test_an_answer_stays_on_its_line() -> None:
    assert as_text([{"generated_text": "two\nlines"}]) == "two lines"


# -- what is not an answer


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"quintet {quintet.__version__}\n".encode(), b"")


def test_help() -> None:
    result = run("run", "--help")
    assert (result.returncode, result.stderr) == (0, b"")
    for option in (
        "--model",
        "[default: quintet-mini]",
        "--task",
        "--device",
        "--dtype",
        "--batch-size",
        "--max-new-tokens",
        "--debug",
        "--json",
        "--input",
        "--output",
    ):
        assert option.encode() in result.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "text", "--model"], "--model"),
        (["run", "text", "--model", "m", "--batch-size", "0"], "--batch-size"),
        (["run", "text", "--model", "m", "--max-new-tokens", "many"], "--max-new-tokens"),
        (["run", "text", "--model", "m", "--beams", "4"], "--beams"),
        (["walk"], "walk"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], named: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, b"")
    assert named in result.stderr.decode("utf-8")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--device", "not-there", "device must be a device"),
        ("--dtype", "float8", "dtype must be one of float32"),
        ("--task", "text-to-speech", "task 'text-to-speech' is not known; it must be one of text2text-generation"),
        ("--model", "nobody/nothing", "Cannot get config.json of 'nobody/nothing'"),
        ("--model", "no/such/folder", "'no/such/folder' is neither an existing folder nor a possible repository name"),
    ],
)
def test_a_wrong_value_is_named(option: str, value: str, message: str, model: Path) -> None:
    assert message in complaint(HOUSE, "--model", model, option, value)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    assert f"the folder {tmp_path} does not hold config.json. It is empty." in complaint(HOUSE, "-m", tmp_path)


def test_a_damaged_model(model: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(model / name)
    with (model / "model.safetensors").open("rb") as whole:
        (tmp_path / "model.safetensors").write_bytes(whole.read(1_000_000))
    assert "model.safetensors" in complaint(HOUSE, "-m", tmp_path)


def test_bytes_that_are_no_text(model: Path, expected: dict[str, str]) -> None:
    """The line is named, and what came before it, in its batch too, is answered."""
    result = run("run", "-m", model, "--batch-size", "8", stdin=f"{SKY}\n{HOUSE}\n".encode() + b"b\xffad\ngood\n")
    assert result.stdout.decode("utf-8") == f"{expected[SKY]}\n{expected[HOUSE]}\n"
    assert (result.returncode, result.stderr.decode("utf-8")) == (
        1,
        "quintet: standard input, line 3 is not valid utf-8: invalid start byte, its byte 2 "
        "(answers before it, which are written: 2)\n",
    )


def test_a_terminal_is_not_waited_for(model: Path) -> None:
    leader, follower = pytest.importorskip("pty").openpty()
    try:
        assert complaint("-m", model, stdin=follower).startswith("no input: give a text")
    finally:
        os.close(leader)
        os.close(follower)


def test_a_reader_that_leaves(model: Path) -> None:
    """`quintet run ... | head -1` ends without a word, however many answers would follow."""
    command = [PROGRAM, "run", "-m", model]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(f"{HOUSE}\n".encode() * 1000)
        process.stdin.close()
        assert process.stdout.readline() == b"Das Haus ist wunderbar.\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_debug_shows_where_an_error_comes_from(model: Path) -> None:
    result = run("run", HOUSE, "-m", model, "--task", "nonsense", "--debug")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.startswith(b"Traceback (most recent call last)")
    assert b"ValueError: task 'nonsense' is not known" in result.stderr


def test_a_task_that_gives_no_text_is_refused() -> None:
    """Before anything is loaded."""
    message = complaint("a", "--model", "no/such/folder", "--task", "feature-extraction")
    assert message.startswith("feature-extraction gives no text to print")
