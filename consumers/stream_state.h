#pragma once

#include "consumers/record_buffer.h"
#include "infra/base/backoff.h"
#include "infra/base/clock.h"
#include "infra/kafka/ports.h"

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <vector>

namespace tidemark::consumers {

using base::Timestamp;

/// What taking over a partition returned: the fence that every later flush has to pass.
struct Claim {
    std::int32_t partition = 0;
    std::int64_t next_offset = 0;
    std::int64_t epoch = 0;
    Timestamp log_time{};
};

/// What one flush writes: for each partition the move of the fence, and the records behind it.
struct Batch {
    struct Part {
        std::int32_t partition = 0;
        std::int64_t epoch = 0;
        std::int64_t from = 0;
        std::int64_t next = 0;
        std::int64_t gaps = 0;
        Timestamp log_time{};            ///< before its first record
        std::optional<Timestamp> as_of;  ///< everything appended before it is in once `next` stands
        std::span<const kafka::Record> records;
    };
    std::vector<Part> parts;  ///< by partition; only those that have something to write
    [[nodiscard]] std::size_t records() const noexcept;
};

/// How a flush ended.
enum class Flushed : std::uint8_t {
    committed,
    fenced,    ///< the rows are somebody else's: nothing was written, and nothing of this buffer may be
    failed,    ///< nothing was written; the same may be tried again
    in_doubt,  ///< the connection broke during COMMIT: only the offset rows know
};

/// One stream's consumer as a state machine without I/O: told what happened, it says what to do next. StreamProcessor
/// does it against the log and the database; the simulation does it against fakes that fail, stall and lie, by the
/// million.
///
///     assigned -> claim -> assign -> poll ... -> flush -> committed
///                   ^                              |-> fenced: drop the buffer, wait for the group, claim again
///                   |                              |-> failed: keep the buffer, back off, flush again
///                   +------------------------------+-> in doubt: read the offset rows back, then one of the above
///     revoked -> (flush once, unless lost) -> unassign
///
/// One thread.
class StreamState {
public:
    using Instant = std::chrono::steady_clock::time_point;

