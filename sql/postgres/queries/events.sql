-- append_event
-- One new event: the counter advances and the event takes its number. An event that is stored
-- already violates a unique constraint, and the failing statement leaves the counter as it was.
with counters as (
    insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
    values (%(session_id)s, 1, pg_catalog.now())
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

-- append_event_with_session
-- As append_event, and inserts the session if it is absent; of a stored one only `updated_at`
-- changes, to a later time. A row that is not changed is locked, and no new version is written.
-- The session is selected from the counter, so that the counter is locked first, as in flush and
-- delete_session: they wait for each other and do not deadlock.
with counters as (
    insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
    values (%(session_id)s, 1, pg_catalog.now())
    on conflict (session_id) do update
       set last_sequence = counter.last_sequence + 1, updated_at = excluded.updated_at
    returning last_sequence
), ensured as (
    insert into asm_sessions as session (
        id, agent_id, status, parent_session_id, metadata, context, tags,
        created_at, updated_at, deleted_at
    )
    select %(ensured_id)s, %(ensured_agent_id)s, %(ensured_status)s, %(ensured_parent_session_id)s,
           %(ensured_metadata)s::json, %(ensured_context)s::json,
           array(select pg_catalog.json_array_elements_text(%(ensured_tags)s::json)),
           %(ensured_created_at)s::timestamptz, %(ensured_updated_at)s::timestamptz,
           %(ensured_deleted_at)s::text::timestamptz
      from counters
    on conflict (id) do update
       set updated_at = excluded.updated_at
     where session.updated_at < excluded.updated_at
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
    select session_id, number::bigint, pg_catalog.now()
      from pg_catalog.json_each_text(%(counters)s::json) as requested (session_id, number)
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
           select pg_catalog.unnest(%(ids)s::text[]) as id,
                  pg_catalog.unnest(%(types)s::text[]) as type,
                  pg_catalog.unnest(%(timestamps)s::timestamptz[]) as timestamp,
                  pg_catalog.unnest(%(session_ids)s::text[]) as session_id,
                  pg_catalog.unnest(%(run_ids)s::text[]) as run_id,
                  pg_catalog.unnest(%(offsets_from_last)s::bigint[]) as offset_from_last,
                  pg_catalog.unnest(%(data_list)s::text[])::json as data,
                  pg_catalog.unnest(%(metadata_list)s::text[])::json as metadata,
                  pg_catalog.unnest(%(schema_versions)s::bigint[]) as schema_version,
                  pg_catalog.unnest(%(providers)s::text[]) as provider,
                  pg_catalog.unnest(%(correlation_ids)s::text[]) as correlation_id
      ) as new
      join counters using (session_id)
)
select pg_catalog.json_object_agg(session_id, last_sequence) as last_sequences
  from counters;

-- append_events_with_sessions
-- As append_events, and inserts the sessions or changes their `updated_at`, as
-- append_event_with_session does. All counters are locked first, and then the rows of the
-- sessions in the order of their ids.
with counters as (
    insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
    select session_id, number::bigint, pg_catalog.now()
      from pg_catalog.json_each_text(%(counters)s::json) as requested (session_id, number)
     where number::bigint between 1 and 9223372036854775807
     order by session_id collate "C"
    on conflict (session_id) do update
       set last_sequence = counter.last_sequence + excluded.last_sequence,
           updated_at = excluded.updated_at
    returning session_id, last_sequence
), ensured as (
    insert into asm_sessions as session (
        id, agent_id, status, parent_session_id, metadata, context, tags,
        created_at, updated_at, deleted_at
    )
    select id, agent_id, status, parent_session_id, metadata, context,
           array(select pg_catalog.json_array_elements_text(tags)),
           created_at, updated_at, deleted_at
      from (
           select pg_catalog.unnest(%(ensured_id)s::text[]) as id,
                  pg_catalog.unnest(%(ensured_agent_id)s::text[]) as agent_id,
                  pg_catalog.unnest(%(ensured_status)s::text[]) as status,
                  pg_catalog.unnest(%(ensured_parent_session_id)s::text[]) as parent_session_id,
                  pg_catalog.unnest(%(ensured_metadata)s::text[])::json as metadata,
                  pg_catalog.unnest(%(ensured_context)s::text[])::json as context,
                  pg_catalog.unnest(%(ensured_tags)s::text[])::json as tags,
                  pg_catalog.unnest(%(ensured_created_at)s::timestamptz[]) as created_at,
                  pg_catalog.unnest(%(ensured_updated_at)s::timestamptz[]) as updated_at,
                  pg_catalog.unnest(%(ensured_deleted_at)s::text[])::timestamptz as deleted_at
      ) as given
      join counters on counters.session_id = given.id
     order by id collate "C"
    on conflict (id) do update
       set updated_at = excluded.updated_at
     where session.updated_at < excluded.updated_at
), stored as (
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
                  pg_catalog.unnest(%(session_ids)s::text[]) as session_id,
                  pg_catalog.unnest(%(run_ids)s::text[]) as run_id,
                  pg_catalog.unnest(%(offsets_from_last)s::bigint[]) as offset_from_last,
                  pg_catalog.unnest(%(data_list)s::text[])::json as data,
                  pg_catalog.unnest(%(metadata_list)s::text[])::json as metadata,
                  pg_catalog.unnest(%(schema_versions)s::bigint[]) as schema_version,
                  pg_catalog.unnest(%(providers)s::text[]) as provider,
                  pg_catalog.unnest(%(correlation_ids)s::text[]) as correlation_id
      ) as new
      join counters using (session_id)
)
select pg_catalog.json_object_agg(session_id, last_sequence) as last_sequences
  from counters;

