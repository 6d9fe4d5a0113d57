"""A process that migrates when it reads a line.

Its arguments are a DSN and, optionally, the `sql` folder of another release with the ids of its migrations,
or `--stop`: then it prints "stopped" before it commits, and waits for a line.
"""

import json
import sys
from pathlib import Path
from typing import Any

import asm
from asm.migrations import files, yoyo_backends

STOP = "--stop"


def main(dsn: str, folder: str | None = None, *ids: str) -> None:
    if folder == STOP:
        stop_before_the_commit()
    elif folder:
        vars(files).update(sql_folder=Path(folder).joinpath, MIGRATIONS=ids, OPTIONAL={})
    write_line("ready")
    sys.stdin.readline()
    write_line(json.dumps(asm.migrate(dsn)))
    with asm.SessionStore(dsn) as store:
        store.append_event(asm.Event(type="message_sent", session_id="ses_1"))


def stop_before_the_commit(name: str = "apply_migrations") -> None:
    apply = getattr(yoyo_backends._ExistingConnection, name)

    def apply_and_stop(self: Any, migrations: Any) -> None:
        apply(self, migrations)
        write_line("stopped")
        sys.stdin.readline()

    setattr(yoyo_backends._ExistingConnection, name, apply_and_stop)


def write_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
