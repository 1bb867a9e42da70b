-- Vehicles: every registration and state change by event time and log position, the current state, and the number of state changes by
-- 10-second window. Run with search_path set to the generation's schema.

-- One row per event. A vehicle's events stand in one partition, so (occurred_at, offset) orders them totally.
create table history (
    vehicle_id  bigint not null,
    kind        text collate "C" not null check (kind in ('registered', 'state_changed')),
    occurred_at timestamptz not null,
    "offset"    bigint not null,
    partition   integer not null,
    make        text collate "C",
    model       text collate "C",
    state       text collate "C",
    -- log time: when it became known
    recorded_at timestamptz not null,
    primary key (vehicle_id, kind, occurred_at, "offset"),
    check ((kind = 'registered') = (make is not null and model is not null)),
    check ((kind = 'state_changed') = (state is not null))
);

-- The newest registration and the newest state of each vehicle, by (event time, position). A vehicle without a registration
-- is known only here.
create table vehicles (
    id                bigint primary key,
    make              text collate "C",
    model             text collate "C",
    registered_at     timestamptz,
    registered_offset bigint,
    state             text collate "C",
    occurred_at       timestamptz,
    state_offset      bigint,
    -- log time of the last event of this vehicle, whether it became current or not
    applied_at        timestamptz not null
) with (fillfactor = 70);
create index vehicles_by_state on vehicles (state, id) where make is not null;

create table transitions (
    window_start timestamptz not null,
    state        text collate "C" not null,
    partition    integer not null,
    count        bigint not null,
    min_offset   bigint not null,
    max_offset   bigint not null,
    primary key (window_start, state, partition)
) with (fillfactor = 70);

create view api_vehicles as
select v.id, v.make, v.model, v.state,
       (extract(epoch from v.occurred_at) * 1000000)::bigint as occurred_us,
       (extract(epoch from v.applied_at) * 1000000)::bigint  as applied_us,
       p.generation, p.applied, p.as_of
from vehicles v
cross join progress p
where v.make is not null;

create view api_vehicle_history as
select h.vehicle_id, h.kind, h.occurred_at, h."offset", h.partition, h.make, h.model, h.state, h.recorded_at,
       p.generation, p.applied, p.as_of
from history h
cross join progress p;

-- A window that is being dropped may have lost rows already, so none of those is shown.
create view api_vehicle_windows as
select t.window_start, t.state, t.count::bigint as count,
       p.generation, p.applied, p.as_of
from transitions t
cross join progress p
where t.window_start >= (select coalesce(max(windows_from), '-infinity') from offsets);

-- What the history adds up to, and what the flushes say that it has to: the same in any one snapshot. A row's weight is the first word of
-- its SHA-256.
create view audit as
select (select max(generation) from offsets)::integer               as generation,
       (select mod(sum(digest), 18446744073709551616) from offsets) as folded,
       (select mod(mod(coalesce(sum(('x' || encode(substr(sha256(convert_to(
                   concat_ws(' ', h.vehicle_id,
                             case when isfinite(h.occurred_at) then (extract(epoch from h.occurred_at) * 1000000)::bigint end,
                             h."offset", h.partition,
                             case when isfinite(h.recorded_at) then (extract(epoch from h.recorded_at) * 1000000)::bigint end,
                             case h.kind when 'registered' then octet_length(convert_to(h.make, 'UTF8')) || ' ' || h.make || h.model
                                         else h.state end),
                   'UTF8')), 1, 8), 'hex'))::bit(64)::bigint::numeric), 0), 18446744073709551616) + 18446744073709551616,
                   18446744073709551616)
        from history h) as stored;

-- Which part of the log an entity comes from: where to look when two generations differ.
create view evidence as
select vehicle_id::text as entity, partition, min("offset") as min_offset, max("offset") as max_offset
from history
group by vehicle_id, partition;
