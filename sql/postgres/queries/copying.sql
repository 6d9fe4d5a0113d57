-- page_sessions
-- The sessions that follow an id, in the order of their ids.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at,
       deleted_at
  from asm_sessions
 where id > %(after)s
 order by id
 limit %(limit)s;

-- page_runs
-- The runs that follow a key, in the order of their sessions' ids and their own.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at,
       ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where (session_id, id) > (%(after_session)s, %(after)s)
 order by session_id, id
 limit %(limit)s;

-- page_artifacts
-- The artifacts that follow an id, in the order of their ids, soft-deleted ones too.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend,
       storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where id > %(after)s
 order by id
 limit %(limit)s;

-- page_counters
-- The counters that follow a session id and are above 0, in the order of their session ids.
select session_id, last_sequence, pruned_events
  from asm_session_sequences
 where session_id > %(after)s
   and last_sequence > 0
 order by session_id
 limit %(limit)s;

-- find_events_between
-- The first events of each requested range: after one sequence number, up to another.
select found.id, found.type, found.timestamp, found.session_id, found.run_id,
       found.sequence_number, found.data, found.metadata, found.schema_version, found.provider,
       found.correlation_id
  from rows from (
           pg_catalog.unnest(%(session_ids)s::text[]),
           pg_catalog.unnest(%(after_sequences)s::bigint[]),
           pg_catalog.unnest(%(last_sequences)s::bigint[])
       ) as requested (session_id, after_sequence, last_sequence)
 cross join lateral (
       select id, type, timestamp, session_id, run_id, sequence_number, data, metadata,
              schema_version, provider, correlation_id
         from asm_events as event
        where event.session_id = requested.session_id
          and event.sequence_number > requested.after_sequence
          and event.sequence_number <= requested.last_sequence
        order by event.sequence_number
        limit %(limit)s
  ) as found;

-- identify_store
-- The server since its start, the database and the table, by which two DSNs of one store are
-- recognised. The table of a store without sessions is null.
select pg_catalog.pg_postmaster_start_time()::text as server,
       pg_catalog.current_database()::text as database,
       (select tableoid::bigint from asm_sessions limit 1) as sessions;
