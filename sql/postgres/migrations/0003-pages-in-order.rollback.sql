drop index if exists asm_runs_by_time;

create index asm_runs_by_time on asm_runs (started_at, session_id, id);
