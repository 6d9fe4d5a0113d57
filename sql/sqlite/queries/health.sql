-- find_range_end
-- The session id that ends a range of `number` + 1 counters. No row where the range is the last.
select session_id
  from asm_session_sequences
 where true
   and session_id > :after                                 -- if after
 order by session_id
 limit 1
offset :number;

-- find_inconsistent_sequences
-- Sessions whose counter and events disagree, and those that have events but no row. Each range
-- reads both tables by their primary keys.
select totals.session_id, totals.last_sequence, totals.pruned_events, totals.stored, totals.latest,
       session.id is not null as is_saved
  from (
       select session_id, max(last_sequence) as last_sequence, max(pruned_events) as pruned_events,
              max(stored) as stored, max(latest) as latest
         from (
              select session_id, last_sequence, pruned_events, 0 as stored, 0 as latest
                from asm_session_sequences
               where true
                 and session_id > :after                   -- if after
                 and session_id <= :up_to                  -- if up_to
              union all
              select session_id, 0, 0, count(*), max(sequence_number)
                from asm_events
               where true
                 and session_id > :after                   -- if after
                 and session_id <= :up_to                  -- if up_to
               group by session_id
         ) as counters_and_events
        group by session_id
  ) as totals
  left join asm_sessions as session on session.id = totals.session_id
 where totals.stored <> totals.last_sequence - totals.pruned_events
    or totals.latest > totals.last_sequence
    or totals.stored > 0 and session.id is null
 order by totals.session_id
 limit :limit;

-- find_runs_without_session
-- Session ids that have runs but no row, and how many runs each.
select run.session_id, count(*) as number
  from asm_runs as run
 where not exists (select 1 from asm_sessions where id = run.session_id)
   and run.session_id > :after                             -- if after
   and run.session_id <= :up_to                            -- if up_to
 group by run.session_id
 order by run.session_id
 limit :limit;

-- find_concurrent_runs
-- Sessions with more than one running run, and how many each.
select session_id, count(*) as number
  from asm_runs
 where status = 'running'
   and session_id > :after                                 -- if after
   and session_id <= :up_to                                -- if up_to
 group by session_id
having count(*) > 1
 order by session_id
 limit :limit;

-- find_artifacts_without_session
-- Session ids that have artifacts but no row, and how many artifacts each.
select artifact.session_id, count(*) as number
  from asm_artifacts as artifact
 where artifact.session_id is not null
   and not exists (select 1 from asm_sessions where id = artifact.session_id)
   and artifact.session_id > :after                        -- if after
   and artifact.session_id <= :up_to                       -- if up_to
 group by artifact.session_id
 order by artifact.session_id
 limit :limit;
