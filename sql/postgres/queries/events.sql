-- append_event
-- One new event: the counter advances and the event takes its number. An event that is stored
-- already violates a unique constraint, and the failing statement leaves the counter as it was.
with counters as (
    insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
    values (%(session_id)s, 1, now())
    on conflict (session_id) do update
       set last_sequence = counter.last_sequence + 1, updated_at = excluded.updated_at
    returning last_sequence
)
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
select %(id)s, %(type)s, %(timestamp)s::timestamptz, %(session_id)s, %(run_id)s, last_sequence,
       %(data)s::json, %(metadata)s::json, %(schema_version)s::bigint, %(provider)s,
       %(correlation_id)s
  from counters
returning sequence_number;

-- append_events
-- Many new events. The counter of each session advances by its number of events, in the order of
-- the session ids, so that two batches cannot deadlock; each event is numbered by its offset from
-- the last of its session. Returns the last number of each session.
-- The arrays are opened and cast in a select list, where rows are streamed. Opened under `from`
-- they are stored first, and cast after the join they are copied once more: either takes 1.4 times
-- as long. The range of `number` is always true. It makes the planner expect few counters;
-- otherwise it would hash the events.
with counters as (
    insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
    select session_id, number::bigint, now()
      from json_each_text(%(counters)s::json) as requested (session_id, number)
     where number::bigint between 1 and 9223372036854775807
     order by session_id collate "C"
    on conflict (session_id) do update
       set last_sequence = counter.last_sequence + excluded.last_sequence,
           updated_at = excluded.updated_at
    returning session_id, last_sequence
), stored as (
    insert into asm_events (
        id, type, timestamp, session_id, run_id, sequence_number,
        data, metadata, schema_version, provider, correlation_id
    )
    select id, type, timestamp, session_id, run_id, last_sequence - offset_from_last,
           data, metadata, schema_version, provider, correlation_id
      from (
           select unnest(%(ids)s::text[]) as id,
                  unnest(%(types)s::text[]) as type,
                  unnest(%(timestamps)s::timestamptz[]) as timestamp,
                  unnest(%(session_ids)s::text[]) as session_id,
                  unnest(%(run_ids)s::text[]) as run_id,
                  unnest(%(offsets_from_last)s::bigint[]) as offset_from_last,
                  unnest(%(data_list)s::text[])::json as data,
                  unnest(%(metadata_list)s::text[])::json as metadata,
                  unnest(%(schema_versions)s::bigint[]) as schema_version,
                  unnest(%(providers)s::text[]) as provider,
                  unnest(%(correlation_ids)s::text[]) as correlation_id
      ) as new
      join counters using (session_id)
)
select json_object_agg(session_id, last_sequence) as last_sequences
  from counters;

-- lock_counters
-- Locks the counters of these sessions until the transaction ends, in the order of the session
-- ids, and creates those that are missing, because only a row can be locked. `where false` locks a
-- stored row without writing a new version of it.
insert into asm_session_sequences (session_id, last_sequence, updated_at)
select session_id, 0, now()
  from unnest(%(session_ids)s::text[]) as requested (session_id)
 order by session_id collate "C"
on conflict (session_id) do update
   set last_sequence = excluded.last_sequence
 where false;

-- find_counters
-- The requested counters that exist. A poll only compares `changed_at`; the alias keeps SQLite,
-- where a column's name selects its decoder, from parsing it as a time for each session.
select session_id, last_sequence, pruned_events, updated_at as changed_at
  from asm_session_sequences
 where session_id = any(%(session_ids)s::text[]);

-- find_events
-- The requested events that are stored.
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
  join unnest(%(session_ids)s::text[], %(ids)s::text[]) as requested (session_id, id)
 using (session_id, id);

-- get_events
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
 where session_id = %(session_id)s
   and run_id = %(run_id)s                                 -- if run_id
   and type = %(type)s                                     -- if type
   and type = any(%(types)s::text[])                       -- if types
   and timestamp >= %(since)s                              -- if since
   and sequence_number > %(after)s                         -- if after
   and sequence_number < %(before)s                        -- if before
 order by sequence_number
 limit %(limit)s                                           -- if limit
;

-- get_latest_sequence
-- No row: nothing was ever appended.
select last_sequence
  from asm_session_sequences
 where session_id = %(session_id)s;

-- search_events
-- A page of events across sessions.
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
 where true
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s::text[])           -- if session_ids
   and run_id = %(run_id)s                                 -- if run_id
   and run_id = any(%(run_ids)s::text[])                   -- if run_ids
   and type = %(type)s                                     -- if type
   and type = any(%(types)s::text[])                       -- if types
   and provider = any(%(providers)s::text[])               -- if providers
   and correlation_id = %(correlation_id)s                 -- if correlation_id
   and correlation_id = any(%(correlation_ids)s::text[])   -- if correlation_ids
   and timestamp >= %(since)s                              -- if since
   and timestamp < %(until)s                               -- if until
   and (session_id, sequence_number)                       -- if sequence_asc and last_sequence
       > (%(last_session)s, %(last_sequence)s)             -- if sequence_asc and last_sequence
   and (timestamp, session_id, sequence_number)            -- if timestamp_asc and last_sequence
       > (%(last_at)s, %(last_session)s, %(last_sequence)s) -- if timestamp_asc and last_sequence
   and (timestamp, session_id, sequence_number)            -- if timestamp_desc and last_sequence
       < (%(last_at)s, %(last_session)s, %(last_sequence)s) -- if timestamp_desc and last_sequence
 order by session_id, sequence_number                      -- if sequence_asc
 order by timestamp, session_id, sequence_number           -- if timestamp_asc
 order by timestamp desc, session_id desc, sequence_number desc -- if timestamp_desc
 limit %(limit)s;

-- count_events
-- How many events search_events finds on all pages together.
select count(*)
  from asm_events
 where true
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s::text[])           -- if session_ids
   and run_id = %(run_id)s                                 -- if run_id
   and run_id = any(%(run_ids)s::text[])                   -- if run_ids
   and type = %(type)s                                     -- if type
   and type = any(%(types)s::text[])                       -- if types
   and provider = any(%(providers)s::text[])               -- if providers
   and correlation_id = %(correlation_id)s                 -- if correlation_id
   and correlation_id = any(%(correlation_ids)s::text[])   -- if correlation_ids
   and timestamp >= %(since)s                              -- if since
   and timestamp < %(until)s                               -- if until
;
