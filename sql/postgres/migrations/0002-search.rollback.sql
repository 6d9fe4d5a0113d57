drop index if exists asm_events_by_time;

drop index if exists asm_events_by_correlation;

drop index if exists asm_runs_by_tokens;

drop index if exists asm_runs_by_model;

drop index if exists asm_runs_by_status;

drop index if exists asm_runs_by_provider;

drop index if exists asm_runs_by_time;

drop index if exists asm_sessions_deleted;

drop index if exists asm_sessions_by_tag;

drop index if exists asm_sessions_by_status_update;

drop index if exists asm_sessions_by_agent_update;

drop index if exists asm_sessions_by_update;