-- ensure_sessions
-- Inserts the sessions that are absent, and sets `updated_at` of the others to a later time.
insert into asm_sessions as session (
    id, agent_id, status, parent_session_id, metadata, context, tags,
    created_at, updated_at, deleted_at
)
select id, agent_id, status, parent_session_id, metadata, context,
       array(select pg_catalog.json_array_elements_text(tags)),
       created_at, updated_at, deleted_at
  from (
       select pg_catalog.unnest(%(ensured_id)s::text[]) as id,
              pg_catalog.unnest(%(ensured_agent_id)s::text[]) as agent_id,
              pg_catalog.unnest(%(ensured_status)s::text[]) as status,
              pg_catalog.unnest(%(ensured_parent_session_id)s::text[]) as parent_session_id,
              pg_catalog.unnest(%(ensured_metadata)s::text[])::json as metadata,
              pg_catalog.unnest(%(ensured_context)s::text[])::json as context,
              pg_catalog.unnest(%(ensured_tags)s::text[])::json as tags,
              pg_catalog.unnest(%(ensured_created_at)s::timestamptz[]) as created_at,
              pg_catalog.unnest(%(ensured_updated_at)s::timestamptz[]) as updated_at,
              pg_catalog.unnest(%(ensured_deleted_at)s::text[])::timestamptz as deleted_at
  ) as given
 order by id collate "C"
on conflict (id) do update
   set updated_at = excluded.updated_at
 where session.updated_at < excluded.updated_at;

-- lock_counters
-- Locks the counters of these sessions until the transaction ends, in the order of the session
-- ids, and creates those that are missing, because only a row can be locked. `where false` locks a
-- stored row without writing a new version of it. Returns the sessions whose counters were missing.
insert into asm_session_sequences (session_id, last_sequence, updated_at)
select session_id, 0, pg_catalog.now()
  from pg_catalog.unnest(%(session_ids)s::text[]) as requested (session_id)
 order by session_id collate "C"
on conflict (session_id) do update
   set last_sequence = excluded.last_sequence
 where false
returning session_id;

-- find_counters
-- The requested counters that exist. A poll only compares `changed_at`; the alias keeps SQLite,
-- where a column's name selects its decoder, from parsing it as a time for each session.
select session_id, last_sequence, pruned_events, updated_at as changed_at
  from asm_session_sequences
 where session_id = any(%(session_ids)s::text[]);

-- find_events
-- The requested events that are stored. `offset 0` has each looked up by its key. Otherwise a plan
-- that was made while the table was empty would read all of it, until it is analyzed.
select event.id, event.type, event.timestamp, event.session_id, event.run_id,
       event.sequence_number, event.data, event.metadata, event.schema_version, event.provider,
       event.correlation_id
  from rows from (
           pg_catalog.unnest(%(session_ids)s::text[]),
           pg_catalog.unnest(%(ids)s::text[])
       ) as requested (session_id, id)
 cross join lateral (
       select *
         from asm_events
        where session_id = requested.session_id and id = requested.id
       offset 0
  ) as event;

-- get_event
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
 where session_id = %(session_id)s
   and id = %(id)s;

-- get_events
-- The last events come from the end of the primary key. If the planner knew that the session has
-- fewer events than the limit, by its statistics, it would sort them all, and the session may have
-- grown since. So the limit is a subquery, whose result it does not know.
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
 order by sequence_number                                  -- if sequence_asc
 order by sequence_number desc                             -- if sequence_desc
 limit (select %(last)s::bigint)                           -- if last
 limit %(limit)s                                           -- if limit
;

-- get_latest_sequence
-- No row: nothing was ever appended.
select last_sequence
  from asm_session_sequences
 where session_id = %(session_id)s;

-- delete_events
-- Deletes events of a session, and adds their number to its counter, which the caller has locked.
with deleted as (
    delete from asm_events
     where session_id = %(session_id)s
       and id = any(%(ids)s::text[])                       -- if ids
       and run_id = %(run_id)s                             -- if run_id
       and type = %(type)s                                 -- if type
       and type = any(%(types)s::text[])                   -- if types
       and sequence_number > %(after)s                     -- if after
       and sequence_number < %(before)s                    -- if before
    returning 1
), counted as (
    select pg_catalog.count(*) as number from deleted
)
update asm_session_sequences
   set pruned_events = pruned_events + least(number, last_sequence - pruned_events)
  from counted
 where session_id = %(session_id)s
   and number > 0
returning number;

-- pop_event
-- Deletes the newest event of a session, and counts it as pruned. The counter is locked first. If
-- that had to wait, the snapshot of this statement is older than what the last holder of the lock
-- committed: the locked version of the row is not the one that the snapshot has, and nothing is
-- deleted. The next statement of the transaction then has a newer snapshot, and the lock.
with locked as (
    select session_id, ctid as version
      from asm_session_sequences
     where session_id = %(session_id)s
       for update
), popped as (
    delete from asm_events
     where session_id = %(session_id)s
       and sequence_number = (
           select sequence_number
             from asm_events
            where session_id = (
                  select session_id
                    from asm_session_sequences as counter
                    join locked using (session_id)
                   where counter.ctid = locked.version
            )
              and type = %(type)s                          -- if type
              and type = any(%(types)s::text[])            -- if types
            order by sequence_number desc
            limit 1
       )
    returning id, type, timestamp, session_id, run_id, sequence_number,
              data, metadata, schema_version, provider, correlation_id
), counted as (
    update asm_session_sequences
       set pruned_events = pruned_events + least(1, last_sequence - pruned_events)
     where session_id = %(session_id)s
       and exists (select 1 from popped)
)
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from popped;

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
select pg_catalog.count(*)
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
