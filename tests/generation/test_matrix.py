"""Strategy x shaping x batch x padding x variant: the reference's tokens, and its scores."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import quintet

from ..model.reference import PAD, VARIANTS, make_pair
from .cases import (
    ASSISTED,
    BEAM_SAMPLING,
    GROUPS,
    HARMLESS,
    HEAD,
    SAMPLING,
    SHAPED,
    SHAPINGS,
    STRATEGIES,
    WORDS,
    Case,
    cases,
    lively_pair,
    source,
    spoken,
)

CASES = list(cases())


def everyday() -> set[Case]:
    """The cases that every run of the tests has: each strategy on each variant, and each shaping of one strategy."""
    shaped = [[case for case in CASES if case.shaping == name] for name in SHAPINGS]
    plain = {case for case in CASES if case.shaping is None}
    return plain | {own[turn % len(own)] for turn, own in enumerate(shaped)}


EVERYDAY = everyday()
SCORED = [case for case in CASES if case.strategy not in ASSISTED][::2]
DETAILS = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
SEED = 11


def run(library: Any, case: Case, **details: bool) -> Any:
    arguments = case.arguments(library)
    model = case.scene(library).model
    torch.manual_seed(SEED)
    return model.generate(**arguments, **details)


def ends(case: Case, tokens: Tensor) -> Tensor:
    """Tokens with each end-of-sequence token written as the first of them, where the reference does not keep apart.

    Group and constrained search of the reference close every finished beam with the first end-of-sequence token,
    whichever the model chose and was scored for; the choice itself is not its answer.
    """
    if case.shaping != "several-ends" or case.strategy not in {**GROUPS, **WORDS}:
        return tokens
    first, *others = case.arguments(transformers)["eos_token_id"]
    return torch.where(torch.isin(tokens, torch.tensor(others)), first, tokens)


def matrix(chosen: Iterable[Case], everyday: Collection[Case]) -> list[Any]:
    """Cases to parametrize a test with; those that are not everyday's belong to the sweep."""
    return [pytest.param(case, id=str(case), marks=() if case in everyday else pytest.mark.sweep) for case in chosen]


@pytest.mark.parametrize("chosen", [set(CASES), EVERYDAY], ids=["all", "everyday"])
def test_there_are_enough_cases(chosen: set[Case]) -> None:
    assert len(CASES) == len(set(CASES))
    assert len(chosen) >= 300
    assert {(case.strategy, case.variant) for case in chosen} == set(product(STRATEGIES, VARIANTS))
    assert {case.shaping for case in chosen} == {None, *SHAPINGS}
    assert {case.strategy for case in chosen if case.shaping} == set(SHAPED)
    assert {(case.rows, case.padding) for case in chosen} == set(product((1, 3, 6), ("right", "left", "none")))
    assert {case.strategy for case in SCORED[::4]} == {*STRATEGIES} - {*ASSISTED}


@cache
def expected(case: Case) -> Any:
    """The reference's answer, with its scores."""
    return run(transformers, case, **DETAILS)


