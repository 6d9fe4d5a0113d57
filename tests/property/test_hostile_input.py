"""What agents, files and neighbours may say: it is stored and shown as data, or refused by an error of asm.

Nothing of another session changes, and no file outside of a folder. Exports and trajectories are in
`test_formats.py`.
"""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

import asm
from asm.agents import Transcript
from asm.cli.command import cli
from asm.export_files import archives, jsonl
from asm.models import new_id
from asm.operations.cursors import Order
from tests.conftest import an_artifact, an_event
from tests.contract.planted_files import IRREGULAR, VICTIM, names_in
from tests.contract.test_cli import COLOUR
from tests.property.conftest import EXAMPLES
from tests.property.hostile import TEXTS, altered
from tests.property.strategies import not_json, texts, values
from tests.unit.test_cursors import EVERY_ORDER, forged
from tests.unit.test_shown import HOSTILE, unseen

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

KEPT = asm.SessionExport(
    session=asm.Session(id="ses_kept", agent_id="a", metadata={"kept": True}, tags=("x",)),
    runs=[asm.Run(id="run_kept", session_id="ses_kept")],
    events=[an_event("ses_kept", id=f"kept_{n}", sequence_number=n) for n in (1, 2)],
    artifacts=[an_artifact("kept", session_id="ses_kept")],
)


@pytest.fixture
def store(store: Any) -> Any:
    """A store with the session of somebody else."""
    store.import_session(KEPT)
    return store


@pytest.fixture
def blocking(migrated: str) -> Iterator[asm.SessionStore]:
    """The same, blocking, beside the command."""
    with asm.SessionStore(migrated) as store:
        store.import_session(KEPT)
        yield store


def kept_in(store: Any) -> asm.SessionExport:
    return store.query.export_session("ses_kept", include_artifacts=True)  # type: ignore[no-any-return]


# Documents.

DOCUMENTS = ("metadata", "context", "input", "output", "error", "provider_metadata", "token_usage", "data")


def hostile_documents() -> st.SearchStrategy[Any]:
    """JSON and what is none, one inside the other, and what is too large or too deep."""
    huge = st.builds(lambda digits: -(10**digits), st.sampled_from([4_300, 50_000]))
    leaves = st.one_of(values(), not_json(), huge, st.sampled_from([*TEXTS, HOSTILE, "\ud83d\ude00"]))
    keys = st.one_of(texts(), st.sampled_from(["input_tokens", "model", *TEXTS]), st.integers(), st.none())
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(keys, inner, max_size=3),
            st.builds(deep, inner, st.sampled_from([200, 499, 501, 2_000])),
        ),
        max_leaves=6,
    )


