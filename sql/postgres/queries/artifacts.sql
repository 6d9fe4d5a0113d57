-- register_artifact
-- No row: a live artifact holds that key, or an artifact that id.
insert into asm_artifacts as artifact (id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata, created_at, deleted_at)
values (%(id)s, %(session_id)s, %(run_id)s, %(key)s, %(content_type)s, %(byte_size)s, %(checksum_sha256)s, %(storage_backend)s, %(storage_ref)s, %(metadata)s, %(created_at)s, %(deleted_at)s)
on conflict do nothing
returning id;

-- find_artifact
-- The live one of that key. No row: there is none.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where key = %(key)s
   and deleted_at is null;

-- list_artifacts
-- The oldest first.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where session_id = %(session_id)s
   and deleted_at is null                                  -- if only_live
 order by created_at, id;

-- get_artifact_stats
-- The sum in mebibytes and the rest, because a sum of 64-bit numbers can be larger than one.
select count(*), coalesce(sum(byte_size / 1048576), 0), coalesce(sum(byte_size %% 1048576), 0)
  from asm_artifacts
 where session_id = %(session_id)s
   and deleted_at is null;

-- delete_artifact
update asm_artifacts
   set deleted_at = now()
 where key = %(key)s
   and deleted_at is null;
