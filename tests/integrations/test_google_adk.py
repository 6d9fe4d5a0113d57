"""AsmSessionService keeps the protocol of Google ADK's sessions, on every database and with both stores."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events import Event, EventActions
from google.adk.sessions import InMemorySessionService, Session
from google.adk.sessions.base_session_service import (
    BaseSessionService,
    GetSessionConfig,
    ListSessionsResponse,
)
from google.genai import types

import asm
from asm.integrations.google_adk import AsmSessionService
from tests.conftest import in_loop
from tests.contract.other_clients import read_line, running, send_line
from tests.integrations.google_adk_process import S1, append_events

ADA: dict[str, Any] = {"app_name": "app", "user_id": "ada"}
BOB: dict[str, Any] = {"app_name": "app", "user_id": "bob"}
SURROGATE = "\ud800"

Running = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run(colour: str) -> Running:
    """Runs a coroutine: in the async store's loop, or in a new loop each time for a blocking store."""
    return in_loop if colour == "async" else asyncio.run


@pytest.fixture
def service(store: Any) -> AsmSessionService:
    return AsmSessionService(getattr(store, "_target", store))


class Called:
    """A service whose coroutines are run when they are called."""

    def __init__(self, service: BaseSessionService, run: Running) -> None:
        self._service = service
        self._run = run

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._run(getattr(self._service, name)(*args, **kwargs))


@pytest.fixture
def sessions(service: AsmSessionService, run: Running) -> Any:
    return Called(service, run)


def an_event(text: str = "hi", state: dict[str, Any] | None = None, **fields: Any) -> Event:
    fields = {"invocation_id": "i1", "author": "agent", **fields}
    content = types.Content(role="model", parts=[types.Part(text=text)])
    return Event(content=content, actions=EventActions(state_delta=state or {}), **fields)


def texts(session: Session) -> list[Any]:
    return [event.content.parts[0].text for event in session.events]


def copied(session: Session) -> Session:
    return session.model_copy(deep=True)


def from_json(session: Session) -> Session:
    return Session.model_validate_json(session.model_dump_json())


# Sessions.


def test_a_created_session_is_read_as_it_was_returned(sessions: Any) -> None:
    created = sessions.create_session(**ADA, state={"k": 1, "app:k": 2, "user:k": 3, "temp:k": 4})
    assert (created.app_name, created.user_id, created.events) == ("app", "ada", [])
    assert created.state == {"k": 1, "app:k": 2, "user:k": 3}
    assert sessions.get_session(**ADA, session_id=created.id) == created


def test_a_session_that_was_never_created_or_was_deleted_is_none(sessions: Any) -> None:
    assert sessions.get_session(**S1) is None
    session = sessions.create_session(**S1, state={"user:k": 1})
    sessions.append_event(session, an_event())
    sessions.delete_session(**S1)
    sessions.delete_session(**S1)
    assert sessions.get_session(**S1) is None
    assert sessions.list_sessions(**ADA).sessions == []
    assert sessions.get_user_state(**ADA) == {"k": 1}


def test_an_id_is_used_once_and_without_its_padding(sessions: Any) -> None:
    assert sessions.create_session(**ADA, session_id=" s1 ").id == "s1"
    with pytest.raises(AlreadyExistsError, match="s1 already exists"):
        sessions.create_session(**S1, state={"app:k": "lost", "k": "lost"})
    assert sessions.get_session(**ADA, session_id="s1 ").state == {}
    assert sessions.create_session(**ADA, session_id="  ").id.strip()


def test_of_concurrent_creators_of_one_session_one_succeeds(service: AsmSessionService, run: Running) -> None:
    async def scenario() -> None:
        made = await asyncio.gather(
            *(service.create_session(**S1, state={"by": n, f"app:{n}": n}) for n in range(8)),
            return_exceptions=True,
        )
        [winner] = [each for each in made if isinstance(each, Session)]
        assert sum(isinstance(each, AlreadyExistsError) for each in made) == 7
        assert await service.get_session(**S1) == winner
        assert winner.state == {"by": winner.state["by"], f"app:{winner.state['by']}": winner.state["by"]}

    run(scenario())


