-- save_session
-- Inserts a session, or replaces everything but the id of the stored one.
insert into asm_sessions (
    id, agent_id, status, parent_session_id, metadata, context, tags,
    created_at, updated_at, deleted_at
)
values (
    %(id)s, %(agent_id)s, %(status)s, %(parent_session_id)s, %(metadata)s, %(context)s, %(tags)s,
    %(created_at)s, %(updated_at)s, %(deleted_at)s
)
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
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from asm_sessions
 where id = %(id)s;

-- lock_session
-- get_session, and locks the row until the transaction ends.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from asm_sessions
 where id = %(id)s
   for update;

-- list_sessions
-- Sessions, the newest first. An array has a cast in every query, so that its type does not depend
-- on the operator beside it or on the driver.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from asm_sessions
 where true
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and agent_id = %(agent_id)s                             -- if agent_id
   and deleted_at is null                                  -- if exclude_deleted
 order by created_at desc, id desc
 limit %(limit)s                                           -- if limit
offset %(offset)s;

-- delete_session
-- The first of three statements that delete a session, after lock_counters. The counter is locked
-- first and the session's row second, as in flush, so that the two wait for each other and do not
-- deadlock.
delete from asm_sessions
 where id = %(session_id)s;

-- delete_session_rows
-- Deletes the events, the runs and the counter of a session. An append that waits for the counter
-- finds none afterwards, and starts again at 1.
with deleted_events as (
    delete from asm_events where session_id = %(session_id)s
), deleted_runs as (
    delete from asm_runs where session_id = %(session_id)s
)
delete from asm_session_sequences where session_id = %(session_id)s;

-- search_sessions
-- A page of sessions. The filter by provider looks at the runs of a session.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from asm_sessions
 where true
   and agent_id = %(agent_id)s                             -- if agent_id
   and agent_id = any(%(agent_ids)s::text[])               -- if agent_ids
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s::text[])) -- if providers
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
   and (created_at, id) > (%(last_at)s, %(last_id)s)       -- if created_at_asc and last_id
   and (created_at, id) < (%(last_at)s, %(last_id)s)       -- if created_at_desc and last_id
   and (updated_at, id) < (%(last_at)s, %(last_id)s)       -- if updated_at_desc and last_id
 order by created_at, id                                   -- if created_at_asc
 order by created_at desc, id desc                         -- if created_at_desc
 order by updated_at desc, id desc                         -- if updated_at_desc
 limit %(limit)s;

-- search_sessions_by_tag
-- As search_sessions, of the sessions that have all of the tags.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from asm_sessions
 where tags @> %(tags)s::text[]
   and agent_id = %(agent_id)s                             -- if agent_id
   and agent_id = any(%(agent_ids)s::text[])               -- if agent_ids
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s::text[])) -- if providers
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
   and (created_at, id) > (%(last_at)s, %(last_id)s)       -- if created_at_asc and last_id
   and (created_at, id) < (%(last_at)s, %(last_id)s)       -- if created_at_desc and last_id
   and (updated_at, id) < (%(last_at)s, %(last_id)s)       -- if updated_at_desc and last_id
 order by created_at, id                                   -- if created_at_asc
 order by created_at desc, id desc                         -- if created_at_desc
 order by updated_at desc, id desc                         -- if updated_at_desc
 limit %(limit)s;

-- count_sessions
-- How many sessions search_sessions finds on all pages together.
select count(*)
  from asm_sessions
 where true
   and agent_id = %(agent_id)s                             -- if agent_id
   and agent_id = any(%(agent_ids)s::text[])               -- if agent_ids
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s::text[])) -- if providers
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
;

-- count_sessions_by_tag
-- How many sessions search_sessions_by_tag finds on all pages together.
select count(*)
  from asm_sessions
 where tags @> %(tags)s::text[]
   and agent_id = %(agent_id)s                             -- if agent_id
   and agent_id = any(%(agent_ids)s::text[])               -- if agent_ids
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s::text[])) -- if providers
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
;
