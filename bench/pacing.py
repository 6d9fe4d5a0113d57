"""`python -m bench.pacing DSN SCHEMA PREFIX`: a process that appends PER_SECOND events a second.

For each line `SECONDS SESSIONS` on its input it appends to random sessions PREFIX0, PREFIX1, …, and
prints a list of the calls' durations. An event carries the monotonic time at which its call began.
"""

from __future__ import annotations

import json
import random
import sys
import time

import asm

PER_SECOND = 100


def main() -> None:
    dsn, schema, prefix = sys.argv[1:]
    with asm.SessionStore(dsn, schema=schema or None) as store:
        for line in sys.stdin:
            seconds, sessions = line.split()
            print(json.dumps(append(store, prefix, float(seconds), int(sessions))), flush=True)


def append(store: asm.SessionStore, prefix: str, seconds: float, sessions: int) -> list[float]:
    took_s: list[float] = []
    due = time.monotonic()
    end = due + seconds
    while not took_s or due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        # At random intervals, so that appends do not synchronize with the polls.
        due += random.uniform(0.5, 1.5) / PER_SECOND
        event = asm.Event(
            type="message_sent",
            session_id=f"{prefix}{random.randrange(sessions)}",
            data={"at": time.monotonic()},
        )
        store.append_event(event)
        took_s.append(time.monotonic() - event.data["at"])
    return took_s


if __name__ == "__main__":
    main()
