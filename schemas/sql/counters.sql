-- Counters: totals since ever, and the same increments by 10-second window of event time. Run with search_path set to the
-- generation's schema.

create table totals (
    key        text collate "C" primary key,
    value      numeric not null,
    count      bigint not null,
    -- log time of the last event in it
    updated_at timestamptz not null
) with (fillfactor = 70);

-- By partition too: an increment counts wherever it lands, and min and max offset only mean something within one.
create table windows (
    key          text collate "C" not null,
    window_start timestamptz not null,
    partition    integer not null,
    value        numeric not null,
    count        bigint not null,
    min_offset   bigint not null,
    max_offset   bigint not null,
    primary key (key, window_start, partition)
) with (fillfactor = 70);
-- For window retention: a partition's oldest windows.
create index windows_by_start on windows (partition, window_start);

create view api_counters as
select t.key                                                 as key,
       t.value::text                                         as value,
       t.count::bigint                                       as count,
       (extract(epoch from t.updated_at) * 1000000)::bigint  as updated_us,
       p.generation, p.applied, p.as_of
from totals t
cross join progress p;

-- A window that is being dropped may have lost rows already, so none of those is shown.
create view api_counter_windows as
select w.key                                                  as key,
       w.window_start                                         as window_start,
       w.value                                                as value,
       w.count::bigint                                        as count,
       p.generation, p.applied, p.as_of
from windows w
cross join progress p
where w.window_start >= (select coalesce(max(windows_from), '-infinity') from offsets);

-- What the totals add up to, and what the flushes say that they have to: the same in any one snapshot. The weights of a key are two
-- words of its SHA-256.
create view audit as
select (select max(generation) from offsets)::integer                           as generation,
       (select mod(sum(digest), 18446744073709551616) from offsets)             as folded,
       (select mod(mod(coalesce(sum(w.a * t.value + w.b * t.count), 0), 18446744073709551616) + 18446744073709551616,
                   18446744073709551616)
        from totals t
        cross join lateral (select sha256(convert_to(t.key, 'UTF8')) as hash offset 0) h
        cross join lateral (
            select ('x' || encode(substr(h.hash, 1, 8), 'hex'))::bit(64)::bigint::numeric as a,
                   ('x' || encode(substr(h.hash, 9, 8), 'hex'))::bit(64)::bigint::numeric as b) w) as stored;

-- Which part of the log an entity comes from, as far as its windows are kept: where to look when two generations differ.
create view evidence as
select key as entity, partition, min(min_offset) as min_offset, max(max_offset) as max_offset
from windows
group by key, partition;
