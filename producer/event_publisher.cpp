#include "producer/event_publisher.h"

#include "infra/base/failpoint.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

namespace tidemark::producer {

namespace {

using Index = std::uint32_t;
using TimePoint = std::chrono::steady_clock::time_point;

constexpr Index kNone = std::numeric_limits<Index>::max();

// How many completions are taken out under one lock and called after it: enough to make the lock cheap, few enough to
// stand on the stack (96 bytes each).
constexpr std::size_t kChunk = 64;

/// One event in flight. Its tag is its index and the generation, so that a report for an earlier holder of the slot is
/// told apart.
struct Slot {
    Completion completion;  ///< empty once the event was answered unknown; the slot then only waits for its late report
    TimePoint due;          ///< when it becomes unknown
    std::size_t bytes = 0;
    std::uint32_t generation = 0;
    Index previous = kNone;  ///< in the list of unanswered events, the oldest first
    Index next = kNone;      ///< likewise; of a free slot: the next free one
    bool in_use = false;
};

struct Answered {
    Completion completion;
    Published published;
};

constexpr std::uint64_t tag_of(Index index, std::uint32_t generation) noexcept {
    return (std::uint64_t{generation} << 32) | index;
}
constexpr Index index_of(std::uint64_t tag) noexcept {
    return static_cast<Index>(tag);
}

}  // namespace

struct EventPublisher::State {
    State(EventPublisherOptions given, const base::Clock& its_clock)
        : options(given), clock(its_clock), slots(given.max_records) {
        if (given.max_records == 0 || given.max_records >= kNone) {
            throw std::invalid_argument("the most records in flight must be between 1 and 2^32 - 2");
        }
        for (std::size_t n = 0; n < slots.size(); ++n)
            slots[n].next = static_cast<Index>(n + 1);
        slots.back().next = kNone;
        free = 0;
    }

    // The list of unanswered events; all of these need the lock.
    void append(Index index) noexcept {
        Slot& slot = slots[index];
        slot.previous = newest;
        slot.next = kNone;
        (newest == kNone ? oldest : slots[newest].next) = index;
        newest = index;
    }
    void unlink(Index index) noexcept {
        const Slot& slot = slots[index];
        (slot.previous == kNone ? oldest : slots[slot.previous].next) = slot.next;
        (slot.next == kNone ? newest : slots[slot.next].previous) = slot.previous;
    }
    void release(Index index) noexcept {
        Slot& slot = slots[index];
        slot.in_use = false;
        bytes -= slot.bytes;
        --in_flight;
        slot.next = free;
        free = index;
        if (in_flight == 0 && waiting_for_idle != 0) idle.notify_all();
    }

    struct Armed {
        std::uint64_t tag = 0;
        TimePoint deadline;
    };
    /// A slot that now holds `completion`; nullopt, leaving it, when too much is in flight.
    std::optional<Armed> arm(std::size_t size, Completion& completion) noexcept {
        const std::lock_guard lock(mutex);
        if (free == kNone || size > options.max_bytes - bytes) return std::nullopt;
        const Index index = free;
        Slot& slot = slots[index];
        free = slot.next;
        slot.completion = std::move(completion);
        const auto deadline = clock.steady() + options.deadline;
        slot.due = deadline + options.grace;
        slot.bytes = size;
        slot.in_use = true;
        ++slot.generation;
        bytes += size;
        ++in_flight;
        append(index);
        return Armed{tag_of(index, slot.generation), deadline};
    }

    /// After the sink refused it. Empty when the deadline has answered it meanwhile.
    Completion disarm(std::uint64_t tag) noexcept {
        const std::lock_guard lock(mutex);
        const Index index = index_of(tag);
        Completion completion = std::move(slots[index].completion);
        if (completion) unlink(index);
        release(index);
        return completion;
    }

    void count(Outcome outcome) noexcept {
        counts[static_cast<std::size_t>(outcome)].fetch_add(1, std::memory_order_relaxed);
    }
    void answer(Completion& completion, const Published& published) noexcept {
        count(published.outcome);
        completion(published);
    }

    /// Fills `answered` with what `delivery` decides, if it decides anything; the lock is held.
    bool settle(const kafka::Delivery& delivery, Answered& answered) noexcept {
        const Index index = index_of(delivery.tag);
        if (index >= slots.size()) return false;
        Slot& slot = slots[index];
        if (!slot.in_use || tag_of(index, slot.generation) != delivery.tag) return false;
        const bool persisted = delivery.persistence == kafka::Persistence::persisted;
        const bool late = !slot.completion;
        if (late) {
            (persisted ? late_persisted : late_lost).fetch_add(1, std::memory_order_relaxed);
        } else {
            answered.completion = std::move(slot.completion);
            if (persisted) {
                answered.published = {Outcome::accepted, delivery.partition, delivery.offset};
            } else if (delivery.persistence == kafka::Persistence::not_persisted) {
                answered.published = {Outcome::unavailable};
            } else {
                answered.published = {Outcome::unknown};
            }
            unlink(index);
        }
        release(index);
        return !late;
    }

    const EventPublisherOptions options;
    const base::Clock& clock;
    kafka::RecordSink* sink =
        nullptr;  // set before the first publish; still valid while `owned_sink` is being destroyed
    std::unique_ptr<kafka::RecordSink> owned_sink;

    std::mutex mutex;  // guards everything down to `idle`
    std::vector<Slot> slots;
    Index free = kNone;
    Index oldest = kNone;
    Index newest = kNone;
    std::size_t bytes = 0;
    std::size_t in_flight = 0;
    int waiting_for_idle = 0;
    std::condition_variable idle;

