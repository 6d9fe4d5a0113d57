"""What a store promises about artifacts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import asm
from tests.conftest import an_artifact

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_registered_artifact_is_read_back_equal(store: Any) -> None:
    artifact = an_artifact(
        session_id="ses_1",
        run_id="run_1",
        content_type="application/pdf",
        byte_size=2**40,
        storage_ref="s3://bucket/" + "long/" * 500,
        metadata={"pages": 3},
        created_at=NOON,
    )
    store.artifacts.register(artifact)
    assert store.artifacts.get_by_key(artifact.key) == artifact


def test_an_unknown_key_returns_none(store: Any) -> None:
    assert store.artifacts.get_by_key("missing") is None


def test_a_live_key_cannot_be_registered_again(store: Any) -> None:
    first = an_artifact("k")
    store.artifacts.register(first)
    with pytest.raises(asm.AlreadyExists, match="'k'"):
        store.artifacts.register(an_artifact("k"))
    assert store.artifacts.get_by_key("k") == first


def test_an_id_cannot_be_registered_again(store: Any) -> None:
    first = an_artifact("a")
    store.artifacts.register(first)
    with pytest.raises(asm.AlreadyExists):
        store.artifacts.register(an_artifact("b", id=first.id))


def test_a_deleted_artifact_is_not_found(store: Any) -> None:
    store.artifacts.register(an_artifact("k", session_id="ses_1"))
    store.artifacts.delete("k")
    assert (store.artifacts.get_by_key("k"), store.artifacts.list_by_session("ses_1")) == (None, [])


def test_a_deleted_key_may_be_registered_again(store: Any) -> None:
    store.artifacts.register(an_artifact("k"))
    store.artifacts.delete("k")
    second = an_artifact("k")
    store.artifacts.register(second)
    assert store.artifacts.get_by_key("k") == second


def test_deleting_a_key_leaves_earlier_artifacts_of_that_key(store: Any) -> None:
    store.save_session(asm.Session(agent_id="a", id="ses_1"))
    first = an_artifact("k", session_id="ses_1", created_at=NOON, deleted_at=NOON)
    store.artifacts.register(first)
    store.artifacts.register(an_artifact("k", session_id="ses_1"))
    store.artifacts.delete("k")
    assert store.query.export_session("ses_1", include_artifacts=True).artifacts[0] == first


def test_deleting_an_absent_key_is_no_error(store: Any) -> None:
    store.artifacts.delete("never")
    assert store.artifacts.get_by_key("never") is None


def test_artifacts_of_a_session_are_listed_oldest_first(store: Any) -> None:
    made = [
        an_artifact(f"{n}", session_id="ses_1", created_at=NOON + timedelta(minutes=n)) for n in (2, 0, 1)
    ]
    for artifact in [*made, an_artifact("other", session_id="ses_2"), an_artifact("nobody's")]:
        store.artifacts.register(artifact)
    assert store.artifacts.list_by_session("ses_1") == [made[1], made[2], made[0]]


def test_stats_count_live_artifacts_and_their_bytes(store: Any) -> None:
    for key, size in (("a", 3), ("b", 2**52), ("c", 2**52), ("d", 2**52)):
        store.artifacts.register(an_artifact(key, byte_size=size, session_id="ses_1"))
    store.artifacts.delete("a")
    stats = store.artifacts.session_stats("ses_1")
    assert (stats.artifact_count, stats.total_bytes) == (3, 3 * 2**52)


def test_a_session_without_artifacts_has_stats_of_zero(store: Any) -> None:
    stats = store.artifacts.session_stats("ses_1")
    assert (stats.artifact_count, stats.total_bytes) == (0, 0)


def test_only_artifacts_can_be_registered(store: Any) -> None:
    with pytest.raises(asm.ValidationError, match="takes an Artifact, not str"):
        store.artifacts.register("report.pdf")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\0", 3, None])
def test_an_invalid_key_is_refused(store: Any, key: Any) -> None:
    with pytest.raises(asm.ValidationError, match="key"):
        store.artifacts.get_by_key(key)