# Here two beams whose scores differ by 1e-7 change places with the rounding, and whoever draws after that draws others.
TIED = {"beam-sample-early/plain/deep-decoder/left/3"}
ENGINES = ["auto", pytest.param("eager", marks=pytest.mark.sweep)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", matrix(CASES, EVERYDAY))
def test_tokens_are_those_of_the_reference(case: Case, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "auto" and str(case) in TIED:
        pytest.skip("a tie that rounding decides")
    monkeypatch.setattr(case.scene(quintet).model, "engine", engine)
    tokens = run(quintet, case)
    assert isinstance(tokens, Tensor)
    assert torch.equal(ends(case, tokens), ends(case, expected(case).sequences))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", matrix(SCORED, SCORED[::4]))
def test_scores_are_those_of_the_reference(case: Case, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "auto" and str(case) in TIED:
        pytest.skip("a tie that rounding decides")
    monkeypatch.setattr(case.scene(quintet).model, "engine", engine)
    ours, theirs = run(quintet, case, **DETAILS), expected(case)
    assert torch.equal(ends(case, ours.sequences), ends(case, theirs.sequences))
    if case.beams > 1:
        torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, atol=1e-4, rtol=1e-4)
    if case.strategy not in {**GROUPS, **WORDS}:
        assert_same_steps(case, ours, theirs)


@pytest.mark.parametrize("strategy", ["greedy", "beams-2", "beams-3-early", "beams-5", "beam-sample"])
def test_so_many_ends_that_few_beams_go_on(strategy: str) -> None:
    """The reference looks at more candidates the more ends there are, so that some are left that do not end."""
    for variant in VARIANTS:
        case = Case(strategy, None, variant, "left", 6)
        answers = []
        for library in (quintet, transformers):
            arguments = case.arguments(library)
            torch.manual_seed(SEED)
            stops = [case.scene(library).end, *spoken(variant)[:12]]
            answers.append(case.scene(library).model.generate(**arguments, eos_token_id=stops))
        assert torch.equal(*answers), variant


def assert_same_steps(case: Case, ours: Any, theirs: Any) -> None:
    """The scores and logits of every chosen token, found by the path that led to it."""
    assert ("beam_indices" in ours) == (case.beams > 1)
    if case.beams > 1:
        assert torch.equal(ours.beam_indices, theirs.beam_indices)
    model = case.scene(transformers).model
    for name in ("scores", "logits"):
        assert [tuple(step.shape) for step in ours[name]] == [tuple(step.shape) for step in theirs[name]]
        one, other = (
            model.compute_transition_scores(result.sequences, result[name], result.get("beam_indices"))
            for result in (ours, theirs)
        )
        alive = torch.ones_like(other, dtype=torch.bool) if case.beams > 1 else unfinished(case, theirs.sequences)
        torch.testing.assert_close(one[alive], other[alive], atol=1e-4, rtol=1e-4)


def unfinished(case: Case, tokens: Tensor) -> Tensor:
    """Which generated tokens, (rows, steps), belong to a row that had not ended before."""
    chosen = tokens[:, case.arguments(transformers).get("decoder_input_ids", tokens[:, :1]).shape[1] :]
    if case.shaping == "prefix-without-start":
        chosen = chosen[:, 1:]
    stops = case.arguments(transformers).get("eos_token_id", case.scene(transformers).end)
    over = torch.isin(chosen, torch.tensor(stops)).cumsum(1) > 0
    if case.shaping == "own-criterion":
        over |= ((tokens.cumsum(1) % 7 == 0) & (torch.arange(tokens.shape[1]) > 2))[:, 1:].cumsum(1) > 0
    return torch.cat([torch.ones_like(over[:, :1]), ~over[:, :-1]], dim=1)


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beams-4", "beam-sample", "groups-2"])
def test_rows_end_at_different_steps(strategy: str) -> None:
    """Or the matrix would say nothing about rows that end while others go on."""
    mixed = 0
    for variant in ("t5", "v1.1", "umt5", "wide"):
        tokens = run(transformers, Case(strategy, None, variant, "right", 6))
        lengths = (tokens != lively_pair(variant).theirs.config.eos_token_id).long().cumprod(1).sum(1)
        mixed += len(lengths.unique()) > 1
    assert mixed > 2


@pytest.mark.parametrize("shaping", [name for name in SHAPINGS if name not in HARMLESS])
def test_every_shaping_changes_an_answer(shaping: str) -> None:
    """Or the matrix would pass without it."""
    changed = 0
    for variant in ("t5", "v1.1", "umt5", "wide"):
        shaped, plain = (run(transformers, Case("greedy", name, variant, "right", 6)) for name in (shaping, None))
        changed += not torch.equal(shaped, plain)
    assert changed > 2


@pytest.mark.parametrize("strategy", [*SAMPLING, *BEAM_SAMPLING])
def test_samples_follow_the_seed(strategy: str) -> None:
    model = lively_pair("umt5").ours
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(model.generate(**source(), **STRATEGIES[strategy], max_new_tokens=8))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


@pytest.mark.parametrize("strategy", ["sample", "all-filters"])
def test_values_that_are_no_numbers_are_removed(strategy: str) -> None:
    pair = make_pair(HEAD, "v1.1")
    for model in pair:
        with torch.no_grad():
            model.lm_head.weight[40] = torch.nan
            model.lm_head.weight[41] = torch.inf
    options = {**source(), **STRATEGIES[strategy], "max_new_tokens": 6, "remove_invalid_values": True}
    answers = []
    for model in pair:
        torch.manual_seed(SEED)
        answers.append(model.generate(**options))
    assert torch.equal(*answers)


@pytest.mark.parametrize("strategy", WORDS)
@pytest.mark.parametrize("variant", ["t5", "umt5", "wide"])
def test_forced_words_are_said(strategy: str, variant: str) -> None:
    case = Case(strategy, None, variant, "left", 6)
    assert all(says(row, case.arguments(quintet)["force_words_ids"]) for row in run(quintet, case).tolist())


@pytest.mark.parametrize("steps", [4, 9])
@pytest.mark.parametrize("variant", ["t5", "umt5", "wide"])
def test_unlikely_words_are_said_or_missed_aloud(variant: str, steps: int) -> None:
    """The reference forgets a beam that has said unlikely words, and answers without them, silently.

    Such words must come out, or an error must name the row that could not say them.
    """
    words = [[5, 11], [[12], [13, 14]]]
    answer, complaint = torch.zeros(0, 0), ""
    try:
        answer = lively_pair(variant).ours.generate(
            **source(), num_beams=5, force_words_ids=words, max_new_tokens=steps
        )
    except ValueError as error:
        complaint = str(error)
    assert "row" in complaint or (len(answer) == 6 and all(says(row, words) for row in answer.tolist()))


def says(row: list[int], words: list[Any]) -> bool:
    """Whether a row has each phrase, and of each list of phrases at least one."""
    phrases = [[phrase] if isinstance(phrase[0], int) else phrase for phrase in words]
    return all(any(_has(row, choice) for choice in choices) for choices in phrases)


def _has(row: list[int], phrase: list[int]) -> bool:
    return any(row[start : start + len(phrase)] == phrase for start in range(len(row)))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
@pytest.mark.parametrize("variant", ["v1.1", "umt5"])
def test_a_prefix_with_padding_on_its_left(variant: str, options: dict[str, Any]) -> None:
    prefix = torch.tensor([[PAD, PAD, 20, 21], [PAD, 30, 31, 32], [PAD, PAD, PAD, 40]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]])
    ours, theirs = (
        model.generate(
            **source("left", 3), decoder_input_ids=prefix, decoder_attention_mask=mask, max_new_tokens=8, **options
        )
        for model in lively_pair(variant)
    )
    assert torch.equal(ours, theirs)


# Contrastive search left the reference (it would download it), so the definition of Su et al. (2022) is the oracle.


@cache
def contrastive_answer(variant: str, penalty: float, width: int, steps: int, padding: str) -> Tensor:
    """Contrastive search as the paper states it, one row at a time, each step computed from scratch.

    Among the `width` most probable words v, take the one with the largest
    (1 - penalty) * p(v) - penalty * max_j cos(h_v, h_j), where h are the decoder's last states and j the earlier steps.
    """
    batch = source(padding)
    rows = [{name: value[row : row + 1] for name, value in batch.items()} for row in range(6)]
    answers = [_contrastive_row(lively_pair(variant).theirs, row, penalty, width, steps) for row in rows]
    length = max(len(answer) for answer in answers)
    return torch.tensor([answer + [PAD] * (length - len(answer)) for answer in answers])


@torch.no_grad()
def _contrastive_row(model: Any, row: dict[str, Tensor], penalty: float, width: int, steps: int) -> list[int]:
    tokens = torch.tensor([[PAD]])
    while tokens.shape[1] <= steps and tokens[0, -1] != model.config.eos_token_id:
        logits = model(**row, decoder_input_ids=tokens, use_cache=False).logits
        confidence, words = logits[0, -1].softmax(-1).topk(width)
        continued = torch.cat([tokens.expand(width, -1), words[:, None]], dim=1)
        sources = {name: value.expand(width, -1) for name, value in row.items()}
        out = model(**sources, decoder_input_ids=continued, use_cache=False, output_hidden_states=True)
        states = out.decoder_hidden_states[-1]
        likeness = torch.cosine_similarity(states[:, -1:], states[:, :-1], dim=-1).max(1).values
        best = ((1 - penalty) * confidence - penalty * likeness).argmax()
        tokens = continued[best : best + 1]
    return tokens[0].tolist()


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize(
    ("variant", "penalty", "width"), [("t5", 0.6, 4), ("v1.1", 0.3, 8), ("umt5", 0.9, 2), ("wide", 0.6, 5)]
)
def test_contrastive_search_is_that_of_the_paper(variant: str, penalty: float, width: int, padding: str) -> None:
    answer = lively_pair(variant).ours.generate(**source(padding), penalty_alpha=penalty, top_k=width, max_new_tokens=6)
    assert torch.equal(answer, contrastive_answer(variant, penalty, width, 6, padding))


def test_contrastive_search_is_no_greedy_search() -> None:
    answer = contrastive_answer("v1.1", 0.6, 4, 6, "right")
    plain = lively_pair("v1.1").theirs.generate(**source(), max_new_tokens=6)
    assert answer.shape != plain.shape or not torch.equal(answer, plain)


@pytest.mark.parametrize("penalty", [0.5, 0.95])
def test_contrastive_search_says_no_forbidden_word(penalty: float) -> None:
    """A word of probability zero is no candidate, however unlike the others its state is."""
    answer = lively_pair("v1.1").ours.generate(
        **source(),
        penalty_alpha=penalty,
        top_k=8,
        max_new_tokens=6,
        prefix_allowed_tokens_fn=lambda row, tokens: [20, 21],
    )
    assert set(answer[:, 1:].flatten().tolist()) == {20, 21}
