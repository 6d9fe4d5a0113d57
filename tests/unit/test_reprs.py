"""The representations of models and pages in a console and in a notebook."""

from __future__ import annotations

import html.parser
from datetime import UTC, datetime
from typing import Any

import pytest

import asm

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOSTILE = "</td><script>alert('&\"')</script>\x1b[31m\n\ud800"


def an_event(**fields: Any) -> asm.Event:
    required: dict[str, Any] = {
        "type": "message_sent",
        "session_id": "ses_1",
        "id": "evt_1",
        "timestamp": NOON,
    }
    return asm.Event(**(required | fields))


LONG: dict[str, Any] = {
    "a long text": "x" * 10_000_000,
    "a long list": list(range(1_000_000)),
    "many keys": {str(n): n for n in range(100_000)},
    "deep nesting": [[[[[[["deep"]]]]]]],
    "lines": "one\ntwo\r\nthree\x1b[31m" * 1_000,
    "a large integer": -(10**4_000),
}


class Cells(html.parser.HTMLParser):
    """The tags and the text of a table, by the standard library's parser."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_repr_has_the_fields_that_have_a_value() -> None:
    event = an_event(sequence_number=3, data={"role": "user", "content": "Hello"})

    assert repr(event) == (
        "Event(id='evt_1', type='message_sent', timestamp=2026-01-01T12:00:00+00:00, session_id='ses_1', "
        "sequence_number=3, data={'role': 'user', 'content': 'Hello'})"
    )


def test_a_repr_has_the_status_and_the_tags() -> None:
    session = asm.Session(id="ses_1", agent_id="a", tags=["x"], created_at=NOON, updated_at=NOON)

    assert repr(session) == (
        "Session(id='ses_1', agent_id='a', status='pending', tags=('x'), "
        "created_at=2026-01-01T12:00:00+00:00, updated_at=2026-01-01T12:00:00+00:00)"
    )


def test_a_repr_has_a_generated_id_in_full() -> None:
    run = asm.Run(session_id="ses_1")

    assert run.id in repr(run)


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
def test_a_repr_is_one_short_line(value: Any) -> None:
    text = repr(an_event(data={"value": value}))

    assert (len(text) < 500, text.isprintable()) == (True, True)


def test_the_repr_of_a_page_has_the_number_of_its_items_and_whether_there_are_more() -> None:
    events = [an_event(), an_event()]

    assert repr(asm.Page(items=events, cursor="c", total_count=1_200)) == "Page(2 of 1,200 events, more)"
    assert repr(asm.Page(items=events)) == "Page(2 events)"
    assert repr(asm.Page(items=events[:1], total_count=1)) == "Page(1 of 1 events)"
    assert repr(asm.Page(items=events[:1], cursor="c")) == "Page(1 event, more)"
    assert repr(asm.Page[Any](items=[])) == "Page(0 items)"


def test_the_repr_of_an_export_has_the_numbers_of_its_rows() -> None:
    session = asm.Session(id="ses_1", agent_id="a")
    export = asm.SessionExport(
        session=session, events=[an_event(id=f"evt_{n}", sequence_number=n) for n in range(1, 4)]
    )

    assert repr(export) == f"SessionExport({session!r}, 0 runs, 3 events, 0 artifacts)"
    one = asm.SessionExport(session=session, events=[an_event(sequence_number=1)])
    assert repr(one) == f"SessionExport({session!r}, 0 runs, 1 event, 0 artifacts)"


@pytest.mark.parametrize(
    "shown",
    [
        an_event(id=HOSTILE[:-1], data={HOSTILE: HOSTILE, "n": 1}),
        asm.Run(session_id="ses_1", input=HOSTILE, token_usage={HOSTILE: 1}),
        asm.Page(items=[an_event(data={HOSTILE: [HOSTILE]})]),
        asm.Page[str](items=[HOSTILE]),
    ],
    ids=["event", "run", "page", "page of strings"],
)
def test_no_content_becomes_markup_in_a_table(shown: Any) -> None:
    cells = Cells(shown._repr_html_())

    assert cells.tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert any("<script>" in text for text in cells.texts)
    assert shown._repr_html_().isprintable()


def test_a_table_has_a_row_for_each_field_of_a_model() -> None:
    texts = Cells(an_event(sequence_number=3)._repr_html_()).texts

    assert texts == [
        *("Event", "id", "evt_1", "type", "message_sent", "timestamp", "2026-01-01T12:00:00+00:00"),
        *("session_id", "ses_1", "sequence_number", "3"),
    ]


def test_a_table_of_a_page_has_the_columns_that_one_of_its_items_has() -> None:
    page = asm.Page(items=[an_event(), an_event(run_id="run_1", id="evt_2")])

    assert Cells(page._repr_html_()).texts == [
        *("2 events", "id", "type", "timestamp", "session_id", "run_id"),
        *("evt_1", "message_sent", "2026-01-01T12:00:00+00:00", "ses_1"),
        *("evt_2", "message_sent", "2026-01-01T12:00:00+00:00", "ses_1", "run_1"),
    ]


def test_a_table_of_a_long_page_shows_its_first_rows_and_says_so() -> None:
    page = asm.Page(items=[an_event(id=f"evt_{n}") for n in range(1_000)])
    cells = Cells(page._repr_html_())

    assert cells.texts[0] == "1,000 events, of which 50 are shown"
    assert ("evt_49" in cells.texts, "evt_50" in cells.texts) == (True, False)
