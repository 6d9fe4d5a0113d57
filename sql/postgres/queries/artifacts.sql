-- register_artifact
-- No row: a live artifact has that key, or an artifact has that id.
insert into asm_artifacts (
    id, session_id, run_id, key, content_type, byte_size, checksum_sha256,
    storage_backend, storage_ref, metadata, created_at, deleted_at
)
values (
    %(id)s, %(session_id)s, %(run_id)s, %(key)s, %(content_type)s, %(byte_size)s,
    %(checksum_sha256)s,
    %(storage_backend)s, %(storage_ref)s, %(metadata)s, %(created_at)s, %(deleted_at)s
)
on conflict do nothing
returning id;

-- find_artifact
-- The live artifact of a key.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256,
       storage_backend, storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where key = %(key)s
   and deleted_at is null;

-- list_artifacts
-- The artifacts of a session, the oldest first.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256,
       storage_backend, storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where session_id = %(session_id)s
   and deleted_at is null                                  -- if exclude_deleted
 order by created_at, id;

-- get_artifact_stats
-- The upper and the lower 32 bits of the sizes are added up each by themselves, because a sum in
-- SQLite that exceeds 63 bits is an error.
select pg_catalog.count(*) as artifact_count,
       coalesce(pg_catalog.sum(byte_size >> 32), 0)::bigint as upper_bytes,
       coalesce(pg_catalog.sum(byte_size & 4294967295), 0)::bigint as lower_bytes
  from asm_artifacts
 where session_id = %(session_id)s
   and deleted_at is null;

-- delete_artifact
-- Soft-deletes the live artifact of a key.
update asm_artifacts
   set deleted_at = pg_catalog.now()
 where key = %(key)s
   and deleted_at is null;

-- delete_session_artifacts
-- Deletes the rows of all artifacts of a session, those that are soft-deleted, too.
delete from asm_artifacts
 where session_id = %(session_id)s;
