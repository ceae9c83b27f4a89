"""Every logits processor beside the reference's, on random targets and scores.

Where the reference is wrong (see `test_encoder_penalty_reaches_every_beam` and `test_no_end_stays_no_end`), the test
says so and checks the definition.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as reference

from quintet.generation import processors

from .processor_cases import ARGUMENTS, INFINITY, Case, applied, assert_equal, biases, draw_case, generator


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ARGUMENTS)
@settings(max_examples=30)
@given(data=st.data())
def test_equals_the_reference(name: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = draw_case(data, dtype)
    if name == "InfNanRemoveLogitsProcessor":
        case.scores[:, 1:3] = torch.tensor([INFINITY, float("nan")])
    arguments = ARGUMENTS[name](case)
    expected = getattr(reference, name)(**arguments)(case.ids, case.scores.clone())
    if name == "ExponentialDecayLengthPenalty":  # see test_no_end_stays_no_end
        expected = torch.where(case.scores == -INFINITY, case.scores, expected)
    # Sums of three and more biases in bf16: the reference rounds one by one what we add.
    tolerance = 0.1 if name == "SequenceBiasLogitsProcessor" and dtype == torch.bfloat16 else 0.0
    assert_equal(applied(getattr(processors, name)(**arguments), case), expected, tolerance)


def test_every_class_of_the_package_is_compared() -> None:
    own = {"LogitsProcessor", "LogitsProcessorList", "VocabLimitLogitsProcessor", "build_processors"}
    assert set(processors.__all__) - own == {*ARGUMENTS, "HammingDiversityLogitsProcessor"}
    assert list(processors.__all__) == sorted(processors.__all__)


@settings(max_examples=30)
@given(data=st.data())
def test_a_list_of_biases_is_the_dictionary(data: st.DataObject) -> None:
    """The reference's list form refuses the token 0, so the two forms are compared with each other."""
    case = draw_case(data)
    table = biases(case)
    pairs = [[list(sequence), bias] for sequence, bias in table.items()]
    ours, theirs = (processors.SequenceBiasLogitsProcessor(form) for form in (pairs, table))
    assert_equal(applied(ours, case), applied(theirs, case))


def test_biases_follow_the_scores_they_are_for() -> None:
    """The layout that is kept from step to step is for one vocabulary and one type; others get their own."""
    processor = processors.SequenceBiasLogitsProcessor([[[1], 2.0], [[1, 2], -1.0]])
    ids = torch.tensor([[0, 1]])
    for vocabulary, dtype in ((5, torch.float32), (7, torch.float32), (7, torch.float64)):
        scores = torch.zeros(1, vocabulary, dtype=dtype)
        expected = scores.clone()
        expected[0, 1:3] = torch.tensor([2.0, -1.0])
        assert_equal(processor(ids, scores), expected)


@settings(max_examples=30)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_hamming_diversity_equals_the_reference(data: st.DataObject, dtype: torch.dtype) -> None:
    sources, groups, size = (data.draw(st.integers(low, 3)) for low in (1, 2, 1))
    random = generator(data.draw(st.integers(0, 2**31)))
    ids = torch.randint(0, 9, (sources * size, 3), generator=random)
    case = Case(data.draw, ids, torch.randn(sources * size, 9, generator=random).to(dtype))
    arguments = {"diversity_penalty": case.number(0, 5), "num_beams": groups * size, "num_beam_groups": groups}
    chosen = torch.randint(0, 4, (sources * groups * size,), generator=random)
    for group in range(groups):
        ours, theirs = (
            library.HammingDiversityLogitsProcessor(**arguments)(
                ids, case.scores.clone(), current_tokens=chosen, beam_group_idx=group
            )
            for library in (processors, reference)
        )
        assert_equal(ours, theirs)


@settings(max_examples=30)
@given(data=st.data(), limit=st.integers(1, 50))
def test_vocab_limit(data: st.DataObject, limit: int) -> None:
    case = draw_case(data)
    result = applied(processors.VocabLimitLogitsProcessor(limit), case)
    assert torch.equal(result[:, :limit], case.scores[:, :limit])
    assert (result[:, limit:] == -INFINITY).all()


@pytest.mark.parametrize("never", [-INFINITY, torch.finfo(torch.float32).min])
def test_no_end_stays_no_end(never: float) -> None:
    """The reference makes NaN or infinity of an end that another processor has ruled out: the text ends at once."""
    arguments = ((0, 2.0), 1, 0)
    ids, scores = torch.tensor([[0, 5, 6]]), torch.tensor([[0.0, never, 2.0]])
    assert reference.ExponentialDecayLengthPenalty(*arguments)(ids, scores).argmax() == 1
    assert torch.equal(processors.ExponentialDecayLengthPenalty(*arguments)(ids, scores), scores)


@settings(max_examples=30)
@given(data=st.data(), beams=st.integers(1, 3))
def test_encoder_ngrams_of_each_beam_are_its_sources(data: st.DataObject, beams: int) -> None:
    case = draw_case(data)
    source, size = case.source(), data.draw(st.integers(1, 3))
    case.ids, case.scores = (tensor.repeat_interleave(beams, dim=0) for tensor in (case.ids, case.scores))
    theirs = reference.EncoderNoRepeatNGramLogitsProcessor(size, source)(case.ids, case.scores)
    assert_equal(applied(processors.EncoderNoRepeatNGramLogitsProcessor(size, source), case), theirs)


def test_encoder_penalty_reaches_every_beam() -> None:
    """The reference treats the first rows only, with the sources in order, whichever rows are theirs."""
    source, scores = torch.tensor([[1], [2]]), torch.ones(4, 4)
    ids = torch.zeros(4, 1, dtype=torch.long)
    theirs = reference.EncoderRepetitionPenaltyLogitsProcessor(2.0, source)(ids, scores)
    assert theirs.argmax(dim=1).tolist() == [1, 2, 0, 0]
    assert theirs.shape == scores.shape
    ours = processors.EncoderRepetitionPenaltyLogitsProcessor(2.0, source)(ids, scores)
    assert ours.tolist() == [[1, 2, 1, 1], [1, 2, 1, 1], [1, 1, 2, 1], [1, 1, 2, 1]]
