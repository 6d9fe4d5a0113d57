"""What a store promises about searches by the words in events.

The index is filled by a program of its own, so each promise holds for events that are in it, and for others.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from json import loads
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import asm
from asm.cli.command import cli
from asm.migrations.runner import status
from asm.migrations.text_index import index_stored_events
from asm.operations.text_index import BATCH_SIZE
from tests.conftest import POSTGRES, an_event
from tests.contract.other_clients import STEPS, fetch_rows, only, tables
from tests.contract.retention_data import a_session
from tests.contract.test_search import NOON, at

MIGRATION = "text-search-0001-words"
TABLES = {"asm_event_words", "asm_unindexed_events"}
WORDS = "select session_id, sequence_number from asm_event_words order by session_id, sequence_number"
RANGES = "select session_id, first_sequence, last_sequence from asm_unindexed_events order by id"

Opener = Callable[..., Any]


@pytest.fixture
def searchable(migrated: str, opened: Opener) -> Any:
    """A store whose database has the index."""
    asm.migrate(migrated, text_search=True)
    return opened(migrated)


@pytest.fixture(params=["in the index", "not in the index"])
def index(request: pytest.FixtureRequest, migrated: str) -> Callable[[], object]:
    """Indexes what is stored, or leaves it to the searches."""
    return (lambda: index_stored_events(migrated)) if request.param == "in the index" else lambda: None


def said(content: str, session_id: str = "ses_1", **fields: Any) -> asm.Event:
    return an_event(session_id, data={"role": "user", "content": content}, **fields)


def found(store: Any, text: str, **filters: Any) -> list[tuple[str, int]]:
    page = store.query.search_events(text=text, **filters)
    return [(event.session_id, event.sequence_number) for event in page]


# What is found.


TEXTS: dict[str, list[int]] = {
    "connection": [1, 2],
    "connection refused": [1, 2],
    '"connection refused"': [1],
    '"refused connection': [2],
    "connection -retry": [1],
    'connection -"connection refused"': [2],
    "-retry connection": [1],
    "conn*": [1, 2],
    '"refused conn"*': [2],
    '"refused conn*"': [2],
    "conn": [],
    "CONNECTION": [1, 2],
    "cafe": [3],
    "CAFÉ": [3],
    "strasse": [3],
    "client.py": [2],
    "py-client": [],
    "session_id": [4],
    "session": [4],
    "漢字": [3],
    "字": [3],
    "字漢": [],
    "user": [1, 2, 3, 4],
    "role": [],
    '"user connection"': [],
    "4711": [4],
    "12345": [],
    "true": [],
    "AND OR NOT NEAR ( ) \" * ^ : { } + ' \\ ; -- % \0 \ud800 connection refused retry": [],
    "connection AND retry": [],
    "NOT": [],
    "connection*:refused": [1],
}
"""Texts, and the numbers of the events that they find."""


def test_a_text_finds_words_phrases_and_prefixes_without_case_and_accents(
    searchable: Any, index: Callable[[], object]
) -> None:
    searchable.append_events(
        [
            said("the connection refused"),
            said("Retry: the refused connection in client.py"),
            said("Straße zum Café; これは漢字です"),
            an_event(data={"from": "user", "n": 12345, "ok": True, "list": ["session_id=4711"]}),
        ]
    )
    index()

    assert {text: [number for _, number in found(searchable, text)] for text in TEXTS} == TEXTS
    assert {text: searchable.query.count_events(text=text) for text in TEXTS} == {
        text: len(numbers) for text, numbers in TEXTS.items()
    }


def test_any_string_of_json_is_indexed(searchable: Any, index: Callable[[], object]) -> None:
    searchable.append_event(
        an_event(
            data={"a": "nul \0 there", "b": "lone \ud800 surrogate", "c": 2**70, "d": 'q"u\\ote\n\tnext'}
        )
    )
    index()

    texts = ["nul there", "lone surrogate", '"q u ote next"']
    assert [found(searchable, text) for text in texts] == [[("ses_1", 1)]] * 3


def test_a_filter_and_a_text_must_both_match(searchable: Any, index: Callable[[], object]) -> None:
    for n, session_id in enumerate(["ses_1", "ses_2"]):
        searchable.append_events(
            [
                said("hello world", session_id, timestamp=at(n), run_id="run_1", correlation_id="cor_1"),
                said("hello there", session_id, timestamp=at(n), type="error_occurred", provider="claude"),
            ]
        )
    index()

    filters: list[tuple[dict[str, Any], list[tuple[str, int]]]] = [
        ({"session_ids": "ses_2"}, [("ses_2", 1), ("ses_2", 2)]),
        ({"session_ids": ["ses_2", "ses_3"], "run_ids": "run_1"}, [("ses_2", 1)]),
        ({"types": "error_occurred"}, [("ses_1", 2), ("ses_2", 2)]),
        ({"providers": "claude", "since": at(1)}, [("ses_2", 2)]),
        ({"correlation_id": "cor_1", "until": at(1)}, [("ses_1", 1)]),
        ({"types": []}, []),
    ]
    for given, expected in filters:
        assert found(searchable, "hello", **given) == expected
        assert searchable.query.count_events(text="hello", **given) == len(expected)


@pytest.mark.parametrize("order", ["sequence_asc", "timestamp_asc", "timestamp_desc", "relevance"])
def test_pages_of_every_order_return_each_event_once(searchable: Any, migrated: str, order: str) -> None:
    contents = [f"needle {'needle ' * (n % 4)}{'hay ' * (n % 7)}" for n in range(20)]
    for n, content in enumerate(contents):
        searchable.append_event(said(content, f"ses_{n % 3}", timestamp=at(n * 7 % 5)))
        if n == 9:
            index_stored_events(migrated)
    whole = searchable.query.search_events(text="needle", order_by=order)
    first = searchable.query.search_events(text="needle", order_by=order, limit=7)
    # Neither an event that is added behind the page nor a fuller index moves the others.
    searchable.append_event(said("hay " * 50 + "needle", "ses_9", timestamp=at(99)))
    index_stored_events(migrated)
    rest = []
    cursor = first.cursor
    while cursor is not None:
        rest.append(searchable.query.search_events(text="needle", order_by=order, limit=7, cursor=cursor))
        cursor = rest[-1].cursor

    ids = [event.id for page in [first, *rest] for event in page]
    assert [id for id in ids if id in {event.id for event in whole}] == [event.id for event in whole]
    assert len(whole) == 20
    assert set(ids) - {event.id for event in whole} <= {event.id for event in searchable.get_events("ses_9")}
    iterated = [
        event.id for event in searchable.query.iter_events(text="needle", order_by=order, page_size=6)
    ]
    assert [id for id in iterated if id in {event.id for event in whole}] == [event.id for event in whole]


def test_by_relevance_the_larger_part_of_the_words_comes_first(
    searchable: Any, index: Callable[[], object]
) -> None:
    searchable.append_events(
        [said("needle " + "hay " * 100), said("needle needle hay"), said("needles hay"), said("needle hay")]
    )
    index()

    assert found(searchable, "needle*", order_by="relevance") == [
        ("ses_1", number) for number in [2, 4, 3, 1]
    ]


def test_a_session_is_found_by_any_of_its_events(searchable: Any, index: Callable[[], object]) -> None:
    for n, name in enumerate(["a", "b", "c", "gone"]):
        searchable.save_session(
            asm.Session(
                id=name,
                agent_id=f"agent_{n % 2}",
                tags=["eu", "prod"] if n else ["eu"],
                created_at=at(n),
                updated_at=at(-n),
                deleted_at=NOON if name == "gone" else None,
            )
        )
        searchable.append_events([said(f"needle {'hay ' * n}", name), said("one", name), said("two", name)])
    searchable.append_event(said("needle without a session", "none"))
    index()
    search = searchable.query.search_sessions

    assert [each.id for each in search(text="needle", count_total=True)] == ["a", "b", "c"]
    assert search(text="needle", limit=1, count_total=True).total_count == 3
    assert [each.id for each in search(text="needle", order_by="created_at_desc")] == ["c", "b", "a"]
    assert [each.id for each in search(text="needle", include_deleted=True)] == ["a", "b", "c", "gone"]
    assert [each.id for each in search(text="needle", tags=["prod", "eu"], agent_id="agent_0")] == ["c"]
    # All words in one event.
    assert list(search(text="one two")) == []
    for order in ["created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc", "relevance"]:
        whole = search(text="needle", order_by=order).items
        assert list(searchable.query.iter_sessions(text="needle", order_by=order, page_size=1)) == whole
    assert [each.id for each in search(text="needle", order_by="relevance")] == ["a", "b", "c"]


# Snippets.


def test_a_snippet_is_a_line_with_the_words_between_marks(
    searchable: Any, index: Callable[[], object]
) -> None:
    long = "word " * 100
    searchable.save_session(asm.Session(id="ses_1", agent_id="a"))
    searchable.append_events(
        [
            said(f"{long}The Café was closed, the cafés too.{long}"),
            an_event(data={"a": "cafe", "b": "a ⟦closed⟧ café\n\x1b[31mred\u202e"}),
        ]
    )
    index()
    page = searchable.query.search_events(text="cafe* closed")

    first, second = page.snippets
    assert first.startswith("…word word")
    assert "The ⟦Café⟧ was ⟦closed⟧, the ⟦cafés⟧ too.word" in first
    assert first.endswith("word…")
    assert len(first) < 200
    assert second == r"a [⟦closed⟧] ⟦café⟧ \x1b[31mred\u202e"
    assert searchable.query.search_sessions(text="cafe*").snippets == ["⟦cafe⟧"]
    assert searchable.query.search_events(text="absent").snippets == []
    assert searchable.query.search_events().snippets is None


# Bad texts.


def test_a_text_without_a_word_to_find_or_with_too_many_is_refused(store: Any) -> None:
    texts: list[Any] = ["", " ", "-hello", '"', "* - ()", "a" * 1_001, "a " * 101, 3, ["hello"]]
    for text, name in product(texts, ["search_events", "search_sessions", "count_events"]):
        with pytest.raises(asm.ValidationError, match=r"text") as refused:
            getattr(store.query, name)(text=text)
        assert refused.value.details["path"] == "text"


def test_a_text_without_the_index_is_an_error_that_names_the_command(store: Any) -> None:
    query = store.query
    for search in (
        lambda: query.search_events(text="hello"),
        lambda: query.search_sessions(text="hello"),
        lambda: query.count_events(text="hello"),
        lambda: list(query.iter_events(text="hello")),
        lambda: list(query.iter_sessions(text="hello")),
    ):
        with pytest.raises(asm.ValidationError, match="create it with `asm migrate --text-search`"):
            search()


@pytest.mark.parametrize("search", ["search_events", "search_sessions"])
def test_the_order_by_relevance_needs_a_text(store: Any, search: str) -> None:
    with pytest.raises(asm.ValidationError, match="give `text`"):
        getattr(store.query, search)(order_by="relevance")


# The index.


def test_what_is_stored_already_is_indexed_once_beside_appends(migrated: str, opened: Opener) -> None:
    store = opened(migrated)
    store.append_events([said(f"hello {n}") for n in range(BATCH_SIZE + 5)])
    store.append_event(said("hello", "ses_2"))
    assert asm.migrate(migrated) == []
    numbers: list[int] = []

    def append(number: int) -> None:
        if len(numbers) < 3:
            numbers.append(number)
            store.append_event(said(f"later {number}", "ses_3"))

    CliRunner().invoke(cli, ["migrate", "--text-search", migrated, "--sql"])
    asm.migrate(migrated, text_search=True)
    assert (len(fetch_rows(migrated, WORDS)), fetch_rows(migrated, RANGES)) == (BATCH_SIZE + 6, [])
    store.append_events([said("more") for _ in range(2 * BATCH_SIZE)])
    assert index_stored_events(migrated, progress=append) == 2 * BATCH_SIZE + 2
    assert (len(numbers), index_stored_events(migrated), index_stored_events(migrated)) == (3, 1, 0)
    assert store.query.count_events(text="hello") == BATCH_SIZE + 6
    assert store.query.count_events(text="later") == len(numbers)


def test_indexing_that_was_stopped_goes_on_where_it_stopped(searchable: Any, migrated: str) -> None:
    searchable.append_events([said(f"hello {n}") for n in range(2 * BATCH_SIZE)])

    def stop(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_stored_events(migrated, progress=stop)

    assert len(fetch_rows(migrated, WORDS)) == BATCH_SIZE
    assert searchable.query.count_events(text="hello") == 2 * BATCH_SIZE
    assert index_stored_events(migrated) == BATCH_SIZE
    assert searchable.query.count_events(text="hello") == 2 * BATCH_SIZE


REMOVALS: dict[str, Callable[[Any], object]] = {
    "pop_event": lambda store: store.pop_event("ses_1"),
    "delete_events": lambda store: store.delete_events("ses_1", after=1),
    "delete_session": lambda store: store.delete_session("ses_1"),
    "prune_session_events": lambda store: store.maintenance.prune_session_events(
        "ses_1", asm.RetentionPolicy(max_events_per_session=1)
    ),
    "hard_delete": lambda store: (
        store.save_session(a_session("ses_1", updated_days_ago=60, deleted_days_ago=31)),
        store.maintenance.execute(asm.RetentionPolicy()),
    ),
}


@pytest.mark.parametrize("removal", REMOVALS)
def test_a_removed_event_is_no_longer_found_nor_in_the_index(
    searchable: Any, migrated: str, index: Callable[[], object], removal: str
) -> None:
    searchable.save_session(a_session("ses_1"))
    searchable.append_events([said("needle one"), said("needle two"), said("other", "ses_2")])
    index()
    REMOVALS[removal](searchable)
    left = [(event.session_id, event.sequence_number) for event in searchable.get_events("ses_1")]

    assert len(left) < 2
    assert found(searchable, "needle") == left
    index_stored_events(migrated)
    assert found(searchable, "needle") == left
    assert fetch_rows(migrated, WORDS) == [*left, ("ses_2", 1)]

    searchable.append_event(said("needle again"))
    assert len(found(searchable, "needle again")) == 1
    index_stored_events(migrated)
    assert len(found(searchable, "needle again")) == 1
    assert len(found(searchable, "needle")) == len(left) + 1


def test_every_way_to_insert_events_is_noted(searchable: Any, migrated: str) -> None:
    session = asm.Session(id="ses_1", agent_id="a")
    run = asm.Run(id="run_1", session_id="ses_1")
    searchable.flush(session, run, [said("needle")])
    searchable.append_event(said("needle"), session=session)
    searchable.append_events([said("needle"), said("needle")], session=session)
    with searchable.transaction() as tx:
        tx.append_event(said("needle"))
        assert tx.query.count_events(text="needle") == 5
    searchable.fork_session("ses_1", id="ses_2")
    export = searchable.query.export_session("ses_1")
    searchable.delete_session("ses_1")
    searchable.import_session(export)

    assert searchable.query.count_events(text="needle") == 10
    assert index_stored_events(migrated) == 10
    assert searchable.query.count_events(text="needle") == 10
    assert searchable.maintenance.health_check() == []


def test_a_copied_store_is_searched_like_the_first(
    searchable: Any, migrated: str, other: str, opened: Opener
) -> None:
    searchable.append_events(
        [said("needle") for _ in range(3)], session=asm.Session(id="ses_1", agent_id="a")
    )
    asm.migrate(other, text_search=True)
    copied = CliRunner().invoke(cli, ["copy", migrated, other])

    assert copied.exit_code == 0, copied.output
    assert opened(other).query.count_events(text="needle") == 3


LARGE = {
    "many words": " ".join(f"w{n}" for n in range(50_000)),
    "one word": "needle " * 50_000,
    "a long word": "x" * 300_000,
    "long characters": "x" * 100 + " \U00010400" * 100_000,
    "words of a character": "漢" * 300_000,
    "escapes": '\\"\n' * 100_000,
}


def test_an_event_of_any_size_is_appended_and_indexed_as_far_as_it_fits(
    searchable: Any, migrated: str
) -> None:
    for content in LARGE.values():
        searchable.append_event(an_event(data={"first": "beginning", "content": content, "last": "end"}))
    texts = ["beginning", "w15000", "w49999", f"{'x' * 64}", "漢漢", "𐐨"]
    before = [searchable.query.count_events(text=text) for text in texts]
    index_stored_events(migrated)

    assert before == [len(LARGE), 1, 0, 2, 1, 1]
    assert [searchable.query.count_events(text=text) for text in texts] == before


# The migration.


def test_the_index_is_created_where_it_is_asked_for_and_dropped_by_a_rollback(dsn: str) -> None:
    assert (asm.migrate(dsn), tables(dsn) & TABLES) == (STEPS, set())
    invoke = CliRunner().invoke
    assert invoke(cli, ["migrate", "--text-search", dsn]).output == f"applied {MIGRATION}\n"
    assert invoke(cli, ["migrate", "--text-search", dsn]).output == "up to date\n"
    assert (asm.migrate(dsn), asm.pending_migrations(dsn), tables(dsn) >= TABLES) == ([], [], True)
    with asm.SessionStore(dsn) as store:
        store.append_event(said("hello"))
        assert status(dsn).rows["unindexed_events"] == 1
        assert invoke(cli, ["migrate", "--text-search", dsn]).output == "indexed 1 event\n"
        assert (status(dsn).rows["event_words"], status(dsn).rows["unindexed_events"]) == (1, 0)

        assert asm.rollback(dsn) == [MIGRATION]
        assert {name for name in tables(dsn) if "words" in name or "unindexed" in name} == set()
        store.append_event(said("hello"))
        store.delete_events("ses_1", after=0)
    assert asm.migrate(dsn, text_search=True) == [MIGRATION]


@only(POSTGRES, why="a schema is PostgreSQL's")
def test_the_index_of_a_schema_is_of_that_schema_alone(dsn: str, opened: Opener) -> None:
    for schema in ("one", "other"):
        asm.migrate(dsn, schema=schema, text_search=True)
    one, other = opened(dsn, schema="one"), opened(dsn, schema="other")
    one.append_event(said("needle"))
    other.append_events([said("needle"), said("needle")])

    assert index_stored_events(dsn, schema="one") == 1
    assert fetch_rows(dsn, "select count(*) from other.asm_unindexed_events") == [(1,)]
    assert (one.query.count_events(text="needle"), other.query.count_events(text="needle")) == (1, 2)
    asm.rollback(dsn, schema="one")
    assert other.query.count_events(text="needle") == 2


# The command.


def test_what_the_command_imports_is_indexed(searchable: Any, migrated: str, tmp_path: Path) -> None:
    searchable.append_event(said("needle"), session=asm.Session(id="ses_1", agent_id="a"))
    file = tmp_path / "sessions.jsonl"
    invoke = CliRunner().invoke
    assert invoke(cli, ["export", "ses_1", "--output", str(file), "--dsn", migrated]).exit_code == 0
    searchable.delete_session("ses_1")
    imported = invoke(cli, ["import", str(file), "--dsn", migrated])

    assert (imported.exit_code, fetch_rows(migrated, WORDS)) == (0, [("ses_1", 1)]), imported.output
    assert found(searchable, "needle") == [("ses_1", 1)]


def test_the_command_searches_by_text(searchable: Any, migrated: str) -> None:
    session = asm.Session(id="ses_1", agent_id="a", metadata={"title": "A title"})
    searchable.append_events([said("the needle"), said("hay")], session=session)
    invoke = CliRunner().invoke

    events = invoke(cli, ["search", "events", "--text", "needle", "--dsn", migrated]).output
    assert events.splitlines()[0].endswith("the ⟦needle⟧")
    count = invoke(cli, ["search", "events", "--text", "needle", "--count", "--dsn", migrated]).output
    assert count == "1\n"
    sessions = invoke(
        cli, ["sessions", "--text", "need*", "--order", "relevance", "--json", "--dsn", migrated]
    ).output
    assert loads(sessions)["snippets"] == ["the ⟦needle⟧"]
    assert "A title" in invoke(cli, ["sessions", "--text", "needle", "--dsn", migrated]).output
