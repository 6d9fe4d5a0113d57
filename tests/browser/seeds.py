"""Sessions with everything that the pages show, written as agents write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asm
from asm.formats import import_files
from tests.conftest import an_event
from tests.formats.samples import SAMPLES
from tests.web.test_hostile_content import LINKS, MARKUP, everywhere, save

LONG = "ses_long"
LONG_EVENTS = 220
HOSTILE = "ses_hostile"
EVERYTHING = "ses_everything"
FAILED_EVENT = 7

_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
_BEGIN = datetime(2026, 2, 3, 9, tzinfo=UTC)

_ANSWER = """## What was wrong

The cache kept the *first* answer, **for ever**. Two places are concerned, see [the manual](https://example.org/):

1. `load()` in `cache.py`, which ignores `max_age`
2. its caller:

```python
@cache
def load(path: str, *, max_age: float = 60.0) -> bytes:
    # One read for each path.
    return Path(path).read_bytes() if max_age else b""
```

| case | before | after |
|---|---:|---:|
| cold | 1,204 ms | 1,198 ms |
| warm | 1,190 ms | 3 ms |

> An entry that is older than `max_age` is read again.
"""

_PATCH = """diff --git a/cache.py b/cache.py
--- a/cache.py
+++ b/cache.py
@@ -1,3 +1,3 @@ def load(path, max_age):
 entry = entries.get(path)
-if entry:
+if entry and entry.age < max_age:
     return entry.data
"""


_HOSTILE_TEXT = "\n\n".join((*MARKUP, *LINKS))


def hostile_events() -> list[asm.Event]:
    """Events that have markup in every place that a page shows."""
    return everywhere(_HOSTILE_TEXT, HOSTILE)


def fill(dsn: str) -> dict[str, str]:
    """Write the sessions into a new database. Returns the first session of each sample of a format."""
    asm.migrate(dsn, text_search=True)
    with asm.SessionStore(dsn) as store:
        imported = {sample.name: _imported(store, sample.path) for sample in SAMPLES}
        _save_everything(store)
        _save_long(store)
        save(store, _HOSTILE_TEXT, HOSTILE)
        store.append_event(an_event("ses_without_a_row"))
    return imported


def _imported(store: asm.SessionStore, path: Path) -> str:
    known = {session.id for session in store.list_sessions()}
    assert not import_files(store, [path]).failures
    added = [session for session in store.list_sessions() if session.id not in known]
    return next(each.id for each in reversed(added) if each.parent_session_id not in {a.id for a in added})


def _save_everything(store: asm.SessionStore) -> None:
    title = {"title": "Find out why the cache never forgets an entry, and mend it without a second clock"}
    store.save_session(
        asm.Session(
            agent_id="claude-code",
            id=EVERYTHING,
            status="active",
            metadata=title,
            tags=("pinned", "cache", "a-tag-of-more-letters"),
            created_at=_BEGIN,
            updated_at=_BEGIN + timedelta(minutes=42),
        )
    )
    child = {"title": "Look for other callers", "tool_use_id": "call_4"}
    store.save_session(
        asm.Session(
            agent_id="claude-code", id=f"{EVERYTHING}/agent", parent_session_id=EVERYTHING, metadata=child
        )
    )
    for number, status in enumerate(("completed", "failed", "running"), 1):
        store.save_run(_a_run(number, status))
    store.append_events(_conversation())


def _a_run(number: int, status: str) -> asm.Run:
    began = _BEGIN + timedelta(minutes=14 * (number - 1))
    used = {
        "input_tokens": 1_200 * number,
        "output_tokens": 800 * number,
        "cache_read_tokens": 5_000 * number,
        "cache_creation_tokens": 900,
    }
    return asm.Run(
        session_id=EVERYTHING,
        id=f"run_{number}",
        status=status,
        input={"role": "user", "content": f"Request {number}: why does the cache never forget?"},
        token_usage=used,
        started_at=began,
        ended_at=None if status == "running" else began + timedelta(minutes=12),
        provider="anthropic" if number < 3 else "unknown",
        provider_metadata={"model": "claude-sonnet-4-5" if number < 3 else "a-model-without-a-price"},
        cost_usd=0.0123 * number if number < 3 else None,
    )


def _conversation() -> list[asm.Event]:
    edit = {
        "file_path": "/src/cache.py",
        "old_string": "if entry:",
        "new_string": "if entry and entry.is_new:",
    }
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PNG}}
    system = "You are an agent that mends programs. " * 20
    parts: list[tuple[str, int, str | None, dict[str, Any]]] = [
        ("message_sent", 1, None, {"role": "system", "content": system}),
        ("message_sent", 1, None, {"role": "user", "content": "The cache never forgets. **Why?**"}),
        (
            "message_received",
            1,
            None,
            {"role": "assistant", "thinking": "Where is it filled?\n\nAsk grep.", "content": _ANSWER},
        ),
        (
            "tool_call_started",
            1,
            "call_1",
            {"name": "Bash", "input": {"command": "grep -rn 'cache' src\nls -l"}},
        ),
        (
            "tool_call_completed",
            1,
            "call_1",
            {"output": "src/cache.py:1: " + "x" * 400 + "\n" + "line\n" * 60},
        ),
        ("tool_call_started", 1, "call_2", {"name": "Read", "input": {"file_path": "/src/missing.py"}}),
        ("tool_call_failed", 1, "call_2", {"error": "No such file: /src/missing.py"}),
        ("tool_call_started", 1, "call_3", {"name": "Edit", "input": edit}),
        ("tool_call_completed", 1, "call_3", {"output": _PATCH}),
        ("tool_call_started", 2, "call_4", {"name": "Task", "input": {"prompt": "Look for other callers"}}),
        ("tool_call_completed", 2, "call_4", {"output": {"callers": ["a.py", "b.py"], "total": 2}}),
        ("token_usage_updated", 2, None, {"input_tokens": 1_200, "output_tokens": 800, "model": "claude"}),
        (
            "message_sent",
            2,
            None,
            {"role": "user", "content": [{"type": "text", "text": "This one:"}, image]},
        ),
        ("workspace_diff_computed", 2, None, {"diff": _PATCH}),
        ("claude_code.file_history_snapshot", 2, None, {"files": {"/src/cache.py": {"version": 2}}}),
        ("run_failed", 2, None, {"code": "overloaded", "message": "The provider is overloaded"}),
        ("message_sent", 3, None, {"role": "user", "content": "Go on"}),
        ("tool_call_started", 3, "call_5", {"name": "Bash", "input": {"command": "pytest"}}),
    ]
    return [
        an_event(
            EVERYTHING,
            type=type,
            data=data,
            correlation_id=call,
            run_id=f"run_{run}",
            timestamp=_BEGIN + timedelta(minutes=14 * (run - 1), seconds=7 * place),
        )
        for place, (type, run, call, data) in enumerate(parts)
    ]


def _save_long(store: asm.SessionStore) -> None:
    store.save_session(asm.Session(agent_id="codex", id=LONG, metadata={"title": "A long session"}))
    words = "Every line of this message says the same, so that it takes some room on the page. " * 3
    store.append_events(
        [
            an_event(
                LONG, type="message_received", data={"role": "assistant", "content": f"Number {n}. {words}"}
            )
            for n in range(1, LONG_EVENTS + 1)
        ]
    )
