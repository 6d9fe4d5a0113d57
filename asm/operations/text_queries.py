"""The text of a search: words, "phrases", -exclusions and prefixes*."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from asm.errors import ValidationError
from asm.operations.words import words_in
from asm.validation import safe_repr

LENGTH_MAX = 1_000
"""The characters of a text to search for."""

WORDS_MAX = 100
"""The words of it. Most texts of that length have fewer."""

_LAST = "\U0010ffff"
"""Follows every character with which a word goes on."""


@dataclass(frozen=True, slots=True)
class Term:
    """Words that follow each other. The last one may be the beginning of a word."""

    words: tuple[str, ...]
    is_prefix: bool

    @property
    def pattern(self) -> str:
        """What is in the words of an event that the term matches, with a space around each word."""
        return f" {' '.join(self.words)}{'' if self.is_prefix else ' '}"

    @property
    def expression(self) -> str:
        """The term in the language of FTS5."""
        phrase = " + ".join(f'"{word}"' for word in self.words)
        return f"({phrase} *)" if self.is_prefix else f"({phrase})"

    @property
    def ranges(self) -> list[tuple[str, str]]:
        """The first and the last word that each of its words matches."""
        ranges = [(word, word) for word in self.words]
        if self.is_prefix:
            ranges[-1] = self.words[-1], self.words[-1] + _LAST
        return ranges


@dataclass(frozen=True)
class TextQuery:
    """What the words of an event must have, all of it, and what they must not have."""

    wanted: tuple[Term, ...]
    excluded: tuple[Term, ...]

    @cached_property
    def expression(self) -> str:
        """The search in the language of FTS5.

        Words consist of letters, digits and marks, and are folded, so nothing in them is an operator. The
        queries for PostgreSQL make a tsquery of it by replacing the operators.
        """
        wanted = " AND ".join(term.expression for term in self.wanted)
        return "".join([wanted, *(f" NOT {term.expression}" for term in self.excluded)])

    @cached_property
    def ranges(self) -> list[tuple[str, str]]:
        """The first and the last word of each range of words that count for the relevance of an event."""
        return sorted({each for term in self.wanted for each in term.ranges})

    def matches(self, words: Sequence[str]) -> bool:
        """Whether the words of an event have what is wanted, and nothing that is excluded."""
        text = f" {' '.join(words)} "
        return all(pattern in text for pattern in self._wanted) and not any(
            pattern in text for pattern in self._excluded
        )

    def hits(self, words: Iterable[str]) -> int:
        """How many of the words are in the ranges."""
        words = list(words)
        return sum(
            words.count(first) if first == last else sum(word.startswith(first) for word in words)
            for first, last in self.ranges
        )

    @cached_property
    def _wanted(self) -> list[str]:
        return [term.pattern for term in self.wanted]

    @cached_property
    def _excluded(self) -> list[str]:
        return [term.pattern for term in self.excluded]


def parse_text(value: Any) -> TextQuery:
    """What a text searches for. ValidationError where that is nothing, or too much."""
    if not isinstance(value, str):
        raise _refused(f"text must be a str, not {type(value).__name__}")
    if len(value) > LENGTH_MAX:
        raise _refused(f"text has {len(value):,} characters, more than the maximum of {LENGTH_MAX:,}")
    wanted, excluded = list[Term](), list[Term]()
    for found in _TERM.finditer(value):
        said = found["word"] if found["phrase"] is None else found["phrase"]
        words = tuple(words_in(said))
        is_prefix = said.endswith("*") or found["star"] is not None
        if words:
            (excluded if found["minus"] else wanted).append(Term(words, is_prefix))
    if (number := sum(len(term.words) for term in (*wanted, *excluded))) > WORDS_MAX:
        raise _refused(f"text has {number} words, more than the maximum of {WORDS_MAX}")
    if not wanted:
        why = "has only words to exclude" if excluded else "has no word"
        raise _refused(f"the text {safe_repr(value)} {why}: give at least one word to search for")
    return TextQuery(tuple(dict.fromkeys(wanted)), tuple(dict.fromkeys(excluded)))


# A phrase ends with a quote or with the text.
_TERM = re.compile(r"""(?P<minus>-)?(?:"(?P<phrase>[^"]*)(?:"(?P<star>\*)?|\Z)|(?P<word>[^\s"]+))""")


def _refused(why: str) -> ValidationError:
    return ValidationError(why, path="text")
