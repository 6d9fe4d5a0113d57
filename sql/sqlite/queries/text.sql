-- check_text_tables
-- Returns no row, and fails where a table is missing.
select 1
  from asm_event_words, asm_unindexed_events
 where false;

-- count_text_rows
select 'event_words', count(*) from asm_event_words
union all
select 'unindexed_events', count(*) from asm_unindexed_events;

-- has_text_index
-- Whether the database has the tables of searches by text.
select exists (select 1 from sqlite_master where name = :table_name) as has_index;

-- find_unindexed_events
-- The events of the ranges that are not indexed, a page at a time, with the beginning of their
-- data. Ranges may overlap, and some of their events may be deleted or indexed already.
select unindexed.id as range_id, event.session_id, event.sequence_number, event.id,
       substr(event.data, 1, :length_max) as data
  from asm_unindexed_events as unindexed
 cross join asm_events as event
    on event.session_id = unindexed.session_id
   and event.sequence_number between unindexed.first_sequence and unindexed.last_sequence
 where not exists (
       select 1
         from asm_event_words as word
        where word.session_id = event.session_id
          and word.sequence_number = event.sequence_number
       )
   and unindexed.id in (select value from json_each(:ids)) -- if ids
   and (unindexed.id, event.sequence_number) > (:last_range, :last_sequence) -- if last_range
 order by unindexed.id, event.sequence_number
 limit :limit;

-- lock_unindexed_events
-- The first ranges. The whole file is locked.
select id
  from asm_unindexed_events
 order by id
 limit :limit;

-- insert_event_words
-- Indexes events that are stored still, as on PostgreSQL.
insert into asm_event_words (session_id, sequence_number, word_count)
select session_id, sequence_number, :word_counts
  from asm_events
 where session_id = :session_ids
   and sequence_number = :sequence_numbers
   and id = :event_ids
on conflict (session_id, sequence_number) do nothing;
insert into asm_event_words_index (rowid, words)
select id, :texts
  from asm_event_words
 where session_id = :session_ids
   and sequence_number = :sequence_numbers;

-- delete_unindexed_events
delete from asm_unindexed_events
 where id in (select value from json_each(:ids));

-- narrow_unindexed_events
-- The events of a range before this number are indexed.
update asm_unindexed_events
   set first_sequence = :first_sequence
 where id = :id;

-- clean_text_index
-- FTS5 merges its entries itself.
select 0 as pages
 where :index_name is null;

-- search_events_by_text
-- As search_events, of the events that have words. `found` are those that are not indexed yet.
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id
  from (
       select word.session_id as found_session, word.sequence_number as found_sequence
         from asm_event_words_index as indexed
        cross join asm_event_words as word on word.id = indexed.rowid
        where indexed.asm_event_words_index match :match
       union
       select json_extract(value, '$.session_id'), json_extract(value, '$.sequence_number')
         from json_each(:found)
  ) as matching
 cross join asm_events as event
    on session_id = found_session
   and sequence_number = found_sequence
 where true
   and session_id = :session_id                            -- if session_id
   and session_id in (select value from json_each(:session_ids)) -- if session_ids
   and run_id = :run_id                                    -- if run_id
   and run_id in (select value from json_each(:run_ids))   -- if run_ids
   and type = :type                                        -- if type
   and type in (select value from json_each(:types))       -- if types
   and provider in (select value from json_each(:providers)) -- if providers
   and correlation_id = :correlation_id                    -- if correlation_id
   and correlation_id in (select value from json_each(:correlation_ids)) -- if correlation_ids
   and timestamp >= :since                                 -- if since
   and timestamp < :until                                  -- if until
   and (session_id, sequence_number)                       -- if sequence_asc and last_sequence
       > (:last_session, :last_sequence)                   -- if sequence_asc and last_sequence
   and (timestamp, session_id, sequence_number)            -- if timestamp_asc and last_sequence
       > (:last_at, :last_session, :last_sequence)         -- if timestamp_asc and last_sequence
   and (timestamp, session_id, sequence_number)            -- if timestamp_desc and last_sequence
       < (:last_at, :last_session, :last_sequence)         -- if timestamp_desc and last_sequence
 order by session_id, sequence_number                      -- if sequence_asc
 order by timestamp, session_id, sequence_number           -- if timestamp_asc
 order by timestamp desc, session_id desc, sequence_number desc -- if timestamp_desc
 limit :limit;

