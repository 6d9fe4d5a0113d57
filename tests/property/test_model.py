"""Any operations, one after another, get from each database the answers that a few dicts and lists give.

A history begins with empty tables and goes on with random operations; each of them is put to the model
and to a store, the blocking and the async one in turn, both on one database. What a failure prints
brings it back.
"""

from __future__ import annotations

import inspect
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg
import pytest

import asm
from asm.maintenance.health import HealthIssue
from asm.models import ArtifactStats
from asm.operations import forks
from tests.conftest import Blocking, Where
from tests.property.conftest import EXAMPLES, SEED, report
from tests.property.model import JUST_NOW, World

HISTORIES = 40
STEPS = 60

NOW = datetime.now(UTC)
TABLES = ["asm_sessions", "asm_runs", "asm_events", "asm_session_sequences", "asm_artifacts"]

# Few of each, so that they meet, and strange ones among them.
SESSIONS = ["ses_1", "SES_1", "e\u0301 %s", "'; --"]
IDS = ["1", "2", "é", "e\u0301", "%(id)s", '"', "🎉"]
EVENT_IDS = [*IDS, *"abcdefgh"]
AGENTS = ["a", "A", ":a"]
PROVIDERS = ["claude", "openai", "{x}"]
TAGS = ["pinned", "eu", '"', "{,}", "é"]
TYPES = ["message_sent", "message_streamed", "run_started", "acme.planned", "acme.Planned"]
CORRELATIONS = ["cor", "COR"]
KEYS = ["key", "Key", "%k"]
MODELS = ["opus", "opus-4", None]
SESSION_STATUSES = [str(status) for status in asm.SessionStatus]
RUN_STATUSES = ["pending", "running", "running", "completed"]
AGES_DAYS = [0, 5, 40, 100]
OVER, LIVE = ({"lease_until": f"{year}-01-01T00:00:00+00:00", "owner": "x"} for year in (2020, 3000))
RUN_METADATA: list[dict[str, Any]] = [
    *({}, {"asm": OVER}, {"asm": LIVE}, {"asm": {}}, {"asm": {"lease_until": ""}}),
    # What looks like a lease, and is a part of something else.
    *({"input": {"asm": OVER}}, {"input": {"asm": OVER}, "asm": LIVE}, {"asm": {}, "input": [{"asm": OVER}]}),
]
PRICING: Any = {
    "claude": {
        "default": {"input": 0.25, "output": 0.5},
        "models": {"opus": {"input": 1, "output": 2, "cache_read": 0.5}},
    },
    "openai": {"models": {"opus-4": {"input": 4, "output": 8}}},
}


@dataclass(frozen=True)
class Step:
    part: str
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def is_possible(self) -> bool:
        # There may be no export yet.
        return self.name != "import_session" or bool(self.args)

    def __str__(self) -> str:
        given = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.part}{'.' if self.part else ''}{self.name}({', '.join(given)})"


@dataclass(frozen=True)
class Change:
    """Gives some fields of a model other values."""

    values: dict[str, Any]

    def __call__(self, model: Any) -> Any:
        return replace(model, **self.values)


