"""Text of foreign origin: no character acts on a terminal or hides, and ordinary text stays readable."""

# ruff: noqa: RUF001 (letters of other scripts that look like Latin ones)

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asm
from asm import shown
from asm.maintenance.policy import Failure
from asm.operations.summaries import Usage

IGNORABLE = re.compile(
    # Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt, and the Braille blank.
    r"[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)

HOSTILE = (
    "a\x1b[2J\x1b]0;title\x07 \x08\r\x7f\x9b1m \u202eevil\u2066 \u2028\u2029 b\u200bc\u200dd\u200ce\u2060f"
    "\ufeffg\xadh\U000e0073\U000e0061\U000e0079 \ufe0f\U000e0100\u034f \u115f\u1160\u3164\uffa0\u2800\u180e "
    "\ue000\U00100000\ufdd0\nforged: line"
)
"""Every kind of character that is not shown as it is, but the two that no store takes."""


def unseen(text: str) -> list[str]:
    """The characters of a text that act on a terminal, change its order, or are not seen."""
    odd = {each for each in set(text) if not (each.isprintable() or each == "\n")}
    return sorted(odd.union(IGNORABLE.findall(text)))


LEVELS: dict[str, Callable[[str], str]] = {
    "prose": shown.prose,
    "identifier": shown.identifier,
    "strict": shown.strict,
}


@cache
def unsafe_characters() -> list[str]:
    """All characters of Unicode that are not shown as they are; of those without a meaning every 50th."""
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    found = [each for each in characters if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    found += [each for each in characters[::50] if unicodedata.category(each) in ("Cn", "Co")]
    return found + [each for each in characters if IGNORABLE.match(each)]


VISIBLE = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""Signs around numbers, which are visible, although Unicode calls them format characters."""


@pytest.mark.parametrize("level", LEVELS)
def test_no_unsafe_character_of_unicode_is_shown_as_it_is(level: str) -> None:
    unsafe = unsafe_characters()
    kept = set(LEVELS[level]("".join(f"a{each}a" for each in unsafe))).intersection(unsafe)
    # Prose keeps the places that Unicode reserves for emoji, of which it assigns some every year.
    if level == "prose":
        kept -= {"\n", "\t", *VISIBLE, *map(chr, range(0x1F000, 0x1FB00))}
    assert kept == set()


def test_the_exported_set_has_all_unsafe_characters_that_are_assigned() -> None:
    assigned = {each for each in unsafe_characters() if unicodedata.category(each) != "Cn"}
    assert {each for each in assigned if not shown.UNSAFE.match(each)} == {"\n", "\t", *VISIBLE}


@pytest.mark.parametrize(
    "text",
    [
        "Größe, naïve, e\u0301\ta\xa0b\u202f!\n",
        "العربية، ۱۲۳ (النص)",
        "می\u200cخواهم کتاب\u200cها",
        "عليه \u06dd",
        "हिन्दी र्\u200dय क्\u200cष",
        "\u0d05\u0d35\u0d28\u0d4d\u200d \u0d05\u0d35\u0d28\u0d4d\u200d",
        "\u0d9a\u0dca\u200d\u0dbb",
        "한국어",
        "日本語\u3000テキスト、中文",
        "ភាសា\u200bខ្មែរ ไทย\u200bไทย",
        "\u1820\u180b\u1821\u180e\u1820",
        "עִבְרִית",
        "👩\u200d👩\u200d👧\u200d👦 👩🏽\u200d🚀 ❤\ufe0f\u200d🔥 🏳\ufe0f\u200d🌈",
        "✈\ufe0f ☎\ufe0e 1\ufe0f\u20e3 #\ufe0f\u20e3 🇳🇴",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        "\U0001faef",
    ],
)
def test_ordinary_text_of_any_language_is_shown_as_it_is(text: str) -> None:
    assert shown.prose(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "pass\u200bword",
        "pass\u200dword",
        "a\u200cb",
        "می\u200c",
        "می\u200c\u200cخواهم",
        "می\u200c\u200bخواهم",
        "\u0984\u200c\u0984",
        "👩\u200da",
        "👩\u200d\u200d👩",
        "a\ufe0f",
        "1\ufe0f",
        "❤\ufe0f\ufe0f",
        "❤\ufe0f\u200d",
        "中\U000e0100",
        "🏴\U000e0075\U000e0073\U000e0074\U000e0078\U000e007f",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f\U000e0061\U000e007f",
        "👩\U000e0061",
        "a\u180b",
        "ab\u200bខ",
    ],
)
def test_an_invisible_character_that_its_neighbours_do_not_need_is_shown(text: str) -> None:
    seen = shown.prose(text)
    hidden = IGNORABLE.findall(text)
    assert unseen(seen) == []
    assert seen.count("\\u") + seen.count("\\U") >= len(hidden)


_TEXTS = st.text(
    st.one_of(
        st.sampled_from(
            "a \\x\n\t\u200b\u200c\u200d\ufe0e\ufe0f\u20e3👩❤1میक\u094dខ\u1820\u180b\u0984🏴\U000e0067"
        ),
        st.characters(codec=None),
    )
)


@given(_TEXTS)
def test_an_id_can_be_told_from_every_other_id(text: str) -> None:
    seen = shown.identifier(text)
    assert unseen(seen) == []
    assert seen.encode("latin-1", "backslashreplace").decode("unicode_escape") == text


@given(_TEXTS)
def test_spaces_of_an_id_can_be_counted(text: str) -> None:
    seen = shown.identifier(text)
    assert seen == seen.strip()
    assert "  " not in seen


@given(_TEXTS)
def test_text_that_was_shown_is_shown_unchanged(text: str) -> None:
    for level in (shown.prose, shown.strict, shown.message):
        assert level(level(text)) == level(text)


# Errors.


def test_an_error_shows_what_is_in_the_values_that_it_repeats() -> None:
    error = asm.SessionNotFound(
        f"no session has the id {HOSTILE}", session_id=HOSTILE, keys={HOSTILE: [HOSTILE, (HOSTILE,)]}
    )
    said = (str(error), *_texts(error.details), repr(error), repr(error.details))
    assert [unseen(each) for each in said] == [[]] * len(said)
    assert [each for each in said if "\n" in each] == []


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for each in pair for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value]


ORDINARY: dict[str, Any] = {
    "session_id": "ses_1",
    "key": "C:\\reports\\Größe 1.pdf" + "x" * 4_000,
    "status": asm.SessionStatus.ACTIVE,
    "limit": 3,
    "none": None,
    "tables": ["asm_events", "asm_runs"],
    "fields": {"a": {"b": 1.5}},
}


def test_details_of_ordinary_characters_are_those_that_were_given() -> None:
    details = asm.Conflict("no", **ORDINARY).details
    assert details == ORDINARY
    assert details["status"] is asm.SessionStatus.ACTIVE


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [
        "x" * 1_000_000,
        "\u200b" * 1_000_000,
        [HOSTILE] * 100_000,
        {str(n): [n] * 1_000 for n in range(1_000)},
        {HOSTILE * 1_000: HOSTILE * 1_000},
        b"\x1b" * 1_000_000,
        10**100_000,
        [[[[["deep"] * 1_000] * 1_000] * 1_000] * 1_000],
        Unprintable(),
    ],
    ids=["text", "escapes", "list", "dict", "keys", "bytes", "integer", "nested", "no repr"],
)
def test_an_error_of_large_values_is_short(value: Any) -> None:
    error = asm.ValidationError(
        f"no value of this size: {'x' * 1_000_000}: give less", path="data", value=value
    )
    assert len(str(error)) <= 2_000
    assert str(error).startswith("no value of this size: xxx")
    assert str(error).endswith("xxx: give less")
    assert len(repr(error.details)) < 1_000_000
    assert error.details["path"] == "data"


# Representations.


@pytest.mark.parametrize(
    "value",
    [
        asm.Session(id=HOSTILE, agent_id=HOSTILE, tags=(HOSTILE,), metadata={HOSTILE: HOSTILE}),
        asm.Event(type=f"acme.{HOSTILE}", session_id=HOSTILE, data={HOSTILE: [HOSTILE]}),
        asm.Page(items=[HOSTILE]),
        asm.UsageSummary(by_model={HOSTILE: Usage()}),
        asm.HealthIssue("sequence_holes", "message", HOSTILE),
        Failure("events_pruned", OSError(HOSTILE), HOSTILE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_representations_of_a_value_show_what_is_in_it(value: Any) -> None:
    html = value._repr_html_() if hasattr(value, "_repr_html_") else ""
    assert unseen(repr(value) + str(value) + html) == []
