-- use_schema_of_tables
-- Resolves all names of this transaction in the schema that the names of the tables lead to, and
-- returns it. An earlier schema of the search path may have tables of yoyo's, too, which another
-- application made.
select pg_catalog.set_config('search_path', pg_catalog.quote_ident(schema), true) as schema
  from (
       select nspname as schema
         from pg_catalog.unnest(%(tables)s::text[]) with ordinality as each (name, ordinal)
         join pg_catalog.pg_class on pg_class.oid = pg_catalog.to_regclass(name)::oid
         join pg_catalog.pg_namespace on pg_namespace.oid = relnamespace
        order by ordinal
        limit 1
  ) as home;

-- list_migrations
-- The migrations that are marked as applied, and whether asm applied them, which logs a checksum.
-- Another application may keep its own migrations in the same table. PostgreSQL has no operator
-- for the type of yoyo's columns, so they are cast to one that has.
select migration_id,
       exists (
           select 1
             from _yoyo_log as logged
            where logged.migration_hash::text = marked.migration_hash::text
              and operation::text = 'apply'
              and pg_catalog.substr(comment, 1, 7) = 'sha256:'
       ) as is_logged_by_asm
  from _yoyo_migration as marked
 order by migration_id;

-- check_tables
-- Returns no row, and fails where a table is missing.
select 1
  from asm_sessions, asm_runs, asm_events, asm_session_sequences, asm_artifacts
 where false;

-- count_rows
select 'sessions', pg_catalog.count(*) from asm_sessions
union all
select 'runs', pg_catalog.count(*) from asm_runs
union all
select 'events', pg_catalog.count(*) from asm_events
union all
select 'session_sequences', pg_catalog.count(*) from asm_session_sequences
union all
select 'artifacts', pg_catalog.count(*) from asm_artifacts;

-- count_rows_by_counters
-- As count_rows, without reading the events: a session's counter says how many it has. Exact
-- unless health_check reports the counter. Each number is in two halves, as in
-- count_stored_by_counters.
select 'sessions', 0, pg_catalog.count(*) from asm_sessions
union all
select 'runs', 0, pg_catalog.count(*) from asm_runs
union all
select 'events',
       coalesce(pg_catalog.sum((last_sequence - pruned_events) >> 32), 0)::bigint,
       coalesce(pg_catalog.sum((last_sequence - pruned_events) & 4294967295), 0)::bigint
  from asm_session_sequences
union all
select 'session_sequences', 0, pg_catalog.count(*) from asm_session_sequences
union all
select 'artifacts', 0, pg_catalog.count(*) from asm_artifacts;

-- get_version
select pg_catalog.current_setting('server_version');

-- list_checksums
-- The checksum of each migration's file when it was applied, in the order of application. Null
-- where yoyo's own command applied it.
select migration_id, comment
  from _yoyo_log
 where operation::text = 'apply'
 order by created_at_utc;
