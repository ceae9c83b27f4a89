r"""Regular expressions of Python in the syntax of the automaton library, with Python's meaning.

The two differ in what `\w`, `\s` or a letter without case stand for, and the library knows nothing of a vocabulary.
So an expression is read by Python's own parser, and every place for one character is written out as the characters
that Python takes there. Places that take none that the vocabulary can write are left out, so what remains never leads
to a dead end; where nothing remains, it is known before decoding starts.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from typing import Any

# Python's parser of regular expressions is public under its old name only.
_sre: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

_OF_ONE_CHARACTER = re.IGNORECASE | re.ASCII | re.DOTALL  # the flags that matter to a single character
_AT_START = ("AT_BEGINNING", "AT_BEGINNING_STRING")
_AT_END = ("AT_END", "AT_END_STRING")
_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}
_UNSUPPORTED = {
    "AT": "an anchor or word boundary inside the text",
    "ASSERT": "look-around",
    "ASSERT_NOT": "look-around",
    "FAILURE": "look-around",  # `(?!)`, in newer versions of Python
    "GROUPREF": "a back-reference",
    "GROUPREF_EXISTS": "a condition on a group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repeat",
}


class Unwritable(ValueError):
    """No text that matches can be written. The message lists the characters, or sets of them, that are missing."""


def translate(pattern: re.Pattern[str], alphabet: str) -> str:
    """The library's expression for what `pattern.fullmatch` takes, as far as it can be written.

    alphabet are the characters that can be, in the order of code points. Of others, the expression may take any.
    Raises Unwritable if nothing is left, ValueError for what no automaton can do, such as look-around.
    """
    tree = _sre.parse(pattern.pattern, pattern.flags & ~re.DEBUG)
    translator = _Translator(pattern, alphabet)
    text = translator.sequence(tree, pattern.flags, first=True, last=True)
    if text is None:
        raise Unwritable(", ".join(dict.fromkeys(translator.lacking)))
    return text


def character_set(ranges: Iterable[tuple[str, str]], negated: bool = False) -> str:
    """A set of characters in the library's syntax, from the first and last of each range."""
    spans = "".join(f"{_code(first)}-{_code(last)}" for first, last in ranges)
    return f"[{'^' if negated else ''}{spans}]"


class _Translator:
    """Translates the nodes of one parse tree. None stands for an expression that matches nothing."""

    def __init__(self, pattern: re.Pattern[str], alphabet: str) -> None:
        self.pattern, self.alphabet = pattern, alphabet
        self.lacking: list[str] = []

    def sequence(self, nodes: Iterable[Any], flags: int, first: bool, last: bool) -> str | None:
        """Nodes one after the other; `first` and `last` say that the text starts or ends with them.

        There, anchors hold anyway: `fullmatch` is what counts.
        """
        nodes = list(nodes)
        while first and nodes and _is_anchor(nodes[0], _AT_START):
            nodes.pop(0)
        while last and nodes and _is_anchor(nodes[-1], _AT_END):
            nodes.pop()
        end = len(nodes) - 1
        parts = [
            self._node(kind.name, value, flags, first and place == 0, last and place == end)
            for place, (kind, value) in enumerate(nodes)
        ]
        written = [part for part in parts if part is not None]
        return "".join(written) if len(written) == len(parts) else None

    def _node(self, kind: str, value: Any, flags: int, first: bool, last: bool) -> str | None:
        if kind == "LITERAL":
            return self._literal(chr(value), flags)
        if kind == "NOT_LITERAL":
            return self._set(f"[^{re.escape(chr(value))}]", flags)
        if kind == "ANY":
            return self._set(".", flags)
        if kind == "IN":
            return self._set(f"[{''.join(map(_member, value))}]", flags)
        if kind == "BRANCH":
            options = [self.sequence(option, flags, first, last) for option in value[1]]
            written = [option for option in options if option is not None]
            return f"(?:{'|'.join(written)})" if written else None
        if kind == "SUBPATTERN":
            _, added, removed, nodes = value
            inner = self.sequence(nodes, (flags | added) & ~removed, first, last)
            return None if inner is None else f"(?:{inner})"
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):  # greedy or not, the texts are the same
            least, most, nodes = value
            return self._repeat(least, most, nodes, flags)
        what = _UNSUPPORTED.get(kind, kind)
        raise ValueError(f"the regular expression {self.pattern.pattern!r} has {what}, which a constraint cannot have")

    def _repeat(self, least: int, most: int, nodes: Iterable[Any], flags: int) -> str | None:
        inner = self.sequence(nodes, flags, first=False, last=False)
        if inner is None:
            return "" if least == 0 else None
        return f"(?:{inner}){{{least},{'' if most is _sre.MAXREPEAT else most}}}"

    def _literal(self, character: str, flags: int) -> str | None:
        if flags & re.IGNORECASE:
            return self._set(re.escape(character), flags)
        if character in self.alphabet:
            return _code(character)
        self.lacking.append(repr(character))
        return None

    def _set(self, atom: str, flags: int) -> str | None:
        several = re.compile(f"(?:{atom})+", flags & _OF_ONE_CHARACTER)
        # A run may skip code points. They cannot be written, so it does no harm that the range has them.
        ranges = [(run[0][0], run[0][-1]) for run in several.finditer(self.alphabet)]
        if ranges:
            return character_set(ranges)
        self.lacking.append(atom)
        return None


def _member(node: Any) -> str:
    """A member of a set in brackets, as Python writes it."""
    kind, value = node
    if kind.name == "NEGATE":
        return "^"
    if kind.name == "RANGE":
        return "-".join(re.escape(chr(code)) for code in value)
    return _CATEGORIES[value.name] if kind.name == "CATEGORY" else re.escape(chr(value))


def _is_anchor(node: Any, names: tuple[str, ...]) -> bool:
    kind, value = node
    return kind.name == "AT" and value.name in names


def _code(character: str) -> str:
    return f"\\x{{{ord(character):X}}}"
