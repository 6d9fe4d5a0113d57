"""The batch job processes each file once, however often it is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

import asm
from tests.examples.programs import printed, run


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = (tmp_path / "texts").resolve()
    folder.mkdir()
    for number in range(4):
        folder.joinpath(f"{number}.txt").write_text(f"Text {number}\nand more of it\n", "utf-8")
    folder.joinpath("4.txt").write_bytes(b"\xff is not UTF-8")
    return folder


def test_a_file_that_fails_is_recorded_and_processed_again(dsn: str, texts: Path, tmp_path: Path) -> None:
    failed = run(tmp_path, "batch_job.py", texts, dsn)
    assert (failed.returncode, failed.stdout) == (1, "completed: 4, failed: 1\n"), failed.stderr

    texts.joinpath("4.txt").write_text("Repaired", "utf-8")
    assert printed(tmp_path, "batch_job.py", texts, dsn) == "completed: 1, failed: 0\n"

    with asm.SessionStore(dsn) as store:
        runs = [
            run for number in range(5) for run in store.list_runs(f"summarizer:{texts / f'{number}.txt'}")
        ]
        assert [run.output for run in runs] == ["Text 0", "Text 1", "Text 2", "Text 3", None, "Repaired"]
        assert runs[4].error["code"] == "UnicodeDecodeError"
        assert store.maintenance.health_check() == []


def test_a_file_whose_process_was_killed_is_processed_again(dsn: str, texts: Path, tmp_path: Path) -> None:
    session = asm.Session(id=f"summarizer:{texts / '0.txt'}", agent_id="summarizer", status="active")
    with asm.SessionStore(dsn, migrate=True) as store:
        # What a process leaves that is killed while it works on the file.
        store.flush(session, asm.Run(session_id=session.id, status="running"))

    run(tmp_path, "batch_job.py", texts, dsn)

    with asm.SessionStore(dsn) as store:
        lost, last = store.list_runs(session.id)
        assert (lost.error["code"], last.output) == ("ProcessLost", "Text 0")
        assert store.get_session(session.id).status == "completed"
        assert store.maintenance.health_check() == []
