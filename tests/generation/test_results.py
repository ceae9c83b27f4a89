"""What `generate` returns: tensors, or on request everything it computed, laid out as the reference does."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import quintet

from ..model.reference import VARIANTS, assert_same
from .cases import BEAMS, GROUPS, STRATEGIES, Case, lively_pair

EVERYTHING = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
}
PER_STEP = ("scores", "logits", "decoder_attentions", "cross_attentions", "decoder_hidden_states")
STEPWISE = ("greedy", "sample", "all-filters", "beams-4", "beams-3-early", "beams-4-never", "beam-sample")
PLAIN = [Case(strategy, None, variant, "left", 6) for strategy in STEPWISE for variant in ("t5", "umt5")]
PLAIN += [Case("greedy", None, variant, "right", 3) for variant in VARIANTS]
SHAPED = [
    Case(strategy, shaping, "v1.1", "right", 3)
    for strategy in ("greedy", "beams-4")
    for shaping in ("decoder-prefix", "uncached", "repetition-penalty", "forced-last", "inputs-embeds")
]


def result(library: Any, case: Case, **flags: bool) -> Any:
    arguments = case.arguments(library)
    if case.variant == "deep-decoder":
        # Without a cache every step attends from all tokens, not from the last one; the reference cannot do otherwise.
        arguments["use_cache"] = False
    torch.manual_seed(7)
    return case.scene(library).model.generate(**arguments, **flags)


@cache
def steps_of_the_row(case: Case, row: int) -> int:
    """How long the reference works on this row when it is alone."""
    lonely = Case(case.strategy, case.shaping, case.variant, case.padding, 1, case.first + row)
    arguments = lonely.arguments(transformers)
    if case.shaping == "decoder-prefix":
        arguments["decoder_input_ids"] = case.arguments(transformers)["decoder_input_ids"][row : row + 1]
    model = lonely.scene(transformers).model
    return len(model.generate(**arguments, return_dict_in_generate=True, output_scores=True).scores)


def alive(case: Case, theirs: Any) -> list[Tensor]:
    """For each step, which rows of the flattened batch are still worked on.

    The reference goes on computing rows that are finished, until the last one is; what it finds there means nothing.
    """
    width = len(theirs.scores[0]) // case.rows
    if case.beams > 1 and STRATEGIES[case.strategy].get("do_sample"):
        # Drawn again alone, a row would draw otherwise; its block may end before the batch does.
        ended = torch.tensor([_path_end(theirs, row, width) for row in range(case.rows)])
    elif case.beams > 1:
        ended = torch.tensor([steps_of_the_row(case, row) for row in range(case.rows)])
        assert ended.max() == len(theirs.scores)
    else:
        chosen = theirs.sequences[:, -len(theirs.scores) :]
        ended = ((chosen == case.scene(transformers).end).cumsum(1) == 0).sum(1) + 1
        width = 1
    return [(ended > step).repeat_interleave(width) for step in range(len(theirs.scores))]


def _path_end(theirs: Any, row: int, width: int) -> int:
    owners = theirs.beam_indices.clamp(min=0).max(1).values // width
    return int((theirs.beam_indices >= 0).sum(1)[owners == row].min())


@pytest.mark.parametrize("case", [*PLAIN, *SHAPED], ids=str)
def test_everything_is_returned_as_the_reference_returns_it(case: Case) -> None:
    ours, theirs = (result(library, case, **EVERYTHING) for library in (quintet, transformers))
    assert type(ours).__name__ == type(theirs).__name__
    # Rows that are finished leave quintet's batch, so that no cache of the whole batch is left at the end.
    assert [name for name in ours if name != "past_key_values"] == [key for key in theirs if key != "past_key_values"]
    masks = alive(case, theirs)
    for name in ours:
        if name in PER_STEP:
            assert_same_steps(ours[name], theirs[name], masks, name)
        elif name != "past_key_values":
            assert_same(ours[name], theirs[name], 1e-4, name)


def assert_same_steps(ours: Any, theirs: Any, masks: list[Tensor], name: str) -> None:
    assert isinstance(ours, tuple)
    assert len(ours) == len(theirs) == len(masks), name
    for number, (mine, their, mask) in enumerate(zip(ours, theirs, masks, strict=True)):
        where = f"{name}[{number}]"
        assert type(mine) is type(their), where
        for one, other in zip(_layers(mine), _layers(their), strict=True):
            assert one.shape == other.shape, where
            assert_same(one[mask], other[mask], 1e-4, where)


def _layers(step: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return step if isinstance(step, tuple) else (step,)


@pytest.mark.parametrize("strategy", ["groups-2", "groups-early", "choice"])
def test_other_beams_return_the_same_fields(strategy: str) -> None:
    """Tokens and their scores; step by step, the reference shows groups and phrases in ways of their own.

    Its beam indices of groups point into the first group and the wrong row; its scores under constraints are sums.
    """
    case = Case(strategy, None, "umt5", "left", 6)
    ours, theirs = (result(library, case, **EVERYTHING) for library in (quintet, transformers))
    assert type(ours).__name__ == type(theirs).__name__ == "GenerateBeamEncoderDecoderOutput"
    assert [name for name in ours if name != "past_key_values"] == [key for key in theirs if key != "past_key_values"]
    assert torch.equal(ours.sequences, theirs.sequences)
    assert_same(ours.sequences_scores, theirs.sequences_scores, 1e-4)
    for name in PER_STEP:
        assert len(ours[name]) == len(theirs[name]), name
        for mine, their in zip(ours[name], theirs[name], strict=True):
            assert [layer.shape for layer in _layers(mine)] == [layer.shape for layer in _layers(their)], name


FLAGS = [name for name in EVERYTHING if name != "return_dict_in_generate"]


@pytest.mark.parametrize("flag", [None, *FLAGS])
@pytest.mark.parametrize("strategy", ["greedy", "beams-4", "groups-2"])
def test_only_what_is_asked_for_is_returned(strategy: str, flag: str | None) -> None:
    case = Case(strategy, None, "v1.1", "right", 3)
    flags = {"return_dict_in_generate": True, **({flag: True} if flag else {})}
    ours, theirs = (result(library, case, **flags) for library in (quintet, transformers))
    # The reference has the indices of grouped beams only beside their scores, those of other beams always.
    free = {"past_key_values", *(["beam_indices"] if strategy == "groups-2" else [])}
    assert [name for name in ours if name not in free] == [name for name in theirs if name not in free]
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.equal(ours[0], ours["sequences"])
    assert ours.to_tuple()[0] is ours.sequences


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beams-4", "groups-2", "choice"])
def test_tokens_alone_are_a_tensor(strategy: str) -> None:
    """Also where more is asked for without the word that allows it."""
    case = Case(strategy, None, "t5", "right", 3)
    for flags in ({}, dict.fromkeys(FLAGS, True)):
        tokens = result(quintet, case, **flags)
        assert isinstance(tokens, Tensor)
        assert tokens.dtype == torch.long
        assert len(tokens) == 3 * STRATEGIES[strategy].get("num_return_sequences", 1)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("strategy", ["greedy", "sample", *BEAMS])
def test_transition_scores_are_those_of_the_reference(strategy: str, normalize: bool) -> None:
    case = Case(strategy, None, "umt5", "left", 6)
    theirs = result(transformers, case, **EVERYTHING)
    ours, expected = (
        model.compute_transition_scores(
            theirs.sequences, theirs.scores, theirs.get("beam_indices"), normalize_logits=normalize
        )
        for model in lively_pair("umt5")
    )
    assert_same(ours, expected)


@pytest.mark.parametrize("strategy", [*BEAMS, "beam-sample", *GROUPS])
@pytest.mark.parametrize("variant", ["t5", "umt5"])
def test_transition_scores_add_up_to_the_score_of_the_sequence(variant: str, strategy: str) -> None:
    """The definition: the mean of the steps' scores along the path, with the length penalty in the exponent."""
    case = Case(strategy, None, variant, "left", 6)
    ours = result(quintet, case, **EVERYTHING)
    steps = lively_pair(variant).ours.compute_transition_scores(ours.sequences, ours.scores, ours.beam_indices)
    lengths = (ours.beam_indices >= 0).sum(1)
    penalty = STRATEGIES[strategy].get("length_penalty", 1.0)
    assert_same(steps.sum(1) / lengths**penalty, ours.sequences_scores, 1e-4)


def test_greedy_scores_hold_what_was_chosen() -> None:
    """Each token is the best of its own step's scores, until its row ends."""
    case = Case("greedy", "several-at-once", "v1.1", "left", 6)
    ours = result(quintet, case, **EVERYTHING)
    chosen = ours.sequences[:, 1:]
    going = (chosen == case.scene(quintet).end).cumsum(1) == 0
    best = torch.stack(ours.scores, dim=1).argmax(-1)
    assert torch.equal(best[going], chosen[going])
