#pragma once

#include "consumers/generation.h"
#include "infra/postgres/connection.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace tidemark::consumers {

/// The live generation and one that follows it, held at the same offsets: nothing is written to either while this
/// lives. Readers notice nothing. The live one's writers wait at their fence, at most `longest`, while the other comes
/// up to exactly where the live one stands (it never gets beyond); then its writers wait too.
class Standstill {
public:
    struct Options {
        std::string owner_dsn;
        /// Longest that the live generation's writers wait: below their lock time-out, or they try again later.
        std::chrono::milliseconds longest{800};
        /// Until when a stop that failed is tried again; the live one is left in peace in between.
        std::chrono::milliseconds timeout{30'000};
        /// Asked between tries whether to give up.
        std::function<bool()> cancelled = [] { return false; };
    };
    /// The follower did not come up in time: nobody folds it, or not fast enough.
    class Late : public std::runtime_error {
    public:
        using std::runtime_error::runtime_error;
    };

    /// Waits for it. `follower` must be a candidate or retired. Throws Late, pg::Error, and
    /// Refused when the two have changed their places since they were looked up.
    Standstill(const Options& options, const Generation& live, const Generation& follower);

    /// Next offsets by partition, of both.
    [[nodiscard]] const std::vector<std::int64_t>& vector() const noexcept { return vector_; }
    /// Where the tables' locks are held, under the owner's rights: what is done in it is seen by nobody before its
    /// commit, which ends the standstill. Rolled back otherwise.
    [[nodiscard]] pg::Transaction& transaction() noexcept { return *transaction_; }

private:
    bool try_once(const Options& options, const Generation& live, const Generation& follower);

    pg::Connection holder_;
    pg::Connection watcher_;  // sees what was committed meanwhile
    std::optional<pg::Transaction> transaction_;
    std::vector<std::int64_t> vector_;
    std::int64_t missing_ = 0;  // how many records the follower was late by in the last try
};

}  // namespace tidemark::consumers
