#pragma once

#include "api/progress.h"
#include "api/waiting_room.h"
#include "infra/base/clock.h"
#include "schemas/catalogue.h"
#include "schemas/position.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace tidemark::api {

/// What a stream's tokens are made of. Lives as long as the watch that knows it; any thread, lock-free.
class StreamLog {
public:
    [[nodiscard]] std::string_view stream() const noexcept { return stream_; }
    /// The short form of the log's identity; empty until it is known, and never another after that.
    [[nodiscard]] std::string_view hash() const noexcept {
        return known_.load(std::memory_order_acquire) ? std::string_view(hash_.data(), hash_.size())
                                                      : std::string_view();
    }
    /// How many partitions it has; 0 until the hash is known.
    [[nodiscard]] std::int32_t partitions() const noexcept {
        return known_.load(std::memory_order_acquire) ? partitions_ : 0;
    }

private:
    friend class ProgressWatch;
    std::string_view stream_;
    std::atomic<bool> known_{false};  // released once the two below are written, for good
    std::array<char, 8> hash_{};
    std::int32_t partitions_ = 0;
};

struct ProgressWatchOptions {
    std::string dsn;
    std::string brokers;
    std::map<std::string, std::string> kafka_properties;  ///< librdkafka settings of the handle that asks for ends
    std::size_t max_waiting = 1'024;                      ///< reads parked at once, over all streams
    /// Unasked looks at the tables, for when a notification was lost with its connection. Half of it is the mean delay
    /// then.
    std::chrono::milliseconds poll_interval{500};
    std::chrono::milliseconds broker_timeout{2'000};  ///< of one question for the log's end
    /// How far this clock and the broker's may be apart: taken off every instant that this watch vouches for itself.
    std::chrono::milliseconds clock_skew{200};
};

/// Knows how far the tables of every stream are, and parks the reads that want them further. Owned by main; every call
/// is for any thread and none blocks.
///
/// Three threads of its own: one listens for the flushes' notifications and reads the progress views; one asks the
/// broker for the ends of logs, and at the start for their identity; one keeps the deadlines and asks owners to flush
/// early. Without a database or broker it goes on trying, and `trouble` says so. The destructor lets all
/// waiting reads go, as stale, and joins.
class ProgressWatch {
public:
    using Done = WaitingRoom::Done;

    /// `clock` must outlive it.
    ProgressWatch(ProgressWatchOptions options, const base::Clock& clock);
    ~ProgressWatch();
    ProgressWatch(const ProgressWatch&) = delete;
    ProgressWatch& operator=(const ProgressWatch&) = delete;

    /// Streams are named by their place in the catalogue, here and below.
    static std::size_t index_of(const schemas::Stream& stream) noexcept;

    [[nodiscard]] const StreamLog& log(std::size_t stream) const noexcept;
    /// The oldest as-of instant of the stream's partitions; nullopt until it is known. Lock-free.
    [[nodiscard]] std::optional<schemas::Timestamp> as_of(std::size_t stream) const noexcept;
    /// The generation that was last seen live; nullopt until the first look. Lock-free.
    [[nodiscard]] std::optional<std::int32_t> generation(std::size_t stream) const noexcept;
    /// What was last seen; nullopt until the first look.
    [[nodiscard]] std::optional<Progress> progress(std::size_t stream) const;

    /// Whether a part of a token can be of this stream's log: its hash and partition are. False while the log is not
    /// known.
    [[nodiscard]] bool is_of_log(std::size_t stream, const schemas::TokenPart& part) const noexcept;

    /// Precondition: the log's hash is known. Calls `done` once: before this returns when the wish holds already or
    /// cannot be waited for, else by a thread of the watch. `done` must not block or throw.
    void wait(std::size_t stream, Wish wish, std::chrono::milliseconds at_most, Done done);
    /// Lets every waiting read go, and later ones too, as stale: when the program drains.
    void release();

    /// What keeps reads from being served as promised; nullopt when nothing does. Names no addresses.
    [[nodiscard]] std::optional<std::string> trouble() const;
    [[nodiscard]] std::size_t waiting() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace tidemark::api
