-- list_sessions
-- The coordinator asks each shard for the sum of both numbers, which must not exceed 63 bits.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from asm_sessions
 where true
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and agent_id = %(agent_id)s                             -- if agent_id
   and deleted_at is null                                  -- if exclude_deleted
 order by created_at desc, id desc
 limit least(%(limit)s::bigint, 4611686018427387903)       -- if limit
offset least(%(offset)s::bigint, 4611686018427387903);

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
