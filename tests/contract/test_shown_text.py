"""Whatever ids and values contain: errors, logs and the command show no character that acts or hides.

The tests find the methods, the commands and their parameters by introspection, so they cover new ones.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import asm
from asm.cli.command import cli
from asm.export_files import jsonl
from tests.conftest import POSTGRES, Blocking, an_artifact, an_event
from tests.contract.other_clients import only
from tests.contract.test_cli import COLOUR
from tests.unit.test_shown import HOSTILE, unseen


class Named:
    """A value of the caller's with a hostile repr."""

    def __repr__(self) -> str:
        return HOSTILE


VALUES: dict[str, Any] = {
    "text": HOSTILE,
    "no text": f"{HOSTILE}\0\ud800",
    "long text": HOSTILE * 1_000,
    "list": [f"{HOSTILE}\0"],
    "document": {HOSTILE: {f"{HOSTILE}\0": object()}},
    "repr": Named(),
    "type": type(HOSTILE, (), {})(),
}

REQUIRED: dict[str, Any] = {
    **dict.fromkeys(["session_id", "run_id", "event_id", "id", "key"], HOSTILE),
    "session_ids": [HOSTILE],
    "change": lambda _: HOSTILE,
    "work": lambda _: HOSTILE,
    "event": an_event(HOSTILE),
    "events": [an_event(HOSTILE)],
    "session": asm.Session(id=HOSTILE, agent_id=HOSTILE),
    "run": asm.Run(session_id=HOSTILE),
    "artifact": an_artifact(HOSTILE),
    "export": asm.SessionExport(session=asm.Session(id=HOSTILE, agent_id=HOSTILE)),
    "policy": asm.RetentionPolicy(),
}


def check_seen(error: asm.AsmError) -> None:
    """Fail if an error shows a character that acts or hides, or has more than one line."""
    said = [str(error), repr(error), *_texts(error.details)]
    assert [each for each in said if unseen(each) or "\n" in each] == []


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for each in pair for text in _texts(each)]
    if isinstance(value, list | tuple):
        return [text for each in value for text in _texts(each)]
    return [value if isinstance(value, str) else repr(value)]


def ends_in_error(call: Callable[[], Any]) -> bool:
    """Whether a call raises an error of ours, which is checked."""
    try:
        result = call()
        if isinstance(result, Iterator):
            list(islice(result, 3))
    except asm.AsmError as error:
        check_seen(error)
        return True
    return False


# The store.


def methods_of(store: Any) -> Iterator[tuple[str, Callable[..., Any], dict[str, inspect.Parameter]]]:
    """Each public method with its parameters: those of the store and of its parts, such as `query`."""
    target = store._target if isinstance(store, Blocking) else store
    for part in ("", "query", "artifacts", "maintenance"):
        kind = type(getattr(target, part) if part else target)
        for name, function in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_") and (parameters := dict(inspect.signature(function).parameters)):
                parameters.pop("self", None)
                yield name, getattr(getattr(store, part) if part else store, name), parameters


def test_every_error_of_every_parameter_shows_what_is_in_the_value(store: Any) -> None:
    refused = []
    for name, method, parameters in methods_of(store):
        needed: dict[str, Any] = {
            each: REQUIRED[each]
            for each, takes in parameters.items()
            if takes.default is inspect.Parameter.empty
        }
        # Otherwise the call would wait for events.
        waits = {each: 0 for each in ("wait_timeout", "idle_timeout") if each in parameters}
        for parameter in parameters:
            for value in VALUES.values():
                arguments = needed | waits | {parameter: value}
                refused += [name] * ends_in_error(partial(method, **arguments))
    taking = {name for name, _, parameters in methods_of(store) if parameters}
    assert taking - set(refused) == set()


MODELS = (asm.Session, asm.Run, asm.Event, asm.Artifact, asm.SessionExport, asm.RetentionPolicy)
VALID: dict[type, dict[str, Any]] = {
    asm.Session: {"agent_id": "a"},
    asm.Run: {"session_id": "ses_1"},
    asm.Event: {"session_id": "ses_1", "type": "message_sent"},
    asm.Artifact: an_artifact().to_dict(),
    asm.SessionExport: {"session": asm.Session(agent_id="a")},
    asm.RetentionPolicy: {},
}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_error_of_a_model_shows_what_is_in_the_value(model: Any) -> None:
    refused = 0
    for field in inspect.signature(model).parameters:
        for value in VALUES.values():
            given = {**VALID[model], field: value}
            refused += ends_in_error(partial(model, **given))
            if hasattr(model, "from_dict"):
                refused += ends_in_error(partial(model.from_dict, {**given, HOSTILE: value}))
                refused += ends_in_error(partial(model.from_dict, given))
    assert refused


