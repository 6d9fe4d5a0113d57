-- find_session_ids
-- The ids of sessions between two bounds, which are those that begin with a prefix.
select id
  from asm_sessions
 where id >= %(first)s
   and id <= %(last)s
 order by id
 limit %(limit)s;

-- find_run_ids
-- The ids of runs between two bounds. Several sessions may have a run of the same id.
select distinct id
  from asm_runs
 where id >= %(first)s
   and id <= %(last)s
   and session_id = %(session_id)s                         -- if session_id
 order by id
 limit %(limit)s;

-- describe_sessions
-- How many events the requested sessions have, and the ids before and after theirs.
select wanted.id,
       coalesce(counter.last_sequence - counter.pruned_events, 0) as event_count,
       (
           select pg_catalog.max(session.id)
             from asm_sessions as session
            where session.id < wanted.id
       ) as previous_id,
       (
           select pg_catalog.min(session.id)
             from asm_sessions as session
            where session.id > wanted.id
       ) as next_id
  from pg_catalog.unnest(%(session_ids)s::text[]) as wanted (id)
  left join asm_session_sequences as counter on counter.session_id = wanted.id;

-- find_first_messages
-- The first messages of the requested sessions, without those that are too long to be sent for a
-- title.
select message.session_id, message.data
  from pg_catalog.unnest(%(session_ids)s::text[]) as wanted (id)
 cross join lateral (
       select event.session_id, event.sequence_number, event.data
         from asm_events as event
        where event.session_id = wanted.id
          and event.type = any(%(types)s::text[])
        order by event.sequence_number
        limit %(limit)s
  ) as message
 where pg_catalog.octet_length(message.data::text) <= %(bytes_max)s
 order by message.session_id, message.sequence_number;
