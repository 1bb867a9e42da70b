#include "consumers/offset_store.h"

#include "infra/base/log.h"

#include <stdexcept>
#include <utility>

namespace tidemark::consumers {

namespace {

constexpr pg::Statement kClaim{"offsets_claim", R"(
update offsets set
    epoch = epoch + 1,
    owner = $3,
    backend_pid = pg_backend_pid(),
    backend_start = (select a.backend_start from pg_stat_activity a where a.pid = pg_backend_pid())
where generation = $1 and partition = any($2::integer[])
returning partition, next_offset, epoch, (extract(epoch from log_time) * 1000000)::bigint)"};

// A session is named by pid and start: a pid alone may have been given to somebody else since.
constexpr pg::Statement kTerminatePrevious{"offsets_terminate_previous", R"(
select a.pid, pg_terminate_backend(a.pid)
from offsets o
join pg_stat_activity a on a.pid = o.backend_pid and a.backend_start = o.backend_start
where o.generation = $1 and o.partition = any($2::integer[]) and a.pid <> pg_backend_pid()
group by a.pid)"};

constexpr pg::Statement kAnnounce{"offsets_announce", R"(
update offsets o set
    backend_pid = pg_backend_pid(),
    backend_start = (select a.backend_start from pg_stat_activity a where a.pid = pg_backend_pid())
from unnest($2::integer[], $3::bigint[]) as c (partition, epoch)
where o.generation = $1 and o.partition = c.partition and o.epoch = c.epoch)"};

// Locking, because a commit in doubt may still be under way: the rows are what they are once it has ended.
constexpr pg::Statement kRead{"offsets_read", R"(
select partition, next_offset, epoch, (extract(epoch from log_time) * 1000000)::bigint
from offsets where generation = $1 and partition = any($2::integer[]) for share)"};

constexpr pg::Statement kAdvance{"offsets_advance", R"(
update offsets o set
    next_offset = b.next_offset,
    as_of = greatest(o.as_of, b.as_of)
from unnest($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[])
     as b (partition, epoch, from_offset, next_offset, as_of)
where o.generation = $1 and o.partition = b.partition and o.epoch = b.epoch and o.next_offset = b.from_offset
returning o.partition, (extract(epoch from o.windows_from) * 1000000)::bigint)"};

constexpr pg::Statement kWindows{"offsets_windows", R"(
select (extract(epoch from max(windows_from)) * 1000000)::bigint, (extract(epoch from max(log_time)) * 1000000)::bigint
from offsets where generation = $1 having count(*) > 0)"};

constexpr pg::Statement kMoveWindows{"offsets_move_windows", R"(
update offsets o set windows_from = $4
from unnest($2::integer[], $3::bigint[]) as c (partition, epoch)
where o.generation = $1 and o.partition = c.partition and o.epoch = c.epoch
  and (o.windows_from is null or o.windows_from < $4))"};

constexpr pg::Statement kHold{"offsets_hold", R"(
select o.partition
from offsets o
join unnest($2::integer[], $3::bigint[]) as c (partition, epoch) on o.partition = c.partition and o.epoch = c.epoch
where o.generation = $1
for update of o)"};

constexpr pg::Statement kTally{"offsets_tally", R"(
update offsets o set
    applied = o.applied + b.applied,
    duplicates = o.duplicates + b.duplicates,
    parked = o.parked + b.parked,
    gaps = o.gaps + b.gaps,
    digest = mod(o.digest + b.digest, 18446744073709551616),
    log_time = b.log_time
from unnest($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::numeric[], $8::timestamptz[])
     as b (partition, applied, duplicates, parked, gaps, digest, log_time)
where o.generation = $1 and o.partition = b.partition)"};

pg::Array array_of(std::span<const std::int32_t> partitions) {
    pg::Array array;
    for (const auto partition : partitions)
        array.add(std::int64_t{partition});
    return array;
}

// The generation, and what is claimed.
pg::Params params_of(int generation, std::span<const Claim> claims) {
    pg::Array partitions;
    pg::Array epochs;
    for (const auto& claim : claims) {
        partitions.add(claim.partition);
        epochs.add(claim.epoch);
    }
    pg::Params params;
    params.add(std::int64_t{generation}).add(std::move(partitions)).add(std::move(epochs));
    return params;
}

std::vector<Claim> claims_of(const pg::Rows& rows) {
    std::vector<Claim> claims;
    for (std::size_t row = 0; row < rows.size(); ++row) {
        claims.push_back({static_cast<std::int32_t>(rows.integer(row, 0)), rows.integer(row, 1), rows.integer(row, 2),
                          rows.instant(row, 3)});
    }
    return claims;
}

}  // namespace

std::vector<Claim> OffsetStore::claim(pg::Connection& connection, std::span<const std::int32_t> partitions) const {
    pg::Params params;
    params.add(std::int64_t{generation_}).add(array_of(partitions)).add(owner_);
    std::vector<Claim> claims;
    try {
        claims = claims_of(connection.run(kClaim, params));
    } catch (const pg::Error& error) {
        constexpr auto kLockNotAvailable = "55P03";
        if (error.sqlstate() != kLockNotAvailable) throw;
        pg::Params previous;
        previous.add(std::int64_t{generation_}).add(array_of(partitions));
        const auto ended = connection.run(kTerminatePrevious, previous);
        base::log::warn("previous_owner_terminated", {{"sessions", ended.size()}, {"owner", owner_}});
        claims = claims_of(connection.run(kClaim, params));
    }
    if (!claims.empty() && claims.size() != partitions.size()) {
        throw std::runtime_error(
            "the topic has partitions that have no offset row: it was given more partitions than "
            "`tidemark-consumer migrate` set up. Their number is part of the log's identity: `tidemark-consumer "
            "doctor` says how to move to a new log");
    }
    return claims;
}

bool OffsetStore::announce(pg::Connection& connection, std::span<const Claim> claims) const {
    return connection.run(kAnnounce, params_of(generation_, claims)).affected() == claims.size();
}

std::vector<Claim> OffsetStore::read(pg::Connection& connection, std::span<const std::int32_t> partitions) const {
    pg::Params params;
    params.add(std::int64_t{generation_}).add(array_of(partitions));
    return claims_of(connection.run(kRead, params));
}

std::optional<WindowsFrom> OffsetStore::advance(pg::Transaction& tx, const Batch& batch) const {
    pg::Array partitions;
    pg::Array epochs;
    pg::Array froms;
    pg::Array nexts;
    pg::Array as_ofs;
    for (const auto& part : batch.parts) {
        partitions.add(std::int64_t{part.partition});
        epochs.add(part.epoch);
        froms.add(part.from);
        nexts.add(part.next);
        if (part.as_of) {
            as_ofs.add(*part.as_of);
        } else {
            as_ofs.add_null();
        }
    }
    pg::Params params;
    params.add(std::int64_t{generation_}).add(std::move(partitions)).add(std::move(epochs));
    params.add(std::move(froms)).add(std::move(nexts)).add(std::move(as_ofs));
    const auto rows = tx.run(kAdvance, params);
    if (rows.size() != batch.parts.size()) return std::nullopt;
    WindowsFrom windows_from;
    for (std::size_t row = 0; row < rows.size(); ++row) {
        if (rows.cell(row, 1))
            windows_from.begin(static_cast<std::int32_t>(rows.integer(row, 0)), rows.instant(row, 1));
    }
    return windows_from;
}

OffsetStore::Windows OffsetStore::windows(pg::Connection& connection) const {
    pg::Params params;
    params.add(std::int64_t{generation_});
    const auto rows = connection.run(kWindows, params);
    Windows windows;
    if (rows.empty()) return windows;
    if (rows.cell(0, 0)) windows.from = rows.instant(0, 0);
    windows.log_time = rows.instant(0, 1);
    return windows;
}

void OffsetStore::move_windows(pg::Connection& connection, std::span<const Claim> claims, Timestamp from) const {
    auto params = params_of(generation_, claims);
    params.add(from);
    connection.run(kMoveWindows, params);
}

bool OffsetStore::hold(pg::Transaction& tx, std::span<const Claim> claims) const {
    return tx.run(kHold, params_of(generation_, claims)).size() == claims.size();
}

std::size_t OffsetStore::drop_windows(pg::Transaction& tx, const pg::Statement& statement,
                                      std::span<const Claim> claims, Timestamp from, std::size_t most) {
    pg::Array partitions;
    for (const auto& claim : claims)
        partitions.add(claim.partition);
    pg::Params params;
    params.add(std::move(partitions)).add(from).add(static_cast<std::int64_t>(most));
    return tx.run(statement, params).affected();
}

void OffsetStore::tally(pg::Transaction& tx, std::span<const Tally> tallies) const {
    pg::Array partitions;
    pg::Array applied;
    pg::Array duplicates;
    pg::Array parked;
    pg::Array gaps;
    pg::Array digests;
    pg::Array log_times;
    for (const auto& one : tallies) {
        partitions.add(std::int64_t{one.partition});
        applied.add(one.applied);
        duplicates.add(one.duplicates);
        parked.add(one.parked);
        gaps.add(one.gaps);
        digests.add_numeric(std::to_string(one.digest));
        log_times.add(one.log_time);
    }
    pg::Params params;
    params.add(std::int64_t{generation_}).add(std::move(partitions)).add(std::move(applied)).add(std::move(duplicates));
    params.add(std::move(parked)).add(std::move(gaps)).add(std::move(digests)).add(std::move(log_times));
    tx.run(kTally, params);
}

}  // namespace tidemark::consumers