def _stored(store: Any) -> asm.SessionExport:
    session = asm.Session(id=HOSTILE, agent_id=HOSTILE, metadata={HOSTILE: 1})
    run = asm.Run(id=HOSTILE, session_id=HOSTILE)
    store.flush(session, run, [an_event(HOSTILE, id=HOSTILE)])
    store.artifacts.register(an_artifact(HOSTILE))
    return store.query.export_session(HOSTILE)  # type: ignore[no-any-return]


def _in_transaction(store: Any, statement: str) -> Any:
    with store.transaction() as tx:
        return tx.execute(statement)


STORED: dict[str, Callable[[Any, asm.SessionExport], Any]] = {
    "a session that does not exist": lambda store, _: store.get_session(f"{HOSTILE}2"),
    "a run that does not exist": lambda store, _: store.get_run(f"{HOSTILE}2", session_id=HOSTILE),
    "an event that does not exist": lambda store, _: store.get_event(HOSTILE, f"{HOSTILE}2"),
    "a sequence conflict": lambda store, _: store.append_event(an_event(HOSTILE), expected_sequence=7),
    "an artifact that exists": lambda store, _: store.artifacts.register(an_artifact(HOSTILE)),
    "a fork that exists": lambda store, _: store.fork_session(HOSTILE, id=HOSTILE),
    "a fork of more than there is": lambda store, _: store.fork_session(HOSTILE, upto=9),
    "a session that differs": lambda store, export: store.import_session(
        replace(export, session=replace(export.session, metadata={HOSTILE: 2}))
    ),
    "an event that differs": lambda store, export: store.import_session(
        replace(export, events=[replace(export.events[0], data={HOSTILE: 2})])
    ),
    "another id": lambda store, _: store.update_session(HOSTILE, lambda it: replace(it, id=f"{HOSTILE}2")),
    "a key that is no text": lambda store, _: store.append_event(an_event(data={HOSTILE: {1: 2}})),
    "a table that does not exist": lambda store, _: _in_transaction(store, f'select * from "{HOSTILE}"'),
    "a syntax error": lambda store, _: _in_transaction(store, f"select '{HOSTILE}' {HOSTILE}"),
    "a value that the server refuses": lambda store, _: _in_transaction(
        store, f"select cast('{HOSTILE}' as asm_integer), json_extract('{HOSTILE}', '$')"
    ),
    "a statement that is not sent": lambda store, _: _in_transaction(store, f"select '{HOSTILE}\ud800'"),
}


@pytest.mark.parametrize("case", STORED)
def test_an_error_about_what_is_stored_shows_what_is_in_it(store: Any, case: str) -> None:
    export = _stored(store)
    assert ends_in_error(lambda: STORED[case](store, export))


SCHEMA = "a\u200b\x1b[2J\u202e"


