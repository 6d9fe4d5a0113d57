"""Operations of every kind, and the result of a read after each has been applied once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import asm
from tests.conftest import an_artifact, an_event


class Case(NamedTuple):
    """An operation, bytes that its client sends, and a read with its result after one application."""

    run: Callable[[Any], Any]
    sends: bytes
    read: Callable[[Any], Any]
    expected: Any


def ids(session_id: str) -> Callable[[Any], list[tuple[str, int]]]:
    return lambda store: [(event.id, event.sequence_number) for event in store.get_events(session_id)]


def store_what_is_used(store: Any) -> None:
    """Store what some of the operations read or remove."""
    store.save_session(asm.Session(agent_id="agent", id="ses_kept"))
    store.append_event(an_event("ses_kept", id="evt_kept"))
    store.artifacts.register(an_artifact("kept"))


def fork(store: Any) -> None:
    child = store.fork_session("ses_kept", id="ses_lost")
    assert store.get_session("ses_lost") == child


LOST = asm.Session(agent_id="agent", id="ses_lost")
RUN = asm.Run(session_id="ses_lost", id="run_lost")
SOME = [an_event("ses_lost", id=f"evt_lost{n}") for n in range(3)]
MANY = [an_event("ses_lost", id=f"evt_lost{n}") for n in range(1_200)]
ARTIFACT = an_artifact(id="art_lost", metadata={"pages": 7})

CASES = {
    "append_event": Case(
        lambda store: store.append_event(SOME[0]), b"evt_lost0", ids("ses_lost"), [("evt_lost0", 1)]
    ),
    "append_event, session": Case(
        lambda store: store.append_event(SOME[0], session=LOST),
        b"evt_lost0",
        lambda store: (store.get_session("ses_lost"), ids("ses_lost")(store)),
        (LOST, [("evt_lost0", 1)]),
    ),
    "append_events, many, session": Case(
        lambda store: store.append_events(MANY, session=LOST),
        b"evt_lost1199",
        lambda store: (store.get_session("ses_lost"), ids("ses_lost")(store)),
        (LOST, [(event.id, n) for n, event in enumerate(MANY, 1)]),
    ),
    "append_events": Case(
        lambda store: store.append_events(SOME),
        b"evt_lost1",
        ids("ses_lost"),
        [(event.id, n) for n, event in enumerate(SOME, 1)],
    ),
    "append_events, many": Case(
        lambda store: store.append_events(MANY),
        b"evt_lost1199",
        ids("ses_lost"),
        [(event.id, n) for n, event in enumerate(MANY, 1)],
    ),
    "append_event, expected_sequence": Case(
        lambda store: store.append_event(SOME[0], expected_sequence=0),
        b"commit\0",
        ids("ses_lost"),
        [("evt_lost0", 1)],
    ),
    "flush": Case(
        lambda store: store.flush(LOST, RUN, SOME),
        b"evt_lost2",
        lambda store: (store.get_session("ses_lost"), store.get_run("run_lost"), ids("ses_lost")(store)),
        (LOST, RUN, [(event.id, n) for n, event in enumerate(SOME, 1)]),
    ),
    "save_session": Case(
        lambda store: store.save_session(LOST), b"ses_lost", lambda store: store.get_session("ses_lost"), LOST
    ),
    "save_run": Case(
        lambda store: store.save_run(RUN), b"run_lost", lambda store: store.get_run("run_lost"), RUN
    ),
    "delete_session": Case(lambda store: store.delete_session("ses_kept"), b"ses_kept", ids("ses_kept"), []),
    "pop_event": Case(lambda store: store.pop_event("ses_kept"), b"commit", ids("ses_kept"), []),
    "delete_events": Case(
        lambda store: store.delete_events("ses_kept", after=0), b"commit", ids("ses_kept"), []
    ),
    "fork_session": Case(
        fork,
        b"commit",
        lambda store: (store.get_session("ses_lost").parent_session_id, ids("ses_lost")(store)),
        ("ses_kept", [("evt_kept", 1)]),
    ),
    "artifacts.register": Case(
        lambda store: store.artifacts.register(ARTIFACT),
        b"art_lost",
        lambda store: store.artifacts.get_by_key(ARTIFACT.key),
        ARTIFACT,
    ),
    "artifacts.delete": Case(
        lambda store: store.artifacts.delete("kept"),
        b"kept",
        lambda store: store.artifacts.get_by_key("kept"),
        None,
    ),
    "get_events": Case(
        lambda store: store.get_events("ses_kept"), b"ses_kept", ids("ses_kept"), [("evt_kept", 1)]
    ),
    "import_session": Case(
        lambda store: store.import_session(asm.SessionExport(session=LOST)),
        b"commit\0",
        lambda store: store.get_session("ses_lost"),
        LOST,
    ),
}