-- search_events_by_relevance
-- As search_events_by_text, those first of whose words the largest part are the words sought.
select id, type, timestamp, session_id, run_id, sequence_number,
       data, metadata, schema_version, provider, correlation_id,
       rank
  from (
       select word.session_id as found_session, word.sequence_number as found_sequence,
              1000000 * hits.number / (word.word_count + 50) as rank
         from (
              select place.doc as id, count(*) as number
                from json_each(:ranges) as range
               cross join asm_event_words_places as place
                  on place.term between json_extract(range.value, '$.first')
                                    and json_extract(range.value, '$.last')
               group by place.doc
         ) as hits
        cross join asm_event_words as word on word.id = hits.id
        where word.id in (
              select indexed.rowid
                from asm_event_words_index as indexed
               where indexed.asm_event_words_index match :match
              )
       union
       select json_extract(value, '$.session_id'), json_extract(value, '$.sequence_number'),
              json_extract(value, '$.rank')
         from json_each(:found)
  ) as matching
 cross join asm_events as event
    on session_id = found_session
   and sequence_number = found_sequence
 where true
   and session_id = :session_id                            -- if session_id
   and session_id in (select value from json_each(:session_ids)) -- if session_ids
   and run_id = :run_id                                    -- if run_id
   and run_id in (select value from json_each(:run_ids))   -- if run_ids
   and type = :type                                        -- if type
   and type in (select value from json_each(:types))       -- if types
   and provider in (select value from json_each(:providers)) -- if providers
   and correlation_id = :correlation_id                    -- if correlation_id
   and correlation_id in (select value from json_each(:correlation_ids)) -- if correlation_ids
   and timestamp >= :since                                 -- if since
   and timestamp < :until                                  -- if until
   and (rank, session_id, sequence_number)                 -- if relevance and last_rank
       < (:last_rank, :last_session, :last_sequence)       -- if relevance and last_rank
 order by rank desc, session_id desc, sequence_number desc -- if relevance
 limit :limit;

-- count_events_by_text
-- How many events search_events_by_text finds on all pages together.
select count(*)
  from (
       select word.session_id as found_session, word.sequence_number as found_sequence
         from asm_event_words_index as indexed
        cross join asm_event_words as word on word.id = indexed.rowid
        where indexed.asm_event_words_index match :match
       union
       select json_extract(value, '$.session_id'), json_extract(value, '$.sequence_number')
         from json_each(:found)
  ) as matching
 cross join asm_events as event
    on session_id = found_session
   and sequence_number = found_sequence
 where true
   and session_id = :session_id                            -- if session_id
   and session_id in (select value from json_each(:session_ids)) -- if session_ids
   and run_id = :run_id                                    -- if run_id
   and run_id in (select value from json_each(:run_ids))   -- if run_ids
   and type = :type                                        -- if type
   and type in (select value from json_each(:types))       -- if types
   and provider in (select value from json_each(:providers)) -- if providers
   and correlation_id = :correlation_id                    -- if correlation_id
   and correlation_id in (select value from json_each(:correlation_ids)) -- if correlation_ids
   and timestamp >= :since                                 -- if since
   and timestamp < :until                                  -- if until
;

-- search_sessions_by_text
-- As search_sessions, of the sessions with an event that has words.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at
  from (
       select distinct found_session
         from (
              select word.session_id as found_session, word.sequence_number as found_sequence
                from asm_event_words_index as indexed
               cross join asm_event_words as word on word.id = indexed.rowid
               where indexed.asm_event_words_index match :match
              union
              select json_extract(value, '$.session_id'), json_extract(value, '$.sequence_number')
                from json_each(:found)
         ) as matching
  ) as found_sessions
 cross join asm_sessions on id = found_session
 where true
   and agent_id = :agent_id                                -- if agent_id
   and agent_id in (select value from json_each(:agent_ids)) -- if agent_ids
   and status = :status                                    -- if status
   and status in (select value from json_each(:statuses))  -- if statuses
   and parent_session_id = :parent_session_id              -- if parent_session_id
   and parent_session_id                                   -- if parent_session_ids
       in (select value from json_each(:parent_session_ids)) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider in (select value from json_each(:providers))) -- if providers
   and created_at >= :created_after                        -- if created_after
   and created_at < :created_before                        -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
   and not exists (                                        -- if tags
       select 1                                            -- if tags
         from json_each(:tags)                             -- if tags
        where not exists (select 1 from asm_session_tags as tagged -- if tags
                           where tagged.tag = value        -- if tags
                             and tagged.id = asm_sessions.id)) -- if tags
   and (created_at, id) > (:last_at, :last_id)             -- if created_at_asc and last_id
   and (created_at, id) < (:last_at, :last_id)             -- if created_at_desc and last_id
   and (updated_at, id) > (:last_at, :last_id)             -- if updated_at_asc and last_id
   and (updated_at, id) < (:last_at, :last_id)             -- if updated_at_desc and last_id
 order by created_at, id                                   -- if created_at_asc
 order by created_at desc, id desc                         -- if created_at_desc
 order by updated_at, id                                   -- if updated_at_asc
 order by updated_at desc, id desc                         -- if updated_at_desc
 limit :limit;