def test_names_that_would_be_one_when_joined_are_different_sessions(sessions: Any) -> None:
    names = [("a", "b:c", "d"), ("a:b", "c", "d"), ("a", "b", "c:d"), ("a%3Ab", "c", "d"), ("x" * 300,) * 3]
    names += [("", "", "e"), (SURROGATE, "\0", "\n.")]
    for app_name, user_id, session_id in names:
        owner = {"app_name": app_name, "user_id": user_id}
        sessions.create_session(**owner, session_id=session_id, state={"k": session_id, "user:k": user_id})
    for app_name, user_id, session_id in names:
        found = sessions.get_session(app_name=app_name, user_id=user_id, session_id=session_id)
        assert (found.app_name, found.user_id, found.id) == (app_name, user_id, session_id.strip())
        assert found.state == {"k": session_id, "user:k": user_id}
        [listed] = sessions.list_sessions(app_name=app_name, user_id=user_id).sessions
        assert (listed.user_id, listed.id, listed.state) == (user_id, session_id.strip(), found.state)


# Events.


def test_a_complete_event_is_read_as_it_was_appended(sessions: Any) -> None:
    session = sessions.create_session(**S1)
    event = Event(
        id="event 1",
        invocation_id="i1",
        author="agent",
        timestamp=1_700_000_000.123456,
        content=types.Content(
            role="model",
            parts=[
                types.Part(text=f"a\0b{SURROGATE}", thought=True, thought_signature=b"\xff\0"),
                types.Part(inline_data=types.Blob(data=b"\xff?>", mime_type="image/png")),
                types.Part(function_call=types.FunctionCall(id="c", name="f", args={"a": None, "b": [1.5]})),
            ],
        ),
        actions=EventActions(
            state_delta={"k": None, "big": 10**30},
            artifact_delta={"file": 1},
            transfer_to_agent="other",
            escalate=True,
        ),
        long_running_tool_ids={"b", "a"},
        branch="a.b",
        partial=False,
        turn_complete=True,
        error_code="MAX_TOKENS",
        error_message="cut",
        grounding_metadata=types.GroundingMetadata(web_search_queries=["q"]),
        usage_metadata=types.GenerateContentResponseUsageMetadata(prompt_token_count=1),
        custom_metadata={"k": {"v": None}},
    )
    returned = sessions.append_event(session, event)
    assert returned is event
    read = sessions.get_session(**S1)
    assert read.events == [event]
    assert read == session


def test_events_are_read_in_the_order_in_which_they_were_appended_whatever_their_times(sessions: Any) -> None:
    session = sessions.create_session(**S1)
    for text, timestamp in (("first", 100.0), ("second", 1.0), ("third", 100.0)):
        sessions.append_event(session, an_event(text, id=f"z{text}", timestamp=timestamp))
    assert texts(sessions.get_session(**S1)) == ["first", "second", "third"]


def test_what_json_cannot_say_does_not_lose_the_event(sessions: Any) -> None:
    session = sessions.create_session(**S1, state={"call": print})
    event = an_event(state={"call": print, "nan": math.nan, "at": datetime(2026, 1, 1, tzinfo=UTC)})
    event.avg_logprobs = math.nan
    sessions.append_event(session, event)
    read = sessions.get_session(**S1)
    assert read.events[0].avg_logprobs is None
    assert (read.state["nan"], read.state["at"]) == (None, "2026-01-01T00:00:00Z")
    assert isinstance(read.state["call"], str)


def test_a_partial_event_is_not_stored(sessions: Any) -> None:
    session = sessions.create_session(**S1)
    sessions.append_event(session, an_event(partial=True))
    assert session.events == []
    assert sessions.get_session(**S1) == session


def test_the_newest_events_and_those_after_a_time_can_be_read(sessions: Any) -> None:
    session = sessions.create_session(**S1)
    at = session.last_update_time
    for number in range(1, 6):
        sessions.append_event(session, an_event(str(number), timestamp=at + number))

    def read(**config: Any) -> list[Any]:
        return texts(sessions.get_session(**S1, config=GetSessionConfig(**config)))

    assert read() == ["1", "2", "3", "4", "5"]
    assert read(num_recent_events=3) == ["3", "4", "5"]
    assert read(num_recent_events=9) == ["1", "2", "3", "4", "5"]
    assert read(num_recent_events=0) == []
    assert read(after_timestamp=at + 4) == ["4", "5"]
    assert read(after_timestamp=at + 50) == []
    assert read(after_timestamp=at + 2, num_recent_events=2) == ["4", "5"]
    assert read(after_timestamp=at + 4, num_recent_events=3) == ["4", "5"]
    assert read(after_timestamp=at + 4, num_recent_events=0) == []


