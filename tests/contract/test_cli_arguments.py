"""What all commands have in common: help, where the DSN goes, exit statuses."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
import pytest

import asm
from asm.cli import transfer
from asm.cli.command import cli
from tests.contract.test_cli import a_session, invoke, output_of, run_process


def _commands(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, (*before, name))
        else:
            yield " ".join((*before, name)), command


COMMANDS = dict(_commands(cli))
TAKING_THE_DSN_BARE = [
    name
    for name, each in COMMANDS.items()
    if any(p.name == "dsn" for p in each.params if isinstance(p, click.Argument))
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASM_DSN", raising=False)
    asm.migrate("sqlite:///agents.db")
    return tmp_path


@pytest.mark.parametrize("group", [[], ["search"]])
def test_a_command_without_arguments_prints_its_help(group: list[str]) -> None:
    assert output_of(*group) == output_of(*group, "--help")


def test_python_dash_m_asm_is_the_command() -> None:
    result = run_process()
    assert (result.returncode, result.stdout.startswith("Usage: asm [OPTIONS] COMMAND")) == (0, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_an_example(command: str) -> None:
    assert re.search(rf"^  (?:\w+=\S+ )?asm {command}\b", output_of(*command.split(), "--help"), re.MULTILINE)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "copy"])
def test_every_command_takes_the_dsn_as_an_option(command: str) -> None:
    assert "--dsn DSN" in output_of(*command.split(), "--help")


def test_the_commands_that_also_take_the_dsn_bare_are_those_of_a_whole_store() -> None:
    assert TAKING_THE_DSN_BARE == ["migrate", "status", "rollback", "serve"]


@pytest.mark.parametrize("command", ["migrate", "status"])
def test_the_option_is_the_same_as_the_argument(migrated: str, command: str) -> None:
    assert output_of(command, "--dsn", migrated) == output_of(command, migrated)


@pytest.mark.parametrize("command", TAKING_THE_DSN_BARE)
def test_a_dsn_as_argument_and_as_option_is_a_usage_error(folder: Path, command: str) -> None:
    result = invoke(command, "sqlite:///agents.db", "--dsn", "sqlite:///agents.db")
    assert (result.exit_code, "as an argument or with --dsn, not both" in result.stderr) == (2, True)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in (*TAKING_THE_DSN_BARE, "copy")])
def test_a_dsn_in_the_wrong_place_is_answered_with_the_right_one(folder: Path, command: str) -> None:
    result = invoke(*command.split(), "sqlite:///agents.db")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"write `asm {command} --dsn sqlite:///agents.db`" in result.stderr


def test_a_file_in_the_place_of_a_dsn_is_answered_with_its_dsn(folder: Path) -> None:
    assert (
        "write `asm sessions --dsn sqlite:///agents.db`" in invoke("sessions", "--json", "agents.db").stderr
    )
    assert "use 'sqlite:///agents.db'" in invoke("status", "agents.db").stderr


def test_a_dsn_as_the_value_of_an_option_is_no_mistake(folder: Path) -> None:
    odd = "sqlite:///agents.db"
    assert output_of("sessions", "--agent", odd, "--dsn", odd) == "no sessions\n"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("status sqlite:///agents.db", 0),
        ("sessions --dsn sqlite:///agents.db", 0),
        ("health --dsn sqlite:///agents.db", 0),
        ("status sqlite:///new.db", 1),
        ("health --dsn sqlite:///orphaned.db", 1),
        ("sessions --dsn sqlite:///missing.db", 1),
        ("show ses_none --dsn sqlite:///agents.db", 1),
        ("stats ses_none --dsn sqlite:///agents.db", 1),
        ("sessions --dsn mysql://db/agents", 1),
        ("import empty.jsonl --dsn sqlite:///agents.db", 1),
        ("import missing.jsonl --dsn sqlite:///agents.db", 2),
        ("sessions --since yesterday", 2),
        ("frobnicate", 2),
    ],
)
def test_the_exit_status_is_1_for_a_failed_store_or_file_and_2_for_wrong_arguments(
    folder: Path, arguments: str, status: int
) -> None:
    (folder / "empty.jsonl").touch()
    with asm.SessionStore("sqlite:///orphaned.db", migrate=True) as store:
        a_session(store, id="ses_1")
        store.append_event(asm.Event(type="message_sent", session_id="ses_without_row"))
    assert invoke(*arguments.split()).exit_code == status


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_dsn_is_refused(folder: Path, blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke("sessions", "--dsn", blank)
    assert (result.exit_code, "the DSN is empty" in result.stderr) == (1, True)
    monkeypatch.setenv("ASM_DSN", blank)
    result = invoke("sessions")
    assert (result.exit_code, "the environment variable ASM_DSN is empty" in result.stderr) == (1, True)


# Connection strings, which may contain a password

SECRET = ("hunter2", "s3cr3t")
"""The parts of the passwords below."""

CONNECTION_STRINGS = [
    "postgresql://me:hunter2@127.0.0.1:1/agents",
    "POSTGRES://me:hunter2@127.0.0.1:1/agents",
    "postgresql+psycopg://me:hunter2@127.0.0.1:1/agents",
    "jdbc:postgresql://127.0.0.1:1/agents?user=me&password=hunter2",
    "postgresql://127.0.0.1:1/agents?password=hunter2&s3cr3t=x",
    "postgresql://me:hunter2@'s3cr3t@127.0.0.1:1/agents",
    "postgresql://me:hunter2/s3cr3t?x@127.0.0.1:1/agents",
    "postgresql://me:hunter2%40s3cr3t@127.0.0.1:1,127.0.0.1:1/agents",
    "'postgresql://me:hunter2@127.0.0.1:1/agents'",
    "postgresql://me:hunter2@127.0.0.1:1/agents\n",
    "ASM_DSN=postgresql://me:hunter2@127.0.0.1:1/agents",
    "mysql://me:hunter2@127.0.0.1:1/agents",
    "me:hunter2@127.0.0.1:1/agents",
    "host=127.0.0.1 port=1 password=hunter2",
    "  HOST = 127.0.0.1  port = 1  PASSWORD = hunter2",
    r"host=127.0.0.1 port=1 password='hunter2 \' s3cr3t'",
    "host=127.0.0.1 port=1 password='hunter2's3cr3t=x'",
    "host=127.0.0.1 password='hunter2 s3cr3t",
    "password=hunter2@s3cr3t",
    "password='hunter2 s3cr3t'",
    "host=127.0.0.1 port=1 sslpassword=hunter2 s3cr3t=x",
    "host=127.0.0.1 port=1 oauth_client_secret=hunter2 s3cr3t=x",
    "dbname='postgresql://me:hunter2@127.0.0.1:1/agents' host=127.0.0.1 port=1",
    "PGPASSWORD=hunter2",
    "db.example:5432:agents:me:hunter2",
    "*:*:*:*:hunter2",
]


def is_dsn(param: click.Parameter) -> bool:
    return param.name in ("dsn", "given_dsn", "source", "target")


GIVEN = {
    "dsn": "sqlite:///agents.db",
    "source": "sqlite:///agents.db",
    "target": "sqlite:///copy.db",
    "paths": "agents.db",
}


def complete(name: str, **given: str) -> list[str]:
    """A command with all of its arguments, some of which are given."""
    arguments = [str(each.name) for each in COMMANDS[name].params if isinstance(each, click.Argument)]
    return [*name.split(), *((GIVEN | given).get(each, "ses_1") for each in arguments)]


def places_for_a_dsn(name: str, dsn: str) -> Iterator[list[str]]:
    """A command with a DSN in each place that takes one, also split by a shell."""
    for param in filter(is_dsn, COMMANDS[name].params):
        if isinstance(param, click.Argument):
            yield complete(name, **{str(param.name): dsn})
            yield [*name.split(), *dsn.split()]
        else:
            given = [word for word in complete(name) if word != GIVEN["dsn"]]
            yield [*given, "--dsn", dsn]
            yield [*given, f"--dsn={dsn}"]
            yield [*given, "--dsn", *dsn.split()]


def places_for_no_dsn(name: str, word: str) -> Iterator[list[str]]:
    """A command with a word in each place that takes no DSN."""
    command = COMMANDS[name]
    json = ["--json"] if any("--json" in each.opts for each in command.params) else []
    for param in command.params:
        if isinstance(param, click.Argument) and not is_dsn(param):
            yield complete(name, **{str(param.name): word})
            yield [*complete(name, **{str(param.name): word}), *json]
        elif isinstance(param, click.Option) and not is_dsn(param):
            is_even = CONNECTION_STRINGS.index(word) % 2 == 0
            yield [*complete(name), *([f"{param.opts[0]}={word}"] if is_even else [param.opts[-1], word])]
    yield [*complete(name), word]
    yield [*complete(name), *word.split()]
    yield [*complete(name), "--", word]
    yield [*complete(name), f"--{word}"]
    yield [*complete(name), f"-{word}"]
    yield [*name.split()[:-1], word]
    yield [*name.split()[:-1], f"--{word}"]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_shows_any_part_of_a_connection_string(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ASM_DSN", "sqlite:///agents.db")
    # A copy waits for a server that is away.
    monkeypatch.setattr(transfer, "SessionStore", partial(asm.SessionStore, retry_for=0))
    for word in CONNECTION_STRINGS:
        for arguments in places_for_no_dsn(command, word):
            assert exit_status_without_secret(*arguments) == 2, arguments
        for arguments in places_for_a_dsn(command, word):
            assert exit_status_without_secret(*arguments) in (1, 2), arguments
    assert [part for part in SECRET if part in caplog.text] == []
    assert [each.name for each in folder.iterdir() if not each.name.startswith("agents.db")] == []


def exit_status_without_secret(*arguments: str) -> int:
    result = invoke(*arguments)
    assert [part for part in SECRET if part in result.stdout + result.stderr] == [], arguments
    return result.exit_code


@pytest.mark.parametrize(
    ("arguments", "expected", "place"),
    [
        ("", "COMMAND", "--dsn"),
        ("search", "COMMAND", "--dsn"),
        ("show", "SESSION", "--dsn"),
        ("export ses_1", "SESSION", "--dsn"),
        ("import", "PATH", "--dsn"),
        ("sessions", "no argument", "--dsn"),
        ("status sqlite:///agents.db", "no argument", "--dsn"),
        ("copy sqlite:///agents.db sqlite:///copy.db", "no argument", "SRC and DST"),
        ("search events --session", "the value of --session", "--dsn"),
        ("export ses_1 -o", "the value of --output", "--dsn"),
        ("run --adapter demo", "PROMPT", "--dsn, or give the prompt on the standard input, as `-`"),
    ],
)
def test_a_connection_string_in_the_wrong_place_is_answered_with_the_right_one(
    folder: Path, arguments: str, expected: str, place: str
) -> None:
    result = invoke(*arguments.split(), CONNECTION_STRINGS[0])
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "asm: An argument that looks like a connection string was given where "
        f"{expected} was expected: use {place}. See `"
    )


@pytest.mark.parametrize(
    "words",
    [
        "status HOST PASSWORD = hunter2",
        "copy sqlite:///agents.db password='hunter2 s3cr3t'",
        "sessions --dsn password='hunter2 s3cr3t'",
        "export --dsn HOST PASSWORD = hunter2",
    ],
)
def test_a_connection_string_that_a_shell_has_split_is_not_shown(folder: Path, words: str) -> None:
    result = invoke(*words.split(" "))
    assert (result.exit_code, [part for part in SECRET if part in result.stderr]) == (2, [])
    assert "put quotation marks around the whole string" in result.stderr


@pytest.mark.parametrize(
    "word",
    [
        *("ses_0199a1", "tenant:42:chat:user:7", "slack:U024@T1", "owner:ann@example.com", "host=web1"),
        *("https://agents.example:8080/@bob", "ann@example.com", "passed=yes", "service=billing user"),
    ],
)
def test_ids_and_tags_that_are_no_connection_strings_are_accepted(folder: Path, word: str) -> None:
    with asm.SessionStore("sqlite:///agents.db") as store:
        store.save_session(asm.Session(agent_id=word, id=word, tags=(word,)))
    found = output_of("sessions", "--tag", word, "--agent", word, "--dsn", "sqlite:///agents.db", "--json")
    assert [each["id"] for each in json.loads(found)["items"]] == [word]
    assert word in output_of("show", word, "--dsn", "sqlite:///agents.db")


# DSNs in files


def dsn_file(dsn: str, mode: int = 0o600, name: str = "store.dsn") -> str:
    Path(name).write_text(dsn)
    Path(name).chmod(mode)
    return f"@{name}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reads_a_dsn_from_a_file_wherever_it_takes_one(folder: Path, command: str) -> None:
    places = list(places_for_a_dsn(command, "@missing.dsn"))
    assert places
    for arguments in places:
        result = invoke(*arguments)
        assert (result.exit_code, "asm: missing.dsn: No such file" in result.stderr) in (
            (1, True),
            (2, False),
        )
    assert invoke(*places[0]).exit_code == 1


def test_the_dsn_in_a_file_opens_the_store(folder: Path) -> None:
    file = dsn_file("sqlite:///agents.db\n")
    assert output_of("status", file) == output_of("status", "sqlite:///agents.db")
    assert output_of("sessions", "--dsn", file) == "no sessions\n"
    other = dsn_file("sqlite:///copy.db\r\n", name="copy.dsn")
    assert invoke("copy", file, other).exit_code == 0
    assert output_of("status", other) == output_of("status", "sqlite:///copy.db")


def test_the_file_of_a_dsn_may_be_a_link(folder: Path) -> None:
    dsn_file("sqlite:///agents.db")
    Path("link.dsn").symlink_to("store.dsn")
    assert output_of("sessions", "--dsn", "@link.dsn") == "no sessions\n"


@pytest.mark.parametrize(
    ("mode", "is_private"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False), (0o620, False)]
)
def test_a_warning_says_that_others_may_read_or_change_the_file_of_a_dsn(
    folder: Path, mode: int, is_private: bool
) -> None:
    result = invoke("sessions", "--dsn", dsn_file("sqlite:///agents.db", mode))
    assert (result.exit_code, result.stdout) == (0, "no sessions\n")
    warning = "asm: other users may read or change store.dsn: run chmod 600 on it\n"
    assert result.stderr == ("" if is_private else warning)


@pytest.mark.parametrize(
    "content",
    ["", "\n", "  \n", "hunter2\nhunter2\n", "#\npostgresql://hunter2@db/x\n", "hunter2" * 10_000],
    ids=["empty", "a line end", "blanks", "two lines", "a comment", "long"],
)
def test_a_file_that_is_no_dsn_is_a_usage_error_that_shows_nothing_of_it(folder: Path, content: str) -> None:
    result = invoke("sessions", "--dsn", dsn_file(content))
    assert (result.exit_code, "hunter2" in result.stderr) == (2, False)
    assert "store.dsn must contain one line, which is the DSN" in result.stderr


@pytest.mark.parametrize(
    "content", [b"hunter2\xff", b"hunter2", *(each.encode() for each in CONNECTION_STRINGS)]
)
def test_an_error_about_the_dsn_in_a_file_does_not_show_it(folder: Path, content: bytes) -> None:
    file = Path("store.dsn")
    file.touch(0o600)
    file.write_bytes(content)
    result = invoke("sessions", "--dsn", "@store.dsn")
    assert (result.exit_code, [part for part in SECRET if part in result.stderr]) == (1, [])


def test_a_pipe_in_place_of_the_file_of_a_dsn_is_refused_at_once(folder: Path) -> None:
    os.mkfifo("store.dsn")
    result = invoke("sessions", "--dsn", "@store.dsn")
    assert (result.exit_code, "store.dsn: it is a named pipe" in result.stderr) == (1, True)
