"""Beam search, and beam sampling: the targets of highest total probability, several kept at every step.

The reference's choices, which differ from the textbook: scores are divided by length ** length_penalty; twice as many
candidates as beams are looked at (more with several end tokens), so that beams are left when the best ones end; and a
source is done by a heuristic that `early_stopping` picks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quintet.generation.protocol import DecodingSession
from quintet.generation.search import Found, Search

NEVER = -1.0e9  # the score of what is no hypothesis: far below any real one, and still a number
BLOCK = 128  # scores whose highest is found first, by `_highest`


@dataclass
class Hypotheses:
    """Some targets for each source."""

    ids: torch.Tensor
    """(sources, n, max_length)."""
    scores: torch.Tensor
    """(sources, n): summed log-probabilities; divided by length for finished ones."""
    origins: torch.Tensor
    """(sources, n, new tokens): the row that each token was added to, -1 where there is none yet."""
    done: torch.Tensor
    """(sources, n) of bool: whether it has ended."""

    def take(self, index: torch.Tensor) -> Hypotheses:
        """The hypotheses of the given places (sources, k), in that order."""
        return Hypotheses(*(_gather(tensor, index) for tensor in vars(self).values()))

    def joined(self, other: Hypotheses) -> Hypotheses:
        """Both, behind each other."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Hypotheses(*(torch.cat(pair, dim=1) for pair in pairs))

    def first(self, count: int) -> Hypotheses:
        """The first `count` of each source."""
        return Hypotheses(*(tensor[:, :count] for tensor in vars(self).values()))

    def select(self, sources: torch.Tensor) -> Hypotheses:
        """Those of the given sources."""
        return Hypotheses(*(tensor.index_select(0, sources) for tensor in vars(self).values()))

    def store(self, sources: torch.Tensor, other: Hypotheses) -> None:
        """Write those of other sources into the given places."""
        for tensor, new in zip(vars(self).values(), vars(other).values(), strict=True):
            tensor.index_copy_(0, sources, new)


def beam_search(session: DecodingSession, prefix: torch.Tensor, search: Search) -> Found:
    """The num_return_sequences best targets of each source, which starts as the prefix (sources, n).

    The session has num_beams rows for each source, side by side.
    """
    return _BeamSearch(session, prefix, search).run()


