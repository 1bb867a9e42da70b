#pragma once

#include "infra/base/clock.h"
#include "infra/kafka/ports.h"
#include "infra/kafka/producer.h"
#include "producer/completion.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

namespace tidemark::producer {

/// One event on its way to the log. The views need only live until `publish` returns.
struct Outgoing {
    kafka::TopicIndex topic = 0;  ///< position of the topic in the sink's list
    std::string_view key;         ///< the entity's id as text; never empty, or the entity would have no one partition
    std::string_view value;       ///< the CloudEvents JSON
    std::string_view traceparent{};  ///< empty: none
    /// Behind content-type and traceparent; all together at most kafka::kMaxHeaders.
    std::span<const kafka::Header> headers{};
    bool bare = false;  ///< a record as it once stood: with `headers` alone
    /// Exactly this one, which the topic has: for a decision, which stands beside its letter. Nullopt: the key's.
    std::optional<std::int32_t> partition{};
};

struct EventPublisherOptions {
    /// When the wait is over and the sink gives back what it has not sent. The outcome comes within `deadline` +
    /// `grace` + 20 ms, so a handler's own deadline must be later than that, or it answers 503 without knowing which
    /// kind.
    std::chrono::milliseconds deadline{5'000};
    /// How long after the deadline a record may still be reported, as given back or as stored, before it counts as
    /// unknown.
    std::chrono::milliseconds grace{50};
    std::size_t max_records = 10'000;  ///< in flight; more is overloaded. As many as the client's own queue holds
    std::size_t max_bytes = std::size_t{64} << 20;  ///< keys, values and headers given, in flight
};

/// Since the start; `in_flight` and `bytes` are of now.
struct EventPublisherCounters {
    std::uint64_t accepted = 0;
    std::uint64_t overloaded = 0;
    std::uint64_t unavailable = 0;
    std::uint64_t unknown = 0;
    std::uint64_t too_large = 0;
    std::uint64_t late_persisted = 0;  ///< answered unknown, then reported as stored
    std::uint64_t late_lost = 0;       ///< answered unknown, then reported as not stored, or as unknown for good
    std::uint64_t in_flight = 0;
    std::uint64_t bytes = 0;
};

/// Puts events on the log and says what became of each: acknowledged only on the broker's delivery report. No thread
/// waits on Kafka and nothing is allocated per event. Owns its sink. The caller sees to it that no thread is in
/// `publish` when the destructor runs; that one lets the sink flush (5 s at most) and answers whatever is left.
class EventPublisher final : private kafka::RecordSink::Listener {
public:
    using MakeSink = std::function<std::unique_ptr<kafka::RecordSink>(kafka::RecordSink::Listener&)>;

    /// The sink of production: a kafka::Producer of these options.
    static MakeSink kafka_sink(kafka::ProducerOptions options);

    /// `clock` must outlive the publisher. Throws what `make_sink` throws.
    EventPublisher(EventPublisherOptions options, const base::Clock& clock, const MakeSink& make_sink);
    ~EventPublisher() override;
    EventPublisher(const EventPublisher&) = delete;
    EventPublisher& operator=(const EventPublisher&) = delete;

    /// Any thread, never blocks. `completion` is called exactly once: by the calling thread before this returns when
    /// the event is refused at once (overloaded, unavailable, too_large), else by the sink's thread, where it must not
    /// block and where those of one batch of delivery reports are called back to back. It may publish again. For many
    /// events under one reply, let each completion count down a shared total. Throws std::invalid_argument on an empty
    /// key or too many headers.
    void publish(const Outgoing& event, Completion completion);

    /// Whether `publish` has a chance now: false until the topics' metadata is there, and while no broker answers.
    [[nodiscard]] bool available() const noexcept;
    /// Waits until nothing is in flight, at most `limit`; true when so. Not from a completion.
    bool wait_idle(std::chrono::milliseconds limit);
    [[nodiscard]] EventPublisherCounters counters() const noexcept;

private:
    void on_deliveries(std::span<const kafka::Delivery> deliveries) noexcept override;
    void on_tick() noexcept override;

    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace tidemark::producer
