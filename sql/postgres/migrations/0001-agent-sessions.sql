-- Sessions, their runs and events, the counters that number the events, and artifacts.
-- depends:

-- Ids compare byte by byte (collate "C"): the order is the same on every database, and a
-- comparison is cheaper than under the rules of a language.

-- Documents are json, not jsonb. asm/documents.py marks a document that only Python's own JSON
-- reader reads back unchanged by one leading space. jsonb would drop the space, and refuse NUL
-- characters and lone surrogates.

-- There are no foreign keys, because events, runs and artifacts may be stored before their
-- session. health_check reports those whose session is missing.

-- No CHECK lists the known statuses: a later release may add one while older programs still run.

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

-- An index of this file returns the rows of a page in their order, so that a limit ends the
-- scan, or finds the few rows of a rare value. It ends in columns that make each entry unique,
-- because the next page begins behind the last entry of the page before.

create index if not exists asm_sessions_by_creation on asm_sessions (created_at, id);

create index if not exists asm_sessions_by_agent on asm_sessions (agent_id, created_at, id);

create index if not exists asm_sessions_by_parent
    on asm_sessions (parent_session_id, created_at, id)
 where parent_session_id is not null;

-- Each save of a session changes updated_at, so it adds an entry to every index of this table.
-- No index on (status, created_at, id) is worth that: list_sessions with a status reads
-- asm_sessions_by_creation where the status is common, and asm_sessions_by_status_update where
-- it is rare.
create index if not exists asm_sessions_by_update on asm_sessions (updated_at, id);

-- Both orders of an agent's sessions are hot: search_sessions returns those updated last by
-- default, list_sessions those created last, from asm_sessions_by_agent.
create index if not exists asm_sessions_by_agent_update on asm_sessions (agent_id, updated_at, id);

-- Retention looks for the sessions of a status that have been unchanged for longest.
create index if not exists asm_sessions_by_status_update on asm_sessions (status, updated_at, id);

-- Without a list of pending entries, which every search would have to read.
create index if not exists asm_sessions_by_tag
    on asm_sessions using gin (tags) with (fastupdate = off);

-- Retention looks for the sessions that have been soft-deleted for longest.
create index if not exists asm_sessions_deleted on asm_sessions (deleted_at, id)
 where deleted_at is not null;

-- The token counts and the model are stored beside the documents they come from, so that sums
-- need no JSON. The final counts are null while the run is pending or running. Only they are in an
-- index: a run is saved after every turn, and an update that changes no indexed column stays on
-- its page and writes no index entry (HOT). The fill factor leaves room for it. The statements
-- that write runs set the final counts. Generated columns would add 30 to 80 µs to each of them,
-- because PostgreSQL parses such expressions in each execution; so it does with the expressions of
-- the checks, which are short for that reason.
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
    final_cost_usd double precision,
    final_input_tokens bigint,
    final_output_tokens bigint,
    final_total_tokens bigint,
    final_cache_read_tokens bigint,
    final_cache_creation_tokens bigint,
    constraint asm_runs_pkey primary key (session_id, id),
    constraint asm_runs_turn_count_not_negative check (turn_count >= 0),
    constraint asm_runs_cost_within_bounds check (
        cost_usd between 0::double precision and 1e9::double precision
    ),
    constraint asm_runs_token_counts_within_bounds check (
        least(
            input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens
        ) >= 0
        and greatest(
            input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_creation_tokens
        ) <= 1000000000000
    )
)
with (fillfactor = 80);

create index if not exists asm_runs_by_id on asm_runs (id, started_at);

create index if not exists asm_runs_by_start on asm_runs (session_id, started_at, id);

create index if not exists asm_runs_by_time on asm_runs (started_at, session_id, id);

-- Runs of one provider or one status that started in the same microsecond are sorted when they
-- are read. With session_id in it, the index on status would look to the planner as good as
-- asm_runs_by_start for the running run of a session.
create index if not exists asm_runs_by_provider on asm_runs (provider, started_at);

create index if not exists asm_runs_by_status on asm_runs (status, started_at);

-- Summaries and the order by tokens read ended runs from the next two indexes, and the few
-- others from this one.
create index if not exists asm_runs_open on asm_runs (session_id, id)
 where final_total_tokens is null;

create index if not exists asm_runs_by_tokens on asm_runs (final_total_tokens, session_id, id)
 where final_total_tokens is not null;

-- With all columns that a summary adds up, so that it does not read the runs themselves.
create index if not exists asm_runs_by_model on asm_runs (provider, model, started_at)
include (final_cost_usd, final_input_tokens, final_output_tokens, final_total_tokens,
         final_cache_read_tokens, final_cache_creation_tokens)
 where final_total_tokens is not null;

-- Rows are only inserted and deleted: pages are filled completely, and vacuum runs often enough
-- to keep the visibility map current.
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
    constraint asm_events_id_key unique (session_id, id),
    constraint asm_events_sequence_number_positive check (sequence_number > 0)
)
with (
    fillfactor = 100,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02
);

-- Every append writes to each index on events, so there are only these.
create index if not exists asm_events_by_type on asm_events (type, session_id, sequence_number);

create index if not exists asm_events_by_run on asm_events (run_id, session_id, sequence_number)
 where run_id is not null;

create index if not exists asm_events_by_correlation
    on asm_events (correlation_id, session_id, sequence_number)
 where correlation_id is not null;

create index if not exists asm_events_by_time
    on asm_events (timestamp, session_id, sequence_number);

-- One row a session, updated by every append to it. Half-empty pages let an update stay on its
-- page and write no index entry, and vacuum runs by the number of dead rows instead of their
-- share.
create table if not exists asm_session_sequences (
    session_id text collate "C" not null,
    last_sequence bigint not null,
    pruned_events bigint not null default 0,
    updated_at timestamptz not null,
    constraint asm_session_sequences_pkey primary key (session_id),
    constraint asm_session_sequences_last_sequence_not_negative check (last_sequence >= 0),
    constraint asm_session_sequences_pruned_within_last
        check (pruned_events between 0 and last_sequence)
)
with (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000
);

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
    constraint asm_artifacts_pkey primary key (id),
    constraint asm_artifacts_byte_size_not_negative check (byte_size >= 0)
);

create unique index if not exists asm_artifacts_live_key
    on asm_artifacts (key) where deleted_at is null;

create index if not exists asm_artifacts_by_session on asm_artifacts (session_id, created_at, id)
 where session_id is not null;
