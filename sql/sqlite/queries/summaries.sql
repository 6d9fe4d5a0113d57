-- get_session_stats
-- A row for each status and provider of its runs, or one without, and in each what else there is of it.
-- A sum of integers beyond 64 bits is an error here, so the lower 32 bits of each are added apart from
-- those above.
select (select true from asm_sessions where id = :session_id) as is_kept,
       event_count, first_event_at, last_event_at,
       status, provider, run_count,
       input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens, total_tokens,
       input_above, output_above, cache_read_above, cache_creation_above, total_above
  from (
    select count(*) as event_count,
           min(timestamp) as first_event_at,
           max(timestamp) as last_event_at
      from asm_events
     where session_id = :session_id
  ) as events
  left join (
    select status, provider, count(*) as run_count,
           sum(input_tokens & 4294967295) as input_tokens,
           sum(output_tokens & 4294967295) as output_tokens,
           sum(cache_read_tokens & 4294967295) as cache_read_tokens,
           sum(cache_creation_tokens & 4294967295) as cache_creation_tokens,
           sum(total_tokens & 4294967295) as total_tokens,
           sum(input_tokens >> 32) as input_above,
           sum(output_tokens >> 32) as output_above,
           sum(cache_read_tokens >> 32) as cache_read_above,
           sum(cache_creation_tokens >> 32) as cache_creation_above,
           sum(total_tokens >> 32) as total_above
      from asm_runs
     where session_id = :session_id
     group by status, provider
  ) as runs on true;

-- get_usage_summary
-- Sums over runs, a row for each provider and model.
-- A sum of integers beyond 64 bits is an error here, so the lower 32 bits of each are added apart from
-- those above.
select provider, model, count(*) as run_count,
       sum(input_tokens & 4294967295) as input_tokens,
       sum(output_tokens & 4294967295) as output_tokens,
       sum(cache_read_tokens & 4294967295) as cache_read_tokens,
       sum(cache_creation_tokens & 4294967295) as cache_creation_tokens,
       sum(total_tokens & 4294967295) as total_tokens,
       sum(input_tokens >> 32) as input_above,
       sum(output_tokens >> 32) as output_above,
       sum(cache_read_tokens >> 32) as cache_read_above,
       sum(cache_creation_tokens >> 32) as cache_creation_above,
       sum(total_tokens >> 32) as total_above
  from asm_runs
 where true
   and session_id = :session_id                                                                  -- if session_id
   and session_id in (select value from json_each(:session_ids))                                 -- if session_ids
   and session_id in (select id from asm_sessions where agent_id = :agent_id)                    -- if agent_id
   and session_id in (                                                                           -- if agent_ids
       select id from asm_sessions where agent_id in (select value from json_each(:agent_ids))   -- if agent_ids
   )                                                                                             -- if agent_ids
   and provider = :provider                                                                      -- if provider
   and provider in (select value from json_each(:providers))                                     -- if providers
   and started_at >= :since                                                                      -- if since
   and started_at < :until                                                                       -- if until
 group by provider, model;

-- get_cost_summary
-- A row for each provider and model: how many runs, how many with a cost of their own and the sum of
-- those, and the tokens of the others. Costs are divided by 2^64, so that their sum cannot be too large
-- for a float; that is exact but for costs next to nothing, which are left out.
-- A sum of integers beyond 64 bits is an error here, so the lower 32 bits of each are added apart from
-- those above.
select provider, model, count(*) as run_count, count(cost_usd) as own_count,
       sum(cost_usd / 18446744073709551616.0) filter (where cost_usd > 1e-200) as own_cost,
       sum(input_tokens & 4294967295) filter (where cost_usd is null) as input_tokens,
       sum(output_tokens & 4294967295) filter (where cost_usd is null) as output_tokens,
       sum(cache_read_tokens & 4294967295) filter (where cost_usd is null) as cache_read_tokens,
       sum(cache_creation_tokens & 4294967295) filter (where cost_usd is null) as cache_creation_tokens,
       sum(input_tokens >> 32) filter (where cost_usd is null) as input_above,
       sum(output_tokens >> 32) filter (where cost_usd is null) as output_above,
       sum(cache_read_tokens >> 32) filter (where cost_usd is null) as cache_read_above,
       sum(cache_creation_tokens >> 32) filter (where cost_usd is null) as cache_creation_above
  from asm_runs
 where true
   and session_id = :session_id                                                                  -- if session_id
   and session_id in (select value from json_each(:session_ids))                                 -- if session_ids
   and session_id in (select id from asm_sessions where agent_id = :agent_id)                    -- if agent_id
   and session_id in (                                                                           -- if agent_ids
       select id from asm_sessions where agent_id in (select value from json_each(:agent_ids))   -- if agent_ids
   )                                                                                             -- if agent_ids
   and provider = :provider                                                                      -- if provider
   and provider in (select value from json_each(:providers))                                     -- if providers
   and started_at >= :since                                                                      -- if since
   and started_at < :until                                                                       -- if until
 group by provider, model;
