-- The words of events' data, for searches by text.
-- depends: 0001-agent-sessions

-- asm finds the words, in the program, so that a search finds the same events on both databases.

-- One row per event that is indexed. Its id is the rowid of its words.
create table if not exists asm_event_words (
    id integer primary key,
    session_id text not null,
    sequence_number integer not null,
    word_count integer not null,
    unique (session_id, sequence_number)
) strict;

-- The words are folded already, and separated by spaces. FTS5 stores them, so that they can be
-- deleted: before version 3.43 of SQLite a table without contents would have to be told the words.
create virtual table if not exists asm_event_words_index using fts5 (words, tokenize = 'ascii');

-- The places of each word, from which the order by relevance is made.
create virtual table if not exists asm_event_words_places
 using fts5vocab (asm_event_words_index, instance);

-- The events that are not indexed yet, as a range of sequence numbers for each session. To index
-- an event takes longer than to append it, so an append only widens the range.
create table if not exists asm_unindexed_events (
    id integer primary key,
    session_id text not null unique,
    first_sequence integer not null,
    last_sequence integer not null
) strict;

-- Whatever inserts events advances the counter of their session in the same transaction. A trigger
-- on the counters runs once for a batch; one on the events would double the time of a batch.
create trigger if not exists asm_session_sequences_note_new
 after insert on asm_session_sequences
   for each row when new.last_sequence > 0
begin
    insert into asm_unindexed_events (session_id, first_sequence, last_sequence)
    values (new.session_id, 1, new.last_sequence)
    on conflict (session_id) do update
       set first_sequence = 1,
           last_sequence = max(last_sequence, excluded.last_sequence);
end;

create trigger if not exists asm_session_sequences_note_advanced
 after update of last_sequence on asm_session_sequences
   for each row when new.last_sequence > old.last_sequence
begin
    insert into asm_unindexed_events (session_id, first_sequence, last_sequence)
    values (new.session_id, old.last_sequence + 1, new.last_sequence)
    on conflict (session_id) do update
       set first_sequence = min(first_sequence, excluded.first_sequence),
           last_sequence = max(last_sequence, excluded.last_sequence);
end;

-- An event that is deleted, by whatever statement, takes its words along.
create trigger if not exists asm_events_delete_words
 after delete on asm_events
   for each row
begin
    delete from asm_event_words_index
     where rowid = (
           select id
             from asm_event_words
            where session_id = old.session_id
              and sequence_number = old.sequence_number
       );
    delete from asm_event_words
     where session_id = old.session_id
       and sequence_number = old.sequence_number;
end;

insert into asm_unindexed_events (session_id, first_sequence, last_sequence)
select session_id, 1, last_sequence
  from asm_session_sequences
 where last_sequence > 0;
