-- check_text_tables
-- Returns no row, and fails where a table is missing.
select 1
  from asm_event_words, asm_unindexed_events
 where false;

-- count_text_rows
select 'event_words', pg_catalog.count(*) from asm_event_words
union all
select 'unindexed_events', pg_catalog.count(*) from asm_unindexed_events;

-- has_text_index
-- Whether the schema of the events has the tables of searches by text.
select exists (
       select 1
         from pg_catalog.pg_type as event
         join pg_catalog.pg_class as words on words.relnamespace = event.typnamespace
        where event.oid = pg_catalog.pg_typeof(null::asm_events)::oid
          and words.relname = %(table_name)s::name
  ) as has_index;

-- find_unindexed_events
-- The events of the ranges that are not indexed, a page at a time, with the beginning of their
-- data. Ranges may overlap, and some of their events may be deleted or indexed already.
select unindexed.id as range_id, event.session_id, event.sequence_number, event.id,
       pg_catalog."left"(event.data::text, %(length_max)s::integer) as data
  from asm_unindexed_events as unindexed
  join asm_events as event
    on event.session_id = unindexed.session_id
   and event.sequence_number between unindexed.first_sequence and unindexed.last_sequence
 where not exists (
       select 1
         from asm_event_words as word
        where word.session_id = event.session_id
          and word.sequence_number = event.sequence_number
       )
   and unindexed.id = any(%(ids)s::bigint[])               -- if ids
   and (unindexed.id, event.sequence_number) > (%(last_range)s, %(last_sequence)s) -- if last_range
 order by unindexed.id, event.sequence_number
 limit %(limit)s;

-- lock_unindexed_events
-- The first ranges, without those that another program is indexing.
select id
  from asm_unindexed_events
 order by id
 limit %(limit)s
   for update skip locked;

