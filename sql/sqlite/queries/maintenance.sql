-- find_expired_sessions
-- Live sessions of one status that were last updated at `until` or before, the oldest first. Uses
-- asm_sessions_by_status_update.
select updated_at, id
  from asm_sessions
 where status = :status
   and updated_at <= :until
   and deleted_at is null
   and not exists (
       select 1
         from asm_session_tags
        where id = asm_sessions.id
          and tag in (select value from json_each(:exempt_tags))
   )
   and (updated_at, id) > (:last_at, :last_id)             -- if last_at and last_id
 order by updated_at, id
 limit :limit;

-- soft_delete_sessions
-- Repeats the conditions of find_expired_sessions, because the sessions may have changed since.
update asm_sessions
   set deleted_at = :at
 where id in (select value from json_each(:session_ids))
   and status = :status
   and updated_at <= :until
   and deleted_at is null
   and not exists (
       select 1
         from asm_session_tags
        where id = asm_sessions.id
          and tag in (select value from json_each(:exempt_tags))
   )
returning id;

-- find_due_sessions
-- Sessions that were soft-deleted at `due_until` or before, the oldest first. Uses
-- asm_sessions_deleted.
select deleted_at, id
  from asm_sessions
 where deleted_at <= :due_until
   and status not in (select value from json_each(:exempt_statuses))
   and not exists (
       select 1
         from asm_session_tags
        where id = asm_sessions.id
          and tag in (select value from json_each(:exempt_tags))
   )
   and (deleted_at, id) > (:last_at, :last_id)             -- if last_at and last_id
 order by deleted_at, id
 limit :limit;

-- lock_due_sessions
-- Repeats the conditions of find_due_sessions. The update changes nothing; it takes the lock of
-- the file.
update asm_sessions
   set deleted_at = deleted_at
 where id in (select value from json_each(:session_ids))
   and deleted_at <= :due_until
   and status not in (select value from json_each(:exempt_statuses))
   and not exists (
       select 1
         from asm_session_tags
        where id = asm_sessions.id
          and tag in (select value from json_each(:exempt_tags))
   )
returning id;

-- delete_sessions
-- Deletes sessions with their events, runs, tags and counters.
delete from asm_events where session_id in (select value from json_each(:session_ids));
delete from asm_runs where session_id in (select value from json_each(:session_ids));
delete from asm_session_tags where id in (select value from json_each(:session_ids));
delete from asm_sessions where id in (select value from json_each(:session_ids));
delete from asm_session_sequences where session_id in (select value from json_each(:session_ids));

-- delete_artifacts_of_sessions
-- Deletes the rows of all artifacts of sessions, those that are soft-deleted, too.
delete from asm_artifacts
 where session_id in (select value from json_each(:session_ids));

-- find_long_sessions
-- Sessions that store more than `keep` events by their counters, without those that have an exempt
-- tag and those that are due for deletion (none are where `due_until` is null).
select session_id, last_sequence, pruned_events
  from asm_session_sequences as counter
 where last_sequence - pruned_events > :keep
   and not exists (
       select 1
         from asm_session_tags
        where id = counter.session_id
          and tag in (select value from json_each(:exempt_tags))
   )
   and (
       select deleted_at <= :due_until
              and status not in (select value from json_each(:exempt_statuses))
         from asm_sessions
        where id = counter.session_id
   ) is not true
   and (select true from asm_sessions where id = counter.session_id) -- if requires_row
   and session_id = :session_id                            -- if session_id
   and session_id > :after                                 -- if after
 order by session_id
 limit :limit;

-- lock_existing_counters
-- Unlike lock_counters it creates no counter. The update changes nothing; it takes the lock of the
-- file.
update asm_session_sequences
   set pruned_events = pruned_events
 where session_id in (select value from json_each(:session_ids))
returning session_id, last_sequence, pruned_events;

