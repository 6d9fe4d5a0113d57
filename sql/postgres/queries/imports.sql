-- find_runs
-- The requested runs that exist.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at,
       ended_at, provider, provider_metadata, cost_usd
  from asm_runs
  join unnest(%(session_ids)s::text[], %(ids)s::text[])
    as requested (session_id, id)
 using (session_id, id);

-- find_artifacts
-- The requested artifacts that exist, soft-deleted ones too.
select id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend,
       storage_ref, metadata, created_at, deleted_at
  from asm_artifacts
 where id = any(%(ids)s::text[]);

-- find_live_keys
-- The requested keys that a live artifact has. Uses asm_artifacts_live_key.
select key
  from asm_artifacts
 where key = any(%(keys)s::text[])
   and deleted_at is null;

-- find_sequence_numbers
-- The requested sequence numbers that an event has.
select session_id, sequence_number
  from asm_events
  join unnest(%(session_ids)s::text[], %(sequence_numbers)s::bigint[])
    as requested (session_id, sequence_number)
 using (session_id, sequence_number);

-- import_sessions
-- Inserts sessions in the order of their ids. One that another client has saved since it was
-- looked up is newer, and stays. The tags of a session arrive as a JSON array, because PostgreSQL
-- has no array whose elements are arrays of different lengths.
insert into asm_sessions (
    id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at,
    deleted_at
)
select id, agent_id, status, parent_session_id, metadata, context,
       array(
           select tag
             from json_array_elements_text(tags) with ordinality as each (tag, ordinal)
            order by ordinal
       ),
       created_at, updated_at, deleted_at
  from (
       select unnest(%(id)s::text[]) collate "C" as id,
              unnest(%(agent_id)s::text[]) as agent_id,
              unnest(%(status)s::text[]) as status,
              unnest(%(parent_session_id)s::text[]) as parent_session_id,
              unnest(%(metadata)s::text[])::json as metadata,
              unnest(%(context)s::text[])::json as context,
              unnest(%(tags)s::text[])::json as tags,
              unnest(%(created_at)s::timestamptz[]) as created_at,
              unnest(%(updated_at)s::timestamptz[]) as updated_at,
              unnest(%(deleted_at)s::timestamptz[]) as deleted_at
  ) as new
 order by id
on conflict do nothing;

-- import_runs
-- Inserts runs in the order of their keys. One that another client has saved since it was looked
-- up is newer, and stays.
insert into asm_runs (
    id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at,
    ended_at, provider, provider_metadata, cost_usd, input_tokens, output_tokens, total_tokens,
    cache_read_tokens, cache_creation_tokens, model
)
select unnest(%(id)s::text[]) collate "C" as id,
       unnest(%(session_id)s::text[]) collate "C" as session_id,
       unnest(%(status)s::text[]) as status,
       unnest(%(input)s::text[])::json as input,
       unnest(%(output)s::text[])::json as output,
       unnest(%(error)s::text[])::json as error,
       unnest(%(metadata)s::text[])::json as metadata,
       unnest(%(turn_count)s::bigint[]) as turn_count,
       unnest(%(token_usage)s::text[])::json as token_usage,
       unnest(%(started_at)s::timestamptz[]) as started_at,
       unnest(%(ended_at)s::timestamptz[]) as ended_at,
       unnest(%(provider)s::text[]) as provider,
       unnest(%(provider_metadata)s::text[])::json as provider_metadata,
       unnest(%(cost_usd)s::double precision[]) as cost_usd,
       unnest(%(input_tokens)s::bigint[]) as input_tokens,
       unnest(%(output_tokens)s::bigint[]) as output_tokens,
       unnest(%(total_tokens)s::bigint[]) as total_tokens,
       unnest(%(cache_read_tokens)s::bigint[]) as cache_read_tokens,
       unnest(%(cache_creation_tokens)s::bigint[]) as cache_creation_tokens,
       unnest(%(model)s::text[]) as model
 order by session_id, id
on conflict do nothing;

-- import_artifacts
-- Inserts artifacts. Fails if another client has registered one of them since it was looked up.
insert into asm_artifacts (
    id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend,
    storage_ref, metadata, created_at, deleted_at
)
select unnest(%(id)s::text[]) as id,
       unnest(%(session_id)s::text[]) as session_id,
       unnest(%(run_id)s::text[]) as run_id,
       unnest(%(key)s::text[]) as key,
       unnest(%(content_type)s::text[]) as content_type,
       unnest(%(byte_size)s::bigint[]) as byte_size,
       unnest(%(checksum_sha256)s::text[]) as checksum_sha256,
       unnest(%(storage_backend)s::text[]) as storage_backend,
       unnest(%(storage_ref)s::text[]) as storage_ref,
       unnest(%(metadata)s::text[])::json as metadata,
       unnest(%(created_at)s::timestamptz[]) as created_at,
       unnest(%(deleted_at)s::timestamptz[]) as deleted_at;

-- import_events
-- Inserts events with their sequence numbers. The caller has locked the counters of their
-- sessions.
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version,
    provider, correlation_id
)
select unnest(%(id)s::text[]) as id,
       unnest(%(type)s::text[]) as type,
       unnest(%(timestamp)s::timestamptz[]) as timestamp,
       unnest(%(session_id)s::text[]) as session_id,
       unnest(%(run_id)s::text[]) as run_id,
       unnest(%(sequence_number)s::bigint[]) as sequence_number,
       unnest(%(data)s::text[])::json as data,
       unnest(%(metadata)s::text[])::json as metadata,
       unnest(%(schema_version)s::bigint[]) as schema_version,
       unnest(%(provider)s::text[]) as provider,
       unnest(%(correlation_id)s::text[]) as correlation_id;

-- set_counters
-- Sets counters after an import. The caller has locked them.
update asm_session_sequences as counter
   set last_sequence = new.last_sequence,
       pruned_events = new.pruned_events,
       updated_at = now()
  from unnest(%(session_ids)s::text[], %(last_sequences)s::bigint[], %(pruned_events)s::bigint[])
    as new (session_id, last_sequence, pruned_events)
 where counter.session_id = new.session_id;