-- search_sessions_by_relevance
-- As search_sessions_by_text, by the most relevant event of each session.
select id, agent_id, status, parent_session_id, metadata, context, tags,
       created_at, updated_at, deleted_at,
       rank
  from (
       select found_session, max(rank) as rank
         from (
              select word.session_id as found_session, word.sequence_number as found_sequence,
                     1000000 * hits.number / (word.word_count + 50) as rank
                from (
                     select place.doc as id, count(*) as number
                       from json_each(:ranges) as range
                      cross join asm_event_words_places as place
                         on place.term between json_extract(range.value, '$.first')
                                           and json_extract(range.value, '$.last')
                      group by place.doc
                ) as hits
               cross join asm_event_words as word on word.id = hits.id
               where word.id in (
                     select indexed.rowid
                       from asm_event_words_index as indexed
                      where indexed.asm_event_words_index match :match
                     )
              union
              select json_extract(value, '$.session_id'), json_extract(value, '$.sequence_number'),
                     json_extract(value, '$.rank')
                from json_each(:found)
         ) as matching
        group by found_session
  ) as best
 cross join asm_sessions on id = found_session
 where true
   and agent_id = :agent_id                                -- if agent_id
   and agent_id in (select value from json_each(:agent_ids)) -- if agent_ids
   and status = :status                                    -- if status
   and status in (select value from json_each(:statuses))  -- if statuses
   and parent_session_id = :parent_session_id              -- if parent_session_id
   and parent_session_id                                   -- if parent_session_ids
       in (select value from json_each(:parent_session_ids)) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider in (select value from json_each(:providers))) -- if providers
   and created_at >= :created_after                        -- if created_after
   and created_at < :created_before                        -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
   and not exists (                                        -- if tags
       select 1                                            -- if tags
         from json_each(:tags)                             -- if tags
        where not exists (select 1 from asm_session_tags as tagged -- if tags
                           where tagged.tag = value        -- if tags
                             and tagged.id = asm_sessions.id)) -- if tags
   and (rank, id) < (:last_rank, :last_id)                 -- if relevance and last_rank
 order by rank desc, id desc                               -- if relevance
 limit :limit;

-- count_sessions_by_text
-- How many sessions search_sessions_by_text finds on all pages together.
select count(*)
  from (
       select distinct found_session
         from (
              select word.session_id as found_session, word.sequence_number as found_sequence
                from asm_event_words_index as indexed
               cross join asm_event_words as word on word.id = indexed.rowid
               where indexed.asm_event_words_index match :match
              union
              select json_extract(value, '$.session_id'), json_extract(value, '$.sequence_number')
                from json_each(:found)
         ) as matching
  ) as found_sessions
 cross join asm_sessions on id = found_session
 where true
   and agent_id = :agent_id                                -- if agent_id
   and agent_id in (select value from json_each(:agent_ids)) -- if agent_ids
   and status = :status                                    -- if status
   and status in (select value from json_each(:statuses))  -- if statuses
   and parent_session_id = :parent_session_id              -- if parent_session_id
   and parent_session_id                                   -- if parent_session_ids
       in (select value from json_each(:parent_session_ids)) -- if parent_session_ids
   and exists (select 1 from asm_runs                      -- if providers
                where session_id = asm_sessions.id         -- if providers
                  and provider in (select value from json_each(:providers))) -- if providers
   and created_at >= :created_after                        -- if created_after
   and created_at < :created_before                        -- if created_before
   and deleted_at is null                                  -- if exclude_deleted
   and not exists (                                        -- if tags
       select 1                                            -- if tags
         from json_each(:tags)                             -- if tags
        where not exists (select 1 from asm_session_tags as tagged -- if tags
                           where tagged.tag = value        -- if tags
                             and tagged.id = asm_sessions.id)) -- if tags
;

-- find_matching_events
-- The newest event with the words of each requested session, with the beginning of its data.
select event.session_id,
       substr(event.data, 1, :length_max) as data
  from (
       select found_session, max(found_sequence) as found_sequence
         from (
              select word.session_id as found_session, word.sequence_number as found_sequence
                from asm_event_words_index as indexed
               cross join asm_event_words as word on word.id = indexed.rowid
               where indexed.asm_event_words_index match :match
                 and word.session_id in (select value from json_each(:session_ids))
              union
              select json_extract(value, '$.session_id'), json_extract(value, '$.sequence_number')
                from json_each(:found)
               where json_extract(value, '$.session_id')
                     in (select wanted.value from json_each(:session_ids) as wanted)
         ) as matching
        group by found_session
  ) as newest
 cross join asm_events as event
    on event.session_id = found_session
   and event.sequence_number = found_sequence;
