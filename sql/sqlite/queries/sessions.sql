-- save_session
-- Inserts a session, or replaces everything but the id of the stored one.
insert into asm_sessions (
    id, agent_id, status, parent_session_id, metadata, context, tags,
    created_at, updated_at, deleted_at
)
values (
    :id, :agent_id, :status, :parent_session_id, :metadata, :context, :tags,
    :created_at, :updated_at, :deleted_at
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
delete from asm_session_tags
 where id = :id
   and tag not in (select value from json_each(:tags));
insert or replace into asm_session_tags (tag, id, created_at, updated_at)
select value, asm_sessions.id, created_at, updated_at
  from asm_sessions, json_each(tags)
 where asm_sessions.id = :id;

-- get_session
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from asm_sessions
 where id = :id;

-- lock_session
-- get_session, in a transaction that holds the file's write lock.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from asm_sessions
 where id = :id;

-- touch_session
-- Moves a session to a later `updated_at`, and with it its tags, and to a status if one is given.
update asm_session_tags
   set updated_at = max(updated_at, :updated_at)
 where id = :id;
update asm_sessions
   set status = coalesce(:status, status),
       updated_at = max(updated_at, :updated_at)
 where id = :id
returning id, agent_id, status, parent_session_id, metadata, context, tags,
          created_at, updated_at, deleted_at;

-- find_sessions
-- The requested sessions that exist.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at,
       deleted_at
  from asm_sessions
 where id in (select value from json_each(:ids));

-- list_sessions
-- Sessions, the newest first. SQLite reads an offset only after a limit; -1 is none.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from asm_sessions
 where true
   and status = :status                                    -- if status
   and status in (select value from json_each(:statuses))  -- if statuses
   and agent_id = :agent_id                                -- if agent_id
   and deleted_at is null                                  -- if exclude_deleted
 order by created_at desc, id desc
 limit coalesce(:limit, -1)
offset :offset;

-- delete_session
-- With its tags.
delete from asm_sessions
 where id = :session_id;
delete from asm_session_tags
 where id = :session_id;

-- delete_session_rows
-- Deletes the events, the runs and the counter of a session. The next append starts again at 1.
delete from asm_events where session_id = :session_id;
delete from asm_runs where session_id = :session_id;
delete from asm_session_sequences where session_id = :session_id;

-- lock_fork_parent
-- A session with its last sequence number, null if nothing was ever appended. The whole file is
-- locked.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at,
       (select last_sequence from asm_session_sequences where session_id = session.id)
       as last_sequence
  from asm_sessions as session
 where id = :session_id;

-- insert_fork
-- Inserts a session unless it exists or has events. Its tags follow in copy_events_to_fork.
insert into asm_sessions (
    id, agent_id, status, parent_session_id, metadata, context, tags,
    created_at, updated_at, deleted_at
)
select :id, :agent_id, :status, :parent_session_id, :metadata, :context, :tags,
       :created_at, :updated_at, :deleted_at
 where not exists (
       select 1
         from asm_session_sequences
        where session_id = :id
          and last_sequence > 0
   )
on conflict (id) do nothing
returning id;

-- copy_events_to_fork
-- Copies the events of a session up to a sequence number, and returns how many it copied. With the
-- tags of the new session.
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
select id, type, timestamp, :id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
 where session_id = :parent_id
   and sequence_number <= :upto;
insert or ignore into asm_session_tags (tag, id, created_at, updated_at)
select value, asm_sessions.id, created_at, updated_at
  from asm_sessions, json_each(tags)
 where asm_sessions.id = :id;
select count(*) as copied
  from asm_events
 where session_id = :id;

-- search_sessions
-- A page of sessions. The filter by provider looks at the runs of a session.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from asm_sessions
 where true
   and agent_id = :agent_id                                -- if agent_id
   and agent_id in (select value from json_each(:agent_ids)) -- if agent_ids
   and status = :status                                    -- if status
   and status in (select value from json_each(:statuses))  -- if statuses
   and parent_session_id = :parent_session_id              -- if parent_session_id
   and parent_session_id                                   -- if parent_session_ids
       in (select value from json_each(:parent_session_ids)) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider in (select value from json_each(:providers))) -- if providers
   and created_at >= :created_after                        -- if created_after
   and created_at < :created_before                        -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
   and (created_at, id) > (:last_at, :last_id)             -- if created_at_asc and last_id
   and (created_at, id) < (:last_at, :last_id)             -- if created_at_desc and last_id
   and (updated_at, id) > (:last_at, :last_id)             -- if updated_at_asc and last_id
   and (updated_at, id) < (:last_at, :last_id)             -- if updated_at_desc and last_id
 order by created_at, id                                   -- if created_at_asc
 order by created_at desc, id desc                         -- if created_at_desc
 order by updated_at, id                                   -- if updated_at_asc
 order by updated_at desc, id desc                         -- if updated_at_desc
 limit :limit;

