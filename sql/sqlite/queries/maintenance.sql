-- find_expired_sessions
-- Of one status, those untouched for longest.
select updated_at, id
  from asm_sessions
 where status = :status
   and updated_at <= :until
   and deleted_at is null
   and not exists (select 1 from asm_session_tags where id = asm_sessions.id and tag in (select value from json_each(:exempt_tags)))
   and (updated_at, id) > (:last_at, :last_id)             -- if last_at and last_id
 order by updated_at, id
 limit :limit;

-- soft_delete_sessions
-- Those of them that still are what they were found for.
update asm_sessions
   set deleted_at = :at
 where id in (select value from json_each(:session_ids))
   and status = :status
   and updated_at <= :until
   and deleted_at is null
   and not exists (select 1 from asm_session_tags where id = asm_sessions.id and tag in (select value from json_each(:exempt_tags)))
returning id;

-- find_due_sessions
-- Soft-deleted long ago, the longest first.
select deleted_at, id
  from asm_sessions
 where deleted_at <= :due_until
   and status not in (select value from json_each(:exempt_statuses))
   and not exists (select 1 from asm_session_tags where id = asm_sessions.id and tag in (select value from json_each(:exempt_tags)))
   and (deleted_at, id) > (:last_at, :last_id)             -- if last_at and last_id
 order by deleted_at, id
 limit :limit;

-- hold_due_sessions
-- Those of them that still are due. It changes nothing; here the whole file is locked.
update asm_sessions
   set deleted_at = deleted_at
 where id in (select value from json_each(:session_ids))
   and deleted_at <= :due_until
   and status not in (select value from json_each(:exempt_statuses))
   and not exists (select 1 from asm_session_tags where id = asm_sessions.id and tag in (select value from json_each(:exempt_tags)))
returning id;

-- delete_sessions
-- With everything that belongs to them. Their counters are locked by then.
delete from asm_events where session_id in (select value from json_each(:session_ids));
delete from asm_runs where session_id in (select value from json_each(:session_ids));
delete from asm_artifacts where session_id in (select value from json_each(:session_ids));
delete from asm_session_tags where id in (select value from json_each(:session_ids));
delete from asm_sessions where id in (select value from json_each(:session_ids));
delete from asm_session_sequences where session_id in (select value from json_each(:session_ids));

-- find_long_sessions
-- Those with more events than are to be kept, as their counters tell. Not those that are about to be
-- deleted as a whole. Only the rows of long ones are looked at.
select session_id, last_sequence, pruned_events
  from asm_session_sequences as counter
 where last_sequence - pruned_events > :keep
   and not exists (select 1 from asm_session_tags where id = counter.session_id and tag in (select value from json_each(:exempt_tags)))
   and (select deleted_at <= :due_until and status not in (select value from json_each(:exempt_statuses)) from asm_sessions where id = counter.session_id) is not true  -- if due_until
   and (select true from asm_sessions where id = counter.session_id)  -- if saved
   and session_id = :session_id                            -- if session_id
   and session_id > :after                                 -- if after
 order by session_id
 limit :limit;

-- hold_counters
-- Where these sessions stand. It changes nothing; here the whole file is locked.
update asm_session_sequences
   set pruned_events = pruned_events
 where session_id in (select value from json_each(:session_ids))
returning session_id, last_sequence, pruned_events;

-- count_prunable
-- Of each session, how many of its events up to a number may go: no more than there are beyond those to
-- keep, none of a protected type, and none of an exempt session. Nothing is counted further than it needs.
-- SQLite takes a list one element at a time, because its limits know nothing of an outer query.
select :session_ids as session_id, count(*) as number
  from (
       select 1
         from asm_events
        where session_id = :session_ids
          and sequence_number <= :uptos
          and type not in (select value from json_each(:protected_types))
        limit max(0, -:keep + (
              select count(*)
                from (
                     select 1
                       from asm_events
                      where session_id = :session_ids
                        and sequence_number <= :uptos
                      limit :keep + :mosts
                )
        ))
  )
 where not exists (select 1 from asm_session_tags where id = :session_ids and tag in (select value from json_each(:exempt_tags)));

-- prune_events
-- Of each session so many of its events up to a number: the oldest of the types that go first, then the
-- oldest of the rest.
update asm_session_sequences
   set pruned_events = pruned_events + :numbers
 where session_id = :session_ids;
