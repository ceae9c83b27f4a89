"""The native session gives the scores of the eager one, whatever is asked of both."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quintet.engine import NativeSession
from quintet.model.engines import EagerEngine, NativeEngine, Wanted, choose_engine
from quintet.model.inputs import Inputs
from quintet.model.plans import native_plan
from quintet.model.session import EagerSession
from tests.engine.models import make_model, random_ids, relative_error
from tests.model.reference import SIZES, VARIANTS

VOCABULARY = SIZES["vocab_size"]


def sources(lengths: list[int], padding: str = "right") -> Inputs:
    """Rows of the given lengths."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    mask = mask.flip(1) if padding == "left" else mask
    return Inputs(input_ids=random_ids(len(lengths), max(lengths), 7) * mask, attention_mask=mask.long())


class Both:
    """The two sessions side by side: each call asks both, and compares what they answer."""

    @torch.no_grad()
    def __init__(self, model: Any, inputs: Inputs) -> None:
        native, eager = choose_engine(model, inputs), EagerEngine(model, Wanted())
        assert isinstance(native, NativeEngine)
        encoded = eager.encode(inputs)
        self.sessions = [engine.session(inputs, encoded, 200) for engine in (native, eager)]
        assert [type(session) for session in self.sessions] == [NativeSession, EagerSession]
        self.rows, self.length = inputs.rows, 0

    @torch.no_grad()
    def step(self, n: int, method: str = "step") -> None:
        new = random_ids(self.rows, n, seed=self.length)
        self.length += n
        ours, theirs = (getattr(session, method)(new) for session in self.sessions)
        for one, other in zip(*((ours, theirs) if isinstance(theirs, tuple) else ([ours], [theirs])), strict=True):
            assert one.shape == other.shape
            assert one.dtype == other.dtype
            error = relative_error(one, other)
            assert error < 1e-4, f"{method} is {error:.1e} off at length {self.length}"

    def select(self, rows: list[int]) -> None:
        self.rows = len(rows)
        for session in self.sessions:
            session.select(torch.tensor(rows))

    def crop(self, length: int) -> None:
        self.length = length
        for session in self.sessions:
            session.crop(length)


