"""`asm stats`, `asm usage` and `asm cost`: sums over events and runs."""

from __future__ import annotations

from typing import Any

import click

from asm.cli.ids import complete_session_id, find_session_ids
from asm.cli.options import (
    TIMES,
    F,
    dsn_option,
    json_option,
    open_store,
    print_json,
    repeatable_option,
    time_option,
)
from asm.cli.printer import Printer
from asm.cli.tables import show_cost, show_stats, show_usage


def _run_filters(command: F) -> F:
    """The options that select the runs of a summary, named as the parameters of the summary."""
    for option in (
        time_option("--until", help="Started before this time."),
        time_option("--since", help="Started at this time or later."),
        repeatable_option("--provider", metavar="NAME", help="Of this provider."),
        repeatable_option("--agent", "agent_id", metavar="ID", help="Of this agent."),
        repeatable_option("--session", "session_id", metavar="ID", help="Of this session."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("session", shell_complete=complete_session_id)
@dsn_option
@json_option
def stats(session: str, dsn: str | None, schema: str | None, *, as_json: bool) -> None:
    """Show how many events, runs and tokens a session has.

    \b
    asm stats ses_1 --dsn sqlite:///agents.db
    asm stats ses_1 --json | jq .token_totals.total_tokens
    """
    with open_store(dsn, schema) as store:
        # A session without a row has stats, too.
        [session] = find_session_ids(store, [session]) or [session]
        found = store.query.get_session_stats(session)
    if as_json:
        print_json(found.to_dict())
    else:
        show_stats(Printer(), session, found)


@click.command(epilog=TIMES)
@_run_filters
@dsn_option
@json_option
def usage(dsn: str | None, schema: str | None, *, as_json: bool, **filters: Any) -> None:
    """Sum the tokens of runs, by provider and by model.

    \b
    asm usage --dsn sqlite:///agents.db
    asm usage --agent assistant --since 2026-01-01 --until 2026-02-01
    asm usage --json | jq '.by_model[] | {model, total_tokens}'
    """
    with open_store(dsn, schema) as store:
        filters["session_id"] = find_session_ids(store, filters["session_id"])
        found = store.query.get_usage_summary(**filters)
    if as_json:
        print_json(found.to_dict())
    else:
        show_usage(Printer(), found)


@click.command(epilog=TIMES)
@_run_filters
@dsn_option
@json_option
def cost(dsn: str | None, schema: str | None, *, as_json: bool, **filters: Any) -> None:
    """Sum the cost of runs in US dollars, by provider and by model.

    If a run has a cost of its own, that is used. Otherwise its tokens are priced: by the price of exactly
    its model, else by the price of the longest model name that is a prefix of it, else by the default price
    of its provider. A run on Azure, Bedrock or Vertex AI is priced by its model's maker. A run that has
    no price is counted as such, and its cost is not estimated.

    Prices are read from the file named by the environment variable ASM_PRICING (.json or .toml). Without
    it, they are the public list prices of 2026-11-04 for ordinary calls with short prompts. In the file,
    prices are in dollars per token:

    \b
    [claude.default]
    input = 3e-6
    output = 15e-6
    [claude.models."claude-opus-5"]
    input = 5e-6
    output = 25e-6
    cache_read = 5e-7
    cache_creation = 6.25e-6

    Examples:

    \b
    asm cost --since 2026-01-01 --provider openai --provider anthropic
    ASM_PRICING=ours.toml asm cost --json | jq .total_cost_usd
    """
    with open_store(dsn, schema) as store:
        filters["session_id"] = find_session_ids(store, filters["session_id"])
        found = store.query.get_cost_summary(**filters)
    if as_json:
        print_json(found.to_dict())
    else:
        show_cost(Printer(), found)
