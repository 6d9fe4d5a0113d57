-- refuse_changed_runs
-- for each session_id in session_ids
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
select event.id, event.type, event.timestamp, event.session_id, event.run_id,
       event.sequence_number, event.data, event.metadata, event.schema_version, event.provider,
       event.correlation_id
  from asm_events as event
 where event.session_id = %(session_id)s
   and event.id = any(%(event_ids)s::text[])
   and (
       select pg_catalog.count(*)
         from asm_runs as run
        cross join (
              select pg_catalog.unnest(%(ids)s::text[]) as id,
                     pg_catalog.unnest(%(statuses)s::text[]) as status,
                     pg_catalog.unnest(%(ended_at_list)s::text[]::timestamptz[]) as ended_at,
                     pg_catalog.unnest(%(owners)s::text[]) as owner
        ) as expected
        where run.session_id = %(session_id)s
          and run.id = expected.id
          and run.status = expected.status
          and (expected.ended_at is null or run.ended_at = expected.ended_at)
          and (expected.owner is null
               or pg_catalog.strpos(run.metadata::text, expected.owner) > 0)
   ) < pg_catalog.cardinality(%(ids)s::text[]);
