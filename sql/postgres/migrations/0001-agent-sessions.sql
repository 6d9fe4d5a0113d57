-- Sessions, their runs, their events with a counter for each session's order, and where artifacts lie.
-- depends:

-- Ids compare byte by byte ("C"): the same order on every database, and cheaper than a language's.
create table if not exists asm_sessions (
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

create index if not exists asm_sessions_by_creation on asm_sessions (created_at, id);

create index if not exists asm_sessions_by_agent on asm_sessions (agent_id, created_at, id);

create index if not exists asm_sessions_by_status on asm_sessions (status, created_at, id);

-- The token counts and the model stand beside the documents they come from, so that sums need no JSON.
create table if not exists asm_runs (
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

create index if not exists asm_runs_by_id on asm_runs (id, started_at);

create index if not exists asm_runs_by_start on asm_runs (session_id, started_at, id);

-- Append-only: pages are filled to the brim, and vacuum comes for the visibility map, not for dead rows.
create table if not exists asm_events (
    id text collate "C" not null,
    type text collate "C" not null,
    timestamp timestamptz not null,
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

create index if not exists asm_events_by_type on asm_events (type, session_id, sequence_number);

create index if not exists asm_events_by_run on asm_events (run_id, session_id, sequence_number)
 where run_id is not null;

-- One hot row a session: half-empty pages let an update stay on its page and touch no index,
-- and vacuum comes by the number of dead rows rather than by their share.
create table if not exists asm_session_sequences (
    session_id text collate "C" not null,
    last_sequence bigint not null,
    pruned_events bigint not null default 0,
    updated_at timestamptz not null,
    constraint asm_session_sequences_pkey primary key (session_id)
)
with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

create table if not exists asm_artifacts (
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

create unique index if not exists asm_artifacts_live_key on asm_artifacts (key) where deleted_at is null;

create index if not exists asm_artifacts_by_session on asm_artifacts (session_id, created_at, id)
 where session_id is not null;
