drop trigger if exists asm_events_delete_words;

drop trigger if exists asm_session_sequences_note_advanced;

drop trigger if exists asm_session_sequences_note_new;

drop table if exists asm_unindexed_events;

drop table if exists asm_event_words_places;

drop table if exists asm_event_words_index;

drop table if exists asm_event_words;