-- search_sessions_by_tag
-- As search_sessions, of the sessions that have all of the tags. They are read from the rows of
-- the tag that fewest sessions have, counted up to a thousand, in the order of an index on them.
select session.id, session.agent_id, session.status, session.parent_session_id, session.metadata,
       session.context, session.tags, session.created_at, session.updated_at, session.deleted_at
  from asm_session_tags as tagged
 cross join asm_sessions as session on session.id = tagged.id
 where tagged.tag = (
       select value
         from json_each(:tags)
        order by (select count(*)
                    from (select 1 from asm_session_tags as same
                           where same.tag = value limit 1000))
        limit 1
       )
   and not exists (
       select 1
         from json_each(:tags)
        where not exists (select 1 from asm_session_tags as other
                           where other.tag = value and other.id = tagged.id)
       )
   and session.agent_id = :agent_id                        -- if agent_id
   and session.agent_id in (select value from json_each(:agent_ids)) -- if agent_ids
   and session.status = :status                            -- if status
   and session.status in (select value from json_each(:statuses)) -- if statuses
   and session.parent_session_id = :parent_session_id      -- if parent_session_id
   and session.parent_session_id                           -- if parent_session_ids
       in (select value from json_each(:parent_session_ids)) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = session.id              -- if providers
                  and provider in (select value from json_each(:providers))) -- if providers
   and tagged.created_at >= :created_after                 -- if created_after
   and tagged.created_at < :created_before                 -- if created_before
   and session.deleted_at is null                          -- if exclude_deleted
   and (tagged.created_at, tagged.id) > (:last_at, :last_id) -- if created_at_asc and last_id
   and (tagged.created_at, tagged.id) < (:last_at, :last_id) -- if created_at_desc and last_id
   and (tagged.updated_at, tagged.id) > (:last_at, :last_id) -- if updated_at_asc and last_id
   and (tagged.updated_at, tagged.id) < (:last_at, :last_id) -- if updated_at_desc and last_id
 order by tagged.created_at, tagged.id                     -- if created_at_asc
 order by tagged.created_at desc, tagged.id desc           -- if created_at_desc
 order by tagged.updated_at, tagged.id                     -- if updated_at_asc
 order by tagged.updated_at desc, tagged.id desc           -- if updated_at_desc
 limit :limit;

-- count_sessions
-- How many sessions search_sessions finds on all pages together.
select count(*)
  from asm_sessions
 where true
   and agent_id = :agent_id                                -- if agent_id
   and agent_id in (select value from json_each(:agent_ids)) -- if agent_ids
   and status = :status                                    -- if status
   and status in (select value from json_each(:statuses))  -- if statuses
   and parent_session_id = :parent_session_id              -- if parent_session_id
   and parent_session_id                                   -- if parent_session_ids
       in (select value from json_each(:parent_session_ids)) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider in (select value from json_each(:providers))) -- if providers
   and created_at >= :created_after                        -- if created_after
   and created_at < :created_before                        -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
;

-- count_sessions_by_tag
-- How many sessions search_sessions_by_tag finds on all pages together.
select count(*)
  from asm_session_tags as tagged
 cross join asm_sessions as session on session.id = tagged.id
 where tagged.tag = (
       select value
         from json_each(:tags)
        order by (select count(*)
                    from (select 1 from asm_session_tags as same
                           where same.tag = value limit 1000))
        limit 1
       )
   and not exists (
       select 1
         from json_each(:tags)
        where not exists (select 1 from asm_session_tags as other
                           where other.tag = value and other.id = tagged.id)
       )
   and session.agent_id = :agent_id                        -- if agent_id
   and session.agent_id in (select value from json_each(:agent_ids)) -- if agent_ids
   and session.status = :status                            -- if status
   and session.status in (select value from json_each(:statuses)) -- if statuses
   and session.parent_session_id = :parent_session_id      -- if parent_session_id
   and session.parent_session_id                           -- if parent_session_ids
       in (select value from json_each(:parent_session_ids)) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = session.id              -- if providers
                  and provider in (select value from json_each(:providers))) -- if providers
   and tagged.created_at >= :created_after                 -- if created_after
   and tagged.created_at < :created_before                 -- if created_before
   and session.deleted_at is null                          -- if exclude_deleted
;