-- insert_event_words
-- Indexes events that are stored still. They are locked against deletion first: an event that is
-- deleted while its words are inserted would leave them behind. The position of a word is its
-- place in the text; at some places there is no word.
with new as (
    select pg_catalog.unnest(%(session_ids)s::text[]) as session_id,
           pg_catalog.unnest(%(sequence_numbers)s::bigint[]) as sequence_number,
           pg_catalog.unnest(%(event_ids)s::text[]) as id,
           pg_catalog.unnest(%(texts)s::text[]) as text,
           pg_catalog.unnest(%(word_counts)s::bigint[]) as word_count
), stored as (
    select new.session_id, new.sequence_number, new.text, new.word_count
      from new
      join asm_events as event
        on event.session_id = new.session_id
       and event.sequence_number = new.sequence_number
       and event.id = new.id
     order by new.session_id collate "C", new.sequence_number
       for key share of event
)
insert into asm_event_words (session_id, sequence_number, words, word_count)
select session_id, sequence_number,
       (
           select coalesce(
                      pg_catalog.string_agg(
                          pg_catalog.concat('''', each.word, ''':', each.position), ' '
                      ),
                      ''
                  )::tsvector
             from pg_catalog.unnest(pg_catalog.string_to_array(text, ' '))
                  with ordinality as each (word, position)
            where each.word <> '␟'
       ),
       word_count
  from stored
on conflict (session_id, sequence_number) do nothing;

-- delete_unindexed_events
delete from asm_unindexed_events
 where id = any(%(ids)s::bigint[]);

-- narrow_unindexed_events
-- The events of a range before this number are indexed.
update asm_unindexed_events
   set first_sequence = %(first_sequence)s
 where id = %(id)s;

-- clean_text_index
-- Moves the entries that were inserted last into the index, which only its owner may do. Every
-- search reads those that are not moved.
select pg_catalog.gin_clean_pending_list(indexed.oid::regclass) as pages
  from pg_catalog.pg_type as event
  join pg_catalog.pg_class as indexed on indexed.relnamespace = event.typnamespace
 where event.oid = pg_catalog.pg_typeof(null::asm_events)::oid
   and indexed.relname = %(index_name)s::name
   and pg_catalog.pg_has_role(indexed.relowner, 'USAGE');

-- search_events_by_text
-- As search_events, of the events that have words. `found` are those that are not indexed yet.
-- `match` is in the language of FTS5, of which a tsquery is made by replacing the operators.
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from (
       select word.session_id as found_session, word.sequence_number as found_sequence
         from asm_event_words as word
        where word.words operator(pg_catalog.@@) pg_catalog.replace(pg_catalog.replace(
              pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
                  %(match)s::text, '"', ''''), ' + ', '<->'),
                  ' AND ', '&'), ' NOT ', '&!'), ' *', ':*')::tsquery
       union
       select found.session_id collate "C", found.sequence_number
         from pg_catalog.json_to_recordset(%(found)s::json)
              as found (session_id text, sequence_number bigint, rank bigint)
  ) as matching
  join asm_events
    on session_id = found_session
   and sequence_number = found_sequence
 where true
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s::text[])           -- if session_ids
   and run_id = %(run_id)s                                 -- if run_id
   and run_id = any(%(run_ids)s::text[])                   -- if run_ids
   and type = %(type)s                                     -- if type
   and type = any(%(types)s::text[])                       -- if types
   and provider = any(%(providers)s::text[])               -- if providers
   and correlation_id = %(correlation_id)s                 -- if correlation_id
   and correlation_id = any(%(correlation_ids)s::text[])   -- if correlation_ids
   and timestamp >= %(since)s                              -- if since
   and timestamp < %(until)s                               -- if until
   and (session_id, sequence_number)                       -- if sequence_asc and last_sequence
       > (%(last_session)s, %(last_sequence)s)             -- if sequence_asc and last_sequence
   and (timestamp, session_id, sequence_number)            -- if timestamp_asc and last_sequence
       > (%(last_at)s, %(last_session)s, %(last_sequence)s) -- if timestamp_asc and last_sequence
   and (timestamp, session_id, sequence_number)            -- if timestamp_desc and last_sequence
       < (%(last_at)s, %(last_session)s, %(last_sequence)s) -- if timestamp_desc and last_sequence
 order by session_id, sequence_number                      -- if sequence_asc
 order by timestamp, session_id, sequence_number           -- if timestamp_asc
 order by timestamp desc, session_id desc, sequence_number desc -- if timestamp_desc
 limit %(limit)s;

-- search_events_by_relevance
-- As search_events_by_text, those first of whose words the largest part are the words sought.
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id,
       rank
  from (
       select word.session_id as found_session, word.sequence_number as found_sequence,
              1000000 * (
                  select coalesce(pg_catalog.sum(pg_catalog.cardinality(each.positions)), 0)
                    from pg_catalog.unnest(word.words) as each (lexeme, positions, weights),
                         pg_catalog.json_to_recordset(%(ranges)s::json)
                             as range (first text, last text)
                   where each.lexeme collate "C" between range.first and range.last
              )::bigint / (word.word_count + 50) as rank
         from asm_event_words as word
        where word.words operator(pg_catalog.@@) pg_catalog.replace(pg_catalog.replace(
              pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
                  %(match)s::text, '"', ''''), ' + ', '<->'),
                  ' AND ', '&'), ' NOT ', '&!'), ' *', ':*')::tsquery
       union
       select found.session_id collate "C", found.sequence_number, found.rank
         from pg_catalog.json_to_recordset(%(found)s::json)
              as found (session_id text, sequence_number bigint, rank bigint)
  ) as matching
  join asm_events
    on session_id = found_session
   and sequence_number = found_sequence
 where true
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s::text[])           -- if session_ids
   and run_id = %(run_id)s                                 -- if run_id
   and run_id = any(%(run_ids)s::text[])                   -- if run_ids
   and type = %(type)s                                     -- if type
   and type = any(%(types)s::text[])                       -- if types
   and provider = any(%(providers)s::text[])               -- if providers
   and correlation_id = %(correlation_id)s                 -- if correlation_id
   and correlation_id = any(%(correlation_ids)s::text[])   -- if correlation_ids
   and timestamp >= %(since)s                              -- if since
   and timestamp < %(until)s                               -- if until
   and (rank, session_id, sequence_number)                 -- if relevance and last_rank
       < (%(last_rank)s, %(last_session)s, %(last_sequence)s) -- if relevance and last_rank
 order by rank desc, session_id desc, sequence_number desc -- if relevance
 limit %(limit)s;

