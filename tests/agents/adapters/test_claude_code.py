"""ClaudeCode, with the real SDK and a program that speaks to it as Claude Code does."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from asm.agents.protocol import Adapter, AdapterEvent
from asm.errors import ProviderError
from tests.agents.adapters import claude_program
from tests.agents.adapters.apis import TEXT, pieces
from tests.agents.adapters.turns import data, failed_turn, request, shown, turn, types

sdk = pytest.importorskip(
    "claude_agent_sdk",
    reason="claude-agent-sdk is not installed here: `make test-frameworks` runs these tests",
)

Line = dict[str, Any]

SESSION = {"session_id": "5f0c", "uuid": "0b1e"}
MODEL = "claude-opus-4-5"
USAGE = {
    "input_tokens": 12,
    "output_tokens": 25,
    "cache_read_input_tokens": 4_000,
    "cache_creation_input_tokens": 300,
}
INIT = {"type": "system", "subtype": "init", "model": MODEL, "claude_code_version": "2.1.300", **SESSION}


# What Claude Code says.


def streamed(event: Mapping[str, Any], parent: str | None = None) -> Line:
    return {"type": "stream_event", "event": event, "parent_tool_use_id": parent, **SESSION}


def block_of(id: str | None, block: Mapping[str, Any], parent: str | None = None, **more: Any) -> Line:
    """One block of a message. Claude Code repeats the usage so far with each of them."""
    message = {"id": id, "model": MODEL, "role": "assistant", "content": [block], "usage": USAGE}
    return {"type": "assistant", "message": message, "parent_tool_use_id": parent, **SESSION, **more}


def message(id: str, *blocks: Mapping[str, Any], stop_reason: str, parent: str | None = None) -> list[Line]:
    """The lines of a message: its stream, and each block when it is whole."""
    lines = [streamed({"type": "message_start", "message": {"id": id}}, parent)]
    for index, block in enumerate(blocks):
        lines += [streamed(delta, parent) for delta in deltas(index, block)]
        lines += [
            block_of(id, block, parent),
            streamed({"type": "content_block_stop", "index": index}, parent),
        ]
    ending = {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": 25}}
    return [*lines, streamed(ending, parent), streamed({"type": "message_stop"}, parent)]


def deltas(index: int, block: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {
        "text": [{"type": "text_delta", "text": each} for each in pieces(block.get("text", ""))],
        "thinking": [{"type": "thinking_delta", "thinking": block.get("thinking")}],
        "tool_use": [{"type": "input_json_delta", "partial_json": "{}"}],
    }
    deltas = found[block["type"]]
    return [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]


def results(*blocks: Mapping[str, Any], parent: str | None = None) -> Line:
    message = {"role": "user", "content": [{"type": "tool_result", **block} for block in blocks]}
    return {"type": "user", "message": message, "parent_tool_use_id": parent, **SESSION}


def ended(**fields: Any) -> Line:
    whole = {
        "subtype": "success",
        "is_error": False,
        "duration_ms": 900,
        "duration_api_ms": 800,
        "num_turns": 2,
        "total_cost_usd": 0.25,
        "result": "Done",
        "usage": USAGE,
        "modelUsage": {MODEL: spent(cost=0.25)},
    }
    return {"type": "result", **whole, **SESSION, **fields}


def spent(cost: float, **more: Any) -> dict[str, Any]:
    return {
        "inputTokens": 12,
        "outputTokens": 25,
        "cacheReadInputTokens": 4_000,
        "cacheCreationInputTokens": 300,
        "webSearchRequests": 0,
        "costUSD": cost,
        "contextWindow": 200_000,
        "maxOutputTokens": 32_000,
        **more,
    }


def said(text: str) -> Mapping[str, Any]:
    return {"type": "text", "text": text}


THINKING = {"type": "thinking", "thinking": "Which files?", "signature": "c2ln"}
CALLS = [
    {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls | wc -l"}},
    {"type": "tool_use", "id": "toolu_2", "name": "Read", "input": {"file_path": "/none"}},
]
WORK = [
    INIT,
    *message("msg_1", THINKING, said("Let me look."), *CALLS, stop_reason="tool_use"),
    results({"tool_use_id": "toolu_1", "content": "42"}),
    results({"tool_use_id": "toolu_2", "content": "no such file", "is_error": True}),
    *message("msg_2", said("42 files."), stop_reason="end_turn"),
    ended(),
]


# A program that says it.


class Program:
    """The program, which is ended by its SDK."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "log.jsonl"
        self._scenario = folder / "scenario.json"
        self.path = folder / "claude"
        self.path.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{claude_program.__file__}' \"$@\"\n")
        self.path.chmod(0o755)

    def says(self, *lines: Line, exit_code: int | None = None, ignores: Sequence[str] = ()) -> None:
        self._log.unlink(missing_ok=True)
        scenario = {"lines": lines, "exit_code": exit_code, "ignores": ignores}
        self._scenario.write_text(json.dumps(scenario))

    def adapter(self, **options: Any) -> Adapter:
        from asm.agents.claude_code import ClaudeCode

        environment = {"SCENARIO": str(self._scenario), "LOG": str(self._log)}
        return ClaudeCode(sdk.ClaudeAgentOptions(cli_path=self.path, env=environment, **options))

    @property
    def heard(self) -> list[Line]:
        return [json.loads(line) for line in self._log.read_text("utf-8").splitlines()]

    @property
    def arguments(self) -> list[str]:
        found: list[str] = self.heard[0]["arguments"]
        return found

    def argument(self, name: str) -> str:
        """The value of an argument, which is `name value` or `name=value`."""
        arguments = [part for each in self.arguments for part in each.split("=", 1)]
        return arguments[arguments.index(name) + 1]

    @property
    def prompt(self) -> Any:
        [user] = [line for line in self.heard if line["type"] == "user"]
        return user["message"]["content"]

    @property
    def requests(self) -> list[str]:
        return [line["request"]["subtype"] for line in self.heard if line["type"] == "control_request"]

    @property
    def is_running(self) -> bool:
        return psutil.pid_exists(self.heard[0]["pid"])


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def error_of(program: Program, **fields: Any) -> ProviderError:
    return failed_turn(program.adapter(), **fields)[1]


