"""`python -m tests.fault.event_writer DSN SESSION…`: append to sessions until a line is read."""

from __future__ import annotations

import itertools
import sys
import threading

import asm
from tests.conftest import an_event

LAST = "session_completed"


def write(dsn: str, sessions: list[str], stop: threading.Event) -> None:
    """Append numbered events to each session in turn, and a last one of type LAST when `stop` is set."""
    with asm.SessionStore(dsn, timeout=60, retry_for=60) as store:
        for n in itertools.count(1):
            is_last = stop.is_set()
            for session_id in sessions:
                store.append_event(an_event(session_id, LAST if is_last else "message_sent", data={"n": n}))
            if is_last:
                return


def main() -> None:
    dsn, *sessions = sys.argv[1:]
    stop = threading.Event()
    writer = threading.Thread(target=write, args=(dsn, sessions, stop))
    writer.start()
    sys.stdin.readline()
    stop.set()
    writer.join()


if __name__ == "__main__":
    main()
