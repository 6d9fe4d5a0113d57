drop trigger if exists asm_session_sequences_note_advanced on asm_session_sequences;

drop trigger if exists asm_session_sequences_note_new on asm_session_sequences;

drop function if exists asm_note_unindexed_events();

drop table if exists asm_unindexed_events;

drop table if exists asm_event_words;
