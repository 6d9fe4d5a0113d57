-- find_events_between
-- for each session_id in session_ids
select id, type, timestamp, session_id, run_id, sequence_number, data, metadata,
       schema_version, provider, correlation_id
  from asm_events
 where session_id = %(session_id)s
   and sequence_number > (%(after_sequences)s::bigint[])[1]
   and sequence_number <= (%(last_sequences)s::bigint[])[1]
 order by sequence_number
 limit %(limit)s;
