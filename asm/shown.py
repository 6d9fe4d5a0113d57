r"""Text of foreign origin as it is shown: on a terminal, in a log, in an error and in a repr.

An agent repeats text of pages and files that strangers have written. Some characters act on a terminal,
change the order of the text around them, or have no width, so that a reader does not see what a program
reads. They are shown as the escapes of Python's string literals, such as `\x1b` and `\u200b`.

There are two levels. `prose` is for what somebody wrote: it keeps what writing systems need, such as the
joiners of Persian, Hindi and emoji where they stand between characters that join. `identifier` is for ids
and other names: it keeps no invisible character at all, so that two ids that differ look different, except
for letters of two scripts that look alike. `message` and `details` are what errors are made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

_INVISIBLE = (
    # Soft hyphen, grapheme joiner, Arabic letter mark, Hangul fillers, Khmer vowels without a glyph.
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5"
    # Mongolian selectors, zero width characters, bidirectional controls, line and paragraph separators.
    r"\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    # Braille blank, Hangul filler, variation selectors 1 to 16, byte order mark, half-width filler.
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
    # Format controls and blanks of Egyptian, Khitan, shorthand and music.
    r"\U00013430-\U0001343f\U00016fe4\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"
)
_UNDEFINED = (
    # Lone surrogates and private use, characters that Unicode reserves or will never assign.
    r"\ud800-\uf8ff\ufdd0-\ufdef\ufff0-\ufffb\ufffe\uffff"
    # Tags, variation selectors 17 to 256, and the planes for private use.
    r"\U000e0000-\U0010ffff"
)
_UNSAFE = rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_INVISIBLE}{_UNDEFINED}]"

UNSAFE = re.compile(_UNSAFE)
"""The characters that are never shown as they are. Line feed and tab are not among them.

`prose` and `strict` also escape the characters that Unicode has not assigned yet. Which these are depends on
the version of Python, so this pattern does not list them.
"""

_EMOJI = (
    r"\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2934\u2935"
    r"\u2b00-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
_JOINING = (
    # The Arabic script and its neighbours, the scripts of India, of Myanmar, Cambodia and Indonesia.
    r"\u0620-\u074f\u0750-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u17ff\u1a20-\u1c4f\ua800-\uabff"
    r"\ufb50-\ufdcf\ufdf0-\ufdff\ufe70-\ufefc"
)
_VIRAMAS = r"\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca"
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Thai, Lao, Burmese and Khmer write no spaces between words, and some texts mark where lines may end."""

MESSAGE_LENGTH_MAX = 2_000
"""Characters of the message of an error."""

DETAIL_LENGTH_MAX = 4_096
"""Characters of a text in the details of an error. No id or key that a store takes is longer."""

ITEMS_MAX = 200
"""Items of a list or a dict in the details of an error, those of nested ones included."""

_BITS_MAX = 1_000


def prose(text: str) -> str:
    """The text with its unsafe characters as escapes; line feeds, tabs and spaces of any width stay."""
    if text.isascii():
        return _controls().sub(_escape, text)
    if _is_clean(text) or _is_clean(_needed().sub("", text)):
        return text
    # Before the runs are looked at: a joiner beside a character that becomes an escape joins nothing.
    if unassigned := {ord(each): _escaped(each) for each in set(text) if _is_unassigned(each)}:
        text = text.translate(unassigned)
    return _runs().sub(lambda run: run[0] if _is_needed(run) else _escape(run), text)


def identifier(text: str) -> str:
    r"""An id or another name in one line, of which every character is seen.

    Backslashes are doubled, so that no escape looks like an id that contains it. Spaces that cannot be
    counted, at the ends or beside each other, are `\x20`.
    """
    if text.isascii() and text.isprintable() and not (" " in text or "\\" in text):
        return text
    return _SPACES.sub(r"\\x20", strict(text.replace("\\", r"\\")))


_SPACES = re.compile(r"(?<![^ ]) | (?![^ ])")


def strict(text: str) -> str:
    """The text in one line, in which every character that is invisible or not printable is an escape."""
    if text.isprintable() and (text.isascii() or UNSAFE.search(text) is None):
        return text
    return "".join(each if each.isprintable() and not UNSAFE.match(each) else _escaped(each) for each in text)


def message(text: str) -> str:
    """The text of an error, as strict as an id, because it repeats ids. Its middle is cut if it is long."""
    return _shortened(text, MESSAGE_LENGTH_MAX)


