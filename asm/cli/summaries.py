"""`asm stats`, `asm usage` and `asm cost`: what there is, what it used and what it cost."""

from __future__ import annotations

from typing import Any

import click

from asm.cli.display import Printer
from asm.cli.options import TIMES, F, moment, opened, print_json, prints_json, several, takes_dsn_option
from asm.cli.tables import show_cost, show_stats, show_usage


def _chooses_runs(command: F) -> F:
    """The options that choose the runs of a summary, under the names its question has for them."""
    for option in (
        moment("--until", help="Started before then."),
        moment("--since", help="Started then or later."),
        several("--provider", metavar="NAME", help="Of this provider."),
        several("--agent", "agent_id", metavar="ID", help="Of this agent."),
        several("--session", "session_id", metavar="ID", help="Of this session."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("session")
@takes_dsn_option
@prints_json
def stats(session: str, dsn: str | None, schema: str | None, *, as_json: bool) -> None:
    """Say what there is of a session: events, runs, tokens, providers.

    \b
    asm stats ses_1 --dsn sqlite:///agents.db
    asm stats ses_1 --json | jq .token_totals.total_tokens
    """
    with opened(dsn, schema) as store:
        found = store.query.get_session_stats(session)
    if as_json:
        print_json(found.to_dict())
    else:
        show_stats(Printer(), session, found)


@click.command(epilog=TIMES)
@_chooses_runs
@takes_dsn_option
@prints_json
def usage(dsn: str | None, schema: str | None, *, as_json: bool, **chosen: Any) -> None:
    """Add up the tokens of runs, by provider and by model.

    \b
    asm usage --dsn sqlite:///agents.db
    asm usage --agent assistant --since 2026-01-01 --until 2026-02-01
    asm usage --json | jq '.by_model[] | {model, total_tokens}'
    """
    with opened(dsn, schema) as store:
        found = store.query.get_usage_summary(**chosen)
    if as_json:
        print_json(found.to_dict())
    else:
        show_usage(Printer(), found)


@click.command(epilog=TIMES)
@_chooses_runs
@takes_dsn_option
@prints_json
def cost(dsn: str | None, schema: str | None, *, as_json: bool, **chosen: Any) -> None:
    """Add up what runs have cost, by provider and by model.

    What a run says it cost in US dollars is what it cost. The others are priced by their tokens: by the
    exact name of their model, else by the longest name in the list that it begins with (prefix), else by
    the provider's default. What none of these prices is counted, and not guessed.

    Prices are those of the file ASM_PRICING names (.json or .toml), else the providers' public lists of
    2026-11-04, which are for ordinary calls with short prompts. In such a file they are in dollars per token:

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
    with opened(dsn, schema) as store:
        found = store.query.get_cost_summary(**chosen)
    if as_json:
        print_json(found.to_dict())
    else:
        show_cost(Printer(), found)
