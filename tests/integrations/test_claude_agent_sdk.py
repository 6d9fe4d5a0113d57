"""AsmSessionStore keeps the protocol of the Claude Agent SDK, on every database and with both stores."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import claude_agent_sdk as sdk
import pytest
from claude_agent_sdk._internal.session_resume import materialize_resume_session
from claude_agent_sdk.testing import run_session_store_conformance

import asm
from asm.integrations import claude_agent_sdk as integration
from asm.integrations import common
from asm.integrations.claude_agent_sdk import AsmSessionStore
from asm.integrations.claude_transcripts import session_id
from asm.integrations.common import ID_LENGTH_MAX
from tests.conftest import in_loop
from tests.contract.other_clients import read_line, running, send_line
from tests.contract.test_cli import output_of
from tests.examples.programs import printed
from tests.integrations.claude_agent_process import KEY, MODEL, PROJECT, Entry, answer, prompt

SUB: Any = {**KEY, "subpath": "subagents/agent-1"}
LONG_AGO = datetime.now(UTC) - timedelta(days=100)

Run = Callable[..., Any]


@pytest.fixture
def run(colour: str) -> Run:
    """Runs a coroutine: in the async store's loop, or in a new loop each time for a blocking store."""
    return in_loop if colour == "async" else asyncio.run


@pytest.fixture
def adapter(store: Any) -> Any:
    return AsmSessionStore(getattr(store, "_target", store))


class Called:
    """An adapter whose coroutines run when they are called."""

    def __init__(self, adapter: Any, run: Run) -> None:
        self._adapter = adapter
        self._run = run

    def __getattr__(self, name: str) -> Run:
        return lambda *args: self._run(getattr(self._adapter, name)(*args))


@pytest.fixture
def transcripts(adapter: Any, run: Run) -> Any:
    return Called(adapter, run)


def title(text: str) -> Entry:
    return {"type": "custom-title", "customTitle": text}


def session_of(store: Any, key: Any = KEY) -> asm.Session:
    """The session of a transcript."""
    sessions = store.list_sessions(include_deleted=True)
    [found] = [each for each in sessions if each.metadata.items() >= key.items()]
    assert isinstance(found, asm.Session)
    return found


def main_session(store: Any) -> asm.Session:
    [found] = [each for each in store.list_sessions(include_deleted=True) if each.parent_session_id is None]
    assert isinstance(found, asm.Session)
    return found


def age(store: Any) -> None:
    """Make all transcripts so old that appends to them have ended."""
    for each in store.list_sessions():
        store.update_session(each.id, lambda session: replace(session, updated_at=LONG_AGO))


def summary(transcripts: Any) -> dict[str, Any]:
    [found] = transcripts.list_session_summaries(PROJECT)
    data: dict[str, Any] = found["data"]
    return data


def folded(entries: Any) -> dict[str, Any]:
    """The summary of a whole transcript."""
    data: dict[str, Any] = sdk.fold_session_summary(None, KEY, entries)["data"]
    return data


def counted(store: Any, **filters: Any) -> tuple[int, int]:
    """The runs and their output tokens."""
    usage = store.query.get_usage_summary(**filters)
    return usage.run_count, usage.output_tokens


# The suite of the SDK.


def test_it_passes_the_conformance_suite_of_the_sdk_with_nothing_skipped(
    store: Any, adapter: Any, run: Run
) -> None:
    made = []

    async def emptied() -> AsmSessionStore:
        made.append(adapter)
        for project in ("proj", "other", "other-proj", "A", "B"):
            for each in await adapter.list_sessions(project):
                await adapter.delete({"project_key": project, "session_id": each["session_id"]})
        return adapter  # type: ignore[no-any-return]

    run(run_session_store_conformance(emptied))

    # One for each of the 14 contracts, and one to see which methods there are.
    assert len(made) == 15


# Transcripts.


