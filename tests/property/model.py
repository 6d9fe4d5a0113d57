"""What a store promises, kept in dicts and lists.

Written from the promises, not from the code, and with no regard to speed: every question is answered by
looking at everything. Operations have the names and the parameters that they have on a store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asm
from asm.operations.runs import lease_end

Events: TypeAlias = list[asm.Event]

JUST_NOW = datetime(3000, 1, 1, tzinfo=UTC)
"""The time of the store's clock."""

PROTECTED = ("session_created", "run_started", "run_completed", "run_failed", "error_occurred")
COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens", "total_tokens")
ENDED = ("completed", "failed", "cancelled")


@dataclass
class World:
    sessions: dict[str, asm.Session] = field(default_factory=dict)
    runs: dict[tuple[str, str], asm.Run] = field(default_factory=dict)
    events: dict[str, Events] = field(default_factory=dict)
    latest: dict[str, int] = field(default_factory=dict)
    artifacts: dict[str, asm.Artifact] = field(default_factory=dict)

    def branch(self) -> World:
        """A copy of this model, for a transaction that may be rolled back."""
        events = {session_id: list(stored) for session_id, stored in self.events.items()}
        return World(copy(self.sessions), copy(self.runs), events, copy(self.latest), copy(self.artifacts))

    # Sessions.

    def save_session(self, session: asm.Session) -> None:
        self.sessions[session.id] = session

    def update_session(self, session_id: str, change: Callable[[asm.Session], asm.Session]) -> asm.Session:
        changed = change(self.get_session(session_id))
        if changed.id != session_id:
            raise asm.ValidationError("")
        self.save_session(changed)
        return changed

    def get_session(self, session_id: str) -> asm.Session:
        if session_id not in self.sessions:
            raise asm.SessionNotFound("")
        return self.sessions[session_id]

    def get_sessions(self, session_ids: list[str]) -> list[asm.Session]:
        return [self.sessions[each] for each in session_ids if each in self.sessions]

    def list_sessions(
        self,
        *,
        status: Any = None,
        agent_id: str | None = None,
        include_deleted: bool = False,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[asm.Session]:
        found = [
            session
            for session in self.sessions.values()
            if is_among(session.status, status)
            and is_among(session.agent_id, agent_id)
            and (include_deleted or session.deleted_at is None)
        ]
        found.sort(key=lambda session: (session.created_at, session.id), reverse=True)
        return found[offset:][:limit]

    def delete_session(self, session_id: str) -> None:
        self.sessions.pop(session_id, None)
        self.events.pop(session_id, None)
        self.latest.pop(session_id, None)
        self.runs = {key: run for key, run in self.runs.items() if run.session_id != session_id}
        self.artifacts = {id: each for id, each in self.artifacts.items() if each.session_id != session_id}

    def fork_session(self, session_id: str, *, id: str, at: datetime, upto: int | None = None) -> asm.Session:
        parent, latest = self.get_session(session_id), self.get_latest_sequence(session_id)
        upto = latest if upto is None else upto
        if upto > latest:
            raise asm.ValidationError("")
        if id in self.sessions or self.get_latest_sequence(id):
            raise asm.AlreadyExists("")
        self.sessions[id] = replace(
            parent,
            id=id,
            status="pending",
            parent_session_id=session_id,
            metadata={**parent.metadata, "forked_at": upto},
            created_at=at,
            updated_at=at,
            deleted_at=None,
        )
        copied = self.get_events(session_id, before=upto + 1)
        self.events[id] = [replace(event, session_id=id) for event in copied]
        self.latest[id] = upto
        return self.sessions[id]

    # Runs.

    def save_run(self, run: asm.Run) -> None:
        self.runs[run.session_id, run.id] = run

    def update_run(
        self, run_id: str, change: Callable[[asm.Run], asm.Run], *, session_id: str | None = None
    ) -> asm.Run:
        run = self.get_run(run_id, session_id=session_id)
        changed = change(run)
        if (changed.id, changed.session_id) != (run.id, run.session_id):
            raise asm.ValidationError("")
        if lease_end(run) is not None:
            changed = replace(changed, metadata={"asm": run.metadata["asm"], **changed.metadata})
        self.save_run(changed)
        return changed

    def get_run(self, run_id: str, *, session_id: str | None = None) -> asm.Run:
        found = [
            run for run in self.runs.values() if run.id == run_id and is_among(run.session_id, session_id)
        ]
        if not found:
            raise asm.RunNotFound("")
        last = max(run.started_at for run in found)
        return min((run for run in found if run.started_at == last), key=lambda run: run.session_id)

    def list_runs(self, session_id: str, *, status: Any = None, limit: int | None = None) -> list[asm.Run]:
        found = [
            run for run in self.runs.values() if run.session_id == session_id and is_among(run.status, status)
        ]
        return sorted(found, key=lambda run: (run.started_at, run.id))[:limit]

    def get_active_run(self, session_id: str) -> asm.Run | None:
        return next(reversed(self.list_runs(session_id, status="running")), None)

    # Events.

    def append_event(
        self, event: asm.Event, *, expected_sequence: int | None = None, session: asm.Session | None = None
    ) -> asm.Event:
        return self.append_events([event], expected_sequence=expected_sequence, session=session)[0]

    def append_events(
        self, events: Events, *, expected_sequence: int | None = None, session: asm.Session | None = None
    ) -> Events:
        if session is not None:
            if any(event.session_id != session.id for event in events):
                raise asm.ValidationError("")
            there = self.sessions.get(session.id, session)
            moved = max(there.updated_at, session.updated_at)
            self.save_session(replace(there, updated_at=moved))
        if expected_sequence is not None and events:
            self._compare(events, expected_sequence)
        return [self._find(event) or self._append(event) for event in events]

    def _compare(self, events: Events, expected: int) -> None:
        if len({event.session_id for event in events}) > 1:
            raise asm.ValidationError("")
        known = {event.id: found for event in events if (found := self._find(event))}
        ours = [event for event in known.values() if (event.sequence_number or 0) > expected]
        if any(event.id not in known for event in events) and (
            self.get_latest_sequence(events[0].session_id) - len(ours) != expected
        ):
            raise asm.SequenceConflict("")

    def _find(self, event: asm.Event) -> asm.Event | None:
        return next((each for each in self._stored(event.session_id) if each.id == event.id), None)

    def _append(self, event: asm.Event) -> asm.Event:
        number = self.get_latest_sequence(event.session_id) + 1
        self.latest[event.session_id] = number
        stored = replace(event, sequence_number=number)
        self.events.setdefault(event.session_id, []).append(stored)
        return stored

    def _stored(self, session_id: str) -> Events:
        return self.events.get(session_id, [])

    def get_latest_sequence(self, session_id: str) -> int:
        return self.latest.get(session_id, 0)

    def get_events(
        self,
        session_id: str,
        *,
        run_id: str | None = None,
        type: Any = None,
        since: datetime | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        last: int | None = None,
        **_how: Any,
    ) -> Events:
        if limit is not None and last is not None:
            raise asm.ValidationError("")
        found = [
            event
            for event in self._stored(session_id)
            if is_among(event.run_id, run_id)
            and is_among(event.type, type)
            and is_within(event.timestamp, since, None)
            and (after or 0) < (event.sequence_number or 0)
            and (before is None or (event.sequence_number or 0) < before)
        ]
        return found[:limit] if last is None else found[len(found) - min(last, len(found)) :]

    iter_events = get_events
    follow_events = get_events

    def get_event(self, session_id: str, event_id: str) -> asm.Event:
        found = [event for event in self._stored(session_id) if event.id == event_id]
        if not found:
            raise asm.EventNotFound("")
        return found[0]

    def delete_events(self, session_id: str, *, ids: Any = None, **filters: Any) -> int:
        if ids is None and not filters:
            raise asm.ValidationError("")
        gone = [event for event in self.get_events(session_id, **filters) if is_among(event.id, ids)]
        self.events[session_id] = [event for event in self._stored(session_id) if event not in gone]
        return len(gone)

    def pop_event(self, session_id: str, *, type: Any = None) -> asm.Event | None:
        newest = next(iter(self.get_events(session_id, type=type, last=1)), None)
        self.events[session_id] = [event for event in self._stored(session_id) if event != newest]
        return newest

    def flush(self, session: asm.Session, run: asm.Run, events: Events) -> Events:
        if {run.session_id, *(event.session_id for event in events)} != {session.id}:
            raise asm.ValidationError("")
        self.save_session(session)
        self.save_run(run)
        return self.append_events(events)

    def run_transaction(self, work: Callable[[World], Any], *, idempotent: bool = False) -> Any:
        trial = self.branch()
        result = work(trial)
        vars(self).update(vars(trial))
        return result

    # Artifacts.

    def register(self, artifact: asm.Artifact) -> None:
        holds = artifact.deleted_at is None and self.get_by_key(artifact.key) is not None
        if holds or artifact.id in self.artifacts:
            raise asm.AlreadyExists("")
        self.artifacts[artifact.id] = artifact

    def get_by_key(self, key: str) -> asm.Artifact | None:
        live = (each for each in self.artifacts.values() if each.deleted_at is None and each.key == key)
        return next(live, None)

    def list_by_session(self, session_id: str) -> list[asm.Artifact]:
        return [each for each in self._artifacts(session_id) if each.deleted_at is None]

    def _artifacts(self, session_id: str) -> list[asm.Artifact]:
        found = [each for each in self.artifacts.values() if each.session_id == session_id]
        return sorted(found, key=lambda each: (each.created_at, each.id))

    def session_stats(self, session_id: str) -> dict[str, int]:
        live = self.list_by_session(session_id)
        return {"artifact_count": len(live), "total_bytes": sum(each.byte_size for each in live)}

    def delete(self, key: str) -> None:
        live = self.get_by_key(key)
        if live is not None:
            self.artifacts[live.id] = replace(live, deleted_at=JUST_NOW)

    # Questions across sessions: all pages of them, laid end to end.

    def search_sessions(
        self,
        *,
        order_by: str = "updated_at_desc",
        include_deleted: bool = False,
        agent_id: Any = None,
        status: Any = None,
        provider: Any = None,
        tags: Any = None,
        parent_session_id: Any = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> list[asm.Session]:
        found = [
            session
            for session in self.list_sessions(
                status=status, agent_id=agent_id, include_deleted=include_deleted
            )
            if is_within(session.created_at, created_after, created_before)
            and is_among(session.parent_session_id, parent_session_id)
            and (tags is None or (listed(tags) and set(listed(tags)) <= set(session.tags)))
            and (
                provider is None
                or any(is_among(run.provider, provider) for run in self.list_runs(session.id))
            )
        ]
        name, _, way = order_by.rpartition("_")
        return sorted(found, key=lambda each: (getattr(each, name), each.id), reverse=way == "desc")

    def search_runs(
        self,
        *,
        order_by: str = "started_at_desc",
        session_id: Any = None,
        provider: Any = None,
        status: Any = None,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        min_tokens: int | None = None,
    ) -> list[asm.Run]:
        found = [
            run
            for run in self.runs.values()
            if is_among(run.session_id, session_id)
            and is_among(run.provider, provider)
            and is_among(run.status, status)
            and is_within(run.started_at, started_after, started_before)
            and (min_tokens is None or tokens(run)["total_tokens"] >= min_tokens)
        ]
        if order_by == "token_usage_desc":
            key: Callable[[asm.Run], Any] = lambda run: (tokens(run)["total_tokens"], run.session_id, run.id)  # noqa: E731
        else:
            key = lambda run: (run.started_at, run.session_id, run.id)  # noqa: E731
        return sorted(found, key=key, reverse=order_by.endswith("desc"))

    def search_events(
        self,
        *,
        order_by: str = "sequence_asc",
        session_ids: Any = None,
        run_ids: Any = None,
        types: Any = None,
        providers: Any = None,
        since: datetime | None = None,
        until: datetime | None = None,
        correlation_id: Any = None,
    ) -> Events:
        found = [
            event
            for stored in self.events.values()
            for event in stored
            if is_among(event.session_id, session_ids)
            and is_among(event.run_id, run_ids)
            and is_among(event.type, types)
            and is_among(event.provider, providers)
            and is_among(event.correlation_id, correlation_id)
            and is_within(event.timestamp, since, until)
        ]
        found.sort(key=lambda event: (event.session_id, event.sequence_number))
        if order_by == "timestamp_asc":
            found.sort(key=lambda event: event.timestamp)
        if order_by == "timestamp_desc":
            found.reverse()
            found.sort(key=lambda event: event.timestamp, reverse=True)
        return found

    def count_events(self, **filters: Any) -> int:
        return len(self.search_events(**filters))

    def get_session_stats(self, session_id: str) -> dict[str, Any]:
        events, runs = self._stored(session_id), self.list_runs(session_id)
        if session_id not in self.sessions and not events and not runs:
            raise asm.SessionNotFound("")
        times = [event.timestamp for event in events]
        return {
            "event_count": len(events),
            "run_count": len(runs),
            "token_totals": {name: sum(tokens(run)[name] for run in runs) for name in COUNTS},
            "providers_used": sorted({run.provider for run in runs if run.provider is not None}),
            "first_event_at": min(times).isoformat() if times else None,
            "last_event_at": max(times).isoformat() if times else None,
            "status_counts": dict(Counter(str(run.status) for run in runs)),
        }

    def _runs_of(
        self, session_id: Any, agent_id: Any, provider: Any, since: datetime | None, until: datetime | None
    ) -> list[asm.Run]:
        return [
            run
            for run in self.search_runs(
                session_id=session_id, provider=provider, started_after=since, started_before=until
            )
            if agent_id is None
            or (
                run.session_id in self.sessions and is_among(self.sessions[run.session_id].agent_id, agent_id)
            )
        ]

    def get_usage_summary(
        self,
        *,
        session_id: Any = None,
        agent_id: Any = None,
        provider: Any = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> dict[str, Any]:
        runs = self._runs_of(session_id, agent_id, provider, since, until)
        return {
            **_usage(runs),
            "by_provider": _by(provider_of, runs, _usage),
            "by_model": _by(model_of, runs, _usage),
        }

    def get_cost_summary(
        self,
        *,
        session_id: Any = None,
        agent_id: Any = None,
        provider: Any = None,
        since: datetime | None = None,
        until: datetime | None = None,
        pricing: Any,
    ) -> dict[str, Any]:
        runs = self._runs_of(session_id, agent_id, provider, since, until)

        def cost(some: list[asm.Run]) -> dict[str, Any]:
            priced = [_priced(run, pricing) for run in some]
            return {
                "cost_usd": sum(usd or 0 for usd in priced),
                "run_count": len(some),
                "unmapped_runs": priced.count(None),
            }

        total = cost(runs)
        return {
            "total_cost_usd": total.pop("cost_usd"),
            **total,
            "by_provider": _by(provider_of, runs, cost),
            "by_model": _by(model_of, runs, cost),
        }

    # Moving.

    def export_session(self, session_id: str, *, include_artifacts: bool = False) -> asm.SessionExport:
        stored, latest = self._stored(session_id), self.get_latest_sequence(session_id)
        return asm.SessionExport(
            session=self.get_session(session_id),
            runs=self.list_runs(session_id),
            events=list(stored),
            artifacts=self._artifacts(session_id) if include_artifacts else [],
            last_sequence=latest,
            pruned_events=latest - len(stored),
        )

    def import_session(self, export: asm.SessionExport) -> None:
        session_id = export.session.id
        events = {event.id: event for event in self._stored(session_id)}
        others: Iterable[tuple[Any, Any]] = [
            (self.sessions.get(session_id), export.session),
            *((self.runs.get((run.session_id, run.id)), run) for run in export.runs),
            *((self.artifacts.get(each.id), each) for each in export.artifacts),
            *((events.get(event.id), event) for event in export.events),
        ]
        if any(there is not None and there != given for there, given in others):
            raise asm.Conflict("")
        latest = self.get_latest_sequence(session_id)
        missing = [event for event in export.events if event.id not in events]
        if any((event.sequence_number or 0) <= latest for event in missing):
            raise asm.Conflict("")
        for artifact in export.artifacts:
            if artifact.id not in self.artifacts:
                self.register(artifact)
        self.save_session(export.session)
        for run in export.runs:
            self.save_run(run)
        joined = sorted([*self._stored(session_id), *missing], key=lambda event: event.sequence_number or 0)
        self.events[session_id] = joined
        self.latest[session_id] = max(latest, export.last_sequence)

    # Maintenance.

    def soft_delete_expired_sessions(self, policy: asm.RetentionPolicy, at: datetime) -> int:
        expired = [session for session in self.sessions.values() if _is_expired(session, policy, at)]
        for session in expired:
            self.save_session(replace(session, deleted_at=JUST_NOW))
        return len(expired)

    def hard_delete_expired_sessions(self, policy: asm.RetentionPolicy, at: datetime) -> int:
        due = [
            session.id
            for session in self.sessions.values()
            if policy.hard_delete_after_days is not None
            and session.deleted_at is not None
            and session.deleted_at <= at - timedelta(days=policy.hard_delete_after_days)
            and not _is_exempt(session, policy)
        ]
        for session_id in due:
            self.delete_session(session_id)
        return len(due)

    def prune_session_events(self, session_id: str, policy: asm.RetentionPolicy) -> int:
        stored, keep = self._stored(session_id), policy.max_events_per_session
        session = self.sessions.get(session_id)
        if keep is None or (session is not None and set(session.tags) & set(policy.exempt_tags)):
            return 0
        prunable = [event for event in stored if event.type not in PROTECTED]
        prunable.sort(key=lambda event: event.type not in policy.prune_event_types_first)
        gone = {event.id for event in prunable[: max(0, len(stored) - keep)]}
        self.events[session_id] = [event for event in stored if event.id not in gone]
        return len(gone)

    def clean_orphaned_artifacts(self) -> int:
        orphans = [
            each.id
            for each in self.artifacts.values()
            if each.session_id is not None
            and each.session_id not in self.sessions
            and not self.get_latest_sequence(each.session_id)
            and not self.list_runs(each.session_id)
        ]
        for id in orphans:
            del self.artifacts[id]
        return len(orphans)

    def clean_orphaned_sequences(self) -> int:
        # Only deleting and pruning take events away: the one takes the counter too, the other says so.
        return 0

    def execute(self, policy: asm.RetentionPolicy, at: datetime, *, dry_run: bool = False) -> dict[str, Any]:
        world = self.branch() if dry_run else self
        return {
            "sessions_soft_deleted": world.soft_delete_expired_sessions(policy, at),
            "sessions_hard_deleted": world.hard_delete_expired_sessions(policy, at),
            "events_pruned": sum(world.prune_session_events(each, policy) for each in list(world.events)),
            "artifacts_cleaned": self._cleaned(world, dry_run=dry_run),
            "orphaned_sequences_cleaned": 0,
            "errors": [],
        }

    def _cleaned(self, world: World, *, dry_run: bool) -> int:
        return (self.branch() if dry_run else world).clean_orphaned_artifacts()

    def list_stale_runs(self, *, grace: float = 30.0) -> list[asm.Run]:
        ended = datetime.now(UTC) - timedelta(seconds=grace)
        found = [run for run in self.runs.values() if run.status == "running" and lease_of(run) < ended]
        return sorted(found, key=lambda run: (run.started_at, run.session_id, run.id))

    def health_check(self) -> list[tuple[str, str]]:
        running = Counter(run.session_id for run in self.runs.values() if run.status == "running")
        alone = {
            "events_without_session": [each for each, stored in self.events.items() if stored],
            "runs_without_session": [run.session_id for run in self.runs.values()],
            "artifacts_without_session": [
                each.session_id for each in self.artifacts.values() if each.session_id is not None
            ],
        }
        issues = {(code, id) for code, ids in alone.items() for id in ids if id not in self.sessions}
        issues |= {("stale_run", run.session_id) for run in self.list_stale_runs()}
        return sorted(issues | {("several_running_runs", id) for id, number in running.items() if number > 1})


def lease_of(run: asm.Run) -> datetime:
    """When the lease of a run ends; never if it has none."""
    lease = run.metadata.get("asm", {}).get("lease_until")
    return datetime.fromisoformat(lease) if lease else JUST_NOW


def listed(wanted: Any) -> list[Any]:
    return [wanted] if isinstance(wanted, str) else list(wanted)


def is_among(value: Any, wanted: Any) -> bool:
    return wanted is None or value in listed(wanted)


def is_within(moment: datetime, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or since <= moment) and (until is None or moment < until)


def provider_of(run: asm.Run) -> Any:
    return run.provider


def model_of(run: asm.Run) -> Any:
    return run.provider_metadata.get("model")


def tokens(run: asm.Run) -> dict[str, int]:
    counts = {name: run.token_usage.get(name, 0) for name in COUNTS}
    if "total_tokens" not in run.token_usage:
        counts["total_tokens"] = counts["input_tokens"] + counts["output_tokens"]
    return counts


def _usage(runs: list[asm.Run]) -> dict[str, int]:
    return {name: sum(tokens(run)[name] for run in runs) for name in COUNTS} | {"run_count": len(runs)}


def _by(name: Callable[[asm.Run], Any], runs: list[asm.Run], add_up: Callable[[list[asm.Run]], Any]) -> Any:
    return {each: add_up([run for run in runs if name(run) == each]) for each in {name(run) for run in runs}}


def _priced(run: asm.Run, pricing: Mapping[str, Any]) -> float | None:
    """The cost of a run, or None without a price."""
    if run.cost_usd is not None:
        return run.cost_usd
    prices = pricing.get(run.provider or "", {})
    models = prices.get("models", {})
    begins = [name for name in models if (model_of(run) or "").startswith(name)]
    price = models[max(begins, key=len)] if begins else prices.get("default")
    counts = tokens(run)
    kinds = ("input", "output", "cache_read", "cache_creation")
    has_priced_kind = any(counts[f"{kind}_tokens"] for kind in kinds)
    if price is None or (counts["total_tokens"] and not has_priced_kind):
        return None
    return float(sum(counts[f"{kind}_tokens"] * price.get(kind, price["input"]) for kind in kinds))


def _is_exempt(session: asm.Session, policy: asm.RetentionPolicy) -> bool:
    return session.status in policy.exempt_statuses or bool(set(session.tags) & set(policy.exempt_tags))


def _is_expired(session: asm.Session, policy: asm.RetentionPolicy, at: datetime) -> bool:
    ages = [policy.max_session_age_days]
    if session.status in ENDED:
        ages.append(policy.max_completed_session_age_days)
    return (
        session.deleted_at is None
        and not _is_exempt(session, policy)
        and any(days is not None and session.updated_at <= at - timedelta(days=days) for days in ages)
    )
