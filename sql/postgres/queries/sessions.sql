-- save_session
-- A new session, or everything but the id of one that is there.
insert into asm_sessions as session (id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at)
values (%(id)s, %(agent_id)s, %(status)s, %(parent_session_id)s, %(metadata)s, %(context)s, %(tags)s, %(created_at)s, %(updated_at)s, %(deleted_at)s)
on conflict (id) do update
   set agent_id = excluded.agent_id,
       status = excluded.status,
       parent_session_id = excluded.parent_session_id,
       metadata = excluded.metadata,
       context = excluded.context,
       tags = excluded.tags,
       created_at = excluded.created_at,
       updated_at = excluded.updated_at,
       deleted_at = excluded.deleted_at;

-- get_session
-- No row: no session has that id.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at
  from asm_sessions
 where id = %(id)s;

-- list_sessions
-- The newest first.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at
  from asm_sessions
 where true
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s)                          -- if statuses
   and agent_id = %(agent_id)s                             -- if agent_id
   and deleted_at is null                                  -- if only_live
 order by created_at desc, id desc
 limit %(limit)s                                           -- if limit
offset %(offset)s;

-- delete_session
-- With everything that belongs to it. Its counter is locked by then and goes last, in delete_counter:
-- an append that waits for the counter finds nothing, and starts again at 1.
-- Its row goes first, for the last statement runs before those of the `with`: as in flush, it is taken before its runs.
with gone_events as (
    delete from asm_events where session_id = %(session_id)s
), gone_runs as (
    delete from asm_runs where session_id = %(session_id)s
), gone_artifacts as (
    delete from asm_artifacts where session_id = %(session_id)s
)
delete from asm_sessions where id = %(session_id)s;

-- search_sessions
-- Sessions in one of several orders, a page at a time.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at
  from asm_sessions
 where true
   and false                                               -- if nothing
   and agent_id = %(agent_id)s                             -- if agent_id
   and agent_id = any(%(agent_ids)s)                       -- if agent_ids
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s)                          -- if statuses
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s))       -- if providers
   and tags @> %(tags)s                                    -- if tags
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if only_live
   and (created_at, id) > (%(last_at)s, %(last_id)s)       -- if created_at_asc and last_id
   and (created_at, id) < (%(last_at)s, %(last_id)s)       -- if created_at_desc and last_id
   and (updated_at, id) < (%(last_at)s, %(last_id)s)       -- if updated_at_desc and last_id
 order by created_at, id                                   -- if created_at_asc
 order by created_at desc, id desc                         -- if created_at_desc
 order by updated_at desc, id desc                         -- if updated_at_desc
 limit %(limit)s;

-- count_sessions
-- How many `search_sessions` would find on all its pages.
select count(*)
  from asm_sessions
 where true
   and false                                               -- if nothing
   and agent_id = %(agent_id)s                             -- if agent_id
   and agent_id = any(%(agent_ids)s)                       -- if agent_ids
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s)                          -- if statuses
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s))       -- if providers
   and tags @> %(tags)s                                    -- if tags
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if only_live
;
