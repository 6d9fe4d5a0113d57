drop trigger if exists asm_events_note_unindexed on asm_events;

drop function if exists asm_note_unindexed_events();

drop table if exists asm_unindexed_events;

drop table if exists asm_event_words;