def test_a_query_reports_each_message_its_calls_and_their_results_and_the_usage_once(
    program: Program,
) -> None:
    program.says(*WORK)
    more = {"role": "assistant", "provider_session_id": "5f0c"}

    assert shown(turn(program.adapter())) == [
        *(("message_streamed", {"delta": each}) for each in pieces("Let me look.")),
        (
            "message_received",
            {
                **more,
                "content": [THINKING, said("Let me look."), *CALLS],
                "message_id": "msg_1",
                "stop_reason": "tool_use",
            },
        ),
        ("tool_call_started", "toolu_1", {"name": "Bash", "input": {"command": "ls | wc -l"}}),
        ("tool_call_started", "toolu_2", {"name": "Read", "input": {"file_path": "/none"}}),
        ("tool_call_completed", "toolu_1", {"output": "42"}),
        ("tool_call_failed", "toolu_2", {"error": "no such file"}),
        *(("message_streamed", {"delta": each}) for each in pieces("42 files.")),
        (
            "message_received",
            {**more, "content": "42 files.", "message_id": "msg_2", "stop_reason": "end_turn"},
        ),
        (
            "token_usage_updated",
            {
                "input_tokens": 12,
                "output_tokens": 25,
                "cache_read_tokens": 4_000,
                "cache_creation_tokens": 300,
                "model": MODEL,
                "cost_usd": 0.25,
            },
        ),
    ]


def test_any_text_arrives_whole(program: Program) -> None:
    program.says(INIT, *message("msg_1", said(TEXT), stop_reason="end_turn"), ended())

    assert data(turn(program.adapter()), "message_received")["content"] == TEXT


def test_the_tokens_of_each_model_are_reported_and_last_those_of_the_conversation(program: Program) -> None:
    models = {"opus[1m]": spent(0.25, canonicalModel=MODEL), "claude-haiku-4-5": spent(0.01)}
    program.says(INIT, *message("msg_1", said("Hi"), stop_reason="end_turn"), ended(modelUsage=models))

    usage = [event.data for event in turn(program.adapter()) if event.type == "token_usage_updated"]

    costs = [(each["model"], each["cost_usd"]) for each in usage]
    assert costs == [("claude-haiku-4-5", 0.01), (MODEL, 0.25)]


def test_without_the_usage_of_models_that_of_the_query_is_reported(program: Program) -> None:
    program.says(INIT, *message("msg_1", said("Hi"), stop_reason="end_turn"), ended(modelUsage=None))

    usage = data(turn(program.adapter()), "token_usage_updated")

    assert (usage["model"], usage["cache_read_tokens"]) == (MODEL, 4_000)


