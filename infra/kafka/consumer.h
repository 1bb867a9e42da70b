#pragma once

#include "infra/kafka/ports.h"

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace tidemark::kafka {

struct ConsumerOptions {
    std::string brokers{};
    std::string topic{};
    std::string group{};
    /// Not empty: reads exactly these, from wherever it is told to; no member of the group, and nothing is ever
    /// revoked.
    std::vector<std::int32_t> partitions{};
    std::string instance_id{};  ///< static membership: host + slot; empty: a dynamic member
    std::string client_id = "tidemark";
    std::chrono::milliseconds session_timeout{
        6'000};  ///< the least that brokers allow by default: takeover stays below ten seconds
    std::chrono::milliseconds heartbeat_interval{1'000};
    std::chrono::milliseconds max_poll_interval{300'000};
    std::chrono::milliseconds fetch_wait{
        50};  ///< how long the broker may hold an empty fetch: half of a record's latency when idle
    std::int64_t queued_max_kbytes = 16 * 1024;  ///< prefetch: what a stopped owner can hold
    /// Likewise. Below 100,000 it halves the rate of catching up: the client pauses up to a second when that many wait.
    std::int64_t queued_min_messages = 10'000;
    std::map<std::string, std::string> properties{};  ///< any other librdkafka setting (TLS, SASL); unknown ones throw
};

struct ConsumerCounters {
    std::uint64_t assigned = 0;
    std::uint64_t revoked = 0;
    std::uint64_t lost = 0;
    std::uint64_t errors = 0;
};

/// A group member over librdkafka, or a reader of partitions of its own. One thread owns it. The destructor closes with
/// a deadline of 2 s and then abandons the handle, with its threads: the truth is in the database, and close may hang
/// when the coordinator is gone. So a program that has had consumers ends with _exit. Records should not outlive it; if
/// they do, it is abandoned too.
class Consumer final : public RecordSource {
public:
    explicit Consumer(ConsumerOptions options);
    ~Consumer() override;
    Consumer(const Consumer&) = delete;
    Consumer& operator=(const Consumer&) = delete;

    Polled poll(std::chrono::milliseconds timeout) override;
    void assign(std::span<const Start> starts) override;
    void unassign() override;
    void pause() override;
    void resume() override;
    void report_progress(std::span<const Start> next) noexcept override;

    [[nodiscard]] ConsumerCounters counters() const noexcept;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace tidemark::kafka
