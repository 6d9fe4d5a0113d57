-- register_artifact
-- No row: a live artifact holds that key, or an artifact that id.
insert into asm_artifacts (id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata, created_at, deleted_at)
values (:id, :session_id, :run_id, :key, :content_type, :byte_size, :checksum_sha256, :storage_backend, :storage_ref, :metadata, :created_at, :deleted_at)
on conflict do nothing
returning id;

-- find_artifact
-- The live one of that key. No row: there is none.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where key = :key
   and deleted_at is null;

-- list_artifacts
-- The oldest first.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where session_id = :session_id
   and deleted_at is null                                  -- if only_live
 order by created_at, id;

-- get_artifact_stats
-- The sum in mebibytes and the rest, because a sum of 64-bit numbers can be larger than one.
select count(*), coalesce(sum(byte_size / 1048576), 0), coalesce(sum(byte_size % 1048576), 0)
  from asm_artifacts
 where session_id = :session_id
   and deleted_at is null;

-- delete_artifact
update asm_artifacts
   set deleted_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
 where key = :key
   and deleted_at is null;
