"""Process the text files of a folder in several processes: python examples/batch_job.py FOLDER [DSN]

Each file is a session, whose id contains the file's path, and each attempt is a run. A file that fails does
not stop the others. The command can be interrupted or killed at any time: run again, it processes the files
that are not completed yet. Its exit status is 1 if not all of them are completed in the end.
"""

import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import asm

AGENT = "summarizer"


class Item(NamedTuple):
    session_id: str
    file: Path


def main(folder: str, dsn: str) -> int:
    with asm.SessionStore(dsn, migrate=True) as store:
        items = unfinished(store, Path(folder).resolve())
        # The worker processes open stores of their own, so this one is closed before they start.
    statuses = process_all(items, dsn)
    failed = statuses.count(asm.SessionStatus.FAILED)
    print(f"completed: {len(statuses) - failed}, failed: {failed}")
    return 1 if failed else 0


def unfinished(store: asm.SessionStore, folder: Path) -> list[Item]:
    """The files of the folder that no earlier run of this command has completed."""
    items = [Item(f"{AGENT}:{file}", file) for file in sorted(folder.glob("*.txt"))]
    completed = {session.id for session in store.query.iter_sessions(agent_id=AGENT, status="completed")}
    return [item for item in items if item.session_id not in completed]


def process_all(items: Iterable[Item], dsn: str) -> list[asm.SessionStatus]:
    # A spawned process inherits no connection and no lock of this one. A forked process would.
    spawn = get_context("spawn")
    with ProcessPoolExecutor(mp_context=spawn, initializer=open_store, initargs=(dsn,)) as pool:
        futures = [pool.submit(process, item) for item in items]
        try:
            return [future.result().status for future in as_completed(futures)]
        except BaseException:
            # Without this, the rest would be processed before the error is reported.
            pool.shutdown(cancel_futures=True)
            raise


# In a worker process.

_store: asm.SessionStore


def open_store(dsn: str) -> None:
    """Open the store of this process, which uses it for all of its files."""
    global _store
    _store = asm.SessionStore(dsn)


def process(item: Item) -> asm.Session:
    """Process one file, and save its session, its run and their events."""
    session = asm.Session(id=item.session_id, agent_id=AGENT, status="active", tags=("batch",))
    run = asm.Run(
        session_id=session.id,
        status="running",
        input=str(item.file),
        provider="openai",
        provider_metadata={"model": "gpt-4o"},
        metadata={"process": os.getpid()},
    )

    def an_event(type: str, **data: object) -> asm.Event:
        return asm.Event(type=type, session_id=session.id, run_id=run.id, data=data)

    for lost in _store.list_runs(session.id, status="running"):
        _store.save_run(lost.set_error({"code": "ProcessLost", "message": "its process was killed"}))
    _store.flush(session, run, [an_event("run_started", input=run.input)])
    try:
        summary, usage = summarize(item.file.read_text("utf-8"))
    except Exception as error:
        failure = {"code": type(error).__name__, "message": str(error)}
        session, run = session.update_status("failed"), run.set_error(failure)
        events = [an_event("run_failed", **failure)]
    else:
        session, run = session.update_status("completed"), run.update_token_usage(usage).set_output(summary)
        events = [
            an_event("message_received", role="assistant", content=summary),
            an_event("run_completed", output=summary),
        ]
    # One transaction: a session is completed if and only if its result is stored.
    _store.flush(session, run, events)
    return session


def summarize(text: str) -> tuple[str, dict[str, int]]:
    """Stands for a call of a model. Returns its answer and its usage."""
    if not text.strip():
        raise ValueError("the file is empty")
    summary = text.strip().splitlines()[0][:80]
    return summary, {"input_tokens": len(text.split()), "output_tokens": len(summary.split())}


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: batch_job.py FOLDER [DSN]")
    try:
        sys.exit(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "sqlite:///asm-demo.db"))
    except (BrokenProcessPool, KeyboardInterrupt):
        sys.exit("A process was interrupted. Run the command again to continue.")
    except asm.AsmError as error:
        sys.exit(f"The store failed: {error}")
