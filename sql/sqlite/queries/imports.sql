-- find_sessions
-- Those of the asked for that are stored.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at
  from asm_sessions
 where id in (select value from json_each(:ids));

-- find_runs
-- Those of the asked for that are stored.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where session_id = :session_ids
   and id = :ids;

-- find_artifacts
-- Those of the asked for that are stored, soft-deleted ones too.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where id in (select value from json_each(:ids));

-- find_live_keys
-- Those of the asked for that a live artifact holds.
select key
  from asm_artifacts
 where key in (select value from json_each(:keys))
   and deleted_at is null;

-- find_numbers
-- Those of the asked for that an event has.
select session_id, sequence_number
  from asm_events
 where session_id = :session_ids
   and sequence_number = :sequence_numbers;

-- import_sessions
-- Sessions that were not there. One that has been saved meanwhile stays: it is the newer.
insert into asm_sessions (id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at)
values (:id, :agent_id, :status, :parent_session_id, :metadata, :context, :tags, :created_at, :updated_at, :deleted_at)
on conflict do nothing;
-- The tags stand in a table of their own too, because SQLite has no index into a list.
insert or ignore into asm_session_tags (tag, id, created_at, updated_at)
select value, asm_sessions.id, created_at, updated_at
  from asm_sessions, json_each(tags)
 where asm_sessions.id = :id;

-- import_runs
-- Runs that were not there. One that has been saved meanwhile stays: it is the newer.
insert into asm_runs (id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at, ended_at, provider, provider_metadata, cost_usd, input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens, model)
values (:id, :session_id, :status, :input, :output, :error, :metadata, :turn_count, :token_usage, :started_at, :ended_at, :provider, :provider_metadata, :cost_usd, :input_tokens, :output_tokens, :total_tokens, :cache_read_tokens, :cache_creation_tokens, :model)
on conflict do nothing;

-- import_artifacts
-- Artifacts that were not there. One that was registered meanwhile fails the statement, and all with it.
insert into asm_artifacts (id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata, created_at, deleted_at)
values (:id, :session_id, :run_id, :key, :content_type, :byte_size, :checksum_sha256, :storage_backend, :storage_ref, :metadata, :created_at, :deleted_at);

-- import_events
-- Events that were not there, under the numbers they have; the counters of their sessions are locked.
insert into asm_events (id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version, provider, correlation_id)
values (:id, :type, :timestamp, :session_id, :run_id, :sequence_number, :data, :metadata, :schema_version, :provider, :correlation_id);

-- set_counters
-- Where sessions stand after an import; they are locked.
update asm_session_sequences
   set last_sequence = :last_sequences, pruned_events = :pruned_events, updated_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
 where session_id = :session_ids;