def test_every_error_of_opening_and_migrating_shows_what_is_in_the_value(dsn: str, tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    (folder / "text.db").write_text("no database\n" * 1_000)
    addresses = [
        *(HOSTILE, f"{HOSTILE}\0", f"sqlite:///{tmp_path}/{HOSTILE}/{HOSTILE}/x.db", f"sqlite:///{folder}"),
        *(f"sqlite:///{folder}/text.db", f"sqlite:///{folder}/empty.db", f"postgresql:///?{HOSTILE}=1"),
        *(f"host=/nowhere dbname='{HOSTILE}'", f"host=/nowhere {HOSTILE}=1", f"mysql://{HOSTILE}"),
        f"sqlite:///{tmp_path}/{'x' * 300}\u200b",
    ]
    calls: list[Callable[[], Any]] = [
        partial(act, **options)
        for act in (partial(asm.SessionStore, retry_for=0), asm.migrate, asm.pending_migrations)
        for options in (*({"dsn": each} for each in addresses), {"dsn": dsn, "schema": HOSTILE})
    ]
    calls.append(partial(asm.SessionStore, dsn, schema=SCHEMA))
    unusual: list[dict[str, Any]] = [{name: HOSTILE} for name in ("timeout", "retry_for", "migrate")]
    calls += [partial(asm.SessionStore, dsn, **each) for each in unusual]
    ended = [ends_in_error(call) for call in calls]
    assert sum(ended) > len(addresses)


# Logs.


def test_every_record_of_a_log_shows_what_is_in_its_values(
    dsn: str, opened: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    schema = None if dsn.startswith("sqlite") else SCHEMA
    asm.migrate(dsn, schema=schema)
    store = opened(dsn, schema=schema, slow_statement=0)
    _stored(store)
    for case in STORED.values():
        assert ends_in_error(partial(case, store, store.query.export_session(HOSTILE)))
    store.maintenance.execute(asm.RetentionPolicy())
    store.delete_session(HOSTILE)
    assert len(caplog.messages) > 20
    assert [each for each in caplog.messages if unseen(each) or "\n" in each] == []


@only(POSTGRES, why="SQLite retries nothing")
def test_the_reason_of_a_retry_shows_what_is_in_it(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    fail = (
        "do $body$ begin raise serialization_failure using message = $text$" + HOSTILE + "$text$; end $body$"
    )
    attempts = iter([fail, "select 1"])
    store.run_transaction(lambda tx: tx.execute(next(attempts)))
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "evil" in warning.getMessage()
    assert unseen(warning.getMessage()) == []


# The command.


def commands(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield (*names, name), command


def arguments_of(dsn: str, command: click.Command) -> Iterator[list[str]]:
    """Arguments with which a command succeeds, then with each of its parameters hostile."""
    stores = {
        "source": [dsn],
        "target": ["sqlite:///copy.db"],
        "session": [HOSTILE],
        "sessions": [HOSTILE],
        "paths": ["sessions.jsonl"],
        "prompt": [HOSTILE],
    }
    names = {each.name for each in command.params}
    options = [] if "target" in names else ["--dsn", dsn]
    if "adapter" in names:
        options += ["--adapter", "demo"]
    own = [
        word
        for each in command.params
        if isinstance(each, click.Argument) and each.name in stores
        for word in stores[each.name]
    ]
    yield [*options, *own]
    for each in command.params:
        if isinstance(each, click.Argument):
            yield [*options, HOSTILE]
            yield [HOSTILE, HOSTILE, HOSTILE]
        elif isinstance(each, click.Option) and not each.is_flag:
            yield [*options, *own, each.opts[-1], HOSTILE]
    yield [*options, *own, f"--{HOSTILE}"]


@pytest.fixture
def shown_store(migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of hostile text, and a working folder with an export."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with asm.SessionStore(migrated) as store:
        _store_hostile_text(store)
        Path("sessions.jsonl").write_bytes(b"".join(jsonl.dump([store.query.export_session(HOSTILE)])))
    return migrated


def _store_hostile_text(store: asm.SessionStore) -> None:
    document = {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]}
    ids: dict[str, Any] = {"session_id": HOSTILE, "run_id": HOSTILE}
    data: list[tuple[str, dict[str, Any]]] = [
        ("message_sent", {"role": HOSTILE, "content": HOSTILE}),
        ("message_received", {"content": _blocks()}),
        ("message_streamed", {"delta": HOSTILE}),
        ("tool_call_started", {"name": HOSTILE, "input": document}),
        ("tool_call_started", {"name": "bash", "input": {"command": HOSTILE}}),
        ("tool_call_completed", {"output": HOSTILE, HOSTILE: HOSTILE}),
        ("tool_call_failed", {"name": HOSTILE, "error": HOSTILE}),
        ("error_occurred", {"message": HOSTILE, "code": HOSTILE, "detail": HOSTILE}),
        (f"acme.{HOSTILE}", document),
    ]
    session = asm.Session(
        id=HOSTILE,
        agent_id=HOSTILE,
        tags=(HOSTILE,),
        parent_session_id=HOSTILE,
        metadata={"title": HOSTILE, HOSTILE: HOSTILE},
        context=document,
    )
    run = asm.Run(
        id=HOSTILE,
        session_id=HOSTILE,
        provider=HOSTILE,
        provider_metadata={"model": HOSTILE, HOSTILE: HOSTILE},
        input=document,
        output=HOSTILE,
        error={"message": HOSTILE, HOSTILE: HOSTILE},
        token_usage={"input_tokens": 3},
    )
    store.flush(session, run, [asm.Event(type=type, data=each, **ids) for type, each in data])
    store.flush(replace(session, id=f"{HOSTILE}2"), replace(run, session_id=f"{HOSTILE}2", id=f"{HOSTILE}2"))
    store.artifacts.register(an_artifact(HOSTILE, session_id=HOSTILE))
    # The health check names this session.
    store.append_event(an_event(f"lost {HOSTILE}"))


def _blocks() -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": HOSTILE},
        {"type": "thinking", "thinking": HOSTILE},
        {"type": HOSTILE},
        {"type": HOSTILE, "inlineData": {"mimeType": HOSTILE, "data": HOSTILE}},
        {"type": "image", "source": {"media_type": HOSTILE, "data": HOSTILE}},
        {"type": "tool_use", "id": HOSTILE, "name": HOSTILE, "input": {HOSTILE: HOSTILE}},
        {"type": "tool_result", "content": HOSTILE, "is_error": True},
    ]


COMMANDS = {" ".join(names): command for names, command in commands(cli)}


# What `asm serve` prints is in test_cli_serving.py: it goes on until it is interrupted.
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "serve"])
def test_no_command_prints_a_character_that_acts_or_hides(shown_store: str, name: str) -> None:
    for number, arguments in enumerate(arguments_of(shown_store, COMMANDS[name])):
        for environment in ({}, {"FORCE_COLOR": "1", "COLUMNS": "80"}):
            result = CliRunner().invoke(
                cli, [*name.split(), *arguments], env=environment, catch_exceptions=False
            )
            assert number or result.exit_code in (0, 1), result.stderr
            # Progress on a terminal moves the cursor; without one, the errors are the same.
            printed = COLOUR.sub("", result.stdout) + ("" if environment else result.stderr)
            assert unseen(printed) == [], arguments
            assert not printed.startswith("forged"), arguments
            assert "\nforged" not in printed, arguments


def test_files_of_any_name_and_contents_are_imported_and_refused_in_seen_characters(
    shown_store: str, tmp_path: Path
) -> None:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    with asm.SessionStore(shown_store) as store:
        export = store.query.export_session(HOSTILE)
    other = replace(export, session=replace(export.session, metadata={}))
    (folder / f"{HOSTILE}.jsonl").write_bytes(b"".join(jsonl.dump([other])))
    (folder / f"1{HOSTILE}.jsonl").write_text('{"format": "asm", "' + "\u202e\u200b" + '": ')
    (folder / f"{HOSTILE}.traj").write_text('{"trajectory": [{"' + "\u202e\u200b" + '": 3}]}')
    (folder / f"{HOSTILE}.txt").write_text(HOSTILE)
    for arguments in (["--strict", str(folder)], [str(each) for each in sorted(folder.iterdir())]):
        result = CliRunner().invoke(cli, ["import", *arguments, "--dsn", shown_store], catch_exceptions=False)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) >= 3
        assert unseen(result.output) == []
        assert "\nforged" not in result.output


