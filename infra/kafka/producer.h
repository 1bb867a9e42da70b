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
    /// How long a record may wait for those of other partitions to be answered, so that all go on together. One that
    /// comes while nothing is under way does not wait.
    std::chrono::microseconds linger{200};
    /// The longest that a record handed to the client may stay unanswered before all that this client holds is given up
    /// as possibly persisted: later it must not come into the log any more.
    std::chrono::milliseconds message_timeout{60'000};
    std::chrono::milliseconds socket_timeout{10'000};
    std::string compression = "lz4";
    std::map<std::string, std::string> properties{};  ///< any other librdkafka setting; unknown ones throw
};

struct ProducerCounters {
    std::uint64_t persisted = 0;
    std::uint64_t not_persisted = 0;
    std::uint64_t possibly_persisted = 0;
    std::uint64_t fatal = 0;  ///< producers given up and replaced
    std::uint64_t outstanding = 0;
};

/// An idempotent, acks=all producer that outlives its own fatal errors: a client that fails fatally answers all that it
/// holds and is replaced, `produce` refusing meanwhile. Records of a partition of which some are with the client wait
/// here and follow together. One thread of its own hands over and takes the reports, another supervises. The partitions
/// of each topic are counted once, when it is first seen. The listener must outlive it.
class Producer final : public RecordSink {
public:
    Producer(ProducerOptions options, Listener& listener);
    /// Flushes for at most 5 s (see `flush`), then answers the rest.
    ~Producer() override;
    Producer(const Producer&) = delete;
    Producer& operator=(const Producer&) = delete;

    Enqueued produce(const NewRecord& record) noexcept override;
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
