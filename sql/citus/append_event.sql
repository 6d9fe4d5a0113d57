-- The function by which the coordinator hands an append of one new event to the worker that has
-- its session. An event that is stored already violates a unique constraint.
create or replace function asm_append_event(
    session text, id text, type text, at timestamptz, run_id text, data json, metadata json,
    schema_version bigint, provider text, correlation_id text
) returns bigint language plpgsql as $function$
declare
    number bigint;
begin
    insert into asm_session_sequences as counter (session_id, last_sequence, updated_at)
    values (session, 1, pg_catalog.now())
    on conflict (session_id) do update
       set last_sequence = counter.last_sequence + 1, updated_at = excluded.updated_at
    returning last_sequence into number;
    insert into asm_events (
        id, type, timestamp, session_id, run_id, sequence_number,
        data, metadata, schema_version, provider, correlation_id
    )
    values ($2, $3, $4, $1, $5, number, $6, $7, $8, $9, $10);
    return number;
end
$function$;