@pytest.mark.parametrize(
    "config", [{"num_recent_events": 0}, {"after_timestamp": 2e9}, {"num_recent_events": 1}]
)
def test_a_session_that_was_read_without_all_events_is_current_or_stale_like_any_other(
    sessions: Any, config: dict[str, Any]
) -> None:
    session = sessions.create_session(**S1)
    sessions.append_event(session, an_event("1"))
    part = sessions.get_session(**S1, config=GetSessionConfig(**config))
    stale = copied(part)
    sessions.append_event(part, an_event("2"))
    with pytest.raises(StaleSessionError):
        sessions.append_event(stale, an_event("3"))
    assert texts(sessions.get_session(**S1)) == ["1", "2"]


# States.


def test_each_state_is_seen_by_those_who_share_it(sessions: Any) -> None:
    session = sessions.create_session(**S1, state={"app:a": 1, "user:a": 1, "a": 1})
    delta = {"app:b": {"x": 1}, "user:b": None, "b": [1], "a": 2, "temp:t": 5}
    event = an_event(state=delta)
    sessions.append_event(session, event)

    own, user, app = {"a": 2, "b": [1]}, {"user:a": 1, "user:b": None}, {"app:a": 1, "app:b": {"x": 1}}
    assert session.state == {**own, **user, **app, "temp:t": 5}
    assert "temp:t" not in event.actions.state_delta
    read = sessions.get_session(**S1)
    assert read.state == {**own, **user, **app}
    assert "temp:t" not in read.events[0].actions.state_delta
    assert sessions.create_session(**ADA).state == {**user, **app}
    assert sessions.create_session(**BOB).state == app
    assert sessions.create_session(app_name="other", user_id="ada").state == {}
    assert sessions.get_user_state(**ADA) == {"a": 1, "b": None}
    assert sessions.get_user_state(**BOB) == {}


def test_a_value_in_a_state_is_replaced_and_not_merged(sessions: Any) -> None:
    before = {f"{scope}profile": {"name": "ada", "role": "admin"} for scope in ("", "app:", "user:")}
    session = sessions.create_session(**S1, state=before)
    after = {key: {"name": "bob"} for key in before}
    sessions.append_event(session, an_event(state=after))
    assert sessions.get_session(**S1).state == after


def test_random_calls_have_the_same_results_as_with_the_service_of_adk_in_memory(
    sessions: Any, run: Running, random_source: random.Random
) -> None:
    services = Called(InMemorySessionService(), run), sessions
    calls = Calls(random_source)
    for _ in range(80):
        name, arguments = calls.choose()
        theirs, ours = (calls.result(service, name, **arguments) for service in services)
        assert ours == theirs, (name, arguments)


@pytest.fixture
def random_source() -> random.Random:
    """Prints its seed, so that a failed test can be repeated with ASM_SEED."""
    seed = int(os.environ.get("ASM_SEED") or random.randrange(10**6))
    print(f"ASM_SEED={seed}")  # noqa: T201
    return random.Random(seed)


class Calls:
    """Random calls of a session service for few sessions, and their results in a comparable form."""

    NAMES = (
        "create_session",
        "append_event",
        "get_session",
        "list_sessions",
        "get_user_state",
        "delete_session",
    )

    def __init__(self, source: random.Random) -> None:
        self._source = source

    def choose(self) -> tuple[str, dict[str, Any]]:
        [name] = self._source.choices(self.NAMES, weights=(4, 8, 4, 2, 1, 1))
        arguments = {"app_name": self._one("ab"), "user_id": self._one("uv")}
        if name in ("create_session", "append_event", "get_session", "delete_session"):
            arguments["session_id"] = self._one("st")
        if name == "list_sessions":
            arguments["user_id"] = self._one([arguments["user_id"], None])
        if name == "create_session":
            arguments["state"] = self._one([None, self._delta()])
        if name == "get_session":
            arguments["config"] = GetSessionConfig(num_recent_events=self._one([None, 0, 1, 2, 50]))
        if name == "append_event":
            arguments["event"] = an_event(state=self._delta(), partial=self._one([None, None, False, True]))
        return name, arguments

    def result(self, service: Any, name: str, **arguments: Any) -> Any:
        if name == "append_event":
            event = arguments.pop("event").model_copy(deep=True)
            session = service.get_session(**arguments)
            if session is None:
                return None
            service.append_event(session, event)
            return self._comparable(session), event.actions.state_delta
        try:
            return self._comparable(getattr(service, name)(**arguments))
        except AlreadyExistsError as error:
            return str(error)

    def _delta(self) -> dict[str, Any]:
        keys = (f"{scope}{key}" for scope in ("", "app:", "user:", "temp:") for key in "xy")
        values = [None, 0, "text", [1, {"z": None}], {"z": 1.5}]
        return {key: self._one(values) for key in keys if self._source.random() < 0.3}

    def _one(self, values: Any) -> Any:
        return self._source.choice(values)

    def _comparable(self, result: Any) -> Any:
        if isinstance(result, ListSessionsResponse):
            return [self._comparable(each) for each in result.sessions]
        if isinstance(result, Session):
            return result.app_name, result.user_id, result.id, result.state, result.events
        return result


