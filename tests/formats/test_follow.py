"""What `asm import --follow` promises while files change."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import asm
from asm.migrations.runner import status
from tests.contract.other_clients import ROOT, read_line
from tests.fault.concurrent_writers import wait_until
from tests.formats.claude_logs import Record, Writer, write

WAIT_S = 60.0
"""For a busy machine: it is far longer than an import takes."""

COMMAND = "from asm.cli import main; main()"
WATCHERS = {"watchfiles": COMMAND, "polling": f"import sys; sys.modules['watchfiles'] = None; {COMMAND}"}

IDS = [f"5e1f0c2a-7b3d-4c8e-9a61-00000000000{number}" for number in range(4)]


@pytest.fixture(params=WATCHERS)
def follow(request: pytest.FixtureRequest, migrated: str) -> Callable[[Path], object]:
    """Runs the command on a folder during a block, until what is there is imported."""
    if request.param == "watchfiles" and importlib.util.find_spec("watchfiles") is None:
        pytest.skip("watchfiles is not installed")

    @contextmanager
    def following(folder: Path) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, "-c", WATCHERS[request.param], "import", "-f", str(folder), "--dsn", migrated],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            try:
                assert "imported" in read_line(process)
                yield process
            finally:
                process.kill()

    return following


def append(path: Path, record: Record) -> None:
    addition = write(path.with_suffix(".part"), [record]).read_bytes()
    path.with_suffix(".part").unlink()
    with path.open("ab") as file:
        file.write(addition)


def prompts(store: asm.SessionStore, id: str, number: int) -> list[object]:
    """What was said in a session, once that is so many prompts."""
    found: list[object] = []
    for event in store.follow_events(id, type="message_sent", idle_timeout=WAIT_S):
        found.append(event.data["content"])
        if len(found) == number:
            break
    return found


def test_files_are_imported_as_they_are_written_replaced_and_deleted(
    follow: Callable[[Path], Iterator[object]], migrated: str, tmp_path: Path
) -> None:
    logs = [Writer(id) for id in IDS]
    folder = tmp_path / "logs"
    old = write(folder / f"{IDS[0]}.jsonl", [logs[0].user("at first")])
    with asm.SessionStore(migrated) as store, follow(folder):  # type: ignore[attr-defined]
        append(old, logs[0].user("grown"))
        assert prompts(store, IDS[0], 2) == ["at first", "grown"]
        append(old, logs[0].user("again"))
        assert prompts(store, IDS[0], 3)[2] == "again"

        new = write(folder / f"{IDS[1]}.jsonl", [logs[1].user("a new file")])
        assert prompts(store, IDS[1], 1) == ["a new file"]
        inner = write(folder / "a" / "new folder" / f"{IDS[2]}.jsonl", [logs[2].user("in it")])
        assert prompts(store, IDS[2], 1) == ["in it"]

        write(new, [logs[1].user("truncated, and written again")])
        assert prompts(store, IDS[1], 2)[1] == "truncated, and written again"
        write(folder / "other", [logs[2].user("another file"), logs[2].user("of its name")]).replace(inner)
        assert prompts(store, IDS[2], 3)[1:] == ["another file", "of its name"]

        old.unlink()
        write(folder / f"{IDS[3]}.jsonl", [logs[3].user("after a deletion")])
        assert prompts(store, IDS[3], 1) == ["after a deletion"]
        assert len(prompts(store, IDS[0], 3)) == 3
        assert store.maintenance.health_check() == []


def test_what_is_imported_is_indexed(
    follow: Callable[[Path], Iterator[object]], migrated: str, tmp_path: Path
) -> None:
    log = Writer(IDS[0])
    asm.migrate(migrated, text_search=True)
    path = write(tmp_path / "logs" / f"{IDS[0]}.jsonl", [log.user("at first")])
    with asm.SessionStore(migrated) as store, follow(path.parent):  # type: ignore[attr-defined]
        append(path, log.user("grown"))
        assert len(prompts(store, IDS[0], 2)) == 2
        wait_until(lambda: status(migrated).rows["unindexed_events"] == 0)
        assert status(migrated).rows["event_words"] == store.get_latest_sequence(IDS[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_what_was_read_stored_and_status_0(
    follow: Callable[[Path], Iterator[object]], migrated: str, number: signal.Signals, tmp_path: Path
) -> None:
    log = Writer(IDS[0])
    path = write(tmp_path / "logs" / f"{IDS[0]}.jsonl", [log.user("at first")])
    with asm.SessionStore(migrated) as store, follow(path.parent) as process:  # type: ignore[attr-defined]
        append(path, log.user("grown"))
        assert len(prompts(store, IDS[0], 2)) == 2
        process.send_signal(number)
        output, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0
        assert "more event" in output
        assert "Traceback" not in errors


def test_a_file_that_cannot_be_imported_is_named_once_and_the_others_are_imported(
    follow: Callable[[Path], Iterator[object]], migrated: str, tmp_path: Path
) -> None:
    logs = [Writer(id) for id in IDS]
    folder = tmp_path / "logs"
    bad = write(folder / f"{IDS[0]}.jsonl", [logs[0].user("at first")])
    with asm.SessionStore(migrated) as store, follow(folder) as process:  # type: ignore[attr-defined]
        with bad.open("a") as file:
            file.write("no record\n")
        append(bad, logs[0].user("behind it"))
        write(folder / f"{IDS[1]}.jsonl", [logs[1].user("good")])
        assert prompts(store, IDS[1], 1) == ["good"]
        os.utime(bad)
        write(folder / f"{IDS[2]}.jsonl", [logs[2].user("good, too")])
        assert prompts(store, IDS[2], 1) == ["good, too"]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=WAIT_S)
        assert errors.count("line 2: not JSON") == 1


def test_only_folders_are_followed(migrated: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = subprocess.run(
        [sys.executable, "-m", "asm", "import", "--follow", str(file), "--dsn", migrated],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 2
    assert "--follow needs folders" in done.stderr
