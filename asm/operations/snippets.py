"""Snippets: where in the data of an event a search has found its words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple
from unicodedata import normalize

from asm.operations.text_queries import Term, TextQuery
from asm.operations.words import TEXT_LENGTH_MAX, WORD_LENGTH_MAX, fold, strings, words_in
from asm.shown import prose

MARKS = ("⟦", "⟧")
"""What stands before and after what was found. In the text itself, they are shown as [ and ]."""

LENGTH = 160
"""The characters of a text that a snippet shows, at most."""

_BEFORE = 40
"""Of these, the ones before the first word that was found."""

_UNMARKED = str.maketrans(dict(zip(MARKS, "[]", strict=True)))


class _Word(NamedTuple):
    word: str
    start: int
    end: int


def snippet(text: TextQuery, data: str) -> str:
    """A line of a string in the JSON of an event's data, with the words that were found marked.

    It is of the first string that has the most of the wanted words and phrases. It is plain text without
    characters that act on a terminal, and empty if nothing is found.
    """
    best, most = "", 0
    for string in strings(data[:TEXT_LENGTH_MAX]):
        words = f" {' '.join(words_in(string))} "
        number = sum(term.pattern in words for term in text.wanted)
        if number > most:
            best, most = string, number
            if number == len(text.wanted):
                break
    return _excerpt(text.wanted, normalize("NFC", best)) if most else ""


def _excerpt(terms: Sequence[Term], string: str) -> str:
    found = _found(terms, _words(string))
    first = next(found, (0, 0))
    start, end = _window(string, first[0])
    shown, at = "", start
    for begins, ends in (first, *takewhile(lambda each: each[0] < end, found)):
        if at <= begins < (ends := min(ends, end)):
            shown += f"{_plain(string[at:begins])}{MARKS[0]}{_plain(string[begins:ends])}{MARKS[1]}"
            at = ends
    shown += _plain(string[at:end])
    return f"{'…' if start else ''}{' '.join(shown.split())}{'…' if end < len(string) else ''}"


def _window(string: str, first: int) -> tuple[int, int]:
    """The part of a string that is shown: from a space to a space, where there is one."""
    start = max(0, first - _BEFORE)
    if start:
        start = string.find(" ", start, first) + 1 or start
    end = start + LENGTH
    if end < len(string):
        end = max(string.rfind(" ", first, end), 0) or end
    return start, min(end, len(string))


def _plain(text: str) -> str:
    return prose(text.translate(_UNMARKED))


def _found(terms: Sequence[Term], words: Iterator[_Word]) -> Iterator[tuple[int, int]]:
    """Where the terms begin and end, in the order in which they end."""
    last: list[_Word] = []
    longest = max(len(term.words) for term in terms)
    for word in words:
        last = [*last[1 - longest :], word] if longest > 1 else [word]
        for term in terms:
            if _ends_with(last, term):
                yield last[-len(term.words)].start, word.end
                break


def _ends_with(words: Sequence[_Word], term: Term) -> bool:
    *before, last = term.words
    there = [each.word for each in words[-len(term.words) :]]
    if len(there) < len(term.words) or there[:-1] != before:
        return False
    return there[-1].startswith(last) if term.is_prefix else there[-1] == last


def _words(string: str) -> Iterator[_Word]:
    """The words of a string with their places in it."""
    word, start = "", 0
    for place, character in enumerate(string):
        folded = fold(character)
        if folded.isspace() or " " in folded:
            if word:
                yield _Word(word[:WORD_LENGTH_MAX], start, place)
            word = ""
            for each in folded.split():
                yield _Word(each, place, place + 1)
        else:
            start = start if word else place
            word += folded
    if word:
        yield _Word(word[:WORD_LENGTH_MAX], start, len(string))
