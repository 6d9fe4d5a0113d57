"""A process that migrates when it is told to: it takes a DSN, and a `sql` folder that is not asm's own."""

import json
import sys
from pathlib import Path

import asm


def main(dsn: str, folder: str | None = None) -> None:
    if folder:
        vars(sys.modules["asm.migrations.files"])["sql_folder"] = Path(folder).joinpath
    say("ready")
    sys.stdin.readline()
    say(json.dumps(asm.migrate(dsn)))
    with asm.SessionStore(dsn) as store:
        store.append_event(asm.Event(type="message_sent", session_id="ses_1"))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
