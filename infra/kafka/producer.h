#pragma once

#include "infra/kafka/ports.h"

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace tidemark::kafka {

struct ProducerOptions {
    std::string brokers{};
    std::vector<std::string> topics{};  ///< TopicIndex is the position in here
    std::string client_id = "tidemark";
    std::int64_t queue_records = 10'000;  ///< waiting or in flight; more is Enqueued::full
    std::int64_t queue_kbytes = 64 * 1024;
    std::chrono::microseconds linger{500};
    std::chrono::milliseconds message_timeout{
        60'000};  ///< short ones tear gaps into an idempotent producer; the caller's deadline purges instead
    std::chrono::milliseconds socket_timeout{10'000};
    std::string compression = "lz4";
    std::map<std::string, std::string> properties{};  ///< any other librdkafka setting; unknown ones throw
};

struct ProducerCounters {
    std::uint64_t persisted = 0;
    std::uint64_t not_persisted = 0;
    std::uint64_t possibly_persisted = 0;
    std::uint64_t fatal = 0;  ///< producers given up and replaced
    std::uint64_t purges = 0;
    std::uint64_t outstanding = 0;
};

/// An idempotent, acks=all producer that outlives its own fatal errors: a producer that fails fatally answers all that
/// it holds and is replaced, `produce` refusing meanwhile. One thread of its own drains delivery reports and
/// supervises. The listener must outlive it.
class Producer final : public RecordSink {
public:
    Producer(ProducerOptions options, Listener& listener);
    /// Flushes for at most 5 s (see `flush`), then answers the rest.
    ~Producer() override;
    Producer(const Producer&) = delete;
    Producer& operator=(const Producer&) = delete;

    Enqueued produce(TopicIndex topic, std::string_view key, std::string_view value, std::span<const Header> headers,
                     std::uint64_t tag) noexcept override;
    void purge_queued() noexcept override;
    [[nodiscard]] bool available() const noexcept override;

    /// Waits until nothing is outstanding, at most `limit`; true when so.
    bool flush(std::chrono::milliseconds limit) noexcept;
    /// True once the metadata of every topic has been cached by the client: before that a first record can be a second
    /// late.
    [[nodiscard]] bool ready() const noexcept;
    [[nodiscard]] ProducerCounters counters() const noexcept;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace tidemark::kafka
