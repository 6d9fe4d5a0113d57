"""The `asm` command: its output on a terminal and in a pipe, its errors and exit statuses."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import asm
from asm.cli.command import cli
from asm.export_files import jsonl
from tests.conftest import POSTGRES, an_artifact
from tests.contract.other_clients import STEP, STEPS, only

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo.py"
SMALL = ROOT / "tests" / "data" / "small.traj"
REAL = ROOT.parent / "shared" / "data" / "trajectories"

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


printed_alike = only(["sqlite"], why="what a terminal gets depends on what is stored, and not on where")


@pytest.fixture
def store(migrated: str) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(migrated) as store:
        yield store


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    file = tmp_path / "broken.traj"
    file.write_text('{"trajectory": [{"action": 3}]}')
    return file


def invoke(*arguments: str | Path) -> Result:
    """Run the command in this process. Its output is not a terminal."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)


def output_of(*arguments: str | Path) -> str:
    """The standard output of a command that succeeds."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def run_process(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process."""
    command = [sys.executable, "-m", "asm", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", env=os.environ | environment, check=False
    )


def terminal_output(
    *arguments: str | Path, columns: int = 80, environment: Mapping[str, str] | None = None
) -> str:
    """What the command prints on a terminal of this width, by default without a pager."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ASM_PAGER", "COLUMNS", "LINES", "NO_COLOR", "PAGER")
    }
    given = {"TERM": "xterm-256color", **({"ASM_PAGER": ""} if environment is None else environment)}
    command = [sys.executable, "-m", "asm", *map(str, arguments)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**inherited, **given}):
        os.close(theirs)
        seen = b"".join(iter(lambda: read_from(ours), b""))
    os.close(ours)
    return seen.decode().replace("\r\n", "\n")


def read_from(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:
        # Linux raises EIO when the last process has closed the terminal.
        return b""


def a_session(store: asm.SessionStore, *events: tuple[str, dict[str, Any]], **fields: Any) -> asm.Session:
    session = asm.Session(**({"agent_id": "helper"} | fields))
    run = asm.Run(session_id=session.id, status="running", token_usage={"input_tokens": 1_200}, cost_usd=0.5)
    # One time for all: what lies between two events is shown from a millisecond on.
    ids: dict[str, Any] = {"session_id": session.id, "run_id": run.id, "timestamp": run.started_at}
    store.flush(session, run, [asm.Event(type=type, data=data, **ids) for type, data in events])
    return session


TALK: list[tuple[str, dict[str, Any]]] = [
    ("message_sent", {"role": "user", "content": "What is in here?"}),
    ("message_received", {"role": "assistant", "content": "I will look."}),
    ("tool_call_started", {"name": "bash", "input": "ls -F"}),
    ("tool_call_completed", {"output": "main.py\ntests/", "duration_s": 0.25}),
    ("tool_call_started", {"name": "search", "input": {"text": "x", "limit": 3}}),
    ("tool_call_failed", {"output": "timed out", "code": 124}),
    ("acme.plan_updated", {"steps": ["read", "write"]}),
    ("run_completed", {}),
]

HOSTILE = (
    "[bold]a[/bold] \x1b[2J\x1b]0;title\x07 \x00\x08\x9b1m \u202eevil \ud800 \u200b\u3164\U000e0041 \rover"
)


# Migrations and status.


def test_migrate_says_what_it_applied(dsn: str) -> None:
    assert output_of("migrate", dsn) == "".join(f"applied {step}\n" for step in STEPS)


def test_migrate_says_when_there_is_nothing_to_apply(migrated: str) -> None:
    assert output_of("migrate", migrated) == "up to date\n"


def test_the_default_store_is_that_of_the_environment_variable(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASM_DSN", migrated)
    assert output_of("migrate") == "up to date\n"


def test_rollback_changes_nothing_without_confirmation(migrated: str, store: asm.SessionStore) -> None:
    a_session(store)
    refused = CliRunner().invoke(cli, ["rollback", migrated], input="n\n")
    assert refused.exit_code == 1
    assert "asm_sessions (1 row)" in refused.stderr
    assert asm.pending_migrations(migrated) == []


def test_rollback_drops_the_tables(migrated: str) -> None:
    assert output_of("rollback", migrated, "--yes") == "".join(
        f"rolled back {step}\n" for step in STEPS[::-1]
    )
    assert asm.pending_migrations(migrated) == STEPS


def test_rollback_of_an_empty_database_says_so(dsn: str) -> None:
    assert output_of("rollback", dsn) == "nothing to roll back\n"


def test_status_of_an_empty_database_names_the_pending_migrations(dsn: str) -> None:
    assert f"{STEP}  pending" in invoke("status", dsn).stdout


def test_status_counts_the_rows(migrated: str, store: asm.SessionStore) -> None:
    a_session(store, ("message_sent", {}), ("message_received", {}))
    assert re.search(r"events +2 rows", output_of("status", migrated))


def test_status_prints_json(migrated: str, store: asm.SessionStore) -> None:
    a_session(store, ("message_sent", {}))
    found = json.loads(output_of("status", migrated, "--json"))
    assert (found["applied"], found["pending"], found["rows"]["events"]) == (STEPS, [], 1)


@pytest.mark.parametrize("command", ["status", "rollback", "sessions", "show", "export"])
def test_reading_a_file_that_does_not_exist_does_not_create_it(command: str, tmp_path: Path) -> None:
    dsn = f"sqlite:///{tmp_path / 'absent.db'}"
    arguments = {
        "sessions": ["sessions", "--dsn"],
        "show": ["show", "ses_1", "--dsn"],
        "export": ["export", "--all", "--dsn"],
    }
    invoke(*arguments.get(command, [command]), dsn)
    assert list(tmp_path.iterdir()) == []


@only(POSTGRES, why="SQLite has no schemas")
def test_the_tables_may_be_in_a_schema_of_their_own(dsn: str) -> None:
    output_of("migrate", dsn, "--schema", 'Agents "2"')
    output_of("import", SMALL, "--dsn", dsn, "--schema", 'Agents "2"')
    assert "swe-agent" in output_of("sessions", "--dsn", dsn, "--schema", 'Agents "2"')


# Importing.


def test_an_imported_session_is_listed(migrated: str) -> None:
    assert output_of("import", SMALL, "--dsn", migrated) == "imported 1 session with 23 events\n"
    assert "swe-agent" in output_of("sessions", "--dsn", migrated)


def test_importing_again_adds_nothing(migrated: str) -> None:
    output_of("import", SMALL, "--dsn", migrated)
    before = output_of("status", migrated)
    again = output_of("import", SMALL, "--dsn", migrated)
    assert again == "imported 0 sessions with 0 events, 1 already existed\n"
    assert output_of("status", migrated) == before


def test_importing_a_trajectory_again_does_not_overwrite_a_changed_session(
    migrated: str, store: asm.SessionStore
) -> None:
    output_of("import", SMALL, "--dsn", migrated)
    [session] = store.list_sessions()
    store.save_session(session.update_status("paused"))
    output_of("import", SMALL, "--dsn", migrated)
    assert store.get_session(session.id).status == "paused"


def test_a_renamed_copy_adds_nothing(migrated: str, tmp_path: Path) -> None:
    copy = shutil.copy(SMALL, tmp_path / "copy.traj")
    assert "1 already existed" in output_of("import", SMALL, copy, "--dsn", migrated)


def test_a_folder_is_imported_with_its_subfolders(migrated: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    shutil.copy(SMALL, tmp_path / "deep")
    assert output_of("import", tmp_path / "deep", "--dsn", migrated).startswith("imported 1 session")


def test_a_broken_file_is_reported_and_the_others_are_imported(migrated: str, broken: Path) -> None:
    result = invoke("import", broken, SMALL, "--dsn", migrated)
    assert result.exit_code == 1
    assert result.stdout == "imported 1 session with 23 events, 1 could not be read\n"
    assert result.stderr == f"asm: {broken}: trajectory[0].action must be a string, not a whole number\n"


def test_a_folder_without_readable_files_is_reported(migrated: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = invoke("import", tmp_path / "empty", "--dsn", migrated)
    assert result.exit_code == 1
    assert "no file in this folder has a format that asm reads" in result.stderr


@only(POSTGRES, why="a SQLite file is created")
def test_importing_into_a_server_without_tables_names_the_command_that_creates_them(dsn: str) -> None:
    result = invoke("import", SMALL, "--dsn", dsn)
    assert result.exit_code == 1
    assert "`asm migrate`" in result.stderr


def test_importing_creates_a_sqlite_file_that_does_not_exist(tmp_path: Path) -> None:
    assert output_of("import", SMALL, "--dsn", f"sqlite:///{tmp_path / 'new.db'}").startswith(
        "imported 1 session"
    )


@printed_alike
def test_the_progress_bar_is_shown_only_on_a_terminal(migrated: str) -> None:
    assert "Importing" in terminal_output("import", SMALL, "--dsn", migrated)
    assert run_process("import", SMALL, "--dsn", migrated).stderr == ""


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/trajectories next to the repository")
def test_real_trajectories_are_imported_once(migrated: str) -> None:
    first = output_of("import", REAL, "--dsn", migrated)
    before = output_of("status", migrated)
    assert first == "imported 7 sessions with 233 events, 1 file passed over\n"
    assert "7 already existed" in output_of("import", REAL, "--dsn", migrated)
    assert output_of("status", migrated) == before


# Exporting.


@pytest.fixture
def another(tmp_path: Path) -> Iterator[asm.SessionStore]:
    """An empty store to import into."""
    with asm.SessionStore(f"sqlite:///{tmp_path / 'another.db'}", migrate=True) as store:
        yield store


def exports_of(store: asm.SessionStore) -> list[asm.SessionExport]:
    sessions = sorted(store.list_sessions(include_deleted=True), key=lambda session: session.id)
    return [store.query.export_session(session.id, include_artifacts=True) for session in sessions]


def fill(store: asm.SessionStore) -> list[asm.Session]:
    """Save three sessions with unusual documents and an artifact each, one of them soft-deleted."""
    filled = [a_session(store, *TALK, ("message_sent", {"odd": "\ud800", "n": 10**4_000})) for _ in range(2)]
    filled.append(a_session(store, deleted_at=filled[0].created_at))
    for session in filled:
        store.artifacts.register(an_artifact(session.id, session_id=session.id))
    return filled


def test_an_exported_store_is_imported_completely(
    migrated: str, store: asm.SessionStore, another: asm.SessionStore, tmp_path: Path
) -> None:
    fill(store)
    file = tmp_path / "store.jsonl"
    output_of("export", "--all", "--artifacts", "-o", file, "--dsn", migrated)
    output = output_of("import", file, "--dsn", f"sqlite:///{tmp_path / 'another.db'}")
    assert output == "imported 3 sessions with 18 events\n"
    assert exports_of(another) == exports_of(store)


def test_sessions_are_exported_by_id(migrated: str, store: asm.SessionStore) -> None:
    first, second, _ = fill(store)
    written = run_process("export", second.id, first.id, "--dsn", migrated).stdout
    exports = list(jsonl.load(written.encode().splitlines(keepends=True)))
    assert exports == [store.query.export_session(each.id) for each in (second, first)]


def test_an_export_goes_through_a_pipe(
    migrated: str, store: asm.SessionStore, another: asm.SessionStore, tmp_path: Path
) -> None:
    fill(store)
    written = run_process("export", "--all", "--artifacts", "-o", "-", "--dsn", migrated).stdout
    into = ["import", "-", "--dsn", f"sqlite:///{tmp_path / 'another.db'}"]
    assert CliRunner().invoke(cli, into, input=written).exit_code == 0
    assert exports_of(another) == exports_of(store)


@printed_alike
def test_an_export_is_utf_8_whatever_the_locale(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(store, agent_id="é")
    written = run_process("export", session.id, "--dsn", migrated, PYTHONIOENCODING="latin-1").stdout
    (export,) = jsonl.load(written.encode().splitlines(keepends=True))
    assert export.session == session


def test_importing_an_export_again_adds_nothing(
    migrated: str, store: asm.SessionStore, tmp_path: Path
) -> None:
    fill(store)
    file = tmp_path / "store.jsonl"
    output_of("export", "--all", "-o", file, "--dsn", migrated)
    output = output_of("import", file, "--dsn", migrated)
    assert output == "imported 0 sessions with 0 events, 3 already existed\n"


def test_a_compressed_export_is_imported(
    migrated: str, store: asm.SessionStore, another: asm.SessionStore, tmp_path: Path
) -> None:
    session = a_session(store, *TALK)
    written = run_process("export", session.id, "--dsn", migrated).stdout
    file = tmp_path / "store.jsonl.gz"
    file.write_bytes(gzip.compress(written.encode()))
    output_of("import", file, "--dsn", f"sqlite:///{tmp_path / 'another.db'}")
    assert exports_of(another) == exports_of(store)


def test_a_compressed_export_goes_through_a_pipe(
    migrated: str, store: asm.SessionStore, another: asm.SessionStore, tmp_path: Path
) -> None:
    session = a_session(store, *TALK)
    written = gzip.compress(b"".join(jsonl.dump([store.query.export_session(session.id)])))
    into = ["import", "-", "--dsn", f"sqlite:///{tmp_path / 'another.db'}"]
    assert CliRunner().invoke(cli, into, input=written).exit_code == 0
    assert exports_of(another) == exports_of(store)


def test_an_export_is_imported_from_a_named_pipe(another: asm.SessionStore, tmp_path: Path) -> None:
    export = asm.SessionExport(session=asm.Session(agent_id="helper"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[b"".join(jsonl.dump([export]))], daemon=True)
    writer.start()
    output_of("import", pipe, "--dsn", f"sqlite:///{tmp_path / 'another.db'}")
    writer.join()
    assert exports_of(another) == [export]


def test_an_empty_standard_input_is_an_error(another: asm.SessionStore, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli, ["import", "-", "--dsn", f"sqlite:///{tmp_path / 'another.db'}"], input=""
    )
    assert (result.exit_code, "the file is empty" in result.stderr) == (1, True)


@pytest.mark.parametrize("redirected", ["import - <&-", "export --all >&-"])
def test_a_closed_standard_stream_is_an_error_on_one_line(
    another: asm.SessionStore, tmp_path: Path, redirected: str
) -> None:
    command = f"{sys.executable} -m asm {redirected}"
    result = subprocess.run(
        ["sh", "-c", command],
        env=os.environ | {"ASM_DSN": f"sqlite:///{tmp_path / 'another.db'}"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert result.stderr.startswith("asm: the standard ")


def test_a_conflicting_session_is_reported_and_the_others_are_imported(
    migrated: str, store: asm.SessionStore, another: asm.SessionStore, tmp_path: Path
) -> None:
    first, *_ = fill(store)
    another.save_session(first.update_status("failed"))
    file = tmp_path / "store.jsonl"
    output_of("export", "--all", "-o", file, "--dsn", migrated)
    result = invoke("import", file, "--dsn", f"sqlite:///{tmp_path / 'another.db'}")
    assert result.exit_code == 1
    assert result.stdout == "imported 2 sessions with 9 events, 1 existed with different contents\n"
    assert result.stderr.startswith(f"asm: {file}: session '{first.id}' already exists with different")


def test_a_truncated_export_is_reported_with_its_line_number(
    migrated: str, store: asm.SessionStore, tmp_path: Path
) -> None:
    session = a_session(store, *TALK)
    written = run_process("export", session.id, "--dsn", migrated).stdout
    file = tmp_path / "cut.jsonl"
    file.write_text("".join(written.splitlines(keepends=True)[:5]))
    result = invoke("import", file, "--dsn", migrated)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"asm: {file}: line 6: expected `event`")


def test_a_failed_export_leaves_an_existing_file_unchanged(
    migrated: str, store: asm.SessionStore, tmp_path: Path
) -> None:
    session = a_session(store)
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "store.jsonl"
    output_of("export", session.id, "-o", file, "--dsn", migrated)
    older = file.read_bytes()
    result = invoke("export", session.id, "ses_none", "-o", file, "--dsn", migrated)
    assert (result.exit_code, result.stderr) == (1, "asm: no session has the id 'ses_none'\n")
    assert (list(file.parent.iterdir()), file.read_bytes()) == ([file], older)


def test_an_export_is_written_into_a_named_pipe(
    migrated: str, store: asm.SessionStore, tmp_path: Path
) -> None:
    session = a_session(store)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)
    output_of("export", session.id, "-o", pipe, "--dsn", migrated)
    written = os.read(reader, 65_536)
    os.close(reader)
    assert list(jsonl.load(written.splitlines(keepends=True))) == exports_of(store)
    assert pipe.is_fifo()


def test_an_export_replaces_the_target_of_a_symbolic_link(
    migrated: str, store: asm.SessionStore, tmp_path: Path
) -> None:
    a_session(store)
    file, link = tmp_path / "store.jsonl", tmp_path / "link"
    link.symlink_to(file)
    output_of("export", "--all", "-o", link, "--dsn", migrated)
    assert (link.is_symlink(), list(jsonl.read(file))) == (True, exports_of(store))


def test_an_export_into_a_missing_folder_is_an_error(
    migrated: str, store: asm.SessionStore, tmp_path: Path
) -> None:
    session = a_session(store)
    file = tmp_path / "absent" / "store.jsonl"
    result = invoke("export", session.id, "-o", file, "--dsn", migrated)
    assert (result.exit_code, result.stderr) == (1, f"asm: {file}: No such file or directory\n")


def test_an_export_to_an_empty_file_name_is_an_error(migrated: str, store: asm.SessionStore) -> None:
    session = a_session(store)
    result = invoke("export", session.id, "-o", "", "--dsn", migrated)
    assert (result.exit_code, result.stderr) == (
        1,
        "asm: --output must name a file, or - for the standard output\n",
    )


@pytest.mark.parametrize("arguments", [[], ["ses_1", "--all"]])
def test_export_takes_either_session_ids_or_all(migrated: str, arguments: list[str]) -> None:
    result = invoke("export", *arguments, "--dsn", migrated)
    assert (result.exit_code, "Name the sessions to export, or give --all" in result.stderr) == (2, True)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device here is always full")
@pytest.mark.parametrize("command", ["sessions", "sessions --json", "status", "export --all"])
def test_a_full_disk_is_an_error_on_one_line(another: asm.SessionStore, tmp_path: Path, command: str) -> None:
    a_session(another)
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "asm", *command.split()],
            env=os.environ | {"ASM_DSN": f"sqlite:///{tmp_path / 'another.db'}", "PYTHONUNBUFFERED": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
        )
    assert result.stderr == "asm: cannot write to the standard output: No space left on device\n"
    assert result.returncode == 1


def test_the_demo_records_a_new_session_each_time(dsn: str) -> None:
    seen = [
        subprocess.run([sys.executable, str(DEMO), dsn], capture_output=True, encoding="utf-8")
        for _ in range(2)
    ]
    assert all("Will it rain in Bergen today?" in each.stdout for each in seen), seen[0].stderr
    assert len(output_of("sessions", "--dsn", dsn).splitlines()) == 2


def test_the_demo_ends_with_a_command_that_shows_its_session(dsn: str) -> None:
    seen = subprocess.run([sys.executable, str(DEMO), dsn], capture_output=True, encoding="utf-8").stdout
    shown = subprocess.run(seen.splitlines()[-1], shell=True, capture_output=True, encoding="utf-8")
    assert "Yes, from two o'clock on." in shown.stdout, shown.stderr


# Usage errors.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["--frobnicate"], "No such option '--frobnicate'"),
        (["import"], "Missing argument 'PATH...'"),
        (["import", "/not/there"], "Path '/not/there' does not exist"),
        (["show"], "Name a session, or give --latest."),
        (["show", "ses_1", "--latest"], "Name a session, or give --latest."),
        (["show", "ses_1", "--errors", "--type", "run_failed"], "Give --errors or --type, not both."),
        (["show", "a", "b"], "unexpected extra argument (b)"),
        (["sessions", "--limit", "none"], "'none' is not a valid"),
        (["sessions", "--limit", "0"], "0 is not in the range"),
        (["sessions", "--status", "lost"], "'lost' is not one of 'pending', 'active'"),
        (["run", "hi"], "Choose from: anthropic, openai, claude-code, demo. See `"),
        (["search", "events", "--limit"], "requires an argument. See `"),
    ],
)
def test_a_usage_error_is_one_line_with_exit_status_2(arguments: list[str], complaint: str) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert complaint in result.stderr


@pytest.mark.parametrize("command", [["status"], ["migrate"], ["sessions", "--dsn"]])
@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:hunter2@127.0.0.1:1/none",
        "host=127.0.0.1 port=1 user=me password=hunter2",
        "postgresql://me:hunter2@[::1/none",
        "mysql://me:hunter2@127.0.0.1/none",
        "sqlite://",
    ],
)
def test_a_store_that_cannot_be_opened_is_an_error_on_one_line_without_its_password(
    command: list[str], dsn: str
) -> None:
    result = invoke(*command, dsn)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"asm: .+\n", result.stderr)
    assert "hunter2" not in result.stderr


def test_a_file_that_cannot_be_created_is_an_error_on_one_line(tmp_path: Path) -> None:
    result = invoke("migrate", f"sqlite:///{tmp_path}/none/store.db")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"asm: .+\n", result.stderr)


def test_the_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"asm \d+\.\d+\.\d+\n", output_of("--version"))


@pytest.mark.parametrize("command", cli.commands)
def test_every_command_has_help(command: str) -> None:
    assert output_of(command, "--help").startswith(f"Usage: cli {command}")


def test_every_command_has_a_summary_of_one_line() -> None:
    listed = output_of("--help").partition("Commands:")[2].splitlines()[1:]
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize("command", [*cli.commands, "search sessions", "search runs", "search events"])
def test_help_fits_80_columns(command: str) -> None:
    output = CliRunner(env={"COLUMNS": "80"}).invoke(cli, [*command.split(), "--help"]).stdout
    assert [line for line in output.splitlines() if len(line) > 80] == []
