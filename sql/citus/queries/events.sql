-- append_event
-- One new event, by the function that `asm migrate --distributed` creates: the coordinator hands
-- the call to the worker with the session, so that it is one round trip and one transaction there.
select asm_append_event(
           %(session_id)s::text, %(id)s::text, %(type)s::text, %(timestamp)s::timestamptz,
           %(run_id)s::text, %(data)s::json, %(metadata)s::json, %(schema_version)s::bigint,
           %(provider)s::text, %(correlation_id)s::text
       ) as sequence_number;

-- append_event_with_session
insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
values (%(session_id)s, 1, pg_catalog.now())
on conflict (session_id) do update
   set last_sequence = counter.last_sequence + 1, updated_at = excluded.updated_at;
insert into asm_sessions as session (
    id, agent_id, status, parent_session_id, metadata, context, tags,
    created_at, updated_at, deleted_at
)
select session_id, %(ensured_agent_id)s, %(ensured_status)s, %(ensured_parent_session_id)s,
       %(ensured_metadata)s::json, %(ensured_context)s::json,
       array(select pg_catalog.json_array_elements_text(%(ensured_tags)s::json)),
       %(ensured_created_at)s::timestamptz, %(ensured_updated_at)s::timestamptz,
       %(ensured_deleted_at)s::text::timestamptz
  from asm_session_sequences
 where session_id = %(session_id)s
on conflict (id) do update
   set updated_at = excluded.updated_at
 where session.updated_at < excluded.updated_at;
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
select %(id)s, %(type)s, %(timestamp)s::timestamptz, session_id, %(run_id)s, last_sequence,
       %(data)s::json, %(metadata)s::json, %(schema_version)s::bigint, %(provider)s,
       %(correlation_id)s
  from asm_session_sequences
 where session_id = %(session_id)s
returning sequence_number;

-- append_events
-- for each session_id in session_ids
insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
values (%(session_id)s, pg_catalog.cardinality(%(ids)s::text[]), pg_catalog.now())
on conflict (session_id) do update
   set last_sequence = counter.last_sequence + excluded.last_sequence,
       updated_at = excluded.updated_at
returning session_id, last_sequence;
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
select id, type, timestamp, session_id, run_id, last_sequence - offset_from_last,
       data, metadata, schema_version, provider, correlation_id
  from (
       select pg_catalog.unnest(%(ids)s::text[]) as id,
              pg_catalog.unnest(%(types)s::text[]) as type,
              pg_catalog.unnest(%(timestamps)s::timestamptz[]) as timestamp,
              pg_catalog.unnest(%(run_ids)s::text[]) as run_id,
              pg_catalog.unnest(%(offsets_from_last)s::bigint[]) as offset_from_last,
              pg_catalog.unnest(%(data_list)s::text[])::json as data,
              pg_catalog.unnest(%(metadata_list)s::text[])::json as metadata,
              pg_catalog.unnest(%(schema_versions)s::bigint[]) as schema_version,
              pg_catalog.unnest(%(providers)s::text[]) as provider,
              pg_catalog.unnest(%(correlation_ids)s::text[]) as correlation_id
  ) as new
 cross join asm_session_sequences
 where session_id = %(session_id)s;

-- append_events_with_sessions
-- for each session_id in session_ids and ensured_id
insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
values (%(session_id)s, pg_catalog.cardinality(%(ids)s::text[]), pg_catalog.now())
on conflict (session_id) do update
   set last_sequence = counter.last_sequence + excluded.last_sequence,
       updated_at = excluded.updated_at
returning session_id, last_sequence;
insert into asm_sessions as session (
    id, agent_id, status, parent_session_id, metadata, context, tags,
    created_at, updated_at, deleted_at
)
select session_id, (%(ensured_agent_id)s::text[])[1], (%(ensured_status)s::text[])[1],
       (%(ensured_parent_session_id)s::text[])[1], (%(ensured_metadata)s::text[])[1]::json,
       (%(ensured_context)s::text[])[1]::json,
       array(select pg_catalog.json_array_elements_text((%(ensured_tags)s::text[])[1]::json)),
       (%(ensured_created_at)s::timestamptz[])[1], (%(ensured_updated_at)s::timestamptz[])[1],
       (%(ensured_deleted_at)s::text[])[1]::timestamptz
  from asm_session_sequences
 where session_id = %(session_id)s
   and pg_catalog.cardinality(%(ensured_id)s::text[]) = 1
on conflict (id) do update
   set updated_at = excluded.updated_at
 where session.updated_at < excluded.updated_at;
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
select id, type, timestamp, session_id, run_id, last_sequence - offset_from_last,
       data, metadata, schema_version, provider, correlation_id
  from (
       select pg_catalog.unnest(%(ids)s::text[]) as id,
              pg_catalog.unnest(%(types)s::text[]) as type,
              pg_catalog.unnest(%(timestamps)s::timestamptz[]) as timestamp,
              pg_catalog.unnest(%(run_ids)s::text[]) as run_id,
              pg_catalog.unnest(%(offsets_from_last)s::bigint[]) as offset_from_last,
              pg_catalog.unnest(%(data_list)s::text[])::json as data,
              pg_catalog.unnest(%(metadata_list)s::text[])::json as metadata,
              pg_catalog.unnest(%(schema_versions)s::bigint[]) as schema_version,
              pg_catalog.unnest(%(providers)s::text[]) as provider,
              pg_catalog.unnest(%(correlation_ids)s::text[]) as correlation_id
  ) as new
 cross join asm_session_sequences
 where session_id = %(session_id)s;

-- lock_counters
-- for each session_id in session_ids
insert into asm_session_sequences (session_id, last_sequence, updated_at)
values (%(session_id)s, 0, pg_catalog.now())
on conflict (session_id) do update
   set last_sequence = excluded.last_sequence
 where false
returning session_id;

-- find_events
-- for each session_id in session_ids
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
 where session_id = %(session_id)s
   and id = any(%(ids)s::text[]);
