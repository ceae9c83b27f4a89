"""Beam search in groups that avoid each other (Vijayakumar et al. 2016), and beam search for targets that must contain
given phrases (Hokamp and Liu 2017, with the banks of Post and Vilar 2018).

Both keep finished targets in a list per group; the reference decides in that way here, and in another in `beams`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from quintet.generation.phrases import Constraint, Progress
from quintet.generation.protocol import DecodingSession
from quintet.generation.search import Found, Search


@dataclass
class Finished:
    """A target that has ended (without its end token), the rows its tokens came from, and its score."""

    score: float
    ids: list[int]
    origins: list[int]


@dataclass
class Group:
    """The beams of one source that are searched together, best first, and the best ones that have ended."""

    source: int
    first_row: int
    """The number of its first beam among the rows of the whole batch."""
    ids: list[list[int]]
    scores: list[float]
    origins: list[list[int]]
    finished: list[Finished] = field(default_factory=list)
    done: bool = False

    def finish(self, ids: list[int], origins: list[int], score: float) -> None:
        """Keep a target that has ended, if it is possible and among the best as many as there are beams."""
        if score == -math.inf:
            return
        if len(self.finished) < len(self.ids) or score > min(kept.score for kept in self.finished):
            self.finished.append(Finished(score, ids, origins))
            if len(self.finished) > len(self.ids):
                self.finished.remove(min(self.finished, key=lambda kept: kept.score))


Candidate = tuple[float, int, int]
"""A way to go on: summed log-probability, token, and beam of the group."""


def grouped_beam_search(
    session: DecodingSession, prefix: torch.Tensor, search: Search, phrases: Sequence[Constraint] = ()
) -> Found:
    """The num_return_sequences best targets of each source, which starts as the prefix (sources, n).

    The session has num_beams rows for each source, those of a group side by side. With `phrases`, there is one group,
    and only targets that contain them all may end; ValueError, naming the source, if none is found.
    """
    return _GroupedSearch(session, prefix, search, phrases).run()


class _GroupedSearch:
    def __init__(
        self, session: DecodingSession, prefix: torch.Tensor, search: Search, phrases: Sequence[Constraint]
    ) -> None:
        self.session, self.search, self.phrases = session, search, phrases
        self.device = prefix.device
        self.sources, self.start = prefix.shape
        self.groups = search.config.num_beam_groups
        self.width = search.config.num_beams // self.groups
        self.ends = set(search.eos.tolist())
        self.live = list(range(self.sources))
        self.all = [
            [self._new_group(source, index, ids) for index in range(self.groups)]
            for source, ids in enumerate(prefix.tolist())
        ]

    def _new_group(self, source: int, index: int, prefix: list[int]) -> Group:
        scores = [0.0] + [-1.0e9] * (self.width - 1)  # the others start as copies: only one of them may go on
        first_row = (source * self.groups + index) * self.width
        return Group(source, first_row, [prefix] * self.width, scores, [[]] * self.width)

    def run(self) -> Found:
        """Search until every group of every source is done."""
        tokens = self._ids()
        length = self.start
        while self.live:
            logits = self.session.step(tokens).float()
            parents = self._step(logits, length)
            length += 1
            self._end_sources()
            tokens = self._move_on(parents)
        return self._found()

    def _ids(self) -> torch.Tensor:
        """The live rows' targets (rows, length)."""
        rows = [ids for source in self.live for group in self.all[source] for ids in group.ids]
        return torch.tensor(rows, device=self.device)

    def _rows(self, group: int) -> torch.Tensor:
        """The rows of the live sources' beams in one of the groups."""
        first = torch.arange(len(self.live), device=self.device) * self.groups * self.width + group * self.width
        return (first[:, None] + torch.arange(self.width, device=self.device)).flatten()

    def _step(self, logits: torch.Tensor, length: int) -> torch.Tensor:
        """Choose each group's next tokens, one group after the other; returns the row each new beam continues."""
        ids = self._ids()
        current = torch.zeros(ids.shape[0], dtype=torch.long, device=self.device)
        parents = torch.arange(ids.shape[0], device=self.device)
        processed = torch.zeros_like(logits)
        for index in range(self.groups):
            rows = self._rows(index)
            scores = torch.log_softmax(logits[rows], dim=-1)
            scores = self.search.process(ids[rows], scores, current_tokens=current, beam_group_idx=index)
            processed[rows] = scores
            groups = [self.all[source][index] for source in self.live]
            beams = self._advance(groups, scores, length)
            current[rows] = torch.tensor(
                [group.ids[beam][-1] for group in groups for beam in range(self.width)], device=self.device
            )
            parents[rows] = rows.view(-1, self.width)[:, :1].repeat(1, self.width).flatten() + beams
        self.search.trace.add(processed, logits)
        return parents

    def _advance(self, groups: list[Group], scores: torch.Tensor, length: int) -> torch.Tensor:
        """Move the groups of all live sources on by a token; returns the beams they continue (rows of the groups,)."""
        known = torch.tensor([group.scores for group in groups], device=self.device)
        vocabulary = scores.shape[1]
        total = scores.view(len(groups), self.width, vocabulary) + known[:, :, None]
        needed = torch.tensor([not group.done and not group.finished for group in groups], device=self.device)
        sources = torch.tensor([group.source for group in groups], device=self.device)
        self.search.check(total.flatten(1), sources * self.search.rows_per_source, needed, length)
        count = max(2, 1 + len(self.ends)) * self.width
        best, chosen = (tensor.tolist() for tensor in total.flatten(1).topk(count))
        beams: list[int] = []
        for place, group in enumerate(groups):
            ranked = [
                (score, token % vocabulary, token // vocabulary)
                for score, token in zip(best[place], chosen[place], strict=True)
            ]
            beams += self._advance_group(group, ranked, total[place], length)
        return torch.tensor(beams, device=self.device)

    def _advance_group(self, group: Group, ranked: list[Candidate], total: torch.Tensor, length: int) -> list[int]:
        """Finish or continue the candidates of one group, best first; returns the beams that are continued."""
        group.done = group.done or ranked[0][0] == -math.inf  # nothing can follow what has ended
        if group.done:  # its beams only keep their place
            group.ids = [[*ids, self.search.pad] for ids in group.ids]
            group.origins = [[*origins, -1] for origins in group.origins]
            return list(range(self.width))
        new_length = length + 1 - self.start
        kept: list[Candidate] = []
        for rank, (score, token, beam) in enumerate(ranked):
            if token not in self.ends:
                kept.append((score, token, beam))
            elif rank < self.width and self._may_end(group.ids[beam]):
                origins = [*group.origins[beam], group.first_row + beam]
                group.finish(group.ids[beam], origins, score / self._penalty(new_length))
            if len(kept) == self.width:
                break
        if self.phrases:
            kept = self._favour_phrases(group, kept, total)
        self._continue(group, kept)
        group.done = self._is_done(group, ranked[0][0], new_length)
        return [beam for _, _, beam in kept]

    def _continue(self, group: Group, kept: list[Candidate]) -> None:
        origins = [[*group.origins[beam], group.first_row + beam] for _, _, beam in kept]
        group.ids = [[*group.ids[beam], token] for _, token, beam in kept]
        group.scores = [score for score, _, _ in kept]
        group.origins = origins

    def _is_done(self, group: Group, best: float, new_length: int) -> bool:
        """Whether none of the beams can become better than those that have ended; `best` is the best candidate's."""
        config = self.search.config
        if len(group.finished) < self.width:
            return False
        if config.early_stopping is True:
            return True
        optimistic = config.early_stopping == "never" and config.length_penalty > 0.0
        reachable = self.search.max_length - self.start if optimistic else new_length
        return min(kept.score for kept in group.finished) >= best / self._penalty(reachable)

    def _penalty(self, length: int) -> float:
        return float(length) ** self.search.config.length_penalty

    # -- phrases -------------------------------------------------------------------------------------------------

    def _may_end(self, ids: list[int]) -> bool:
        return not self.phrases or Progress(self.phrases, ids).completed

    def _favour_phrases(self, group: Group, kept: list[Candidate], total: torch.Tensor) -> list[Candidate]:
        """The candidates, joined by those that take a step in a phrase, and chosen from each bank in turn."""
        candidates = list(kept)
        states = [Progress(self.phrases, [*group.ids[beam], token]) for _, token, beam in kept]
        seen = {(*group.ids[beam], token) for _, token, beam in kept}
        for beam, ids in enumerate(group.ids):
            progress = Progress(self.phrases, ids)
            for token in progress.advance():
                if (*ids, token) not in seen:
                    seen.add((*ids, token))
                    candidates.append((float(total[beam, token]), token, beam))
                    states.append(Progress(self.phrases, [*ids, token]))
        if len(candidates) == len(kept):
            return kept
        return _in_turns(candidates, [state.bank for state in states])[: self.width]

    # -- ends ----------------------------------------------------------------------------------------------------

    def _end_sources(self) -> None:
        """Close the groups of sources that have reached a length limit or another criterion with all beams."""
        hits = self.search.ended(self._ids()).view(len(self.live), self.groups, self.width).all(dim=2).tolist()
        for source, ended in zip(self.live, hits, strict=True):
            groups = self.all[source]
            if all(group.done or hit for group, hit in zip(groups, ended, strict=True)):
                for group in groups:
                    self._close(group)

    def _close(self, group: Group) -> None:
        """Count the beams that are still open as ended."""
        if group.done:
            return
        group.done = True
        open_beams = list(zip(group.ids, group.origins, group.scores, strict=True))
        for ids, origins, score in open_beams:
            if self._may_end(ids):
                group.finish(ids, origins, score / self._penalty(len(ids) - self.start))

    def _move_on(self, parents: torch.Tensor) -> torch.Tensor:
        """Move the session on to the new beams of the sources left; returns their last tokens (rows, 1)."""
        per_source = self.groups * self.width
        left = [place for place, source in enumerate(self.live) if not all(group.done for group in self.all[source])]
        if self.search.keep_rows and left:
            left = list(range(len(self.live)))
        places = torch.tensor(left, dtype=torch.long, device=self.device)
        if 0 < len(left) < len(self.live):
            rows = places[:, None] * self.width + torch.arange(self.width, device=self.device)
            self.search.processors.select(rows.flatten())  # they see one group at a time
        if left:
            self.session.select(parents.view(-1, per_source).index_select(0, places).flatten())
        self.live = [self.live[place] for place in left]
        return self._ids()[:, -1:] if left else parents

    def _found(self) -> Found:
        count = self.search.config.num_return_sequences
        best: list[Finished] = []
        for source, groups in enumerate(self.all):
            ranked = sorted((kept for group in groups for kept in group.finished), key=lambda kept: kept.score)
            if len(ranked) < count:
                raise ValueError(
                    f"row {source}: only {len(ranked)} of num_return_sequences={count} sequences are what they must be "
                    f"within max_length={self.search.max_length}; allow more tokens or more beams, or ask for less"
                )
            best += ranked[::-1][:count]
        return self._padded(best)

    def _padded(self, best: list[Finished]) -> Found:
        """Sequences closed by an end token where there is room, and padded."""
        longest = max(len(one.ids) for one in best)
        length = min(longest + 1, self.search.max_length)
        ids = torch.full((len(best), length), self.search.pad, device=self.device)
        origins = torch.full((len(best), length), -1, device=self.device)
        for row, one in enumerate(best):
            ids[row, : len(one.ids)] = torch.tensor(one.ids, device=self.device)
            origins[row, : len(one.origins)] = torch.tensor(one.origins, device=self.device)
            if len(one.ids) < length and self.ends:
                ids[row, len(one.ids)] = self.search.eos[0]
        scores = torch.tensor([one.score for one in best], device=self.device)
        return Found(ids, scores, origins)


def _in_turns(candidates: list[Candidate], banks: list[int]) -> list[Candidate]:
    """The best of each bank, highest bank first, then the second best of each, and so on.

    As in the reference, banks are told apart by 100, so candidates with less than that in log-probability stand behind
    those of lower banks, and begin a turn of their own there.
    """
    order = sorted(range(len(candidates)), key=lambda place: banks[place] * 100 + candidates[place][0], reverse=True)
    turns = [turn for _, run in itertools.groupby(order, key=banks.__getitem__) for turn, _ in enumerate(run)]
    ranked = sorted(zip(turns, order, strict=True), key=lambda pair: pair[0])
    return [candidates[place] for _, place in ranked]
