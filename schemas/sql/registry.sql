-- What is known of all streams together. Run by the owner; idempotent.

create schema if not exists tidemark;

-- A stream's log: which topic, how many partitions, and the identity that migrate wrote as the first record of each.
create table if not exists tidemark.streams (
    name       text primary key,
    topic      text not null,
    partitions integer not null check (partitions > 0),
    log_uuid   text not null,
    log_hash   text not null,
    -- the highest number ever given to one of its generations: numbers are not used again
    last_generation integer not null default 1,
    -- how often another generation has become the live one
    swaps           bigint not null default 0
);

-- A generation is one set of tables folded from the log's start. Exactly one of a stream is read, the live one; it stands in the
-- schema named like the stream, the others in <stream>_<generation>. `replay` folds a building one until it has caught up with the
-- live one; from then on consumers of its fingerprint keep it up to date, whether it is a candidate that nobody has read yet or
-- retired, i.e. was live before. A scratch is folded from a file instead, once, and stays what it is until it is dropped.
create table if not exists tidemark.generations (
    stream      text not null references tidemark.streams (name),
    generation  integer not null,
    schema_name text not null unique,
    fingerprint text not null,
    status      text not null check (status in ('building', 'candidate', 'live', 'retired', 'scratch')),
    created_at  timestamptz not null default now(),
    retired_at  timestamptz,
    primary key (stream, generation)
);
create unique index if not exists generations_one_live on tidemark.generations (stream) where status = 'live';

-- Who folds which generation, said by the consumers themselves every few seconds.
create table if not exists tidemark.consumers (
    instance     text not null,
    stream       text not null,
    generation   integer not null default 1,
    fingerprint  text not null,
    version      text not null,
    partitions   integer[] not null,
    state        text not null,
    started_at   timestamptz not null,
    heartbeat_at timestamptz not null,
    primary key (instance, stream, generation)
);

-- What was last found by the one consumer that audits a stream: whether its live tables are what the log says.
create table if not exists tidemark.audits (
    stream       text primary key references tidemark.streams (name),
    instance     text not null,
    generation   integer not null,
    -- reading: not yet where the tables were when it began; refused: the log cannot be read as a whole,
    -- or takes more memory than the audit may have
    state        text not null check (state in ('reading', 'equal', 'differs', 'refused')),
    detail       text not null,
    -- what has been counted of the log, how many offsets the tables were ahead of that, and what it adds up to
    next_offsets bigint[] not null,
    behind       bigint not null,
    digest       numeric not null,
    -- when the flushes were last compared with the log, and the tables with the flushes
    log_at       timestamptz,
    tables_at    timestamptz,
    -- the rows that differ, as `verify --deep --json` names them
    findings     text,
    heartbeat_at timestamptz not null
);

-- What an older version has made gets what it lacks. Nothing is altered, and so nobody kept waiting, once it is there.
do $$ begin
    if not exists (select 1 from information_schema.columns
                   where table_schema = 'tidemark' and table_name = 'streams' and column_name = 'swaps') then
        alter table tidemark.streams add column last_generation integer not null default 1;
        alter table tidemark.streams add column swaps bigint not null default 0;
        alter table tidemark.generations add column retired_at timestamptz;
        alter table tidemark.consumers add column generation integer not null default 1;
        alter table tidemark.consumers drop constraint consumers_pkey;
        alter table tidemark.consumers add primary key (instance, stream, generation);
    end if;
    if not exists (select 1 from pg_constraint
                   where conrelid = 'tidemark.generations'::regclass and conname = 'generations_status_check'
                     and pg_get_constraintdef(oid) like '%scratch%') then
        alter table tidemark.generations drop constraint generations_status_check;
        alter table tidemark.generations add constraint generations_status_check
            check (status in ('building', 'candidate', 'live', 'retired', 'scratch'));
    end if;
end $$;

-- To replace a view is to wait for whoever reads it, so they are made once; with the last one all are there.
do $$ begin
    if to_regclass('tidemark.api_audits') is not null then return; end if;

    create or replace view tidemark.api_streams as
    select s.name, s.topic, s.partitions, s.log_hash, g.generation, g.fingerprint
    from tidemark.streams s
    left join tidemark.generations g on g.stream = s.name and g.status = 'live';

    create or replace view tidemark.api_consumers as
    select c.instance, c.stream, c.fingerprint, c.version, c.partitions, c.state,
           (extract(epoch from c.heartbeat_at) * 1000000)::bigint as heartbeat_us,
           c.generation
    from tidemark.consumers c
    where c.heartbeat_at > now() - interval '1 minute';

    create or replace view tidemark.api_generations as
    select g.stream, g.generation, g.schema_name, g.fingerprint, g.status,
           (extract(epoch from g.created_at) * 1000000)::bigint as created_us,
           (extract(epoch from g.retired_at) * 1000000)::bigint as retired_us
    from tidemark.generations g;

    -- Nobody audits a stream whose auditor has not been heard of for a while.
    create or replace view tidemark.api_audits as
    select s.name as stream, g.generation, a.instance, a.state, a.detail, a.next_offsets::text as next_offsets, a.behind,
           a.digest::text as digest, (extract(epoch from a.log_at) * 1000000)::bigint as log_us,
           (extract(epoch from a.tables_at) * 1000000)::bigint as tables_us, a.findings,
           (a.heartbeat_at > now() - interval '10 seconds' and a.generation = g.generation) is true as is_current
    from tidemark.streams s
    join tidemark.generations g on g.stream = s.name and g.status = 'live'
    left join tidemark.audits a on a.stream = s.name;
end $$;
