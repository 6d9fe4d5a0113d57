"""What a store promises about sessions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import asm
from asm.operations import sessions
from tests.conftest import an_artifact, an_event, events_of

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def a_session(agent_id: str = "assistant", **fields: Any) -> asm.Session:
    return asm.Session(agent_id=agent_id, **fields)


def made_at(minute: int, **fields: Any) -> asm.Session:
    return a_session(created_at=NOON + timedelta(minutes=minute), **fields)


def test_a_saved_session_is_read_back_equal(store: Any) -> None:
    session = a_session(
        status="paused",
        parent_session_id="ses_parent",
        metadata={"team": "blue", "nested": {"n": [1, 2.5, None, True]}},
        context={"system": "Be brief. \u0000 \ud800 é 漢"},
        tags=("pinned", "prod", "pinned"),
        created_at=NOON,
        updated_at=NOON + timedelta(microseconds=1),
        deleted_at=NOON + timedelta(days=1),
    )
    store.save_session(session)
    assert store.get_session(session.id) == session


def test_saving_again_replaces_everything_but_the_id(store: Any) -> None:
    first = a_session(metadata={"a": 1}, tags=("old",))
    second = a_session(
        "another",
        id=first.id,
        status="failed",
        parent_session_id="ses_0",
        metadata={"b": 2},
        context={"c": 3},
        tags=("new",),
        created_at=NOON,
        updated_at=NOON,
        deleted_at=NOON,
    )
    store.save_session(first)
    store.save_session(second)
    assert store.get_session(first.id) == second


def test_an_unknown_session_raises_session_not_found(store: Any) -> None:
    with pytest.raises(asm.SessionNotFound, match="ses_missing") as caught:
        store.get_session("ses_missing")
    assert caught.value.details == {"session_id": "ses_missing"}


def test_sessions_are_returned_in_the_order_of_their_ids(store: Any) -> None:
    a, b, deleted = a_session(id="a", tags=("x", "y")), a_session(id="b"), a_session(id="c", deleted_at=NOON)
    for session in (b, deleted, a):
        store.save_session(session)

    assert store.get_sessions(["b", "missing", "c", "a", "b"]) == [b, deleted, a, b]
    assert store.get_sessions(iter(["missing", "a"])) == [a]
    assert store.get_sessions(["missing"]) == []
    assert store.get_sessions([]) == []


def test_there_may_be_more_ids_than_one_statement_takes(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "VALUES_MAX", 3)
    saved = [a_session(id=f"ses_{n}") for n in range(8)]
    for session in saved:
        store.save_session(session)

    assert store.get_sessions([session.id for session in saved]) == saved


def test_a_transaction_reads_the_sessions_that_it_has_saved(store: Any) -> None:
    session = a_session()
    with store.transaction() as tx:
        tx.save_session(session)
        assert tx.get_sessions([session.id, "missing"]) == [session]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("ses_1", "session_ids must be a list of strings, not str"),
        (None, "session_ids must be a list of strings, not NoneType"),
        (["a", 7], r"session_ids\[1\] must be a string, not int"),
        ([""], r"session_ids\[0\] must have 1 to 255 characters"),
    ],
)
def test_ids_that_are_no_list_of_ids_are_refused(store: Any, ids: Any, message: str) -> None:
    with pytest.raises(asm.ValidationError, match=message):
        store.get_sessions(ids)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 6, 1, 12, 30, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    ],
)
def test_times_are_read_back_in_utc_to_the_microsecond(store: Any, moment: datetime) -> None:
    session = a_session(created_at=moment)
    store.save_session(session)
    kept = store.get_session(session.id).created_at
    assert (kept, kept.utcoffset()) == (moment, timedelta(0))


def test_sessions_are_listed_newest_first(store: Any) -> None:
    sessions = [made_at(minute) for minute in (2, 0, 1)]
    for session in sessions:
        store.save_session(session)
    assert store.list_sessions() == [sessions[0], sessions[2], sessions[1]]


def test_sessions_created_at_the_same_time_are_ordered_by_id(store: Any) -> None:
    for name in ("b", "a", "C", "é"):
        store.save_session(made_at(0, id=name))
    assert [session.id for session in store.list_sessions()] == ["é", "b", "a", "C"]


def test_sessions_of_the_years_1_and_9999_are_ordered_by_time(store: Any) -> None:
    for year in (999, 9999, 1, 2026):
        store.save_session(a_session(id=str(year), created_at=datetime(year, 1, 1, tzinfo=UTC)))
    assert [session.id for session in store.list_sessions()] == ["9999", "2026", "999", "1"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"status": "active"}, ["c", "a"]),
        ({"status": asm.SessionStatus.FAILED}, ["b"]),
        ({"status": ["active", "failed"]}, ["c", "b", "a"]),
        ({"status": []}, []),
        ({"agent_id": "x"}, ["b", "a"]),
        ({"agent_id": "x", "status": "active"}, ["a"]),
        ({"limit": 2}, ["c", "b"]),
        ({"limit": 0}, []),
        ({"limit": 2, "offset": 1}, ["b", "a"]),
        ({"offset": 2}, ["a"]),
        ({"offset": 9}, []),
        ({"include_deleted": True, "limit": 1}, ["deleted"]),
    ],
)
def test_listing_filters(store: Any, filters: dict[str, Any], expected: list[str]) -> None:
    store.save_session(made_at(0, id="a", agent_id="x", status="active"))
    store.save_session(made_at(1, id="b", agent_id="x", status="failed"))
    store.save_session(made_at(2, id="c", agent_id="y", status="active"))
    store.save_session(made_at(3, id="deleted", agent_id="x", status="active", deleted_at=NOON))
    assert [session.id for session in store.list_sessions(**filters)] == expected


@pytest.mark.parametrize("arguments", [{"limit": -1}, {"offset": -1}, {"limit": True}, {"limit": 2**63}])
def test_invalid_limits_are_refused(store: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(asm.ValidationError):
        store.list_sessions(**arguments)


def test_the_error_for_an_unknown_status_lists_the_known_ones(store: Any) -> None:
    with pytest.raises(asm.InvalidStatus, match="use one of pending, active"):
        store.list_sessions(status="actve")


def test_deleting_a_session_deletes_its_runs_events_and_artifacts(store: Any) -> None:
    session, run = a_session(), asm.Run(session_id="placeholder")
    run = asm.Run(session_id=session.id, id=run.id)
    store.flush(session, run, events_of(session.id, 3))
    store.artifacts.register(an_artifact("a", session_id=session.id))
    store.delete_session(session.id)
    with pytest.raises(asm.SessionNotFound):
        store.get_session(session.id)
    assert (
        store.get_events(session.id),
        store.list_runs(session.id),
        store.artifacts.list_by_session(session.id),
        store.get_latest_sequence(session.id),
    ) == ([], [], [], 0)


def test_deleting_a_session_leaves_the_others(store: Any) -> None:
    for name in ("a", "b"):
        store.flush(a_session(id=name), asm.Run(session_id=name), [an_event(name)])
        store.artifacts.register(an_artifact(name, session_id=name))
    before = store.query.export_session("b", include_artifacts=True)

    store.delete_session("a")

    assert store.query.export_session("b", include_artifacts=True) == before


def test_deleting_an_absent_session_is_no_error(store: Any) -> None:
    store.delete_session("ses_never")
    assert store.get_latest_sequence("ses_never") == 0


def test_a_deleted_session_starts_again_at_one(store: Any) -> None:
    event = an_event("again")
    store.append_events([event, an_event("again")])
    store.delete_session("again")
    assert store.append_event(event).sequence_number == 1


@pytest.mark.parametrize("session_id", ["", "x" * 256, "a\0b", "\ud800", 7, None, b"ses"])
def test_an_invalid_id_is_refused_before_a_query_is_sent(store: Any, session_id: Any) -> None:
    with pytest.raises(asm.ValidationError, match="session_id"):
        store.get_session(session_id)


@pytest.mark.parametrize(
    "session_id", ["x" * 255, "漢" * 255, "'; drop table asm_sessions; --", "%s %(id)s :id ?", " "]
)
def test_any_other_text_may_be_an_id(store: Any, session_id: str) -> None:
    store.save_session(a_session(id=session_id, tags=(session_id,)))
    store.append_event(an_event(session_id, id=session_id))
    assert (store.get_session(session_id).id, store.get_events(session_id)[0].id) == (session_id, session_id)


def test_only_sessions_can_be_saved_as_sessions(store: Any) -> None:
    with pytest.raises(asm.ValidationError, match="takes a Session, not dict"):
        store.save_session({"agent_id": "a"})


def test_a_document_that_became_invalid_is_refused_when_it_is_saved(store: Any) -> None:
    session = a_session(metadata={"scores": [1.0]})
    session.metadata["scores"].append(float("nan"))
    with pytest.raises(asm.ValidationError, match=r"metadata\.scores\[1\]"):
        store.save_session(session)
    with pytest.raises(asm.SessionNotFound):
        store.get_session(session.id)
