"""The loops drive anything that implements the protocol: here, a table of probabilities with its best answers by hand.

The toy's next token depends on the source and the last token only, so exhaustive search is possible and is the oracle.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from quintet import GenerationConfig, StoppingCriteriaList
from quintet.generation.assisted import Assistant, SourceLookup, assisted_search
from quintet.generation.processors import build_processors
from quintet.generation.search import Search
from quintet.generation.strategies import decode, rows_per_source

PAD, END, VOCABULARY, MAX_LENGTH = 0, 1, 7, 6


class Toy:
    """A first-order Markov chain per source, as a decoding session."""

    def __init__(self, tables: Tensor) -> None:
        self.tables = tables  # (sources, vocabulary, vocabulary): logits of the next token after each token
        self.sources = torch.arange(len(tables))
        self.targets: list[list[int]] = [[] for _ in tables]
        self.steps = 0
        self.most_rows = 0

    def step(self, tokens: Tensor) -> Tensor:
        return self.step_all(tokens)[:, -1]

    def step_all(self, tokens: Tensor) -> Tensor:
        assert len(tokens) == len(self.targets)
        self.steps += 1
        self.most_rows = max(self.most_rows, len(tokens))
        for target, new in zip(self.targets, tokens.tolist(), strict=True):
            target += new
        return self.tables[self.sources[:, None], tokens]

    def step_states(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.step(tokens), torch.nn.functional.one_hot(tokens, VOCABULARY).float()

    def select(self, rows: Tensor) -> None:
        self.sources = self.sources[rows]
        self.targets = [list(self.targets[row]) for row in rows.tolist()]

    def crop(self, length: int) -> None:
        assert all(len(target) >= length for target in self.targets)
        self.targets = [target[:length] for target in self.targets]


def tables(sources: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(sources, VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def search_for(**options: object) -> Search:
    config = GenerationConfig(
        **{"max_length": MAX_LENGTH, "eos_token_id": END, "pad_token_id": PAD, "top_k": 0} | options
    )
    return Search(
        config,
        MAX_LENGTH,
        torch.tensor([END]),
        PAD,
        build_processors(config, prefix_length=1, source_ids=None),
        StoppingCriteriaList(),
        rows_per_source=rows_per_source(config),
    )


def run(table: Tensor, **options: object) -> tuple[Tensor, Tensor | None]:
    session, search = Toy(table), search_for(**options)
    rows = torch.arange(len(table)).repeat_interleave(search.rows_per_source)
    session.select(rows)
    prefix = torch.zeros(len(table) if search.config.num_beams > 1 else len(rows), 1, dtype=torch.long)
    found = decode(session, prefix, search)
    return found.sequences, found.scores


def log_probability(table: Tensor, target: list[int]) -> float:
    steps = torch.log_softmax(table, dim=-1)
    return sum(float(steps[last, token]) for last, token in itertools.pairwise(target))


def every_target(new_tokens: int) -> list[list[int]]:
    """All complete targets: those that end, and those that are full."""
    complete: list[list[int]] = []
    growing = [[PAD]]
    for _ in range(new_tokens):
        longer = [[*target, token] for target in growing for token in range(VOCABULARY)]
        complete += [target for target in longer if target[-1] == END]
        growing = [target for target in longer if target[-1] != END]
    return complete + growing


def cut(row: Tensor) -> list[int]:
    """A row without what is behind its end."""
    tokens = row.tolist()
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def test_greedy_takes_the_best_token_at_every_step() -> None:
    table = tables(8)
    sequences, _ = run(table)
    for source, row in enumerate(sequences):
        expected = [PAD]
        while len(expected) < MAX_LENGTH and expected[-1] != END:
            expected.append(int(table[source, expected[-1]].argmax()))
        assert cut(row) == expected


def test_rows_that_end_leave() -> None:
    table = tables(4)
    table[1:, :, END] = 50.0  # three of four end at once
    session = Toy(table)
    decode(session, torch.zeros(4, 1, dtype=torch.long), search_for())
    assert session.most_rows == 4
    assert len(session.targets) <= 1


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_wide_beams_find_the_best_target_of_all(length_penalty: float) -> None:
    """With as many beams as there are prefixes and no heuristic, beam search is exhaustive."""
    table = tables(2, seed=1)
    sequences, scores = run(table, num_beams=VOCABULARY**4, early_stopping="never", length_penalty=length_penalty)
    assert scores is not None
    for source in range(2):
        values = {
            tuple(target): log_probability(table[source], target) / (len(target) - 1) ** length_penalty
            for target in every_target(MAX_LENGTH - 1)
        }
        best = max(values, key=values.__getitem__)
        assert tuple(cut(sequences[source])) == best
        assert math.isclose(float(scores[source]), values[best], rel_tol=1e-5)


def test_the_score_of_a_sequence_is_its_log_probability() -> None:
    table = tables(5, seed=2)
    sequences, scores = run(table, num_beams=3, num_return_sequences=3, length_penalty=0.0)
    assert scores is not None
    for place, row in enumerate(sequences):
        expected = log_probability(table[place // 3], cut(row))
        assert math.isclose(float(scores[place]), expected, rel_tol=1e-5)


def test_groups_differ() -> None:
    options = {"num_beams": 4, "num_beam_groups": 2, "num_return_sequences": 4}
    alike, _ = run(tables(6, seed=3), **options, diversity_penalty=1e-6)
    apart, _ = run(tables(6, seed=3), **options, diversity_penalty=50.0)
    first_tokens = [set(rows[:, 1].tolist()) for rows in apart.split(4)]
    assert all(len(tokens) >= 2 for tokens in first_tokens)
    assert not torch.equal(alike, apart)


@pytest.mark.parametrize("words", [[[3]], [[4, 2]], [[3], [5]], [[[2, 6], [4, 4]]]], ids=str)
def test_forced_words_occur(words: list[list[int]]) -> None:
    sequences, _ = run(tables(4, seed=4), num_beams=5, force_words_ids=words)
    for row in sequences:
        text = " ".join(map(str, row.tolist()))
        for word in words:
            choices = word if isinstance(word[0], list) else [word]
            assert any(" ".join(map(str, choice)) in text for choice in choices)  # type: ignore[arg-type]


def test_forced_words_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="forced words have 8 tokens"):
        run(tables(1), num_beams=2, force_words_ids=[[2, 3, 4, 5, 6, 2, 3, 4]])


def test_contrastive_search_avoids_what_was_there() -> None:
    """The toy's states are one-hot, so a repeated token has similarity 1: a high penalty never repeats."""
    table = tables(5, seed=5)
    table[:, :, END] = -50.0
    sequences, _ = run(table, penalty_alpha=0.99, top_k=VOCABULARY)
    for row in sequences:
        assert len(set(row.tolist())) == MAX_LENGTH


