"""What must not change an answer: neighbours in the batch, padding, order, the cache, an assistant, a second call.

No reference is needed here: the model answers one row alone, and that is what it must answer in company.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quintet.generation import beams

from ..model.reference import PAD, VARIANTS
from .cases import NEW_TOKENS, STRATEGIES, assistant, forced_words, lively_pair, source, spoken, spoken_pairs

ROWS = 6
DETERMINISTIC = ("greedy", "shaped", "beams-4", "beams-3-early", "beams-4-never", "groups-2", "groups-early", "choice")


def options(strategy: str, variant: str) -> dict[str, Any]:
    """What a strategy passes to `generate`; "shaped" is greedy with everything that looks at the row's own words."""
    if strategy == "shaped":
        return {
            "repetition_penalty": 1.5,
            "no_repeat_ngram_size": 2,
            "bad_words_ids": [spoken(variant)[:1], spoken_pairs(variant)[0]],
            "min_new_tokens": 3,
            "exponential_decay_length_penalty": (4, 1.2),
            "max_new_tokens": NEW_TOKENS,
        }
    chosen = dict(STRATEGIES[strategy])
    if "words" in chosen:
        chosen["force_words_ids"] = [forced_words(variant)[kind] for kind in chosen.pop("words")]
    return {**chosen, "max_new_tokens": NEW_TOKENS}


@cache
def alone(strategy: str, variant: str) -> list[list[list[int]]]:
    """Each row's hypotheses when it is read alone and without padding."""
    model = lively_pair(variant).ours
    lonely = (model.generate(**bare(row), **options(strategy, variant)) for row in range(ROWS))
    return [answers(tokens, variant, rows=1)[0] for tokens in lonely]


def bare(row: int) -> dict[str, Tensor]:
    """One row of the source as ids without a padding token."""
    ids = source(rows=1, first=row)["input_ids"]
    return {"input_ids": ids[:, ids[0] != PAD]}


def answers(tokens: Tensor, variant: str, rows: int) -> list[list[list[int]]]:
    """Each row's hypotheses, (rows, hypotheses, tokens), up to their ends: what follows is as long as the longest."""
    end = lively_pair(variant).ours.config.eos_token_id
    cut = [row[: row.index(end) + 1] if end in row else row for row in tokens.tolist()]
    width = len(cut) // rows
    return [cut[start : start + width] for start in range(0, len(cut), width)]


def padded(rows: list[int], extra: int, side: str) -> dict[str, Tensor]:
    """These rows of the source, filled up to the longest and by `extra` more, with a mask."""
    bodies = [bare(row)["input_ids"][0] for row in rows]
    length = max(map(len, bodies)) + extra
    ids = torch.full((len(rows), length), PAD)
    for place, body in zip(ids, bodies, strict=True):
        place[slice(length - len(body), None) if side == "left" else slice(0, len(body))] = body
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


@pytest.mark.parametrize("strategy", DETERMINISTIC)
@given(
    rows=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=5),
    extra=st.integers(0, 9),
    side=st.sampled_from(["left", "right"]),
    variant=st.sampled_from(["t5", "umt5", "wide"]),
)
@settings(max_examples=8)
def test_a_row_is_answered_as_if_it_were_alone(
    strategy: str, rows: list[int], extra: int, side: str, variant: str
) -> None:
    """Whatever its neighbours, twins among them, however much padding, on whichever side, in whatever order."""
    tokens = lively_pair(variant).ours.generate(**padded(rows, extra, side), **options(strategy, variant))
    assert answers(tokens, variant, len(rows)) == [alone(strategy, variant)[row] for row in rows]


