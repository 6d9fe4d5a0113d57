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
 where session_id = :id
   and tag not in (select value from json_each(:tags));
insert or ignore into asm_session_tags (tag, session_id)
select value, :id from json_each(:tags);

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
delete from asm_session_tags where session_id = :session_id;
delete from asm_sessions where id = :session_id;
