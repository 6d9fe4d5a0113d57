"""What the data of an event contains, in the spelling of any SDK."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from asm.documents import Document

P = TypeVar("P")


IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""An SVG image is a document, which may contain links and scripts."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text that was said."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """Text that a model thought."""

    text: str


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a sound or a file. `description` has its name, its address, or its type and size.

    `encoded` is its content in base64, "" if the block has an address only.
    """

    kind: str
    description: str
    media_type: str | None = field(default=None, compare=False)
    encoded: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool. An input that is JSON in a string is decoded."""

    name: str | None
    input: Any
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returned, or the error with which it failed. Content blocks are joined to one string."""

    output: Any
    error: str | None = None
    failed: bool = False
    name: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Other:
    """A content block of a kind that is not known."""

    value: Any


Part: TypeAlias = Text | Thinking | Media | ToolCall | ToolResult | Other


@dataclass(frozen=True, slots=True)
class Content:
    """The parts of an event's data in their order, and the fields that are not part of any."""

    role: str | None = None
    parts: tuple[Part, ...] = ()
    rest: Document = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What was said, without thinking and tools."""
        return "\n".join(part.text for part in self.of(Text))

    @property
    def calls(self) -> list[ToolCall]:
        return self.of(ToolCall)

    def of(self, kind: type[P]) -> list[P]:
        """The parts of one kind."""
        return [part for part in self.parts if isinstance(part, kind)]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a message, as a stream delivers it. `input` is a piece of a tool call's JSON."""

    kind: Literal["text", "thinking", "input"]
    text: str