@pytest.mark.parametrize("strategy", ["greedy", "beams-4", "groups-2", "choice"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_answers_its_rows_one_by_one(variant: str, strategy: str) -> None:
    tokens = lively_pair(variant).ours.generate(**source("left"), **options(strategy, variant))
    assert answers(tokens, variant, ROWS) == alone(strategy, variant)


@pytest.mark.parametrize("strategy", ["greedy", "beams-4", "beams-3-early", "groups-2", "groups-early", "choice"])
def test_what_looks_at_the_source_keeps_to_its_row(strategy: str) -> None:
    """When other rows have left the batch, too.

    To the reference, and so to quintet, padding is a word of the source: on the left, it stands before the first word
    as the start token does, and forbids that word as a repetition. So it is on the right here, and may not be said.
    """
    shaping = {"encoder_repetition_penalty": 1.8, "encoder_no_repeat_ngram_size": 2, "suppress_tokens": [PAD]}
    for variant in VARIANTS:
        model, arguments = lively_pair(variant).ours, {**options(strategy, variant), **shaping}
        together = answers(model.generate(**source("right"), **arguments), variant, ROWS)
        lonely = [answers(model.generate(**bare(row), **arguments), variant, rows=1)[0] for row in range(ROWS)]
        assert together == lonely, variant


@pytest.mark.parametrize("cached", [{"cache_implementation": "static"}, {"use_cache": False}], ids=["static", "none"])
@pytest.mark.parametrize("strategy", [*DETERMINISTIC, "sample", "all-filters", "beam-sample"])
@pytest.mark.parametrize("variant", ["t5", "umt5", "deep-decoder", "deep-encoder"])
def test_every_cache_gives_the_same_tokens(variant: str, strategy: str, cached: dict[str, Any]) -> None:
    model = lively_pair(variant).ours
    results = []
    for extra in ({"cache_implementation": "dynamic"}, cached):
        torch.manual_seed(4)
        results.append(model.generate(**source("left"), **options(strategy, variant), **extra))
    assert torch.equal(*results)


@pytest.mark.parametrize("guesser", [0.0, 0.02, None], ids=["itself", "like itself", "unlike itself"])
@pytest.mark.parametrize("strategy", ["greedy", "shaped"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_assistant_changes_no_token(variant: str, strategy: str, guesser: float | None) -> None:
    model, arguments = lively_pair(variant).ours, {**source("left"), **options(strategy, variant)}
    assisted = model.generate(**arguments, assistant_model=assistant(variant, guesser))
    assert torch.equal(assisted, model.generate(**arguments))


@pytest.mark.parametrize("guesses", [1, 3, 10])
@pytest.mark.parametrize("strategy", ["greedy", "shaped"])
def test_a_lookup_changes_no_token(strategy: str, guesses: int) -> None:
    """The sources hold what the model says, so that there is something to look up."""
    for variant in ("t5", "v1.1", "umt5"):
        model = lively_pair(variant).ours
        said = model.generate(**source(), max_new_tokens=NEW_TOKENS)[:, 1:]
        ids = torch.cat([said, source("left")["input_ids"]], dim=1)
        arguments = {"input_ids": ids, **options(strategy, variant)}
        assert torch.equal(model.generate(**arguments, prompt_lookup_num_tokens=guesses), model.generate(**arguments))


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beams-4", "beam-sample", "groups-2", "choice"])
def test_a_call_leaves_nothing_behind(strategy: str) -> None:
    """Other calls between two equal ones, and a shared generator used in between, change nothing but the generator."""
    model = lively_pair("v1.1").ours
    results = []
    for _ in range(2):
        torch.manual_seed(2)
        results.append(model.generate(**source(), **options(strategy, "v1.1")))
        model.generate(**source("left", 3), **options("beams-5", "v1.1"))
        model.generate(**source("left", 3), do_sample=True, max_new_tokens=3, eos_token_id=5)
    assert torch.equal(*results)


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beams-4", "groups-2", "choice"])
def test_what_was_passed_in_is_left_as_it_was(strategy: str) -> None:
    model = lively_pair("t5").ours
    batch = source("left")
    with torch.no_grad():
        encoded = model.get_encoder()(**batch)
    states = encoded.last_hidden_state
    before = states.clone(), batch["attention_mask"].clone()
    model.generate(encoder_outputs=encoded, attention_mask=batch["attention_mask"], **options(strategy, "t5"))
    assert encoded.last_hidden_state is states
    assert torch.equal(states, before[0])
    assert torch.equal(batch["attention_mask"], before[1])


def test_a_generator_of_its_own_is_all_that_a_sample_draws_from() -> None:
    model = lively_pair("umt5").ours
    torch.manual_seed(5)
    expected = model.generate(**source(), do_sample=True, max_new_tokens=8)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    drawn = model.generate(**source(), do_sample=True, max_new_tokens=8, generator=torch.Generator().manual_seed(5))
    assert torch.equal(drawn, expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("strategy", ["beams-4", "beams-3-early", "beams-4-never"])
def test_beams_looked_at_one_by_one_are_those_looked_at_together(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where scores may be equal, all beams' tokens are searched together; and at every step the finished are sorted."""
    model, batch = lively_pair("t5").ours, source()
    wanted = {**options(strategy, "t5"), "return_dict_in_generate": True, "output_scores": True}
    apart = model.generate(**batch, **wanted)
    searched = []

    def none_distinct(scores: Tensor, running: Tensor, count: int) -> tuple[Tensor, Tensor]:
        searched.append(count)
        return torch.full((len(scores), count), -torch.inf), torch.zeros(len(scores), count, dtype=torch.long)

    monkeypatch.setattr(beams, "_best_by_beam", none_distinct)
    together = model.generate(**batch, **wanted)
    assert searched
    assert torch.equal(apart.sequences, together.sequences)
    assert torch.equal(apart.sequences_scores, together.sequences_scores)
    assert torch.equal(apart.beam_indices, together.beam_indices)


@pytest.mark.parametrize("count", [1, 8, 20])
@pytest.mark.parametrize("length", [5, 10 * beams.BLOCK, 90 * beams.BLOCK - 1, 90 * beams.BLOCK, 90 * beams.BLOCK + 1])
def test_the_highest_scores_of_many(length: int, count: int) -> None:
    """They are searched block by block if there are many; most lie beside each other here, and some at the ends."""
    generator = torch.Generator().manual_seed(length)
    scores = torch.stack([torch.randperm(length, generator=generator) for _ in range(3)]).float()
    scores[1] = torch.arange(length)
    scores[2] = -torch.inf
    scores[2, [0, -1]] = torch.tensor([1.0, 2.0])
    best, places = beams._highest(scores, count)
    expected = scores.sort(dim=1, descending=True).values[:, :count]
    assert torch.equal(best, expected)
    assert torch.equal(scores.gather(1, places), expected)
    assert all(len(set(row)) == len(row) for row in places.tolist())
