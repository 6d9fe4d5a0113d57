"""Logs of Claude Code and Codex as these tools write them, made by a seed.

The types of records, how many there are of each, and their sizes are those of real logs: a message of a model
has about two records, a tool's result is in its record twice, and a tenth of the results are long.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, TypeAlias
from uuid import UUID

import orjson

Record: TypeAlias = dict[str, Any]

ID = "00000000-0000-4000-8000-000000000000"
"""The session of the long log."""

_START = datetime(2026, 1, 5, 9, tzinfo=UTC)
_WORDS = tuple(
    "the file has a test that fails when cursor of page is read again def return self import for each in "  # noqa: SIM905
    "rows: if None == value raise ValidationError(name) # because über naïve “quoted” \\d+ src/app/models.py "
    'x = {"key": [1, 2]}; <div class="row"> 0x7f 2026-01-05 error: expected 3 found 12'.split()
)
_TOOLS = ("Bash", "Read", "Edit", "Grep")


def write_tree(folder: Path, files: int, seed: int = 1) -> list[Path]:
    """Write so many logs, of which every third is one of Codex, in the folders that the tools use."""
    random = Random(seed)
    written = []
    for number in range(files):
        id = str(UUID(int=random.getrandbits(128), version=4))
        at = _START + timedelta(hours=number)
        turns = random.choice((4, 12, 24, 48, 96))
        if number % 3 == 2:
            path = folder / f".codex/sessions/{at:%Y/%m/%d}/rollout-{at:%Y-%m-%dT%H-%M-%S}-{id}.jsonl"
            records = codex(random, id, at, turns)
        else:
            path = folder / f".claude/projects/-home-me-project-{number % 7}/{id}.jsonl"
            records = claude_code(random, id, at, turns)
        written.append(_write(path, records))
    return written


def write_long(path: Path, size_bytes: int, seed: int = 1) -> None:
    """Write one log of Claude Code that is at least as large."""
    random = Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for record in claude_code(random, ID, _START, turns=size_bytes):
            file.write(orjson.dumps(record) + b"\n")
            if file.tell() >= size_bytes:
                return


def _write(path: Path, records: Iterator[Record]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return path


def claude_code(random: Random, id: str, at: datetime, turns: int) -> Iterator[Record]:
    """The records of a conversation: after a prompt about eight turns, each with a tool's call and result."""
    parent: str | None = None
    common = {
        "isSidechain": False,
        "userType": "external",
        "cwd": "/home/me/project",
        "sessionId": id,
        "version": "2.1.42",
        "gitBranch": "main",
        "slug": "quiet-walking-river",
    }

    def record(type: str, fields: Record) -> Record:
        nonlocal parent, at
        uuid, at = str(UUID(int=random.getrandbits(128), version=4)), at + timedelta(milliseconds=2_417)
        made = {"parentUuid": parent, **common, "type": type, "uuid": uuid, "timestamp": _iso(at), **fields}
        parent = uuid
        return made

    for turn in range(turns):
        if turn % 8 == 0:
            yield {"type": "file-history-snapshot", "messageId": _hex(random), "snapshot": _snapshot(random)}
            yield record("user", {"message": {"role": "user", "content": _text(random, 40)}})
        usage = {
            "input_tokens": random.randrange(3, 900),
            "cache_creation_input_tokens": random.randrange(5_000),
            "cache_read_input_tokens": random.randrange(120_000),
            "cache_creation": {"ephemeral_5m_input_tokens": 417, "ephemeral_1h_input_tokens": 0},
            "output_tokens": random.randrange(1, 40),
            "service_tier": "standard",
        }
        message_id, request_id, call_id = (f"{name}_{_hex(random)}" for name in ("msg", "req", "toolu"))
        for block in _blocks(random, call_id):
            message = {
                "model": "claude-sonnet-4-5-20250929",
                "id": message_id,
                "type": "message",
                "role": "assistant",
                "content": [block],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": usage,
            }
            yield record("assistant", {"message": message, "requestId": request_id})
        output = _output(random)
        result = {"tool_use_id": call_id, "type": "tool_result", "content": output, "is_error": False}
        printed = {"stdout": output, "stderr": "", "interrupted": False, "isImage": False}
        yield record("user", {"message": {"role": "user", "content": [result]}, "toolUseResult": printed})
        if turn % 3 == 0:
            progress = {"type": "hook_progress", "hookEvent": "PostToolUse", "command": "callback"}
            yield record("progress", {"data": progress, "toolUseID": call_id, "parentToolUseID": call_id})
        if turn % 8 == 7:
            yield record("system", {"subtype": "turn_duration", "durationMs": 48_113, "isMeta": False})


