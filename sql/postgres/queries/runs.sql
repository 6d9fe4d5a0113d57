-- save_run
-- A new run, or everything but the ids of one that is there.
insert into asm_runs as run (id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at, ended_at, provider, provider_metadata, cost_usd, input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens, model)
values (%(id)s, %(session_id)s, %(status)s, %(input)s, %(output)s, %(error)s, %(metadata)s, %(turn_count)s, %(token_usage)s, %(started_at)s, %(ended_at)s, %(provider)s, %(provider_metadata)s, %(cost_usd)s, %(input_tokens)s, %(output_tokens)s, %(total_tokens)s, %(cache_read_tokens)s, %(cache_creation_tokens)s, %(model)s)
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
       model = excluded.model;

-- get_run
-- The one started last, where several sessions have a run of that id. No row: there is none.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where id = %(id)s
   and session_id = %(session_id)s                         -- if session_id
 order by started_at desc, session_id
 limit 1;

-- list_runs
-- The oldest first.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where session_id = %(session_id)s
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s)                          -- if statuses
 order by started_at, id
 limit %(limit)s                                           -- if limit
;

-- find_active_run
-- The newest that is running. No row: none is.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where session_id = %(session_id)s
   and status = 'running'
 order by started_at desc, id desc
 limit 1;

-- search_runs
-- Runs across sessions in one of several orders, a page at a time.
-- By time, those that used many tokens are found in an index first, without reading the others, and then looked up.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage, started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
  join (select session_id, id from asm_runs                -- if started_at_asc and min_tokens
  join (select session_id, id from asm_runs                -- if started_at_desc and min_tokens
 where true
   and false                                               -- if nothing
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s)                   -- if session_ids
   and provider = %(provider)s                             -- if provider
   and provider = any(%(providers)s)                       -- if providers
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s)                          -- if statuses
   and started_at >= %(started_after)s                     -- if started_after
   and started_at < %(started_before)s                     -- if started_before
   and coalesce(total_tokens, 0) >= %(min_tokens)s         -- if min_tokens
   and (started_at, session_id, id) > (%(last_at)s, %(last_session)s, %(last_id)s) -- if started_at_asc and last_id
   and (started_at, session_id, id) < (%(last_at)s, %(last_session)s, %(last_id)s) -- if started_at_desc and last_id
   and (coalesce(total_tokens, 0), session_id, id) < (%(last_tokens)s, %(last_session)s, %(last_id)s) -- if token_usage_desc and last_id
 order by started_at, session_id, id                       -- if started_at_asc
 order by started_at desc, session_id desc, id desc        -- if started_at_desc
 order by coalesce(total_tokens, 0) desc, session_id desc, id desc -- if token_usage_desc
 limit %(limit)s
       ) as found using (session_id, id) order by started_at, session_id, id -- if started_at_asc and min_tokens
       ) as found using (session_id, id) order by started_at desc, session_id desc, id desc -- if started_at_desc and min_tokens
;
