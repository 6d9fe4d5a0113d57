-- import_events
-- for each imported_id in session_id
-- With the counter, which is locked: without a table of the session, Citus inserts by COPY, whose
-- errors do not say that an event was stored already.
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number, data, metadata, schema_version,
    provider, correlation_id
)
select new.id, type, timestamp, counter.session_id, run_id, sequence_number, data, metadata,
       schema_version, provider, correlation_id
  from (
       select pg_catalog.unnest(%(id)s::text[]) as id,
              pg_catalog.unnest(%(type)s::text[]) as type,
              pg_catalog.unnest(%(timestamp)s::timestamptz[]) as timestamp,
              pg_catalog.unnest(%(run_id)s::text[]) as run_id,
              pg_catalog.unnest(%(sequence_number)s::bigint[]) as sequence_number,
              pg_catalog.unnest(%(data)s::text[])::json as data,
              pg_catalog.unnest(%(metadata)s::text[])::json as metadata,
              pg_catalog.unnest(%(schema_version)s::bigint[]) as schema_version,
              pg_catalog.unnest(%(provider)s::text[]) as provider,
              pg_catalog.unnest(%(correlation_id)s::text[]) as correlation_id
  ) as new
 cross join asm_session_sequences as counter
 where counter.session_id = %(imported_id)s;
