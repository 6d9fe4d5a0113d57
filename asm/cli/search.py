"""`asm search`: sessions, runs and events by what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from asm.cli.display import Printer, counted, show_events, show_runs, show_sessions
from asm.cli.options import TIMES, F, moment, opened, print_json, prints_json, several, takes_dsn_option
from asm.models import Event, Page, Run, RunStatus, Session, SessionStatus
from asm.operations.cursors import Order
from asm.operations.search import EVENT_ORDERS, LIMIT_MAX, RUN_ORDERS, SESSION_ORDERS

T = TypeVar("T", Session, Run, Event)


def _paged(orders: Sequence[Order[T]], *, order_by: str, limit: int) -> Callable[[F], F]:
    """The options of every search: which page of what there is."""
    names = [order.name for order in orders]
    options = [
        click.option("--order", "order_by", type=click.Choice(names), default=order_by, show_default=True),
        click.option(
            "--limit",
            type=click.IntRange(1, LIMIT_MAX),
            default=limit,
            show_default=True,
            help="How many at most.",
        ),
        click.option("--cursor", metavar="TEXT", help="Go on where the page that gave this ended."),
        takes_dsn_option,
        prints_json,
    ]

    def decorated(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


@click.group(no_args_is_help=False)
def search() -> None:
    """Find sessions, runs or events across sessions.

    Options that may be repeated want one of their values, --tag wants all of them.

    \b
    asm search sessions --tag prod --status failed
    asm search runs --order token_usage_desc --limit 10
    asm search events --type error_occurred --since 2026-01-31
    asm search events --session SESSION --json | jq '.items[].data'
    """


@search.command(epilog=TIMES)
@several("--agent", "agent_id", metavar="ID", help="Of this agent.")
@several("--status", type=click.Choice([each.value for each in SessionStatus]))
@several("--provider", metavar="NAME", help="With a run of this provider.")
@several("--tag", "tags", metavar="TAG", help="With this tag, and each other that is given.")
@moment("--created-after", help="Created then or later.")
@moment("--created-before", help="Created before then.")
@click.option("--all", "include_deleted", is_flag=True, help="Soft-deleted ones too.")
@click.option("--total", "count_total", is_flag=True, help="Say how many there are in all.")
@_paged(SESSION_ORDERS, order_by="updated_at_desc", limit=50)
def sessions(dsn: str | None, schema: str | None, *, as_json: bool, **wanted: Any) -> None:
    """Find sessions.

    \b
    asm search sessions --agent assistant --status failed --status cancelled
    asm search sessions --tag prod --tag eu --created-after 2026-01-01 --total
    """
    with opened(dsn, schema) as store:
        page = store.query.search_sessions(**wanted)
    _print_page(page, show_sessions, as_json=as_json)


@search.command(epilog=TIMES)
@several("--session", "session_id", metavar="ID", help="Of this session.")
@several("--provider", metavar="NAME", help="Of this provider.")
@several("--status", type=click.Choice([each.value for each in RunStatus]))
@moment("--started-after", help="Started then or later.")
@moment("--started-before", help="Started before then.")
@click.option(
    "--min-tokens", type=click.IntRange(min=0), metavar="N", help="With at least so many tokens in total."
)
@_paged(RUN_ORDERS, order_by="started_at_desc", limit=50)
def runs(dsn: str | None, schema: str | None, *, as_json: bool, **wanted: Any) -> None:
    """Find runs.

    \b
    asm search runs --provider claude --min-tokens 100000
    asm search runs --status running --started-before 2026-01-31
    """
    with opened(dsn, schema) as store:
        page = store.query.search_runs(**wanted)
    _print_page(page, show_runs, as_json=as_json)


@search.command(epilog=TIMES)
@several("--session", "session_ids", metavar="ID", help="Of this session.")
@several("--run", "run_ids", metavar="ID", help="Of this run.")
@several("--type", "types", metavar="TYPE", help="As error_occurred, or one of your own.")
@several("--provider", "providers", metavar="NAME", help="Of this provider.")
@several("--correlation", "correlation_id", metavar="ID", help="With this correlation id.")
@moment("--since", help="From then on.")
@moment("--until", help="Before then.")
@click.option("--count", "only_count", is_flag=True, help="Print only how many there are.")
@_paged(EVENT_ORDERS, order_by="sequence_asc", limit=100)
def events(dsn: str | None, schema: str | None, *, as_json: bool, only_count: bool, **wanted: Any) -> None:
    """Find events.

    \b
    asm search events --type error_occurred --order timestamp_desc
    asm search events --since 2026-01-31 --until 2026-02-01 --count
    """
    with opened(dsn, schema) as store:
        if only_count:
            click.echo(store.query.count_events(**_without_page(wanted)))
        else:
            _print_page(store.query.search_events(**wanted), show_events, as_json=as_json)


def _without_page(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if name not in ("order_by", "limit", "cursor")}


def _print_page(page: Page[T], show: Callable[[Printer, Sequence[T]], None], *, as_json: bool) -> None:
    if as_json:
        items = [item.to_dict() for item in page]
        print_json({"items": items, "cursor": page.cursor, "total_count": page.total_count})
        return
    show(Printer(), page.items)
    if page.total_count is not None:
        click.echo(f"asm: {counted(page.total_count, 'session')} in all", err=True)
    if page.cursor is not None:
        click.echo(f"asm: there are more: go on with --cursor {page.cursor}", err=True)
