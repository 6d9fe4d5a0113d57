-- lock_fork_parent
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at,
       (
           select last_sequence
             from asm_session_sequences
            where session_id = %(session_id)s
       ) as last_sequence
  from asm_sessions
 where id = %(session_id)s
   for key share;
