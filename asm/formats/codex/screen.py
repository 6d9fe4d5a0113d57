"""What a Codex log tells for the screen: texts of the model that an item has, too, before or after it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from asm.documents import Document
from asm.formats.session_rows import without

UNTOLD_MAX = 1_000
"""The texts that wait for their items. A turn has a few at a time."""


@dataclass(slots=True)
class UntoldText:
    """A text of the screen whose item was not read. `name` is the field of the event that gets it."""

    number: int
    record_id: str
    at: datetime
    name: str
    text: str
    rest: Document


class Screen:
    """Finds the texts of a turn that are told twice, whichever comes first: the item, or the screen's."""

    def __init__(self) -> None:
        self._said: Counter[bytes] = Counter()
        """The texts of items that the screen has not told."""
        self._untold: dict[bytes, list[UntoldText]] = {}
        self._number = 0

    @property
    def is_full(self) -> bool:
        """Whether so many texts wait that the turn has to be ended for the screen."""
        return self._number >= UNTOLD_MAX

    def say(self, text: str) -> bool:
        """Note that an item has a text. Returns whether the screen told it before."""
        digest = _digest(text)
        waiting = self._untold.get(digest)
        if not waiting:
            self._said[digest] += 1
            return False
        waiting.pop(0)
        self._number -= 1
        return True

    def tell(self, untold: UntoldText) -> bool:
        """Note that the screen tells a text. Returns whether an item had it before."""
        digest = _digest(untold.text)
        if not self._said[digest]:
            self._untold.setdefault(digest, []).append(untold)
            self._number += 1
            return False
        self._said[digest] -= 1
        return True

    def end_turn(self) -> list[UntoldText]:
        """The texts that no item of the turn has had."""
        untold = [each for waiting in self._untold.values() for each in waiting]
        self._untold, self._number = {}, 0
        self._said.clear()
        return sorted(untold, key=lambda each: each.number)


def not_empty(document: Document, *names: str) -> Document:
    """The other fields of a document that have more than an empty value."""
    return {name: value for name, value in without(document, *names).items() if value not in ([], {}, "")}


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
