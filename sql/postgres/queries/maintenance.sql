-- find_expired_sessions
-- Of one status, those untouched for longest.
select updated_at, id
  from asm_sessions
 where status = %(status)s
   and updated_at <= %(until)s
   and deleted_at is null
   and not tags && %(exempt_tags)b::text[]
   and (updated_at, id) > (%(last_at)s, %(last_id)s)       -- if last_at and last_id
 order by updated_at, id
 limit %(limit)s;

-- soft_delete_sessions
-- Those of them that still are what they were found for.
update asm_sessions
   set deleted_at = %(at)s
 where id = any(%(session_ids)b::text[])
   and status = %(status)s
   and updated_at <= %(until)s
   and deleted_at is null
   and not tags && %(exempt_tags)b::text[]
returning id;

-- find_due_sessions
-- Soft-deleted long ago, the longest first.
select deleted_at, id
  from asm_sessions
 where deleted_at <= %(due_until)s
   and status <> all(%(exempt_statuses)b::text[])
   and not tags && %(exempt_tags)b::text[]
   and (deleted_at, id) > (%(last_at)s, %(last_id)s)       -- if last_at and last_id
 order by deleted_at, id
 limit %(limit)s;

-- hold_due_sessions
-- Those of them that still are due, and nobody changes them until the transaction ends.
select id
  from asm_sessions
 where id = any(%(session_ids)b::text[])
   and deleted_at <= %(due_until)s
   and status <> all(%(exempt_statuses)b::text[])
   and not tags && %(exempt_tags)b::text[]
 order by id
   for update;

-- delete_sessions
-- With everything that belongs to them. Their counters are locked by then.
with gone_events as (
    delete from asm_events where session_id = any(%(session_ids)b::text[])
), gone_runs as (
    delete from asm_runs where session_id = any(%(session_ids)b::text[])
), gone_artifacts as (
    delete from asm_artifacts where session_id = any(%(session_ids)b::text[])
), gone_sessions as (
    delete from asm_sessions where id = any(%(session_ids)b::text[])
)
delete from asm_session_sequences where session_id = any(%(session_ids)b::text[]);

-- find_long_sessions
-- Those with more events than are to be kept, as their counters tell. Not those that are about to be
-- deleted as a whole. Only the rows of long ones are looked at: a join would begin with all sessions.
select session_id, last_sequence, pruned_events
  from asm_session_sequences as counter
 where last_sequence - pruned_events > %(keep)s
   and (select tags && %(exempt_tags)b::text[] from asm_sessions where id = counter.session_id) is not true
   and (select deleted_at <= %(due_until)s and status <> all(%(exempt_statuses)b::text[]) from asm_sessions where id = counter.session_id) is not true  -- if due_until
   and (select true from asm_sessions where id = counter.session_id)  -- if saved
   and session_id = %(session_id)s                         -- if session_id
   and session_id > %(after)s                              -- if after
 order by session_id
 limit %(limit)s;

-- hold_counters
-- Where these sessions stand, and nobody moves them until the transaction ends.
select session_id, last_sequence, pruned_events
  from asm_session_sequences
 where session_id = any(%(session_ids)b::text[])
 order by session_id
   for update;

-- count_prunable
-- Of each session, how many of its events up to a number may go: no more than there are beyond those to
-- keep, none of a protected type, and none of an exempt session. Nothing is counted further than it needs.
select asked.session_id, prunable.number
  from unnest(%(session_ids)b::text[], %(uptos)b::bigint[], %(mosts)b::bigint[]) as asked (session_id, upto, most)
 cross join lateral (
       select count(*) - %(keep)s::bigint as number
         from (
              select 1
                from asm_events as event
               where event.session_id = asked.session_id
                 and event.sequence_number <= asked.upto
               limit %(keep)s::bigint + asked.most
         ) as stored
 ) as excess
 cross join lateral (
       select count(*) as number
         from (
              select 1
                from asm_events as event
               where event.session_id = asked.session_id
                 and event.sequence_number <= asked.upto
                 and event.type <> all(%(protected_types)b::text[])
               limit greatest(excess.number, 0)
         ) as loose
 ) as prunable
 where (select session.tags && %(exempt_tags)b::text[] from asm_sessions as session where session.id = asked.session_id) is not true;

