"""Tokens that must occur in the output (`force_words_ids`, `constraints`), and how far a target has come with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class Constraint(ABC):
    """Something the output must contain, as a machine that reads its tokens one by one.

    A user's own constraint implements these methods, and has `seqlen`, the most tokens it can take, and `completed`.
    """

    seqlen: int
    completed: bool = False

    @abstractmethod
    def advance(self) -> int | list[int] | None:
        """The token or tokens that lead on from here; None if there are none."""

    @abstractmethod
    def does_advance(self, token_id: int) -> bool:
        """Whether this token leads on."""

    @abstractmethod
    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Read a token; returns whether it led on, whether all is fulfilled now, and whether all has to start again."""

    @abstractmethod
    def reset(self) -> None:
        """Start again."""

    @abstractmethod
    def remaining(self) -> int:
        """How many tokens are still needed."""

    @abstractmethod
    def copy(self, stateful: bool = False) -> Constraint:
        """The same constraint, at its start or, with `stateful`, where this one is."""


class DisjunctiveConstraint(Constraint):
    """One of several phrases, each a list of token ids, must occur. None may begin with another."""

    def __init__(self, nested_token_ids: list[list[int]]) -> None:
        """Raises ValueError for anything but non-empty lists of token ids, and for phrases that begin with another."""
        if not isinstance(nested_token_ids, (list, tuple)) or not nested_token_ids:
            raise ValueError(f"forced words must be a list of lists of token ids, got {nested_token_ids!r}")
        for phrase in nested_token_ids:
            check_token_ids(phrase, "a forced word")
        self.token_ids = nested_token_ids
        self.seqlen = max(len(phrase) for phrase in nested_token_ids)
        self.completed = False
        self.read: tuple[int, ...] = ()
        self._refuse_nested()

    def _refuse_nested(self) -> None:
        phrases = [tuple(phrase) for phrase in self.token_ids]
        for index, phrase in enumerate(phrases):
            others = phrases[:index] + phrases[index + 1 :]
            if any(other[: len(phrase)] == phrase for other in others):
                raise ValueError(f"of alternative forced words, none may begin with another: {list(phrase)} does")

    def advance(self) -> list[int] | None:
        """The tokens that lead on, each once, in the order of the phrases."""
        place = len(self.read)
        matching = [phrase for phrase in self.token_ids if tuple(phrase[:place]) == self.read and len(phrase) > place]
        return list(dict.fromkeys(phrase[place] for phrase in matching)) or None

    def does_advance(self, token_id: int) -> bool:
        """Whether this token leads on."""
        return token_id in (self.advance() or ())

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Read a token; a wrong one starts all again, and does not count as a first one."""
        stepped = self.does_advance(token_id)
        if stepped:
            self.read = (*self.read, token_id)
            self.completed = self.advance() is None
        else:
            self.reset()
        return stepped, self.completed, not stepped

    def reset(self) -> None:
        """Start again."""
        self.read, self.completed = (), False

    def remaining(self) -> int:
        """How many tokens are still needed, if the longest phrase is taken."""
        return 0 if self.completed else self.seqlen - len(self.read)

    def copy(self, stateful: bool = False) -> DisjunctiveConstraint:
        """The same constraint, at its start or, with `stateful`, where this one is."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        if not stateful:
            twin.reset()
        return twin


class PhrasalConstraint(DisjunctiveConstraint):
    """A phrase, given as a list of token ids, must occur."""

    def __init__(self, token_ids: list[int]) -> None:
        """Raises ValueError for anything but a non-empty list of token ids."""
        super().__init__([token_ids])


def check_token_ids(ids: Any, what: str) -> None:
    """ValueError unless `ids` is a non-empty list of token ids."""
    is_list = isinstance(ids, (list, tuple)) and len(ids) > 0
    if not is_list or not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
        raise ValueError(f"{what} must be a non-empty list of token ids, got {ids!r}")


def build_constraints(force_words_ids: Any, constraints: Sequence[Any] | None) -> list[Constraint]:
    """Constraints from both options: words are phrases, or lists of alternative phrases; ValueError for others."""
    built: list[Constraint] = []
    for constraint in constraints or ():
        if not isinstance(constraint, Constraint):
            raise ValueError(f"constraints must be Constraint objects, got {type(constraint).__name__}")
        built.append(constraint)
    if force_words_ids is None:
        return built
    if not isinstance(force_words_ids, (list, tuple)) or not force_words_ids:
        raise ValueError(f"force_words_ids must be a non-empty list of words (lists of ids), got {force_words_ids!r}")
    for word in force_words_ids:
        alternatives = isinstance(word, (list, tuple)) and len(word) > 0 and isinstance(word[0], (list, tuple))
        if not alternatives:
            check_token_ids(word, "each of force_words_ids")
        built.append(DisjunctiveConstraint(list(word)) if alternatives else PhrasalConstraint(list(word)))
    return built


class Progress:
    """How far a target has come with a list of constraints: which are met, and which one is under way.

    One at a time is under way, and a token counts for one only. A token that breaks it off sends it back to those that
    wait.
    """

    def __init__(self, constraints: Sequence[Constraint], tokens: Sequence[int] = ()) -> None:
        self._longest = max(constraint.seqlen for constraint in constraints)
        self._waiting = [constraint.copy() for constraint in constraints]
        self._current: Constraint | None = None
        self._met = 0
        for token in tokens:
            self.add(token)

    @property
    def completed(self) -> bool:
        """Whether all constraints are met."""
        return not self._waiting and self._current is None

    @property
    def bank(self) -> int:
        """A number that grows with every step towards meeting all."""
        begun = self._longest - self._current.remaining() if self._current is not None else 0
        return self._met * self._longest + begun

    def advance(self) -> list[int]:
        """The tokens that would be a step."""
        candidates = self._waiting if self._current is None else [self._current]
        tokens: list[int] = []
        for constraint in candidates:
            step = constraint.advance()
            tokens += [step] if isinstance(step, int) else step or []
        return tokens

    def add(self, token: int) -> None:
        """Read the target's next token."""
        if self.completed:
            return
        if self._current is not None:
            self._continue(self._current, token)
            return
        for index, constraint in enumerate(self._waiting):
            if constraint.does_advance(token):
                self._current = self._waiting.pop(index)
                self._continue(self._current, token)
                return

    def _continue(self, constraint: Constraint, token: int) -> None:
        _, completed, broken = constraint.update(token)
        if completed:
            self._met += 1
            self._current = None
        elif broken:
            self._waiting.append(constraint.copy())
            self._current = None
