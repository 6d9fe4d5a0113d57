"""`python -m bench.pacing DSN SCHEMA PREFIX`: another process that appends so many times a second.

For each line `SECONDS SESSIONS` on its input it appends to sessions PREFIX0, PREFIX1, … taken at random,
and prints how long each call took, as a list. An event tells when its call began, by the machine's clock.
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
        # Spread, or the looks of the one who waits would fall in step.
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
