"""Rows that leave the batch: processors follow, or say that they cannot. The list that runs processors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quintet.generation import processors

from .processor_cases import ARGUMENTS, INFINITY, Own, applied, assert_equal, draw_case

PER_ROW = [name for name in ARGUMENTS if name.startswith(("Encoder", "Prefix"))]


@pytest.mark.parametrize("name", [name for name in PER_ROW if name.startswith("Encoder")])
@settings(max_examples=25)
@given(data=st.data(), beams=st.integers(1, 3), called=st.booleans())
def test_selected_rows_keep_their_source(name: str, data: st.DataObject, beams: int, called: bool) -> None:
    """As if built for the rows that are left; given sources or rows, selected once or twice."""
    case = draw_case(data)
    arguments = ARGUMENTS[name](case)
    arguments["encoder_input_ids"] = case.source()
    expanded = arguments | {"encoder_input_ids": arguments["encoder_input_ids"].repeat_interleave(beams, dim=0)}
    case.ids, case.scores = (tensor.repeat_interleave(beams, dim=0) for tensor in (case.ids, case.scores))
    processor = getattr(processors, name)(**(arguments if called else expanded))
    if called:  # from then on it knows how many rows belong to a source
        applied(processor, case)
    for _ in range(2):
        rows = torch.tensor(data.draw(st.lists(st.integers(0, len(case.ids) - 1), min_size=1, max_size=5)))
        processor.select(rows)
        case.ids, case.scores = case.ids[rows], case.scores[rows]
        expanded["encoder_input_ids"] = expanded["encoder_input_ids"][rows]
        assert_equal(applied(processor, case), applied(getattr(processors, name)(**expanded), case))


@settings(max_examples=25)
@given(data=st.data(), beams=st.integers(1, 3))
def test_selected_rows_keep_the_number_of_their_source(data: st.DataObject, beams: int) -> None:
    asked: list[tuple[int, list[int]]] = []

    def allowed(source: int, target: Tensor) -> list[int]:
        asked.append((source, target.tolist()))
        return [source % 2]

    case = draw_case(data)
    case.ids, case.scores = (tensor.repeat_interleave(beams, dim=0) for tensor in (case.ids, case.scores))
    processor = processors.PrefixConstrainedLogitsProcessor(allowed, beams)
    first = torch.arange(len(case.ids))
    for step in range(3):
        asked.clear()
        result = applied(processor, case)
        sources = (first // beams).tolist()
        assert asked == list(zip(sources, case.ids.tolist(), strict=True))
        assert all((scores > -INFINITY).nonzero().flatten().tolist() in ([], [source % 2])
                   for scores, source in zip(result, sources, strict=True)), step  # fmt: skip
        rows = torch.tensor(data.draw(st.lists(st.integers(0, len(case.ids) - 1), min_size=1, max_size=5)))
        processor.select(rows)
        first, case.ids, case.scores = first[rows], case.ids[rows], case.scores[rows]


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name not in PER_ROW])
@settings(max_examples=25)
@given(data=st.data())
def test_others_hold_nothing_per_row(name: str, data: st.DataObject) -> None:
    """A row's scores are those it had among its neighbours."""
    case = draw_case(data)
    processor = getattr(processors, name)(**ARGUMENTS[name](case))
    before = applied(processor, case)
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(case.ids) - 1), min_size=1, max_size=5)))
    processor.select(rows)
    case.ids, case.scores = case.ids[rows], case.scores[rows]
    assert_equal(applied(processor, case), before[rows])


class Selectable(Own):
    """A user's processor that follows when rows leave."""

    def select(self, rows: Tensor) -> None:
        self.rows = rows


class Changed(processors.TopKLogitsWarper):
    """A user's version of one of ours, which may keep whatever it likes in its call."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return super().__call__(input_ids, scores)


class Renamed(processors.TopKLogitsWarper):
    """A subclass that runs our call."""


def plus_one(input_ids: Tensor, scores: Tensor) -> Tensor:
    return scores + 1


def test_a_list_selects_when_all_can() -> None:
    ours, user = processors.EncoderRepetitionPenaltyLogitsProcessor(2.0, torch.eye(3).long()), Selectable()
    together = processors.LogitsProcessorList([ours, Renamed(5), processors.LogitsProcessorList([user])])
    assert together.can_select
    together.select(torch.tensor([2, 0]))
    assert user.rows.tolist() == [2, 0]
    assert ours.sources(torch.zeros(2, 4)).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert processors.LogitsProcessorList().can_select


@pytest.mark.parametrize("processor", [Own(), Changed(5), plus_one], ids=["own", "changed", "function"])
def test_a_list_knows_who_cannot(processor: Any) -> None:
    together = processors.LogitsProcessorList([processors.TopKLogitsWarper(3), processor])
    assert not together.can_select
    assert not processors.LogitsProcessorList([together]).can_select
    with pytest.raises(ValueError, match=type(processor).__name__):
        together.select(torch.tensor([0]))
    with pytest.raises(ValueError, match="nested"):
        processors.LogitsProcessorList([together]).select(torch.tensor([0]))


class Asking(processors.LogitsProcessor):
    """Takes one argument more, and another if it is there."""

    def __call__(self, input_ids: Tensor, scores: Tensor, current_tokens: Any, step: int = 7) -> Tensor:
        return scores + current_tokens + step


class Anything(processors.LogitsProcessor):
    """Takes whatever comes."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **extra: Any) -> Tensor:
        return scores * sum(extra.values())


def test_a_list_runs_in_order_and_hands_on_what_is_asked_for() -> None:
    ids, scores = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 2)
    run = processors.LogitsProcessorList([Own(), plus_one, Asking(), Anything()])
    assert run(ids, scores, current_tokens=10, beam_group_idx=2).tolist() == [[240, 240]]
    assert run(ids, scores, current_tokens=10, step=0).tolist() == [[130, 130]]
    with pytest.raises(ValueError, match="Asking must be called with current_tokens"):
        run(ids, scores, step=0)
    assert processors.LogitsProcessorList()(ids, scores) is scores


def test_the_base_class_does_nothing() -> None:
    with pytest.raises(NotImplementedError, match="__call__"):
        processors.LogitsProcessor()(torch.zeros(1, 1), torch.zeros(1, 1))
    assert not hasattr(processors.LogitsProcessor, "select")