# Revisions.


def test_of_two_objects_with_one_revision_the_second_is_stale_and_changes_nothing(sessions: Any) -> None:
    first = sessions.create_session(**S1)
    second = sessions.get_session(**S1)
    sessions.append_event(first, an_event("first", {"k": 1, "app:k": 1}))
    with pytest.raises(StaleSessionError, match="modified in storage"):
        sessions.append_event(second, an_event("second", {"k": 2, "app:k": 2, "user:k": 2, "temp:k": 2}))
    with pytest.raises(StaleSessionError):
        sessions.append_event(second, an_event("third"))
    assert second.events == []
    assert second.state == {}
    read = sessions.get_session(**S1)
    assert (texts(read), read.state) == (["first"], {"k": 1, "app:k": 1})
    sessions.append_event(read, an_event("second"))
    assert texts(sessions.get_session(**S1)) == ["first", "second"]


def test_an_object_without_a_revision_is_current_if_it_has_the_last_event_or_its_time(sessions: Any) -> None:
    session = sessions.create_session(**S1)
    sessions.append_event(from_json(session), an_event("1"))
    sessions.append_event(from_json(sessions.get_session(**S1)), an_event("2"))
    read = sessions.get_session(**S1, config=GetSessionConfig(num_recent_events=0))
    sessions.append_event(from_json(read), an_event("3"))
    rounded = from_json(sessions.get_session(**S1))
    rounded.last_update_time -= 0.001
    sessions.append_event(rounded, an_event("4"))
    with pytest.raises(StaleSessionError):
        sessions.append_event(from_json(read), an_event("5"))
    assert texts(sessions.get_session(**S1)) == ["1", "2", "3", "4"]


def test_a_session_that_is_not_there_takes_no_event_and_no_state(sessions: Any, store: Any) -> None:
    session = sessions.create_session(**S1)
    sessions.append_event(session, an_event("before"))
    unmarked = from_json(session)
    sessions.delete_session(**S1)
    for gone in (session, unmarked, Session(app_name="app", user_id="ada", id="unknown")):
        for event in (an_event(), an_event(state={"app:k": 1, "k": 1})):
            with pytest.raises(SessionNotFoundError, match="not found"):
                sessions.append_event(gone, event)
    assert sessions.get_session(**S1) is None
    assert sessions.create_session(**ADA).state == {}
    assert store.maintenance.health_check() == []


def test_a_session_that_was_deleted_and_created_again_makes_older_objects_stale(sessions: Any) -> None:
    session = sessions.create_session(**S1)
    sessions.append_event(session, an_event("before"))
    sessions.delete_session(**S1)
    sessions.create_session(**S1)
    with pytest.raises(StaleSessionError):
        sessions.append_event(session, an_event("after", {"app:k": 1}))
    assert sessions.get_session(**S1).state == {}


@pytest.mark.parametrize("state", [{}, {"k": 1, "app:k": 1}])
def test_an_append_to_a_session_that_retention_has_deleted_is_refused(
    sessions: Any, store: Any, state: dict[str, Any]
) -> None:
    session = sessions.create_session(**S1)
    [row] = store.list_sessions(agent_id="app")
    store.update_session(row.id, lambda stored: replace(stored, deleted_at=datetime.now(UTC)))
    for stale in (session, from_json(session)):
        with pytest.raises(SessionNotFoundError, match="s1 was deleted"):
            sessions.append_event(stale, an_event("lost", state))
    assert store.get_events(row.id, type="adk.event") == []
    assert store.list_sessions(agent_id="adk.state:app") == []


