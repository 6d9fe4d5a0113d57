-- save_run
-- Inserts a run, or replaces everything but the ids of the stored one.
insert into asm_runs (
    id, session_id, status, input, output, error, metadata, turn_count, token_usage,
    started_at, ended_at, provider, provider_metadata, cost_usd,
    input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens, model
)
values (
    :id, :session_id, :status, :input, :output, :error, :metadata,
    :turn_count, :token_usage,
    :started_at, :ended_at, :provider, :provider_metadata, :cost_usd,
    :input_tokens, :output_tokens, :total_tokens, :cache_read_tokens,
    :cache_creation_tokens, :model
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
       model = excluded.model;

-- get_run
-- Where several sessions have a run of that id and none is given, the one started last.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where id = :id
   and session_id = :session_id                            -- if session_id
 order by started_at desc, session_id
 limit 1;

-- lock_run
-- get_run, in a transaction that holds the file's write lock.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where id = :id
   and session_id = :session_id                            -- if session_id
 order by started_at desc, session_id
 limit 1;

-- list_runs
-- The runs of a session, the oldest first.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where session_id = :session_id
   and status = :status                                    -- if status
   and status in (select value from json_each(:statuses))  -- if statuses
 order by started_at, id
 limit :limit                                              -- if limit
;

-- find_active_run
-- The newest run of a session that is running.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where session_id = :session_id
   and status = 'running'
 order by started_at desc, id desc
 limit 1;

-- find_stale_runs
-- Runs that are running and whose lease ended before `until`, the oldest first.
-- The lease is read as the text that `with_lease` stores. Uses asm_runs_by_status.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where status = 'running'
   and instr(metadata, '"asm":{"lease_until":"') > 0
   and substr(metadata, instr(metadata, '"asm":{"lease_until":"') + 22) < :until
   and session_id > :after                                 -- if after
   and session_id <= :up_to                                -- if up_to
 order by started_at, session_id, id
 limit :limit                                              -- if limit
;

-- refuse_active_run
-- Fails with a unique violation if a run of the session is running: it inserts that run again. The
-- caller has locked the session's counter, so no other client claims the session meanwhile.
insert into asm_runs (
    id, session_id, status, metadata, turn_count, token_usage, started_at, provider_metadata
)
select id, session_id, status, metadata, turn_count, token_usage, started_at, provider_metadata
  from asm_runs
 where session_id = :session_id
   and status = 'running'
 limit 1;

-- refuse_changed_session
-- Fails with a unique violation unless a session has the status and the time of its deletion that
-- were read: it inserts the first event of the claim again.
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
 where session_id = :session_id
   and id = :event_id
   and not exists (
       select 1
         from asm_sessions
        where id = :session_id
          and status = :status
          and deleted_at is :deleted_at
   );

-- refuse_changed_runs
-- Fails with a unique violation unless each run has its status, and its end or its owner if they
-- are given: it inserts an event of the transaction again. The owner is compared as text, as in
-- end_run.
insert into asm_events (
    id, type, timestamp, session_id, run_id, sequence_number,
    data, metadata, schema_version, provider, correlation_id
)
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from asm_events
 where session_id = :session_ids
   and id = :event_ids
   and not exists (
       select 1
         from asm_runs
        where session_id = :session_ids
          and id = :ids
          and status = :statuses
          and (:ended_at_list is null or ended_at = :ended_at_list)
          and (:owners is null or instr(metadata, :owners) > 0)
   );

-- end_run
-- Stores how a run ended, if it is running and its owner's, and nobody asked to cancel it. The
-- metadata stay, because others may have changed them. The lease, or its owner, is compared as
-- text, as in find_stale_runs.
update asm_runs
   set status = :status,
       output = :output,
       error = :error,
       turn_count = :turn_count,
       token_usage = :token_usage,
       ended_at = :ended_at,
       provider_metadata = :provider_metadata,
       cost_usd = :cost_usd,
       input_tokens = :input_tokens,
       output_tokens = :output_tokens,
       total_tokens = :total_tokens,
       cache_read_tokens = :cache_read_tokens,
       cache_creation_tokens = :cache_creation_tokens,
       model = :model
 where session_id = :session_id
   and id = :id
   and status = 'running'
   and instr(metadata, :lease) > 0
   and instr(metadata, '"cancel_requested":') = 0
returning metadata;

-- search_runs
-- A page of runs in the order of their start.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where true
   and session_id = :session_id                            -- if session_id
   and session_id in (select value from json_each(:session_ids)) -- if session_ids
   and provider = :provider                                -- if provider
   and provider in (select value from json_each(:providers)) -- if providers
   and status = :status                                    -- if status
   and status in (select value from json_each(:statuses))  -- if statuses
   and started_at >= :started_after                        -- if started_after
   and started_at < :started_before                        -- if started_before
   and coalesce(total_tokens, 0) >= :min_tokens            -- if min_tokens
   and (started_at, session_id, id)                        -- if started_at_asc and last_id
       > (:last_at, :last_session, :last_id)               -- if started_at_asc and last_id
   and (started_at, session_id, id)                        -- if started_at_desc and last_id
       < (:last_at, :last_session, :last_id)               -- if started_at_desc and last_id
 order by started_at, session_id, id                       -- if started_at_asc
 order by started_at desc, session_id desc, id desc        -- if started_at_desc
 limit :limit;

-- search_runs_by_tokens
-- A page of runs, those with the most tokens first.
select id, session_id, status, input, output, error, metadata, turn_count, token_usage,
       started_at, ended_at, provider, provider_metadata, cost_usd
  from asm_runs
 where true
   and session_id = :session_id                            -- if session_id
   and session_id in (select value from json_each(:session_ids)) -- if session_ids
   and provider = :provider                                -- if provider
   and provider in (select value from json_each(:providers)) -- if providers
   and status = :status                                    -- if status
   and status in (select value from json_each(:statuses))  -- if statuses
   and started_at >= :started_after                        -- if started_after
   and started_at < :started_before                        -- if started_before
   and coalesce(total_tokens, 0) >= :min_tokens            -- if min_tokens
   and (coalesce(total_tokens, 0), session_id, id)         -- if token_usage_desc and last_id
       < (:last_tokens, :last_session, :last_id)           -- if token_usage_desc and last_id
 order by coalesce(total_tokens, 0) desc, session_id desc, id desc
 limit :limit;