@pytest.mark.parametrize("how", [{"resume": "5f0c"}, {"options": {"continue_conversation": True}}])
def test_the_tokens_of_a_resumed_session_are_those_of_the_query(
    program: Program, how: dict[str, Any]
) -> None:
    # Claude Code counts the models and the cost of the whole session, also of earlier queries.
    models = {MODEL: spent(0.75, inputTokens=36)}
    whole = ended(modelUsage=models, total_cost_usd=0.75)
    program.says(INIT, *message("msg_1", said("Hi"), stop_reason="end_turn"), whole)

    usage = data(turn(program.adapter(), **how), "token_usage_updated")

    assert (usage["model"], usage["input_tokens"], usage.get("cost_usd")) == (MODEL, 12, None)


def test_the_messages_of_a_subagent_have_the_id_of_its_call(program: Program) -> None:
    task = {"type": "tool_use", "id": "toolu_1", "name": "Task", "input": {"prompt": "count"}}
    inner = {"type": "tool_use", "id": "toolu_2", "name": "Bash", "input": {"command": "ls"}}
    program.says(
        INIT,
        *message("msg_1", task, stop_reason="tool_use"),
        block_of("msg_2", said("I count."), "toolu_1"),
        block_of("msg_2", inner, "toolu_1"),
        results({"tool_use_id": "toolu_2", "content": "a"}, parent="toolu_1"),
        results({"tool_use_id": "toolu_1", "content": [said("1 file")]}),
        *message("msg_3", said("1 file."), stop_reason="end_turn"),
        ended(),
    )

    events = turn(program.adapter())

    messages = [event.data for event in events if event.type == "message_received"]
    assert [each.get("parent_tool_use_id") for each in messages] == [None, "toolu_1", None]
    assert messages[1]["content"] == [said("I count."), inner]
    assert [event.correlation_id for event in events if event.type == "tool_call_completed"] == [
        "toolu_2",
        "toolu_1",
    ]


def test_without_a_stream_the_blocks_of_a_message_are_still_one_message(program: Program) -> None:
    program.says(
        INIT,
        *(block_of("msg_1", block) for block in CALLS),
        results({"tool_use_id": "toolu_1", "content": "42"}),
        ended(),
    )

    assert types(turn(program.adapter())) == [
        "message_received",
        "tool_call_started",
        "tool_call_started",
        "tool_call_completed",
        "token_usage_updated",
    ]


def test_lines_that_are_not_known_are_passed_over(program: Program) -> None:
    program.says(
        INIT,
        {"type": "of_tomorrow"},
        {"type": "system", "subtype": "status", "status": None, **SESSION},
        {"type": "user", "message": {"role": "user", "content": "a reminder"}, **SESSION},
        *message("msg_1", said("Hi"), stop_reason="end_turn"),
        ended(),
    )

    assert types(turn(program.adapter()))[-2:] == ["message_received", "token_usage_updated"]


def api_error(status: int | None, **fields: Any) -> dict[str, Any]:
    return {"result": "API Error", "api_error_status": status, "terminal_reason": "api_error", **fields}


MAX_TURNS = {"subtype": "error_max_turns", "errors": ["3 turns"], "terminal_reason": "max_turns"}


@pytest.mark.parametrize(
    ("fields", "code", "retryable"),
    [
        (api_error(529), "api_error", True),
        (api_error(401), "api_error", False),
        (api_error(None), "api_error", True),
        (MAX_TURNS, "error_max_turns", False),
    ],
)
def test_a_failed_result_is_an_error_and_its_tokens_are_counted(
    program: Program, fields: dict[str, Any], code: str, retryable: bool
) -> None:
    apology = block_of("msg_2", said("API Error"), error="server_error")
    program.says(
        INIT, *message("msg_1", *CALLS, stop_reason="tool_use"), apology, ended(is_error=True, **fields)
    )

    events, error = failed_turn(program.adapter())

    assert fields.get("result", "3 turns") in str(error)
    assert (error.status, error.provider_code, error.retryable) == (
        fields.get("api_error_status"),
        code,
        retryable,
    )
    assert types(events) == ["message_received", *["tool_call_started"] * 2, "token_usage_updated"]


def test_a_program_that_ends_early_but_cleanly_is_an_error_wherever_it_ends(program: Program) -> None:
    for length in range(0, len(WORK), 7):
        program.says(*WORK[:length], exit_code=0)
        error = error_of(program)

        assert ("ended before its result" in str(error), error.retryable) == (True, True)


