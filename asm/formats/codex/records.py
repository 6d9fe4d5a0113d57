"""What one record of a Codex log says. The functions know no other record and no session."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asm.content import session_title
from asm.documents import Document
from asm.formats import openai_items
from asm.formats.session_rows import snake_case, without

_CONTEXT = re.compile(r"\s*(?:<[a-zA-Z_]{1,40}[ >]|# AGENTS\.md instructions|Warning: )")
"""How a message begins that Codex adds itself, as the user's. A prompt of a person may begin so, too."""

_REQUEST = re.compile(r"^## My request for Codex:[ \t]*\n", re.MULTILINE)
"""An editor writes before this what is open in it."""


@dataclass(slots=True, frozen=True)
class Record:
    """A line of a log. `is_bare` if it is one without a payload, as before September 2025."""

    type: str
    payload: Document
    at: datetime | None
    is_bare: bool = False

    @property
    def kind(self) -> str:
        """The type of the payload."""
        return snake_case(self.payload.get("type")) if "type" in self.payload else ""

    @property
    def starts_turn(self) -> bool:
        return self.type == "turn_context" or self.kind in ("task_started", "turn_started")


def is_context(text: str) -> bool:
    """Whether a text begins like one that Codex adds as the user's."""
    return _CONTEXT.match(text) is not None


def text_of(record: Record) -> str:
    return "".join(openai_items.texts_of(record.payload.get("content")))


def is_text_of(record: Record, said: Any) -> bool:
    """Whether a message has this text: all of it, or one of its blocks."""
    texts = openai_items.texts_of(record.payload.get("content"))
    return isinstance(said, str) and said.strip() in ("".join(texts).strip(), *map(str.strip, texts))


def is_plain_text(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") in ("input_text", "text")


def title_of(said: str) -> str | None:
    found = _REQUEST.search(said)
    return session_title({"title": said[found.end() :] if found else said}, [])


def error_of(payload: Document) -> Document:
    return without({"code": payload.get("codex_error_info"), "message": payload.get("message")})