def deep(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def test_a_hostile_document_is_read_back_equal_or_refused_wherever_it_is_given(store: Any) -> None:
    @given(st.sampled_from([*PLACES]), hostile_documents(), st.booleans())
    def check(place: tuple[type[Any], str], document: Any, is_late: bool) -> None:
        model, field = place
        value = document if isinstance(document, dict) else {"a": document}
        session = asm.Session(agent_id="a", id=new_id("ses_"))
        try:
            made = a_model(model, session, **{} if is_late else {field: value})
            if is_late:
                # A model is frozen, its documents are not.
                object.__setattr__(made, field, value)
            write(store, session, made)
        except asm.ValidationError:
            assert store.get_sessions([session.id]) == []
        else:
            assert repr(getattr(read(store, made), field)) == repr(value)
        assert kept_in(store) == KEPT

    check()


PLACES = {
    (model, field): None
    for model in (asm.Session, asm.Run, asm.Event, asm.Artifact)
    for field in DOCUMENTS
    if field in model.__dataclass_fields__
}


def a_model(model: type[Any], session: asm.Session, **given: Any) -> Any:
    if model is asm.Session:
        return replace(session, **given)
    if model is asm.Artifact:
        return an_artifact(session.id, session_id=session.id, **given)
    return an_event(session.id, **given) if model is asm.Event else asm.Run(session_id=session.id, **given)


def write(store: Any, session: asm.Session, made: Any) -> None:
    """Store a model and its session in one transaction."""
    with store.transaction() as tx:
        tx.save_session(made if isinstance(made, asm.Session) else session)
        if isinstance(made, asm.Run):
            tx.save_run(made)
        elif isinstance(made, asm.Event):
            tx.append_event(made)
        elif isinstance(made, asm.Artifact):
            tx.artifacts.register(made)


def read(store: Any, made: Any) -> Any:
    if isinstance(made, asm.Session):
        return store.get_session(made.id)
    if isinstance(made, asm.Run):
        return store.get_run(made.id)
    if isinstance(made, asm.Event):
        return store.get_event(made.session_id, made.id)
    return store.artifacts.get_by_key(made.key)


# What readers make of data whose keys they know, and whose values have any type.

KEYS = (
    *("role", "content", "type", "text", "thinking", "name", "id", "input", "output", "error", "message"),
    *("tool_name", "tool_input", "tool_output", "tool_calls", "function", "arguments", "tool_use_id"),
    *("tool_call_id", "is_error", "duration_s", "delta", "code", "model", "turn", "stop_reason", "source"),
    *("data", "media_type", "parts", "input_tokens", "output_tokens", "cost_usd", "attempt", "file_path"),
)
WORDS = (
    *("user", "assistant", "system", "tool", "text", "tool_use", "tool_result", "image", "thinking"),
    *("function", "end_turn", "Edit", "bash", "", "{", "[1", HOSTILE, "\0", "\ud800"),
)


def said() -> st.SearchStrategy[dict[str, Any]]:
    """Documents like those of agents, with any type anywhere."""
    leaves = st.one_of(
        st.sampled_from([*WORDS, None, True, 0, -1, 1.5, 10**30, 1e308]),
        st.text(st.sampled_from(sorted({*HOSTILE, *"[]{}\\"})), max_size=5),
        st.integers(),
    )
    inner = st.recursive(
        leaves,
        lambda each: st.one_of(
            st.lists(each, max_size=3), st.dictionaries(st.sampled_from(KEYS), each, max_size=4)
        ),
        max_leaves=12,
    )
    return st.dictionaries(st.sampled_from([*KEYS, HOSTILE]), inner, max_size=6)


def test_whatever_an_agent_says_is_shown_summed_up_and_exported(
    blocking: asm.SessionStore, migrated: str
) -> None:
    events = st.lists(st.tuples(st.sampled_from([*asm.EventType, f"acme.{HOSTILE}"]), said()), max_size=6)

    @given(events, said(), said())
    def check(drafts: list[Any], one: dict[str, Any], other: dict[str, Any]) -> None:
        session = asm.Session(id=new_id("ses_"), agent_id="a", metadata=one, context=other)
        run = asm.Run(session_id=session.id, input=one, output=other, error=one, provider_metadata=other)
        blocking.flush(
            session, run, [an_event(session.id, run_id=run.id, type=type, data=data) for type, data in drafts]
        )
        check_readers(blocking, migrated, session.id)
        assert kept_in(blocking) == KEPT
        blocking.delete_session(session.id)

    check()


def check_readers(store: asm.SessionStore, dsn: str, session_id: str) -> None:
    export = store.query.export_session(session_id)
    assert [repr(each.to_dict()) for each in jsonl.load(jsonl.dump([export]))] == [repr(export.to_dict())]
    assert store.query.get_usage_summary(session_id=session_id).run_count == 1
    assert store.query.get_cost_summary(session_id=session_id).run_count == 1
    Transcript.from_events(export.events, max_messages=3, max_chars=100)
    repr(export)
    for arguments in (["show", session_id], ["show", session_id, "--json"], ["stats", session_id]):
        result = CliRunner().invoke(cli, [*arguments, "--dsn", dsn], catch_exceptions=False)
        assert (result.exit_code, unseen(COLOUR.sub("", result.output))) == (0, [])


# Cursors.


def test_a_forged_cursor_is_refused_or_finds_what_a_search_finds(store: Any) -> None:
    for number in range(3):
        session = asm.Session(id=f"ses_{number}", agent_id="a", updated_at=LONG_AGO, created_at=LONG_AGO)
        run = asm.Run(id=f"run_{number}", session_id=session.id, token_usage={"input_tokens": number})
        store.flush(session, run, [an_event(session.id, id=f"evt_{n}") for n in range(3)])
    found = {order: searched(store, order) for order in EVERY_ORDER}

    @settings(max_examples=100 * EXAMPLES)
    @given(st.data(), st.sampled_from(EVERY_ORDER), st.randoms(), st.integers(1, 5))
    def check(data: st.DataObject, order: Order[Any], rng: random.Random, limit: int) -> None:
        right = order.cursor(rng.choice(found[order]))
        for cursor in (right, altered(right, rng), forged(order, *data.draw(keysets(order)))):
            with suppress(asm.InvalidCursor):
                items = searched(store, order, cursor=cursor, limit=limit)
                # What follows the place that the cursor names, wherever that is.
                start = found[order].index(items[0]) if items else len(found[order])
                assert items == found[order][start : start + limit]

    check()
    assert kept_in(store) == KEPT


def searched(store: Any, order: Order[Any], **page: Any) -> list[Any]:
    return list(getattr(store.query, f"search_{order.kind}")(order_by=order.name, **page).items)


def keysets(order: Order[Any]) -> st.SearchStrategy[Any]:
    """What a forged cursor may say: mostly values of the right kinds, however large."""
    bounds = st.sampled_from([-(2**63) - 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**400])
    numbers = st.one_of(bounds, st.integers(-3, 9), st.integers(0, 2**51), st.integers())
    words = st.one_of(texts(), st.sampled_from([*TEXTS, "ses_1", "evt_1", "ses_kept", HOSTILE]))
    # Of a lone surrogate, which has no bytes, what a decoder makes of it.
    kinds = {True: words.map(lambda each: each.encode("utf-8", "replace").decode()), False: numbers.map(str)}
    right = [kinds[name in ("last_session", "last_id")] for name in order.parameters]
    odd = st.one_of(*kinds.values(), st.text("0123456789-+_eE. \u0663", max_size=25))
    return st.one_of(st.tuples(*right), st.tuples(*right), st.lists(odd, max_size=4))


# Ids.


def ids() -> st.SearchStrategy[str]:
    parts = st.sampled_from(
        [
            *("..", ".", "/", "%2e", "%", "~", "\\", ":", "\n", "\r", "\x1b", " ", "-", "'", '"', "{,}"),
            *("$1", "ses_kept", "ses_1", "é", "e\u0301", "A", "a", "\u200b", "\U000e0041", "🎉"),
            *(".jsonl.gz", ".2", "null", "con", "%s", ":id", "asm_events", "x" * 120, "é" * 120),
        ]
    )
    joined = st.lists(parts, min_size=1, max_size=4).map(lambda each: "".join(each)[:255])
    return st.one_of(joined, texts(), st.sampled_from(TEXTS)).filter("ses_kept".__ne__)


def is_id(text: str) -> bool:
    with suppress(asm.ValidationError):
        return bool(asm.Session(agent_id=text))
    return False


def test_two_sessions_of_any_ids_are_apart_in_the_store_and_in_the_archive(
    store: Any, tmp_path: Path
) -> None:
    @given(ids(), ids())
    @example("é", "e\u0301")
    @example("A", "a")
    @example("ses_1", "ses_1.2")
    @example("../ses_kept", "..%2Fses_kept")
    def check(one: str, other: str) -> None:
        accepted = [id for id in dict.fromkeys((one, other)) if is_id(id)]
        with TemporaryDirectory(dir=tmp_path) as parent:
            folder = Path(parent, "archive")
            for id in accepted:
                write_everywhere(store, id)
            for id in accepted:
                others = {each: everything_of(store, each) for each in alive(store) - {id}}
                delete_into(store, id, folder)
                assert {each: everything_of(store, each) for each in alive(store)} == others
            assert names_in(Path(parent)) <= {"archive"}
            archived = [archives.read(file) for file in folder.iterdir()] if accepted else []
        assert sorted(export.session.id for export in archived) == sorted(accepted)
        for export in archived:
            assert {run.id for run in export.runs} == {export.session.id}
            assert [event.data for event in export.events] == [{"of": export.session.id}]
        assert kept_in(store) == KEPT

    check()


def write_everywhere(store: Any, id: str) -> None:
    """Store rows that have the id in every place that takes one."""
    session = asm.Session(
        id=id, agent_id=id, tags=(id,), parent_session_id=id, created_at=LONG_AGO, updated_at=LONG_AGO
    )
    run = asm.Run(id=id, session_id=id, provider=id, provider_metadata={"model": id})
    event = an_event(id, id=id, run_id=id, correlation_id=id, provider=id, data={"of": id})
    store.flush(session, run, [event])
    store.artifacts.register(an_artifact(id, session_id=id, run_id=id, content_type=id))
    found = store.query.search_events(
        session_ids=id, run_ids=id, providers=id, correlation_id=id
    ).items + store.get_events(id, run_id=id)
    assert [(each.id, each.data) for each in found] == [(id, {"of": id})] * 2
    searched = store.query.search_sessions(agent_id=id, tags=id, provider=id, parent_session_id=id)
    assert [each.id for each in searched] == [id]
    assert [each.id for each in store.query.search_runs(session_id=id, provider=id)] == [id]


def alive(store: Any) -> set[str]:
    return {each.id for each in store.list_sessions(include_deleted=True)}


def everything_of(store: Any, id: str) -> Any:
    return store.query.export_session(id, include_artifacts=True)


def delete_into(store: Any, id: str, folder: Path) -> None:
    """Have retention archive and delete a session."""
    store.save_session(replace(store.get_session(id), deleted_at=LONG_AGO))
    report = store.maintenance.execute(asm.RetentionPolicy(archive=folder))
    assert (report.errors, report.sessions_hard_deleted) == ([], 1)
    assert id not in alive(store)


# Archive folders.


def an_archive(id: str, **fields: Any) -> bytes:
    session = asm.Session(id=id, agent_id="a", created_at=LONG_AGO, updated_at=LONG_AGO)
    events = [an_event(id, id="evt_1", sequence_number=1, timestamp=LONG_AGO, **fields)]
    return gzip.compress(b"".join(jsonl.dump([asm.SessionExport(session=session, events=events)])))


CONTENTS = {
    "the archive of the session": an_archive("ses_1"),
    "an archive that contradicts it": an_archive("ses_1", data={"forged": True}),
    "the archive of another session": an_archive("ses_2"),
    "an archive of the session kept": an_archive("ses_kept"),
    "two archives": an_archive("ses_1") + an_archive("ses_2"),
    "an export": gzip.decompress(an_archive("ses_1")),
    "a truncated archive": an_archive("ses_1")[:-20],
    "nothing": b"",
    "noise": bytes(range(256)),
    "many levels": gzip.compress(b'{"format": "asm-export", "version": 1}\n' + b"[" * 5_000),
    "a forged counter": gzip.compress(
        gzip.decompress(an_archive("ses_1")).replace(b'"last_sequence":1', b'"last_sequence":%d' % 2**62)
    ),
}
NAMES = (
    *("ses_1.jsonl.gz", "ses_1.2.jsonl.gz", "ses_2.jsonl.gz", "ses_2.2.jsonl.gz", ".asm-archive.lock"),
    *(".ses_1.jsonl.gz.new", "ses_1.traj", "é\n\x1b[2J.jsonl", "index.txt"),
)
Plant = Callable[[Path], object]
PLANTS: dict[str, Plant] = {
    **IRREGULAR,
    **{name: partial(Path.write_bytes, data=content) for name, content in CONTENTS.items()},
}
PLANTED = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([*PLANTS]), max_size=4)


