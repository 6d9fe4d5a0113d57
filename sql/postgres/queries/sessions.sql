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
-- get_session, and locks the row until the transaction ends. The lock does not conflict with that
-- of a fork, which keeps its parent from being deleted.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from asm_sessions
 where id = %(id)s
   for no key update;

-- touch_session
-- Moves a session to a later `updated_at`, and to a status if one is given.
update asm_sessions
   set status = coalesce(%(status)s::text, status),
       updated_at = greatest(updated_at, %(updated_at)s)
 where id = %(id)s
returning id, agent_id, status, parent_session_id, metadata, context, tags,
          created_at, updated_at, deleted_at;

-- find_sessions
-- The requested sessions that exist.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at,
       deleted_at
  from asm_sessions
 where id = any(%(ids)s::text[]);

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

-- lock_fork_parent
-- A session with its last sequence number, null if nothing was ever appended. The lock only keeps
-- others from deleting the session; they append to it and save it meanwhile.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at,
       (select last_sequence from asm_session_sequences where session_id = session.id)
       as last_sequence
  from asm_sessions as session
 where id = %(session_id)s
   for key share;

-- insert_fork
-- Inserts a session unless it exists or has events. The caller has locked its counter.
insert into asm_sessions (
    id, agent_id, status, parent_session_id, metadata, context, tags,
    created_at, updated_at, deleted_at
)
select %(id)s::text, %(agent_id)s, %(status)s, %(parent_session_id)s, %(metadata)s::json,
       %(context)s::json, %(tags)s::text[],
       %(created_at)s::timestamptz, %(updated_at)s::timestamptz, %(deleted_at)s::timestamptz
 where not exists (
       select 1
         from asm_session_sequences
        where session_id = %(id)s::text
          and last_sequence > 0
   )
on conflict (id) do nothing
returning id;

-- copy_events_to_fork
-- Copies the events of a session up to a sequence number, and returns how many it copied.
with copied as (
    insert into asm_events (
        id, type, timestamp, session_id, run_id, sequence_number,
        data, metadata, schema_version, provider, correlation_id
    )
    select id, type, timestamp, %(id)s::text, run_id, sequence_number,
           data, metadata, schema_version, provider, correlation_id
      from asm_events
     where session_id = %(parent_id)s
       and sequence_number <= %(upto)s::bigint
    returning true
)
select pg_catalog.count(*) as copied
  from copied;

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
   and parent_session_id = %(parent_session_id)s           -- if parent_session_id
   and parent_session_id = any(%(parent_session_ids)s::text[]) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s::text[])) -- if providers
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
   and (created_at, id) > (%(last_at)s, %(last_id)s)       -- if created_at_asc and last_id
   and (created_at, id) < (%(last_at)s, %(last_id)s)       -- if created_at_desc and last_id
   and (updated_at, id) > (%(last_at)s, %(last_id)s)       -- if updated_at_asc and last_id
   and (updated_at, id) < (%(last_at)s, %(last_id)s)       -- if updated_at_desc and last_id
 order by created_at, id                                   -- if created_at_asc
 order by created_at desc, id desc                         -- if created_at_desc
 order by updated_at, id                                   -- if updated_at_asc
 order by updated_at desc, id desc                         -- if updated_at_desc
 limit %(limit)s;

-- search_sessions_by_tag
-- As search_sessions, of the sessions that have all of the tags.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from asm_sessions
 where tags operator(pg_catalog.@>) %(tags)s::text[]
   and agent_id = %(agent_id)s                             -- if agent_id
   and agent_id = any(%(agent_ids)s::text[])               -- if agent_ids
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and parent_session_id = %(parent_session_id)s           -- if parent_session_id
   and parent_session_id = any(%(parent_session_ids)s::text[]) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s::text[])) -- if providers
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
   and (created_at, id) > (%(last_at)s, %(last_id)s)       -- if created_at_asc and last_id
   and (created_at, id) < (%(last_at)s, %(last_id)s)       -- if created_at_desc and last_id
   and (updated_at, id) > (%(last_at)s, %(last_id)s)       -- if updated_at_asc and last_id
   and (updated_at, id) < (%(last_at)s, %(last_id)s)       -- if updated_at_desc and last_id
 order by created_at, id                                   -- if created_at_asc
 order by created_at desc, id desc                         -- if created_at_desc
 order by updated_at, id                                   -- if updated_at_asc
 order by updated_at desc, id desc                         -- if updated_at_desc
 limit %(limit)s;

-- count_sessions
-- How many sessions search_sessions finds on all pages together.
select pg_catalog.count(*)
  from asm_sessions
 where true
   and agent_id = %(agent_id)s                             -- if agent_id
   and agent_id = any(%(agent_ids)s::text[])               -- if agent_ids
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and parent_session_id = %(parent_session_id)s           -- if parent_session_id
   and parent_session_id = any(%(parent_session_ids)s::text[]) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s::text[])) -- if providers
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
;

-- count_sessions_by_tag
-- How many sessions search_sessions_by_tag finds on all pages together.
select pg_catalog.count(*)
  from asm_sessions
 where tags operator(pg_catalog.@>) %(tags)s::text[]
   and agent_id = %(agent_id)s                             -- if agent_id
   and agent_id = any(%(agent_ids)s::text[])               -- if agent_ids
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and parent_session_id = %(parent_session_id)s           -- if parent_session_id
   and parent_session_id = any(%(parent_session_ids)s::text[]) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s::text[])) -- if providers
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
;
