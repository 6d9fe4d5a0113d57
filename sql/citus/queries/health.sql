-- find_artifacts_without_session
select artifact.session_id, pg_catalog.count(*) as number
  from asm_artifacts as artifact
  left join asm_sessions as session on session.id = artifact.session_id
 where artifact.session_id is not null
   and session.id is null
   and artifact.session_id > %(after)s                     -- if after
   and artifact.session_id <= %(up_to)s                    -- if up_to
 group by artifact.session_id
 order by artifact.session_id
 limit %(limit)s;
