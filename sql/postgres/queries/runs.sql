-- save_run
-- Inserts a run, or replaces everything but the ids of the stored one. The final counts stay null
-- until it has ended, so that an update changes no indexed column before.
insert into asm_runs (
    id, session_id, status, input, output, error, metadata, turn_count, token_usage,
    started_at, ended_at, provider, provider_metadata, cost_usd,
    input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens, model,
    final_cost_usd, final_input_tokens, final_output_tokens, final_total_tokens,
    final_cache_read_tokens, final_cache_creation_tokens
)
values (
    %(id)s, %(session_id)s, %(status)s, %(input)s, %(output)s, %(error)s, %(metadata)s,
    %(turn_count)s, %(token_usage)s,
    %(started_at)s, %(ended_at)s, %(provider)s, %(provider_metadata)s, %(cost_usd)s,
    %(input_tokens)s, %(output_tokens)s, %(total_tokens)s, %(cache_read_tokens)s,
    %(cache_creation_tokens)s, %(model)s,
    case when %(status)s not in ('pending', 'running') then %(cost_usd)s::double precision end,
    case when %(status)s not in ('pending', 'running') then %(input_tokens)s::bigint end,
    case when %(status)s not in ('pending', 'running') then %(output_tokens)s::bigint end,
    case when %(status)s not in ('pending', 'running')
         then coalesce(%(total_tokens)s::bigint, 0) end,
    case when %(status)s not in ('pending', 'running') then %(cache_read_tokens)s::bigint end,
    case when %(status)s not in ('pending', 'running') then %(cache_creation_tokens)s::bigint end
)
on conflict (session_id, id) do update
   set status = excluded.status,
       input = excluded.input,
       output = excluded.output,
       error = excluded.error,
       metadata = excluded.metadata,
       turn_count = excluded.turn_count,
       token_usage = excluded.token_usage,
       started_at = excluded.started_at,
       ended_at = excluded.ended_at,
       provider = excluded.provider,
       provider_metadata = excluded.provider_metadata,
       cost_usd = excluded.cost_usd,
       input_tokens = excluded.input_tokens,
       output_tokens = excluded.output_tokens,
       total_tokens = excluded.total_tokens,
       cache_read_tokens = excluded.cache_read_tokens,
       cache_creation_tokens = excluded.cache_creation_tokens,
       model = excluded.model,
       final_cost_usd = excluded.final_cost_usd,
       final_input_tokens = excluded.final_input_tokens,
       final_output_tokens = excluded.final_output_tokens,
       final_total_tokens = excluded.final_total_tokens,
       final_cache_read_tokens = excluded.final_cache_read_tokens,
       final_cache_creation_tokens = excluded.final_cache_creation_tokens;

-- get_run
-- Where several sessions have a run of that id and none is given, the one started last.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where id = %(id)s
   and session_id = %(session_id)s                         -- if session_id
 order by started_at desc, session_id
 limit 1;

-- lock_run
-- get_run, and locks the row until the transaction ends.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where id = %(id)s
   and session_id = %(session_id)s                         -- if session_id
 order by started_at desc, session_id
 limit 1
   for no key update;

-- list_runs
-- The runs of a session, the oldest first.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where session_id = %(session_id)s
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
 order by started_at, id
 limit %(limit)s                                           -- if limit
;

-- find_active_run
-- The newest run of a session that is running.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where session_id = %(session_id)s
   and status = 'running'
 order by started_at desc, id desc
 limit 1;

-- find_stale_runs
-- Runs that are running and whose lease ended before `until`, the oldest first.
-- The lease is read as the text that `with_lease` stores, because `->>` fails for a document that
-- has \u0000 or a lone surrogate anywhere. Uses asm_runs_by_status.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where status = 'running'
   and pg_catalog.strpos(metadata::text, '"asm":{"lease_until":"') > 0
   and pg_catalog.split_part(metadata::text, '"asm":{"lease_until":"', 2) collate "C" < %(until)s
   and session_id > %(after)s                              -- if after
   and session_id <= %(up_to)s                             -- if up_to
 order by started_at, session_id, id
 limit %(limit)s                                           -- if limit