def test_an_application_that_appends_to_the_session_makes_no_object_stale(sessions: Any, store: Any) -> None:
    session = sessions.create_session(**S1)
    [row] = store.list_sessions(agent_id="app")

    def rate(stars: int) -> None:
        store.append_event(asm.Event(type="acme.rated", session_id=row.id, data={"stars": stars}))

    rate(1)
    sessions.append_event(session, an_event("1"))
    rate(2)
    read = sessions.get_session(**S1)
    assert read == session
    rate(3)
    sessions.append_event(read, an_event("2", {"k": 1}))
    rate(4)
    with pytest.raises(StaleSessionError):
        sessions.append_event(session, an_event("3"))
    assert texts(sessions.get_session(**S1, config=GetSessionConfig(num_recent_events=2))) == ["1", "2"]


# Repetitions.


def test_an_event_that_is_appended_again_changes_nothing(sessions: Any, store: Any) -> None:
    session = sessions.create_session(**S1)
    usage = types.GenerateContentResponseUsageMetadata(prompt_token_count=10, candidates_token_count=1)
    event = an_event("1", {"k": 1, "app:k": 1}, usage_metadata=usage)
    unanswered = copied(session)
    sessions.append_event(session, event.model_copy(deep=True))
    sessions.append_event(session, an_event("2", {"k": 2, "app:k": 2}))

    # As after a connection was lost together with the response.
    sessions.append_event(unanswered, event)
    assert texts(unanswered) == ["1"]
    sessions.append_event(session, event)
    assert texts(session) == ["1", "2"]

    read = sessions.get_session(**S1)
    assert (texts(read), read.state) == (["1", "2"], {"k": 2, "app:k": 2})
    [kept] = store.query.search_runs()
    assert (kept.token_usage["input_tokens"], kept.turn_count) == (10, 1)
    sessions.append_event(session, an_event("3"))


def test_a_call_whose_tokens_are_too_many_for_its_run_is_stored(sessions: Any, store: Any) -> None:
    session = sessions.create_session(**S1)
    usage = types.GenerateContentResponseUsageMetadata(prompt_token_count=10**12)
    for text in ("1", "2"):
        sessions.append_event(session, an_event(text, usage_metadata=usage))
    assert texts(sessions.get_session(**S1)) == ["1", "2"]
    [run] = store.query.search_runs()
    assert (run.token_usage["input_tokens"], run.turn_count) == (10**12, 2)


def test_another_event_with_the_id_of_a_stored_one_is_refused(sessions: Any) -> None:
    session = sessions.create_session(**S1)
    sessions.append_event(session, an_event("one", id="e"))
    with pytest.raises(AlreadyExistsError, match="another event with the id e"):
        sessions.append_event(session, an_event("two", id="e", state={"k": 1}))
    for each in (session, sessions.get_session(**S1)):
        assert (texts(each), each.state) == (["one"], {})


# Tasks, loops and processes.


def test_tasks_that_share_an_object_append_one_after_another(
    service: AsmSessionService, run: Running
) -> None:
    async def scenario() -> None:
        session = await service.create_session(**S1)
        events = [an_event(str(n), {f"k{n}": n} if n % 2 else {}) for n in range(12)]
        await asyncio.gather(*(service.append_event(session, event) for event in events))
        assert await service.get_session(**S1) == session
        assert len(session.events) == 12

    run(scenario())


def test_an_append_that_is_cancelled_is_completed_first(service: AsmSessionService, run: Running) -> None:
    async def scenario() -> None:
        session = await service.create_session(**S1)
        task = asyncio.create_task(service.append_event(session, an_event("1", {"k": 1})))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert texts(session) == ["1"]
        assert await service.get_session(**S1) == session

    run(scenario())