def _blocks(random: Random, call_id: str) -> Iterator[Record]:
    if random.random() < 0.5:
        yield {"type": "thinking", "thinking": _text(random, 60), "signature": _hex(random) * 12}
    if random.random() < 0.6:
        yield {"type": "text", "text": _text(random, 40)}
    input = {"command": _text(random, 15), "description": _text(random, 6)}
    yield {"type": "tool_use", "id": call_id, "name": random.choice(_TOOLS), "input": input}


def _snapshot(random: Random) -> Record:
    backups = {f"src/app/{name}.py": {"backupFileName": _hex(random), "version": 1} for name in _WORDS[:6]}
    return {"messageId": _hex(random), "trackedFileBackups": backups, "timestamp": _iso(_START)}


def codex(random: Random, id: str, at: datetime, turns: int) -> Iterator[Record]:
    """The lines of a rollout: after a prompt about eight turns, with reasoning, a call and its output."""
    total = dict.fromkeys(("input_tokens", "cached_input_tokens", "output_tokens", "total_tokens"), 0)

    def line(type: str, payload: Record) -> Record:
        nonlocal at
        at += timedelta(milliseconds=1_871)
        return {"timestamp": _iso(at), "type": type, "payload": payload}

    git = {"commit_hash": _hex(random), "branch": "main", "repository_url": "https://example.org/app.git"}
    yield line(
        "session_meta",
        {
            "id": id,
            "timestamp": _iso(at),
            "cwd": "/home/me/project",
            "originator": "codex_cli_rs",
            "cli_version": "0.104.0",
            "source": "cli",
            "model_provider": "openai",
            "base_instructions": {"text": _text(random, 1_500)},
            "git": git,
        },
    )
    for turn in range(turns):
        if turn % 8 == 0:
            prompt = _text(random, 40)
            content = [{"type": "input_text", "text": prompt}]
            yield line("response_item", {"type": "message", "role": "user", "content": content})
            yield line("event_msg", {"type": "user_message", "message": prompt, "images": []})
        context = {"cwd": "/home/me/project", "approval_policy": "on-request", "model": "gpt-5.2-codex"}
        yield line("turn_context", {**context, "effort": "high", "summary": "auto"})
        thought, call_id = f"**{_text(random, 20)}**", f"call_{_hex(random)}"
        yield line("event_msg", {"type": "agent_reasoning", "text": thought})
        summary = [{"type": "summary_text", "text": thought}]
        secret = {"encrypted_content": _hex(random) * random.randrange(40, 120)}
        yield line("response_item", {"type": "reasoning", "summary": summary, "content": None, **secret})
        arguments = orjson.dumps({"command": ["bash", "-lc", _text(random, 15)], "timeout": 10_000}).decode()
        call = {"type": "function_call", "name": "shell", "arguments": arguments, "call_id": call_id}
        yield line("response_item", call)
        output = {"type": "function_call_output", "call_id": call_id, "output": _output(random)}
        yield line("response_item", output)
        total["input_tokens"] += random.randrange(1_000, 40_000)
        total["cached_input_tokens"] += random.randrange(900)
        total["output_tokens"] += random.randrange(40, 900)
        total["total_tokens"] = total["input_tokens"] + total["output_tokens"]
        limits = {"primary": {"used_percent": 12.0, "window_minutes": 300}, "secondary": None}
        info = {"total_token_usage": dict(total), "last_token_usage": dict(total)}
        count = {"info": {**info, "model_context_window": 272_000}, "rate_limits": limits}
        yield line("event_msg", {"type": "token_count", **count})


def _text(random: Random, words: int) -> str:
    return " ".join(random.choices(_WORDS, k=random.randrange(words // 2, words * 3 // 2 + 1)))


def _output(random: Random) -> str:
    """What a tool printed: mostly a few lines, and sometimes a long file."""
    lines = random.choice((1, 4, 10, 20, 40, 60, 250))
    return "\n".join(islice(iter(lambda: _text(random, 9), None), lines))


def _hex(random: Random) -> str:
    return f"{random.getrandbits(96):024x}"


def _iso(at: datetime) -> str:
    return f"{at.isoformat(timespec='milliseconds')[:23]}Z"
