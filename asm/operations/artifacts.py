"""Registering and finding artifacts: rows that say where something large is stored, under a key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from asm.documents import dump_object, load
from asm.engine.script import Query, Row, Rows, Script, no_result, sum_of_halves
from asm.errors import AlreadyExists, ValidationError
from asm.models import Artifact, ArtifactStats, artifact_from_row
from asm.validation import text


def register(artifact: Artifact) -> Query[None]:
    """Insert an artifact. AlreadyExists if a live one has its key, or any artifact its id."""
    if not isinstance(artifact, Artifact):
        raise ValidationError(f"register takes an Artifact, not {type(artifact).__name__}")

    def read(rows: Rows) -> None:
        if not rows:
            raise _already_exists(artifact)

    params = {
        "id": artifact.id,
        "session_id": artifact.session_id,
        "run_id": artifact.run_id,
        "key": artifact.key,
        "content_type": artifact.content_type,
        "byte_size": artifact.byte_size,
        "checksum_sha256": artifact.checksum_sha256,
        "storage_backend": artifact.storage_backend,
        "storage_ref": artifact.storage_ref,
        "metadata": dump_object(artifact.metadata, "metadata"),
        "created_at": artifact.created_at,
        "deleted_at": artifact.deleted_at,
    }
    return Query(
        "register_artifact", params, read, on_unknown_outcome=lambda: _register_again(artifact, params)
    )


def _register_again(artifact: Artifact, params: dict[str, Any]) -> Script[None]:
    """Insert an artifact that an earlier attempt, whose outcome is unknown, may have inserted."""
    is_new = yield from Query("register_artifact", params, bool)
    if not is_new:
        stored = yield from Query("find_artifacts", {"ids": (artifact.id,)}, read_artifacts)
        # It may have been soft-deleted since.
        if not any(replace(each, deleted_at=artifact.deleted_at) == artifact for each in stored):
            raise _already_exists(artifact)


def _already_exists(artifact: Artifact) -> AlreadyExists:
    return AlreadyExists(
        f"an artifact with the key {artifact.key!r} or the id {artifact.id!r} exists: "
        "delete it first, or register another key",
        key=artifact.key,
        id=artifact.id,
    )


def get_by_key(key: str) -> Query[Artifact | None]:
    """The live artifact of that key, or None."""
    return Query(
        "find_artifact", {"key": text(key, "key")}, lambda rows: read_artifact(rows[0]) if rows else None
    )


def list_by_session(session_id: str) -> Query[list[Artifact]]:
    """The live artifacts of a session, the oldest first."""
    params = {"session_id": text(session_id, "session_id"), "exclude_deleted": True}
    return Query("list_artifacts", params, read_artifacts)


def list_all(session_id: str) -> Query[list[Artifact]]:
    """The artifacts of a session, with those that are soft-deleted, the oldest first."""
    return Query("list_artifacts", {"session_id": text(session_id, "session_id")}, read_artifacts)


def session_stats(session_id: str) -> Query[ArtifactStats]:
    """The number of live artifacts of a session, and the sum of their sizes."""
    return Query("get_artifact_stats", {"session_id": text(session_id, "session_id")}, _stats)


def delete(key: str) -> Query[None]:
    """Soft-delete the live artifact of a key, which may then be registered again. No error if none is."""
    return Query("delete_artifact", {"key": text(key, "key")}, no_result)


def _stats(rows: Rows) -> ArtifactStats:
    artifact_count, *halves = rows[0]
    return ArtifactStats(artifact_count=artifact_count, total_bytes=sum_of_halves(*halves))


def read_artifact(row: Row) -> Artifact:
    *plain, metadata, created_at, deleted_at = row
    return artifact_from_row(*plain, load(metadata), created_at, deleted_at)


def read_artifacts(rows: Rows) -> list[Artifact]:
    return [read_artifact(row) for row in rows]
