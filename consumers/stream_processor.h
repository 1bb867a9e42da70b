#pragma once

#include "consumers/flush.h"
#include "consumers/generation.h"
#include "consumers/log_check.h"
#include "consumers/stream_state.h"
#include "infra/base/clock.h"
#include "infra/base/metrics.h"
#include "infra/kafka/ports.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace tidemark::consumers {

struct ProcessorOptions {
    std::string dsn;    ///< of the consumer role
    std::string owner;  ///< how this instance is named in the offset rows
    StreamState::Options state;
    std::chrono::milliseconds statement_timeout{2'000};
    std::chrono::milliseconds drain{10'000};  ///< how long stop() may take to write what is buffered
    std::chrono::milliseconds look{200};      ///< how often a generation that follows the live one asks how far that is
    std::chrono::milliseconds window_retention{0};    ///< how long windows are kept, in log time; 0: for ever
    std::chrono::milliseconds retention_look{2'000};  ///< how often it is seen to
};

/// Folds one stream into one generation until told to stop: poll, buffer, flush, commit, on one thread with one
/// connection. What to do next is StreamState's; this does it. A generation that is not live follows the live one and
/// never gets ahead of it; where its tables stand, and which it is, is asked of the registry with each claim, because a
/// swap renames and fences. Between flushes it drops the windows of its partitions that are not to be kept. The source,
/// clock and metrics must outlive it.
class StreamProcessor {
public:
    StreamProcessor(ProcessorOptions options, Target target, kafka::RecordSource& source, CheckLog check_log,
                    const base::Clock& clock, base::Metrics& metrics);
    ~StreamProcessor();
    StreamProcessor(const StreamProcessor&) = delete;
    StreamProcessor& operator=(const StreamProcessor&) = delete;

    /// Returns after stop(), with everything written that could be, or when the generation was dropped. Throws
    /// LogMismatch, kafka::Error (fatal: e.g. another consumer took this one's slot) and pg::Error of Failure::bug: the
    /// process has to end, loudly.
    void run();

    // Any thread.
    void stop() noexcept { stop_ = true; }
    void wanted() noexcept { wanted_ = true; }
    /// The end of the log as a query, sent at wall-clock `asked`, found it.
    void log_end(Timestamp asked, std::vector<std::int64_t> ends);
    /// What it reads is not the log that its tables come from: run() throws LogMismatch of that.
    void log_is_another(std::string what);

    struct Status {
        std::vector<std::int32_t> partitions;
        std::string phase;
        bool live = true;     ///< readers see its tables, as far as it knows
        bool joined = false;  ///< the group has said at least once what this member owns
        std::optional<Timestamp> as_of;
        std::chrono::steady_clock::time_point last_step{};  ///< when the loop last went round
    };
    [[nodiscard]] Status status() const;
    [[nodiscard]] const Target& target() const noexcept { return target_; }

private:
    struct Instruments;

    void take_news(StreamState::Instant now);
    void poll(std::chrono::milliseconds timeout);
    void claim();
    void flush_batch();
    void resolve();
    /// Asks where and what the tables are. True when they were moved since the last time, and have to be claimed again.
    bool check_place();
    /// Whether a flush was refused because the tables were moved; if so they are claimed again at once, and nobody has
    /// to be waited for.
    bool was_moved(const FlushReport& report);
    void look_at_leader(StreamState::Instant now);
    /// Window retention: first lets the windows of its partitions begin later, then deletes what lies before, a bite at
    /// a time.
    void retain_windows(StreamState::Instant now);
    /// From where on they are kept: the live generation's log time less the retention; where another partition or, of a
    /// follower, the live generation has gone further, that.
    std::optional<Timestamp> windows_due();
    void publish_status();
    pg::Connection& connection();

    ProcessorOptions options_;
    Target target_;
    kafka::RecordSource& source_;
    CheckLog check_log_;
    const base::Clock& clock_;
    std::unique_ptr<Instruments> instruments_;
    OffsetStore store_;
    StreamState state_;
    std::optional<pg::Connection> connection_;
    std::optional<Place> place_;             ///< as the registry said last
    bool dropped_ = false;                   ///< the generation is no more
    StreamState::Instant next_look_{};       ///< at the leader
    bool leader_unknown_ = false;            ///< the last look at it failed, and said so
    StreamState::Instant next_retention_{};  ///< when window retention goes on
    std::optional<Timestamp> windows_from_;  ///< where it has let the windows of what it claimed begin
    std::size_t windows_dropped_ = 0;        ///< rows, since then
    std::size_t rows_at_once_ = 5'000;       ///< that are to be dropped in one transaction
    bool dropping_ = false;                  ///< there may be more
    bool retention_failed_ = false;          ///< the last time, and said so
    bool announce_ = false;                  ///< the connection is new and the offset rows name the old one
    bool paused_ = false;
    std::atomic<bool> stop_{false};
    std::atomic<bool> wanted_{false};

    struct LogEnd {
        Timestamp asked{};
        std::vector<std::int64_t> ends;
    };
    mutable std::mutex mutex_;  ///< guards news_, other_log_ and status_
    std::vector<LogEnd> news_;
    std::string other_log_;
    Status status_;
};

}  // namespace tidemark::consumers
