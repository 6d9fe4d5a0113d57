"""Imports a folder in small transactions, and prints a line before each file: `DSN FOLDER`."""

from __future__ import annotations

import sys

import asm
from asm.formats import import_files, importing, log_reading

importing.EVENTS_PER_TRANSACTION = 3
log_reading.STORED_FROM_BYTES = 2_000

if __name__ == "__main__":
    with asm.SessionStore(sys.argv[1]) as store:
        import_files(store, [sys.argv[2]], progress=lambda done, *_: print(done, flush=True))  # noqa: T201 - the test reads it