def exercise(both: Both) -> None:
    """Every method, on prefixes and single tokens, before and after rows have changed places."""
    both.step(1)
    both.step(3, "step_states")
    both.step(5, "step_all")
    both.select([*range(both.rows)][::-1])
    both.step(1)
    both.crop(6)
    both.select([0, 0, *range(both.rows)])
    both.step(2, "step_all")
    both.step(1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(isa: str, variant: str) -> None:
    exercise(Both(make_model(variant), sources([11, 6, 3])))


@pytest.mark.parametrize(
    "changes",
    [
        *({"d_kv": d_kv, "num_heads": 2} for d_kv in (8, 32, 64, 128)),
        {"d_kv": 5, "num_heads": 3},
        {"d_model": 33, "d_kv": 8, "num_heads": 3},
        {"d_model": 33, "d_kv": 8, "num_heads": 3, "d_ff": 51, "feed_forward_proj": "gated-gelu"},
        {"d_model": 7, "d_kv": 3, "num_heads": 1, "d_ff": 1, "vocab_size": VOCABULARY},
        {"d_model": 640, "d_ff": 1100, "num_layers": 1},
        {"feed_forward_proj": "gelu"},
        {"feed_forward_proj": "gated-relu", "relative_attention_num_buckets": 6, "relative_attention_max_distance": 9},
    ],
    ids=lambda changes: "-".join(f"{name}={value}" for name, value in changes.items()),
)
def test_sizes(isa: str, changes: dict[str, Any]) -> None:
    exercise(Both(make_model(**changes), sources([17, 4])))


@pytest.mark.parametrize("rows", [1, 3, 9, 17, 40])
def test_numbers_of_rows(isa: str, rows: int) -> None:
    exercise(Both(make_model(num_layers=1), sources([*range(1, rows + 1)])))


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("variant", ["t5", "umt5"])
def test_lengths_of_sources(isa: str, variant: str, padding: str) -> None:
    exercise(Both(make_model(variant), sources([1, 15, 16, 17, 33, 70], padding)))


@pytest.mark.parametrize("d_kv", [8, 64])
@pytest.mark.parametrize(
    "rows", [[0] * 3, [0, 1, 1, 2, 2], [0] * 4 + [1] * 5, [0] * 9 + [2] * 7 + [1, 2, 0, 0], [1] * 35], ids=str
)
def test_rows_of_one_source(isa: str, rows: list[int], d_kv: int) -> None:
    """Neighbours with the same source look at it together, some at a time, and within a panel of 16 tokens."""
    both = Both(make_model(num_layers=1, d_kv=d_kv), sources([33, 6, 70]))
    both.step(1)
    both.select(rows)
    both.step(1)
    both.step(3, "step_all")
    both.step(1)


def test_holes_in_sources(isa: str) -> None:
    inputs = sources([20, 20, 20])
    inputs.attention_mask[0, 3:9] = 0
    inputs.attention_mask[1, ::2] = 0
    exercise(Both(make_model(), inputs))


def test_long_targets(isa: str) -> None:
    """Keys and values lie in blocks of 64 positions, each of as many rows as there were when it began."""
    both = Both(make_model("umt5"), sources([5, 9]))
    both.step(70, "step_all")
    both.select([1, 0, 1])
    for _ in range(3):
        both.step(1)
    both.step(70, "step_states")
    both.select([2, 1])
    both.step(1)
    both.crop(128)
    both.step(2, "step_all")
    both.crop(64)
    both.step(1)
    both.crop(63)
    both.select([0, 1, 1, 0, 0])
    both.step(66, "step_all")
    both.crop(1)
    both.step(1)


@pytest.mark.usefixtures("two_threads")
def test_threads_wait_for_each_other(isa: str) -> None:
    """A token reads keys of its own step that another thread may have made. (`make sanitize` sees any such race.)"""
    both = Both(small_model(), sources([5, 9, 33]))
    both.step(66, "step_all")
    both.step(40, "step_states")
    both.step(1)


@pytest.mark.usefixtures("two_threads")
def test_more_threads_than_heads(isa: str) -> None:
    """Rows of a source look at it one by one then, so that every thread has some."""
    both = Both(make_model(num_layers=1, num_heads=1), sources([33, 6]))
    both.select([0, 0, 0, 1, 1])
    both.step(1)
    both.step(2, "step_all")


def test_everything_taken_back(isa: str) -> None:
    both = Both(make_model(), sources([5, 9]))
    both.step(4)
    both.select([1, 0])
    both.crop(0)
    both.step(2, "step_all")


def calls() -> st.SearchStrategy[list[Any]]:
    """Calls of a session; choices are numbers that the number of rows, and the length, are applied to."""
    step = st.tuples(st.sampled_from(("step", "step_all", "step_states")), st.sampled_from((1, 1, 1, 2, 5, 66)))
    select = st.tuples(st.just("select"), st.lists(st.integers(0, 99), min_size=1, max_size=10))
    crop = st.tuples(st.just("crop"), st.integers(0, 99))
    return st.lists(st.one_of(step, step, select, crop), min_size=1, max_size=12)


@settings(max_examples=15)
@given(calls())
def test_any_calls_in_any_order(isa: str, script: list[Any]) -> None:
    both = Both(small_model(), sources([3, 17, 1]))
    for name, choice in script:
        if name == "select":
            both.select([row % both.rows for row in choice])
        elif name == "crop":
            both.crop(both.length * choice // 99)
        else:
            both.step(choice, name)


@cache
def small_model() -> Any:
    return make_model(num_layers=1, num_decoder_layers=2)


def native_session(model: Any) -> NativeSession:
    inputs = sources([3, 5])
    engine = choose_engine(model, inputs)
    session = engine.session(inputs, engine.encode(inputs), 9)
    assert isinstance(session, NativeSession)
    return session


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda session: session.step(torch.tensor([[4], [VOCABULARY]])),
            "decoder_input_ids must be from 0 to 98, got 99",
        ),
        (lambda session: session.step(torch.tensor([[-1], [4]])), "decoder_input_ids must be from 0 to 98, got -1"),
        (lambda session: session.step(torch.empty(2, 0, dtype=torch.long)), "at least one token"),
        (lambda session: session.select(torch.tensor([0, 2])), "row 2 of 2"),
        (lambda session: session.select(torch.tensor([-1])), "row -1 of 2"),
        (lambda session: session.crop(2), "cannot keep 2 of 1 tokens"),
        (lambda session: session.crop(-1), "cannot keep -1 of 1 tokens"),
    ],
)
def test_what_a_session_refuses_leaves_it_as_it_was(call: Any, message: str) -> None:
    session, untouched = native_session(small_model()), native_session(small_model())
    first, second = random_ids(2, 1), random_ids(2, 1, 1)
    for either in (session, untouched):
        either.step(first)
    with pytest.raises(RuntimeError, match=message):
        call(session)
    assert torch.equal(session.step(second), untouched.step(second))


def test_tokens_must_have_the_rows_of_the_session() -> None:
    with pytest.raises(ValueError, match="the tokens have 3 rows, the session 2"):
        native_session(small_model()).step(random_ids(3, 1))


def test_sources_must_not_be_empty() -> None:
    model = small_model()
    library, plan = native_plan(model)
    with pytest.raises(RuntimeError, match="source 1 is empty"):
        NativeSession(library, plan, torch.zeros(3, SIZES["d_model"]), [3, 0])
