-- get_session_stats
-- A row for each status and provider of the session's runs, or one without, each with the figures
-- of its events.
select (select true from asm_sessions where id = :session_id) as is_saved,
       event_count, first_event_at, last_event_at, status, provider, run_count,
       input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens, total_tokens
  from (
       select count(*) as event_count,
              min(timestamp) as first_event_at,
              max(timestamp) as last_event_at
         from asm_events
        where session_id = :session_id
  ) as event
  left join (
       select status, provider, count(*) as run_count,
              sum(input_tokens) as input_tokens,
              sum(output_tokens) as output_tokens,
              sum(cache_read_tokens) as cache_read_tokens,
              sum(cache_creation_tokens) as cache_creation_tokens,
              sum(total_tokens) as total_tokens
         from asm_runs
        where session_id = :session_id
        group by status, provider
  ) as run on true;

-- get_usage_summary
-- A row for each provider and model. asm_runs_by_model has all columns that are read.
select provider, model, count(*) as run_count,
       sum(input_tokens) as input_tokens,
       sum(output_tokens) as output_tokens,
       sum(cache_read_tokens) as cache_read_tokens,
       sum(cache_creation_tokens) as cache_creation_tokens,
       sum(total_tokens) as total_tokens
  from asm_runs
 where true
   and session_id = :session_id                            -- if session_id
   and session_id in (select value from json_each(:session_ids)) -- if session_ids
   and session_id in (select id from asm_sessions          -- if agent_id
                       where agent_id = :agent_id)         -- if agent_id
   and session_id in (select id from asm_sessions          -- if agent_ids
                       where agent_id in (select value from json_each(:agent_ids))) -- if agent_ids
   and provider = :provider                                -- if provider
   and provider in (select value from json_each(:providers)) -- if providers
   and started_at >= :since                                -- if since
   and started_at < :until                                 -- if until
 group by provider, model;

-- get_cost_summary
-- A row for each provider and model: the runs, those with a cost of their own and the sum of these
-- costs, and of the others those with no tokens of a kind that has a price, and the tokens. It
-- reads the same index as get_usage_summary.
select provider, model, count(*) as run_count,
       count(cost_usd) as own_count,
       sum(cost_usd) as own_cost,
       count(*) filter (where cost_usd is null and total_tokens > 0
                          and coalesce(input_tokens, 0) = 0
                          and coalesce(output_tokens, 0) = 0
                          and coalesce(cache_read_tokens, 0) = 0
                          and coalesce(cache_creation_tokens, 0) = 0) as unpriced_count,
       sum(input_tokens) filter (where cost_usd is null) as input_tokens,
       sum(output_tokens) filter (where cost_usd is null) as output_tokens,
       sum(cache_read_tokens) filter (where cost_usd is null) as cache_read_tokens,
       sum(cache_creation_tokens) filter (where cost_usd is null) as cache_creation_tokens
  from asm_runs
 where true
   and session_id = :session_id                            -- if session_id
   and session_id in (select value from json_each(:session_ids)) -- if session_ids
   and session_id in (select id from asm_sessions          -- if agent_id
                       where agent_id = :agent_id)         -- if agent_id
   and session_id in (select id from asm_sessions          -- if agent_ids
                       where agent_id in (select value from json_each(:agent_ids))) -- if agent_ids
   and provider = :provider                                -- if provider
   and provider in (select value from json_each(:providers)) -- if providers
   and started_at >= :since                                -- if since
   and started_at < :until                                 -- if until
 group by provider, model;
