-- get_session_stats
-- A row for each status and provider of the session's runs, or one without, each with the figures
-- of its events.
select (select true from asm_sessions where id = %(session_id)s) as is_saved,
       event_count, first_event_at, last_event_at, status, provider, run_count,
       input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens, total_tokens
  from (
       select pg_catalog.count(*) as event_count,
              pg_catalog.min(timestamp) as first_event_at,
              pg_catalog.max(timestamp) as last_event_at
         from asm_events
        where session_id = %(session_id)s
  ) as event
  left join (
       select status, provider, pg_catalog.count(*) as run_count,
              pg_catalog.sum(input_tokens) as input_tokens,
              pg_catalog.sum(output_tokens) as output_tokens,
              pg_catalog.sum(cache_read_tokens) as cache_read_tokens,
              pg_catalog.sum(cache_creation_tokens) as cache_creation_tokens,
              pg_catalog.sum(total_tokens) as total_tokens
         from asm_runs
        where session_id = %(session_id)s
        group by status, provider
  ) as run on true;

-- get_usage_summary
-- A row for each provider and model of the runs that have ended, and one of the others. The former
-- come from asm_runs_by_model, which has all columns that are read; the latter from asm_runs_open.
select provider, model, pg_catalog.count(*) as run_count,
       pg_catalog.sum(final_input_tokens) as input_tokens,
       pg_catalog.sum(final_output_tokens) as output_tokens,
       pg_catalog.sum(final_cache_read_tokens) as cache_read_tokens,
       pg_catalog.sum(final_cache_creation_tokens) as cache_creation_tokens,
       pg_catalog.sum(final_total_tokens) as total_tokens
  from asm_runs
 where final_total_tokens is not null
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s::text[])           -- if session_ids
   and session_id in (select id from asm_sessions          -- if agent_id
                       where agent_id = %(agent_id)s)      -- if agent_id
   and session_id in (select id from asm_sessions          -- if agent_ids
                       where agent_id = any(%(agent_ids)s::text[])) -- if agent_ids
   and provider = %(provider)s                             -- if provider
   and provider = any(%(providers)s::text[])               -- if providers
   and started_at >= %(since)s                             -- if since
   and started_at < %(until)s                              -- if until
 group by provider, model
union all
select provider, model, pg_catalog.count(*) as run_count,
       pg_catalog.sum(input_tokens) as input_tokens,
       pg_catalog.sum(output_tokens) as output_tokens,
       pg_catalog.sum(cache_read_tokens) as cache_read_tokens,
       pg_catalog.sum(cache_creation_tokens) as cache_creation_tokens,
       pg_catalog.sum(total_tokens) as total_tokens
  from asm_runs
 where final_total_tokens is null
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s::text[])           -- if session_ids
   and session_id in (select id from asm_sessions          -- if agent_id
                       where agent_id = %(agent_id)s)      -- if agent_id
   and session_id in (select id from asm_sessions          -- if agent_ids
                       where agent_id = any(%(agent_ids)s::text[])) -- if agent_ids
   and provider = %(provider)s                             -- if provider
   and provider = any(%(providers)s::text[])               -- if providers
   and started_at >= %(since)s                             -- if since
   and started_at < %(until)s                              -- if until
 group by provider, model;

-- get_cost_summary
-- A row for each provider and model, from the same indexes as get_usage_summary: the runs, those
-- with a cost of their own and the sum of these costs, and of the others those with no tokens of a
-- kind that has a price, and the tokens.
select provider, model, pg_catalog.count(*) as run_count,
       pg_catalog.count(final_cost_usd) as own_count,
       pg_catalog.sum(final_cost_usd) as own_cost,
       pg_catalog.count(*) filter (
           where final_cost_usd is null
             and final_total_tokens > 0
             and coalesce(final_input_tokens, 0) = 0
             and coalesce(final_output_tokens, 0) = 0
             and coalesce(final_cache_read_tokens, 0) = 0
             and coalesce(final_cache_creation_tokens, 0) = 0
       ) as unpriced_count,
       pg_catalog.sum(final_input_tokens) filter (where final_cost_usd is null) as input_tokens,
       pg_catalog.sum(final_output_tokens) filter (where final_cost_usd is null) as output_tokens,
       pg_catalog.sum(final_cache_read_tokens) filter (where final_cost_usd is null)
       as cache_read_tokens,
       pg_catalog.sum(final_cache_creation_tokens) filter (where final_cost_usd is null)
       as cache_creation_tokens
  from asm_runs
 where final_total_tokens is not null
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s::text[])           -- if session_ids
   and session_id in (select id from asm_sessions          -- if agent_id
                       where agent_id = %(agent_id)s)      -- if agent_id
   and session_id in (select id from asm_sessions          -- if agent_ids
                       where agent_id = any(%(agent_ids)s::text[])) -- if agent_ids
   and provider = %(provider)s                             -- if provider
   and provider = any(%(providers)s::text[])               -- if providers
   and started_at >= %(since)s                             -- if since
   and started_at < %(until)s                              -- if until
 group by provider, model
union all
select provider, model, pg_catalog.count(*) as run_count,
       pg_catalog.count(cost_usd) as own_count,
       pg_catalog.sum(cost_usd) as own_cost,
       pg_catalog.count(*) filter (
           where cost_usd is null
             and total_tokens > 0
             and coalesce(input_tokens, 0) = 0
             and coalesce(output_tokens, 0) = 0
             and coalesce(cache_read_tokens, 0) = 0
             and coalesce(cache_creation_tokens, 0) = 0
       ) as unpriced_count,
       pg_catalog.sum(input_tokens) filter (where cost_usd is null) as input_tokens,
       pg_catalog.sum(output_tokens) filter (where cost_usd is null) as output_tokens,
       pg_catalog.sum(cache_read_tokens) filter (where cost_usd is null) as cache_read_tokens,
       pg_catalog.sum(cache_creation_tokens) filter (where cost_usd is null)
       as cache_creation_tokens
  from asm_runs
 where final_total_tokens is null
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s::text[])           -- if session_ids
   and session_id in (select id from asm_sessions          -- if agent_id
                       where agent_id = %(agent_id)s)      -- if agent_id
   and session_id in (select id from asm_sessions          -- if agent_ids
                       where agent_id = any(%(agent_ids)s::text[])) -- if agent_ids
   and provider = %(provider)s                             -- if provider
   and provider = any(%(providers)s::text[])               -- if providers
   and started_at >= %(since)s                             -- if since
   and started_at < %(until)s                              -- if until
 group by provider, model;
