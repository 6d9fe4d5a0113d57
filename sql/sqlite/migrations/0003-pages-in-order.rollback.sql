drop table if exists asm_session_tags;

create table asm_session_tags (
    tag text not null,
    session_id text not null,
    primary key (tag, session_id)
) strict, without rowid;

insert into asm_session_tags (tag, session_id)
select distinct value, asm_sessions.id
  from asm_sessions, json_each(tags);

create index asm_session_tags_by_session on asm_session_tags (session_id);
