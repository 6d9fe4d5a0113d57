"""The files that a command writes and reads: never the store's own, and nothing is overwritten or passed over
silently."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

import asm
from asm.export_files import jsonl
from tests.conftest import POSTGRES
from tests.contract.other_clients import only
from tests.contract.planted_files import VICTIM, names_in, plant
from tests.contract.test_cli import ROOT, TALK, a_session, exports_of, invoke, output_of, run_process


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a store in the file `agents.db`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASM_DSN", "sqlite:///agents.db")
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(migrate=True) as store:
        a_session(store, *TALK, id="ses_1")
        a_session(store, *TALK, id="ses_2")
        yield store


@pytest.fixture
def server_store(migrated: str) -> Iterator[asm.SessionStore]:
    with asm.SessionStore(migrated) as store:
        yield store


WAYS = {
    "its name": "agents.db",
    "an absolute path": "{folder}/agents.db",
    "a detour": "detour/../agents.db",
    "a symbolic link": "link",
    "a symbolic link in another folder": "detour/link",
    "a link to its folder": "up/agents.db",
    "its log": "agents.db-wal",
    "the index of its log": "agents.db-shm",
    "its journal, which does not exist": "agents.db-journal",
    "a link to its journal, which does not exist": "journal",
}


def path_of(way: str, folder: Path) -> str:
    (folder / "detour").mkdir()
    (folder / "detour" / "link").symlink_to(folder / "agents.db")
    (folder / "link").symlink_to("agents.db")
    (folder / "up").symlink_to(folder)
    (folder / "journal").symlink_to("agents.db-journal")
    return way.format(folder=folder)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_export_never_overwrites_the_store(folder: Path, store: asm.SessionStore, way: str) -> None:
    before = exports_of(store)
    result = invoke("export", "--all", "-o", path := path_of(way, folder))
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{path} is a file of the store" in result.stderr
    assert exports_of(store) == before
    assert output_of("health") == "healthy\n"


@pytest.mark.parametrize("command", ["export --all", "sessions", "show ses_1 --json", "health"])
def test_a_command_does_not_append_its_output_to_the_store(store: asm.SessionStore, command: str) -> None:
    result = run_in_shell(f"{command} >> agents.db")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("asm: The standard output is a file of the store.")
    assert output_of("health") == "healthy\n"


def run_in_shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} -m asm {command}"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("way", ["agents.db", "link", "agents.db-wal"])
def test_the_store_is_not_imported_into_itself(folder: Path, store: asm.SessionStore, way: str) -> None:
    result = invoke("import", path_of(way, folder))
    assert result.exit_code == 2
    assert f"{way} is a file of the store: to copy a store use `asm copy`" in result.stderr


def test_the_files_of_the_store_are_passed_over_in_an_imported_folder(
    folder: Path, store: asm.SessionStore
) -> None:
    output_of("export", "ses_1", "-o", "one.jsonl")
    result = invoke("import", ".")
    assert result.exit_code == 0
    assert result.stdout.startswith("imported 0 sessions with 0 events, 1 already existed, ")
    named = [line for line in result.stderr.splitlines() if line.endswith(": a file of the store")]
    assert named == [
        f"asm: passed over {name}: a file of the store"
        for name in ("agents.db", "agents.db-shm", "agents.db-wal")
    ]


@pytest.mark.parametrize("way", ["agents.db", "{folder}/agents.db", "link", "up/agents.db"])
def test_a_store_is_not_copied_onto_itself(folder: Path, store: asm.SessionStore, way: str) -> None:
    result = invoke("copy", "sqlite:///agents.db", f"sqlite:///{path_of(way, folder)}")
    assert (result.exit_code, "SRC and DST are the same store" in result.stderr) == (2, True)


@only(POSTGRES, why="a SQLite store is recognised by its file")
def test_a_store_is_not_copied_onto_itself_by_another_dsn(
    migrated: str, server_store: asm.SessionStore
) -> None:
    a_session(server_store)
    other = make_conninfo(migrated, application_name="other")
    result = invoke("copy", migrated, other)
    assert (result.exit_code, "SRC and DST are the same store" in result.stderr) == (2, True)


@only(POSTGRES, why="SQLite has no schemas")
def test_a_store_is_copied_into_another_schema_of_its_database(
    migrated: str, server_store: asm.SessionStore
) -> None:
    a_session(server_store)
    output_of("copy", migrated, migrated, "--to-schema", "other")
    with asm.SessionStore(migrated, schema="other") as other:
        assert exports_of(other) == exports_of(server_store)


def test_a_store_is_not_copied_into_memory(store: asm.SessionStore) -> None:
    result = invoke("copy", "sqlite:///agents.db", "sqlite://")
    assert (result.exit_code, "DST is in memory and would be lost" in result.stderr) == (2, True)


def test_archives_are_not_written_where_the_store_is_named_as_one(tmp_path: Path) -> None:
    dsn = f"sqlite:///{tmp_path / 'ses_1.jsonl.gz'}"
    asm.migrate(dsn)
    result = invoke("maintain", "--archive", tmp_path, "--dsn", dsn)
    assert (result.exit_code, "is named as an archive: use another folder" in result.stderr) == (2, True)


def test_an_export_does_not_overwrite_a_file_of_another_kind(folder: Path, store: asm.SessionStore) -> None:
    (folder / "notes.txt").write_text("remember the milk")
    result = invoke("export", "--all", "-o", "notes.txt")
    assert result.exit_code == 1
    assert "notes.txt exists and is no export: name another file, or delete it" in result.stderr
    assert (folder / "notes.txt").read_text() == "remember the milk"


def test_an_export_replaces_an_earlier_one_and_keeps_its_permissions(
    folder: Path, store: asm.SessionStore
) -> None:
    file = folder / "store.jsonl"
    file.touch(mode=0o600)
    output_of("export", "ses_1", "-o", file)
    output_of("export", "--all", "-o", file)
    assert (len(list(jsonl.read(file))), stat.S_IMODE(file.stat().st_mode)) == (2, 0o600)


def test_an_export_changes_no_file_beside_the_one_that_is_named(
    folder: Path, store: asm.SessionStore
) -> None:
    victim = plant(folder / "store.jsonl.unfinished", "a link")
    (folder / ".store.jsonl.new").write_bytes(VICTIM)
    before = names_in(folder)
    output_of("export", "--all", "-o", "store.jsonl")
    assert invoke("export", "--all", "-o", "victim").exit_code == 1
    assert names_in(folder) == before | {"store.jsonl"}
    assert (victim.read_bytes(), (folder / ".store.jsonl.new").read_bytes()) == (VICTIM, VICTIM)


def test_an_export_replaces_the_file_to_which_the_users_own_link_leads(
    folder: Path, store: asm.SessionStore
) -> None:
    (folder / "link").symlink_to("store.jsonl")
    output_of("export", "ses_1", "-o", "link")
    output_of("export", "--all", "-o", "link")
    assert ((folder / "link").is_symlink(), len(list(jsonl.read(folder / "store.jsonl")))) == (True, 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to another user")
def test_an_export_does_not_follow_a_link_of_another_user(folder: Path, store: asm.SessionStore) -> None:
    (folder / "link").symlink_to("store.jsonl")
    os.lchown(folder / "link", 65_534, 65_534)
    result = invoke("export", "--all", "-o", "link")
    assert (result.exit_code, (folder / "store.jsonl").exists()) == (1, False)
    assert "link: a symbolic link of another user is not used: name another file" in result.stderr


WRITE_TWICE = """
import os, sys
from pathlib import Path
import asm
from asm.cli.command import cli