-- count_prunable_by_session
-- For each requested session that has no exempt tag: how many of its events up to `max_sequence`
-- may be pruned. That is at most the number of rows beyond `keep`, of which not all need to be
-- counted, and none of a protected type. The statement is run once for each session, because a
-- limit in SQLite cannot refer to an outer query.
select :session_ids as session_id, count(*) as number
  from (
       select 1
         from asm_events
        where session_id = :session_ids
          and sequence_number <= :max_sequences
          and type not in (select value from json_each(:protected_types))
        limit max(0, -:keep + (
              select count(*)
                from (
                     select 1
                       from asm_events
                      where session_id = :session_ids
                        and sequence_number <= :max_sequences
                      limit :limits
                )
        ))
  )
 where not exists (
       select 1
         from asm_session_tags
        where id = :session_ids
          and tag in (select value from json_each(:exempt_tags))
 );

-- prune_events
-- For each requested session, deletes `number` events up to `max_sequence` and adds them to its
-- counter: the oldest of `first_types`, then the oldest of the rest. `min` keeps `pruned_events`
-- within its constraint where a counter says less than is stored.
update asm_session_sequences
   set pruned_events = pruned_events + min(:numbers, last_sequence - pruned_events)
 where session_id = :session_ids;
delete from asm_events
 where session_id = :session_ids
   and sequence_number in (
       select sequence_number
         from (
              select 1 as priority, sequence_number
                from (
                     select sequence_number
                       from asm_events
                      where session_id = :session_ids
                        and sequence_number <= :max_sequences
                        and type in (select value from json_each(:first_types))
                      order by sequence_number
                      limit :numbers
                )
              union all
              select 2, sequence_number
                from (
                     select sequence_number
                       from asm_events
                      where session_id = :session_ids
                        and sequence_number <= :max_sequences
                        and type not in (select value from json_each(:first_types))
                        and type not in (select value from json_each(:protected_types))
                      order by sequence_number
                      limit :numbers
                )
               order by priority, sequence_number
               limit :numbers
         )
   );

-- count_stored_by_counters
-- The number of all events by their counters, without those of sessions that are due for deletion
-- (none are where `due_until` is null). A counter may say anything, so the upper and the lower 32
-- bits are added up each by themselves, which does not overflow.
select totals.upper - due.upper as upper, totals.lower - due.lower as lower
  from (
       select coalesce(sum((last_sequence - pruned_events) >> 32), 0) as upper,
              coalesce(sum((last_sequence - pruned_events) & 4294967295), 0) as lower
         from asm_session_sequences
  ) as totals
 cross join (
       select coalesce(sum((last_sequence - pruned_events) >> 32), 0) as upper,
              coalesce(sum((last_sequence - pruned_events) & 4294967295), 0) as lower
         from asm_sessions as session
         join asm_session_sequences as counter on counter.session_id = session.id
        where session.deleted_at <= :due_until
          and session.status not in (select value from json_each(:exempt_statuses))
          and not exists (
              select 1
                from asm_session_tags
               where id = session.id
                 and tag in (select value from json_each(:exempt_tags))
          )
  ) as due;

-- count_stored
-- The number of all events by their rows, without those of sessions that are due for deletion. It
-- reads a whole index.
select totals.stored - due.stored as number
  from (
       select count(*) as stored
         from asm_events
  ) as totals
 cross join (
       select count(*) as stored
         from asm_sessions as session
         join asm_events as event on event.session_id = session.id
        where session.deleted_at <= :due_until
          and session.status not in (select value from json_each(:exempt_statuses))
          and not exists (
              select 1
                from asm_session_tags
               where id = session.id
                 and tag in (select value from json_each(:exempt_tags))
          )
  ) as due;