-- prune_events
-- Of each session so many of its events up to a number: the oldest of the types that go first, then the
-- oldest of the rest. `materialized` keeps the planner from choosing them anew for each event.
with doomed as materialized (
    select asked.session_id, event.sequence_number
      from unnest(%(session_ids)b::text[], %(uptos)b::bigint[], %(numbers)b::bigint[]) as asked (session_id, upto, number)
     cross join lateral (
           (select 1 as turn, sequence_number
              from asm_events
             where session_id = asked.session_id
               and sequence_number <= asked.upto
               and type = any(%(first_types)b::text[])
             order by sequence_number
             limit asked.number)
           union all
           (select 2, sequence_number
              from asm_events
             where session_id = asked.session_id
               and sequence_number <= asked.upto
               and type <> all(%(first_types)b::text[])
               and type <> all(%(protected_types)b::text[])
             order by sequence_number
             limit asked.number)
           order by turn, sequence_number
           limit asked.number
     ) as event
), gone as (
    delete from asm_events as event
     using doomed
     where event.session_id = doomed.session_id
       and event.sequence_number = doomed.sequence_number
)
update asm_session_sequences as counter
   set pruned_events = counter.pruned_events + asked.number
  from unnest(%(session_ids)b::text[], %(numbers)b::bigint[]) as asked (session_id, number)
 where counter.session_id = any(%(session_ids)b::text[])
   and counter.session_id = asked.session_id;

-- count_stored
-- All events, as the counters tell, but for those that are about to be deleted with their sessions.
select coalesce(sum(last_sequence - pruned_events), 0)::bigint
       - (select coalesce(sum(counter.last_sequence - counter.pruned_events), 0)::bigint from asm_sessions as session join asm_session_sequences as counter on counter.session_id = session.id where session.deleted_at <= %(due_until)s and session.status <> all(%(exempt_statuses)b::text[]) and not session.tags && %(exempt_tags)b::text[])  -- if due_until
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
          and event.type = any(%(types)b::text[])          -- if types
          and event.type <> all(%(not_types)b::text[])     -- if not_types
          and event.timestamp >= %(since)s                 -- if since
          and (session.tags && %(exempt_tags)b::text[]) is not true
          and (session.deleted_at <= %(due_until)s and session.status <> all(%(exempt_statuses)b::text[])) is not true  -- if due_until
          and session.id is not null                       -- if saved
        order by event.timestamp, event.session_id, event.sequence_number
        limit %(limit)s
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
        where event.type <> all(%(not_types)b::text[])
          and (session.tags && %(exempt_tags)b::text[]) is not true
          and (session.deleted_at <= %(due_until)s and session.status <> all(%(exempt_statuses)b::text[])) is not true  -- if due_until
          and session.id is not null                       -- if saved
        limit %(limit)s
  ) as loose;

-- find_orphaned_artifacts
-- Sessions of which nothing is there but artifacts, and how many. One whose events were all pruned is there.
-- Of those without a row only are events and runs looked for: `offset 0` keeps the planner from doing it for all.
select alone.session_id, alone.number
  from (
       select artifact.session_id, count(*) as number
         from asm_artifacts as artifact
        where artifact.session_id is not null
          and artifact.session_id > %(after)s              -- if after
          and not exists (select 1 from asm_sessions where id = artifact.session_id)
        group by artifact.session_id
        order by artifact.session_id
       offset 0
  ) as alone
 where (select 1 from asm_events where session_id = alone.session_id limit 1) is null
   and (select 1 from asm_runs where session_id = alone.session_id limit 1) is null
   and not exists (select 1 from asm_session_sequences where session_id = alone.session_id and pruned_events > 0)
 order by alone.session_id
 limit %(limit)s;

-- delete_orphaned_artifacts
-- Those of sessions of which there still is nothing else.
delete from asm_artifacts as artifact
 where artifact.session_id = any(%(session_ids)b::text[])
   and not exists (select 1 from asm_sessions where id = artifact.session_id)
   and (select 1 from asm_events where session_id = artifact.session_id limit 1) is null
   and (select 1 from asm_runs where session_id = artifact.session_id limit 1) is null
   and not exists (select 1 from asm_session_sequences where session_id = artifact.session_id and pruned_events > 0)
returning id;

-- find_orphaned_counters
-- Counters of sessions that have no row and no event, and lost none to pruning. Of those without a row only are events looked for:
-- `offset 0` keeps the planner from doing it for all.
select alone.session_id
  from (
       select counter.session_id
         from asm_session_sequences as counter
        where counter.pruned_events = 0
          and counter.session_id > %(after)s               -- if after
          and not exists (select 1 from asm_sessions where id = counter.session_id)
        order by counter.session_id
       offset 0
  ) as alone
 where (select 1 from asm_events where session_id = alone.session_id limit 1) is null
 order by alone.session_id
 limit %(limit)s;

-- delete_orphaned_counters
-- Those of sessions of which there still is nothing else. They are locked by then.
delete from asm_session_sequences as counter
 where counter.session_id = any(%(session_ids)b::text[])
   and counter.pruned_events = 0
   and not exists (select 1 from asm_sessions where id = counter.session_id)
   and (select 1 from asm_events where session_id = counter.session_id limit 1) is null
returning session_id;
