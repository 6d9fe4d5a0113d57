-- Sessions, their runs and events, the counters that number the events, and artifacts.
-- depends:

-- Times are UTC in ISO 8601 with microseconds, all of one width, so that they sort as text.

-- Documents are text, so the leading space by which asm/documents.py marks some of them is kept.

-- There are no foreign keys, because events, runs and artifacts may be stored before their
-- session. health_check reports those whose session is missing.

-- No CHECK lists the known statuses: SQLite cannot change a constraint, and a later release may
-- add one.

create table if not exists asm_sessions (
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

-- An index of this file returns the rows of a page in their order, so that a limit ends the
-- scan, or finds the few rows of a rare value. It ends in columns that make each entry unique,
-- because the next page begins behind the last entry of the page before.

create index if not exists asm_sessions_by_creation on asm_sessions (created_at, id);

create index if not exists asm_sessions_by_agent on asm_sessions (agent_id, created_at, id);

create index if not exists asm_sessions_by_parent
    on asm_sessions (parent_session_id, created_at, id)
 where parent_session_id is not null;

-- SQLite plans without values and cannot tell a rare status from a common one, so here the
-- order by creation has an index of its own.
create index if not exists asm_sessions_by_status on asm_sessions (status, created_at, id);

create index if not exists asm_sessions_by_update on asm_sessions (updated_at, id);

-- Both orders of an agent's sessions are hot: search_sessions returns those updated last by
-- default, list_sessions those created last, from asm_sessions_by_agent.
create index if not exists asm_sessions_by_agent_update on asm_sessions (agent_id, updated_at, id);

-- Retention looks for the sessions of a status that have been unchanged for longest.
create index if not exists asm_sessions_by_status_update on asm_sessions (status, updated_at, id);

-- Retention looks for the sessions that have been soft-deleted for longest.
create index if not exists asm_sessions_deleted on asm_sessions (deleted_at, id)
 where deleted_at is not null;

-- SQLite cannot index the elements of a list, so each tag has a row, written by save_session.
-- It repeats the times of the session: a page of the sessions with a tag comes from an index in
-- its order.
create table if not exists asm_session_tags (
    tag text not null,
    id text not null,
    created_at text not null,
    updated_at text not null,
    primary key (tag, id)
) strict, without rowid;

create index if not exists asm_session_tags_by_session on asm_session_tags (id);

create index if not exists asm_session_tags_by_creation on asm_session_tags (tag, created_at, id);

create index if not exists asm_session_tags_by_update on asm_session_tags (tag, updated_at, id);

-- The token counts and the model are stored beside the documents they come from, so that sums
-- need no JSON.
create table if not exists asm_runs (
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
    primary key (session_id, id),
    constraint asm_runs_turn_count_not_negative check (turn_count >= 0),
    constraint asm_runs_cost_within_bounds check (cost_usd between 0 and 1e9),
    constraint asm_runs_token_counts_within_bounds check (
        input_tokens between 0 and 1000000000000
        and output_tokens between 0 and 1000000000000
        and total_tokens between 0 and 1000000000000
        and cache_read_tokens between 0 and 1000000000000
        and cache_creation_tokens between 0 and 1000000000000
    )
) strict;

create index if not exists asm_runs_by_id on asm_runs (id, started_at);

create index if not exists asm_runs_by_start on asm_runs (session_id, started_at, id);

-- With total_tokens, so that a search for runs with many tokens skips the others without
-- reading their rows: 4 ms instead of 16 for the first seven of 60,000.
create index if not exists asm_runs_by_time on asm_runs (started_at, session_id, id, total_tokens);

create index if not exists asm_runs_by_provider on asm_runs (provider, started_at, session_id, id);

create index if not exists asm_runs_by_status on asm_runs (status, started_at, session_id, id);

-- A run without token counts has used none.
create index if not exists asm_runs_by_tokens
    on asm_runs (coalesce(total_tokens, 0), session_id, id);

-- With all columns that a summary adds up, so that it does not read the runs themselves: the
-- usage of 60,000 takes 20 ms instead of 80.
create index if not exists asm_runs_by_model
    on asm_runs (provider, model, started_at, cost_usd, input_tokens, output_tokens, total_tokens,
                 cache_read_tokens, cache_creation_tokens);

-- A table with rowids: events are large, and a tree without rowids would keep them in its inner
-- pages.
create table if not exists asm_events (
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
    unique (session_id, id),
    constraint asm_events_sequence_number_positive check (sequence_number > 0)
) strict;

-- Every append writes to each index on events, so there are only these.
create index if not exists asm_events_by_type on asm_events (type, session_id, sequence_number);

create index if not exists asm_events_by_run on asm_events (run_id, session_id, sequence_number)
 where run_id is not null;

create index if not exists asm_events_by_correlation
    on asm_events (correlation_id, session_id, sequence_number)
 where correlation_id is not null;

create index if not exists asm_events_by_time
    on asm_events (timestamp, session_id, sequence_number);

create table if not exists asm_session_sequences (
    session_id text not null primary key,
    last_sequence integer not null,
    pruned_events integer not null default 0,
    updated_at text not null,
    constraint asm_session_sequences_last_sequence_not_negative check (last_sequence >= 0),
    constraint asm_session_sequences_pruned_within_last
        check (pruned_events between 0 and last_sequence)
) strict, without rowid;

create table if not exists asm_artifacts (
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
    deleted_at text,
    constraint asm_artifacts_byte_size_not_negative check (byte_size >= 0)
) strict;

create unique index if not exists asm_artifacts_live_key
    on asm_artifacts (key) where deleted_at is null;

create index if not exists asm_artifacts_by_session on asm_artifacts (session_id, created_at, id)
 where session_id is not null;