def run(*arguments):
    cli(arguments, standalone_mode=False)

def write():
    with asm.SessionStore("sqlite:///a.db", migrate=True) as store:
        events = [asm.Event(type="message_sent", session_id="ses_1") for _ in range(2)]
        store.append_events(events, session=asm.Session(id="ses_1", agent_id="helper"))
        policy = asm.RetentionPolicy(max_events_per_session=1, archive="archive")
        assert store.maintenance.execute(policy).errors == []
        run("export", "--all", "-o", "a.jsonl", "--dsn", "sqlite:///a.db")
        for file in sorted(Path().rglob("*")):
            print(file, oct(file.stat().st_mode & 0o7777))

os.umask(int(sys.argv[1], 8))
run("migrate", "sqlite:///migrated.db")
run("copy", "sqlite:///migrated.db", "sqlite:///copied.db")
write()
print("again")
for name in ("archive/ses_1.jsonl.gz", "a.jsonl", "a.db"):
    os.chmod(name, 0o640)
os.chmod("archive", 0o755)
write()
"""


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_new_files_are_private_and_existing_ones_keep_their_mode(tmp_path: Path, umask: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE_TWICE, umask],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        encoding="utf-8",
        check=True,
    )
    first, again = (
        dict(line.split(" 0o") for line in part.splitlines() if " 0o" in line)
        for part in done.stdout.split("again\n")
    )
    written = ["a.db", "a.db-shm", "a.db-wal", "a.jsonl", "archive/ses_1.jsonl.gz"]
    others = dict.fromkeys(["copied.db", "migrated.db"], "600")
    assert first == others | dict.fromkeys(written, "600") | {"archive": "700"}
    assert again == others | dict.fromkeys(written, "640") | {"archive": "755"}


def test_an_export_into_a_file_says_how_much_it_wrote(store: asm.SessionStore) -> None:
    result = invoke("export", "--all", "-o", "store.jsonl")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "exported 2 sessions with 16 events to store.jsonl\n"


def test_an_export_to_the_standard_output_says_nothing_else(store: asm.SessionStore) -> None:
    assert run_process("export", "--all").stderr == ""


def test_an_export_of_an_unknown_session_writes_nothing(store: asm.SessionStore) -> None:
    result = run_process("export", "ses_1", "nope")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "asm: no session has the id 'nope'\n"


def test_a_session_that_is_named_twice_is_exported_once(store: asm.SessionStore) -> None:
    output_of("export", "ses_1", "ses_1", "-o", "one.jsonl")
    assert len(list(jsonl.read(Path("one.jsonl")))) == 1


def test_the_beginning_of_an_id_is_enough_to_export_a_session(store: asm.SessionStore) -> None:
    a_session(store, id="ses_abcdef")
    assert invoke("export", "ses_a", "-o", "one.jsonl").exit_code == 0
    result = invoke("export", "ses_", "-o", "two.jsonl")
    assert (result.exit_code, Path("two.jsonl").exists()) == (1, False)


def test_a_folder_names_the_files_that_are_passed_over(folder: Path, store: asm.SessionStore) -> None:
    (folder / "in").mkdir()
    for number in range(25):
        (folder / "in" / f"{number:02}.txt").write_text("hi")
    output_of("export", "ses_1", "-o", "in/one.jsonl")
    result = invoke("import", "in")
    assert result.exit_code == 0
    assert result.stdout == "imported 0 sessions with 0 events, 1 already existed, 25 files passed over\n"
    lines = result.stderr.splitlines()
    assert lines[0] == "asm: passed over in/00.txt: unknown file format"
    assert (len(lines), lines[-1]) == (21, "asm: passed over 5 more files")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here fails for every user")
def test_a_file_of_a_folder_that_cannot_be_read_is_reported_and_the_others_are_imported(
    folder: Path, store: asm.SessionStore
) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "a").symlink_to("/proc/self/mem")
    output_of("export", "ses_1", "-o", "in/one.jsonl")
    assert invoke("import", "in").exit_code == 0
    result = invoke("import", "in", "--strict")
    assert result.exit_code == 1
    assert result.stdout == "imported 0 sessions with 0 events, 1 already existed, 1 could not be read\n"
    assert result.stderr == "asm: in/a: Input/output error\n"


@pytest.mark.parametrize("name", ["ünï 中文.jsonl", "line\nend.jsonl", "\x1b[31mred.jsonl"])
def test_a_file_may_have_any_name(folder: Path, store: asm.SessionStore, name: str) -> None:
    result = invoke("export", "--all", "-o", name)
    assert (result.exit_code, result.stderr.count("\n"), "\x1b" in result.stderr) == (0, 1, False)
    assert output_of("import", name) == "imported 0 sessions with 0 events, 2 already existed\n"


@pytest.mark.parametrize("command", ["export --all", "show ses_1 --json"])
def test_ctrl_c_ends_a_command_with_status_130_and_no_message(store: asm.SessionStore, command: str) -> None:
    big = [asm.Event(type="message_sent", session_id="ses_1", data={"s": "x" * 100_000}) for _ in range(20)]
    store.append_events(big)
    with subprocess.Popen(
        [sys.executable, "-m", "asm", *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        # The pipe is too small for the output, so the command is still writing.
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (130, b"")
