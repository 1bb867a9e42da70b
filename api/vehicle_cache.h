#pragma once

#include "api/progress.h"
#include "schemas/instant.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace tidemark::api {

struct Read;

/// Answers of GET /vehicles/{id}/timestamp/{timestamp}, ready to be sent, the least recently used given up first; and
/// the reads that wait for one to be made, so that equal ones at the same time make one query. One for the program; any
/// thread.
class VehicleCache {
public:
    using Instant = std::chrono::steady_clock::time_point;

    /// Equal instants share an entry however they were written. What was read from one generation is nothing to those
    /// who ask for another, so a corrected one shows as soon as it is live; what it leaves behind is given up like all
    /// that nobody uses.
    struct Key {
        std::int64_t vehicle = 0;
        schemas::Timestamp at{};
        std::int32_t generation = 0;  ///< asked for: the live one as the watch knows it; put: the one that was read

        friend bool operator==(const Key&, const Key&) = default;
    };

    struct Entry {
        std::string body;  ///< with "fromCache":true
        std::string etag;
        std::string header_lines;    ///< all but Age
        schemas::Timestamp as_of{};  ///< Data-As-Of
        Progress progress;           ///< of the tables it was read from
    };
    using Shared = std::shared_ptr<const Entry>;

    struct Limits {
        std::size_t entries = 50'000;
        std::size_t bytes = std::size_t{64} << 20;  ///< of bodies and headers, and kOverhead for each entry
    };
    /// What the two indexes, the key and the allocator cost for each entry, rounded up.
    static constexpr std::size_t kOverhead = 512;

    /// An answer may be up to a minute old: it is kept this long, and not longer than until its data is kMaxAge old.
    static constexpr std::chrono::seconds kMaxTime{50};
    static constexpr std::chrono::seconds kMaxAge{60};

    explicit VehicleCache(Limits limits) noexcept : limits_(limits) {}

    /// Null when there is none, or it is dead. Counts as a use.
    Shared find(const Key& key, Instant now);

    /// As find; without an entry, `read` waits for the key from now on. `leads`: nobody else makes the answer, so the
    /// caller must, and must land it whatever comes of it.
    struct Joined {
        Shared entry;
        bool leads = false;
    };
    Joined find_or_join(const Key& key, std::shared_ptr<Read> read, Instant now);
    /// All that waited for the key.
    std::vector<std::shared_ptr<Read>> land(const Key& key);

    /// Keeps `entry` unless it is dead already or older than what is there. `wall` and `now` are the same moment.
    void put(const Key& key, Shared entry, schemas::Timestamp wall, Instant now);

    struct Counters {
        std::uint64_t hits = 0;
        std::uint64_t misses = 0;
        std::uint64_t joins = 0;  ///< misses that waited for another's query
        std::uint64_t entries = 0;
        std::uint64_t bytes = 0;
    };
    [[nodiscard]] Counters counters() const;

private:
    struct KeyHash {
        std::size_t operator()(const Key& key) const noexcept;
    };
    struct Slot {
        Key key;
        Shared entry;
        Instant dies;
        std::size_t bytes = 0;
    };
    using Slots = std::list<Slot>;

    Shared find_locked(const Key& key, Instant now);
    void remove_locked(Slots::iterator slot);

    const Limits limits_;
    mutable std::mutex mutex_;  // guards everything below
    Slots slots_;               // most recently used first
    std::unordered_map<Key, Slots::iterator, KeyHash> index_;
    std::unordered_map<Key, std::vector<std::shared_ptr<Read>>, KeyHash> flights_;
    Counters counters_;
};

}  // namespace tidemark::api