def details(values: Mapping[str, Any]) -> dict[str, Any]:
    """The details of an error: what is short and seen is unchanged."""
    return {name: _detail(value, iter(range(ITEMS_MAX))) for name, value in values.items()}


def _items(values: Mapping[Any, Any], left: Iterator[int]) -> dict[Any, Any]:
    shown = {_leaf(key): _detail(value, left) for (key, value), _ in zip(values.items(), left, strict=False)}
    return shown if len(shown) == len(values) else {**shown, "…": "…"}


def _detail(value: Any, left: Iterator[int]) -> Any:
    """The value as it is shown. `left` has one element for each item of it that may still be shown."""
    if isinstance(value, Mapping):
        return _items(value, left)
    if isinstance(value, list | tuple | set | frozenset):
        items = [_detail(each, left) for each, _ in zip(value, left, strict=False)]
        return items if len(items) == len(value) else [*items, "…"]
    return _leaf(value)


def _leaf(value: Any) -> Any:
    """The value, or its text if that is long or unsafe."""
    if isinstance(value, int) and value.bit_length() > _BITS_MAX:
        return f"an integer of {value.bit_length():,} bits"
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:
        return f"a value of type {type(value).__name__} without a repr"
    shown = _shortened(text, DETAIL_LENGTH_MAX)
    return value if shown == text else shown


def _shortened(text: str, length_max: int) -> str:
    # Cut before it is escaped, too, because a text of megabytes may consist of nothing but escapes.
    return _cut(strict(_cut(text, length_max)), length_max)


def _cut(text: str, length_max: int) -> str:
    if len(text) <= length_max:
        return text
    # A message ends with what to do.
    last = length_max // 4
    return f"{text[: length_max - last - 3]} … {text[-last:]}"


def _is_clean(text: str) -> bool:
    # split() takes away the spaces, which are not all printable to Python.
    is_printable = text.isprintable() or "".join(text.split()).isprintable()
    return is_printable and _unnoticed().search(text) is None


def _is_needed(run: re.Match[str]) -> bool:
    needed = _needed().match(run.string, run.start())
    return needed is not None and needed.end() == run.end()


def _is_unassigned(character: str) -> bool:
    if character.isprintable() or character.isspace():
        return False
    return not (UNSAFE.match(character) or _visible().match(character))


def _escape(found: re.Match[str]) -> str:
    return _escaped(found[0])


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode()


# These patterns are compiled when they are first used, because it takes milliseconds.


@cache
def _controls() -> re.Pattern[str]:
    return re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@cache
def _unnoticed() -> re.Pattern[str]:
    """The unsafe characters that Python calls printable or spaces. A search for all takes twice the time."""
    return re.compile(
        r"[\x0b-\x1f\x85\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2028\u2029\u2800\u3164\ufe00-\ufe0f\uffa0"
        r"\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
    )


@cache
def _runs() -> re.Pattern[str]:
    return re.compile(f"{_UNSAFE}+")


@cache
def _needed() -> re.Pattern[str]:
    """A run of unsafe characters that writing needs where it stands.

    Of the flags only the three that all systems draw are kept, because any text can be spelled in tags.
    Variation selectors 17 to 256 are not kept: they choose rare forms of Chinese characters, and may hide a
    byte behind each of them.
    """
    # A search for a set of characters is fast. So the pattern begins with the first character of the run, and
    # looks behind it for what must stand before the run.
    return re.compile(
        r"[\u180b-\u180f\u200b-\u200d\ufe0e\ufe0f\U000e0067](?:"
        rf"(?<=[{_JOINING}][\u200c\u200d])(?=[{_JOINING}])"
        rf"|(?<=[{_EMOJI}][\ufe0e\ufe0f])(?:\u200d(?=[{_EMOJI}]))?"
        rf"|(?<=[{_EMOJI}]\u200d)(?=[{_EMOJI}])"
        r"|(?<=[#*0-9]\ufe0f)(?=\u20e3)"
        r"|(?<=\U0001f3f4\U000e0067)\U000e0062(?:\U000e0065\U000e006e\U000e0067"
        r"|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073)\U000e007f"
        rf"|(?<=[{_VIRAMAS}][\u200c\u200d])"
        rf"|(?<=[{_UNSPACED}]\u200b)(?=[{_UNSPACED}])"
        r"|(?<=[\u1820-\u18aa][\u180b-\u180f]))"
    )


@cache
def _visible() -> re.Pattern[str]:
    """Signs around numbers that Unicode calls format characters, and the places for new emoji."""
    return re.compile(
        r"[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd\U0001f000-\U0001faff]"
    )
