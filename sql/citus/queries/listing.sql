-- find_first_messages
-- for each session_id in session_ids
select session_id, data
  from (
       select session_id, sequence_number, data
         from asm_events
        where session_id = %(session_id)s
          and type = any(%(types)s::text[])
        order by sequence_number
        limit %(limit)s
  ) as message
 where pg_catalog.octet_length(data::text) <= %(bytes_max)s
 order by sequence_number;

-- describe_sessions
-- for each session_id in session_ids
select %(session_id)s::text as id,
       coalesce((
           select last_sequence - pruned_events
             from asm_session_sequences
            where session_id = %(session_id)s
       ), 0) as event_count,
       (select pg_catalog.max(id) from asm_sessions where id < %(session_id)s) as previous_id,
       (select pg_catalog.min(id) from asm_sessions where id > %(session_id)s) as next_id;