delete from asm_events
 where session_id = :session_ids
   and sequence_number in (
       select sequence_number
         from (
              select 1 as turn, sequence_number
                from (
                     select sequence_number
                       from asm_events
                      where session_id = :session_ids
                        and sequence_number <= :uptos
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
                        and sequence_number <= :uptos
                        and type not in (select value from json_each(:first_types))
                        and type not in (select value from json_each(:protected_types))
                      order by sequence_number
                      limit :numbers
                )
               order by turn, sequence_number
               limit :numbers
         )
 );

-- count_stored
-- All events, as the counters tell, but for those that are about to be deleted with their sessions.
select coalesce(sum(last_sequence - pruned_events), 0)
       - (select coalesce(sum(counter.last_sequence - counter.pruned_events), 0) from asm_sessions as session join asm_session_sequences as counter on counter.session_id = session.id where session.deleted_at <= :due_until and session.status not in (select value from json_each(:exempt_statuses)) and not exists (select 1 from asm_session_tags where id = session.id and tag in (select value from json_each(:exempt_tags))))  -- if due_until
       as number
  from asm_session_sequences;

-- find_oldest
-- Whose are the oldest events that may go, and how many of them are whose.
select oldest.session_id, counter.last_sequence, counter.pruned_events, count(*) as number, max(oldest.timestamp) as timestamp
  from (
       select event.session_id, event.timestamp
         from asm_events as event
         left join asm_sessions as session on session.id = event.session_id
        where true
          and event.type in (select value from json_each(:types))          -- if types
          and event.type not in (select value from json_each(:not_types))  -- if not_types
          and event.timestamp >= :since                    -- if since
          and not exists (select 1 from asm_session_tags where id = session.id and tag in (select value from json_each(:exempt_tags)))
          and (session.deleted_at <= :due_until and session.status not in (select value from json_each(:exempt_statuses))) is not true  -- if due_until
          and session.id is not null                       -- if saved
        order by event.timestamp, event.session_id, event.sequence_number
        limit :limit
  ) as oldest
  join asm_session_sequences as counter on counter.session_id = oldest.session_id
 group by oldest.session_id, counter.last_sequence, counter.pruned_events;

-- count_oldest
-- How many events may go; no further than to a limit.
select count(*) as number
  from (
       select 1
         from asm_events as event
         left join asm_sessions as session on session.id = event.session_id
        where event.type not in (select value from json_each(:not_types))
          and not exists (select 1 from asm_session_tags where id = session.id and tag in (select value from json_each(:exempt_tags)))
          and (session.deleted_at <= :due_until and session.status not in (select value from json_each(:exempt_statuses))) is not true  -- if due_until
          and session.id is not null                       -- if saved
        limit :limit
  ) as loose;

-- find_orphaned_artifacts
-- Sessions of which nothing is there but artifacts, and how many. One whose events were all pruned is there.
select artifact.session_id, count(*) as number
  from asm_artifacts as artifact
 where artifact.session_id is not null
   and artifact.session_id > :after                        -- if after
   and not exists (select 1 from asm_sessions where id = artifact.session_id)
   and not exists (select 1 from asm_events where session_id = artifact.session_id)
   and not exists (select 1 from asm_runs where session_id = artifact.session_id)
   and not exists (select 1 from asm_session_sequences where session_id = artifact.session_id and pruned_events > 0)
 group by artifact.session_id
 order by artifact.session_id
 limit :limit;

-- delete_orphaned_artifacts
-- Those of sessions of which there still is nothing else.
delete from asm_artifacts as artifact
 where artifact.session_id in (select value from json_each(:session_ids))
   and not exists (select 1 from asm_sessions where id = artifact.session_id)
   and not exists (select 1 from asm_events where session_id = artifact.session_id)
   and not exists (select 1 from asm_runs where session_id = artifact.session_id)
   and not exists (select 1 from asm_session_sequences where session_id = artifact.session_id and pruned_events > 0)
returning id;

-- find_orphaned_counters
-- Counters of sessions that have no row and no event, and lost none to pruning.
select counter.session_id
  from asm_session_sequences as counter
 where counter.pruned_events = 0
   and counter.session_id > :after                         -- if after
   and not exists (select 1 from asm_sessions where id = counter.session_id)
   and not exists (select 1 from asm_events where session_id = counter.session_id)
 order by counter.session_id
 limit :limit;

-- delete_orphaned_counters
-- Those of sessions of which there still is nothing else. They are locked by then.
delete from asm_session_sequences as counter
 where counter.session_id in (select value from json_each(:session_ids))
   and counter.pruned_events = 0
   and not exists (select 1 from asm_sessions where id = counter.session_id)
   and not exists (select 1 from asm_events where session_id = counter.session_id)
returning session_id;
