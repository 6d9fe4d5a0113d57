"""What all commands have in common: help, where the DSN goes, exit statuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import asm
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


def test_the_commands_that_also_take_the_dsn_bare_are_those_for_tables() -> None:
    assert TAKING_THE_DSN_BARE == ["migrate", "status", "rollback"]


@pytest.mark.parametrize("command", ["migrate", "status"])
def test_the_option_is_the_same_as_the_argument(migrated: str, command: str) -> None:
    assert output_of(command, "--dsn", migrated) == output_of(command, migrated)


@pytest.mark.parametrize("command", TAKING_THE_DSN_BARE)
def test_a_dsn_as_argument_and_as_option_is_a_usage_error(folder: Path, command: str) -> None:
    result = invoke(command, "sqlite:///agents.db", "--dsn", "sqlite:///agents.db")
    assert (result.exit_code, "as an argument or with --dsn, not both" in result.stderr) == (2, True)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in (*TAKING_THE_DSN_BARE, "copy")])
def test_a_dsn_in_the_wrong_place_is_answered_with_the_right_one(folder: Path, command: str) -> None:
    for dsn, shown in {
        "sqlite:///agents.db": "sqlite:///agents.db",
        "postgresql://me:hunter2@db/agents": "postgresql://…",
    }.items():
        result = invoke(*command.split(), dsn)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"write `asm {command} --dsn {shown}`" in result.stderr
        assert "hunter2" not in result.stderr


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