class Chance:
    """Operations of all kinds, drawn from one seed."""

    def __init__(self, seed: object) -> None:
        self.rng = random.Random(str(seed))
        self.exports: list[asm.SessionExport] = []
        self.forks = 0

    def step(self) -> Step:
        return self._of(self.rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0])

    def step_of_a_transaction(self) -> Step:
        while (step := self.step()).part == "maintenance" or step.name == "run_transaction":
            pass
        return step

    def steps_of_a_transaction(self) -> list[Step]:
        steps = [self.step_of_a_transaction() for _ in range(self.rng.randrange(5))]
        return [step for step in steps if step.is_possible]

    def _of(self, name: str) -> Step:
        part, _, method = name.rpartition(".")
        args, kwargs = KINDS[name][1](self)
        return Step(part, method, args, kwargs)

    def one(self, values: list[Any]) -> Any:
        return self.rng.choice(values)

    def moment(self) -> datetime:
        return NOW - timedelta(days=self.one(AGES_DAYS), hours=2, microseconds=self.rng.randrange(3))

    def time_of_fork(self) -> datetime:
        self.forks += 1
        return JUST_NOW + timedelta(microseconds=self.forks)

    def one_or_many(self, values: list[Any]) -> Any:
        if self.rng.random() < 0.5:
            return self.one(values)
        return self.rng.choices(values, k=self.rng.randrange(4))

    def some(self, **optional: Callable[[], Any]) -> dict[str, Any]:
        """A choice of the filters, each with a value."""
        return {name: value() for name, value in optional.items() if self.rng.random() < 0.3}

    def document(self) -> Any:
        return self.one(
            [{}, {"n": self.rng.randrange(5)}, {"text": "\0\ud800é", "inner": [1.5, None, 2**70]}]
        )

    def session(self) -> asm.Session:
        return asm.Session(
            id=self.one(SESSIONS),
            agent_id=self.one(AGENTS),
            status=self.one(SESSION_STATUSES),
            parent_session_id=self.one([None, *SESSIONS]),
            tags=tuple(self.rng.sample(TAGS, self.one([0, 0, 1, 2]))),
            metadata=self.document(),
            created_at=self.moment(),
            updated_at=self.moment(),
            deleted_at=self.one([None, None, None, NOW - timedelta(days=50)]),
        )

    def run(self) -> asm.Run:
        return asm.Run(
            id=self.one(IDS),
            session_id=self.one(SESSIONS),
            status=self.one(RUN_STATUSES),
            input=self.one([None, "x", [1]]),
            metadata=self.one(RUN_METADATA),
            token_usage={
                name: self.rng.randrange(4) for name in self.rng.sample(TOKENS, self.rng.randrange(4))
            },
            started_at=self.moment(),
            provider=self.one([*PROVIDERS, None]),
            provider_metadata=self.one([{"model": model} if model else {} for model in MODELS]),
            cost_usd=self.one([None, None, 0.5]),
        )

    def change(self, model: Any, *identity: str) -> Change:
        """Gives a model some of the fields of another, in most cases without those that identify it."""
        allowed = self.rng.random() < 0.1
        names = [name for name in model.to_dict() if allowed or name not in identity]
        chosen = self.rng.sample(names, self.rng.randrange(4))
        return Change({name: getattr(model, name) for name in chosen})

    def event(self, session_id: str | None = None) -> asm.Event:
        return asm.Event(
            id=self.one(EVENT_IDS),
            type=self.one(TYPES),
            session_id=session_id or self.one(SESSIONS),
            run_id=self.one([*IDS[:2], None]),
            timestamp=self.moment(),
            data=self.document(),
            provider=self.one([*PROVIDERS, None]),
            correlation_id=self.one([*CORRELATIONS, None]),
        )

    def events(self, session_id: str | None = None) -> list[asm.Event]:
        return [self.event(session_id) for _ in range(self.rng.randrange(8))]

    def artifact(self) -> asm.Artifact:
        return asm.Artifact(
            id=self.one(IDS),
            session_id=self.one([*SESSIONS, None]),
            key=self.one(KEYS),
            byte_size=self.one([0, 5, 2**40]),
            checksum_sha256="0" * 64,
            storage_backend="s3",
            storage_ref="s3://b/k",
            metadata=self.document(),
            created_at=self.moment(),
            deleted_at=self.one([None, None, NOW - timedelta(days=50)]),
        )

    def policy(self) -> asm.RetentionPolicy:
        return asm.RetentionPolicy(
            max_session_age_days=self.one([None, 20, 60]),
            max_completed_session_age_days=self.one([None, 3, 90]),
            hard_delete_after_days=self.one([None, 30, 70]),
            max_events_per_session=self.one([None, 1, 3, 5, 7]),
            exempt_statuses=self.one([(), ("active", "paused"), ("failed",)]),
            exempt_tags=self.one([(), ("pinned",), ('"', "é")]),
            prune_event_types_first=self.one([(), ("message_streamed",), ("acme.planned", "message_sent")]),
            batch_size=self.one([1, 2, 100]),
        )

    def appending(self, session_id: str | None) -> dict[str, Any]:
        """An expected number, and a session, which is mostly that of the events."""

        def session() -> asm.Session:
            session = self.session()
            return session if session_id is None else replace(session, id=session_id)

        return self.some(expected_sequence=lambda: self.rng.randrange(8), session=session)

    def deleting(self) -> dict[str, Any]:
        return self.some(
            ids=lambda: self.one_or_many(EVENT_IDS),
            run_id=lambda: self.one(IDS[:3]),
            type=lambda: self.one_or_many(TYPES),
            after=lambda: self.rng.randrange(12),
            before=lambda: self.rng.randrange(15),
        )

    def event_filters(self) -> dict[str, Any]:
        return self.some(
            session_ids=lambda: self.one_or_many(SESSIONS),
            run_ids=lambda: self.one_or_many(IDS[:3]),
            types=lambda: self.one_or_many(TYPES),
            providers=lambda: self.one_or_many(PROVIDERS),
            since=self.moment,
            until=self.moment,
            correlation_id=lambda: self.one_or_many(CORRELATIONS),
        )

    def reading(self) -> dict[str, Any]:
        return self.some(
            run_id=lambda: self.one(IDS[:3]),
            type=lambda: self.one_or_many(TYPES),
            since=self.moment,
            after=lambda: self.rng.randrange(12),
            before=lambda: self.rng.randrange(15),
            limit=lambda: self.rng.randrange(4),
        )

    def reading_last(self) -> dict[str, Any]:
        return self.reading() | self.some(last=lambda: self.rng.randrange(4))

    def appended(self) -> Arguments:
        events = self.events(self.one([None, self.one(SESSIONS)]))
        return (events,), self.appending(events[0].session_id if events else None)

    def appended_one(self) -> Arguments:
        event = self.event()
        return (event,), self.appending(event.session_id)

    def summary_filters(self) -> dict[str, Any]:
        return self.some(
            session_id=lambda: self.one_or_many(SESSIONS),
            agent_id=lambda: self.one_or_many(AGENTS),
            provider=lambda: self.one_or_many(PROVIDERS),
            since=self.moment,
            until=self.moment,
        )

    def flushed(self) -> tuple[Any, ...]:
        session, run = self.session(), self.run()
        if self.rng.random() < 0.9:
            return session, replace(run, session_id=session.id), self.events(session.id)
        return session, run, self.events()