class _BeamSearch:
    def __init__(self, session: DecodingSession, prefix: torch.Tensor, search: Search) -> None:
        self.session, self.search = session, search
        self.width = search.config.num_beams
        self.sources, self.start = prefix.shape
        self.length = self.start
        self.live = torch.arange(self.sources, device=prefix.device)  # the sources still searched
        self.running = self._empty(prefix)
        self.running.scores[:, 0] = 0.0  # the others start as copies: only one of them may go on
        self.finished = self._empty(prefix)
        self.result = self._empty(prefix)  # the finished ones of sources that have left
        self.improvable = torch.ones_like(self.live, dtype=torch.bool)
        self.committed = self.start

    def run(self) -> Found:
        """Search until no source can improve."""
        tokens = self._flat(self.running.ids)[:, : self.start]
        while self.live.numel() > 0:
            candidates, distinct = self._candidates(self.session.step(tokens))
            ended = self._ended(candidates)
            origin = self._advance(candidates, ended, distinct)
            going_on = self._going_on(ended)
            self._stream()
            tokens = self._drop(going_on, origin)
        return self._found()

    def _candidates(self, logits: torch.Tensor) -> tuple[Hypotheses, bool]:
        """The best continuations of each source, best first, from logits (rows, vocabulary).

        And whether no two have the same score, so that only one order of them is right: of equal ones `topk` takes
        some, and the reference's is over all beams' tokens together.
        """
        search, width = self.search, self.width
        full = logits.float()
        ids = self._flat(self.running.ids)[:, : self.length]
        scores = search.process(ids, torch.log_softmax(full, dim=-1))
        search.trace.add(scores, full)
        vocabulary = scores.shape[1]
        # Half precision has many equal scores; elsewhere than on a CPU, asking for them would make us wait.
        by_beam = logits.device.type == "cpu" and logits.dtype == torch.float32 and not search.config.do_sample
        best, chosen, distinct = self._best(scores.view(-1, width, vocabulary), by_beam)
        beam = chosen // vocabulary
        candidates = self.running.take(beam)
        candidates.scores = best
        candidates.ids[:, :, self.length] = chosen % vocabulary
        # Numbered among the rows of the whole batch, as if none had left.
        candidates.origins[:, :, self.length - self.start] = (beam + self.live[:, None] * width).to(torch.int32)
        return candidates, distinct

    def _best(self, scores: torch.Tensor, by_beam: bool) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """From scores (sources, beams, vocabulary) to the candidates' totals (sources, n) and their places there.

        And whether they were found beam by beam: if that is allowed, and none is near NEVER, where all are alike.
        """
        search, running = self.search, self.running.scores[:, :, None]
        count = max(2, 1 + search.eos.numel()) * self.width
        if by_beam:
            best, chosen = _best_by_beam(scores, running, count)
            if best[:, -1].min() > NEVER / 2:
                return best, chosen, True
        total = (scores + running).flatten(1)
        needed = self.improvable & ~self.finished.done.any(dim=1)
        search.check(total, self.live * search.rows_per_source, needed, self.length)
        if search.config.do_sample:
            chosen = search.draw(total, count, self.live, self.sources)
            return total.gather(1, chosen), chosen, False
        return *total.topk(count), False

    def _ended(self, candidates: Hypotheses) -> torch.Tensor:
        """Which candidates (sources, n) end here."""
        self.length += 1
        return self.search.ended(self._flat(candidates.ids)[:, : self.length]).view(candidates.scores.shape)

    def _advance(self, candidates: Hypotheses, ended: torch.Tensor, distinct: bool) -> torch.Tensor:
        """Sort candidates into those that go on and those that are finished.

        Returns the beams (sources, width) that the former continue.
        """
        if distinct and not ended.any():  # they are in order, and most steps are like that
            self.running = candidates.first(self.width)
        else:
            going_on = candidates.scores + ended * NEVER
            kept = going_on.topk(self.width).indices
            self.running = candidates.take(kept)
            self.running.scores = _gather(going_on, kept)
            self._finish(candidates, ended)
        rows = self.running.origins[:, :, self.length - 1 - self.start]
        return rows.long() - self.live[:, None] * self.width

    def _finish(self, candidates: Hypotheses, ended: torch.Tensor) -> None:
        """Keep the best finished ones, old and new. Only candidates among the best `width` may end."""
        in_time = ended.clone()
        in_time[:, self.width :] = False
        excluded = ~in_time | self._full()[:, None] | ~self.improvable[:, None]
        candidates.scores = candidates.scores / self._penalty(self.length) + excluded * NEVER
        candidates.done = in_time
        both = self.finished.joined(candidates)
        self.finished = both.take(both.scores.topk(self.width).indices)

    def _full(self) -> torch.Tensor:
        """Which sources (sources,) have as many finished hypotheses as they may, if that is enough."""
        return self.finished.done.all(dim=1) & (self.search.config.early_stopping is True)

    def _going_on(self, ended: torch.Tensor) -> torch.Tensor:
        """Which sources (sources,) are to be searched further."""
        config = self.search.config
        optimistic = config.early_stopping == "never" and config.length_penalty > 0.0
        reachable = self.search.max_length if optimistic else self.length
        best = self.running.scores[:, :1] / self._penalty(reachable)
        worst = self.finished.scores.min(dim=1, keepdim=True).values.where(self.finished.done, NEVER)
        self.improvable &= (best > worst).any(dim=1) & ~ended.all(dim=1)
        return self.improvable & ~self._full()

    def _drop(self, going_on: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
        """Move the session on to the beams that are left; returns their last tokens (rows, 1)."""
        keep = going_on
        if self.search.keep_rows:
            keep = torch.full_like(going_on, bool(going_on.any()))
        left = keep.nonzero().squeeze(1)
        if left.numel() < self.live.numel():
            self.result.store(self.live, self.finished)
            origin = origin.index_select(0, left)
            self.live = self.live.index_select(0, left)
            self.running, self.finished = self.running.select(left), self.finished.select(left)
            self.improvable = self.improvable.index_select(0, left)
            if left.numel() > 0:
                self.search.processors.select(self._rows(left).flatten())
        if left.numel() > 0:
            self.session.select((origin + left[:, None] * self.width).flatten())
        return self._flat(self.running.ids)[:, self.length - 1 : self.length]

    def _found(self) -> Found:
        best, count = self.result, self.search.config.num_return_sequences
        origins = best.origins[:, :count].flatten(0, 1)
        new = int((origins >= 0).sum(dim=1).max())
        ids = best.ids[:, :count].flatten(0, 1)[:, : self.start + new]
        if self.search.streamer is not None:
            self.search.stream(ids[:1, self.committed :])
        return Found(ids, best.scores[:, :count].flatten(), origins[:, :new])

    def _stream(self) -> None:
        """Hand on the tokens that all hypotheses of the source share: nothing can change them any more."""
        if self.search.streamer is None:
            return
        alive = torch.cat([self.running.ids[0], self.finished.ids[0][self.finished.done[0]]])[:, : self.length]
        same = (alive == alive[:1]).all(dim=0).long().cumprod(dim=0)
        shared = int(same.sum())
        if shared > self.committed:
            self.search.stream(alive[:1, self.committed : shared])
            self.committed = shared

    def _rows(self, sources: torch.Tensor) -> torch.Tensor:
        """The rows (sources, width) of the given sources."""
        return sources[:, None] * self.width + torch.arange(self.width, device=sources.device)

    def _penalty(self, length: int) -> float:
        return float(length - self.start) ** self.search.config.length_penalty

    def _empty(self, prefix: torch.Tensor) -> Hypotheses:
        """Hypotheses that hold the prefix and no score yet."""
        search, shape = self.search, (self.sources, self.width)
        # What is behind an end is the reference's choice, too: the end token, if the padding token is 0.
        fill = search.pad if search.pad != 0 or search.eos.numel() == 0 else int(search.eos[0])
        ids = prefix.new_full((*shape, search.max_length), fill)
        ids[:, :, : self.start] = prefix[:, None]
        scores = torch.full(shape, NEVER, device=prefix.device)
        origins = torch.full((*shape, search.max_length - self.start), -1, dtype=torch.int32, device=prefix.device)
        return Hypotheses(ids, scores, origins, torch.zeros(shape, dtype=torch.bool, device=prefix.device))

    @staticmethod
    def _flat(tensor: torch.Tensor) -> torch.Tensor:
        """(sources, n, ...) as rows (sources * n, ...)."""
        return tensor.flatten(0, 1)


def _gather(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The given places (sources, k) along the second dimension."""
    expanded = index.reshape(*index.shape, *[1] * (tensor.dim() - 2))
    return torch.take_along_dim(tensor, expanded, dim=1)


def _best_by_beam(scores: torch.Tensor, running: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest sums of scores (sources, beams, vocabulary) and running (sources, beams, 1), best first.

    Returns them (sources, count) and their places among all of a source. Of each beam no more than `count` can be among
    them; so only those are added up, and found in a fraction of the time that one search over all takes.
    """
    sources, beams, vocabulary = scores.shape
    of_beam, token = (found.unflatten(0, (sources, beams)) for found in _highest(scores.flatten(0, 1), count))
    best, place = (of_beam + running).flatten(1).topk(count)
    return best, place // of_beam.shape[2] * vocabulary + token.flatten(1).gather(1, place)


def _highest(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As `scores.topk(count)` of scores (rows, n) on a CPU, or of all n if they are fewer, but faster where n is large.

    Only blocks whose own highest is among the `count` highest of all blocks need to be searched, and to find a block's
    highest is ten times as fast as `topk`.
    """
    length = scores.shape[1]
    blocks = length // BLOCK
    if blocks < 4 * count:
        return scores.topk(min(count, length))
    whole = scores[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK))
    highest = whole.amax(dim=2).topk(count, sorted=False).indices
    numbers = torch.arange(BLOCK, device=scores.device)
    places = (highest[:, :, None] * BLOCK + numbers).flatten(1)
    behind = blocks * BLOCK + numbers[: length - blocks * BLOCK]
    places = torch.cat([places, behind.expand(len(places), -1)], dim=1)
    best, at = scores.gather(1, places).topk(count)
    return best, places.gather(1, at)
