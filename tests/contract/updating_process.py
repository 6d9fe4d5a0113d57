"""Updates a session a number of times, in a process of its own."""

from __future__ import annotations

import sys

import asm
from tests.contract.test_updates import add_to_context


def main(dsn: str, updates: str) -> None:
    with asm.SessionStore(dsn) as store:
        for _ in range(int(updates)):
            store.update_session("ses_1", add_to_context)
    print("done")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
