"""The outputs of OpenHands' evaluations: a log with one session a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from asm import files
from asm.documents import Document, dump
from asm.errors import ValidationError
from asm.export_files import text
from asm.formats.base import Reader, Transcript
from asm.formats.failures import raise_together
from asm.formats.openhands import records
from asm.formats.openhands.conversation import Conversation
from asm.formats.openhands.files import AGENT, FORMAT
from asm.formats.openhands.tokens import Stats, metrics_of
from asm.formats.secret_fields import without_secrets
from asm.formats.session_rows import SessionRows, hashed_id, object_of, time_of, without
from asm.formats.times import modified_at
from asm.models import EventType, SessionStatus

_FIRST = re.compile(rb'\{\s*"(?:instance_id|issue)"\s*:')
_KEYS = (b'"instruction"', b'"test_result"', b'"history"', b'"issue_type"')


def _is_output(_path: Path, head: bytes) -> bool:
    return _FIRST.match(head) is not None and any(key in head for key in _KEYS)


def _read(path: Path) -> Iterator[Transcript]:
    """The sessions, one line in memory at a time. Lines that cannot be read are named at the end."""
    failures: list[ValidationError] = []
    at = modified_at(path)
    with files.reading(path, follow_links=True) as file:
        for number, line, is_last in _lines(text.read_lines(file)):
            try:
                document = text.parse_json(line)
            except ValidationError as error:
                # A last line that is not whole is being written.
                if not is_last:
                    failures.append(_of_line(error, number))
                continue
            try:
                found = _session(document, path.name, at)
            except ValidationError as error:
                failures.append(_of_line(error, number))
            else:
                yield found
    raise_together(failures)


READER = Reader(f"{FORMAT} evaluation", _is_output, read=_read)


def _lines(lines: Iterator[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """The lines that are not blank, numbered, and whether each is the last."""
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line)
    before = next(numbered, None)
    while before is not None:
        following = next(numbered, None)
        yield *before, following is None
        before = following


def _of_line(error: ValidationError, number: int) -> ValidationError:
    return ValidationError(f"line {number:,}: {error}", line=number)


def _session(document: Any, file: str, at: datetime) -> Transcript:
    """The session of a line, with one run."""
    if not isinstance(document, dict):
        raise ValidationError(f"expected an object, not {type(document).__name__}")
    history = document.get("history") or []
    if not isinstance(history, list):
        raise ValidationError(f"history must be a list, not {type(history).__name__}")
    name = _name(document)
    rows = SessionRows(
        FORMAT,
        _id(name, history, document),
        agent_id=AGENT,
        at=at,
        metadata=_metadata(document, name, file),
        status=SessionStatus.FAILED if document.get("error") else SessionStatus.COMPLETED,
    )
    rows.begin(_first_time(history))
    metrics = document.get("metrics")
    usages = Stats({"usage_to_metrics": {"": metrics}}).by_response()
    conversation = Conversation(rows, model=_model(document), has_one_run=True, usages=usages)
    for number, event in enumerate(history):
        try:
            records.add(conversation, event)
        except ValidationError as error:
            raise ValidationError(f"history[{number}]: {error}") from error
    _add_end(conversation, document)
    taken = rows.take()
    assert taken is not None
    return taken


def _add_end(conversation: Conversation, document: Document) -> None:
    """Add what the evaluation says of the run as a whole."""
    rows = conversation.rows
    if rows.run is None:
        rows.begin_run("output", document.get("instruction"))
    conversation.count("metrics", conversation.meter.increase(metrics_of(document.get("metrics"))))
    diff = document.get("git_patch") or object_of(document, "test_result").get("git_patch")
    if isinstance(diff, str) and diff:
        rows.add(EventType.WORKSPACE_DIFF_COMPUTED, "git_patch", {"diff": diff})
    if error := document.get("error"):
        data = error if isinstance(error, dict) else {"message": error}
        conversation.fail("error", data, {})
        conversation.go_into("error")


def _name(document: Document) -> str | None:
    """The name of the task: of an instance, or of an issue that was to be resolved."""
    id, issue = document.get("instance_id"), object_of(document, "issue")
    if isinstance(id, str | int) and id != "":
        return str(id)
    if isinstance(issue.get("number"), int):
        return f"{issue.get('owner')}/{issue.get('repo')}#{issue['number']}"
    return None


def _id(name: str | None, history: list[Any], document: Document) -> str:
    """The id of a session. Attempts that failed before their first event differ by how they failed."""
    told = history or [document.get("attempt"), document.get("error")]
    content = sha256(dump(told, "history").encode(errors="surrogatepass")).hexdigest()
    return hashed_id("ses_", FORMAT, name or "", content)


def _metadata(document: Document, name: str | None, file: str) -> Document:
    """What a line says beside its history, without the settings that are secret."""
    found: Document = {"format": FORMAT, "file": file}
    title = object_of(document, "issue").get("title") or name
    if isinstance(title, str):
        found["title"] = title
    if name is not None:
        found["instance_id"] = name
    rest = without(document, "instance_id", "history", "git_patch", "error")
    if rest:
        found["rest"] = without_secrets(rest)
    return found


def _model(document: Document) -> Any:
    config = object_of(object_of(document, "metadata"), "llm_config")
    return config.get("model") or object_of(object_of(document, "metadata"), "llm").get("model")


def _first_time(history: list[Any]) -> datetime | None:
    first = history[0] if history else None
    return time_of(first.get("timestamp")) if isinstance(first, dict) else None