def test_whatever_is_planted_in_an_archive_folder_nothing_is_lost_or_written_elsewhere(
    store: Any, tmp_path: Path
) -> None:
    @given(PLANTED)
    def check(planted: dict[str, str]) -> None:
        with TemporaryDirectory(dir=tmp_path) as parent:
            folder = Path(parent, "archive")
            plant_all(folder, planted)
            found = archived_in(folder)
            before = {}
            for id in ("ses_1", "ses_2"):
                store.append_event(an_event(id, id="evt_1", timestamp=LONG_AGO, data={"n": 1}))
                session = asm.Session(id=id, agent_id="a", created_at=LONG_AGO, updated_at=LONG_AGO)
                store.save_session(replace(session, deleted_at=LONG_AGO))
                before[id] = store.query.export_session(id, include_artifacts=True)

            report = store.maintenance.execute(asm.RetentionPolicy(archive=folder))

            assert all(isinstance(failure.error, asm.StorageError) for failure in report.errors)
            for id in before:
                if id in alive(store):
                    # What was not archived is there as it was.
                    assert everything_of(store, id) == before[id]
                    assert any(failure.session_id == id for failure in report.errors)
                    store.delete_session(id)
                else:
                    assert any(before[id].events == each.events for each in archived_in(folder))
            # Nothing of the archives that were there is gone, and nothing is outside of the folder.
            later = archived_in(folder)
            assert all(any(holds(each, earlier) for each in later) for earlier in found)
            check_unwritten(folder)
        assert kept_in(store) == KEPT

    check()


