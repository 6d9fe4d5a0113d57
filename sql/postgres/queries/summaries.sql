-- get_session_stats
-- A row for each status and provider of the session's runs, or one without, each with the figures
-- of its events.
select (select true from asm_sessions where id = %(session_id)s) as is_saved,
       event_count, first_event_at, last_event_at, status, provider, run_count,
       input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens, total_tokens
  from (
       select count(*) as event_count,
              min(timestamp) as first_event_at,
              max(timestamp) as last_event_at
         from asm_events
        where session_id = %(session_id)s
  ) as event
  left join (
       select status, provider, count(*) as run_count,
              sum(input_tokens)::bigint as input_tokens,
              sum(output_tokens)::bigint as output_tokens,
              sum(cache_read_tokens)::bigint as cache_read_tokens,
              sum(cache_creation_tokens)::bigint as cache_creation_tokens,
              sum(total_tokens)::bigint as total_tokens
         from asm_runs
        where session_id = %(session_id)s
        group by status, provider
  ) as run on true;

-- get_usage_summary
-- A row for each provider and model of the runs that have ended, and one of the others. The former
-- come from asm_runs_by_model, which has all columns that are read; the latter from asm_runs_open.
select provider, model, count(*) as run_count,
       sum(final_input_tokens)::bigint as input_tokens,
       sum(final_output_tokens)::bigint as output_tokens,
       sum(final_cache_read_tokens)::bigint as cache_read_tokens,
       sum(final_cache_creation_tokens)::bigint as cache_creation_tokens,
       sum(final_total_tokens)::bigint as total_tokens
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
select provider, model, count(*) as run_count,
       sum(input_tokens)::bigint as input_tokens,
       sum(output_tokens)::bigint as output_tokens,
       sum(cache_read_tokens)::bigint as cache_read_tokens,
       sum(cache_creation_tokens)::bigint as cache_creation_tokens,
       sum(total_tokens)::bigint as total_tokens
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
select provider, model, count(*) as run_count,
       count(final_cost_usd) as own_count,
       sum(final_cost_usd) as own_cost,
       count(*) filter (where final_cost_usd is null and final_total_tokens > 0
                          and coalesce(final_input_tokens, 0) = 0
                          and coalesce(final_output_tokens, 0) = 0
                          and coalesce(final_cache_read_tokens, 0) = 0
                          and coalesce(final_cache_creation_tokens, 0) = 0) as unpriced_count,
       (sum(final_input_tokens) filter (where final_cost_usd is null))::bigint as input_tokens,
       (sum(final_output_tokens) filter (where final_cost_usd is null))::bigint as output_tokens,
       (sum(final_cache_read_tokens) filter (where final_cost_usd is null))::bigint
       as cache_read_tokens,
       (sum(final_cache_creation_tokens) filter (where final_cost_usd is null))::bigint
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
select provider, model, count(*) as run_count,
       count(cost_usd) as own_count,
       sum(cost_usd) as own_cost,
       count(*) filter (where cost_usd is null and total_tokens > 0
                          and coalesce(input_tokens, 0) = 0
                          and coalesce(output_tokens, 0) = 0
                          and coalesce(cache_read_tokens, 0) = 0
                          and coalesce(cache_creation_tokens, 0) = 0) as unpriced_count,
       (sum(input_tokens) filter (where cost_usd is null))::bigint as input_tokens,
       (sum(output_tokens) filter (where cost_usd is null))::bigint as output_tokens,
       (sum(cache_read_tokens) filter (where cost_usd is null))::bigint as cache_read_tokens,
       (sum(cache_creation_tokens) filter (where cost_usd is null))::bigint
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
