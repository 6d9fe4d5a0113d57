"""`asm search` and `asm sessions`: find sessions, runs and events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from asm.cli.ids import find_run_ids, find_session_ids
from asm.cli.lists import Times, show_events, show_runs, show_sessions
from asm.cli.options import (
    TIMES,
    F,
    Group,
    dsn_option,
    json_option,
    open_store,
    print_json,
    repeatable_option,
    time_option,
)
from asm.cli.printer import Printer
from asm.cli.text import quantity
from asm.models import Event, Page, Run, RunStatus, Session, SessionStatus
from asm.operations import listing
from asm.operations.cursors import Order
from asm.operations.search import EVENT_ORDERS, LIMIT_MAX, RUN_ORDERS, SESSION_ORDERS
from asm.operations.text_search import EVENT_RELEVANCE, SESSION_RELEVANCE
from asm.store import SessionStore, run_operation

T = TypeVar("T", Session, Run, Event)


_text_option = click.option(
    "--text", metavar="WORDS", help='With words in its data: WORDS, "A PHRASE", PREFIX*, -EXCLUDED.'
)


def _page_options(orders: Sequence[Order[T]], *, order_by: str, limit: int) -> Callable[[F], F]:
    """The options that every search has: order, page and output."""
    names = [order.name for order in orders]
    options = [
        click.option(
            "--order",
            "--order-by",
            "order_by",
            type=click.Choice(names),
            default=order_by,
            show_default=True,
            metavar="ORDER",
            help=f"The order of the output: {', '.join(names)}.",
        ),
        click.option(
            "--limit",
            type=click.IntRange(1, LIMIT_MAX),
            default=limit,
            show_default=True,
            help="Show at most this many.",
        ),
        click.option("--cursor", metavar="TEXT", help="Continue after the page that printed this cursor."),
        click.option("--utc", is_flag=True, help="Print times in UTC. Output to a pipe always is."),
        click.option("--full", is_flag=True, help="Shorten nothing."),
        dsn_option,
        json_option,
    ]

    def decorated(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


@click.group(cls=Group)
def search() -> None:
    """Find sessions, runs or events across sessions.

    A repeated option matches any of its values. A repeated --tag matches sessions with all of the tags.

    \b
    asm search sessions --tag prod --status failed
    asm search runs --order token_usage_desc --limit 10
    asm search events --type error_occurred --since 2026-01-31
    asm search events --session SESSION --json | jq '.items[].data'
    asm search sessions --text '"connection refused" retry* -test'
    """


@click.command(epilog=TIMES)
@repeatable_option("--agent", "agent_id", metavar="ID", help="Of this agent.")
@repeatable_option(
    "--status", type=click.Choice([each.value for each in SessionStatus]), help="With this status."
)
@repeatable_option("--provider", metavar="NAME", help="With a run of this provider.")
@repeatable_option("--tag", "tags", metavar="TAG", help="With this tag.")
@repeatable_option("--parent", "parent_session_id", metavar="ID", help="Forked from this session.")
@time_option("--created-after", help="Created at this time or later.")
@time_option("--created-before", help="Created before this time.")
@click.option("--include-deleted", is_flag=True, help="Find soft-deleted sessions, too.")
@click.option("--total", "count_total", is_flag=True, help="Also print the total number of matches.")
@_text_option
@_page_options((*SESSION_ORDERS, SESSION_RELEVANCE), order_by="updated_at_desc", limit=50)
def sessions(
    dsn: str | None, schema: str | None, *, as_json: bool, utc: bool, full: bool, **filters: Any
) -> None:
    """List sessions, those that were updated last first.

    `asm sessions` and `asm search sessions` are the same command. TITLE is the "title" in the metadata, or
    the first message of the user, and the tags. On a terminal an ID is as short as `asm show` accepts it.

    --text finds the sessions with an event that has words, as in `asm search events`. On a terminal a
    line of its newest event that has them is below each session.

    \b
    asm sessions --agent assistant --status failed --status cancelled
    asm search sessions --tag prod --tag eu --created-after 2026-01-01 --total
    asm sessions --json | jq -r '.items[].id'
    """
    with open_store(dsn, schema) as store:
        filters["parent_session_id"] = find_session_ids(store, filters["parent_session_id"])
        page = store.query.search_sessions(**filters)
        if as_json:
            _print_json(page)
            return
        summaries = run_operation(store, listing.summarize_sessions(page.items))
    printer = Printer(full=full)
    show_sessions(
        printer,
        page.items,
        summaries,
        by_creation=filters["order_by"].startswith("created"),
        times=Times.of(printer, utc=utc),
        snippets=page.snippets,
    )
    _print_more(page)


search.add_command(sessions)


@search.command(epilog=TIMES)
@repeatable_option("--session", "session_id", metavar="ID", help="Of this session.")
@repeatable_option("--provider", metavar="NAME", help="Of this provider.")
@repeatable_option(
    "--status", type=click.Choice([each.value for each in RunStatus]), help="With this status."
)
@time_option("--started-after", help="Started at this time or later.")
@time_option("--started-before", help="Started before this time.")
@click.option(
    "--min-tokens", type=click.IntRange(min=0), metavar="N", help="With at least N tokens in total."
)
@_page_options(RUN_ORDERS, order_by="started_at_desc", limit=50)
def runs(
    dsn: str | None, schema: str | None, *, as_json: bool, utc: bool, full: bool, **filters: Any
) -> None:
    """Find runs.

    \b
    asm search runs --provider claude --min-tokens 100000
    asm search runs --status running --started-before 2026-01-31
    """
    with open_store(dsn, schema) as store:
        filters["session_id"] = find_session_ids(store, filters["session_id"])
        page = store.query.search_runs(**filters)
        if as_json:
            _print_json(page)
            return
        printer = Printer(full=full)
        short_ids = _short_ids(store, printer, [run.session_id for run in page])
    show_runs(printer, page.items, short_ids, times=Times.of(printer, utc=utc))
    _print_more(page)


@search.command(epilog=TIMES)
@repeatable_option("--session", "session_ids", metavar="ID", help="Of this session.")
@repeatable_option("--run", "run_ids", metavar="ID", help="Of this run.")
@repeatable_option("--type", "types", metavar="TYPE", help="Of this type, such as error_occurred.")
@repeatable_option("--provider", "providers", metavar="NAME", help="Of this provider.")
@repeatable_option("--correlation", "correlation_id", metavar="ID", help="With this correlation id.")
@time_option("--since", help="At this time or later.")
@time_option("--until", help="Before this time.")
@click.option("--count", "only_count", is_flag=True, help="Print only the number of matches.")
@_text_option
@_page_options((*EVENT_ORDERS, EVENT_RELEVANCE), order_by="sequence_asc", limit=100)
def events(
    dsn: str | None,
    schema: str | None,
    *,
    as_json: bool,
    only_count: bool,
    utc: bool,
    full: bool,
    **filters: Any,
) -> None:
    """Find events.

    --text finds words in the data of events: all of them, phrases in quotes, the beginnings of words before
    a *, and none of those after a -. Case and accents make no difference. DATA is then the line in which they
    are. It needs the index that `asm migrate --text-search` creates.

    \b
    asm search events --type error_occurred --order timestamp_desc
    asm search events --since 2026-01-31 --until 2026-02-01 --count
    """
    with open_store(dsn, schema) as store:
        filters["session_ids"] = find_session_ids(store, filters["session_ids"])
        filters["run_ids"] = find_run_ids(store, filters["run_ids"])
        if only_count:
            click.echo(store.query.count_events(**_without_page(filters)))
            return
        page = store.query.search_events(**filters)
        if as_json:
            _print_json(page)
            return
        printer = Printer(full=full)
        short_ids = _short_ids(store, printer, [event.session_id for event in page])
    times = Times.of(printer, utc=utc)
    show_events(printer, page.items, short_ids, times=times, full=full, snippets=page.snippets)
    _print_more(page)


def _without_page(filters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in filters.items() if name not in ("order_by", "limit", "cursor")}


def _short_ids(store: SessionStore, printer: Printer, session_ids: Sequence[str]) -> Mapping[str, str]:
    """What a list prints for the ids of sessions: on a terminal their beginnings."""
    if printer.is_full or not session_ids:
        return {}
    return run_operation(store, listing.shorten_ids(session_ids))


def _print_json(page: Page[Any]) -> None:
    items = [item.to_dict() for item in page]
    printed = {"items": items, "cursor": page.cursor, "total_count": page.total_count}
    print_json(printed if page.snippets is None else {**printed, "snippets": page.snippets})


def _print_more(page: Page[Any]) -> None:
    if page.total_count is not None:
        click.echo(f"asm: {quantity(page.total_count, 'session')} in total", err=True)
    if page.cursor is not None:
        click.echo(f"asm: there is another page: continue with --cursor {page.cursor}", err=True)
