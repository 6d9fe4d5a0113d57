-- append_event
-- One event in one statement: the counter moves and the event takes the number. It bets on the event
-- being new: a row that is there already fails the statement, and takes the counter's move back with it.
with tick as (
    insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
    values (%(session_id)s, 1, now())
    on conflict (session_id) do update
       set last_sequence = counter.last_sequence + 1, updated_at = excluded.updated_at
    returning last_sequence
)
insert into asm_events as event (id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version, provider, correlation_id)
select %(id)s, %(type)s, %(timestamp)s::timestamptz, %(session_id)s, %(run_id)s, last_sequence, %(data)s::json, %(metadata)s::json, %(schema_version)s::bigint, %(provider)s, %(correlation_id)s
  from tick
returning sequence_number;

-- append_events
-- Many events in one statement. The counter of each session moves by its number of events, sessions in
-- one order, so that two batches cannot wait for each other; each event stands so many before the last.
-- The one row says where each session stands now.
-- The arrays are opened in a select list, with the casts, where the rows stream. Opened under `from` they
-- are stored first, and cast after the join they are copied once more: either is 1.4 times as dear. The
-- range of steps is always true, and tells the planner of few counters: it would hash the events instead.
with tick as (
    insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
    select session_id, steps::bigint, now()
      from json_each_text(%(counters)s::json) as asked (session_id, steps)
     where steps::bigint between 1 and 9223372036854775807
     order by session_id collate "C"
    on conflict (session_id) do update
       set last_sequence = counter.last_sequence + excluded.last_sequence, updated_at = excluded.updated_at
    returning session_id, last_sequence
), stored as (
    insert into asm_events as event (id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version, provider, correlation_id)
    select id, type, timestamp, session_id, run_id, last_sequence - steps_from_last, data, metadata, schema_version, provider, correlation_id
      from (
            select unnest(%(ids)b::text[]) as id,
                   unnest(%(types)b::text[]) as type,
                   unnest(%(timestamps)b::timestamptz[]) as timestamp,
                   unnest(%(session_ids)b::text[]) as session_id,
                   unnest(%(run_ids)b::text[]) as run_id,
                   unnest(%(steps_from_last)b::bigint[]) as steps_from_last,
                   unnest(%(datas)b::text[])::json as data,
                   unnest(%(metadatas)b::text[])::json as metadata,
                   unnest(%(schema_versions)b::bigint[]) as schema_version,
                   unnest(%(providers)b::text[]) as provider,
                   unnest(%(correlation_ids)b::text[]) as correlation_id
           ) as new
      join tick using (session_id)
)
select json_object_agg(session_id, last_sequence) as last_sequences
  from tick;

-- lock_counters
-- Where these sessions stand, and nobody moves them until the transaction ends. A session that has no
-- counter yet gets one at 0, because only a row can be locked.
insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
select session_id, 0, now()
  from unnest(%(session_ids)b::text[]) as asked (session_id)
 order by session_id collate "C"
on conflict (session_id) do update
   set last_sequence = counter.last_sequence
returning session_id, last_sequence;

-- find_counters
-- Those of the asked for that are there.
select session_id, last_sequence, pruned_events
  from asm_session_sequences
 where session_id = any(%(session_ids)b::text[]);

-- find_positions
-- Where those of the asked for stand that are there, and when they moved there, for who waits for them to move.
select session_id, last_sequence, updated_at as moved_at
  from asm_session_sequences
 where session_id = any(%(session_ids)s);

-- delete_counter
delete from asm_session_sequences where session_id = %(session_id)s;

-- find_events
-- Those of the asked for that are stored.
select id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version, provider, correlation_id
  from asm_events
  join unnest(%(session_ids)b::text[], %(ids)b::text[]) as asked (session_id, id) using (session_id, id);

-- get_events
select id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version, provider, correlation_id
  from asm_events
 where session_id = %(session_id)s
   and run_id = %(run_id)s                                 -- if run_id
   and type = %(type)s                                     -- if type
   and type = any(%(types)s)                               -- if types
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
-- Events across sessions in one of several orders, a page at a time.
select id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version, provider, correlation_id
  from asm_events
 where true
   and false                                               -- if nothing
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s)                   -- if session_ids
   and run_id = %(run_id)s                                 -- if run_id
   and run_id = any(%(run_ids)s)                           -- if run_ids
   and type = %(type)s                                     -- if type
   and type = any(%(types)s)                               -- if types
   and provider = any(%(providers)s)                       -- if providers
   and correlation_id = %(correlation_id)s                 -- if correlation_id
   and correlation_id = any(%(correlation_ids)s)           -- if correlation_ids
   and timestamp >= %(since)s                              -- if since
   and timestamp < %(until)s                               -- if until
   and (session_id, sequence_number) > (%(last_session)s, %(last_sequence)s) -- if sequence_asc and last_sequence
   and (timestamp, session_id, sequence_number) > (%(last_at)s, %(last_session)s, %(last_sequence)s) -- if timestamp_asc and last_sequence
   and (timestamp, session_id, sequence_number) < (%(last_at)s, %(last_session)s, %(last_sequence)s) -- if timestamp_desc and last_sequence
 order by session_id, sequence_number                      -- if sequence_asc
 order by timestamp, session_id, sequence_number           -- if timestamp_asc
 order by timestamp desc, session_id desc, sequence_number desc -- if timestamp_desc
 limit %(limit)s;

-- count_events
-- How many `search_events` would find on all its pages.
select count(*)
  from asm_events
 where true
   and false                                               -- if nothing
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s)                   -- if session_ids
   and run_id = %(run_id)s                                 -- if run_id
   and run_id = any(%(run_ids)s)                           -- if run_ids
   and type = %(type)s                                     -- if type
   and type = any(%(types)s)                               -- if types
   and provider = any(%(providers)s)                       -- if providers
   and correlation_id = %(correlation_id)s                 -- if correlation_id
   and correlation_id = any(%(correlation_ids)s)           -- if correlation_ids
   and timestamp >= %(since)s                              -- if since
   and timestamp < %(until)s                               -- if until
;
