drop table if exists asm_artifacts;

drop table if exists asm_session_sequences;

drop table if exists asm_events;

drop table if exists asm_runs;

drop table if exists asm_sessions;
