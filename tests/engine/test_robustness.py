"""The native engine among threads, processes and limits: always the tokens that one thread gives, or a clear error."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import sentencepiece
import torch

from quintet.engine import NativeSession, load_library
from quintet.engine.library import torch_openmp
from quintet.model.engines import NativeEngine, choose_engine
from quintet.model.inputs import Inputs
from tests.engine.models import make_model, random_ids
from tests.engine.native import INSTRUCTION_SETS

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
MEGABYTE = 2**20


@cache
def models() -> list[Any]:
    """One in float32, and one that is rounded."""
    return [make_model(), make_model("umt5", num_layers=1).to(torch.bfloat16)]


def tokens(model: Any, seed: int = 0) -> list[list[int]]:
    return model.generate(random_ids(3, 9, seed), max_new_tokens=12).tolist()


# -- threads -----------------------------------------------------------------------------------------------------------


def request(number: int) -> Any:
    """One of many requests, no two alike; what it answers depends on its number alone."""
    model = models()[number % 2]
    ids = random_ids(1 + number % 5, 3 + number % 37, seed=number)
    mask = (torch.arange(ids.shape[1]) < torch.arange(1, ids.shape[0] + 1)[:, None] * 3).long()
    options: dict[str, Any] = {"max_new_tokens": 3 + number % 7}
    kind = number // 2 % 5
    if kind == 1:
        options |= {"num_beams": 4, "num_return_sequences": 2}
    elif kind == 2:
        options |= {"do_sample": True, "generator": torch.Generator().manual_seed(number)}
    elif kind == 3:
        options |= {"prompt_lookup_num_tokens": 2}
    elif kind == 4:
        with torch.no_grad():
            return model.score(ids.tolist(), [[row] for row in ids.tolist()]).token_log_probs.tolist()
    return model.generate(ids, attention_mask=mask, **options).tolist()


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.sweep)])
def test_requests_from_eight_threads(count: int) -> None:
    expected = [request(number) for number in range(count)]
    assert len({str(answer) for answer in expected}) > 0.9 * count

    def among_others(number: int) -> Any:
        torch.set_num_threads(1 + number % 2)  # while others compute
        return request(number)

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(among_others, range(count))) == expected
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_number(two_threads: None) -> None:
    model, ids = models()[0], random_ids(20, 30)
    options = {"max_new_tokens": 8, "return_dict_in_generate": True, "output_logits": True}
    together = model.generate(ids, **options)
    torch.set_num_threads(1)
    alone = model.generate(ids, **options)
    assert torch.equal(torch.stack(together.logits), torch.stack(alone.logits))


def test_two_sessions_take_turns() -> None:
    """Of two models, each step in between the other's."""

    def session(model: Any) -> NativeSession:
        inputs = Inputs(input_ids=random_ids(3, 9))
        engine = choose_engine(model, inputs)
        assert isinstance(engine, NativeEngine)
        return engine.session(inputs, engine.encode(inputs), 20)

    steps = [random_ids(3, 1, seed) for seed in range(5)]
    alone = []
    for model in models():
        one = session(model)
        alone.append([one.step(step) for step in steps])
    pair = [session(model) for model in models()]
    for number, step in enumerate(steps):
        for either, expected in zip(pair, alone, strict=True):
            assert torch.equal(either.step(step), expected[number])


# -- processes ---------------------------------------------------------------------------------------------------------


def child_agrees(model: Any, expected: list[list[int]]) -> bool:
    """Whether a child of fork gives these tokens, twice."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a child that hangs is a failure, not a test that never ends
        same = False
        try:
            same = tokens(model) == expected and tokens(model) == expected
        finally:
            os._exit(0 if same else 1)
    return os.waitpid(child, 0)[1] == 0


@FORKS
def test_fork_after_use(two_threads: None) -> None:
    """A child has none of its parent's threads."""
    expected = tokens(models()[0])
    assert child_agrees(models()[0], expected)
    assert tokens(models()[0]) == expected


@FORKS
def test_fork_while_others_compute(two_threads: None) -> None:
    model = models()[0]
    expected = tokens(model)
    with ThreadPoolExecutor(1) as pool:
        work = [pool.submit(tokens, model) for _ in range(20)]
        assert all(child_agrees(model, expected) for _ in range(3))
        assert all(answer.result() == expected for answer in work)


@FORKS
def test_workers_of_multiprocessing(two_threads: None) -> None:
    expected = [tokens(models()[0], seed) for seed in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_tokens_of_first, range(4)).get(timeout=60) == expected


def _tokens_of_first(seed: int) -> list[list[int]]:
    return tokens(models()[0], seed)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_an_instruction_set_by_the_environment() -> None:
    code = "from quintet.engine import load_library; print(load_library().instruction_set)"
    assert run_python(code, QUINTET_ISA="portable").stdout == "portable\n"
    refused = run_python(code, QUINTET_ISA="nonsense")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.splitlines()[-1] == (
        'RuntimeError: the instruction set "nonsense" (QUINTET_ISA) is not there; this processor has '
        + ", ".join(INSTRUCTION_SETS)
    )


