#pragma once

#include "consumers/digest.h"
#include "consumers/projection.h"
#include "consumers/stream_state.h"
#include "infra/postgres/connection.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace tidemark::consumers {

/// The offset rows of one generation: who folds each partition, and how far the tables are. A view on somebody's
/// connection, whose search_path names the generation's schema. Every call throws pg::Error.
class OffsetStore {
public:
    OffsetStore(int generation, std::string owner) : generation_(generation), owner_(std::move(owner)) {}

    /// Takes the partitions over: epoch + 1, so whatever the previous owner still has under way matches no row. Where
    /// the previous owner's session holds the rows (it was stopped inside a transaction), that session is terminated
    /// and the lock awaited once more. Empty when the session's tables are not this generation's: they were renamed
    /// meanwhile. Throws std::runtime_error when only some partitions have a row: the topic has more than migrate knew.
    std::vector<Claim> claim(pg::Connection& connection, std::span<const std::int32_t> partitions) const;

    /// Tells which session now writes for these claims: after a reconnect, so that a later claimer ends the right one.
    /// False when the rows are no longer ours.
    bool announce(pg::Connection& connection, std::span<const Claim> claims) const;

    /// The rows as they stand once nobody has them locked: a commit that is still under way is waited for, as long as
    /// the session's lock time-out.
    std::vector<Claim> read(pg::Connection& connection, std::span<const std::int32_t> partitions) const;

    /// The fence: moves the rows from `from` to `next` iff epoch and offset are still the batch's. Nullopt: they are
    /// not, and the transaction has to be rolled back. Otherwise where the windows of the rows' partitions begin, which
    /// stays so until the transaction ends. The first statement of every flush.
    std::optional<WindowsFrom> advance(pg::Transaction& tx, const Batch& batch) const;

    struct Tally {
        std::int32_t partition = 0;
        std::int64_t applied = 0;
        std::int64_t duplicates = 0;
        std::int64_t parked = 0;
        std::int64_t gaps = 0;
        Digest digest = 0;  ///< what they add to the partition's
        Timestamp log_time{};
    };
    /// Adds what became of the records between, under the fence.
    void tally(pg::Transaction& tx, std::span<const Tally> tallies) const;

    /// What window retention goes by.
    struct Windows {
        std::optional<Timestamp> from;  ///< where the generation's begin, if any were dropped
        Timestamp log_time{};           ///< the latest of its partitions'
    };
    Windows windows(pg::Connection& connection) const;
    /// Lets the windows of the partitions that are still theirs begin no earlier than `from`: what a flush writes after
    /// it does not lie before that. Never moves back.
    void move_windows(pg::Connection& connection, std::span<const Claim> claims, Timestamp from) const;
    /// The fence of whoever deletes: false when not all rows are theirs any more. They stay so until the transaction
    /// ends.
    bool hold(pg::Transaction& tx, std::span<const Claim> claims) const;
    /// Deletes what of the partitions' windows starts before `from`, `most` rows at most, by a projection's statement;
    /// returns how many. Behind hold().
    static std::size_t drop_windows(pg::Transaction& tx, const pg::Statement& statement, std::span<const Claim> claims,
                                    Timestamp from, std::size_t most);

private:
    int generation_;
    std::string owner_;
};

}  // namespace tidemark::consumers
