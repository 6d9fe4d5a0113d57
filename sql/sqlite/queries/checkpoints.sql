-- check_checkpoint_tables
-- Returns no row, and fails where a table is missing.
select 1
  from asm_checkpoints, asm_checkpoint_blobs, asm_checkpoint_writes
 where false;

-- count_checkpoint_rows
select 'checkpoints', count(*) from asm_checkpoints
union all
select 'checkpoint_blobs', count(*) from asm_checkpoint_blobs
union all
select 'checkpoint_writes', count(*) from asm_checkpoint_writes;

-- put_checkpoint
-- Inserts a checkpoint, or replaces the stored one, with the values that it is the first to have
-- in their versions. The session is inserted if it is absent; of a stored one only `updated_at`
-- changes, and with it that of its tags, and only if it is older than `stale_before`: its change
-- writes to four indexes. A soft-deleted one is restored.
insert into asm_sessions as session (
    id, agent_id, status, parent_session_id, metadata, context, tags,
    created_at, updated_at, deleted_at
)
values (
    :session_id, :agent_id, 'active', null, '{}', :context, '[]', :created_at, :created_at, null
)
on conflict (id) do update
   set updated_at = excluded.updated_at,
       deleted_at = null
 where session.updated_at < :stale_before
    or session.deleted_at is not null;
update asm_session_tags
   set updated_at = (select updated_at from asm_sessions where id = :session_id)
 where id = :session_id
   and updated_at < (select updated_at from asm_sessions where id = :session_id);
insert into asm_checkpoint_blobs (session_id, checkpoint_ns, channel, version, type, value)
select :session_id, :checkpoint_ns, :channels, :versions, :types, :values
 where :channels is not null
on conflict (session_id, checkpoint_ns, channel, version) do nothing;
insert into asm_checkpoints (
    session_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, metadata, type, value,
    blob_versions, delta_channels, created_at
)
values (
    :session_id, :checkpoint_ns, :checkpoint_id, :parent_checkpoint_id, :run_id,
    :metadata, :type, :value, :blob_versions, :delta_channels, :created_at
)
on conflict (session_id, checkpoint_ns, checkpoint_id) do update
   set parent_checkpoint_id = excluded.parent_checkpoint_id,
       run_id = excluded.run_id,
       metadata = excluded.metadata,
       type = excluded.type,
       value = excluded.value,
       blob_versions = excluded.blob_versions,
       delta_channels = excluded.delta_channels;

-- put_checkpoint_writes
-- Inserts writes of a task. Of stored ones, only those with a negative index are replaced: errors,
-- interrupts and the like.
insert into asm_checkpoint_writes (
    session_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, type, value,
    created_at
)
values (
    :session_id, :checkpoint_ns, :checkpoint_id, :task_id, :indexes, :task_path,
    :channels, :types, :values, :created_at
)
on conflict (session_id, checkpoint_ns, checkpoint_id, task_id, idx) do update
   set task_path = excluded.task_path,
       channel = excluded.channel,
       type = excluded.type,
       value = excluded.value
 where excluded.idx < 0;

-- list_checkpoints
-- A page of checkpoints, the newest first. Of each a row of its own, one for each value of a
-- channel, which has no task, and one for each write, in no order; all from one snapshot.
-- A value of the filter equals that of the metadata; null equals an absent one.
-- Equal containers have as many items, each equal to the one in its place; of the metadata itself,
-- only the items that the filter has are compared. Booleans are numbers in SQLite, so types are
-- compared, too; there is one of numbers. The plus keeps numbers from being compared as text.
select session_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, metadata, task_id,
       task_path, idx, channel, type, value
  from (
       with head as materialized (
           select session_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, metadata, type,
                  value, blob_versions
             from asm_checkpoints
            where true
              and session_id = :session_id                                 -- if session_id
              and checkpoint_ns = :checkpoint_ns                           -- if checkpoint_ns
              and checkpoint_id = :checkpoint_id                           -- if checkpoint_id
              and checkpoint_id < :before                                  -- if before
              and checkpoint_id <= :last_id                                -- if last_id
              and (checkpoint_id, checkpoint_ns, session_id)               -- if last_id
                  < (:last_id, :last_ns, :last_session_id)                 -- if last_id
              and not exists (                                             -- if filter
                  with recursive pairs as (                                -- if filter
                      select 'object' as wanted_type, :filter as wanted,   -- if filter
                             'object' as found_type, +metadata as found,   -- if filter
                             true as is_partial                            -- if filter
                      union all                                            -- if filter
                      select item.type, item.value,                        -- if filter
                             coalesce(stored.type, iif(is_partial, 'null', 'none')),  -- if filter
                             stored.value, false                           -- if filter
                        from pairs                                         -- if filter
                        join json_each(pairs.wanted) as item               -- if filter
                        left join json_each(pairs.found) as stored         -- if filter
                          on stored.key = item.key                         -- if filter
                       where wanted_type in ('array', 'object')            -- if filter
                         and wanted_type = found_type                      -- if filter
                  )                                                        -- if filter
                  select 1                                                 -- if filter
                    from pairs                                             -- if filter
                   where replace(wanted_type, 'real', 'integer')           -- if filter
                         <> replace(found_type, 'real', 'integer')         -- if filter
                      or wanted_type not in ('array', 'object')            -- if filter
                         and wanted is not found                           -- if filter
                      or wanted_type in ('array', 'object')                -- if filter
                         and not is_partial                                -- if filter
                         and (select count(*) from json_each(wanted))      -- if filter
                             <> (select count(*) from json_each(found))    -- if filter
              )                                                            -- if filter
            order by checkpoint_id desc, checkpoint_ns desc, session_id desc
            limit :limit
       )
       select session_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, metadata,
              null as task_id, null as task_path, null as idx, null as channel, type, value
         from head
       union all
       select blob.session_id, blob.checkpoint_ns, head.checkpoint_id, null, null,
              null, null, null, blob.channel, blob.type, blob.value
         from head
        cross join json_each(head.blob_versions) as used
        cross join asm_checkpoint_blobs as blob
        where blob.session_id = head.session_id
          and blob.checkpoint_ns = head.checkpoint_ns
          and blob.channel = used.key
          and blob.version = used.value
       union all
       select stored.session_id, stored.checkpoint_ns, stored.checkpoint_id, null, null,
              stored.task_id, stored.task_path, stored.idx, stored.channel, stored.type,
              stored.value
         from head
        cross join asm_checkpoint_writes as stored
        where stored.session_id = head.session_id
          and stored.checkpoint_ns = head.checkpoint_ns
          and stored.checkpoint_id = head.checkpoint_id
  ) as parts;

