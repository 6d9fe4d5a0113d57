-- use_schema_of_tables
-- A file has one schema.
select 'main' as schema
 where :tables is not null;

-- list_migrations
-- The migrations that are marked as applied, and whether asm applied them, which logs a checksum.
-- Another application may keep its own migrations in the same table.
select migration_id,
       exists (
           select 1
             from _yoyo_log as logged
            where logged.migration_hash = marked.migration_hash
              and operation = 'apply'
              and substr(comment, 1, 7) = 'sha256:'
       ) as is_logged_by_asm
  from _yoyo_migration as marked
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
-- unless health_check reports the counter. Each number is in two halves, as in
-- count_stored_by_counters.
select 'sessions', 0, count(*) from asm_sessions
union all
select 'runs', 0, count(*) from asm_runs
union all
select 'events',
       coalesce(sum((last_sequence - pruned_events) >> 32), 0),
       coalesce(sum((last_sequence - pruned_events) & 4294967295), 0)
  from asm_session_sequences
union all
select 'session_sequences', 0, count(*) from asm_session_sequences
union all
select 'artifacts', 0, count(*) from asm_artifacts;

-- get_version
select sqlite_version();

-- list_checksums
-- The checksum of each migration's file when it was applied, in the order of application. Null
-- where yoyo's own command applied it.
select migration_id, comment
  from _yoyo_log
 where operation = 'apply'
 order by created_at_utc;