def test_a_transcript_is_loaded_as_it_was_appended(transcripts: Any) -> None:
    entries = [
        prompt("u1", "NUL \0, lone surrogate \ud800, heron \N{BIRD}"),
        {"type": "attachment", "uuid": "\ud800", "n": [1, 2.5, None, True, 10**30, {"": {}}]},
        {"type": "attachment", "uuid": "u" * 300, "timestamp": "yesterday", "message": "text"},
        {"type": "attachment", "uuid": None, "timestamp": 0, "message": {"content": 3, "usage": 1}},
        {"type": "attachment", "uuid": ""},
        {"type": "attachment", "uuid": "", "n": 2},
        title("same"),
        title("same"),
    ]
    transcripts.append(KEY, entries)

    assert transcripts.load(KEY) == entries
    assert summary(transcripts) == folded(entries)


def test_different_keys_are_different_transcripts_and_are_listed_as_they_are(
    store: Any, transcripts: Any
) -> None:
    parts = ["a", "a:b", "b", "a/b", "a%3Ab", "\0\ud800 \N{BIRD}", "x" * 300, "x" * 301]
    keys = [{"project_key": one, "session_id": other} for one in parts for other in parts]
    keys += [{**key, "subpath": part} for key in keys[:2] for part in parts]
    for number, key in enumerate(keys):
        transcripts.append(key, [{"type": "x", "number": number}])

    assert [transcripts.load(key) for key in keys] == [[{"type": "x", "number": n}] for n in range(len(keys))]
    for part in parts:
        assert sorted(each["session_id"] for each in transcripts.list_sessions(part)) == sorted(parts)
    assert sorted(transcripts.list_subkeys(keys[0])) == sorted(parts)


def test_an_empty_subpath_is_refused(transcripts: Any) -> None:
    with pytest.raises(asm.ValidationError, match="leave it out for the main transcript"):
        transcripts.append({**KEY, "subpath": ""}, [prompt("u1", "Hello")])


def test_an_append_is_one_statement_after_the_row_was_looked_up(
    transcripts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "asm"):
        transcripts.append(KEY, [prompt("u0", "First")])
    assert len(caplog.messages) == 2, caplog.messages
    caplog.clear()

    for entries in ([prompt("u1", "Hello")], [prompt("u2", "Again"), answer("u3", "Yes")]):
        with caplog.at_level(logging.DEBUG, "asm"):
            transcripts.append(KEY, entries)

        assert len(caplog.messages) == 1, caplog.messages
        caplog.clear()


def test_a_subagent_has_the_uuids_of_the_main_transcript_and_does_not_move_its_time(
    store: Any, transcripts: Any
) -> None:
    transcripts.append(KEY, [prompt("u1", "Main")])
    [before] = transcripts.list_sessions(PROJECT)
    transcripts.append(SUB, [prompt("u1", "Sub"), title("Of the subagent")])

    assert transcripts.list_sessions(PROJECT) == [before]
    assert summary(transcripts) == folded([prompt("u1", "Main")])
    assert transcripts.load(SUB)[0] == prompt("u1", "Sub")
    assert session_of(store, SUB).parent_session_id == main_session(store).id


def test_the_same_entries_can_be_appended_after_a_delete(store: Any, transcripts: Any) -> None:
    entries = [prompt("u1", "Hello"), answer("u2", "Yes")]
    for key in (KEY, SUB):
        transcripts.append(key, entries)
    transcripts.list_session_summaries(PROJECT)
    transcripts.delete(KEY)
    assert (transcripts.load(KEY), transcripts.load(SUB), store.list_sessions()) == (None, None, [])
    assert counted(store) == (0, 0)

    transcripts.append(KEY, entries)

    assert transcripts.load(KEY) == entries
    assert summary(transcripts) == folded(entries)
    assert counted(store) == (1, 10)


def test_deletes_at_the_same_time_leave_nothing(adapter: Any, store: Any, run: Run) -> None:
    keys = [KEY, *({**KEY, "subpath": f"subagents/agent-{n}"} for n in range(5))]

    async def delete_together() -> None:
        for key in keys:
            await adapter.append(key, [prompt("u1", "Hello")])
        await asyncio.gather(*(adapter.delete(key) for key in [*keys, *keys]))

    run(delete_together())

    assert store.list_sessions() == []
    assert store.maintenance.health_check() == []


