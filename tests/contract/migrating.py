"""A process that migrates when it reads a line. Its arguments are a DSN and, optionally, an `sql` folder."""

import json
import sys
from pathlib import Path

import asm
from asm.migrations import files


def main(dsn: str, folder: str | None = None) -> None:
    if folder:
        vars(files)["sql_folder"] = Path(folder).joinpath
    write_line("ready")
    sys.stdin.readline()
    write_line(json.dumps(asm.migrate(dsn)))
    with asm.SessionStore(dsn) as store:
        store.append_event(asm.Event(type="message_sent", session_id="ses_1"))


def write_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
