"""`quintet run` between its options and its lines: what it reads, refuses, and says when something is wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import quintet
import quintet.pipelines
from quintet.cli.answers import stream
from quintet.cli.app import app
from quintet.cli.failures import Failure, in_one_line
from quintet.cli.inputs import Inputs, read_inputs
from quintet.cli.labels import check_labels
from quintet.cli.tasks import call_options

from .model.reference import make_pair
from .test_cli import ENVIRONMENT, HOUSE, PROGRAM, SKY, answers, complaint, run

installed = pytest.mark.skipif(not PROGRAM.is_file(), reason="the package is not installed: no program `quintet`")


@pytest.fixture(scope="module")
def model(shared: Path) -> Path:
    return shared / "models" / "flan-t5-small-title"


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def piped(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    """The inputs when this is on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    return read_inputs(None, None, None)


# -- what is read

MARK = b"\xef\xbb\xbf"  # of the byte order, in UTF-8


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (MARK, []),
        (MARK + b"a\n", ["a"]),
        (b"a\n" + MARK + b"b\n", ["a", "\ufeffb"]),
        (b"a\r\nb\rc\n\nd", ["a", "b", "c", "", "d"]),
        ("a\u2028b\x0cc\n".encode(), ["a\u2028b\x0cc"]),
    ],
)
def test_lines(data: bytes, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only at its beginning is a byte order mark one; lines end where editors end them."""
    inputs = read_inputs(None, written(tmp_path / "in.txt", data), None)
    assert list(inputs) == lines
    assert inputs.count == len(lines)
    assert list(piped(data, monkeypatch)) == lines


def test_json_lines(tmp_path: Path) -> None:
    data = MARK + b'{"text": "a"}\n"b"\n{"text": "c", "id": 3}\n\n  \n'
    path = written(tmp_path / "in.ndjson", data)
    assert list(read_inputs(None, path, None)) == ["a", "b", {"text": "c", "id": 3}]


@pytest.mark.parametrize(
    ("data", "column", "message"),
    [
        (b'"a"\n\n"b"\n', None, "line 2 is empty: it must hold a JSON value"),
        (b'"a"\n{"text": \n', None, "line 2 is not JSON: Expecting value, column 10"),
        (b'"a"\n' + b"[" * 100_000, None, "line 2 is nested too deep"),
        (b"1" * 5000, None, "line 1: Exceeds the limit"),
        (b'{"b": "\\ud800"}\n', "b", "line 1 holds '\\ud800', which is no character"),
        (b'"a"\n"\xff"\n', None, "line 2 is not valid utf-8: invalid start byte, its byte 2"),
        (b'{"a": 1}\n["b"]\n', "a", "line 2 has no 'a'"),
    ],
)
def test_json_lines_that_cannot_be_read(data: bytes, column: str | None, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "in.jsonl", data)
    with pytest.raises(Failure) as caught:
        read_inputs(None, path, column)
    assert str(caught.value).startswith(f"{path}, {message}")


def test_a_bad_byte_does_not_take_the_lines_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(piped(b"a\nb\n\xff\n", monkeypatch))
    assert [next(lines), next(lines)] == ["a", "b"]
    with pytest.raises(Failure, match="standard input, line 3 is not valid utf-8"):
        next(lines)


def test_texts_that_are_no_text() -> None:
    """Python hands on bytes of the command line that are no UTF-8 as lone surrogates."""
    with pytest.raises(Failure, match=r"^text 2 holds '\\udcff', which is no character$"):
        read_inputs(["fine", os.fsdecode(b"a\xff")], None, None)


@installed
def test_standard_input_is_answered_as_it_arrives(model: Path) -> None:
    command = [PROGRAM, "run", "-m", model, "--num-beams", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text, answer in ((HOUSE, "Das Haus ist wunderbar."), (SKY, "blue")):
            process.stdin.write(f"{text}\n".encode())
            process.stdin.flush()
            assert process.stdout.readline().decode() == f"{answer}\n"
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


# -- what is refused before a model is loaded

TEXTS, RECORDS = Inputs(["a"]), Inputs([{"question": "a", "context": "b"}], "in.jsonl", are_json=True)


@pytest.mark.parametrize(
    ("task", "inputs", "options", "message"),
    [
        ("text-classification", TEXTS, {"num_beams": 2}, "--num-beams cannot be used with text-classification"),
        ("ner", TEXTS, {"num_beams": 2, "max_new_tokens": 9}, "--max-new-tokens and --num-beams cannot be used with n"),
        ("feature-extraction", TEXTS, {}, "feature-extraction gives no text to print: add --json"),
        ("question-answering", TEXTS, {}, "question-answering needs an --input of JSON lines"),
        ("summarization", TEXTS, {"labels": "a,b"}, "--labels is for zero-shot-classification, not for summarization"),
        ("zero-shot-classification", TEXTS, {}, "zero-shot-classification needs --labels, such as"),
        ("zero-shot-classification", TEXTS, {"labels": ", "}, "zero-shot-classification needs --labels, such as"),
        ("zero-shot-classification", TEXTS, {"labels": "a\udcff"}, "--labels holds '\\udcff', which is no character"),
    ],
)
def test_options_that_do_not_fit_the_task(task: str, inputs: Inputs, options: dict[str, Any], message: str) -> None:
    given = {"labels": None, "max_new_tokens": None, "num_beams": None, **options}
    with pytest.raises(Failure) as caught:
        call_options(task, inputs, as_json=False, **given)
    assert str(caught.value).startswith(message)


def test_options_that_fit_the_task() -> None:
    none = {"labels": None, "max_new_tokens": None, "num_beams": None}
    assert call_options("translation_en_to_fr", TEXTS, False, None, 5, 2) == {"max_new_tokens": 5, "num_beams": 2}
    assert call_options("text2text-generation", TEXTS, False, **none) == {}  # the checkpoint's own are left alone
    assert call_options("feature-extraction", TEXTS, True, **none) == {}
    assert call_options("question-answering", RECORDS, False, **none) == {}
    assert call_options("zero-shot-classification", TEXTS, False, "a", None, None) == {"labels": "a"}


def test_a_column_is_of_json_lines(tmp_path: Path) -> None:
    for texts, path in ((["a"], None), (None, written(tmp_path / "in.txt", b"a\n")), (None, None)):
        with pytest.raises(Failure, match=r"^--column is for an --input of JSON lines \(.jsonl or .ndjson\)$"):
            read_inputs(texts, path, "words")


@installed
def test_a_checkpoint_without_the_head_is_refused(model: Path) -> None:
    message = complaint(SKY, "-m", model, "--task", "text-classification")
    assert message.startswith("text-classification needs a T5ForSequenceClassification; the checkpoint")
    assert message.endswith("(its config.json names T5ForConditionalGeneration)")


@installed
@pytest.mark.skipif(os.name != "posix", reason="a shell closes the streams")
@pytest.mark.parametrize(
    ("closed", "arguments", "message"),
    [
        ("<&-", [], b"standard input is closed: give a text"),
        (">&-", ["text"], b"standard output is closed: give --out"),
    ],
)
def test_a_closed_stream(closed: str, arguments: list[str], message: bytes) -> None:
    program = ("sh", "-c", f'exec "$@" {closed}', "sh", PROGRAM)
    result = run("run", "-m", "model", *arguments, program=program)
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.startswith(b"quintet: " + message)
    assert result.stderr.count(b"\n") == 1


# -- labels


def test_labels_of_each_record(model: Path, tmp_path: Path) -> None:
    """Answered in order, and as the pipeline answers each with its labels; --labels is for those without."""
    records = [
        {"text": "the sky is", "candidate_labels": ["red", "blue"]},
        {"text": "grass is", "candidate_labels": ["red", "blue"], "id": 7},
        {"text": "grass is", "candidate_labels": "green, blue, red"},
        {"text": "snow is"},
    ]
    data = "".join(json.dumps(record) + "\n" for record in records)
    path = written(tmp_path / "in.jsonl", data.encode())
    arguments = ("--task", "zero-shot-classification", "--labels", "white,black", "--batch-size", "3", "--json")
    found = [json.loads(line) for line in answers("-m", model, "--input", path, *arguments)]
    pipe = quintet.pipeline("zero-shot-classification", model=model, dtype="float32", device="cpu")
    for record, line in zip(records[:3], found[:3], strict=True):
        expected = pipe(record["text"], candidate_labels=record["candidate_labels"])
        assert line["input"] == record
        assert line["result"]["labels"] == expected["labels"]
        assert line["result"]["scores"] == pytest.approx(expected["scores"], abs=1e-5)
    assert found[3]["input"] == "snow is"
    assert set(found[3]["result"]["labels"]) == {"white", "black"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a"}, " has no labels: give --labels, or"),
        ("a", " has no labels: give --labels, or"),
        ({"text": "a", "candidate_labels": []}, " has no labels: give --labels, or"),
        ({"text": "a", "candidate_labels": [1]}, ": candidate_labels must be a list of texts"),
        ({"text": "a", "candidate_labels": None}, ": candidate_labels must be a list of texts"),
    ],
)
def test_a_record_without_labels(record: Any, message: str) -> None:
    inputs = Inputs([{"text": "a", "candidate_labels": "b,c"}, record], "in.jsonl", are_json=True)
    with pytest.raises(Failure) as caught:
        check_labels(inputs, None)
    assert str(caught.value).startswith(f"in.jsonl, line 2{message}")


# -- answers


@installed
def test_the_checkpoint_says_how_long_answers_are(model: Path, tmp_path: Path) -> None:
    """Unless the command line does."""
    for file in model.iterdir():
        if file.name != "generation_config.json":
            (tmp_path / file.name).symlink_to(file)
    settings = {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0, "max_new_tokens": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert answers(HOUSE, "-m", tmp_path) == ["Das Haus"]
    assert answers(HOUSE, "-m", tmp_path, "--max-new-tokens", "20") == ["Das Haus ist wunderbar."]


@installed
def test_a_bar_where_a_person_waits(model: Path, tmp_path: Path) -> None:
    """On a terminal's stderr, while answers go elsewhere; none for texts of the command line."""
    pty = pytest.importorskip("pty")
    path = written(tmp_path / "in.txt", f"{SKY}\n{SKY}\n".encode())
    for arguments, shown in ((["--input", path], True), ([SKY], False)):
        leader, follower = pty.openpty()
        command = [PROGRAM, "run", "-m", model, "--num-beams", "1", *arguments]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=follower)
        os.write(follower, b".")  # so that there is something to read
        os.close(follower)
        seen = os.read(leader, 65536)
        os.close(leader)
        assert set(result.stdout.splitlines()) == {b"blue"}
        assert (b"2/2" in seen) is shown
        assert (seen == b".") is not shown