    std::array<std::atomic<std::uint64_t>, 5> counts{};  // by Outcome
    std::atomic<std::uint64_t> late_persisted{0};
    std::atomic<std::uint64_t> late_lost{0};
};

EventPublisher::MakeSink EventPublisher::kafka_sink(kafka::ProducerOptions options) {
    return [options = std::move(options)](kafka::RecordSink::Listener& listener) {
        return std::make_unique<kafka::Producer>(options, listener);
    };
}

EventPublisher::EventPublisher(EventPublisherOptions options, const base::Clock& clock, const MakeSink& make_sink)
    : state_(std::make_unique<State>(options, clock)) {
    state_->owned_sink = make_sink(*this);
    state_->sink = state_->owned_sink.get();
}

EventPublisher::~EventPublisher() {
    state_->owned_sink.reset();
    // The sink has answered everything it took; were one missing, its caller would still get the honest answer.
    for (Slot& slot : state_->slots) {
        if (slot.completion) state_->answer(slot.completion, {Outcome::unknown});
    }
}

void EventPublisher::publish(const Outgoing& event, Completion completion) {
    if (event.key.empty())
        throw std::invalid_argument("an event without a key has no one partition: give it its entity's id");
    const std::array<kafka::Header, 2> standard{
        {{"content-type", "application/cloudevents+json"}, {"traceparent", event.traceparent}}};
    if (event.headers.size() > kafka::kMaxHeaders - standard.size())
        throw std::invalid_argument("more headers than a record may have");
    State& state = *state_;
    FAILPOINT("p2_before_produce");

    std::size_t size = event.key.size() + event.value.size();
    for (const auto& header : event.headers)
        size += header.name.size() + header.value.size();
    const auto armed = state.arm(size, completion);
    if (!armed) return state.answer(completion, {Outcome::overloaded});

    const auto produce = [&](std::span<const kafka::Header> headers) {
        return state.sink->produce({.topic = event.topic,
                                    .key = event.key,
                                    .value = event.value,
                                    .headers = headers,
                                    .tag = armed->tag,
                                    .give_up_at = armed->deadline,
                                    .partition = event.partition});
    };
    const auto own = std::span(standard).first(event.bare ? 0 : event.traceparent.empty() ? 1 : 2);
    const auto joined = [&] {
        std::array<kafka::Header, kafka::kMaxHeaders> all;
        const auto end =
            std::copy(event.headers.begin(), event.headers.end(), std::copy(own.begin(), own.end(), all.begin()));
        return produce({all.begin(), end});
    };
    const auto enqueued = event.headers.empty() ? produce(own) : event.bare ? produce(event.headers) : joined();
    if (enqueued == kafka::Enqueued::ok) {
        FAILPOINT("p3_queued");
        return;
    }
    Completion refused = state.disarm(armed->tag);
    if (!refused) return;
    switch (enqueued) {
        case kafka::Enqueued::full:
            return state.answer(refused, {Outcome::overloaded});
        case kafka::Enqueued::too_large:
            return state.answer(refused, {Outcome::too_large});
        case kafka::Enqueued::ok:
        case kafka::Enqueued::unavailable:
            return state.answer(refused, {Outcome::unavailable});
    }
}

bool EventPublisher::available() const noexcept {
    return state_->sink->available();
}

bool EventPublisher::wait_idle(std::chrono::milliseconds limit) {
    std::unique_lock lock(state_->mutex);
    ++state_->waiting_for_idle;
    const bool idle = state_->idle.wait_for(lock, limit, [this] { return state_->in_flight == 0; });
    --state_->waiting_for_idle;
    return idle;
}

EventPublisherCounters EventPublisher::counters() const noexcept {
    const auto of = [this](Outcome outcome) { return state_->counts[static_cast<std::size_t>(outcome)].load(); };
    EventPublisherCounters counters;
    counters.accepted = of(Outcome::accepted);
    counters.overloaded = of(Outcome::overloaded);
    counters.unavailable = of(Outcome::unavailable);
    counters.unknown = of(Outcome::unknown);
    counters.too_large = of(Outcome::too_large);
    counters.late_persisted = state_->late_persisted.load();
    counters.late_lost = state_->late_lost.load();
    const std::lock_guard lock(state_->mutex);
    counters.in_flight = state_->in_flight;
    counters.bytes = state_->bytes;
    return counters;
}

void EventPublisher::on_deliveries(std::span<const kafka::Delivery> deliveries) noexcept {
    FAILPOINT("p4_acked");
    State& state = *state_;
    std::array<Answered, kChunk> answered;
    while (!deliveries.empty()) {
        const auto chunk = deliveries.first(std::min(deliveries.size(), kChunk));
        deliveries = deliveries.subspan(chunk.size());
        std::size_t count = 0;
        {
            const std::lock_guard lock(state.mutex);
            for (const auto& delivery : chunk) {
                if (state.settle(delivery, answered[count])) ++count;
            }
        }
        for (auto& one : std::span(answered).first(count))
            state.answer(one.completion, one.published);
    }
}

void EventPublisher::on_tick() noexcept {
    State& state = *state_;
    const TimePoint now = state.clock.steady();

    // What did not come back by then is with the client, perhaps on the wire.
    std::array<Completion, kChunk> unknown;
    for (std::size_t count = kChunk; count == kChunk;) {
        count = 0;
        {
            const std::lock_guard lock(state.mutex);
            while (count < kChunk && state.oldest != kNone) {
                Slot& slot = state.slots[state.oldest];
                if (slot.due > now) break;
                unknown[count++] = std::move(slot.completion);
                state.unlink(state.oldest);
            }
        }
        for (auto& completion : std::span(unknown).first(count))
            state.answer(completion, {Outcome::unknown});
    }
}

}  // namespace tidemark::producer