TOKENS = ["input_tokens", "output_tokens", "total_tokens", "cache_read_tokens", "cache_creation_tokens"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

KINDS: dict[str, tuple[int, Callable[[Chance], Arguments]]] = {
    "save_session": (8, lambda its: ((its.session(),), {})),
    "update_session": (5, lambda its: ((its.one(SESSIONS), its.change(its.session(), "id")), {})),
    "get_session": (2, lambda its: ((its.one(SESSIONS),), {})),
    "get_sessions": (1, lambda its: ((its.rng.choices(SESSIONS, k=its.rng.randrange(5)),), {})),
    "fork_session": (
        6,
        lambda its: (
            (its.one(SESSIONS),),
            {"id": its.one([its.one(SESSIONS), f"fork_{its.forks}"]), "at": its.time_of_fork()}
            | its.some(upto=lambda: its.rng.randrange(6)),
        ),
    ),
    "list_sessions": (
        2,
        lambda its: (
            (),
            its.some(
                status=lambda: its.one_or_many(SESSION_STATUSES),
                agent_id=lambda: its.one(AGENTS),
                include_deleted=lambda: its.one([True, False]),
                limit=lambda: its.rng.randrange(4),
                offset=lambda: its.rng.randrange(3),
            ),
        ),
    ),
    "delete_session": (1, lambda its: ((its.one(SESSIONS),), {})),
    "save_run": (8, lambda its: ((its.run(),), {})),
    "update_run": (
        5,
        lambda its: (
            (its.one(IDS), its.change(its.run(), "id", "session_id")),
            its.some(session_id=lambda: its.one(SESSIONS)),
        ),
    ),
    "get_run": (2, lambda its: ((its.one(IDS),), its.some(session_id=lambda: its.one(SESSIONS)))),
    "list_runs": (
        1,
        lambda its: (
            (its.one(SESSIONS),),
            its.some(status=lambda: its.one_or_many(RUN_STATUSES), limit=lambda: its.rng.randrange(4)),
        ),
    ),
    "get_active_run": (1, lambda its: ((its.one(SESSIONS),), {})),
    "append_event": (8, Chance.appended_one),
    "append_events": (8, Chance.appended),
    "get_event": (2, lambda its: ((its.one(SESSIONS), its.one(EVENT_IDS)), {})),
    "delete_events": (2, lambda its: ((its.one(SESSIONS),), its.deleting())),
    "pop_event": (3, lambda its: ((its.one(SESSIONS),), its.some(type=lambda: its.one_or_many(TYPES)))),
    "get_latest_sequence": (2, lambda its: ((its.one(SESSIONS),), {})),
    "get_events": (4, lambda its: ((its.one(SESSIONS),), its.reading_last())),
    "iter_events": (2, lambda its: ((its.one(SESSIONS),), its.reading() | {"page_size": its.one([1, 2, 9])})),
    "follow_events": (1, lambda its: ((its.one(SESSIONS),), its.reading() | {"idle_timeout": 0})),
    "flush": (4, lambda its: (its.flushed(), {})),
    "run_transaction": (
        3,
        lambda its: ((its.steps_of_a_transaction(),), its.some(idempotent=lambda: its.one([True, False]))),
    ),
    "import_session": (4, lambda its: ((its.one(its.exports),) if its.exports else (), {})),
    "artifacts.register": (5, lambda its: ((its.artifact(),), {})),
    "artifacts.get_by_key": (1, lambda its: ((its.one(KEYS),), {})),
    "artifacts.list_by_session": (1, lambda its: ((its.one(SESSIONS),), {})),
    "artifacts.session_stats": (1, lambda its: ((its.one(SESSIONS),), {})),
    "artifacts.delete": (2, lambda its: ((its.one(KEYS),), {})),
    "query.search_sessions": (
        4,
        lambda its: (
            (),
            its.some(
                agent_id=lambda: its.one_or_many(AGENTS),
                status=lambda: its.one_or_many(SESSION_STATUSES),
                provider=lambda: its.one_or_many(PROVIDERS),
                tags=lambda: its.one_or_many(TAGS),
                parent_session_id=lambda: its.one_or_many(SESSIONS),
                created_after=its.moment,
                created_before=its.moment,
                include_deleted=lambda: its.one([True, False]),
                order_by=lambda: its.one(
                    ["created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc"]
                ),
            ),
        ),
    ),
    "query.search_runs": (
        4,
        lambda its: (
            (),
            its.some(
                session_id=lambda: its.one_or_many(SESSIONS),
                provider=lambda: its.one_or_many(PROVIDERS),
                status=lambda: its.one_or_many(RUN_STATUSES),
                started_after=its.moment,
                started_before=its.moment,
                min_tokens=lambda: its.rng.randrange(5),
                order_by=lambda: its.one(["started_at_asc", "started_at_desc", "token_usage_desc"]),
            ),
        ),
    ),
    "query.search_events": (
        4,
        lambda its: (
            (),
            its.event_filters()
            | its.some(order_by=lambda: its.one(["sequence_asc", "timestamp_asc", "timestamp_desc"])),
        ),
    ),
    "query.count_events": (1, lambda its: ((), its.event_filters())),
    "query.get_session_stats": (2, lambda its: ((its.one(SESSIONS),), {})),
    "query.get_usage_summary": (2, lambda its: ((), its.summary_filters())),
    "query.get_cost_summary": (2, lambda its: ((), its.summary_filters() | {"pricing": PRICING})),
    "query.export_session": (
        4,
        lambda its: ((its.one(SESSIONS),), its.some(include_artifacts=lambda: its.one([True, False]))),
    ),
    "maintenance.execute": (
        1,
        lambda its: ((its.policy(),), its.some(dry_run=lambda: its.one([True, False]))),
    ),
    "maintenance.soft_delete_expired_sessions": (1, lambda its: ((its.policy(),), {})),
    "maintenance.hard_delete_expired_sessions": (1, lambda its: ((its.policy(),), {})),
    "maintenance.prune_session_events": (3, lambda its: ((its.one(SESSIONS), its.policy()), {})),
    "maintenance.clean_orphaned_artifacts": (1, lambda its: ((), {})),
    "maintenance.clean_orphaned_sequences": (1, lambda its: ((), {})),
    "maintenance.list_stale_runs": (2, lambda its: ((), its.some(grace=lambda: its.one([0, 60])))),
    "maintenance.health_check": (2, lambda its: ((), {})),
}

KINDS |= {
    f"query.iter_{rows}": (1, KINDS[f"query.search_{rows}"][1]) for rows in ("sessions", "runs", "events")
}

BY_THE_CLOCK = ("execute", "soft_delete_expired_sessions", "hard_delete_expired_sessions")


@pytest.fixture
def pair(where: Where) -> Iterator[list[Any]]:
    """The blocking and the async store of one database."""
    options: dict[str, Any] = {"max_size": 2, "retry_for": 0}
    with asm.SessionStore(where.dsn, **options) as store, Blocking.opened(where.dsn, **options) as other:
        yield [store, other]


def test_every_operation_is_modelled_and_generated(pair: list[Any]) -> None:
    members = inspect.getmembers(asm.SessionStore, inspect.isfunction)
    offered = {name for name, _ in members if not name.startswith("_")}
    parts = {name: getattr(pair[0], name) for name in ("artifacts", "query", "maintenance")}
    offered |= {
        f"{name}.{each}" for name, part in parts.items() for each in dir(part) if not each.startswith("_")
    }

    assert set(KINDS) == offered - {"close", "transaction"}


def test_every_result_equals_the_models(where: Where, pair: list[Any]) -> None:
    report(f"seed {SEED}, {HISTORIES * EXAMPLES} histories of {STEPS} steps")
    ended: Counter[str] = Counter()
    with _emptied(where) as empty:
        for history in range(HISTORIES * EXAMPLES):
            empty()
            steps: list[str] = []
            try:
                _live(Chance(f"{SEED} {history}"), cycle(pair), steps, ended)
            except BaseException as error:
                done = "\n".join(steps)
                error.add_note(f"seed {SEED}, history {history} on {where.kind}:\n{done}")
                raise
    report(dict(ended))


def _live(chance: Chance, stores: Iterator[Any], steps: list[str], ended: Counter[str]) -> None:
    world = World()
    while len(steps) < STEPS:
        if chance.rng.random() < 0.1:
            world = _transaction(chance, next(stores), world, steps, ended)
        else:
            step = chance.step()
            _compare(chance, step, next(stores), world, steps, ended)
            if step.part == "maintenance":
                _compare(chance, EVERY_EVENT, next(stores), world, steps, ended)
    for step in EVERYTHING:
        _compare(chance, step, next(stores), world, steps, ended)


EVERY_EVENT = Step("query", "search_events", (), {})
EVERYTHING = [
    EVERY_EVENT,
    Step("query", "search_runs", (), {}),
    Step("query", "search_sessions", (), {"include_deleted": True}),
    *(Step("artifacts", "list_by_session", (session_id,), {}) for session_id in SESSIONS),
    *(Step("", "get_latest_sequence", (session_id,), {}) for session_id in SESSIONS),
]
"""The queries that show the state after a history."""


class _TakeBack(Exception):
    pass


def _transaction(chance: Chance, store: Any, world: World, steps: list[str], ended: Counter[str]) -> World:
    """The model after a transaction: changed if it was committed, unchanged if it raised an error."""
    branch = world.branch()
    steps.append("with transaction:")
    try:
        with store.transaction() as tx:
            for _ in range(chance.rng.randrange(1, 5)):
                _compare(chance, chance.step_of_a_transaction(), tx, branch, steps, ended, reraise=True)
            if chance.rng.random() < 0.3:
                raise _TakeBack
    except (_TakeBack, asm.AsmError) as error:
        steps.append(f"    rolled back by {type(error).__name__}")
        return world
    return branch


def _compare(
    chance: Chance,
    step: Step,
    store: Any,
    world: World,
    steps: list[str],
    ended: Counter[str],
    *,
    reraise: bool = False,
) -> None:
    if not step.is_possible:
        return
    steps.append(str(step))
    expected = _ended(lambda: _asked_of_model(world, step))
    found = _ended(lambda: _asked(chance, store, step))
    assert _comparable(found) == _comparable(expected)
    ended[f"{step.name} {expected.code if isinstance(expected, asm.AsmError) else ''}"] += 1
    if isinstance(found, asm.SessionExport):
        chance.exports = [*chance.exports[-3:], found]
    if reraise and isinstance(found, asm.AsmError):
        raise found


def _asked_of_model(world: World, step: Step) -> Any:
    args = (*step.args, NOW) if step.name in BY_THE_CLOCK else step.args
    kwargs = step.kwargs
    if step.name == "run_transaction":
        args = (lambda world: [_asked_of_model(world, each) for each in step.args[0]],)
    if step.name == "import_session":
        args = tuple(map(_by_model_s_clock, args))
    # Nothing of it holds where it ends in an error.
    trial = world.branch()
    name = step.name.replace("iter_", "search_") if step.part == "query" else step.name
    answer = getattr(trial, name)(*args, **kwargs)
    vars(world).update(vars(trial))
    return answer


def _asked(chance: Chance, store: Any, step: Step) -> Any:
    method = getattr(getattr(store, step.part) if step.part else store, step.name)
    if step.name.startswith("search_"):
        return _laid_end_to_end(method, chance.one([1, 2, 50]), step.kwargs)
    if step.name == "fork_session":
        return _forked(method, *step.args, **step.kwargs)
    if step.part == "query" and step.name.startswith("iter_"):
        method = partial(method, page_size=chance.one([1, 2, 50]))
    if step.name == "run_transaction":
        return method(lambda tx: [_asked(chance, tx, each) for each in step.args[0]], **step.kwargs)
    result = method(*step.args, **step.kwargs)
    if step.name == "health_check":
        return sorted(result, key=_comparable)
    return list(result) if isinstance(result, Iterator) else result


def _forked(fork: Callable[..., asm.Session], session_id: str, *, at: datetime, **how: Any) -> asm.Session:
    """A fork at the model's time, because its place in an order depends on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forks, "now", lambda: at)
        return fork(session_id, **how)


def _laid_end_to_end(search: Callable[..., asm.Page[Any]], limit: int, filters: dict[str, Any]) -> list[Any]:
    page = search(**filters, limit=limit)
    found = page.items
    while page.cursor is not None:
        assert len(page.items) == limit
        page = search(**filters, limit=limit, cursor=page.cursor)
        found = [*found, *page.items]
    return found


def _ended(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except asm.AsmError as error:
        return error


def _comparable(answer: Any) -> Any:
    """A result for comparison: an error by its code, a time of the store's clock as `now`."""
    if isinstance(answer, asm.AsmError):
        return answer.code
    if isinstance(answer, list):
        return [_comparable(each) for each in answer]
    if isinstance(answer, asm.Session | asm.Artifact | asm.SessionExport):
        return repr(_by_model_s_clock(answer))
    if isinstance(answer, asm.Run | asm.Event):
        # As it is spelled, which distinguishes 1 from 1.0 and True.
        return repr(answer)
    if isinstance(answer, HealthIssue):
        return answer.code, answer.session_id
    if isinstance(answer, ArtifactStats):
        return asdict(answer)
    return _summary(answer.to_dict()) if hasattr(answer, "to_dict") else answer


def _summary(summary: dict[str, Any]) -> dict[str, Any]:
    summary.pop("duration_ms", None)
    for name in ("provider", "model"):
        if f"by_{name}" in summary:
            summary[f"by_{name}"] = {
                part.pop(name): _without(part, "priced_by") for part in summary[f"by_{name}"]
            }
    return summary


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _by_model_s_clock(what: Any) -> Any:
    if isinstance(what, asm.SessionExport):
        artifacts = [_by_model_s_clock(each) for each in what.artifacts]
        return replace(what, session=_by_model_s_clock(what.session), artifacts=artifacts)
    is_new = what.deleted_at is not None and what.deleted_at > NOW - timedelta(hours=1)
    return replace(what, deleted_at=JUST_NOW) if is_new else what


@contextmanager
def _emptied(where: Where) -> Iterator[Callable[[], None]]:
    """A function that empties the tables."""
    if where.kind == "sqlite":
        connection: Any = sqlite3.connect(Path(where.dsn.removeprefix("sqlite:///")), isolation_level=None)
        statements = [f"delete from {table}" for table in [*TABLES, "asm_session_tags"]]
    else:
        connection = psycopg.connect(where.dsn, autocommit=True)
        statements = [f"truncate {', '.join(TABLES)}"]
    try:
        yield partial(_executed, connection, statements)
    finally:
        connection.close()


def _executed(connection: Any, statements: list[str]) -> None:
    for statement in statements:
        connection.execute(statement)
