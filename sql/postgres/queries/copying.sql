-- page_sessions
-- The next ones in the order of their ids.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at
  from asm_sessions
 where id > %(after)s
 order by id
 limit %(limit)s;

-- page_runs
-- The next ones in the order of their sessions' ids and their own.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where (session_id, id) > (%(after_session)s, %(after)s)
 order by session_id, id
 limit %(limit)s;

-- page_artifacts
-- The next ones in the order of their ids, soft-deleted ones too.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where id > %(after)s
 order by id
 limit %(limit)s;

-- page_counters
-- The next ones in the order of their sessions' ids, of sessions that have given a number.
select session_id, last_sequence, pruned_events
  from asm_session_sequences
 where session_id > %(after)s
   and last_sequence > 0
 order by session_id
 limit %(limit)s;

-- find_events_between
-- The events of some sessions that stand behind one number and not behind another. The limit takes
-- none away: it keeps each session on the index.
select id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version, provider, correlation_id
  from unnest(%(session_ids)b::text[], %(afters)b::bigint[], %(lasts)b::bigint[]) as asked (asked_id, after, last)
 cross join lateral (
    select id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version, provider, correlation_id
      from asm_events
     where session_id = asked_id
       and sequence_number > after
       and sequence_number <= last
     order by sequence_number
     limit %(limit)s
) as found;
