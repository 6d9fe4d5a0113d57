-- append_event
-- One new event: the counter advances and the event takes its number. An event that is stored
-- already violates a unique constraint, and the transaction leaves the counter as it was.
insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
values (:session_id, 1, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
on conflict (session_id) do update
   set last_sequence = counter.last_sequence + 1, updated_at = excluded.updated_at;
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
select :id, :type, :timestamp, :session_id, :run_id, last_sequence,
       :data, :metadata, :schema_version, :provider, :correlation_id
  from asm_session_sequences
 where session_id = :session_id
returning sequence_number;

-- append_event_with_session
-- As append_event, and inserts the session if it is absent; of a stored one only `updated_at`
-- changes, to a later time, and with it that of its tags.
insert into asm_sessions as session (
    id, agent_id, status, parent_session_id, metadata, context, tags,
    created_at, updated_at, deleted_at
)
values (
    :ensured_id, :ensured_agent_id, :ensured_status, :ensured_parent_session_id,
    :ensured_metadata, :ensured_context, :ensured_tags,
    :ensured_created_at, :ensured_updated_at, :ensured_deleted_at
)
on conflict (id) do update
   set updated_at = excluded.updated_at
 where session.updated_at < excluded.updated_at;
insert into asm_session_tags as stored (tag, id, created_at, updated_at)
select tag.value, session.id, session.created_at, session.updated_at
  from asm_sessions as session, json_each(session.tags) as tag
 where session.id = :ensured_id
on conflict (tag, id) do update
   set updated_at = excluded.updated_at
 where stored.updated_at < excluded.updated_at;
insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
values (:session_id, 1, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
on conflict (session_id) do update
   set last_sequence = counter.last_sequence + 1, updated_at = excluded.updated_at;
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
select :id, :type, :timestamp, :session_id, :run_id, last_sequence,
       :data, :metadata, :schema_version, :provider, :correlation_id
  from asm_session_sequences
 where session_id = :session_id
returning sequence_number;

-- append_events
-- Many new events. The counter of each session advances by its number of events; each event is
-- numbered by its offset from the last of its session. Returns the last number of each session.
-- The counters are one document, and not executed one by one like the events, because a thread may
-- lose Python's lock at every execution.
insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
select key, value, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
  from json_each(:counters)
 where true
on conflict (session_id) do update
   set last_sequence = counter.last_sequence + excluded.last_sequence,
       updated_at = excluded.updated_at;
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
values (
    :ids, :types, :timestamps, :session_ids, :run_ids,
    (select last_sequence from asm_session_sequences where session_id = :session_ids)
    - :offsets_from_last,
    :data_list, :metadata_list, :schema_versions, :providers, :correlation_ids
);
select json_group_object(session_id, last_sequence) as last_sequences
  from asm_session_sequences
 where session_id in (select key from json_each(:counters));

-- append_events_with_sessions
-- As append_events, and inserts the sessions or changes their `updated_at`, as
-- append_event_with_session does.
insert into asm_sessions as session (
    id, agent_id, status, parent_session_id, metadata, context, tags,
    created_at, updated_at, deleted_at
)
values (
    :ensured_id, :ensured_agent_id, :ensured_status, :ensured_parent_session_id,
    :ensured_metadata, :ensured_context, :ensured_tags,
    :ensured_created_at, :ensured_updated_at, :ensured_deleted_at
)
on conflict (id) do update
   set updated_at = excluded.updated_at
 where session.updated_at < excluded.updated_at;
insert into asm_session_tags as stored (tag, id, created_at, updated_at)
select tag.value, session.id, session.created_at, session.updated_at
  from asm_sessions as session, json_each(session.tags) as tag
 where session.id = :ensured_id
on conflict (tag, id) do update
   set updated_at = excluded.updated_at
 where stored.updated_at < excluded.updated_at;
insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
select key, value, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
  from json_each(:counters)
 where true
on conflict (session_id) do update
   set last_sequence = counter.last_sequence + excluded.last_sequence,
       updated_at = excluded.updated_at;
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
values (
    :ids, :types, :timestamps, :session_ids, :run_ids,
    (select last_sequence from asm_session_sequences where session_id = :session_ids)
    - :offsets_from_last,
    :data_list, :metadata_list, :schema_versions, :providers, :correlation_ids
);
select json_group_object(session_id, last_sequence) as last_sequences
  from asm_session_sequences
 where session_id in (select key from json_each(:counters));

-- ensure_sessions
-- Inserts the sessions that are absent, and sets `updated_at` of the others to a later time.
insert into asm_sessions as session (
    id, agent_id, status, parent_session_id, metadata, context, tags,
    created_at, updated_at, deleted_at
)
values (
    :ensured_id, :ensured_agent_id, :ensured_status, :ensured_parent_session_id,
    :ensured_metadata, :ensured_context, :ensured_tags,
    :ensured_created_at, :ensured_updated_at, :ensured_deleted_at
)
on conflict (id) do update
   set updated_at = excluded.updated_at
 where session.updated_at < excluded.updated_at;
insert into asm_session_tags as stored (tag, id, created_at, updated_at)
select tag.value, session.id, session.created_at, session.updated_at
  from asm_sessions as session, json_each(session.tags) as tag
 where session.id = :ensured_id
on conflict (tag, id) do update
   set updated_at = excluded.updated_at
 where stored.updated_at < excluded.updated_at;

-- lock_counters
-- Creates the missing counters of these sessions, as on PostgreSQL, and returns the sessions. The whole
-- file is locked.
insert into asm_session_sequences (session_id, last_sequence, updated_at)
values (:session_ids, 0, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
on conflict (session_id) do nothing
returning session_id;

-- find_counters
-- The requested counters that exist. A poll only compares `changed_at`; the alias keeps SQLite,
-- where a column's name selects its decoder, from parsing it as a time for each session.
select session_id, last_sequence, pruned_events, updated_at as changed_at
  from asm_session_sequences
 where session_id in (select value from json_each(:session_ids));

-- find_events
-- The requested events that are stored.
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
 where session_id = :session_ids
   and id = :ids;

-- get_event
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
 where session_id = :session_id
   and id = :id;

-- get_events
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
 where session_id = :session_id
   and run_id = :run_id                                    -- if run_id
   and type = :type                                        -- if type
   and type in (select value from json_each(:types))       -- if types
   and timestamp >= :since                                 -- if since
   and sequence_number > :after                            -- if after
   and sequence_number < :before                           -- if before
 order by sequence_number                                  -- if sequence_asc
 order by sequence_number desc                             -- if sequence_desc
 limit :last                                               -- if last
 limit :limit                                              -- if limit
;

-- get_latest_sequence
-- No row: nothing was ever appended.
select last_sequence
  from asm_session_sequences
 where session_id = :session_id;

-- delete_events
-- Deletes events of a session, and adds their number to its counter.
delete from asm_events
 where session_id = :session_id
   and id in (select value from json_each(:ids))           -- if ids
   and run_id = :run_id                                    -- if run_id
   and type = :type                                        -- if type
   and type in (select value from json_each(:types))       -- if types
   and sequence_number > :after                            -- if after
   and sequence_number < :before                           -- if before
;
update asm_session_sequences
   set pruned_events = pruned_events + min(changes(), last_sequence - pruned_events)
 where session_id = :session_id
   and changes() > 0
returning changes() as number;

-- pop_event
-- Deletes the newest event of a session, and counts it as pruned.
update asm_session_sequences
   set pruned_events = pruned_events + min(1, last_sequence - pruned_events)
 where session_id = :session_id
   and exists (
       select 1
         from asm_events
        where session_id = :session_id
          and type = :type                                 -- if type
          and type in (select value from json_each(:types)) -- if types
   );
delete from asm_events
 where session_id = :session_id
   and sequence_number = (
       select sequence_number
         from asm_events
        where session_id = :session_id
          and type = :type                                 -- if type
          and type in (select value from json_each(:types)) -- if types
        order by sequence_number desc
        limit 1
   )
returning id, type, timestamp, session_id, run_id, sequence_number,
          data, metadata, schema_version, provider, correlation_id;

-- search_events
-- A page of events across sessions.
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
 where true
   and session_id = :session_id                            -- if session_id
   and session_id in (select value from json_each(:session_ids)) -- if session_ids
   and run_id = :run_id                                    -- if run_id
   and run_id in (select value from json_each(:run_ids))   -- if run_ids
   and type = :type                                        -- if type
   and type in (select value from json_each(:types))       -- if types
   and provider in (select value from json_each(:providers)) -- if providers
   and correlation_id = :correlation_id                    -- if correlation_id
   and correlation_id in (select value from json_each(:correlation_ids)) -- if correlation_ids
   and timestamp >= :since                                 -- if since
   and timestamp < :until                                  -- if until
   and (session_id, sequence_number)                       -- if sequence_asc and last_sequence
       > (:last_session, :last_sequence)                   -- if sequence_asc and last_sequence
   and (timestamp, session_id, sequence_number)            -- if timestamp_asc and last_sequence
       > (:last_at, :last_session, :last_sequence)         -- if timestamp_asc and last_sequence
   and (timestamp, session_id, sequence_number)            -- if timestamp_desc and last_sequence
       < (:last_at, :last_session, :last_sequence)         -- if timestamp_desc and last_sequence
 order by session_id, sequence_number                      -- if sequence_asc
 order by timestamp, session_id, sequence_number           -- if timestamp_asc
 order by timestamp desc, session_id desc, sequence_number desc -- if timestamp_desc
 limit :limit;

-- count_events
-- How many events search_events finds on all pages together.
select count(*)
  from asm_events
 where true
   and session_id = :session_id                            -- if session_id
   and session_id in (select value from json_each(:session_ids)) -- if session_ids
   and run_id = :run_id                                    -- if run_id
   and run_id in (select value from json_each(:run_ids))   -- if run_ids
   and type = :type                                        -- if type
   and type in (select value from json_each(:types))       -- if types
   and provider in (select value from json_each(:providers)) -- if providers
   and correlation_id = :correlation_id                    -- if correlation_id
   and correlation_id in (select value from json_each(:correlation_ids)) -- if correlation_ids
   and timestamp >= :since                                 -- if since
   and timestamp < :until                                  -- if until
;
