-- save_session
-- A new session, or everything but the id of one that is there.
insert into asm_sessions as session (id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at)
values (:id, :agent_id, :status, :parent_session_id, :metadata, :context, :tags, :created_at, :updated_at, :deleted_at)
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
-- The tags stand in a table of their own too, because SQLite has no index into a list.
delete from asm_session_tags
 where id = :id
   and tag not in (select value from json_each(:tags));
insert or replace into asm_session_tags (tag, id, created_at, updated_at)
select value, asm_sessions.id, created_at, updated_at
  from asm_sessions, json_each(tags)
 where asm_sessions.id = :id;

-- get_session
-- No row: no session has that id.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at
  from asm_sessions
 where id = :id;

-- list_sessions
-- The newest first. SQLite reads an offset only after a limit, and -1 as none.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at
  from asm_sessions
 where true
   and status = :status                                    -- if status
   and status in (select value from json_each(:statuses))  -- if statuses
   and agent_id = :agent_id                                -- if agent_id
   and deleted_at is null                                  -- if only_live
 order by created_at desc, id desc
 limit coalesce(:limit, -1)
offset :offset;

-- delete_session
-- With everything that belongs to it. Its counter is locked by then and goes last, in delete_counter:
-- an append that waits for the counter finds nothing, and starts again at 1.
delete from asm_events where session_id = :session_id;
delete from asm_runs where session_id = :session_id;
delete from asm_artifacts where session_id = :session_id;
delete from asm_session_tags where id = :session_id;
delete from asm_sessions where id = :session_id;

-- search_sessions
-- Sessions in one of several orders, a page at a time.
-- SQLite has no index into a list. Those with a tag are read from the tags' own table, which has the times that
-- sessions are listed by; of several tags, from the one that fewest have, where they are fewer than a thousand.
-- A column that both have and that names no table is that of the table read first.
select id, agent_id, status, parent_session_id, metadata, context, tags, created_at, updated_at, deleted_at
  from
       asm_session_tags cross join                         -- if tags
       asm_sessions
 using (id, created_at, updated_at)                        -- if tags
 where true
   and false                                               -- if nothing
   and agent_id = :agent_id                                -- if agent_id
   and agent_id in (select value from json_each(:agent_ids)) -- if agent_ids
   and status = :status                                    -- if status
   and status in (select value from json_each(:statuses))  -- if statuses
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider in (select value from json_each(:providers))) -- if providers
   and tag = (select value                                 -- if tags
                from json_each(:tags)                      -- if tags
               order by (select count(*)                   -- if tags
                           from (select 1 from asm_session_tags as bearer where bearer.tag = value limit 1000)) -- if tags
               limit 1)                                    -- if tags
   and not exists (select 1 from json_each(:tags)          -- if tags
                    where not exists (select 1 from asm_session_tags as bearer -- if tags
                                       where bearer.tag = value -- if tags
                                         and bearer.id = asm_session_tags.id)) -- if tags
   and created_at >= :created_after                        -- if created_after
   and created_at < :created_before                        -- if created_before
   and deleted_at is null                                  -- if only_live
   and (created_at, id) > (:last_at, :last_id)             -- if created_at_asc and last_id
   and (created_at, id) < (:last_at, :last_id)             -- if created_at_desc and last_id
   and (updated_at, id) < (:last_at, :last_id)             -- if updated_at_desc and last_id
 order by created_at, id                                   -- if created_at_asc
 order by created_at desc, id desc                         -- if created_at_desc
 order by updated_at desc, id desc                         -- if updated_at_desc
 limit :limit;

-- count_sessions
-- How many `search_sessions` would find on all its pages.
select count(*)
  from
       asm_session_tags cross join                         -- if tags
       asm_sessions
 using (id, created_at, updated_at)                        -- if tags
 where true
   and false                                               -- if nothing
   and agent_id = :agent_id                                -- if agent_id
   and agent_id in (select value from json_each(:agent_ids)) -- if agent_ids
   and status = :status                                    -- if status
   and status in (select value from json_each(:statuses))  -- if statuses
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider in (select value from json_each(:providers))) -- if providers
   and tag = (select value                                 -- if tags
                from json_each(:tags)                      -- if tags
               order by (select count(*)                   -- if tags
                           from (select 1 from asm_session_tags as bearer where bearer.tag = value limit 1000)) -- if tags
               limit 1)                                    -- if tags
   and not exists (select 1 from json_each(:tags)          -- if tags
                    where not exists (select 1 from asm_session_tags as bearer -- if tags
                                       where bearer.tag = value -- if tags
                                         and bearer.id = asm_session_tags.id)) -- if tags
   and created_at >= :created_after                        -- if created_after
   and created_at < :created_before                        -- if created_before
   and deleted_at is null                                  -- if only_live
;