def test_lists_have_more_than_one_page(transcripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integration, "PAGE", 2)
    for n in range(5):
        entries = [prompt(f"u{i}", f"{n}") for i in range(5)]
        transcripts.append({**KEY, "session_id": f"s{n}"}, [*entries, title(f"Title {n}")])
        transcripts.append({**KEY, "session_id": "s0", "subpath": f"p{n}"}, entries)
    ids = [f"s{n}" for n in range(5)]

    assert [each["session_id"] for each in transcripts.list_sessions(PROJECT)] == ids
    summaries = transcripts.list_session_summaries(PROJECT)
    assert [each["data"]["custom_title"] for each in summaries] == [f"Title {n}" for n in range(5)]
    assert transcripts.list_subkeys({**KEY, "session_id": "s0"}) == [f"p{n}" for n in range(5)]
    transcripts.delete({**KEY, "session_id": "s0"})
    assert [each["session_id"] for each in transcripts.list_sessions(PROJECT)] == ids[1:]


def test_a_fork_that_the_store_makes_is_no_transcript_of_the_sdk(store: Any, transcripts: Any) -> None:
    transcripts.append(KEY, [prompt("u1", "Hello")])
    fork = store.fork_session(session_of(store).id)

    assert len(transcripts.list_sessions(PROJECT)) == 1
    assert len(transcripts.list_session_summaries(PROJECT)) == 1
    assert transcripts.list_subkeys(KEY) == []
    transcripts.delete(KEY)
    assert [each.id for each in store.list_sessions()] == [fork.id]


# Summaries.


def test_a_summary_needs_no_entry_that_was_folded_before(store: Any, transcripts: Any) -> None:
    entries = [prompt("u1", "Hello"), answer("u2", "Yes"), title("First")]
    transcripts.append(KEY, entries)
    assert summary(transcripts) == folded(entries)
    store.delete_events(session_of(store).id, type="claude.entry")

    transcripts.append(KEY, [title("Second")])

    assert summary(transcripts) == folded([*entries, title("Second")])


def test_an_entry_that_is_appended_again_is_not_folded_again(store: Any, transcripts: Any) -> None:
    old = {**title("Old"), "uuid": "u1"}
    transcripts.append(KEY, [old, answer("u2", "Yes")])
    transcripts.append(KEY, [{**title("New"), "uuid": "u3"}])
    assert summary(transcripts)["custom_title"] == "New"

    transcripts.append(KEY, [old, answer("u2", "Yes")])

    assert summary(transcripts)["custom_title"] == "New"
    assert session_of(store).metadata["title"] == "New"
    assert counted(store) == (1, 10)


