#pragma once

#include "infra/kafka/record.h"

#include <chrono>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace tidemark::consumers {

/// When what is buffered has to be written.
struct FlushLimits {
    /// How far the tables are behind: from a flush's begin to the end of the next.
    std::chrono::milliseconds interval{1'000};
    /// What slow flushes may stretch it to: with the takeover of a dead owner it stays below ten seconds.
    std::chrono::milliseconds longest{3'000};
    std::size_t records = 100'000;
    std::size_t bytes = 32 * 1024 * 1024;
    std::chrono::milliseconds early{50};   ///< least distance of two flushes that readers asked for
    std::chrono::milliseconds gather{20};  ///< least wait for what comes together with the first record buffered
};

/// The records of the partitions that this consumer owns, between being polled and being committed. Takes rising
/// offsets, counts the gaps between them (transaction markers, compaction), and keeps everything until `committed` or
/// `clear`, so a flush that failed is simply done again. Values in, decisions out: no I/O, no clock. One thread.
class RecordBuffer {
public:
    using Instant = std::chrono::steady_clock::time_point;

    struct Part {
        std::int64_t from = 0;  ///< next_offset that the tables have
        std::int64_t next = 0;  ///< next_offset once `records` are written
        std::vector<kafka::Record> records;
        /// Offsets in [from, next) that hold no record.
        [[nodiscard]] std::int64_t gaps() const noexcept {
            return next - from - static_cast<std::int64_t>(records.size());
        }
    };

    /// Forgets everything and expects these partitions to go on from these offsets.
    void reset(std::span<const kafka::Start> starts);
    void clear() { reset({}); }

    enum class Push : std::uint8_t { kept, stale, foreign };
    /// `stale`: below what is expected, already here; `foreign`: of a partition that was not reset. Neither is kept.
    Push push(kafka::Record record, Instant now);
    /// Everything below `offset` has come: the rest up to there is a gap. Ignored when stale or foreign.
    void reached(std::int32_t partition, std::int64_t offset, Instant now);

    /// Gives up what a partition holds at and beyond `offset`, to be read again. Ignored when foreign.
    void cut(std::int32_t partition, std::int64_t offset);

    /// The tables now stand at these offsets: drops what is below. Later records stay.
    void committed(std::span<const kafka::Start> next, Instant now);

    [[nodiscard]] const std::map<std::int32_t, Part>& parts() const noexcept { return parts_; }
    [[nodiscard]] std::size_t records() const noexcept { return records_; }
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    [[nodiscard]] bool empty() const noexcept { return !first_; }
    /// When the oldest thing not yet committed came; no value when empty.
    [[nodiscard]] std::optional<Instant> first() const noexcept { return first_; }
    [[nodiscard]] bool full(const FlushLimits& limits) const noexcept {
        return records_ >= limits.records || bytes_ >= limits.bytes;
    }

private:
    std::map<std::int32_t, Part> parts_;
    std::size_t records_ = 0;
    std::size_t bytes_ = 0;
    std::optional<Instant> first_;
};

}  // namespace tidemark::consumers
