-- find_runs
-- The requested runs that exist.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at,
       ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where session_id = :session_ids
   and id = :ids;

-- find_artifacts
-- The requested artifacts that exist, soft-deleted ones too.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend,
       storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where id in (select value from json_each(:ids));

-- find_live_keys
-- The requested keys that a live artifact has. Uses asm_artifacts_live_key.
select key
  from asm_artifacts
 where key in (select value from json_each(:keys))
   and deleted_at is null;

-- find_sequence_numbers
-- The requested sequence numbers that an event has.
select session_id, sequence_number
  from asm_events
 where session_id = :session_ids
   and sequence_number = :sequence_numbers;

-- import_sessions
-- Inserts sessions. One that another client has saved since it was looked up is newer, and stays.
insert into asm_sessions (
    id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at,
    deleted_at
)
values (
    :id, :agent_id, :status, :parent_session_id, :metadata, :context, :tags, :created_at,
    :updated_at, :deleted_at
)
on conflict do nothing;
-- Tags also have a table of their own, because SQLite cannot index the elements of an array.
insert or ignore into asm_session_tags (tag, id, created_at, updated_at)
select value, asm_sessions.id, created_at, updated_at
  from asm_sessions, json_each(tags)
 where asm_sessions.id = :id;

-- import_runs
-- Inserts runs. One that another client has saved since it was looked up is newer, and stays.
insert into asm_runs (
    id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at,
    ended_at, provider, provider_metadata, cost_usd, input_tokens, output_tokens, total_tokens,
    cache_read_tokens, cache_creation_tokens, model
)
values (
    :id, :session_id, :status, :input, :output, :error, :metadata, :turn_count, :token_usage,
    :started_at, :ended_at, :provider, :provider_metadata, :cost_usd, :input_tokens,
    :output_tokens, :total_tokens, :cache_read_tokens, :cache_creation_tokens, :model
)
on conflict do nothing;

-- import_artifacts
-- Inserts artifacts. Fails if another client has registered one of them since it was looked up.
insert into asm_artifacts (
    id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend,
    storage_ref, metadata, created_at, deleted_at
)
values (
    :id, :session_id, :run_id, :key, :content_type, :byte_size, :checksum_sha256, :storage_backend,
    :storage_ref, :metadata, :created_at, :deleted_at
);

-- import_events
-- Inserts events with their sequence numbers. The caller has locked the counters of their
-- sessions.
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version,
    provider, correlation_id
)
values (
    :id, :type, :timestamp, :session_id, :run_id, :sequence_number, :data, :metadata,
    :schema_version, :provider, :correlation_id
);

-- set_counters
-- Sets counters after an import. The caller has locked them.
update asm_session_sequences
   set last_sequence = :last_sequences,
       pruned_events = :pruned_events,
       updated_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
 where session_id = :session_ids;
