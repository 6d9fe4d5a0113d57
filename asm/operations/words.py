"""The words of a text, as searches by text compare them.

A word is a run of letters, digits and marks, in any script. Before words are compared, upper and lower case
and the forms of a letter that Unicode calls compatible become one, and accents are left out: "Café" is
"cafe". A character of Chinese, Japanese, Thai, Lao, Burmese or Khmer, which write no spaces, is a word by
itself. There is no stemming, and every language is treated the same.

Of the data of an event the words of its strings count, and not the keys, numbers and booleans. Numbers in a
string are words. The limits below apply to the index, and to events that are not indexed yet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from json import loads
from unicodedata import category, combining, is_normalized, normalize

TEXT_LENGTH_MAX = 256 * 1024
"""The characters of an event's JSON of which the words are read, from its beginning."""

WORDS_MAX = 16_000
"""The words of an event that are indexed, its first ones. The positions in a tsvector end at 16,383."""

WORDS_LENGTH_MAX = 200_000
"""The characters of all words of an event together, so that they fit a tsvector at four bytes each."""

WORD_LENGTH_MAX = 64
"""The characters by which words are compared. A longer one is shortened, in the index and in a search."""

PLACES_MAX = 255
"""The places of the same word that are indexed, as many as in a tsvector."""

GAP = "␟"
"""Stands between the words of two strings, so that no phrase reaches from one into the next, and for a word
at a place that is not indexed. It is no letter, so no search has it as a word.
"""


def words_of(data: str) -> list[str]:
    """The words of an event's data, which is JSON and may be cut off, in their order, with gaps."""
    words: list[str] = []
    for string in strings(data[:TEXT_LENGTH_MAX]):
        if words:
            words.append(GAP)
        words += words_in(string)
        if len(words) >= WORDS_MAX:
            del words[WORDS_MAX:]
            break
    if len(words) > PLACES_MAX:
        words = _within_limits(words)
    return words


def word_count(words: list[str]) -> int:
    """How many words there are, without the gaps."""
    return len(words) - words.count(GAP)


def words_in(text: str) -> list[str]:
    """The words of one text."""
    words = fold(text).split()
    if len(max(words, key=len, default="")) > WORD_LENGTH_MAX:
        return [word[:WORD_LENGTH_MAX] for word in words]
    return words


def fold(text: str) -> str:
    """The text with its words folded, and a space for every other character."""
    if not (text.isascii() or is_normalized("NFC", text)):
        text = normalize("NFC", text)
    return text.translate(_FOLDED)


def strings(json_text: str) -> Iterator[str]:
    """The strings of a JSON text that may be cut off, without the keys of its objects."""
    for found in _STRING.finditer(json_text):
        if not found["is_key"]:
            string = found["string"]
            yield _unescaped(string) if "\\" in string else string


# A string is followed by a quote, or by the place where the text was cut off. The loops have no two ways
# to match a text, so that they take time in proportion to it.
_STRING = re.compile(r'"(?P<string>[^"\\]*(?:\\.[^"\\]*)*)(?:"(?P<is_key>\s*:)?|\\?\Z)', re.DOTALL)
_CUT_OFF = re.compile(r"\\u[0-9a-fA-F]{0,3}\Z")


def _unescaped(string: str) -> str:
    # The lengths of runs of backslashes do not matter here: an escape that is cut off is the last.
    try:
        text: str = loads(f'"{string}"', strict=False)
    except ValueError:
        text = loads(f'"{_CUT_OFF.sub("", string)}"', strict=False)
    return text


def _within_limits(words: list[str]) -> list[str]:
    counts = Counter(words)
    del counts[GAP]
    frequent = {word: 0 for word, count in counts.items() if count > PLACES_MAX}
    length = 0
    kept = []
    for word in words:
        if word in frequent:
            frequent[word] += 1
            if frequent[word] > PLACES_MAX:
                word = GAP
        length += len(word)
        if length > WORDS_LENGTH_MAX:
            break
        kept.append(word)
    return kept


class _Folded(dict[int, str]):
    """What each character becomes. The entries are made when a character is first seen."""

    def __missing__(self, code: int) -> str:
        folded = self[code] = "".join(map(_part, _plain(chr(code))))
        return folded


_FOLDED = _Folded()

_KEPT_CLASSES = (0, 8, 9)
"""The combining classes of what is no accent: letters, the marks that voice a kana, and viramas."""


def _plain(character: str) -> str:
    """A character without case and accents: often one, sometimes none or several."""
    plain = normalize("NFKD", normalize("NFKD", character).casefold()).casefold()
    return normalize("NFC", "".join(each for each in plain if combining(each) in _KEPT_CLASSES))


def _part(character: str) -> str:
    if _UNSPACED.match(character):
        return f" {character} "
    return character if category(character)[0] in "LNM" else " "


_UNSPACED = re.compile(
    "[\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e45\u0e81-\u0eb0\u0eb2\u0eb3\u0ec0-\u0ec4\u1000-\u102a\u1780-\u17b3"
    "\u3005-\u3007\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd]"
)