-- count_events_by_text
-- How many events search_events_by_text finds on all pages together.
select pg_catalog.count(*)
  from (
       select word.session_id as found_session, word.sequence_number as found_sequence
         from asm_event_words as word
        where word.words operator(pg_catalog.@@) pg_catalog.replace(pg_catalog.replace(
              pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
                  %(match)s::text, '"', ''''), ' + ', '<->'),
                  ' AND ', '&'), ' NOT ', '&!'), ' *', ':*')::tsquery
       union
       select found.session_id collate "C", found.sequence_number
         from pg_catalog.json_to_recordset(%(found)s::json)
              as found (session_id text, sequence_number bigint, rank bigint)
  ) as matching
  join asm_events
    on session_id = found_session
   and sequence_number = found_sequence
 where true
   and session_id = %(session_id)s                         -- if session_id
   and session_id = any(%(session_ids)s::text[])           -- if session_ids
   and run_id = %(run_id)s                                 -- if run_id
   and run_id = any(%(run_ids)s::text[])                   -- if run_ids
   and type = %(type)s                                     -- if type
   and type = any(%(types)s::text[])                       -- if types
   and provider = any(%(providers)s::text[])               -- if providers
   and correlation_id = %(correlation_id)s                 -- if correlation_id
   and correlation_id = any(%(correlation_ids)s::text[])   -- if correlation_ids
   and timestamp >= %(since)s                              -- if since
   and timestamp < %(until)s                               -- if until
;

-- search_sessions_by_text
-- As search_sessions, of the sessions with an event that has words.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from (
       select distinct found_session
         from (
              select word.session_id as found_session, word.sequence_number as found_sequence
                from asm_event_words as word
               where word.words operator(pg_catalog.@@) pg_catalog.replace(pg_catalog.replace(
                     pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
                         %(match)s::text, '"', ''''), ' + ', '<->'),
                         ' AND ', '&'), ' NOT ', '&!'), ' *', ':*')::tsquery
              union
              select found.session_id collate "C", found.sequence_number
                from pg_catalog.json_to_recordset(%(found)s::json)
                     as found (session_id text, sequence_number bigint, rank bigint)
         ) as matching
  ) as found_sessions
  join asm_sessions on id = found_session
 where true
   and agent_id = %(agent_id)s                             -- if agent_id
   and agent_id = any(%(agent_ids)s::text[])               -- if agent_ids
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and parent_session_id = %(parent_session_id)s           -- if parent_session_id
   and parent_session_id = any(%(parent_session_ids)s::text[]) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s::text[])) -- if providers
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
   and tags operator(pg_catalog.@>) %(tags)s::text[]       -- if tags
   and (created_at, id) > (%(last_at)s, %(last_id)s)       -- if created_at_asc and last_id
   and (created_at, id) < (%(last_at)s, %(last_id)s)       -- if created_at_desc and last_id
   and (updated_at, id) > (%(last_at)s, %(last_id)s)       -- if updated_at_asc and last_id
   and (updated_at, id) < (%(last_at)s, %(last_id)s)       -- if updated_at_desc and last_id
 order by created_at, id                                   -- if created_at_asc
 order by created_at desc, id desc                         -- if created_at_desc
 order by updated_at, id                                   -- if updated_at_asc
 order by updated_at desc, id desc                         -- if updated_at_desc
 limit %(limit)s;

