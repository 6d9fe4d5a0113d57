"""`asm maintain` and `asm health`: apply a retention policy, and find inconsistent rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from asm.cli.display import show_issues, show_report
from asm.cli.options import F, dsn_option, json_option, open_store, print_json, repeatable_option
from asm.cli.printer import Printer
from asm.cli.text import one_line
from asm.dsn import parse_dsn
from asm.maintenance.policy import RetentionPolicy
from asm.models import SessionStatus
from asm.store_files import StoreFiles


def _positive_or_never(value: str | int) -> int | None:
    if value == "never":
        return None
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise click.BadParameter(f"{value!r} is neither a whole number of at least 1 nor `never`.")
    return number


def _policy_options(command: F) -> F:
    """The fields of a RetentionPolicy, as options of the same names."""
    for option in reversed(_POLICY):
        command = option(command)
    return command


def _limit(name: str, default: int | None, help: str) -> Callable[[F], F]:
    shown = "never" if default is None else default
    metavar = "DAYS" if name.endswith("days") else "N"
    return click.option(
        name, type=_positive_or_never, default=default, metavar=metavar, help=f"{help}  [default: {shown}]"
    )


_DEFAULTS = RetentionPolicy()
_POLICY: Sequence[Callable[[Any], Any]] = (
    _limit(
        "--max-session-age-days",
        _DEFAULTS.max_session_age_days,
        "Soft-delete sessions that were not updated for this many days.",
    ),
    _limit(
        "--max-completed-session-age-days",
        _DEFAULTS.max_completed_session_age_days,
        "Soft-delete completed, failed and cancelled sessions that were not updated for this many days.",
    ),
    _limit(
        "--hard-delete-after-days",
        _DEFAULTS.hard_delete_after_days,
        "Delete sessions for good this many days after they were soft-deleted.",
    ),
    _limit("--max-events-per-session", _DEFAULTS.max_events_per_session, "Prune each session to N events."),
    _limit("--max-total-events", _DEFAULTS.max_total_events, "Prune all sessions to N events in total."),
    repeatable_option(
        "--exempt-status",
        "exempt_statuses",
        type=click.Choice([each.value for each in SessionStatus]),
        default=[str(status) for status in _DEFAULTS.exempt_statuses],
        show_default=True,
        help="Never delete sessions with this status.",
    ),
    repeatable_option(
        "--exempt-tag",
        "exempt_tags",
        metavar="TAG",
        default=_DEFAULTS.exempt_tags,
        show_default=True,
        help="Neither delete nor prune sessions with this tag.",
    ),
    repeatable_option(
        "--prune-first",
        "prune_event_types_first",
        metavar="TYPE",
        default=[str(type) for type in _DEFAULTS.prune_event_types_first],
        show_default=True,
        help="Prune events of this type before all others.",
    ),
    click.option(
        "--archive",
        type=click.Path(file_okay=False, path_type=Path),
        help="Write each session to a file in this folder before it is deleted or pruned. "
        "`asm import` reads the files.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=_DEFAULTS.batch_size,
        show_default=True,
        help="The number of sessions in one transaction.",
    ),
)


@click.command()
@click.option("--dry-run", is_flag=True, help="Change nothing; print what would be done.")
@_policy_options
@dsn_option
@json_option
def maintain(dsn: str | None, schema: str | None, *, dry_run: bool, as_json: bool, **fields: Any) -> None:
    """Delete old sessions and prune events by a retention policy.

    Artifacts and counters that have no session and are older than an hour are deleted too. The command
    works in short transactions while other clients go on. It may be interrupted at any time and run
    again. DAYS and N may be `never`. If a step fails, the other steps are run, and the exit status is 1.

    \b
    asm maintain --dry-run
    asm maintain --max-events-per-session 10000 --archive /var/archive
    asm maintain --hard-delete-after-days never
    """
    policy = RetentionPolicy(**fields)
    _check_archive(fields["archive"], StoreFiles(parse_dsn(dsn, schema)))
    console = Console(stderr=True)
    with open_store(dsn, schema) as store, console.status("Maintaining") as status:
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


def _check_archive(folder: Path | None, own: StoreFiles) -> None:
    # An archive is named after its session, which may have the name of the store.
    if folder is not None and (named := [each for each in own.in_folder(folder) if ".jsonl.gz" in each.name]):
        raise click.UsageError(
            f"{named[0]}, a file of the store, is named as an archive: use another folder."
        )


@click.command()
@dsn_option
@json_option
def health(dsn: str | None, schema: str | None, *, as_json: bool) -> None:
    """Look for orphaned rows and inconsistent counters.

    The command prints an issue for each session that has events, runs or artifacts without a session row,
    a counter that does not match its events, or several running runs. It changes nothing. The exit status
    is 1 if there is an issue.

    \b
    asm health --dsn sqlite:///agents.db
    asm health --json | jq '.[].session_id'
    """
    with open_store(dsn, schema) as store:
        issues = store.maintenance.health_check()
    if as_json:
        print_json([asdict(issue) for issue in issues])
    else:
        show_issues(Printer(), issues)
    sys.exit(1 if issues else 0)
