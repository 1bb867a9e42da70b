#pragma once

#include "consumers/stream_state.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

/// What the simulation is made of: its time, its randomness, its log.
namespace tidemark::tests::simulated {

using consumers::Timestamp;

/// Simulated microseconds since the run began.
using Time = std::int64_t;
inline constexpr Time kMillisecond = 1'000;
inline constexpr Time kNever = std::numeric_limits<Time>::max();

inline constexpr Timestamp kEpoch{std::chrono::seconds(1'700'000'000)};
constexpr Timestamp wall(Time time) {
    return kEpoch + std::chrono::microseconds(time);
}
constexpr consumers::StreamState::Instant steady(Time time) {
    return consumers::StreamState::Instant(std::chrono::microseconds(time));
}

inline constexpr int kMaxPartitions = 3;
inline constexpr int kKeys = 4;
inline constexpr int kIdentities = 4;

/// A set of partitions.
using Mask = unsigned;
constexpr Mask bit(int partition) {
    return 1U << static_cast<unsigned>(partition);
}

/// An array whose index is a small number of any integer type.
template <typename T, int N>
struct Table {
    std::array<T, N> items{};

    template <typename Index>
    T& operator[](Index index) {
        return items[static_cast<std::size_t>(index)];
    }
    template <typename Index>
    const T& operator[](Index index) const {
        return items[static_cast<std::size_t>(index)];
    }
    friend bool operator==(const Table&, const Table&) = default;
};

template <typename... Parts>
std::string text(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

/// A rule was broken.
class Violation : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// Splitmix64.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}

    std::uint64_t next() {
        state_ += 0x9e3779b97f4a7c15U;
        auto mixed = state_;
        mixed = (mixed ^ (mixed >> 30U)) * 0xbf58476d1ce4e5b9U;
        mixed = (mixed ^ (mixed >> 27U)) * 0x94d049bb133111ebU;
        return mixed ^ (mixed >> 31U);
    }
    /// In [0, bound).
    int below(int bound) { return static_cast<int>(next() % static_cast<std::uint64_t>(bound)); }
    /// In [least, most].
    Time between(Time least, Time most) {
        return least + static_cast<Time>(next() % static_cast<std::uint64_t>(most - least + 1));
    }
    template <typename T>
    T& pick(std::vector<T>& from) {
        return from[static_cast<std::size_t>(below(static_cast<int>(from.size())))];
    }
    bool chance(int percent) { return below(100) < percent; }

private:
    std::uint64_t state_;
};

/// What becomes of a record.
enum class Fate : std::uint8_t { none, applied, duplicate, conflict, poison };

constexpr std::string_view to_string(Fate fate) {
    constexpr std::array<std::string_view, 5> kNames{"nothing", "applied", "duplicate", "conflict", "poison"};
    return kNames.at(static_cast<std::size_t>(fate));
}

/// One offset of the log, with the fate that a plain fold of everything before it gives it.
struct Entry {
    bool record = false;  // otherwise a marker: an offset that no reader sees
    bool poison = false;
    char identity = 0;  // 0: none
    int data = 0;
    int key = 0;
    Time appended = 0;
    Timestamp append_time{};  // by the broker's clock, which jumps
    Timestamp log_time{};     // running maximum of the above
    Fate fate = Fate::none;
};

/// The log, and the fold that the tables are compared with. It judges each record as it is appended, one at a time,
/// with nothing of the product in it.
class Log {
public:
    [[nodiscard]] std::int64_t end(int partition) const { return std::ssize(partitions_[partition].entries); }
    [[nodiscard]] const Entry& at(int partition, std::int64_t offset) const {
        return partitions_[partition].entries[static_cast<std::size_t>(offset)];
    }
    /// The first offset from `offset` on that holds a record; the end when there is none.
    [[nodiscard]] std::int64_t next_record(int partition, std::int64_t offset) const {
        while (offset < end(partition) && !at(partition, offset).record)
            ++offset;
        return offset;
    }
    /// What the applied records add up to, by key.
    [[nodiscard]] const Table<std::int64_t, kKeys>& sums() const { return sums_; }

    /// What a record adds to its key: different for each, so that no two wrongs make a right.
    static std::int64_t delta(std::int64_t offset, int partition) { return (offset + 1) * 1'000 + partition; }

    /// Returns whether its identity was seen before, but too long ago to matter.
    bool append(int partition, Entry entry) {
        auto& log = partitions_[partition];
        bool beyond_horizon = false;
        if (entry.record) {
            log.log_time = std::max(log.log_time, entry.append_time);
            auto& first = log.first[entry.identity];
            entry.fate = Fate::applied;
            if (entry.poison) {
                entry.fate = Fate::poison;
            } else if (entry.identity != 0 && first.seen) {
                beyond_horizon = log.log_time - first.log_time > std::chrono::hours(24);
                if (!beyond_horizon) entry.fate = first.data == entry.data ? Fate::duplicate : Fate::conflict;
            }
            if (entry.fate == Fate::applied) {
                if (entry.identity != 0) first = {true, entry.data, log.log_time};
                sums_[entry.key] += delta(end(partition), partition);
            }
        }
        entry.log_time = log.log_time;
        log.entries.push_back(entry);
        return beyond_horizon;
    }

private:
    struct First {
        bool seen = false;
        int data = 0;
        Timestamp log_time{};
    };
    struct Partition {
        std::vector<Entry> entries;
        Timestamp log_time{};
        Table<First, kIdentities + 1> first;
    };
    Table<Partition, kMaxPartitions> partitions_;
    Table<std::int64_t, kKeys> sums_;
};

}  // namespace tidemark::tests::simulated
