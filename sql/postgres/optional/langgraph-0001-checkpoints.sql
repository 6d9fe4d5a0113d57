-- The checkpoints of LangGraph's threads, for asm.integrations.langgraph.
-- depends: 0001-agent-sessions

-- A thread is a session: its id is the session's. What LangGraph serializes is stored as it is.

-- One row per checkpoint, without the values of its channels but the shortest.
create table if not exists asm_checkpoints (
    session_id text collate "C" not null,
    checkpoint_ns text collate "C" not null,
    checkpoint_id text collate "C" not null,
    parent_checkpoint_id text collate "C",
    run_id text collate "C",
    metadata json not null,
    type text not null,
    value bytea not null,
    -- An object: the channels whose values are in asm_checkpoint_blobs, with their versions.
    blob_versions json not null,
    -- A list: the channels whose values are the writes since an earlier checkpoint.
    delta_channels json,
    created_at timestamptz not null,
    constraint asm_checkpoints_pkey primary key (session_id, checkpoint_ns, checkpoint_id)
);

-- delete_for_runs finds the checkpoints of a run.
create index if not exists asm_checkpoints_by_run on asm_checkpoints (run_id, session_id)
 where run_id is not null;

-- The value of a channel, once for each of its versions.
create table if not exists asm_checkpoint_blobs (
    session_id text collate "C" not null,
    checkpoint_ns text collate "C" not null,
    channel text collate "C" not null,
    version text collate "C" not null,
    type text not null,
    value bytea not null,
    constraint asm_checkpoint_blobs_pkey primary key (session_id, checkpoint_ns, channel, version)
);

-- What the tasks after a checkpoint have written. A write may be stored before its checkpoint.
create table if not exists asm_checkpoint_writes (
    session_id text collate "C" not null,
    checkpoint_ns text collate "C" not null,
    checkpoint_id text collate "C" not null,
    task_id text collate "C" not null,
    idx bigint not null,
    task_path text collate "C" not null,
    channel text collate "C" not null,
    type text not null,
    value bytea not null,
    created_at timestamptz not null,
    constraint asm_checkpoint_writes_pkey
        primary key (session_id, checkpoint_ns, checkpoint_id, task_id, idx)
);

-- A session that is deleted, by delete_session, retention or by hand, takes its checkpoints along.
-- The schema is that of the session, whatever the search_path is. The rights are those of the
-- owner: a role that may delete a session needs no grant on these tables.
create or replace function asm_delete_checkpoints() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    execute pg_catalog.format(
        'delete from %I.asm_checkpoints where session_id = $1', tg_table_schema
    ) using old.id;
    execute pg_catalog.format(
        'delete from %I.asm_checkpoint_blobs where session_id = $1', tg_table_schema
    ) using old.id;
    execute pg_catalog.format(
        'delete from %I.asm_checkpoint_writes where session_id = $1', tg_table_schema
    ) using old.id;
    return null;
end
$$;

-- Nobody else may make a trigger of it: it would run, with the rights of the owner, what is in the
-- tables of another schema. The trigger below needs no grant.
revoke execute on function asm_delete_checkpoints() from public;

create or replace trigger asm_sessions_delete_checkpoints
 after delete on asm_sessions
   for each row execute function asm_delete_checkpoints();
