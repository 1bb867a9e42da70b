#pragma once

#include "consumers/digest.h"
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

    /// The fence: moves the rows from `from` to `next` iff epoch and offset are still the batch's. False: they are not,
    /// and the transaction has to be rolled back. The first statement of every flush.
    bool advance(pg::Transaction& tx, const Batch& batch) const;

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

private:
    int generation_;
    std::string owner_;
};

}  // namespace tidemark::consumers
