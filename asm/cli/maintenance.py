"""`asm maintain` and `asm health`: keeping what should be kept, and finding what should not be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from asm.cli.display import Printer, one_line, show_issues, show_report
from asm.cli.options import F, opened, print_json, prints_json, several, takes_dsn_option
from asm.maintenance.policy import RetentionPolicy
from asm.models import SessionStatus


def _one_or_more(value: str | int) -> int | None:
    """A whole number from 1 up, or None for `never`."""
    if value == "never":
        return None
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise click.BadParameter(f"{value!r} is neither a whole number from 1 up nor `never`.")
    return number


def _takes_policy(command: F) -> F:
    """The fields of a RetentionPolicy, as options of the same names."""
    for option in reversed(_POLICY):
        command = option(command)
    return command


def _bound(name: str, default: int | None, help: str) -> Callable[[F], F]:
    shown = "never" if default is None else default
    metavar = "DAYS" if name.endswith("days") else "N"
    return click.option(
        name, type=_one_or_more, default=default, metavar=metavar, help=f"{help}  [default: {shown}]"
    )


_USUAL = RetentionPolicy()
_POLICY: Sequence[Callable[[Any], Any]] = (
    _bound("--max-session-age-days", _USUAL.max_session_age_days, "Soft-delete sessions so long untouched."),
    _bound(
        "--max-completed-session-age-days",
        _USUAL.max_completed_session_age_days,
        "Soft-delete completed, failed and cancelled sessions so long untouched.",
    ),
    _bound(
        "--hard-delete-after-days",
        _USUAL.hard_delete_after_days,
        "Delete for good what was soft-deleted so long ago.",
    ),
    _bound("--max-events-per-session", _USUAL.max_events_per_session, "Prune each session to so many."),
    _bound("--max-total-events", _USUAL.max_total_events, "Prune all sessions together to so many."),
    several(
        "--exempt-status",
        "exempt_statuses",
        type=click.Choice([each.value for each in SessionStatus]),
        default=[str(status) for status in _USUAL.exempt_statuses],
        show_default=True,
        help="Sessions that are never deleted.",
    ),
    several(
        "--exempt-tag",
        "exempt_tags",
        metavar="TAG",
        default=_USUAL.exempt_tags,
        show_default=True,
        help="Sessions that are neither deleted nor pruned.",
    ),
    several(
        "--prune-first",
        "prune_event_types_first",
        metavar="TYPE",
        default=[str(type) for type in _USUAL.prune_event_types_first],
        show_default=True,
        help="Event types that are pruned before all others.",
    ),
    click.option(
        "--archive",
        type=click.Path(file_okay=False, path_type=Path),
        help="A folder that gets a file for each session before it is deleted or pruned, for `asm import`.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=_USUAL.batch_size,
        show_default=True,
        help="Sessions in one transaction.",
    ),
)


# Commands.


@click.command()
@click.option("--dry-run", is_flag=True, help="Change nothing, and say what a run would do.")
@_takes_policy
@takes_dsn_option
@prints_json
def maintain(dsn: str | None, schema: str | None, *, dry_run: bool, as_json: bool, **fields: Any) -> None:
    """Delete what is old, and prune what is too much.

    What belongs to nobody goes, too. It may be stopped at any time and run again, also while others
    use the store. DAYS and N may be `never`. The exit status is 1 where a part of it failed; the rest
    was done.

    \b
    asm maintain --dry-run
    asm maintain --max-events-per-session 10000 --archive /var/archive
    asm maintain --hard-delete-after-days never
    """
    policy = RetentionPolicy(**fields)
    console = Console(stderr=True)
    with opened(dsn, schema) as store, console.status("Maintaining") as status:
        report = store.maintenance.execute(
            policy,
            dry_run=dry_run,
            progress=lambda step, number: status.update(f"{step.replace('_', ' ')}: {number:,}"),
        )
    if as_json:
        print_json(report.to_dict())
    else:
        show_report(Printer(), report, dry_run=dry_run)
    for failure in report.errors:
        click.echo(f"asm: {one_line(str(failure))}", err=True)
    sys.exit(1 if report.errors else 0)


@click.command()
@takes_dsn_option
@prints_json
def health(dsn: str | None, schema: str | None, *, as_json: bool) -> None:
    """Look for what should not be, and change nothing.

    That is rows that belong to nobody and counters that do not add up. The exit status is 1 where
    something is found.

    \b
    asm health --dsn sqlite:///agents.db
    asm health --json | jq '.[].session_id'
    """
    with opened(dsn, schema) as store:
        issues = store.maintenance.health_check()
    if as_json:
        print_json([asdict(issue) for issue in issues])
    else:
        show_issues(Printer(), issues)
    sys.exit(1 if issues else 0)