-- search_sessions_by_relevance
-- As search_sessions_by_text, by the most relevant event of each session.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at,
       rank
  from (
       select found_session, pg_catalog.max(rank) as rank
         from (
              select word.session_id as found_session, word.sequence_number as found_sequence,
                     1000000 * (
                         select coalesce(pg_catalog.sum(pg_catalog.cardinality(each.positions)), 0)
                           from pg_catalog.unnest(word.words) as each (lexeme, positions, weights),
                                pg_catalog.json_to_recordset(%(ranges)s::json)
                                    as range (first text, last text)
                          where each.lexeme collate "C" between range.first and range.last
                     )::bigint / (word.word_count + 50) as rank
                from asm_event_words as word
               where word.words operator(pg_catalog.@@) pg_catalog.replace(pg_catalog.replace(
                     pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
                         %(match)s::text, '"', ''''), ' + ', '<->'),
                         ' AND ', '&'), ' NOT ', '&!'), ' *', ':*')::tsquery
              union
              select found.session_id collate "C", found.sequence_number, found.rank
                from pg_catalog.json_to_recordset(%(found)s::json)
                     as found (session_id text, sequence_number bigint, rank bigint)
         ) as matching
        group by found_session
  ) as best
  join asm_sessions on id = found_session
 where true
   and agent_id = %(agent_id)s                             -- if agent_id
   and agent_id = any(%(agent_ids)s::text[])               -- if agent_ids
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and parent_session_id = %(parent_session_id)s           -- if parent_session_id
   and parent_session_id = any(%(parent_session_ids)s::text[]) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s::text[])) -- if providers
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
   and tags operator(pg_catalog.@>) %(tags)s::text[]       -- if tags
   and (rank, id) < (%(last_rank)s, %(last_id)s)           -- if relevance and last_rank
 order by rank desc, id desc                               -- if relevance
 limit %(limit)s;

-- count_sessions_by_text
-- How many sessions search_sessions_by_text finds on all pages together.
select pg_catalog.count(*)
  from (
       select distinct found_session
         from (
              select word.session_id as found_session, word.sequence_number as found_sequence
                from asm_event_words as word
               where word.words operator(pg_catalog.@@) pg_catalog.replace(pg_catalog.replace(
                     pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
                         %(match)s::text, '"', ''''), ' + ', '<->'),
                         ' AND ', '&'), ' NOT ', '&!'), ' *', ':*')::tsquery
              union
              select found.session_id collate "C", found.sequence_number
                from pg_catalog.json_to_recordset(%(found)s::json)
                     as found (session_id text, sequence_number bigint, rank bigint)
         ) as matching
  ) as found_sessions
  join asm_sessions on id = found_session
 where true
   and agent_id = %(agent_id)s                             -- if agent_id
   and agent_id = any(%(agent_ids)s::text[])               -- if agent_ids
   and status = %(status)s                                 -- if status
   and status = any(%(statuses)s::text[])                  -- if statuses
   and parent_session_id = %(parent_session_id)s           -- if parent_session_id
   and parent_session_id = any(%(parent_session_ids)s::text[]) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider = any(%(providers)s::text[])) -- if providers
   and created_at >= %(created_after)s                     -- if created_after
   and created_at < %(created_before)s                     -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
   and tags operator(pg_catalog.@>) %(tags)s::text[]       -- if tags
;

-- find_matching_events
-- The newest event with the words of each requested session, with the beginning of its data.
select event.session_id,
       pg_catalog."left"(event.data::text, %(length_max)s::integer) as data
  from (
       select found_session, pg_catalog.max(found_sequence) as found_sequence
         from (
              select word.session_id as found_session, word.sequence_number as found_sequence
                from asm_event_words as word
               where word.words operator(pg_catalog.@@) pg_catalog.replace(pg_catalog.replace(
                     pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
                         %(match)s::text, '"', ''''), ' + ', '<->'),
                         ' AND ', '&'), ' NOT ', '&!'), ' *', ':*')::tsquery
                 and word.session_id = any(%(session_ids)s::text[])
              union
              select found.session_id collate "C", found.sequence_number
                from pg_catalog.json_to_recordset(%(found)s::json)
                     as found (session_id text, sequence_number bigint, rank bigint)
               where found.session_id = any(%(session_ids)s::text[])
         ) as matching
        group by found_session
  ) as newest
  join asm_events as event
    on event.session_id = found_session
   and event.sequence_number = found_sequence;