    struct Options {
        FlushLimits limits;
        std::chrono::milliseconds poll{100};  ///< longest wait in one poll
        std::chrono::milliseconds retry_first{50};
        std::chrono::milliseconds retry_cap{2'000};
        /// How long a fenced consumer waits for the group to say whether it still owns anything before it claims again:
        /// a few heartbeats, in which a member that was away learns that it is none any more.
        std::chrono::milliseconds fence_wait{3'000};
        std::chrono::milliseconds wanted_for{1'000};  ///< how long a reader's wish for an early flush holds
        std::uint64_t seed = 1;
    };

    enum class Do : std::uint8_t {
        poll,      ///< ask the source, for `timeout`
        claim,     ///< claim `partitions()` in the database; then claimed() or claim_failed()
        flush,     ///< write batch(); then flushed()
        resolve,   ///< read the offset rows of `partitions()`; then resolved() or resolve_failed()
        assign,    ///< let the source read just reading()
        unassign,  ///< answer the group; then unassigned()
        finished,  ///< after stop(): nothing is owned any more
    };
    struct Step {
        Do what = Do::poll;
        std::chrono::milliseconds timeout{0};
    };

    explicit StreamState(Options options);

    [[nodiscard]] Step next(Instant now);
    /// Whether the source is to be paused: nothing more can be taken before something is written.
    [[nodiscard]] bool paused(Instant now) const noexcept;

    // What happened.
    void polled(kafka::Record record, Instant now);
    void polled(const kafka::EndOfPartition& end, Instant now);
    void polled(const kafka::Assigned& assigned, Instant now);
    void polled(const kafka::Revoked& revoked, Instant now);
    /// Returns where the source has to go on from; nothing: from where it is.
    std::vector<kafka::Start> claimed(std::span<const Claim> claims, Instant now);
    void claim_failed(Instant now);
    void flushed(Flushed outcome, Instant began, Instant now);
    /// `rows`: the offset rows as they stand, with their epochs.
    void resolved(std::span<const Claim> rows, Instant now);
    void resolve_failed(Instant now);
    void unassigned();
    /// A log-end query, sent at wall-clock `asked`, answered these next offsets, by partition.
    void log_end(Timestamp asked, std::span<const std::int64_t> ends);
    /// How far another set of tables is, by partition, that this one follows: nothing at or beyond these offsets is
    /// written. Nullopt: it follows none. Holds until told otherwise or claimed anew.
    void follow(std::optional<std::vector<std::int64_t>> leader) { leader_ = std::move(leader); }
    /// The tables were renamed or given another role, which fences whoever writes them: claim again at once. What is
    /// buffered stays, for they stand where they stood.
    void moved(Instant now);
    /// Whether these claims, after moved(), are where the buffer begins: then claimed() changes no more than the fence,
    /// and returns nothing to read on from.
    [[nodiscard]] bool goes_on(std::span<const Claim> claims) const;
    /// A reader waits for what is not flushed yet.
    void wanted(Instant now) noexcept { wanted_until_ = now + options_.wanted_for; }
    /// Write what is buffered, give everything back, finish.
    void stop() noexcept { stopping_ = true; }

    /// The partitions that are to be read now, and from where.
    [[nodiscard]] std::vector<kafka::Start> reading() const;
    [[nodiscard]] Batch batch() const;
    /// The log time that the tables have for a partition after a committed flush: told by the flush.
    void log_time(std::int32_t partition, Timestamp log_time);

    [[nodiscard]] std::vector<std::int32_t> partitions() const;
    [[nodiscard]] std::vector<Claim> claims() const;
    [[nodiscard]] const RecordBuffer& buffer() const noexcept { return buffer_; }
    [[nodiscard]] bool consuming() const noexcept { return phase_ == Phase::consuming; }
    /// The earliest as-of instant of the partitions held; no value before all of them have one.
    [[nodiscard]] std::optional<Timestamp> as_of() const noexcept;
    /// "idle", "claiming", "consuming", "retrying" (the last flush failed), "resolving" or "fenced": for status.
    [[nodiscard]] const char* phase() const noexcept;
    /// From the begin of the last flush to the begin of the next, as things are.
    [[nodiscard]] std::chrono::milliseconds interval() const noexcept { return interval_; }

    /// Everything a run can break is counted.
    struct Counters {
        std::uint64_t assigned = 0;
        std::uint64_t revoked = 0;
        std::uint64_t lost = 0;
        std::uint64_t claims = 0;
        std::uint64_t fenced = 0;
        std::uint64_t in_doubt = 0;
        std::uint64_t in_doubt_committed = 0;
        std::uint64_t failed = 0;
        std::uint64_t stale_records = 0;
        std::uint64_t dropped_records = 0;  ///< buffered, then given up because the partition was
    };
    [[nodiscard]] const Counters& counters() const noexcept { return counters_; }

private:
    enum class Phase : std::uint8_t { idle, claiming, consuming, resolving, fenced };
    struct Owned {
        std::int64_t epoch = 0;
        Timestamp log_time{};
        Timestamp as_of{};  ///< last one written
        struct End {
            Timestamp asked{};
            std::int64_t end = 0;
        };
        std::deque<End> ends;  ///< answers not yet reached, oldest first
    };

    void drop();
    /// Up to where a part may be written now.
    [[nodiscard]] std::int64_t reach(std::int32_t partition, const RecordBuffer::Part& part) const;
    [[nodiscard]] bool has_something_to_write() const;
    /// Whether the leader is beyond what was read of a partition.
    [[nodiscard]] bool is_behind(std::int32_t partition, const RecordBuffer::Part& part) const;
    [[nodiscard]] std::vector<std::int32_t> behind() const;
    void make_room();
    [[nodiscard]] bool due(Instant now) const;
    [[nodiscard]] Instant due_at() const;
    [[nodiscard]] std::optional<Timestamp> newest_as_of(const Owned& owned, std::int64_t next) const;
    void retry_later(Instant now);
    void settle(Instant now);

    Options options_;
    RecordBuffer buffer_;
    std::map<std::int32_t, Owned> owned_;
    std::vector<kafka::Start> pending_;  ///< next offsets of the flush in doubt
    std::optional<std::vector<std::int64_t>> leader_;
    std::vector<std::int32_t> narrowed_to_;  ///< all that is read, for want of room; empty: everything is
    base::Backoff backoff_;
    Phase phase_ = Phase::idle;
    bool moved_ = false;      ///< claims what it had before
    bool failing_ = false;    ///< what was tried last is being tried again
    bool releasing_ = false;  ///< a revoke waits for its answer
    bool release_flushed_ = false;
    bool stopping_ = false;
    std::chrono::milliseconds interval_;
    Instant retry_at_{};
    Instant last_flush_{};  ///< its end
    Instant last_began_{};  ///< of the last one that committed
    Instant wanted_until_{};
    Counters counters_;
};

}  // namespace tidemark::consumers