def test_half_an_answer_keeps_a_line_of_its_own(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What fails while words are shown does not say so behind them."""
    tokenizer = quintet.AutoTokenizer.from_pretrained(shared / "tokenizers" / "t5")
    network = make_pair("ForConditionalGeneration", vocab_size=32128).ours
    pipe = quintet.pipeline(model=network, tokenizer=tokenizer, device="cpu", batch_size=2)

    def stop(ids: Any, scores: Any) -> bool:
        if ids.shape[1] == 8:
            raise RuntimeError("enough")
        return False

    with pytest.raises(RuntimeError, match="enough"):
        stream(pipe, Inputs(["a", "b"]), {"num_beams": 1, "min_new_tokens": 20, "stopping_criteria": [stop]})
    shown = capsys.readouterr().out
    assert shown.strip()
    assert shown.endswith("\n")


# -- how it ends


def said(error: BaseException, relief: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(typer.Exit) as caught, in_one_line(debug=False, relief=relief):
        raise error
    assert caught.value.exit_code == 1
    return capsys.readouterr().err


def test_an_error_that_nobody_foresaw_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    message = said(KeyError("a\nb"), "", capsys)
    assert message == "quintet: unexpected KeyError: 'a\\nb'; run again with --debug for the traceback\n"
    with pytest.raises(KeyError), in_one_line(debug=True):
        raise KeyError("a")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("can't allocate memory: 1 byte"), RuntimeError("CUDA out of memory.")],
    ids=str,
)
def test_what_to_do_about_memory_is_the_commands_to_say(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(error, "shorten the text", capsys) == "quintet: not enough memory: shorten the text\n"
    assert said(error, "", capsys) == "quintet: not enough memory\n"


@pytest.mark.parametrize(
    ("chosen", "dtype", "rounding"),
    [
        ([], "float32", {}),
        (["--dtype", "auto", "--quantize", "int4"], "auto", {"quantization_config": "int4"}),
        (["--precision", "bf16"], "bfloat16", {}),
        (["--precision", "int4"], "bfloat16", {"quantization_config": "int4"}),
    ],
    ids=str,
)
def test_precision_is_heard(
    chosen: list[str], dtype: str, rounding: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the pipeline is asked for; and the advice of a run in which it does not fit."""
    asked = {}

    def load(task: str, **options: Any) -> None:
        asked.update(options)
        raise MemoryError

    monkeypatch.setattr(quintet.pipelines, "pipeline", load)
    result = CliRunner().invoke(app, ["run", HOUSE, "-m", "name", *chosen])
    assert (result.exit_code, result.stderr) == (1, "quintet: not enough memory: shorten the text\n")
    assert (asked["dtype"], asked["model_kwargs"]) == (dtype, rounding)


INTERRUPTED_IMPORT = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:  # some libraries take it for something that is missing
    pass
"""


@installed
@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
@pytest.mark.parametrize("library", ["typer", "torch"])
def test_ctrl_c_while_libraries_are_imported(library: str, tmp_path: Path) -> None:
    (tmp_path / f"{library}.py").write_text(INTERRUPTED_IMPORT)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [PROGRAM, "run", "text", "-m", "model"]
    result = subprocess.run(command, capture_output=True, env={**ENVIRONMENT, "PYTHONPATH": path})
    assert (result.returncode, result.stdout, result.stderr) == (130, b"", b"")


@pytest.fixture
def ignored() -> Iterator[None]:
    """Ctrl-C ignored, as a shell has it for what a script runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ignored")
def test_ctrl_c_stays_ignored() -> None:
    with in_one_line(debug=False):
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_ctrl_c_is_handed_back() -> None:
    before, inside = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with in_one_line(debug=False):
            inside.append(signal.getsignal(signal.SIGINT))
            raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as caught:
        work()
    assert caught.value.exit_code == 130
    assert inside == [signal.default_int_handler]
    assert signal.getsignal(signal.SIGINT) is before
