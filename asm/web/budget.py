"""How much a page shows: the size of a page is bounded, whatever its events contain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asm.shown import prose

_LEAST = 200
"""Characters of a text that are shown when nothing is left."""

TEXT_MAX = 12_000
"""Characters of one text on the page of a session. The page of its event shows more."""

PAGE_MAX = 360_000
"""Characters of all texts on a page. They become up to 1 MB of markup."""

EVENT_MAX = 1_000_000
"""Characters of one text on the page of one event."""

MARKUP_MAX = 120_000
"""Characters on a page that are read as Markdown or highlighted. Further ones are shown as they are."""


@dataclass(slots=True)
class Budget:
    """What is left of the size of a page."""

    each: int = TEXT_MAX
    left: int = PAGE_MAX
    markup_left: int = MARKUP_MAX
    image_left: int = 500_000

    def take(self, text: str) -> tuple[str, int]:
        """As much of a text as the page shows, and how many characters it leaves out."""
        length = max(min(self.each, self.left, len(text)), min(len(text), _LEAST))
        # The last line is whole, unless it is very long.
        if length < len(text) and (end := text.rfind("\n", max(0, length - 400), length)) > 0:
            length = end
        # Characters that nobody sees take up to ten times as many.
        shown = prose(text[:length])
        if len(shown) > max(length, _LEAST) and len(shown) > self.each // 2:
            length //= 10
            shown = prose(text[:length])
        self.left -= len(shown)
        return shown, len(text) - length

    def take_markup(self, text: str) -> bool:
        """Whether a text may still be made into markup."""
        self.markup_left -= len(text)
        return self.markup_left >= 0

    def take_image(self, encoded: str) -> bool:
        """Whether an image may still be part of the page."""
        self.image_left -= len(encoded)
        return self.image_left >= 0


def of_event() -> Budget:
    """The budget of the page of one event."""
    return Budget(each=EVENT_MAX, left=2 * EVENT_MAX, image_left=12_000_000)


def size_of(value: Any) -> int:
    """About how many characters a document has."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + size_of(each) for key, each in value.items())
    return sum(map(size_of, value)) if isinstance(value, list) else 8
