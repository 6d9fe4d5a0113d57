"""`python -m tests.fault.event_writer DSN SESSION…`: append to sessions until told to stop."""

from __future__ import annotations

import itertools
import sys
import threading

import asm
from tests.conftest import an_event

LAST = "session_completed"


def write(dsn: str, sessions: list[str], told: threading.Event) -> None:
    """One event of each session after the other, numbered in their data, and at the end one that says so."""
    with asm.SessionStore(dsn, timeout=60, retry_for=60) as store:
        for n in itertools.count(1):
            is_last = told.is_set()
            for session_id in sessions:
                store.append_event(an_event(session_id, LAST if is_last else "message_sent", data={"n": n}))
            if is_last:
                return


def main() -> None:
    dsn, *sessions = sys.argv[1:]
    told = threading.Event()
    writer = threading.Thread(target=write, args=(dsn, sessions, told))
    writer.start()
    sys.stdin.readline()
    told.set()
    writer.join()


if __name__ == "__main__":
    main()
