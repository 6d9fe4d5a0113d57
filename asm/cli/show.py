"""`asm show`: one session as a conversation."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from asm.cli.display import ERROR_TYPES
from asm.cli.heading import SUMMARIZED_TYPES, happenings, show_head
from asm.cli.html import check_installed, write_html
from asm.cli.ids import complete_session_id, find_run_id, find_session_id, latest_session_id
from asm.cli.options import dsn_option, json_option, open_store, print_json, repeatable_option
from asm.cli.pager import paged
from asm.cli.printer import Printer
from asm.cli.transcript import Transcript
from asm.models import Event, EventType
from asm.operations import listing
from asm.store import SessionStore, run_operation

_ERRORS = (EventType.TOOL_CALL_FAILED, *ERROR_TYPES)
_FOLLOWED_TAIL = 10
"""The events before the new ones that --follow begins with, as `tail -f` does."""

_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which events of a session are wanted."""

    session_id: str
    type: Sequence[str] | None
    run_id: str | None
    after: int | None
    tail: int | None

    @property
    def is_all(self) -> bool:
        return (self.type, self.run_id, self.after, self.tail) == (None, None, None, None)

    @property
    def filters(self) -> dict[str, Any]:
        return {"type": self.type, "run_id": self.run_id}

    def read(self, store: SessionStore) -> Iterator[Event]:
        return store.iter_events(self.session_id, after=self.start(store), **self.filters)

    def follow(self, store: SessionStore) -> Iterator[Event]:
        return store.follow_events(self.session_id, after=self.start(store) or 0, **self.filters)

    def start(self, store: SessionStore) -> int | None:
        """The number after which the events begin."""
        if self.tail is None:
            return self.after
        if self.tail == 0:
            return max(self.after or 0, store.get_latest_sequence(self.session_id))
        newest = store.get_events(self.session_id, after=self.after, last=self.tail, **self.filters)
        return (newest[0].sequence_number or 1) - 1 if newest else self.after


@click.command()
@click.argument("session", required=False, shell_complete=complete_session_id)
@click.option("--latest", is_flag=True, help="Show the session that was updated last.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Show only the last N events.")
@click.option(
    "--after", type=click.IntRange(min=0), metavar="NUMBER", help="Show only events after this number."
)
@repeatable_option("--type", "types", metavar="TYPE", help="Show only events of this type.")
@click.option("--run", metavar="ID", help="Show only events of this run.")
@click.option("--errors", is_flag=True, help="Show only failed tool calls and other errors.")
@click.option("-f", "--follow", is_flag=True, help="Show new events as they arrive, until Ctrl-C.")
@click.option("--html", "as_html", is_flag=True, help="Print one HTML page that needs nothing else.")
@click.option("--full", is_flag=True, help="Shorten no text. Output to a pipe is not shortened.")
@click.option(
    "--color/--no-color",
    default=None,
    help="Print to a pipe what a terminal gets, or print no colors. Default: $FORCE_COLOR, $NO_COLOR.",
)
@click.option("--no-pager", is_flag=True, help="Print directly to the terminal.")
@dsn_option
@json_option
def show(
    session: str | None,
    dsn: str | None,
    schema: str | None,
    *,
    latest: bool,
    types: Sequence[str] | None,
    run: str | None,
    after: int | None,
    tail: int | None,
    errors: bool,
    follow: bool,
    as_json: bool,
    as_html: bool,
    full: bool,
    color: bool | None,
    no_pager: bool,
) -> None:
    """Show a session with its runs and events.

    SESSION is the id of a session or its beginning, if no other id begins so. RUN likewise. The head sums up
    the session. Its tools and errors are left out if only some of the events are shown.

    On a terminal the output goes through the pager that ASM_PAGER or PAGER names, or else `less`. The
    environment variable LESS has its options; the default is FRX.

    With --json the output is all that is stored of the session, also the rows of its artifacts and its event
    counter, or only the selected events. With --json and --follow it is one event on each line. --follow
    begins with the last 10 events unless --tail or --after is given, and ends with status 130.

    \b
    asm show ses_0199a1
    asm show --latest -f
    asm show ses_0199a1 --tail 50 --type tool_call_started --type tool_call_failed
    asm show ses_0199a1 --errors --full
    asm show ses_0199a1 --color | less -R
    asm show ses_0199a1 --html > session.html
    """
    if (session is None) != latest:
        raise click.UsageError("Name a session, or give --latest.")
    if errors and types is not None:
        raise click.UsageError("Give --errors or --type, not both.")
    if as_html:
        if as_json or follow or errors or (types, run, after, tail) != (None,) * 4:
            raise click.UsageError("--html shows a whole session: give it alone.")
        check_installed()
    with open_store(dsn, schema) as store:
        session_id = latest_session_id(store) if session is None else find_session_id(store, session)
        selection = _Selection(
            session_id=session_id,
            type=_ERRORS if errors else types,
            run_id=None if run is None else find_run_id(store, run, session_id=session_id),
            after=after,
            tail=_FOLLOWED_TAIL if follow and tail is None and after is None else tail,
        )
        if as_html:
            write_html(dsn, schema, session_id, sys.stdout.buffer)
        elif follow:
            _follow(store, selection, as_json=as_json, full=full, color=color)
        elif as_json:
            print_json(_document(store, selection))
        else:
            _show(store, selection, pages=not no_pager, full=full, color=color)


def _show(store: SessionStore, selection: _Selection, *, pages: bool, **output: Any) -> None:
    with paged(wanted=pages) as pager:
        printer = Printer(pager=pager, **output)
        _begin(store, printer, selection).show(selection.read(store))


def _begin(store: SessionStore, printer: Printer, selection: _Selection) -> Transcript:
    """Print the head of a session."""
    id = selection.session_id
    session, runs = store.get_session(id), store.list_runs(id)
    summary = run_operation(store, listing.summarize_sessions([session]))[id]
    happened = happenings(store.iter_events(id, type=SUMMARIZED_TYPES)) if selection.is_all else None
    show_head(
        printer,
        session,
        summary.title,
        [run for run in runs if selection.run_id in (None, run.id)],
        store.query.get_session_stats(id),
        store.query.get_cost_summary(session_id=id),
        happened,
    )
    return Transcript(printer, {run.id: run for run in runs} if len(runs) > 1 else {})


def _follow(store: SessionStore, selection: _Selection, *, as_json: bool, **output: Any) -> None:
    try:
        events = selection.follow(store)
        if as_json:
            for event in events:
                click.echo(json.dumps(event.to_dict(), ensure_ascii=True))
        else:
            _begin(store, Printer(**output), selection).follow(events)
    except KeyboardInterrupt:
        # What a shell reports of a command that SIGINT ended.
        raise click.exceptions.Exit(_INTERRUPTED) from None


def _document(store: SessionStore, selection: _Selection) -> dict[str, Any]:
    if selection.is_all:
        return store.query.export_session(selection.session_id, include_artifacts=True).to_dict()
    id = selection.session_id
    return {
        "session": store.get_session(id).to_dict(),
        "runs": [run.to_dict() for run in store.list_runs(id) if selection.run_id in (None, run.id)],
        "events": [event.to_dict() for event in selection.read(store)],
    }
