"""A process that holds the write lock of a SQLite file until it reads a line."""

from __future__ import annotations

import sqlite3
import sys


def main(path: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("begin immediate")
    sys.stdout.write("held\n")
    sys.stdout.flush()
    sys.stdin.readline()
    connection.execute("rollback")


if __name__ == "__main__":
    main(sys.argv[1])
