-- check_checkpoint_tables
-- Returns no row, and fails where a table is missing.
select 1
  from asm_checkpoints, asm_checkpoint_blobs, asm_checkpoint_writes
 where false;

-- count_checkpoint_rows
select 'checkpoints', pg_catalog.count(*) from asm_checkpoints
union all
select 'checkpoint_blobs', pg_catalog.count(*) from asm_checkpoint_blobs
union all
select 'checkpoint_writes', pg_catalog.count(*) from asm_checkpoint_writes;

-- put_checkpoint
-- Inserts a checkpoint, or replaces the stored one, with the values that it is the first to have
-- in their versions. The session is inserted if it is absent; of a stored one only `updated_at`
-- changes, and only if it is older than `stale_before`: its change writes to every index. A
-- soft-deleted one is restored. The row is locked until the commit, even if it does not change.
with ensured as (
    insert into asm_sessions as session (
        id, agent_id, status, parent_session_id, metadata, context, tags,
        created_at, updated_at, deleted_at
    )
    values (
        %(session_id)s, %(agent_id)s, 'active', null, '{}', %(context)s::json, '{}',
        %(created_at)s::timestamptz, %(created_at)s::timestamptz, null
    )
    on conflict (id) do update
       set updated_at = excluded.updated_at,
           deleted_at = null
     where session.updated_at < %(stale_before)s::timestamptz
        or session.deleted_at is not null
), blobs as (
    insert into asm_checkpoint_blobs (
        session_id, checkpoint_ns, channel, version, type, value
    )
    select %(session_id)s, %(checkpoint_ns)s, channel, version, type, value
      from rows from (
           pg_catalog.unnest(%(channels)s::text[]), pg_catalog.unnest(%(versions)s::text[]),
           pg_catalog.unnest(%(types)s::text[]), pg_catalog.unnest(%(values)s::bytea[])
      ) as new (channel, version, type, value)
     where channel is not null
    on conflict (session_id, checkpoint_ns, channel, version) do nothing
)
insert into asm_checkpoints (
    session_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, metadata, type, value,
    blob_versions, delta_channels, created_at
)
values (
    %(session_id)s, %(checkpoint_ns)s, %(checkpoint_id)s, %(parent_checkpoint_id)s, %(run_id)s,
    %(metadata)s::json, %(type)s, %(value)s::bytea,
    %(blob_versions)s::json, %(delta_channels)s::json, %(created_at)s::timestamptz
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
select %(session_id)s, %(checkpoint_ns)s, %(checkpoint_id)s, %(task_id)s, idx, %(task_path)s,
       channel, type, value, %(created_at)s::timestamptz
  from rows from (
       pg_catalog.unnest(%(indexes)s::bigint[]), pg_catalog.unnest(%(channels)s::text[]),
       pg_catalog.unnest(%(types)s::text[]), pg_catalog.unnest(%(values)s::bytea[])
  ) as new (idx, channel, type, value)
 where true
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
select session_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, metadata, task_id,
       task_path, idx, channel, type, value
  from (
       with head as materialized (
           select session_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, metadata, type,
                  value, blob_versions
             from asm_checkpoints
            where true
              and session_id = %(session_id)s                              -- if session_id
              and checkpoint_ns = %(checkpoint_ns)s                        -- if checkpoint_ns
              and checkpoint_id = %(checkpoint_id)s                        -- if checkpoint_id
              and checkpoint_id < %(before)s                               -- if before
              and checkpoint_id <= %(last_id)s                             -- if last_id
              and (checkpoint_id, checkpoint_ns, session_id)               -- if last_id
                  < (%(last_id)s, %(last_ns)s, %(last_session_id)s)        -- if last_id
              and not exists (                                             -- if filter
                  select 1                                                 -- if filter
                    from pg_catalog.jsonb_each(%(filter)s::text::jsonb)    -- if filter
                      as wanted (name, item)                               -- if filter
                   where coalesce(metadata::jsonb -> name, 'null'::jsonb)  -- if filter
                         <> item                                           -- if filter
              )                                                            -- if filter
            order by checkpoint_id desc, checkpoint_ns desc, session_id desc
            limit %(limit)s
       )
       select session_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, metadata,
              null as task_id, null as task_path, null::bigint as idx, null as channel,
              type, value
         from head
       union all
       select blob.session_id, blob.checkpoint_ns, head.checkpoint_id, null, null,
              null, null, null, blob.channel, blob.type, blob.value
         from head
        cross join pg_catalog.json_each_text(head.blob_versions) as used (channel, version)
        cross join lateral (
              select session_id, checkpoint_ns, channel, type, value
                from asm_checkpoint_blobs
               where session_id = head.session_id
                 and checkpoint_ns = head.checkpoint_ns
                 and channel = used.channel
                 and version = used.version
               limit 1
        ) as blob
       union all
       select stored.session_id, stored.checkpoint_ns, stored.checkpoint_id, null, null,
              stored.task_id, stored.task_path, stored.idx, stored.channel, stored.type,
              stored.value
         from head
        cross join lateral (
              select session_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel,
                     type, value
                from asm_checkpoint_writes
               where session_id = head.session_id
                 and checkpoint_ns = head.checkpoint_ns
                 and checkpoint_id = head.checkpoint_id
              offset 0
        ) as stored
  ) as parts;

-- describe_checkpoints
-- What a list shows of a thread's checkpoints, the newest first, and how many there are.
select checkpoint_ns, created_at,
       metadata ->> 'source'::text as source, metadata ->> 'step'::text as step,
       pg_catalog.count(*) over () as checkpoint_count
  from asm_checkpoints
 where session_id = %(session_id)s
 order by checkpoint_id desc, checkpoint_ns desc
 limit %(limit)s;

-- outline_thread
-- The columns that decide whether each checkpoint of a thread is kept, and its values. The
-- newest of a namespace precedes the others.
select checkpoint_ns, checkpoint_id, parent_checkpoint_id,
       metadata -> 'parents'::text ->> ''::text as root_checkpoint_id,
       run_id, blob_versions, delta_channels, created_at
  from asm_checkpoints
 where session_id = %(session_id)s
 order by checkpoint_ns desc, checkpoint_id desc;

-- page_threads
-- The sessions that have checkpoints, a page at a time.
select id
  from asm_sessions
 where exists (select 1 from asm_checkpoints where session_id = asm_sessions.id)
   and id > %(after)s                                                      -- if after
 order by id
 limit %(limit)s;

-- find_threads_of_runs
select distinct session_id
  from asm_checkpoints
 where run_id = any(%(run_ids)s::text[])
 order by session_id;

-- find_threads
-- Which of these sessions have checkpoints.
select distinct session_id
  from asm_checkpoints
 where session_id = any(%(session_ids)s::text[])
 order by session_id;

-- delete_checkpoints
-- Deletes checkpoints with their writes, and leaves the values of their channels.
with gone as materialized (
    select checkpoint_ns, checkpoint_id
      from rows from (
           pg_catalog.unnest(%(namespaces)s::text[]), pg_catalog.unnest(%(checkpoint_ids)s::text[])
      ) as given (checkpoint_ns, checkpoint_id)
), writes as (
    delete from asm_checkpoint_writes as stored
     using gone
     where stored.session_id = %(session_id)s
       and stored.checkpoint_ns = gone.checkpoint_ns
       and stored.checkpoint_id = gone.checkpoint_id
)
delete from asm_checkpoints as stored
 using gone
 where stored.session_id = %(session_id)s
   and stored.checkpoint_ns = gone.checkpoint_ns
   and stored.checkpoint_id = gone.checkpoint_id;

-- delete_checkpoint_blobs
delete from asm_checkpoint_blobs as stored
 using rows from (
       pg_catalog.unnest(%(namespaces)s::text[]), pg_catalog.unnest(%(channels)s::text[]),
       pg_catalog.unnest(%(versions)s::text[])
     ) as gone (checkpoint_ns, channel, version)
 where stored.session_id = %(session_id)s
   and stored.checkpoint_ns = gone.checkpoint_ns
   and stored.channel = gone.channel
   and stored.version = gone.version;

-- forget_checkpoint_parents
-- The parents of these checkpoints were deleted.
update asm_checkpoints as stored
   set parent_checkpoint_id = null
  from rows from (
       pg_catalog.unnest(%(namespaces)s::text[]), pg_catalog.unnest(%(checkpoint_ids)s::text[])
     ) as orphan (checkpoint_ns, checkpoint_id)
 where stored.session_id = %(session_id)s
   and stored.checkpoint_ns = orphan.checkpoint_ns
   and stored.checkpoint_id = orphan.checkpoint_id;

-- delete_thread_checkpoints
-- Deletes all checkpoints of a thread, and leaves its session.
with blobs as (
    delete from asm_checkpoint_blobs where session_id = %(session_id)s
), writes as (
    delete from asm_checkpoint_writes where session_id = %(session_id)s
)
delete from asm_checkpoints where session_id = %(session_id)s;

-- delete_orphaned_checkpoint_writes
-- Deletes writes that were stored after their thread was deleted. A new one may be about to be
-- followed by its thread.
delete from asm_checkpoint_writes
 where created_at < %(before)s::timestamptz
   and not exists (select 1 from asm_sessions where id = session_id);

-- copy_thread
-- Copies all checkpoints of a thread; the session of the copy is a child of the thread's. What the
-- copy has already stays.
with ensured as (
    insert into asm_sessions as session (
        id, agent_id, status, parent_session_id, metadata, context, tags,
        created_at, updated_at, deleted_at
    )
    select %(target_id)s, source.agent_id, 'active', source.id, '{}', source.context, '{}',
           %(created_at)s::timestamptz, %(created_at)s::timestamptz, null
      from asm_sessions as source
     where source.id = %(session_id)s
    on conflict (id) do update
       set updated_at = excluded.updated_at
     where session.updated_at < excluded.updated_at
), blobs as (
    insert into asm_checkpoint_blobs (
        session_id, checkpoint_ns, channel, version, type, value
    )
    select %(target_id)s, checkpoint_ns, channel, version, type, value
      from asm_checkpoint_blobs
     where session_id = %(session_id)s
    on conflict (session_id, checkpoint_ns, channel, version) do nothing
), writes as (
    insert into asm_checkpoint_writes (
        session_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, type, value,
        created_at
    )
    select %(target_id)s, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, type,
           value, created_at
      from asm_checkpoint_writes
     where session_id = %(session_id)s
    on conflict (session_id, checkpoint_ns, checkpoint_id, task_id, idx) do nothing
)
insert into asm_checkpoints (
    session_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, metadata, type, value,
    blob_versions, delta_channels, created_at
)
select %(target_id)s, checkpoint_ns, checkpoint_id, parent_checkpoint_id, run_id, metadata, type,
       value, blob_versions, delta_channels, created_at
  from asm_checkpoints
 where session_id = %(session_id)s
on conflict (session_id, checkpoint_ns, checkpoint_id) do nothing;
