-- The checkpoints of LangGraph's threads, for asm.integrations.langgraph.
-- depends: 0001-agent-sessions

-- A thread is a session: its id is the session's. What LangGraph serializes is stored as it is.

-- Tables with rowids, because values are large: a put writes 6.6 pages, without rowids 8.9.

-- One row per checkpoint, without the values of its channels but the shortest.
create table if not exists asm_checkpoints (
    session_id text not null,
    checkpoint_ns text not null,
    checkpoint_id text not null,
    parent_checkpoint_id text,
    run_id text,
    metadata text not null,
    type text not null,
    value blob not null,
    -- An object: the channels whose values are in asm_checkpoint_blobs, with their versions.
    blob_versions text not null,
    -- A list: the channels whose values are the writes since an earlier checkpoint.
    delta_channels text,
    created_at text not null,
    primary key (session_id, checkpoint_ns, checkpoint_id)
) strict;

-- delete_for_runs finds the checkpoints of a run.
create index if not exists asm_checkpoints_by_run on asm_checkpoints (run_id, session_id)
 where run_id is not null;

-- The value of a channel, once for each of its versions.
create table if not exists asm_checkpoint_blobs (
    session_id text not null,
    checkpoint_ns text not null,
    channel text not null,
    version text not null,
    type text not null,
    value blob not null,
    primary key (session_id, checkpoint_ns, channel, version)
) strict;

-- What the tasks after a checkpoint have written. A write may be stored before its checkpoint.
create table if not exists asm_checkpoint_writes (
    session_id text not null,
    checkpoint_ns text not null,
    checkpoint_id text not null,
    task_id text not null,
    idx integer not null,
    task_path text not null,
    channel text not null,
    type text not null,
    value blob not null,
    created_at text not null,
    primary key (session_id, checkpoint_ns, checkpoint_id, task_id, idx)
) strict;

-- A session that is deleted, by delete_session, retention or by hand, takes its checkpoints along.
create trigger if not exists asm_sessions_delete_checkpoints
 after delete on asm_sessions
   for each row
begin
    delete from asm_checkpoints where session_id = old.id;
    delete from asm_checkpoint_blobs where session_id = old.id;
    delete from asm_checkpoint_writes where session_id = old.id;
end;
