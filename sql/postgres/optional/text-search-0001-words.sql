-- The words of events' data, for searches by text.
-- depends: 0001-agent-sessions

-- asm finds the words, in the program, so that a search finds the same events on both databases.

create table if not exists asm_event_words (
    session_id text collate "C" not null,
    sequence_number bigint not null,
    words tsvector not null,
    word_count bigint not null,
    constraint asm_event_words_pkey primary key (session_id, sequence_number),
    -- An event that is deleted, by whatever statement, takes its words along. The check sees what
    -- other transactions have committed, whatever the isolation level, and runs with the rights of
    -- the owner: a role that may delete an event needs no grant on this table.
    constraint asm_event_words_of_event
        foreign key (session_id, sequence_number)
        references asm_events (session_id, sequence_number) on delete cascade
);

-- Entries are collected in a list first, and moved into the index together, which writes a tenth
-- of the WAL.
create index if not exists asm_event_words_by_word on asm_event_words using gin (words);

-- The events that are not indexed yet, as ranges of sequence numbers. To index an event takes
-- longer than to append it, so a statement that appends only inserts a row here for each of its
-- sessions. It updates none, so that appends wait neither for each other nor for the program that
-- indexes.
create table if not exists asm_unindexed_events (
    id bigint generated always as identity,
    session_id text collate "C" not null,
    first_sequence bigint not null,
    last_sequence bigint not null,
    constraint asm_unindexed_events_pkey primary key (id)
);

-- Whatever inserts events advances the counter of their session in the same transaction. A trigger
-- on the counters runs once for a batch.
-- The tables are those in the schema of the counters, whatever the search_path is; set_config is
-- undone at the end of the function, which has a setting of its own. The rights are those of the
-- owner: a role that may append needs no grant on asm_unindexed_events.
create or replace function asm_note_unindexed_events() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_catalog.set_config(
        'search_path', pg_catalog.format('pg_catalog, %I, pg_temp', tg_table_schema), true
    );
    insert into asm_unindexed_events (session_id, first_sequence, last_sequence)
    values (
        new.session_id,
        case when tg_op = 'INSERT' then 1 else old.last_sequence + 1 end,
        new.last_sequence
    );
    return null;
end
$$;

-- Nobody else may make a trigger of it: it would write, with the rights of the owner, into the
-- tables of another schema. The triggers below need no grant.
revoke execute on function asm_note_unindexed_events() from public;

-- They wait for the transactions that are appending, so the rows below cover their events.
create or replace trigger asm_session_sequences_note_new
 after insert on asm_session_sequences
   for each row when (new.last_sequence > 0)
       execute function asm_note_unindexed_events();

create or replace trigger asm_session_sequences_note_advanced
 after update of last_sequence on asm_session_sequences
   for each row when (new.last_sequence > old.last_sequence)
       execute function asm_note_unindexed_events();

insert into asm_unindexed_events (session_id, first_sequence, last_sequence)
select session_id, 1, last_sequence
  from asm_session_sequences
 where last_sequence > 0;