;

-- refuse_active_run
-- Fails with a unique violation if a run of the session is running: it inserts that run again. The
-- caller has locked the session's counter, so no other client claims the session meanwhile. The
-- final counts are null while a run is running: asm_runs_open has such runs by their session.
insert into asm_runs (
    id, session_id, status, metadata, turn_count, token_usage, started_at, provider_metadata
)
select id, session_id, status, metadata, turn_count, token_usage, started_at, provider_metadata
  from asm_runs
 where session_id = %(session_id)s
   and status = 'running'
   and final_total_tokens is null
 limit 1;

-- refuse_changed_session
-- Fails with a unique violation unless a session has the status and the time of its deletion that
-- were read: it inserts the first event of the claim again. It locks the session's row, so that
-- nobody changes it before the commit.
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
 where session_id = %(session_id)s
   and id = %(event_id)s
   and not exists (
       select 1
         from asm_sessions
        where id = %(session_id)s
          and status = %(status)s
          and deleted_at is not distinct from %(deleted_at)s::timestamptz
          for no key update
   );

-- refuse_changed_runs
-- Fails with a unique violation unless each run has its status, and its end or its owner if they
-- are given: it inserts an event of the transaction again. The owner is compared as text, as in
-- end_run. `offset 0` has each row looked up by its key. Otherwise a plan that was made while the
-- tables were empty would read them as a whole, until they are analyzed.
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
select event.id, event.type, event.timestamp, event.session_id, event.run_id,
       event.sequence_number, event.data, event.metadata, event.schema_version, event.provider,
       event.correlation_id
  from (
       select pg_catalog.unnest(%(session_ids)s::text[]) as session_id,
              pg_catalog.unnest(%(ids)s::text[]) as id,
              pg_catalog.unnest(%(event_ids)s::text[]) as event_id,
              pg_catalog.unnest(%(statuses)s::text[]) as status,
              pg_catalog.unnest(%(ended_at_list)s::text[])::timestamptz as ended_at,
              pg_catalog.unnest(%(owners)s::text[]) as owner
  ) as expected
  left join lateral (
       select status, ended_at, metadata
         from asm_runs
        where session_id = expected.session_id and id = expected.id
       offset 0
  ) as run on true
  cross join lateral (
       select *
         from asm_events
        where session_id = expected.session_id and id = expected.event_id
       offset 0
  ) as event
 where (run.status = expected.status
        and (expected.ended_at is null or run.ended_at = expected.ended_at)
        and (expected.owner is null
             or pg_catalog.strpos(run.metadata::text, expected.owner) > 0)) is not true;

-- end_run
-- Stores how a run ended, if it is running and its owner's, and nobody asked to cancel it. The
-- metadata stay, because others may have changed them. The lease, or its owner, is compared as
-- text, as in find_stale_runs. Without `is true` a plan that was made while the table was empty
-- would read all that are running.
update asm_runs
   set status = %(status)s,
       output = %(output)s,
       error = %(error)s,
       turn_count = %(turn_count)s,
       token_usage = %(token_usage)s,
       ended_at = %(ended_at)s,
       provider_metadata = %(provider_metadata)s,
       cost_usd = %(cost_usd)s,
       input_tokens = %(input_tokens)s,
       output_tokens = %(output_tokens)s,
       total_tokens = %(total_tokens)s,
       cache_read_tokens = %(cache_read_tokens)s,
       cache_creation_tokens = %(cache_creation_tokens)s,
       model = %(model)s,
       final_cost_usd = %(cost_usd)s,
       final_input_tokens = %(input_tokens)s,
       final_output_tokens = %(output_tokens)s,
       final_total_tokens = coalesce(%(total_tokens)s::bigint, 0),
       final_cache_read_tokens = %(cache_read_tokens)s,
       final_cache_creation_tokens = %(cache_creation_tokens)s
 where session_id = %(session_id)s
   and id = %(id)s
   and (status = 'running') is true
   and pg_catalog.strpos(metadata::text, %(lease)s) > 0
   and pg_catalog.strpos(metadata::text, '"cancel_requested":') = 0