-- describe_checkpoints
-- What a list shows of a thread's checkpoints, the newest first, and how many there are.
select checkpoint_ns, created_at,
       json_extract(metadata, '$.source') as source, json_extract(metadata, '$.step') as step,
       count(*) over () as checkpoint_count
  from asm_checkpoints
 where session_id = :session_id
 order by checkpoint_id desc, checkpoint_ns desc
 limit :limit;

-- outline_thread
-- The columns that decide whether each checkpoint of a thread is kept, and its values. The
-- newest of a namespace precedes the others.
select checkpoint_ns, checkpoint_id, parent_checkpoint_id,
       json_extract(metadata, '$.parents.""') as root_checkpoint_id,
       run_id, blob_versions, delta_channels, created_at
  from asm_checkpoints
 where session_id = :session_id
 order by checkpoint_ns desc, checkpoint_id desc;

-- page_threads
-- The sessions that have checkpoints, a page at a time.
select id
  from asm_sessions
 where exists (select 1 from asm_checkpoints where session_id = asm_sessions.id)
   and id > :after                                                         -- if after
 order by id
 limit :limit;

-- find_threads_of_runs
select distinct session_id
  from asm_checkpoints
 where run_id in (select value from json_each(:run_ids))
 order by session_id;

-- find_threads
-- Which of these sessions have checkpoints.
select distinct session_id
  from asm_checkpoints
 where session_id in (select value from json_each(:session_ids))
 order by session_id;

-- delete_checkpoints
-- Deletes checkpoints with their writes, and leaves the values of their channels.
delete from asm_checkpoint_writes
 where session_id = :session_id
   and checkpoint_ns = :namespaces
   and checkpoint_id = :checkpoint_ids;
delete from asm_checkpoints
 where session_id = :session_id
   and checkpoint_ns = :namespaces
   and checkpoint_id = :checkpoint_ids;

-- delete_checkpoint_blobs
delete from asm_checkpoint_blobs
 where session_id = :session_id
   and checkpoint_ns = :namespaces
   and channel = :channels
   and version = :versions;

-- forget_checkpoint_parents
-- The parents of these checkpoints were deleted.
update asm_checkpoints
   set parent_checkpoint_id = null
 where session_id = :session_id
   and checkpoint_ns = :namespaces
   and checkpoint_id = :checkpoint_ids;

-- delete_thread_checkpoints
-- Deletes all checkpoints of a thread, and leaves its session.
delete from asm_checkpoint_blobs where session_id = :session_id;
delete from asm_checkpoint_writes where session_id = :session_id;
delete from asm_checkpoints where session_id = :session_id;

-- delete_orphaned_checkpoint_writes
-- Deletes writes that were stored after their thread was deleted. A new one may be about to be
-- followed by its thread.
delete from asm_checkpoint_writes
 where created_at < :before
   and not exists (select 1 from asm_sessions where id = session_id);

-- copy_thread
-- Copies all checkpoints of a thread; the session of the copy is a child of the thread's. What the
-- copy has already stays.
insert into asm_sessions as session (
    id, agent_id, status, parent_session_id, metadata, context, tags,
    created_at, updated_at, deleted_at
)
select :target_id, source.agent_id, 'active', source.id, '{}', source.context, '[]',
       :created_at, :created_at, null
  from asm_sessions as source
 where source.id = :session_id
on conflict (id) do update
   set updated_at = excluded.updated_at
 where session.updated_at < excluded.updated_at;
update asm_session_tags
   set updated_at = max(updated_at, :created_at)
 where id = :target_id;
insert into asm_checkpoint_blobs (session_id, checkpoint_ns, channel, version, type, value)
select :target_id, checkpoint_ns, channel, version, type, value
  from asm_checkpoint_blobs
 where session_id = :session_id
on conflict (session_id, checkpoint_ns, channel, version) do nothing;
insert into asm_checkpoint_writes (
    session_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, type, value,
    created_at
)
select :target_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, type,
       value, created_at
  from asm_checkpoint_writes
 where session_id = :session_id
on conflict (session_id, checkpoint_ns, checkpoint_id, task_id, idx) do nothing;
insert into asm_checkpoints (
    session_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, metadata, type, value,
    blob_versions, delta_channels, created_at
)
select :target_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, metadata, type,
       value, blob_versions, delta_channels, created_at
  from asm_checkpoints
 where session_id = :session_id
on conflict (session_id, checkpoint_ns, checkpoint_id) do nothing;
