"""`asm run`, `asm runs` and `asm recover`: runs of agents, and those that nobody is running any more."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple, NoReturn, cast

import click

from asm.agents.blocking import SessionManager
from asm.agents.protocol import Adapter
from asm.cli.display import usage_of
from asm.cli.ids import complete_session_id, find_session_id
from asm.cli.lists import Times, show_runs
from asm.cli.options import dsn_option, json_option, open_store, print_json
from asm.cli.printer import Printer
from asm.cli.text import inline, one_line, shortened
from asm.content import error_text
from asm.errors import ValidationError
from asm.models import Event, EventType, Run
from asm.shown import prose

_CALL_LENGTH_MAX = 200
_TERMINATED = 143
"""What a shell reports of a command that SIGTERM ended."""


class _Played(NamedTuple):
    """An adapter with the tools that its model may call."""

    adapter: Adapter
    tools: Iterable[dict[str, Any]] = ()
    on_tool: Callable[[str, Any], Any] | None = None


def _anthropic(model: str | None) -> _Played:
    name = _required(model, "anthropic")
    from asm.agents.anthropic import Claude

    return _Played(Claude(model=name))


def _openai(model: str | None) -> _Played:
    name = _required(model, "openai")
    from asm.agents.openai import Responses

    return _Played(Responses(model=name))


def _claude_code(_model: str | None) -> _Played:
    from asm.agents.claude_code import ClaudeCode

    return _Played(ClaudeCode())


def _demo(_model: str | None) -> _Played:
    from asm.agents import demo

    return _Played(demo.Demo(), demo.TOOLS, demo.on_tool)


_ADAPTERS: dict[str, Callable[[str | None], _Played]] = {
    "anthropic": _anthropic,
    "openai": _openai,
    "claude-code": _claude_code,
    "demo": _demo,
}


def _required(model: str | None, adapter: str) -> str:
    if model is None:
        raise click.UsageError(f"The adapter {adapter} needs a --model.")
    return model


@click.command()
@click.argument("prompt")
@click.option(
    "--adapter", type=click.Choice(list(_ADAPTERS)), required=True, help="The adapter that calls the model."
)
@click.option("--model", metavar="NAME", help="The provider's name of the model.")
@click.option(
    "--session",
    metavar="ID",
    shell_complete=complete_session_id,
    help="Continue this session. By default a new one begins.",
)
@click.option("--system", metavar="TEXT", help="The system prompt.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="End the run after this time."
)
@dsn_option
def run(
    prompt: str,
    dsn: str | None,
    schema: str | None,
    *,
    adapter: str,
    model: str | None,
    session: str | None,
    system: str | None,
    timeout: float | None,
) -> None:
    """Ask a model, and store the run.

    PROMPT is what the user says; `-` reads it from the standard input. The answer is printed as it arrives,
    calls of tools and the usage go to the standard error. Every step is stored before it is printed. Ctrl-C
    cancels the run, stores that, and ends the command with status 130; SIGTERM does the same with status
    143. If the run fails, the status is 1.

    The adapters anthropic, openai and claude-code need the extra of the same name and the provider's key in
    the environment, as its SDK reads it. The adapter demo needs none: it plays a fixed answer.

    \b
    asm run --adapter anthropic --model claude-opus-5-5 "What is a WAL?"
    git diff | asm run --adapter openai --model gpt-6-sol --system Review -
    asm run --adapter demo "Will it rain in Bergen today?"
    """
    played = _loaded(adapter, model)
    text = sys.stdin.read() if prompt == "-" else prompt
    with _interrupted_by_sigterm(), open_store(dsn, schema) as store:
        manager = SessionManager(store)
        id = manager.start_session(adapter).id if session is None else find_session_id(store, session)
        events = manager.stream(
            id,
            played.adapter,
            text,
            tools=played.tools,
            on_tool=played.on_tool,
            system=system,
            model=model,
            timeout=timeout,
        )
        try:
            # Closed before the store is: an interrupt may come between two events, too.
            with closing(cast(Generator[Event], events)):
                run_id = _Output().show(events)
        finally:
            _note(f"session {id}")
        _note(usage_of(store.get_run(run_id, session_id=id)))


def _loaded(adapter: str, model: str | None) -> _Played:
    try:
        return _ADAPTERS[adapter](model)
    except ImportError as error:
        raise ValidationError(str(error)) from error


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Have SIGTERM interrupt the block as Ctrl-C does. A second one does not keep the run from ending."""

    def interrupt(number: int, _frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except SystemExit:
        click.echo("asm: terminated by SIGTERM", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


class _Output:
    """Prints the text of a run to the standard output, and what else happens to the standard error."""

    def __init__(self) -> None:
        self._is_streamed = False
        self._is_in_line = False

    def show(self, events: Iterable[Event]) -> str:
        """Print a run, and return its id."""
        run_id = ""
        try:
            for event in events:
                run_id = event.run_id or run_id
                self._show(event)
        finally:
            self._end_line()
        return run_id

    def _show(self, event: Event) -> None:
        data = event.data
        if event.type == EventType.MESSAGE_STREAMED:
            self._is_streamed = True
            self._write(str(data.get("delta", "")))
        elif event.type == EventType.MESSAGE_RECEIVED:
            if not self._is_streamed and isinstance(data.get("content"), str):
                self._write(data["content"])
            self._end_line()
            self._is_streamed = False
        elif event.type == EventType.TOOL_CALL_STARTED:
            _note(f"→ {data.get('name')} {inline(data.get('input'))}")
        elif event.type == EventType.TOOL_CALL_COMPLETED:
            _note(f"← {inline(data.get('output'))}")
        elif event.type == EventType.TOOL_CALL_FAILED:
            _note(f"← failed: {error_text(data.get('error'))}")

    def _write(self, text: str) -> None:
        click.echo(prose(text), nl=False)
        sys.stdout.flush()
        self._is_in_line = self._is_in_line or bool(text)

    def _end_line(self) -> None:
        if self._is_in_line:
            click.echo()
        self._is_in_line = False


def _note(text: str) -> None:
    if text:
        click.secho(shortened(one_line(text), _CALL_LENGTH_MAX), err=True, dim=True)


_grace = click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="End only runs whose lease ended at least this long ago: clocks differ.",
)


@click.command()
@click.option("--stale", is_flag=True, help="Only those whose lease has ended.")
@_grace
@dsn_option
@json_option
def runs(dsn: str | None, schema: str | None, *, stale: bool, grace: float, as_json: bool) -> None:
    """List the runs that are going on, the oldest first.

    A run of an agent has a lease, which is renewed while it goes on. It is stale if its program was killed,
    so that its lease is over. `asm recover` ends stale runs. `asm search runs` finds runs of any status.

    \b
    asm runs --dsn sqlite:///agents.db
    asm runs --stale --json | jq -r '.[].session_id'
    """
    with open_store(dsn, schema) as store:
        if stale:
            found = store.maintenance.list_stale_runs(grace=grace)
        else:
            found = list(store.query.iter_runs(status="running", order_by="started_at_asc"))
    _print_runs(found, as_json=as_json)


@click.command()
@_grace
@dsn_option
@json_option
def recover(dsn: str | None, schema: str | None, *, grace: float, as_json: bool) -> None:
    """End the runs whose program has died as failed, and list them.

    Runs that go on are left alone, and so are those of programs that keep no lease. The command may be run
    at any time, by several machines at once.

    \b
    asm recover --dsn sqlite:///agents.db
    * * * * *  asm recover
    """
    with open_store(dsn, schema) as store:
        ended = SessionManager(store).recover(grace=grace)
    _print_runs(ended, as_json=as_json)


def _print_runs(found: list[Run], *, as_json: bool) -> None:
    if as_json:
        print_json([run.to_dict() for run in found])
    else:
        printer = Printer()
        show_runs(printer, found, {}, times=Times.of(printer, utc=False))
