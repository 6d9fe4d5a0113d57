-- page_sessions
-- The sessions that follow an id, in the order of their ids.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at,
       deleted_at
  from asm_sessions
 where id > :after
 order by id
 limit :limit;

-- page_runs
-- The runs that follow a key, in the order of their sessions' ids and their own.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at,
       ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where (session_id, id) > (:after_session, :after)
 order by session_id, id
 limit :limit;

-- page_artifacts
-- The artifacts that follow an id, in the order of their ids, soft-deleted ones too.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend,
       storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where id > :after
 order by id
 limit :limit;

-- page_counters
-- The counters that follow a session id and are above 0, in the order of their session ids.
select session_id, last_sequence, pruned_events
  from asm_session_sequences
 where session_id > :after
   and last_sequence > 0
 order by session_id
 limit :limit;

-- find_events_between
-- The first events of each requested range: after one sequence number, up to another.
select id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version,
       provider, correlation_id
  from asm_events
 where session_id = :session_ids
   and sequence_number > :after_sequences
   and sequence_number <= :last_sequences
 order by sequence_number
 limit :limit;

-- identify_store
-- The file. A store without sessions has a null.
select '' as server,
       file as database,
       (select 1 from asm_sessions limit 1) as sessions
  from pragma_database_list
 where name = 'main';
