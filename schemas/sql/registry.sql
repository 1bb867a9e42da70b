-- What is known of all streams together. Run by the owner; idempotent.

create schema if not exists tidemark;

-- A stream's log: which topic, how many partitions, and the identity that migrate wrote as the first record of each.
create table if not exists tidemark.streams (
    name       text primary key,
    topic      text not null,
    partitions integer not null check (partitions > 0),
    log_uuid   text not null,
    log_hash   text not null
);

-- A generation is one set of tables folded from the log's start. The live one stands in the schema named like the stream.
create table if not exists tidemark.generations (
    stream      text not null references tidemark.streams (name),
    generation  integer not null,
    schema_name text not null unique,
    fingerprint text not null,
    status      text not null check (status in ('live', 'candidate', 'retired')),
    created_at  timestamptz not null default now(),
    primary key (stream, generation)
);
create unique index if not exists generations_one_live on tidemark.generations (stream) where status = 'live';

-- Who folds what, said by the consumers themselves every few seconds.
create table if not exists tidemark.consumers (
    instance     text not null,
    stream       text not null,
    fingerprint  text not null,
    version      text not null,
    partitions   integer[] not null,
    state        text not null,
    started_at   timestamptz not null,
    heartbeat_at timestamptz not null,
    primary key (instance, stream)
);

create or replace view tidemark.api_streams as
select s.name, s.topic, s.partitions, s.log_hash, g.generation, g.fingerprint
from tidemark.streams s
left join tidemark.generations g on g.stream = s.name and g.status = 'live';

create or replace view tidemark.api_consumers as
select c.instance, c.stream, c.fingerprint, c.version, c.partitions, c.state,
       (extract(epoch from c.heartbeat_at) * 1000000)::bigint as heartbeat_us
from tidemark.consumers c
where c.heartbeat_at > now() - interval '1 minute';