returning metadata;

-- search_runs
-- A page of runs in the order of their start. The filter by tokens is written so that the planner
-- can combine asm_runs_by_tokens, for the runs that have ended, with asm_runs_open.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where true
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s::text[])           -- if session_ids
   and provider = %(provider)s                             -- if provider
   and provider = any(%(providers)s::text[])               -- if providers
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and started_at >= %(started_after)s                     -- if started_after
   and started_at < %(started_before)s                     -- if started_before
   and (final_total_tokens >= %(min_tokens)s               -- if min_tokens
        or final_total_tokens is null                      -- if min_tokens
       and coalesce(total_tokens, 0) >= %(min_tokens)s)    -- if min_tokens
   and (started_at, session_id, id)                        -- if started_at_asc and last_id
       > (%(last_at)s, %(last_session)s, %(last_id)s)      -- if started_at_asc and last_id
   and (started_at, session_id, id)                        -- if started_at_desc and last_id
       < (%(last_at)s, %(last_session)s, %(last_id)s)      -- if started_at_desc and last_id
 order by started_at, session_id, id                       -- if started_at_asc
 order by started_at desc, session_id desc, id desc        -- if started_at_desc
 limit %(limit)s;

-- search_runs_by_tokens
-- A page of runs, those with the most tokens first. The candidates are a page of the runs that
-- have ended, from asm_runs_by_tokens in its order, and a page of the others, from asm_runs_open,
-- sorted.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from (
       (select *, final_total_tokens as tokens
          from asm_runs
         where final_total_tokens is not null
           and session_id = %(session_id)s                 -- if session_id
           and session_id = any(%(session_ids)s::text[])   -- if session_ids
           and provider = %(provider)s                     -- if provider
           and provider = any(%(providers)s::text[])       -- if providers
           and status = %(status)s                         -- if status
           and status = any(%(statuses)s::text[])          -- if statuses
           and started_at >= %(started_after)s             -- if started_after
           and started_at < %(started_before)s             -- if started_before
           and final_total_tokens >= %(min_tokens)s        -- if min_tokens
           and (final_total_tokens, session_id, id)        -- if token_usage_desc and last_id
            < (%(last_tokens)s, %(last_session)s, %(last_id)s) -- if token_usage_desc and last_id
         order by final_total_tokens desc, session_id desc, id desc
         limit %(limit)s)
       union all
       (select *, coalesce(total_tokens, 0)
          from asm_runs
         where final_total_tokens is null
           and session_id = %(session_id)s                 -- if session_id
           and session_id = any(%(session_ids)s::text[])   -- if session_ids
           and provider = %(provider)s                     -- if provider
           and provider = any(%(providers)s::text[])       -- if providers
           and status = %(status)s                         -- if status
           and status = any(%(statuses)s::text[])          -- if statuses
           and started_at >= %(started_after)s             -- if started_after
           and started_at < %(started_before)s             -- if started_before
           and coalesce(total_tokens, 0) >= %(min_tokens)s -- if min_tokens
           and (coalesce(total_tokens, 0), session_id, id) -- if token_usage_desc and last_id
            < (%(last_tokens)s, %(last_session)s, %(last_id)s) -- if token_usage_desc and last_id
         order by coalesce(total_tokens, 0) desc, session_id desc, id desc
         limit %(limit)s)
  ) as candidate
 order by tokens desc, session_id desc, id desc
 limit %(limit)s;
