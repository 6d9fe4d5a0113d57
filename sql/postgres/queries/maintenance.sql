-- find_expired_sessions
-- Live sessions of one status that were last updated at `until` or before, the oldest first. Uses
-- asm_sessions_by_status_update.
select updated_at, id
  from asm_sessions
 where status = %(status)s
   and updated_at <= %(until)s
   and deleted_at is null
   and not tags operator(pg_catalog.&&) %(exempt_tags)s::text[]
   and (updated_at, id) > (%(last_at)s, %(last_id)s)       -- if last_at and last_id
 order by updated_at, id
 limit %(limit)s;

-- soft_delete_sessions
-- Repeats the conditions of find_expired_sessions, because the sessions may have changed since.
-- The rows are locked in the order of their ids, as appends with sessions lock them, so that the
-- two cannot deadlock.
update asm_sessions
   set deleted_at = %(at)s
 where id in (
       select id
         from asm_sessions
        where id = any(%(session_ids)s::text[])
          and status = %(status)s
          and updated_at <= %(until)s
          and deleted_at is null
          and not tags operator(pg_catalog.&&) %(exempt_tags)s::text[]
        order by id
          for no key update
 )
returning id;

-- find_due_sessions
-- Sessions that were soft-deleted at `due_until` or before, the oldest first. Uses
-- asm_sessions_deleted.
select deleted_at, id
  from asm_sessions
 where deleted_at <= %(due_until)s
   and status <> all(%(exempt_statuses)s::text[])
   and not tags operator(pg_catalog.&&) %(exempt_tags)s::text[]
   and (deleted_at, id) > (%(last_at)s, %(last_id)s)       -- if last_at and last_id
 order by deleted_at, id
 limit %(limit)s;

-- lock_due_sessions
-- Repeats the conditions of find_due_sessions and locks the session rows in the order of their
-- ids.
select id
  from asm_sessions
 where id = any(%(session_ids)s::text[])
   and deleted_at <= %(due_until)s
   and status <> all(%(exempt_statuses)s::text[])
   and not tags operator(pg_catalog.&&) %(exempt_tags)s::text[]
 order by id
   for update;

-- delete_sessions
-- Deletes sessions with their events, runs and counters. The caller has locked the counters and
-- session rows, so the order in which the parts run does not matter.
with deleted_events as (
    delete from asm_events where session_id = any(%(session_ids)s::text[])
), deleted_runs as (
    delete from asm_runs where session_id = any(%(session_ids)s::text[])
), deleted_sessions as (
    delete from asm_sessions where id = any(%(session_ids)s::text[])
)
delete from asm_session_sequences where session_id = any(%(session_ids)s::text[]);

-- delete_artifacts_of_sessions
-- Deletes the rows of all artifacts of sessions, those that are soft-deleted, too.
delete from asm_artifacts
 where session_id = any(%(session_ids)s::text[]);

-- find_long_sessions
-- Sessions that store more than `keep` events by their counters, without those that have an exempt
-- tag and those that are due for deletion (none are where `due_until` is null). The session row is
-- read in a subquery for long sessions only; a join would read all sessions first.
select session_id, last_sequence, pruned_events
  from asm_session_sequences as counter
 where last_sequence - pruned_events > %(keep)s
   and (
       select tags operator(pg_catalog.&&) %(exempt_tags)s::text[]
              or deleted_at <= %(due_until)s::timestamptz
              and status <> all(%(exempt_statuses)s::text[])
         from asm_sessions
        where id = counter.session_id
   ) is not true
   and (select true from asm_sessions where id = counter.session_id) -- if requires_row
   and session_id = %(session_id)s                         -- if session_id
   and session_id > %(after)s                              -- if after
 order by session_id
 limit %(limit)s;

-- lock_existing_counters
-- Locks the counters that exist, in the order of their session ids. Unlike lock_counters it
-- creates none.
select session_id, last_sequence, pruned_events
  from asm_session_sequences
 where session_id = any(%(session_ids)s::text[])
 order by session_id
   for update;

