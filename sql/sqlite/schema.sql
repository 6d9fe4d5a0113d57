-- The tables as they stand today, generated from the migrations by `make schema`, never by hand.

create table asm_artifacts (
    id text not null primary key,
    session_id text,
    run_id text,
    key text not null,
    content_type text,
    byte_size integer not null,
    checksum_sha256 text not null,
    storage_backend text not null,
    storage_ref text not null,
    metadata text not null,
    created_at text not null,
    deleted_at text
) strict;

create index asm_artifacts_by_session on asm_artifacts (session_id, created_at, id)
 where session_id is not null;

create unique index asm_artifacts_live_key on asm_artifacts (key) where deleted_at is null;

create table asm_events (
    id text not null,
    type text not null,
    timestamp text not null,
    session_id text not null,
    run_id text,
    sequence_number integer not null,
    data text not null,
    metadata text not null,
    schema_version integer not null,
    provider text,
    correlation_id text,
    primary key (session_id, sequence_number),
    unique (session_id, id)
) strict;

create index asm_events_by_correlation on asm_events (correlation_id, session_id, sequence_number)
 where correlation_id is not null;

create index asm_events_by_run on asm_events (run_id, session_id, sequence_number)
 where run_id is not null;

create index asm_events_by_time on asm_events (timestamp, session_id, sequence_number);

create index asm_events_by_type on asm_events (type, session_id, sequence_number);

create table asm_runs (
    id text not null,
    session_id text not null,
    status text not null,
    input text,
    output text,
    error text,
    metadata text not null,
    turn_count integer not null,
    token_usage text not null,
    started_at text not null,
    ended_at text,
    provider text,
    provider_metadata text not null,
    cost_usd real,
    input_tokens integer,
    output_tokens integer,
    total_tokens integer,
    cache_read_tokens integer,
    cache_creation_tokens integer,
    model text,
    primary key (session_id, id)
) strict;

create index asm_runs_by_id on asm_runs (id, started_at);

create index asm_runs_by_model
    on asm_runs (provider, model, started_at, cost_usd, input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens);

create index asm_runs_by_provider on asm_runs (provider, started_at, session_id, id);

create index asm_runs_by_start on asm_runs (session_id, started_at, id);

create index asm_runs_by_status on asm_runs (status, started_at, session_id, id);

create index asm_runs_by_time on asm_runs (started_at, session_id, id, total_tokens);

create index asm_runs_by_tokens on asm_runs (coalesce(total_tokens, 0), session_id, id);

create table asm_session_sequences (
    session_id text not null primary key,
    last_sequence integer not null,
    pruned_events integer not null default 0,
    updated_at text not null
) strict, without rowid;

create table asm_session_tags (
    tag text not null,
    id text not null,
    created_at text not null,
    updated_at text not null,
    primary key (tag, id)
) strict, without rowid;

create index asm_session_tags_by_creation on asm_session_tags (tag, created_at, id);

create index asm_session_tags_by_session on asm_session_tags (id);

create index asm_session_tags_by_update on asm_session_tags (tag, updated_at, id);

create table asm_sessions (
    id text not null primary key,
    agent_id text not null,
    status text not null,
    parent_session_id text,
    metadata text not null,
    context text not null,
    tags text not null,
    created_at text not null,
    updated_at text not null,
    deleted_at text
) strict;

create index asm_sessions_by_agent on asm_sessions (agent_id, created_at, id);

create index asm_sessions_by_agent_update on asm_sessions (agent_id, updated_at, id);

create index asm_sessions_by_creation on asm_sessions (created_at, id);

create index asm_sessions_by_status on asm_sessions (status, created_at, id);

create index asm_sessions_by_status_update on asm_sessions (status, updated_at, id);

create index asm_sessions_by_update on asm_sessions (updated_at, id);

create index asm_sessions_deleted on asm_sessions (deleted_at, id)
 where deleted_at is not null;
