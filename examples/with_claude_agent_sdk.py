"""A conversation with Claude Code that goes on where its files are not.

    python examples/with_claude_agent_sdk.py [DSN]

Each question is asked with an empty folder in place of ~/.claude, as in a new container. The second one
resumes the conversation of the first from the store. Then come the conversations, and the tokens they used.

With ANTHROPIC_API_KEY in the environment, the Claude Code that the SDK brings answers. Without it, this
program stands in for Claude Code, too. It needs `pip install 'asm-store[claude-agent-sdk]'`.
"""

import asyncio
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ResultMessage,
    TextBlock,
    list_sessions_from_store,
    query,
)

import asm
from asm.integrations.claude_agent_sdk import AsmSessionStore

STAND_IN = "--stand-in"


async def main(dsn: str) -> None:
    async with asm.AsyncSessionStore(dsn, migrate=True) as store:
        transcripts = AsmSessionStore(store)
        session_id = await ask(transcripts, "Which bird is grey and stands in the water?")
        await ask(transcripts, "How large is it?", resume=session_id)
        for each in await list_sessions_from_store(transcripts):
            print(f"{each.session_id}: {each.summary}")
        usage = await store.query.get_usage_summary()
        print(f"{usage.run_count} prompts, {usage.total_tokens} tokens")


async def ask(transcripts: AsmSessionStore, question: str, resume: str | None = None) -> str:
    """Ask Claude Code, print its answer, and return the id of the conversation."""
    with tempfile.TemporaryDirectory() as folder:
        options = ClaudeAgentOptions(
            session_store=transcripts,
            resume=resume,
            env={"CLAUDE_CONFIG_DIR": folder},
            cli_path=None if "ANTHROPIC_API_KEY" in os.environ else stand_in_program(Path(folder)),
        )
        print(f"user: {question}")
        async for message in query(prompt=question, options=options):
            if isinstance(message, AssistantMessage):
                print(
                    "assistant:", *(block.text for block in message.content if isinstance(block, TextBlock))
                )
            if isinstance(message, ResultMessage):
                session_id = str(message.session_id)
    return session_id


# The program that stands in for Claude Code.


def stand_in_program(folder: Path) -> Path:
    program = folder / "claude"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{Path(__file__).resolve()}' {STAND_IN} \"$@\"\n")
    program.chmod(0o755)
    return program


def stand_in(arguments: list[str]) -> None:
    """Answer one question, and keep the transcript as Claude Code does."""
    resumed = next((each.split("=")[1] for each in arguments if each.startswith("--resume=")), None)
    session_id = resumed or str(uuid.uuid4())
    project = "".join(each if each.isalnum() else "-" for each in str(Path.cwd()))
    transcript = Path(os.environ["CLAUDE_CONFIG_DIR"], "projects", project, f"{session_id}.jsonl")
    transcript.parent.mkdir(parents=True, exist_ok=True)
    for message in map(json.loads, sys.stdin):
        if message["type"] == "control_request":
            answer = {"subtype": "success", "request_id": message["request_id"], "response": {}}
            say({"type": "control_response", "response": answer})
        elif message["type"] == "user":
            entries = list(entries_of(transcript, session_id, message["message"]["content"]))
            with transcript.open("a") as file:
                file.writelines(json.dumps(each) + "\n" for each in entries)
            say({"type": "transcript_mirror", "filePath": str(transcript), "entries": entries})
            say({"type": "assistant", "message": entries[-1]["message"], "session_id": session_id})
            took: dict[str, Any] = {"duration_ms": 1, "duration_api_ms": 1, "num_turns": 1, "is_error": False}
            say({"type": "result", "subtype": "success", "session_id": session_id, **took})


def entries_of(transcript: Path, session_id: str, question: str) -> Iterator[dict[str, Any]]:
    asked = [json.loads(line) for line in transcript.read_text().splitlines()] if transcript.exists() else []
    text = "A grey heron." if not asked else f"About a metre. You have asked {len(asked) // 2} before."
    answer = {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-4-5",
        "content": [{"type": "text", "text": text}],
        "usage": {"input_tokens": 20, "output_tokens": 5, "cache_read_input_tokens": 9_000},
    }
    parent = asked[-1]["uuid"] if asked else None
    for type, content in (("user", {"role": "user", "content": question}), ("assistant", answer)):
        entry = {
            "type": type,
            "uuid": str(uuid.uuid4()),
            "parentUuid": parent,
            "sessionId": session_id,
            "timestamp": datetime.now(UTC).isoformat(),
            "cwd": str(Path.cwd()),
            "message": content,
        }
        yield entry
        parent = entry["uuid"]


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    if STAND_IN in sys.argv:
        stand_in(sys.argv)
    else:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///asm-demo.db"))
