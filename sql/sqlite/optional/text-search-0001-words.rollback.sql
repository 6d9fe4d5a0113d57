drop trigger if exists asm_events_delete_words;

drop trigger if exists asm_events_note_unindexed;

drop table if exists asm_unindexed_events;

drop table if exists asm_event_words_places;

drop table if exists asm_event_words_index;

drop table if exists asm_event_words;
