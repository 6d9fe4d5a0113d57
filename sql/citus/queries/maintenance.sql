-- soft_delete_sessions
-- for each session_id in session_ids
update asm_sessions
   set deleted_at = %(at)s
 where id = %(session_id)s
   and status = %(status)s
   and updated_at <= %(until)s
   and deleted_at is null
   and not tags operator(pg_catalog.&&) %(exempt_tags)s::text[]
returning id;

-- lock_due_sessions
-- for each session_id in session_ids
select id
  from asm_sessions
 where id = %(session_id)s
   and deleted_at <= %(due_until)s
   and status <> all(%(exempt_statuses)s::text[])
   and not tags operator(pg_catalog.&&) %(exempt_tags)s::text[]
   for update;

-- lock_existing_counters
-- for each session_id in session_ids
select session_id, last_sequence, pruned_events
  from asm_session_sequences
 where session_id = %(session_id)s
   for update;

-- count_prunable_by_session
-- for each session_id in session_ids
select %(session_id)s::text as session_id, pg_catalog.count(*) as number
  from (
       select 1
         from asm_events
        where session_id = %(session_id)s
          and sequence_number <= (%(max_sequences)s::bigint[])[1]
          and type <> all(%(protected_types)s::text[])
        limit (
              select greatest(pg_catalog.count(*) - %(keep)s::bigint, 0)
                from (
                     select 1
                       from asm_events
                      where session_id = %(session_id)s
                        and sequence_number <= (%(max_sequences)s::bigint[])[1]
                      limit (%(limits)s::bigint[])[1]
                ) as stored
        )
  ) as unprotected
having (
       select tags operator(pg_catalog.&&) %(exempt_tags)s::text[]
         from asm_sessions
        where id = %(session_id)s
 ) is not true;

-- prune_events
-- for each session_id in session_ids
delete from asm_events
 where session_id = %(session_id)s
   and sequence_number = any(array(
       select sequence_number
         from (
              (select 1 as priority, sequence_number
                 from asm_events
                where session_id = %(session_id)s
                  and sequence_number <= (%(max_sequences)s::bigint[])[1]
                  and type = any(%(first_types)s::text[])
                order by sequence_number
                limit (%(numbers)s::bigint[])[1])
              union all
              (select 2, sequence_number
                 from asm_events
                where session_id = %(session_id)s
                  and sequence_number <= (%(max_sequences)s::bigint[])[1]
                  and type <> all(%(first_types)s::text[])
                  and type <> all(%(protected_types)s::text[])
                order by sequence_number
                limit (%(numbers)s::bigint[])[1])
              order by priority, sequence_number
              limit (%(numbers)s::bigint[])[1]
         ) as event
   ));
update asm_session_sequences
   set pruned_events = pruned_events
                     + least((%(numbers)s::bigint[])[1], last_sequence - pruned_events)
 where session_id = %(session_id)s;

-- find_orphaned_counters
select counter.session_id
  from asm_session_sequences as counter
 where counter.pruned_events = 0
   and counter.updated_at < %(before)s
   and counter.session_id > %(after)s                       -- if after
   and not exists (select 1 from asm_sessions where id = counter.session_id)
   and not exists (select 1 from asm_events where session_id = counter.session_id)
 order by counter.session_id
 limit %(limit)s;

-- find_orphaned_artifacts
select artifact.session_id, pg_catalog.count(*) as number
  from asm_artifacts as artifact
  left join asm_sessions as session on session.id = artifact.session_id
  left join asm_session_sequences as counter on counter.session_id = artifact.session_id
  left join asm_runs as run on run.session_id = artifact.session_id
 where artifact.session_id is not null
   and artifact.created_at < %(before)s
   and artifact.session_id > %(after)s                      -- if after
   and session.id is null
   and run.id is null
   and coalesce(counter.last_sequence, 0) = 0
 group by artifact.session_id
 order by artifact.session_id
 limit %(limit)s;

-- delete_orphaned_artifacts
-- The sessions are found by a subquery of their own, because a delete cannot join a reference
-- table and a distributed one.
with orphaned as materialized (
    select wanted.id
      from pg_catalog.unnest(%(session_ids)s::text[]) as wanted (id)
      left join asm_sessions as session on session.id = wanted.id
      left join asm_session_sequences as counter on counter.session_id = wanted.id
      left join asm_runs as run on run.session_id = wanted.id
     where session.id is null
       and run.id is null
       and coalesce(counter.last_sequence, 0) = 0
)
delete from asm_artifacts as artifact
 using orphaned
 where artifact.session_id = orphaned.id
   and artifact.created_at < %(before)s
returning artifact.id;