def test_a_transcript_that_has_not_changed_is_not_read_again(
    store: Any, transcripts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for key in (KEY, SUB):
        transcripts.append(key, [prompt("u1", "Hello")])
    age(store)
    first = transcripts.list_session_summaries(PROJECT)

    with caplog.at_level(logging.DEBUG, "asm"):
        again = transcripts.list_session_summaries(PROJECT)

    assert again == first
    assert len(caplog.messages) == 1, caplog.messages
    transcripts.append(KEY, [title("New")])
    assert summary(transcripts)["custom_title"] == "New"


def test_an_append_of_a_client_whose_clock_is_behind_is_folded(store: Any, transcripts: Any) -> None:
    transcripts.append(KEY, [prompt("u1", "Hello")])
    before = transcripts.list_session_summaries(PROJECT)
    session = session_of(store)
    event = asm.Event(type="claude.entry", session_id=session.id, data={"item": title("Late")})
    store.append_event(event, session=replace(session, updated_at=session.updated_at - timedelta(minutes=2)))

    after = transcripts.list_session_summaries(PROJECT)

    assert after[0]["mtime"] == before[0]["mtime"]
    assert after[0]["data"]["custom_title"] == "Late"


@pytest.fixture
def before_a_fold(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Runs something once, between the reading of entries and the storing of what they tell."""
    fold: Any = AsmSessionStore._fold_events
    disturbances: list[Callable[[], Any]] = []

    async def disturbed(self: AsmSessionStore, *args: Any) -> Any:
        if disturbances:
            await disturbances.pop()()
        return await fold(self, *args)

    monkeypatch.setattr(AsmSessionStore, "_fold_events", disturbed)
    return disturbances.append


def test_two_lists_at_the_same_time_fold_each_entry_once(
    store: Any, adapter: Any, transcripts: Any, before_a_fold: Any
) -> None:
    entries = [answer("u1", "Yes", id="msg_1"), answer("u2", "No", id="msg_2"), title("First")]
    transcripts.append(KEY, entries)
    before_a_fold(lambda: adapter.list_session_summaries(PROJECT))

    assert summary(transcripts) == folded(entries)
    assert counted(store) == (1, 20)


def test_entries_of_a_transcript_that_was_deleted_are_not_folded_into_a_new_one(
    store: Any, adapter: Any, transcripts: Any, before_a_fold: Any
) -> None:
    new = [answer("n1", "Yes"), prompt("n2", "New")]

    async def begin_again() -> None:
        await adapter.delete(KEY)
        await adapter.append(KEY, new)
        await adapter.list_session_summaries(PROJECT)

    transcripts.append(KEY, [prompt("u1", "Old"), answer("u2", "Old"), title("Old"), answer("u3", "Old")])
    before_a_fold(begin_again)

    assert summary(transcripts) == folded(new)
    assert counted(store) == (1, 10)


def test_an_entry_without_a_time_has_that_of_the_one_before_it(store: Any, transcripts: Any) -> None:
    first, second = "2026-01-02T03:04:05.006000+00:00", "2026-01-02T05:04:06+02:00"
    times = [None, first, None, "2026-01-02T03:04:06", 7, second, "no time", "0001-01-01T00:00:00+14:00"]
    transcripts.append(KEY, [{"type": "x", "timestamp": time} for time in times])

    stored = [event.timestamp.isoformat() for event in store.get_events(session_of(store).id)]

    assert stored == [first] * 5 + ["2026-01-02T03:04:06+00:00"] * 3


def test_a_list_during_deletes_and_new_beginnings_shows_what_is_there(
    adapter: Any, store: Any, run: Run
) -> None:
    async def begin_and_delete() -> None:
        for n in range(10):
            await adapter.append(KEY, [answer(f"u{n}-{i}", "Yes") for i in range(3)])
            await adapter.delete(KEY)
        await adapter.append(KEY, [prompt("u1", "Hello"), answer("u2", "Yes")])

    async def list_meanwhile(writing: asyncio.Task[None]) -> None:
        while not writing.done():
            await adapter.list_session_summaries(PROJECT)

    async def both() -> None:
        writing = asyncio.create_task(begin_and_delete())
        await asyncio.gather(writing, list_meanwhile(writing), list_meanwhile(writing))
        [found] = await adapter.list_session_summaries(PROJECT)
        assert found["data"] == folded([prompt("u1", "Hello"), answer("u2", "Yes")])

    run(both())

    assert counted(store) == (1, 10)
    assert store.maintenance.health_check() == []


def test_two_processes_append_to_one_transcript_while_both_list_it(
    migrated: str, store: Any, transcripts: Any
) -> None:
    names, batches = ("a", "b"), 10
    with ExitStack() as stack:
        module = "tests.integrations.claude_agent_process"
        processes = [stack.enter_context(running(module, migrated, name, str(batches))) for name in names]
        for process in processes:
            assert read_line(process) == "ready"
        for process in processes:
            send_line(process)
        for process in processes:
            output, errors = process.communicate()
            assert output == "done\n", errors

    entries = transcripts.load(KEY)
    for name in names:
        own = [each["uuid"] for each in entries if each["uuid"].startswith(name)]
        assert own == [f"{name}-{n}-{i}" for n in range(batches) for i in (0, 1)]
    # The two entries of an append stay together.
    assert all(one[:-1] == other[:-1] for one, other in list(pairwise(e["uuid"] for e in entries))[::2])
    assert summary(transcripts) == folded(entries)
    # The answer of batch 0 has no output tokens, and its input tokens count.
    assert counted(store) == (2 * batches, 2 * sum(range(batches)))
    assert store.maintenance.health_check() == []


# Runs.


def test_a_run_has_the_calls_between_two_prompts_wherever_the_entries_are_divided(
    store: Any, transcripts: Any
) -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "42"}
    entries = [
        prompt("u1", "One", timestamp="2026-01-02T03:04:05.006Z"),
        # Each block of a message repeats its usage, and the last one has all of its output.
        answer("u2", "a", 1, id="msg_1"),
        answer("u3", "b", 20, id="msg_1"),
        {"type": "user", "uuid": "u4", "message": {"role": "user", "content": [result]}},
        prompt("u5", "A note", isMeta=True),
        answer("u6", "c", 300),
        answer("u7", "d", 4_000, model="claude-haiku-4-5"),
        answer("u8", "No usage", model="<synthetic>", tokens=0) | {"isApiErrorMessage": True},
        prompt("u9", "Two"),
        answer("u10", "e", 50_000),
    ]
    entries[7]["message"]["usage"] = {"input_tokens": 0, "output_tokens": 0}
    keys = [{**KEY, "session_id": f"s{cut}"} for cut in range(len(entries))]
    for cut, key in enumerate(keys):
        transcripts.append(key, entries[:cut])
        transcripts.list_session_summaries(PROJECT)
        transcripts.append(key, entries[cut:])
    transcripts.list_session_summaries(PROJECT)

    def told(key: Any) -> list[Any]:
        return [
            (run.provider_metadata["model"], run.turn_count, run.token_usage["output_tokens"], run.status)
            for run in store.list_runs(session_of(store, key).id)
        ]

    for key in keys:
        assert sorted(told(key)) == [
            ("claude-haiku-4-5", 1, 4_000, "completed"),
            (MODEL, 1, 50_000, "completed"),
            (MODEL, 2, 320, "completed"),
        ]


def test_a_fork_does_not_count_the_usage_of_its_parent_again(
    store: Any, adapter: Any, transcripts: Any, run: Run
) -> None:
    project = sdk.project_key_for_directory(None)
    key = {"project_key": project, "session_id": str(uuid4())}
    transcripts.append(key, [prompt(str(uuid4()), "Hello"), answer(str(uuid4()), "Yes")])

    fork = run(sdk.fork_session_via_store(adapter, key["session_id"]))
    forked = {**key, "session_id": fork.session_id}
    transcripts.append(forked, [prompt(str(uuid4()), "Go on"), answer(str(uuid4()), "On", tokens=5)])
    transcripts.list_session_summaries(project)

    assert counted(store) == (2, 15)
    assert counted(store, session_id=session_of(store, forked).id) == (1, 5)


def test_a_usage_that_cannot_be_read_is_left_out(store: Any, transcripts: Any) -> None:
    wrong = answer("u1", "Hello")
    wrong["message"]["usage"] = {"input_tokens": "many", "output_tokens": -1}
    strange = answer("u3", "Yes", model="\0\ud800")
    transcripts.append(KEY, [wrong, answer("u2", "Yes"), strange])

    assert summary(transcripts) == folded([wrong, answer("u2", "Yes"), strange])
    assert counted(store) == (2, 20)


def test_tokens_that_are_too_many_for_a_run_are_left_out(store: Any, transcripts: Any) -> None:
    entries = [
        answer(f"u{number}", "Yes", tokens=tokens) for number, tokens in enumerate((10**12 - 200, 1, 0))
    ]
    transcripts.append(KEY, entries)

    assert summary(transcripts) == folded(entries)
    assert counted(store) == (1, 10**12 - 200)


def test_a_transcript_with_the_longest_id_that_is_no_hash_has_runs(store: Any, transcripts: Any) -> None:
    project = "p" * (ID_LENGTH_MAX - len(f"claude:{KEY['session_id']}:"))
    transcripts.append({**KEY, "project_key": project}, [answer("u1", "Hello")])

    assert len(transcripts.list_session_summaries(project)) == 1
    assert counted(store) == (1, 10)


# The SDK's own functions.


@pytest.fixture
def conversation(transcripts: Any) -> str:
    """A conversation with a subagent in the project of the working directory; its id."""
    session_id = str(uuid4())
    key: Any = {"project_key": sdk.project_key_for_directory(None), "session_id": session_id}
    asked, answered = str(uuid4()), str(uuid4())
    transcripts.append(
        key,
        [
            {**prompt(asked, "Which bird?"), "sessionId": session_id, "parentUuid": None},
            {**answer(answered, "A heron"), "sessionId": session_id, "parentUuid": asked},
        ],
    )
    transcripts.append(
        {**key, "subpath": "subagents/agent-a1"},
        [
            {**prompt("s1", "Look"), "sessionId": session_id, "parentUuid": None, "agentId": "a1"},
            {**answer("s2", "Seen"), "sessionId": session_id, "parentUuid": "s1", "agentId": "a1"},
            {"type": "agent_metadata", "agentType": "Explore", "toolUseId": "toolu_1"},
        ],
    )
    return session_id


def said(messages: list[Any]) -> list[Any]:
    return [message.message["content"] for message in messages]


def test_the_sdk_lists_renames_and_tags_without_loading_a_transcript(
    adapter: Any, run: Run, conversation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(sdk.rename_session_via_store(adapter, conversation, "Herons"))
    run(sdk.tag_session_via_store(adapter, conversation, "birds"))
    monkeypatch.delattr(AsmSessionStore, "load")

    [found] = run(sdk.list_sessions_from_store(adapter))

    assert (found.session_id, found.summary, found.tag) == (conversation, "Herons", "birds")
    assert found.first_prompt == "Which bird?"


def test_the_sdk_reads_and_forks_a_conversation(adapter: Any, run: Run, conversation: str) -> None:
    def messages(session_id: str) -> list[Any]:
        return said(run(sdk.get_session_messages_from_store(adapter, session_id)))

    whole = ["Which bird?", [{"type": "text", "text": "A heron"}]]
    assert messages(conversation) == whole
    assert run(sdk.get_session_info_from_store(adapter, conversation)).first_prompt == "Which bird?"
    assert run(sdk.list_subagents_from_store(adapter, conversation)) == ["a1"]
    [look, seen] = run(sdk.get_subagent_messages_from_store(adapter, conversation, "a1"))
    assert (look.message["content"], seen.parent_tool_use_id) == ("Look", "toolu_1")

    fork = run(sdk.fork_session_via_store(adapter, conversation, title="Another")).session_id
    run(sdk.delete_session_via_store(adapter, conversation))

    assert messages(conversation) == []
    assert messages(fork) == whole
    [found] = run(sdk.list_sessions_from_store(adapter))
    assert (found.session_id, found.summary) == (fork, "Another")


@pytest.mark.parametrize("how", ["resume", "continue_conversation"])
def test_the_sdk_writes_the_files_of_a_conversation_to_resume_it(
    adapter: Any, run: Run, conversation: str, tmp_path: Path, how: str
) -> None:
    options: Any = sdk.ClaudeAgentOptions(
        session_store=adapter,
        env={"CLAUDE_CONFIG_DIR": str(tmp_path)},
        **{how: conversation if how == "resume" else True},
    )

    async def resumed() -> dict[str, list[str]]:
        resume: Any = await materialize_resume_session(options)
        assert resume.resume_session_id == conversation
        files = {file.name: file.read_text().splitlines() for file in resume.config_dir.rglob("*.json*")}
        await resume.cleanup()
        return files

    files = run(resumed())

    assert [json.loads(line)["type"] for line in files[f"{conversation}.jsonl"]] == ["user", "assistant"]
    assert [json.loads(line)["uuid"] for line in files["agent-a1.jsonl"]] == ["s1", "s2"]
    assert json.loads(files["agent-a1.meta.json"][0]) == {"agentType": "Explore", "toolUseId": "toolu_1"}


def test_a_transcript_on_the_disk_is_imported_once(
    store: Any, adapter: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    session_id, project = str(uuid4()), sdk.project_key_for_directory(tmp_path)
    folder = tmp_path / "projects" / project
    subagents = folder / session_id / "subagents"
    subagents.mkdir(parents=True)
    entries = [prompt("u1", "Which bird?"), answer("u2", "A heron")]
    for file in (folder / f"{session_id}.jsonl", subagents / "agent-a1.jsonl"):
        file.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))

    for _ in range(2):
        run(sdk.import_session_to_store(session_id, adapter, directory=str(tmp_path)))

    key: Any = {"project_key": project, "session_id": session_id}
    assert run(adapter.load(key)) == entries
    assert run(adapter.load({**key, "subpath": "subagents/agent-a1"})) == entries


def test_the_example_resumes_a_conversation_where_its_files_are_not(migrated: str, tmp_path: Path) -> None:
    lines = printed(tmp_path, "with_claude_agent_sdk.py", migrated).splitlines()

    assert lines[:4] == [
        "user: Which bird is grey and stands in the water?",
        "assistant: A grey heron.",
        "user: How large is it?",
        "assistant: About a metre. You have asked 1 before.",
    ]
    assert lines[4].endswith(": Which bird is grey and stands in the water?")
    assert lines[5:] == ["2 prompts, 50 tokens"]


# The command.


def test_asm_shows_searches_and_counts_a_transcript(migrated: str, transcripts: Any) -> None:
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "heron.txt"}
    calling = answer("u3", "", id="msg_1")
    calling["message"]["content"] = [call]
    transcripts.append(
        KEY,
        [
            {"type": "queue-operation", "operation": "dequeue"},
            prompt("u1", "Which bird?"),
            answer("u2", "I will look.", id="msg_1"),
            calling,
            {"type": "user", "uuid": "u4", "message": {"role": "user", "content": [result]}},
            answer("u5", "A heron."),
            {"type": "system", "subtype": "informational", "content": "Compacted"},
        ],
    )
    dsn = ("--dsn", migrated)
    assert "Which bird?" in output_of("sessions", *dsn)

    transcripts.list_session_summaries(PROJECT)

    seen = output_of("show", f"claude:{KEY['session_id'][:8]}", *dsn)
    assert "  title     Which bird?\n" in seen
    assert "  tools     Bash 1\n" in seen
    assert "  usage     2 turns, 200 tokens in, 20 out, 2,000 read from cache\n" in seen
    events = seen[seen.index("    1  ") :]
    assert [line.rstrip() for line in events.splitlines() if line.strip()] == [
        '    1  claude.entry  item: {"type": "queue-operation", "operation": "dequeue"}',
        "    2  user",
        "       Which bird?",
        "    3  assistant",
        "       I will look.",
        "    4  $ ls",
        "    5  │ heron.txt",
        "    6  assistant",
        "       A heron.",
        "    7  system",
        "       Compacted",
    ]
    assert "claude-opus-4-5" in output_of("usage", *dsn)
    assert "$0.0025 for 1 run" in output_of("cost", *dsn)
    found = output_of("search", "events", "--type", "claude.entry", *dsn)
    assert "heron.txt" in found


def test_an_export_has_the_whole_transcript_and_is_imported_as_one(
    store: Any, other: str, opened: Any, transcripts: Any, run: Run
) -> None:
    entries = [prompt("u1", "Hello"), answer("u2", "Yes")]
    for key in (KEY, SUB):
        transcripts.append(key, entries)
    before = transcripts.list_session_summaries(PROJECT)
    copy = opened(other)
    for each in store.list_sessions():
        copy.import_session(store.query.export_session(each.id))

    copied = Called(AsmSessionStore(getattr(copy, "_target", copy)), run)

    assert copied.load(KEY) == copied.load(SUB) == entries
    assert copied.list_session_summaries(PROJECT) == before
    assert copied.list_subkeys(KEY) == [SUB["subpath"]]
    assert counted(copy) == (2, 20)


def test_a_main_transcript_that_an_application_links_to_another_is_no_subagent(
    store: Any, transcripts: Any
) -> None:
    linked = {**KEY, "session_id": "linked"}
    for key in (KEY, SUB, linked):
        transcripts.append(key, [prompt("u1", "Hello")])
    parent = session_of(store, SUB).parent_session_id
    store.update_session(session_id(linked), lambda session: replace(session, parent_session_id=parent))

    assert transcripts.list_subkeys(KEY) == [SUB["subpath"]]
    transcripts.delete(KEY)
    assert transcripts.load(linked) == [prompt("u1", "Hello")]
    assert [each.id for each in store.list_sessions(include_deleted=True)] == [session_id(linked)]


# Retention.


def test_retention_by_age_takes_whole_transcripts(store: Any, transcripts: Any) -> None:
    entries = [prompt("u1", "Hello"), answer("u2", "Yes")]
    young = {**KEY, "session_id": "young"}
    for key in (KEY, SUB):
        transcripts.append(key, entries)
    age(store)
    transcripts.append(young, entries)
    # A policy that prunes events of other sessions.
    tags = ("claude.main", "claude.subagent")
    store.maintenance.execute(asm.RetentionPolicy(max_events_per_session=1, exempt_tags=tags))
    assert transcripts.load(KEY) == entries

    store.maintenance.execute(asm.RetentionPolicy(max_session_age_days=90, exempt_statuses=("paused",)))

    assert [each["session_id"] for each in transcripts.list_sessions(PROJECT)] == ["young"]
    assert [each["session_id"] for each in transcripts.list_session_summaries(PROJECT)] == ["young"]
    assert transcripts.load(young) == entries
    transcripts.delete(KEY)
    assert [each.metadata["session_id"] for each in store.list_sessions(include_deleted=True)] == ["young"]
    assert store.maintenance.health_check() == []


def test_a_soft_deleted_transcript_can_be_resumed_and_is_kept(
    store: Any, transcripts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "LOOK_UP_AFTER_S", 0.0)
    for key in (KEY, SUB):
        transcripts.append(key, [prompt("u1", "Hello")])
    for each in store.list_sessions():
        store.update_session(
            each.id, lambda session: replace(session, updated_at=LONG_AGO, deleted_at=LONG_AGO)
        )
    assert transcripts.list_sessions(PROJECT) == []

    for key in (KEY, SUB):
        transcripts.append(key, [prompt("u2", "Again")])
    policy = asm.RetentionPolicy(exempt_statuses=())
    assert store.maintenance.execute(policy).sessions_hard_deleted == 0

    assert transcripts.list_subkeys(KEY) == [SUB["subpath"]]
    assert transcripts.load(KEY) == transcripts.load(SUB) == [prompt("u1", "Hello"), prompt("u2", "Again")]


# Event loops, cancellation, errors.


def test_a_cancelled_append_is_awaited_to_its_outcome(
    store: Any, adapter: Any, run: Run, migrated: str
) -> None:
    held = asm.SessionStore(migrated)

    async def cancel_while_locked() -> None:
        await adapter.append(KEY, [prompt("u1", "Hello")])
        id = session_id(KEY)
        with held.transaction() as tx:
            tx.append_event(asm.Event(type="claude.entry", session_id=id, data={"item": title("Mine")}))
            appending = asyncio.create_task(adapter.append(KEY, [prompt("u2", "Again")]))
            await asyncio.sleep(0)
            appending.cancel()
            await asyncio.sleep(0)
            assert not appending.done()
        with pytest.raises(asyncio.CancelledError):
            await appending

    run(cancel_while_locked())
    held.close()

    assert Called(adapter, run).load(KEY) == [prompt("u1", "Hello"), title("Mine"), prompt("u2", "Again")]


def test_the_first_error_of_a_list_is_raised_as_it_is(store: Any, transcripts: Any) -> None:
    for n in range(3):
        transcripts.append({**KEY, "session_id": f"s{n}"}, [prompt("u1", "Hello")])
    for each in store.list_sessions():
        store.update_session(
            each.id, lambda session: replace(session, metadata={**session.metadata, "through": "?"})
        )

    with pytest.raises(ValueError, match="invalid literal"):
        transcripts.list_session_summaries(PROJECT)


def test_anything_but_a_store_is_refused() -> None:
    wrong: Any = "sqlite://"
    with pytest.raises(asm.ValidationError, match="AsmSessionStore takes a SessionStore"):
        AsmSessionStore(wrong)


def test_without_the_sdk_the_error_names_what_to_install() -> None:
    statements = (
        "import sys; sys.modules['claude_agent_sdk'] = None\nimport asm.integrations.claude_agent_sdk"
    )

    done = subprocess.run([sys.executable, "-c", statements], capture_output=True, encoding="utf-8")

    assert done.stderr.splitlines()[-1] == (
        "ImportError: asm.integrations.claude_agent_sdk needs claude-agent-sdk: "
        "pip install 'asm-store[claude-agent-sdk]'"
    )
