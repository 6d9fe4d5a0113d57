-- The tables as they stand today, generated from the migrations by `make schema`, never by hand.

create table asm_artifacts (
    id text collate "C" not null,
    session_id text collate "C",
    run_id text collate "C",
    key text collate "C" not null,
    content_type text,
    byte_size bigint not null,
    checksum_sha256 text not null,
    storage_backend text not null,
    storage_ref text not null,
    metadata json not null,
    created_at timestamptz not null,
    deleted_at timestamptz,
    constraint asm_artifacts_pkey primary key (id)
);

create index asm_artifacts_by_session on asm_artifacts (session_id, created_at, id)
 where session_id is not null;

create unique index asm_artifacts_live_key on asm_artifacts (key)
 where deleted_at is null;

create table asm_events (
    id text collate "C" not null,
    type text collate "C" not null,
    "timestamp" timestamptz not null,
    session_id text collate "C" not null,
    run_id text collate "C",
    sequence_number bigint not null,
    data json not null,
    metadata json not null,
    schema_version bigint not null,
    provider text collate "C",
    correlation_id text collate "C",
    constraint asm_events_pkey primary key (session_id, sequence_number),
    constraint asm_events_id_key unique (session_id, id)
)
with (fillfactor = 100, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

create index asm_events_by_correlation on asm_events (correlation_id, session_id, sequence_number)
 where correlation_id is not null;

create index asm_events_by_run on asm_events (run_id, session_id, sequence_number)
 where run_id is not null;

create index asm_events_by_time on asm_events ("timestamp", session_id, sequence_number);

create index asm_events_by_type on asm_events (type, session_id, sequence_number);

create table asm_runs (
    id text collate "C" not null,
    session_id text collate "C" not null,
    status text collate "C" not null,
    input json,
    output json,
    error json,
    metadata json not null,
    turn_count bigint not null,
    token_usage json not null,
    started_at timestamptz not null,
    ended_at timestamptz,
    provider text collate "C",
    provider_metadata json not null,
    cost_usd double precision,
    input_tokens bigint,
    output_tokens bigint,
    total_tokens bigint,
    cache_read_tokens bigint,
    cache_creation_tokens bigint,
    model text collate "C",
    constraint asm_runs_pkey primary key (session_id, id)
);

create index asm_runs_by_id on asm_runs (id, started_at);

create index asm_runs_by_model on asm_runs (provider, model, started_at) include (cost_usd, input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens);

create index asm_runs_by_provider on asm_runs (provider, started_at);

create index asm_runs_by_start on asm_runs (session_id, started_at, id);

create index asm_runs_by_status on asm_runs (status, started_at);

create index asm_runs_by_time on asm_runs (started_at, session_id, id) include (total_tokens);

create index asm_runs_by_tokens on asm_runs (coalesce(total_tokens, 0::bigint), session_id, id);

create table asm_session_sequences (
    session_id text collate "C" not null,
    last_sequence bigint not null,
    pruned_events bigint not null default 0,
    updated_at timestamptz not null,
    constraint asm_session_sequences_pkey primary key (session_id)
)
with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

create table asm_sessions (
    id text collate "C" not null,
    agent_id text collate "C" not null,
    status text collate "C" not null,
    parent_session_id text collate "C",
    metadata json not null,
    context json not null,
    tags text[] collate "C" not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    deleted_at timestamptz,
    constraint asm_sessions_pkey primary key (id)
);

create index asm_sessions_by_agent on asm_sessions (agent_id, created_at, id);

create index asm_sessions_by_agent_update on asm_sessions (agent_id, updated_at, id);

create index asm_sessions_by_creation on asm_sessions (created_at, id);

create index asm_sessions_by_status on asm_sessions (status, created_at, id);

create index asm_sessions_by_status_update on asm_sessions (status, updated_at, id);

create index asm_sessions_by_tag on asm_sessions using gin (tags) with (fastupdate=off);

create index asm_sessions_by_update on asm_sessions (updated_at, id);

create index asm_sessions_deleted on asm_sessions (deleted_at, id)
 where deleted_at is not null;
