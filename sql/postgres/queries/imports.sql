-- find_sessions
-- Those of the asked for that are stored.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at
  from asm_sessions
 where id = any(%(ids)b::text[]);

-- find_runs
-- Those of the asked for that are stored.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
  join unnest(%(session_ids)b::text[], %(ids)b::text[]) as asked (session_id, id) using (session_id, id);

-- find_artifacts
-- Those of the asked for that are stored, soft-deleted ones too.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where id = any(%(ids)b::text[]);

-- find_live_keys
-- Those of the asked for that a live artifact holds.
select key
  from asm_artifacts
 where key = any(%(keys)b::text[])
   and deleted_at is null;

-- find_numbers
-- Those of the asked for that an event has.
select session_id, sequence_number
  from asm_events
  join unnest(%(session_ids)b::text[], %(sequence_numbers)b::bigint[]) as asked (session_id, sequence_number) using (session_id, sequence_number);

-- import_sessions
-- Sessions that were not there. One that has been saved meanwhile stays: it is the newer.
insert into asm_sessions (id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at)
select id, agent_id, status, parent_session_id, metadata::json, context::json, array(select tag from json_array_elements_text(tags::json) with ordinality as each (tag, place) order by place), created_at, updated_at, deleted_at
  from unnest(%(id)b::text[], %(agent_id)b::text[], %(status)b::text[], %(parent_session_id)b::text[], %(metadata)b::text[], %(context)b::text[], %(tags)b::text[], %(created_at)b::timestamptz[], %(updated_at)b::timestamptz[], %(deleted_at)b::timestamptz[])
    as new (id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at)
 order by id collate "C"
on conflict do nothing;

-- import_runs
-- Runs that were not there. One that has been saved meanwhile stays: it is the newer.
insert into asm_runs (id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at, ended_at, provider, provider_metadata, cost_usd, input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens, model)
select id, session_id, status, input::json, output::json, error::json, metadata::json, turn_count, token_usage::json, started_at, ended_at, provider, provider_metadata::json, cost_usd, input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens, model
  from unnest(%(id)b::text[], %(session_id)b::text[], %(status)b::text[], %(input)b::text[], %(output)b::text[], %(error)b::text[], %(metadata)b::text[], %(turn_count)b::bigint[], %(token_usage)b::text[], %(started_at)b::timestamptz[], %(ended_at)b::timestamptz[], %(provider)b::text[], %(provider_metadata)b::text[], %(cost_usd)b::double precision[], %(input_tokens)b::bigint[], %(output_tokens)b::bigint[], %(total_tokens)b::bigint[], %(cache_read_tokens)b::bigint[], %(cache_creation_tokens)b::bigint[], %(model)b::text[])
    as new (id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at, ended_at, provider, provider_metadata, cost_usd, input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens, model)
 order by session_id collate "C", id collate "C"
on conflict do nothing;

-- import_artifacts
-- Artifacts that were not there. One that was registered meanwhile fails the statement, and all with it.
insert into asm_artifacts (id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata, created_at, deleted_at)
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata::json, created_at, deleted_at
  from unnest(%(id)b::text[], %(session_id)b::text[], %(run_id)b::text[], %(key)b::text[], %(content_type)b::text[], %(byte_size)b::bigint[], %(checksum_sha256)b::text[], %(storage_backend)b::text[], %(storage_ref)b::text[], %(metadata)b::text[], %(created_at)b::timestamptz[], %(deleted_at)b::timestamptz[])
    as new (id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend, storage_ref, metadata, created_at, deleted_at);

-- import_events
-- Events that were not there, under the numbers they have; the counters of their sessions are locked.
insert into asm_events (id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version, provider, correlation_id)
select id, type, timestamp, session_id, run_id, sequence_number, data::json, metadata::json, schema_version, provider, correlation_id
  from unnest(%(id)b::text[], %(type)b::text[], %(timestamp)b::timestamptz[], %(session_id)b::text[], %(run_id)b::text[], %(sequence_number)b::bigint[], %(data)b::text[], %(metadata)b::text[], %(schema_version)b::bigint[], %(provider)b::text[], %(correlation_id)b::text[])
    as new (id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version, provider, correlation_id);

-- set_counters
-- Where sessions stand after an import; they are locked.
update asm_session_sequences as counter
   set last_sequence = moved.last_sequence, pruned_events = moved.pruned_events, updated_at = now()
  from unnest(%(session_ids)b::text[], %(last_sequences)b::bigint[], %(pruned_events)b::bigint[]) as moved (session_id, last_sequence, pruned_events)
 where counter.session_id = moved.session_id;