-- count_prunable_by_session
-- For each requested session that has no exempt tag: how many of its events up to `max_sequence`
-- may be pruned. That is at most the number of rows beyond `keep`, of which not all need to be
-- counted, and none of a protected type.
select requested.session_id, prunable.number
  from rows from (
           pg_catalog.unnest(%(session_ids)s::text[]),
           pg_catalog.unnest(%(max_sequences)s::bigint[]),
           pg_catalog.unnest(%(limits)s::bigint[])
       ) as requested (session_id, max_sequence, max_rows)
 cross join lateral (
       select pg_catalog.count(*) - %(keep)s::bigint as number
         from (
              select 1
                from asm_events as event
               where event.session_id = requested.session_id
                 and event.sequence_number <= requested.max_sequence
               limit requested.max_rows
         ) as stored
 ) as excess
 cross join lateral (
       select pg_catalog.count(*) as number
         from (
              select 1
                from asm_events as event
               where event.session_id = requested.session_id
                 and event.sequence_number <= requested.max_sequence
                 and event.type <> all(%(protected_types)s::text[])
               limit greatest(excess.number, 0)
         ) as unprotected
 ) as prunable
 where (
       select session.tags operator(pg_catalog.&&) %(exempt_tags)s::text[]
         from asm_sessions as session
        where session.id = requested.session_id
 ) is not true;

-- prune_events
-- For each requested session, deletes `number` events up to `max_sequence` and adds them to its
-- counter: the oldest of `first_types`, then the oldest of the rest. The caller has locked the
-- counters. `least` keeps `pruned_events` within its constraint where a counter says less than is
-- stored. `materialized` keeps the planner from selecting the events again for each row.
with to_delete as materialized (
    select requested.session_id, event.sequence_number
      from rows from (
               pg_catalog.unnest(%(session_ids)s::text[]),
               pg_catalog.unnest(%(max_sequences)s::bigint[]),
               pg_catalog.unnest(%(numbers)s::bigint[])
           ) as requested (session_id, max_sequence, number)
     cross join lateral (
           (select 1 as priority, sequence_number
              from asm_events
             where session_id = requested.session_id
               and sequence_number <= requested.max_sequence
               and type = any(%(first_types)s::text[])
             order by sequence_number
             limit requested.number)
           union all
           (select 2, sequence_number
              from asm_events
             where session_id = requested.session_id
               and sequence_number <= requested.max_sequence
               and type <> all(%(first_types)s::text[])
               and type <> all(%(protected_types)s::text[])
             order by sequence_number
             limit requested.number)
           order by priority, sequence_number
           limit requested.number
     ) as event
), deleted_events as (
    delete from asm_events as event
     using to_delete
     where event.session_id = to_delete.session_id
       and event.sequence_number = to_delete.sequence_number
)
update asm_session_sequences as counter
   set pruned_events = counter.pruned_events
                     + least(requested.number, counter.last_sequence - counter.pruned_events)
  from rows from (
           pg_catalog.unnest(%(session_ids)s::text[]),
           pg_catalog.unnest(%(numbers)s::bigint[])
       ) as requested (session_id, number)
 where counter.session_id = any(%(session_ids)s::text[])
   and counter.session_id = requested.session_id;

-- count_stored_by_counters
-- The number of all events by their counters, without those of sessions that are due for deletion
-- (none are where `due_until` is null). A counter may say anything, so the upper and the lower 32
-- bits are added up each by themselves, which does not overflow.
select totals.upper - due.upper as upper, totals.lower - due.lower as lower
  from (
       select coalesce(pg_catalog.sum((last_sequence - pruned_events) >> 32), 0)::bigint as upper,
              coalesce(pg_catalog.sum((last_sequence - pruned_events) & 4294967295), 0)::bigint
              as lower
         from asm_session_sequences
  ) as totals
 cross join (
       select coalesce(pg_catalog.sum((last_sequence - pruned_events) >> 32), 0)::bigint as upper,
              coalesce(pg_catalog.sum((last_sequence - pruned_events) & 4294967295), 0)::bigint
              as lower
         from asm_sessions as session
         join asm_session_sequences as counter on counter.session_id = session.id
        where session.deleted_at <= %(due_until)s::timestamptz
          and session.status <> all(%(exempt_statuses)s::text[])
          and not session.tags operator(pg_catalog.&&) %(exempt_tags)s::text[]
  ) as due;

-- count_stored
-- The number of all events by their rows, without those of sessions that are due for deletion. It
-- reads a whole index.
select totals.stored - due.stored as number
  from (
       select pg_catalog.count(*) as stored
         from asm_events
  ) as totals
 cross join (
       select pg_catalog.count(*) as stored
         from asm_sessions as session
         join asm_events as event on event.session_id = session.id
        where session.deleted_at <= %(due_until)s::timestamptz
          and session.status <> all(%(exempt_statuses)s::text[])
          and not session.tags operator(pg_catalog.&&) %(exempt_tags)s::text[]
  ) as due;

