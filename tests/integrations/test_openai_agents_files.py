"""What the sessions of the OpenAI Agents SDK write into a SQLite file is imported with every item."""

from __future__ import annotations

import asyncio
import json
import random
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import SQLiteSession
from agents.extensions.memory import AdvancedSQLiteSession
from agents.usage import Usage
from openai.types.responses.response_usage import InputTokensDetails

import asm
from asm.formats import import_files
from tests.integrations.test_openai_agents import SAID, TURN, Item
from tests.property.conftest import SEED

ITEMS: list[Item] = [
    *TURN,
    {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "q"},
    },
    {
        "type": "computer_call",
        "id": "cc_1",
        "call_id": "c2",
        "status": "completed",
        "pending_safety_checks": [],
        "action": {"type": "click", "x": 3, "y": 4, "button": "left"},
    },
    {
        "type": "computer_call_output",
        "call_id": "c2",
        "output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,aWc="},
    },
    {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "docs", "tools": []},
    {"type": "compaction", "id": "cmp_1", "encrypted_content": "opaque"},
    {"role": "developer", "content": "Be brief."},
    {
        "type": "message",
        "id": "msg_2",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "refusal", "refusal": "No."}],
    },
]


def values_of(value: Any) -> Iterator[Any]:
    """The texts and numbers in a value, also in JSON texts."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        value = json.loads(value)
    if isinstance(value, dict):
        value = [each for name, each in value.items() if name not in ("type", "role")]
    if isinstance(value, list):
        for each in value:
            yield from values_of(each)
    else:
        yield value


def is_in(item: Item, events: list[asm.Event]) -> bool:
    kept: set[Any] = {None, "completed"}
    for event in events:
        kept |= set(values_of([event.data, event.metadata, event.correlation_id]))
    return set(values_of(item)) <= kept


def a_run(asked: int, said: int, cached: int) -> Any:
    """The result of a run with these tokens."""
    usage = Usage(requests=2, input_tokens=asked, output_tokens=said, total_tokens=asked + said)
    usage.input_tokens_details = InputTokensDetails(cached_tokens=cached, cache_write_tokens=0)
    return types.SimpleNamespace(context_wrapper=types.SimpleNamespace(usage=usage))


@pytest.fixture
def imported() -> Iterator[asm.SessionStore]:
    with asm.SessionStore("sqlite://", migrate=True) as store:
        yield store


def events_of(store: asm.SessionStore, name: str) -> list[asm.Event]:
    (session,) = [each for each in store.list_sessions() if each.metadata.get("session_id") == name]
    return store.get_events(session.id)


def test_every_item_of_a_session_is_imported_however_often_the_file_is(
    imported: asm.SessionStore, tmp_path: Path
) -> None:
    session = SQLiteSession("talk", tmp_path / "sessions.db")
    for item in ITEMS:
        asyncio.run(session.add_items([item]))
        assert import_files(imported, [tmp_path / "sessions.db"]).failures == []
    events = events_of(imported, "talk")
    session.close()
    stored = [event for event in events if event.type != "session_created"]
    # One item has a call and its result.
    assert len(stored) == len(ITEMS) + 1
    assert all(is_in(item, stored) for item in ITEMS)
    assert imported.maintenance.health_check() == []


@pytest.mark.parametrize("number", range(2))
def test_every_item_of_every_branch_is_imported_with_the_tokens_of_its_turn(
    imported: asm.SessionStore, tmp_path: Path, number: int
) -> None:
    rng = random.Random(SEED + number)
    path = tmp_path / "sessions.db"
    session = AdvancedSQLiteSession(session_id="talk", db_path=path, create_tables=True)
    expected: list[tuple[Item, str]] = []

    async def take_turn(turn: int) -> None:
        if turn > 1 and rng.random() < 0.4:
            turns = await session.get_conversation_turns()
            await session.create_branch_from_turn(rng.randint(1, len(turns)))
        asked = {"role": "user", "content": f"question {turn}"}
        await session.add_items([asked, *rng.sample(ITEMS[1:], 3), {**SAID, "id": f"msg_{turn}"}])
        await session.store_run_usage(a_run(1_000 + turn, 10, 100))
        expected.append((asked, f"msg_{turn}"))

    for turn in range(1, 7):
        asyncio.run(take_turn(turn))
        import_files(imported, [path])
    session.close()

    events = events_of(imported, "talk")
    runs = imported.list_runs(events[0].session_id)
    assert [run.input for run in sorted(runs, key=lambda run: run.input)] == [
        asked["content"] for asked, _ in expected
    ]
    for turn, (asked, said) in enumerate(expected, 1):
        (run,) = [each for each in runs if each.input == asked["content"]]
        assert run.token_usage["input_tokens"] == 900 + turn
        assert run.turn_count == 2
        own = [event for event in events if event.run_id == run.id]
        assert own[0].data["content"] == asked["content"]
        assert any(event.metadata.get("rest", {}).get("id") == said for event in own)
