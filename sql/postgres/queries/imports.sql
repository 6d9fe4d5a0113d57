-- find_runs
-- The requested runs that exist.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at,
       ended_at, provider, provider_metadata, cost_usd
  from asm_runs
  join rows from (
           pg_catalog.unnest(%(session_ids)s::text[]),
           pg_catalog.unnest(%(ids)s::text[])
       ) as requested (session_id, id)
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
  join rows from (
           pg_catalog.unnest(%(session_ids)s::text[]),
           pg_catalog.unnest(%(sequence_numbers)s::bigint[])
       ) as requested (session_id, sequence_number)
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
             from pg_catalog.json_array_elements_text(tags) with ordinality as each (tag, ordinal)
            order by ordinal
       ),
       created_at, updated_at, deleted_at
  from (
       select pg_catalog.unnest(%(id)s::text[]) collate "C" as id,
              pg_catalog.unnest(%(agent_id)s::text[]) as agent_id,
              pg_catalog.unnest(%(status)s::text[]) as status,
              pg_catalog.unnest(%(parent_session_id)s::text[]) as parent_session_id,
              pg_catalog.unnest(%(metadata)s::text[])::json as metadata,
              pg_catalog.unnest(%(context)s::text[])::json as context,
              pg_catalog.unnest(%(tags)s::text[])::json as tags,
              pg_catalog.unnest(%(created_at)s::timestamptz[]) as created_at,
              pg_catalog.unnest(%(updated_at)s::timestamptz[]) as updated_at,
              pg_catalog.unnest(%(deleted_at)s::timestamptz[]) as deleted_at
  ) as new
 order by id
on conflict do nothing;

-- import_runs
-- Inserts runs in the order of their keys. One that another client has saved since it was looked
-- up is newer, and stays.
insert into asm_runs (
    id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at,
    ended_at, provider, provider_metadata, cost_usd, input_tokens, output_tokens, total_tokens,
    cache_read_tokens, cache_creation_tokens, model,
    final_cost_usd, final_input_tokens, final_output_tokens, final_total_tokens,
    final_cache_read_tokens, final_cache_creation_tokens
)
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at,
       ended_at, provider, provider_metadata, cost_usd, input_tokens, output_tokens, total_tokens,
       cache_read_tokens, cache_creation_tokens, model,
       case when status not in ('pending', 'running') then cost_usd end,
       case when status not in ('pending', 'running') then input_tokens end,
       case when status not in ('pending', 'running') then output_tokens end,
       case when status not in ('pending', 'running') then coalesce(total_tokens, 0) end,
       case when status not in ('pending', 'running') then cache_read_tokens end,
       case when status not in ('pending', 'running') then cache_creation_tokens end
  from (
       select pg_catalog.unnest(%(id)s::text[]) collate "C" as id,
              pg_catalog.unnest(%(session_id)s::text[]) collate "C" as session_id,
              pg_catalog.unnest(%(status)s::text[]) as status,
              pg_catalog.unnest(%(input)s::text[])::json as input,
              pg_catalog.unnest(%(output)s::text[])::json as output,
              pg_catalog.unnest(%(error)s::text[])::json as error,
              pg_catalog.unnest(%(metadata)s::text[])::json as metadata,
              pg_catalog.unnest(%(turn_count)s::bigint[]) as turn_count,
              pg_catalog.unnest(%(token_usage)s::text[])::json as token_usage,
              pg_catalog.unnest(%(started_at)s::timestamptz[]) as started_at,
              pg_catalog.unnest(%(ended_at)s::timestamptz[]) as ended_at,
              pg_catalog.unnest(%(provider)s::text[]) as provider,
              pg_catalog.unnest(%(provider_metadata)s::text[])::json as provider_metadata,
              pg_catalog.unnest(%(cost_usd)s::double precision[]) as cost_usd,
              pg_catalog.unnest(%(input_tokens)s::bigint[]) as input_tokens,
              pg_catalog.unnest(%(output_tokens)s::bigint[]) as output_tokens,
              pg_catalog.unnest(%(total_tokens)s::bigint[]) as total_tokens,
              pg_catalog.unnest(%(cache_read_tokens)s::bigint[]) as cache_read_tokens,
              pg_catalog.unnest(%(cache_creation_tokens)s::bigint[]) as cache_creation_tokens,
              pg_catalog.unnest(%(model)s::text[]) as model
  ) as new
 order by session_id, id
on conflict do nothing;

-- import_artifacts
-- Inserts artifacts. Fails if another client has registered one of them since it was looked up.
insert into asm_artifacts (
    id, session_id, run_id, key, content_type, byte_size, checksum_sha256, storage_backend,
    storage_ref, metadata, created_at, deleted_at
)
select pg_catalog.unnest(%(id)s::text[]) as id,
       pg_catalog.unnest(%(session_id)s::text[]) as session_id,
       pg_catalog.unnest(%(run_id)s::text[]) as run_id,
       pg_catalog.unnest(%(key)s::text[]) as key,
       pg_catalog.unnest(%(content_type)s::text[]) as content_type,
       pg_catalog.unnest(%(byte_size)s::bigint[]) as byte_size,
       pg_catalog.unnest(%(checksum_sha256)s::text[]) as checksum_sha256,
       pg_catalog.unnest(%(storage_backend)s::text[]) as storage_backend,
       pg_catalog.unnest(%(storage_ref)s::text[]) as storage_ref,
       pg_catalog.unnest(%(metadata)s::text[])::json as metadata,
       pg_catalog.unnest(%(created_at)s::timestamptz[]) as created_at,
       pg_catalog.unnest(%(deleted_at)s::timestamptz[]) as deleted_at;

-- import_events
-- Inserts events with their sequence numbers. The caller has locked the counters of their
-- sessions.
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version,
    provider, correlation_id
)
select pg_catalog.unnest(%(id)s::text[]) as id,
       pg_catalog.unnest(%(type)s::text[]) as type,
       pg_catalog.unnest(%(timestamp)s::timestamptz[]) as timestamp,
       pg_catalog.unnest(%(session_id)s::text[]) as session_id,
       pg_catalog.unnest(%(run_id)s::text[]) as run_id,
       pg_catalog.unnest(%(sequence_number)s::bigint[]) as sequence_number,
       pg_catalog.unnest(%(data)s::text[])::json as data,
       pg_catalog.unnest(%(metadata)s::text[])::json as metadata,
       pg_catalog.unnest(%(schema_version)s::bigint[]) as schema_version,
       pg_catalog.unnest(%(provider)s::text[]) as provider,
       pg_catalog.unnest(%(correlation_id)s::text[]) as correlation_id;

-- set_counters
-- Sets counters after an import. The caller has locked them.
update asm_session_sequences as counter
   set last_sequence = new.last_sequence,
       pruned_events = new.pruned_events,
       updated_at = pg_catalog.now()
  from rows from (
           pg_catalog.unnest(%(session_ids)s::text[]),
           pg_catalog.unnest(%(last_sequences)s::bigint[]),
           pg_catalog.unnest(%(pruned_events)s::bigint[])
       ) as new (session_id, last_sequence, pruned_events)
 where counter.session_id = new.session_id;