@pytest.mark.parametrize("seed", range(5))
def test_drafts_do_not_change_greedy_tokens(seed: int) -> None:
    table, other = tables(1, seed), tables(1, seed + 100)
    mixed = table + 0.5 * other
    expected, _ = run(table)
    prefix = torch.zeros(1, 1, dtype=torch.long)
    lookup = SourceLookup(expected[:, 1:], 3)
    for drafter in (lookup, Assistant(Toy(mixed), search_for()), Assistant(Toy(table), search_for())):
        found = assisted_search(Toy(table), prefix, search_for(), drafter)
        assert torch.equal(found.sequences, expected)


def test_a_good_draft_saves_steps() -> None:
    table = tables(1, seed=8)
    table[:, :, END] = -50.0
    session = Toy(table)
    assisted_search(
        session,
        torch.zeros(1, 1, dtype=torch.long),
        search_for(),
        Assistant(Toy(table), search_for(assistant_confidence_threshold=0.0)),
    )
    assert session.steps == 1


def test_drafts_do_not_change_what_sampling_draws() -> None:
    """Speculative sampling (Leviathan et al. 2023) keeps the distribution: the first tokens' frequencies show it."""
    table = tables(1, seed=6)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(VOCABULARY, VOCABULARY)
    draws = 4000
    for _ in range(draws):
        search = search_for(do_sample=True, num_assistant_tokens=2)
        search.generator, search.max_length = generator, 3
        helper = Assistant(Toy(tables(1, seed=7)), search)
        found = assisted_search(Toy(table), torch.zeros(1, 1, dtype=torch.long), search, helper)
        first, second = found.sequences[0, 1], found.sequences[0, -1]
        counts[first, second] += 1
    weights = torch.softmax(table[0], dim=-1)
    expected = weights[PAD][:, None] * weights
    expected[END] = 0.0
    expected[END, END] = weights[PAD, END]  # ended at once
    deviation = (counts / draws - expected).abs() / (expected * (1 - expected) / draws).sqrt().clamp(min=1e-3)
    assert deviation.max() < 5


def test_sampling_follows_the_probabilities() -> None:
    table = tables(1, seed=9)
    search = search_for(do_sample=True, num_return_sequences=3000)
    search.max_length, search.generator = 2, torch.Generator().manual_seed(1)
    session = Toy(table)
    session.select(torch.zeros(3000, dtype=torch.long))
    found = decode(session, torch.zeros(3000, 1, dtype=torch.long), search)
    frequencies = torch.bincount(found.sequences[:, 1], minlength=VOCABULARY) / 3000
    expected = torch.softmax(table[0, PAD], dim=-1)
    assert ((frequencies - expected).abs() < 5 * (expected * (1 - expected) / 3000).sqrt() + 1e-3).all()
