-- list_migrations
-- The migrations that yoyo has applied.
select migration_id
  from _yoyo_migration
 order by migration_id;

-- check_tables
-- Returns no row, and fails where a table is missing.
select 1
  from asm_sessions, asm_runs, asm_events, asm_session_sequences, asm_artifacts
 where false;

-- count_rows
select 'sessions', count(*) from asm_sessions
union all
select 'runs', count(*) from asm_runs
union all
select 'events', count(*) from asm_events
union all
select 'session_sequences', count(*) from asm_session_sequences
union all
select 'artifacts', count(*) from asm_artifacts;

-- count_rows_by_counters
-- As count_rows, without reading the events: a session's counter says how many it has. Exact
-- unless health_check reports the counter.
select 'sessions', count(*) from asm_sessions
union all
select 'runs', count(*) from asm_runs
union all
select 'events', coalesce(sum(last_sequence - pruned_events), 0)
  from asm_session_sequences
union all
select 'session_sequences', count(*) from asm_session_sequences
union all
select 'artifacts', count(*) from asm_artifacts;

-- get_version
select sqlite_version();

-- list_checksums
-- The checksum of each migration's file when it was applied, in the order of application. Null
-- where yoyo's own command applied it.
select migration_id, comment
  from _yoyo_log
 where operation = 'apply'
 order by created_at_utc;