-- find_oldest_events
-- The oldest events that may be pruned, as numbers per session, with the counter of each session
-- and the time of the last of them. Reads asm_events_by_time in order, or asm_events_by_type.
select oldest.session_id, counter.last_sequence, counter.pruned_events, count(*) as number,
       max(oldest.timestamp) as timestamp
  from (
       select event.session_id, event.timestamp
         from asm_events as event
         left join asm_sessions as session on session.id = event.session_id
        where not exists (
              select 1
                from asm_session_tags
               where id = session.id
                 and tag in (select value from json_each(:exempt_tags))
          )
          and (
              session.deleted_at <= :due_until
              and session.status not in (select value from json_each(:exempt_statuses))
          ) is not true
          and event.type in (select value from json_each(:types)) -- if types
          and event.type not in (select value from json_each(:not_types)) -- if not_types
          and event.timestamp >= :since                    -- if since
          and session.id is not null                       -- if requires_row
        order by event.timestamp, event.session_id, event.sequence_number
        limit :limit
  ) as oldest
  join asm_session_sequences as counter on counter.session_id = oldest.session_id
 group by oldest.session_id, counter.last_sequence, counter.pruned_events;

-- count_prunable_events
-- How many events of all sessions may be pruned. Stops counting at `limit`.
select count(*) as number
  from (
       select 1
         from asm_events as event
         left join asm_sessions as session on session.id = event.session_id
        where event.type not in (select value from json_each(:not_types))
          and not exists (
              select 1
                from asm_session_tags
               where id = session.id
                 and tag in (select value from json_each(:exempt_tags))
          )
          and (
              session.deleted_at <= :due_until
              and session.status not in (select value from json_each(:exempt_statuses))
          ) is not true
          and session.id is not null                       -- if requires_row
        limit :limit
  ) as prunable;

-- find_orphaned_artifacts
-- Sessions that have artifacts older than `before` but no row, no event, no run, and no pruned
-- event; and how many such artifacts each has.
select artifact.session_id, count(*) as number
  from asm_artifacts as artifact
 where artifact.session_id is not null
   and artifact.created_at < :before
   and artifact.session_id > :after                        -- if after
   and not exists (select 1 from asm_sessions where id = artifact.session_id)
   and not exists (select 1 from asm_events where session_id = artifact.session_id)
   and not exists (select 1 from asm_runs where session_id = artifact.session_id)
   and not exists (
       select 1
         from asm_session_sequences
        where session_id = artifact.session_id
          and pruned_events > 0
   )
 group by artifact.session_id
 order by artifact.session_id
 limit :limit;

-- delete_orphaned_artifacts
-- Repeats the conditions of find_orphaned_artifacts, because a session may have been saved since.
delete from asm_artifacts as artifact
 where artifact.session_id in (select value from json_each(:session_ids))
   and artifact.created_at < :before
   and not exists (select 1 from asm_sessions where id = artifact.session_id)
   and not exists (select 1 from asm_events where session_id = artifact.session_id)
   and not exists (select 1 from asm_runs where session_id = artifact.session_id)
   and not exists (
       select 1
         from asm_session_sequences
        where session_id = artifact.session_id
          and pruned_events > 0
   )
returning id;

-- find_orphaned_counters
-- Counters that last changed before `before` and whose session has no row, no event, and no pruned
-- event.
select counter.session_id
  from asm_session_sequences as counter
 where counter.pruned_events = 0
   and counter.updated_at < :before
   and counter.session_id > :after                         -- if after
   and not exists (select 1 from asm_sessions where id = counter.session_id)
   and not exists (select 1 from asm_events where session_id = counter.session_id)
 order by counter.session_id
 limit :limit;

-- delete_orphaned_counters
-- Repeats the conditions of find_orphaned_counters. The caller has locked the counters.
delete from asm_session_sequences as counter
 where counter.session_id in (select value from json_each(:session_ids))
   and counter.pruned_events = 0
   and counter.updated_at < :before
   and not exists (select 1 from asm_sessions where id = counter.session_id)
   and not exists (select 1 from asm_events where session_id = counter.session_id)
returning session_id;
