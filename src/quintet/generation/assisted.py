"""Assisted decoding: something cheap drafts several tokens, and the model checks them all in one step.

Greedy decoding gives exactly the tokens of the plain loop. Under sampling, drafts of a model are accepted so that the
tokens have the distribution of plain sampling (Leviathan et al. 2023, algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from quintet.generation.protocol import RewindableSession
from quintet.generation.search import Found, Search


@dataclass
class Draft:
    """Tokens (1, n) that may come next, and the distribution (n, vocabulary) that each was drawn from, if it was."""

    tokens: torch.Tensor
    probabilities: torch.Tensor | None = None


class Drafter(Protocol):
    """What proposes tokens."""

    def draft(self, ids: torch.Tensor, room: int) -> Draft:
        """At most `room` tokens that may follow the target (1, length)."""

    def learn(self, accepted: int, drafted: int) -> None:
        """Hear how many of the last draft's tokens were right."""


def assisted_search(session: RewindableSession, prefix: torch.Tensor, search: Search, drafter: Drafter) -> Found:
    """Continue one target (1, n) until it ends or is full."""
    ids = tokens = prefix
    ended = False
    while not ended:
        draft = drafter.draft(ids, room=search.max_length - ids.shape[1] - 1)
        count = draft.tokens.shape[1]
        logits = session.step_all(torch.cat([tokens, draft.tokens], dim=1))[0, -count - 1 :].float()
        scores = _process(search, ids, draft.tokens, logits)
        chosen, accepted = _verify(search, draft, scores)
        drafter.learn(accepted, count)
        for place in range(accepted + 1):
            search.trace.add(scores[place : place + 1], logits[place : place + 1])
            ids = torch.cat([ids, chosen[:, place : place + 1]], dim=1)
            search.stream(ids[:, -1])
            ended = bool(search.ended(ids).item())
            if ended:
                break
        session.crop(ids.shape[1] - 1)
        tokens = ids[:, -1:]
    return Found(ids)


def _process(search: Search, ids: torch.Tensor, draft: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The processed scores (n + 1, vocabulary) after each token of a draft; checked as far as the draft is right."""
    scores = []
    needed = torch.ones(1, dtype=torch.bool, device=ids.device)
    for place in range(logits.shape[0]):
        target = torch.cat([ids, draft[:, :place]], dim=1)
        scores.append(search.process(target, logits[place : place + 1]))
        right = search.config.do_sample or place == draft.shape[1] or bool(scores[-1].argmax() == draft[0, place])
        search.check(scores[-1], torch.zeros(1, dtype=torch.long), needed, target.shape[1])
        if not right:
            break
    return torch.cat(scores)


def _verify(search: Search, draft: Draft, scores: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The tokens (1, m + 1) that are taken, and how many of them, m, are the draft's."""
    drafted = draft.tokens[0]
    if search.config.do_sample and draft.probabilities is not None:
        return _verify_drawn(search, draft, torch.softmax(scores, dim=-1))
    if search.config.do_sample:
        chosen = torch.multinomial(torch.softmax(scores, dim=-1), 1, generator=search.generator).squeeze(1)
    else:
        chosen = scores.argmax(dim=-1)
    compared = min(len(drafted), len(chosen))
    right = (drafted[:compared] == chosen[:compared]).long().cumprod(dim=0)
    accepted = min(int(right.sum()), len(chosen) - 1)
    return chosen[None, : accepted + 1], accepted


def _verify_drawn(search: Search, draft: Draft, wanted: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Accept each drawn token with probability min(1, wanted / drafted); draw the first rejected one anew."""
    assert draft.probabilities is not None
    drafted, proposed = draft.tokens[0], draft.probabilities
    places = torch.arange(len(drafted), device=drafted.device)
    ratio = wanted[places, drafted] / proposed[places, drafted]
    chance = torch.rand(ratio.shape, generator=search.generator, device=ratio.device)
    accepted = int((chance <= ratio).long().cumprod(dim=0).sum())
    rest = wanted[accepted]
    if accepted < len(drafted):
        rest = (rest - proposed[accepted]).clamp(min=0)
    last = torch.multinomial(rest / rest.sum(), 1, generator=search.generator)
    return torch.cat([drafted[:accepted], last])[None], accepted


class SourceLookup:
    """Drafts what follows the target's last tokens where they stand in the source, as answers often quote it."""

    def __init__(self, source: torch.Tensor, num_tokens: int, max_ngram: int | None = None) -> None:
        """`source` (1, length) without padding; drafts have at most `num_tokens`, found by at most `max_ngram` (2)."""
        self._source = source[0]
        self._num_tokens = num_tokens
        self._max_ngram = max_ngram or 2

    def draft(self, ids: torch.Tensor, room: int) -> Draft:
        """What follows the longest of the target's endings that the source has."""
        length = self._source.shape[0]
        for size in range(min(self._max_ngram, ids.shape[1] - 1, length), 0, -1):
            ending = ids[0, -size:]
            places = (self._source.unfold(0, size, 1) == ending).all(dim=1).nonzero()
            if places.numel() > 0:
                start = int(places[0]) + size
                return Draft(self._source[None, start : start + min(self._num_tokens, room)])
        return Draft(ids[:, :0])

    def learn(self, accepted: int, drafted: int) -> None:
        """Nothing: the source stays what it is."""


class Assistant:
    """Drafts with a smaller model of the same vocabulary, which reads the same source."""

    def __init__(self, session: RewindableSession, search: Search) -> None:
        self._session, self._search = session, search
        self._known = 0  # how many tokens of the target its session holds
        self._start = 0  # how long the target was when the last draft began
        config = search.config
        self._count = config.num_assistant_tokens
        self._confidence = config.assistant_confidence_threshold
        self._adapts = config.num_assistant_tokens_schedule.startswith("heuristic")

    def draft(self, ids: torch.Tensor, room: int) -> Draft:
        """The assistant's own continuation, up to where it is unsure or ends."""
        self._start = ids.shape[1]
        drafted, probabilities = ids[:, :0], []
        for _ in range(min(self._count, room)):
            target = torch.cat([ids, drafted], dim=1)
            scores = self._search.process(target, self._session.step(target[:, self._known :]).float())
            self._known = target.shape[1]
            weights = torch.softmax(scores, dim=-1)
            token = self._choose(scores, weights)
            if self._stops(weights, token):
                break
            drafted = torch.cat([drafted, token], dim=1)
            probabilities.append(weights)
            if torch.isin(token, self._search.eos).item():
                break
        drawn = self._search.config.do_sample and probabilities
        return Draft(drafted, torch.cat(probabilities) if drawn else None)

    def learn(self, accepted: int, drafted: int) -> None:
        """Forget what was wrong. Under a heuristic schedule, draft more after a draft that was right, else less."""
        if self._known > self._start + accepted:
            self._known = self._start + accepted
            self._session.crop(self._known)
        if self._adapts and drafted > 0:
            self._count = self._count + 2 if accepted == drafted else max(1, self._count - 1)

    def _choose(self, scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if not self._search.config.do_sample:
            return scores.argmax(dim=-1, keepdim=True)
        return torch.multinomial(weights, 1, generator=self._search.generator)

    def _stops(self, weights: torch.Tensor, token: torch.Tensor) -> bool:
        """Whether the assistant does not stand by its token. A drawn one counts in any case: else drafts are biased."""
        if self._search.config.do_sample:
            return False
        return bool(weights.gather(1, token).item() < self._confidence)