def test_two_ids_that_differ_are_printed_differently(migrated: str) -> None:
    ids = [
        "ses_1",
        "ses_1\u200b",
        "ses_1\ufe0f",
        "ses_1\u3164",
        "ses_1 ",
        "ses_1\xa0",
        "ses_1\\u200b",
        "ses_1\n",
    ]
    with asm.SessionStore(migrated) as store:
        for id in ids:
            store.save_session(asm.Session(id=id, agent_id="a"))
    result = CliRunner().invoke(cli, ["sessions", "--dsn", migrated], catch_exceptions=False)
    printed = {line.partition("  ")[0] for line in result.stdout.splitlines()}
    assert printed == {
        "ses_1",
        r"ses_1\u200b",
        r"ses_1\ufe0f",
        r"ses_1\u3164",
        r"ses_1\x20",
        r"ses_1\xa0",
        r"ses_1\\u200b",
        r"ses_1\n",
    }


def test_an_id_that_cannot_be_typed_is_not_offered_as_a_completion(migrated: str) -> None:
    with asm.SessionStore(migrated) as store:
        for id in ("ses_1", "ses_1\x1b[2J", "ses_\u200b2"):
            store.save_session(asm.Session(id=id, agent_id="a"))
    for beginning in ("", "ses_"):
        words = {"COMP_WORDS": f"asm show {beginning}", "COMP_CWORD": "2", "ASM_DSN": migrated}
        result = CliRunner().invoke(cli, [], env={"_ASM_COMPLETE": "bash_complete", **words}, prog_name="asm")
        assert result.output == "plain,ses_1\n"
