"""Events like those of agents: about 300 bytes of JSON, ids that grow with time, a run, a provider."""

from __future__ import annotations

import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

import asm

SESSIONS = 200

_TEXT = (
    "The failing test expects the retry to stop after the third attempt, but the loop in client.py compares "
    "with < where it should use <=. I will change that line and run the suite again before touching anything "
    "else, because the timeout test depends on the same constant."
)


def document(number: int) -> dict[str, Any]:
    """A message of an agent: 300 bytes of JSON, no two alike."""
    cut = number % 60
    return {
        "role": "assistant",
        "content": _TEXT[cut : cut + 170],
        "model": "claude-sonnet-4",
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1_000 + number % 997, "output_tokens": 100 + number % 89},
        "turn": number % 50,
    }


DOCUMENTS = [document(number) for number in range(240)]
TEXTS = [orjson.dumps(each).decode() for each in DOCUMENTS]


def session_ids(number: int = SESSIONS) -> list[str]:
    """The ids of new sessions."""
    return [asm.Session(agent_id="bench").id for _ in range(number)]


def event(session_id: str, number: int) -> asm.Event:
    return asm.Event(
        type="message_sent",
        session_id=session_id,
        run_id=run_of(session_id),
        data=DOCUMENTS[number % len(DOCUMENTS)],
        provider="claude",
    )


def run_of(session_id: str) -> str:
    return session_id.replace("ses_", "run_")


def number_of_now() -> int:
    """Microseconds times a thousand, for the caller's number: nineteen digits until the year 2262."""
    return time.time_ns() // 1_000 * 1_000


def numbered_sessions(number: int = SESSIONS) -> list[str]:
    """Ids of nineteen digits, for sides that are compared with pgbench."""
    first = number_of_now()
    return [str(first + each) for each in range(number)]


def numbered_event(session_id: str, number: int) -> asm.Event:
    return asm.Event(
        id=str(next(_NUMBERS)),
        type="message_sent",
        session_id=session_id,
        run_id=session_id,
        data=DOCUMENTS[number % len(DOCUMENTS)],
        provider="claude",
    )


_NUMBERS = itertools.count(number_of_now(), 1_000)


class Supply:
    """Events made before the clock starts, in the order of their ids, for any number of callers.

    The floors make no events; the benchmark `thin` measures what making one costs.
    """

    def __init__(
        self,
        sessions: Sequence[str],
        make: Callable[[str, int], asm.Event] = event,
        per_second: float = 20_000,
    ) -> None:
        self.sessions = sessions
        self._make = make
        self._waiting: deque[asm.Event] = deque()
        self._per_second = per_second
        self.take = self._waiting.popleft

    def __len__(self) -> int:
        return len(self._waiting)

    def fill(self, seconds: float) -> None:
        """Make enough events for this many seconds."""
        wanted = int(self._per_second * seconds * 1.6) + 64
        choose = random.Random(wanted).choice
        self._waiting.clear()
        self._waiting.extend(self._make(choose(self.sessions), number) for number in range(wanted))

    def learn(self, rate: float) -> None:
        """Remember the rate at which the events were taken."""
        self._per_second = rate


class Row(NamedTuple):
    """An event as a row of the table, in the order of the columns."""

    id: str
    type: str
    timestamp: str
    session_id: str
    run_id: str | None
    sequence_number: int
    data: str
    metadata: str
    schema_version: int
    provider: str | None
    correlation_id: str | None


def row(event: asm.Event, number: int) -> Row:
    return Row(
        event.id,
        str(event.type),
        # As SQLite stores it, with a fixed width; PostgreSQL parses it, too.
        f"{event.timestamp.isoformat(timespec='microseconds')[:26]}Z",
        event.session_id,
        event.run_id,
        number,
        orjson.dumps(event.data).decode(),
        "{}",
        event.schema_version,
        event.provider,
        event.correlation_id,
    )


def rows(session_id: str, number: int, first: int = 1) -> list[Row]:
    return [row(event(session_id, n), n) for n in range(first, first + number)]


COLUMNS = ", ".join(Row._fields)
