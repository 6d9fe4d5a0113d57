-- find_session_ids
-- The ids of sessions between two bounds, which are those that begin with a prefix.
select id
  from asm_sessions
 where id >= :first
   and id <= :last
 order by id
 limit :limit;

-- find_run_ids
-- The ids of runs between two bounds. Several sessions may have a run of the same id.
select distinct id
  from asm_runs
 where id >= :first
   and id <= :last
   and session_id = :session_id                            -- if session_id
 order by id
 limit :limit;

-- describe_sessions
-- How many events the requested sessions have, and the ids before and after theirs.
select wanted.value as id,
       coalesce(counter.last_sequence - counter.pruned_events, 0) as event_count,
       (select max(session.id) from asm_sessions as session where session.id < wanted.value)
           as previous_id,
       (select min(session.id) from asm_sessions as session where session.id > wanted.value)
           as next_id
  from json_each(:session_ids) as wanted
  left join asm_session_sequences as counter on counter.session_id = wanted.value;

-- find_first_messages
-- The first messages of the requested sessions, without those that are too long to be sent for a
-- title.
select message.session_id, message.data
  from json_each(:session_ids) as wanted
 cross join asm_events as message on message.session_id = wanted.value
 where message.sequence_number in (
       select event.sequence_number
         from asm_events as event
        where event.session_id = wanted.value
          and event.type in (select value from json_each(:types))
        order by event.sequence_number
        limit :limit
  )
   and length(message.data) <= :bytes_max
 order by message.session_id, message.sequence_number;
