"""What a store promises about searching across sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from typing import Any

import pytest

import asm
from asm.engine.script import UnitOfWork
from asm.operations import search
from tests.conftest import POSTGRES, an_event, events_of, numbers
from tests.contract.other_clients import only, run_operation, with_interference

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

ORDERS = [
    ("search_sessions", "created_at_asc"),
    ("search_sessions", "created_at_desc"),
    ("search_sessions", "updated_at_asc"),
    ("search_sessions", "updated_at_desc"),
    ("search_runs", "started_at_asc"),
    ("search_runs", "started_at_desc"),
    ("search_runs", "token_usage_desc"),
    ("search_events", "sequence_asc"),
    ("search_events", "timestamp_asc"),
    ("search_events", "timestamp_desc"),
]
SEARCHES = ["search_sessions", "search_runs", "search_events"]


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


def ids(found: Any) -> list[str]:
    return [item.id for item in found]


def pages(search: Callable[..., Any], **wanted: Any) -> Iterator[Any]:
    """Every page of a search, the first first."""
    page = search(**wanted)
    yield page
    while page.cursor is not None:
        page = search(**wanted, cursor=page.cursor)
        yield page


@pytest.fixture
def sessions(store: Any) -> Any:
    """Five sessions, one of them deleted, the last to be created the first to be updated."""
    runs = {
        "a": ["claude"],
        "b": ["openai", "openai"],
        "c": ["claude", "openai"],
        "d": [],
        "gone": ["claude"],
    }
    with store.transaction() as tx:
        for session in (
            asm.Session(
                id="a", agent_id="x", status="active", tags=("prod", "eu"), created_at=at(1), updated_at=at(9)
            ),
            asm.Session(
                id="b", agent_id="x", status="failed", tags=("prod",), created_at=at(2), updated_at=at(8)
            ),
            asm.Session(
                id="c",
                agent_id="y",
                status="active",
                parent_session_id="a",
                created_at=at(3),
                updated_at=at(7),
            ),
            asm.Session(
                id="d",
                agent_id="z",
                status="completed",
                parent_session_id="b",
                tags=("eu", "prod", "pinned"),
                created_at=at(4),
                updated_at=at(6),
            ),
            asm.Session(
                id="gone",
                agent_id="x",
                parent_session_id="a",
                status="active",
                tags=("prod",),
                created_at=at(5),
                updated_at=at(10),
                deleted_at=at(11),
            ),
        ):
            tx.save_session(session)
            for provider in runs[session.id]:
                tx.save_run(asm.Run(session_id=session.id, provider=provider))
    return store


@pytest.fixture
def runs(store: Any) -> Any:
    """Five runs of two sessions. The last has no token counts, the one before no total."""
    usages: list[dict[str, Any]] = [
        {"total_tokens": 30},
        {"total_tokens": 10},
        {"total_tokens": 20, "input_tokens": 1},
        {"input_tokens": 15, "output_tokens": 10},
        {"other": 99},
    ]
    with store.transaction() as tx:
        for number, usage in enumerate(usages, 1):
            run = asm.Run(
                id=f"r{number}",
                session_id="s1" if number < 4 else "s2",
                status=["running", "completed", "failed"][number % 3],
                provider=["claude", "openai", None][number % 3],
                started_at=at(number),
                token_usage=usage,
            )
            tx.save_run(run)
    return store


@pytest.fixture
def events(store: Any) -> Any:
    """Six events of two sessions, the first of `s2` earlier than the last of `s1`."""
    kinds = ["message_sent", "error_occurred", "acme.plan"]
    for number, session_id in enumerate(["s1", "s1", "s2", "s1", "s2", "s2"]):
        event = an_event(
            session_id,
            kinds[number % 3],
            id=f"e{number}",
            run_id=[None, "r1", "r2"][number % 3],
            provider=["claude", "openai", None][number // 2],
            correlation_id=["c1", None, "c2", "c1", None, None][number],
            timestamp=at(10 - number),
        )
        store.append_event(event)
    return store


SESSION_FILTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "abcd"),
    ({"agent_id": "x"}, "ab"),
    ({"agent_id": ["y", "z", "nobody"]}, "cd"),
    ({"status": "active"}, "ac"),
    ({"status": asm.SessionStatus.FAILED}, "b"),
    ({"status": {"failed", "completed"}}, "bd"),
    ({"provider": "claude"}, "ac"),
    ({"provider": ["claude", "openai"]}, "abc"),
    ({"provider": "gemini"}, ""),
    ({"tags": "prod"}, "abd"),
    ({"tags": ["prod"]}, "abd"),
    ({"tags": ("prod", "eu")}, "ad"),
    ({"tags": ["eu", "prod", "eu"]}, "ad"),
    ({"tags": ["prod", "pinned", "eu"]}, "d"),
    ({"tags": ["prod", "absent"]}, ""),
    ({"parent_session_id": "a"}, "c"),
    ({"parent_session_id": ["b", "a", "d"]}, "cd"),
    ({"parent_session_id": "d"}, ""),
    ({"parent_session_id": ["a", "b"], "tags": "eu"}, "d"),
    ({"parent_session_id": "a", "tags": "eu"}, ""),
    ({"created_after": at(2)}, "bcd"),
    ({"created_before": at(2)}, "a"),
    ({"created_after": at(2), "created_before": at(4)}, "bc"),
    ({"created_after": at(4), "created_before": at(2)}, ""),
    ({"agent_id": "x", "status": "active", "tags": "eu", "provider": "claude"}, "a"),
    ({"agent_id": "x", "status": "active", "tags": "pinned"}, ""),
]


class TestSessions:
    @pytest.mark.parametrize(("filters", "expected"), SESSION_FILTERS)
    def test_filters(self, sessions: Any, filters: dict[str, Any], expected: str) -> None:
        assert ids(sessions.query.search_sessions(**filters)) == list(expected)

    @pytest.mark.parametrize(
        ("order_by", "expected"),
        [
            ("created_at_asc", ["a", "b", "c", "d", "gone"]),
            ("created_at_desc", ["gone", "d", "c", "b", "a"]),
            ("updated_at_asc", ["d", "c", "b", "a", "gone"]),
            ("updated_at_desc", ["gone", "a", "b", "c", "d"]),
        ],
    )
    def test_orders(self, sessions: Any, order_by: str, expected: list[str]) -> None:
        assert ids(sessions.query.search_sessions(order_by=order_by, include_deleted=True)) == expected

    def test_orders_of_the_sessions_with_a_tag(self, sessions: Any) -> None:
        for order_by, expected in {"created_at_asc": "abd", "updated_at_asc": "dba"}.items():
            found = pages(sessions.query.search_sessions, tags="prod", order_by=order_by, limit=1)
            assert [ids(page) for page in found] == [[id] for id in expected]

    def test_found_sessions_equal_the_saved_ones(self, store: Any) -> None:
        session = asm.Session(agent_id="a", metadata={"n": [1, None]}, context={"é": "\0"}, tags=("x", "y"))
        store.save_session(session)
        assert store.query.search_sessions().items == [session]

    def test_a_session_with_several_runs_of_a_provider_is_found_once(self, sessions: Any) -> None:
        assert ids(sessions.query.search_sessions(provider="openai")) == ["b", "c"]

    def test_a_search_uses_the_current_tags_of_a_session(self, sessions: Any) -> None:
        sessions.save_session(asm.Session(id="a", agent_id="x", tags=("new",)))
        assert ids(sessions.query.search_sessions(tags="eu")) == ["d"]
        assert ids(sessions.query.search_sessions(tags="new")) == ["a"]

    def test_a_deleted_session_is_not_found_by_its_tags(self, sessions: Any) -> None:
        sessions.delete_session("d")
        assert ids(sessions.query.search_sessions(tags="eu")) == ["a"]

    def test_the_total_counts_all_pages(self, sessions: Any) -> None:
        found = list(pages(sessions.query.search_sessions, tags="prod", limit=2, count_total=True))
        assert [(ids(page), page.total_count) for page in found] == [(["a", "b"], 3), (["d"], 3)]

    def test_the_total_counts_only_sessions_that_match(self, sessions: Any) -> None:
        search = sessions.query.search_sessions
        totals = [search(**filters, count_total=True).total_count for filters, _ in SESSION_FILTERS]

        assert totals == [len(expected) for _, expected in SESSION_FILTERS]

    def test_a_page_and_its_total_come_from_one_snapshot(self, sessions: Any, migrated: str) -> None:
        def another_comes() -> None:
            with asm.SessionStore(migrated) as another:
                another.save_session(asm.Session(agent_id="x"))

        question = search.search_sessions(count_total=True)
        assert isinstance(question, UnitOfWork)
        page = run_operation(sessions, with_interference(question, another_comes))

        assert (ids(page), page.total_count) == (["a", "b", "c", "d"], 4)

    def test_a_session_with_only_the_rarest_of_several_tags_is_not_found(self, store: Any) -> None:
        for id, tag in (("a", "rare"), ("b", "common"), ("c", "common")):
            store.save_session(asm.Session(id=id, agent_id="x", tags=(tag,)))

        page = store.query.search_sessions(tags=["rare", "common"], count_total=True)

        assert (page.items, page.total_count) == ([], 0)

    def test_the_total_counts_deleted_sessions_with_include_deleted(self, sessions: Any) -> None:
        assert sessions.query.search_sessions(include_deleted=True, count_total=True).total_count == 5

    def test_there_is_no_total_without_count_total(self, sessions: Any) -> None:
        assert sessions.query.search_sessions().total_count is None

    def test_sessions_updated_at_the_same_time_are_ordered_by_id(self, store: Any) -> None:
        for name in "bCaé":
            store.save_session(asm.Session(id=name, agent_id="a", updated_at=NOON))
        found = pages(store.query.search_sessions, limit=1)
        assert [ids(page) for page in found] == [["é"], ["b"], ["a"], ["C"]]


class TestRuns:
    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, "54321"),
            ({"session_id": "s1"}, "321"),
            ({"session_id": ["s1", "s2", "s3"]}, "54321"),
            ({"provider": "openai"}, "41"),
            ({"provider": ["openai", "claude"]}, "431"),
            ({"status": "completed"}, "41"),
            ({"status": ["failed", asm.RunStatus.RUNNING]}, "532"),
            ({"started_after": at(3)}, "543"),
            ({"started_before": at(3)}, "21"),
            ({"started_after": at(2), "started_before": at(5)}, "432"),
            ({"min_tokens": 20}, "431"),
            ({"min_tokens": 25}, "41"),
            ({"min_tokens": 1}, "4321"),
            ({"min_tokens": 0}, "54321"),
            ({"min_tokens": 2**63 - 1}, ""),
            ({"session_id": "s2", "min_tokens": 20, "status": "completed", "provider": "openai"}, "4"),
        ],
    )
    def test_filters(self, runs: Any, filters: dict[str, Any], expected: str) -> None:
        assert ids(runs.query.search_runs(**filters)) == [f"r{number}" for number in expected]

    @pytest.mark.parametrize(
        ("order_by", "expected"),
        [("started_at_asc", "12345"), ("started_at_desc", "54321"), ("token_usage_desc", "14325")],
    )
    def test_orders(self, runs: Any, order_by: str, expected: str) -> None:
        assert ids(runs.query.search_runs(order_by=order_by)) == [f"r{number}" for number in expected]

    def test_found_runs_equal_the_saved_ones(self, store: Any) -> None:
        run = asm.Run(session_id="s", input=[1], output={"a": None}, error="no", cost_usd=0.25, provider="p")
        store.save_run(run)
        assert store.query.search_runs().items == [run]

    def test_a_run_without_token_counts_is_ordered_as_zero(self, store: Any) -> None:
        for name, usage in {"b": {"total_tokens": 0}, "c": {}, "a": {}, "d": {"total_tokens": 0}}.items():
            store.save_run(asm.Run(id=name, session_id="s", token_usage=usage))
        found = pages(store.query.search_runs, order_by="token_usage_desc", limit=1)
        assert [ids(page) for page in found] == [["d"], ["c"], ["b"], ["a"]]

    def test_runs_of_the_same_id_in_two_sessions_are_both_found(self, store: Any) -> None:
        for session_id in ("s1", "s2"):
            store.save_run(asm.Run(id="r", session_id=session_id, started_at=NOON))
        for order_by in ("started_at_asc", "started_at_desc", "token_usage_desc"):
            found = pages(store.query.search_runs, order_by=order_by, limit=1)
            assert sorted(run.session_id for page in found for run in page) == ["s1", "s2"]


class TestEvents:
    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, "013245"),
            ({"session_ids": "s2"}, "245"),
            ({"session_ids": ["s2"]}, "245"),
            ({"session_ids": ["s2", "s1", "s2"]}, "013245"),
            ({"run_ids": "r1"}, "14"),
            ({"run_ids": ["r1", "r2"]}, "1245"),
            ({"types": "acme.plan"}, "25"),
            ({"types": [asm.EventType.ERROR_OCCURRED, "acme.plan"]}, "1245"),
            ({"providers": "openai"}, "32"),
            ({"providers": ["openai", "claude"]}, "0132"),
            ({"correlation_id": "c1"}, "03"),
            ({"correlation_id": ["c1", "c2"]}, "032"),
            ({"correlation_id": "c3"}, ""),
            ({"since": at(7)}, "0132"),
            ({"until": at(7)}, "45"),
            ({"since": at(7), "until": at(9)}, "32"),
            ({"session_ids": "s1", "types": "message_sent", "correlation_id": "c1", "since": at(8)}, "0"),
        ],
    )
    def test_filters(self, events: Any, filters: dict[str, Any], expected: str) -> None:
        wanted = [f"e{number}" for number in expected]
        assert ids(events.query.search_events(**filters)) == wanted
        assert events.query.count_events(**filters) == len(wanted)

    @pytest.mark.parametrize(
        ("order_by", "expected"),
        [("sequence_asc", "013245"), ("timestamp_asc", "543210"), ("timestamp_desc", "012345")],
    )
    def test_orders(self, events: Any, order_by: str, expected: str) -> None:
        assert ids(events.query.search_events(order_by=order_by)) == [f"e{number}" for number in expected]

    def test_found_events_equal_the_stored_ones(self, store: Any) -> None:
        stored = store.append_event(an_event(data={"a": [None, "\0"]}, correlation_id="c"))
        assert store.query.search_events().items == [stored]

    def test_events_of_the_same_time_are_ordered_by_session_and_number(self, store: Any) -> None:
        for session_id in ("b", "a"):
            store.append_events(events_of(session_id, 2, timestamp=NOON))
        for order_by, expected in [("timestamp_asc", "aabb"), ("timestamp_desc", "bbaa")]:
            found = pages(store.query.search_events, order_by=order_by, limit=1)
            assert [event.session_id for page in found for event in page] == list(expected)

    def test_an_empty_store_counts_as_zero(self, store: Any) -> None:
        assert store.query.count_events() == 0


class TestPages:
    @pytest.mark.parametrize(("search", "number"), list(zip(SEARCHES, [50, 50, 100], strict=True)))
    def test_a_page_has_a_default_limit(self, store: Any, search: str, number: int) -> None:
        with store.transaction() as tx:
            for _ in range(number + 1):
                tx.save_session(asm.Session(agent_id="a"))
                tx.save_run(asm.Run(session_id="s"))
            tx.append_events(events_of("s", number + 1))
        found = list(pages(getattr(store.query, search)))
        assert [len(page) for page in found] == [number, 1]

    @pytest.mark.parametrize(("search", "order_by"), ORDERS)
    def test_the_pages_of_every_order_hold_every_row_once(
        self, sessions: Any, runs: Any, events: Any, search: str, order_by: str
    ) -> None:
        search_all = getattr(sessions.query, search)
        whole = search_all(order_by=order_by).items
        found = list(pages(search_all, order_by=order_by, limit=2))
        assert [item for page in found for item in page] == whole
        assert len(found) == -(-len(whole) // 2)

    @pytest.mark.parametrize("search", SEARCHES)
    def test_the_page_of_an_empty_store_has_no_cursor(self, store: Any, search: str) -> None:
        page = getattr(store.query, search)()
        assert (page.items, page.cursor) == ([], None)

    def test_iterating_over_a_page_iterates_over_its_items(self, sessions: Any) -> None:
        page = sessions.query.search_sessions()
        assert (list(page), len(page)) == (page.items, 4)

    @pytest.mark.parametrize(
        ("order_by", "second", "expected"),
        [("created_at_asc", 2.5, ["c", "new", "d"]), ("created_at_desc", 2.5, ["b", "a"])],
    )
    def test_rows_added_between_pages_neither_repeat_nor_hide_others(
        self, sessions: Any, order_by: str, second: float, expected: list[str]
    ) -> None:
        first = sessions.query.search_sessions(order_by=order_by, limit=2)
        sessions.save_session(asm.Session(id="new", agent_id="x", created_at=at(3.5)))
        sessions.save_session(
            asm.Session(id="before", agent_id="x", created_at=at(0 if order_by.endswith("asc") else 9))
        )
        rest = sessions.query.search_sessions(order_by=order_by, cursor=first.cursor)
        assert ids(rest) == expected

    def test_the_next_page_follows_after_its_last_row_was_deleted(self, sessions: Any) -> None:
        first = sessions.query.search_sessions(order_by="created_at_asc", limit=2)
        sessions.delete_session("b")
        assert ids(sessions.query.search_sessions(order_by="created_at_asc", cursor=first.cursor)) == [
            "c",
            "d",
        ]

    @pytest.mark.parametrize("name", ["%s", "a\u00e9\U0001f600", "x" * 255, "a b&c=d/+", " "])
    def test_a_page_may_start_behind_an_id_of_any_text(self, store: Any, name: str) -> None:
        store.save_run(asm.Run(id=name, session_id=name, started_at=at(1)))
        store.save_run(asm.Run(id="last", session_id="s", started_at=at(2)))
        found = pages(store.query.search_runs, order_by="started_at_asc", limit=1)
        assert [ids(page) for page in found] == [[name], ["last"]]

    @pytest.mark.parametrize(
        "moment", [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)]
    )
    def test_a_page_may_start_behind_a_time_of_any_year(self, store: Any, moment: datetime) -> None:
        store.append_events(events_of("s", 3, timestamp=moment))
        found = pages(store.query.search_events, order_by="timestamp_desc", limit=2)
        assert [[event.sequence_number for event in page] for page in found] == [[3, 2], [1]]


class TestIterators:
    @pytest.mark.parametrize("search", SEARCHES)
    def test_an_iterator_gives_the_rows_of_all_pages_in_every_order(
        self, sessions: Any, runs: Any, events: Any, search: str
    ) -> None:
        for order_by in (order_by for name, order_by in ORDERS if name == search):
            whole = getattr(sessions.query, search)(order_by=order_by).items
            for page_size in (1, 2, len(whole), 1_000):
                found = iterator_of(search, sessions)(order_by=order_by, page_size=page_size)
                assert list(found) == whole

    def test_an_iterator_takes_the_filters_of_its_search(self, sessions: Any, runs: Any, events: Any) -> None:
        query = sessions.query

        assert ids(query.iter_sessions(agent_id=["x", "y"], provider="claude", page_size=1)) == ["a", "c"]
        assert ids(query.iter_sessions(parent_session_id="a", include_deleted=True)) == ["gone", "c"]
        assert ids(query.iter_sessions(tags=["prod", "eu"], page_size=1)) == ["a", "d"]
        assert ids(query.iter_runs(session_id="s1", status=iter(["failed"]), min_tokens=1)) == ["r2"]
        assert ids(query.iter_events(types="acme.plan", since=at(7))) == ["e2"]
        assert ids(query.iter_events(run_ids=["r1", "r2"], page_size=3)) == ["e1", "e2", "e4", "e5"]

    def test_a_filter_that_can_be_read_once_filters_all_pages(self, sessions: Any) -> None:
        assert ids(sessions.query.iter_sessions(agent_id=iter(["x", "y"]), page_size=1)) == ["a", "b", "c"]

    def test_an_iterator_over_nothing_is_empty(self, store: Any) -> None:
        for name in SEARCHES:
            assert list(iterator_of(name, store)()) == []
        store.save_session(asm.Session(agent_id="a"))
        assert list(store.query.iter_sessions(tags=[])) == []

    @pytest.mark.parametrize("search", SEARCHES)
    def test_nothing_is_queried_before_the_first_row_is_wanted(self, store: Any, search: str) -> None:
        rows, others = iterator_of(search, store)(), iterator_of(search, store)()
        store.append_event(an_event())
        store.save_run(asm.Run(session_id="s"))
        store.save_session(asm.Session(agent_id="a"))
        assert len(list(rows)) == 1

        store.close()
        with pytest.raises(asm.StoreClosed):
            next(others)

    def test_rows_that_are_added_behind_the_current_page_are_found(self, store: Any) -> None:
        store.append_events(events_of("s", 3))
        rows = store.query.iter_events(page_size=2)
        first = next(rows)
        store.append_events(events_of("s", 4))

        assert numbers([first, *rows]) == [1, 2, 3, 4, 5, 6, 7]

    def test_an_invalid_argument_is_refused_at_the_call(self, store: Any) -> None:
        for name in SEARCHES:
            for invalid in ({"page_size": 0}, {"page_size": 1_001}, {"order_by": "newest"}):
                with pytest.raises(asm.ValidationError, match=r"page_size|newest"):
                    iterator_of(name, store)(**invalid)
        with pytest.raises(asm.InvalidStatus):
            store.query.iter_sessions(status="actve")
        with pytest.raises(asm.InvalidEventType):
            store.query.iter_events(types="mesage_sent")

    def test_an_iterator_holds_no_connection_between_pages(
        self, opened: Callable[..., Any], migrated: str
    ) -> None:
        store = opened(migrated, max_size=1)
        store.append_events(events_of("s", 3))

        for event in store.query.iter_events(page_size=1, order_by="timestamp_desc"):
            store.append_event(an_event("s", run_id=event.id, timestamp=datetime(9000, 1, 1, tzinfo=UTC)))

        assert store.get_latest_sequence("s") == 6

    def test_a_transaction_iterates_over_what_it_has_written(self, store: Any) -> None:
        with store.transaction() as tx:
            tx.append_events(events_of("s", 5))
            assert numbers(list(tx.query.iter_events(page_size=2))) == [1, 2, 3, 4, 5]


def iterator_of(search_name: str, store: Any) -> Callable[..., Iterator[Any]]:
    iterate: Callable[..., Iterator[Any]] = getattr(store.query, search_name.replace("search_", "iter_"))
    return iterate


@pytest.mark.parametrize(("search", "order_by"), ORDERS)
def test_the_cursor_of_another_order_or_search_is_refused(
    sessions: Any, runs: Any, events: Any, search: str, order_by: str
) -> None:
    for other, its_order in ORDERS:
        if (other, its_order) != (search, order_by):
            cursor = getattr(sessions.query, other)(order_by=its_order, limit=1).cursor
            with pytest.raises(asm.InvalidCursor):
                getattr(sessions.query, search)(order_by=order_by, cursor=cursor)


@pytest.mark.parametrize(
    ("search", "name"),
    [
        *(
            ("search_sessions", name)
            for name in ("agent_id", "status", "provider", "tags", "parent_session_id")
        ),
        *(("search_runs", name) for name in ("session_id", "provider", "status")),
        *(
            ("search_events", name)
            for name in ("session_ids", "run_ids", "types", "providers", "correlation_id")
        ),
    ],
)
def test_a_filter_without_values_finds_nothing(
    sessions: Any, runs: Any, events: Any, search: str, name: str
) -> None:
    assert getattr(sessions.query, search)(**{name: []}).items == []


def test_a_filter_without_values_counts_nothing(sessions: Any, events: Any) -> None:
    assert sessions.query.search_sessions(tags=[], count_total=True).total_count == 0
    assert events.query.count_events(types=[]) == 0


def test_filters_accept_any_iterable(sessions: Any) -> None:
    assert ids(sessions.query.search_sessions(agent_id=iter(["x", "y"]))) == ["a", "b", "c"]


def test_filters_accept_the_callers_own_enums(sessions: Any) -> None:
    class Provider(str, Enum):  # noqa: UP042
        CLAUDE = "claude"

    class Tag(StrEnum):
        EU = "eu"

    assert ids(sessions.query.search_sessions(provider=Provider.CLAUDE, tags=[Tag.EU])) == ["a"]
    assert ids(sessions.query.search_sessions(agent_id=Tag.EU)) == []


def test_a_tagged_session_that_is_saved_again_is_ordered_by_its_new_time(sessions: Any) -> None:
    sessions.save_session(
        asm.Session(id="d", agent_id="z", tags=("prod",), created_at=at(0), updated_at=at(20))
    )

    assert ids(sessions.query.search_sessions(tags="prod")) == ["d", "a", "b"]
    assert ids(sessions.query.search_sessions(tags="prod", order_by="created_at_asc")) == ["d", "a", "b"]


def test_of_several_tags_the_order_does_not_matter(sessions: Any) -> None:
    found = [ids(sessions.query.search_sessions(tags=tags)) for tags in (["eu", "prod"], ["prod", "eu"])]

    assert found == [["a", "d"]] * 2


def test_a_transaction_searches_what_it_has_written(store: Any) -> None:
    with store.transaction() as tx:
        tx.save_session(asm.Session(id="a", agent_id="x", tags=("new",)))
        tx.append_event(an_event("a"))
        assert ids(tx.query.search_sessions(tags="new")) == ["a"]
        assert tx.query.search_sessions(count_total=True).total_count == 1
        assert tx.query.count_events() == 1


@only(POSTGRES, why="SQLite plans without looking at values")
def test_searches_and_summaries_are_planned_for_their_values_each_time(migrated: str) -> None:
    with asm.SessionStore(migrated, max_size=1) as store:
        _ask_everything(store)
        with store.transaction() as tx:
            _ask_everything(tx)
            prepared = tx.connection.execute("select statement from pg_prepared_statements").fetchall()
    # That which opened the store reads catalogs only.
    of_tables = [text for (text,) in prepared if "asm_" in text]
    assert [text for text in of_tables if "limit" in text or "count" in text] == []
    assert any("asm_session_sequences" in text for text in of_tables)


def _ask_everything(store: Any) -> None:
    store.get_latest_sequence("ses_1")
    store.query.search_sessions(tags="common", count_total=True)
    store.query.search_runs()
    store.query.search_events()
    store.query.count_events()
    store.query.get_usage_summary()
    store.query.get_cost_summary()
