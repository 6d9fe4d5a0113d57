"""`asm sessions` and `asm show`: the newest sessions, and one of them in full."""

from __future__ import annotations

from collections.abc import Sequence

import click

from asm.cli.display import show_sessions
from asm.cli.options import dsn_option, json_option, open_store, print_json, repeatable_option
from asm.cli.printer import Printer
from asm.cli.transcript import show_session
from asm.models import SessionStatus


@click.command()
@repeatable_option(
    "--status",
    type=click.Choice([each.value for each in SessionStatus]),
    help="Only sessions with this status.",
)
@click.option("--agent", metavar="ID", help="Only sessions of this agent.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show at most this many."
)
@click.option("--all", "include_deleted", is_flag=True, help="Include soft-deleted sessions.")
@dsn_option
@json_option
def sessions(
    dsn: str | None,
    schema: str | None,
    status: Sequence[str] | None,
    agent: str | None,
    limit: int,
    *,
    include_deleted: bool,
    as_json: bool,
) -> None:
    """List sessions, newest first."""
    with open_store(dsn, schema) as store:
        found = store.list_sessions(
            status=status, agent_id=agent, include_deleted=include_deleted, limit=limit + 1
        )
    if as_json:
        print_json([session.to_dict() for session in found[:limit]])
    else:
        show_sessions(Printer(), found[:limit])
    if len(found) > limit:
        click.echo(f"asm: there are more sessions than these {limit}: raise --limit", err=True)


@click.command()
@click.argument("session")
@dsn_option
@click.option("--full", is_flag=True, help="Shorten no text. Output to a pipe is never shortened.")
@json_option
def show(session: str, dsn: str | None, schema: str | None, *, full: bool, as_json: bool) -> None:
    """Show a session with its runs and events.

    With --json the output also contains the rows of the session's artifacts and its event counter.
    """
    with open_store(dsn, schema) as store:
        export = store.query.export_session(session, include_artifacts=as_json)
    if as_json:
        print_json(export.to_dict())
    else:
        show_session(Printer(full=full), export)
