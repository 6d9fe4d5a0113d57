-- find_boundary
-- Where a stretch of so many counters ends. No row: it is the last.
select session_id
  from asm_session_sequences
 where true
   and session_id > :after                                 -- if after
 order by session_id
 limit 1
offset :number;

-- find_odd_sequences
-- Sessions whose counter and events do not add up, and those that have events but no row.
select told.session_id, told.last_sequence, told.pruned_events, told.stored, told.latest, session.id is not null as is_saved
  from (
       select session_id, max(last_sequence) as last_sequence, max(pruned_events) as pruned_events, max(stored) as stored, max(latest) as latest
         from (
              select session_id, last_sequence, pruned_events, 0 as stored, 0 as latest
                from asm_session_sequences
               where true
                 and session_id > :after                   -- if after
                 and session_id <= :upto                   -- if upto
              union all
              select session_id, 0, 0, count(*), max(sequence_number)
                from asm_events
               where true
                 and session_id > :after                   -- if after
                 and session_id <= :upto                   -- if upto
               group by session_id
         ) as sides
        group by session_id
  ) as told
  left join asm_sessions as session on session.id = told.session_id
 where told.stored + told.pruned_events <> told.last_sequence
    or told.latest > told.last_sequence
    or told.stored > 0 and session.id is null
 order by told.session_id
 limit :limit;

-- find_lone_runs
-- Sessions that have runs but no row.
select run.session_id, count(*) as number
  from asm_runs as run
 where not exists (select 1 from asm_sessions where id = run.session_id)
   and run.session_id > :after                             -- if after
   and run.session_id <= :upto                             -- if upto
 group by run.session_id
 order by run.session_id
 limit :limit;

-- find_crowded_sessions
-- Sessions with several runs that are running.
select session_id, count(*) as number
  from asm_runs
 where status = 'running'
   and session_id > :after                                 -- if after
   and session_id <= :upto                                 -- if upto
 group by session_id
having count(*) > 1
 order by session_id
 limit :limit;

-- find_lone_artifacts
-- Sessions that have artifacts but no row.
select artifact.session_id, count(*) as number
  from asm_artifacts as artifact
 where artifact.session_id is not null
   and not exists (select 1 from asm_sessions where id = artifact.session_id)
   and artifact.session_id > :after                        -- if after
   and artifact.session_id <= :upto                        -- if upto
 group by artifact.session_id
 order by artifact.session_id
 limit :limit;