def test_changes_of_shared_states_by_many_sessions_all_arrive(
    service: AsmSessionService, run: Running
) -> None:
    async def talk(number: int) -> None:
        owner = {"app_name": "app", "user_id": f"user {number % 3}"}
        session = await service.create_session(**owner, state={f"app:{number}": 0})
        for n in range(4):
            # Both orders of the keys.
            delta = {f"app:{number}.{n}": n, f"user:{number}.{n}": n}
            await service.append_event(
                session, an_event(state=dict(reversed(delta.items())) if number % 2 else delta)
            )

    async def scenario() -> None:
        await asyncio.gather(*map(talk, range(12)))
        listed = (await service.list_sessions(app_name="app")).sessions
        assert len(listed) == 12
        for session in listed:
            assert sum(key.startswith("app:") for key in session.state) == 12 + 12 * 4
            assert sum(key.startswith("user:") for key in session.state) == 4 * 4

    run(scenario())


def test_two_processes_that_append_to_one_session_lose_nothing(migrated: str) -> None:
    process = running("tests.integrations.google_adk_process", migrated)
    with asm.SessionStore(migrated) as store, process as other:
        service = AsmSessionService(store)
        session = asyncio.run(service.create_session(**S1))
        assert read_line(other) == "ready"
        send_line(other, "first 1")
        assert read_line(other) == "done"
        with pytest.raises(StaleSessionError):
            asyncio.run(service.append_event(session, an_event(state={"sum": 1, "app:lost": 1})))

        send_line(other, "a 20")
        asyncio.run(append_events(service, "b", 20))
        assert read_line(other) == "done"
        read = asyncio.run(service.get_session(**S1))
        assert read is not None
        names = {"first0", *(f"{name}{n}" for name in "ab" for n in range(20))}
        assert sorted(event.invocation_id for event in read.events) == sorted(names)
        shared = {f"{scope}:{name}": 1 for name in names for scope in ("app", "user")}
        assert read.state == {"sum": 41, **shared}
        assert store.maintenance.health_check() == []


# Lists.


def test_sessions_are_listed_by_their_last_update_with_states_and_without_events(sessions: Any) -> None:
    created = {
        name: sessions.create_session(
            **owner, session_id=name, state={"k": name, "app:k": name, "user:k": name}
        )
        for name, owner in (("a", ADA), ("b", BOB), ("c", ADA))
    }
    sessions.create_session(app_name="other", user_id="ada")
    sessions.append_event(created["a"], an_event(timestamp=created["c"].last_update_time + 1))

    def listed(**owner: Any) -> list[Any]:
        found = sessions.list_sessions(**owner).sessions
        assert all(each.events == [] and each.state["app:k"] == "c" for each in found)
        return [(each.id, each.user_id, each.state["k"], each.state["user:k"]) for each in found]

    assert listed(app_name="app") == [("b", "bob", "b", "b"), ("c", "ada", "c", "c"), ("a", "ada", "a", "c")]
    assert listed(**ADA) == [("c", "ada", "c", "c"), ("a", "ada", "a", "c")]
    assert listed(app_name="app", user_id="eve") == []


def test_other_sessions_of_the_agent_are_not_listed(sessions: Any, store: Any) -> None:
    sessions.create_session(**S1)
    [row] = store.list_sessions(agent_id="app")
    store.fork_session(row.id)
    store.save_session(asm.Session(agent_id="app", parent_session_id=row.parent_session_id))
    for owner in (ADA, {"app_name": "app"}):
        assert [each.id for each in sessions.list_sessions(**owner).sessions] == ["s1"]


def test_a_list_takes_as_many_statements_for_many_sessions_and_users_as_for_few(
    sessions: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def statements(**owner: Any) -> int:
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "asm"):
            sessions.list_sessions(**owner)
        return len(caplog.records)

    for n in range(3):
        sessions.create_session(app_name="app", user_id=f"user {n}", state={"user:n": n})
    few = statements(app_name="app"), statements(app_name="app", user_id="user 0")
    for n in range(30):
        sessions.create_session(app_name="app", user_id=f"user {n}", state={"user:n": n})
    assert (statements(app_name="app"), statements(app_name="app", user_id="user 0")) == few
    assert 0 < few[0] < 5


def test_more_sessions_than_a_page_has_are_listed(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        service = AsmSessionService(store)
        asyncio.run(service.create_session(**S1))
        [row] = store.list_sessions(agent_id="app")
        names = {f"s{n}" for n in range(1, 1_002)}
        with store.transaction() as tx:
            for name in names - {"s1"}:
                tx.save_session(
                    replace(row, id=f"{row.id}-{name}", metadata={**row.metadata, "session_id": name})
                )
        listed = asyncio.run(service.list_sessions(**ADA)).sessions
        assert sorted(each.id for each in listed) == sorted(names)
