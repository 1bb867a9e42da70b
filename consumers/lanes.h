#pragma once

#include "consumers/generation.h"
#include "consumers/stream_processor.h"
#include "infra/base/clock.h"
#include "infra/base/metrics.h"
#include "infra/kafka/admin.h"
#include "infra/kafka/consumer.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace tidemark::consumers {

/// One generation, or some of its partitions, being folded: its reader of the log, its processor, and the thread that
/// this runs on.
class Lane {
public:
    struct Options {
        std::string brokers;
        std::map<std::string, std::string> kafka_properties;
        std::string instance;  ///< names the reader: in the group, in the offset rows, to the brokers
        /// Not empty: reads just these. Otherwise it shares the generation's partitions with its group.
        std::vector<std::int32_t> partitions{};
        ProcessorOptions processor;
    };
    /// Told once, on the lane's thread, when its processor threw.
    using OnFailure = std::function<void(Lane&, const std::exception_ptr&)>;

    /// Starts at once. The clock and metrics must outlive it.
    Lane(const Options& options, const Target& target, const base::Clock& clock, base::Metrics& metrics,
         OnFailure on_failure);
    /// Stops and joins.
    ~Lane();
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;

    [[nodiscard]] StreamProcessor& processor() noexcept { return processor_; }
    [[nodiscard]] const Target& target() const noexcept { return processor_.target(); }
    /// Any thread: it folds no longer, because it was told so, its generation was dropped, or it failed.
    [[nodiscard]] bool ended() const noexcept { return ended_; }
    /// Once it has ended: what it failed with; null: it did not fail.
    [[nodiscard]] const std::exception_ptr& failure() const noexcept { return failure_; }
    /// Tells it to write what can be written, as long as its processor's drain says, and to end; join() waits for that.
    void stop() noexcept { processor_.stop(); }
    void join();

private:
    kafka::Admin admin_;
    kafka::Consumer consumer_;
    StreamProcessor processor_;
    OnFailure on_failure_;
    std::exception_ptr failure_;  // before ended_ is set
    std::atomic<bool> ended_{false};
    std::thread thread_;
};

/// A lane for each generation that this program folds: all of its projections' fingerprints but those that are still
/// being built. Follows the registry. One thread, but for processors().
class Lanes {
public:
    Lanes(Lane::Options options, const base::Clock& clock, base::Metrics& metrics)
        : options_(std::move(options)), clock_(clock), metrics_(metrics) {}

    /// Takes up what is new and lets go what was dropped. A lane that failed is taken up again: at once when another
    /// member took its place in the group, but not the second time within a minute; after some time when its tables
    /// failed it and nobody reads them. Every other failure ends the process.
    void follow(const std::vector<Generation>& registered);
    /// Stops all at once and joins them. They stay, and their readers are not closed: see kafka::Consumer.
    void stop();

    /// Any thread: those that fold.
    [[nodiscard]] std::vector<std::shared_ptr<StreamProcessor>> processors() const;
    /// Any thread: a stream that is read and whose lane has failed and is not taken up again yet; empty: none.
    [[nodiscard]] std::string interrupted() const;
    /// Gives up, with the process, when a processor does not go round any more: its partitions are better off
    /// elsewhere. To be called every `step`, which is what is counted: a whole process that was stopped and continued
    /// is not stuck.
    void check_stuck(std::chrono::milliseconds step, std::chrono::milliseconds stuck_after);

private:
    using Key = std::pair<std::string, int>;  // stream, generation
    struct Entry {
        std::shared_ptr<Lane> lane;
        std::chrono::steady_clock::time_point last_step{};
        int stuck_steps = 0;
        std::chrono::steady_clock::time_point ended_at{};
    };

    Lane::Options options_;
    const base::Clock& clock_;
    base::Metrics& metrics_;
    mutable std::mutex mutex_;  // guards lanes_ but for what only the one thread changes
    std::map<Key, Entry> lanes_;
    std::set<Key> interrupted_;                                      // live ones, between two lanes; guarded by mutex_
    std::map<Key, std::chrono::steady_clock::time_point> replaced_;  // when its place in the group was last taken
};

/// The processors as they are now, for those who watch them from other threads.
using Processors = std::function<std::vector<std::shared_ptr<StreamProcessor>>()>;

}  // namespace tidemark::consumers
