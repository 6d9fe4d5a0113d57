"""A process that runs maintenance on a store and prints a line after each batch."""

from __future__ import annotations

import sys
from typing import Any

import asm


def main(dsn: str, folder: str) -> None:
    policy = asm.RetentionPolicy(max_events_per_session=5, max_total_events=60, archive=folder, batch_size=1)
    with asm.SessionStore(dsn) as store:
        store.maintenance.execute(policy, progress=_print)


def _print(*call: Any) -> None:
    sys.stdout.write(f"{call}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
