-- What every generation of every stream has beside its own tables. Run with search_path set to the generation's schema.
-- Everything in here is a function of the log and of where retention lets its windows begin, and moves in one transaction with
-- the offsets.

-- Where the fold stands, one row per partition. The first statement of every flush is a compare-and-set on these rows (the
-- fence), so whoever holds an older epoch or offset writes nothing.
create table offsets (
    generation    integer not null,
    partition     integer primary key,
    first_offset  bigint not null default 0,
    next_offset   bigint not null default 0 check (next_offset >= first_offset),
    epoch         bigint not null default 0,
    -- log time: the running maximum of append times, so that it never steps back
    log_time      timestamptz not null default 'epoch',
    -- everything appended before this instant is in the tables
    as_of         timestamptz,
    -- Windows of this partition's events that start earlier are dropped; null: all are kept. Only moves forward, and only by the
    -- partition's owner, so that no flush of it can be under way. The generation's windows begin at the latest of them.
    windows_from  timestamptz,
    -- applied + duplicates + parked + gaps = next_offset - first_offset
    applied       bigint not null default 0,
    duplicates    bigint not null default 0,
    parked        bigint not null default 0,
    gaps          bigint not null default 0,
    -- the sum, modulo 2^64, of what this partition's events have added to the tables (see the view `audit`)
    digest        numeric not null default 0,
    owner         text,
    backend_pid   integer,
    backend_start timestamptz
) with (fillfactor = 50);

-- First sight of each identity. Whether a later record repeats it is decided by comparing log times; rows are only deleted
-- when they can no longer decide anything.
create table dedupe (
    partition integer not null,
    identity  text collate "C" not null,
    "offset"  bigint not null,
    log_time  timestamptz not null,
    data_hash bytea not null,
    primary key (partition, identity)
);
create index dedupe_by_log_time on dedupe (partition, log_time);

-- Which lines of imported files have come, by partition: records of one header `import` count once, for ever. A bit for each
-- line, from the block's first on, without the zero bytes behind the last one.
create table imports (
    partition integer not null,
    file      text collate "C" not null,
    block     bigint not null,
    lines     bytea not null,
    primary key (partition, file, block)
) with (fillfactor = 50);

-- Records that could not be applied, byte for byte.
create table dead_letters (
    partition     integer not null,
    "offset"      bigint not null,
    topic         text not null,
    append_time   timestamptz not null,
    key           bytea,
    value         bytea,
    header_names  bytea[] not null,
    header_values bytea[] not null,
    -- why, the first time
    reason        text not null,
    -- what exactly, the last time
    detail        text not null,
    attempts      integer not null default 1,
    status        text not null default 'open' check (status in ('open', 'redriven', 'discarded', 'quarantined')),
    -- the event of its partition that last decided about it, and what a discarding one says
    decided_at    bigint,
    note          text,
    -- later records of its key wait behind it, as dead letters of their own, which hold it too: the first of them is the next that
    -- can be redriven. Only open and quarantined ones do.
    holds         boolean not null default false,
    primary key (partition, "offset")
);
-- They are looked through by age, the open ones however many have been decided about, and the few of one reason among many.
create index dead_letters_by_age on dead_letters (status, append_time, partition, "offset");
create index dead_letters_by_reason on dead_letters (status, reason, append_time, partition, "offset");
-- Who waits behind whom. By a hash, for a key may be as large as its record.
create index dead_letters_that_hold on dead_letters (partition, sha256(key), "offset") where holds;

-- How far the tables are, as every API view carries it: next offsets and as-of instants (microseconds since the epoch, 0 =
-- never known) by partition, as text lists.
create view progress as
select max(generation)::integer                                                          as generation,
       string_agg(next_offset::text, ',' order by partition)                             as applied,
       string_agg(coalesce((extract(epoch from as_of) * 1000000)::bigint, 0)::text, ',' order by partition) as as_of,
       max(windows_from)                                                                 as windows_from
from offsets;

create view api_progress as
select p.generation, p.applied, p.as_of,
       (select count(*) from dead_letters d where d.status = 'open')::bigint as open_dead_letters,
       (extract(epoch from p.windows_from) * 1000000)::bigint                as windows_from_us
from progress p;

create view api_dead_letters as
select d.partition, d."offset", d.topic, d.append_time, d.key, d.value, d.header_names, d.header_values,
       d.reason, d.detail, d.attempts, d.status, d.decided_at, d.note, d.holds,
       -- the one that it waits behind
       case when d.holds then (select min(h."offset") from dead_letters h
                               where h.holds and h.partition = d.partition and sha256(h.key) = sha256(d.key)
                                 and h."offset" < d."offset") end as behind,
       p.generation, p.applied, p.as_of
from dead_letters d
cross join progress p;