@pytest.mark.skipif(torch_openmp() is None, reason="torch computes without OpenMP here")
@pytest.mark.parametrize("preloaded", [False, True])
def test_threads_are_shared_with_torch_whatever_else_is_loaded(preloaded: bool) -> None:
    """Other packages bring OpenMP libraries of their own, which know nothing of torch's threads unless they are loaded
    before everything else: then torch uses theirs."""
    code = """
import sentencepiece, torch
from quintet.engine.library import torch_openmp
torch.set_num_threads(3)
torch.ones(10**6).exp()
print(torch_openmp().omp_get_max_threads())
"""
    (others,) = Path(sentencepiece.__file__).parent.parent.glob("sentencepiece.libs/libgomp*")
    environment = {"OMP_NUM_THREADS": "2"} | ({"LD_PRELOAD": str(others)} if preloaded else {})
    assert run_python(code, **environment).stdout == "3\n"


@pytest.mark.parametrize("is_there", [False, True])
def test_a_library_that_cannot_be_loaded_is_said(
    is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "libquintet.so"
    if is_there:
        path.write_text("made for another machine")
    monkeypatch.setattr("quintet.engine.library.PATH", path)
    assert load_library.__wrapped__() is None
    (record,) = caplog.records
    assert ("cannot be loaded" if is_there else "was not built") in record.getMessage()
    assert "models compute with PyTorch's operations" in record.getMessage()


def test_a_library_of_another_version_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After an update without a new build its structures would be misread."""
    monkeypatch.setattr("quintet.engine.library.VERSION", 999)
    assert load_library.__wrapped__() is None
    (record,) = caplog.records
    assert "built from another version of quintet: install it again" in record.getMessage()


LIMITED = """
import resource, torch, quintet
from quintet.engine import load_library
from quintet.model.engines import choose_engine
from quintet.model.inputs import Inputs

set_threads = load_library()._library.quintet_set_threads
load_library()._library.quintet_use_openmp(None, None, None)
config = quintet.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
model = quintet.T5ForConditionalGeneration(config).eval()
inputs = Inputs(input_ids=torch.tensor([[5, 6, 7], [8, 9, 10]]))
engine = choose_engine(model, inputs)
encoded = engine.encode(inputs)
session, untouched = (engine.session(inputs, encoded, 99) for _ in range(2))
token, million = torch.tensor([[3], [4]]), torch.full((2, 1_000_000), 5)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, used + 2**25))
for threads, tokens in ((64, token), (1, million)):
    print(torch.equal(session.step(token), untouched.step(token)))
    set_threads(threads)
    try:
        session.step(tokens)
    except RuntimeError as error:
        print(error)
    set_threads(1)
print(torch.equal(session.step(token), untouched.step(token)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_that_cannot_start_and_memory_that_runs_out() -> None:
    """In 32 MB there is no room for 64 threads, nor for a million tokens. A session goes on as if not asked."""
    done = run_python(LIMITED, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [said[place] for place in (0, 2, 4)] == ["True"] * 3
    assert said[1].startswith("cannot start 64 threads (")
    assert said[1].endswith("): torch.set_num_threads(1) does without")
    assert said[3] == "out of memory: use fewer or shorter sources at a time"


# -- memory ------------------------------------------------------------------------------------------------------------


def resident() -> int:
    return psutil.Process().memory_info().rss


def test_memory_stays_flat() -> None:
    model = make_model(d_model=256, d_ff=1024, num_layers=1, vocab_size=4000)

    def answer(count: int, call: Callable[[int], Any]) -> int:
        for number in range(count):
            call(number)
        return resident()

    def generate(number: int) -> None:
        ids = random_ids(1 + number % 4, 5 + number % 50, number)
        model.generate(ids, max_new_tokens=4, num_beams=1 + number % 2)

    begun = answer(50, generate)
    assert answer(150, generate) - begun < 4 * MEGABYTE


def test_a_session_gives_its_memory_back() -> None:
    """Keys and values of 64 targets are some 50 MB; sessions one after another never hold two of them."""
    model = make_model(d_kv=64, num_heads=8, num_layers=1)
    inputs = Inputs(input_ids=random_ids(64, 20))
    engine = choose_engine(model, inputs)
    encoded = engine.encode(inputs)

    def use() -> int:
        session = engine.session(inputs, encoded, 200)
        session.step(random_ids(64, 130))
        return resident()

    first = use()
    assert resident() < first - 20 * MEGABYTE
    assert max(use() for _ in range(5)) < first + 10 * MEGABYTE
