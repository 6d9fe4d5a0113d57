"""The pending migrations as a script for psql or sqlite3, which also marks them as applied.

yoyo's tables and rows are what yoyo itself would create and insert.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from uuid import uuid4

from asm.migrations.files import Migration

NOTHING_PENDING = "-- Nothing is pending.\n"

_YOYO_TABLES = """\
create table if not exists _yoyo_migration (
    migration_hash varchar(64),
    migration_id varchar(255),
    applied_at_utc timestamp,
    primary key (migration_hash)
);
create table if not exists _yoyo_log (
    id varchar(36),
    migration_hash varchar(64),
    migration_id varchar(255),
    operation varchar(10),
    username varchar(255),
    hostname varchar(255),
    comment varchar(255),
    created_at_utc timestamp,
    primary key (id)
);
create table if not exists _yoyo_version (
    version int not null primary key,
    installed_at_utc timestamp
);
create table if not exists yoyo_lock (
    locked int default 1,
    ctime timestamp,
    pid int not null,
    primary key (locked)
);
insert into _yoyo_version (version, installed_at_utc)
select 2, {now} where not exists (select 1 from _yoyo_version);"""

_LOCK = (
    "-- Fails while yoyo's own command holds its lock.\ninsert into yoyo_lock (locked, pid) values (1, 0);"
)
_UNLOCK = "delete from yoyo_lock;"

_UNMARK = "delete from _yoyo_migration where cast(migration_id as text) = '{id}';"

_MARK = """\
insert into _yoyo_log (id, migration_hash, migration_id, operation, comment, created_at_utc)
values ('{log_id}', '{hash}', '{id}', 'apply', '{checksum}', {now});
insert into _yoyo_migration (migration_hash, migration_id, applied_at_utc)
values ('{hash}', '{id}', {now});"""


def migration_script(
    head: str, pending: Sequence[Migration], marked: Collection[str], *, utc_now: str
) -> str:
    """One transaction that applies migrations, after the statements that begin it.

    `marked` are those that are marked as applied although their tables were dropped by hand.
    """
    if not pending:
        return NOTHING_PENDING
    return "\n\n".join([head, *_body(pending, marked, utc_now), "commit;\n"])


def _body(pending: Sequence[Migration], marked: Collection[str], now: str) -> Iterator[str]:
    yield _YOYO_TABLES.format(now=now)
    yield _LOCK
    for migration in pending:
        if migration.id in marked:
            yield _UNMARK.format(id=migration.id)
        yield f"-- {migration.id}"
        yield migration.file.read_text("utf-8").rstrip()
        yield _MARK.format(
            log_id=uuid4(),
            hash=sha256(migration.id.encode()).hexdigest(),
            id=migration.id,
            checksum=migration.checksum,
            now=now,
        )
    yield _UNLOCK