def test_whatever_is_planted_in_a_folder_is_imported_or_named(
    blocking: asm.SessionStore, migrated: str, tmp_path: Path
) -> None:
    @given(PLANTED)
    def check(planted: dict[str, str]) -> None:
        with TemporaryDirectory(dir=tmp_path) as parent:
            folder = Path(parent, "archive")
            plant_all(folder, planted)
            # A pipe that is named is waited for, as by `cat`.
            files = [folder / name for name, what in planted.items() if "pipe" not in what]
            for paths in ([folder], [each for each in files if each.exists()]):
                result = CliRunner().invoke(
                    cli, ["import", *map(str, paths), "--dsn", migrated], catch_exceptions=False
                )
                assert result.exit_code in ((0, 1) if paths else (2,))
                assert unseen(result.output) == []
                assert not paths or all(line.startswith("asm: ") for line in result.stderr.splitlines())
            check_unwritten(folder)
            for id in alive(blocking) - {"ses_kept"}:
                blocking.delete_session(id)
        assert kept_in(blocking) == KEPT
        assert blocking.maintenance.health_check() == []

    check()


def plant_all(folder: Path, planted: dict[str, str]) -> None:
    folder.mkdir(0o700)
    (folder / "victim").write_bytes(VICTIM)
    (folder.parent / "outside").write_bytes(VICTIM)
    for name, what in planted.items():
        if not os.path.lexists(folder / name):
            with suppress(FileExistsError):
                PLANTS[what](folder / name)


def archived_in(folder: Path) -> list[asm.SessionExport]:
    found = []
    for file in sorted(folder.glob("*.jsonl.gz")):
        with suppress(OSError, asm.AsmError):
            found.append(archives.read(file))
    return found


def holds(later: asm.SessionExport, earlier: asm.SessionExport) -> bool:
    return later.session.id == earlier.session.id and all(each in later.events for each in earlier.events)


def check_unwritten(folder: Path) -> None:
    assert names_in(folder.parent) == {"archive", "outside"}
    assert (folder / "victim").read_bytes() == (folder.parent / "outside").read_bytes() == VICTIM
    assert [name for name in names_in(folder) if name.startswith(".asm-") and name.endswith(".new")] == []