-- find_oldest_events
-- The oldest events that may be pruned, as numbers per session, with the counter of each session
-- and the time of the last of them. Reads asm_events_by_time in order, or asm_events_by_type.
select oldest.session_id, counter.last_sequence, counter.pruned_events,
       pg_catalog.count(*) as number, pg_catalog.max(oldest.timestamp) as timestamp
  from (
       select event.session_id, event.timestamp
         from asm_events as event
         left join asm_sessions as session on session.id = event.session_id
        where (session.tags operator(pg_catalog.&&) %(exempt_tags)s::text[]) is not true
          and (
              session.deleted_at <= %(due_until)s::timestamptz
              and session.status <> all(%(exempt_statuses)s::text[])
          ) is not true
          and event.type = any(%(types)s::text[])          -- if types
          and event.type <> all(%(not_types)s::text[])     -- if not_types
          and event.timestamp >= %(since)s                 -- if since
          and session.id is not null                       -- if requires_row
        order by event.timestamp, event.session_id, event.sequence_number
        limit %(limit)s
  ) as oldest
  join asm_session_sequences as counter on counter.session_id = oldest.session_id
 group by oldest.session_id, counter.last_sequence, counter.pruned_events;

-- count_prunable_events
-- How many events of all sessions may be pruned. Stops counting at `limit`.
select pg_catalog.count(*) as number
  from (
       select 1
         from asm_events as event
         left join asm_sessions as session on session.id = event.session_id
        where event.type <> all(%(not_types)s::text[])
          and (session.tags operator(pg_catalog.&&) %(exempt_tags)s::text[]) is not true
          and (
              session.deleted_at <= %(due_until)s::timestamptz
              and session.status <> all(%(exempt_statuses)s::text[])
          ) is not true
          and session.id is not null                       -- if requires_row
        limit %(limit)s
  ) as prunable;

-- find_orphaned_artifacts
-- Sessions that have artifacts older than `before` but no row, no event, no run, and no pruned
-- event; and how many such artifacts each has. `offset 0` keeps the planner from searching the
-- events and runs of sessions that have a row.
select orphaned.session_id, orphaned.number
  from (
       select artifact.session_id, pg_catalog.count(*) as number
         from asm_artifacts as artifact
        where artifact.session_id is not null
          and artifact.created_at < %(before)s
          and artifact.session_id > %(after)s              -- if after
          and not exists (select 1 from asm_sessions where id = artifact.session_id)
        group by artifact.session_id
        order by artifact.session_id
       offset 0
  ) as orphaned
 where (select 1 from asm_events where session_id = orphaned.session_id limit 1) is null
   and (select 1 from asm_runs where session_id = orphaned.session_id limit 1) is null
   and not exists (
       select 1
         from asm_session_sequences
        where session_id = orphaned.session_id
          and pruned_events > 0
   )
 order by orphaned.session_id
 limit %(limit)s;

-- delete_orphaned_artifacts
-- Repeats the conditions of find_orphaned_artifacts, because a session may have been saved since.
delete from asm_artifacts as artifact
 where artifact.session_id = any(%(session_ids)s::text[])
   and artifact.created_at < %(before)s
   and not exists (select 1 from asm_sessions where id = artifact.session_id)
   and (select 1 from asm_events where session_id = artifact.session_id limit 1) is null
   and (select 1 from asm_runs where session_id = artifact.session_id limit 1) is null
   and not exists (
       select 1
         from asm_session_sequences
        where session_id = artifact.session_id
          and pruned_events > 0
   )
returning id;

-- find_orphaned_counters
-- Counters that last changed before `before` and whose session has no row, no event, and no pruned
-- event. `offset 0` keeps the planner from searching the events of sessions that have a row.
select orphaned.session_id
  from (
       select counter.session_id
         from asm_session_sequences as counter
        where counter.pruned_events = 0
          and counter.updated_at < %(before)s
          and counter.session_id > %(after)s               -- if after
          and not exists (select 1 from asm_sessions where id = counter.session_id)
        order by counter.session_id
       offset 0
  ) as orphaned
 where (select 1 from asm_events where session_id = orphaned.session_id limit 1) is null
 order by orphaned.session_id
 limit %(limit)s;

-- delete_orphaned_counters
-- Repeats the conditions of find_orphaned_counters. The caller has locked the counters.
delete from asm_session_sequences as counter
 where counter.session_id = any(%(session_ids)s::text[])
   and counter.pruned_events = 0
   and counter.updated_at < %(before)s
   and not exists (select 1 from asm_sessions where id = counter.session_id)
   and (select 1 from asm_events where session_id = counter.session_id limit 1) is null
returning session_id;