@pytest.mark.parametrize("exit_code", [3, -9])
def test_a_program_that_is_killed_or_fails_is_an_error(program: Program, exit_code: int) -> None:
    program.says(*WORK[:5], exit_code=exit_code)

    assert f"exit code {exit_code}" in str(error_of(program))


def test_a_program_that_is_missing_is_an_error(program: Program) -> None:
    program.path.unlink()

    assert str(program.path) in str(error_of(program))


async def begin_and_close(program: Program) -> None:
    turn = cast("AsyncGenerator[AdapterEvent]", program.adapter().turn(request()))
    async with aclosing(turn) as events:
        assert (await anext(events)).transient


def test_a_turn_that_is_closed_interrupts_the_program_and_ends_it(program: Program) -> None:
    program.says(*WORK[:8])
    asyncio.run(begin_and_close(program))

    assert program.requests == ["initialize", "interrupt"]
    assert (program.heard[-1]["type"], program.is_running) == ("end_of_input", False)


def test_a_program_that_ignores_the_interrupt_is_ended_all_the_same(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asm.agents.claude_code.INTERRUPT_TIMEOUT_S", 0.1)
    program.says(*WORK[:8], ignores=["interrupt"])
    asyncio.run(begin_and_close(program))

    assert program.requests == ["initialize", "interrupt"]
    assert (program.heard[-1]["type"], program.is_running) == ("end_of_input", False)


def test_a_turn_that_is_cancelled_interrupts_the_program_and_ends_it(program: Program) -> None:
    async def main() -> None:
        said = asyncio.Event()
        task = asyncio.ensure_future(drained(said))
        await said.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def drained(said: asyncio.Event) -> None:
        async for _ in program.adapter().turn(request()):
            said.set()

    program.says(*WORK[:8])
    asyncio.run(main())

    assert program.requests == ["initialize", "interrupt"]
    assert (program.heard[-1]["type"], program.is_running) == ("end_of_input", False)


def test_a_turn_that_ends_or_fails_leaves_no_program_behind(program: Program) -> None:
    program.says(*WORK)
    turn(program.adapter())
    assert (program.heard[-1]["type"], program.is_running) == ("end_of_input", False)

    program.says(INIT, ended(is_error=True))
    error_of(program)
    assert (program.heard[-1]["type"], program.is_running) == ("end_of_input", False)


def test_a_session_is_resumed_with_what_is_new(program: Program) -> None:
    program.says(*WORK)
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVyb24="}}

    turn(program.adapter(), [{"role": "user", "content": [said("What is this?"), image]}], resume="5f0c")

    assert program.argument("--resume") == "5f0c"
    assert program.prompt == [said("What is this?"), image]


def test_a_conversation_of_another_provider_comes_as_text_before_what_is_new(program: Program) -> None:
    program.says(*WORK)

    turn(
        program.adapter(),
        [
            {"role": "user", "content": "How many files?"},
            {
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Let me look."}],
                "tool_calls": [{"id": "call_1", "name": "shell", "input": {"command": "ls"}}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "42"},
            {"role": "user", "content": "And now?"},
        ],
    )

    assert program.prompt == [
        said(
            "The conversation before this message:\n\n"
            "user: How many files?\n\n"
            'assistant: Let me look.\nshell {"command": "ls"}\n\n'
            "tool: 42"
        ),
        said("And now?"),
    ]


def test_a_request_prevails_over_the_options(program: Program) -> None:
    program.says(*WORK)

    turn(
        program.adapter(model="haiku", max_turns=3),
        model="opus",
        system="Be terse.",
        options={"max_turns": 5},
    )

    assert [program.argument(name) for name in ("--model", "--system-prompt", "--max-turns")] == [
        "opus",
        "Be terse.",
        "5",
    ]


def test_a_system_prompt_is_appended_to_the_preset_of_claude_code(program: Program) -> None:
    program.says(*WORK)
    preset = {"type": "preset", "preset": "claude_code", "append": "Be kind."}

    turn(program.adapter(system_prompt=preset), system="Be terse.")

    assert program.argument("--append-system-prompt") == "Be kind.\n\nBe terse."


def test_tools_of_a_run_are_refused(program: Program) -> None:
    program.says(*WORK)

    error = error_of(program, tools=[{"name": "weather"}])

    assert "ClaudeAgentOptions" in str(error)
